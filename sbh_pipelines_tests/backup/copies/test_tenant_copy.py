"""One tenant on its way to a copy: byte for byte, in an order that may be broken off anywhere, at the cost of what changed."""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from sbh_pipelines.backup.contents.manifests import read_manifest
from sbh_pipelines.backup.contents.verification import verify_backup
from sbh_pipelines.backup.copies.copier.tenant_copy import copy_tenant
from sbh_pipelines.backup.copies.copier.transfer import Limiter, Transfers
from sbh_pipelines.backup.copies.place import CopyPlace
from sbh_pipelines.backup.copies.wrapping import bring_catalog_key
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import (
    CopyDiverged,
    CopyError,
    CorruptObject,
    LeaseHeld,
    LeaseLost,
    StoreUnavailable,
    TenantErased,
)
from sbh_pipelines.model import no_progress, utc_now
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.catalog.erased import ERASING, ErasureCounts, ErasureRecord, write_erased
from sbh_pipelines.repository.format import checksum
from sbh_pipelines.settings.places.copies import at_copy
from sbh_pipelines.stores.base import ObjectInfo
from sbh_pipelines.stores.object_store import Store
from sbh_pipelines_tests.backup.create.test_crash import READS, WRITES, Death, Killed, struck
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application
from sbh_pipelines_tests.support.copied import COPY, REGION, Copied

TENANT = Application.tenant()
PREFIX = f"files/{ACME}/backups/"
COPIED = ("packs/", "index/", "database/", "files/", "config/", "audit/", "holds/", "manifests/")


@pytest.fixture
def copied(application: Application, embedded_stack: Stack) -> Copied:
    return Copied(application, embedded_stack)


def run(copied: Copied, place: CopyPlace | None = None) -> tuple[int, int]:
    """As a run of the copy does: another process each time."""
    place = place or copied.place()
    bring_catalog_key(place, REGION)
    return copy_tenant(place, place.source.owners.housed(TENANT), Transfers(place, no_progress, Limiter(None)))


def backup(copied: Copied, seed: int = 0, kind: str = "full") -> str:
    copied.application.database.run(f"UPDATE projects SET body = repeat(md5((id + {seed})::text), 30) WHERE id % 3 = 0")
    made: str = copied.service().create_backup(ACME, ADMIN, backup_type=kind)["id"]
    return made


def later() -> datetime:
    """When the lease of one that was killed has ended."""
    return utc_now() + timedelta(hours=2)


def below(copied: Copied, bucket: str) -> dict[str, bytes]:
    """What is copied byte for byte, of the objects of a bucket."""
    found = {key[len(PREFIX) :]: body for key, body in copied.objects(bucket, PREFIX).items()}
    return {name: body for name, body in found.items() if name.startswith(COPIED)}


def alone(copied: Copied) -> Site:
    """A site that has the settings of the copy, and no key of the source."""
    settings = at_copy(copied.settings(), COPY)
    keys = settings.keys.model_copy(update={"previous_key_files": []})
    return Site(settings.model_copy(update={"keys": keys}), copied.site().clock)


def check(copied: Copied) -> list[str]:
    """Every manifest at the copy is whole to the last byte, with the copy's keys alone; their ids."""
    keys = copied.client.list_objects_v2(Bucket=copied.copy_bucket, Prefix=f"{PREFIX}manifests/").get("Contents", ())
    if not keys:
        return []
    with alone(copied).repository(TENANT) as repository:
        repository.load_index()
        ids = repository.manifest_ids()
        for backup_id in ids:
            found = verify_backup(repository, read_manifest(repository, backup_id), deep=True)
            assert found.issues == []
            assert found.chunks > 0
    assert len(ids) == len(keys)
    return [str(backup_id) for backup_id in ids]


