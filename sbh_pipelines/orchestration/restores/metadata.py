"""Plans and results of restores as Dagster metadata: numbers that can be plotted, and Markdown tables to read.

No row's values: whoever may see runs need not be allowed to see the tenant's data.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from sbh_pipelines.model import parse_timestamp
from sbh_pipelines.orchestration.common.metadata import MetadataMap, issues_table, markdown, mib

_ROWS = ("inserted", "updated", "deleted", "kept")
_FILES = ("restored", "removed", "unchanged", "kept")


def restore_metadata(result: Mapping[str, Any]) -> MetadataMap:
    """Metadata of one restore."""
    rows = {f"rows_{name}": dg.MetadataValue.int(int(result[f"rows_{name}"])) for name in _ROWS}
    files = {f"files_{name}": dg.MetadataValue.int(int(result[f"files_{name}"])) for name in _FILES}
    metadata: MetadataMap = {
        "restore_id": dg.MetadataValue.text(result["restore_id"]),
        **_common(result),
        "safety_backup": dg.MetadataValue.text(result["safety_backup_id"] or "none"),
        **rows,
        **files,
        "downloaded_bytes": dg.MetadataValue.int(int(result["bytes_downloaded"])),
        "downloaded_size": dg.MetadataValue.text(mib(result["bytes_downloaded"])),
        "duration_s": dg.MetadataValue.float(round(float(result["seconds"]), 3)),
        "tables": dg.MetadataValue.md(
            markdown(
                ["table", "row groups", "already equal", *(f"rows {name}" for name in _ROWS)],
                (
                    [t["table"], t["groups"], t["groups_matching"], *(t[name] for name in _ROWS)]
                    for t in result["tables"]
                ),
            )
        ),
        "proof": dg.MetadataValue.md(markdown(["proved", "count"], result["proof"].items())),
    }
    return metadata | _schema(result)


def plan_metadata(plan: Mapping[str, Any]) -> MetadataMap:
    """Metadata of what a restore would do, and of why it would refuse."""
    tables, files, estimate = plan["tables"], plan["files"], plan["estimate"]
    changes = {"insert": "rows_to_insert", "update": "rows_to_update", "delete": "rows_to_delete", "kept": "rows_kept"}
    numbers = {name: sum(t[change] for t in tables) for change, name in changes.items()}
    numbers |= {
        "files_to_restore": files["missing"] + files["different"],
        "files_to_remove": max(0, files["extra"] - files["kept"]),
        "files_unchanged": files["unchanged"],
        "bytes_to_download": estimate["bytes_to_download"],
        "problem_count": len(plan["problems"]),
    }
    metadata: MetadataMap = {
        **_common(plan),
        "compared_at": dg.MetadataValue.timestamp(parse_timestamp(plan["compared_at"])),
        **{name: dg.MetadataValue.int(int(number)) for name, number in numbers.items()},
        "size_to_download": dg.MetadataValue.text(mib(estimate["bytes_to_download"])),
        "estimated_s": dg.MetadataValue.float(float(estimate["seconds"])),
        "tables": dg.MetadataValue.md(
            markdown(
                ["table", "rows in backup", "row groups", "already equal", "insert", "update", "delete", "kept"],
                (
                    [
                        t["table"],
                        t["rows_in_backup"],
                        t["groups"],
                        t["groups_matching"],
                        t["insert"],
                        t["update"],
                        t["delete"],
                        t["kept"],
                    ]
                    for t in tables
                ),
            )
        ),
        **_schema(plan),
    }
    conflicts = [[t["table"], c["reason"], c["rows"]] for t in tables for c in t["conflicts"]]
    if conflicts:
        metadata["conflicts"] = dg.MetadataValue.md(markdown(["table", "reason", "rows"], conflicts))
    if plan["problems"]:
        metadata["problems"] = dg.MetadataValue.md(issues_table(plan["problems"]))
    return metadata


def part_text(document: Mapping[str, Any]) -> str:
    """What of the tenant, and how, where it is not all of it exactly: ` (tables a, b; missing-only)`, else nothing."""
    scope = document["scope"]
    parts = [f"{name} {', '.join(scope[name])}" for name in ("tables", "files") if scope.get(name)]
    parts += [f"rows {scope['rows']}"] if "rows" in scope else []
    parts += ["configuration"] if scope.get("config_only") else []
    parts += [document["mode"]] if document["mode"] != "exact" else []
    return f" ({'; '.join(parts)})" if parts else ""


def _common(document: Mapping[str, Any]) -> MetadataMap:
    metadata: MetadataMap = {
        "backup_id": dg.MetadataValue.text(document["backup_id"]),
        "tenant": dg.MetadataValue.text(document["tenant_id"]),
        "mode": dg.MetadataValue.text(document["mode"]),
        "scope": dg.MetadataValue.json(dict(document["scope"])),
    }
    point = document.get("recovery_point")
    if isinstance(point, Mapping):
        metadata["recovery_point"] = dg.MetadataValue.timestamp(parse_timestamp(point["time"]))
    return metadata


def _schema(document: Mapping[str, Any]) -> MetadataMap:
    """How the schema differs from the backup's; nothing where it does not."""
    names = ("table", "column", "change", "then", "now", "decision", "lossy", "blocking")
    headings = ["table", "column", "change", "then", "now", "what a restore does", "loses something", "in the way"]
    if not document["schema"]:
        return {}
    rows = ([difference[name] for name in names] for difference in document["schema"])
    return {"schema_differences": dg.MetadataValue.md(markdown(headings, rows))}
