"""Constraints that a restore would break, foreseen before anything is written.

A row may break one by itself: a column that must not be NULL, a CHECK that was added since. Or it cannot be there together with
another: one that is written too, or one that stays. Rows of other tenants count as well: a unique value belongs to one row of
the whole table.
"""

from dataclasses import dataclass

from sbh_pipelines.database.merge.merge import TableMerge
from sbh_pipelines.database.merge.relationships.adoption import MOST_NAMED, HeldKey, owners_of
from sbh_pipelines.database.schema.catalog import Table, UniqueKey
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.database.session.sql import from_only, ident


@dataclass(frozen=True, slots=True)
class Collision:
    """Rows that cannot be written because of a unique key.

    Attributes:
        constraint: its name.
        rows: how many there are.
        named: the first of those that are in conflict with a live row which stays.
    """

    constraint: str
    rows: int
    named: tuple[HeldKey, ...]


def foreseen(connection: Connection, merge: TableMerge) -> list[Collision]:
    """Rows of `todo` in conflict with one that stays, or with each other. Needs `decide`; nothing is written."""
    table, staging = merge.table.table, merge.staging
    if not (merge.changes.inserted or merge.changes.updated):
        return []
    found = []
    for key in table.unique_keys:
        if _computed(merge.table, key):
            continue  # over a generated column, which staged rows lack: the server itself will tell
        elements = _elements(key)
        where = f" WHERE {key.predicate}" if key.predicate else ""
        own_key = "".join(f", n.{ident(name)} AS sbh_k{nth}" for nth, name in enumerate(_key(merge)))
        todo = f"(SELECT {elements}{own_key} FROM {staging.named(merge.todo, 'n')}{where})"
        others = f"(SELECT n.*, n.tableoid AS tableoid, n.ctid AS ctid, {elements} FROM {from_only(table)} n{where})"
        stays = "true"
        if staging.keyed:
            stays = f"NOT EXISTS (SELECT FROM {merge.gone} h WHERE {staging.key_of_live('l', 'h')})"
        elif merge.changes.deleted:  # which of the tenant's rows go is known by their texts only: the server will tell
            stays = (
                f"NOT EXISTS (SELECT FROM {merge.table.source} WHERE {merge.table.tenant_is([staging.tenant_key])}"
                " AND t.tableoid = l.tableoid AND t.ctid = l.ctid)"
            )
        with translated("look for conflicts", merge.table.full_name):
            cursor = connection.cursor()
            cursor.execute(
                f"SELECT count(*) FROM {todo} a WHERE EXISTS (SELECT FROM {others} l WHERE {both(key, 'a', 'l')} AND {stays})"
            )
            rows = cursor.fetchone()[0]
            pairs = f"{todo} a JOIN {others} l ON {both(key, 'a', 'l')} AND {stays}"
            named = _named(merge, pairs) if rows else ()
            if all(operator.endswith(".=)") for operator in key.operators):
                # A key that was not there when the rows were backed up. Other operators would compare each row with each.
                cursor.execute(
                    f"WITH a AS MATERIALIZED (SELECT pg_catalog.row_number() OVER () AS sbh_nr, * FROM {todo} n)"
                    " SELECT count(*) FROM a WHERE EXISTS"
                    f" (SELECT FROM a b WHERE {both(key, 'a', 'b')} AND b.sbh_nr <> a.sbh_nr)"
                )
                rows = max(rows, cursor.fetchone()[0])
            if rows:
                found.append(Collision(key.name, rows, named))
    return found


def _key(merge: TableMerge) -> tuple[str, ...]:
    return merge.table.table.primary_key if merge.staging.keyed else ()


def _named(merge: TableMerge, pairs: str) -> tuple[HeldKey, ...]:
    """The first of the rows that are in conflict, and whose the live ones are."""
    keys = _key(merge)
    mine = [f"h.sbh_k{nth}" for nth in range(len(keys))]
    theirs = [f"h.sbh_l{nth}" for nth in range(len(keys))]
    listed = "".join(f", a.sbh_k{nth} AS sbh_k{nth}, l.{ident(key)} AS sbh_l{nth}" for nth, key in enumerate(keys))
    rows = f"(SELECT l.tableoid, l.ctid{listed} FROM {pairs} LIMIT {MOST_NAMED})"
    found = owners_of(merge.staging, rows, [*mine, *theirs], "h.tableoid", "h.ctid")
    named = []
    for *values, owner in found:
        key, holder = (dict(zip(keys, v, strict=True)) for v in (values[: len(keys)], values[len(keys) :]))
        named.append(HeldKey(key, holder, owner))
    return tuple(named)


