"""Chunk sizes, and where content is cut into chunks.

Cuts are content-defined (FastCDC, Xia et al., USENIX ATC 2016): unchanged stretches give the same chunks, however much was
put in or taken out before them. Changing a size costs every tenant one backup without reuse, and nothing else: a reader
takes the lengths from the index.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastcdc.fastcdc_cy import fastcdc_cy

if TYPE_CHECKING:
    from hashlib import _Hash


@dataclass(frozen=True, slots=True)
class ChunkSizes:
    """Bounds of content-defined chunks. FastCDC itself allows 64 bytes to 1 GiB.

    Attributes:
        least: No chunk but the last is smaller, bytes.
        average: What cuts aim at, bytes.
        most: No chunk is larger, bytes.
    """

    least: int
    average: int
    most: int


# About a MiB: large enough to compress well, small enough that a changed row costs little. A group of rows is moved on to
# the end of its last row, so it may exceed the largest size by a row.
ROW_GROUPS = ChunkSizes(512 << 10, 1 << 20, 4 << 20)
# Slices of large files; files up to the least size are one slice.
FILE_SLICES = ChunkSizes(256 << 10, 1 << 20, 4 << 20)


def first_chunk(content: memoryview, sizes: ChunkSizes) -> int:
    """The length of the first chunk of `content`, of which at most `sizes.most` bytes are looked at."""
    with content[: sizes.most] as view:
        size: int = next(fastcdc_cy(view, sizes.least, sizes.average, sizes.most)).length
    return size


def slices(pieces: Iterator[memoryview], digest: "_Hash") -> Iterator[bytes]:
    """Cut the content of a file into content-defined slices; `digest` is fed all of it."""
    window = _Window()
    for piece in pieces:
        digest.update(piece)
        while len(piece):
            piece = piece[window.fill(piece) :]
            while (found := window.cut(last=False)) is not None:
                yield found
    while (found := window.cut(last=True)) is not None:
        yield found


class _Window:
    """What came of a file and is not cut yet: at most the largest slice. Its memory is used again for what comes next."""

    def __init__(self) -> None:
        self._memory, self._filled = bytearray(), 0
        self._looked_at = 0  # so much holds no cut

    def fill(self, piece: memoryview) -> int:
        """Take in what there is room for; how many bytes that is."""
        taken = piece[: FILE_SLICES.most - self._filled]
        end = self._filled + len(taken)
        self._memory[self._filled : end] = taken
        self._filled = end
        return len(taken)

    def cut(self, *, last: bool) -> bytes | None:
        """The first slice, where its end can be told: a cut lies where it does however much follows. `last`: nothing does."""
        most = FILE_SLICES.most
        if not self._filled or not (last or self._filled >= max(most if self._looked_at else most // 2, 1)):
            return None
        with memoryview(self._memory) as memory:
            size = first_chunk(memory[: self._filled], FILE_SLICES)
            if size == self._filled < most and not last:
                self._looked_at = size
                return None
            found = bytes(memory[:size])
            left = self._filled - size
            memory[:left] = memory[size : self._filled]
        self._filled, self._looked_at = left, 0
        return found
