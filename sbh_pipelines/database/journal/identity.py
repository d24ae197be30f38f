"""What of a row the server puts into its log, table by table and partition by partition, and whether that was so all the time.

The replica identity says which columns of the row before a change are in the log. It is a property of each partition by itself:
what is said of the root counts for none of them, and a new partition begins with the default.

A fingerprint differs from an earlier one when, in between, partitions came, went or were taken out and put back, when one was
written anew (a rewrite's rows are not in the stream), when the table's publication was altered or it was taken out of it and put
back, and when the identity is another. An identity that was another for a while and is the old one again does not show in it: the
stream says so itself, in a `Relation` before the first change under each identity, and `changed_meanwhile` is asked with that.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sbh_pipelines.database.journal.messages import Relation
from sbh_pipelines.database.schema.catalog import Table
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.search_path import own_names

DEFAULT, NOTHING, FULL, INDEX = "d", "n", "f", "i"
ORDINARY, PARTITIONED, FOREIGN = "r", "p", "f"
LOGGED = "p"


@dataclass(frozen=True, slots=True)
class Leaf:
    """A relation that holds rows: a table, or a partition at the end of the tree.

    Attributes:
        oid: As the stream names it.
        schema: Its schema.
        name: Its name.
        kind: As in pg_class: r, or f of a foreign table.
        persistence: As in pg_class: p logged, u unlogged.
        identity: Which replica identity: d default (the primary key), n nothing, f full, i an index.
        columns: Those of the row before a change that the log has; of FULL all that are not generated. Empty where the identity
            is the default without a primary key, or an index that was dropped: then UPDATE and DELETE fail once it is published.
        not_null: The columns that are NOT NULL.
        stored: The generated columns that are stored.
        virtual: Those that are computed when they are read (from PostgreSQL 18 on).
        generated_identity: Whether a generated column is part of the identity's index.
        indexes: The columns of each index by which equal values are found, in its order; an expression has an empty name.
        index: The name of the index that the identity is, by default or by choice; empty where it is none.
        ruled: Whether it has rules: a statement on it is then several, or another one.
    """

    oid: int
    schema: str
    name: str
    kind: str
    persistence: str
    identity: str
    columns: tuple[str, ...]
    not_null: tuple[str, ...]
    stored: tuple[str, ...]
    virtual: tuple[str, ...]
    generated_identity: bool
    indexes: tuple[tuple[str, ...], ...] = ()
    index: str = ""
    ruled: bool = False

    @property
    def full_name(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class TableIdentity:
    """What the log says of a table's rows.

    Attributes:
        table: Its full name; of partitions, that of their root.
        oid: Of the table itself.
        kind: As in pg_class: r, p, f.
        leaves: Where its rows are, by oid; none of a partitioned table without partitions.
        published: Whether it is in the publication, whole.
        fingerprint: 16 hex digits, of all that must stay for the stream to say all of the table.
        shape: 16 hex digits, of the same but for where the rows are: it stays when the table is emptied, and not when rows are
            written anew because a column was altered.
    """

    table: str
    oid: int
    kind: str
    leaves: tuple[Leaf, ...]
    published: bool
    fingerprint: str
    shape: str = ""

    @property
    def columns(self) -> frozenset[str]:
        """The columns of the row before a change that the log has in every partition."""
        if not self.leaves:
            return frozenset()
        return frozenset.intersection(*(frozenset(leaf.columns) for leaf in self.leaves))

    def finds(self, columns: Sequence[str]) -> bool:
        """Whether in every partition an index begins with these columns, in whatever order."""
        return all(any({*index[: len(columns)]} == {*columns} for index in leaf.indexes) for leaf in self.leaves)

    def leaf(self, oid: int) -> Leaf | None:
        """The leaf that the stream names by this oid."""
        return next((leaf for leaf in self.leaves if leaf.oid == oid), None)


_TREE = """
WITH RECURSIVE tree AS (
    SELECT k.oid AS root, k.oid, ''::text AS link FROM unnest(%(roots)s::oid[]) AS k(oid)
  UNION ALL
    SELECT t.root, i.inhrelid, i.inhparent::text || '/' || i.xmin::text
    FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition)
