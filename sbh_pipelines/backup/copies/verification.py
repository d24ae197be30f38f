"""Is a tenant whole at a copy? Asked of the copy alone: its buckets, its keys, its catalog.

The newest backup that can be read there counts, and its recovery point is the copy's; where it is not whole, an older one
counts, and what is wrong with the newer is said. Ordinary: signature, documents, and that every pack is there with its size,
which a listing tells. Deep: everything is downloaded, hashed and opened, of every backup there: what only an older one needs is
damaged as easily. A pack is downloaded once; what else older backups have in it is proved by its hash.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sbh_pipelines.backup.contents.manifest import Manifest
from sbh_pipelines.backup.contents.manifests import read_manifest
from sbh_pipelines.backup.contents.ownership import is_own
from sbh_pipelines.backup.contents.verification import verify_backup
from sbh_pipelines.backup.copies.place import CopyPlace, open_copy
from sbh_pipelines.backup.copies.state import CopyState, CopyStates, found_wrong, point_of
from sbh_pipelines.backup.copies.worklist import Home, Work, backups_there, housed_platform, left_state, work_of
from sbh_pipelines.backup.site.owners import is_bound
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import streamed
from sbh_pipelines.errors import CopyUnverified, CorruptObject, KeyUnopened, SbhError, StoreError, UnknownBackup
from sbh_pipelines.model import (
    BackupId,
    HousedTenant,
    Progress,
    ProgressSink,
    Tenant,
    TenantId,
    no_progress,
    parse_timestamp,
)
from sbh_pipelines.repository.catalog.records import TenantRecord
from sbh_pipelines.repository.repository import Repository

_TRIES = 8  # backups that are looked at, newest first, until one is whole
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class VerifiedCopy:
    """One tenant at a copy, as the copy alone tells.

    Attributes:
        tenant_id: Its slug.
        region: The region whose tenant it is.
        backup_id: The newest backup that is whole there; None where nothing of the tenant is there, or none is whole.
        recovery_point: Its recovery point, UTC, or that of a later tick that found the tenant unchanged.
        deep: Whether everything was downloaded and opened.
        objects: Documents, index objects and packs that were looked at.
        bytes: Bytes that were downloaded of packs.
        seconds: How long it took.
        error: What is wrong: with the newest backup, or with all of them; None where nothing is.
    """

    tenant_id: TenantId
    region: str
    backup_id: str | None
    recovery_point: datetime | None
    deep: bool
    objects: int
    bytes: int
    seconds: float
    error: SbhError | None = None

    @property
    def valid(self) -> bool:
        return self.error is None


@dataclass(frozen=True, slots=True)
class CopyVerification:
    """What a verification of a copy found.

    Attributes:
        name: The copy's name.
        deep: Whether everything was downloaded and opened.
        valid: Whether nothing is wrong with any tenant that is copied.
        tenants: Each tenant that was looked at.
        left_out: Why the others are not copied, by slug.
        issues: What else could not be asked, or recorded.
        seconds: How long it took.
        unlisted: Why the application did not say who its tenants are, so that the catalogs were gone by; None where it did.
    """

    name: str
    deep: bool
    valid: bool
    tenants: Sequence[VerifiedCopy]
    left_out: Mapping[TenantId, str]
    issues: Sequence[SbhError]
    seconds: float
    unlisted: SbhError | None = None


def verify_tenant(
    place: CopyPlace,
    tenant: Tenant,
    *,
    deep: bool = False,
    backup_id: str | None = None,
    records: Mapping[TenantId, TenantRecord] | None = None,
    progress: ProgressSink = no_progress,
) -> VerifiedCopy:
    """What of a tenant is whole at the copy. Reads `place.target` alone.

    `backup_id`: look at this backup, and at no other. `records`: what the copy's catalog says, by the repository's name, where
    it was read already. Raises CopyUnverified where no backup is whole, naming what is wrong with the newest; the errors of
    a copy that cannot be reached.
    """
    begun, target = time.monotonic(), place.target
    home = target.owners.home_of(tenant)
    tried = _Tried(place, tenant, deep)
    try:
        with target.repository(tenant) as repository:
            found = tried.newest(repository, backup_id, progress)
    except UnknownBackup:  # nothing of the tenant is there: not even its keys
        if backup_id is not None:
            raise
        return _result(tenant, None, None, tried, begun)
    except (CorruptObject, KeyUnopened) as damage:  # a key object, or a document that says whose the repository is
        raise unverified(place, damage) from None
    if found is None:
        error = tried.error
        if error is None:
            error = CopyUnverified(
                "No backup of a tenant is at the copy",
                on=f"{tenant.id} at {place.name}",
                why="its keys are there, and no manifest of its own is",
                remedy=_remedy(place),
            )
        raise error
    if records is None:
        records = target.catalog(tenant.region).read([TenantId(home)])
    own = parse_timestamp(found.point_time or found.created_at)
    return _result(tenant, found, point_of(own, found.id, tenant.key, records.get(TenantId(home))), tried, begun)


class _Tried:
    """Looks at one backup after the other, newest first, and remembers what is wrong with the newest."""

    def __init__(self, place: CopyPlace, tenant: Tenant, deep: bool) -> None:
        self._place, self._tenant, self.deep = place, tenant, deep
        self.error: SbhError | None = None
        self.objects = self.bytes = 0
        self._packs = set[bytes]()  # that were read and are whole

    def newest(self, repository: Repository, backup_id: str | None, progress: ProgressSink) -> Manifest | None:
        """The newest backup that is whole; None where none is. Deep, the older ones are looked at as well."""
        ids = repository.manifest_ids() if backup_id is None else [BackupId.parse(backup_id)]
        tries, loaded, newest = 0, False, None
        for each in reversed(ids):
            try:
                manifest = read_manifest(repository, each)
            except CorruptObject as damage:
                self._wrong(damage)
                tries += 1
                manifest = None
            except UnknownBackup:
                if backup_id is not None:
                    raise
                continue  # the copy's own retention removed it since it was listed
            if manifest is not None:
                if backup_id is None and (manifest.is_aside or not self._own(repository, manifest)):
                    continue
                if not loaded:
                    repository.load_index()
                    loaded = True
                if self._whole(repository, manifest, progress):
                    newest = newest or manifest
                    if not self.deep:
                        break
                else:
                    tries += 1
            if tries >= _TRIES and not self.deep:
                break
        return newest

    def _own(self, repository: Repository, manifest: Manifest) -> bool:
        """Where it is not known whose the repository is, as of the platform's, whatever is in it is its own."""
        if not self._tenant.key or not is_bound(self._tenant):
            return True
        try:
            return is_own(repository, manifest, self._tenant.key)
        except CorruptObject as damage:
            self._wrong(damage)
            return False

    def _whole(self, repository: Repository, manifest: Manifest, progress: ProgressSink) -> bool:
        found = verify_backup(repository, manifest, deep=self.deep, own_only=True, whole=self._packs, progress=progress)
        self.objects += found.objects
        self.bytes += found.bytes
        for issue in found.issues:
            if issue.transient:  # of a store that does not answer nothing is said
                raise issue
        if found.issues and manifest.id in repository.manifest_ids():  # else it was forgotten while it was read
            self._wrong(found.issues[0], len(found.issues), manifest.id)
        return found.valid

    def _wrong(self, error: SbhError, number: int = 1, backup_id: str = "") -> None:
        if self.error is None:
            self.error = unverified(self._place, error, number, backup_id)


