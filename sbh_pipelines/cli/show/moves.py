"""A tenant's move to another site on the terminal: what it would do, and what was done and proved."""

from typing import TYPE_CHECKING, Any

from sbh_pipelines.cli.output import count, facts, plural, print_issues, printable, table, utc
from sbh_pipelines.model import size_text

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import Moved, MovePlan

_STAGES = {
    "new": "not begun",
    "begun": "begun, and cut short: it goes on",
    "left": "only its end is missing",
    "done": "done: the tenant went",
}


def show_move_plan(out: Any, plan: "MovePlan") -> None:
    """Numbers are of the newest backup: the move makes one more, the final one."""
    told = {
        "tenant": f"{plan.tenant_id}, region {plan.region}",
        "from": printable(plan.from_site),
        "to": printable(plan.to_site),
        "move": _STAGES[plan.stage],
        "newest backup": plan.backup_id,
        "history": f"{plural(plan.backups, 'backup')}: {plural(plan.objects, 'object')}, {size_text(plan.bytes)}",
        "rows": count(plan.rows),
        "files": f"{count(plan.files)} to write, {size_text(plan.file_bytes)}",
    }
    out.print(facts(told))
    if plan.tables:
        rows = [(one.table, count(one.rows)) for one in plan.tables]
        out.print(table(plural(len(rows), "table"), ("table", ">rows"), rows))
    for other in plan.others:
        out.print(printable(f"At {plan.to_site} and not of the backup: {other}"), style="yellow", markup=False)
    print_issues(out, plan.problems)


def show_moved(out: Any, moved: "Moved") -> None:
    """What was done, and the proof."""
    told = {
        "tenant": moved.tenant_id,
        "from": printable(moved.from_site),
        "to": printable(moved.to_site),
        "its backups": printable(moved.place),
        "final backup": moved.backup_id,
        "first backup there": moved.arrival_id,
        "brought": f"{plural(moved.objects, 'object')}, {size_text(moved.bytes)}",
    }
    if (proof := moved.proof) is not None:
        tables = plural(len(proof.tables), "table")
        told["equal at both sites"] = f"{count(proof.rows)} rows in {tables}, {count(proof.files)} files"
        told["compared"] = f"{utc(proof.source_as_of)} there it was, {utc(proof.target_as_of)} where it is"
    out.print(facts(told))
