"""Rows of many tenants in one stream, taken apart by tenant and cut into groups.

Each row has a code of fixed width in front: whose it is, and what the sums are made of (`key_sums.py`). Line ends are found and
codes read by NumPy, rows are gathered by Arrow, some MiB at a time: nothing is done row by row. Each tenant's rows come in the
order of the key, so its groups are those that a COPY of its own gives.

Each tenant has an open group. Where all of them together exceed `held_bytes`, they go to a temporary file (`spill.py`).
Why: docs/decisions/0019-taken-apart-in-the-client.md.
"""

import io
from base64 import b64decode
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sbh_pipelines.database.capture.capture import TableSink
from sbh_pipelines.database.capture.key_sums import CODE, KeySums
from sbh_pipelines.database.capture.row_groups import group_end, has_group
from sbh_pipelines.database.schema.key_hash import MAX_BITS
from sbh_pipelines.spill import Spill

_CODE_WIDTH = CODE.itemsize // 3 * 4  # in base64, without padding
_WIDTH = _CODE_WIDTH + 1  # and a tab


class _Open:
    """What is open of one tenant: rows in memory, and before these rows in the file."""

    __slots__ = ("pieces", "size", "spilled")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.spilled: list[int] = []
        self.size = 0  # of both, bytes


class TenantCutter(io.RawIOBase):
    """A file to COPY into: hands each tenant's groups to its sink. `finish` must be called after the last write.

    Every write is taken apart by itself: give some MiB at once.
    """

    def __init__(self, sinks: Sequence[TableSink], sums: KeySums, spill: Spill, held_bytes: int) -> None:
        super().__init__()
        self._sinks, self._sums, self._spill, self._most = sinks, sums, spill, held_bytes
        self._open = [_Open() for _ in sinks]
        self._held = 0  # in memory, bytes
        self._rest: list[bytes] = []  # a row of which the end has not come
        self._failed = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self._failed:  # a buffer before it hands over once more what could not be taken
            return len(data)
        text = bytes(data)
        end = text.rfind(b"\n") + 1
        if end:
            try:
                self._take_apart(b"".join((*self._rest, text[:end])))
            except BaseException:
                self._failed = True
                raise
            self._rest.clear()
        if end < len(text):
            self._rest.append(text[end:])
        return len(text)

    def finish(self) -> None:
        """Cut what is left, tenant by tenant. Raises ValueError where the last row has no end."""
        if self._rest:
            raise ValueError("the stream ends within a row")
        for tenant, sink in enumerate(self._sinks):
            self._cut(tenant, last=True)
            sink.close()

    def _take_apart(self, block: bytes) -> None:
        ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + 1
        # Every second element is a code, and the others are the rows.
        bounds = np.empty(2 * len(ends) + 1, np.int32)
        bounds[0] = 0
        bounds[2::2] = ends
        bounds[1::2] = bounds[:-1:2] + _WIDTH
        parts = pa.BinaryArray.from_buffers(
            pa.binary(), len(bounds) - 1, [None, pa.py_buffer(bounds), pa.py_buffer(block)]
        )
        odd = np.arange(1, len(bounds), 2, dtype=np.int32)
        _, coded = _gathered(parts, odd - 1)
        codes = b64decode(coded)  # passes over the tabs
        tenants = (np.frombuffer(codes, CODE)["slot"] >> MAX_BITS).astype(np.uint16)
        self._sums.add(codes, tenants)
        order = np.argsort(tenants, kind="stable")  # by counting, of 16 bits
        places, text = _gathered(parts, odd[order])
        tenants = tenants[order]
        firsts = np.concatenate(([0], np.flatnonzero(np.diff(tenants)) + 1))
        stops = places[np.append(firsts[1:], len(tenants))]
        for tenant, first, stop in zip(tenants[firsts].tolist(), places[firsts].tolist(), stops.tolist(), strict=True):
            self._add(tenant, bytes(text[first:stop]))
        if self._held > self._most:
            self._let_go()

    def _add(self, tenant: int, rows: bytes) -> None:
        mine = self._open[tenant]
        mine.pieces.append(rows)
        mine.size += len(rows)
        self._held += len(rows)
        if has_group(mine.size):
            self._cut(tenant, last=False)

    def _cut(self, tenant: int, last: bool) -> None:
        mine, take = self._open[tenant], self._sinks[tenant].group
        self._held -= sum(map(len, mine.pieces))
        text = b"".join((*map(self._spill.take, mine.spilled), *mine.pieces))
        self._open[tenant] = mine = _Open()
        at = 0
        while at < len(text):
            end = group_end(text, at, len(text), last)
            if end is None:
                mine.pieces, mine.size = [text[at:]], len(text) - at
                self._held += mine.size
                return
            group, at = text[at:end], end
            take(group, group.count(b"\n"))

    def _let_go(self) -> None:
        """Half of what is in memory into the file, of those who have most: many small pieces would cost more than they free."""
        held = [(sum(map(len, mine.pieces)), mine) for mine in self._open if mine.pieces]
        for size, mine in sorted(held, key=itemgetter(0), reverse=True):
            mine.spilled.append(self._spill.put(b"".join(mine.pieces)))
            mine.pieces = []
            self._held -= size
            if self._held <= self._most // 2:
                break


def _gathered(parts: Any, chosen: "npt.NDArray[np.int32]") -> "tuple[npt.NDArray[np.int32], memoryview]":
    """Elements of an array of bytes, one after the other: where each begins, and the last ends, and the bytes."""
    # Of a buffer: pa.array() would import pandas, a second and 58 MiB, to see whether it was given a series.
    found = parts.take(pa.Int32Array.from_buffers(pa.int32(), len(chosen), [None, pa.py_buffer(chosen)]))
    _, places, text = found.buffers()
    return np.frombuffer(places, np.int32)[: len(chosen) + 1], memoryview(text)
