"""`sbh backup forget`, and the pins and legal holds that stand in its way."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sbh_pipelines.cli.command import Invocation, command
from sbh_pipelines.cli.commands.backup import BackupArgument, TenantArgument, TenantOption
from sbh_pipelines.cli.commands.tenants import (
    EveryoneOption,
    FailedTenant,
    FormerKeyOption,
    TenantsArgument,
    chosen_tenants,
    failed_table,
    one_by_one,
)
from sbh_pipelines.cli.output import Answer, facts, plural, print_issues, table, utc, verdict
from sbh_pipelines.errors import BatchError, RepositoryError, RequestError

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import HoldLine, RetentionOutcome


def forget(
    invocation: Invocation,
    tenants: TenantsArgument = None,
    everyone: EveryoneOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be forgotten, and why.")] = False,
    backup: Annotated[
        str | None,
        typer.Option("--backup", help="Forget this backup, whatever the policy says of it.", metavar="BACKUP"),
    ] = None,
) -> Answer:
    """Forget the backups that no rule of the retention policy keeps, and show for every backup the rule that does.

    The data they alone needed is removed by a prune. A tenant that fails, fails alone (exit 11).
    """
    wanted = chosen_tenants(invocation, tenants, everyone, "backup forget")
    service, user = invocation.service(), invocation.user()
    if backup is not None and len(wanted) != 1:
        raise RequestError("A backup is of one tenant", on=backup, remedy="name its tenant, and no other")
    done, failed = one_by_one(
        wanted, lambda tenant: service.retention.forget(tenant, user, backup_id=backup, dry_run=dry_run)
    )
    forgotten = [backup_id for outcome in done for backup_id in outcome.forgotten]
    return Answer(
        {"tenants": done, "failed": failed},
        lambda out: _show_forgotten(out, done, failed),
        forgotten,
        BatchError.exit_status if failed else 0,
    )


def pin(
    invocation: Invocation,
    backup: BackupArgument,
    tenant: TenantOption,
    reason: Annotated[str, typer.Option(help="Why; stored in clear.")] = "",
) -> Answer:
    """Keep a backup until it is unpinned, whatever the policy says."""
    placed = invocation.service().retention.pin(backup, tenant, invocation.user(), reason)
    return Answer(placed, lambda out: out.print(_one(placed)), [placed.id])


def unpin(invocation: Invocation, backup: BackupArgument, tenant: TenantOption) -> Answer:
    """Take a backup's pin away: the policy decides again."""
    taken = invocation.service().retention.unpin(backup, tenant, invocation.user())
    return Answer(taken, lambda out: out.print(f"{taken.backup_id} is no longer pinned."), [taken.id])


def hold(
    invocation: Invocation,
    tenant: TenantArgument,
    reason: Annotated[str, typer.Option(help="Why; stored in clear.")],
    backup: Annotated[
        str | None, typer.Option("--backup", help="Only this backup; else all, also those to come.", metavar="BACKUP")
    ] = None,
) -> Answer:
    """Place a legal hold: nothing it covers is forgotten until it is released."""
    placed = invocation.service().retention.hold(tenant, invocation.user(), reason=reason, backup_id=backup)
    return Answer(placed, lambda out: out.print(_one(placed)), [placed.id])


def release(
    invocation: Invocation,
    hold_id: Annotated[str, typer.Argument(help="The hold's id, as `sbh backup holds` shows it.", metavar="HOLD")],
    tenant: TenantOption,
    former_key: FormerKeyOption = None,
) -> Answer:
    """Release a legal hold; others on the same backups stay."""
    taken = invocation.service().retention.release(hold_id, tenant, invocation.user(), former_key=former_key)
    return Answer(taken, lambda out: out.print(f"{hold_id} is released."), [taken.id])


def list_holds(invocation: Invocation, tenant: TenantArgument, former_key: FormerKeyOption = None) -> Answer:
    """List a tenant's pins and legal holds. A damaged one still holds, and is shown as an error (exit 8)."""
    found = invocation.service().retention.holds(tenant, invocation.user(), former_key=former_key)
    rows = [
        (
            hold.id,
            hold.kind,
            hold.backup_id or "all backups",
            verdict(False, f"{hold.error.code}: {hold.error.why}") if hold.error else hold.reason,
            hold.placed_by,
            utc(hold.placed_at),
        )
        for hold in found
    ]
    title = f"{plural(len(found), 'pin or hold', 'pins and holds')} of {tenant}"
    columns = ("id", "-kind", "protects", "~reason", "-placed by", "-placed")
    status = RepositoryError.exit_status if any(hold.error for hold in found) else 0
    return Answer(found, lambda out: out.print(table(title, columns, rows)), [hold.id for hold in found], status)


def add_to(app: typer.Typer) -> None:
    """Register under `sbh backup`."""
    for name, function, permission in (
        ("forget", forget, "backup.forget"),
        ("pin", pin, "backup.hold"),
        ("unpin", unpin, "backup.hold"),
        ("hold", hold, "hold.legal"),
        ("release", release, "hold.legal"),
        ("holds", list_holds, "backup.list"),
    ):
        command(app, name, permission=permission)(function)


def _one(placed: "HoldLine") -> Any:
    return facts(
        {
            placed.kind: placed.id,
            "protects": placed.backup_id or "all backups of the tenant, also those to come",
            "reason": placed.reason,
            "placed": f"{utc(placed.placed_at)} by {placed.placed_by}",
        }
    )


def _show_forgotten(out: Any, done: Sequence["RetentionOutcome"], failed: Sequence[FailedTenant]) -> None:
    for outcome in done:
        would = "would be forgotten" if outcome.dry_run else "forgotten"
        kept = sum(backup.keep for backup in outcome.backups)
        title = f"{outcome.tenant_id}: {plural(kept, 'backup')} kept, {len(outcome.forgotten):,} {would}"
        rows = [
            (
                backup.id,
                backup.type,
                utc(backup.created_at),
                verdict(True, "keep") if backup.keep else verdict(False, "forget"),
                ", ".join(backup.reasons),
            )
            for backup in outcome.backups
        ]
        out.print(table(title, ("backup", "type", "created", "verdict", "~because"), rows))
        print_issues(out, outcome.errors)
    if failed:
        out.print(failed_table(f"{plural(len(failed), 'tenant')} failed", failed))
