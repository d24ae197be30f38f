"""`sbh backup`: make, list, show and validate backups."""

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sbh_pipelines.backup.contents.manifest import Manifest
from sbh_pipelines.backup.create.moment.way.target import Target
from sbh_pipelines.cli.command import FromCopyOption, Invocation, command
from sbh_pipelines.cli.commands.tenants import (
    EveryoneOption,
    FormerKeyOption,
    TenantsArgument,
    chosen_tenants,
    complete_tenant,
)
from sbh_pipelines.cli.output import Answer, facts, plural, utc
from sbh_pipelines.cli.show.backups import (
    backups_table,
    created_backups,
    files_missing,
    show_created,
    show_manifest,
    show_moment,
    show_validation,
)
from sbh_pipelines.document import as_document
from sbh_pipelines.errors import BatchError, RepositoryError, RequestError
from sbh_pipelines.model import BackupType
from sbh_pipelines.security.policy import allows

if TYPE_CHECKING:
    from sbh_pipelines.backup.service import BackupService
    from sbh_pipelines.security.policy import UserContext

_NAMED = 5  # backups of one call whose missing files are named; of the others they are counted

app = typer.Typer(name="backup", help="Make, list, show and validate backups.")

TenantArgument = Annotated[str, typer.Argument(help="The tenant's slug.", autocompletion=complete_tenant)]
TenantOption = Annotated[str, typer.Option("--tenant", "-t", help="The tenant's slug.", autocompletion=complete_tenant)]
BackupArgument = Annotated[
    str,
    typer.Argument(
        help="A backup id; `latest`; or @2024-01-15T14:32 (UTC): with a change journal the tenant as it was then, else the newest"
        " backup that is not later. @xid:812345: just before that transaction.",
        metavar="BACKUP",
    ),
]


@command(app, "create", permission="backup.create")
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
    moment: Annotated[
        str | None,
        typer.Option(
            "--at",
            help="Put a backup of this moment together, of one from before it and the change journal: 2024-01-15T14:32:07 (UTC).",
            metavar="TIME",
            show_default=False,
        ),
    ] = None,
    before: Annotated[
        str | None,
        typer.Option("--before", help="As --at, just before this transaction.", metavar="XID", show_default=False),
    ] = None,
    lsn: Annotated[
        str | None,
        typer.Option("--lsn", help="As --at, at this position of the log.", metavar="LSN", show_default=False),
    ] = None,
    tables: Annotated[
        str | None,
        typer.Option("--tables", help="Of a moment: only these tables.", metavar="A,B", show_default=False),
    ] = None,
    as_of_backup: Annotated[
        str | None,
        typer.Option(
            "--as-of-backup",
            help="Of a moment: tables that the journal does not tell of, as the backup has them; `all`: whichever they are.",
            metavar="A,B",
            show_default=False,
        ),
    ] = None,
) -> Answer:
    """Back up one tenant, several, or all. One that fails, fails alone: the others are still backed up (exit 11).

    A tenant that has not changed since its last backup gets no new one, unless a full one is asked for. With --at, --before or
    --lsn it is a backup of one tenant as it was at a moment of the past.
    """
    if target := _target(moment, before, lsn):
        return _create_at(invocation, tenants, everyone, target, _names(tables), _names(as_of_backup), description)
    if tables or as_of_backup:
        raise RequestError(
            "Backups have all tables", on="--tables, --as-of-backup", remedy="they go with --at, --before, --lsn"
        )
    wanted = chosen_tenants(invocation, tenants, everyone, "backup create")
    service, user = invocation.service(), invocation.user()
    with invocation.progress() as progress:
        drafts = service.backups.create_all(wanted, user, kind, description=description, progress=progress)
    if len(wanted) == 1 and drafts[0].error:
        raise drafts[0].error
    unusable = service.tenants.unusable() if everyone else []
    created = created_backups(drafts, unusable)
    ids = [*(backup.id for backup in created.backups), *(str(u.unchanged_since) for u in created.unchanged)]
    status = BatchError.exit_status if created.failed else 0
    named = [] if invocation.as_json or invocation.quiet else created.backups[:_NAMED]
    missing = {backup.tenant_id: _missing(service, backup, user) for backup in named}
    return Answer(created, lambda out: show_created(out, created, missing), ids, status)


def _target(moment: str | None, before: str | None, lsn: str | None) -> Target | None:
    given = [name for name, value in (("--at", moment), ("--before", before), ("--lsn", lsn)) if value is not None]
    if len(given) > 1:
        raise RequestError("One moment is asked for", on=", ".join(given), remedy="give one of them")
    if before is not None:
        return Target.before_transaction(before)
    if lsn is not None:
        return Target.at_position(lsn)
    return None if moment is None else Target.parse(moment)


