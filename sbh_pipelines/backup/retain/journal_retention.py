"""Upkeep of the change journals: what nobody needs any more goes, what is left is merged into fewer and larger segments.

Its order, a region at a time, under a lease of its own; a run that is killed anywhere is made up for by the next:

    1  segments and gaps from before the floor go         `journal_floor`
    2  neighbours are merged                              `backup/journal/compaction`
    3  sources go that merged ones stand in for a day
    4  public keys are merged, without those of erased tenants

It deletes, so it needs the rights of a prune, and drains do not. The newest segment of a journal always stays.
"""

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sbh_pipelines.backup.journal.compaction.compact import Compaction, Erased, Step
from sbh_pipelines.backup.journal.compaction.retired import retired
from sbh_pipelines.backup.retain.journal_floor import outdated, read_needs
from sbh_pipelines.backup.site.erased_homes import maybe_erased, was_erased, without_erased
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import CorruptObject, ObjectMissing, PruneRefused, SbhError, StoreDenied
from sbh_pipelines.model import timestamp
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.bounds import all_below
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.repository.journal.journal import Journal
from sbh_pipelines.repository.journal.segments.names import SegmentName

LEASE = "upkeep-"  # before the name of the lease: drains have one of their own
_LEASE_S = 120.0
_PURPOSE = "journal upkeep"


@dataclass(frozen=True, slots=True)
class RemovedSegment:
    """A segment that was removed, or would be.

    Attributes:
        segment: Its name below the region's prefix.
        size: Bytes.
        why: Why it is needed no more.
    """

    segment: str
    size: int
    why: str


@dataclass(frozen=True, slots=True)
class MergedSegment:
    """Segments that became one, or would.

    Attributes:
        segment: Name of the merged one below the region's prefix; None in a dry run.
        level: 1 for one of an hour, 2 for one of a day, more for one that was written anew without an erased tenant.
        sources: How many it was made of.
        size: Bytes of the sources.
        dropped: Blocks of erased tenants that were left out.
    """

    segment: str | None
    level: int
    sources: int
    size: int
    dropped: int


@dataclass(frozen=True, slots=True)
class JournalUpkeep:
    """What upkeep did for the journal of a region, or would do.

    Attributes:
        region: The region.
        dry_run: Whether nothing was changed.
        segments_before: How many segments there were.
        bytes_before: Their bytes.
        kept_since: Moments before this one are not promised; a day more is kept than `journal.keep_days`.
        removed: Segments that went.
        bytes_freed: Their bytes.
        merged: What was merged.
        gaps_removed: Records of gaps that went.
        key_objects_merged: Objects of public keys that were merged.
        issues: What could not be read or written, so that more was kept; all else was done.
    """

    region: str
    dry_run: bool
    segments_before: int
    bytes_before: int
    kept_since: datetime
    removed: Sequence[RemovedSegment]
    bytes_freed: int
    merged: Sequence[MergedSegment]
    gaps_removed: int
    key_objects_merged: int
    issues: Sequence[SbhError]

    @property
    def changed(self) -> bool:
        return bool(self.removed or self.merged or self.gaps_removed or self.key_objects_merged)


def has_journal(site: Site, region: str) -> bool:
    """Whether there is one to see to: it is turned on, or was."""
    if site.settings.journal.enabled:
        return True
    journal = site.journal(region)
    try:
        return next(all_below(journal.store, journal.prefix), None) is not None
    except (ObjectMissing, StoreDenied):  # no bucket there yet; a role of a site that never had a journal
        return False


def keep_journal(site: Site, region: str, *, dry_run: bool, elsewhere: Collection[str] | None = None) -> JournalUpkeep:
    """One run for a region. Raises LeaseHeld, LeaseLost, PruneRefused where clocks differ, and the store's errors.

    `elsewhere`: the site is a copy, and these are the keys, below the journal's prefix, that its source has. They stay, for they
    would be sent again; and nothing is merged, for what the source merges is sent as well.
    """
    journal = site.journal(region)
    with ExitStack() as stack:
        if dry_run:
            return _Upkeep(site, journal, None, dry_run=True, elsewhere=elsewhere).run()
        site.fence.check(region)
        prefix = journal.prefix + LEASE
        held = leases.acquire(journal.store, prefix, leases.new_owner(_PURPOSE), _PURPOSE, _LEASE_S, site.clock)
        stack.enter_context(leases.kept(held, _LEASE_S))
        _refuse_other_time(site, journal, prefix)
        return _Upkeep(site, journal, held, dry_run=False, elsewhere=elsewhere).run()


