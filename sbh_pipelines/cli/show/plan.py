"""How the plan of a restore is shown: what would happen to every table and to the files, and why it would refuse."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sbh_pipelines.cli.output import count, facts, plural, printable, seconds, table, utc
from sbh_pipelines.model import size_text

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import (
        FilePlan,
        LeftBehind,
        ReferenceRows,
        RestorePlan,
        RowSample,
        SchemaDifference,
        Scope,
        TablePlan,
    )


def show_plan(out: Any, plan: "RestorePlan", next_command: str) -> None:
    """What a restore would do, why it would refuse, and the command that does it."""
    estimate = plan.estimate
    rests = f", of which {seconds(estimate.resting_s)} are rests (restore.pace)" if estimate.resting_s else ""
    out.print(
        facts(
            {
                "backup": plan.backup_id,
                **({"from the copy": f"{plan.from_copy}; nothing is backed up before"} if plan.from_copy else {}),
                "tenant": plan.tenant_id,
                "recovery point": utc(str(plan.recovery_point["time"])),
                "compared at": utc(plan.compared_at),
                **(plan.moment.lines() if plan.moment else {}),
                "mode": plan.mode,
                "scope": scope_text(plan.scope),
                "target": plan.target,
                "estimate": f"{size_text(estimate.bytes_to_download)} to download, {seconds(estimate.seconds)}{rests}",
            }
        )
    )
    if plan.tables:
        out.print(_plan_tables(plan.tables))
    if any(getattr(plan.files, name) for name in ("missing", "different", "extra", "unchanged", "kept")):
        out.print(_plan_files(plan.files))
    if plan.schema:
        out.print(schema_table(plan.schema))
    if plan.left_out:
        out.print(left_out_table(plan.left_out))
    if plan.kept:
        out.print(f"Stays as it is, by restore.kept: {printable(', '.join(plan.kept))}", soft_wrap=True)
    _show_samples(out, plan)
    if plan.conflicts:
        conflicts = [(name, reason, count(rows)) for name, reason, rows in plan.conflicts]
        out.print(table("Conflicts", ("table", "reason", ">rows"), conflicts))
    _show_conflict_rows(out, plan)
    if plan.references:
        out.print(_reference_rows(plan.references))
    show_left_behind(out, plan.left_behind)
    if plan.problems:
        out.print(f"A restore would refuse: {plural(len(plan.problems), 'problem')}", style="bold red")
        for problem in plan.problems:
            show_error(out, problem.as_dict())
    elif plan.nothing_to_do:
        out.print("Nothing to do: everything is as the backup has it, or stays as the mode says.")
    else:
        out.print(f"Next: {printable(next_command)}", soft_wrap=True)


def show_left_behind(out: Any, found: "Sequence[LeftBehind]") -> None:
    """Tables that were not chosen, and whose rows went with those that come back."""
    for one in found:
        out.print(
            f"{printable(one.table)} was not chosen and has {count(one.rows)} fewer of its rows than the backup: it refers to"
            f" {printable(one.parent)} ({printable(one.constraint)}, ON DELETE CASCADE). Choose it as well, or rows with"
            " what hangs on them: --rows",
            style="yellow",
            soft_wrap=True,
        )


def left_out_table(left_out: Mapping[str, str]) -> Any:
    """What a backup's rows refer to and it does not hold."""
    return table("Not in the backup", ("~what refers to it", "~what it is"), sorted(left_out.items()))


def _plan_tables(tables: "Sequence[TablePlan]") -> Any:
    columns = ("table", ">rows in backup", "->row groups equal", ">insert", ">update", ">delete", ">kept")
    found = any(t.of_no_tenant for t in tables)
    shown = (*columns, ">of no tenant now") if found else columns
    rows = (
        (
            t.table,
            count(t.rows_in_backup),
            f"{count(t.groups_matching)} of {count(t.groups)}",
            *map(count, (t.insert, t.update, t.delete, t.kept)),
            *((count(t.of_no_tenant),) if found else ()),
        )
        for t in tables
    )
    return table("Tables", shown, rows)


