"""Live rows that hold the keys of the backup's rows, and are not the tenant's now.

A parent that goes leaves rows behind: ON DELETE SET NULL takes away what linked them, and a declared condition finds no parent
any more. Such a row is nobody's, so that looking for the tenant's rows does not find it; but its key is in the tenant's backup,
which says whose it was. It is adopted: staged among the live rows, and compared and written as if it were the tenant's.

A row that another tenant has by now is that tenant's. It stays, and is in conflict with the backup's.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sbh_pipelines.database.capture.text_rows import text_rows
from sbh_pipelines.database.merge.staging import Staging
from sbh_pipelines.database.session.connection import translated
from sbh_pipelines.database.session.copying import copy, copy_in
from sbh_pipelines.database.session.sql import copy_options, ident

_BUFFER = 1 << 20
MOST_NAMED = 20  # rows of one table that are named


@dataclass(frozen=True, slots=True)
class HeldKey:
    """One row of the backup, and the live row in its way.

    Attributes:
        key: of the backup's row: values of the primary key as text, by column.
        holder: the same of the live row.
        owner: key of the tenant that the live row belongs to; None: nobody's.
    """

    key: Mapping[str, str | None]
    holder: Mapping[str, str | None]
    owner: str | None


@dataclass(frozen=True, slots=True)
class Held:
    """Rows of the backup whose keys are another tenant's now.

    Attributes:
        rows: how many.
        named: the first of them.
    """

    rows: int
    named: tuple[HeldKey, ...]


NONE_HELD = Held(0, ())


def adopt_rows(staging: Staging) -> Held:
    """Stage the rows of nobody that have the key of a wanted row, for tables without a key its whole text; what others hold.

    Needs the staging to be finished, with all live rows of the tenant that have a wanted row's key.
    """
    if not staging.wanted:
        return NONE_HELD
    if not staging.keyed:
        _adopt_texts(staging)
        return NONE_HELD
    held = f"pg_temp.sbh_held_{staging.number}"
    live = ", ".join(f"t.{ident(name)} AS {staged}" for name, staged in staging.columns.items())
    place = "t.ctid" if staging.table.table.kind == "r" else "NULL::tid"
    nobodys = staging.table.belongs_to_nobody  # also where keys rule that out: they may have been broken
    with translated("look for rows of no tenant", staging.table.full_name):
        cursor = staging.connection.cursor()
        cursor.execute(
            f"CREATE TEMP TABLE {held} ON COMMIT DROP AS"
            f" SELECT {live}, {place} AS place, {nobodys} AS nobodys, t.tableoid AS part, t.ctid AS lies"
            f" FROM {staging.want} w JOIN {staging.table.own_source} ON {staging.key_of_live('t', 'w')}"
            f" WHERE NOT EXISTS (SELECT FROM {staging.have} h WHERE {staging.same_key('w', 'h')})"
        )
        if not cursor.rowcount:
            return NONE_HELD
        columns = ", ".join(staging.columns.values())
        cursor.execute(
            f"INSERT INTO {staging.have} ({columns}, place, nobodys)"
            f" SELECT {columns}, place, true FROM {held} WHERE nobodys"
        )
        if cursor.rowcount:
            staging.finish()
        cursor.execute(f"SELECT count(*) FROM {held} WHERE NOT nobodys")
        others = cursor.fetchone()[0]
    return Held(others, _named(staging, held)) if others else NONE_HELD


def _named(staging: Staging, held: str) -> tuple[HeldKey, ...]:
    keys = staging.table.table.primary_key
    rows = f"(SELECT * FROM {held} WHERE NOT nobodys LIMIT {MOST_NAMED})"
    found = owners_of(staging, rows, [f"h.{staging.columns[key]}" for key in keys], "h.part", "h.lies")
    return tuple(HeldKey(key := dict(zip(keys, values, strict=True)), key, owner) for *values, owner in found)


def owners_of(
    staging: Staging, rows: str, values: Sequence[str], part: str, place: str
) -> list[tuple[str | None, ...]]:
    """Some expressions over `rows` AS h as text, and whose the live row is that lies at `part` and `place` of h; None: nobody's."""
    table = staging.table
    with translated("look whose rows they are", table.full_name):
        query = (
            f"SELECT {', '.join(f'{value}::text' for value in values)}, o.owner FROM {rows} h LEFT JOIN LATERAL"
            f" (SELECT {table.tenant}::text AS owner FROM {table.source} WHERE t.tableoid = {part} AND t.ctid = {place})"
            " AS o ON true"
        )
        return text_rows(staging.connection, query, table.encoding)


