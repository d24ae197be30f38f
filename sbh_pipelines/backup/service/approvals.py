"""The service's calls about approvals, and what asks for one before a restore."""

import hashlib
from collections.abc import Mapping
from datetime import timedelta

from sbh_pipelines.backup import approvals
from sbh_pipelines.backup.approvals import Approval
from sbh_pipelines.backup.contents.ownership import resolve_own
from sbh_pipelines.backup.restore.events import subject_props
from sbh_pipelines.backup.restore.records import Undo, read_restore_status, what_undoes
from sbh_pipelines.backup.restore.request import OPTIONS, RestoreRequest, Use
from sbh_pipelines.backup.restore.restore import check_target
from sbh_pipelines.backup.restore.safety_backup import refusal_at_copy
from sbh_pipelines.backup.service.gate import Gate
from sbh_pipelines.backup.service.moments import Moments
from sbh_pipelines.errors import ApprovalNeeded, SbhError
from sbh_pipelines.model import ApprovalId, ReferencePolicy, RestoreId, Tenant
from sbh_pipelines.repository.format import canonical
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.security.people import Person
from sbh_pipelines.security.policy import ALL_TENANTS, UserContext

_WHOLE = RestoreRequest()


class Approvals:
    """Restores that one person asks for and another one allows."""

    def __init__(self, gate: Gate, moments: Moments) -> None:
        self._gate, self._site, self._moments = gate, gate.site, moments

    def request_restore(
        self,
        backup_id: str,
        tenant_id: str,
        user_ctx: UserContext,
        request: RestoreRequest = _WHOLE,
        *,
        reason: str,
        into_database: str | None = None,
    ) -> Approval:
        """Ask another person to approve exactly this restore; the approval, with its `approval_id`.

        Raises RequestError without a reason, or for a target that the restore would refuse (a password in a DSN would be
        put on record), UnknownBackup, and NotPrimary at a copy for a restore with a safety backup.
        """
        if into_database is not None:
            check_target(into_database, request)
            self._gate.authorize(user_ctx, "restore.request", ALL_TENANTS)  # the restore is for users of the platform
        tenant = self._gate.allowed(tenant_id, user_ctx, "restore.request")
        self._gate.may_see(user_ctx, tenant, request)
        if refusal := refusal_at_copy(self._site, tenant, request, in_place=into_database is None):
            raise refusal
        backup_id = self._moments.resolved(
            backup_id, tenant_id, user_ctx, "restore.request", tables=tuple(request.tables)
        )
        with self._site.repository(tenant) as repository:
            if not self._moments.is_staged(backup_id):
                backup_id = resolve_own(repository, backup_id, tenant.key, live=True)
            subject = restore_subject(backup_id, request, into_database, self._site.copy_name)
            return self._asked(tenant, repository, subject, user_ctx, reason)

    def request_undo(self, restore_id: str, tenant_id: str, user_ctx: UserContext, *, reason: str) -> Approval:
        """Ask another person to approve that a restore is undone.

        Raises UnknownRestore, and RestoreRefused where it cannot be undone.
        """
        wanted = RestoreId.parse(restore_id)
        tenant = self._gate.allowed(tenant_id, user_ctx, "restore.request")
        undoes = what_undoes(self._site, tenant, read_restore_status(self._site, tenant, wanted))
        subject = undo_subject(wanted, undoes, from_copy=self._site.copy_name)
        with self._site.repository(tenant) as repository:
            return self._asked(tenant, repository, subject, user_ctx, reason)

    def approve(self, approval_id: str, tenant_id: str, user_ctx: UserContext, comment: str = "") -> Approval:
        """Allow what was asked for, by another person; the approval. Raises ApprovalNeeded, RequestError."""
        return self._decided(approval_id, tenant_id, user_ctx, "approved", comment)

    def reject(self, approval_id: str, tenant_id: str, user_ctx: UserContext, comment: str = "") -> Approval:
        """Refuse it, for good; the approval. Raises RequestError."""
        return self._decided(approval_id, tenant_id, user_ctx, "rejected", comment)

    def get(self, approval_id: str, tenant_id: str, user_ctx: UserContext) -> Approval:
        """What is asked for, by whom, and what became of it. Raises RequestError where there is none."""
        tenant = self._gate.allowed(tenant_id, user_ctx, "backup.status")
        wanted = ApprovalId.parse(approval_id)
        with self._site.repository(tenant) as repository:
            return approvals.read_approval(repository, wanted, self._site.clock())

    def of(self, tenant_id: str, user_ctx: UserContext) -> tuple[list[Approval], list[SbhError]]:
        """The tenant's approvals, newest first, and an error for each that is damaged."""
        tenant = self._gate.allowed(tenant_id, user_ctx, "backup.status")
        with self._site.repository(tenant) as repository:
            return approvals.list_approvals(repository, self._site.clock())

    def require(
        self,
        tenant: Tenant,
        repository: Repository,
        user_ctx: UserContext,
        subject: Mapping[str, object],
        approval_id: str | None,
        break_glass: str | None,
    ) -> None:
        """Called right before something is overwritten. Raises ApprovalNeeded.

        An approval is used up here, whatever becomes of the restore: what it allowed is one attempt.
        """
        rules = self._site.settings.approval
        if approval_id is not None and break_glass is not None:
            raise ApprovalNeeded("An approval and break-glass exclude each other", remedy="use one of them")
        if approval_id is not None:
            wanted = ApprovalId.parse(approval_id)
            approvals.use(repository, wanted, subject, user_ctx.user_id, self._site.clock())
        elif rules.restore == "none":
            return
        elif break_glass is not None and rules.break_glass:
            reason = approvals.checked_reason(break_glass, "Breaking the glass")
            props = {"subject": subject_props(repository, subject), "reason": reason}
            props |= _issuers(user_ctx)
            self._site.track(tenant, "restore.break_glass", user_ctx.user_id, props)
        else:
            raise ApprovalNeeded(
                "Another person has to approve this",
                on=f"{subject.get('restore_id') or subject.get('backup_id')} of {tenant.id}",
                why="approval.restore = 'two-person'"
                + (", and approval.break_glass is off" if break_glass is not None else ""),
                remedy="ask for it: `sbh restore request`, then give its id: `--approval ID` (CLI), `approval_id` (elsewhere)",
            )

    def _asked(
        self, tenant: Tenant, repository: Repository, subject: Mapping[str, object], user_ctx: UserContext, reason: str
    ) -> Approval:
        lifetime = timedelta(seconds=self._site.settings.approval.lifetime_s)
        made = approvals.ask(repository, subject, reason, _person(user_ctx), self._site.clock(), lifetime)
        props = {"approval_id": made.approval_id, "subject": subject_props(repository, subject), "reason": reason}
        props |= _issuers(user_ctx)
        self._site.track(tenant, "restore.requested", user_ctx.user_id, props)
        return made

    def _decided(
        self, approval_id: str, tenant_id: str, user_ctx: UserContext, decision: str, comment: str
    ) -> Approval:
        tenant = self._gate.allowed(tenant_id, user_ctx, "restore.approve")
        wanted = ApprovalId.parse(approval_id)
        with self._site.repository(tenant) as repository:
            made = approvals.decide(repository, wanted, decision, _person(user_ctx), comment, self._site.clock())
        props = {
            "approval_id": made.approval_id,
            "requested_by": made.requested_by,
            "subject": subject_props(repository, made.subject),
        }
        self._site.track(
            tenant, f"restore.{decision}", user_ctx.user_id, {**props, "comment": comment, **_issuers(user_ctx)}
        )
        return made


