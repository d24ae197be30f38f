"""Rows and hashes by keys that are known already: what a backup asks the server where the change journal told which keys changed.

Keys are COPY text, as rows are stored. They go to the server as bytes, whatever their encoding, and the column's type reads them as
COPY would.

    hash_keys      the hashes that `changes` and `deleted_rows` give of rows with such keys, also where there is no row
    rows_by_keys   the rows that have such keys now
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sbh_pipelines.database.capture.line_file import LineFile
from sbh_pipelines.database.schema.key_hash import KeyCode, unescape
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.copying import copy
from sbh_pipelines.database.session.sql import copy_options, free_name, ident, literal

_MASK64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class WantedKey:
    """A key to ask the server for.

    Attributes:
        owner: Key of the tenant whose row it is.
        key: Fields of the primary key as COPY text, joined by tabs.
    """

    owner: str
    key: bytes


def hash_keys(
    connection: Connection, table: MappedTable, code: KeyCode, keys: Sequence[WantedKey], seeds: Mapping[str, int]
) -> list[int]:
    """The hash of each key, made with its owner's seed (64 bits, signed); unsigned, in the order of `keys`.

    All keys are sent at once: give some thousands at a time. Raises SourceError where the type does not read a key.
    """
    if not keys:
        return []
    by_seed = sorted({seeds[one.owner] for one in keys})
    number_of = {seed: number for number, seed in enumerate(by_seed, 1)}
    listed = ", ".join(f"({seed})::bigint" for seed in by_seed)
    nth, chosen = _nth(table), _array((str(number_of[seeds[one.owner]]) for one in keys), "int")
    with translated("hash keys", table.full_name):
        cursor = connection.cursor()
        cursor.execute(
            f"SELECT t.{nth}, {code.hash} FROM ({_typed(table, keys)}) AS t"
            f" CROSS JOIN LATERAL (SELECT (ARRAY[{listed}])[({chosen})[t.{nth}]]) AS w(seed) ORDER BY 1"
        )
        found = [value & _MASK64 for _, value in cursor.fetchall()]
    assert len(found) == len(keys)
    return found


def rows_by_keys(
    connection: Connection, table: MappedTable, keys: Sequence[WantedKey], take: Callable[[int, bytes], object]
) -> None:
    """`take(place in keys, the row's captured columns as COPY text)` of the rows that are there and are the owner's.

    All keys are sent at once: give some thousands at a time. A row is given for a key that the type holds equal, also where it is
    spelled in another way. Raises SourceError.
    """
    if not keys:
        return
    owners = list(dict.fromkeys(one.owner for one in keys))

    def line(text: bytes) -> None:
        number, owner, row = text.split(b"\t", 2)
        if owners[int(owner) - 1] == keys[int(number) - 1].owner:
            take(int(number) - 1, row)

    nth = _nth(table)
    columns = ", ".join(f"t.{ident(name)}" for name in table.captured_columns)
    same = " AND ".join(
        f"t.{ident(name)} {column.equality} k.{ident(name)}"
        for name in table.table.primary_key
        if (column := table.table.column(name))
    )
    with translated("read rows by their keys", table.full_name):
        copy(
            connection.cursor(),
            f"COPY (SELECT k.{nth}, {table.tenant_number(owners)}, {columns} FROM {table.source}"
            f" JOIN ({_typed(table, keys)}) AS k ON {same} WHERE {table.tenant_is(owners)})"
            f" TO STDOUT{copy_options(table.encoding)}",
            LineFile(line),
        )


def _typed(table: MappedTable, keys: Sequence[WantedKey]) -> str:
    """SQL: the keys as rows with the key's columns in their types, numbered from 1."""
    names = table.table.primary_key
    split = [one.key.split(b"\t") for one in keys]
    arrays = [_array(("\\\\x" + unescape(fields[at]).hex() for fields in split), "bytea") for at in range(len(names))]
    columns = ", ".join(
        f"pg_catalog.convert_from(k.c{at}, {literal(table.encoding)})::{column.type} AS {ident(name)}"
        for at, name in enumerate(names)
        if (column := table.table.column(name))
    )
    aliases = ", ".join(f"c{at}" for at in range(len(names)))
    return (
        f"SELECT k.nth::int AS {_nth(table)}, {columns}"
        f" FROM ROWS FROM ({', '.join(f'pg_catalog.unnest({array})' for array in arrays)})"
        f" WITH ORDINALITY AS k({aliases}, nth)"
    )


def _nth(table: MappedTable) -> str:
    return free_name("sbh_nth", [column.name for column in table.table.columns])


def _array(values: Iterator[str], kind: str) -> str:
    """An array of values without quotes in them."""
    listed = ",".join(f'"{value}"' for value in values)
    return literal("{" + listed + "}") + f"::{kind}[]"
