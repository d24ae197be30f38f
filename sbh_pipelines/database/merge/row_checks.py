"""Constraints that one row breaks by itself, foreseen: a column that must not be NULL, a CHECK that was added since."""

from dataclasses import dataclass

from sbh_pipelines.database.merge.merge import TableMerge
from sbh_pipelines.database.schema.tenancy import ident
from sbh_pipelines.database.session.connection import Connection, translated

# Also those that are NOT VALID: new rows are checked. Inherited ones are on the table itself as well.
_CHECKS = """
SELECT c.conname, pg_get_expr(c.conbin, c.conrelid) FROM pg_constraint c
WHERE c.conrelid = %s AND c.contype = 'c' AND (to_jsonb(c) ->> 'conenforced') IS DISTINCT FROM 'false' ORDER BY 1"""


@dataclass(frozen=True, slots=True)
class Violation:
    """`rows` of what would be written break `constraint`."""

    table: str
    constraint: str
    rows: int


def foreseen_violations(connection: Connection, merge: TableMerge) -> list[Violation]:
    """Needs `decide`; nothing is written. Constraints over generated columns are left to the server."""
    if not (merge.changes.inserted or merge.changes.updated):
        return []
    table, staging = merge.table, merge.staging
    # What the backup lacks gets its default when it is written, which a plan does not call for.
    stored = {c.column.name for c in staging.mapping.columns if c.position is not None}
    generated = [c.name for c in table.table.columns if c.generated]
    with translated("look for violated constraints", table.full_name):
        cursor = connection.cursor()
        cursor.execute(_CHECKS, (table.table.oid,))
        conditions = [
            # A composite value of NULLs IS NULL, and yet a value.
            (f"NOT NULL of {c.name}", f"num_nulls({ident(c.name)}) = 1")
            for c in table.table.columns
            if c.not_null and c.name in stored
        ]
        conditions += [
            (name, f"({expression}) IS FALSE")
            for name, expression in cursor.fetchall()
            if not any(column in expression for column in generated)
        ]
        if not conditions:
            return []
        counts = ", ".join(f"count(*) FILTER (WHERE {condition})" for _, condition in conditions)
        cursor.execute(f"SELECT {counts} FROM {staging.named(merge.todo, 'n')}")
        found = cursor.fetchone()
    return [Violation(table.full_name, name, rows) for (name, _), rows in zip(conditions, found, strict=True) if rows]
