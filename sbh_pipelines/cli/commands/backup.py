"""`sbh backup`: make, list, show and validate backups."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.cli.command import Invocation, command
from sbh_pipelines.cli.commands.tenants import EveryoneOption, TenantsArgument, chosen_tenants, complete_tenant
from sbh_pipelines.cli.output import Answer, count, facts, mib, plural, seconds, table, utc, verdict
from sbh_pipelines.errors import BatchError, RepositoryError, SbhError
from sbh_pipelines.model import SAFETY, BackupType

app = typer.Typer(name="backup", help="Make, list, show and validate backups.")

TenantArgument = Annotated[str, typer.Argument(help="The tenant's slug.", autocompletion=complete_tenant)]
TenantOption = Annotated[str, typer.Option("--tenant", "-t", help="The tenant's slug.", autocompletion=complete_tenant)]
BackupArgument = Annotated[str, typer.Argument(help="A backup id, or `latest`.", metavar="BACKUP")]


@command(app, "create")
def create(
    invocation: Invocation,
    tenants: TenantsArgument = None,
    everyone: EveryoneOption = False,
    kind: Annotated[
        BackupType,
        typer.Option(
            "--type",
            help="full: everything. incremental: what changed since the newest backup. differential: what changed since"
            " the newest full one. Each restores by itself.",
        ),
    ] = BackupType.FULL,
    description: Annotated[str | None, typer.Option(help="A note kept in the manifest.")] = None,
) -> Answer:
    """Back up one tenant, several, or all. One that fails, fails alone: the others are still backed up (exit 11).

    A tenant that has not changed since its last backup gets no new one, unless a full one is asked for.
    """
    wanted = chosen_tenants(invocation, tenants, everyone, "backup create")
    service, user = invocation.service(), invocation.user()
    with invocation.progress() as progress:
        drafts = service.backups.create_all(wanted, user, kind, description=description, progress=progress)
    if len(wanted) == 1 and drafts[0].error:
        raise drafts[0].error
    made = [dict(draft.manifest.document) for draft in drafts if draft.manifest and not draft.error]
    unchanged = [_unchanged(draft) for draft in drafts if draft.status is DraftStatus.UNCHANGED]
    failed = [
        {"tenant_id": draft.tenant.id, "backup_id": draft.backup_id, "step": draft.step, "error": draft.error.as_dict()}
        for draft in drafts
        if draft.error
    ]
    untidied = {
        str(draft.tenant.id): draft.retention.error for draft in drafts if draft.retention and draft.retention.error
    }
    if everyone:  # tenants whose slug cannot be used are in no backup: that must not go by unseen
        unusable = [error.as_dict() for error in service.tenants.unusable()]
        failed += [{"tenant_id": "?", "backup_id": "", "step": "begin", "error": error} for error in unusable]
    kept = [{"tenant_id": tenant, "error": error.as_dict()} for tenant, error in untidied.items()]
    document = {"backups": made, "unchanged": unchanged, "retention_failed": kept, "failed": failed}
    status = BatchError.exit_status if failed else 0
    ids = [*(backup["id"] for backup in made), *(tenant["unchanged_since"] for tenant in unchanged)]
    return Answer(document, lambda out: _show_created(out, made, unchanged, untidied, failed), ids, status)


def _unchanged(draft: Draft) -> dict[str, Any]:
    point = draft.recovery_point.time if draft.recovery_point else None
    return {"tenant_id": draft.tenant.id, "unchanged_since": draft.unchanged_since, "recovery_point": point}


@command(app, "list")
def list_backups(invocation: Invocation, tenant: TenantArgument) -> Answer:
    """List a tenant's backups, newest first. A damaged manifest is shown as an error (exit 8)."""
    service, user = invocation.service(), invocation.user()
    found = service.list_backups(tenant, user)
    damaged = service.backups.damaged(tenant, user)
    title = f"{plural(len(found), 'backup')} of {tenant}"

    def show_all(out: Any) -> None:
        out.print(_listing(title, found))
        latest = service.backups.recovery_points([tenant], user)
        for point in latest.recovery_points:
            if point.recorded_as == "unchanged" and point.recovery_point is not None:
                out.print(f"unchanged since {point.backup_id} as of {utc(point.recovery_point.time)}")
        shown = {error.on for error in damaged}
        for error in (*damaged, *(issue for issue in latest.issues if issue.on not in shown)):
            out.print(str(error), style="red", markup=False)

    document = [*found, *({"error": error.as_dict()} for error in damaged)]
    status = damaged[0].exit_status if damaged else 0
    return Answer(document, show_all, [backup["id"] for backup in found], status)


