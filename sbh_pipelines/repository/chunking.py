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
    buffer = bytearray()
    for piece in pieces:
        digest.update(piece)
        buffer += piece
        while len(buffer) >= FILE_SLICES.most:
            yield _take_slice(buffer)
    while buffer:
        yield _take_slice(buffer)


def _take_slice(buffer: bytearray) -> bytes:
    with memoryview(buffer) as whole:
        size = first_chunk(whole, FILE_SLICES)
    taken = bytes(buffer[:size])
    del buffer[:size]
    return taken
