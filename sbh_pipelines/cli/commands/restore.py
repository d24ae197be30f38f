"""`sbh restore`: see what a restore would do, do it, undo it, and see how restores stand."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from sbh_pipelines.backup.restore.request import OPTIONS, Face, RestoreRequest
from sbh_pipelines.cli.command import FromCopyOption, Invocation, ask_for_slug, command, on_terminal
from sbh_pipelines.cli.commands.backup import BackupArgument, TenantOption, resolve
from sbh_pipelines.cli.commands.tenants import FormerKeyOption
from sbh_pipelines.cli.options import (
    IntoDatabaseOption,
    NoSafetyBackupOption,
    PasswordFileOption,
    approve_command,
    choosing,
    into_password,
    refuse_beside_schema,
    run_command,
    undo_command,
)
from sbh_pipelines.cli.output import Answer, console, plural, printable
from sbh_pipelines.cli.show.approvals import approval_answer
from sbh_pipelines.cli.show.plan import scope_text, show_plan
from sbh_pipelines.cli.show.restores import looks_table, restores_table, show_restore, show_schema, show_status
from sbh_pipelines.errors import RepositoryError, RequestError
from sbh_pipelines.model import ReferencePolicy

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import RestorePlan, RestoreResult

app = typer.Typer(name="restore", help="Bring one tenant, or a part of it, back: look first, restore, undo.")

RestoreArgument = Annotated[str, typer.Argument(help="The id that `sbh restore run` printed.", metavar="RESTORE_ID")]
ConfirmOption = Annotated[bool, typer.Option("--confirm", help="Yes, overwrite what is there.")]
ApprovalOption = Annotated[
    str | None,
    typer.Option(
        "--approval", help="The approval of exactly this, where one is needed.", metavar="ID", show_default=False
    ),
]
BreakGlassOption = Annotated[
    str | None,
    typer.Option(
        "--break-glass",
        help="In an emergency: go on without an approval. Recorded in the audit trail.",
        metavar="REASON",
        show_default=False,
    ),
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for those who decide and those who audit.")]


@command(app, "diff", permission="restore.plan")
@choosing
def diff(
    invocation: Invocation,
    backup: BackupArgument,
    tenant: TenantOption,
    request: RestoreRequest,
    into_database: IntoDatabaseOption = None,
    password_file: PasswordFileOption = None,
    from_copy: FromCopyOption = None,
) -> Answer:
    """Show what a restore would do. Nothing is restored.

    With @TIME, @xid:ID or @lsn:POSITION, where the change journal is on, a backup of that moment is put together first, if there is
    none yet: it is stored for journal.keep_recovered_days, and the journal is drained where it has not come so far.

    Exits 0, also where there are differences; where a restore would refuse, as it would: 9 for conflicts and foreign keys,
    5 for a schema that changed. With --quiet one word: same, different or refused.
    """
    if from_copy is not None:  # whose restore is one without
        request = replace(request, safety_backup=False)
    service, user = invocation.service(from_copy), invocation.user()
    with invocation.progress() as progress:
        plan = service.restores.plan(
            backup,
            tenant,
            user,
            request,
            into_database=into_database,
            into_password=into_password(into_database, password_file),
            progress=progress,
        )
    return _planned(plan, run_command(plan.backup_id, tenant, request, into_database, password_file, from_copy))


@command(app, "run", permission="backup.restore")
@choosing
def run(
    invocation: Invocation,
    backup: BackupArgument,
    tenant: TenantOption,
    request: RestoreRequest,
    confirm: ConfirmOption = False,
    no_safety_backup: NoSafetyBackupOption = False,
    into_database: IntoDatabaseOption = None,
    password_file: PasswordFileOption = None,
    into_schema: Annotated[
        str | None,
        typer.Option(
            "--into-schema",
            help="Put the tables into a new schema of the same database, to look at them with SQL; nothing else is written."
            " Its name is made and printed; LABEL goes into its comment. Dropped after restore.keep_looks_days. Only --tables"
            " and --former-key go with it.",
            metavar="LABEL",
            show_default=False,
        ),
    ] = None,
    former_key: FormerKeyOption = None,
    approval: ApprovalOption = None,
    break_glass: BreakGlassOption = None,
    from_copy: FromCopyOption = None,
) -> Answer:
    """Restore a tenant in place: its rows, files and configuration become what the backup holds. Other tenants stay.

    With options only a part of it, or without touching what is newer; `sbh restore diff` with the same options shows what it
    would do. The tenant is backed up before, so that `sbh restore undo` can bring back what was there. Not with --from-copy: a
    copy takes no backups, and the restore must be asked for with --no-safety-backup.
    """
    request = replace(request, safety_backup=False) if no_safety_backup else request
    if into_schema is not None:
        return _into_schema(invocation, backup, tenant, request, into_database, into_schema, former_key, from_copy)
    if former_key is not None:
        raise RequestError(
            "Nothing of a former tenant is restored into the one that has its slug now",
            on="--former-key",
            remedy="look at it: --into-schema LABEL, or `sbh export`",
        )
    if into_database is not None:
        from sbh_pipelines.backup.restore.restore import check_target

        check_target(into_database, request)  # before it is shown in a command to type
    service, user = invocation.service(from_copy), invocation.user()
    chosen = backup
    if not confirm:  # what is confirmed is one backup, whatever becomes the latest by then
        chosen = resolve(service, backup, tenant, user)
        if chosen.startswith("@"):
            with invocation.progress() as progress:
                chosen = service.restores.resolve(chosen, tenant, user, request, progress=progress)
        if request.samples and on_terminal(invocation):
            plan = service.restores.plan(
                chosen,
                tenant,
                user,
                request,
                into_database=into_database,
                into_password=into_password(into_database, password_file),
            )
            show_plan(console(stderr=True), plan, "")
        what = f"{scope_text(request.scope())} of {tenant} with {chosen}"
        where = "" if into_database is None else " in another database"
        command_line = run_command(chosen, tenant, request, into_database, password_file, from_copy)
        _ask(invocation, what + where, tenant, command_line)
    with invocation.progress() as progress:
        result = service.restores.run(
            chosen,
            tenant,
            user,
            request,
            into_database=into_database,
            into_password=into_password(into_database, password_file),
            approval_id=approval,
            break_glass=break_glass,
            progress=progress,
        )
    return _restored(result)


@command(app, "request", permission="restore.request")
@choosing
def ask(
    invocation: Invocation,
    backup: BackupArgument,
    tenant: TenantOption,
    request: RestoreRequest,
    reason: ReasonOption,
    no_safety_backup: Annotated[bool, typer.Option("--no-safety-backup", help="As `run` will have it.")] = False,
    into_database: IntoDatabaseOption = None,
    from_copy: FromCopyOption = None,
) -> Answer:
    """Ask another person to approve a restore: exactly the one that `run` with the same options would do.

    Needed where the setting approval.restore is two-person. They see it with `sbh approvals show` and allow it with `sbh
    approvals approve`; then `sbh restore run ... --approval ID`, once, before it expires.
    """
    request = replace(request, safety_backup=False) if no_safety_backup else request
    service, user = invocation.service(from_copy), invocation.user()
    asked = service.approvals.request_restore(backup, tenant, user, request, reason=reason, into_database=into_database)
    return approval_answer(asked, approve_command(asked.approval_id, tenant, from_copy))


@command(app, "undo", permission="restore.plan")
def undo(
    invocation: Invocation,
    restore_id: RestoreArgument,
    tenant: TenantOption,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what it would do, as diff does.")] = False,
    references: Annotated[
        ReferencePolicy, typer.Option("--references", help=OPTIONS["references"].help[Face.CLI])
    ] = ReferencePolicy.REFUSE,
    confirm: ConfirmOption = False,
    approval: ApprovalOption = None,
    break_glass: BreakGlassOption = None,
    from_copy: FromCopyOption = None,
) -> Answer:
    """Undo a restore: the tables and files it touched become what they were before it. What was written since goes too.

    One that was done from a copy has no safety backup, and is not undone so.
    """
    service, user = invocation.service(from_copy), invocation.user()
    undoing = undo_command(restore_id, tenant, from_copy)
    if not (dry_run or confirm):
        _ask(invocation, f"what {restore_id} touched of {tenant}", tenant, undoing)
    with invocation.progress() as progress:
        if dry_run:
            plan = service.restores.plan_undo(restore_id, tenant, user, references=references, progress=progress)
            return _planned(plan, undoing)
        result = service.restores.undo(
            restore_id,
            tenant,
            user,
            references=references,
            approval_id=approval,
            break_glass=break_glass,
            progress=progress,
        )
    return _restored(result)


@command(app, "status", permission="backup.status")
def status(
    invocation: Invocation, restore_id: RestoreArgument, tenant: TenantOption, from_copy: FromCopyOption = None
) -> Answer:
    """Whether a restore is running, completed, failed or interrupted, and how far it is. One from a copy is on record there."""
    record = invocation.service(from_copy).restores.status(restore_id, tenant, invocation.user())
    return Answer(record, lambda out: show_status(out, record), [record.status])


@command(app, "looks", permission="backup.restore")
def list_looks(
    invocation: Invocation,
    tenant: Annotated[
        str | None, typer.Option("--tenant", "-t", help="Only of this tenant.", show_default=False)
    ] = None,
) -> Answer:
    """List the schemas that `--into-schema` made and that are there, with their time."""
    found = invocation.service().restores.looks(tenant, invocation.user())
    return Answer(found, lambda out: out.print(looks_table(found)), [look.schema for look in found])


@command(app, "drop-look", permission="backup.restore")
def drop_look(
    invocation: Invocation,
    schema: Annotated[str, typer.Argument(help="The name that `--into-schema` printed.", metavar="SCHEMA")] = "",
    tenant: Annotated[str | None, typer.Option("--tenant", "-t", help="Whose it is.", show_default=False)] = None,
    expired: Annotated[bool, typer.Option("--expired", help="All whose time is over, of all tenants.")] = False,
) -> Answer:
    """Drop a schema that `--into-schema` made, or all whose time is over. Prune does the second every day."""
    if expired == bool(schema) or (schema and tenant is None):
        raise RequestError(
            "Say which schema is to be dropped",
            remedy="sbh restore drop-look SCHEMA -t TENANT, or sbh restore drop-look --expired",
        )
    restores, user = invocation.service().restores, invocation.user()
    dropped = restores.drop_look(schema, tenant or "", user) if schema else restores.drop_expired_looks(user)
    for error in dropped.failed.values():
        raise error
    gone = ", ".join(dropped.dropped) or "none"
    return Answer(dropped, lambda out: out.print(printable(f"Dropped: {gone}")), list(dropped.dropped))


@command(app, "list", permission="backup.status")
def list_restores(invocation: Invocation, tenant: TenantOption, from_copy: FromCopyOption = None) -> Answer:
    """List a tenant's restores, newest first. One whose status is damaged is shown as an error (exit 8)."""
    found = invocation.service(from_copy).restores.of(tenant, invocation.user())
    title = f"{plural(len(found), 'restore')} of {tenant}"
    damaged = any(restore.status == "unknown" for restore in found)
    ids = [restore.restore_id for restore in found]
    exit_status = RepositoryError.exit_status if damaged else 0
    return Answer(found, lambda out: out.print(restores_table(title, found)), ids, exit_status)


