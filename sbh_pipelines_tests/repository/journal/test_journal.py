"""Segments on a store: what was written is read, by its tenants only; what was removed is a hole, what was touched is refused."""

import random
import struct
from contextlib import suppress
from dataclasses import replace

import pytest

from sbh_pipelines.errors import CorruptObject, FormatUnsupported, JournalError
from sbh_pipelines.repository.journal.gaps import Gap
from sbh_pipelines.repository.journal.reading import read_transactions
from sbh_pipelines.repository.journal.segments import segment as segment_module
from sbh_pipelines.repository.journal.segments.block import BlockBuffer
from sbh_pipelines.repository.journal.segments.directory import SegmentFacts
from sbh_pipelines.repository.journal.segments.names import SegmentName
from sbh_pipelines.repository.journal.segments.segment import WHOLE_BYTES, SegmentWriter
from sbh_pipelines_tests.repository.journal.journals import (
    INCARNATION,
    LATER,
    LAYOUT,
    PREFIX,
    CatalogKeyInMemory,
    TenantKeys,
    facts_of,
    insert,
    journal_on,
    transactions,
    written,
)
from sbh_pipelines_tests.support.fault_stores import DiesAtWrite, Killed, Wrapped
from sbh_pipelines_tests.support.memory_store import MemoryStore

ACME, BETA = TenantKeys("acme", "17"), TenantKeys("beta", "18")
OTHER = replace(LAYOUT, definition="d2")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def catalog() -> CatalogKeyInMemory:
    return CatalogKeyInMemory()


