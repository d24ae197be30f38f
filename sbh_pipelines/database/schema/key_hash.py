"""Keys as numbers: a hash that tells sets of keys apart, and a bucket that says where to look when they differ.

The *hash* is PostgreSQL's own extended hash (64 bits, seeded): cheap on the server, compared only with hashes that the
same server made with the same seed. XOR over a set of keys does not depend on their order. The *bucket* is a number that
the server and this module work out alike from the key's text, so that stored rows can be put in buckets without a server.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.sql import ident, literal

if TYPE_CHECKING:
    from numpy import int64, uint64
    from numpy.typing import NDArray

INTEGER, UUID, TEXT, ROW = "integer", "uuid", "text", "row"

MAX_BITS = 20
_PRIME = 1_048_573  # the largest below 2**20: keys that come in regular steps still spread
_ROWS_PER_BUCKET = 64

# COPY's escapes (PostgreSQL documentation, COPY, "Text Format"); the server writes no others.
_UNESCAPED = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v", b"\\": b"\\"}


def key_kind(table: MappedTable) -> str:
    """How the table's rows are told apart; ROW where no key can be had from what is captured."""
    key = table.table.primary_key
    columns = [table.table.column(name) for name in key]
    if not key or not all(c and not c.generated for c in columns):
        return ROW
    kinds = [c.type for c in columns if c]
    if len(kinds) == 1 and kinds[0] in ("smallint", "integer", "bigint"):
        return INTEGER
    return UUID if kinds == ["uuid"] else TEXT


@dataclass(frozen=True, slots=True)
class KeyCode:
    """SQL over the aliases t and w: the hash (bigint, seeded by w.seed) and the bucket (below 2**MAX_BITS) of a row's key."""

    kind: str
    hash: str
    bucket: str

    @property
    def keyed(self) -> bool:
        return self.kind != ROW


def key_code(table: MappedTable) -> KeyCode:
    """The expressions for one table."""
    kind = key_kind(table)
    columns = [f"t.{ident(name)}" for name in table.table.primary_key]
    if kind == INTEGER:
        wide = f"{columns[0]}::bigint"
        # The server hashes the two halves of a bigint XORed with each other, so that 1 and 2**32 are one: the seed, which is
        # mixed in otherwise, tells them apart.
        digest = f"pg_catalog.hashint8extended({wide}, w.seed # ({wide} >> 32))"
        return KeyCode(kind, digest, f"pg_catalog.abs({wide} OPERATOR(pg_catalog.%) {_PRIME})::int")
    if kind == UUID:
        tail = f"('x' || pg_catalog.right({columns[0]}::text, 5))::bit({MAX_BITS})::int"
        return KeyCode(kind, f"pg_catalog.uuid_hash_extended({columns[0]}, w.seed)", tail)
    if kind == TEXT:
        # concat_ws() uses the types' output functions, as COPY does: a cast to text would not ('t' or 'true', padding).
        text = f"pg_catalog.concat_ws(E'\\x1f', {', '.join(columns)})"
        digest = (
            f"pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to({text}, {literal(table.encoding)})), 'hex')"
        )
        bucket = f"('x' || pg_catalog.left({digest}, 5))::bit({MAX_BITS})::int"
        # Fields that contain the separator may be joined alike: keys in one bucket, but never of one hash.
        exact = f"ROW({', '.join(columns)})::text" if len(columns) > 1 else text
        return KeyCode(kind, f'pg_catalog.hashtextextended({exact} COLLATE "C", w.seed)', bucket)
    listed = ", ".join(f"t.{ident(name)}" for name in table.captured_columns)
    return KeyCode(kind, f'pg_catalog.hashtextextended(ROW({listed})::text COLLATE "C", w.seed)', "0")


def bucket_of(kind: str, fields: Sequence[bytes]) -> int:
    """The bucket of a key given as COPY text fields; what `KeyCode.bucket` gives on the server."""
    if kind == INTEGER:
        return abs(int(fields[0])) % _PRIME
    if kind == UUID:
        return int(fields[0][-5:], 16)
    text = b"\x1f".join(map(unescape, fields))
    return int(hashlib.sha256(text).hexdigest()[:5], 16)


