"""How new and changed rows are found: what was written to a table since a snapshot, for many tenants in one scan.

A row is *new* when its `xmin` lies in the window from the snapshot's xmin to now, modulo 2**32. The lower bound is the
oldest transaction that ran at the snapshot: a row too many is harmless, a row too few would be lost. `age(xmin)` counts
transactions from `xmin` to now in modular arithmetic, so a window is an age; rows frozen long ago, whose raw `xmin` comes
round again, are at worst read once more.

A *deleted* row leaves no trace: `deleted_rows.py` finds it.

    totals    one scan: rows, hash of all keys, new rows, for each tenant
    all_rows, new_rows  which rows to copy
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sbh_pipelines.database.capture.capture import Selection
from sbh_pipelines.database.schema.key_hash import KeyCode
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.sql import literal

# A window over more than this is not told from one that went round: half of 2**32, less what runs while we read.
MAX_WINDOW = 1 << 30
_MASK64 = (1 << 64) - 1
_NOTHING_NEW = -1


@dataclass(frozen=True, slots=True)
class Totals:
    """One tenant's rows of one table. `key_hash` is hex; for tables without a key it is over whole rows, as a multiset."""

    rows: int
    key_hash: str
    new: int


@dataclass(frozen=True, slots=True)
class Window:
    """How to look at one tenant: what counts as new (rows at most `age` transactions old; None: nothing), the seed of its
    hashes (64 bits, signed), and how many bits of the bucket are used."""

    age: int | None
    seed: int
    bits: int = 0


def snapshot_xmin(snapshot: str) -> int:
    """The 64-bit xmin of a `pg_current_snapshot()`."""
    return int(snapshot.split(":", 1)[0])


def ages(connection: Connection, xmins: Iterable[int]) -> dict[int, int]:
    """The ages of 64-bit transaction ids, as the rows have theirs in this transaction of this connection."""
    with translated("work out a window of transactions"):
        cursor = connection.cursor()
        cursor.execute(
            "SELECT x, pg_catalog.age((x & 4294967295)::text::xid) FROM pg_catalog.unnest(%s::bigint[]) x",
            (sorted(set(xmins)),),
        )
        return dict(cursor.fetchall())


def watched(table: MappedTable, windows: Mapping[str, Window]) -> str:
    """The table's FROM items joined with the tenants, as w(key, age, seed, mask, nth); `nth` counts them from 0."""
    kind, equal = table.tenant_column.type, table.tenant_column.equality
    rows = ", ".join(
        f"({literal(key)}::{kind}, {_NOTHING_NEW if w.age is None else w.age}, ({w.seed})::bigint, {(1 << w.bits) - 1}, {nth})"
        for nth, (key, w) in enumerate(windows.items())
    )
    return f"{table.source} JOIN (VALUES {rows}) AS w(key, age, seed, mask, nth) ON w.key {equal} {table.tenant}"


IS_NEW = "pg_catalog.age(t.xmin) BETWEEN 0 AND w.age"


def totals(
    connection: Connection, table: MappedTable, code: KeyCode, windows: Mapping[str, Window]
) -> dict[str, Totals]:
    """Totals by tenant key, for every tenant of `windows`."""
    if not windows:
        return {}
    # XOR loses equal rows in pairs, so without a key a plain sum stands beside it.
    extra = "NULL" if code.keyed else f"pg_catalog.sum({code.hash} & 4294967295)::text"
    compared = any(window.age is not None for window in windows.values())
    new_rows_count = f"count(*) FILTER (WHERE {IS_NEW})" if compared else "0"
    with translated("look for changes", table.full_name):
        cursor = connection.cursor()
        cursor.execute(
            f"SELECT w.nth, count(*), pg_catalog.bit_xor({code.hash}), {extra}, {new_rows_count}"
            f" FROM {watched(table, windows)} GROUP BY w.nth"
        )
        keys = list(windows)
        found = [(keys[nth], *more) for nth, *more in cursor.fetchall()]
    none = Totals(0, f"{0:016x}", 0)
    return dict.fromkeys(windows, none) | {
        key: Totals(rows, f"{value & _MASK64:016x}{f'-{more}' if more else ''}", new)
        for key, rows, value, more, new in found
    }


def all_rows(table: MappedTable, seeds: Mapping[str, int]) -> Selection:
    """All rows of these tenants; the seeds of their hashes by tenant key."""
    return Selection(watched(table, {key: Window(None, seed) for key, seed in seeds.items()}), "true")


def new_rows(table: MappedTable, windows: Mapping[str, Window]) -> Selection:
    """The rows of these tenants that are new."""
    return Selection(watched(table, windows), IS_NEW)
