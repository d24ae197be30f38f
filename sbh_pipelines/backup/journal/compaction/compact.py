"""Compacts the journal of a region: plans, merges, goes on where one group fails. It takes nothing away."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sbh_pipelines.backup.journal.compaction.merge import Merged, merge
from sbh_pipelines.backup.journal.compaction.plan import DAY, HOUR, Group, Source, plan_cleaning, plan_groups
from sbh_pipelines.backup.journal.compaction.retired import outermost
from sbh_pipelines.concurrency import streamed
from sbh_pipelines.errors import CorruptObject, JournalError, ObjectMissing, SbhError, StoreError
from sbh_pipelines.repository.journal.journal import Journal
from sbh_pipelines.repository.journal.segments.cover import Stretch, plan_cover
from sbh_pipelines.repository.journal.segments.names import SegmentName

_STILL_WRITTEN = timedelta(hours=1)  # after the end of an hour that no later segment follows
_AHEAD = 9  # directories asked for and not yet looked at


class Erased:
    """Of which repositories blocks are dropped. `homes`: the few that may be erased; `is_erased` makes sure of one of them."""

    def __init__(self, homes: Collection[str], is_erased: Callable[[str], bool]) -> None:
        self._homes, self._is_erased = frozenset(homes), is_erased
        self._known: dict[str, bool] = {}

    def __bool__(self) -> bool:
        return bool(self._homes)

    def __contains__(self, home: object) -> bool:
        if not isinstance(home, str) or home not in self._homes:
            return False
        if home not in self._known:
            self._known[home] = self._is_erased(home)
        return self._known[home]


@dataclass(frozen=True, slots=True)
class Step:
    """A group of segments that was merged, or would be.

    Attributes:
        group: What was merged.
        merged: The merged segment; None where nothing was to be changed.
    """

    group: Group
    merged: Merged | None


class Compaction:
    """One run. `issues`: what could not be read or written; all else was done."""

    def __init__(self, journal: Journal, erased: Erased, now: datetime, renew: Callable[[], None]) -> None:
        self.issues = list[SbhError]()
        self._journal, self._erased, self._now, self._renew = journal, erased, now, renew
        self._damaged = set[SegmentName]()

    def run(self, *, dry_run: bool) -> list[Step]:
        """Of every incarnation, hours, then days, then what is to be rid of an erased tenant. Raises what listing raises."""
        steps = list[Step]()
        for incarnation in self._journal.incarnations():
            for level in (HOUR, DAY):
                steps += self._level(incarnation, level, dry_run)
            if self._erased:
                steps += self._carried_out(plan_cleaning(self._chain(incarnation, None)[0]), dry_run)
        return steps

    def _level(self, incarnation: str, level: int, dry_run: bool) -> list[Step]:
        steps = list[Step]()
        while True:
            known = len(self._damaged)
            chain, is_current = self._chain(incarnation, level)
            upto = round((self._now - _STILL_WRITTEN).timestamp() * 1_000_000)
            groups = plan_groups(level, chain, upto=upto if is_current else None)
            steps += self._carried_out(groups, dry_run)
            if len(self._damaged) == known:
                return steps
            # One of the sources was found to be damaged: what lies on either side of it is planned anew.

    def _chain(self, incarnation: str, level: int | None) -> tuple[list[Source], bool]:
        """(what there is of an incarnation, whether it is the current one). Told are those below `level`; without one, all."""
        while True:
            listing = self._journal.listing()
            segments = outermost([one for one in listing.of(incarnation) if one not in self._damaged])
            if not segments:
                return [], False
            cover = plan_cover(segments, min(one.start for one in segments), max(one.end for one in segments))
            known = len(self._damaged)
            chain = list(self._told(cover.stretches, level))
            if len(self._damaged) == known:
                return chain, incarnation == listing.incarnations[-1]

    def _told(self, stretches: Sequence[Stretch], level: int | None) -> Iterator[Source]:
        def look(stretch: Stretch) -> Source | SbhError:
            if level is not None and stretch.segment.level >= level:
                return Source(stretch, 0, 0)
            try:
                directory = self._journal.directory(stretch.segment)
            except (CorruptObject, ObjectMissing) as error:
                return error
            homes = {home for home, _ in directory.sealed_to()} if self._erased else ()
            fences = directory.facts.fences
            time = fences[-1].time if fences else 0
            return Source(stretch, time, directory.block_count, any(home in self._erased for home in homes))

        for stretch, told in zip(stretches, streamed(look, stretches, name="journal", ahead=_AHEAD), strict=True):
            self._renew()
            if isinstance(told, SbhError):
                self._damaged.add(stretch.segment)
                self.issues.append(told)
            else:
                yield told

    def _carried_out(self, groups: Sequence[Group], dry_run: bool) -> list[Step]:
        if dry_run:
            return [Step(group, None) for group in groups]
        steps = list[Step]()
        for group in groups:
            try:
                steps.append(Step(group, merge(self._journal, group, self._erased.__contains__, self._renew)))
            except (JournalError, StoreError, CorruptObject) as error:
                self.issues.append(error)
                self._damaged |= {
                    one.stretch.segment
                    for one in group.sources
                    if isinstance(error, CorruptObject | ObjectMissing)
                    and error.on == self._journal.url(one.stretch.segment)
                }
        return steps