def _issuers(user_ctx: UserContext) -> dict[str, list[str]]:
    """For the audit trail: whose the caller's token is besides."""
    return {"issued_by": list(user_ctx.issued_by)} if user_ctx.issued_by else {}


def _person(user_ctx: UserContext) -> Person:
    return Person(user_ctx.user_id, user_ctx.issued_by)


def restore_subject(
    backup_id: str, request: RestoreRequest, into_database: str | None, from_copy: str | None = None
) -> Mapping[str, object]:
    """What an approval of a restore is bound to: everything that decides what is overwritten, where and how.

    `from_copy` as well: an approval lies where the backup lies, and one that somebody put elsewhere is none there.
    """
    asked = {name: value for name, value in request.as_dict().items() if OPTIONS[name].use is not Use.PLAN}
    if not request.as_tenant:  # so that an approval from before there was this goes on being one
        del asked["as_tenant"]
    subject = {"action": "restore", "backup_id": backup_id, "into_database": into_database, "request": asked}
    return subject if from_copy is None else {**subject, "from_copy": from_copy}


def undo_subject(
    restore_id: RestoreId,
    undoes: Undo,
    references: str = ReferencePolicy.REFUSE,
    *,
    from_copy: str | None,
) -> Mapping[str, object]:
    """What an approval of an undo is bound to: the backup, what the restore touched, and the copy it lies in, as of a restore.

    The latter as a digest: the record of the restore says it, and an approval is bound to what that said when it was asked for.
    """
    touched = canonical({"tables": list(undoes.tables), "files": list(undoes.files)})
    return {
        "action": "undo",
        "restore_id": str(restore_id),
        "backup_id": str(undoes.backup_id),
        "touched": "sha256:" + hashlib.sha256(touched).hexdigest(),
        **({} if references == ReferencePolicy.REFUSE else {"references": str(references)}),
        **({} if from_copy is None else {"from_copy": from_copy}),
    }
