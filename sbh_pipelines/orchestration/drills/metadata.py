"""What drills measured, as Dagster metadata: seconds that can be plotted run by run, and the report's two tables."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from sbh_pipelines.backup.drill.scenarios import proof_text
from sbh_pipelines.orchestration.common.metadata import MetadataMap, issues_table, markdown, mib

_NAMED = 5


def drill_metadata(record: Mapping[str, Any]) -> MetadataMap:
    """Of one drill."""
    metadata: MetadataMap = {
        "drill_id": dg.MetadataValue.text(record["drill_id"]),
        "tenant": dg.MetadataValue.text(record["tenant_id"]),
        "backup_id": dg.MetadataValue.text(record["backup_id"]),
        "status": dg.MetadataValue.text(record["status"]),
        "scenarios": dg.MetadataValue.md(
            markdown(
                [
                    "scenario",
                    "result",
                    "seconds",
                    "objective, s",
                    "margin, s",
                    "met",
                    "rows",
                    "size",
                    "files",
                    "proved",
                ],
                (
                    [
                        one["scenario"],
                        one["status"],
                        one["seconds"],
                        one["objective_s"],
                        one["margin_s"],
                        one["met"],
                        one["rows"],
                        mib(one["bytes"]),
                        one["files"],
                        proof_text(one["proof"]),
                    ]
                    for one in record["scenarios"]
                ),
            )
        ),
    }
    for one in record["scenarios"]:
        if not one["error"]:
            metadata[f"{name_of(one['scenario'])}_s"] = dg.MetadataValue.float(float(one["seconds"]))
    if record["recovery_point_age_s"] is not None:
        metadata["recovery_point_age_s"] = dg.MetadataValue.float(float(record["recovery_point_age_s"]))
    found = [*(one["error"] for one in record["scenarios"]), *record["issues"]]
    errors = {str(error): error for error in found if error}
    if errors:
        metadata["issues"] = dg.MetadataValue.md(issues_table(errors.values()))
    return metadata


def name_of(text: str) -> str:
    """A scenario or a data type as part of the name of a number."""
    return text.replace(" ", "_")


def report_metadata(report: Mapping[str, Any]) -> MetadataMap:
    """The two tables to read, and every number by itself: Dagster plots those over the materializations."""
    metadata: MetadataMap = {
        "recovery_time_objectives": dg.MetadataValue.md(_times(report["recovery_time"])),
        "recovery_point_objectives": dg.MetadataValue.md(_points(report["recovery_point"])),
        "tenants": dg.MetadataValue.int(int(report["tenants"])),
    }
    for row in report["recovery_time"]:
        metadata |= _numbers(name_of(row["scenario"]), row["last_measured_s"], row["margin_s"])
        metadata[f"{name_of(row['scenario'])}_failed"] = dg.MetadataValue.int(row["failed_count"] + row["over_count"])
    for row in report["recovery_point"]:
        metadata |= _numbers(f"{name_of(row['data_type'])}_age", row["worst_age_s"], row["margin_s"])
        metadata[f"{name_of(row['data_type'])}_tenants_missing"] = dg.MetadataValue.int(row["missing_count"])
    if report["issues"]:
        metadata["issues"] = dg.MetadataValue.md(issues_table(report["issues"]))
    return metadata


def _numbers(name: str, value: float | None, margin: float | None) -> MetadataMap:
    """Nothing for what was never measured: a zero would be plotted."""
    numbers = {f"{name}_s": value, f"{name}_margin_s": margin}
    return {name: dg.MetadataValue.float(float(number)) for name, number in numbers.items() if number is not None}


def _times(rows: list[dict[str, Any]]) -> str:
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
                row["scenario"],
                row["backup_type"],
                row["objective_s"],
                "never drilled" if not row["tenants_drilled"] else row["last_measured_s"],
                row["margin_s"],
                row["met"],
                _percent(row["trend"]),
                f"{row['measured_at']}, {row['tenant_id']}" if row["measured_at"] else None,
                row["tenants_drilled"],
                ", ".join(
                    [f"{f['tenant_id']} failed: {f['error']['code']}" for f in row["failed"][:_NAMED]]
                    + [f"{tenant} took too long" for tenant in row["over"][:_NAMED]]
                ),
            ]
            for row in rows
        ),
    )


def _points(rows: list[dict[str, Any]]) -> str:
    return markdown(
        [
            "data type",
            "backups",
            "objective, s",
            "worst age, s",
            "margin, s",
            "met",
            "trend",
            "tenants",
            "missing it",
            "first",
        ],
        (
            [
                row["data_type"],
                ", ".join(row["backup_frequency"]),
                row["objective_s"],
                row["worst_age_s"],
                row["margin_s"],
                row["met"],
                _percent(row["trend"]),
                row["tenants"],
                row["missing_count"],
                ", ".join(row["missing"][:_NAMED]),
            ]
            for row in rows
        ),
    )


def _percent(trend: float | None) -> str | None:
    return None if trend is None else f"{trend:+.0%}"
