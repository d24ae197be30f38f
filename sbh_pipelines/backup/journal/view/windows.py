"""To which moments the journal can bring a tenant: intervals, each from a backup up to where the journal stops telling. No I/O.

A moment is reached from a backup at or before it. The journal must tell everything from that backup's snapshot on up to a fence
later than the moment: for each table that it covers, without a hole, and without an event that ends what can be told. What is said
here is on the safe side: where it is not known which of two things came first, the moment between them is left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sbh_pipelines.repository.journal.gaps import Gap
from sbh_pipelines.repository.journal.segments.directory import Coverage, Event, FencePoint, SegmentFacts
from sbh_pipelines.repository.journal.segments.names import Incarnation


class Span(NamedTuple):
    """From one moment to another, both in it; microseconds since 1970 UTC."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Base:
    """A backup, as the place where a way to a moment begins.

    Attributes:
        backup_id: The backup.
        time: When its snapshot was taken, microseconds since 1970 UTC, by the server's clock.
        xmin: Every transaction with a lesser 64-bit id had ended then.
        system_id: The server's cluster.
        timeline: Of its log.
        tables: Full names of the tables that it holds.
    """

    backup_id: str
    time: int
    xmin: int
    system_id: int
    timeline: int
    tables: frozenset[str]


@dataclass(slots=True)
class Chain:
    """What segments without a hole between them say together; `add` them in the order of the log.

    Attributes:
        incarnation: Theirs.
        start: Where their range starts; a commit there is not in it.
        end: Where it ends.
        fences: In the order of the log.
        coverage: Ranges of each table, neighbours joined.
        events: In the order of the log.
        skipped: Of tenants of which changes were dropped, or went to another region: the greatest transaction id of them.
        ends: Where its segments end: each is the commit of a fence.
        gaps: Recorded ones of single tables or tenants.
    """

    incarnation: Incarnation
    start: int
    end: int
    fences: list[FencePoint] = field(default_factory=list)
    coverage: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    ends: set[int] = field(default_factory=set)
    gaps: list[Gap] = field(default_factory=list)

    def add(self, facts: SegmentFacts, start: int, end: int) -> None:
        """What a segment says of (start, end], which begins where the chain ended.

        A fence is told twice where segments overlap; which of them it is, its id says.
        """
        known = self.fences[-1].xid if self.fences else 0
        self.fences.extend(fence for fence in facts.fences if fence.xid > known and fence.before < end)
        for table, ranges in facts.coverage.items():
            self._cover(table, ranges, start, end)
        self.events.extend(event for event in facts.events if start < event.position <= end)
        for tenant_key, (_, xid) in facts.skipped.items():
            self.skipped[tenant_key] = max(xid, self.skipped.get(tenant_key, 0))
        self.ends.add(end)
        self.end = end

    def time_at(self, position: int) -> int:
        """The time of the last fence up to a position, 0 without one. A fence's commit lies between its two positions."""
        told = position in self.ends
        times = (fence.time for fence in self.fences if fence.after < position or (told and fence.before < position))
        return max(times, default=0)

    def _cover(self, table: str, ranges: Iterable[Coverage], start: int, end: int) -> None:
        found = self.coverage.setdefault(table, [])
        for one in ranges:
            least, greatest = max(one.start, start), min(one.end, end)
            if least >= greatest:
                continue
            if found and found[-1][1] == least:
                found[-1] = found[-1][0], greatest
            else:
                found.append((least, greatest))


@dataclass(frozen=True, slots=True)
class Reach:
    """How far one backup leads.

    Attributes:
        base: The backup.
        span: The moments to which all that the journal covers of it can be brought; from the backup's own on.
        tables: The same of each table that the journal covers.
        why: What ends it, for people; empty where that is only the end of what was drained.
    """

    base: Base
    span: Span
    tables: Mapping[str, Span]
    why: str


def reaches(tenant_key: str, chains: Sequence[Chain], bases: Sequence[Base]) -> list[Reach]:
    """How far each backup leads, in the order of their times; `chains` oldest first.

    A backup that the journal says nothing after leads to its own moment.
    """
    found = []
    for base in sorted(bases, key=lambda base: base.time):
        # Of ways that lead equally far, that of the latest chain: it knows most of the tables.
        ways = [way for chain in reversed(chains) if (way := _way(tenant_key, chain, base)) is not None]
        alone = Reach(base, Span(base.time, base.time), {}, "no chain of the journal reaches back to this backup")
        found.append(max(ways, key=lambda way: way.span.end, default=alone))
    return found


def joined(spans: Iterable[Span]) -> list[Span]:
    """The same moments in as few intervals as possible, in order."""
    found: list[Span] = []
    for span in sorted(spans):
        if found and span.start <= found[-1].end:
            found[-1] = Span(found[-1].start, max(found[-1].end, span.end))
        else:
            found.append(span)
    return found


def _way(tenant_key: str, chain: Chain, base: Base) -> Reach | None:
    """None where the chain is of another server, or does not reach back to the backup."""
    if (chain.incarnation.system_id, chain.incarnation.timeline) != (base.system_id, base.timeline):
        return None  # transaction ids of two servers say nothing of each other
    earlier = [fence for fence in chain.fences if fence.xid < base.xmin]
    if not earlier:
        return None
    # All that is not in the snapshot was given its id after this position was read.
    start = max(earlier[-1].before, chain.start)
    if earlier[-1].before < chain.start or chain.skipped.get(tenant_key, 0) >= base.xmin:
        return None
    tables: dict[str, Span] = {}
    least, why = chain.time_at(chain.end), ""
    for table in sorted(base.tables & chain.coverage.keys()):
        end, reason = _told_up_to(chain, table, tenant_key, start, base.xmin)
        tables[table] = Span(base.time, max(base.time, end))
        if end < least:
            least, why = end, f"{table}: {reason}"
    if not tables:
        return None
    return Reach(base, Span(base.time, max(base.time, least)), tables, why)


def _told_up_to(chain: Chain, table: str, tenant_key: str, start: int, xmin: int) -> tuple[int, str]:
    """(up to which moment everything of the table is told from the position on, what ends it)."""
    covered = next((end for least, end in chain.coverage[table] if least <= start < end), start)
    ends = [
        (max(start, gap.position if gap.begin is None else gap.begin), gap.why)
        for gap in chain.gaps
        if gap.concerns(table, tenant_key) and gap.lies_between(start, covered)
    ]
    covered, gap_why = min(ends, default=(covered, ""))
    for event in chain.events:
        if event.table != table or not start < event.position <= covered or not _concerns(event, tenant_key):
            continue
        if event.xid and event.xid < xmin:
            continue  # the backup has what came of it
        return event.time - 1 if event.time else chain.time_at(event.position), event.why
    reached = chain.time_at(covered)
    if gap_why or covered == chain.end:
        return reached, gap_why
    return reached, "what the journal tells of the table ended" if covered > start else "the journal did not tell of it"


def _concerns(event: Event, tenant_key: str) -> bool:
    return event.tenants is None or tenant_key in event.tenants
