"""Windows: how far each backup leads, held against a log of which every position is known."""

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from sbh_pipelines.backup.journal.view.windows import Base, Chain, Span, joined, reaches
from sbh_pipelines.repository.journal.segments.directory import Coverage, Event, FencePoint, SegmentFacts
from sbh_pipelines.repository.journal.segments.names import Incarnation

SYSTEM, TIMELINE = 7, 1
INCARNATION = Incarnation("20260101T000000Z-0000000000000007-1-00000000", "20260101T000000Z", SYSTEM, TIMELINE)
A, B, LOOSE = "public.a", "public.b", "public.loose"
STEP = 100  # positions from fence to fence; fence n commits at n * STEP


def fence(n: int) -> FencePoint:
    """The id, and the time, of fence n is ten times its number: others come in between."""
    return FencePoint(xid=n * 10, before=n * STEP - 5, after=n * STEP + 5, time=n * 10)


def base(n: int, tables: Sequence[str] = (A, B), *, system_id: int = SYSTEM) -> Base:
    """A backup between the fences n and n + 1."""
    return Base(f"backup-{n}", n * 10 + 5, n * 10 + 5, system_id, TIMELINE, frozenset(tables))


def chain(segments: Sequence[SegmentFacts], first: int = 0) -> Chain:
    made = Chain(INCARNATION, first * STEP, first * STEP)
    for n, facts in enumerate(segments, first + 1):
        made.add(facts, (n - 1) * STEP, n * STEP)
    return made


def segment(
    n: int, tables: Sequence[str] = (A, B), events: Sequence[Event] = (), skipped: dict[str, int] | None = None
) -> SegmentFacts:
    """What the drain to fence n wrote."""
    covered = {table: [Coverage((n - 1) * STEP, n * STEP, "d")] for table in tables}
    return SegmentFacts([fence(n)], [], covered, events, {key: (1, xid) for key, xid in (skipped or {}).items()})


def spans(found: Chain, *bases: Base, tenant: str = "1") -> list[tuple[int, int]]:
    return [tuple(reach.span) for reach in reaches(tenant, [found], bases)]


def test_a_backup_leads_to_the_last_fence() -> None:
    found = chain([segment(n) for n in range(1, 6)])
    assert spans(found, base(1), base(3)) == [(15, 50), (35, 50)]
    assert joined(Span(*one) for one in spans(found, base(1), base(3))) == [Span(15, 50)]


def test_a_backup_before_the_first_fence_or_of_another_server_leads_nowhere() -> None:
    found = chain([segment(n) for n in range(1, 6)])
    assert spans(found, base(0)) == [(5, 5)]
    assert spans(found, base(2, system_id=8)) == [(25, 25)]


def test_a_table_that_is_not_told_ends_the_window_of_the_tenant_and_not_of_other_tables() -> None:
    found = chain([segment(n, (A,) if n == 4 else (A, B)) for n in range(1, 7)])
    (reach,) = reaches("1", [found], [base(2)])
    assert reach.span == Span(25, 30)
    assert reach.why.startswith("public.b: ")
    assert reach.tables == {A: Span(25, 60), B: Span(25, 30)}
    # What went on beside the fence before a backup has to be told of too: the second drain after the hole is enough.
    assert spans(found, base(4), base(5)) == [(45, 45), (55, 60)]


def test_a_table_that_no_backup_holds_or_that_is_never_journaled_does_not_count() -> None:
    found = chain([segment(n, (A, LOOSE) if n < 3 else (A,)) for n in range(1, 6)])
    assert spans(found, base(1, (A, B))) == [(15, 50)]


def test_an_event_ends_what_is_told_of_the_tenants_that_it_concerns() -> None:
    event = Event(3 * STEP + 50, "truncated", A, ("1",), "all rows went")
    found = chain([segment(n, events=[event] if n == 4 else []) for n in range(1, 7)])
    assert spans(found, base(2), base(4)) == [(25, 30), (45, 60)]
    assert spans(found, base(2), tenant="2") == [(25, 60)]
    everybody = chain(
        [segment(n, events=[Event(350, "truncated", A, None, "")] if n == 4 else []) for n in range(1, 7)]
    )
    assert spans(everybody, base(2), tenant="2") == [(25, 30)]


