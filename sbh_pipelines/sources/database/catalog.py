"""What PostgreSQL's catalogue says of the tables: columns, keys, foreign keys, partitions. Four queries in all."""

from dataclasses import dataclass, field
from typing import Any

from sbh_pipelines.sources.database.connection import Connection, translated


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: str  # format_type()
    not_null: bool
    collatable: bool
    generated: bool  # computed by the server: never captured, never written
    identity: str  # '', 'a' (always) or 'd' (by default)
    sequence: str | None  # the sequence behind an identity or serial column


@dataclass(frozen=True, slots=True)
class ForeignKey:
    name: str
    table: int
    parent: int
    columns: tuple[str, ...]
    parent_columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    oid: int
    schema: str
    name: str
    kind: str  # r ordinary, p partitioned root, f foreign, v view, m materialized view
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    row_security: bool
    estimated_bytes: int
    foreign_keys: tuple[ForeignKey, ...] = field(default=())

    @property
    def full_name(self) -> str:
        return f"{self.schema}.{self.name}"

    def column(self, name: str) -> Column | None:
        return next((c for c in self.columns if c.name == name), None)


@dataclass(frozen=True, slots=True)
class Catalog:
    tables: dict[int, Table]
    children: dict[int, tuple[ForeignKey, ...]]  # foreign keys that point at a table

    def find(self, name: str, schemas: list[str]) -> Table | None:
        """A table by `schema.table`, or by bare name in the first of `schemas` that has it."""
        for table in self.tables.values():
            if table.full_name == name:
                return table
        for schema in schemas:
            for table in self.tables.values():
                if table.schema == schema and table.name == name:
                    return table
        return None


_TABLES = """
SELECT c.oid::bigint, n.nspname, c.relname, c.relkind::text, c.relrowsecurity,
       CASE WHEN c.relkind = 'p' THEN (SELECT coalesce(sum(pg_relation_size(t.relid)), 0) FROM pg_partition_tree(c.oid) t)
            ELSE pg_relation_size(c.oid) END::bigint
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'p', 'f') AND NOT c.relispartition AND c.relpersistence <> 't'
ORDER BY 2, 3"""

_COLUMNS = """
SELECT a.attrelid::bigint, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attcollation <> 0,
       a.attgenerated <> '', a.attidentity::text,
       CASE WHEN a.attidentity <> '' OR a.atthasdef
            THEN pg_get_serial_sequence(quote_ident(n.nspname) || '.' || quote_ident(c.relname), a.attname) END
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE a.attrelid = ANY(%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum"""

_PRIMARY_KEYS = """
SELECT i.indrelid::bigint, array_agg(a.attname::text ORDER BY k.nth)
FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY k(attnum, nth)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indisprimary AND i.indrelid = ANY(%s::oid[]) GROUP BY 1"""

_FOREIGN_KEYS = """
SELECT c.conname, c.conrelid::bigint, c.confrelid::bigint,
       (SELECT array_agg(a.attname::text ORDER BY k.nth) FROM unnest(c.conkey) WITH ORDINALITY k(attnum, nth)
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum),
       (SELECT array_agg(a.attname::text ORDER BY k.nth) FROM unnest(c.confkey) WITH ORDINALITY k(attnum, nth)
        JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.attnum)
FROM pg_constraint c
WHERE c.contype = 'f' AND c.conparentid = 0 AND c.convalidated AND c.conrelid = ANY(%s::oid[]) AND c.confrelid = ANY(%s::oid[])
ORDER BY c.conname"""


def read_catalog(connection: Connection, schemas: list[str]) -> Catalog:
    """The tables of `schemas`: ordinary, partitioned (as their root) and foreign. Raises the source's errors."""
    with translated("read the database's catalogue"):
        cursor = connection.cursor()
        cursor.execute(_TABLES, (schemas,))
        tables = cursor.fetchall()
        oids = [row[0] for row in tables]
        columns: dict[int, list[Column]] = {}
        for oid, *fields in _rows(cursor, _COLUMNS, (oids,)):
            columns.setdefault(oid, []).append(Column(*fields))
        keys = {oid: tuple(names) for oid, names in _rows(cursor, _PRIMARY_KEYS, (oids,))}
        foreign: dict[int, list[ForeignKey]] = {}
        children: dict[int, list[ForeignKey]] = {}
        for name, child, parent, own, theirs in _rows(cursor, _FOREIGN_KEYS, (oids, oids)):
            key = ForeignKey(name, child, parent, tuple(own), tuple(theirs))
            foreign.setdefault(child, []).append(key)
            children.setdefault(parent, []).append(key)
    made = {
        oid: Table(
            oid,
            schema,
            name,
            kind,
            tuple(columns.get(oid, ())),
            keys.get(oid, ()),
            row_security,
            size,
            tuple(foreign.get(oid, ())),
        )
        for oid, schema, name, kind, row_security, size in tables
    }
    return Catalog(made, {parent: tuple(found) for parent, found in children.items()})


def _rows(cursor: Any, query: str, arguments: tuple[Any, ...]) -> list[Any]:
    cursor.execute(query, arguments)
    found: list[Any] = cursor.fetchall()
    return found
