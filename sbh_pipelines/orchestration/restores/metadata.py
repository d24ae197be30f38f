"""Plans and results of restores as Dagster metadata: numbers that can be plotted, and Markdown tables to read.

No row's values: whoever may see runs need not be allowed to see the tenant's data.
"""

from typing import TYPE_CHECKING

import dagster as dg

from sbh_pipelines.document import as_document
from sbh_pipelines.model import parse_timestamp, size_text
from sbh_pipelines.orchestration.common.metadata import MetadataMap, issues_table, markdown
from sbh_pipelines.orchestration.restores.discretion import shown_scope

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import RestorePlan, RestoreResult

_ROWS = ("inserted", "updated", "deleted", "kept")
_FILES = ("restored", "removed", "unchanged", "kept")


def restore_metadata(result: "RestoreResult") -> MetadataMap:
    """Metadata of one restore."""
    rows = {f"rows_{name}": dg.MetadataValue.int(getattr(result, f"rows_{name}")) for name in _ROWS}
    files = {f"files_{name}": dg.MetadataValue.int(getattr(result, f"files_{name}")) for name in _FILES}
    metadata: MetadataMap = {
        "restore_id": dg.MetadataValue.text(result.restore_id),
        **_common(result),
        "safety_backup": dg.MetadataValue.text(result.safety_backup_id or "none"),
        **rows,
        **files,
        "downloaded_bytes": dg.MetadataValue.int(result.bytes_downloaded),
        "downloaded_size": dg.MetadataValue.text(size_text(result.bytes_downloaded)),
        "duration_s": dg.MetadataValue.float(result.seconds),
        "tables": dg.MetadataValue.md(
            markdown(
                ["table", "row groups", "already equal", *(f"rows {name}" for name in _ROWS)],
                ([t.table, t.groups, t.groups_matching, *(getattr(t, name) for name in _ROWS)] for t in result.tables),
            )
        ),
        "proof": dg.MetadataValue.md(markdown(["proved", "count"], as_document(result.proof).items())),
    }
    return metadata | _schema(result)


def plan_metadata(plan: "RestorePlan") -> MetadataMap:
    """Metadata of what a restore would do, and of why it would refuse."""
    files, estimate = plan.files, plan.estimate
    changes = {"insert": "rows_to_insert", "update": "rows_to_update", "delete": "rows_to_delete", "kept": "rows_kept"}
    numbers = {name: plan.rows(change) for change, name in changes.items()}
    numbers |= {
        "files_to_restore": files.missing + files.different,
        "files_to_remove": files.removed,
        "files_unchanged": files.unchanged,
        "bytes_to_download": estimate.bytes_to_download,
        "problem_count": len(plan.problems),
    }
    metadata: MetadataMap = {
        **_common(plan),
        "compared_at": dg.MetadataValue.timestamp(parse_timestamp(plan.compared_at)),
        **{name: dg.MetadataValue.int(int(number)) for name, number in numbers.items()},
        "size_to_download": dg.MetadataValue.text(size_text(estimate.bytes_to_download)),
        "estimated_s": dg.MetadataValue.float(estimate.seconds),
        "of_which_resting_s": dg.MetadataValue.float(estimate.resting_s),
        "tables": dg.MetadataValue.md(
            markdown(
                ["table", "rows in backup", "row groups", "already equal", "insert", "update", "delete", "kept"],
                (
                    [t.table, t.rows_in_backup, t.groups, t.groups_matching, t.insert, t.update, t.delete, t.kept]
                    for t in plan.tables
                ),
            )
        ),
        **_schema(plan),
    }
    if plan.conflicts:
        metadata["conflicts"] = dg.MetadataValue.md(markdown(["table", "reason", "rows"], plan.conflicts))
    if plan.problems:
        metadata["problems"] = dg.MetadataValue.md(issues_table(plan.problems))
    return metadata


def _common(done: "RestorePlan | RestoreResult") -> MetadataMap:
    return {
        "backup_id": dg.MetadataValue.text(done.backup_id),
        "tenant": dg.MetadataValue.text(done.tenant_id),
        "mode": dg.MetadataValue.text(done.mode),
        "scope": dg.MetadataValue.json(shown_scope(done.scope)),
        **({"kept": dg.MetadataValue.text(", ".join(done.kept))} if done.kept else {}),
        **({"from_copy": dg.MetadataValue.text(done.from_copy)} if done.from_copy else {}),
        "recovery_point": dg.MetadataValue.timestamp(parse_timestamp(str(done.recovery_point["time"]))),
    }


def _schema(done: "RestorePlan | RestoreResult") -> MetadataMap:
    """How the schema differs from the backup's; nothing where it does not."""
    names = ("table", "column", "change", "then", "now", "decision", "lossy", "blocking")
    headings = ["table", "column", "change", "then", "now", "what a restore does", "loses something", "in the way"]
    if not done.schema:
        return {}
    rows = ([getattr(difference, name) for name in names] for difference in done.schema)
    return {"schema_differences": dg.MetadataValue.md(markdown(headings, rows))}
