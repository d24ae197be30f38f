"""How new, changed and deleted rows are found: what changed in a table since a snapshot, for many tenants in one scan.

A row is *new* when its `xmin` lies in the window from the snapshot's xmin to now, modulo 2**32. The lower bound is the
oldest transaction that ran at the snapshot: a row too many is harmless, a row too few would be lost. `age(xmin)` counts
transactions from `xmin` to now in modular arithmetic, so a window is an age; rows frozen long ago, whose raw `xmin` comes
round again, are at worst read once more.

A *deleted* row leaves no trace, so it is found by what is missing. Keys are put in buckets, and each bucket has a count and an
XOR of its keys' hashes (`schema/key_hash.py`). A bucket that new rows alone do not explain (`explained_by`) has lost or
gained rows; its keys are read, and those that the backup has and the table has not are deleted.

    totals        one scan: rows, hash of all keys, new rows, for each tenant
    sums          one scan: rows and hash of each bucket of keys, and the hashes of the new rows' keys
    new_rows      which rows to copy
    explained_by  whether a bucket has lost rows
    survivors     the keys that are in certain buckets now
"""

import io
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice

from sbh_pipelines.database.capture.capture import Selection, check_spelling
from sbh_pipelines.database.schema.key_hash import KeyCode
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.sql import ident, literal

# A window over more than this is not told from one that went round: half of 2**32, less what runs while we read.
MAX_WINDOW = 1 << 30
_MASK64 = (1 << 64) - 1
_NOTHING_NEW = -1
_FETCHED = 10_000  # rows


@dataclass(frozen=True, slots=True)
class Totals:
    """One tenant's rows of one table. `key_hash` is hex; for tables without a key it is over whole rows, as a multiset."""

    rows: int
    key_hash: str
    new: int


@dataclass(slots=True)
class Sums:
    """Rows and XOR of key hashes in each bucket of one tenant and table; 12 bytes a bucket."""

    bits: int
    counts: "array[int]" = field(init=False)
    hashes: "array[int]" = field(init=False)

    def __post_init__(self) -> None:
        self.counts = array("I", bytes(4 << self.bits))
        self.hashes = array("Q", bytes(8 << self.bits))

    @property
    def rows(self) -> int:
        return sum(self.counts)

    @property
    def key_hash(self) -> str:
        total = 0
        for value in self.hashes:
            total ^= value
        return f"{total:016x}"


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
        cursor.execute("SELECT x, age((x & 4294967295)::text::xid) FROM unnest(%s::bigint[]) x", (sorted(set(xmins)),))
        return dict(cursor.fetchall())


def _watched(table: MappedTable, windows: Mapping[str, Window]) -> str:
    """The table's FROM items joined with the tenants, as w(key, age, seed, mask)."""
    kind = table.tenant_column.type
    rows = ", ".join(
        f"({literal(key)}::{kind}, {_NOTHING_NEW if w.age is None else w.age}, ({w.seed})::bigint, {(1 << w.bits) - 1})"
        for key, w in windows.items()
    )
    return f"{table.source} JOIN (VALUES {rows}) AS w(key, age, seed, mask) ON w.key = {table.tenant}"


_NEW = "age(t.xmin) BETWEEN 0 AND w.age"


def totals(
    connection: Connection, table: MappedTable, code: KeyCode, windows: Mapping[str, Window]
) -> dict[str, Totals]:
    """Totals by tenant key, for every tenant of `windows`."""
    if not windows:
        return {}
    # XOR loses equal rows in pairs, so without a key a plain sum stands beside it.
    extra = "NULL" if code.keyed else f"sum({code.hash} & 4294967295)::text"
    compared = any(window.age is not None for window in windows.values())
    new_rows_count = f"count(*) FILTER (WHERE {_NEW})" if compared else "0"
    with translated("look for changes", table.full_name):
        cursor = connection.cursor()
        cursor.execute(
            f"SELECT {table.tenant}::text, count(*), bit_xor({code.hash}), {extra}, {new_rows_count}"
            f" FROM {_watched(table, windows)} GROUP BY {table.tenant}"
        )
        found = cursor.fetchall()
    check_spelling(table, windows, (row[0] for row in found))
    none = Totals(0, f"{0:016x}", 0)
    return dict.fromkeys(windows, none) | {
        key: Totals(rows, f"{value & _MASK64:016x}{f'-{more}' if more else ''}", new)
        for key, rows, value, more, new in found
    }


