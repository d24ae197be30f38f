"""The storage report as an asset, with its job and schedule: what the backups take up, how that grows, what it costs."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import BackupType, size_text
from sbh_pipelines.orchestration.backups.steps import OBJECT_STORE
from sbh_pipelines.orchestration.common.assets import (
    DRAWN_ONLY,
    OWNERS,
    REPORT_KINDS,
    STORAGE_ASSET,
    Group,
    asset_key,
)
from sbh_pipelines.orchestration.common.failures import failure_of
from sbh_pipelines.orchestration.common.metadata import MetadataMap, issues_table, markdown, plural
from sbh_pipelines.orchestration.common.names import named, tags
from sbh_pipelines.orchestration.common.resources import Backups, user_of
from sbh_pipelines.orchestration.common.runs import OPERATION_TAG, STORAGE_REPORT, tag_run
from sbh_pipelines.orchestration.common.timetable import Timetable, schedule_of_one_run, timetable
from sbh_pipelines.settings import ScheduleSettings

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import StorageReport, StoredBytes

_MOST_LINES = 200  # of the largest tenants; `sbh report storage` shows all


@dg.asset(
    key=STORAGE_ASSET,
    group_name=Group.PROOF,
    deps=[dg.AssetDep(asset_key(kind), partition_mapping=DRAWN_ONLY) for kind in BackupType],
    kinds=REPORT_KINDS,
    owners=OWNERS,
    pool=OBJECT_STORE,
    description="What the backups take up, by tenant, tier and storage class, what came in the last 30 days, and what a month costs"
    " by `[prices]`: the buckets are listed. Its numbers are plotted over time. `sbh report storage` prints the same.",
)
def storage_report(context: dg.AssetExecutionContext, backups: Backups) -> dg.MaterializeResult[None]:
    tag_run(context, None)
    try:
        report = backups.service.health.storage(user_of(context.run.tags))
    except SbhError as error:
        raise failure_of(error, step=STORAGE_REPORT) from None
    return dg.MaterializeResult(metadata=storage_metadata(report))


def storage_metadata(report: "StorageReport") -> MetadataMap:
    """A sentence, the numbers that are plotted, then the tables."""
    total, errors = report.total, [line.error for line in report.tenants if line.error]
    logical = sum(line.logical for line in report.tenants)
    metadata: MetadataMap = {
        "summary": dg.MetadataValue.md(_summary(report)),
        "stored_bytes": dg.MetadataValue.int(total.bytes),
        "new_bytes": dg.MetadataValue.int(total.new),
        "logical_bytes": dg.MetadataValue.int(logical),
        "objects": dg.MetadataValue.int(total.objects),
    }
    if total.cost is not None:
        metadata["cost_of_a_month"] = dg.MetadataValue.float(total.cost)
    for name, sums in (("by_tier", report.by_tier), ("by_storage_class", report.by_class)):
        metadata[name] = dg.MetadataValue.md(
            markdown([name.removeprefix("by_").replace("_", " "), "stored"], ([key, size_text(size)] for key, size in sums.items()))
        )  # fmt: skip
    lines = [
        [line.tenant_id, *_figures(line.stored), line.backups, f"{line.saved:.1f}×" if line.saved else None, line.tier]
        for line in report.tenants[:_MOST_LINES]
    ]
    lines += [[f"({line.name}, {line.region})", *_figures(line.stored), None, None, None] for line in report.shared]
    columns = ["tenant", "stored", f"new in {report.days} d", "a month", "backups", "saved", "tier"]
    metadata["by_tenant"] = dg.MetadataValue.md(markdown(columns, lines))
    if errors:
        metadata["issues"] = dg.MetadataValue.md(issues_table(errors))
    return metadata


def _summary(report: "StorageReport") -> str:
    total = report.total
    return (
        f"**{size_text(total.bytes)}** for {plural(len(report.tenants), 'tenant')}, {size_text(total.new)} of it new in"
        f" {report.days} days"
        + (
            f"; {total.cost:,.2f} {report.currency} a month."
            if total.cost is not None
            else ". No cost: see `[prices]`."
        )
    )


def _figures(stored: "StoredBytes") -> list[object]:
    cost = None if stored.cost is None else f"{stored.cost:,.2f}"
    return [size_text(stored.bytes), size_text(stored.new), cost]


storage_report_job: Any = dg.define_asset_job(
    named("storage_report_job"),
    selection=dg.AssetSelection.assets(STORAGE_ASSET),
    description="Lists what the backups take up, and what it costs.",
    tags=tags({OPERATION_TAG: STORAGE_REPORT}),
)


def storage_timetable() -> Timetable:
    default = str(ScheduleSettings.model_fields["storage_report"].default)
    return timetable("weekly_storage_report", "SBH_SCHEDULES__STORAGE_REPORT", default)


weekly_storage_report = schedule_of_one_run(
    storage_timetable(),
    storage_report_job,
    STORAGE_REPORT,
    lambda settings: settings.schedules.storage_report,
    "Makes the report of storage.",
)
