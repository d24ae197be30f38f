"""How far a copy is behind, tenant by tenant: what was verified there, against the clock.

Of the copy itself only its catalog is asked: a tick that found a tenant unchanged since the backup that was verified counts as
soon as its record is there. Where the source is gone, the copy says by itself what was verified there.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime

from sbh_pipelines.backup.copies.place import CopyPlace, open_copy
from sbh_pipelines.backup.copies.results import CopyLine, CopyStatus, CopyStep, Standing
from sbh_pipelines.backup.copies.state import CopyState, CopyStates
from sbh_pipelines.backup.copies.worklist import Home, housed_platform, left_homes, work_of
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import SbhError, StoreError
from sbh_pipelines.model import HousedTenant, Tenant, TenantId, timestamp
from sbh_pipelines.repository.bounds import listed
from sbh_pipelines.repository.catalog.records import TenantRecord
from sbh_pipelines.repository.documents import manifest_id
from sbh_pipelines.repository.format import Keys

WORST_FIRST: Sequence[Standing] = ("failed", "never", "behind", "current", "ended", "left_out")


def copy_status(
    site: Site,
    name: str,
    tenants: Sequence[Tenant],
    now: datetime,
    *,
    everyone: bool = False,
    unlisted: SbhError | None = None,
) -> CopyStatus:
    """Of those tenants that are in the regions that are copied; the worst come first. `now`: UTC. `everyone`: and all else that is
    there; `unlisted`: why the application could not say who its tenants are.

    What cannot be asked is among the `issues`. Raises SettingsError where there is no copy of this name.
    """
    place = open_copy(site, name)
    settings, found = place.settings, _Status(place, now, everyone, unlisted is None)
    for region in place.regions:
        theirs = [tenant for tenant in tenants if tenant.region == region]
        if theirs or everyone:
            found.region(region, theirs)
    for region in place.left_regions if everyone else ():
        found.left_region(region)
    lines = sorted(
        found.lines, key=lambda line: (WORST_FIRST.index(line.standing), -(line.lag_s or 0.0), line.tenant_id)
    )
    lags = [line.lag_s for line in lines if line.standing != "left_out" and line.lag_s is not None]
    return CopyStatus(
        name,
        settings.to,
        settings.kind,
        found.objective_s,
        lines,
        max(lags, default=None),
        found.issues,
        found.steps,
        unlisted,
        found.by_copy,
        found.undeleted,
        found.damages,
    )


class _Status:
    def __init__(self, place: CopyPlace, now: datetime, everyone: bool, listed: bool) -> None:
        self._place, self._now = place, now
        self._everyone, self._listed = everyone, listed
        self.objective_s = place.settings.objective_minutes * 60
        self.lines, self.issues, self.damages = list[CopyLine](), list[SbhError](), list[SbhError]()
        self.steps, self.by_copy = list[CopyStep](), list[str]()
        self.undeleted: SbhError | None = None

    def region(self, region: str, tenants: Sequence[Tenant]) -> None:
        recorder = CopyStates(self._place)
        try:
            known = self._read(recorder, region)
        except SbhError as error:
            self.issues.append(error)
            for tenant in tenants:
                why = self._place.left_out(tenant)
                standing: Standing = "failed" if why is None else "left_out"
                self.lines.append(CopyLine(tenant.id, region, standing, None, None, None, None, why or str(error)))
            return
        work = work_of(self._place, region, tenants, known, everyone=self._everyone, listed=self._listed)
        self.issues += [issue for issue in work.issues if str(issue) not in map(str, self.issues)]
        for tenant, failure in work.failed:
            self.lines.append(CopyLine(tenant.id, region, "failed", None, None, None, None, str(failure)))
        given = {tenant.id for tenant in tenants}
        for home in work.homes:
            state = known.get(home.tenant.home)
            if home.ended and not self._everyone and home.tenant.id in given:
                continue  # who had the slug before is nobody's of the tenant's users
            if home.ended and state is not None and state.backup_id is None and not (state.error or state.backups):
                continue  # nothing of it is there, and nothing will come
            self.lines.append(self._line(home, state, work.there))
        self._region_itself(region, known, recorder.steps)

    def _read(self, recorder: CopyStates, region: str) -> Mapping[str, CopyState]:
        known = recorder.read(region)
        self.undeleted = self.undeleted or recorder.undeleted
        self.damages += recorder.damages
        if recorder.by_copy:
            self.by_copy.append(region)
        if recorder.source_error is not None:
            self.issues.append(recorder.source_error)
        return known

    def _region_itself(self, region: str, known: Mapping[str, CopyState], steps: Mapping[str, CopyState]) -> None:
        if not self._everyone:
            return
        for step, state in sorted(steps.items()):
            if state.error is not None:
                self.steps.append(CopyStep(region, step, state.error, state.seen_at))
        platform = housed_platform(self._place)
        if platform.region == region and (own := known.get(platform.home)) is not None:
            self.lines.append(self._of_platform(platform, own))

    def left_region(self, region: str) -> None:
        place = self._place.with_left_regions()
        try:
            known = self._read(CopyStates(place), region)
        except SbhError as error:
            self.issues.append(error)
            return
        for home in left_homes(place, region, known):
            self.lines.append(self._line(home, known.get(home.tenant.home), {}))

    def _line(self, home: Home, state: CopyState | None, records: Mapping[TenantId, TenantRecord]) -> CopyLine:
        tenant = home.tenant
        if home.left_out is not None:
            return self._left_out(home, state)
        if state is None or (tenant.key and state.tenant_key != tenant.key):  # another's, who had the slug before
            return CopyLine(tenant.id, tenant.region, "never", None, None, None, None, home.ended)
        point = state.until(records.get(TenantId(state.home)))
        lag = None if point is None else round(max((self._now - point).total_seconds(), 0.0), 1)
        standing: Standing = "never" if lag is None else "behind" if lag > self.objective_s else "current"
        why = ""
        if home.ended:
            standing, why, lag = "never" if lag is None else "ended", home.ended, None
        if state.error is not None:
            standing, why = "failed", str(state.error)
        return CopyLine(tenant.id, tenant.region, standing, state.backup_id, point, lag, state.verified_at, why)

    def _left_out(self, home: Home, state: CopyState | None) -> CopyLine:
        tenant, why = home.tenant, home.left_out or ""
        if state is None or not state.backups or state.left_out_since is None:
            if state is None or state.backup_id is None or state.left_out_since is not None:
                return CopyLine(tenant.id, tenant.region, "left_out", None, None, None, None, why)
            told = f"{why}; what was copied of it lies there, and is not continued"  # until a run says how much, and since when
            kept, since = None, None
        else:
            kept, since = state.backups, state.left_out_since
            told = f"{why}; {kept:,} of its backups lie there, and are not continued since {timestamp(since)}"
        misplaced = self._place.forbidden(tenant) is not None
        return CopyLine(
            tenant.id,
            tenant.region,
            "left_out",
            state.backup_id,
            state.recovery_point,
            None,
            state.verified_at,
            told,
            kept,
            since,
            misplaced,
        )

    def _of_platform(self, tenant: HousedTenant, state: CopyState) -> CopyLine:
        """It is backed up far less often than tenants: late is what the source has, and the copy has not, for too long."""
        store, prefix = self._place.source.backup_store(tenant)
        waits, own = list[datetime](), Keys.manifest(state.backup_id or "")
        with suppress(StoreError):  # the source is gone: what was verified is what there is
            listing = listed(store, prefix, Keys.MANIFESTS)
            waits = [
                info.modified for info in listing if manifest_id(info.key[len(prefix) :]) and info.key > prefix + own
            ]
        lag = round(max((self._now - min(waits)).total_seconds(), 0.0), 1) if waits else 0.0
        standing: Standing = "never" if state.backup_id is None else "behind" if lag > self.objective_s else "current"
        why = ""
        if state.error is not None:
            standing, why = "failed", str(state.error)
        return CopyLine(
            tenant.id, tenant.region, standing, state.backup_id, state.recovery_point, lag, state.verified_at, why
        )