def sums(
    connection: Connection, table: MappedTable, code: KeyCode, windows: Mapping[str, Window]
) -> tuple[dict[str, Sums], dict[str, dict[int, list[int]]]]:
    """(sums, hashes of the new rows' keys by bucket), each by tenant key."""
    found = {key: Sums(window.bits) for key, window in windows.items()}
    if not windows:
        return found, {}
    new: dict[str, dict[int, list[int]]] = {key: {} for key in windows}
    compared = any(window.age is not None for window in windows.values())
    hashes_of_new = f"array_agg({code.hash}) FILTER (WHERE {_NEW})" if compared else "NULL::bigint[]"
    with translated("look for changes", table.full_name):
        cursor = connection.cursor()
        # A cursor of the server's: the buckets of a large tenant are not fetched in one piece.
        cursor.execute(
            f"DECLARE sbh_sums NO SCROLL CURSOR FOR SELECT {table.tenant}::text, ({code.bucket}) & w.mask, count(*),"
            f" bit_xor({code.hash}), {hashes_of_new}"
            f" FROM {_watched(table, windows)} GROUP BY {table.tenant}, 2"
        )
        while True:
            cursor.execute(f"FETCH {_FETCHED} FROM sbh_sums")
            fetched = cursor.fetchall()
            if not fetched:
                break
            for key, bucket, rows, value, hashes in fetched:
                check_spelling(table, windows, (key,))
                mine = found[key]
                mine.counts[bucket] = rows
                mine.hashes[bucket] = value & _MASK64
                if hashes:
                    new[key][bucket] = [h & _MASK64 for h in hashes]
        cursor.execute("CLOSE sbh_sums")
    return found, new


def new_rows(table: MappedTable, windows: Mapping[str, Window]) -> Selection:
    """The rows of these tenants that are new."""
    return Selection(_watched(table, windows), _NEW)


def arrivals(
    table: MappedTable, code: KeyCode, windows: Mapping[str, Window], buckets: Mapping[str, Sequence[int]]
) -> Selection | None:
    """The rows in these buckets that are not new, but may have come to their tenant since; None where none can have.

    A row that has its tenant by a foreign key comes to another when a row on the way is changed: that one is new. For
    links that are no foreign keys it cannot be told, and all rows of the buckets count.
    """
    if not table.hops:
        return None
    if any(hop.join is not None for hop in table.hops):
        moved = "true"
    else:
        ages = [f"age(p{nth}.xmin) BETWEEN 0 AND w.age" for nth in range(1, table.depth + 1)]
        moved = f"({' OR '.join(ages)})"
    return Selection(_in_buckets(table, code, windows, buckets), f"NOT ({_NEW}) AND {moved}")


def _in_buckets(
    table: MappedTable, code: KeyCode, windows: Mapping[str, Window], buckets: Mapping[str, Sequence[int]]
) -> str:
    kind = table.tenant_column.type
    wanted = ", ".join(f"({literal(key)}::{kind}, {bucket})" for key, listed in buckets.items() for bucket in listed)
    chosen = {key: windows[key] for key in buckets}
    return (
        f"{_watched(table, chosen)} JOIN (VALUES {wanted}) AS b(key, bucket)"
        f" ON b.key = w.key AND b.bucket = (({code.bucket}) & w.mask)"
    )


def survivors(
    connection: Connection,
    table: MappedTable,
    code: KeyCode,
    windows: Mapping[str, Window],
    buckets: Mapping[str, Sequence[int]],
    take: Callable[[str, int, bytes], None],
) -> None:
    """`take(tenant key, bucket, key fields as COPY text)` for every row now in the buckets, ordered by tenant and bucket."""
    numbers = {key: str(nth) for nth, key in enumerate(buckets)}
    keys = list(buckets)
    fields = ", ".join(f"t.{ident(name)}" for name in table.table.primary_key)
    kind = table.tenant_column.type
    listed = ", ".join(f"({literal(key)}::{kind}, {number})" for key, number in numbers.items())

    def line(text: bytes) -> None:
        number, bucket, key = text.split(b"\t", 2)
        take(keys[int(number)], int(bucket), key)

    with translated("look for deleted rows", table.full_name):
        connection.cursor().copy_expert(
            f"COPY (SELECT n.number, b.bucket, {fields} FROM {_in_buckets(table, code, windows, buckets)}"
            f" JOIN (VALUES {listed}) AS n(key, number) ON n.key = w.key ORDER BY 1, 2) TO STDOUT",
            _Lines(line),
        )


class _Lines(io.RawIOBase):
    """A file to COPY into that hands on whole lines."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        super().__init__()
        self._take, self._rest = take, b""

    def writable(self) -> bool:
        return True

    def write(self, data: "bytes") -> int:  # type: ignore[override]
        *lines, self._rest = (self._rest + bytes(data)).split(b"\n")
        for text in lines:
            self._take(text)
        return len(data)


def explained_by(before: tuple[int, int], now: tuple[int, int], new: Sequence[int]) -> bool:
    """Whether new rows alone lead from one bucket (rows, XOR of hashes) to the other: nothing was deleted or came in.

    Some of the new rows were there before (updates), the others were not (inserts): there must be a choice of inserts with
    the right number and the right XOR. At most `_CHOICES` are tried, so a wrong one fits by chance once in 2**52.
    """
    inserts = now[0] - before[0]
    difference = before[1] ^ now[1]
    if not new:
        return inserts == 0 and difference == 0
    if not 0 <= inserts <= len(new):
        return False
    return any(total == difference for total in _xors(new, inserts))


_CHOICES = 4096


def _xors(values: Sequence[int], size: int) -> Iterator[int]:
    """The XOR of every choice of `size` values; of the first 4096 choices only."""
    for choice in islice(combinations(values, size), _CHOICES):
        total = 0
        for value in choice:
            total ^= value
        yield total
