"""Sums over rows as COPY text: whether two sets of rows are the same to the last byte, in whatever order they come."""

import hashlib
import hmac
import io
from collections.abc import Callable, Iterator
from typing import Any, Protocol

_SUM_MASK = (1 << 128) - 1


class RowSums(Protocol):
    """Sums over rows."""

    def add(self, text: bytes) -> None:
        """COPY text of whole rows."""
        ...


class LineSums:
    """The content of a table, whatever the order of its rows: their number, and the sum of a keyed hash of each."""

    def __init__(self, key: bytes) -> None:
        self._key, self._sum = hashlib.blake2b(key).digest(), 0
        self.rows = self.bytes = 0

    def fresh(self) -> "LineSums":
        """Sums of nothing yet, to be compared with these."""
        other = LineSums(b"")
        other._key = self._key
        return other

    def add(self, text: bytes) -> None:
        """COPY text of whole rows."""
        lines = text.split(b"\n")
        lines.pop()
        key = self._key
        self._sum += sum(int.from_bytes(hashlib.blake2b(line, digest_size=16, key=key).digest()) for line in lines)
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
