"""The catalog of a region: merged by what it says, believed only where its own key sealed it, safe to kill at any write."""

import base64
import itertools
import json
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import CorruptObject, KeyServiceError, ObjectExists, ObjectMissing, SettingsError
from sbh_pipelines.model import BackupId, RecoveryPoint, TenantId
from sbh_pipelines.repository.catalog.catalog import Catalog, Compaction, open_catalog
from sbh_pipelines.repository.catalog.records import (
    MergedRecords,
    TenantRecord,
    TenantState,
    blocks_of,
    pack_blocks,
    unpack_blocks,
)
from sbh_pipelines.security.keys import LocalKeyFile
from sbh_pipelines.settings import load_settings
from sbh_pipelines.stores.base import MOST_BYTES, ObjectStore
from sbh_pipelines.stores.local import open_local
from sbh_pipelines.stores.object_store import Store
from sbh_pipelines_tests.stores.test_stores import s3
from sbh_pipelines_tests.support.effort import examples
from sbh_pipelines_tests.support.fault_stores import Killed
from sbh_pipelines_tests.support.memory_store import MemoryStore

REGION, PREFIX = "eu-west-1", "_sbh-catalog/eu-west-1/"
ACME, BOLT, CITY = TenantId("acme"), TenantId("bolt"), TenantId("city")
FIRST, SECOND = BackupId("backup_20260101_0000"), BackupId("backup_20260101_0500")


def point(hour: int, *, xmin: int = 900) -> RecoveryPoint:
    time = f"2026-01-{1 + hour // 24:02d}T{hour % 24:02d}:00:00.000000Z"
    return RecoveryPoint(time, f"{xmin}:{xmin + 7}:{xmin + 3}", "0/16B3748", "7312", 1, 180004, "app")


def state(rows: int, seed: str = "", files: str | None = None) -> TenantState:
    return TenantState(seed, {"public.tasks": [rows, "00", "d"]}, files)


def made(tenant: TenantId, backup: BackupId, hour: int, **changes: Any) -> TenantRecord:
    return TenantRecord(tenant, backup, point(hour), changes.get("state", state(len(tenant), backup)))


@pytest.fixture(params=["s3", "local"])
def store(request: pytest.FixtureRequest, embedded_stack: Stack, tmp_path: Path) -> Iterable[Store]:
    opened = s3(embedded_stack) if request.param == "s3" else open_local(tmp_path / "bucket")
    yield opened
    opened.delete([info.key for info in opened.list("_sbh-catalog/")])


@pytest.fixture
def keys(tmp_path: Path) -> LocalKeyFile:
    return key_file(tmp_path / "backup.key", bytes(range(32)))


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def catalog(memory: MemoryStore, keys: LocalKeyFile) -> Catalog:
    return opened(memory, keys)


def key_file(path: Path, content: bytes) -> LocalKeyFile:
    path.write_bytes(base64.b64encode(content))
    return LocalKeyFile(path)


def opened(store: ObjectStore, keys: LocalKeyFile, region: str = REGION) -> Catalog:
    return open_catalog(store, f"_sbh-catalog/{region}/", region, keys)


def names(store: ObjectStore) -> list[str]:
    return sorted(info.key for info in store.list(PREFIX + "records/"))


# what is recorded, and how it merges


def test_what_is_recorded_is_read_by_others(store: Store, keys: LocalKeyFile) -> None:
    """A backup, then a tick without one: the recovery point moves on, backup and state stay."""
    assert opened(store, keys).record([made(ACME, FIRST, 0), made(BOLT, FIRST, 0)]) == 1
    assert opened(store, keys).read() == {ACME: made(ACME, FIRST, 0), BOLT: made(BOLT, FIRST, 0)}
    assert opened(store, keys).record([made(BOLT, SECOND, 5)], {ACME: FIRST}, point(5)) == 1
    reader = opened(store, keys)
    assert reader.read() == {
        ACME: TenantRecord(ACME, FIRST, point(5), state(4, FIRST), unchanged=True),
        BOLT: made(BOLT, SECOND, 5),
    }
    assert reader.read([BOLT, CITY]) == {BOLT: made(BOLT, SECOND, 5)}
    assert reader.damages == []


