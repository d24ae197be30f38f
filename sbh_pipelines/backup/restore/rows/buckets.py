"""Rows by the buckets of their keys: which buckets two sets of rows differ in, and which rows lie in some of them.

Rows come as COPY text in any order, from the backup and from the live table; a bucket is the same number on both sides
(`database/schema/key_hash.py`). So two streams show where they differ, and neither is held in memory or sorted.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from sbh_pipelines.database.capture.line_sums import digests, row_hash
from sbh_pipelines.database.schema.key_hash import INTEGER, bucket_of, integer_buckets, rows_in_buckets

_WORDS = 2  # of 64 bits, of a row's digest


class RowBuckets:
    """Where the key is in a table's rows, and how many buckets there are."""

    def __init__(self, kind: str, key_fields: Sequence[int], bits: int) -> None:
        self._kind, self._fields, self.mask = kind, key_fields, (1 << bits) - 1
        self._leading = kind == INTEGER and list(key_fields) == [0]  # found without making an object of each row

    def numbers(self, text: bytes) -> Sequence[int]:
        """The bucket of each row of `text` (COPY text, whole rows)."""
        if self._leading:
            found: list[int] = (integer_buckets(text)[2] & self.mask).tolist()
            return found
        split = (line.split(b"\t") for line in _lines(text))
        return [bucket_of(self._kind, [fields[at] for at in self._fields]) & self.mask for fields in split]

    def chosen(self, pieces: Iterator[bytes], buckets: Sequence[int]) -> Iterator[bytes]:
        """The rows of `pieces` that lie in these buckets."""
        if len(buckets) > self.mask:
            return pieces
        marks = bytearray(self.mask + 1)
        for bucket in buckets:
            marks[bucket] = 1
        return (self._filtered(text, marks) for text in pieces)

    def _filtered(self, text: bytes, marks: bytearray) -> bytes:
        if self._leading:
            return rows_in_buckets(text, marks)
        rows = zip(_lines(text), self.numbers(text), strict=True)
        return b"".join([line + b"\n" for line, number in rows if marks[number]])


class BucketSums:
    """The content of each bucket, whatever the order of its rows: the sum of a keyed hash of each, of 128 bits in two halves."""

    def __init__(self, buckets: RowBuckets, empty: Any = None) -> None:
        import numpy  # a slow import that only some restores need

        self._buckets, self._hash = buckets, empty or row_hash(os.urandom(32))
        self._sums = numpy.zeros((buckets.mask + 1, _WORDS), dtype=numpy.uint64)

    def fresh(self) -> "BucketSums":
        """Sums of nothing yet, to be compared with these."""
        return BucketSums(self._buckets, self._hash)

    def add(self, text: bytes) -> None:
        """COPY text of whole rows."""
        import numpy

        joined = b"".join(digests(self._hash, _lines(text)))
        words = numpy.frombuffer(joined, dtype=numpy.uint64).reshape(-1, _WORDS)
        numpy.add.at(self._sums, self._buckets.numbers(text), words)

    def differing(self, other: "BucketSums") -> list[int]:
        """The buckets in which the two have other rows."""
        found: list[int] = (self._sums != other._sums).any(axis=1).nonzero()[0].tolist()
        return found


def _lines(text: bytes) -> list[bytes]:
    lines = text.split(b"\n")
    lines.pop()
    return lines
