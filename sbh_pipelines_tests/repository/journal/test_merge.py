"""Merged segments say what their sources said: of every tenant and range, whatever was killed, merged and removed before."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sbh_pipelines.errors import CorruptObject
from sbh_pipelines.repository.journal.journal import Journal
from sbh_pipelines.repository.journal.merge import merge
from sbh_pipelines.repository.journal.merges import SUPERSEDED_FOR, merges_due, remove_superseded
from sbh_pipelines.repository.journal.reading import read_transactions
from sbh_pipelines.repository.journal.segments.cover import Stretch, chain_end, plan_cover
from sbh_pipelines.repository.journal.segments.directory import Coverage, Event, FencePoint, SegmentFacts
from sbh_pipelines_tests.repository.journal.journals import (
    INCARNATION,
    LAYOUT,
    PREFIX,
    CatalogKeyInMemory,
    TenantKeys,
    facts_of,
    journal_on,
    transactions,
    written,
)
from sbh_pipelines_tests.support.effort import examples
from sbh_pipelines_tests.support.memory_store import MemoryStore

ACME, BETA = TenantKeys("acme", "17"), TenantKeys("beta", "18")
OTHER = replace(LAYOUT, definition="d2")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def journal(store: MemoryStore) -> Journal:
    return journal_on(store, CatalogKeyInMemory())


def _stretches(journal: Journal, start: int, end: int) -> tuple[Stretch, ...]:
    cover = journal.cover(INCARNATION, start, end)
    assert cover.holes == ()
    return cover.stretches


def _commits(journal: Journal, tenant: TenantKeys, start: int, end: int) -> list[int]:
    found, holes = transactions(journal, tenant, INCARNATION, start, end)
    assert holes == ()
    return [one.commit for one in found]


# What happens to a journal: a drain, a drain that was killed after this region, a merge of what there is, or of the merged.
_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["drain", "killed", "merge", "remove"]),
        st.integers(1, 9),
        st.sets(st.integers(1, 9), max_size=4),
        st.integers(1, 2),
    ),
    min_size=1,
    max_size=12,
)


_OVERLAP = [  # the last drain begins within what was merged before
    ("drain", 5, {1}, 1),
    ("killed", 5, {2}, 1),
    ("merge", 9, set[int](), 1),
    ("remove", 1, set[int](), 1),
    ("drain", 2, {1}, 2),
    ("merge", 9, set[int](), 1),
    ("remove", 1, set[int](), 1),
]


@settings(max_examples=examples(30))
@example(_OVERLAP)
@given(_STEPS)
def test_whatever_was_merged_each_commit_is_told_once(
    steps: list[tuple[str, int, set[int], int]],
) -> None:
    """Of every tenant, from every position on."""
    store = MemoryStore()
    journal = journal_on(store, CatalogKeyInMemory())
    end, reached, level, log = 0, 0, 0, set[int]()  # chain's end, how far any drain came, commits up to there
    for verb, length, offsets, epoch in steps:
        if verb in ("drain", "killed"):
            log |= {reached + offset for offset in offsets if offset <= length}
            reached += length
            commits = sorted(commit for commit in log if commit > end)
            facts = replace(facts_of(end, reached), layouts=(LAYOUT, OTHER)[epoch - 1 :], coverage={})
            written(journal, end, reached, {ACME.public(epoch): commits, BETA.public(): commits[:1]}, facts=facts)
            if verb == "drain":
                end = reached
            continue
        # This region may be ahead of others: what a killed drain told here is there, and is told again by the next one.
        there = chain_end(journal.segments(INCARNATION), 0)
        if not there:
            continue
        if verb == "merge":
            level += 1
            merge(journal, _stretches(journal, 0, there)[:length], level=level)
        else:
            kept = {stretch.segment for stretch in _stretches(journal, 0, there)}
            journal.delete([name for name in journal.segments(INCARNATION) if name not in kept])
    told = sorted(commit for commit in log if commit <= end)
    if end:
        assert _commits(journal, ACME, 0, end) == told
        for start in range(0, end, 3):
            assert _commits(journal, ACME, start, end) == [commit for commit in told if commit > start]


def test_a_merge_keeps_what_the_sources_said(journal: Journal) -> None:
    """Fences, events, coverage with its neighbours joined, counts, layouts once each, readings of the last."""
    first = SegmentFacts(
        fences=(FencePoint(5, 40, 50, 1),),
        layouts=(LAYOUT,),
        coverage={"a": (Coverage(0, 50, "x"),), "b": (Coverage(0, 30, "y"),)},
        events=(Event(30, "truncate", "b", None, "all"), Event(20, "moved", "a", ("17", "18"), "two", 4, 2)),
        skipped={"9": (3, 11)},
        readings={"a": "1"},
    )
    second = SegmentFacts(
        fences=(FencePoint(9, 90, 100, 2),),
        layouts=(OTHER, LAYOUT),
        coverage={"a": (Coverage(50, 70, "x"), Coverage(70, 100, "z")), "b": (Coverage(60, 100, "y"),)},
        skipped={"9": (1, 10), "8": (1, 1)},
        readings={"a": "2"},
    )
    written(journal, 0, 50, {ACME.public(): [10]}, facts=first)
    written(journal, 50, 100, {ACME.public(): [60]}, facts=second)
    sources = list(journal.segments(INCARNATION))
    name = merge(journal, _stretches(journal, 0, 100), level=1)
    journal.delete(sources)
    directory = journal.directory(name)
    facts = directory.facts
    assert (name.start, name.end, name.level) == (0, 100, 1)
    assert facts.fences == first.fences + second.fences
    assert facts.coverage == {
        "a": (Coverage(0, 70, "x"), Coverage(70, 100, "z")),
        "b": (Coverage(0, 30, "y"), Coverage(60, 100, "y")),
    }
    assert facts.events == first.events
    assert facts.skipped == {"9": (4, 11), "8": (1, 1)}
    assert facts.readings == {"a": "2"}
    assert facts.layouts == (LAYOUT, OTHER)
    found = list(read_transactions(journal, directory, "17", lambda _: ACME.sealer, 0, 100))
    assert [(layouts[0].definition, one.commit) for layouts, one in found] == [("d1", 10), ("d2", 60)]


def test_a_merge_needs_no_key_of_a_tenant_and_lays_its_blocks_together(journal: Journal) -> None:
    """One range is asked for."""
    for at in range(0, 100, 10):
        written(journal, at, at + 10, {BETA.public(): [at + 2], ACME.public(): [at + 1]})
    directory = journal.directory(merge(journal, _stretches(journal, 0, 100), level=1))
    for key in ("17", "18"):
        blocks = directory.tenants[key].blocks
        assert [one.offset + one.length for one in blocks[:-1]] == [one.offset for one in blocks[1:]]
    assert _commits(journal, BETA, 0, 100) == list(range(2, 100, 10))


def test_who_is_left_out_is_nowhere(journal: Journal) -> None:
    """Blocks, events that concern nobody else, and counts."""
    event = Event(5, "moved", "a", ("17", "18"), "two")
    facts = replace(facts_of(0, 10), events=(event, replace(event, tenants=("17",))), skipped={"17": (1, 2)})
    written(journal, 0, 10, {ACME.public(): [1], BETA.public(): [2]}, facts=facts)
    directory = journal.directory(merge(journal, _stretches(journal, 0, 10), level=1, leave_out={"acme"}))
    assert set(directory.tenants) == {"18"}
    assert directory.facts.events == (replace(event, tenants=("18",)),)
    assert directory.facts.skipped == {}


def test_a_damaged_source_is_not_merged(journal: Journal, store: MemoryStore) -> None:
    """Nothing is written that says less than its sources."""
    name = written(journal, 0, 10, {ACME.public(): [1]})
    body = store.objects[PREFIX + name.below]
    store.objects[PREFIX + name.below] = body[:40] + bytes([body[40] ^ 1]) + body[41:]
    with pytest.raises(CorruptObject):
        merge(journal, _stretches(journal, 0, 10), level=1)
    assert journal.segments(INCARNATION) == [name]


def test_only_what_follows_one_another_is_merged(journal: Journal) -> None:
    """Holes, cut ends, and segments of the same level are a mistake of the caller's."""
    one, two = (written(journal, at, at + 10, {ACME.public(): [at + 1]}) for at in (0, 20))
    hole = plan_cover([one, two], 0, 30).stretches
    for stretches, level in (
        (hole, 1),
        ((), 1),
        (hole[:1], 0),
        ((replace(hole[0], end=5),), 1),
    ):
        with pytest.raises(ValueError, match="segment"):
            merge(journal, stretches, level=level)


