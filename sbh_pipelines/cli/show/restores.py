"""How results of restores are shown, and how restores stand."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sbh_pipelines.cli.options import undo_command
from sbh_pipelines.cli.output import count, facts, plural, printable, seconds, table, utc
from sbh_pipelines.cli.show.plan import schema_table, scope_text, show_error, show_left_behind
from sbh_pipelines.model import size_text

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import Look, RestoreRecord, RestoreResult, SchemaCopy

_WIDTH = 24  # of the bar


def show_restore(out: Any, result: "RestoreResult") -> None:
    """What a restore changed, what proves it, and how it is undone."""
    proof = result.proof
    out.print(
        facts(
            {
                "restore": result.restore_id,
                "backup": result.backup_id,
                **({"from the copy": result.from_copy} if result.from_copy else {}),
                "tenant": result.tenant_id,
                "status": result.status,
                "mode": result.mode,
                "scope": scope_text(result.scope),
                "target": result.target,
                "recovery point": utc(str(result.recovery_point["time"])),
                **(result.moment.lines() if result.moment else {}),
                "rows": f"{count(result.rows_inserted)} inserted, {count(result.rows_updated)} updated, "
                f"{count(result.rows_deleted)} deleted{_kept(result.rows_kept)}",
                "files": f"{count(result.files_restored)} put back, {count(result.files_removed)} removed, "
                f"{count(result.files_unchanged)} unchanged{_kept(result.files_kept)}",
                "downloaded": size_text(result.bytes_downloaded),
                "proved": f"{plural(proof.groups, 'row group')}, {plural(proof.rows, 'row')},"
                f" {plural(proof.foreign_keys, 'foreign key')}, {plural(proof.files, 'file')}",
                **({"stays as it was": ", ".join(result.kept)} if result.kept else {}),
                "safety backup": result.safety_backup_id or "none",
                "took": seconds(result.seconds),
            }
        )
    )
    columns = ("table", "->row groups equal", ">inserted", ">updated", ">deleted", ">kept")
    rows = [
        (
            t.table,
            f"{count(t.groups_matching)} of {count(t.groups)}",
            *map(count, (t.inserted, t.updated, t.deleted, t.kept)),
        )
        for t in result.tables
    ]
    if rows:
        out.print(table("Tables", columns, rows))
    if result.schema:
        out.print(schema_table(result.schema))
    show_left_behind(out, result.left_behind)
    if result.undoable:
        out.print(f"To undo it: {undo_command(result.restore_id, result.tenant_id)}", soft_wrap=True)


def _kept(number: int) -> str:
    return f", {count(number)} kept" if number else ""


def show_schema(out: Any, copy: "SchemaCopy") -> None:
    """The schema that a backup's tables were put into."""
    out.print(
        facts(
            {
                "schema": copy.schema,
                "backup": copy.backup_id,
                "tenant": copy.tenant_id,
                "dropped after": utc(copy.expires_at),
                "recovery point": utc(str(copy.recovery_point["time"])),
                "rows": count(copy.rows),
                "took": seconds(copy.seconds),
            }
        )
    )
    out.print(table("Tables", ("table", "of", ">rows"), [(t.table, t.of, count(t.rows)) for t in copy.tables]))
    drop = f"sbh restore drop-look {copy.schema} -t {copy.tenant_id}"
    out.print(printable(f"To look: SET search_path TO {copy.schema};  To be rid of it: {drop}"))


def looks_table(looks: "Sequence[Look]") -> Any:
    """The schemas of old rows that are there."""
    columns = ("schema", "tenant", "label", "dropped after")
    return table("Looks", columns, [(look.schema, look.tenant_id, look.label, utc(look.expires_at)) for look in looks])


def show_status(out: Any, record: "RestoreRecord") -> None:
    """How a restore stands: what of it, how far, what went wrong, what undoes it."""
    percent = record.progress or 0
    out.print(
        facts(
            {
                "restore": record.restore_id,
                "tenant": record.tenant_id,
                "backup": record.backup_id,
                "from the copy": record.from_copy,
                "undoes": record.undoes,
                "status": record.status,
                "progress": f"{bar(percent)} {percent} %",
                "step": record.step if record.status != "completed" else None,
                "mode": record.mode,
                "scope": scope_text(record.scope) if record.scope is not None else None,
                "started": f"{utc(record.started_at)} by {record.requested_by}",
                "safety backup": record.safety_backup_id,
                "to undo it": undo_command(record.restore_id, record.tenant_id) if record.undoable else None,
            }
        )
    )
    if record.error:
        show_error(out, record.error)


def bar(percent: int) -> str:
    """`[######..................]`: a picture of a percentage that any terminal shows."""
    full = _WIDTH * max(0, min(100, percent)) // 100
    return f"[{'#' * full}{'.' * (_WIDTH - full)}]"


def restores_table(title: str, restores: "Sequence[RestoreRecord]") -> Any:
    """Few columns, so that ids are not folded: who asked, and what undoes it, is in the status."""
    failed = any(r.error for r in restores)
    rows = (
        (
            r.restore_id,
            f"{r.status}, {r.progress} %" if r.status == "running" else r.status,
            utc(r.started_at).removesuffix(" UTC"),
            _what(r),
            r.backup_id or "",
            *((_error_line(r.error or {}),) if failed else ()),
        )
        for r in restores
    )
    columns = ("restore", "status", "started, UTC", "-~what", "-backup", *(("~error",) if failed else ()))
    return table(title, columns, rows)


def _what(record: "RestoreRecord") -> str:
    if record.undoes:
        return f"undoes {record.undoes}"
    if record.scope is None:
        return ""
    return scope_text(record.scope) + ("" if record.mode == "exact" else f"; {record.mode}")


def _error_line(error: Mapping[str, object]) -> str:
    return f"{error.get('code', '')} {error.get('what', '')}".strip()
