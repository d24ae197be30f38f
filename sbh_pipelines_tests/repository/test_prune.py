"""Prune of one repository: what is needed stays readable for everybody, whatever dies when; the rest goes in the end."""

import hashlib
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from sbh_pipelines.errors import CorruptObject, LeaseLost, PruneRefused
from sbh_pipelines.model import TenantId, no_progress
from sbh_pipelines.repository import prune as pruning
from sbh_pipelines.repository import repository as repositories
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.repository.pack import PackPipeline
from sbh_pipelines.repository.prune import Report, execute
from sbh_pipelines.repository.prune_plan import Plan, Safety, Shape, make_plan
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.repository.seal import Sealer
from sbh_pipelines.stores.base import ObjectInfo
from sbh_pipelines_tests.support.memory_store import MemoryStore

PREFIX = "files/acme/backups/"
TENANT = TenantId("acme")
DAY = timedelta(days=1)
SHAPE = Shape(pack_bytes=40_000, small_packs=0, index_objects=100)


class Dead(BaseException):
    """The process that prunes was killed."""


class TimedStore(MemoryStore):
    """A memory store with a clock of its own, that lists in any order, and can be made to die at a write."""

    def __init__(self) -> None:
        super().__init__()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.modified: dict[str, datetime] = {}
        self._random = random.Random(1)
        self.writes_left: int | None = None

    def _write(self) -> None:
        if self.writes_left is not None:
            if self.writes_left == 0:
                raise Dead
            self.writes_left -= 1

    def put(self, key: str, data: bytes | bytearray | memoryview) -> str:
        self._write()
        self.modified[key] = self.now
        return super().put(key, data)

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        found = list(super().list(prefix, after))
        self._random.shuffle(found)
        return (replace(info, modified=self.modified[info.key]) for info in found)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:  # a batch is not atomic
            self._write()
            super().delete([key])

    def names(self, prefix: str) -> set[str]:
        skip = len(PREFIX)
        return {key[skip:] for key in self.objects if key[skip:].startswith(prefix)}


@dataclass
class PrunedRepository:
    """A tenant's repository; `needed` are the chunks of its backups, by content."""

    store: TimedStore = field(default_factory=TimedStore)
    sealer: Sealer = field(default_factory=lambda: Sealer(bytes(range(32)), TENANT))
    needed: dict[bytes, bytes] = field(default_factory=dict)

    def open(self) -> Repository:
        repository = Repository(self.store, PREFIX, TENANT, self.sealer)
        repository.load_index()
        return repository

    def write(self, *contents: bytes, indexed: bool = True, name: str = "backup_1") -> list[bytes]:
        """One pack of these chunks; their ids."""
        repository = self.open()
        with PackPipeline(1 << 24, 1 << 20, 1, 1) as pipeline:
            writer = repository.writer(pipeline)
            ids = [writer.put(content).result() for content in contents]
            writer.finish()
        if indexed:
            repository.write_index(name, "database", writer)
        repository.close()
        return ids

    def need(self, *contents: bytes) -> None:
        self.needed |= {self.sealer.name(content): content for content in contents}

    def prune(self, safety: Safety = Safety(), shape: Shape = SHAPE, dry: bool = False) -> tuple[Plan, Report]:  # noqa: B008
        repository = self.open()
        try:
            with repository.index.marks() as marks:
                marks.add_all(self.needed)
                plan = make_plan(repository, marks, ["backup_1"], self.store.now, safety, shape)
                if dry:
                    return plan, Report()
                return plan, execute(repository, marks, plan, lambda: None, no_progress)
        finally:
            repository.close()

    def check(self, reader: Repository | None = None) -> None:
        """Whoever opens the repository now (or opened it before) reads all that is needed; nothing looks damaged."""
        repository = reader or self.open()
        for chunk, content in self.needed.items():
            assert repository.read_chunk(chunk) == content
        assert repository.lost == set()
        assert repository.damages == []
        if reader is None:
            repository.close()

    def settle(self, shape: Shape = SHAPE) -> None:
        """Prune daily until nothing is left to do."""
        for _ in range(4):
            self.store.now += DAY
            plan, _ = self.prune(shape=shape)
        assert plan.shown() == []
        assert not plan.retires


@pytest.fixture
def pruned() -> PrunedRepository:
    return PrunedRepository()


def content(seed: int, size: int = 3000) -> bytes:
    return random.Random(seed).randbytes(size)