def _planned(plan: "RestorePlan", next_command: str) -> Answer:
    word = "refused" if plan.problems else "same" if plan.nothing_to_do else "different"
    exit_status = plan.problems[0].exit_status if plan.problems else 0
    return Answer(plan, lambda out: show_plan(out, plan, next_command), [word], exit_status)


def _restored(result: "RestoreResult") -> Answer:
    return Answer(result, lambda out: show_restore(out, result), [result.restore_id])


def _into_schema(
    invocation: Invocation,
    backup: str,
    tenant: str,
    request: RestoreRequest,
    into_database: str | None,
    schema: str,
    former_key: str | None,
    from_copy: str | None,
) -> Answer:
    """Overwrites nothing, and so needs no confirmation."""
    refuse_beside_schema(request, into_database)
    service, user = invocation.service(from_copy), invocation.user()
    with invocation.progress() as progress:
        copy = service.restores.into_schema(
            backup, tenant, user, schema, tables=request.tables, former_key=former_key, progress=progress
        )
    return Answer(copy, lambda out: show_schema(out, copy), [copy.schema])


def _ask(invocation: Invocation, what: str, tenant: str, confirmed: str) -> None:
    """Raises NotConfirmed."""
    why = "it overwrites the tenant's rows and files"
    ask_for_slug(invocation, tenant, f"This overwrites {printable(what)}.", on=what, why=why, remedy=confirmed)
