"""The recovery report as an asset: what drills measured, and how old recovery points are, against the objectives."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from sbh_pipelines.errors import SbhError
from sbh_pipelines.orchestration.common.assets import ASSET_PREFIX, GROUP, OWNERS, REPORT_KINDS
from sbh_pipelines.orchestration.common.failures import failure_of
from sbh_pipelines.orchestration.common.metadata import MetadataMap, issues_table, markdown
from sbh_pipelines.orchestration.common.resources import Backups, user_of
from sbh_pipelines.orchestration.drills.metadata import name_of

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import RecoveryObjectives, RecoveryPointAge, RecoveryTime

DRILL = "drill"
DRILL_ASSET = dg.AssetKey([ASSET_PREFIX, DRILL])
REPORT_ASSET = dg.AssetKey(["recovery_report"])
_NAMED = 5  # tenants in a cell


@dg.asset(
    key=REPORT_ASSET,
    group_name=GROUP,
    deps=[DRILL_ASSET],
    kinds=REPORT_KINDS,
    owners=OWNERS,
    description="Recovery time objectives against what drills measured, and recovery point objectives against how old the"
    " tenants' newest recovery points are. Its numbers are plotted over time. `sbh report recovery` prints the same.",
)
def recovery_report(context: dg.AssetExecutionContext, backups: Backups) -> dg.MaterializeResult[None]:
    try:
        report = backups.service.drills.report(user_of(context.run.tags))
    except SbhError as error:
        raise failure_of(error, step="recovery_report") from None
    return dg.MaterializeResult(metadata=report_metadata(report))


def report_metadata(report: "RecoveryObjectives") -> MetadataMap:
    """The two tables to read, and every number by itself: Dagster plots those over the materializations."""
    metadata: MetadataMap = {
        "recovery_time_objectives": dg.MetadataValue.md(_times(report.recovery_time)),
        "recovery_point_objectives": dg.MetadataValue.md(_points(report.recovery_point)),
        "tenants": dg.MetadataValue.int(int(report.tenants)),
    }
    for row in report.recovery_time:
        metadata |= _numbers(name_of(row.scenario), row.last_measured_s, row.margin_s)
        metadata[f"{name_of(row.scenario)}_failed"] = dg.MetadataValue.int(row.failed_count + row.over_count)
    for age in report.recovery_point:
        metadata |= _numbers(f"{name_of(age.data_type)}_age", age.worst_age_s, age.margin_s)
        metadata[f"{name_of(age.data_type)}_tenants_by_journal"] = dg.MetadataValue.int(age.by_journal_count)
        metadata[f"{name_of(age.data_type)}_tenants_missing"] = dg.MetadataValue.int(age.missing_count)
    if report.issues:
        metadata["issues"] = dg.MetadataValue.md(issues_table(report.issues))
    return metadata


def _numbers(name: str, value: float | None, margin: float | None) -> MetadataMap:
    """Nothing for what was never measured: a zero would be plotted."""
    numbers = {f"{name}_s": value, f"{name}_margin_s": margin}
    return {name: dg.MetadataValue.float(float(number)) for name, number in numbers.items() if number is not None}


def _times(rows: "Sequence[RecoveryTime]") -> str:
    return markdown(
        [
            "scenario",
            "needs",
            "objective, s",
            "last measured, s",
            "margin, s",
            "met",
            "trend",
            "measured",
            "tenants",
            "of note",
        ],
        (
            [
                row.scenario,
                row.backup_type,
                row.objective_s,
                "never drilled" if not row.tenants_drilled else row.last_measured_s,
                row.margin_s,
                row.met,
                _percent(row.trend),
                f"{row.measured_at}, {row.tenant_id}" if row.measured_at else None,
                row.tenants_drilled,
                ", ".join(
                    [f"{f.tenant_id} failed: {f.error.code}" for f in row.failed[:_NAMED]]
                    + [f"{tenant} took too long" for tenant in row.over[:_NAMED]]
                ),
            ]
            for row in rows
        ),
    )


def _points(rows: "Sequence[RecoveryPointAge]") -> str:
    return markdown(
        [
            "data type",
            "backups",
            "objective, s",
            "worst age, s",
            "by the journal",
            "worst age of backups and files, s",
            "margin, s",
            "met",
            "trend",
            "tenants",
            "missing it",
            "first",
        ],
        (
            [
                row.data_type,
                ", ".join(row.backup_frequency),
                row.objective_s,
                row.worst_age_s,
                row.by_journal_count,
                row.worst_backup_age_s,
                row.margin_s,
                row.met,
                _percent(row.trend),
                row.tenants,
                row.missing_count,
                ", ".join(row.missing[:_NAMED]),
            ]
            for row in rows
        ),
    )


def _percent(trend: float | None) -> str | None:
    return None if trend is None else f"{trend:+.0%}"