def test_the_requests_are_few(store: Store, keys: LocalKeyFile) -> None:
    """A tick over 10,000 unchanged tenants is one put, of less than 400 KB; reading is a listing and a get per object."""
    writer = opened(store, keys)
    everyone = {TenantId(f"tenant-{n}"): FIRST for n in range(10_000)}
    writer.record([made(tenant, FIRST, 0) for tenant in everyone])
    before = dict(store.requests)
    assert writer.record([], everyone, point(1)) == 1
    assert _spent(store, before) == {"put": 1}
    assert store.head(names(store)[-1]).size < 400_000
    reader, before = opened(store, keys), dict(store.requests)
    found = reader.read()
    assert _spent(store, before) == {"list": 1, "get": 1 + len(names(store))}
    assert len(found) == 10_000
    assert all(r.unchanged and r.point == point(1) and r.state for r in found.values())


def _spent(store: Store, before: Mapping[str, int]) -> dict[str, int]:
    return {verb: n - before.get(verb, 0) for verb, n in store.requests.items() if n > before.get(verb, 0)}


def test_a_process_reads_each_object_once(store: Store, keys: LocalKeyFile) -> None:
    """Batch after batch asks the same catalog: a listing, and a get for what is new; after a compaction all anew."""
    reader, writer = opened(store, keys), opened(store, keys)
    for hour in range(3):
        writer.record([made(ACME, FIRST, hour)])
    reader.read()
    writer.record([made(BOLT, FIRST, 0)])
    before = dict(store.requests)
    assert set(reader.read([BOLT])) == {BOLT}
    assert set(reader.read()) == {ACME, BOLT}
    assert _spent(store, before) == {"list": 2, "get": 1}
    whole = reader.read()
    writer.compact()
    assert reader.read() == whole
    store.delete(names(store))
    assert reader.read() == {}, "what is deleted is not remembered"


def test_reading_writes_nothing(catalog: Catalog, memory: MemoryStore) -> None:
    assert catalog.read() == {}
    assert catalog.record([], {}, point(0)) == 0
    assert catalog.compact() == Compaction(0, 0)
    assert memory.objects == {}
    assert catalog.damages == []


def test_the_later_recovery_point_wins_whoever_writes_last(catalog: Catalog) -> None:
    catalog.record([made(ACME, SECOND, 5)])
    catalog.record([made(ACME, FIRST, 0)], {BOLT: FIRST}, point(3))
    catalog.record([], {BOLT: SECOND}, point(2))
    found = catalog.read()
    assert (found[ACME].backup_id, found[ACME].point) == (SECOND, point(5))
    assert (found[BOLT].backup_id, found[BOLT].point) == (FIRST, point(3))


def test_of_two_points_in_one_second_the_later_snapshot_wins(catalog: Catalog) -> None:
    """Transaction ids decide as numbers of 64 bits, not as text; a made backup counts more than an unchanged tick."""
    late, early = point(1, xmin=10_000_000_000), point(1, xmin=9_999_999_999)
    catalog.record([], {ACME: SECOND}, late)
    catalog.record([], {ACME: FIRST, BOLT: FIRST}, early)
    catalog.record([TenantRecord(BOLT, SECOND, early, state(0))])
    found = catalog.read()
    assert (found[ACME].backup_id, found[ACME].point) == (SECOND, late)
    assert (found[BOLT].backup_id, found[BOLT].unchanged) == (SECOND, False)


def test_a_state_belongs_to_its_backup(catalog: Catalog) -> None:
    """Unchanged since a backup whose state is not known: no state, rather than another backup's."""
    catalog.record([made(ACME, FIRST, 0)])
    catalog.record([], {ACME: SECOND}, point(5))
    assert catalog.read()[ACME].state is None


def test_a_newer_state_of_the_same_backup_can_be_recorded(catalog: Catalog) -> None:
    catalog.record([made(ACME, FIRST, 0)])
    catalog.record([TenantRecord(ACME, FIRST, point(4), state(0, files="new"), unchanged=True)])
    catalog.record([], {ACME: FIRST}, point(6))
    assert catalog.read()[ACME] == TenantRecord(ACME, FIRST, point(6), state(0, files="new"), unchanged=True)


