"""Which segments of an incarnation are due to be merged, and which say nothing that a merged one does not say."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from sbh_pipelines.errors import ObjectMissing, RepositoryError
from sbh_pipelines.repository.journal.journal import Journal
from sbh_pipelines.repository.journal.segments.cover import Stretch, plan_cover
from sbh_pipelines.repository.journal.segments.names import SegmentName

LEVELS = (12, 24)
"""How many segments make one of the next level: of drains each five minutes an hour, then a day."""

SUPERSEDED_FOR = timedelta(days=1)
"""How long a segment stays beside the one that it was merged into: whoever planned to read it has done so by then."""


def merges_due(segments: Iterable[SegmentName], *, level: int, count: int) -> list[tuple[Stretch, ...]]:
    """What to merge into segments of a level: each `count` of the level below that follow one another, oldest first."""
    found = list(segments)
    if not found:
        return []
    cover = plan_cover(found, min(one.start for one in found), max(one.end for one in found))
    due, run = list[tuple[Stretch, ...]](), list[Stretch]()
    for stretch in cover.stretches:
        if run and run[-1].end != stretch.start:
            run = []
        if stretch.segment.level != level - 1:
            run = []
            continue
        run.append(stretch)
        if len(run) == count:
            due.append(tuple(run))
            run = []
    return due


def remove_superseded(journal: Journal, incarnation: str, now: datetime) -> Sequence[SegmentName]:
    """Remove what a merged segment says as well that is there for long enough and opens; what was removed.

    Needs the right to delete. Raises the store's errors.
    """
    segments = journal.segments(incarnation)
    removed = list[SegmentName]()
    for merged in segments:
        if not merged.level or merged.stored is None or merged.stored + SUPERSEDED_FOR > now:
            continue
        within = [one for one in segments if _lies_within(one, merged) and one not in removed]
        if within and _opens(journal, merged):
            journal.delete(within)
            removed += within
    return removed


def _lies_within(one: SegmentName, merged: SegmentName) -> bool:
    return one.level < merged.level and merged.start <= one.start and one.end <= merged.end


def _opens(journal: Journal, name: SegmentName) -> bool:
    try:
        journal.directory(name)
    except (RepositoryError, ObjectMissing):
        return False
    return True