def test_each_tenant_reads_its_own(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """In the order of the commits, over the edges of segments."""
    journal = journal_on(store, catalog)
    written(journal, 0, 100, {ACME.public(): [10, 30], BETA.public(): [20]})
    written(journal, 100, 200, {ACME.public(): [101, 200]})
    found, holes = transactions(journal, ACME, INCARNATION, 0, 200)
    assert [one.commit for one in found] == [10, 30, 101, 200]
    assert found[0].changes == [insert(10)]
    assert holes == ()
    found, _ = transactions(journal, BETA, INCARNATION, 0, 200)
    assert [one.commit for one in found] == [20]
    found, _ = transactions(journal, ACME, INCARNATION, 10, 199)
    assert [one.commit for one in found] == [30, 101]


def test_another_tenant_key_does_not_open_a_block(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """The drain's own process could not read what it wrote."""
    journal = journal_on(store, catalog)
    name = written(journal, 0, 100, {ACME.public(): [10]})
    with pytest.raises(CorruptObject, match="does not open"):
        list(read_transactions(journal, journal.directory(name), "17", lambda _: BETA.sealer, 0, 100))
    assert b"xxxxxxxxxx" not in store.objects[PREFIX + name.below]


def test_a_directory_says_what_was_said(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """Facts of the segment, and where whose blocks are, in another process."""
    facts = facts_of(0, 100)
    name = written(journal_on(store, catalog), 0, 100, {ACME.public(2): [10, 30], BETA.public(): [20]}, facts=facts)
    listed = journal_on(store, catalog).segments(INCARNATION)
    assert listed == [name]
    found = journal_on(store, catalog).directory(listed[0])
    assert found.facts == facts
    assert set(found.tenants) == {"17", "18"}
    (block,) = found.tenants["17"].blocks
    assert (block.home, block.epoch, block.after) == ("acme", 2, 0)
    assert (block.facts.first, block.facts.last, block.facts.changes) == (10, 30, 2)


def test_a_removed_segment_is_a_hole(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """Between others, at the beginning, and at the end."""
    journal = journal_on(store, catalog)
    names = [written(journal, at, at + 10, {ACME.public(): [at + 1]}) for at in (0, 10, 20, 30)]
    for taken in ([0], [1], [1, 2], [3], [0, 3]):
        kept = dict(store.objects)
        journal.delete([names[number] for number in taken])
        holes = journal.cover(INCARNATION, 0, 40).holes
        lost = sum(end - start for start, end in holes)
        assert lost == 10 * len(taken)
        assert all(any(start <= number * 10 < end for start, end in holes) for number in taken)
        store.objects = kept


def test_segments_that_overlap_count_each_commit_once(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """As killed drains leave them: the same start, another end."""
    journal = journal_on(store, catalog)
    written(journal, 0, 50, {ACME.public(): [10, 50]})
    written(journal, 0, 80, {ACME.public(): [10, 50, 70]})
    written(journal, 50, 90, {ACME.public(): [70, 85]})
    found, holes = transactions(journal, ACME, INCARNATION, 0, 90)
    assert [one.commit for one in found] == [10, 50, 70, 85]
    assert holes == ()


def test_a_higher_level_is_taken_where_it_reaches_further(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """And the lower one where that has been removed."""
    journal = journal_on(store, catalog)
    for at in (0, 10, 20):
        written(journal, at, at + 10, {ACME.public(): [at + 1]})
    merged = written(journal, 0, 20, {ACME.public(): [1, 11]}, level=1)
    cover = journal.cover(INCARNATION, 5, 30)
    assert [(one.segment.level, one.start, one.end) for one in cover.stretches] == [(1, 5, 20), (0, 20, 30)]
    cover = journal.cover(INCARNATION, 5, 30, without=[merged])
    assert [(one.segment.level, one.start, one.end) for one in cover.stretches] == [
        (0, 5, 10),
        (0, 10, 20),
        (0, 20, 30),
    ]


def _renamed(store: MemoryStore, name: SegmentName, other: SegmentName, prefix: str = PREFIX) -> SegmentName:
    store.objects[prefix + other.below] = store.objects.pop(PREFIX + name.below)
    return other


@pytest.mark.parametrize("to", [{"start": 5}, {"end": 200}, {"level": 1}, {"incarnation": LATER}, {"digest": "0" * 16}])
def test_a_renamed_segment_is_refused(store: MemoryStore, catalog: CatalogKeyInMemory, to: dict[str, object]) -> None:
    """One that says of itself that it reaches further, or is of another life of the server."""
    journal = journal_on(store, catalog)
    name = written(journal, 0, 100, {ACME.public(): [10]})
    moved = _renamed(store, name, replace(name, **to))  # type: ignore[arg-type]
    assert journal.listing().segments == (moved,)
    with pytest.raises(CorruptObject):
        journal.directory(moved)


def test_a_swapped_segment_is_refused(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """Two of the same journal, the content of each under the other's name."""
    journal = journal_on(store, catalog)
    one, two = (written(journal, at, at + 10, {ACME.public(): [at + 1]}) for at in (0, 10))
    first, second = PREFIX + one.below, PREFIX + two.below
    store.objects[first], store.objects[second] = store.objects[second], store.objects[first]
    for name in journal.segments(INCARNATION):
        with pytest.raises(CorruptObject):
            journal.directory(name)


def test_a_segment_of_another_region_is_refused(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """Also where both regions had the same key."""
    name = written(journal_on(store, catalog), 0, 100, {ACME.public(): [10]})
    _renamed(store, name, name, "_sbh-journal/us-east-1/")
    there = journal_on(store, catalog, "us-east-1")
    with pytest.raises(CorruptObject):
        there.directory(there.segments(INCARNATION)[0])


def test_a_forged_segment_is_refused(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """Anybody can seal blocks to a public key, but nobody without the catalog's key says whose they are."""
    name = written(journal_on(store, CatalogKeyInMemory()), 0, 100, {ACME.public(): [10]})
    with pytest.raises(CorruptObject):
        journal_on(store, catalog).directory(name)


def test_a_segment_without_the_catalog_key_is_refused(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """And no new key is made in place of the lost one."""
    name = written(journal_on(store, catalog), 0, 100, {ACME.public(): [10]})
    catalog.has_key = False
    with pytest.raises(CorruptObject, match="key is gone"):
        journal_on(store, catalog).directory(name)


def test_a_shortened_segment_is_refused(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """At whatever byte it ends, as the listing tells it and as it was known before."""
    journal = journal_on(store, catalog)
    name = written(journal, 0, 100, {ACME.public(): [10], BETA.public(): [20]})
    whole = store.objects[PREFIX + name.below]
    for length in range(1, len(whole)):
        store.objects[PREFIX + name.below] = whole[:length]
        (listed,) = journal.segments(INCARNATION)
        for asked in (listed, name):
            with pytest.raises(CorruptObject):
                journal.directory(asked)


def test_no_byte_of_a_segment_can_change(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """In a block, in the directory, in the trailer: nothing else is ever read."""
    journal = journal_on(store, catalog)
    name = written(journal, 0, 100, {ACME.public(): [10, 20]})
    whole = store.objects[PREFIX + name.below]
    for at in range(len(whole)):
        store.objects[PREFIX + name.below] = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        with pytest.raises((CorruptObject, FormatUnsupported)):
            list(read_transactions(journal, journal.directory(name), "17", lambda _: ACME.sealer, 0, 100))


def test_blocks_swapped_within_a_segment_are_refused(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """The directory names the digest of each."""
    journal = journal_on(store, catalog)
    name = written(journal, 0, 100, {ACME.public(): [10], BETA.public(): [20]})
    (one,), (two,) = (journal.directory(name).tenants[key].blocks for key in ("17", "18"))
    whole = store.objects[PREFIX + name.below]
    blocks = [whole[ref.offset :][: ref.length] for ref in (one, two)]
    assert one.length == two.length
    store.objects[PREFIX + name.below] = blocks[1] + blocks[0] + whole[2 * one.length :]
    with pytest.raises(CorruptObject, match="not the one that its directory names"):
        list(journal.blocks(name, [one]))


def test_what_is_not_ours_is_told_and_does_no_harm(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """Keys of other shapes, ranges that end before they start."""
    journal = journal_on(store, catalog)
    name = written(journal, 0, 100, {ACME.public(): [10]})
    odd = [
        "readme/notes",
        f"{INCARNATION}/0/{5:016X}-{5:016X}-{'0' * 16}",
        f"{INCARNATION}/0/{9:016x}-{10:016x}-{'0' * 16}",
        f"{INCARNATION}/00/{5:016X}-{6:016X}-{'0' * 16}",
        f"{INCARNATION}/0/{name.below.rpartition('/')[2]}.tmp",
        f"tomorrow/0/{5:016X}-{6:016X}-{'0' * 16}",
    ]
    for key in [*odd, "lease.json"]:
        store.put(PREFIX + key, b"")
    listing = journal.listing()
    assert listing.segments == (name,)
    assert sorted(listing.odd) == sorted(odd)


def test_a_large_segment_is_written_from_disk(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """And a large transaction's pieces come in their order, with the commit in the last one."""
    journal, buffer = journal_on(store, catalog), BlockBuffer()
    with SegmentWriter(journal.region, INCARNATION, 0, 100) as writer:
        for number in range(40):
            filling = insert(number, 0)
            buffer.add(50, 0, 7, replace(filling, row=filling.row + _noise(number)))
            found = buffer.take(more=True)
            assert found is not None
            writer.add_block(ACME.public(), *found)
        found = buffer.take()
        assert found is not None
        writer.add_block(ACME.public(), *found)
        name = journal.write(writer, facts_of(0, 100))
    assert name.size > WHOLE_BYTES
    found_pieces, _ = transactions(journal, ACME, INCARNATION, 0, 100)
    assert [one.last for one in found_pieces] == [False] * 40 + [True]
    assert [change.row.split(b"\t")[0] for one in found_pieces for change in one.changes] == [
        b"%d" % number for number in range(40)
    ]


def _noise(seed: int) -> bytes:
    """A quarter of a MiB that does not compress."""
    return random.Random(seed).randbytes(256 << 10)


def test_a_segment_that_is_not_as_it_was_written_is_told(
    store: MemoryStore, catalog: CatalogKeyInMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that answers well and keeps something else."""
    create = store.create
    monkeypatch.setattr(store, "create", lambda key, data: create(key, data[:-30] + bytes(30)))
    with pytest.raises(JournalError, match="not as it was written"):
        written(journal_on(store, catalog), 0, 100, {ACME.public(): [10]})


def test_a_directory_larger_than_any_is_refused_before_it_is_read(
    store: MemoryStore, catalog: CatalogKeyInMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trailer can say anything; and an object without a trailer is none."""
    journal = journal_on(store, catalog)
    name = SegmentName(INCARNATION, 0, 100, 0, "0" * 16, journal.region)
    most = 1 << 20
    monkeypatch.setattr(segment_module, "SEGMENT_DIRECTORY_BYTES", most)
    asked = list[int]()
    get_ranges = store.get_ranges
    monkeypatch.setattr(
        store, "get_ranges", lambda key, ranges: asked.extend(n for _, n in ranges) or get_ranges(key, ranges)
    )
    for body in (b"", b"x", bytes(most + 1) + struct.pack(">QI8s", 0, most + 1, b"SBHJRNL1")):
        store.objects[PREFIX + name.below] = body
        (listed,) = journal.segments(INCARNATION)
        for size in (listed.size, 0):
            with pytest.raises(CorruptObject, match="Not a whole segment"):
                journal.directory(replace(listed, size=size))
    assert max(asked) <= 64 << 10


def test_a_directory_of_many_tenants_is_read_whole(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """More than the first request brings; only who is asked for is looked at."""
    journal = journal_on(store, catalog)
    with SegmentWriter(journal.region, INCARNATION, 0, 10_000) as writer:
        for number in range(2_000):
            buffer = BlockBuffer()
            buffer.add(number + 1, 0, 1, insert(number))
            found = buffer.take()
            assert found is not None
            writer.add_block(replace(ACME.public(), tenant_key=f"tenant\t{number}\n\u2028"), *found)
        name = journal.write(writer, facts_of(0, 10_000))
    directory = journal.directory(name)
    assert len(directory.tenants) == 2_000
    for number in (0, 1_234, 1_999):
        key = f"tenant\t{number}\n\u2028"
        ((_, one),) = read_transactions(journal, directory, key, lambda _: ACME.sealer, 0, 10_000)
        assert one.changes == [insert(number)]


def test_blocks_far_apart_are_not_fetched_with_what_is_between(
    store: MemoryStore, catalog: CatalogKeyInMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver fetches gaps as well: a request spans 8 MiB, unless one block is larger."""
    journal = journal_on(store, catalog)
    with SegmentWriter(journal.region, INCARNATION, 0, 100) as writer:
        for number in range(1, 25):
            for tenant in (ACME, BETA):
                buffer = BlockBuffer()
                noise = 900_000 if tenant is BETA else 10
                buffer.add(number, 0, 1, replace(insert(number), row=random.Random(number).randbytes(noise)))
                found = buffer.take()
                assert found is not None
                writer.add_block(tenant.public(), *found)
        name = journal.write(writer, facts_of(0, 100))
    directory, spans = journal.directory(name), list[int]()
    get_ranges = store.get_ranges

    def spanned(key: str, ranges: list[tuple[int, int]]) -> object:
        spans.append(max(at + n for at, n in ranges) - min(at for at, _ in ranges))
        return get_ranges(key, ranges)

    monkeypatch.setattr(store, "get_ranges", spanned)
    found, _ = transactions(journal, ACME, INCARNATION, 0, 100)
    assert [one.commit for one in found] == list(range(1, 25))
    assert len(list(journal.blocks(directory.name, directory.tenants["17"].blocks))) == 24
    assert max(spans) <= 8 << 20
    assert len(spans) < 12


def test_a_copied_block_is_read_with_its_own_layouts(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """As a merge of segments copies them: byte for byte, without the tenant's key, and each commit counts once."""
    journal = journal_on(store, catalog)
    one = written(journal, 0, 50, {ACME.public(): [10, 50]})
    two = written(journal, 0, 80, {ACME.public(2): [10, 50, 70]}, facts=_other_layout(facts_of(0, 80)))
    with SegmentWriter(journal.region, INCARNATION, 0, 80, level=1) as writer:
        for name, after, numbering in ((one, 0, 0), (two, 50, 1)):
            for ref, sealed in journal.blocks(name, journal.directory(name).tenants["17"].blocks):
                writer.copy_block("17", replace(ref, after=after, numbering=numbering), sealed)
        facts = replace(_other_layout(facts_of(0, 80)), layouts=(OTHER, LAYOUT), numberings=((1,), (0,)))
        merged = journal.write(writer, facts)
    journal.delete([one, two])
    found = list(read_transactions(journal, journal.directory(merged), "17", lambda _: ACME.sealer, 0, 80))
    assert [(layouts[0].definition, one.commit) for layouts, one in found] == [("d1", 10), ("d1", 50), ("d2", 70)]


@pytest.mark.parametrize("nth", range(1, 6))
def test_a_killed_writer_leaves_only_what_is_whole(store: MemoryStore, catalog: CatalogKeyInMemory, nth: int) -> None:
    """Whatever write it died at: what is there opens, and the next one does the whole."""
    dying = DiesAtWrite(nth)
    journal = journal_on(Wrapped(store, dying.before, dying.after), catalog)
    with suppress(Killed):
        journal.public_keys.register([ACME.public()])
        for at in (0, 10, 20):
            written(journal, at, at + 10, {ACME.public(): [at + 1]})
        journal.record_gap(Gap(INCARNATION, "test", None, None, 30, 0, ""))
    assert len(dying.keys) == nth - 1
    again = journal_on(store, catalog)
    found, holes = transactions(again, ACME, INCARNATION, 0, 30)
    assert len(found) == max(0, min(nth - 2, 3))
    assert holes == (() if len(found) == 3 else ((len(found) * 10, 30),))
    assert again.damages == again.public_keys.damages == []
    written(again, 0, 31, {ACME.public(): [1, 11, 21, 31]})
    found, holes = transactions(again, ACME, INCARNATION, 0, 31)
    assert [one.commit for one in found] == [1, 11, 21, 31]
    assert holes == ()


def _other_layout(facts: SegmentFacts) -> SegmentFacts:
    return replace(facts, layouts=(OTHER,))
