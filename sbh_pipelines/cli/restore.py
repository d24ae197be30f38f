"""`sbh restore`: put a backup back in place, and see how a restore stands."""

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from sbh_pipelines.cli.backup import BackupArgument, TenantOption, resolve
from sbh_pipelines.cli.command import Invocation, command
from sbh_pipelines.cli.output import Answer, console, count, facts, mib, seconds, table, utc
from sbh_pipelines.errors import NotConfirmed

app = typer.Typer(name="restore", help="Bring one tenant back, in place.")


@command(app, "run")
def run(
    invocation: Invocation,
    backup: BackupArgument,
    tenant: TenantOption,
    confirm: Annotated[bool, typer.Option("--confirm", help="Yes, overwrite the tenant's rows and files.")] = False,
    keep_extra_files: Annotated[
        bool, typer.Option("--keep-extra-files", help="Leave files that the backup does not have.")
    ] = False,
) -> Answer:
    """Restore a tenant in place: its rows, files and configuration become what the backup holds. Other tenants stay."""
    from sbh_pipelines.model import TenantId

    service, user = invocation.service(), invocation.user()
    tenant_id = TenantId.parse(tenant)
    backup_id = resolve(service, backup, tenant, user)
    if not confirm:
        _ask(invocation, backup_id, tenant_id)
    with invocation.progress() as progress:
        report = service.restore_backup(
            backup_id, tenant, user, confirm=True, keep_extra_files=keep_extra_files, progress=progress
        )
    return Answer(report, lambda out: show_restore(out, report), [report["restore_id"]])


@command(app, "status")
def status(
    invocation: Invocation,
    restore_id: Annotated[str, typer.Argument(help="The id that `sbh restore run` printed.", metavar="RESTORE_ID")],
    tenant: TenantOption,
) -> Answer:
    """Whether a restore is running, completed or failed, and how far it is."""
    document = invocation.service().get_restore_status(restore_id, tenant, invocation.user())
    return Answer(document, lambda out: out.print(facts(document)), [document["status"]])


def _ask(invocation: Invocation, backup_id: str, tenant: str) -> None:
    """On a terminal the tenant's slug must be typed; elsewhere --confirm is the only way. Raises NotConfirmed."""
    refusal = "a restore overwrites the tenant's rows and files"
    if not invocation.as_json and sys.stdin.isatty() and sys.stderr.isatty():
        out = console(stderr=True)
        out.print(f"This overwrites the rows, files and configuration of {tenant} with {backup_id}.")
        out.print("Type the tenant's slug to go on: ", end="")
        if sys.stdin.readline().strip() == tenant:
            return
        refusal = "what was typed is not the tenant's slug"
    raise NotConfirmed(
        "The restore is not confirmed",
        on=f"{tenant}, {backup_id}",
        why=refusal,
        remedy=f"sbh restore run {backup_id} --tenant {tenant} --confirm",
    )


def show_restore(out: Any, report: Mapping[str, Any]) -> None:
    """What a restore changed, and what proves it."""
    proof = report.get("proof") or {}
    point = report.get("recovery_point") or {}
    out.print(
        facts(
            {
                "restore": report["restore_id"],
                "backup": report["backup_id"],
                "tenant": report["tenant_id"],
                "status": report["status"],
                "recovery point": utc(point.get("time") if isinstance(point, Mapping) else str(point)),
                "rows": f"{count(report['rows_inserted'])} inserted, {count(report['rows_updated'])} updated, "
                f"{count(report['rows_deleted'])} deleted",
                "files": f"{count(report['files_restored'])} put back, {count(report['files_removed'])} removed, "
                f"{count(report['files_unchanged'])} unchanged",
                "downloaded": mib(report.get("bytes_downloaded")),
                "proved": f"{_number(proof.get('groups'))} row groups,"
                f" {_number(proof.get('foreign_keys'))} foreign keys, {_number(proof.get('files'))} files",
                "took": seconds(report.get("seconds")),
            }
        )
    )
    rows = [
        (
            t["table"],
            f"{count(t['groups_matching'])} of {count(t['groups'])}",
            count(t["inserted"]),
            count(t["updated"]),
            count(t["deleted"]),
        )
        for t in report["tables"]
    ]
    if rows:
        out.print(table("Tables", ("table", ">row groups that matched", ">inserted", ">updated", ">deleted"), rows))


def _number(value: Any) -> str:
    return count(len(value) if isinstance(value, list | dict) else value) or "0"