def test_an_event_next_to_a_fence_takes_the_fence_away() -> None:
    """Whether it was before or after the fence's commit is not known from the fence's two positions."""
    near = [segment(n, events=[Event(303, "truncated", A, None, "")] if n == 4 else []) for n in range(1, 7)]
    assert spans(chain(near), base(1)) == [(15, 20)]


def test_an_event_whose_transaction_is_known_ends_the_window_right_before_it() -> None:
    event = Event(350, "truncated", A, None, "all rows went", xid=37, time=34)
    found = chain([segment(n, events=[event] if n == 4 else []) for n in range(1, 7)])
    assert spans(found, base(2)) == [(25, 33)]
    # A backup whose snapshot sees the transaction is not ended by it, though it stands behind the fence before.
    later = Base("later", 38, 38, SYSTEM, TIMELINE, frozenset([A, B]))
    assert spans(found, later) == [(38, 60)]


def test_changes_that_were_dropped_for_want_of_a_key_need_a_later_backup() -> None:
    found = chain([segment(n, skipped={"1": n * 10 - 2} if n < 4 else {}) for n in range(1, 7)])
    assert spans(found, base(2), base(3)) == [(25, 25), (35, 60)]
    assert spans(found, base(2), tenant="2") == [(25, 60)]


def test_after_a_hole_a_chain_begins_anew() -> None:
    one, other = chain([segment(n) for n in range(1, 4)]), chain([segment(n) for n in range(5, 8)], first=4)
    found = reaches("1", [one, other], [base(1), base(4), base(5)])
    assert [tuple(reach.span) for reach in found] == [(15, 30), (45, 45), (55, 70)]


@dataclass(frozen=True)
class World:
    """A log of fences, which tables each drain told of, and what happened at which positions."""

    told: Sequence[frozenset[str]]
    events: Sequence[Event]
    holes: frozenset[int]
    bases: Sequence[int]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    count = draw(st.integers(1, 8))
    told = draw(st.lists(st.frozensets(st.sampled_from([A, B])), min_size=count, max_size=count))
    positions = st.integers(1, count * STEP - 6).filter(lambda p: 5 < p % STEP < STEP - 5)
    whose = st.one_of(st.none(), st.sampled_from([("1",), ("2",)]))
    event = st.builds(lambda p, t, w: Event(p, "moved", t, w, "moved"), positions, st.sampled_from([A, B]), whose)
    events = sorted(draw(st.lists(event, max_size=4)), key=lambda one: one.position)
    return World(
        told, events, draw(st.frozensets(st.integers(1, count), max_size=2)), draw(st.lists(st.integers(0, count)))
    )


def chains_of(world: World) -> list[Chain]:
    found: list[Chain] = []
    for n, tables in enumerate(world.told, 1):
        if n in world.holes:
            continue
        start = (n - 1) * STEP
        if not found or found[-1].end != start:
            found.append(Chain(INCARNATION, start, start))
        events = [event for event in world.events if start < event.position <= start + STEP]
        found[-1].add(segment(n, sorted(tables), events), start, start + STEP)
    return found


def tells_all(world: World, table: str, start: int, end: int) -> bool:
    """By every position: whether each was told of, and nothing happened that rows do not say."""
    drains = {-(-position // STEP) for position in range(start + 1, end + 1)}
    if any(n in world.holes or table not in world.told[n - 1] for n in drains):
        return False
    return not any(
        event.table == table and event.tenants in (None, ("1",)) and start < event.position <= end
        for event in world.events
    )


@settings(max_examples=300)
@given(worlds())
def test_every_moment_of_a_window_is_told_of_and_the_next_fence_is_not(world: World) -> None:
    for reach in reaches("1", chains_of(world), [base(n) for n in world.bases]):
        begins = reach.base.time // 10
        start = begins * STEP - 5
        for table, span in reach.tables.items():
            assert span.start == reach.base.time <= span.end
            last = span.end // 10
            if span.end > span.start:
                assert span.end == fence(last).time
                assert tells_all(world, table, start, last * STEP)
            following = max(last, begins) + 1
            assert following > len(world.told) or not tells_all(world, table, start, following * STEP)
        if reach.tables:
            assert reach.span.end == min(span.end for span in reach.tables.values())
