"""How the plan of a restore is shown: what would happen to every table and to the files, and why it would refuse."""

from collections.abc import Mapping, Sequence
from typing import Any

from sbh_pipelines.cli.output import count, facts, mib, plural, printable, seconds, table, utc

_CHANGES = ("insert", "update", "delete")


def show_plan(out: Any, plan: Mapping[str, Any], next_command: str) -> None:
    """What a restore would do, why it would refuse, and the command that does it."""
    estimate = plan["estimate"]
    out.print(
        facts(
            {
                "backup": plan["backup_id"],
                "tenant": plan["tenant_id"],
                "recovery point": utc(plan["recovery_point"]["time"]),
                "compared at": utc(plan["compared_at"]),
                "mode": plan["mode"],
                "scope": scope_text(plan["scope"]),
                "target": plan["target"],
                "estimate": f"{mib(estimate['bytes_to_download'])} to download, {seconds(estimate['seconds'])}",
            }
        )
    )
    if plan["tables"]:
        out.print(_plan_tables(plan["tables"]))
    if any(plan["files"][name] for name in ("missing", "different", "extra", "unchanged", "kept")):
        out.print(_plan_files(plan["files"]))
    if plan["schema"]:
        out.print(schema_table(plan["schema"]))
    _show_samples(out, plan)
    conflicts = [(t["table"], c["reason"], count(c["rows"])) for t in plan["tables"] for c in t["conflicts"]]
    if conflicts:
        out.print(table("Conflicts", ("table", "reason", ">rows"), conflicts))
    if plan["problems"]:
        out.print(f"A restore would refuse: {plural(len(plan['problems']), 'problem')}", style="bold red")
        for problem in plan["problems"]:
            show_error(out, problem)
    elif plan["nothing_to_do"]:
        out.print("Nothing to do: everything is as the backup has it, or stays as the mode says.")
    else:
        out.print(f"Next: {printable(next_command)}", soft_wrap=True)


def _plan_tables(tables: Sequence[Mapping[str, Any]]) -> Any:
    columns = ("table", ">rows in backup", ">groups that match", ">insert", ">update", ">delete", ">kept")
    rows = (
        (
            t["table"],
            count(t["rows_in_backup"]),
            f"{count(t['groups_matching'])} of {count(t['groups'])}",
            *(count(t[change]) for change in (*_CHANGES, "kept")),
        )
        for t in tables
    )
    return table("Tables", columns, rows)


def _plan_files(files: Mapping[str, Any]) -> Any:
    columns = (">put back", ">write anew", ">remove", ">kept", ">unchanged", ">to write")
    numbers = (files["missing"], files["different"], _removed(files), files["kept"], files["unchanged"])
    return table("Files", columns, [(*map(count, numbers), mib(files["bytes_to_write"]))])


def _removed(files: Mapping[str, Any]) -> int:
    return max(0, int(files["extra"]) - int(files["kept"]))


def schema_table(differences: Sequence[Mapping[str, Any]]) -> Any:
    """What loses something is yellow, what keeps a restore from beginning is red."""
    from rich.text import Text

    def row(found: Mapping[str, Any]) -> list[Text]:
        style = "bold red" if found["blocking"] else "yellow" if found["lossy"] else ""
        names = ("table", "column", "change", "then", "now", "decision")
        return [Text(printable(str(found[name] if found[name] is not None else "")), style) for name in names]

    columns = ("table", "column", "change", "then", "now", "what a restore does")
    return table("Schema differences", columns, map(row, differences))


def _show_samples(out: Any, plan: Mapping[str, Any]) -> None:
    for t in plan["tables"]:
        rows = [
            (sample["change"] if not n else "", _key(sample["key"]) if not n else "", change)
            for sample in t["samples"]
            for n, change in enumerate(_changes(sample))
        ]
        if rows:
            out.print(table(f"Samples of {t['table']}", ("change", "key", "column: before -> after"), rows))
    if plan["files"]["samples"]:
        files = ((sample["change"], sample["path"]) for sample in plan["files"]["samples"])
        out.print(table("Samples of files", ("change", "path"), files))


def _key(key: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} = {_value(value)}" for name, value in key.items())


def _changes(sample: Mapping[str, Any]) -> list[str]:
    """A line for each column. A row that comes or goes has only one side, and its key is shown already."""
    change, key = sample["change"], sample["key"]
    lines = []
    for column in sample["columns"]:
        name, before, after = column["column"], column["before"], column["after"]
        if change in ("insert", "delete"):
            value = after if change == "insert" else before
            if name not in key and value is not None:
                lines.append(f"{name}: {_value(value)}")
        else:
            lines.append(f"{name}: {_value(before)} -> {_value(after)}")
    return lines or [""]


def _value(value: str | None) -> str:
    return "NULL" if value is None else value


def show_error(out: Any, error: Mapping[str, Any]) -> None:
    """An error that a document holds: in red what failed, on what, why, what to do next."""
    code = f"[{error['code']}] " if error.get("code") else ""
    on = f" ({error['on']})" if error.get("on") else ""
    out.print(printable(f"{code}{error['what']}{on}"), style="red", soft_wrap=True)
    for label, name in (("why", "why"), ("next", "remedy")):
        if error.get(name):
            out.print(printable(f"  {label:<5}{error[name]}"), style="red", soft_wrap=True)


def scope_text(scope: Mapping[str, Any]) -> str:
    """`the whole tenant`, or the parts: `tables users, tasks; files invoices/**`."""
    if scope["kind"] == "tenant":
        return "the whole tenant"
    parts = [f"tables {', '.join(scope['tables'])}"] if scope.get("tables") else []
    parts += [f"rows {scope['rows']}"] if "rows" in scope else []
    parts += [f"files {', '.join(scope['files'])}"] if scope.get("files") else []
    parts += ["configuration only"] if scope.get("config_only") else []
    return "; ".join(parts)
