"""What drills measured, as Dagster metadata: seconds that can be plotted run by run."""

from typing import TYPE_CHECKING

import dagster as dg

from sbh_pipelines.backup.drill.scenarios import proof_text
from sbh_pipelines.model import size_text
from sbh_pipelines.orchestration.common.metadata import MetadataMap, issues_table, markdown

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import DrillRecord


def drill_metadata(record: "DrillRecord") -> MetadataMap:
    """Of one drill."""
    metadata: MetadataMap = {
        "drill_id": dg.MetadataValue.text(record.drill_id),
        "tenant": dg.MetadataValue.text(record.tenant_id),
        "backup_id": dg.MetadataValue.text(record.backup_id),
        "status": dg.MetadataValue.text(record.status),
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
                        one.scenario,
                        one.status,
                        one.seconds,
                        one.objective_s,
                        one.margin_s,
                        one.met,
                        one.rows,
                        size_text(one.bytes),
                        one.files,
                        proof_text(one.proof),
                    ]
                    for one in record.scenarios
                ),
            )
        ),
    }
    for one in record.scenarios:
        if not one.error:
            metadata[f"{name_of(one.scenario)}_s"] = dg.MetadataValue.float(float(one.seconds))
    if record.recovery_point_age_s is not None:
        metadata["recovery_point_age_s"] = dg.MetadataValue.float(float(record.recovery_point_age_s))
    found = [*(one.error for one in record.scenarios), *record.issues]
    errors = {str(error): error for error in found if error}
    if errors:
        metadata["issues"] = dg.MetadataValue.md(issues_table(errors.values()))
    return metadata


def name_of(text: str) -> str:
    """A scenario or a data type as part of the name of a number."""
    return text.replace(" ", "_")
