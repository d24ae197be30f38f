"""Packs: what is put is stored once and found; memory stays within its budget; one tenant's failure is its own."""

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from sbh_pipelines.errors import CorruptObject, NoRoom, SbhError, StoreUnavailable
from sbh_pipelines.model import TenantId
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.repository.pack import PackPipeline, PackWriter, _Blocks
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.repository.seal import Sealer
from sbh_pipelines.spill import Spill
from sbh_pipelines_tests.support.memory_store import MemoryStore

MIB = 1 << 20
PATIENCE_S = 240.0  # a test that takes longer hangs


def tenant(store: MemoryStore, name: str) -> Repository:
    return Repository(store, f"{name}/", TenantId(name), Sealer(hashlib.sha256(name.encode()).digest(), name))


def reopened(repository: Repository) -> Repository:
    again = Repository(repository.store, repository.prefix, repository.tenant, repository.sealer)
    again.load_index()
    return again


def in_threads(*works: Callable[[], None]) -> None:
    """All at once; raises the first error, and fails when one does not end."""
    errors: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "a writer hangs"
    if errors:
        raise errors[0]


class SlowStore(MemoryStore):
    """Counts the bytes of uploads under way."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way = self.most = 0
        self._counting = threading.Lock()

    def put(self, key: str, data: bytes | bytearray | memoryview) -> str:
        with self._counting:
            self.under_way += len(data)
            self.most = max(self.most, self.under_way)
        time.sleep(0.005)
        try:
            return super().put(key, data)
        finally:
            with self._counting:
                self.under_way -= len(data)


class BrokenFor(MemoryStore):
    """Fails every pack of one tenant after the first `sound` ones."""

    def __init__(self, name: str, sound: int = 0) -> None:
        super().__init__()
        self._name, self._sound = name, sound

    def put(self, key: str, data: bytes | bytearray | memoryview) -> str:
        if key.startswith(f"{self._name}/packs/"):
            self._sound -= 1
            if self._sound < 0:
                raise StoreUnavailable("Cannot put an object", on=key)
        return super().put(key, data)


@contextmanager
def pipeline(memory: int = 8 * MIB, pack: int = MIB) -> Iterator[PackPipeline]:
    with PackPipeline(memory, pack, 2, 3) as made:
        yield made
        assert made._used == 0, "the budget must be whole again"


def test_what_was_put_is_found_and_read() -> None:
    """By the index object, and without it by the packs' own directories."""
    store = MemoryStore()
    repository = tenant(store, "acme")
    noise = random.Random(1)
    chunks = [noise.randbytes(noise.choice([0, 1, 1000, 300_000])) for _ in range(60)]
    with pipeline() as packs:
        writer = repository.writer(packs)
        names = [writer.put(chunk) for chunk in chunks]
        writer.finish()
        (index,) = repository.write_index("backup_20260101_0000", "database", writer)
    assert writer.chunks == 60
    assert writer.chunks_new == len(set(chunks))
    assert writer.bytes_stored == sum(len(o) for k, o in store.objects.items() if "/packs/" in k)
    for lost in (None, index):
        if lost:
            del store.objects["acme/" + lost]
        again = reopened(repository)
        assert [again.read_chunk(name.result()) for name in names] == chunks
        assert list(again.read_chunks(name.result() for name in names)) == chunks
        assert again.damages == []
        assert bool(again.unindexed) == bool(lost)


def test_a_packs_name_is_the_hash_of_its_bytes() -> None:
    store = MemoryStore()
    with pipeline() as packs:
        writer = tenant(store, "acme").writer(packs)
        writer.put(b"x" * 100)
        writer.finish()
    for key, body in store.objects.items():
        assert key == "acme/" + Keys.pack(hashlib.sha256(body).digest())


def test_equal_chunks_are_stored_once_whoever_puts_them() -> None:
    store = MemoryStore()
    repository = tenant(store, "acme")
    with pipeline() as packs:
        writer = repository.writer(packs)
        in_threads(*[lambda: [writer.put(b"%d" % (n % 50) * 1000) for n in range(200)] and None for _ in range(6)])
        writer.finish()
    assert (writer.chunks, writer.chunks_new) == (1200, 50)
    with pipeline() as packs:
        second = reopened(repository).writer(packs)
        for n in range(50):
            second.put(b"%d" % n * 1000)
        second.finish()
    assert (second.chunks_new, second.bytes_stored) == (0, 0)


def test_memory_stays_within_its_budget_under_many_writers() -> None:
    """Twelve tenants put more than ten times the budget, faster than it can be uploaded."""
    store, limit = SlowStore(), 4 * MIB
    noise = random.Random(2)
    data = noise.randbytes(MIB)
    with PackPipeline(limit, MIB, 2, 4) as packs:

        def write(n: int) -> None:
            writer, own = tenant(store, f"tenant-{n}").writer(packs), random.Random(n)
            for at in range(40):
                size = own.choice([10, 1000, 50_000, 400_000])
                writer.put(b"%d %d " % (n, at) + data[:size])
            writer.finish()

        in_threads(*[lambda n=n: write(n) for n in range(12)])  # type: ignore[misc]
        assert packs._used == 0
        # Sealed pieces that do not compress are a few bytes larger than what was counted for them.
        assert limit / 2 < packs.peak <= limit * 1.01
    assert store.most <= limit * 1.05
    assert sum(map(len, store.objects.values())) > 10 * limit


