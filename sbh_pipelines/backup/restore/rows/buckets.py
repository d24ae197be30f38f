"""Rows by the buckets of their keys: which buckets two sets of rows differ in, and which rows lie in some of them.

Rows come as COPY text in any order, from the backup and from the live table; a bucket is the same number on both sides
(`database/schema/key_hash.py`). So two streams show where they differ, and neither is held in memory or sorted.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sbh_pipelines.database.capture.line_sums import digests, row_hash
from sbh_pipelines.database.merge.untouched import Lost
from sbh_pipelines.database.schema.key_hash import INTEGER, IntegerRows, bucket_of, integer_hashes

_WORDS = 2  # of 64 bits, of a row's digest
_NONE, _ONE, _ALL = range(3)  # what is wanted of a bucket


class RowBuckets:
    """Where the key is in a table's rows, and how many buckets there are."""

    def __init__(self, kind: str, key_fields: Sequence[int], bits: int) -> None:
        self._kind, self._fields, self.mask = kind, key_fields, (1 << bits) - 1
        self.leading = kind == INTEGER and list(key_fields) == [0]  # found without making an object of each row

    def numbers(self, text: bytes) -> Sequence[int]:
        """The bucket of each row of `text` (COPY text, whole rows)."""
        if self.leading:
            found: list[int] = IntegerRows.of(text).buckets(self.mask).tolist()
            return found
        split = (line.split(b"\t") for line in _lines(text))
        return [bucket_of(self._kind, [fields[at] for at in self._fields]) & self.mask for fields in split]

    def chosen(self, pieces: Iterator[bytes], buckets: Iterable[int]) -> Iterator[bytes]:
        """The rows of `pieces` that lie in these buckets."""
        marks = bytearray(self.mask + 1)
        for bucket in buckets:
            marks[bucket] = 1
        return (self._filtered(text, marks) for text in pieces) if 0 in marks else pieces

    def _filtered(self, text: bytes, marks: bytearray) -> bytes:
        if self.leading:
            import numpy  # a slow import that only some restores need

            rows = IntegerRows.of(text)
            marked = numpy.frombuffer(marks, dtype=numpy.uint8)[rows.buckets(self.mask)]
            return rows.chosen(marked.nonzero()[0])
        lines = zip(_lines(text), self.numbers(text), strict=True)
        return b"".join([line + b"\n" for line, number in lines if marks[number]])


class LostRows:
    """Picks the rows of a backup that a table may have lost: of a bucket that lost one row, that row alone; else all of them.

    Which row that was its key's hash tells, which is what the bucket's sum lacks. `unfound` are buckets in which none has it.
    """

    def __init__(self, buckets: RowBuckets, lost: Mapping[int, Lost], seed: int) -> None:
        import numpy

        self._buckets, self._seed = buckets, seed
        self._wanted = numpy.zeros(buckets.mask + 1, dtype=numpy.uint64)
        self._marks = numpy.zeros(buckets.mask + 1, dtype=numpy.uint8)
        for bucket, what in lost.items():
            alone = what.rows == 1 and buckets.leading
            self._marks[bucket] = _ONE if alone else _ALL
            self._wanted[bucket] = what.key_hash
        self._lost, self._found = lost, self._marks.copy()

    @property
    def whole(self) -> int:
        """How many buckets are picked whole."""
        return int((self._marks == _ALL).sum())

    @property
    def unfound(self) -> list[int]:
        """The buckets whose one row did not come by."""
        found: list[int] = (self._found == _ONE).nonzero()[0].tolist()
        return found

    def chosen(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The rows of `pieces` that may be lost."""
        if not self._buckets.leading:
            return self._buckets.chosen(pieces, self._lost)
        return map(self._picked, pieces)

    def _picked(self, text: bytes) -> bytes:
        import numpy

        rows = IntegerRows.of(text)
        numbers = rows.buckets(self._buckets.mask)
        marks = self._marks[numbers]
        one = (marks == _ONE).nonzero()[0]
        hit = one[integer_hashes(rows.keys[one], self._seed) == self._wanted[numbers[one]]]
        self._found[numbers[hit]] = _NONE
        return rows.chosen(numpy.union1d(hit, (marks == _ALL).nonzero()[0]))


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