def _missing(service: "BackupService", manifest: Manifest, user: "UserContext") -> list[str]:
    """Names of a few files that rows refer to and that the backup lacks; none for who may not read backups."""
    if not manifest.missing_references or not allows(user, "backup.validate", manifest.tenant_id):
        return []
    return service.backups.missing_files(manifest.id, manifest.tenant_id, user)


def _names(listed: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (listed or "").split(",") if name.strip())


def _create_at(
    invocation: Invocation,
    tenants: list[str] | None,
    everyone: bool,
    target: Target,
    tables: tuple[str, ...],
    as_of_backup: tuple[str, ...],
    description: str | None,
) -> Answer:
    named = tenants or []
    if everyone or len(named) != 1:
        raise RequestError("A moment is of one tenant", remedy="sbh backup create TENANT --at TIME")
    tenant = named[0]
    service, user = invocation.service(), invocation.user()
    with invocation.progress() as progress:
        manifest = service.backups.create_at(
            tenant,
            user,
            target,
            tables=tables,
            as_of_backup=as_of_backup,
            description=description,
            progress=progress,
        )
    return Answer(manifest, lambda out: show_moment(out, manifest), [manifest.id])


@command(app, "list", permission="backup.list")
def list_backups(
    invocation: Invocation,
    tenant: TenantArgument,
    former_key: FormerKeyOption = None,
    from_copy: FromCopyOption = None,
) -> Answer:
    """List a tenant's backups, newest first. A damaged manifest is shown as an error (exit 8).

    Those of a tenant that had the slug before are not among them.
    """
    service, user = invocation.service(from_copy), invocation.user()
    found = service.backups.of(tenant, user, former_key=former_key)
    damaged = service.backups.damaged(tenant, user, former_key=former_key)
    title = f"{plural(len(found), 'backup')} of {tenant}"

    def show_all(out: Any) -> None:
        out.print(backups_table(title, found))
        if found and found[0].missing_references:
            newest = f"`sbh backup show {found[0].id} -t {tenant}`"
            said = f"{files_missing(found[0].missing_references)} when the newest was made; {newest} names some"
            out.print(said, style="yellow", soft_wrap=True)
        for key in service.backups.former_keys(tenant, user) if former_key is None else ():
            out.print(f"backups of a tenant that had this slug before are left out: --former-key {shlex.quote(key)}")
        latest = service.backups.recovery_points([tenant], user)
        for point in latest.recovery_points:
            if point.recorded_as == "unchanged" and point.recovery_point is not None:
                out.print(f"unchanged since {point.backup_id} as of {utc(point.recovery_point.time)}")
        shown = {error.on for error in damaged}
        for error in (*damaged, *(issue for issue in latest.issues if issue.on not in shown)):
            out.print(str(error), style="red", markup=False)

    document = [*found, *({"error": error} for error in damaged)]
    status = damaged[0].exit_status if damaged else 0
    return Answer(document, show_all, [backup.id for backup in found], status)


@command(app, "show", permission="backup.list")
def show(
    invocation: Invocation,
    backup: BackupArgument,
    tenant: TenantOption,
    former_key: FormerKeyOption = None,
    from_copy: FromCopyOption = None,
) -> Answer:
    """Show one backup: its manifest, components and tables."""
    service, user = invocation.service(from_copy), invocation.user()
    manifest = service.backups.get(backup, tenant, user, former_key=former_key)
    missing = (
        _missing(service, manifest, user) if former_key is None and not (invocation.as_json or invocation.quiet) else []
    )
    return Answer(manifest, lambda out: show_manifest(out, manifest, missing), [manifest.id])


@command(app, "status", permission="backup.status")
def status(invocation: Invocation, backup: BackupArgument, tenant: TenantOption) -> Answer:
    """Whether a backup is running, completed or failed."""
    service, user = invocation.service(), invocation.user()
    found = service.backups.status(backup, tenant, user)
    return Answer(found, lambda out: out.print(facts(as_document(found))), [found.status])


@command(app, "validate", permission="backup.validate")
def validate(
    invocation: Invocation,
    backup: BackupArgument,
    tenant: TenantOption,
    deep: Annotated[bool, typer.Option("--deep", help="Download, decrypt and re-hash everything.")] = False,
    from_copy: FromCopyOption = None,
) -> Answer:
    """Check a backup: signature, components, chunks; with --deep every byte. An invalid backup exits 8."""
    service, user = invocation.service(from_copy), invocation.user()
    with invocation.progress() as progress:
        found = service.backups.validate(backup, tenant, user, deep=deep, progress=progress)
    return Answer(
        found,
        lambda out: show_validation(out, found),
        ["valid" if found.valid else "invalid"],
        0 if found.valid else RepositoryError.exit_status,
    )


def resolve(service: Any, backup: str, tenant: str, user: Any) -> str:
    """`latest` -> the newest backup's id; anything else as it is. Raises UnknownBackup where there is none."""
    return str(service.backups.get(backup, tenant, user).id) if backup == "latest" else backup
