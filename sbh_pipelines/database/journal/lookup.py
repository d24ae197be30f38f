"""Rows that others follow, looked up by key as a snapshot sees them.

Values come and go as hexadecimal bytes of the database's encoding: what the stream gives of them, byte for byte. The snapshot lasts
as long as a drain; locks on tables do not, so that no ALTER TABLE of the application waits for it, and nothing behind that.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

from sbh_pipelines.database.schema.catalog import Table
from sbh_pipelines.database.session.connection import Connection, look, translated
from sbh_pipelines.database.session.sql import from_only, ident, literal
from sbh_pipelines.errors import SourceConflict
from sbh_pipelines.settings import DatabaseSettings

Values = tuple[bytes | None, ...]


@contextmanager
def lookup_snapshot(settings: DatabaseSettings) -> Iterator[Connection]:
    """A connection whose transaction sees one instant, that at which the context begins."""
    with closing(look(settings, "journal lookup", within_s=settings.look_timeout_s)) as connection:
        with translated("take a snapshot"):
            cursor = connection.cursor()
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            cursor.execute("SELECT pg_catalog.pg_current_snapshot()")
        yield connection


def snapshot_of(connection: Connection) -> str:
    """What the connection of a `lookup_snapshot` sees, as the server writes it."""
    with translated("take a snapshot"):
        cursor = connection.cursor()
        cursor.execute("SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text")
        found: str = cursor.fetchone()[0]
        return found


def find_rows(
    connection: Connection,
    table: Table,
    columns: Sequence[str],
    wanted: Sequence[str],
    keys: Sequence[tuple[bytes, ...]],
) -> dict[tuple[bytes, ...], Values]:
    """The `wanted` columns of the rows that have one of these keys in `columns`, by key; of those that are there.

    The columns' types are exact (`Column.exact`). `connection`: of `lookup_snapshot`.
    """
    query = _query(table, columns, wanted, keys)
    with translated("look up rows that others follow", table.full_name):
        cursor = connection.cursor()
        cursor.execute("SAVEPOINT sbh_lookup")
        cursor.execute(query)
        rows = cursor.fetchall()
        cursor.execute("ROLLBACK TO SAVEPOINT sbh_lookup")  # and the lock on the table is gone
    return {
        keys[nth - 1]: tuple(None if field is None else bytes.fromhex(field) for field in fields)
        for nth, *fields in rows
    }


def count_rows(
    connection: Connection,
    table: Table,
    columns: Sequence[str],
    of: tuple[Table, Sequence[str]],
    keys: Sequence[tuple[bytes, ...]],
    within_s: float,
) -> dict[tuple[bytes, ...], int] | None:
    """How many rows have each of these keys in `columns`; of those that some have. None: there was no answer within `within_s`
    seconds.

    `of`: the table and the columns that the keys are values of; their types may be others than those of `columns`.
    """
    asked, equal = _asked(table, columns, of, keys)
    query = f"SELECT a.nth, pg_catalog.count(*) FROM {asked} JOIN {from_only(table)} AS p ON {equal} GROUP BY a.nth"
    cursor = connection.cursor()
    try:
        with translated("count rows that follow others", table.full_name):
            cursor.execute(f"SAVEPOINT sbh_lookup; SET LOCAL statement_timeout = {max(1, int(within_s * 1000))}")
            cursor.execute(query)
            found = {keys[nth - 1]: number for nth, number in cursor.fetchall()}
    except SourceConflict:
        found = None
    with translated("count rows that follow others", table.full_name):
        cursor.execute("ROLLBACK TO SAVEPOINT sbh_lookup")  # and the lock on the table is gone, and the timeout
    return found


def _query(table: Table, columns: Sequence[str], wanted: Sequence[str], keys: Sequence[tuple[bytes, ...]]) -> str:
    values = ", ".join(
        f"pg_catalog.encode(pg_catalog.convert_to(p.{ident(name)}::pg_catalog.text, {literal(table.encoding)}), 'hex')"
        for name in wanted
    )
    asked, equal = _asked(table, columns, (table, columns), keys)
    return f"SELECT a.nth, {values} FROM {asked} JOIN {from_only(table)} AS p ON {equal}"


def _asked(
    table: Table, columns: Sequence[str], of: tuple[Table, Sequence[str]], keys: Sequence[tuple[bytes, ...]]
) -> tuple[str, str]:
    """(FROM item `a` of the keys and their number `nth`, condition that they are those of a row `p` of the table)."""
    encoding = literal(table.encoding)
    typed, named = of
    # Without its length: a longer value is another one, and is not cut off.
    kinds = [found.type.partition("(")[0] for name in named if (found := typed.column(name)) is not None]
    names = [f"k{n}" for n in range(len(kinds))]
    arrays = (
        literal("{" + ",".join(key[n].hex() for key in keys) + "}") + "::pg_catalog.text[]" for n in range(len(kinds))
    )
    asked = ", ".join(
        f"pg_catalog.convert_from(pg_catalog.decode(k.{name}, 'hex'), {encoding})::{kind} AS {name}"
        for name, kind in zip(names, kinds, strict=True)
    )
    equal = " AND ".join(
        f"p.{ident(column)} OPERATOR(pg_catalog.=) a.{name}" for column, name in zip(columns, names, strict=True)
    )
    unnested = f"pg_catalog.unnest({', '.join(arrays)}) WITH ORDINALITY AS k({', '.join(names)}, nth)"
    return f"(SELECT {asked}, k.nth FROM {unnested}) AS a", equal
