"""Which segments may go because merged ones stand in for them."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from sbh_pipelines.repository.journal.segments.cover import plan_cover
from sbh_pipelines.repository.journal.segments.names import SegmentName

RETIRED_FOR = timedelta(days=1)  # whoever planned a reading before the merged segment was there is done by then


def retired(
    segments: Sequence[SegmentName], now: datetime, opens: Callable[[SegmentName], bool]
) -> list[tuple[SegmentName, SegmentName]]:
    """(segment, a merged one that stands in for it) of each that may go. `segments`: all of one incarnation.

    All of its range must be covered by segments of higher levels that have been there for RETIRED_FOR, and whose directories open.
    """
    merged = [one for one in segments if one.level and one.stored is not None and one.stored + RETIRED_FOR <= now]
    told: dict[SegmentName, bool] = {}
    found = []
    for segment in segments:
        above = [one for one in merged if one.level > segment.level and one.end > segment.start]
        cover = plan_cover(above, segment.start, segment.end)
        if cover.holes:
            continue
        for stretch in cover.stretches:
            if stretch.segment not in told:
                told[stretch.segment] = opens(stretch.segment)
        if all(told[stretch.segment] for stretch in cover.stretches):
            found.append((segment, cover.stretches[0].segment))
    return found


def outermost(segments: Sequence[SegmentName]) -> list[SegmentName]:
    """Those for which none of higher levels stand in, however new these are. `segments`: of one incarnation."""
    found = list[SegmentName]()
    above = list[SegmentName]()
    for level in sorted({one.level for one in segments}, reverse=True):
        here = [one for one in segments if one.level == level]
        found += [one for one in here if not above or plan_cover(above, one.start, one.end).holes]
        above += here
    return sorted(found)