def deferred(connection: Connection, table: MappedTable, tenant_key: str) -> list[tuple[str, int]]:
    """(constraint, live rows of the tenant in conflict with another row), for constraints that triggers check."""
    found = []
    for key in table.table.unique_keys:
        if not key.deferrable:
            continue
        rows = rows_of_key(table.table, key)
        with translated("check a deferrable constraint", table.full_name):
            cursor = connection.cursor()
            cursor.execute(
                f"SELECT count(*) FROM (SELECT t.tableoid AS part, t.ctid AS place FROM {table.source}"
                f" WHERE {table.tenant_is([tenant_key])}) m JOIN {rows} a ON a.part = m.part AND a.place = m.place"
                f" WHERE EXISTS (SELECT FROM {rows} b WHERE (b.part, b.place) <> (a.part, a.place) AND {both(key, 'a', 'b')})"
            )
            if count := cursor.fetchone()[0]:
                found.append((key.name, count))
    return found


def rows_of_key(table: Table, key: UniqueKey) -> str:
    """A subquery of the rows that the key speaks of: where each lies (part, place) and its elements, for `both`."""
    where = f" WHERE {key.predicate}" if key.predicate else ""
    return f"(SELECT tableoid AS part, ctid AS place, {_elements(key)} FROM {from_only(table)}{where})"


def _elements(key: UniqueKey) -> str:
    return ", ".join(f"{text} AS sbh_e{nth}" for nth, text in enumerate(key.elements))


def both(key: UniqueKey, one: str, other: str) -> str:
    """The condition that the rows under two aliases are in conflict by the key."""
    return " AND ".join(
        f"({one}.sbh_e{nth} {operator} {other}.sbh_e{nth}"
        + (f" OR {one}.sbh_e{nth} IS NULL AND {other}.sbh_e{nth} IS NULL)" if key.nulls_equal else ")")
        for nth, operator in enumerate(key.operators)
    )


def _computed(table: MappedTable, key: UniqueKey) -> bool:
    generated = [c.name for c in table.table.columns if c.generated]
    said = " ".join((*key.elements, key.predicate or ""))
    return any(name in said or ident(name) in said for name in generated)


# Also those that are NOT VALID: new rows are checked. Inherited ones are on the table itself as well.
_CHECKS = """
SELECT c.conname, pg_get_expr(c.conbin, c.conrelid) FROM pg_constraint c
WHERE c.conrelid = %s AND c.contype = 'c' AND (to_jsonb(c) ->> 'conenforced') IS DISTINCT FROM 'false' ORDER BY 1"""


@dataclass(frozen=True, slots=True)
class Violation:
    """Rows that would be written and break a constraint.

    Attributes:
        table: Full name of the table.
        constraint: Its name, or a description of a NOT NULL.
        rows: How many rows break it.
    """

    table: str
    constraint: str
    rows: int


def foreseen_violations(connection: Connection, merge: TableMerge) -> list[Violation]:
    """The violations of NOT NULL and CHECK that writing would cause. Needs `decide`; nothing is written.

    Constraints over generated columns are left to the server.
    """
    if not (merge.changes.inserted or merge.changes.updated):
        return []
    table, staging = merge.table, merge.staging
    # What the backup lacks gets its default when it is written, which a plan does not call for.
    stored = {c.column.name for c in staging.mapping.columns if c.position is not None}
    generated = [c.name for c in table.table.columns if c.generated]
    with translated("look for violated constraints", table.full_name):
        cursor = connection.cursor()
        with own_names(connection):
            cursor.execute(_CHECKS, (table.table.oid,))
            checks = cursor.fetchall()
        conditions = [
            # A composite value of NULLs IS NULL, and yet a value.
            (f"NOT NULL of {c.name}", f"pg_catalog.num_nulls({ident(c.name)}) = 1")
            for c in table.table.columns
            if c.not_null and c.name in stored
        ]
        conditions += [
            (name, f"({expression}) IS FALSE")
            for name, expression in checks
            if not any(column in expression for column in generated)
        ]
        if not conditions:
            return []
        counts = ", ".join(f"count(*) FILTER (WHERE {condition})" for _, condition in conditions)
        cursor.execute(f"SELECT {counts} FROM {staging.named(merge.todo, 'n')}")
        found = cursor.fetchone()
    return [Violation(table.full_name, name, rows) for (name, _), rows in zip(conditions, found, strict=True) if rows]