def test_the_end_of_a_segment_can_be_merged(journal: Journal) -> None:
    """As what is left of one whose beginning was merged with others: nothing of its beginning is said again."""
    facts = SegmentFacts(
        fences=(FencePoint(3, 2, 4, 0), FencePoint(5, 6, 8, 0), FencePoint(9, 9, 10, 0)),
        layouts=(LAYOUT,),
        coverage={"a": (Coverage(0, 10, "x"),), "b": (Coverage(0, 4, "x"),)},
        events=(Event(4, "truncate", "b", None, ""), Event(8, "truncate", "a", None, "")),
    )
    name = written(journal, 0, 10, {ACME.public(): [3, 8], BETA.public(): [2]}, facts=facts)
    directory = journal.directory(merge(journal, [Stretch(name, 5, 10)], level=1))
    assert (directory.name.start, directory.name.end) == (5, 10)
    assert [fence.xid for fence in directory.facts.fences] == [5, 9]
    assert directory.facts.coverage == {"a": (Coverage(5, 10, "x"),)}
    assert [event.position for event in directory.facts.events] == [8]
    assert set(directory.tenants) == {"17"}
    found = list(read_transactions(journal, directory, "17", lambda _: ACME.sealer, 0, 10))
    assert [one.commit for _, one in found] == [8]


