"""The one composition root: what Dagster, the CLI, the REST API and the Python API all call.

from sbh_pipelines.backup.service import backup_service
from sbh_pipelines.security.policy import Role, UserContext

admin = UserContext(user_id="admin", tenant_id="tenant-1", role=Role.ADMIN)
result = backup_service.create_backup("tenant-1", admin, "full")
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from typing import Any

from sbh_pipelines.backup.contents.manifests import read_manifest, resolve_backup
from sbh_pipelines.backup.contents.verification import Validation, Verification, verify_backup
from sbh_pipelines.backup.create import drafts as making
from sbh_pipelines.backup.create.draft import Draft
from sbh_pipelines.backup.create.files_step import enumerate_files
from sbh_pipelines.backup.create.publish import verify_checksums, write_manifest
from sbh_pipelines.backup.create.recovery_points import (
    LatestPoint,
    RecoveryPoints,
    latest_recovery_point,
    recovery_points,
)
from sbh_pipelines.backup.create.snapshot_step import skip_unchanged, snapshot_tables
from sbh_pipelines.backup.create.status import backup_status, the_only
from sbh_pipelines.backup.retain import forget as forgetting
from sbh_pipelines.backup.service.audit import Auditing
from sbh_pipelines.backup.service.backups import Reading
from sbh_pipelines.backup.service.drills import Drilling
from sbh_pipelines.backup.service.exports import Exporting
from sbh_pipelines.backup.service.health import Health
from sbh_pipelines.backup.service.keys import KeyKeeping
from sbh_pipelines.backup.service.launches import Launching
from sbh_pipelines.backup.service.platform import Platform
from sbh_pipelines.backup.service.restores import Restoring
from sbh_pipelines.backup.service.tokens import Issuing
from sbh_pipelines.database.schema.tenants import list_tenants
from sbh_pipelines.document import as_document
from sbh_pipelines.errors import (
    CorruptObject,
    KeyServiceError,
    SbhError,
    UnknownBackup,
    error_from_dict,
)
from sbh_pipelines.model import BackupId, BackupType, ProgressSink, Tenant, TenantId, no_progress
from sbh_pipelines.security.policy import ALL_TENANTS, Role, UserContext
from sbh_pipelines.settings import load_settings


class BackupService(
    Reading, Launching, Restoring, Exporting, Drilling, Auditing, Platform, Health, KeyKeeping, Issuing
):
    """Backups of tenants: made, listed, validated, restored. Thread-safe.

    Methods that name one tenant raise the errors of `errors.py`; methods that take a batch return drafts, each with its
    own outcome.
    """

    # tenants

    def unusable_tenants(self) -> list[SbhError]:
        """An error for each tenant that cannot be backed up (slug malformed, shared or missing).

        Whoever backs up all tenants must raise or report these: they are in no backup.
        """
        return list(list_tenants(self.settings).unusable)

    def check_residency(self, tenant: Tenant) -> None:
        """Everything that a write of the tenant's backup checks. Raises ResidencyError, and the store's errors."""
        self._site.check_place(tenant)

    # making backups, in steps, for a batch

    def begin(
        self,
        tenant_ids: Sequence[str],
        user_ctx: UserContext,
        backup_type: str = BackupType.FULL,
        *,
        description: str | None = None,
    ) -> list[Draft]:
        """A draft for each tenant: of a full backup with its lease and id, of any other as soon as there is something to store.

        Of many incremental drafts those of unchanged tenants are found at once, in one pass. Raises AccessDenied, InvalidId,
        RequestError.
        """
        kind = BackupType.parse(backup_type)
        slugs = [TenantId.parse(t) for t in tenant_ids]
        for slug in slugs:
            self._authorize(user_ctx, "backup.create", slug)
        self._record_policy(user_ctx)
        begun = making.begin(self._shop, slugs, user_ctx.user_id, kind, description)
        drafts = [replace(draft, via=user_ctx.via) for draft in begun]
        many = len(drafts) > self.settings.backup.batch_tenants
        return self._recorded(
            [], skip_unchanged(self._shop, drafts) if many and kind is not BackupType.FULL else drafts
        )

    def snapshot_tables(self, drafts: Sequence[Draft], *, progress: ProgressSink = no_progress) -> list[Draft]:
        """Read every table once for `backup.batch_tenants` tenants, at one recovery point, and store the rows."""
        return self._recorded(drafts, snapshot_tables(self._shop, drafts, progress))

    def enumerate_files(self, drafts: Sequence[Draft], *, progress: ProgressSink = no_progress) -> list[Draft]:
        """List and store the tenants' files."""
        return self._recorded(drafts, enumerate_files(self._shop, drafts, progress))

    def write_manifest(self, drafts: Sequence[Draft]) -> list[Draft]:
        """Write the component documents and prepare the signed manifests."""
        return self._recorded(drafts, write_manifest(self._shop, drafts))

    def verify_checksums(self, drafts: Sequence[Draft], *, progress: ProgressSink = no_progress) -> list[Draft]:
        """Read back what the manifests name, then publish them: the commit."""
        return self._recorded(drafts, verify_checksums(self._shop, drafts, progress))

    def apply_retention(self, drafts: Sequence[Draft], *, dry_run: bool = False) -> list[Draft]:
        """Forget what the policy no longer keeps, release the leases; the drafts are COMPLETED, whatever goes wrong here.

        `draft.retention` says what was done, and has an `error` where it could not be.
        """
        return forgetting.apply_retention(self._shop, drafts, dry_run)

    def create_backups(
        self,
        tenant_ids: Sequence[str],
        user_ctx: UserContext,
        backup_type: str = BackupType.FULL,
        *,
        description: str | None = None,
        progress: ProgressSink = no_progress,
    ) -> list[Draft]:
        """All steps for any number of tenants, `backup.batch_tenants` at a time."""
        size = self.settings.backup.batch_tenants
        done: list[Draft] = []
        if BackupType.parse(backup_type) is BackupType.FULL:
            for first in range(0, len(tenant_ids), size):
                batch = self.begin(tenant_ids[first : first + size], user_ctx, backup_type, description=description)
                done += self._finished(batch, progress)
        else:  # nothing is held for a draft until its tenant has changed
            begun = self.begin(tenant_ids, user_ctx, backup_type, description=description)
            live = making.running(begun)
            for first in range(0, len(live), size):
                done += self._finished(live[first : first + size], progress)
            results = {draft.tenant.id: draft for draft in done}
            done = [results.get(draft.tenant.id, draft) for draft in begun]
        return done

    def _finished(self, drafts: list[Draft], progress: ProgressSink) -> list[Draft]:
        """All steps after `begin`."""
        try:
            drafts = self.snapshot_tables(drafts, progress=progress)
            drafts = self.enumerate_files(drafts, progress=progress)
            drafts = self.write_manifest(drafts)
            drafts = self.verify_checksums(drafts, progress=progress)
            drafts = self.apply_retention(drafts)  # none is running any more: nothing is left to abandon
            return drafts
        finally:
            self.abandon(drafts)

    def abandon(self, drafts: Sequence[Draft]) -> None:
        """Release the leases of drafts whose run will not go on."""
        making.abandon(self._shop, drafts)

    # the specification's calls, one tenant

    def create_backup(
        self,
        tenant_id: str,
        user_ctx: UserContext,
        backup_type: str = BackupType.FULL,
        description: str | None = None,
        progress: ProgressSink = no_progress,
    ) -> dict[str, Any]:
        """Back up one tenant; the manifest. Raises the error that made it fail.

        Where an incremental or differential backup finds nothing changed, the manifest of the backup that still describes the
        tenant, with `unchanged_as_of`, the recovery point at which it was found so.
        """
        (draft,) = self.create_backups([tenant_id], user_ctx, backup_type, description=description, progress=progress)
        if draft.error is not None:
            raise error_from_dict(draft.error)
        if draft.unchanged_since is not None and draft.recovery_point is not None:
            manifest = self._manifest(draft.tenant, draft.unchanged_since)
            return {**manifest, "unchanged_as_of": asdict(draft.recovery_point)}
        assert draft.manifest is not None
        return dict(draft.manifest.document)

    def list_backups(self, tenant_id: str, user_ctx: UserContext) -> list[dict[str, Any]]:
        """The manifests of all backups of a tenant, newest first; [] where there are none.

        One whose manifest is damaged is not among them: see `damaged_backups`.
        """
        return self._listed(tenant_id, user_ctx)[0]

    def damaged_backups(self, tenant_id: str, user_ctx: UserContext) -> list[SbhError]:
        """An error for each backup of a tenant whose manifest cannot be read. Whoever lists backups must show these."""
        return self._listed(tenant_id, user_ctx, record=False)[1]

    def get_backup(self, backup_id: str, tenant_id: str, user_ctx: UserContext) -> dict[str, Any]:
        """A manifest; `latest` is the newest. Raises UnknownBackup, CorruptObject."""
        tenant = self._allowed(tenant_id, user_ctx, "backup.list")
        manifest = self._manifest(tenant, backup_id)
        self._accessed(tenant, user_ctx, "get", backup_id=manifest["id"])
        return manifest

    def _manifest(self, tenant: Tenant, backup_id: str) -> dict[str, Any]:
        repository = self._site.repository(tenant)
        try:
            manifest: dict[str, Any] = repository.manifest(resolve_backup(repository, backup_id))
            return manifest
        finally:
            repository.close()

    def latest_recovery_point(self, tenant_id: str, user_ctx: UserContext) -> LatestPoint:
        """Up to when the tenant is safe.

        Raises UnknownBackup where the tenant has no backups, CorruptObject where none can be read.
        """
        tenant = self._allowed(tenant_id, user_ctx, "backup.list")
        self._accessed(tenant, user_ctx, "recovery point")
        return latest_recovery_point(self._site, tenant)

    def recovery_points(self, tenant_ids: Sequence[str], user_ctx: UserContext) -> RecoveryPoints:
        """The same for several tenants at the cost of one listing each; for none given, all that the caller may see."""
        tenants = [self._allowed(t, user_ctx, "backup.list") for t in tenant_ids]
        if not tenant_ids:
            tenants = [t for t in self.tenants() if user_ctx.tenant_id in (ALL_TENANTS, t.id)]
        return recovery_points(self._site, tenants)

    def validate_backup(
        self,
        backup_id: str,
        tenant_id: str,
        user_ctx: UserContext,
        deep: bool = False,
        progress: ProgressSink = no_progress,
    ) -> dict[str, Any]:
        """{'valid': bool, 'issues': [{code, what, on, why, remedy}], ...}; damage is reported, not raised.

        Raises UnknownBackup, UnknownTenant, and errors of reaching the store.
        """
        tenant = self._allowed(tenant_id, user_ctx, "backup.validate")
        result = Verification(backup_id, deep)
        try:
            repository = self._site.repository(tenant)
            try:
                wanted = resolve_backup(repository, backup_id)
                result = Verification(wanted, deep)
                manifest = read_manifest(repository, wanted)
                repository.load_index()
                result = verify_backup(repository, manifest, deep=deep, progress=progress)
            finally:
                repository.close()
        except (CorruptObject, KeyServiceError) as error:
            if error.transient:
                raise
            result.found(error)
        told = {"backup_id": result.backup_id, "deep": deep, "valid": result.valid}
        codes = sorted({issue.code for issue in result.issues})
        self._site.track(
            tenant, "backup.validated", user_ctx.user_id, {**told, "issues": len(result.issues), "codes": codes}
        )
        document: dict[str, Any] = as_document(Validation.of(tenant.id, result))
        return document

    # status

    def get_backup_status(
        self, backup_id: str, tenant_id: str | None = None, user_ctx: UserContext | None = None
    ) -> dict[str, Any]:
        """{'backup_id', 'tenant_id', 'status': running | completed | failed, 'error'?}.

        Backup ids are unique within a tenant only: without `tenant_id` the tenants are searched, and several hits raise
        RequestError. Raises UnknownBackup.
        """
        wanted = BackupId.parse(backup_id)
        found = [
            (tenant, status)
            for tenant in self._candidates(tenant_id, user_ctx)
            if (status := backup_status(self._site, tenant, wanted)) is not None
        ]
        missing = UnknownBackup("No such backup", on=wanted, remedy="see `sbh backup list`")
        tenant, status = the_only(found, missing)
        self._accessed(tenant, user_ctx, "status", backup_id=wanted)
        document: dict[str, Any] = as_document(status)
        return document

    def request_counts(self) -> Mapping[str, int]:
        """Calls made to object stores so far, by verb."""
        return self._site.request_counts()


@cache
def load_service() -> BackupService:
    """The service of the settings file that SBH_SETTINGS names; made once per process."""
    return BackupService(load_settings())


class _LazyService:
    """Stands for the service; settings are read at the first use, so that importing does no I/O."""

    def __getattr__(self, name: str) -> Any:
        return getattr(load_service(), name)

    def __repr__(self) -> str:
        return "backup_service"


backup_service: BackupService = _LazyService()  # type: ignore[assignment]


def check_backup_health() -> dict[str, Any]:
    """The specification's health check, of all tenants; see `BackupService.check_backup_health`."""
    return load_service().check_backup_health(UserContext("health-check", ALL_TENANTS, Role.VIEWER))
