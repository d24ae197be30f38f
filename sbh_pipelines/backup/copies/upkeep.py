"""A copy's own upkeep, tenant by tenant: what its policy forgets, what its prune removes, which locks are renewed.

Then, a region at a time, the catalog's records and the change journal. What the source has of them stays, for the copier would
bring it again; what was deleted there stays for as long as the copy keeps it.

Where the credentials may delete nothing there, which is asked once for each region, all else is done: holds are brought, locks
renewed. Nothing is repacked then, for what was repacked would stay beside its copy. That nothing could be deleted is said once,
and recorded for the status of the copy.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from sbh_pipelines.backup.copies.erased import destroy_erased
from sbh_pipelines.backup.copies.place import CopyPlace, open_copy, refuse_primary
from sbh_pipelines.backup.copies.retention import CopyKept, enforce
from sbh_pipelines.backup.copies.run import upkeep_lease
from sbh_pipelines.backup.copies.state import CopyState, CopyStates
from sbh_pipelines.backup.copies.worklist import ASIDE, Home, housed_platform, left_homes, work_of
from sbh_pipelines.backup.retain.journal_retention import has_journal, keep_journal
from sbh_pipelines.backup.site.erased_homes import maybe_erased
from sbh_pipelines.backup.site.owners import is_bound
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import streamed
from sbh_pipelines.errors import CopyUnverified, SbhError, StoreDenied, UnknownBackup
from sbh_pipelines.model import BackupId, Progress, ProgressSink, Tenant, TenantId, no_progress
from sbh_pipelines.placement import catalog_place
from sbh_pipelines.repository.bounds import all_below
from sbh_pipelines.repository.catalog.catalog import RECORDS

_AT_ONCE = 4
_PROBE = "delete-probe"  # below the catalog's prefix at the copy; there never is such an object


@dataclass(frozen=True, slots=True)
class CopyUpkeep:
    """What the upkeep of a copy did.

    Attributes:
        name: The copy's name.
        tenants: Each tenant that was looked at.
        left_out: Why the others are not copied, by slug.
        issues: What else could not be asked.
        seconds: How long it took.
        unlisted: Why the application did not say who its tenants are, so that the catalogs were gone by; None where it did.
        erased: Repositories of erased tenants of which something had come back there, and was destroyed.
        records: Objects of catalogs there that were merged away.
        segments: Segments of change journals that were removed there.
        undeleted: Why nothing was forgotten, released or removed; None where the credentials may delete at the copy.
    """

    name: str
    tenants: Sequence[CopyKept]
    left_out: Mapping[TenantId, str]
    issues: Sequence[SbhError]
    seconds: float
    unlisted: SbhError | None = None
    erased: Sequence[str] = ()
    records: int = 0
    segments: int = 0
    undeleted: SbhError | None = None

    @property
    def good(self) -> bool:
        """Whether everything was done."""
        return not self.issues and self.undeleted is None and not any(one.issues for one in self.tenants)


def keep_copy(
    site: Site,
    name: str,
    tenants: Sequence[Tenant],
    progress: ProgressSink = no_progress,
    *,
    everyone: bool = False,
    unlisted: SbhError | None = None,
) -> CopyUpkeep:
    """Apply a copy's policy to what was verified there last, prune it, and renew its locks. Errors are in the result.

    `everyone`, `unlisted`: as of `run_copy`.

    Of a tenant whose last verification failed nothing is forgotten or removed; its locks are renewed. What is not continued any
    more is kept in the same way, but for what may not lie there: that is to be removed, and not written to. Nothing is done where
    backups were made in the copy, or another process keeps it: that is an issue. Raises SettingsError where there is no copy of
    this name.
    """
    begun, place = time.monotonic(), open_copy(site, name)
    keeping = _Keeping(place, progress, everyone, unlisted is None)
    for region in place.regions:
        theirs = [tenant for tenant in tenants if tenant.region == region]
        if theirs or everyone:
            keeping.region(region, theirs)
    for region in place.left_regions if everyone else ():
        keeping.left_region(region)
    for tenant in tenants:
        if tenant.region not in place.regions and (why := place.left_out(tenant)) is not None:
            keeping.left_out[tenant.id] = why
    took = round(time.monotonic() - begun, 3)
    return CopyUpkeep(
        name,
        keeping.kept,
        keeping.left_out,
        keeping.issues,
        took,
        unlisted,
        keeping.erased,
        keeping.records,
        keeping.segments,
        keeping.undeleted,
    )


class _Keeping:
    """One upkeep of a copy, region by region."""

    def __init__(self, place: CopyPlace, progress: ProgressSink, everyone: bool, listed: bool) -> None:
        self._place, self._progress = place, progress
        self._everyone, self._listed, self._total = everyone, listed, 0
        self.kept = list[CopyKept]()
        self.left_out = dict[TenantId, str]()
        self.issues = list[SbhError]()
        self.erased = list[str]()
        self.records = self.segments = 0
        self.undeleted: SbhError | None = None

    def region(self, region: str, tenants: Sequence[Tenant]) -> None:
        with self._alone(self._place, region) as may:
            if may:
                self._region(region, tenants)

    @contextmanager
    def _alone(self, place: CopyPlace, region: str) -> Iterator[bool]:
        """Whether this is a copy, which nobody else keeps or promotes meanwhile."""
        with ExitStack() as stack:
            try:
                stack.enter_context(upkeep_lease(place, region))
                refuse_primary(place, region, strict=True)
            except SbhError as error:
                self.issues.append(error)
                yield False
                return
            yield True

    def _region(self, region: str, tenants: Sequence[Tenant]) -> None:
        place, states = self._place, CopyStates(self._place)
        known = self._read(states, region)
        work = work_of(place, region, tenants, known, everyone=self._everyone, listed=self._listed)
        self.issues += [issue for issue in work.issues if str(issue) not in map(str, self.issues)]
        self.kept += [CopyKept(tenant.id, issues=(error,)) for tenant, error in work.failed]
        homes = work.homes
        platform = housed_platform(place)
        if platform.region == region and platform.home in known:
            homes = [*homes, Home(platform, "", None)]
        deletes = self._may_delete(place, region, states)
        if deletes:
            self._beside(place, region)
        self._keep(place, region, homes, known, states, deletes)
        self._destroy_erased(region)
        try:
            if known and place.settings.kind == "managed":
                states.keep_at_copy(region, deletes=deletes)
        except SbhError as error:
            self.issues.append(error)

    def _may_delete(self, place: CopyPlace, region: str, states: CopyStates) -> bool:
        denied = None
        try:
            denied = _denied(place, region)
            states.record_upkeep(region, denied)
        except SbhError as error:
            self.issues.append(error)
        self.undeleted = self.undeleted or denied
        return denied is None

    def _beside(self, place: CopyPlace, region: str) -> None:
        """The catalog's records, and the change journal."""
        try:
            self.records += _compact_catalog(place, region)
            self.segments += _keep_journal(place, region, self.issues)
        except SbhError as error:
            self.issues.append(error)

    def _destroy_erased(self, region: str) -> None:
        """What came of who was surely erased, as from a copier that went on although it had lost its lease, goes."""
        place = self._place
        if not self._everyone or place.settings.kind != "managed":
            return
        try:
            refuse_primary(place, region, strict=True)  # the lease may be lost by now
            homes = sorted(maybe_erased(place.source, region))
        except SbhError as error:
            self.issues.append(error)
            return
        for home in homes:
            try:
                if destroy_erased(place, region, home):
                    self.erased.append(home)
            except SbhError as error:
                self.issues.append(error)

    def left_region(self, region: str) -> None:
        place = self._place.with_left_regions()
        with self._alone(place, region) as may:
            if may:
                states = CopyStates(place)
                known = self._read(states, region)
                deletes = self._may_delete(place, region, states)
                self._keep(place, region, left_homes(place, region, known), known, states, deletes)

    def _read(self, states: CopyStates, region: str) -> Mapping[str, CopyState]:
        try:
            known = states.read(region)
        except SbhError as error:
            self.issues.append(error)
            return {}
        self.issues += [*states.damages, *([states.source_error] if states.source_error else ())]
        return known

    def _keep(
        self,
        place: CopyPlace,
        region: str,
        homes: Sequence[Home],
        known: Mapping[str, CopyState],
        states: CopyStates,
        deletes: bool,
    ) -> None:
        chosen = list[Home]()
        for home in homes:
            if home.left_out is not None:
                self.left_out[home.tenant.id] = home.left_out
                state = known.get(home.tenant.home)
                if state is None or not state.backup_id or place.forbidden(home.tenant) is not None:
                    continue
            chosen.append(home)
        self._total += len(chosen)
        left = list[CopyState]()

        def one(home: Home) -> CopyKept:
            return _one(place, home, known.get(home.tenant.home), deletes)

        work = streamed(one, chosen, name="copies", threads=_AT_ONCE, ahead=_AT_ONCE + 1)
        for home, done in zip(chosen, work, strict=True):
            self.kept.append(done)
            state = known.get(home.tenant.home)
            if home.left_out is not None and state is not None and state.backups != len(done.kept) and not done.issues:
                left.append(replace(state, backups=len(done.kept), seen_at=place.source.clock()))
            self._progress(Progress("prune", place.name, len(self.kept), self._total, "tenants"))
        try:
            states.record(region, left)
        except SbhError as error:
            self.issues.append(error)