def _records(backups: Callable[[int], st.SearchStrategy[BackupId]]) -> st.SearchStrategy[list[list[TenantRecord]]]:
    """Objects of a few records each; `backups` are those that may describe a tenant at an hour."""

    def at(hour: int) -> st.SearchStrategy[TenantRecord]:
        states = st.sampled_from([None, state(1), state(2)])
        tenants = st.sampled_from([ACME, BOLT])
        return st.builds(TenantRecord, tenants, backups(hour), st.just(point(hour)), states, st.booleans())

    return st.lists(st.lists(st.integers(0, 3).flatmap(at), min_size=1, max_size=4), max_size=5)


_ANY = _records(lambda hour: st.sampled_from([FIRST, SECOND]))
_CONSISTENT = _records(lambda hour: st.just(FIRST if hour < 2 else SECOND))


def _packed(written: list[list[TenantRecord]]) -> list[bytes]:
    return [plain for records in written for plain in pack_blocks(blocks_of(records, {}, None), REGION)]


def _merged(objects: Iterable[bytes]) -> MergedRecords:
    merge = MergedRecords()
    for plain in objects:
        merge.add(unpack_blocks(plain, REGION, "here"))
    return merge


@settings(max_examples=examples(60))
@given(_ANY, st.randoms(use_true_random=False))
def test_order_and_repetition_mean_nothing(written: list[list[TenantRecord]], shuffle: Any) -> None:
    """Any order, any duplicates, merged before or not: the same records, even of writers that contradict each other."""
    objects = _packed(written)
    merge = _merged(objects)
    compacted = [*pack_blocks(merge.blocks(), REGION)]
    shuffled = [*objects, *objects[:2], *compacted]
    shuffle.shuffle(shuffled)
    assert _merged(shuffled).records() == _merged(compacted).records() == merge.records()


