"""`sbh report`: what was promised, and how it stands."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sbh_pipelines.cli.command import Invocation, command
from sbh_pipelines.cli.commands.audit import moment
from sbh_pipelines.cli.commands.tenants import TenantsArgument, complete_tenant
from sbh_pipelines.cli.output import Answer, count, plural, print_issues, table, utc
from sbh_pipelines.cli.show.spans import margin, met, span, trend
from sbh_pipelines.document import as_document
from sbh_pipelines.errors import RepositoryError, RequestError
from sbh_pipelines.model import size_text, timestamp

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import (
        ComplianceReport,
        CopyPointAge,
        RecoveryObjectives,
        RecoveryPointAge,
        RecoveryTime,
        StorageReport,
    )

app = typer.Typer(
    name="report", help="Recovery objectives, and what was measured; evidence; what is stored, and its cost."
)

_NAMED = 5


@command(app, "recovery", permission="report.read")
def recovery(
    invocation: Invocation,
    tenants: Annotated[
        list[str] | None,
        typer.Option(
            "--tenant", "-t", help="Only this tenant; may be repeated; default: all.", autocompletion=complete_tenant
        ),
    ] = None,
) -> Answer:
    """Show the recovery time and recovery point objectives: what was measured, what is left, and how it changes.

    A trend is against the mean of up to five measurements before. Damage exits 8.
    """
    report = invocation.service().drills.report(invocation.user(), tenants or ())
    issues = report.issues
    brief = [f"{row.scenario}: {_word(row)}" for row in report.recovery_time]
    brief += [f"{row.data_type}: {_word(row)}" for row in report.recovery_point]
    brief += [f"{row.data_type} at {row.copy}: {_word(row)}" for row in report.copies]
    return Answer(report, lambda out: _show(out, report), brief, RepositoryError.exit_status if issues else 0)


@command(app, "compliance", permission="report.read")
def compliance(
    invocation: Invocation,
    tenants: TenantsArgument = None,
    first: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="The period's first day, or a time; default: of the last full quarter.",
            metavar="DAY",
            show_default=False,
        ),
    ] = None,
    last: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="The day, or time, before which it ends; default: with the last full quarter.",
            metavar="DAY",
            show_default=False,
        ),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option("--write", help="Write it as Markdown to this file, which must not exist.", metavar="FILE"),
    ] = None,
) -> Answer:
    """Fill the map of controls (docs/compliance.md) with the figures of a period, and verify the audit trails on the way.

    A broken trail, or a tenant that could not be looked at, exits 8.
    """
    from sbh_pipelines.cli.show.compliance import controls, markdown

    if (first is None) != (last is None):
        raise RequestError(
            "A period has two ends", on="--from, --to", remedy="give both; without them it is the last full quarter"
        )
    since, until = moment(first), moment(last)
    by_default = since is None or until is None
    if since is None or until is None:
        since, until = last_quarter(datetime.now(UTC))
    report = invocation.service().audit.compliance_report(invocation.user(), since, until, tenants or ())
    lines = controls(report)
    if write is not None:
        try:
            with write.open("x", encoding="utf-8") as out:
                out.write(markdown(report))
        except OSError as error:
            raise RequestError("Cannot write the report", on=str(write), why=error.strerror or "") from None
    trails = report.platform.audit if report.platform else ()
    sound = not (report.errors or report.totals.trails_broken or any(t.valid is not True for t in trails))
    return Answer(
        {**as_document(report), "controls": lines},
        lambda out: _show_compliance(out, report, lines, by_default),
        [f"{c['subject']}: {c['evidence']}" for c in lines],
        0 if sound else RepositoryError.exit_status,
    )


@command(app, "storage", permission="report.read")
def storage(
    invocation: Invocation,
    tenants: TenantsArgument = None,
    days: Annotated[int, typer.Option(help="What was stored in so many days is new.", min=1, max=3660)] = 30,
) -> Answer:
    """Show what the backups take up, by tenant, tier and storage class, how it grows, and what it costs a month by [prices].

    The buckets are listed. What belongs to no tenant (catalog, journal, the platform's backups) is counted where none is named.
    """
    report = invocation.service().health.storage(invocation.user(), tenants or (), days=days)
    brief = [f"{line.tenant_id}: {line.stored.bytes}" for line in report.tenants]
    failed = any(line.error for line in report.tenants)
    return Answer(report, lambda out: _show_storage(out, report), brief, RepositoryError.exit_status if failed else 0)


def _show_storage(out: Any, report: "StorageReport") -> None:
    total = report.total
    said = f"{size_text(total.bytes)} in {count(total.objects)} objects, {size_text(total.new)} of them new in {report.days} days"
    if total.cost is not None:
        said += f"; {_money(total.cost, report)} a month"
    out.print(said, style="bold", markup=False)
    new = f"->new in {report.days} d"
    columns = ("tenant", "-region", "-tier", ">backups", ">stored", new, "->would bring back", ">saved", ">a month")
    rows = [
        (
            line.tenant_id,
            line.region,
            line.tier,
            count(line.backups),
            size_text(line.stored.bytes),
            size_text(line.stored.new),
            size_text(line.logical),
            f"{line.saved:.1f}×" if line.saved else "",
            _money(line.stored.cost, report),
        )
        for line in report.tenants
    ]
    rows += [
        (
            line.name,
            line.region,
            "",
            "",
            size_text(line.stored.bytes),
            size_text(line.stored.new),
            "",
            "",
            _money(line.stored.cost, report),
        )
        for line in report.shared
    ]
    out.print(table("", columns, rows))
    for title, sums in (("tier", report.by_tier), ("storage class", report.by_class)):
        if len(sums) > 1:
            out.print(table("", (title, ">stored"), [(name, size_text(size)) for name, size in sums.items()]))
    if not (total.cost is not None or not total.bytes):
        out.print(
            "No cost: [prices] lacks a price for " + ", ".join(sorted(report.by_class)), style="dim", markup=False
        )
    for line in report.tenants:
        if line.error:
            out.print(f"{line.tenant_id}: {line.error}", style="red", markup=False)


def _money(cost: float | None, report: "StorageReport") -> str:
    return "" if cost is None else f"{cost:,.2f} {report.currency}"


def last_quarter(now: datetime) -> tuple[datetime, datetime]:
    """The beginning and the end of the last quarter of a year, UTC, that is over."""
    end = datetime(now.year, now.month - (now.month - 1) % 3, 1, tzinfo=UTC)
    year, month = (end.year, end.month - 3) if end.month > 3 else (end.year - 1, 10)
    return datetime(year, month, 1, tzinfo=UTC), end


def _show_compliance(
    out: Any, report: "ComplianceReport", controls: Sequence[Mapping[str, str]], by_default: bool
) -> None:
    from sbh_pipelines.cli.show.compliance import tenant_row

    rows = [(c["subject"], c["evidence"], c["paragraphs"]) for c in controls]
    title = f"From {utc(timestamp(report.since))} to {utc(timestamp(report.until))}"
    if by_default:
        title += ", the last full quarter; --from and --to choose another period"
    out.print(table(title, ("subject", "in the period", "asked for by"), rows))
    columns = (
        "tenant",
        "region",
        ">backups",
        ">failed",
        ">longest gap",
        ">drills",
        "->restores",
        "->forgotten",
        "->holds",
    )
    lines = map(tenant_row, report.tenants)
    out.print(table(plural(len(report.tenants), "tenant"), (*columns, ">denied", "trail"), lines))
    for line in report.errors:
        out.print(f"{line.tenant_id}: [{line.error.code}] {line.error.what}", style="red", markup=False)


def _word(row: "RecoveryTime | RecoveryPointAge | CopyPointAge") -> str:
    return "unknown" if row.met is None else "met" if row.met else "missed"


def _show(out: Any, report: "RecoveryObjectives") -> None:
    times, points = report.recovery_time, report.recovery_point
    out.print(
        table(
            f"Recovery time objectives{f' of {report.site}' if report.site else ''},"
            f" {plural(report.tenants, 'tenant')}, {utc(report.at)}",
            (
                "scenario",
                "-~needs",
                ">objective",
                ">last measured",
                ">margin",
                "met",
                "->trend",
                "when",
                "tenant",
                "->drilled",
            ),
            map(_time, times),
        )
    )
    for row in times:
        notes = [f"{f.tenant_id} failed: {f.error.code}" for f in row.failed[:_NAMED]]
        notes += [f"{tenant} took too long" for tenant in row.over[: _NAMED - len(notes)]]
        _note(out, row.scenario, notes, row.failed_count + row.over_count)
    out.print(
        table(
            "Recovery point objectives",
            (
                "data type",
                "-backups",
                ">objective",
                ">worst age",
                ">margin",
                "met",
                "->trend",
                "tenant",
                ">tenants",
                "->by journal",
                "->of backups",
            ),
            map(_point, points),
        )
    )
    for age in points:
        notes = [f"{tenant} misses it" for tenant in age.missing[:_NAMED]]
        _note(out, age.data_type, notes, age.missing_count)
    if report.copies:
        columns = (
            "copy",
            "data type",
            ">objective",
            ">worst age",
            ">margin",
            "met",
            "tenant",
            "->tenants",
            "->left out",
        )
        out.print(table("Recovery points at copies", columns, map(_at_copy, report.copies)))
    for line in report.copies:
        if line.without_copy_count:
            of = plural(line.without_copy_count, "tenant")
            out.print(f"{line.data_type} at {line.copy}: nothing was verified of {of}", style="red", markup=False)
    print_issues(out, report.issues)


def _at_copy(line: "CopyPointAge") -> tuple[Any, ...]:
    return (
        line.copy,
        line.data_type,
        span(line.objective_s),
        span(line.worst_age_s),
        margin(line.margin_s),
        met(line.met),
        line.tenant_id or "",
        count(line.tenants),
        count(line.left_out_count),
    )


def _note(out: Any, subject: str, named: list[str], number: int) -> None:
    if number:
        more = f", … {number - len(named):,} more" if number > len(named) else ""
        out.print(f"{subject}: {', '.join(named)}{more}", style="red", markup=False)


def _time(row: "RecoveryTime") -> tuple[Any, ...]:
    measured = row.last_measured_s
    return (
        row.scenario,
        row.backup_type,
        span(row.objective_s),
        span(measured) if measured is not None else "never drilled" if not row.tenants_drilled else "never passed",
        margin(row.margin_s),
        met(row.met),
        trend(row.trend),
        utc(row.measured_at),
        row.tenant_id or "",
        count(row.tenants_drilled),
    )


def _point(row: "RecoveryPointAge") -> tuple[Any, ...]:
    return (
        row.data_type,
        ", ".join(row.backup_frequency),
        span(row.objective_s),
        span(row.worst_age_s) or ("no backup" if row.tenants else "no tenants"),
        margin(row.margin_s),
        met(row.met),
        trend(row.trend),
        row.tenant_id or "",
        count(row.tenants),
        count(row.by_journal_count),
        span(row.worst_backup_age_s),
    )