def _compact_catalog(place: CopyPlace, region: str) -> int:
    """Merge what the source's catalog has merged, and what is gone there; how many objects went.

    What the source still has stays as it is: the copier would bring it again. So the copy has the source's objects and one or a
    few more, which say all that was ever said.
    """
    source = place.source.catalog(region)
    here = frozenset(info.key[len(source.prefix) :] for info in all_below(source.store, source.prefix + RECORDS))
    return place.target.catalog(region).compact(stays=here).merged


def _keep_journal(place: CopyPlace, region: str, issues: list[SbhError]) -> int:
    """Remove what is older than the copy keeps, and what merged segments stand in for, unless the source has it still."""
    if not (place.settings.journal and has_journal(place.target, region)):
        return 0
    journal = place.source.journal(region)
    here = frozenset(info.key[len(journal.prefix) :] for info in all_below(journal.store, journal.prefix))
    done = keep_journal(place.target, region, dry_run=False, elsewhere=here)
    issues += done.issues
    return len(done.removed)


def _denied(place: CopyPlace, region: str) -> StoreDenied | None:
    """Why nothing can be deleted at the copy: asked of a name that no object has, so that nothing is lost by the answer."""
    at = catalog_place(place.target.settings, region)
    store = place.target.region_store(at)
    try:
        store.delete([f"{at.prefix}{_PROBE}"])
    except StoreDenied as error:
        return StoreDenied(
            "Nothing can be deleted at the copy with these credentials",
            on=f"{place.name}, {store.url('')}",
            why=error.why or error.what,
            remedy=f"holds are brought and locks renewed all the same; to forget and give space back, run `sbh copies prune"
            f" {place.name}` as a role with deploy/policies/copy-upkeep.json, whose credentials [[copies]] names there",
        )
    return None


