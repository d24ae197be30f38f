"""Quoting: names and values in SQL that is put together from parts."""

from collections.abc import Collection
from typing import Protocol


class Relation(Protocol):
    """What names a table in SQL: `kind` is that of pg_class."""

    @property
    def schema(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...


def ident(name: str) -> str:
    """A quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A quoted string, for sessions with `standard_conforming_strings = on`: all of ours."""
    return "'" + text.replace("'", "''") + "'"


UTF8, SQL_ASCII = "UTF8", "SQL_ASCII"


def exchanged(stored: str, live: str) -> str:
    """The encoding in which rows that are stored in one encoding go to and from a database of another.

    Where one of the two is SQL_ASCII there is nothing to convert, and bytes go as they are.
    """
    return SQL_ASCII if SQL_ASCII in (stored, live) else stored


def copy_options(encoding: str) -> str:
    """The options of COPY text in an encoding, whatever the session's is."""
    return f" WITH (ENCODING {literal(encoding)})"


def sql_name(table: Relation) -> str:
    """The table's name with its schema, quoted."""
    return f"{ident(table.schema)}.{ident(table.name)}"


def from_only(table: Relation) -> str:
    """The FROM item of the table's own rows: without those of tables that inherit from it."""
    # A partitioned root has no rows of its own; an inheritance child is a table of its own in the map.
    return sql_name(table) if table.kind == "p" else f"ONLY {sql_name(table)}"


def free_name(name: str, taken: Collection[str]) -> str:
    """A name that none of `taken` has: with underscores after it where they must be. `name` needs no quotes."""
    while name in taken:
        name += "_"
    return name
