"""Rows of a backup for which a partitioned table has no partition any more: retention drops old ones, and their rows with them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sbh_pipelines.database.merge.fit.columns import SchemaDifference
from sbh_pipelines.database.merge.read_back import check_staged, sum_staged
from sbh_pipelines.database.merge.relationships.links import Link
from sbh_pipelines.database.merge.staging import Staging
from sbh_pipelines.database.session.connection import translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.database.session.sql import ident

_MOST_STATEMENTS = 5
_MOST_VALUES = 50
# Of one column. What is in the quotes may be anything, also what looks like the rest of it.
_EDGE = r"(MINVALUE|MAXVALUE|[\w.+-]+|[BX]?'(?:[^']|'')*')"
_RANGE = re.compile(rf"FOR VALUES FROM \({_EDGE}\) TO \({_EDGE}\)")
_HASH = re.compile(r"FOR VALUES WITH \(modulus (\d+), remainder (\d+)\)")

_TREE = """
SELECT p.relid::oid::bigint, p.parentrelid::oid::bigint, n.nspname, c.relname, pg_get_partition_constraintdef(c.oid),
       pg_get_expr(c.relpartbound, c.oid), t.partstrat::text, t.partnatts, a.attname, format_type(a.atttypid, a.atttypmod)
FROM pg_partition_tree(%s::oid::regclass) p JOIN pg_class c ON c.oid = p.relid JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_partitioned_table t ON t.partrelid = c.oid
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = t.partattrs[0] AND a.attnum > 0
ORDER BY p.level, 3, 4"""


@dataclass(frozen=True, slots=True)
class _Node:
    """A table of the tree: the partitioned one, or a partition, which may be partitioned itself."""

    oid: int
    parent: int | None
    schema: str
    name: str
    constraint: str | None  # None: takes every row
    bound: str | None
    strategy: str | None  # r range, l list, h hash; None: a leaf
    columns: int | None
    column: str | None  # the key's, where it is one plain column
    type: str | None

    @property
    def full_name(self) -> str:
        return f"{ident(self.schema)}.{ident(self.name)}"


def without_partition(staging: Staging) -> SchemaDifference | None:
    """The difference that rows without a partition make, with the statements that make one; None where all rows have theirs.

    Needs the staging to be finished. They are put into the temporary table `homeless(staging)`.
    """
    if staging.table.table.kind != "p" or not staging.wanted:
        return None
    table = staging.table.full_name
    with translated("look for partitions", table):
        cursor = staging.connection.cursor()
        with own_names(staging.connection):
            cursor.execute(_TREE, (staging.table.table.oid,))
            nodes = [_Node(*row) for row in cursor.fetchall()]
        missing = "true"
        if staging.keyed:  # a row with the same key is in its partition
            missing = f"NOT EXISTS (SELECT FROM {staging.have} h WHERE {staging.same_key('h', 'w')})"
        cursor.execute(f"DROP TABLE IF EXISTS {homeless(staging)}")
        cursor.execute(
            f"CREATE TEMP TABLE {homeless(staging)} ON COMMIT DROP AS SELECT w.ctid AS at, w.* FROM {staging.want} w"
            f" WHERE {missing}"
        )
        leaves = [node for node in nodes if node.strategy is None]
        if any(node.constraint is None for node in leaves):
            cursor.execute(f"DELETE FROM {homeless(staging)}")
            return None
        fits = " OR ".join(f"({node.constraint})" for node in leaves) or "false"
        cursor.execute(
            f"DELETE FROM {homeless(staging)} x WHERE (SELECT coalesce({fits}, false) FROM {_named(staging, 'x')})"
        )
        cursor.execute(f"SELECT count(*) FROM {homeless(staging)}")
        rows = cursor.fetchone()[0]
        if not rows:
            return None
        statements = list(_statements(staging, nodes))
    decision = f"{rows} rows of the backup have no partition to go to: they are not restored."
    remedy = " ".join(statements[:_MOST_STATEMENTS]) or f"create partitions of {table} for these rows"
    return SchemaDifference(table, None, "dropped partition", f"{rows} rows", None, decision, lossy=True, remedy=remedy)


def hanging_on_homeless(staging: Staging, links: list[Link], parents: dict[int, Staging]) -> SchemaDifference | None:
    """The difference that rows make whose parents are left out: they would be nobody's."""
    link = next((x for x in links if x.decides and x.child.table.oid == staging.table.table.oid), None)
    parent = parents.get(link.parent.table.oid) if link is not None else None
    if link is None or parent is None or not staging.wanted:
        return None
    left_out = f"(SELECT {', '.join(parent.columns.values())} FROM {homeless(parent)})"
    with translated("look for rows of left out parents", staging.table.full_name):
        cursor = staging.connection.cursor()
        cursor.execute(f"DROP TABLE IF EXISTS {homeless(staging)}")
        cursor.execute(
            f"CREATE TEMP TABLE {homeless(staging)} ON COMMIT DROP AS SELECT w.ctid AS at, w.* FROM {staging.want} w"
            f" WHERE w.ctid IN (SELECT t.ctid FROM {staging.placed(staging.want, 't')}"
            f" JOIN {parent.named(left_out, 'p')} ON {link.condition})"
        )
        rows = cursor.rowcount
    if not rows:
        return None
    decision = f"{rows} rows hang on rows of {parent.table.full_name} that have no partition: they are not restored."
    return SchemaDifference(
        staging.table.full_name, None, "dropped partition", f"{rows} rows", None, decision, lossy=True
    )


