"""The segments of one incarnation as a way through the log: where a backup's own moment lies on it, and what comes behind.

Directories are read as they are needed, of each only what it says of all tenants is kept.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from sbh_pipelines.errors import CorruptObject, ObjectMissing
from sbh_pipelines.repository.journal.journal import Journal
from sbh_pipelines.repository.journal.segments.cover import Stretch, plan_cover
from sbh_pipelines.repository.journal.segments.directory import Directory, FencePoint, SegmentFacts
from sbh_pipelines.repository.journal.segments.names import Incarnation, SegmentName


class SegmentLost(Exception):
    """A segment cannot be read: what else covers its range is to be read in its place."""

    def __init__(self, segment: SegmentName) -> None:
        super().__init__(segment.below)
        self.segment = segment


@dataclass(frozen=True, slots=True)
class Beginning:
    """From where on the log tells all that a backup does not show.

    Attributes:
        index: The first stretch that is needed.
        position: Commits up to here are shown by the backup.
        fence: The one that proves it: it had ended before the backup's snapshot.
    """

    index: int
    position: int
    fence: FencePoint


class Chain:
    """What there is of an incarnation. Raises SegmentLost wherever a directory turns out to be damaged."""

    def __init__(
        self,
        journal: Journal,
        segments: Sequence[SegmentName],
        incarnation: Incarnation,
        without: Collection[SegmentName],
        *,
        goes_on: bool = True,
    ) -> None:
        """`segments`: of the incarnation; `without`: those that could not be read; `goes_on`: whether drains add to it still."""
        self.journal, self.incarnation, self.goes_on = journal, incarnation, goes_on
        there = [one for one in segments if one not in without]
        first, last = min((s.start for s in there), default=0), max((s.end for s in there), default=0)
        self.stretches: Sequence[Stretch] = plan_cover(there, first, last).stretches
        self._facts: dict[int, SegmentFacts] = {}

    def directory(self, index: int) -> Directory:
        try:
            found = self.journal.directory(self.stretches[index].segment)
        except (CorruptObject, ObjectMissing) as error:
            raise SegmentLost(self.stretches[index].segment) from error
        self._facts[index] = found.facts
        return found

    def facts(self, index: int) -> SegmentFacts:
        known = self._facts.get(index)
        return known if known is not None else self.directory(index).facts

    @property
    def first_fence(self) -> FencePoint | None:
        return next(iter(self.facts(0).fences), None) if self.stretches else None

    @property
    def last_fence(self) -> FencePoint | None:
        return self.facts(len(self.stretches) - 1).fences[-1] if self.stretches else None

    def begin(self, xmin: int, lsn: int) -> Beginning | None:
        """Where to begin for a backup whose snapshot has this `xmin` and was taken with the log at `lsn`; None where it is too old.

        Every transaction that the snapshot does not show was given its id after the newest fence before `xmin` had got its own;
        so all that it wrote lies behind the position up to which the log was flushed before that fence.
        """
        low, high = 0, len(self.stretches)
        while low < high:  # the first stretch with no fence before xmin
            middle = (low + high) // 2
            if self.facts(middle).fences[0].xid < xmin:
                low = middle + 1
            else:
                high = middle
        if not low:
            return None
        fence = [one for one in self.facts(low - 1).fences if one.xid < xmin][-1]
        if lsn and fence.before > lsn:
            return None  # ids were given out twice: the server's disk was reset to an earlier state
        index = low - 1
        while self.stretches[index].start > fence.before:
            if not index or self.stretches[index - 1].end != self.stretches[index].start:
                return None
            index -= 1
        return Beginning(index, fence.before, fence)

    def onward(self, index: int) -> Iterator[int]:
        """The stretches from this one on, up to a hole or the end."""
        yield index
        while index + 1 < len(self.stretches) and self.stretches[index].end == self.stretches[index + 1].start:
            index += 1
            yield index

    def at_end(self, index: int) -> bool:
        """Whether nothing comes behind this stretch; else a hole does, where `onward` ended."""
        return index + 1 == len(self.stretches)