@settings(max_examples=examples(60))
@given(_CONSISTENT, st.randoms(use_true_random=False))
def test_what_a_killed_compaction_leaves_means_nothing(written: list[list[TenantRecord]], choose: Any) -> None:
    """The merged object with any of those that it replaces."""
    objects = _packed(written)
    merge = _merged(objects)
    left = choose.sample(objects, len(objects) // 2)
    assert _merged([*pack_blocks(merge.blocks(), REGION), *left]).records() == merge.records()


def test_much_is_written_as_several_objects(catalog: Catalog, memory: MemoryStore) -> None:
    """States of 12 MB: objects of bounded size, and none is lost on the way."""
    large = [made(TenantId(f"tenant-{n}"), FIRST, 0, state=state(n, files="y" * 6000)) for n in range(2000)]
    assert catalog.record(large) == len(names(memory)) == 3
    assert catalog.read() == {record.tenant: record for record in large}
    assert catalog.compact() == Compaction(0, 0)  # nothing to gain


# what is not believed

BREAKS: dict[str, Callable[[bytes], bytes]] = {
    "a flipped bit": lambda b: b[:40] + bytes([b[40] ^ 1]) + b[41:],
    "another version": lambda b: b"\x09" + b[1:],
    "cut short": lambda b: b[:-1],
    "empty": lambda b: b"",
    "something else": lambda b: b"hello, this is not a sealed piece at all",
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_damaged_object_is_reported_and_skipped(catalog: Catalog, memory: MemoryStore, how: str) -> None:
    catalog.record([made(ACME, FIRST, 0), made(BOLT, FIRST, 0)])
    catalog.record([made(ACME, SECOND, 5)])
    broken = names(memory)[-1]
    memory.objects[broken] = BREAKS[how](memory.objects[broken])
    assert catalog.read() == {ACME: made(ACME, FIRST, 0), BOLT: made(BOLT, FIRST, 0)}
    (damage,) = catalog.damages
    assert broken.endswith(damage.key)
    assert damage.error.on == memory.url(broken)
    assert damage.error.remedy
    assert catalog.compact() == Compaction(0, 0)
    assert broken in memory.objects, "what was not read is not deleted"


def test_an_object_under_another_name_is_not_believed(catalog: Catalog, memory: MemoryStore) -> None:
    """Copied, renamed, or two of them swapped: a seal holds for one name."""
    catalog.record([made(ACME, FIRST, 0)])
    catalog.record([made(BOLT, FIRST, 0)])
    one, other = names(memory)
    memory.objects[one], memory.objects[other] = memory.objects[other], memory.objects[one]
    assert catalog.read() == {}
    assert len(catalog.damages) == 2
    memory.objects[PREFIX + "records/readme.txt"] = b"what is this"
    memory.objects[PREFIX + "records/../../x"] = b"and this"
    catalog.read()
    assert len(catalog.damages) == 4


def test_an_enormous_object_is_not_downloaded(tmp_path: Path, keys: LocalKeyFile) -> None:
    store = open_local(tmp_path / "bucket")
    opened(store, keys).record([made(ACME, FIRST, 0)])
    huge = tmp_path / "bucket" / PREFIX / "records" / f"20990101T000000000000Z-{'0' * 16}"
    with huge.open("wb") as file:
        file.truncate(1 << 40)
    reader = opened(store, keys)
    assert list(reader.read()) == [ACME]
    assert "too many" in reader.damages[0].error.why


def test_forged_with_another_key_it_is_not_believed(memory: MemoryStore, keys: LocalKeyFile, tmp_path: Path) -> None:
    """Somebody who can write to the bucket, and has a key of their own, makes no tenant look unchanged."""
    opened(memory, keys).record([made(ACME, FIRST, 0)])
    elsewhere = MemoryStore()
    opened(elsewhere, key_file(tmp_path / "their.key", bytes(32))).record([], {ACME: SECOND}, point(9))
    memory.objects |= {key: body for key, body in elsewhere.objects.items() if "/records/" in key}
    reader = opened(memory, keys)
    assert reader.read() == {ACME: made(ACME, FIRST, 0)}
    assert len(reader.damages) == 1
    memory.objects |= elsewhere.objects  # the key object as well
    reader = opened(memory, keys)
    assert reader.read() == {}
    assert isinstance(reader.damages[0].error, KeyServiceError)


def test_two_regions_are_apart(memory: MemoryStore, keys: LocalKeyFile) -> None:
    """In one bucket, too; and a whole catalog copied into another region, key and all, is not believed there."""
    here, there = opened(memory, keys), opened(memory, keys, "us-east-1")
    here.record([made(ACME, FIRST, 0)])
    there.record([made(BOLT, FIRST, 0)])
    assert (list(here.read()), list(there.read())) == ([ACME], [BOLT])
    assert here.hash_seed != there.hash_seed
    for key in list(memory.objects):
        memory.objects[key.replace("eu-west-1", "us-east-1")] = memory.objects[key]
    thief = opened(memory, keys, "us-east-1")
    assert thief.read() == {}
    assert len(thief.damages) == 1  # the key object says of which region it is
    key = json.loads(memory.objects["_sbh-catalog/us-east-1/keys/0001.json"])
    memory.objects["_sbh-catalog/us-east-1/keys/0001.json"] = json.dumps({**key, "region": "us-east-1"}).encode()
    thief = opened(memory, keys, "us-east-1")
    assert thief.read() == {}
    assert len(thief.damages) == 2


def test_a_replayed_object_changes_nothing(catalog: Catalog, memory: MemoryStore) -> None:
    """Put back after it was merged away, it only says again what is known to be older."""
    catalog.record([made(ACME, FIRST, 0)])
    catalog.record([made(ACME, SECOND, 5)])
    old = dict(memory.objects)
    catalog.compact()
    whole = catalog.read()
    memory.objects |= old
    assert catalog.read() == whole == {ACME: made(ACME, SECOND, 5)}


def test_nothing_can_be_read_without_the_key(store: Store, keys: LocalKeyFile) -> None:
    """No slug, no backup id, no state, no seed in the bytes, the names or the texts."""
    catalog = opened(store, keys)
    tenant = TenantId("highly-recognisable")
    catalog.record(
        [TenantRecord(tenant, FIRST, point(0), TenantState("", {"public.secret_table": [123456789, None, None]}, None))]
    )
    catalog.record([], {tenant: FIRST}, point(1))
    seed = catalog.hash_seed.to_bytes(8, "big", signed=True)
    forbidden = [tenant.encode(), FIRST.encode(), b"secret_table", b"123456789", seed, str(catalog.hash_seed).encode()]
    for info in store.list("_sbh-catalog/"):
        body = store.get(info.key) + info.key.encode()
        assert not [text for text in forbidden if text in body], info.key
    assert str(catalog.hash_seed) not in repr(catalog) + repr(vars(catalog)["_opened"])


# the key


def test_the_seed_is_one_for_all_writers_of_a_region(memory: MemoryStore, keys: LocalKeyFile) -> None:
    """Two writers that come first at the same moment get the same seed; its id does not give it away."""
    barrier, seeds = threading.Barrier(4), list[tuple[int, str]]()

    def ask() -> None:
        catalog = opened(memory, keys)
        barrier.wait()
        seeds.append((catalog.hash_seed, catalog.seed_id))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seeds)) == 1
    seed, seed_id = seeds[0]
    assert len(seeds) == 4
    assert -(1 << 63) <= seed < 1 << 63
    assert len(seed_id) == 8
    assert seed_id not in f"{seed % (1 << 64):016x}"


