"""The service's calls about restores: plan, restore, undo, look at an old state beside the live one, status."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from sbh_pipelines.backup.contents.ownership import resolve_own
from sbh_pipelines.backup.create.moment.reading import Reading
from sbh_pipelines.backup.create.status import the_only
from sbh_pipelines.backup.restore.events import plan_props
from sbh_pipelines.backup.restore.into_schema import (
    DroppedLooks,
    SchemaCopy,
    all_looks,
    drop,
    drop_expired,
    into_schema,
)
from sbh_pipelines.backup.restore.plan import RestorePlan
from sbh_pipelines.backup.restore.private import open_private, seal_private
from sbh_pipelines.backup.restore.records import RestoreRecord, Undo, list_restores, read_restore_status, what_undoes
from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.restore.restore import Target, plan_restore, restore_in_place, target_of
from sbh_pipelines.backup.restore.result import RestoreResult
from sbh_pipelines.backup.restore.safety_backup import refusal_at_copy
from sbh_pipelines.backup.service.approvals import Approvals, restore_subject, undo_subject
from sbh_pipelines.backup.service.gate import Gate
from sbh_pipelines.backup.service.moments import Moments
from sbh_pipelines.backup.site.audit_trails import noted
from sbh_pipelines.database.rebuild.new_schema import Look
from sbh_pipelines.errors import NotConfirmed, RequestError, SbhError, UnknownBackup, UnknownRestore
from sbh_pipelines.model import BackupId, MergeMode, ProgressSink, ReferencePolicy, RestoreId, Tenant, no_progress
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.security.policy import ALL_TENANTS, UserContext

_WHOLE = RestoreRequest()


class Restores:
    """Restores of one tenant: planned, run, undone, looked up."""

    def __init__(self, gate: Gate, approvals: Approvals, moments: Moments) -> None:
        self._gate, self._site = gate, gate.site
        self._approvals, self._moments = approvals, moments

    def plan(
        self,
        backup_id: str,
        tenant_id: str,
        user_ctx: UserContext,
        request: RestoreRequest = _WHOLE,
        *,
        into_database: str | None = None,
        into_password: str | None = None,
        progress: ProgressSink = no_progress,
    ) -> RestorePlan:
        """What a restore would do; nothing is written, but for a backup of the moment where `backup_id` is `@` and a time.

        `problems` are the reasons for which it would refuse. Raises UnknownBackup, RequestError, CorruptObject.
        """
        target = target_of(self._site, into_database, request, into_password)
        action = "restore.plan" if target.in_place else "restore.elsewhere"
        tenant = self._gate.allowed(tenant_id, user_ctx, action)
        self._gate.may_see(user_ctx, tenant, request)
        tables = tuple(request.tables)
        with self._moments.opened(
            backup_id, tenant, user_ctx, action, tables=tables, live=True, progress=progress
        ) as backup:
            asked = _as_asker(request, user_ctx)
            plan = plan_restore(
                self._site,
                backup.repository,
                tenant,
                backup.backup_id,
                asked,
                target,
                progress,
                names_others=user_ctx.tenant_id == ALL_TENANTS,
                staged=backup.staged,
            )
        self._site.track(tenant, "restore.planned", user_ctx.user_id, plan_props(backup.repository, plan, asked))
        return plan

    def resolve(
        self,
        backup_id: str,
        tenant_id: str,
        user_ctx: UserContext,
        request: RestoreRequest = _WHOLE,
        *,
        action: str = "restore.plan",
        progress: ProgressSink = no_progress,
    ) -> str:
        """`@` and a time as the id of a backup of that moment, which is put together if there is none; anything else as it is.

        Without a journal that too: it is the newest backup that is not later then. `action`: what the caller is about to do.
        At a copy a moment that no backup there is of stays one: it is put together for each reading.
        """
        return self._moments.resolved(
            backup_id, tenant_id, user_ctx, action, tables=tuple(request.tables), progress=progress
        )

    def run(
        self,
        backup_id: str,
        tenant_id: str,
        user_ctx: UserContext,
        request: RestoreRequest = _WHOLE,
        *,
        confirm: bool = True,
        into_database: str | None = None,
        into_password: str | None = None,
        approval_id: str | None = None,
        break_glass: str | None = None,
        progress: ProgressSink = no_progress,
    ) -> RestoreResult:
        """Make the tenant, or the part of it that is requested, what it was at the backup; what was done, and the proof.

        `into_database` is the DSN, without a password, of another database with the application's schema: for administrators of the
        platform, rows only, and without a safety backup. `into_password` is its own; that of the settings goes to their server
        alone. The faces pass `confirm` on from their callers; calling this from Python is the confirmation.
        Where the settings want a second person, `approval_id` is needed, of an approval of exactly this; or `break_glass`, a
        reason. Raises ApprovalNeeded, NotConfirmed, RestoreRefused, RestoreConflict, SchemaMismatch, CorruptObject (nothing
        written), ProofFailed, SourceConflict (rolled back), HookFailed; at a copy NotPrimary, unless without a safety backup.
        """
        target = target_of(self._site, into_database, request, into_password)
        action = "backup.restore" if target.in_place else "restore.elsewhere"
        tenant = self._gate.allowed(tenant_id, user_ctx, action)
        self._gate.may_see(user_ctx, tenant, request)
        if not confirm:
            raise _not_confirmed("A restore overwrites live data", f"{backup_id} of {tenant.id}")
        if refusal := refusal_at_copy(self._site, tenant, request, in_place=target.in_place):
            raise refusal
        tables = tuple(request.tables)
        with self._moments.opened(
            backup_id, tenant, user_ctx, action, tables=tables, live=True, progress=progress
        ) as backup:
            subject = restore_subject(backup.named, request, into_database, self._site.copy_name)
            records = backup.repository if backup.staged is None else backup.staged.records
            self._approvals.require(tenant, records, user_ctx, subject, approval_id, break_glass)
            return restore_in_place(
                self._site,
                backup.repository,
                tenant,
                backup.backup_id,
                user_ctx.user_id,
                _as_asker(request, user_ctx),
                target,
                progress,
                names_others=user_ctx.tenant_id == ALL_TENANTS,
                staged=backup.staged,
            )

    def is_staged(self, backup_id: str) -> bool:
        """Whether this, as `resolve` says it, is no backup that is there, but a moment that is put together for each reading."""
        return self._moments.is_staged(backup_id)

    def check_place(self, tenant_id: str, user_ctx: UserContext, request: RestoreRequest = _WHOLE) -> None:
        """Whether a restore in place may begin here. Raises NotPrimary at a copy, unless without a safety backup."""
        tenant = self._gate.allowed(tenant_id, user_ctx, "backup.restore")
        if refusal := refusal_at_copy(self._site, tenant, request, in_place=True):
            raise refusal

    def check_undo(self, restore_id: str, tenant_id: str, user_ctx: UserContext) -> None:
        """Whether a restore can be undone. Raises UnknownRestore, and RestoreRefused where it made no safety backup."""
        wanted = RestoreId.parse(restore_id)
        tenant = self._gate.allowed(tenant_id, user_ctx, "backup.restore")
        what_undoes(self._site, tenant, read_restore_status(self._site, tenant, wanted))

    def sealed(
        self, backup_id: str, tenant_id: str, user_ctx: UserContext, request: RestoreRequest = _WHOLE
    ) -> str | None:
        """What of a request people search for, sealed for the process that will run it; None where there is nothing of it.

        `backup_id` is exact. Raises RequestError for a predicate that is refused.
        """
        tenant = self._gate.allowed(tenant_id, user_ctx, "backup.restore")
        with self._site.repository(tenant) as repository:
            return seal_private(repository, self._bound_to(backup_id), request)

    def opened(
        self, sealed: str, backup_id: str, tenant_id: str, user_ctx: UserContext, request: RestoreRequest = _WHOLE
    ) -> RestoreRequest:
        """The request with what was sealed. Raises RequestUnreadable."""
        tenant = self._gate.allowed(tenant_id, user_ctx, "restore.plan")
        with self._site.repository(tenant) as repository:
            return open_private(repository, self._bound_to(backup_id), request, sealed)

    def _bound_to(self, backup_id: str) -> str:
        return backup_id if self._moments.is_staged(backup_id) else BackupId.parse(backup_id)

    def plan_undo(
        self,
        restore_id: str,
        tenant_id: str,
        user_ctx: UserContext,
        *,
        references: str = ReferencePolicy.REFUSE,
        progress: ProgressSink = no_progress,
    ) -> RestorePlan:
        """What undoing a restore would do, to what was written since as well; nothing is written. Raises as `undo` does."""
        wanted = RestoreId.parse(restore_id)
        tenant = self._gate.allowed(tenant_id, user_ctx, "restore.plan")
        with self._repository_of(tenant, wanted) as repository:
            undo, request, target = self._undo(repository, tenant, wanted, references)
            request = _as_asker(request, user_ctx)
            resolve_own(repository, undo.backup_id, tenant.key, live=True)
            plan = plan_restore(self._site, repository, tenant, undo.backup_id, request, target, progress, undo=undo)
        props = {**plan_props(repository, plan, request), "undoes": wanted}
        self._site.track(tenant, "restore.planned", user_ctx.user_id, props)
        return plan

    def undo(
        self,
        restore_id: str,
        tenant_id: str,
        user_ctx: UserContext,
        *,
        references: str = ReferencePolicy.REFUSE,
        confirm: bool = True,
        approval_id: str | None = None,
        break_glass: str | None = None,
        progress: ProgressSink = no_progress,
    ) -> RestoreResult:
        """Make the tables and files that a restore touched what they were before it; the result of a restore.

        What was written to them since goes as well: `plan_undo` shows it. `references`: as in a request; where an undo needs an
        approval, only as by default. Raises UnknownRestore, and RestoreRefused where the restore made no safety backup.
        """
        wanted = RestoreId.parse(restore_id)
        tenant = self._gate.allowed(tenant_id, user_ctx, "backup.restore")
        with self._repository_of(tenant, wanted) as repository:
            undo, request, target = self._undo(repository, tenant, wanted, references)
            if not confirm:
                raise _not_confirmed("Undoing a restore overwrites live data", f"{wanted} of {tenant.id}")
            resolve_own(repository, undo.backup_id, tenant.key, live=True)
            subject = undo_subject(wanted, undo, references, from_copy=self._site.copy_name)
            self._approvals.require(tenant, repository, user_ctx, subject, approval_id, break_glass)
            return restore_in_place(
                self._site,
                repository,
                tenant,
                undo.backup_id,
                user_ctx.user_id,
                _as_asker(request, user_ctx),
                target,
                progress,
                undo=undo,
            )

    def _repository_of(self, tenant: Tenant, restore_id: RestoreId) -> Repository:
        """The tenant's, open. Raises UnknownRestore where there is none: nothing was restored from it."""
        try:
            return self._site.repository(tenant)
        except UnknownBackup:
            raise UnknownRestore("No such restore", on=f"{restore_id} of {tenant.id}") from None

    def _undo(
        self, repository: Repository, tenant: Tenant, restore_id: RestoreId, references: str
    ) -> tuple[Undo, RestoreRequest, Target]:
        record = read_restore_status(self._site, tenant, restore_id, repository)
        undo = what_undoes(self._site, tenant, record)
        chosen = RestoreRequest.of(mode=MergeMode.EXACT, references=references)
        request = chosen.only(tables=undo.tables, files=undo.files)
        return undo, request, target_of(self._site, None, request)

    @property
    def look_permission(self) -> str:
        """What putting old rows into a schema needs: users of the platform, where the settings say nothing else."""
        return "backup.restore" if self._site.settings.restore.looks_by_tenants else "restore.into_schema"

    def into_schema(
        self,
        backup_id: str,
        tenant_id: str,
        user_ctx: UserContext,
        label: str = "",
        *,
        tables: tuple[str, ...] = (),
        former_key: str | None = None,
        progress: ProgressSink = no_progress,
    ) -> SchemaCopy:
        """Put the tenant's rows into a new schema of the same database, for looking.

        Its name is the system's, and it is dropped after `restore.keep_looks_days`. Tables have the backup's columns and primary
        keys, no other constraints. `former_key`: of a tenant that had the slug before, for platform administrators. Raises
        LookRefused where it is too large or the tenant has one already, SlugChangedHands.
        """
        tenant = self._gate.allowed(tenant_id, user_ctx, self.look_permission, former_key=former_key)
        props: dict[str, object] = {
            "backup_id": backup_id,
            "target": f"schema {label[:80]}".strip(),
            "tables": list(tables)[:100],
        }
        self._site.track(tenant, "restore.started", user_ctx.user_id, props)
        try:
            with self._read(backup_id, tenant, user_ctx, tables, former_key, progress) as backup:
                copy = into_schema(self._site, backup.repository, tenant, backup.backup_id, label, tables, progress)
                copy = replace(copy, backup_id=backup.named)
        except SbhError as error:
            with noted(error):
                failed = {**props, "code": error.code, "what": error.what}
                self._site.track(tenant, "restore.failed", user_ctx.user_id, failed)
            raise
        props |= {"backup_id": copy.backup_id, "rows": copy.rows, "seconds": copy.seconds}
        props |= {"target": f"schema {copy.schema}", "label": copy.label}
        self._site.track(tenant, "restore.completed", user_ctx.user_id, props)
        return copy

    @contextmanager
    def _read(
        self,
        backup_id: str,
        tenant: Tenant,
        user_ctx: UserContext,
        tables: tuple[str, ...],
        former_key: str | None,
        progress: ProgressSink,
    ) -> Iterator[Reading]:
        if former_key is None:
            action = self.look_permission
            with self._moments.opened(backup_id, tenant, user_ctx, action, tables=tables, progress=progress) as backup:
                yield backup
            return
        with self._site.repository(tenant) as repository:
            yield Reading(repository, resolve_own(repository, backup_id, tenant.key))

    def looks(self, tenant_id: str | None, user_ctx: UserContext) -> list[Look]:
        """The schemas of old rows that are there: of a tenant, or, for users of the platform, all."""
        if tenant_id is None:
            self._gate.authorize(user_ctx, "restore.into_schema", ALL_TENANTS)
            return all_looks(self._site.settings)
        tenant = self._gate.allowed(tenant_id, user_ctx, self.look_permission)
        return [look for look in all_looks(self._site.settings) if look.tenant_key == tenant.key]

    def drop_look(self, schema: str, tenant_id: str, user_ctx: UserContext) -> DroppedLooks:
        """Drop a schema of the tenant's old rows before its time. Raises RequestError where the tenant has none of that name."""
        found = [look for look in self.looks(tenant_id, user_ctx) if look.schema == schema]
        if not found:
            raise RequestError(
                "The tenant has no such schema of copies",
                on=ascii(schema)[:80],
                remedy=f"sbh restore looks -t {tenant_id}",
            )
        tenant = self._gate.allowed(tenant_id, user_ctx, self.look_permission)
        self._site.track(tenant, "restore.look_dropped", user_ctx.user_id, {"schema": schema})
        dropped = drop(self._site.settings, found)
        for error in dropped.failed.values():
            raise error
        return dropped

    def drop_expired_looks(self, user_ctx: UserContext) -> DroppedLooks:
        """Drop the schemas of old rows whose time is over, of all tenants."""
        self._gate.authorize(user_ctx, "restore.into_schema", ALL_TENANTS)
        return drop_expired(self._site.settings, self._site.clock())

    def status(
        self, restore_id: str, tenant_id: str | None = None, user_ctx: UserContext | None = None
    ) -> RestoreRecord:
        """How a restore stands. Without `tenant_id` the tenants are searched. Raises UnknownRestore."""
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

    def of(self, tenant_id: str, user_ctx: UserContext) -> list[RestoreRecord]:
        """How every restore of the tenant that is on record stands, newest first."""
        tenant = self._gate.allowed(tenant_id, user_ctx, "backup.status")
        self._gate.accessed(tenant, user_ctx, "restores")
        return list_restores(self._site, tenant)


def _as_asker(request: RestoreRequest, user_ctx: UserContext) -> RestoreRequest:
    """A tenant's own users leave what `restore.kept` names as it is."""
    return request if user_ctx.tenant_id == ALL_TENANTS else replace(request, as_tenant=True)


def _not_confirmed(what: str, on: str) -> NotConfirmed:
    return NotConfirmed(
        f"{what} and was not confirmed",
        on=on,
        remedy="confirm it: `--confirm` (CLI), `confirm: true` (API, Dagster); `sbh restore diff` shows what it would do",
    )