def test_a_chunk_larger_than_the_whole_budget_is_let_through() -> None:
    """A single huge row must not stop the backup for ever, also while others go on writing."""
    store, limit = MemoryStore(), MIB
    with pipeline(memory=limit, pack=MIB) as packs:
        repositories = [tenant(store, f"tenant-{n}") for n in range(4)]

        def write(n: int) -> None:
            writer = repositories[n].writer(packs)
            for at in range(20):
                writer.put(random.Random(n * 100 + at).randbytes(5 * MIB if (n, at) == (0, 10) else 50_000))
            writer.finish()

        in_threads(*[lambda n=n: write(n) for n in range(4)])  # type: ignore[misc]
    huge = repositories[0].sealer.name(random.Random(10).randbytes(5 * MIB))
    assert len(reopened(repositories[0]).read_chunk(huge)) == 5 * MIB


@pytest.mark.parametrize("sound", [0, 1])
def test_a_failed_upload_fails_its_own_writer_only(sound: int) -> None:
    """It hears of it at the next put or at the end; the other tenants' packs are stored, the budget is whole again."""
    store = BrokenFor("acme", sound)
    acme, bolt = tenant(store, "acme"), tenant(store, "bolt")
    noise = random.Random(3).randbytes(300_000)
    with pipeline(memory=2 * MIB) as packs:
        bad, good = acme.writer(packs), bolt.writer(packs)

        def write_much() -> None:
            for n in range(1000):
                bad.put(b"%d" % n + noise)
            bad.finish()

        def fails() -> None:
            with pytest.raises(StoreUnavailable):
                write_much()
            bad.abort()

        def works() -> None:
            for n in range(40):
                good.put(b"%d" % n + noise)
            good.finish()

        in_threads(fails, works)
    assert good.chunks_new == 40
    found = reopened(bolt)
    assert all(found.index.find(bolt.sealer.name(b"%d" % n + noise)) for n in range(40))


def test_an_aborted_writer_gives_its_memory_back() -> None:
    store = MemoryStore()
    with pipeline(memory=2 * MIB) as packs:
        for _ in range(20):
            writer = tenant(store, "acme").writer(packs)
            for n in range(5):
                writer.put(random.Random(n).randbytes(100_000))
            writer.abort()


def test_a_sealer_that_fails_ends_the_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also an error that is none of ours: it is raised, not lost in a thread."""
    repository = tenant(MemoryStore(), "acme")

    def broken(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(Sealer, "seal_chunk", broken)
    with pipeline() as packs:
        writer: PackWriter = repository.writer(packs)
        writer.put(b"x")
        with pytest.raises((RuntimeError, MemoryError, SbhError)):
            writer.finish()
        writer.abort()


def test_packs_are_closed_at_their_size() -> None:
    store = MemoryStore()
    with pipeline(memory=32 * MIB, pack=2 * MIB) as packs:
        writer = tenant(store, "acme").writer(packs)
        for n in range(100):
            writer.put(random.Random(n).randbytes(100_000))
        writer.finish()
    sizes = sorted(map(len, store.objects.values()))
    assert len(sizes) == 5
    assert all(2 * MIB <= size < 2 * MIB + 120_000 for size in sizes[1:])


class RangeStore(MemoryStore):
    """Notes what is asked for in ranges."""

    def __init__(self) -> None:
        super().__init__()
        self.together: list[int] = []

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        self.together.append(len(ranges))
        return super().get_ranges(key, ranges)


def test_chunks_that_lie_together_are_read_with_one_request() -> None:
    """As far as they fit into memory; what is damaged is named, and what comes before it is given."""
    store = RangeStore()
    repository = tenant(store, "acme")
    noise = random.Random(1)
    chunks = [noise.randbytes(MIB) for _ in range(10)]
    with pipeline(64 * MIB, 32 * MIB) as packs:
        writer = repository.writer(packs)
        names = [writer.put(chunk).result() for chunk in chunks]
        writer.finish()
        repository.write_index("backup_20260101_0000", "database", writer)
    assert list(reopened(repository).read_chunks(iter(names))) == chunks
    assert sorted(store.together) == [2, 4, 4]
    again = reopened(repository)
    (key,) = (key for key in store.objects if "/packs/" in key)
    body, at = bytearray(store.objects[key]), again.locate(names[6])
    body[at.offset + 100] ^= 1
    store.objects[key] = bytes(body)
    read = again.read_chunks(iter(names))
    assert [next(read) for _ in range(4)] == chunks[:4]
    with pytest.raises(CorruptObject, match="does not open"):
        list(read)


def _put_in_turns(store: MemoryStore, repositories: list[Repository], memory: int, rounds: int) -> dict[str, int]:
    """Every repository gets a chunk in each round, as a pass over a table has them; the packs of each."""
    with pipeline(memory=memory) as packs:
        writers = [repository.writer(packs) for repository in repositories]
        names = [
            [writer.put(random.Random(n * 1000 + at).randbytes(20_000)) for n, writer in enumerate(writers)]
            for at in range(rounds)
        ]
        in_threads(*[writer.finish for writer in writers])
        assert packs.peak <= memory * 1.01
        held = {repository.prefix: len(writer.stored) for repository, writer in zip(repositories, writers, strict=True)}
    for n, repository in enumerate(repositories):
        again = reopened(repository)
        for at in range(rounds):
            assert again.read_chunk(names[at][n].result()) == random.Random(n * 1000 + at).randbytes(20_000)
        assert again.damages == []
    return held


def test_each_tenant_of_a_batch_gets_one_pack_however_little_memory_there_is() -> None:
    """Twelve times what memory has room for is open at once: on disk."""
    store = MemoryStore()
    held = _put_in_turns(store, [tenant(store, f"tenant-{n}") for n in range(20)], memory=MIB, rounds=30)
    assert set(held.values()) == {1}


@pytest.mark.parametrize("room", [0, 3, 15])
def test_with_a_full_disk_packs_are_closed_early(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is full after some pieces, so that packs lie in part on disk: some of them, or all."""
    put, pieces = Spill.put, 0

    def full(self: Spill, plain: "bytes | bytearray | memoryview") -> int:
        nonlocal pieces
        pieces += 1
        if pieces > room:
            raise NoRoom("A temporary file cannot be written or read", on="here")
        return put(self, plain)

    monkeypatch.setattr(Spill, "put", full)
    store = MemoryStore()
    held = _put_in_turns(store, [tenant(store, f"tenant-{n}") for n in range(6)], memory=MIB, rounds=40)
    assert sum(held.values()) > 6
    assert pieces == room + 1


