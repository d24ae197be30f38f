"""Tables of schemas that `database.schemas` does not list, and whose rows may all the same be tenants'.

    outside   has a tenant column, is a parent or child of a captured table, or must refer to the tenants table: backups are refused
    nearby    a foreign key leads to a captured table, or to one of these: `sbh doctor` calls it an error
    others    tables of schemas that nothing is known of: `sbh doctor` counts them

What `database.left_out` names is none of them. Tables of extensions and partitions of mapped roots are not outside.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from sbh_pipelines.database.schema.mapping.mapped_table import OUTSIDE, TENANTS, TableStatus, TenancyMap
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.errors import TenancyError
from sbh_pipelines.settings import Settings
from sbh_pipelines.settings.section import toml

_TABLES = """
SELECT c.oid::bigint, n.nspname, c.relname,
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             AND a.attname = ANY(%(columns)s)),
       ARRAY(SELECT i.inhparent::bigint FROM pg_inherits i WHERE i.inhrelid = c.oid
             UNION SELECT i.inhrelid::bigint FROM pg_inherits i JOIN pg_class k ON k.oid = i.inhrelid
             WHERE i.inhparent = c.oid AND NOT k.relispartition),
       c.relkind = 'p' AND EXISTS (
           SELECT FROM pg_partition_tree(c.oid) p JOIN pg_class k ON k.oid = p.relid JOIN pg_namespace s ON s.oid = k.relnamespace
           WHERE s.nspname = ANY(%(schemas)s)),
       (SELECT coalesce(json_agg(json_build_array(f.confrelid::bigint, (
            SELECT bool_and(a.attnotnull) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY(f.conkey)),
            (SELECT string_agg(a.attname, ', ') FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY(f.conkey)),
            f.confdeltype)), '[]') FROM pg_constraint f WHERE f.conrelid = c.oid AND f.contype = 'f' AND f.conparentid = 0)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname <> ALL(%(schemas)s) AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'sbh_recovery')
  AND c.relkind IN ('r', 'p', 'f') AND NOT c.relispartition AND c.relpersistence <> 't'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
  AND left(coalesce(obj_description(n.oid, 'pg_namespace'), ''), length(%(ours)s)) <> %(ours)s
ORDER BY 2, 3"""

COPIES = "copies of a tenant's rows, put here by `sbh restore run --into-schema`"
"""How the comment on a schema of copies begins, by which it is known: what is in it is nobody's."""

_ACTIONS = {"c": ", ON DELETE CASCADE", "n": ", ON DELETE SET NULL", "d": ", ON DELETE SET DEFAULT"}


@dataclass(frozen=True, slots=True)
class Stranger:
    """A table of a schema that is not mapped; `keys` are (parent's oid, whether NOT NULL, columns, action of the deletion)."""

    oid: int
    schema: str
    name: str
    tenant_columns: tuple[str, ...]
    relatives: tuple[int, ...]
    has_mapped_partitions: bool
    keys: tuple[tuple[int, bool, str, str], ...]

    @property
    def full_name(self) -> str:
        return f"{self.schema}.{self.name}"


def find_outside(connection: Connection, settings: Settings, tenancy: TenancyMap) -> TenancyMap:
    """The map with the tables of other schemas. Raises TenancyError where `database.left_out` names what is not there."""
    strangers = list(_strangers(connection, settings))
    left_out = set(settings.database.left_out)
    _check_names(strangers, left_out, settings)
    open_ones = [s for s in strangers if s.schema not in left_out and s.full_name not in left_out]
    outside = {s.oid: why for s in open_ones if (why := _why_outside(s, tenancy))}
    while more := {
        s.oid: "inherits from one that is a tenant's, or the other way round"
        for s in open_ones
        if s.oid not in outside and outside.keys() & set(s.relatives)
    }:
        outside |= more
    captured = {t.table.oid: t.full_name for t in tenancy.tables}
    nearby: dict[int, str] = {}
    while True:
        known = captured | {s.oid: s.full_name for s in open_ones if s.oid in outside or s.oid in nearby}
        found = {
            s.oid: f"refers to {known[parent]} by {columns}{_ACTIONS.get(action, '')}"
            for s in open_ones
            if s.oid not in outside and s.oid not in nearby
            for parent, _, columns, action in s.keys
            if parent in known
        }
        if not found:
            break
        nearby |= found
    others: dict[str, int] = {}
    for stranger in open_ones:
        if stranger.oid not in outside and stranger.oid not in nearby:
            others[stranger.schema] = others.get(stranger.schema, 0) + 1
    return replace(
        tenancy,
        outside=tuple(_status(s, outside[s.oid], settings) for s in open_ones if s.oid in outside),
        nearby=tuple(_status(s, nearby[s.oid], settings) for s in open_ones if s.oid in nearby),
        other_schemas=tuple(others.items()),
    )


