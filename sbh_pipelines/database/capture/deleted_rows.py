"""How deleted rows are found: by what is missing.

A deleted row leaves no trace. Keys are put in buckets, and each bucket has a count and an XOR of its keys' hashes
(`schema/key_hash.py`). A bucket that new rows alone do not explain has lost or gained rows. Its keys are read, and those that
the backup has and the table has not are deleted.

    sums          one scan: rows and hash of each bucket of keys, and the hashes of the new rows' keys
    explained_by  whether new rows alone lead from one state of a bucket to the other
    survivors     the keys that are in certain buckets now
    arrivals      rows in such buckets that may have come to their tenant, though they are not new
"""

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice

from sbh_pipelines.database.capture.capture import Selection
from sbh_pipelines.database.capture.changes import IS_NEW, Window, watched
from sbh_pipelines.database.capture.line_file import LineFile
from sbh_pipelines.database.schema.key_hash import KeyCode
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.copying import copy
from sbh_pipelines.database.session.sql import copy_options, ident

_CHOICES = 4096  # of inserts among new rows, at most, per bucket
_FETCHED = 10_000  # rows
_MASK64 = (1 << 64) - 1


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


def sums(
    connection: Connection, table: MappedTable, code: KeyCode, windows: Mapping[str, Window]
) -> tuple[dict[str, Sums], dict[str, dict[int, list[int]]]]:
    """(sums, hashes of the new rows' keys by bucket), each by tenant key."""
    found = {key: Sums(window.bits) for key, window in windows.items()}
    if not windows:
        return found, {}
    new: dict[str, dict[int, list[int]]] = {key: {} for key in windows}
    keys = list(windows)
    compared = any(window.age is not None for window in windows.values())
    hashes_of_new = f"pg_catalog.array_agg({code.hash}) FILTER (WHERE {IS_NEW})" if compared else "NULL::bigint[]"
    with translated("look for changes", table.full_name):
        cursor = connection.cursor()
        # A cursor of the server's: the buckets of a large tenant are not fetched in one piece.
        cursor.execute(
            f"DECLARE sbh_sums NO SCROLL CURSOR FOR SELECT w.nth, ({code.bucket}) & w.mask, count(*),"
            f" pg_catalog.bit_xor({code.hash}), {hashes_of_new}"
            f" FROM {watched(table, windows)} GROUP BY 1, 2"
        )
        while True:
            cursor.execute(f"FETCH {_FETCHED} FROM sbh_sums")
            fetched = cursor.fetchall()
            if not fetched:
                break
            for nth, bucket, rows, value, hashes in fetched:
                key = keys[nth]
                mine = found[key]
                mine.counts[bucket] = rows
                mine.hashes[bucket] = value & _MASK64
                if hashes:
                    new[key][bucket] = [h & _MASK64 for h in hashes]
        cursor.execute("CLOSE sbh_sums")
    return found, new


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
        ages = [f"pg_catalog.age(p{nth}.xmin) BETWEEN 0 AND w.age" for nth in range(1, table.depth + 1)]
        moved = f"({' OR '.join(ages)})"
    return Selection(_in_buckets(table, code, windows, buckets), f"NOT ({IS_NEW}) AND {moved}")


def _in_buckets(
    table: MappedTable, code: KeyCode, windows: Mapping[str, Window], buckets: Mapping[str, Sequence[int]]
) -> str:
    wanted = ", ".join(f"({nth}, {bucket})" for nth, listed in enumerate(buckets.values()) for bucket in listed)
    chosen = {key: windows[key] for key in buckets}
    return (
        f"{watched(table, chosen)} JOIN (VALUES {wanted}) AS b(nth, bucket)"
        f" ON b.nth = w.nth AND b.bucket = (({code.bucket}) & w.mask)"
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
    keys = list(buckets)
    fields = ", ".join(f"t.{ident(name)}" for name in table.table.primary_key)

    def line(text: bytes) -> None:
        number, bucket, key = text.split(b"\t", 2)
        take(keys[int(number)], int(bucket), key)

    with translated("look for deleted rows", table.full_name):
        copy(
            connection.cursor(),
            f"COPY (SELECT w.nth, b.bucket, {fields} FROM {_in_buckets(table, code, windows, buckets)} ORDER BY 1, 2)"
            f" TO STDOUT{copy_options(table.encoding)}",
            LineFile(line),
        )


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


def _xors(values: Sequence[int], size: int) -> Iterator[int]:
    """The XOR of every choice of `size` values; of the first 4096 choices only."""
    for choice in islice(combinations(values, size), _CHOICES):
        total = 0
        for value in choice:
            total ^= value
        yield total
