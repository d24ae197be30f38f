"""A fingerprint of what a table is: when it differs, rows may have changed without a new `xmin`.

A new `xmin` marks every row that a statement wrote. Rows can also change under the hands of their table: a column added with
a default, an enum label renamed, a partition attached, a table swapped for another. All of that changes the catalogue,
so it changes the fingerprint, and the table is read again.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from sbh_pipelines.database.schema.catalog import PLAIN_EQUALITY, Table
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.database.session.sql import UTF8

# The relation and its partitions, by oid: one that was swapped or attached is another.
_RELATIONS = """
SELECT c.oid::bigint, array_agg(t.relid::bigint ORDER BY t.relid)
FROM pg_class c CROSS JOIN LATERAL (
    SELECT relid FROM pg_partition_tree(c.oid) UNION SELECT c.oid) t
WHERE c.oid = ANY(%s::oid[]) GROUP BY c.oid"""

_COLUMNS = """
SELECT a.attrelid::bigint, json_agg(json_build_array(a.attnum, a.attname, a.atttypid::bigint, a.atttypmod, a.attgenerated,
       a.atthasmissing, a.attmissingval::text, a.attcollation::bigint) ORDER BY a.attnum)
FROM pg_attribute a WHERE a.attrelid = ANY(%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped GROUP BY 1"""

# All types that the columns are made of: domains, arrays, ranges, composite types, to any depth.
_USED = """
WITH RECURSIVE used AS (
    SELECT DISTINCT a.attrelid AS of, a.atttypid AS type FROM pg_attribute a
    WHERE a.attrelid = ANY(%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
  UNION
    SELECT u.of, p.part FROM used u JOIN pg_type t ON t.oid = u.type CROSS JOIN LATERAL (
        SELECT t.typbasetype AS part UNION SELECT t.typelem
        UNION SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid OR r.rngmultitypid = t.oid
        UNION SELECT a.atttypid FROM pg_attribute a
              WHERE t.typrelid <> 0 AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) p
    WHERE p.part <> 0)"""

_TYPES = f"""{_USED}
SELECT u.of::bigint, json_agg(json_build_array(t.oid::bigint, t.typname, t.typtype,
         (SELECT array_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
         (SELECT json_agg(json_build_array(a.attname, a.atttypid::bigint, a.atttypmod) ORDER BY a.attnum) FROM pg_attribute a
          WHERE t.typrelid <> 0 AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped)) ORDER BY t.oid),
       bool_or(t.typname ~ '^reg' AND t.typnamespace = 'pg_catalog'::regnamespace)
FROM used u JOIN pg_type t ON t.oid = u.type GROUP BY u.of"""

# Which transaction wrote each label last, and each attribute, also of those that are gone.
_TYPE_VERSIONS = f"""{_USED}
SELECT u.of::bigint, json_agg(json_build_array(u.type::bigint,
         (SELECT json_agg(json_build_array(e.oid::bigint, e.xmin::text) ORDER BY e.oid) FROM pg_enum e WHERE e.enumtypid = t.oid),
         (SELECT json_agg(json_build_array(a.attnum, a.xmin::text) ORDER BY a.attnum) FROM pg_attribute a
          WHERE t.typrelid <> 0 AND a.attrelid = t.typrelid AND a.attnum > 0)) ORDER BY t.oid)
FROM used u JOIN pg_type t ON t.oid = u.type WHERE t.typtype IN ('e', 'c') GROUP BY u.of"""

# A foreign partition, or one of another access method than heap, has no transaction ids.
_STRANGERS = """
SELECT k.oid::bigint FROM unnest(%s::oid[]) AS k(oid) WHERE EXISTS (
    SELECT FROM (SELECT relid FROM pg_partition_tree(k.oid) UNION SELECT k.oid) t JOIN pg_class c ON c.oid = t.relid
    LEFT JOIN pg_am m ON m.oid = c.relam WHERE c.relkind = 'f' OR (c.relkind = 'r' AND m.amname <> 'heap'))"""

VOLATILE = "volatile"
"""In place of a fingerprint: changes do not show. A column's text depends on names in the catalogue (regclass and its like),
or rows have no transaction ids."""


def read_definitions(connection: Connection, tables: tuple[MappedTable, ...]) -> dict[str, str]:
    """Fingerprint (16 hex digits, or VOLATILE) by the table's full name."""
    return {name: definition for name, (definition, _) in read_framed_definitions(connection, tables).items()}


def read_framed_definitions(connection: Connection, tables: tuple[MappedTable, ...]) -> dict[str, tuple[str, str]]:
    """(fingerprint as of `read_definitions`, fingerprint of the same but for the table's own columns) by full name."""
    involved = {table.oid for mapped in tables for table in _involved(mapped)}
    with translated("read the tables' definitions"), own_names(connection):
        cursor = connection.cursor()
        found: dict[int, list[Any]] = {oid: [] for oid in involved}
        volatile: set[int] = set()
        for query in (_RELATIONS, _COLUMNS, _TYPES):
            cursor.execute(query, (sorted(involved),))
            for oid, facts, *more in cursor.fetchall():
                found[oid].append(facts)
                if more and more[0]:
                    volatile.add(oid)
        cursor.execute(_STRANGERS, (sorted(involved),))
        strangers = {oid for (oid,) in cursor.fetchall()}

    def unseen(mapped: MappedTable) -> bool:
        return mapped.table.oid in volatile or any(table.oid in strangers for table in _involved(mapped))

    return {mapped.full_name: (VOLATILE, VOLATILE) if unseen(mapped) else _digests(mapped, found) for mapped in tables}


def read_type_versions(connection: Connection, tables: Sequence[MappedTable]) -> dict[str, list[Any]]:
    """By the table's full name what tells whether the text of its values was another one for a while: that a label of an enum was
    renamed and renamed back, that a composite type had one more attribute. No definition shows that afterwards."""
    with translated("read the tables' types"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_TYPE_VERSIONS, (sorted({mapped.table.oid for mapped in tables}),))
        found: dict[int, list[Any]] = dict(cursor.fetchall())
    return {mapped.full_name: found.get(mapped.table.oid, []) for mapped in tables}


def _involved(mapped: MappedTable) -> list[Table]:
    """The table and those that decide its rows' tenant."""
    return [mapped.table, *(hop.parent for hop in mapped.hops)]


def _digests(mapped: MappedTable, found: dict[int, list[Any]]) -> tuple[str, str]:
    """Of the whole definition, and of its frame."""
    facts: dict[str, Any] = {
        "key": mapped.table.primary_key,
        "columns": mapped.captured_columns,
        "status": mapped.status,
        "component": mapped.component,
        "tenant": mapped.tenant_column.name,
        **(
            {"encoding": mapped.encoding} if mapped.encoding != UTF8 else {}
        ),  # earlier releases converted rows to UTF-8
        **({"equality": equality} if (equality := mapped.tenant_column.equality) != PLAIN_EQUALITY else {}),
        "hops": [[hop.columns, hop.parent_columns, hop.operators, hop.join] for hop in mapped.hops],
        # Of the parents which relations they are, and the columns that lead to the tenant (one added with a default changes
        # rows that no statement wrote): their other columns do not show in this table's rows.
        "relations": [found[table.oid][0] for table in _involved(mapped)],
        "ways": [[c for c in found[oid][1] if c[1] in used] for oid, used in _ways(mapped)],
        "described": found[mapped.table.oid][1:],
    }
    return _digest(facts), _digest({name: fact for name, fact in facts.items() if name not in ("columns", "described")})


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _ways(mapped: MappedTable) -> Iterator[tuple[int, set[str]]]:
    """For each hop: the parent's oid and the parent's columns that the hop, and the way on from there, use."""
    onward = [*(set(hop.columns) for hop in mapped.hops[1:]), {mapped.tenant_column.name}]
    for hop, columns in zip(mapped.hops, onward, strict=False):
        yield hop.parent.oid, {*hop.parent_columns, *columns}