def check_schemas(connection: Connection, schemas: list[str]) -> None:
    """Raises TenancyError for a schema that is not there: its tables would be left out without a word."""
    with translated("look for the schemas"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(
            "SELECT s FROM unnest(%s::text[]) s WHERE NOT EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = s)",
            (schemas,),
        )
        missing = [name for (name,) in cursor.fetchall()]
    if missing:
        there = [name for name in schemas if name not in missing]
        raise TenancyError(
            "A setting names a schema that does not exist",
            on=f"database.schemas: {', '.join(missing)}",
            remedy=f"correct the name, or take it out: schemas = {toml(there)}",
        )


def what_is(connection: Connection, schemas: list[str], name: str) -> str:
    """What a name is that is no table of the mapped schemas: a view, a partition, a table of another schema; empty if nothing."""
    with translated("look for a table", name):
        cursor = connection.cursor()
        cursor.execute(_WHAT, (name, name, schemas))
        found = cursor.fetchone()
    if found is None:
        return ""
    full_name, kind, root, mapped = found
    if root:
        return f"{full_name} is a partition of {root}: name that"
    if kind in _KINDS:
        return f"{full_name} is {_KINDS[kind]}: only tables have rows of their own"
    return "" if mapped else f"{full_name} is in a schema that database.schemas does not list"


_KINDS = {"v": "a view", "m": "a materialized view", "S": "a sequence", "i": "an index", "I": "an index"}

_WHAT = """
SELECT n.nspname || '.' || c.relname, c.relkind::text, CASE WHEN c.relispartition THEN (
           SELECT rn.nspname || '.' || r.relname FROM pg_class r JOIN pg_namespace rn ON rn.oid = r.relnamespace
           WHERE r.oid = pg_partition_root(c.oid)) END, n.nspname = ANY(a.schemas)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN (SELECT %s::text AS full_name, %s::text AS name, %s::text[] AS schemas) a
WHERE n.nspname !~ '^pg_' AND (n.nspname || '.' || c.relname = a.full_name OR c.relname = a.name)
ORDER BY n.nspname = ANY(a.schemas) DESC LIMIT 1"""


def _strangers(connection: Connection, settings: Settings) -> Iterator[Stranger]:
    arguments: dict[str, Any] = {
        "columns": list(settings.database.tenant_columns),
        "schemas": settings.database.schemas,
        "ours": COPIES,
    }
    with translated("look at other schemas"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_TABLES, arguments)
        for oid, schema, name, columns, relatives, partitions, keys in cursor.fetchall():
            yield Stranger(oid, schema, name, tuple(columns), tuple(relatives), partitions, tuple(map(tuple, keys)))


def _check_names(strangers: list[Stranger], left_out: set[str], settings: Settings) -> None:
    """A schema or table that is not there any more is no harm; one that is listed as mapped contradicts itself."""
    if both := sorted(left_out & set(settings.database.schemas)):
        raise TenancyError(
            "A schema is mapped and left out",
            on=f"database.left_out: {', '.join(both)}",
            remedy="take it out of database.schemas, or out of database.left_out; single tables of it go into database.excluded",
        )


def _why_outside(stranger: Stranger, tenancy: TenancyMap) -> str:
    captured = {t.table.oid: t for t in tenancy.tables}
    for oid in stranger.relatives:
        if oid in captured:
            return f"inherits from {captured[oid].full_name}, or the other way round: `SELECT` reads the rows of both"
    if stranger.has_mapped_partitions:
        return "its partitions are in a schema of database.schemas, and it is not"
    if stranger.tenant_columns:
        return f"has the column {stranger.tenant_columns[0]}"
    for parent, required, columns, _ in stranger.keys:
        if required and parent in captured and captured[parent].status == TENANTS:
            return f"every row refers to {captured[parent].full_name} by {columns}"
    return ""


def _status(stranger: Stranger, why: str, settings: Settings) -> TableStatus:
    chosen = settings.database
    remedy = (
        f"map its schema: schemas = {toml([*chosen.schemas, stranger.schema])}; or leave it out on purpose:"
        f" left_out = {toml([*chosen.left_out, stranger.full_name])}"
    )
    return TableStatus(stranger.schema, stranger.name, OUTSIDE, f"{why}; its schema is not in database.schemas", remedy)