@dataclass(frozen=True, slots=True)
class IntegerRows:
    """Rows of COPY text with an INTEGER key first: where each begins, where its line feed is, and its key.

    No Python object is made of a row.
    """

    text: bytes
    starts: "NDArray[int64]"
    ends: "NDArray[int64]"
    keys: "NDArray[int64]"

    @classmethod
    def of(cls, text: bytes) -> "IntegerRows":
        """The rows of `text`, whole ones."""
        import numpy  # a slow import that only restores of large tables need

        data = numpy.frombuffer(text, dtype=numpy.uint8)
        ends = numpy.flatnonzero(data == ord("\n"))
        starts = numpy.concatenate(([0], ends[:-1] + 1)) if len(ends) else ends
        negative = data[starts] == ord("-")
        at = starts + negative
        numbers = numpy.zeros(len(starts), dtype=numpy.uint64)
        digits = data[at]
        reading = digits != ord("\t")
        while (reading := reading & (digits >= ord("0")) & (digits <= ord("9"))).any():
            numbers = numpy.where(reading, numbers * numpy.uint64(10) + (digits - ord("0")), numbers)
            at = at + reading
            digits = data[at]
        return cls(text, starts, ends, numpy.where(negative, ~numbers + numpy.uint64(1), numbers).view(numpy.int64))

    def buckets(self, mask: int) -> "NDArray[int64]":
        """The bucket of each row, as `bucket_of` gives it, at a tenth of its time."""
        import numpy

        size = numpy.abs(self.keys).view(numpy.uint64)  # that of the smallest key is none but for those without a sign
        return (size % numpy.uint64(_PRIME) & numpy.uint64(mask)).astype(numpy.int64)

    def chosen(self, rows: "NDArray[int64]") -> bytes:
        """The text of these rows, by their numbers."""
        pairs = zip(self.starts[rows].tolist(), self.ends[rows].tolist(), strict=True)
        return b"".join([self.text[first : last + 1] for first, last in pairs])


def integer_hashes(keys: "NDArray[int64]", seed: int) -> "NDArray[uint64]":
    """`KeyCode.hash` of INTEGER keys, as PostgreSQL works it out (hashint8extended; the mixing is Bob Jenkins' lookup3).

    Nothing depends on a server that does so: hashes that do not meet the server's own find no row.
    """
    import numpy

    high = keys >> 32
    low = keys.astype(numpy.uint32) ^ numpy.where(keys < 0, ~high, high).astype(numpy.uint32)
    seeds = high ^ numpy.int64(seed)
    first = numpy.full(len(keys), 0x9E3779B9 + 4 + 3923095, dtype=numpy.uint32)
    a: Any
    b: Any
    c: Any
    a, b, c = first + (seeds >> 32).astype(numpy.uint32), first + seeds.astype(numpy.uint32), first
    for by in (4, 6, 8, 16, 19, 4):
        a, b, c = b, c + b, (a - c) ^ _rotated(c, by)
    unseeded = seeds == 0
    a, b, c = (numpy.where(unseeded, first, mixed) for mixed in (a, b, c))
    a = a + low
    c = (c ^ b) - _rotated(b, 14)
    a = (a ^ c) - _rotated(c, 11)
    b = (b ^ a) - _rotated(a, 25)
    c = (c ^ b) - _rotated(b, 16)
    a = (a ^ c) - _rotated(c, 4)
    b = (b ^ a) - _rotated(a, 14)
    c = (c ^ b) - _rotated(b, 24)
    found: NDArray[uint64] = b.astype(numpy.uint64) << numpy.uint64(32) | c
    return found


def _rotated(words: Any, by: int) -> Any:
    import numpy

    return words << numpy.uint32(by) | words >> numpy.uint32(32 - by)


def unescape(field: bytes) -> bytes:
    """A field of COPY text as the type's output function wrote it."""
    if b"\\" not in field:
        return field
    plain = bytearray()
    at = 0
    while (found := field.find(b"\\", at)) >= 0:
        plain += field[at:found] + _UNESCAPED[field[found + 1 : found + 2]]
        at = found + 2
    return bytes(plain + field[at:])


def bucket_bits(rows: int) -> int:
    """How many bits of the bucket to use for a tenant's rows of a table: about 64 rows a bucket."""
    return min(MAX_BITS, max(0, (max(rows, 1) - 1) // _ROWS_PER_BUCKET).bit_length())
