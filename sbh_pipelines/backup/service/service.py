"""The one composition root: what Dagster, the CLI, the REST API and the Python API all call.

from sbh_pipelines.backup.service import backup_service
from sbh_pipelines.security.policy import Role, UserContext

admin = UserContext(user_id="admin", tenant_id="tenant-1", role=Role.ADMIN)
result = backup_service.create_backup("tenant-1", admin, "full")
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from sbh_pipelines.backup.create.drafts import OpenDrafts
from sbh_pipelines.backup.restore.plan import RestorePlan
from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.restore.result import RestoreResult
from sbh_pipelines.backup.service.approvals import Approvals
from sbh_pipelines.backup.service.audit import Audit
from sbh_pipelines.backup.service.backups import Backups
from sbh_pipelines.backup.service.exports import Exports
from sbh_pipelines.backup.service.gate import Gate, Launches
from sbh_pipelines.backup.service.keys import Keys
from sbh_pipelines.backup.service.platform import PlatformBackups
from sbh_pipelines.backup.service.restores import Restores
from sbh_pipelines.backup.service.retention import Retention
from sbh_pipelines.backup.service.tenants import Tenants
from sbh_pipelines.backup.service.tokens import TokenIssue
from sbh_pipelines.backup.service.upkeep.copies import Copies
from sbh_pipelines.backup.service.upkeep.drills import Drills
from sbh_pipelines.backup.service.upkeep.health import Health
from sbh_pipelines.backup.service.upkeep.journal import ChangeJournal
from sbh_pipelines.backup.service.upkeep.moves import Moves
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.document import as_document
from sbh_pipelines.model import BackupType, Clock, ProgressSink, no_progress, utc_now
from sbh_pipelines.security.policy import ALL_TENANTS, Role, UserContext
from sbh_pipelines.settings import Settings, load_settings

_WHOLE = RestoreRequest()


class BackupService:
    """One site's backups, restores and what belongs to them, a facet per noun. Thread-safe.

    The methods are the specification's own names; each delegates to the facet that says more.

    Attributes:
        settings: the settings of the site
        tenants: who there is
        backups: made, listed, validated
        restores: planned, run, undone
        approvals: restores that need a second person
        retention: forget, pins, holds, prune
        platform: what tenants share, and recovery after complete failure
        drills: rehearsed restores and their report
        exports: data taken out of backups
        keys: rotation, erasure
        audit: the trails
        health: health, metrics
        journal: what changes between two backups
        copies: the backups once more, in another place
        moves: tenants that go to another site
        tokens: bearer tokens
        launches: what a face asks before it launches long work
    """

    def __init__(self, settings: Settings, *, clock: Clock = utc_now, site: Site | None = None) -> None:
        """`site`: what the service works with, where a caller has one already; it is over `settings` then."""
        self.settings = settings
        self._site = site or Site(settings, clock)
        self._copies: dict[str, BackupService] = {}
        self.tenants = Tenants(self._site)
        gate, drafts = Gate(self._site, self.tenants), OpenDrafts(self._site)
        self.backups = Backups(gate, drafts)
        self.approvals = Approvals(gate, self.backups.moments)
        self.restores = Restores(gate, self.approvals, self.backups.moments)
        self.retention = Retention(gate)
        self.platform = PlatformBackups(gate, drafts)
        self.drills = Drills(gate)
        self.exports = Exports(gate, self.backups.moments)
        self.keys = Keys(gate)
        self.audit = Audit(gate)
        self.health = Health(gate)
        self.journal = ChangeJournal(gate, self.backups.manifest_cache)
        self.copies = Copies(gate)
        self.moves = Moves(gate, self.backups)
        self.tokens = TokenIssue(gate)
        self.launches = Launches(gate)
        # The specification's names.
        self.open_backup = self.exports.open

    def at_copy(self, name: str) -> "BackupService":
        """The service over a copy's backups, made once: it reads the copy's buckets with the copy's keys, and nothing else.

        Lists, validates, restores, exports, drills, and reads the audit trails. What is decided where backups are made (to make
        and to forget them, holds, keys, erasure) raises NotPrimary. Database and application files are those of the settings.
        The copy that is the primary is this service itself. Raises SettingsError where there is no copy of this name.
        """
        if name == self.settings.primary:
            return self
        if name not in self._copies:
            site = self._site.copy(name)
            self._copies.setdefault(name, BackupService(site.settings, site=site))
        return self._copies[name]

    def create_backup(
        self,
        tenant_id: str,
        user_ctx: UserContext,
        backup_type: str = BackupType.FULL,
        description: str | None = None,
        progress: ProgressSink = no_progress,
    ) -> dict[str, Any]:
        """Back up one tenant; the manifest's document. See `Backups.create`."""
        return dict(self.backups.create(tenant_id, user_ctx, backup_type, description, progress).document)

    def list_backups(self, tenant_id: str, user_ctx: UserContext) -> list[dict[str, Any]]:
        """The documents of all manifests of a tenant, newest first. See `Backups.of`."""
        return [dict(manifest.document) for manifest in self.backups.of(tenant_id, user_ctx)]

    def get_backup(self, backup_id: str, tenant_id: str, user_ctx: UserContext) -> dict[str, Any]:
        """A manifest's document; `latest` is the newest. See `Backups.get`."""
        return dict(self.backups.get(backup_id, tenant_id, user_ctx).document)

    def validate_backup(
        self,
        backup_id: str,
        tenant_id: str,
        user_ctx: UserContext,
        deep: bool = False,
        progress: ProgressSink = no_progress,
    ) -> dict[str, Any]:
        """{'valid': bool, 'issues': [{code, what, on, why, remedy}], ...}. See `Backups.validate`."""
        return dict(as_document(self.backups.validate(backup_id, tenant_id, user_ctx, deep, progress)))

    def get_backup_status(
        self, backup_id: str, tenant_id: str | None = None, user_ctx: UserContext | None = None
    ) -> dict[str, Any]:
        """{'backup_id', 'tenant_id', 'status': running | completed | failed, 'error'?}. See `Backups.status`."""
        return dict(as_document(self.backups.status(backup_id, tenant_id, user_ctx)))

    def restore_backup(
        self,
        backup_id: str,
        tenant_id: str,
        user_ctx: UserContext,
        *,
        request: RestoreRequest = _WHOLE,
        confirm: bool = True,
        validate_only: bool = False,
        keep_extra_files: bool | None = None,
        into_database: str | None = None,
        into_password: str | None = None,
        approval_id: str | None = None,
        break_glass: str | None = None,
        progress: ProgressSink = no_progress,
    ) -> dict[str, Any]:
        """The call is the confirmation: live rows and files are written over.

        What was done, and the proof. With `validate_only` nothing is written, and the answer is the plan. See `Restores.run` and
        `Restores.plan`.
        """
        if keep_extra_files is not None:
            request = replace(request, keep_extra_files=keep_extra_files)
        whose = (backup_id, tenant_id, user_ctx, request)
        done: RestorePlan | RestoreResult
        if validate_only:
            done = self.restores.plan(
                *whose, into_database=into_database, into_password=into_password, progress=progress
            )
        else:
            done = self.restores.run(
                *whose,
                confirm=confirm,
                into_database=into_database,
                into_password=into_password,
                approval_id=approval_id,
                break_glass=break_glass,
                progress=progress,
            )
        return dict(as_document(done))

    def get_restore_status(
        self, restore_id: str, tenant_id: str | None = None, user_ctx: UserContext | None = None
    ) -> dict[str, Any]:
        """{'restore_id', 'status': running | completed | failed | interrupted, 'progress': percent, 'error'?, ...}.

        Raises UnknownRestore.
        """
        return dict(as_document(self.restores.status(restore_id, tenant_id, user_ctx)))

    def check_backup_health(self, user_ctx: UserContext, tenant_id: str | None = None) -> dict[str, Any]:
        """{'backup_service': healthy | degraded | unhealthy, each check, 'issues', ...}. See `Health.check`."""
        return dict(as_document(self.health.check(user_ctx, tenant_id)))

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
    """The specification's health check, of all tenants; see `Health.check`."""
    return load_service().check_backup_health(UserContext("health-check", ALL_TENANTS, Role.VIEWER))
