"""Looks at rows, by which a suggestion is better than one from names alone: how many there are, and which types they speak of."""

from sbh_pipelines.database.schema.catalog import Table
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.sql import from_only, ident

_ROWS = 100_000  # as many rows of a table are looked at, at most


def some_values(connection: Connection, table: Table, column: str, most: int = 30) -> list[str] | None:
    """The different values of a column among the first rows; None where there are more than `most`."""
    with translated("look at a table", table.full_name):
        cursor = connection.cursor()
        rows = f"(SELECT {ident(column)}::text AS value FROM {from_only(table)} LIMIT {_ROWS}) AS r"
        cursor.execute(f"SELECT DISTINCT value FROM {rows} WHERE value IS NOT NULL ORDER BY 1 LIMIT {most + 1}")
        found = [value for (value,) in cursor.fetchall()]
        return found if len(found) <= most else None


def has_rows(connection: Connection, table: Table, without: tuple[str, ...], having: tuple[str, ...] = ()) -> bool:
    """Whether, among the first rows, there is one in which a column of `without` is NULL, and none of `having` is."""
    with translated("look at a table", table.full_name):
        cursor = connection.cursor()
        empty = " OR ".join(f"{ident(name)} IS NULL" for name in without)
        filled = "".join(f" AND {ident(name)} IS NOT NULL" for name in having)
        rows = f"(SELECT * FROM {from_only(table)} LIMIT {_ROWS}) AS r"
        cursor.execute(f"SELECT EXISTS (SELECT FROM {rows} WHERE ({empty}){filled})")
        return bool(cursor.fetchone()[0])