def test_without_its_key_the_catalog_starts_anew(catalog: Catalog, memory: MemoryStore, keys: LocalKeyFile) -> None:
    """The key object deleted: nothing is read and that is said; records made from then on are."""
    catalog.record([made(ACME, FIRST, 0)])
    old = catalog.seed_id
    del memory.objects[PREFIX + "keys/0001.json"]
    assert catalog.read() == {}, "a process that has the key in memory does not go on with it"
    again = opened(memory, keys)
    assert again.read() == {}
    assert "data key is gone" in again.damages[0].error.what
    again.record([made(BOLT, FIRST, 1)])
    assert again.seed_id != old
    assert catalog.seed_id == again.seed_id
    assert list(again.read()) == [BOLT]
    assert len(again.damages) == 1


def test_a_damaged_key_is_reported_by_reading_and_stops_writing(
    catalog: Catalog, memory: MemoryStore, keys: LocalKeyFile
) -> None:
    catalog.record([made(ACME, FIRST, 0)])
    memory.objects[PREFIX + "keys/0001.json"] = b"{}"
    again = opened(memory, keys)
    assert again.read() == {}
    assert "delete `keys/` and `records/`" in again.damages[0].error.remedy
    with pytest.raises(CorruptObject):
        again.record([made(BOLT, FIRST, 1)])


# races and kills


class Dying:
    """Dead from the nth write on; each key of a deletion is a write of its own."""

    def __init__(self, inner: ObjectStore, nth: int) -> None:
        self._inner, self._left = inner, nth

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _write(self) -> None:
        self._left -= 1
        if self._left <= 0:
            raise Killed

    def create(self, key: str, data: bytes) -> str:
        self._write()
        return self._inner.create(key, data)

    def delete(self, doomed: Iterable[str]) -> None:
        for key in doomed:
            self._write()
            self._inner.delete([key])


@pytest.mark.parametrize("order", [1, -1])
def test_compaction_can_be_killed_at_any_write(memory: MemoryStore, keys: LocalKeyFile, order: int) -> None:
    """Nothing is lost or different after any kill, and the next compaction cleans up; whichever is deleted first."""

    class Backwards(Dying):
        def delete(self, doomed: Iterable[str]) -> None:
            super().delete(list(doomed)[::order])

    writer = opened(memory, keys)
    for hour in range(4):
        writer.record([made(ACME, FIRST if hour < 2 else SECOND, hour)], {BOLT: FIRST, CITY: FIRST}, point(hour))
    writer.record([made(BOLT, FIRST, 0), made(CITY, FIRST, 0)])
    whole, before = writer.read(), dict(memory.objects)
    for nth in itertools.count(1):
        memory.objects = dict(before)
        try:
            done = opened(Backwards(memory, nth), keys).compact()
        except Killed:
            done = None
        survivor = opened(memory, keys)
        assert survivor.read() == whole, nth
        if done:
            break
        survivor.compact()
        assert survivor.read() == whole, nth
        assert survivor.damages == []
        assert len(names(memory)) == 1
    assert done == Compaction(5, 1)
    assert nth == 1 + 5 + 1