def test_a_chunk_that_finds_no_memory_leaves_nothing_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """No entry without its bytes gets into a pack, and what is counted for it is given back: the others go on."""
    store, copy = MemoryStore(), _Blocks.copy

    def copied(self: _Blocks, plain: memoryview) -> "tuple[bytes | memoryview, bytearray | None]":
        if len(plain) == 40_000:
            raise MemoryError
        return copy(self, plain)

    monkeypatch.setattr(_Blocks, "copy", copied)
    with pipeline(memory=MIB) as packs:
        first, second = (tenant(store, name).writer(packs) for name in ("acme", "bolt"))
        with pytest.raises(MemoryError):
            first.put(memoryview(bytes(40_000)))
        for n in range(40):
            second.put(memoryview(random.Random(n).randbytes(300_000)))
        second.finish()
        first.abort()
        assert packs._waiting == 0
    assert second.chunks_new == 40


def test_a_pack_on_disk_that_cannot_be_read_fails_its_tenant_only(monkeypatch: pytest.MonkeyPatch) -> None:
    take, store = Spill.take_into, MemoryStore()
    bad, good = tenant(store, "acme"), tenant(store, "bolt")
    spilled: list[int] = []

    def broken(self: Spill, number: int, memory: memoryview) -> int:
        spilled.append(number)
        if len(spilled) == 1:
            raise NoRoom("A temporary file cannot be written or read", on="here")
        return take(self, number, memory)

    monkeypatch.setattr(Spill, "take_into", broken)
    with pipeline(memory=MIB) as packs:
        first, second = bad.writer(packs), good.writer(packs)
        for n in range(45):
            first.put(random.Random(n).randbytes(20_000))
            second.put(random.Random(n).randbytes(20_000))
        with pytest.raises(NoRoom):
            first.finish()
        second.finish()
    assert len(spilled) >= 2
    assert len(second.stored) == 1


def test_what_is_on_disk_of_an_aborted_writer_is_dropped() -> None:
    store = MemoryStore()
    with pipeline(memory=MIB) as packs:
        writers = [tenant(store, f"tenant-{n}").writer(packs) for n in range(4)]
        for n in range(30):
            for writer in writers:
                writer.put(random.Random(n).randbytes(20_000))
        assert packs._spill.bytes > 0
        for writer in writers:
            writer.abort()
        assert packs._spill._live == 0
    assert store.objects == {}


def test_what_a_view_shows_is_stored_as_it_was() -> None:
    """Its memory may be used again at once, and memory that chunks waited in is."""
    store = MemoryStore()
    repository = tenant(store, "acme")
    noise = random.Random(3)
    chunks = [noise.randbytes(size) for size in (1, 300 << 10, 900 << 10, 3 << 20, 9 << 20) * 2]
    memory = bytearray(max(map(len, chunks)))
    with PackPipeline(32 * MIB, 4 * MIB, 2, 2) as packs:
        writer = repository.writer(packs)
        names = []
        for chunk in chunks:
            memory[: len(chunk)] = chunk
            with memoryview(memory) as view:
                names.append(writer.put(view[: len(chunk)]))
            memory[: len(chunk)] = bytes(len(chunk))
        writer.finish()
    opened = reopened(repository)
    assert [opened.read_chunk(name.result()) == chunk for name, chunk in zip(names, chunks, strict=True)] == [
        True
    ] * len(chunks)
