"""Cutting one tenant's rows, as COPY text, into row groups.

COPY text ends each row with a newline and escapes every other one, so rows can be counted and cut without parsing. A
group ends at a content-defined boundary (`repository/chunking.py`), moved on to the end of its row:
unchanged stretches of a table give the same groups, and so the same chunks, however much moved around them.
"""

import io
from collections.abc import Callable, Iterator
from typing import Any

from sbh_pipelines.repository.chunking import ROW_GROUPS, first_chunk

_SCAN = 64 << 10
_FIRST_BUFFER = (
    64 << 10
)  # bytes: most tables of most tenants need no more, and filling megabytes takes longer than reading those

Take = Callable[[bytes, int], None]
"""Takes a group: its text, and the number of its rows."""


def has_group(size: int) -> bool:
    """Whether so many bytes of whole rows surely hold a group."""
    return size >= ROW_GROUPS.most


def group_end(text: "bytes | bytearray", start: int, end: int, last: bool) -> int | None:
    """Where the group that begins at `start` ends, by its content; None where that depends on what comes after `end`.

    `last`: nothing does. Of `ROW_GROUPS.most` bytes and whole rows it is always known.
    """
    with memoryview(text) as whole, whole[start:end] as view:
        size = first_chunk(view, ROW_GROUPS)
        if size == len(view) and not has_group(size) and not last:
            return None  # all there is, which may be less than a group
    newline = text.find(b"\n", start + size - 1, end)
    return newline + 1 if newline >= 0 else None  # none: a row longer than what has come so far


class GroupCutter(io.RawIOBase):
    """A file to COPY into: cuts what is written into groups.

    `plan` gives the number of rows of each group where they are known beforehand (reading back); after it, and without it,
    the content decides. Holds two times `ROW_GROUPS.most`, or a row or a planned group that is larger. `finish` must be called
    after the last write.
    """

    def __init__(self, take: Take, plan: Iterator[int] | None = None) -> None:
        super().__init__()
        self._take, self._plan = take, plan or iter(())
        # One buffer for the whole stream, filled from `_start` to `_end`: fresh memory costs more than copying into it. It grows.
        self._buffer = bytearray(_FIRST_BUFFER)
        self._start = self._end = 0
        self._wanted = next(self._plan, None)  # rows of the next planned group
        self.bytes = self.rows = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        size = len(data)
        if self._end + size > len(self._buffer):
            self._make_room(size)
        self._buffer[self._end : self._end + size] = data
        self._end += size
        self.bytes += size
        if self._end - self._start >= ROW_GROUPS.most:
            self._cut(last=False)
        return size

    def _make_room(self, size: int) -> None:
        held = self._end - self._start
        with memoryview(self._buffer) as view:
            view[:held] = view[self._start : self._end]
        self._start, self._end = 0, held
        if held + size > len(self._buffer):
            wanted = max(held + size, min(4 * len(self._buffer), 2 * ROW_GROUPS.most))
            self._buffer.extend(bytes(wanted - len(self._buffer)))

    def finish(self) -> None:
        """Cut what is left."""
        self._cut(last=True)

    def _cut(self, last: bool) -> None:
        while self._start < self._end:
            end = (
                group_end(self._buffer, self._start, self._end, last)
                if self._wanted is None
                else self._planned_end(self._wanted, last)
            )
            if end is None:
                return
            with memoryview(self._buffer) as view:
                text = bytes(view[self._start : end])
            self._start = end
            self._wanted = next(self._plan, None)
            rows = text.count(b"\n")
            self.rows += rows
            self._take(text, rows)

    def _planned_end(self, rows: int, last: bool) -> int | None:
        """The end of the next `rows` rows, or of what is left where nothing comes after it; None when they have not come yet."""
        at, needed = self._start, rows
        while at < self._end:
            stop = min(at + _SCAN, self._end)
            found = self._buffer.count(b"\n", at, stop)
            if found >= needed:
                for _ in range(needed):
                    at = self._buffer.find(b"\n", at) + 1
                return at
            needed -= found
            at = stop
        return self._end if last else None
