"""`sbh platform`: back up what tenants share, and rebuild everything after complete failure."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sbh_pipelines.cli.command import FromCopyOption, Invocation, command
from sbh_pipelines.cli.commands.audit import moment
from sbh_pipelines.cli.options import password_in
from sbh_pipelines.cli.output import Answer, console, count, facts, plural, seconds, table, utc
from sbh_pipelines.errors import BatchError, NotConfirmed, RepositoryError
from sbh_pipelines.model import size_text

if TYPE_CHECKING:
    from sbh_pipelines.backup.contents.manifest import Manifest
    from sbh_pipelines.backup.service.results import PlatformBackup, RecoveryReport, TenantRecovery

app = typer.Typer(name="platform", help="What tenants share: its backup, and the recovery after complete failure.")


@command(app, "backup", permission="platform.backup")
def backup(invocation: Invocation) -> Answer:
    """Back up the schema, the shared tables, roles and grants (no passwords), sequences and the list of tenants."""
    service, user = invocation.service(), invocation.user()
    with invocation.progress() as progress:
        made = service.platform.create(user, progress)
    return Answer(made.document, lambda out: _show_backup(out, made), [made.manifest.id])


@command(app, "list", permission="platform.backup")
def list_backups(invocation: Invocation, from_copy: FromCopyOption = None) -> Answer:
    """List the platform backups, newest first. A damaged manifest is shown as an error (exit 8)."""
    service, user = invocation.service(from_copy), invocation.user()
    found, damaged = service.platform.backups(user), service.platform.damaged(user)
    rows = [(m.id, utc(m.recovery_point.time), size_text(m.size), *_counts(m), m.created_by) for m in found]

    def show(out: Any) -> None:
        columns = ("backup", "recovery point", ">size", ">tables of tenants", ">shared rows", ">tenants", "made by")
        out.print(table(plural(len(found), "platform backup"), columns, rows))
        for error in damaged:
            out.print(str(error), style="red", markup=False)

    document = {"backups": [m.document for m in found], "damaged": damaged}
    return Answer(document, show, [m.id for m in found], RepositoryError.exit_status if damaged else 0)


@command(app, "validate", permission="platform.backup")
def validate(
    invocation: Invocation,
    backup_id: Annotated[str, typer.Argument(help="A backup id, or `latest`.", metavar="BACKUP")] = "latest",
    deep: Annotated[bool, typer.Option("--deep", help="Download, decrypt and re-hash everything.")] = False,
    from_copy: FromCopyOption = None,
) -> Answer:
    """Check that a platform backup is whole (exit 8 where it is not)."""
    service, user = invocation.service(from_copy), invocation.user()
    with invocation.progress() as progress:
        found = service.platform.validate(user, backup_id, deep, progress)
    word = "valid" if found.valid else "not valid"

    def show(out: Any) -> None:
        out.print(f"{found.backup_id} is {word}: {count(found.chunks_checked)} chunks checked")
        for issue in found.issues:
            out.print(f"[{issue.code}] {issue.what} ({issue.on})", style="red", markup=False)

    return Answer(found, show, [word], 0 if found.valid else RepositoryError.exit_status)


@command(app, "restore", permission="platform.restore")
def restore(
    invocation: Invocation,
    into: Annotated[
        str,
        typer.Option(
            "--into", help="libpq connection string of an empty database, without the password.", metavar="DSN"
        ),
    ],
    tenant: Annotated[
        list[str] | None,
        typer.Option("--tenant", "-t", help="A slug, or SLUG=BACKUP. May be repeated; default: every tenant."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--until", help="Each tenant as of its newest backup at or before this time (ISO 8601)."),
    ] = None,
    platform: Annotated[
        str, typer.Option("--platform", help="A platform backup's id, or `latest`.", metavar="BACKUP")
    ] = "latest",
    password_file: Annotated[
        Path | None,
        typer.Option(
            "--password-file", help="The target's password; default: that of the settings, where it is their server."
        ),
    ] = None,
    files: Annotated[
        bool, typer.Option("--files/--no-files", help="Put the tenants' files back as well; none is ever deleted.")
    ] = True,
    owners: Annotated[
        bool,
        typer.Option("--owners/--no-owners", help="Without: no roles, owners and grants; for throw-away databases."),
    ] = True,
    accept_schema_changes: Annotated[
        bool,
        typer.Option(
            "--accept-schema-changes",
            help="Tenants whose backup is newer than the platform backup's schema come without what that has no place for.",
        ),
    ] = False,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Yes, build the database and put the tenants' files back.")
    ] = False,
    break_glass: Annotated[
        str | None,
        typer.Option(
            "--break-glass",
            metavar="REASON",
            help="Put files back although the setting approval.restore wants a second person. It is recorded.",
        ),
    ] = None,
    from_copy: FromCopyOption = None,
) -> Answer:
    """Rebuild everything from backups: an empty database and the tenants' files. Give the same command again to go on after
    it was interrupted. A tenant that cannot be recovered keeps nobody else (exit 11). Where rows refer to rows that no backup
    brought back, all is there, and the foreign keys are not valid (exit 9).
    """
    newest = moment(until)
    password = password_in(password_file)
    service, user = invocation.service(from_copy), invocation.user()
    if not confirm:
        _ask(invocation, into)
    with invocation.progress() as progress:
        report = service.platform.recover(
            into,
            user,
            password=password,
            platform=platform,
            tenants=tenant or (),
            until=newest,
            files=files,
            owners=owners,
            accept_schema_changes=accept_schema_changes,
            confirm=True,
            break_glass=break_glass,
            progress=progress,
        )
    status = 0 if report.status == "completed" else BatchError.exit_status
    if report.error:
        status = report.error.exit_status
    return Answer(report, lambda out: _show_recovery(out, report), [report.restore_id], status)


def _ask(invocation: Invocation, into: str) -> None:
    """On a terminal the word must be typed; elsewhere --confirm is the only way. Raises NotConfirmed."""
    if not invocation.as_json and sys.stdin.isatty() and sys.stderr.isatty():
        out = console(stderr=True)
        out.print("This builds the database, and puts files back over those of the tenants that differ.")
        out.print("Type `recover` to go on: ", end="")
        if sys.stdin.readline().strip() == "recover":
            return
    raise NotConfirmed(
        "The recovery is not confirmed",
        why="it puts files back over those of the tenants",
        remedy="the same command with --confirm",
    )


def _counts(manifest: "Manifest") -> tuple[str, str, str]:
    components = manifest.components
    counts = components["database"].counts
    return count(counts.get("table", 0)), count(components["shared"].rows or 0), count(counts.get("tenant", 0))


def _show_backup(out: Any, made: "PlatformBackup") -> None:
    manifest, retention = made.manifest, made.retention
    counts = manifest.components["database"].counts
    tables, rows, tenants = _counts(manifest)
    shown = {
        "backup": manifest.id,
        "recovery point": utc(manifest.recovery_point.time),
        "region": manifest.region,
        "schema": f"{tables} tables of tenants, {plural(counts.get('foreign_key', 0), 'foreign key')}",
        "shared rows": rows,
        "rows of no tenant": _of_nobody(manifest),
        "roles": f"{count(counts.get('role', 0))}, without their passwords",
        "tenants": tenants,
        "schema only": f"{count(counts['ddl_only'])} tables, whose rows are in no backup"
        if "ddl_only" in counts
        else "",
        "size": size_text(manifest.size),
        "stored": size_text(manifest.stats["bytes_stored"]),
        "forgotten": ", ".join(retention.forgotten),
    }
    out.print(facts(shown))
    if retention.error:
        out.print(f"Older backups could not be removed: {retention.error.what}", style="red", markup=False)


def _of_nobody(manifest: "Manifest") -> str:
    """How many, and where."""
    component = manifest.components.get("no-tenant")
    tables = component.tables if component else []
    listed = ", ".join(f"{one.table} {count(one.rows)}" for one in tables)
    return f"{count(component.rows or 0)} ({listed})" if component and tables else "0"


def _show_recovery(out: Any, report: "RecoveryReport") -> None:
    made = report.roles_made
    shown = {
        "recovery": report.restore_id,
        "status": report.status,
        "platform backup": report.platform_backup,
        "from the copy": report.from_copy,
        "rows": count(report.rows),
        "of no tenant": ", ".join(f"{name} {count(rows)}" for name, rows in report.rows_of_no_tenant.items()),
        "files put back": count(report.files),
        "roles made": f"{', '.join(made)}: set their passwords" if made else "",
        "foreign keys not valid": ", ".join(report.foreign_keys_not_valid),
        "empty tables": ", ".join(report.ddl_only),
        "differences": ", ".join(report.differences),
        "took": seconds(report.seconds),
    }
    out.print(facts(shown))
    out.print(table("Steps", ("step", ">took"), [(n.replace("_", " "), seconds(s)) for n, s in report.phases.items()]))
    columns = (
        "tenant",
        "status",
        "backup",
        "recovery point",
        ">rows",
        ">size",
        ">files",
        ">took",
        "~what was in the way",
    )
    out.print(table(plural(len(report.tenants), "tenant"), columns, map(_line, report.tenants)))
    changes = [(tenant.tenant_id, change) for tenant in report.tenants for change in tenant.schema_changes]
    if changes:
        rows = [(who, c.table, c.column or "", c.change, c.decision) for who, c in changes]
        out.print(
            table(
                "Schema changes since the backup", ("tenant", "table", "column", "change", "~what became of it"), rows
            )
        )
    if report.left_out:
        out.print(table("Left out", ("~what", "~why"), [(one.what, one.why) for one in report.left_out]))
    if report.error:
        out.print(str(report.error), style="red", markup=False)
    for issue in report.issues:
        out.print(f"[{issue.code}] {issue.what} ({issue.on})", style="red", markup=False)


def _line(tenant: "TenantRecovery") -> tuple[str, ...]:
    errors = [*(f"{e.backup_id} passed over: {e.what}" for e in tenant.passed_over)]
    if tenant.error:
        errors.append(f"[{tenant.error.code}] {tenant.error.what}. {tenant.error.remedy}")
    return (
        tenant.tenant_id,
        tenant.status,
        tenant.backup_id or "",
        utc(tenant.point),
        count(tenant.rows),
        size_text(tenant.bytes),
        count(tenant.files.restored if tenant.files else 0),
        seconds(tenant.seconds),
        "; ".join(errors),
    )