def test_records_and_compactions_at_the_same_time(store: Store, keys: LocalKeyFile) -> None:
    """Two writers, a compaction that never stops and a reader: what was recorded is seen from then on by all."""
    finished, faults = threading.Event(), list[object]()

    def write(group: str) -> None:
        for n in range(25):
            opened(store, keys).record([made(TenantId(f"{group}-{n}"), FIRST, n)])

    def compact() -> None:
        catalog = opened(store, keys)
        while not finished.is_set():
            catalog.compact()

    def read() -> None:
        catalog, seen = opened(store, keys), set[TenantId]()
        while not finished.is_set():
            found = set(catalog.read())
            if seen - found or catalog.damages:
                faults.append((seen - found, catalog.damages))
            seen = found

    writers = [threading.Thread(target=write, args=(group,)) for group in "ab"]
    others = [threading.Thread(target=work) for work in (compact, read)]
    for thread in writers + others:
        thread.start()
    for thread in writers:
        thread.join()
    finished.set()
    for thread in others:
        thread.join()
    assert faults == []
    assert len(opened(store, keys).read()) == 50
    opened(store, keys).compact()
    assert len(names(store)) == 1
    assert len(opened(store, keys).read()) == 50


def test_an_object_merged_away_while_it_is_read_is_looked_for_anew(memory: MemoryStore, keys: LocalKeyFile) -> None:
    """The listing is older than the compaction: the reader lists again and finds the merged object."""
    writer = opened(memory, keys)
    writer.record([made(ACME, FIRST, 0)])
    writer.record([made(BOLT, FIRST, 0)])

    class Late(MemoryStore):
        compacted = False

        def get(self, key: str, most: int = MOST_BYTES) -> bytes:
            if "/records/" in key and not self.compacted:
                self.compacted = True
                assert writer.compact() == Compaction(2, 1)
            return super().get(key, most)

    late = Late()
    late.objects = memory.objects
    reader = opened(late, keys)
    assert set(reader.read()) == {ACME, BOLT}
    assert reader.damages == []


def test_an_object_that_is_listed_and_cannot_be_had_is_reported(memory: MemoryStore, keys: LocalKeyFile) -> None:
    class Gone(MemoryStore):
        def get(self, key: str, most: int = MOST_BYTES) -> bytes:
            if "/records/" in key:
                raise ObjectMissing("No such object", on=key)
            return super().get(key, most)

    opened(memory, keys).record([made(ACME, FIRST, 0)])
    gone = Gone()
    gone.objects = memory.objects
    reader = opened(gone, keys)
    assert reader.read() == {}
    assert [type(damage.error) for damage in reader.damages] == [ObjectMissing]


def test_a_put_whose_answer_was_lost_is_no_failure(keys: LocalKeyFile) -> None:
    """The store repeats the put and finds the key taken: by this very object."""

    class Repeats(MemoryStore):
        def create(self, key: str, data: bytes) -> str:
            super().create(key, data)
            raise ObjectExists("The object exists already", on=key)

    store = Repeats()
    opened(store, keys).record([made(ACME, FIRST, 0)])
    assert list(opened(store, keys).read()) == [ACME]


# where it lies


@pytest.mark.parametrize(
    "prefix",
    ["catalog", "/catalog/", "", "files/acme/", "files/acme/backups/", "files/", "files/keys/backups/catalog/"],
)
def test_a_prefix_within_or_around_a_tenants_is_refused(tmp_path: Path, prefix: str) -> None:
    file = tmp_path / "sbh.toml"
    file.write_text(f'[storage]\ncatalog_prefix = "{prefix}"\n')
    with pytest.raises(SettingsError, match="catalog_prefix"):
        load_settings(file)


def test_prefixes_beside_the_tenants_are_allowed(tmp_path: Path) -> None:
    """The default is no tenant's whatever the tenants' prefix; a bucket per tenant needs one for the catalog."""
    file = tmp_path / "sbh.toml"
    for lines in (
        '[storage]\ncatalog_prefix = "catalog/of/all/"',
        '[storage]\nprefix = "{tenant}/backups/"\n[files]\nprefix = "{tenant}/files/"',
        '[storage]\nbucket = "sbh-{tenant}"\ncatalog_bucket = "sbh-catalog-{region}"',
    ):
        file.write_text(lines + "\n")
        load_settings(file)
    file.write_text('[storage]\nbucket = "sbh-{tenant}"\n')
    with pytest.raises(SettingsError, match="catalog_bucket"):
        load_settings(file)
