"""What PostgreSQL's catalogue says of the tables: columns, keys, foreign keys, partitions. Six queries in all.

Operators are given in the form `OPERATOR(schema.=)`: sessions have an empty search path, and types of extensions bring
equality operators of their own.
"""

from dataclasses import dataclass, field
from typing import Any

from sbh_pipelines.database.session.connection import Connection, database_encoding, translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.database.session.sql import UTF8

PLAIN_EQUALITY = "OPERATOR(pg_catalog.=)"


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: str  # format_type()
    not_null: bool
    collatable: bool
    generated: bool  # computed by the server: never captured, never written
    identity: str  # '', 'a' (always) or 'd' (by default)
    sequence: str | None  # the sequence behind an identity or serial column
    default: str | None = None  # SQL of the column's default; never of generated columns
    equality: str = PLAIN_EQUALITY  # the equality of the column's type: an extension's type may bring its own
    exact: bool = (
        False  # equal values have one text: not so of numeric, citext, or text of a collation that is not deterministic
    )


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key between tables.

    Attributes:
        operators: parent's column = own column.
        valid: whether the server has looked at every row; a key that is NOT VALID (or, from PostgreSQL 18 on, NOT ENFORCED)
            may have rows that refer to nothing.
        on_delete: what becomes of the rows when their parent is deleted: a no action, r restrict, c cascade, n set null,
            d set default.
        enforced: whether the server checks rows that are written or deleted from now on.
        delete_columns: those that set null and set default are for, where not for all.
    """

    name: str
    table: int
    parent: int
    columns: tuple[str, ...]
    parent_columns: tuple[str, ...]
    operators: tuple[str, ...]
    valid: bool = True
    on_delete: str = "a"
    enforced: bool = True
    delete_columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UniqueKey:
    """A primary key, unique index or exclusion constraint.

    Two rows conflict when all `operators` hold between their `elements` (SQL expressions over the table's columns). One that
    is `deferrable` the server checks by a trigger, and so not in a replica session.
    """

    name: str
    elements: tuple[str, ...]
    operators: tuple[str, ...]
    predicate: str | None
    nulls_equal: bool
    deferrable: bool


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
    key_operators: tuple[str, ...] = field(default=())  # equality of the primary key's columns
    unique_keys: tuple[UniqueKey, ...] = field(default=())
    doubtful_keys: tuple[ForeignKey, ...] = field(default=())  # foreign keys that are NOT VALID, or not enforced
    encoding: str = UTF8  # the database's: rows are read in it, so that every byte is what it is
    extension: str = ""  # the extension that the table is part of
    # Of a configuration table of an extension: which rows are the site's own (`WHERE ...`, or empty for all of them).
    extension_rows: str | None = None
    inherits: tuple[int, ...] = ()  # the tables that it inherits from, the old way; not those that it is a partition of
    unreadable: bool = False  # unlogged, on a standby: rows of it are on the primary only

    @property
    def full_name(self) -> str:
        return f"{self.schema}.{self.name}"

    def column(self, name: str) -> Column | None:
        return next((c for c in self.columns if c.name == name), None)


@dataclass(frozen=True, slots=True)
class Catalog:
    tables: dict[int, Table]
    # Foreign keys between these tables and tables of other schemas, and those tables (name and kind only).
    outside_keys: tuple[ForeignKey, ...]
    outside: dict[int, Table]
    doubtful_outside_keys: tuple[ForeignKey, ...] = ()

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
            ELSE pg_relation_size(c.oid) END::bigint,
       coalesce(x.extname, ''), x.extcondition[array_position(x.extconfig, c.oid)],
       ARRAY(SELECT i.inhparent::bigint FROM pg_inherits i WHERE i.inhrelid = c.oid ORDER BY i.inhseqno),
       c.relpersistence = 'u' AND pg_is_in_recovery()
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0 AND d.deptype = 'e'
     AND d.refclassid = 'pg_extension'::regclass
LEFT JOIN pg_extension x ON x.oid = d.refobjid
WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'p', 'f') AND NOT c.relispartition AND c.relpersistence <> 't'
ORDER BY 2, 3"""

_OUTSIDE = """
SELECT c.oid::bigint, n.nspname, c.relname, c.relkind::text, c.relrowsecurity, 0
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY(%s::oid[])"""

_OPERATOR = "'OPERATOR(' || quote_ident(n.nspname) || '.' || o.oprname || ')'"

# Types that bring an equality of their own (citext), and domains over them. For all others `=` is pg_catalog's.
_COLUMNS = f"""
WITH RECURSIVE equalities(type, equality) AS (
    SELECT oc.opcintype, {_OPERATOR} FROM pg_opclass oc JOIN pg_am m ON m.oid = oc.opcmethod AND m.amname = 'btree'
    JOIN pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amopstrategy = 3
         AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
    JOIN pg_operator o ON o.oid = ao.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace
    WHERE oc.opcdefault AND n.nspname <> 'pg_catalog'
  UNION
    SELECT t.oid, e.equality FROM equalities e JOIN pg_type t ON t.typbasetype = e.type AND t.typtype = 'd')
SELECT a.attrelid::bigint, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attcollation <> 0,
       a.attgenerated <> '', a.attidentity::text,
       CASE WHEN a.attidentity <> '' OR a.atthasdef
            THEN pg_get_serial_sequence(quote_ident(n.nspname) || '.' || quote_ident(c.relname), a.attname) END,
       CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END, coalesce(e.equality, '{PLAIN_EQUALITY}'),
       e.equality IS NULL AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'uuid'::regtype, 'text'::regtype,
           'varchar'::regtype) AND coalesce(l.collisdeterministic, true)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN equalities e ON e.type = a.atttypid LEFT JOIN pg_collation l ON l.oid = a.attcollation
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = ANY(%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum"""

# The columns of an index that make its key (not those of INCLUDE), each with the equality operator of its class.
_PRIMARY_KEYS = f"""
SELECT i.indrelid::bigint, array_agg(a.attname::text ORDER BY k.nth),
       array_agg(coalesce({_OPERATOR}, '{PLAIN_EQUALITY}') ORDER BY k.nth)
FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) WITH ORDINALITY k(attnum, class, nth)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
JOIN pg_opclass oc ON oc.oid = k.class
LEFT JOIN pg_opclass eq ON eq.opcintype = oc.opcintype AND eq.opcdefault
     AND eq.opcmethod = (SELECT oid FROM pg_am WHERE amname = 'btree')
LEFT JOIN pg_amop ao ON ao.amopfamily = eq.opcfamily AND ao.amopstrategy = 3
     AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
LEFT JOIN pg_operator o ON o.oid = ao.amopopr LEFT JOIN pg_namespace n ON n.oid = o.oprnamespace
WHERE i.indisprimary AND k.nth <= i.indnkeyatts AND i.indrelid = ANY(%s::oid[]) GROUP BY 1"""

_FOREIGN_KEYS = f"""
SELECT c.conname, c.conrelid::bigint, c.confrelid::bigint,
       (SELECT array_agg(a.attname::text ORDER BY k.nth) FROM unnest(c.conkey) WITH ORDINALITY k(attnum, nth)
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum),
       (SELECT array_agg(a.attname::text ORDER BY k.nth) FROM unnest(c.confkey) WITH ORDINALITY k(attnum, nth)
        JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.attnum),
       (SELECT array_agg({_OPERATOR} ORDER BY k.nth) FROM unnest(c.conpfeqop) WITH ORDINALITY k(operator, nth)
        JOIN pg_operator o ON o.oid = k.operator JOIN pg_namespace n ON n.oid = o.oprnamespace),
       c.convalidated, c.confdeltype::text, (to_jsonb(c) ->> 'conenforced') IS DISTINCT FROM 'false',
       (SELECT array_agg(a.attname::text) FROM jsonb_array_elements_text(nullif(to_jsonb(c) -> 'confdelsetcols', 'null')) k(attnum)
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum::int2)
FROM pg_constraint c
WHERE c.contype = 'f' AND c.conparentid = 0 AND (c.conrelid = ANY(%s::oid[]) OR c.confrelid = ANY(%s::oid[]))
  AND (to_jsonb(c) ->> 'conperiod') IS DISTINCT FROM 'true'
ORDER BY c.conname, c.conrelid"""

_UNIQUE_KEYS = f"""
SELECT i.indrelid::bigint, coalesce(c.conname, x.relname),
       array_agg(pg_get_indexdef(i.indexrelid, k.nth::int, false) ORDER BY k.nth),
       array_agg({_OPERATOR} ORDER BY k.nth), pg_get_expr(i.indpred, i.indrelid),
       coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false), coalesce(c.condeferrable, false)
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid AND c.conrelid = i.indrelid AND c.contype IN ('p', 'u', 'x')
CROSS JOIN LATERAL unnest(i.indclass::oid[], c.conexclop) WITH ORDINALITY k(class, operator, nth)
JOIN pg_opclass oc ON oc.oid = k.class
LEFT JOIN pg_amop ao ON k.operator IS NULL AND ao.amopfamily = oc.opcfamily AND ao.amopstrategy = 3
     AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
JOIN pg_operator o ON o.oid = coalesce(k.operator, ao.amopopr) JOIN pg_namespace n ON n.oid = o.oprnamespace
WHERE (i.indisunique OR i.indisexclusion) AND i.indisvalid AND i.indrelid = ANY(%s::oid[])
GROUP BY i.indrelid, c.conname, x.relname, i.indexrelid, c.condeferrable ORDER BY 1, 2"""


def read_catalog(connection: Connection, schemas: list[str]) -> Catalog:
    """The tables of `schemas`: ordinary, partitioned (as their root) and foreign. Raises the source's errors."""
    encoding = database_encoding(connection)
    with translated("read the database's catalogue"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_TABLES, (schemas,))
        tables = cursor.fetchall()
        oids = [row[0] for row in tables]
        columns = read_columns(cursor, oids)
        keys = {oid: (tuple(names), tuple(equal)) for oid, names, equal in _rows(cursor, _PRIMARY_KEYS, (oids,))}
        unique: dict[int, list[UniqueKey]] = {}
        for oid, name, elements, operators, *more in _rows(cursor, _UNIQUE_KEYS, (oids,)):
            unique.setdefault(oid, []).append(UniqueKey(name, tuple(elements), tuple(operators), *more))
        inside: dict[int, list[ForeignKey]] = {}
        doubtful: dict[int, list[ForeignKey]] = {}
        outside: list[ForeignKey] = []
        doubtful_outside: list[ForeignKey] = []
        known = set(oids)
        for name, child, parent, own, theirs, equal, valid, *of_deletes in _rows(cursor, _FOREIGN_KEYS, (oids, oids)):
            on_delete, enforced, delete_columns = of_deletes
            foreign = ForeignKey(
                name,
                child,
                parent,
                tuple(own),
                tuple(theirs),
                tuple(equal),
                valid,
                on_delete,
                enforced,
                tuple(delete_columns or ()),
            )
            if child in known and parent in known:
                (inside if valid else doubtful).setdefault(child, []).append(foreign)
            else:
                (outside if valid else doubtful_outside).append(foreign)
        strangers = {
            oid for foreign in (*outside, *doubtful_outside) for oid in (foreign.table, foreign.parent)
        } - known
        others = _rows(cursor, _OUTSIDE, (sorted(strangers),)) if strangers else []
    made = {
        oid: Table(
            oid,
            schema,
            name,
            kind,
            columns.get(oid, ()),
            keys.get(oid, ((), ()))[0],
            row_security,
            size,
            tuple(inside.get(oid, ())),
            keys.get(oid, ((), ()))[1],
            tuple(unique.get(oid, ())),
            tuple(doubtful.get(oid, ())),
            encoding,
            extension,
            extension_rows,
            tuple(inherits),
            unreadable,
        )
        for oid, schema, name, kind, row_security, size, extension, extension_rows, inherits, unreadable in tables
    }
    unmapped = {
        oid: Table(oid, schema, name, kind, (), (), row_security, size)
        for oid, schema, name, kind, row_security, size in others
    }
    return Catalog(made, tuple(outside), unmapped, tuple(doubtful_outside))


def read_columns(cursor: Any, oids: list[int]) -> dict[int, tuple[Column, ...]]:
    """The columns of relations of any kind, by oid."""
    columns: dict[int, list[Column]] = {}
    for oid, *fields in _rows(cursor, _COLUMNS, (oids,)):
        columns.setdefault(oid, []).append(Column(*fields))
    return {oid: tuple(found) for oid, found in columns.items()}


def _rows(cursor: Any, query: str, arguments: tuple[Any, ...]) -> list[Any]:
    cursor.execute(query, arguments)
    found: list[Any] = cursor.fetchall()
    return found
