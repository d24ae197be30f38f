"""Names, covers and gaps: what a listing tells, and what it cannot be made to tell."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbh_pipelines.errors import TooManyObjects
from sbh_pipelines.repository.journal import journal as journal_module
from sbh_pipelines.repository.journal.gaps import Gap
from sbh_pipelines.repository.journal.segments.cover import chain_end, plan_cover
from sbh_pipelines.repository.journal.segments.names import Incarnation, SegmentName
from sbh_pipelines.repository.journal.slot_marks import SlotMark
from sbh_pipelines_tests.repository.journal.journals import (
    INCARNATION,
    LATER,
    NOW,
    PREFIX,
    REGION,
    CatalogKeyInMemory,
    journal_on,
    written,
)
from sbh_pipelines_tests.support.memory_store import MemoryStore

_RANGES = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12), st.integers(0, 2)), max_size=12)


def _segments(ranges: list[tuple[int, int, int]]) -> list[SegmentName]:
    return [
        SegmentName(INCARNATION, start, start + length, level, f"{number:016x}", REGION)
        for number, (start, length, level) in enumerate(ranges)
    ]


@given(_RANGES, st.integers(0, 20), st.integers(0, 30))
def test_a_cover_has_every_position_once_or_in_a_hole(
    ranges: list[tuple[int, int, int]], start: int, length: int
) -> None:
    """Exactly those positions are in holes that no segment has; every stretch lies within its segment."""
    segments, end = _segments(ranges), start + length
    cover = plan_cover(segments, start, end)
    told = [position for one in cover.stretches for position in range(one.start + 1, one.end + 1)]
    missing = [position for low, high in cover.holes for position in range(low + 1, high + 1)]
    assert sorted(told + missing) == list(range(start + 1, end + 1))
    assert told == sorted(told)
    assert all(one.segment.start <= one.start < one.end <= one.segment.end for one in cover.stretches)
    assert not any(one.start < position <= one.end for position in missing for one in segments)


@given(_RANGES, st.integers(0, 20), st.integers(0, 30))
def test_a_cover_has_no_segment_too_many(ranges: list[tuple[int, int, int]], start: int, length: int) -> None:
    """Without any one of them there would be a hole more, or a larger one."""
    cover = plan_cover(_segments(ranges), start, start + length)
    used = [one.segment for one in cover.stretches]
    assert len(set(used)) == len(used)
    for left_out in used:
        others = plan_cover([one for one in used if one != left_out], start, start + length)
        assert others.holes != cover.holes


@given(_RANGES, st.integers(0, 20))
def test_a_chain_ends_where_its_first_hole_begins(ranges: list[tuple[int, int, int]], start: int) -> None:
    """Which is its start, where nothing begins there."""
    segments = _segments(ranges)
    holes = plan_cover(segments, start, 100).holes
    assert chain_end(segments, start) == holes[0][0]


@given(st.integers(0, 2**64 - 2), st.integers(1, 2**64 - 1), st.integers(0, 99), st.binary(min_size=8, max_size=8))
def test_a_name_that_was_made_is_read(start: int, length: int, level: int, digest: bytes) -> None:
    """Positions of 64 bits."""
    name = SegmentName(INCARNATION, start, min(start + length, 2**64 - 1), level, digest.hex(), REGION, 77)
    parsed = SegmentName.parse(REGION, name.below, 77)
    assert parsed == name
    assert parsed.size == 77


def test_incarnations_sort_by_time() -> None:
    """Also where two begin in one second, and where the clock went back."""
    names = list[str]()
    for step in (0, 0, 0, -3600, 1, -1):
        made = Incarnation.new(NOW + timedelta(seconds=step), 2**63 + 5, 300, after=names)
        assert Incarnation.parse(made.text) == made
        assert (made.system_id, made.timeline) == (2**63 + 5, 300)
        names.append(made.text)
    assert names == sorted(names)
    assert Incarnation.new(datetime(2027, 1, 1, tzinfo=UTC), 1, 1).created == "20270101T000000Z"


def test_ten_thousand_segments_come_by_one_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the incarnations and a cover of all of them; nothing is read, but that the newest is genuine, once."""
    store = MemoryStore()
    journal = journal_on(store, CatalogKeyInMemory())
    for number in range(10_000):
        incarnation = INCARNATION if number < 9_000 else LATER
        below = SegmentName(incarnation, number * 10, number * 10 + 10, 0, "0" * 16, REGION).below
        store.objects[PREFIX + below] = b"x"
    written(journal, 100_000, 100_010, {}, incarnation=LATER)
    assert len(journal.listing().segments) == 10_001
    monkeypatch.setattr(store, "get_ranges", None)
    asked = list[str]()
    listed = store.list
    monkeypatch.setattr(store, "list", lambda prefix, after="": asked.append(prefix) or listed(prefix, after))
    listing = journal.listing()
    assert asked == [PREFIX]
    assert listing.incarnations == [INCARNATION, LATER]
    assert (len(listing.of(INCARNATION)), len(listing.of(LATER))) == (9_000, 1_001)
    assert plan_cover(listing.of(INCARNATION), 0, 90_000).holes == ()
    assert chain_end(listing.of(LATER), 90_000) == 100_010


