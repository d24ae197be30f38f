"""What a merged segment says: all that its sources say of their parts of the log, and not a word twice."""

from dataclasses import replace

from sbh_pipelines.repository.journal.segments.changes import Layout
from sbh_pipelines.repository.journal.segments.cover import Stretch
from sbh_pipelines.repository.journal.segments.directory import (
    BlockRef,
    Coverage,
    Directory,
    Event,
    FencePoint,
    SegmentFacts,
)
from sbh_pipelines.repository.journal.segments.makeup import Makeup


class MergedFacts:
    """`add` the sources in the order of the log."""

    def __init__(self) -> None:
        self._last = SegmentFacts((), (), {})
        self._fences = list[FencePoint]()
        self._layouts: dict[Layout, int] = {}
        self._numberings: dict[tuple[int, ...], int] = {}
        self._coverage: dict[str, list[Coverage]] = {}
        self._events = list[Event]()
        self._skipped: dict[str, tuple[int, int]] = {}
        self._makeups: dict[str, Makeup] = {}

    def add(self, stretch: Stretch, directory: Directory) -> "Renumbered":
        """How the source's blocks are to be taken over."""
        facts, start, end = directory.facts, stretch.start, stretch.end
        self._last = facts
        self._makeups |= facts.makeups
        known = self._fences[-1].xid if self._fences else 0
        # A fence is told twice where segments overlap.
        self._fences += [fence for fence in facts.fences if fence.xid > known and fence.before < end]
        for table, ranges in facts.coverage.items():
            for one in ranges:
                self._cover(table, replace(one, start=max(one.start, start), end=min(one.end, end)))
        self._events += [event for event in facts.events if start < event.position <= end]
        for tenant_key, (count, xid) in facts.skipped.items():
            before, greatest = self._skipped.get(tenant_key, (0, 0))
            self._skipped[tenant_key] = before + count, max(greatest, xid)
        numbers = [self._layouts.setdefault(layout, len(self._layouts)) for layout in facts.layouts]
        numberings = facts.numberings or [range(len(numbers))]
        return Renumbered(
            start,
            end,
            [
                self._numberings.setdefault(tuple(numbers[one] for one in numbering), len(self._numberings))
                for numbering in numberings
            ],
        )

    def facts(self) -> SegmentFacts:
        """What is not put together, such as what tables were like at the end, is what the last source says."""
        return replace(
            self._last,
            fences=tuple(self._fences),
            layouts=tuple(self._layouts),
            coverage={table: tuple(ranges) for table, ranges in self._coverage.items()},
            events=tuple(self._events),
            skipped=self._skipped,
            numberings=tuple(self._numberings),
            makeups=self._makeups,
        )

    def _cover(self, table: str, one: Coverage) -> None:
        if one.start >= one.end:
            return
        found = self._coverage.setdefault(table, [])
        if found and found[-1].end == one.start and found[-1].definition == one.definition:
            found[-1] = replace(found[-1], end=one.end)
        else:
            found.append(one)


class Renumbered:
    """How a source's blocks are named in the merged segment."""

    def __init__(self, start: int, end: int, numberings: list[int]) -> None:
        self._start, self._end, self._numberings = start, end, numberings

    def taken(self, ref: BlockRef) -> BlockRef | None:
        """The block in the merged segment; None where no commit in it counts in the source's part of the log."""
        after = max(ref.after, self._start)
        if ref.facts.last <= after or ref.facts.first > self._end:
            return None
        return replace(ref, after=after, numbering=self._numberings[ref.numbering])