def read_rows_of_nobody(staging: Staging, followers: str | None) -> Iterator[bytes]:
    """The rows that were adopted, and those of a temporary table (see followers.py), as COPY text in the database's encoding.

    Pieces that end anywhere.
    """
    if not staging.adopted and followers is None:
        return
    columns = ", ".join(f"h.{staged}" for staged in staging.columns.values())
    with translated("read rows of no tenant", staging.table.full_name), tempfile.TemporaryFile() as file:
        query = f"SELECT {columns} FROM {staging.have} h WHERE h.nobodys"
        if followers is not None:
            names = ", ".join(f"t.{ident(name)}" for name in staging.columns)
            staged = (
                f"EXISTS (SELECT FROM {staging.have} h WHERE {staging.key_of_live('t', 'h')})"
                if staging.keyed
                else "false"
            )
            query += f" UNION ALL SELECT {names} FROM {followers} t WHERE NOT {staged}"
        copy(staging.connection.cursor(), f"COPY ({query}) TO STDOUT{copy_options(staging.table.encoding)}", file)
        file.seek(0)
        while piece := file.read(_BUFFER):
            yield piece


def leave_rows(staging: Staging, texts: Iterator[bytes]) -> None:
    """Rows that were nobody's when the restore that is undone took them: they are wanted as they were then.

    Needs the staging to be finished, and its rows to have been checked. Sets `staging.left`.
    """
    left = f"pg_temp.sbh_left_{staging.number}"
    columns = ", ".join(staging.columns.values())
    with translated("stage rows of no tenant", staging.table.full_name):
        cursor = staging.connection.cursor()
        cursor.execute(f"CREATE TEMP TABLE {left} ON COMMIT DROP AS SELECT {columns} FROM {staging.want} WITH NO DATA")
        copy_in(cursor, left, texts, staging.table.encoding)
        others = "true"
        if staging.keyed:
            others = f"NOT EXISTS (SELECT FROM {staging.want} w WHERE {staging.same_key('w', 'l')})"
        cursor.execute(f"INSERT INTO {staging.want} ({columns}) SELECT {columns} FROM {left} l WHERE {others}")
    staging.left = left
    staging.finish()


def _adopt_texts(staging: Staging) -> None:
    """Of rows without a key equal ones stand for each other: as many as the tenant lacks are adopted."""
    text, staged = f"{staging.live_record('t')}::text", ", ".join(staging.columns.values())
    live = ", ".join(f"t.{ident(name)} AS {c}" for name, c in staging.columns.items())
    lacking = (
        f"SELECT sbh_text, pg_catalog.sum(n) AS lacking FROM"
        f" (SELECT {staging.record('w')}::text AS sbh_text, 1 AS n FROM {staging.want} w"
        f" UNION ALL SELECT {staging.record('h')}::text, -1 FROM {staging.have} h) both_sides GROUP BY 1"
        " HAVING pg_catalog.sum(n) > 0"
    )
    with translated("look for rows of no tenant", staging.table.full_name):
        cursor = staging.connection.cursor()
        cursor.execute(f"SELECT EXISTS ({lacking})")
        if not cursor.fetchone()[0]:
            return
        cursor.execute(
            f"INSERT INTO {staging.have} ({staged}, nobodys) SELECT {staged}, true FROM (SELECT {live}, {text} AS sbh_text,"
            f" pg_catalog.row_number() OVER (PARTITION BY {text}) AS sbh_n FROM {staging.table.own_source}"
            f" WHERE {staging.table.belongs_to_nobody}) l JOIN ({lacking}) k USING (sbh_text) WHERE l.sbh_n <= k.lacking"
        )
        if cursor.rowcount:
            staging.finish()