@dataclass
class _Upkeep:
    site: Site
    journal: Journal
    held: leases.Lease | None
    dry_run: bool
    elsewhere: Collection[str] | None = None
    removed: list[RemovedSegment] = field(default_factory=list)
    issues: list[SbhError] = field(default_factory=list)

    def run(self) -> JournalUpkeep:
        site, journal, now = self.site, self.journal, self.site.clock()
        listing = journal.listing()
        keys = without_erased(site, journal.region, journal.public_keys.read())
        self.issues += journal.public_keys.damages
        needs = read_needs(site, journal.region, keys, now)
        self.issues += needs.issues
        old = [one for one in outdated(journal, listing, needs, self.issues) if self._goes(one.name.below)]
        self._remove([(one.name, one.why) for one in old])
        gone = {one.name for one in old}
        gaps = self._gaps([name for name in listing.segments if name not in gone], needs.time)
        homes = maybe_erased(site, journal.region)
        erased = Erased(homes, lambda home: was_erased(site, journal.region, home))
        steps, merged_keys = list[Step](), 0
        if self.elsewhere is None:
            compaction = Compaction(journal, erased, now, self._renew)
            steps = compaction.run(dry_run=self.dry_run)
            self.issues += compaction.issues
        self._retire(now, gone)
        if self.elsewhere is None and not self.dry_run:
            merged_keys = journal.public_keys.compact([home for home in homes if home in erased])
        return JournalUpkeep(
            region=journal.region,
            dry_run=self.dry_run,
            segments_before=len(listing.segments),
            bytes_before=sum(name.size for name in listing.segments),
            kept_since=needs.horizon,
            removed=self.removed,
            bytes_freed=sum(one.size for one in self.removed),
            merged=[
                MergedSegment(
                    step.merged.name.below if step.merged else None,
                    step.group.level,
                    len(step.group.sources),
                    sum(source.stretch.segment.size for source in step.group.sources),
                    step.merged.dropped if step.merged else 0,
                )
                for step in steps
            ],
            gaps_removed=gaps,
            key_objects_merged=merged_keys,
            issues=self.issues,
        )

    def _retire(self, now: datetime, gone: set[SegmentName]) -> None:
        listing = self.journal.listing()
        for incarnation in listing.incarnations:
            segments = [name for name in listing.of(incarnation) if name not in gone]
            found = retired(segments, now, self._opens)
            self._remove([(name, f"{by.below} stands in for it") for name, by in found if self._goes(name.below)])

    def _goes(self, below: str) -> bool:
        return self.elsewhere is None or below not in self.elsewhere

    def _opens(self, name: SegmentName) -> bool:
        try:
            self.journal.directory(name)
        except (CorruptObject, ObjectMissing) as error:
            self.issues.append(error)
            return False
        return True

    def _gaps(self, left: Sequence[SegmentName], time: int) -> int:
        """How many records of gaps went: those before the floor, with nothing left in front of them that they end."""
        starts: dict[str, int] = {}
        for name in left:
            starts[name.incarnation] = min(name.start, starts.get(name.incarnation, name.start))
        found = [
            name
            for name, gap in self.journal.named_gaps()
            if gap.time < time
            and gap.position <= starts.get(gap.incarnation, gap.position)
            and self._goes(f"gaps/{name}")
        ]
        self.issues += self.journal.damages
        if found and not self.dry_run:
            self._renew()
            self.journal.delete_gaps(found)
        return len(found)

    def _remove(self, segments: Sequence[tuple[SegmentName, str]]) -> None:
        if segments and not self.dry_run:
            self._renew()
            self.journal.delete([name for name, _ in segments])
        self.removed += [RemovedSegment(name.below, name.size, why) for name, why in segments]

    def _renew(self) -> None:
        if self.held is not None:
            self.held.renew_if_due()


def _refuse_other_time(site: Site, journal: Journal, prefix: str) -> None:
    """By the store's clock it is told how long a merged segment has been there, by ours what is old."""
    theirs, ours = journal.store.head(prefix + Keys.LEASE).modified, site.clock()
    if abs(theirs - ours) > timedelta(seconds=site.settings.prune.max_clock_skew_s):
        raise PruneRefused(
            "Nothing was removed from the journal",
            on=journal.store.url(journal.prefix),
            why=f"it is {timestamp(ours)} here and {timestamp(theirs)} at the store: ages cannot be trusted",
            remedy="correct the clock of this machine, or of the store",
        )
