"""The foreign keys that a restore touches, checked by queries: a replica session checks none by itself."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from sbh_pipelines.database.capture.changes import ages, snapshot_xmin
from sbh_pipelines.database.merge.merge import TableMerge
from sbh_pipelines.database.schema.catalog import Column, ForeignKey, Table
from sbh_pipelines.database.schema.tenancy import TenancyMap
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.sql import from_only, ident, literal, sql_name

_VALUES = 10_000  # keys compared at once


@dataclass(frozen=True, slots=True)
class BrokenForeignKey:
    constraint: str
    table: str
    parent: str
    rows: int


def check_foreign_keys(
    connection: Connection, tenancy: TenancyMap, merges: list[TableMerge], since: str = ""
) -> tuple[int, list[BrokenForeignKey]]:
    """Check every foreign key of the rows just written, and all those that refer to a row just deleted.

    The latter may be rows of other tenants, of shared tables, or of tables of other schemas. Returns (number of keys
    checked, the broken ones). A row with a NULL in the key is not checked, as in MATCH SIMPLE. See `may_dangle` for `since`.
    """
    broken: list[BrokenForeignKey] = []
    touched = list(_touched(tenancy, merges))
    captured = {table.table.oid for table in tenancy.tables}
    for key, child, parent, child_merge, parent_merge in touched:
        rows = 0
        if child_merge is not None and not may_dangle(key, captured, since):
            rows = _dangling(connection, child_merge, key, parent)
        if parent_merge is not None:
            rows = max(rows, _orphans(connection, parent_merge, key, child, child_merge, since))
        if rows:
            broken.append(BrokenForeignKey(key.name, child.full_name, parent.full_name, rows))
    return len(touched), broken


def may_dangle(key: ForeignKey, captured: Collection[int], since: str) -> bool:
    """Whether rows of the backup may refer to nothing, because they did when they were backed up.

    So it is with keys that are NOT VALID: parents that the backup has come with their children. And with the backup that undoes
    a restore (`since` is its snapshot), which may have mended what was broken; but for parents that no backup of a tenant has.
    """
    return not key.valid or (bool(since) and key.parent in captured)


def foreseen_breaks(
    connection: Connection, tenancy: TenancyMap, merges: list[TableMerge], since: str = ""
) -> list[BrokenForeignKey]:
    """Rows that would be written and refer to nothing, as `check_foreign_keys` would find them; see references.py for the others.

    Keys over generated columns, and those of tables without a primary key, are left to the check itself.
    """
    broken: list[BrokenForeignKey] = []
    captured = {table.table.oid for table in tenancy.tables}
    for key, child, parent, child_merge, parent_merge in _touched(tenancy, merges):
        if child_merge is None or may_dangle(key, captured, since):
            continue
        if any(m is not None and not m.staging.keyed for m in (child_merge, parent_merge)):
            continue
        with translated("look for broken foreign keys", child.full_name):
            rows = _will_dangle(connection, child_merge, key, parent, parent_merge)
        if rows:
            broken.append(BrokenForeignKey(key.name, child.full_name, parent.full_name, rows))
    return broken


def enforced_keys(tenancy: TenancyMap) -> Iterator[ForeignKey]:
    """All foreign keys at the mapped schemas that the server checks for rows that are written or deleted: NOT VALID ones too."""
    catalog = tenancy.catalog
    inside = (key for table in catalog.tables.values() for key in (*table.foreign_keys, *table.doubtful_keys))
    for key in (*inside, *catalog.outside_keys, *catalog.doubtful_outside_keys):
        if key.enforced:
            yield key


def _touched(
    tenancy: TenancyMap, merges: list[TableMerge]
) -> Iterator[tuple[ForeignKey, Table, Table, TableMerge | None, TableMerge | None]]:
    """(key, child, parent, the child's merge, the parent's) of keys at an end of which something is written."""
    merged = {m.table.table.oid: m for m in merges if m.changes.any}
    tables = {**tenancy.catalog.outside, **tenancy.catalog.tables}
    for key in enforced_keys(tenancy):
        if key.table in merged or key.parent in merged:
            yield key, tables[key.table], tables[key.parent], merged.get(key.table), merged.get(key.parent)


def _will_dangle(
    connection: Connection, merge: TableMerge, key: ForeignKey, parent: Table, parent_merge: TableMerge | None
) -> int:
    columns = merge.staging.columns
    if not (merge.changes.inserted or merge.changes.updated) or not all(c in columns for c in key.columns):
        return 0
    triples = list(zip(key.columns, key.operators, key.parent_columns, strict=True))
    live = " AND ".join(f"x.{ident(theirs)} {equals} t.{columns[own]}" for own, equals, theirs in triples)
    filled = " AND ".join(f"t.{columns[c]} IS NOT NULL" for c in key.columns)
    stays, comes = "true", "true"
    if parent_merge is not None:
        staging = parent_merge.staging
        if not all(c in staging.columns for c in key.parent_columns):
            return 0
        stays = f"NOT EXISTS (SELECT FROM {parent_merge.gone} h WHERE {staging.key_of_live('x', 'h')})"
        staged = " AND ".join(f"y.{staging.columns[p]} {equals} t.{columns[own]}" for own, equals, p in triples)
        comes = f"NOT EXISTS (SELECT FROM {parent_merge.todo} y WHERE {staged})"
    cursor = connection.cursor()
    cursor.execute(
        f"SELECT count(*) FROM {merge.todo} t WHERE {filled} AND {comes}"
        f" AND NOT EXISTS (SELECT FROM {from_only(parent)} x WHERE {live} AND {stays})"
    )
    rows: int = cursor.fetchone()[0]
    return rows


def _dangling(connection: Connection, merge: TableMerge, key: ForeignKey, parent: Table) -> int:
    """Rows written that refer to nothing."""
    changes, columns = merge.changes, merge.staging.columns
    if not (changes.inserted or changes.updated):
        return 0
    if all(column in columns for column in key.columns):
        rows, own = f"{merge.todo} t", {c: f"t.{columns[c]}" for c in key.columns}
        condition = "true"
    else:  # refers by a generated column, which only the live rows have
        rows, own = merge.table.source, {c: f"t.{ident(c)}" for c in key.columns}
        condition = merge.table.tenant_is([merge.staging.tenant_key])
    pairs = " AND ".join(
        f"x.{ident(theirs)} {equals} {own[mine]}"
        for mine, equals, theirs in zip(key.columns, key.operators, key.parent_columns, strict=True)
    )
    filled = " AND ".join(f"{own[c]} IS NOT NULL" for c in key.columns)
    with translated("check a foreign key", merge.table.full_name):
        cursor = connection.cursor()
        cursor.execute(
            f"SELECT count(*) FROM {rows} WHERE {condition} AND {filled}"
            f" AND NOT EXISTS (SELECT FROM {from_only(parent)} x WHERE {pairs})"
        )
        found: int = cursor.fetchone()[0]
    return found


def _orphans(
    connection: Connection,
    merge: TableMerge,
    key: ForeignKey,
    child: Table,
    child_merge: TableMerge | None,
    since: str,
) -> int:
    """Rows of any tenant, or of none, that refer to a row which was deleted and not put back.

    Of keys that are NOT VALID, and for an undo, rows that were written just now are as they were backed up.
    """
    columns, table = merge.staging.columns, merge.table.table
    if not (merge.changes.deleted or merge.changes.updated):
        return 0
    if not all(c in columns for c in key.parent_columns):
        return 0  # refers to a generated column, whose value follows from the others
    deleted = merge.gone if merge.staging.keyed else merge.staging.have
    staged = [columns[c] for c in key.parent_columns]
    still = " AND ".join(
        f"l.{ident(p)} {equals} x.{c}" for p, equals, c in zip(key.parent_columns, key.operators, staged, strict=True)
    )
    gone = (
        f"SELECT DISTINCT {', '.join('x.' + c for c in staged)} FROM {deleted} x"
        f" WHERE NOT EXISTS (SELECT FROM {sql_name(table)} l WHERE {still})"
    )
    pairs = " AND ".join(
        f"g.{c} {equals} t.{ident(own)}" for c, equals, own in zip(staged, key.operators, key.columns, strict=True)
    )
    with translated("check a foreign key", child.full_name):
        cursor = connection.cursor()
        cursor.execute(f"SELECT count(*) FROM ({gone}) g")
        if not cursor.fetchone()[0]:
            return 0  # the usual case, and much cheaper than reading the child
        counted = "true"
        if since or not key.valid:
            counted = "t.xmin IS DISTINCT FROM pg_current_xact_id()::xid" if child_merge is not None else "true"
        if since:
            xmin = snapshot_xmin(since)
            counted += f" AND pg_catalog.age(t.xmin) BETWEEN 0 AND {ages(connection, [xmin])[xmin]}"
        cursor.execute(
            f"SELECT count(*) FROM {from_only(child)} AS t WHERE {counted}"
            f" AND EXISTS (SELECT FROM ({gone}) g WHERE {pairs})"
        )
        rows: int = cursor.fetchone()[0]
    return rows


def keep_parents(
    connection: Connection, tenancy: TenancyMap, merges: list[TableMerge], compared: Collection[int]
) -> None:
    """Lock the rows that inserted ones refer to. Raises SourceConflict where one was deleted since the restore's snapshot.

    Until the commit others do not see the inserted rows, and could delete what they refer to. Rows of the `compared` tables
    that the restore has written itself are locked already.
    """
    for key, _, parent, child_merge, _ in _touched(tenancy, merges):
        if child_merge is None or not child_merge.todo_rows:
            continue
        columns = child_merge.staging.columns
        if all(c in columns for c in key.columns):
            pairs = " AND ".join(
                f"x.{ident(theirs)} {equals} t.{columns[own]}"
                for own, equals, theirs in zip(key.columns, key.operators, key.parent_columns, strict=True)
            )
            others = " AND x.xmin <> pg_catalog.pg_current_xact_id()::xid" if parent.oid in compared else ""
            with translated("hold a parent's row", parent.full_name):
                connection.cursor().execute(
                    f"SELECT count(*) FROM (SELECT FROM {from_only(parent)} x"
                    f" WHERE EXISTS (SELECT FROM {child_merge.todo} t WHERE {pairs}){others} FOR KEY SHARE OF x) held"
                )


def late_children(
    connection: Connection, own: Connection, tenancy: TenancyMap, merges: list[TableMerge], snapshot: str
) -> list[str]:
    """Tables with rows that others wrote since `snapshot` and that refer to a row which the restore (`own`) deletes.

    `connection` is another one, which sees what was committed meanwhile.
    """
    xmin = snapshot_xmin(snapshot)
    found = []
    for key, child, _, _, parent_merge in _touched(tenancy, merges):
        if parent_merge is None or not (parent_merge.changes.deleted or parent_merge.changes.updated):
            continue
        columns = parent_merge.staging.columns
        if not parent_merge.staging.keyed or not all(c in columns for c in key.parent_columns):
            continue
        age = ages(connection, [xmin])[xmin]
        listed = ", ".join(f"t.{ident(c)}::text" for c in key.columns)
        with translated("look for late references", child.full_name):
            cursor = connection.cursor()
            cursor.execute(
                f"SELECT DISTINCT {listed} FROM {from_only(child)} AS t WHERE pg_catalog.age(t.xmin) BETWEEN 0 AND {age}"
            )
            while values := cursor.fetchmany(_VALUES):
                rows = ", ".join(f"({', '.join(_text(v) for v in row)})" for row in values)
                names = ", ".join(f"v{nth}" for nth in range(len(key.columns)))
                pairs = " AND ".join(
                    f"x.{columns[c.name]} {equals} l.v{nth}::{c.type}"
                    for nth, (c, equals) in enumerate(zip(_columns(parent_merge, key), key.operators, strict=True))
                )
                still = " AND ".join(
                    f"y.{columns[p]} {equals} x.{columns[p]}"
                    for p, equals in zip(key.parent_columns, key.operators, strict=True)
                )
                mine = own.cursor()
                mine.execute(
                    f"SELECT EXISTS (SELECT FROM {parent_merge.gone} x JOIN (VALUES {rows}) AS l({names}) ON {pairs}"
                    f" WHERE NOT EXISTS (SELECT FROM {parent_merge.todo} y WHERE {still}))"
                )
                if mine.fetchone()[0]:
                    found.append(child.full_name)
                    break
    return sorted(set(found))


def _columns(merge: TableMerge, key: ForeignKey) -> list[Column]:
    """The parent's columns of the key. Values are compared by its equality, not by their texts: 1 is 1.0."""
    return [c for name in key.parent_columns if (c := merge.table.table.column(name)) is not None]


def _text(value: str | None) -> str:
    return "NULL::text" if value is None else literal(value)