def test_what_a_merged_segment_says_is_removed_a_day_later(journal: Journal, store: MemoryStore) -> None:
    """Not before: who planned a reading by an older listing still finds it. And not where the merged one does not open."""
    for at in range(0, 260, 10):
        written(journal, at, at + 10, {ACME.public(): [at + 1]})
    now = datetime.now(UTC)
    due = merges_due(journal.segments(INCARNATION), level=1, count=12)
    assert [(one[0].start, one[-1].end) for one in due] == [(0, 120), (120, 240)]
    merged = [merge(journal, stretches, level=1) for stretches in due]
    assert merges_due(journal.segments(INCARNATION), level=1, count=12) == []
    assert [len(one) for one in merges_due(journal.segments(INCARNATION), level=2, count=2)] == [2]
    assert remove_superseded(journal, INCARNATION, now) == []
    body = store.objects[PREFIX + merged[0].below]
    store.objects[PREFIX + merged[0].below] = body[:-1] + b"?"
    later = now + SUPERSEDED_FOR + timedelta(minutes=1)
    assert len(remove_superseded(journal, INCARNATION, later)) == 12
    store.objects[PREFIX + merged[0].below] = body
    removed = remove_superseded(journal, INCARNATION, later)
    assert [name.end for name in removed] == list(range(10, 130, 10))
    assert len(journal.segments(INCARNATION)) == 4
    assert _commits(journal, ACME, 0, 260) == list(range(1, 260, 10))


def test_nothing_is_merged_over_a_hole(journal: Journal) -> None:
    """Nor what has other levels between."""
    for at in (0, 10, 30, 40, 50):
        written(journal, at, at + 10, {ACME.public(): [at + 1]})
    due = merges_due(journal.segments(INCARNATION), level=1, count=3)
    assert [(one[0].start, one[-1].end) for one in due] == [(30, 60)]
    assert merges_due([], level=1, count=3) == []
