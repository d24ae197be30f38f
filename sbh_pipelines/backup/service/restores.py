"""The service's calls about restores: plan, restore, undo, look at an old state beside the live one, status."""

from dataclasses import replace
from typing import Any

from sbh_pipelines.backup.contents.manifests import resolve_backup
from sbh_pipelines.backup.create.status import the_only
from sbh_pipelines.backup.restore.events import planned
from sbh_pipelines.backup.restore.into_schema import into_schema
from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.restore.restore import Target, plan_restore, restore_in_place, target_of
from sbh_pipelines.backup.restore.status import list_restores, read_restore_status, what_undoes
from sbh_pipelines.backup.service.approvals import Approvals, restore_subject, undo_subject
from sbh_pipelines.backup.service.gate import Gate
from sbh_pipelines.backup.site.audit_trails import noted
from sbh_pipelines.errors import NotConfirmed, RequestError, SbhError, UnknownBackup
from sbh_pipelines.model import BackupId, MergeMode, ProgressSink, RestoreId, Tenant, no_progress
from sbh_pipelines.security.policy import UserContext

_WHOLE = RestoreRequest()


class Restores:
    """Restores of one tenant: planned, run, undone, looked up."""

    def __init__(self, gate: Gate, approvals: Approvals) -> None:
        self._gate, self._site = gate, gate.site
        self._approvals = approvals

    def plan(
        self,
        backup_id: str,
        tenant_id: str,
        user_ctx: UserContext,
        request: RestoreRequest = _WHOLE,
        *,
        into_database: str | None = None,
        progress: ProgressSink = no_progress,
    ) -> dict[str, Any]:
        """What a restore would do, as `RestorePlan.as_dict` gives it; nothing is written.

        `problems` are the reasons for which it would refuse. Raises UnknownBackup, RequestError, CorruptObject.
        """
        target = target_of(self._site, into_database, request)
        tenant = self._gate.allowed(tenant_id, user_ctx, "restore.plan")
        wanted = self._resolved(tenant, backup_id)
        return self._planned(tenant, user_ctx, wanted, request, target, progress)

    def _planned(
        self,
        tenant: Tenant,
        user_ctx: UserContext,
        backup_id: BackupId,
        request: RestoreRequest,
        target: Target,
        progress: ProgressSink,
        **more: Any,
    ) -> dict[str, Any]:
        """The plan, which nobody sees unless it is recorded who does."""
        plan = plan_restore(self._site, tenant, backup_id, request, target, progress).as_dict()
        told = {**planned(plan, backup_id, request, target.name), **more}
        self._site.track(tenant, "restore.planned", user_ctx.user_id, told)
        return plan

    def run(
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
        approval_id: str | None = None,
        break_glass: str | None = None,
        progress: ProgressSink = no_progress,
    ) -> dict[str, Any]:
        """Make the tenant, or the part of it that is requested, what it was at the backup; what was done, and the proof.

        With `validate_only` the plan, and nothing is written. `into_database` is the DSN, without a password, of another
        database with the application's schema; rows only, and without a safety backup. The faces pass `confirm` on from
        their callers; calling this from Python is the confirmation. Where the settings want a second person, `approval_id` is
        needed, of an approval of exactly this; or `break_glass`, a reason. Raises ApprovalNeeded, NotConfirmed,
        RestoreRefused, RestoreConflict, SchemaMismatch, CorruptObject (nothing written), ProofFailed, SourceConflict (rolled
        back), HookFailed.
        """
        if keep_extra_files is not None:
            request = replace(request, keep_extra_files=keep_extra_files)
        if validate_only:
            return self.plan(backup_id, tenant_id, user_ctx, request, into_database=into_database, progress=progress)
        target = target_of(self._site, into_database, request)
        tenant = self._gate.allowed(tenant_id, user_ctx, "backup.restore")
        if not confirm:
            raise _not_confirmed("A restore overwrites live data", f"{backup_id} of {tenant.id}")
        wanted = self._resolved(tenant, backup_id)
        subject = restore_subject(wanted, request, into_database)
        self._approvals.require(tenant, user_ctx, subject, approval_id, break_glass)
        return restore_in_place(self._site, tenant, wanted, user_ctx.user_id, request, target, progress)

    def undo(
        self,
        restore_id: str,
        tenant_id: str,
        user_ctx: UserContext,
        *,
        confirm: bool = True,
        validate_only: bool = False,
        approval_id: str | None = None,
        break_glass: str | None = None,
        progress: ProgressSink = no_progress,
    ) -> dict[str, Any]:
        """Make the tables and files that a restore touched what they were before it; the result of a restore.

        What was written to them since goes as well: `validate_only` shows it. Raises UnknownRestore, and RestoreRefused
        where the restore made no safety backup.
        """
        wanted = RestoreId.parse(restore_id)
        tenant = self._gate.allowed(tenant_id, user_ctx, "restore.plan" if validate_only else "backup.restore")
        undoes = what_undoes(read_restore_status(self._site, tenant, wanted))
        request = RestoreRequest(mode=MergeMode.EXACT).only(tables=undoes.tables, files=undoes.files)
        target = target_of(self._site, None, request)
        if validate_only:
            return self._planned(tenant, user_ctx, undoes.backup_id, request, target, progress, undoes=wanted)
        if not confirm:
            raise _not_confirmed("Undoing a restore overwrites live data", f"{wanted} of {tenant.id}")
        self._approvals.require(tenant, user_ctx, undo_subject(wanted, undoes), approval_id, break_glass)
        return restore_in_place(
            self._site, tenant, undoes.backup_id, user_ctx.user_id, request, target, progress, undoes=wanted
        )

    def into_schema(
        self,
        backup_id: str,
        tenant_id: str,
        user_ctx: UserContext,
        schema: str,
        *,
        tables: tuple[str, ...] = (),
        progress: ProgressSink = no_progress,
    ) -> dict[str, Any]:
        """Put the tenant's rows into a new schema of the same database, for looking: {'schema', 'tables': [{table, rows}], ...}.

        Tables have the backup's columns and primary keys, no other constraints. Raises RestoreRefused where the schema exists.
        """
        tenant = self._gate.allowed(tenant_id, user_ctx, "backup.restore")
        told = {"backup_id": backup_id, "target": f"schema {schema[:80]}", "tables": list(tables)[:100]}
        self._site.track(tenant, "restore.started", user_ctx.user_id, told)
        try:
            done = into_schema(self._site, tenant, self._resolved(tenant, backup_id), schema, tables, progress)
        except SbhError as error:
            with noted(error):
                self._site.track(
                    tenant, "restore.failed", user_ctx.user_id, {**told, "code": error.code, "what": error.what}
                )
            raise
        told |= {"backup_id": done["backup_id"], "rows": done["rows"], "seconds": done["seconds"]}
        self._site.track(tenant, "restore.completed", user_ctx.user_id, told)
        return done

    def status(
        self, restore_id: str, tenant_id: str | None = None, user_ctx: UserContext | None = None
    ) -> dict[str, Any]:
        """{'restore_id', 'status': running | completed | failed | interrupted, 'progress': percent, 'error'?, ...}.

        Raises UnknownRestore.
        """
        wanted = RestoreId.parse(restore_id)
        found = []
        missing: SbhError | None = None
        for tenant in self._gate.candidates(tenant_id, user_ctx):
            try:
                found.append((tenant, read_restore_status(self._site, tenant, wanted)))
            except RequestError as error:
                missing = error
        tenant, status = the_only(found, missing or UnknownBackup("No tenants", on=wanted))
        self._gate.accessed(tenant, user_ctx, "restore status", restore_id=wanted)
        return status

    def of(self, tenant_id: str, user_ctx: UserContext) -> list[dict[str, Any]]:
        """The status of every restore of the tenant that is on record, newest first."""
        tenant = self._gate.allowed(tenant_id, user_ctx, "backup.status")
        self._gate.accessed(tenant, user_ctx, "restores")
        return list_restores(self._site, tenant)

    def _resolved(self, tenant: Tenant, backup_id: str) -> BackupId:
        repository = self._site.repository(tenant)
        try:
            return resolve_backup(repository, backup_id)
        finally:
            repository.close()


def _not_confirmed(what: str, on: str) -> NotConfirmed:
    return NotConfirmed(
        f"{what} and was not confirmed",
        on=on,
        remedy="confirm it: `--confirm` (CLI), `confirm: true` (API, Dagster); `sbh restore diff` shows what it would do",
    )
