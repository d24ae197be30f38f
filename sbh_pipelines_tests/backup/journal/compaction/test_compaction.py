"""What is merged and what is not, and what a damaged segment or a failed write keeps from being merged."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest

from sbh_pipelines.backup.journal.compaction import merge, plan
from sbh_pipelines.backup.journal.compaction.compact import Compaction, Erased
from sbh_pipelines.backup.journal.compaction.plan import DAY, HOUR, Source, plan_groups
from sbh_pipelines.errors import CorruptObject, StoreUnavailable
from sbh_pipelines.repository.journal.journal import Journal
from sbh_pipelines.repository.journal.reading import read_transactions
from sbh_pipelines.repository.journal.segments.changes import Layout
from sbh_pipelines.repository.journal.segments.cover import Stretch
from sbh_pipelines.repository.journal.segments.directory import Coverage, FencePoint, SegmentFacts
from sbh_pipelines.repository.journal.segments.names import SegmentName
from sbh_pipelines_tests.backup.journal.compaction.timed_store import TimedStore
from sbh_pipelines_tests.repository.journal.journals import (
    INCARNATION,
    LATER,
    REGION,
    CatalogKeyInMemory,
    TenantKeys,
    journal_on,
    transactions,
    written,
)

ACME, BOLT = TenantKeys("acme", "17"), TenantKeys("bolt", "18")
TASKS = Layout("public.tasks", ("id", "title"), ("id",), "d1", "UTF8")
NOTES = Layout("public.notes", ("id", "title"), ("id",), "d2", "UTF8")
NOON = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
MINUTE = 60_000_000
NONE = Erased((), lambda _: False)


@pytest.fixture
def store() -> TimedStore:
    return TimedStore()


@pytest.fixture
def journal(store: TimedStore) -> Journal:
    return journal_on(store, CatalogKeyInMemory())


def tick(journal: Journal, number: int, *, incarnation: str = INCARNATION, layout: Layout = TASKS) -> SegmentName:
    """The number-th five minutes from noon on, in which each tenant changed a row."""
    start, end = number * 100, number * 100 + 100
    fence = FencePoint(number + 1000, start, end, round(NOON.timestamp() * 1_000_000) + (5 * number + 1) * MINUTE)
    facts = SegmentFacts((fence,), (layout,), {layout.table: (Coverage(start, end, layout.definition),)})
    commits = {ACME.public(): [start + 10], BOLT.public(): [start + 20]}
    return written(journal, start, end, commits, incarnation=incarnation, facts=facts)


def compacted(journal: Journal, minutes: int, erased: Erased = NONE) -> Compaction:
    made = Compaction(journal, erased, NOON + timedelta(minutes=minutes), lambda: None)
    made.run(dry_run=False)
    return made


def merged(journal: Journal) -> list[tuple[int, int, int]]:
    return [(one.level, one.start, one.end) for one in journal.listing().segments if one.level]


def commits(journal: Journal, tenant: TenantKeys, end: int) -> list[int]:
    found, holes = transactions(journal, tenant, INCARNATION, 0, end)
    assert holes == ()
    return [one.commit for one in found]


def test_the_hour_that_is_still_written_is_left_alone(journal: Journal) -> None:
    for number in range(20):
        tick(journal, number)
    assert compacted(journal, 105).issues == []
    assert merged(journal) == [(HOUR, 0, 1200)]
    compacted(journal, 185)  # an hour after its end nothing comes any more
    assert merged(journal) == [(HOUR, 0, 1200), (HOUR, 1200, 2000)]
    assert commits(journal, ACME, 2000) == [number * 100 + 10 for number in range(20)]


def test_nothing_is_merged_over_a_hole_or_an_incarnation(journal: Journal) -> None:
    for number in (0, 1, 2, 4, 5):
        tick(journal, number)
    tick(journal, 6, incarnation=LATER)
    tick(journal, 7, incarnation=LATER)
    compacted(journal, 36 * 60)
    assert merged(journal) == [(HOUR, 0, 300), (HOUR, 400, 600), (HOUR, 600, 800)]
    cover = journal.cover(INCARNATION, 0, 600)
    assert cover.holes == ((300, 400),)


def test_a_block_keeps_its_bytes_its_layout_and_its_place(journal: Journal) -> None:
    """A merged segment of merged ones, whose sources number their layouts differently."""
    names = [tick(journal, number, layout=(TASKS, NOTES)[number // 6 % 2]) for number in range(36)]
    before = {
        (key, ref.sha256)
        for name in names
        for key, blocks in journal.directory(name).tenants.items()
        for ref in blocks.blocks
    }
    compacted(journal, 36 * 60)
    (day,) = [one for one in journal.listing().segments if one.level == DAY]
    directory = journal.directory(day)
    assert {(key, ref.sha256) for key, blocks in directory.tenants.items() for ref in blocks.blocks} == before
    offsets = [ref.offset for ref in directory.tenants["17"].blocks]
    assert offsets == sorted(offsets)
    assert directory.tenants["18"].blocks[0].offset > offsets[-1]
    read = list(read_transactions(journal, directory, "17", lambda _: ACME.sealer, 0, 3600))
    tables = [layouts[one.changes[0].layout].table for layouts, one in read]
    assert tables == [(TASKS, NOTES)[number // 6 % 2].table for number in range(36)]
    assert [one.time for one in directory.facts.fences] == sorted(
        journal.directory(name).facts.fences[0].time for name in names
    )
    assert directory.facts.coverage["public.tasks"][0] == Coverage(0, 600, "d1")


def test_a_damaged_segment_keeps_only_itself_from_being_merged(journal: Journal, store: TimedStore) -> None:
    names = [tick(journal, number) for number in range(13)]
    key = journal.prefix + names[5].below
    body = bytearray(store.objects[key])
    body[0] ^= 1  # of its first block; its directory opens
    store.objects[key] = bytes(body)
    made = compacted(journal, 70)
    assert [type(issue) for issue in made.issues] == [CorruptObject]
    assert merged(journal) == [(HOUR, 0, 500), (HOUR, 600, 1200)]
    store.objects[journal.prefix + names[8].below] = b"x" * 200
    assert merged(journal) == [(HOUR, 0, 500), (HOUR, 600, 1200)]
    assert commits(journal, BOLT, 500) == [number * 100 + 20 for number in range(5)]


def test_a_write_that_fails_keeps_no_other_from_being_merged(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(37):
        tick(journal, number)
    real, failed = merge.Journal.write, list[int]()

    def write(self: Journal, writer: object, facts: SegmentFacts) -> SegmentName:
        if not failed:
            failed.append(1)
            raise StoreUnavailable("Cannot create an object", on="it", why="it was to be")
        return real(self, writer, facts)  # type: ignore[arg-type]

    monkeypatch.setattr(merge.Journal, "write", write)
    made = compacted(journal, 36 * 60)
    assert [type(issue) for issue in made.issues] == [StoreUnavailable]
    assert merged(journal)[0][0] == DAY
    assert commits(journal, ACME, 3700) == [number * 100 + 10 for number in range(37)]


def test_an_erased_tenants_blocks_are_left_out_at_every_level(journal: Journal) -> None:
    for number in range(14):
        tick(journal, number)
    erased = Erased(["acme", "somebody"], lambda home: home == "acme")
    compacted(journal, 36 * 60)
    assert merged(journal) == [(HOUR, 0, 1200), (DAY, 0, 1400), (HOUR, 1200, 1400)]
    compacted(journal, 36 * 60, erased)
    highest = max(journal.listing().segments, key=lambda one: one.level)
    assert (highest.level, highest.start, highest.end) == (DAY + 1, 0, 1400)
    assert set(journal.directory(highest).tenants) == {"18"}
    before = merged(journal)
    assert compacted(journal, 36 * 60, erased).issues == []
    assert merged(journal) == before


def test_a_merged_segment_is_bounded(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "MOST_BLOCKS", 10)
    for number in range(13):
        tick(journal, number)
    compacted(journal, 70)
    assert merged(journal) == [(HOUR, 0, 500), (HOUR, 500, 1000), (HOUR, 1000, 1200)]


@pytest.mark.parametrize(
    ("times", "wanted"),
    [
        ([1, 2, 61], [(0, 2)]),
        ([1, 61, 121], []),
        ([1, 2, 61, 3, 4, 62], [(0, 2), (3, 5)]),  # the server's clock went back
    ],
)
def test_hours_are_those_of_the_servers_clock(times: Iterable[int], wanted: list[tuple[int, int]]) -> None:
    chain = [
        Source(Stretch(SegmentName(INCARNATION, at, at + 1, 0, "0" * 16, REGION), at, at + 1), time * MINUTE, 1)
        for at, time in enumerate(times)
    ]
    assert [(one.start, one.end) for one in plan_groups(HOUR, chain, upto=0)] == wanted
