"""Foreign keys that do not hold in a rebuilt database: whose rows refer to rows that are not there."""

from collections.abc import Sequence
from dataclasses import dataclass

from sbh_pipelines.database.rebuild.load import MissingKey
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.database.session.sql import ident

_KEY = """
SELECT array(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY k(n, nth)
             JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.n ORDER BY k.nth),
       array(SELECT a.attname::text FROM unnest(c.confkey) WITH ORDINALITY k(n, nth)
             JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.n ORDER BY k.nth),
       array(SELECT format('OPERATOR(%%I.%%s)', n.nspname, o.oprname) FROM unnest(c.conpfeqop) WITH ORDINALITY k(o, nth)
             JOIN pg_operator o ON o.oid = k.o JOIN pg_namespace n ON n.oid = o.oprnamespace ORDER BY k.nth),
       pn.nspname, p.relname, p.relkind = 'p', t.relkind = 'p'
FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace
JOIN pg_class p ON p.oid = c.confrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace
WHERE c.contype = 'f' AND (n.nspname, t.relname, c.conname) = (%s, %s, %s)"""

TENANTS, NOBODYS, OTHERS = "tenants", "nobody's", "shared"


@dataclass(frozen=True, slots=True)
class BrokenKey:
    """A foreign key that does not hold.

    Attributes:
        key: The key.
        parent: `schema.table` that it refers to; empty where the key could not even be added.
        whose: Whose rows refer to rows that are not there: `tenants`, else `nobody's`, else `shared`.
        rows: How many of them.
        query: SQL that shows all rows that refer to rows that are not there.
    """

    key: MissingKey
    parent: str
    whose: str
    rows: int
    query: str

    @property
    def name(self) -> str:
        return f"{self.key.table}: {self.key.name}"


def look_at(
    connection: Connection, key: MissingKey, child: MappedTable | None, tenant_keys: Sequence[str]
) -> BrokenKey:
    """Find out whose rows break a key. `child` is the table as it is mapped; None for one that is no tenant's."""
    with translated("look at a foreign key", key.table):
        cursor = connection.cursor()
        with own_names(connection):
            cursor.execute(_KEY, (key.schema, key.child, key.name))
            found = cursor.fetchone()
        if found is None:
            return BrokenKey(key, "", TENANTS if child else OTHERS, 0, "")
        own, theirs, operators, schema, name, parent_partitioned, child_partitioned = found
        filled = " AND ".join(f"t.{ident(column)} IS NOT NULL" for column in own)
        pairs = " AND ".join(f"x.{ident(p)} {o} t.{ident(c)}" for p, o, c in zip(theirs, operators, own, strict=True))
        parent = f"{'' if parent_partitioned else 'ONLY '}{ident(schema)}.{ident(name)}"
        dangling = f"{filled} AND NOT EXISTS (SELECT FROM {parent} AS x WHERE {pairs})"
        all_rows = f"{'' if child_partitioned else 'ONLY '}{ident(key.schema)}.{ident(key.child)} AS t"

        def count(source: str, condition: str) -> int:
            cursor.execute(f"SELECT count(*) FROM {source} WHERE {condition} AND {dangling}")
            return int(cursor.fetchone()[0])

        whose, rows = OTHERS, 0
        if child is not None and tenant_keys:
            whose, rows = TENANTS, count(child.source, child.tenant_is(tenant_keys))
        if child is not None and not rows:
            whose, rows = NOBODYS, count(child.own_source, child.belongs_to_nobody)
        if not rows:
            whose, rows = (TENANTS if child is not None else OTHERS), count(all_rows, "true")
    return BrokenKey(key, f"{schema}.{name}", whose, rows, f"SELECT t.* FROM {all_rows} WHERE {dangling};")