def unverified(place: CopyPlace, error: SbhError, number: int = 1, backup_id: str = "") -> CopyUnverified:
    """The error that says of a copy what `error` says of an object; `number`: of how many it is the first."""
    more = f", and {number - 1:,} more" if number > 1 else ""
    why = f"{error.what}: {error.why}" if error.why else error.what
    of = f"{backup_id}: " if backup_id else ""
    return CopyUnverified(
        "A backup is not whole at the copy", on=error.on or place.name, why=f"{of}{why}{more}", remedy=_remedy(place)
    )


def _remedy(place: CopyPlace) -> str:
    if place.settings.kind == "external":
        return f"bring it there by what copies the bucket; then `sbh copies verify {place.name}`"
    return f"sbh copies run {place.name}"


def _result(
    tenant: Tenant, manifest: Manifest | None, point: datetime | None, tried: _Tried, begun: float
) -> VerifiedCopy:
    return VerifiedCopy(
        tenant.id,
        tenant.region,
        None if manifest is None else str(manifest.id),
        point,
        tried.deep,
        tried.objects,
        tried.bytes,
        round(time.monotonic() - begun, 3),
        tried.error,
    )


def verify_against(
    place: CopyPlace,
    tenant: HousedTenant,
    before: CopyState | None,
    *,
    deep: bool = False,
    records: Mapping[TenantId, TenantRecord] | None = None,
    expected: bool = False,
    progress: ProgressSink = no_progress,
) -> tuple[VerifiedCopy, CopyState]:
    """What is whole at the copy, and the state to record. Raises nothing of the tree: it is the `error` of both.

    `before`: what was known of the tenant there. What was whole and is gone is an error, also where an older backup is whole. What
    only reading everything found is an error until that finds it no more. `expected`: whether the tenant has backups. Of a copy
    that something else makes nothing else would tell that it never began.
    """
    begun, now, home = time.monotonic(), place.source.clock(), tenant.home
    before = before if before is not None and before.tenant_key == tenant.key else None
    try:
        found = verify_tenant(place, tenant, deep=deep, records=records, progress=progress)
    except SbhError as error:
        took = round(time.monotonic() - begun, 3)
        found = VerifiedCopy(tenant.id, tenant.region, None, None, deep, 0, 0, took, error)
        if not isinstance(
            error, CopyUnverified
        ):  # not reached: what was whole there is so until something else is seen
            known = (before.backup_id, before.recovery_point, before.verified_at) if before else (None, None, None)
            state = CopyState(home, tenant.key, *known, *found_wrong(before, error), now, tenant.tier)
            return found, replace(state, anew_at=before.anew_at if before else None)
    if (
        before is not None
        and before.backup_id is not None
        and found.error is None
        and (found.backup_id or "") < before.backup_id
    ):
        gone = CopyUnverified(
            "A backup that was at the copy is gone",
            on=f"{before.backup_id} of {tenant.id} at {place.name}",
            why=f"the newest that is whole there is {found.backup_id}" if found.backup_id else "no backup is there",
            remedy=_remedy(place),
        )
        found = replace(found, error=gone)
    if expected and found.backup_id is None and found.error is None and place.settings.kind == "external":
        never = CopyUnverified(
            "Nothing of a tenant is at the copy",
            on=f"{tenant.id} at {place.name}",
            why="it has backups, and what copies the bucket brought none of them",
            remedy=_remedy(place),
        )
        found = replace(found, error=never)
    if not deep and found.error is None and before is not None and before.deep:
        found = replace(found, error=before.error)
    by_reading = found.error is not None and (deep or (before is not None and before.deep))
    at = now if found.backup_id else None
    seen = (found.backup_id, found.recovery_point, at, found.error, by_reading, now)
    anew_at = before.anew_at if before is not None and found.error is not None else None
    return found, CopyState(home, tenant.key, *seen, tenant.tier, anew_at=anew_at)