def empty(copied: Copied) -> None:
    for key in copied.objects(copied.copy_bucket):
        copied.client.delete_object(Bucket=copied.copy_bucket, Key=key)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Requests by verb, whichever store they go to."""
    seen: Counter[str] = Counter()

    def note(verb: str, key: str, body: bytes) -> None:
        seen[verb] += 1

    with struck(note, (*WRITES, *READS, "list", "stream")):
        yield seen


# what is copied


def test_a_copy_has_the_source_s_bytes_and_opens_without_it(copied: Copied) -> None:
    ids = [backup(copied, seed) for seed in range(2)]
    pin = copied.service().retention.pin(ids[0], ACME, ADMIN, "a reason")
    assert pin
    run(copied)
    here = below(copied, copied.bucket)
    assert below(copied, copied.copy_bucket) == here
    assert {name.partition("/")[0] for name in here} == {folder[:-1] for folder in COPIED}
    copied.key_file.unlink()
    for key in copied.objects(copied.bucket):
        copied.client.delete_object(Bucket=copied.bucket, Key=key)
    assert check(copied) == ids


def test_what_strangers_put_below_the_prefix_stays_where_it_is(copied: Copied) -> None:
    backup(copied)
    strange = [
        "holds/all.json", "packs/notes.txt", "manifests/latest.json", "index/retired-x-0123456789abcdef",
        "index/damaged-00", "lease.json", "listing.json", "restores/restore_20260101_000000_aaaaaa.json",
        "secrets/backup_20260101_0000.json", "keys/9999.json",
    ]  # fmt: skip
    for name in strange:
        copied.client.put_object(Bucket=copied.bucket, Key=PREFIX + name, Body=b"{}")
    run(copied)
    there = {key[len(PREFIX) :] for key in copied.objects(copied.copy_bucket, PREFIX)}
    assert not there & set(strange)
    check(copied)


def test_deletions_at_the_source_are_not_repeated(copied: Copied) -> None:
    first, second = backup(copied), backup(copied, 1)
    run(copied)
    copied.client.delete_object(Bucket=copied.bucket, Key=f"{PREFIX}manifests/{first}.json")
    run(copied)
    assert check(copied) == [first, second]


# what it costs


def test_a_run_in_which_nothing_changed_stores_nothing(copied: Copied) -> None:
    backup(copied)
    run(copied)
    place = copied.place()
    bring_catalog_key(place, REGION)
    with counted() as seen:
        assert run(copied, place) == (0, 0)
    assert {verb: seen[verb] for verb in WRITES if seen[verb]} == {"replace": 2}  # the lease is taken, and released
    assert seen["list"] <= 8
    assert sum(seen.values()) <= 35
    assert seen["stream"] == 0


def test_a_first_copy_reads_each_object_once_and_asks_for_little_else(copied: Copied) -> None:
    for seed in range(3):
        backup(copied, seed, "incremental")
    place = copied.place()
    bring_catalog_key(place, REGION)
    with counted() as seen:
        objects, _ = run(copied, place)
    assert sum(seen[verb] for verb in WRITES) == objects + 4  # the lease is taken, asked for twice, and released
    assert sum(seen[verb] for verb in READS) <= objects + 18
    assert seen["list"] <= 7


def test_one_more_backup_costs_what_is_new(copied: Copied) -> None:
    backup(copied)
    first = run(copied)
    before = below(copied, copied.copy_bucket)
    backup(copied, 1, "incremental")
    second = run(copied)
    new = below(copied, copied.copy_bucket).keys() - before.keys()
    assert second[0] == len(new) + 1  # and the head of the trail
    assert second[1] < first[1]


# broken off


def test_killed_at_any_write_every_manifest_there_is_whole_and_the_next_run_goes_on(copied: Copied) -> None:
    ids = [backup(copied), backup(copied, 1, "incremental")]
    for nth in range(1, 200):
        empty(copied)
        try:
            with struck(Death(nth, "before")):
                run(copied)
        except Killed:
            there = check(copied)
            assert there == ids[: len(there)]
        else:
            break
    assert nth > 15
    empty(copied)
    with pytest.raises(Killed), struck(Death(12, "after")):
        run(copied)
    with pytest.raises(LeaseHeld):
        run(copied)
    assert run(copied, copied.place(later))[0] > 0
    assert check(copied) == ids
    assert below(copied, copied.copy_bucket) == below(copied, copied.bucket)


def test_killed_again_and_again_it_gets_there(copied: Copied) -> None:
    """Each run stores a few objects more."""
    ids = [backup(copied), backup(copied, 1, "incremental")]
    for _ in range(60):
        lease = f"{PREFIX}copying/lease.json"  # has ended by itself
        copied.client.delete_object(Bucket=copied.copy_bucket, Key=lease)
        try:
            with struck(Death(4, "before")):
                run(copied)
        except Killed:
            check(copied)
        else:
            break
    assert check(copied) == ids


# what goes on at the source meanwhile


@contextmanager
def meanwhile(copied: Copied, part: str, act: Callable[[], object]) -> Iterator[None]:
    """`act` is done once, before the first request of the copy's store for a key with `part` in it."""
    waiting = [act]

    def note(verb: str, key: str, body: bytes) -> None:
        if part in key and waiting:
            waiting.pop()()

    with struck(note, ("put", "create", "replace", "put_stream")):
        yield
    assert not waiting


