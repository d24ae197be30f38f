"""Cutting a stream of COPY text into row groups.

COPY text ends each row with a newline and escapes every other one, so rows can be counted and cut without parsing. A
group ends at a content-defined boundary (`repository/chunking.py`), moved on to the end of its row:
unchanged stretches of a table give the same groups, and so the same chunks, however much moved around them.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sbh_pipelines.repository.chunking import ROW_GROUPS, first_chunk

_SCAN = 64 << 10


@dataclass(frozen=True, slots=True)
class Segment:
    """The rows of one tenant in the stream: how many, and who takes the groups `(text, rows)`.

    `plan` gives the number of rows of each group where they are known beforehand (reading back); without it the
    content decides.
    """

    rows: int
    take: Callable[[bytes, int], None]
    plan: Iterator[int] | None = None


class GroupCutter(io.RawIOBase):
    """A file to COPY into: cuts what is written at tenants' ends and group boundaries.

    Holds two times `ROW_GROUPS.most`, or a row that is larger. `finish` must be called after the last write.
    """

    def __init__(self, segments: Iterable[Segment]) -> None:
        super().__init__()
        self._segments = iter(segments)
        # One buffer for the whole stream, filled from `_start` to `_end`: fresh memory costs more than copying into it.
        self._buffer = bytearray(2 * ROW_GROUPS.most)
        self._start = self._end = 0
        self._segment: Segment | None = None
        self._left = 0  # rows of the current segment still to come
        self._wanted: int | None = None  # rows of the current planned group
        self.bytes = 0

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
            self._buffer.extend(bytes(held + size))

    def finish(self) -> None:
        """Cut what is left. Raises ValueError when the stream had fewer or more rows than its segments."""
        self._cut(last=True)
        if self._start < self._end or self._left or self._next_segment():
            raise ValueError("the stream does not have the number of rows that was counted on the same snapshot")

    def _next_segment(self) -> bool:
        for segment in self._segments:
            if segment.rows:
                self._segment, self._left, self._wanted = segment, segment.rows, None
                return True
        return False

    def _cut(self, last: bool) -> None:
        while self._start < self._end:
            if not self._left and not self._next_segment():
                return
            assert self._segment is not None
            found = self._planned_end() if self._segment.plan is not None else self._content_end(last)
            if found is None:
                return
            end, rows = found
            with memoryview(self._buffer) as view:
                text = bytes(view[self._start : end])
            self._start = end
            self._left -= rows
            self._wanted = None
            self._segment.take(text, rows)

    def _content_end(self, last: bool) -> tuple[int, int] | None:
        """(end in the buffer, rows) of the next group, or None when more must be written first."""
        if not last and self._end - self._start < ROW_GROUPS.most:
            return None
        with memoryview(self._buffer) as whole, whole[self._start : self._end] as view:
            size = first_chunk(view, ROW_GROUPS)
        newline = self._buffer.find(b"\n", self._start + size - 1, self._end)
        if newline < 0:
            return None  # a row longer than what has come so far
        rows = self._buffer.count(b"\n", self._start, newline + 1)
        if rows > self._left:  # the tenant ends inside
            return self._after(self._left)
        return newline + 1, rows

    def _planned_end(self) -> tuple[int, int] | None:
        assert self._segment is not None
        assert self._segment.plan is not None
        if self._wanted is None:
            self._wanted = min(next(self._segment.plan, self._left), self._left)
        return self._after(self._wanted)

    def _after(self, rows: int) -> tuple[int, int] | None:
        """(end in the buffer, rows) of the next `rows` rows, or None when the last of them has not come yet."""
        at, needed = self._start, rows
        while at < self._end:
            stop = min(at + _SCAN, self._end)
            found = self._buffer.count(b"\n", at, stop)
            if found >= needed:
                for _ in range(needed):
                    at = self._buffer.find(b"\n", at) + 1
                return at, rows
            needed -= found
            at = stop
        return None
