"""`sbh repository`: care of what backups are kept in."""

from collections.abc import Sequence
from contextlib import suppress
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
from sbh_pipelines.cli.output import Answer, count, plural, table
from sbh_pipelines.errors import AccessDenied, BatchError
from sbh_pipelines.model import size_text

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import JournalUpkeep, NothingToPrune, PruneReport

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
    (`prune.min_age_hours`). One tenant that fails, fails alone (exit 11). With `--all` the change journals as well: what no
    promised moment needs goes, and segments are merged.
    """
    wanted = chosen_tenants(invocation, tenants, everyone, "repository prune")
    service, user = invocation.service(), invocation.user()
    with invocation.progress() as progress:
        reports, failed = one_by_one(
            wanted, lambda tenant: service.retention.prune(tenant, user, dry_run=dry_run, progress=progress)
        )
        # The journals are the region's, so they are seen to when all of its tenants are.
        journals: Sequence[JournalUpkeep] = ()
        with suppress(AccessDenied):  # of one tenant's administrator
            journals = service.retention.keep_journals(user, dry_run=dry_run) if everyone else ()
    status = BatchError.exit_status if failed else 0
    document = {"pruned": reports, "failed": failed, **({"journals": journals} if journals else {})}

    def show(out: Any) -> None:
        _show(out, reports, failed)
        _show_journals(out, journals)

    return Answer(document, show, [r.tenant_id for r in reports], status)


def _show(out: Any, reports: "Sequence[PruneReport | NothingToPrune]", failed: Sequence[FailedTenant]) -> None:
    from sbh_pipelines.backup.service.results import NothingToPrune

    idle = [report for report in reports if isinstance(report, NothingToPrune)]
    done = [report for report in reports if not isinstance(report, NothingToPrune)]
    if done:
        tense = "would be pruned" if done[0].dry_run else "pruned"
        out.print(table(f"{plural(len(done), 'repository', 'repositories')} {tense}", _COLUMNS, map(_row, done)))
    for report in done:
        if report.decisions:
            rows = [(d.action, d.key, size_text(d.size), size_text(d.live), d.why) for d in report.decisions]
            out.print(table(report.tenant_id, ("~what", "object", ">size", ">needed", "~why"), rows))
    if idle:
        out.print(table("Nothing to prune", ("tenant", "~why"), [(i.tenant_id, i.note) for i in idle]))
    if failed:
        out.print(failed_table(f"{plural(len(failed), 'tenant')} failed", failed, remedies=True))


def _show_journals(out: Any, journals: "Sequence[JournalUpkeep]") -> None:
    if journals:
        columns = ("region", ">segments", ">stored", ">removed", ">freed", ">merged", ">into", ">gaps removed")
        rows = [
            (
                one.region,
                count(one.segments_before),
                size_text(one.bytes_before),
                count(len(one.removed)),
                size_text(one.bytes_freed),
                count(sum(merged.sources for merged in one.merged)),
                count(len(one.merged)),
                count(one.gaps_removed),
            )
            for one in journals
        ]
        title = "The change journal" + (", as it would be" if journals[0].dry_run else "")
        out.print(table(title, columns, rows))
    reasons = [(removed.segment, size_text(removed.size), removed.why) for one in journals for removed in one.removed]
    if reasons:
        out.print(table("Segments", ("segment", ">size", "~why"), reasons[:_REASONS]))
    for one in journals:
        for issue in one.issues:
            out.print(str(issue))


_REASONS = 50  # segments shown with why they go
_COLUMNS = (
    "tenant",
    ">backups",
    ">packs",
    ">stored",
    ">to retire",
    ">to rewrite",
    ">to delete",
    "->stored, of both",
    "->too young",
    "->index objects",
)


def _row(report: "PruneReport") -> tuple[str, ...]:
    return (
        report.tenant_id,
        count(report.backups),
        count(report.packs_before),
        size_text(report.bytes_before),
        count(report.packs_to_retire),
        f"{count(report.packs_to_rewrite)} ({size_text(report.bytes_to_rewrite)} needed)",
        f"{count(report.objects_to_remove)} ({size_text(report.bytes_to_remove)})",
        size_text(report.bytes_to_retire),
        count(report.kept_because_young),
        f"{count(report.index_objects_before)}, {count(report.index_objects_to_replace)} to merge",
    )