def leave_out_homeless(staging: Staging) -> None:
    """Take them from the rows that are wanted."""
    check_staged(staging)
    with translated("leave rows out", staging.table.full_name):
        staging.connection.cursor().execute(
            f"DELETE FROM {staging.want} w WHERE w.ctid IN (SELECT at FROM {homeless(staging)})"
        )
    sum_staged(staging)
    if staging.adopted:
        same = (
            staging.same_key("h", "w")
            if staging.keyed
            else f"{staging.record('h')}::text = {staging.record('w')}::text"
        )
        with translated("leave rows out", staging.table.full_name):
            staging.connection.cursor().execute(
                f"DELETE FROM {staging.have} h WHERE h.nobodys AND NOT EXISTS (SELECT FROM {staging.want} w WHERE {same})"
            )
    staging.finish()


def homeless(staging: Staging) -> str:
    return f"pg_temp.sbh_homeless_{staging.number}"


def _named(staging: Staging, alias: str) -> str:
    """A FROM item: one staged row under the names of its columns."""
    return f"(SELECT {', '.join(f'{alias}.{c} AS {ident(name)}' for name, c in staging.columns.items())}) AS sbh_row"


# the statements that make partitions


def _statements(staging: Staging, nodes: list[_Node]) -> Iterator[str]:
    """CREATE TABLE for what is missing, at the level where it is."""
    number = 0
    for node in nodes:
        if node.strategy is None:
            continue
        children = [child for child in nodes if child.parent == node.oid]
        fits = " OR ".join(f"({child.constraint})" for child in children) or "false"
        here = f"coalesce(({node.constraint or 'true'}) AND NOT coalesce({fits}, false), false)"
        rows = f"{homeless(staging)} x CROSS JOIN LATERAL {_named(staging, 'x')} WHERE {here}"
        cursor = staging.connection.cursor()
        cursor.execute(f"SELECT EXISTS (SELECT FROM {rows})")
        if not cursor.fetchone()[0]:
            continue
        for bound in _bounds(cursor, node, children, rows):
            number += 1
            yield f"CREATE TABLE {_free_name(cursor, node, number)} PARTITION OF {node.full_name} {bound};"


def _bounds(cursor: Any, node: _Node, children: list[_Node], rows: str) -> Iterator[str]:
    plain = node.columns == 1 and node.column is not None
    if node.strategy == "h":
        yield from _hash_bounds(children)
    elif node.strategy == "l" and plain:
        column = f"sbh_row.{ident(node.column or '')}"
        cursor.execute(
            f"SELECT DISTINCT pg_catalog.quote_nullable({column}::text) FROM {rows} ORDER BY 1 LIMIT {_MOST_VALUES + 1}"
        )
        values = [value for (value,) in cursor.fetchall()]
        yield f"FOR VALUES IN ({', '.join(values)})" if len(values) <= _MOST_VALUES else "DEFAULT"
    elif node.strategy == "r" and plain:
        yield from _range_bounds(cursor, node, children, rows)
    else:
        yield "DEFAULT"


def _hash_bounds(children: list[_Node]) -> Iterator[str]:
    found = [(int(m[1]), int(m[2])) for child in children if (m := _HASH.fullmatch(child.bound or ""))]
    if len({modulus for modulus, _ in found}) == 1:
        modulus = found[0][0]
        for remainder in sorted(set(range(modulus)) - {remainder for _, remainder in found}):
            yield f"FOR VALUES WITH (MODULUS {modulus}, REMAINDER {remainder})"


def _range_bounds(cursor: Any, node: _Node, children: list[_Node], rows: str) -> Iterator[str]:
    """The gaps between the partitions that the rows lie in, from the lowest on."""
    edges = [m.groups() for child in children if (m := _RANGE.fullmatch(child.bound or ""))]
    lows = [low for low, _ in edges if low != "MINVALUE"]
    highs = [high for _, high in edges if high != "MAXVALUE"]
    column, kind, after = f"sbh_row.{ident(node.column or '')}", node.type, "true"

    def among(values: list[str]) -> str:
        listed = ", ".join(f"({value}::{kind})" for value in values)
        return f"(VALUES {listed}) v(edge)" if values else f"(SELECT NULL::{kind} AS edge WHERE false) v"

    for _ in range(_MOST_STATEMENTS):
        cursor.execute(
            "SELECT pg_catalog.quote_literal(first::text),"
            f" (SELECT pg_catalog.quote_literal(pg_catalog.max(edge)::text) FROM {among(highs)} WHERE edge <= first),"
            f" (SELECT pg_catalog.quote_literal(pg_catalog.min(edge)::text) FROM {among(lows)} WHERE edge > first)"
            f" FROM (SELECT pg_catalog.min({column}) AS first FROM {rows} AND {after}) x"
        )
        first, low, high = cursor.fetchone()
        if first is None:
            return
        yield f"FOR VALUES FROM ({low or first}) TO ({high or 'MAXVALUE'})"
        if high is None:
            return
        after = f"{column} >= {high}::{kind}"


def _free_name(cursor: Any, node: _Node, number: int) -> str:
    for suffix in (f"restored_{n}" for n in range(number, number + 1000)):
        name = f"{ident(node.schema)}.{ident(f'{node.name[:45]}_{suffix}')}"
        cursor.execute("SELECT to_regclass(%s)", (name,))
        if cursor.fetchone()[0] is None:
            return name
    return f"{ident(node.schema)}.{ident(f'{node.name[:45]}_restored')}"
