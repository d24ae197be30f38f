"""Why rows that were decided on cannot be written: what a plan says beside conflicts of keys, and a restore refuses for."""

from collections.abc import Iterator, Sequence

from sbh_pipelines.backup.restore.context import RestoreContext, describe_broken_keys, remedy_for_broken_keys
from sbh_pipelines.database.merge.conflicts import foreseen_violations
from sbh_pipelines.database.merge.foreign_keys import foreseen_breaks
from sbh_pipelines.database.merge.merge import TableMerge
from sbh_pipelines.database.merge.relationships.links import Link
from sbh_pipelines.database.merge.relationships.parents import Strangers, strangers
from sbh_pipelines.errors import RestoreConflict, RestoreRefused, SbhError


def row_problems(
    context: RestoreContext, merges: Sequence[TableMerge], links: list[Link], *, foresee: bool
) -> Iterator[SbhError]:
    """Without `foresee` only what costs little beside writing the rows: the server and the proof find the rest."""
    if undecided := [m for m in merges if m.undecided]:
        yield RestoreConflict(
            "Rows differ, and nothing says which of the two is the later one",
            on=", ".join(m.table.full_name for m in undecided),
            why=f"{sum(m.undecided for m in undecided)} rows; the tables have no column in restore.newest",
            remedy="declare it, or use another mode",
        )
    violated = [v for m in merges for v in foreseen_violations(context.connection, m)] if foresee else []
    if violated:
        yield RestoreRefused(
            "Rows of the backup break constraints that the tables have now",
            on=", ".join(dict.fromkeys(v.table for v in violated)),
            why="; ".join(f"{v.rows} rows of {v.table} break {v.constraint}" for v in violated[:5]),
            remedy="relax the constraint for the restore, declare restore.fill, or leave these tables or rows out",
        )
    by_oid = {merge.table.table.oid: merge for merge in merges}
    if owned := list(strangers(context.connection, by_oid, links if foresee else [])):
        yield RestoreRefused(
            "Rows would not be this tenant's after the restore",
            on=", ".join(dict.fromkeys(s.table for s in owned)),
            why="; ".join(_whose(s) for s in owned[:5]),
            remedy="restore the tables that they hang on as well: "
            + ", ".join(dict.fromkeys(s.parent for s in owned if s.parent))
            if any(s.parent for s in owned)
            else "restore a backup of this tenant",
        )
    broken = foreseen_breaks(context.connection, context.tenancy, list(merges), context.undo_since) if foresee else []
    if broken:
        yield RestoreRefused(
            "Foreign keys would not hold after the restore",
            on=context.tenant.id,
            why=describe_broken_keys(broken),
            remedy=remedy_for_broken_keys(context.request, broken),
        )


def _whose(found: Strangers) -> str:
    if not found.parent:
        return f"{found.rows} rows of {found.table} name another tenant"
    return f"{found.rows} rows of {found.table}: what they hang on in {found.parent} is another tenant's now, or gone"