def test_a_pack_that_nobody_needs_is_retired_and_a_day_later_removed(pruned: PrunedRepository) -> None:
    pruned.write(content(1), content(2))
    pruned.write(content(3))
    pruned.need(content(1), content(2))
    pruned.store.now += DAY
    _, first = pruned.prune()
    assert (first.packs_retired, first.packs_deleted, first.bytes_freed) == (1, 0, 0)
    pruned.store.now += DAY - timedelta(seconds=1)
    plan, early = pruned.prune()
    assert early.objects_deleted == 0
    assert "some may still read it" in plan.keep[0].why
    size = sum(len(pruned.store.objects[key]) for key in pruned.store.objects)
    pruned.store.now += timedelta(seconds=1)
    _, second = pruned.prune()
    assert second.packs_deleted == 1
    assert second.bytes_freed == size - sum(len(body) for body in pruned.store.objects.values())
    assert len(pruned.store.names(Keys.PACKS)) == 1
    assert len(pruned.store.names(Keys.INDEX)) == 1
    pruned.check()


def test_young_packs_are_left_alone(pruned: PrunedRepository) -> None:
    """Whoever writes them may be about to need them."""
    pruned.write(content(1), indexed=False)
    pruned.write(content(2), content(3), content(4))
    pruned.need(content(2))
    before = dict(pruned.store.objects)
    pruned.store.now += DAY - timedelta(seconds=1)
    plan, _ = pruned.prune()
    assert sorted(decision.why for decision in plan.keep) == [
        "backups need 33% of it, but it is young",
        "no backup needs it, but it is young",
    ]
    assert {key for key in pruned.store.objects if "/packs/" in key} == {key for key in before if "/packs/" in key}


def test_a_pack_that_is_mostly_dead_is_rewritten_without_the_rest(pruned: PrunedRepository) -> None:
    """Its needed chunks are copied as they are sealed, and read by whoever opened the repository before, too."""
    pruned.write(*map(content, range(10)))
    pruned.need(content(3), content(7))
    pruned.store.now += DAY
    reader = pruned.open()
    _, report = pruned.prune()
    assert (report.packs_rewritten, report.packs_written) == (1, 1)
    assert 6000 < report.bytes_rewritten < 6500
    pruned.check()
    pruned.check(reader)
    pruned.settle()
    (pack,) = pruned.store.names(Keys.PACKS)
    assert len(pruned.store.objects[PREFIX + pack]) == report.bytes_rewritten
    pruned.check()


def test_a_pack_of_which_half_is_needed_stays(pruned: PrunedRepository) -> None:
    pruned.write(*map(content, range(10)))
    pruned.need(*map(content, range(5)))
    pruned.store.now += DAY
    plan, report = pruned.prune()
    assert plan.rewrite == []
    assert report == Report()


def test_rewritten_packs_are_filled_up_to_their_size(pruned: PrunedRepository) -> None:
    for n in range(12):
        pruned.write(*(content(100 * n + k) for k in range(10)))
        pruned.need(content(100 * n), content(100 * n + 1))
    pruned.settle()
    sizes = sorted(len(pruned.store.objects[PREFIX + name]) for name in pruned.store.names(Keys.PACKS))
    assert len(sizes) == 2  # 24 chunks of 3,000 bytes, 40,000 bytes a pack
    assert sizes[-1] < 44_000
    pruned.check()


def test_chunks_larger_than_what_is_read_at_once(pruned: PrunedRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "_READ_BYTES", 100)
    pruned.write(*map(content, range(10)))
    pruned.need(content(3), content(4), content(9))
    pruned.settle()
    pruned.check()


def test_many_small_packs_are_merged(pruned: PrunedRepository) -> None:
    for n in range(6):
        pruned.write(content(n))
        pruned.need(content(n))
    pruned.settle(replace(SHAPE, small_packs=6))
    assert len(pruned.store.names(Keys.PACKS)) == 1
    pruned.check()


