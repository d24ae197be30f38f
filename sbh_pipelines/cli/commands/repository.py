"""`sbh repository`: care of what backups are kept in."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sbh_pipelines.cli.command import Invocation, command
from sbh_pipelines.cli.commands.tenants import (
    EveryoneOption,
    FailedTenant,
    TenantsArgument,
    chosen_tenants,
    failed_table,
    one_by_one,
)
from sbh_pipelines.cli.output import Answer, count, mib, plural, table
from sbh_pipelines.errors import BatchError

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import NothingToPrune, PruneReport

app = typer.Typer(name="repository", help="Give back space, tenant by tenant.")


@command(app, "prune", permission="repository.prune")
def prune(
    invocation: Invocation,
    tenants: TenantsArgument = None,
    everyone: EveryoneOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, and why; write nothing.")
    ] = False,
) -> Answer:
    """Give back the space of what no backup needs. What is retired now is deleted by a prune a day later
    (`prune.min_age_hours`). One tenant that fails, fails alone (exit 11).
    """
    wanted = chosen_tenants(invocation, tenants, everyone, "repository prune")
    service, user = invocation.service(), invocation.user()
    with invocation.progress() as progress:
        reports, failed = one_by_one(
            wanted, lambda tenant: service.retention.prune(tenant, user, dry_run=dry_run, progress=progress)
        )
    status = BatchError.exit_status if failed else 0
    document = {"pruned": reports, "failed": failed}
    return Answer(document, lambda out: _show(out, reports, failed), [r.tenant_id for r in reports], status)


def _show(out: Any, reports: "Sequence[PruneReport | NothingToPrune]", failed: Sequence[FailedTenant]) -> None:
    from sbh_pipelines.backup.service.results import NothingToPrune

    idle = [report for report in reports if isinstance(report, NothingToPrune)]
    done = [report for report in reports if not isinstance(report, NothingToPrune)]
    if done:
        tense = "would be pruned" if done[0].dry_run else "pruned"
        out.print(table(f"{plural(len(done), 'repository', 'repositories')} {tense}", _COLUMNS, map(_row, done)))
    for report in done:
        if report.decisions:
            rows = [(d.action, d.key, mib(d.size), mib(d.live), d.why) for d in report.decisions]
            out.print(table(report.tenant_id, ("what", "object", ">size", ">needed", "why"), rows))
    if idle:
        out.print(table("Nothing to prune", ("tenant", "why"), [(i.tenant_id, i.note) for i in idle]))
    if failed:
        out.print(failed_table(f"{plural(len(failed), 'tenant')} failed", failed, remedies=True))


_COLUMNS = (
    "tenant",
    ">backups",
    ">packs",
    ">stored",
    ">to retire",
    ">to rewrite",
    ">both, stored",
    ">to delete",
    ">young",
    ">index objects",
)


def _row(report: "PruneReport") -> tuple[str, ...]:
    return (
        report.tenant_id,
        count(report.backups),
        count(report.packs_before),
        mib(report.bytes_before),
        count(report.packs_to_retire),
        f"{count(report.packs_to_rewrite)} ({mib(report.bytes_to_rewrite)} needed)",
        mib(report.bytes_to_retire),
        f"{count(report.objects_to_remove)} ({mib(report.bytes_to_remove)})",
        count(report.kept_because_young),
        f"{count(report.index_objects_before)}, {count(report.index_objects_to_replace)} to merge",
    )