def _one(place: CopyPlace, home: Home, state: CopyState | None, deletes: bool) -> CopyKept:
    verified, tenant = None, home.tenant
    if state is not None and state.tenant_key == tenant.key and state.error is None and state.backup_id:
        verified = BackupId(state.backup_id)
    if verified is not None and (why := _all_stays(home)):
        kept = enforce(place, tenant, place.target.clock(), None, deletes=deletes)
        issues = [issue for issue in kept.issues if not isinstance(issue, CopyUnverified)]
        return replace(kept, issues=issues, all_stays=why)
    kept = enforce(place, tenant, place.target.clock(), verified, deletes=deletes, aside=home.ended == ASIDE)
    # Nothing was ever whole there: that nothing is there yet is no fault.
    if state is None or state.backup_id is None:
        unknown = [issue for issue in kept.issues if not isinstance(issue, UnknownBackup)]
        # Of one that has ended nothing will ever be there.
        return replace(kept, issues=[one for one in unknown if not (home.ended and isinstance(one, CopyUnverified))])
    return kept


def _all_stays(home: Home) -> str:
    """Why no policy may be applied to a repository."""
    if is_bound(home.tenant) and not home.tenant.key:
        return "nothing says whose it is"
    if home.tier_lacks:
        return "its tier is not known, and the policy is another for each tier"
    return ""
