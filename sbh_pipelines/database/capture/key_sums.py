"""The sums of rows as they come: what `deleted_rows.sums` and `changes.totals` ask the server, of hashes that came with the rows.

How many buckets a tenant has follows from the number of its rows, which is known at the end. So hashes and buckets are kept until
then, 12 bytes a row, on disk where they are many.
"""

from array import array
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from sbh_pipelines.database.capture.deleted_rows import Sums
from sbh_pipelines.database.schema.key_hash import MAX_BITS, bucket_bits
from sbh_pipelines.spill import Spill

# As the server sends them, with each row: the hash of its key; its tenant's place in the batch, and the finest bucket.
CODE = np.dtype([("hash", ">u8"), ("slot", ">u4")])
MOST_TENANTS = 1 << (32 - MAX_BITS)
_HELD = 1 << 20  # bytes
_LOW = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class TableSums:
    """One tenant's sums of a table, and the hash of all its keys as `changes.Totals` has it."""

    sums: Sums
    key_hash: str


class KeySums:
    """`add` what came with rows of a table, then ask for each tenant's sums."""

    def __init__(self, tenants: int, keyed: bool, spill: Spill) -> None:
        assert tenants <= MOST_TENANTS
        self.rows = np.zeros(tenants, np.int64)
        self._keyed, self._spill = keyed, spill
        self._held: list[bytes] = []
        self._bytes = 0
        self._spilled: list[int] = []

    def add(self, codes: bytes, tenants: "npt.NDArray[np.uint16]") -> None:
        """CODEs of rows, and the same rows' tenants."""
        self.rows += np.bincount(tenants, minlength=len(self.rows))
        self._held.append(codes)
        self._bytes += len(codes)
        if self._bytes >= _HELD:
            self._spilled.append(self._spill.put(b"".join(self._held)))
            self._held, self._bytes = [], 0

    def check(self, sent: int) -> None:
        """Raises ValueError unless as many rows came as the server says that it sent."""
        came = int(self.rows.sum())
        if came != sent:
            raise ValueError(f"the server sent {sent:,} rows, and {came:,} came")

    def finish(self) -> list[TableSums]:
        """By the tenant's place in the batch."""
        bits = [bucket_bits(rows) if self._keyed else 0 for rows in self.rows.tolist()]
        sizes = np.array([1 << b for b in bits], np.int64)
        first = np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes)))
        counts = np.zeros(first[-1], np.uint32)
        hashes = np.zeros(first[-1], np.uint64)
        plain = np.zeros(len(bits), np.uint64)
        for text in chain(map(self._spill.take, self._spilled), [b"".join(self._held)]):  # one at a time
            code = np.frombuffer(text, CODE)
            slot, value = code["slot"].astype(np.uint32), code["hash"].astype(np.uint64)
            tenant = slot >> MAX_BITS
            at = first[tenant] + (slot & (sizes - 1)[tenant])
            np.add.at(counts, at, np.uint32(1))
            np.bitwise_xor.at(hashes, at, value)
            if not self._keyed:  # XOR loses equal rows in pairs: a plain sum stands beside it
                np.add.at(plain, tenant, value & _LOW)
        return [
            self._of(b, counts[low : low + (1 << b)], hashes[low : low + (1 << b)], int(more))
            for b, low, more in zip(bits, first.tolist(), plain, strict=False)
        ]

    def _of(
        self, bits: int, counts: "npt.NDArray[np.uint32]", hashes: "npt.NDArray[np.uint64]", plain: int
    ) -> TableSums:
        sums = Sums(bits)
        sums.counts, sums.hashes = array("I", counts.tobytes()), array("Q", hashes.tobytes())
        extra = f"-{plain}" if not self._keyed and sums.rows else ""
        return TableSums(sums, sums.key_hash + extra)