def test_more_segments_than_there_can_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may write to the bucket cannot fill a process's memory; odd names count too."""
    monkeypatch.setattr(journal_module, "MOST_SEGMENTS", 50)
    store = MemoryStore()
    for number in range(51):
        store.objects[f"{PREFIX}odd/{number}"] = b""
    with pytest.raises(TooManyObjects):
        journal_on(store, CatalogKeyInMemory()).listing()


def test_gaps_are_kept_in_their_order() -> None:
    """And those that are not genuine are told, not believed."""
    store, catalog = MemoryStore(), CatalogKeyInMemory()
    moment = [NOW]
    journal = journal_on(store, catalog, clock=lambda: moment[0])
    gaps = [
        Gap(INCARNATION, "slot_lost", None, None, 2**63, 1_768_487_527_000_000, "the slot was invalidated"),
        Gap("", "truncate", 'public."odd\n"', "17", 5, 0, "geleert"),
    ]
    for gap in gaps:
        journal.record_gap(gap)
        moment[0] += timedelta(seconds=1)
    assert journal_on(store, catalog).gaps() == gaps
    journal_on(store, CatalogKeyInMemory()).record_gap(gaps[0])
    reader = journal_on(store, catalog)
    assert reader.gaps() == gaps
    assert len(reader.damages) == 1
    assert journal.listing().segments == ()


def test_an_incarnation_of_which_nothing_opens_is_not_the_current_one() -> None:
    """Anybody who may write to the bucket can give an object such a name: copies of what is there do not open either."""
    store, catalog = MemoryStore(), CatalogKeyInMemory()
    name = written(journal_on(store, catalog), 0, 10, {})
    assert journal_on(store, catalog).listing().incarnations == [INCARNATION]
    store.objects[PREFIX + name.below.replace(INCARNATION, LATER)] = store.objects[PREFIX + name.below]
    planted = "99991231T235959Z-ffffffffffffffff-1-ffffffff"
    store.objects[f"{PREFIX}{planted}/0/0000000000000001-0000000000000002-0123456789abcdef"] = b"x"
    listing = journal_on(store, catalog).listing()
    assert (listing.incarnations, listing.strange) == ([INCARNATION], {LATER, planted})
    assert len(listing.segments) == 3


def test_a_time_that_is_none_is_no_incarnation() -> None:
    assert Incarnation.parse("20260115T143207Z-ff-1-0a1b2c3d")
    assert Incarnation.parse("20261315T143207Z-ff-1-0a1b2c3d") is None
    assert Incarnation.parse("99999999T999999Z-ff-1-0a1b2c3d") is None


def test_marks_of_slots_take_each_others_place() -> None:
    store, catalog = MemoryStore(), CatalogKeyInMemory()
    marks = journal_on(store, catalog).slot_marks
    for incarnation in (INCARNATION, LATER):
        marks.set(SlotMark("sbh_journal", 7, "app", incarnation))
    journal_on(store, CatalogKeyInMemory()).slot_marks._objects.add(b"{}")
    (mark,) = journal_on(store, catalog).slot_marks.read()
    assert (mark.incarnation, mark.is_of("sbh_journal", 7, "app"), mark.is_of("sbh_journal", 8, "app")) == (
        LATER,
        True,
        False,
    )
    assert journal_on(store, catalog).listing().odd == ()
    marks.clear()
    assert marks.read() == []
