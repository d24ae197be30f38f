"""Which segments together say all of a range, chosen from any level, and where there is a hole. No I/O."""

from collections.abc import Iterable
from dataclasses import dataclass

from sbh_pipelines.repository.journal.segments.names import SegmentName


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a range that one segment says all of.

    Attributes:
        segment: The segment.
        start: Where the part starts; commits up to here are those of the stretch before.
        end: Where it ends; a commit there is in it.
    """

    segment: SegmentName
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Cover:
    """What there is of a range.

    Attributes:
        stretches: In the order of the log; none overlaps another.
        holes: Ranges that no segment covers, (start, end].
    """

    stretches: tuple[Stretch, ...]
    holes: tuple[tuple[int, int], ...]


def plan_cover(segments: Iterable[SegmentName], start: int, end: int) -> Cover:
    """The fewest segments that cover as much as there is of (start, end]. Segments may overlap, and lie within others."""
    waiting = sorted((one for one in segments if one.end > start and one.start < end), key=lambda one: one.start)
    stretches, holes = list[Stretch](), list[tuple[int, int]]()
    at, index = start, 0
    best: SegmentName | None = None
    while at < end:
        while index < len(waiting) and waiting[index].start <= at:
            best = max(best, waiting[index], key=_reach) if best else waiting[index]
            index += 1
        if best is not None and best.end > at:
            stretches.append(Stretch(best, at, min(best.end, end)))
            at = best.end
            continue
        upto = waiting[index].start if index < len(waiting) else end
        holes.append((at, upto))
        at = upto
    return Cover(tuple(stretches), tuple(holes))


def chain_end(segments: Iterable[SegmentName], start: int) -> int:
    """How far the segments reach from `start` on without a hole; `start` where none does."""
    at = start
    for one in sorted(segments, key=lambda one: one.start):
        if one.start > at:
            break
        at = max(at, one.end)
    return at


def _reach(segment: SegmentName) -> tuple[int, int, str]:
    """Of two that reach equally far, the one of the lower level: less of it lies before. The digest makes it certain."""
    return segment.end, -segment.level, segment.digest
