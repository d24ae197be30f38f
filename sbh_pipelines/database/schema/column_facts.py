"""What is to be known of a table's columns to tell a harmless change of its definition from one that changes rows.

A column that is added gives the rows that are there a value without writing any of them: NULL, or the value that the catalogue
keeps of its default. It is read here, of the table itself or of all its partitions.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.database.session.sql import UTF8

# For each column all that its type is made of, as in `definition`, and which transactions wrote that last: a text that was another
# for a while is another kind. And of the relations that hold rows what they give older rows.
_COLUMNS = """
WITH RECURSIVE live AS (
    SELECT a.attrelid AS of, a.* FROM pg_attribute a
    WHERE a.attrelid = ANY(%(oids)s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped),
used AS (
    SELECT l.of, l.attnum, l.atttypid AS type FROM live l
  UNION
    SELECT u.of, u.attnum, p.part FROM used u JOIN pg_type t ON t.oid = u.type CROSS JOIN LATERAL (
        SELECT t.typbasetype AS part UNION SELECT t.typelem
        UNION SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid OR r.rngmultitypid = t.oid
        UNION SELECT a.atttypid FROM pg_attribute a
              WHERE t.typrelid <> 0 AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) p
    WHERE p.part <> 0),
made AS (
    SELECT u.of, u.attnum, json_agg(json_build_array(t.oid::int8, t.typname, t.typtype,
             (SELECT json_agg(json_build_array(e.enumlabel, e.oid::int8, e.xmin::text) ORDER BY e.enumsortorder) FROM pg_enum e
              WHERE e.enumtypid = t.oid),
             (SELECT json_agg(json_build_array(a.attname, a.atttypid::int8, a.atttypmod, a.attisdropped, a.xmin::text)
                              ORDER BY a.attnum)
              FROM pg_attribute a WHERE t.typrelid <> 0 AND a.attrelid = t.typrelid AND a.attnum > 0)) ORDER BY t.oid) AS facts
    FROM used u JOIN pg_type t ON t.oid = u.type GROUP BY u.of, u.attnum),
held AS (
    SELECT k.oid AS of, t.relid AS oid FROM unnest(%(oids)s::oid[]) AS k(oid) CROSS JOIN LATERAL (
        SELECT p.relid FROM pg_partition_tree(k.oid) p WHERE p.isleaf
        UNION SELECT k.oid FROM pg_class c WHERE c.oid = k.oid AND c.relkind <> 'p') t),
given AS (
    SELECT h.of, a.attname, array_agg(DISTINCT coalesce(CASE WHEN a.atthasmissing THEN a.attmissingval::text END, '')) AS texts
    FROM held h JOIN pg_attribute a ON a.attrelid = h.oid AND a.attnum > 0 AND NOT a.attisdropped GROUP BY h.of, a.attname)
SELECT l.of::int8, l.attnum, l.attname::text, l.atttypid::int8, l.atttypmod, format_type(l.atttypid, l.atttypmod),
       l.attcollation::int8, l.attgenerated::text, l.attnotnull, l.attidentity::text, m.facts::text, coalesce(g.texts, '{}')
FROM live l JOIN made m ON m.of = l.of AND m.attnum = l.attnum LEFT JOIN given g ON g.of = l.of AND g.attname = l.attname
ORDER BY l.of, l.attnum"""

# Whether all relations that hold rows have the columns in the order of the root.
_RELATIONS = """
WITH held AS (
    SELECT k.oid AS of, t.relid AS oid FROM unnest(%(oids)s::oid[]) AS k(oid)
    CROSS JOIN LATERAL (SELECT relid FROM pg_partition_tree(k.oid) UNION SELECT k.oid) t),
named AS (
    SELECT h.of, array_agg(a.attname ORDER BY a.attnum) AS names
    FROM held h JOIN pg_attribute a ON a.attrelid = h.oid AND a.attnum > 0 AND NOT a.attisdropped GROUP BY h.of, h.oid)
SELECT n.of::int8, (SELECT c.relnatts FROM pg_class c WHERE c.oid = n.of)::int4, count(DISTINCT n.names) = 1
FROM named n GROUP BY n.of"""

_ARRAY = re.compile(r"\{(?:\"(?P<quoted>(?:[^\"\\]|\\.)*)\"|(?P<plain>[^{}\",\\]*))\}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """A column of a table.

    Attributes:
        number: Its attnum, which no other column of the table ever has.
        name: Its name.
        type: The oid of its type.
        modifier: The type's modifier.
        type_name: As `format_type` names it.
        kind: A digest of all that its type is made of, and of its collation.
        generated: As in pg_attribute: s stored, v virtual, or empty.
        not_null: Whether it is NOT NULL.
        identity: As in pg_attribute: a, d, or empty.
        given: The value of rows that are older than the column, as its type's output function writes it; None for NULL.
        certain: Whether that is known, and the same in all partitions.
    """

    number: int
    name: str
    type: int
    modifier: int
    type_name: str
    kind: str
    generated: str
    not_null: bool
    identity: str
    given: str | None
    certain: bool


@dataclass(frozen=True, slots=True)
class TableColumns:
    """A table's columns.

    Attributes:
        attributes: How many it ever had.
        columns: Those that it has, by number.
        aligned: Whether all partitions have them in the same order.
    """

    attributes: int
    columns: tuple[ColumnFacts, ...]
    aligned: bool


def read_columns(connection: Connection, tables: Sequence[MappedTable]) -> dict[str, TableColumns]:
    """By the table's full name."""
    by_oid = {mapped.table.oid: mapped for mapped in tables}
    found: dict[int, list[ColumnFacts]] = {}
    with translated("read the tables' columns"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_COLUMNS, {"oids": sorted(by_oid)})
        for (
            oid,
            number,
            name,
            kind,
            modifier,
            type_name,
            collation,
            generated,
            not_null,
            identity,
            made,
            texts,
        ) in cursor:
            given, certain = _given(texts, by_oid[oid].encoding)
            digest = hashlib.sha256(json.dumps([collation, made]).encode()).hexdigest()[:16]
            found.setdefault(oid, []).append(
                ColumnFacts(
                    number, name, kind, modifier, type_name, digest, generated, not_null, identity, given, certain
                )
            )
        cursor.execute(_RELATIONS, {"oids": sorted(by_oid)})
        return {
            by_oid[oid].full_name: TableColumns(attributes, tuple(found.get(oid, ())), aligned)
            for oid, attributes, aligned in cursor.fetchall()
        }


def _given(texts: Sequence[str], encoding: str) -> tuple[str | None, bool]:
    """(the only element of an array's text, whether it is that of all). An empty text stands for no array."""
    if len(texts) > 1:
        return None, False
    if not texts or not texts[0]:
        return None, True
    match = _ARRAY.fullmatch(texts[0])
    if match is None or (encoding != UTF8 and not texts[0].isascii()):
        return None, False
    if match["quoted"] is not None:
        return re.sub(r"\\(.)", r"\1", match["quoted"], flags=re.DOTALL), True
    return match["plain"], True
