"""What drills measured, as Dagster metadata: seconds that can be plotted run by run."""

from typing import TYPE_CHECKING

import dagster as dg

from sbh_pipelines.backup.drill.scenarios import proof_text
from sbh_pipelines.model import size_text
from sbh_pipelines.orchestration.common.metadata import MetadataMap, age, issues_table, markdown

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import DrillRecord


def drill_text(record: "DrillRecord") -> str:
    """How a drill ended: `passed`, or why not; with what was late, or damaged and got over."""
    if record.error:
        return f"failed: [{record.error.code}] {record.error.what}"
    late = [one.scenario for one in record.scenarios if one.met is False]
    said = f"passed, but too slow: {', '.join(late)}" if late else "passed"
    return said + "".join(f"; [{issue.code}] {issue.what}" for issue in record.issues)


def drill_metadata(record: "DrillRecord") -> MetadataMap:
    """Of one drill."""
    metadata: MetadataMap = {
        "summary": dg.MetadataValue.text(f"The drill with {record.backup_id} {drill_text(record)}."),
        "drill_id": dg.MetadataValue.text(record.drill_id),
        "tenant": dg.MetadataValue.text(record.tenant_id),
        "backup_id": dg.MetadataValue.text(record.backup_id),
        "status": dg.MetadataValue.text(record.status),
        "scenarios": dg.MetadataValue.md(
            markdown(
                ["scenario", "result", "met", "took", "objective", "rows", "files", "size", "proved"],
                (
                    [
                        one.scenario,
                        one.status,
                        one.met,
                        age(one.seconds),
                        age(one.objective_s),
                        one.rows,
                        one.files,
                        size_text(one.bytes),
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
