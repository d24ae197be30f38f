"""How results of restores are shown, and how restores stand."""

from collections.abc import Mapping, Sequence
from typing import Any

from sbh_pipelines.cli.options import undo_command
from sbh_pipelines.cli.output import count, facts, mib, printable, seconds, table, utc
from sbh_pipelines.cli.show.plan import schema_table, scope_text, show_error

_WIDTH = 24  # of the bar


def show_restore(out: Any, report: Mapping[str, Any]) -> None:
    """What a restore changed, what proves it, and how it is undone."""
    proof = report.get("proof") or {}
    point = report.get("recovery_point") or {}
    out.print(
        facts(
            {
                "restore": report["restore_id"],
                "backup": report["backup_id"],
                "tenant": report["tenant_id"],
                "status": report["status"],
                "mode": report["mode"],
                "scope": scope_text(report["scope"]),
                "target": report["target"],
                "recovery point": utc(point.get("time") if isinstance(point, Mapping) else str(point)),
                "rows": f"{count(report['rows_inserted'])} inserted, {count(report['rows_updated'])} updated, "
                f"{count(report['rows_deleted'])} deleted{_kept(report['rows_kept'])}",
                "files": f"{count(report['files_restored'])} put back, {count(report['files_removed'])} removed, "
                f"{count(report['files_unchanged'])} unchanged{_kept(report['files_kept'])}",
                "downloaded": mib(report.get("bytes_downloaded")),
                "proved": f"{_number(proof.get('groups'))} row groups, {_number(proof.get('rows'))} rows,"
                f" {_number(proof.get('foreign_keys'))} foreign keys, {_number(proof.get('files'))} files",
                "safety backup": report["safety_backup_id"] or "none",
                "took": seconds(report.get("seconds")),
            }
        )
    )
    columns = ("table", ">row groups that matched", ">inserted", ">updated", ">deleted", ">kept")
    rows = [
        (
            t["table"],
            f"{count(t['groups_matching'])} of {count(t['groups'])}",
            *(count(t[name]) for name in ("inserted", "updated", "deleted", "kept")),
        )
        for t in report["tables"]
    ]
    if rows:
        out.print(table("Tables", columns, rows))
    if report["schema"]:
        out.print(schema_table(report["schema"]))
    if can_be_undone(report):
        undo = undo_command(report["restore_id"], report["tenant_id"])
        out.print(f"To undo it: {undo}", soft_wrap=True)


def can_be_undone(result: Mapping[str, Any]) -> bool:
    """Whether a finished restore changed something, and there is a backup from before it."""
    changed = ("rows_inserted", "rows_updated", "rows_deleted", "files_restored", "files_removed")
    return bool(result["safety_backup_id"]) and any(result[name] for name in changed)


def _kept(number: int) -> str:
    return f", {count(number)} kept" if number else ""


def show_schema(out: Any, report: Mapping[str, Any]) -> None:
    """The schema that a backup's tables were put into."""
    schema = '"' + report["schema"].replace('"', '""') + '"'
    out.print(
        facts(
            {
                "schema": report["schema"],
                "backup": report["backup_id"],
                "tenant": report["tenant_id"],
                "recovery point": utc(report["recovery_point"]["time"]),
                "rows": count(report["rows"]),
                "took": seconds(report["seconds"]),
            }
        )
    )
    out.print(
        table("Tables", ("table", "of", ">rows"), [(t["table"], t["of"], count(t["rows"])) for t in report["tables"]])
    )
    out.print(printable(f"To look: SET search_path TO {schema};  To be rid of it: DROP SCHEMA {schema} CASCADE;"))


def show_status(out: Any, document: Mapping[str, Any]) -> None:
    """How a restore stands: what of it, how far, what went wrong, what undoes it."""
    touched = document.get("touches") or {}
    undoable = document["status"] != "running" and (touched.get("tables") or touched.get("files"))
    out.print(
        facts(
            {
                "restore": document["restore_id"],
                "tenant": document["tenant_id"],
                "backup": document.get("backup_id"),
                "undoes": document.get("undoes"),
                "status": document["status"],
                "progress": f"{bar(document['progress'])} {document['progress']} %",
                "step": document.get("step") if document["status"] != "completed" else None,
                "mode": document.get("mode"),
                "scope": scope_text(document["scope"]) if "scope" in document else None,
                "started": f"{utc(document.get('started_at'))} by {document.get('requested_by')}",
                "safety backup": document.get("safety_backup_id"),
                "to undo it": undo_command(document["restore_id"], document["tenant_id"]) if undoable else None,
            }
        )
    )
    if error := document.get("error"):
        show_error(out, error)


def bar(percent: int) -> str:
    """`[######..................]`: a picture of a percentage that any terminal shows."""
    full = _WIDTH * max(0, min(100, percent)) // 100
    return f"[{'#' * full}{'.' * (_WIDTH - full)}]"


def restores_table(title: str, restores: Sequence[Mapping[str, Any]]) -> Any:
    """Few columns, so that ids are not folded: who asked, and what undoes it, is in the status."""
    rows = (
        (
            r["restore_id"],
            f"{r['status']}, {r['progress']} %" if r["status"] == "running" else r["status"],
            utc(r.get("started_at")).removesuffix(" UTC"),
            r.get("backup_id", ""),
            _what(r),
            _error_line(r.get("error") or {}),
        )
        for r in restores
    )
    return table(title, ("restore", "status", "started, UTC", "backup", "what", "error"), rows)


def _what(restore: Mapping[str, Any]) -> str:
    if undone := restore.get("undoes"):
        return f"undoes {undone}"
    if "scope" not in restore:
        return ""
    mode = "" if restore["mode"] == "exact" else f"; {restore['mode']}"
    return scope_text(restore["scope"]) + mode


def _error_line(error: Mapping[str, Any]) -> str:
    return f"{error.get('code', '')} {error.get('what', '')}".strip()


def _number(value: Any) -> str:
    return count(len(value) if isinstance(value, list | dict) else value) or "0"
