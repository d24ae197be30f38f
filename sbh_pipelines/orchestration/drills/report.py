"""The recovery report as an asset: what drills measured, and how old recovery points are, against the objectives."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from sbh_pipelines.errors import SbhError
from sbh_pipelines.orchestration.common.assets import DRAWN_ONLY, OWNERS, REPORT_KINDS, Group, asset_key
from sbh_pipelines.orchestration.common.failures import failure_of
from sbh_pipelines.orchestration.common.metadata import MetadataMap, age, issues_table, markdown, plural
from sbh_pipelines.orchestration.common.names import key
from sbh_pipelines.orchestration.common.resources import Backups, user_of
from sbh_pipelines.orchestration.common.runs import tag_run
from sbh_pipelines.orchestration.drills.metadata import name_of

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import RecoveryObjectives, RecoveryPointAge, RecoveryTime

DRILL = "drill"
DRILL_ASSET = asset_key(DRILL)
REPORT_ASSET = key("recovery_report")
_NAMED = 5  # tenants in a cell


@dg.asset(
    key=REPORT_ASSET,
    group_name=Group.PROOF,
    deps=[dg.AssetDep(DRILL_ASSET, partition_mapping=DRAWN_ONLY)],
    kinds=REPORT_KINDS,
    owners=OWNERS,
    description="Recovery time objectives against what drills measured, and recovery point objectives against how old the"
    " tenants' newest recovery points are. Its numbers are plotted over time. `sbh report recovery` prints the same.",
)
def recovery_report(context: dg.AssetExecutionContext, backups: Backups) -> dg.MaterializeResult[None]:
    tag_run(context, None)
    try:
        report = backups.service.drills.report(user_of(context.run.tags))
    except SbhError as error:
        raise failure_of(error, step="recovery_report") from None
    return dg.MaterializeResult(metadata=report_metadata(report))


def report_metadata(report: "RecoveryObjectives") -> MetadataMap:
    """The two tables to read, and every number by itself: Dagster plots those over the materializations."""
    metadata: MetadataMap = {
        "summary": dg.MetadataValue.text(_summary(report)),
        "recovery_time_objectives": dg.MetadataValue.md(_times(report.recovery_time)),
        "recovery_point_objectives": dg.MetadataValue.md(_points(report.recovery_point)),
        "tenants": dg.MetadataValue.text(f"{report.tenants:,}"),
    }
    for row in report.recovery_time:
        metadata |= _numbers(name_of(row.scenario), row.last_measured_s, row.margin_s)
        metadata[f"{name_of(row.scenario)}_failed"] = dg.MetadataValue.int(row.failed_count + row.over_count)
    for point in report.recovery_point:
        name = name_of(point.data_type)
        metadata |= _numbers(f"{name}_age", point.worst_age_s, point.margin_s)
        metadata[f"{name}_tenants_by_journal"] = dg.MetadataValue.int(point.by_journal_count)
        metadata[f"{name}_tenants_missing"] = dg.MetadataValue.int(point.missing_count)
    if report.issues:
        metadata["issues"] = dg.MetadataValue.md(issues_table(report.issues))
    return metadata


def _summary(report: "RecoveryObjectives") -> str:
    judged = [row for row in report.recovery_time if row.met is not None]
    missing = sum(point.missing_count for point in report.recovery_point)
    never = len(report.recovery_time) - len(judged)
    return (
        f"Drills met {sum(bool(row.met) for row in judged):,} of {plural(len(judged), 'recovery time objective')}"
        + (f", {never:,} were not drilled" if never else "")
        + f"; the recovery points of {report.tenants - missing:,} of {plural(report.tenants, 'tenant')} are young enough."
    )


def _numbers(name: str, value: float | None, margin: float | None) -> MetadataMap:
    """Nothing for what was never measured: a zero would be plotted."""
    numbers = {f"{name}_s": value, f"{name}_margin_s": margin}
    return {name: dg.MetadataValue.float(float(number)) for name, number in numbers.items() if number is not None}


def _times(rows: "Sequence[RecoveryTime]") -> str:
    """What matters first: the page cuts off what is too wide."""
    return markdown(
        ["scenario", "met", "measured", "objective", "trend", "drilled", "of note", "last"],
        (
            [
                row.scenario,
                row.met,
                "never drilled" if not row.tenants_drilled else age(row.last_measured_s),
                age(row.objective_s),
                _percent(row.trend),
                row.tenants_drilled,
                ", ".join(
                    [f"{f.tenant_id} failed: {f.error.code}" for f in row.failed[:_NAMED]]
                    + [f"{tenant} took too long" for tenant in row.over[:_NAMED]]
                ),
                f"{row.measured_at}, {row.tenant_id}" if row.measured_at else None,
            ]
            for row in rows
        ),
    )


def _points(rows: "Sequence[RecoveryPointAge]") -> str:
    return markdown(
        ["data type", "met", "worst age", "objective", "trend", "missing it", "of", "by journal", "worst backup"],
        (
            [
                row.data_type,
                row.met,
                age(row.worst_age_s),
                age(row.objective_s),
                _percent(row.trend),
                f"{row.missing_count:,}: {', '.join(row.missing[:_NAMED])}" if row.missing_count else "none",
                row.tenants,
                row.by_journal_count,
                age(row.worst_backup_age_s),
            ]
            for row in rows
        ),
    )


def _percent(trend: float | None) -> str | None:
    return None if trend is None else f"{trend:+.0%}"
