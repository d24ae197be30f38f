"""`sbh approvals`: what was asked for, and allowing or refusing it. Asking for a restore is `sbh restore request`."""

from typing import Annotated, Any

import typer

from sbh_pipelines.cli.command import FromCopyOption, Invocation, command
from sbh_pipelines.cli.commands.backup import TenantOption
from sbh_pipelines.cli.commands.restore import ReasonOption, RestoreArgument
from sbh_pipelines.cli.output import Answer, plural
from sbh_pipelines.cli.show.approvals import approval_answer, approvals_table
from sbh_pipelines.errors import RepositoryError

app = typer.Typer(name="approvals", help="Restores that need a second person: see, approve, reject.")

ApprovalArgument = Annotated[str, typer.Argument(help="The id that the request printed.", metavar="APPROVAL_ID")]
CommentOption = Annotated[str, typer.Option("--comment", help="Kept with the decision.")]


@command(app, "list", permission="backup.status")
def list_approvals(invocation: Invocation, tenant: TenantOption, from_copy: FromCopyOption = None) -> Answer:
    """List a tenant's approvals, newest first. Damaged ones are named, and exit 8. Those of restores from a copy lie there."""
    found, errors = invocation.service(from_copy).approvals.of(tenant, invocation.user())
    document = {"approvals": found, "issues": errors}

    def show(out: Any) -> None:
        out.print(approvals_table(f"{plural(len(found), 'approval')} of {tenant}", found))
        for error in errors:
            out.print(str(error), style="red", markup=False)

    brief = [f"{one.approval_id} {one.status}" for one in found]
    return Answer(document, show, brief, RepositoryError.exit_status if errors else 0)


@command(app, "show", permission="backup.status")
def show(
    invocation: Invocation, approval: ApprovalArgument, tenant: TenantOption, from_copy: FromCopyOption = None
) -> Answer:
    """Show what exactly is asked for, why, and what became of it."""
    return approval_answer(invocation.service(from_copy).approvals.get(approval, tenant, invocation.user()))


@command(app, "approve", permission="restore.approve")
def approve(
    invocation: Invocation,
    approval: ApprovalArgument,
    tenant: TenantOption,
    comment: CommentOption = "",
    from_copy: FromCopyOption = None,
) -> Answer:
    """Allow it, once, until it expires. Nobody approves their own request."""
    return approval_answer(
        invocation.service(from_copy).approvals.approve(approval, tenant, invocation.user(), comment)
    )


@command(app, "reject", permission="restore.approve")
def reject(
    invocation: Invocation,
    approval: ApprovalArgument,
    tenant: TenantOption,
    comment: CommentOption = "",
    from_copy: FromCopyOption = None,
) -> Answer:
    """Refuse it, for good."""
    return approval_answer(invocation.service(from_copy).approvals.reject(approval, tenant, invocation.user(), comment))


@command(app, "request-undo", permission="restore.request")
def request_undo(
    invocation: Invocation, restore_id: RestoreArgument, tenant: TenantOption, reason: ReasonOption
) -> Answer:
    """Ask another person to approve that a restore is undone."""
    asked = invocation.service().approvals.request_undo(restore_id, tenant, invocation.user(), reason=reason)
    return approval_answer(asked, f"sbh approvals approve {asked.approval_id} -t {tenant}")