def _plan_files(files: "FilePlan") -> Any:
    columns = (">put back", ">write anew", ">remove", ">kept", ">unchanged", ">to write")
    numbers = (files.missing, files.different, files.removed, files.kept, files.unchanged)
    return table("Files", columns, [(*map(count, numbers), size_text(files.bytes_to_write))])


def schema_table(differences: "Sequence[SchemaDifference]") -> Any:
    """What loses something is yellow, what keeps a restore from beginning is red."""
    from rich.text import Text

    def row(found: "SchemaDifference") -> list[Text]:
        style = "bold red" if found.blocking else "yellow" if found.lossy else ""
        cells = (found.table, found.column, found.change, found.then, found.now, found.decision)
        return [Text(printable(cell or ""), style) for cell in cells]

    columns = ("table", "column", "change", "then", "now", "~what a restore does")
    return table("Schema differences", columns, map(row, differences))


def _reference_rows(references: "Sequence[ReferenceRows]") -> Any:
    columns = ("table", "whose", ">rows", "refer to", "-by", "-on delete", "-of", "~what becomes of them")
    rows = (
        (
            r.table,
            r.whose,
            count(r.rows),
            r.parent,
            r.constraint,
            r.on_delete,
            "; ".join(map(_key, r.refers_to)),
            r.done or "nothing: refused",
        )
        for r in references
    )
    return table("Rows outside the restore that refer to rows which would go", columns, rows)


def _show_conflict_rows(out: Any, plan: "RestorePlan") -> None:
    for t in plan.tables:
        rows = [
            (
                conflict.reason,
                _key(row.key),
                row.owner,
                "" if row.held_by in (None, row.key) else _key(row.held_by or {}),
            )
            for conflict in t.conflicts
            for row in conflict.named
        ]
        if rows:
            columns = ("reason", "key in the backup", "held by a row of", "with the key")
            out.print(table(f"Rows of {t.table} that are in the way", columns, rows))


def _show_samples(out: Any, plan: "RestorePlan") -> None:
    for t in plan.tables:
        rows = [
            (sample.change if not n else "", _key(sample.key) if not n else "", change)
            for sample in t.samples
            for n, change in enumerate(_changes(sample))
        ]
        if rows:
            out.print(table(f"Samples of {t.table}", ("change", "key", "~column: before -> after"), rows))
    if plan.files.samples:
        files = ((sample.change, sample.path) for sample in plan.files.samples)
        out.print(table("Samples of files", ("change", "path"), files))


def _key(key: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} = {_value(value)}" for name, value in key.items())


def _changes(sample: "RowSample") -> list[str]:
    """A line for each column. A row that comes or goes has only one side, and its key is shown already."""
    lines = []
    for column in sample.columns:
        if sample.change in ("insert", "delete"):
            value = column.after if sample.change == "insert" else column.before
            if column.column not in sample.key and value is not None:
                lines.append(f"{column.column}: {_value(value)}")
        else:
            lines.append(f"{column.column}: {_value(column.before)} -> {_value(column.after)}")
    return lines or [""]


def _value(value: str | None) -> str:
    return "NULL" if value is None else value


def show_error(out: Any, error: Mapping[str, object]) -> None:
    """An error that a document holds: in red what failed, on what, why, what to do next."""
    code = f"[{error['code']}] " if error.get("code") else ""
    on = f" ({error['on']})" if error.get("on") else ""
    out.print(printable(f"{code}{error['what']}{on}"), style="red", soft_wrap=True)
    for label, name in (("why", "why"), ("next", "remedy")):
        if error.get(name):
            out.print(printable(f"  {label:<5}{error[name]}"), style="red", soft_wrap=True)


def scope_text(scope: "Scope") -> str:
    """`the whole tenant`, or the parts: `tables users, tasks; files invoices/**`."""
    if scope.kind == "tenant":
        return "the whole tenant"
    parts = [f"tables {', '.join(scope.tables)}"] if scope.tables else []
    parts += [f"all but tables {', '.join(scope.all_but)}"] if scope.all_but else []
    parts += [f"rows {scope.rows}"] if scope.rows is not None else []
    parts += [f"files {', '.join(scope.files)}"] if scope.files else []
    parts += ["configuration only"] if scope.config_only else []
    return "; ".join(parts)