def test_a_manifest_that_is_forgotten_meanwhile_is_not_copied(copied: Copied) -> None:
    first, second = backup(copied), backup(copied, 1)
    gone = f"{PREFIX}manifests/{first}.json"
    with meanwhile(copied, "/packs/", lambda: copied.client.delete_object(Bucket=copied.bucket, Key=gone)):
        run(copied)
    assert check(copied) == [second]


def test_a_pack_that_goes_meanwhile_has_the_tenant_planned_again(copied: Copied) -> None:
    """As where a prune removes what it retired a day before."""
    made = backup(copied)
    needless = hashlib.sha256(b"needless").hexdigest()
    key = f"{PREFIX}packs/{needless}"
    copied.client.put_object(Bucket=copied.bucket, Key=key, Body=b"needless")
    seen: list[str] = []

    def strike(verb: str, asked: str, body: bytes) -> None:
        if asked == key and not seen:
            copied.client.delete_object(Bucket=copied.bucket, Key=key)
        if asked == key:
            seen.append(verb)

    with struck(strike, READS):
        run(copied)
    assert seen
    assert check(copied) == [made]
    assert key not in copied.objects(copied.copy_bucket)


def test_what_is_gone_at_each_plan_is_an_error(copied: Copied, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store whose listing tells of what it does not have."""
    backup(copied)
    real = Store.list
    ghost = next(iter(real(copied.site().raw_store(copied.site().backup_place(TENANT)), f"{PREFIX}packs/")))

    def listing(store: Store, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        yield from real(store, prefix, after)
        if prefix == PREFIX and copied.bucket in store.url(""):
            yield replace(ghost, key=f"{PREFIX}packs/{'a' * 64}")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "list", listing)
        with pytest.raises(CopyError, match="changes faster"):
            run(copied)
    assert check(copied) == []


def test_a_backup_that_commits_meanwhile_comes_with_the_next_run(copied: Copied) -> None:
    first = backup(copied)
    made: list[str] = []
    with meanwhile(copied, "/packs/", lambda: made.append(backup(copied, 1, "incremental"))):
        run(copied)
    assert check(copied) == [first]
    run(copied)
    assert check(copied) == [first, *made]


def test_a_key_epoch_that_begins_meanwhile_comes_before_what_is_signed_in_it(copied: Copied) -> None:
    made = backup(copied)

    def rotate() -> None:
        copied.service().keys.rotate([ACME], ADMIN, new_data_key=True, re_encrypt=True)

    with meanwhile(copied, "/packs/", rotate):
        run(copied)
    assert check(copied) == [made]
    run(copied)
    assert check(copied) == [made]


# what is refused


def tombstone(copied: Copied, site: Site) -> None:
    record = ErasureRecord(
        ACME, ERASING, "erase_20260101_000000_aaaaaa", REGION, "tester", "asked", "2026-01-01T00:00:00Z",
        ErasureCounts(0, 0, 0), (),
    )  # fmt: skip
    write_erased(site.catalog(REGION), ACME, record)


@pytest.mark.parametrize("end", ["source", "target"])
def test_nothing_of_an_erased_tenant_is_copied(copied: Copied, end: str) -> None:
    """The tombstone is looked for at both ends."""
    backup(copied)
    place = copied.place()
    bring_catalog_key(place, REGION)
    tombstone(copied, place.source if end == "source" else place.target)
    with pytest.raises(TenantErased):
        run(copied)
    assert copied.objects(copied.copy_bucket, PREFIX) == {}


def test_an_erasure_that_begins_meanwhile_keeps_the_manifests_away(copied: Copied) -> None:
    backup(copied)
    with meanwhile(copied, "/packs/", lambda: tombstone(copied, copied.site())), pytest.raises(TenantErased):
        run(copied)
    assert not any("/manifests/" in key for key in copied.objects(copied.copy_bucket))


def test_a_long_copy_asks_now_and_then_whether_the_tenant_is_erased(
    copied: Copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An erasure waits for it, and not for the last of many objects."""
    monkeypatch.setattr("sbh_pipelines.backup.copies.copier.tenant_copy._ASK_EVERY_S", 0.0)
    backup(copied)
    with meanwhile(copied, "/packs/", lambda: tombstone(copied, copied.site())), pytest.raises(TenantErased):
        run(copied)
    found = copied.objects(copied.copy_bucket, PREFIX)
    assert any("/packs/" in key for key in found)
    assert not any("/index/" in key for key in found)


def test_two_copiers_are_not_at_one_tenant(copied: Copied) -> None:
    """The second is told; one whose lease ended and was taken ends before it puts a manifest."""
    made = backup(copied)

    def second() -> None:
        with pytest.raises(LeaseHeld, match=f"copy {COPY}"):
            run(copied)

    with meanwhile(copied, "/packs/", second):
        assert run(copied)[0] > 0
    assert check(copied) == [made]
    backup(copied, 1)
    _, there, prefix = copied.ends()

    def taken() -> None:
        leases.acquire(there, f"{prefix}copying/", leases.new_owner("another"), "another", 60, later)

    with meanwhile(copied, "/packs/", taken), pytest.raises(LeaseLost):
        run(copied)
    assert check(copied) == [made]


@pytest.mark.parametrize("folder", ["packs/", "index/"])
def test_what_is_not_its_names_at_the_copy_is_put_again(copied: Copied, folder: str) -> None:
    made = backup(copied)
    run(copied)
    key = next(key for key in copied.objects(copied.copy_bucket, PREFIX) if key.startswith(PREFIX + folder))
    copied.client.put_object(Bucket=copied.copy_bucket, Key=key, Body=b"another")
    run(copied)
    assert copied.objects(copied.copy_bucket, key) == copied.objects(copied.bucket, key)
    assert check(copied) == [made]


def test_another_object_under_an_immutable_name_stops_the_tenant(copied: Copied) -> None:
    """Its name proves nothing."""
    made = backup(copied)
    name = next(name for name in below(copied, copied.bucket) if name.startswith("database/"))
    copied.client.put_object(Bucket=copied.copy_bucket, Key=PREFIX + name, Body=b"another")
    with pytest.raises(CopyDiverged):
        run(copied)
    copied.client.delete_object(Bucket=copied.copy_bucket, Key=PREFIX + name)
    run(copied)
    assert check(copied) == [made]


def test_another_backup_of_the_same_id_is_not_overwritten(copied: Copied) -> None:
    made = backup(copied)
    key = f"{PREFIX}manifests/{made}.json"
    run(copied)
    body = json.loads(copied.objects(copied.bucket, key)[key])
    body["description"] = "of another"
    body["checksum"] = checksum(body)
    copied.client.put_object(Bucket=copied.bucket, Key=key, Body=json.dumps(body).encode())
    with pytest.raises(CopyDiverged):
        run(copied)
    assert check(copied) == [made]


def test_a_manifest_that_names_an_epoch_of_its_own_keeps_no_younger_one_away(copied: Copied) -> None:
    """Its checksum needs no key."""
    first = backup(copied)
    key = f"{PREFIX}manifests/{first}.json"
    forged = json.loads(copied.objects(copied.bucket, key)[key]) | {"id": "backup_20200101_0000", "key_epoch": 250}
    forged["checksum"] = checksum(forged)
    other = f"{PREFIX}manifests/backup_20200101_0000.json"
    copied.client.put_object(Bucket=copied.bucket, Key=other, Body=json.dumps(forged).encode())
    with pytest.raises(CorruptObject, match="key epoch"):
        run(copied)
    assert key in copied.objects(copied.copy_bucket, PREFIX)
    assert other not in copied.objects(copied.copy_bucket, PREFIX)


def test_a_damaged_pack_of_the_source_is_not_copied_until_the_source_knows_of_it(copied: Copied) -> None:
    """A pack that deep validation condemned is left out; backups that do not need it go on."""
    backup(copied)
    name, body = next((n, b) for n, b in below(copied, copied.bucket).items() if n.startswith("packs/"))
    copied.client.put_object(Bucket=copied.bucket, Key=PREFIX + name, Body=body[:-1] + b"?")
    with pytest.raises(CorruptObject, match="were not copied"):
        run(copied)
    assert not any("/manifests/" in key for key in copied.objects(copied.copy_bucket))
    copied.client.put_object(
        Bucket=copied.bucket, Key=f"{PREFIX}index/damaged-{name.removeprefix('packs/')}", Body=b"{}"
    )
    run(copied)
    assert PREFIX + name not in copied.objects(copied.copy_bucket)


def test_a_damaged_document_of_the_source_keeps_its_own_backup_away_and_no_other(copied: Copied) -> None:
    """Its name proves nothing: once stored at the copy it would stay there."""
    first, second = backup(copied), backup(copied, 1)
    key = f"{PREFIX}database/{first}.json"
    body = copied.objects(copied.bucket, key)[key]
    copied.client.put_object(Bucket=copied.bucket, Key=key, Body=body.replace(b"2", b"3", 1))
    for _ in range(2):
        with pytest.raises(CorruptObject, match="was not copied"):
            run(copied)
        assert check(copied) == [second]
    assert key not in copied.objects(copied.copy_bucket, PREFIX)
    copied.client.put_object(Bucket=copied.bucket, Key=key, Body=body)
    run(copied)
    assert check(copied) == [first, second]


def test_damage_in_what_a_manifest_says_of_itself_is_no_other_backup(copied: Copied) -> None:
    """A bit of its checksum, at the copy: it is put again."""
    made = backup(copied)
    run(copied)
    key = f"{PREFIX}manifests/{made}.json"
    body = json.loads(copied.objects(copied.copy_bucket, key)[key])
    body["checksum"] = body["checksum"][:-1] + ("0" if body["checksum"][-1] != "0" else "1")
    copied.client.put_object(Bucket=copied.copy_bucket, Key=key, Body=json.dumps(body).encode())
    run(copied)
    assert check(copied) == [made]


# stores that fail


@pytest.mark.parametrize("folder", ["database/", "audit/", "holds/", "manifests/"])
def test_bits_that_flip_on_their_way_from_the_source_are_not_stored(
    copied: Copied, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """What is not what the listing says is read again: names of documents and events prove nothing."""
    made = backup(copied)
    copied.service().retention.pin(made, ACME, ADMIN, "a reason")
    real, flipped = Store.get, set[str]()

    def get(store: Store, key: str, most: int) -> bytes:
        body = real(store, key, most)
        if copied.bucket in store.url(key) and f"{PREFIX}{folder}" in key and key not in flipped:
            flipped.add(key)
            at = len(body) // 2
            return body[:at] + bytes([body[at] ^ 4]) + body[at + 1 :]
        return body

    with monkeypatch.context() as patch:
        patch.setattr(Store, "get", get)
        run(copied)
    assert flipped
    assert below(copied, copied.copy_bucket) == below(copied, copied.bucket)
    assert check(copied) == [made]


def test_what_is_read_otherwise_each_time_is_not_stored(copied: Copied, monkeypatch: pytest.MonkeyPatch) -> None:
    backup(copied)
    real, reads = Store.get, itertools.count()

    def get(store: Store, key: str, most: int) -> bytes:
        body = real(store, key, most)
        mine = copied.bucket in store.url(key) and f"{PREFIX}audit/" in key
        return body[:-8] + next(reads).to_bytes(8, "big") if mine else body

    with monkeypatch.context() as patch:
        patch.setattr(Store, "get", get)
        with pytest.raises(StoreUnavailable, match="otherwise each time"):
            run(copied)
    assert check(copied) == []


def test_a_target_that_is_unavailable_leaves_what_a_kill_leaves(copied: Copied) -> None:
    made = backup(copied)
    count = [0]

    def strike(verb: str, key: str, body: bytes) -> tuple[BaseException, str] | None:
        count[0] += 1
        return (StoreUnavailable("503", on=key), "before") if count[0] > 5 else None

    with struck(strike), pytest.raises(StoreUnavailable):
        run(copied)
    assert check(copied) == []
    run(copied, copied.place(later))  # its lease could not be given back
    assert check(copied) == [made]


def test_a_target_that_loses_what_it_acknowledged_gets_no_manifest(
    copied: Copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup(copied)

    with monkeypatch.context() as patch:
        real = Store.create

        def create(store: Store, key: str, body: bytes) -> str:
            if "/packs/" in key and copied.copy_bucket in store.url(key):
                return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
            return real(store, key, body)

        patch.setattr(Store, "create", create)
        with pytest.raises(CopyError, match="acknowledged"):
            run(copied)
    assert check(copied) == []


def test_a_server_whose_etag_proves_nothing_is_read_back(copied: Copied, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with SSE-KMS: and what it has otherwise is found."""
    backup(copied)
    real = Store.create

    def create(store: Store, key: str, body: bytes) -> str:
        if copied.copy_bucket in store.url(key):
            real(store, key, body[:-1] + b"?" if "/packs/" in key else body)
            return '"0"'
        return real(store, key, body)

    monkeypatch.setattr(Store, "create", create)
    with pytest.raises(CopyError, match="not what was sent"):
        run(copied)
