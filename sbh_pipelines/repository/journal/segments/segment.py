"""A segment as an object: sealed blocks, the sealed directory, a trailer.

The blocks go to a temporary file first, sealed as they are, so that a segment of any size takes little memory; and its name
holds a digest of everything in it, so that it is known only at the end.
"""

import hashlib
import mmap
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Self

from sbh_pipelines.errors import CorruptObject
from sbh_pipelines.repository.bounds import SEGMENT_DIRECTORY_BYTES
from sbh_pipelines.repository.journal.segments.block import BlockFacts, Origin, seal_block
from sbh_pipelines.repository.journal.segments.directory import (
    SEGMENT_REMEDY,
    BlockRef,
    SegmentFacts,
    digest_of,
    pack_directory,
    tenant_line,
)
from sbh_pipelines.repository.journal.segments.names import SegmentName
from sbh_pipelines.repository.journal.segments.public_key import PublicKey
from sbh_pipelines.repository.journal.segments.room import room
from sbh_pipelines.repository.seal import JOURNAL, Sealer

WHOLE_BYTES = 8 << 20  # a segment up to this size is held in memory, and put by one request
_MAGIC = b"SBHJRNL1"
_TRAILER = struct.Struct(">QI8s")  # offset of the sealed directory, its length, magic
TRAILER_BYTES = _TRAILER.size


class SegmentWriter:
    """Gathers a segment's blocks. A context manager; `Journal.write` stores what it has. Not thread-safe."""

    def __init__(self, region: str, incarnation: str, start: int, end: int, *, level: int = 0) -> None:
        """The range is (start, end]: of blocks that are sealed here it is part of what they are bound to."""
        self.name = SegmentName(incarnation, start, end, level, "", region)
        self._file = tempfile.SpooledTemporaryFile(max_size=WHOLE_BYTES)
        self._size = 0
        self._numbers: dict[str, int] = {}
        self._blocks: dict[str, dict[tuple[str, int], list[str]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what is not written yet is wanted by nobody
            self._file.close()

    def __len__(self) -> int:
        """Bytes of the blocks so far."""
        return self._size

    @property
    def tenants(self) -> int:
        """How many have a block in it."""
        return len(self._blocks)

    def add_block(self, tenant: PublicKey, plain: bytes, facts: BlockFacts) -> None:
        """Seal a block to a tenant's key and append it; a tenant's blocks in the order of the commits."""
        number = self._numbers.get(tenant.tenant_key, 0)
        self._numbers[tenant.tenant_key] = number + 1
        origin = Origin(self.name.start, self.name.end, number)
        sealed = seal_block(plain, tenant.public, origin.aad(tenant.tenant_key, self.name.incarnation))
        digest = hashlib.sha256(sealed).digest()
        ref = BlockRef(tenant.home, tenant.epoch, 0, len(sealed), digest, facts, origin, self.name.start)
        self.copy_block(tenant.tenant_key, ref, sealed)

    def copy_block(self, tenant_key: str, ref: BlockRef, sealed: bytes) -> None:
        """Append a block of another segment of the incarnation as it is; all of `ref` but its offset is taken over."""
        placed = replace(ref, offset=self._size)
        with room(self._size + len(sealed)):
            self._file.write(sealed)
        self._size += len(sealed)
        self._blocks.setdefault(tenant_key, {}).setdefault((ref.home, ref.epoch), []).append(placed.as_text())

    @contextmanager
    def finished(self, facts: SegmentFacts, sealer: Sealer) -> Iterator[tuple[SegmentName, bytes | memoryview]]:
        """(name, the object's bytes, valid within the block); `sealer`: the catalog's. Nothing may be added after it."""
        plain = pack_directory(self.name, facts, {key: tenant_line(blocks) for key, blocks in self._blocks.items()})
        name = replace(self.name, digest=digest_of(plain))
        sealed = sealer.seal(plain, name.bound, JOURNAL)
        if len(sealed) > SEGMENT_DIRECTORY_BYTES:
            raise CorruptObject(
                "A segment of the journal has more blocks than a directory can name",
                on=name.below,
                why=f"{len(sealed):,} bytes of directory",
                remedy="drain more often",
            )
        name = replace(name, size=self._size + len(sealed) + TRAILER_BYTES)
        with room(name.size):
            self._file.write(sealed)
            self._file.write(_TRAILER.pack(self._size, len(sealed), _MAGIC))
            self._file.flush()
        if name.size <= WHOLE_BYTES:
            self._file.seek(0)
            yield name, self._file.read()
            return
        with room(name.size):
            self._file.rollover()
            self._file.flush()
        # Not closed here: whoever was given a part of it may still hold that. It goes with the last of them.
        yield name, memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))


def unpack_trailer(tail: bytes, size: int, on: str) -> tuple[int, int]:
    """(offset, length) of the sealed directory of a segment of `size` bytes that ends with `tail`. Raises CorruptObject."""
    if len(tail) >= TRAILER_BYTES:
        offset, length, magic = _TRAILER.unpack(tail[-TRAILER_BYTES:])
        if magic == _MAGIC and offset + length + TRAILER_BYTES == size and length <= SEGMENT_DIRECTORY_BYTES:
            return offset, length
    raise CorruptObject(
        "Not a whole segment of the journal",
        on=on,
        why="its trailer is missing or wrong: truncated or overwritten",
        remedy=SEGMENT_REMEDY,
    )
