"""Sums over rows as COPY text: whether two sets of rows are the same to the last byte, in whatever order they come."""

import hashlib
import hmac
import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

_SUM_MASK = (1 << 128) - 1


def row_hash(key: bytes) -> Any:
    """The keyed hash of a row, of 128 bits, before anything is in it."""
    return hashlib.blake2b(digest_size=16, key=hashlib.blake2b(key).digest())


def digests(empty: Any, lines: Iterable[bytes]) -> Iterator[bytes]:
    """Of each line. Copying what the key has been put into is much faster than to put it into another each time."""
    copy = empty.copy
    for line in lines:
        filled = copy()
        filled.update(line)
        yield filled.digest()


class RowSums(Protocol):
    """Sums over rows."""

    def add(self, text: bytes) -> None:
        """COPY text of whole rows."""
        ...


class LineSums:
    """The content of a table, whatever the order of its rows: their number, and the sum of a keyed hash of each."""

    def __init__(self, key: bytes) -> None:
        self._hash, self._sum = row_hash(key), 0
        self.rows = self.bytes = 0

    def fresh(self) -> "LineSums":
        """Sums of nothing yet, to be compared with these."""
        other = LineSums(b"")
        other._hash = self._hash
        return other

    def add(self, text: bytes) -> None:
        """COPY text of whole rows."""
        lines = text.split(b"\n")
        lines.pop()
        self._sum += sum(map(int.from_bytes, digests(self._hash, lines)))
        self.rows += len(lines)
        self.bytes += len(text)

    def text(self) -> str:
        return f"{self.rows}-{self._sum & _SUM_MASK:032x}"

    def same(self, other: str) -> bool:
        return hmac.compare_digest(self.text(), other)


def pieces_counted(
    pieces: Iterator[bytes], sums: LineSums, counted: Callable[[bytes], bytes] = lambda piece: piece
) -> Iterator[bytes]:
    """The pieces, which are added to the sums as they go by, or what `counted` takes of them."""
    for piece in pieces:
        sums.add(counted(piece))
        yield piece


class SummedText(io.RawIOBase):
    """A file to COPY into: adds whole rows to sums."""

    def __init__(self, sums: RowSums) -> None:
        super().__init__()
        self._sums, self._rest = sums, list[bytes]()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        text = bytes(data)
        end = text.rfind(b"\n") + 1
        if end:
            self._sums.add(b"".join((*self._rest, text[:end])))
            self._rest.clear()
        if text[end:]:
            self._rest.append(text[end:])
        return len(text)