def verify_copy(
    site: Site,
    name: str,
    tenants: Sequence[Tenant],
    *,
    everyone: bool = False,
    unlisted: SbhError | None = None,
    deep: bool = False,
    progress: ProgressSink = no_progress,
) -> CopyVerification:
    """Verify tenants at a copy and record what was found; `everyone`, `unlisted`: as of `run_copy`. Errors are in the result.

    Raises SettingsError where there is no copy of this name.
    """
    begun, place = time.monotonic(), open_copy(site, name)
    found = _Verifying(place, deep, progress)
    for region in place.regions:
        theirs = [tenant for tenant in tenants if tenant.region == region]
        if theirs or everyone:
            found.region(region, theirs, everyone, unlisted is None)
    for tenant in tenants:
        if tenant.region not in place.regions and (why := place.left_out(tenant)) is not None:
            found.left_out[tenant.id] = why
    valid = all(one.valid for one in found.results)
    took = round(time.monotonic() - begun, 3)
    return CopyVerification(name, deep, valid, found.results, found.left_out, found.issues, took, unlisted)


class _Verifying:
    """One verification of a copy, region by region."""

    def __init__(self, place: CopyPlace, deep: bool, progress: ProgressSink) -> None:
        self._place, self._deep, self._progress = place, deep, progress
        self._total = 0
        self.results = list[VerifiedCopy]()
        self.issues = list[SbhError]()
        self.left_out = dict[TenantId, str]()

    def region(self, region: str, tenants: Sequence[Tenant], everyone: bool, listed: bool) -> None:
        place, recorder, known = self._place, CopyStates(self._place), dict[str, CopyState]()
        try:
            known = dict(recorder.read(region))
            self.issues += recorder.damages
        except SbhError as error:  # the source may be gone: that is what copies are for
            if error is not recorder.source_error:
                self.issues.append(error)
        work = work_of(place, region, tenants, known, everyone=everyone, listed=listed)
        away = recorder.source_error
        if away is not None:
            self.issues.append(away)
        self._note(away, *work.issues)
        for tenant, failure in work.failed:
            self.results.append(VerifiedCopy(tenant.id, region, None, None, self._deep, 0, 0, 0.0, failure))
        homes = [home for home in work.homes if home.left_out is None]
        platform = housed_platform(place)
        if everyone and platform.region == region and backups_there(place, platform):
            homes.append(Home(platform, "", None))
        self._total += len(homes)
        asked = not isinstance(away, StoreError)

        def one(home: Home) -> tuple[VerifiedCopy, CopyState]:
            tenant = home.tenant
            expected = not home.ended and (TenantId(tenant.home) in work.records or not asked)
            state = known.get(tenant.home)
            sink = self._progress if len(homes) == 1 else no_progress  # of many tenants each that is done is told
            return verify_against(
                place, tenant, state, deep=self._deep, records=work.there, expected=expected, progress=sink
            )

        found = list[CopyState]()
        for verified, state in streamed(one, homes, name="copies", threads=_AT_ONCE, ahead=_AT_ONCE + 1):
            self.results.append(verified)
            found.append(state)
            self._progress(Progress("verify", place.name, len(self.results), self._total, "tenants"))
        found += self._left(work, known)
        try:
            recorder.record(region, found)
        except SbhError as error:
            self._note(away, error)

    def _note(self, away: SbhError | None, *issues: SbhError) -> None:
        """A source that is `away` is said once, whatever else it would be asked for."""
        others = [one for one in issues if away is None or one.code != away.code]
        self.issues += [one for one in others if str(one) not in map(str, self.issues)]

    def _left(self, work: Work, known: Mapping[str, CopyState]) -> Iterator[CopyState]:
        """Of what is left out: whether something of it is there. States that were lost come back so."""
        for home in work.homes:
            if home.left_out is None:
                continue
            self.left_out[home.tenant.id] = home.left_out
            try:
                if home.tenant.home in known or not backups_there(self._place, home.tenant):
                    continue
                now, tenant = self._place.source.clock(), home.tenant
                blank = CopyState(
                    tenant.home, tenant.key, None, None, None, None, False, now, tenant.tier, home.left_out
                )
                after = left_state(self._place, home, blank)
            except SbhError as error:
                self.issues.append(error)
                continue
            if after is not None:
                yield after
