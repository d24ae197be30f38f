"""Rows of many tenants in one stream, taken apart by tenant and cut into groups.

Each row has a code of fixed width in front: whose it is, and what the sums are made of (`key_sums.py`). Line ends are found and
codes read by NumPy, rows are gathered by Arrow, some MiB at a time: nothing is done row by row. Each tenant's rows come in the
order of the key, so its groups are those that a COPY of its own gives.

Memory that is fresh from the system costs more than what is done in it: so rows are looked at where they came in, and put together
in memory that is kept for that.

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

from sbh_pipelines.database.capture.capture import BatchSink
from sbh_pipelines.database.capture.key_sums import CODE, KeySums
from sbh_pipelines.database.capture.row_groups import group_end, has_group
from sbh_pipelines.database.schema.key_hash import MAX_BITS
from sbh_pipelines.spill import Spill

_CODE_WIDTH = CODE.itemsize // 3 * 4  # in base64, without padding
_WIDTH = _CODE_WIDTH + 1  # and a tab
_CODE = np.dtype(f"V{_CODE_WIDTH}")
_MIB = 1 << 20
_KEPT = 8 << 20  # bytes for which memory is kept; one huge row is not to stay in it


class _Open:
    """What is open of one tenant: rows in memory, and before these rows in the file."""

    __slots__ = ("pieces", "size", "spilled")

    def __init__(self) -> None:
        self.pieces: list[bytes | memoryview] = []
        self.spilled: list[int] = []
        self.size = 0  # of both, bytes


class TenantCutter(io.RawIOBase):
    """A file to COPY into: hands each tenant's groups to its sink. `finish` must be called after the last write.

    Every write is taken apart by itself: give some MiB at once.
    """

    def __init__(self, sinks: Sequence[BatchSink], sums: KeySums, spill: Spill, held_bytes: int) -> None:
        super().__init__()
        self._sinks, self._sums, self._spill, self._most = sinks, sums, spill, held_bytes
        self._open = [_Open() for _ in sinks]
        self._held = 0  # in memory, bytes
        self._rest: list[bytes] = []  # a row of which the end has not come
        self._failed = False
        self._is_end = np.empty(0, np.bool_)
        self._whole = bytearray()  # one tenant's rows, put together

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self._failed:  # a buffer before it hands over once more what could not be taken
            return len(data)
        text, size = data, len(data)
        whole = size > 0 and data[size - 1] == ord("\n")
        try:
            # A COPY comes by whole rows: they are taken apart in the buffer's own memory, of which nothing is kept.
            if not whole or self._rest:
                text = bytes(data)
                end = text.rfind(b"\n") + 1
                rest, text = text[end:], b"".join((*self._rest, text[:end])) if end else b""
                if end:
                    self._rest.clear()
                if rest:
                    self._rest.append(rest)
            if text:
                self._take_apart(text)
        except BaseException:
            self._failed = True
            raise
        return size

    def finish(self) -> None:
        """Cut what is left, tenant by tenant. Raises ValueError where the last row has no end."""
        if self._rest:
            raise ValueError("the stream ends within a row")
        for tenant, sink in enumerate(self._sinks):
            self._cut(tenant, last=True)
            sink.close()

    def _take_apart(self, block: "bytes | memoryview") -> None:
        octets = np.frombuffer(block, np.uint8)
        ends = np.flatnonzero(self._line_ends(octets)) + 1
        # Every second element is a code, and the others are the rows.
        bounds = np.empty(2 * len(ends) + 1, np.int32)
        bounds[0] = 0
        bounds[2::2] = ends
        bounds[1::2] = bounds[:-1:2] + _WIDTH
        # What begins at each octet, of which those at the beginning of a line are taken.
        anywhere = np.ndarray((len(octets) - _CODE_WIDTH + 1,), _CODE, octets, strides=(1,))
        codes = b64decode(anywhere[bounds[:-1:2]].tobytes())
        tenants = (np.frombuffer(codes, CODE)["slot"] >> MAX_BITS).astype(np.uint16)
        self._sums.add(codes, tenants)
        order = np.argsort(tenants, kind="stable")  # by counting, of 16 bits
        places, text = _gathered(block, bounds, (2 * order + 1).astype(np.int32))
        tenants = tenants[order]
        firsts = np.concatenate(([0], np.flatnonzero(np.diff(tenants)) + 1))
        stops = places[np.append(firsts[1:], len(tenants))]
        for tenant, first, stop in zip(tenants[firsts].tolist(), places[firsts].tolist(), stops.tolist(), strict=True):
            # The larger part of the block may keep all of it in memory, and no other.
            rows = text[first:stop]
            self._add(tenant, rows if 2 * len(rows) > len(text) else bytes(rows))
        if self._held > self._most:
            self._let_go()

    def _line_ends(self, octets: "npt.NDArray[np.uint8]") -> "npt.NDArray[np.bool_]":
        if len(octets) > _KEPT:
            found: npt.NDArray[np.bool_] = octets == ord("\n")
            return found
        if len(octets) > len(self._is_end):
            self._is_end = np.empty(len(octets), np.bool_)
        found = self._is_end[: len(octets)]
        np.equal(octets, ord("\n"), out=found)
        return found

    def _add(self, tenant: int, rows: "bytes | memoryview") -> None:
        mine = self._open[tenant]
        mine.pieces.append(rows)
        mine.size += len(rows)
        self._held += len(rows)
        if has_group(mine.size):
            self._cut(tenant, last=False)

    def _cut(self, tenant: int, last: bool) -> None:
        mine, take = self._open[tenant], self._sinks[tenant].group
        self._held -= sum(map(len, mine.pieces))
        text, size = self._put_together(mine), mine.size
        self._open[tenant] = mine = _Open()
        at = 0
        with memoryview(text) as whole:
            while at < size:
                end = group_end(text, at, size, last)
                if end is None:
                    mine.pieces, mine.size = [bytes(whole[at:size])], size - at
                    self._held += mine.size
                    return
                with whole[at:end] as group:
                    take(group, text.count(b"\n", at, end))
                at = end

    def _put_together(self, mine: _Open) -> bytearray:
        """The rows of one tenant, at the beginning of memory that the next one's take."""
        text = self._whole
        if len(text) < mine.size:
            text = bytearray(-(-mine.size // _MIB) * _MIB)
            self._whole = text if len(text) <= _KEPT else bytearray()
        filled = 0
        with memoryview(text) as whole:
            for number in mine.spilled:
                filled += self._spill.take_into(number, whole[filled:])
            for piece in mine.pieces:
                whole[filled : filled + len(piece)] = piece
                filled += len(piece)
        return text

    def _let_go(self) -> None:
        """Half of what is in memory into the file, of those who have most: many small pieces would cost more than they free."""
        held = [(sum(map(len, mine.pieces)), mine) for mine in self._open if mine.pieces]
        for size, mine in sorted(held, key=itemgetter(0), reverse=True):
            mine.spilled.append(self._spill.put(mine.pieces[0] if len(mine.pieces) == 1 else b"".join(mine.pieces)))
            mine.pieces = []
            self._held -= size
            if self._held <= self._most // 2:
                break


def _gathered(
    block: "bytes | memoryview", bounds: "npt.NDArray[np.int32]", chosen: "npt.NDArray[np.int32]"
) -> "tuple[npt.NDArray[np.int32], memoryview]":
    """Some of the parts that `bounds` make of a block, one after the other: where each begins, and the last ends, and the bytes."""
    parts = pa.BinaryArray.from_buffers(pa.binary(), len(bounds) - 1, [None, pa.py_buffer(bounds), pa.py_buffer(block)])
    # Of buffers: pa.array() would import pandas, to see whether it was given one of its series.
    found = parts.take(pa.Int32Array.from_buffers(pa.int32(), len(chosen), [None, pa.py_buffer(chosen)]))
    _, places, text = found.buffers()
    return np.frombuffer(places, np.int32)[: len(chosen) + 1], memoryview(text).cast("B")
