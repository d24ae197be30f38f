"""The service's calls about the platform as a whole: its backup, and the recovery of everything."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime

from sbh_pipelines.backup.approvals import checked_reason
from sbh_pipelines.backup.contents.manifest import Manifest
from sbh_pipelines.backup.contents.verification import Validation, verify_backup
from sbh_pipelines.backup.create.drafts import OpenDrafts
from sbh_pipelines.backup.create.events import created_props
from sbh_pipelines.backup.recover.platform_backup import (
    PlatformBackup,
    create_platform_backup,
    list_platform_backups,
    open_platform,
)
from sbh_pipelines.backup.recover.recovery import RecoveryReport, known_tenants, rebuild
from sbh_pipelines.backup.recover.tenant import TenantChoice
from sbh_pipelines.backup.service.gate import Gate
from sbh_pipelines.backup.site.audit_trails import noted
from sbh_pipelines.database.session.connection import describe_dsn
from sbh_pipelines.database.session.targets import named
from sbh_pipelines.errors import ApprovalNeeded, NotConfirmed, RequestError, SbhError, UnknownTenant
from sbh_pipelines.model import BackupId, ProgressSink, TenantId, no_progress
from sbh_pipelines.security.policy import ALL_TENANTS, UserContext


class PlatformBackups:
    """The platform as a whole: its backup, and the recovery of everything. For users of the platform (tenant `*`) only."""

    def __init__(self, gate: Gate, drafts: OpenDrafts) -> None:
        self._gate, self._site = gate, gate.site
        self._drafts = drafts

    def create(self, user_ctx: UserContext, progress: ProgressSink = no_progress) -> PlatformBackup:
        """Back up what tenants share: schema, shared rows, roles, sequences.

        Raises SettingsError (pg_dump is missing or too old), PrivilegeMissing, LeaseHeld.
        """
        self._gate.authorize(user_ctx, "platform.backup", ALL_TENANTS)
        self._site.primary_only("platform.backup")
        self._site.fence.check()
        try:
            made = create_platform_backup(self._drafts, user_ctx.user_id, progress)
        except SbhError as error:
            with noted(error):
                self._gate.track_platform("platform.backup_failed", user_ctx, {"code": error.code, "what": error.what})
            raise
        with suppress(SbhError):  # the backup is committed, and stays
            self._gate.track_platform("platform.backup_created", user_ctx, created_props(made.manifest))
            if forgotten := made.retention.forgotten:
                self._gate.track_platform("platform.backup_deleted", user_ctx, {"backup_ids": list(forgotten)[:1000]})
        return made

    def backups(self, user_ctx: UserContext) -> list[Manifest]:
        """The manifests of all platform backups, newest first. See `damaged` for the others."""
        self._gate.authorize(user_ctx, "platform.backup", ALL_TENANTS)
        self._gate.track_platform("platform.backup_accessed", user_ctx, {"what": "list"})
        return list_platform_backups(self._site)[0]

    def damaged(self, user_ctx: UserContext) -> list[SbhError]:
        """An error for each platform backup whose manifest cannot be read. A list of backups must show these."""
        self._gate.authorize(user_ctx, "platform.backup", ALL_TENANTS)
        return list_platform_backups(self._site)[1]

    def validate(
        self,
        user_ctx: UserContext,
        backup_id: str = "latest",
        deep: bool = False,
        progress: ProgressSink = no_progress,
    ) -> Validation:
        """Check a platform backup; damage is reported, not raised.

        Raises UnknownBackup, and CorruptObject where it cannot be opened.
        """
        self._gate.authorize(user_ctx, "platform.backup", ALL_TENANTS)
        with open_platform(self._site, backup_id, None, lambda _: None) as platform:
            found = verify_backup(platform.repository, platform.manifest, deep=deep, progress=progress)
        props = {"backup_id": platform.id, "deep": deep, "valid": found.valid}
        self._gate.track_platform("platform.backup_validated", user_ctx, props)
        return Validation.of(None, found)

    def recover(
        self,
        dsn: str,
        user_ctx: UserContext,
        *,
        password: str | None = None,
        platform: str = "latest",
        tenants: Sequence[str] = (),
        until: datetime | None = None,
        files: bool = True,
        owners: bool = True,
        accept_schema_changes: bool = False,
        confirm: bool = False,
        break_glass: str | None = None,
        progress: ProgressSink = no_progress,
    ) -> RecoveryReport:
        """Build the empty database `dsn` from the platform backup and the tenants' backups.

        `tenants` are slugs, or `slug=backup_id`; none: all. `password` is that of `dsn`; None: what `dsn` names
        (a passfile, a service), and `database.password` where it is the server of `database.dsn`.
        `accept_schema_changes` brings tenants whose backup is newer than the schema without what that has no place for.
        Where the settings want a second person, files go over the tenants' own only with `break_glass`, a reason.
        Raises RequestError (`dsn` itself holds a password), NotConfirmed, ApprovalNeeded, UnknownTenant, and what `rebuild` raises.
        """
        self._gate.authorize(user_ctx, "platform.restore", ALL_TENANTS)
        target = named(self._site.settings.database, dsn, password)
        if not confirm:
            raise NotConfirmed(
                "A recovery builds a database and puts files back over the tenants' own, and was not confirmed",
                on=describe_dsn(dsn),
                remedy="confirm it: `--confirm` (CLI), `confirm=True` (Python)",
            )
        if until is not None and until.tzinfo is None:
            raise RequestError("A time without its zone", on=str(until), remedy="e.g. 2024-01-15T12:00:00Z")
        props = {
            "target": describe_dsn(dsn),
            "platform": platform[:64],
            "tenants": len(tenants) or "all",
            "files": files,
        }
        if files and self._site.settings.approval.restore != "none":
            self._broken_glass(user_ctx, props, break_glass)
        self._gate.track_platform("platform.restore_started", user_ctx, props)
        try:
            report = rebuild(
                self._site,
                target,
                self._named(tenants, platform, until) if tenants else None,
                platform=platform,
                files=files,
                owners=owners,
                accept=accept_schema_changes,
                until=until,
                requested_by=user_ctx.user_id,
                progress=progress,
            )
        except SbhError as error:
            with noted(error):
                self._gate.track_platform(
                    "platform.restore_failed", user_ctx, {**props, "code": error.code, "what": error.what}
                )
            raise
        with suppress(SbhError):  # what is rebuilt stays
            done = {name: getattr(report, name) for name in ("restore_id", "status", "rows", "files")}
            self._gate.track_platform("platform.restore_completed", user_ctx, {**props, **done})
        return report

    def _broken_glass(self, user_ctx: UserContext, props: Mapping[str, object], reason: str | None) -> None:
        """An approval is one tenant's, of one restore: for all of them at once there is none. Raises ApprovalNeeded."""
        if reason is None or not self._site.settings.approval.break_glass:
            raise ApprovalNeeded(
                "Another person has to approve that files go over the tenants' own",
                why="approval.restore = 'two-person'"
                + (", and approval.break_glass is off" if reason is not None else ""),
                remedy="recover the rows alone: `--no-files`, then the files by restores that are approved; or, where the"
                " settings allow it, `--break-glass REASON`",
            )
        reason = checked_reason(reason, "Breaking the glass")
        self._gate.track_platform("restore.break_glass", user_ctx, {**props, "reason": reason})

    def _named(self, tenants: Sequence[str], platform: str, until: datetime | None) -> list[TenantChoice]:
        """The tenants as the backups know them: the application's own list may be gone."""
        with open_platform(self._site, platform, until, lambda _: None) as opened:
            known = {tenant.id: tenant for tenant in known_tenants(self._site, opened, lambda _: None)}
        chosen = []
        for text in tenants:
            slug, _, backup_id = text.partition("=")
            tenant_id = TenantId.parse(slug)
            if tenant_id not in known:
                raise UnknownTenant(
                    "No backup knows this tenant", on=slug, remedy="see the tenants of `sbh platform list --json`"
                )
            chosen.append(TenantChoice(known[tenant_id], BackupId.parse(backup_id) if backup_id else "latest"))
        return chosen