@command(app, "show")
def show(invocation: Invocation, backup: BackupArgument, tenant: TenantOption) -> Answer:
    """Show one backup: its manifest, components and tables."""
    service, user = invocation.service(), invocation.user()
    manifest = service.get_backup(backup, tenant, user)
    return Answer(manifest, lambda out: show_manifest(out, manifest), [manifest["id"]])


@command(app, "status")
def status(invocation: Invocation, backup: BackupArgument, tenant: TenantOption) -> Answer:
    """Whether a backup is running, completed or failed."""
    service, user = invocation.service(), invocation.user()
    document = service.get_backup_status(resolve(service, backup, tenant, user), tenant, user)
    return Answer(document, lambda out: out.print(facts(document)), [document["status"]])


@command(app, "validate")
def validate(
    invocation: Invocation,
    backup: BackupArgument,
    tenant: TenantOption,
    deep: Annotated[bool, typer.Option("--deep", help="Download, decrypt and re-hash everything.")] = False,
) -> Answer:
    """Check a backup: signature, components, chunks; with --deep every byte. An invalid backup exits 8."""
    service, user = invocation.service(), invocation.user()
    with invocation.progress() as progress:
        report = service.validate_backup(backup, tenant, user, deep=deep, progress=progress)
    valid = bool(report["valid"])
    return Answer(
        report,
        lambda out: _show_report(out, report),
        ["valid" if valid else "invalid"],
        0 if valid else RepositoryError.exit_status,
    )


def resolve(service: Any, backup: str, tenant: str, user: Any) -> str:
    """`latest` -> the newest backup's id; anything else as it is. Raises UnknownBackup where there is none."""
    return str(service.get_backup(backup, tenant, user)["id"]) if backup == "latest" else backup


def show_manifest(out: Any, manifest: Mapping[str, Any]) -> None:
    """The manifest for people: what it is, its recovery point, its components, its tables."""
    point, stats = manifest.get("recovery_point") or {}, manifest.get("stats") or {}
    out.print(
        facts(
            {
                "backup": manifest["id"],
                "tenant": f"{manifest['tenant_id']} ({manifest['region']})",
                "type": _type(manifest),
                "builds on": manifest.get("parent"),
                "created": f"{utc(manifest['created_at'])} by {manifest['created_by']}",
                "description": manifest.get("description"),
                "recovery point": f"{utc(point.get('time'))}, LSN {point.get('lsn')}, snapshot {point.get('snapshot')}",
                "size": mib(manifest["size"]),
                "stored anew": mib(stats["bytes_stored"]) if "bytes_stored" in stats else None,
                "checksum": manifest["checksum"],
                "format": f"version {manifest.get('format_version')}, key epoch {manifest.get('key_epoch')}",
            }
        )
    )
    components = manifest["components"]
    rows = [
        (name, component["type"], mib(component["size"]), _content(component), component["key"])
        for name, component in components.items()
    ]
    out.print(table("Components", ("component", "type", ">size", "content", "key"), rows))
    tables = sorted(name for component in components.values() for name in component.get("tables", ()))
    details = components.get("database", {}).get("table_details", [])
    lines = [(d["table"], count(d["rows"]), mib(d["bytes"]), count(d["groups"])) for d in details]
    if lines:
        out.print(table("Tables", ("table", ">rows", ">size", ">row groups"), lines))
    elif tables:
        out.print(facts({"tables": ", ".join(tables)}))
    if manifest.get("reread"):
        out.print(table("Read whole, not only what changed", ("what", "why"), sorted(manifest["reread"].items())))


