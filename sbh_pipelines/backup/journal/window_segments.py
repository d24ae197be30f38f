"""What a drain writes of its window: a segment for each region. Step 10 of `drain`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sbh_pipelines.backup.journal.chain import PUBLICATION, ChainEnd
from sbh_pipelines.backup.journal.coverage import Step, cover_tables
from sbh_pipelines.backup.journal.drain_result import RegionFigures
from sbh_pipelines.backup.journal.routing.decoding import Decoder
from sbh_pipelines.backup.journal.routing.events import EventKind, Happening, Happenings
from sbh_pipelines.backup.journal.routing.places import Places
from sbh_pipelines.backup.journal.routing.tenant_blocks import TenantBlocks
from sbh_pipelines.backup.journal.survey import Survey
from sbh_pipelines.database.journal.fence import Fence
from sbh_pipelines.repository.journal.journal import Journal
from sbh_pipelines.repository.journal.segments.directory import Event, FencePoint, SegmentFacts
from sbh_pipelines.repository.journal.segments.names import Incarnation, SegmentName
from sbh_pipelines.repository.journal.segments.segment import SegmentWriter


@dataclass(frozen=True, slots=True)
class DrainWindow:
    """What a drain reads: from where, and up to which fence."""

    incarnation: Incarnation
    chain: ChainEnd | None
    start: int
    before: Survey
    after: Survey
    fence: Fence
    places: Places
    publication: str
    steps: Mapping[str, Step]


@dataclass(frozen=True, slots=True)
class StoredSegments:
    """Segments that were stored and read back.

    Attributes:
        regions: One for each region.
        covered: Tables whose changes are told up to the fence, in order.
        events: How many things could not be told as changes.
    """

    regions: tuple[RegionFigures, ...]
    covered: tuple[str, ...]
    events: int


def store_segments(
    journals: Mapping[str, Journal],
    window: DrainWindow,
    decoder: Decoder,
    happenings: Happenings,
    blocks: TenantBlocks,
    writers: Mapping[str, SegmentWriter],
    *,
    between: Callable[[], object],
) -> StoredSegments:
    """The segments of all regions, each read back whole. `between` is called before each is written.

    Raises errors of the stores, and what `between` raises.
    """
    plan = window.before.plan
    untold = frozenset(plan.routes[number].name for number in happenings.untold)
    if blocks.too_many_skipped:
        untold = frozenset(route.name for route in plan.routes)
    events = list(happenings)
    for one in events:
        for tenant in one.tenants or ():
            blocks.note(tenant, decoder.transactions.xids[one.transaction])
    emptied = _emptied(events, window, decoder)
    coverage = cover_tables(
        window.chain, window.before, window.after, window.fence, decoder.end, untold, emptied, window.steps
    )
    makeups = {window.before.definitions[name]: makeup for name, makeup in window.before.makeups.items()}
    makeups |= {step.before: step.then for step in window.steps.values()} | decoder.makeups
    fence = FencePoint(window.fence.xid, window.fence.before, decoder.end, window.fence.time)
    stored: dict[str, SegmentName] = {}
    figures = []
    for region, writer in writers.items():
        dropped = blocks.dropped(region)
        facts = SegmentFacts(
            fences=(fence,),
            layouts=tuple(decoder.layouts),
            coverage=coverage,
            events=tuple(_events(events, window, decoder, region)),
            skipped={**blocks.elsewhere(region), **dropped},
            readings={**window.before.readings, PUBLICATION: window.publication},
            makeups=makeups,
        )
        between()
        stored[region] = journals[region].write(writer, facts)
        figures.append(
            RegionFigures(
                region,
                stored[region].below,
                stored[region].size,
                blocks.changes[region],
                writer.tenants,
                sum(count for count, _ in dropped.values()),
            )
        )
    for region, name in stored.items():
        journals[region].directory(name)
    return StoredSegments(tuple(figures), tuple(sorted(coverage)), len(events))


def _emptied(happenings: Sequence[Happening], window: DrainWindow, decoder: Decoder) -> dict[str, int]:
    """The commit that emptied a table first, by its full name."""
    found: dict[str, int] = {}
    for one in happenings:
        if one.kind is EventKind.TRUNCATED:
            found.setdefault(window.before.plan.routes[one.table].name, decoder.transactions.commits[one.transaction])
    return found


def _events(happenings: Sequence[Happening], window: DrainWindow, decoder: Decoder, region: str) -> Iterator[Event]:
    """What concerns the tenants of a region: events of all tenants, of its own, and of those that are not listed."""
    at, plan, places = decoder.transactions, window.before.plan, window.places
    for one in happenings:
        tenants = None
        if one.tenants is not None:
            found = [places.of(tenant) for tenant in sorted(one.tenants)]
            tenants = tuple(place.tenant for place in found if place.region in (region, None))
            if not tenants:
                continue
        number = one.transaction
        yield Event(
            at.commits[number],
            one.kind.value,
            plan.routes[one.table].name,
            tenants,
            one.why,
            at.xids[number],
            at.times[number],
        )