def test_many_small_index_objects_are_merged_into_few_of_bounded_size(
    pruned: PrunedRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(7):  # one more, and the writer would merge them
        pruned.write(*(content(10 * n + k, 50) for k in range(10)))
        pruned.need(*(content(10 * n + k, 50) for k in range(10)))
    pruned.store.now += DAY
    reader = pruned.open()
    plan, report = pruned.prune(shape=replace(SHAPE, index_objects=6))
    assert (len(plan.replace_index), report.index_objects_written) == (7, 1)
    pruned.check(reader)
    assert len(pruned.open().indexed) == 1
    monkeypatch.setattr(pruning, "INDEX_BYTES", 48 * 30)
    for n in range(7, 14):
        pruned.write(*(content(10 * n + k, 50) for k in range(10)))
        pruned.need(*(content(10 * n + k, 50) for k in range(10)))
    pruned.store.now += DAY
    _, report = pruned.prune(shape=replace(SHAPE, index_objects=6))
    assert report.index_objects_written > 3
    pruned.check()


def test_what_a_killed_writer_left_is_indexed_if_it_is_needed(pruned: PrunedRepository) -> None:
    """Its packs are opened one by one at every opening until then."""
    pruned.write(content(1), indexed=False)
    pruned.need(content(1))
    assert len(pruned.open().unindexed) == 1
    pruned.prune()
    assert pruned.open().unindexed == {}
    pruned.check()


@pytest.mark.parametrize("needed", [range(7), [0, 3], [6]])
def test_more_packs_without_an_index_than_are_looked_at(
    pruned: PrunedRepository, monkeypatch: pytest.MonkeyPatch, needed: Iterable[int]
) -> None:
    """Somebody may have put them there, or the indexes are lost: the rest is looked at when a chunk is not found elsewhere."""
    monkeypatch.setattr(repositories, "UNNAMED_PACKS", 2)
    for n in range(7):
        pruned.write(content(n), indexed=False)
    pruned.need(*(content(n) for n in needed))
    repository = pruned.open()
    assert len(repository.unindexed) == 2
    assert [d.error.code for d in repository.damages] == ["SBH-608"]
    for chunk, stored in pruned.needed.items():
        assert repository.read_chunk(chunk) == stored
    for _ in range(6):
        pruned.store.now += DAY
        pruned.prune()
    pruned.check()


def test_a_backup_that_needs_what_was_retired_still_has_it(pruned: PrunedRepository) -> None:
    """A writer that slept through a prune, and committed nevertheless: the next prune takes its chunks into use again."""
    pruned.write(content(1), content(2))
    pruned.write(content(3))
    pruned.need(content(1))
    pruned.store.now += DAY
    pruned.prune(shape=replace(SHAPE, repack_below=0.9))
    pruned.need(content(2), content(3))
    pruned.check()
    pruned.store.now += DAY
    plan, report = pruned.prune()
    assert {d.why for d in plan.rewrite} == {"it was retired, but a backup needs it"}
    assert report.packs_deleted == 0  # somebody may read them where they were: they are retired once more
    pruned.check()
    pruned.settle()
    pruned.check()
    assert pruned.open().index.find(pruned.sealer.name(content(2))) is not None


def test_a_chunk_that_was_retired_is_stored_anew_by_the_next_backup(pruned: PrunedRepository) -> None:
    """Nothing new is built on what is about to go."""
    pruned.write(content(1))
    pruned.store.now += DAY
    pruned.prune()
    pruned.write(content(1), name="backup_2")
    pruned.need(content(1))
    pruned.settle()
    pruned.check()


@pytest.mark.parametrize("stage", ["first", "second", "everything"])
def test_killed_at_any_write(stage: str) -> None:
    """After any of a prune's writes and deletes all is readable and nothing looks damaged; the next prunes finish."""
    shape = replace(SHAPE, small_packs=4, index_objects=3)

    def ready() -> PrunedRepository:
        pruned = PrunedRepository()
        for n in range(5):
            pruned.write(*(content(100 * n + k) for k in range(8)))
        pruned.write(content(900))
        pruned.write(content(901), indexed=False)
        pruned.store.put(f"{PREFIX}database/backup_0.json", b"{}")
        pruned.need(content(0), content(100), *(content(200 + k) for k in range(8)), content(901))
        pruned.store.now += DAY
        if stage != "first":
            pruned.prune(shape=shape)
            if stage == "everything":
                pruned.need(content(300))  # retired
                for n in range(5, 9):
                    pruned.write(content(100 * n), name=f"backup_{n}")
                    pruned.need(content(100 * n))
            pruned.store.now += DAY
        return pruned

    for nth in range(200):
        pruned = ready()
        reader = pruned.open()
        pruned.store.writes_left = nth
        try:
            pruned.prune(shape=shape)
            died = False
        except Dead:
            died = True
        pruned.store.writes_left = None
        pruned.check()
        pruned.check(reader)  # whoever opened it before has a day
        pruned.write(content(777), content(1), name="backup_7")
        pruned.need(content(777), content(1))
        pruned.check()
        pruned.settle(shape)
        pruned.check()
        stored = sum(len(pruned.store.objects[PREFIX + name]) for name in pruned.store.names(Keys.PACKS))
        assert stored < 2 * sum(map(len, pruned.needed.values()))
        assert not pruned.store.names("database/")
        if not died:
            break
    assert nth >= 3


def test_a_lease_lost_on_the_way_stops_before_anything_takes_effect(pruned: PrunedRepository) -> None:
    pruned.write(content(1), content(2), content(3))
    pruned.need(content(1))
    pruned.store.now += DAY
    repository = pruned.open()

    def lost() -> None:
        raise LeaseLost("The lease on the tenant was lost")

    with repository.index.marks() as marks:
        marks.add_all(pruned.needed)
        plan = make_plan(repository, marks, [], pruned.store.now, Safety(), SHAPE)
        with pytest.raises(LeaseLost):
            execute(repository, marks, plan, lost, no_progress)
    assert pruned.open().retirements == []
    pruned.check()


def damage(pruned: PrunedRepository, name: str) -> None:
    body = bytearray(pruned.store.objects[PREFIX + name])
    body[40] ^= 1
    pruned.store.objects[PREFIX + name] = bytes(body)


def test_a_damaged_pack_that_nobody_needs_goes_with_its_mark(pruned: PrunedRepository) -> None:
    pruned.write(content(1))
    pruned.need(content(1))
    kept = pruned.store.names(Keys.PACKS)
    pruned.write(content(2))
    (bad,) = pruned.store.names(Keys.PACKS) - kept
    damage(pruned, bad)
    pruned.open().condemn(bytes.fromhex(bad.removeprefix(Keys.PACKS)))
    pruned.store.put(f"{PREFIX}packs/{'ab' * 32}", b"truncated")
    pruned.store.put(f"{PREFIX}index/damaged-{'cd' * 32}", b"{}")
    pruned.store.now += DAY
    plan, _ = pruned.prune()
    assert [d.why for d in plan.retire] == ["it is damaged, and no backup needs it"] * 2
    assert pruned.store.names(Keys.DAMAGED) == {f"index/damaged-{bad.removeprefix(Keys.PACKS)}"}
    pruned.settle()
    assert pruned.store.names(Keys.PACKS) == kept
    assert pruned.store.names(Keys.DAMAGED) == set()
    pruned.check()


def test_a_damaged_index_object_is_replaced(pruned: PrunedRepository) -> None:
    """Packs describe themselves, so nothing is lost with it."""
    pruned.write(content(1), content(2))
    pruned.need(content(1), content(2))
    (index,) = pruned.store.names(Keys.INDEX)
    damage(pruned, index)
    pruned.settle()
    assert index not in pruned.store.names(Keys.INDEX)
    assert pruned.open().unindexed == {}
    pruned.check()


def test_a_damaged_retirement_is_forgotten(pruned: PrunedRepository) -> None:
    """What it retired is in use again, and is retired again."""
    pruned.write(content(1))
    pruned.write(content(2))
    pruned.need(content(1))
    pruned.store.now += DAY
    pruned.prune()
    (record,) = pruned.store.names(Keys.RETIRED)
    damage(pruned, record)
    pruned.settle()
    assert pruned.store.names(Keys.RETIRED) == set()
    assert len(pruned.store.names(Keys.PACKS)) == 1
    pruned.check()


def refused(pruned: PrunedRepository, match: str) -> None:
    before = dict(pruned.store.objects)
    with pytest.raises(PruneRefused, match=match) as error:
        pruned.prune()
    assert error.value.remedy
    assert {k: v for k, v in pruned.store.objects.items() if k in before} == before
    assert not pruned.store.names(Keys.RETIRED)


def test_refuses_when_something_needed_is_missing(pruned: PrunedRepository) -> None:
    pruned.write(content(1))
    pruned.need(content(1), content(2))
    pruned.store.now += DAY
    refused(pruned, "A chunk is missing")


def test_refuses_when_a_needed_pack_is_gone(pruned: PrunedRepository) -> None:
    pruned.write(content(1))
    pruned.need(content(1))
    (pack,) = pruned.store.names(Keys.PACKS)
    pruned.store.delete([PREFIX + pack])
    pruned.store.now += DAY
    refused(pruned, "A pack is missing")


def test_refuses_when_a_chunk_to_be_copied_is_damaged(pruned: PrunedRepository) -> None:
    """It is found before the pack is given up, and not carried on."""
    pruned.write(content(1), content(2), content(3))
    pruned.need(content(1))
    (pack,) = pruned.store.names(Keys.PACKS)
    damage(pruned, pack)
    pruned.store.now += DAY
    refused(pruned, "does not open")


def test_refuses_what_a_newer_release_wrote(pruned: PrunedRepository) -> None:
    pruned.write(content(1))
    pruned.need(content(1))
    sealed = pruned.sealer.seal(b"", b"", b"I")
    body = b"\x09" + sealed[1:]
    pruned.store.put(f"{PREFIX}index/x-{hashlib.sha256(body).hexdigest()[:16]}", body)
    pruned.store.now += DAY
    refused(pruned, "newer release")


def test_refuses_when_an_object_comes_from_the_future(pruned: PrunedRepository) -> None:
    pruned.write(content(1))
    pruned.need(content(1))
    pruned.store.now -= timedelta(minutes=6)
    refused(pruned, "clocks|is 2025")


def test_foreign_objects_are_left_alone(pruned: PrunedRepository) -> None:
    pruned.write(content(1))
    foreign = [
        "packs/README",
        "database/notes.txt",
        "files/backup_x",
        "manifests/backup_9.json.old",
        "keys/0001.json",
        "lease.json",
        "journal/1",
    ]
    for name in foreign:
        pruned.store.put(PREFIX + name, b"x")
    pruned.store.now += 400 * DAY
    for _ in range(3):
        repository = pruned.open()
        with repository.index.marks() as marks:
            plan = make_plan(repository, marks, [], pruned.store.now, Safety(), SHAPE)
            execute(repository, marks, plan, lambda: None, no_progress)
        pruned.store.now += DAY
    assert set(foreign) == pruned.store.names("")


def test_old_records_and_documents_of_forgotten_backups_go(pruned: PrunedRepository) -> None:
    pruned.write(content(1))
    pruned.need(content(1))
    names = [f"{kind}/backup_{n}.json" for kind in ("database", "files", "config", "failures") for n in (1, 2)]
    for name in [*names, "restores/restore_1.json", "drills/drill_1.json", "drills/drill_2.json"]:
        pruned.store.put(PREFIX + name, b"{}")
    left = set(pruned.store.names(""))
    pruned.store.now += DAY
    pruned.prune()
    (retired,) = pruned.store.names("") - left
    assert retired.startswith(Keys.RETIRED)  # the manifest may be put back for a day
    pruned.store.now += DAY
    pruned.prune()
    left -= {"database/backup_2.json", "files/backup_2.json", "config/backup_2.json"}  # backup_1 is there
    assert pruned.store.names("") == left
    pruned.store.now += 88 * DAY
    pruned.prune()
    assert pruned.store.names("") == left - {
        "failures/backup_1.json",
        "failures/backup_2.json",
        "restores/restore_1.json",
        "drills/drill_1.json",
    }  # a tenant's newest drill stays


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(pruned: PrunedRepository) -> None:
    pruned.write(content(1), content(2), content(3))
    pruned.need(content(1))
    pruned.store.now += DAY
    before = dict(pruned.store.objects)
    plan, _ = pruned.prune(dry=True)
    assert plan.counts()["packs_to_rewrite"] == 1
    assert plan.shown()[0].why == "backups need 33% of it"
    assert pruned.store.objects == before
    done, _ = pruned.prune()
    assert (done.prune_id, done.counts(), done.shown()) == (plan.prune_id, plan.counts(), plan.shown())


def test_a_pack_that_does_not_read_back_stops_it(pruned: PrunedRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is given up for it."""
    pruned.write(content(1), content(2), content(3))
    pruned.need(content(1))
    pruned.store.now += DAY
    real = pruned.store.put

    def lossy(key: str, data: bytes) -> str:
        return real(key, data[:-1] + b"x" if "/packs/" in key else data)

    monkeypatch.setattr(pruned.store, "put", lossy)
    with pytest.raises(Exception, match="read back"):
        pruned.prune()
    assert pruned.open().retirements == []


def test_a_mark_of_damage_is_lifted_once_the_content_is_right_again(pruned: PrunedRepository) -> None:
    (chunk,) = pruned.write(content(1))
    (pack,) = pruned.store.names(Keys.PACKS)
    pack_id = bytes.fromhex(pack.removeprefix(Keys.PACKS))
    sound = pruned.store.objects[PREFIX + pack]
    damage(pruned, pack)
    pruned.open().condemn(pack_id)
    repository = pruned.open()
    with pytest.raises(CorruptObject):
        repository.read_chunk(chunk)
    assert not repository.lift(pack_id)
    pruned.store.put(PREFIX + pack, sound)
    assert repository.lift(pack_id)
    assert repository.read_chunk(chunk) == content(1)
    assert pruned.open().read_chunk(chunk) == content(1)
