"""Plans and results of restores as Dagster metadata: a sentence, figures, then tables, in the order of the page.

No row's values: whoever may see runs need not be allowed to see the tenant's data.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from sbh_pipelines.document import as_document
from sbh_pipelines.model import parse_timestamp
from sbh_pipelines.orchestration.common.links import Links, markdown_link
from sbh_pipelines.orchestration.common.metadata import MetadataMap, issues_table, markdown, plural
from sbh_pipelines.orchestration.restores.discretion import shown_scope

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import RestorePlan, RestoreResult

_ROWS = ("inserted", "updated", "deleted", "kept")
_FILES = ("restored", "removed", "unchanged", "kept")
_EQUAL = "already equal"


def restore_text(result: "RestoreResult") -> str:
    """`inserted 2,966, updated 1,121, deleted 50 rows; put back 91 files`, or that nothing was to be done."""
    rows = (result.rows_inserted, result.rows_updated, result.rows_deleted)
    return _changes(("inserted", "updated", "deleted"), rows, result.files_restored, result.files_removed, "removed")


def plan_text(plan: "RestorePlan") -> str:
    """`would insert 2,966, update 1,121, delete 50 rows; put back 91 files`, or `already equal`."""
    changes, files = ("insert", "update", "delete"), plan.files
    said = _changes(changes, tuple(map(plan.rows, changes)), files.missing + files.different, files.removed, "remove")
    return f"would {said}" if said != _EQUAL else said


def _changes(verbs: Sequence[str], rows: Sequence[int], put_back: int, removed: int, remove: str) -> str:
    if not (any(rows) or put_back or removed):
        return _EQUAL
    said = f"{', '.join(f'{verb} {number:,}' for verb, number in zip(verbs, rows, strict=True))} rows"
    said += f"; put back {plural(put_back, 'file')}" if put_back else ""
    return said + (f"; {remove} {plural(removed, 'file')}" if removed else "")


def restore_metadata(result: "RestoreResult", what: str, links: Links) -> MetadataMap:
    """Metadata of one restore. `what`: the restore in a sentence, without its counts."""
    rows = {f"rows_{name}": dg.MetadataValue.int(getattr(result, f"rows_{name}")) for name in _ROWS}
    files = {f"files_{name}": dg.MetadataValue.int(getattr(result, f"files_{name}")) for name in _FILES}
    metadata: MetadataMap = {
        "summary": dg.MetadataValue.text(f"{what}: {restore_text(result)}."),
        **_undo_link(result, links),
        "restore_id": dg.MetadataValue.text(result.restore_id),
        **_common(result),
        "safety_backup": dg.MetadataValue.text(result.safety_backup_id or "none"),
        **rows,
        **files,
        "duration_s": dg.MetadataValue.float(result.seconds),
        "downloaded_bytes": dg.MetadataValue.int(result.bytes_downloaded),
        "tables": dg.MetadataValue.md(
            markdown(
                ["table", *_ROWS, "groups", "equal"],
                ([t.table, *(getattr(t, name) for name in _ROWS), t.groups, t.groups_matching] for t in result.tables),
            )
        ),
        "proof": dg.MetadataValue.md(markdown(["proved", "count"], as_document(result.proof).items())),
        **_schema(result),
        **_of_what(result),
    }
    return metadata


def plan_metadata(plan: "RestorePlan") -> MetadataMap:
    """Metadata of what a restore would do, and of why it would refuse."""
    files, estimate = plan.files, plan.estimate
    changes = {"insert": "rows_to_insert", "update": "rows_to_update", "delete": "rows_to_delete", "kept": "rows_kept"}
    numbers = {name: plan.rows(change) for change, name in changes.items()}
    numbers |= {
        "files_to_restore": files.missing + files.different,
        "files_to_remove": files.removed,
        "files_unchanged": files.unchanged,
        "problem_count": len(plan.problems),
    }
    refused = f" It would refuse: {plan.problems[0].what}." if plan.problems else ""
    metadata: MetadataMap = {
        "summary": dg.MetadataValue.text(f"A plan, nothing was written: {plan_text(plan)}.{refused}"),
        **_common(plan),
        **{name: dg.MetadataValue.int(int(number)) for name, number in numbers.items()},
        "estimated_s": dg.MetadataValue.float(estimate.seconds),
        "of_which_resting_s": dg.MetadataValue.float(estimate.resting_s),
        "bytes_to_download": dg.MetadataValue.int(int(estimate.bytes_to_download)),
        "tables": dg.MetadataValue.md(
            markdown(
                ["table", "insert", "update", "delete", "kept", "in backup", "groups", "equal"],
                (
                    [t.table, t.insert, t.update, t.delete, t.kept, t.rows_in_backup, t.groups, t.groups_matching]
                    for t in plan.tables
                ),
            )
        ),
    }
    if plan.conflicts:
        metadata["conflicts"] = dg.MetadataValue.md(markdown(["table", "reason", "rows"], plan.conflicts))
    if plan.problems:
        metadata["problems"] = dg.MetadataValue.md(issues_table(plan.problems))
    metadata["compared_at"] = dg.MetadataValue.timestamp(parse_timestamp(plan.compared_at))
    return {**metadata, **_schema(plan), **_of_what(plan)}


def _undo_link(result: "RestoreResult", links: Links) -> MetadataMap:
    if not result.undoable:
        return {}
    config = {"tenant": result.tenant_id, "restore_id": result.restore_id, "validate_only": True}
    undo = links.launchpad("undo_restore_job", "undo_tenant_restore", config)
    return {"links": dg.MetadataValue.md(markdown_link("See what undoing it would do", undo))}


def _common(done: "RestorePlan | RestoreResult") -> MetadataMap:
    return {
        "backup_id": dg.MetadataValue.text(done.backup_id),
        "recovery_point": dg.MetadataValue.timestamp(parse_timestamp(str(done.recovery_point["time"]))),
    }


def _of_what(done: "RestorePlan | RestoreResult") -> MetadataMap:
    return {
        "tenant": dg.MetadataValue.text(done.tenant_id),
        "mode": dg.MetadataValue.text(done.mode),
        "scope": dg.MetadataValue.json(shown_scope(done.scope)),
        **({"kept": dg.MetadataValue.text(", ".join(done.kept))} if done.kept else {}),
        **({"from_copy": dg.MetadataValue.text(done.from_copy)} if done.from_copy else {}),
    }


def _schema(done: "RestorePlan | RestoreResult") -> MetadataMap:
    """How the schema differs from the backup's; nothing where it does not."""
    names = ("table", "column", "change", "then", "now", "decision", "lossy", "blocking")
    headings = ["table", "column", "change", "then", "now", "what a restore does", "loses something", "in the way"]
    if not done.schema:
        return {}
    rows = ([getattr(difference, name) for name in names] for difference in done.schema)
    return {"schema_differences": dg.MetadataValue.md(markdown(headings, rows))}