def _type(manifest: Mapping[str, Any]) -> str:
    """The backup's type; where another was asked for, that and why."""
    made, asked = manifest["type"], manifest.get("requested_type") or manifest["type"]
    if manifest.get("purpose") == SAFETY:
        return f"{made}, a safety backup: made before a restore, and passed over by `latest`"
    return made if made == asked else f"{made}, {asked} was asked for: {manifest.get('type_reason')}"


def _content(component: Mapping[str, Any]) -> str:
    if "file_count" in component:
        return f"{count(component['file_count'])} files, {mib(component['total_size'])}"
    if "tables" in component:
        rows = f", {count(component['rows'])} rows" if "rows" in component else ""
        return f"{len(component['tables'])} tables{rows}"
    return ""


def _listing(title: str, manifests: Sequence[Mapping[str, Any]]) -> Any:
    def row(manifest: Mapping[str, Any]) -> tuple[str, ...]:
        parts, stats = manifest["components"], manifest.get("stats") or {}
        return (
            manifest["id"],
            manifest["type"] + (f" ({SAFETY})" if manifest.get("purpose") == SAFETY else ""),
            utc(manifest["created_at"]),
            manifest["created_by"],
            count(parts.get("database", {}).get("rows")),
            count(parts.get("files", {}).get("file_count")),
            mib(manifest["size"]),
            mib(stats.get("bytes_stored")),
            manifest.get("description") or "",
        )

    columns = ("backup", "type", "created", "by", ">rows", ">files", ">size", ">stored anew", "description")
    return table(title, columns, map(row, manifests))


def _show_created(
    out: Any,
    made: Sequence[Mapping[str, Any]],
    unchanged: Sequence[Mapping[str, Any]],
    untidied: Mapping[str, SbhError],
    failed: Sequence[Mapping[str, Any]],
) -> None:
    if made:
        rows = [
            (
                manifest["tenant_id"],
                manifest["id"],
                _type(manifest),
                count(manifest["components"].get("database", {}).get("rows")),
                count(manifest["components"].get("files", {}).get("file_count")),
                mib(manifest["size"]),
                mib((manifest.get("stats") or {}).get("bytes_stored")),
            )
            for manifest in made
        ]
        columns = ("tenant", "backup", "type", ">rows", ">files", ">size", ">stored anew")
        out.print(table(f"{plural(len(made), 'tenant')} backed up", columns, rows))
    if unchanged:
        same = ((u["tenant_id"], u["unchanged_since"], utc(u["recovery_point"])) for u in unchanged)
        title = f"{plural(len(unchanged), 'tenant')} unchanged"
        out.print(table(title, ("tenant", "unchanged since", "safe up to"), same))
    for manifest in made:
        if error := untidied.get(manifest["tenant_id"]):
            out.print(
                f"Old backups of {manifest['tenant_id']} were not forgotten: {error}", style="yellow", markup=False
            )
    if failed:
        broken = (
            (f["tenant_id"], f["step"], f["error"]["code"], f["error"]["what"], f["error"]["why"], f["error"]["remedy"])
            for f in failed
        )
        headings = ("tenant", "step", "code", "what failed", "why", "what to do next")
        out.print(table(f"{plural(len(failed), 'tenant')} failed", headings, broken))


def _show_report(out: Any, report: Mapping[str, Any]) -> None:
    valid = bool(report["valid"])
    out.print(
        facts(
            {
                "backup": report["backup_id"],
                "tenant": report["tenant_id"],
                "valid": verdict(valid, "yes" if valid else f"no, {plural(len(report['issues']), 'issue')}"),
                "checked": f"{count(report.get('objects_checked'))} objects,"
                f" {count(report.get('chunks_checked'))} chunks, {mib(report.get('bytes_checked'))}"
                + (", all read back" if report.get("deep") else ""),
                "took": seconds(report.get("seconds")),
            }
        )
    )
    if report["issues"]:
        rows = [(i["code"], i["what"], i["on"], i["why"], i["remedy"]) for i in report["issues"]]
        out.print(table("Issues", ("code", "what", "on", "why", "what to do next"), rows))