SELECT t.root::int8, t.oid::int8, t.link, n.nspname, c.relname, c.relkind::text, c.relpersistence::text, c.relreplident::text,
       c.relfilenode::int8, x.indexrelid::int8, coalesce(x.columns, '{}'), coalesce(x.generated, false),
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             AND a.attgenerated = '' ORDER BY a.attnum),
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             AND a.attnotnull ORDER BY a.attnum),
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             AND a.attgenerated = 's' ORDER BY a.attnum),
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             AND a.attgenerated = 'v' ORDER BY a.attnum),
       ARRAY(SELECT a.attnum::text || '/' || a.xmin::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
             ORDER BY a.attnum),
       ARRAY(SELECT r.oid::text || '/' || r.xmin::text || CASE
                 WHEN to_jsonb(r) ->> 'prqual' IS NULL AND to_jsonb(r) ->> 'prattrs' IS NULL THEN '' ELSE '/part' END
             FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
             WHERE r.prrelid = c.oid AND p.pubname = coalesce(%(publication)s, p.pubname) ORDER BY r.oid),
       (SELECT json_agg(ARRAY(
                   SELECT coalesce(a.attname::text, '') FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, nth)
                   LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                   WHERE k.nth <= i.indnkeyatts ORDER BY k.nth) ORDER BY i.indexrelid)
        FROM pg_index i JOIN pg_class o ON o.oid = i.indexrelid JOIN pg_am m ON m.oid = o.relam
        WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL AND m.amname IN ('btree', 'hash')),
       coalesce((SELECT o.relname::text FROM pg_class o WHERE o.oid = x.indexrelid), ''),
       EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid)
FROM tree t JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
    SELECT i.indexrelid, array_agg(a.attname::text ORDER BY k.nth) AS columns, bool_or(a.attgenerated <> '') AS generated
    FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, nth)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE i.indrelid = c.oid AND k.nth <= i.indnkeyatts AND i.indisvalid AND i.indimmediate
      AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END
    GROUP BY i.indexrelid) x ON true
ORDER BY t.root, t.oid"""

_PUBLICATIONS = """
SELECT p.oid::text || '/' || p.xmin::text FROM pg_publication p WHERE p.pubname = coalesce(%s, p.pubname) ORDER BY 1"""


def read_identities(
    connection: Connection, tables: Sequence[MappedTable], publication: str | None = None
) -> dict[str, TableIdentity]:
    """By the table's full name, also of the tables on their ways to the tenant.

    `publication`: the one whose membership counts; None: any, so that what happens to others' changes fingerprints, too.
    """
    involved = {table.oid: table for mapped in tables for table in (mapped.table, *(hop.parent for hop in mapped.hops))}
    with translated("read the tables' replica identities"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_PUBLICATIONS, (publication,))
        publications = [fact for (fact,) in cursor.fetchall()]
        cursor.execute(_TREE, {"roots": sorted(involved), "publication": publication})
        found: dict[int, list[Any]] = {}
        for root, *facts in cursor.fetchall():
            found.setdefault(root, []).append(facts)
    return {
        table.full_name: _identity(table, found[oid], publications)
        for oid, table in involved.items()
        if oid in found  # else it was dropped a moment ago
    }


def _identity(table: Table, tree: list[Any], publications: list[str]) -> TableIdentity:
    leaves, facts, shapes = [], [], []
    published: list[str] = []
    for oid, link, schema, name, kind, persistence, identity, file, index, in_index, generated, *more in tree:
        plain, not_null, stored, virtual, altered, members, indexes, index_name, ruled = more
        published += members
        columns = plain if identity == FULL else in_index
        # The names of partitions and of columns may change: no row does.
        facts.append([oid, link, kind, persistence, identity, file, index, members])
        shapes.append([oid, link, kind, persistence, identity, altered, index, members])
        if kind != PARTITIONED:
            leaves.append(
                Leaf(
                    oid,
                    schema,
                    name,
                    kind,
                    persistence,
                    identity,
                    tuple(columns),
                    tuple(not_null),
                    tuple(stored),
                    tuple(virtual),
                    generated,
                    tuple(tuple(one) for one in indexes or ()),
                    index_name,
                    ruled,
                )
            )
    (root,) = [facts for facts in tree if facts[0] == table.oid]
    whole = bool(root[-4]) and not any(member.endswith("/part") for member in published)
    digest, shape = _digest(publications, facts), _digest(publications, shapes)
    return TableIdentity(table.full_name, table.oid, root[4], tuple(leaves), whole, digest, shape)


def _digest(*facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def changed_meanwhile(relation: Relation, identity: TableIdentity) -> str:
    """Why changes under this Relation are not those of a table with this identity; empty where they are.

    Asked with each Relation of a stretch and with what was read at its end: so an identity that was another for a while is seen.
    """
    leaf = identity.leaf(relation.relid)
    if leaf is None:
        return f"{relation.full_name} is no part of it any more"
    if relation.identity != leaf.identity:
        return f"the replica identity of {relation.full_name} was {_NAMES.get(relation.identity, relation.identity)} for a while"
    if leaf.identity == FULL:
        return ""  # all columns that it had then
    sent = {column.name for column in relation.columns if column.key}
    if missing := [name for name in leaf.columns if name not in sent]:
        return f"the replica identity of {relation.full_name} was without {', '.join(missing)} for a while"
    return ""


_NAMES = {DEFAULT: "DEFAULT", NOTHING: "NOTHING", FULL: "FULL", INDEX: "another index"}
