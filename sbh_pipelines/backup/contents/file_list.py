"""A backup's file list: lines of JSON in small chunks, found through a tree of chunk ids.

Leaves hold lines, in order of the path. Where there are more than a few leaves, their ids are put into chunks of their
own, and so on upwards until a few ids remain, which the component's document names: `detail`, and `detail_depth` when
there are levels between. Leaves end at entries that the path chooses and the other levels at ids that their own bits
choose, so that a changed file changes one chunk per level, whatever was added or removed elsewhere.
"""

import json
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from typing import Any

from sbh_pipelines.backup.contents.manifest import Component
from sbh_pipelines.errors import CorruptObject
from sbh_pipelines.files.file import FileEntry
from sbh_pipelines.repository.pack import PackWriter
from sbh_pipelines.repository.repository import Repository

_ID = 32  # bytes of a chunk id
# A leaf has at least this many entries and ends after one that its path chooses, one in eight: some 24 entries. Without
# the least number a few large leaves would hold most of the entries, and so be what most changes store anew.
_LEAF_LEAST, _LEAF_MOST, _LEAF_BYTES = 16, 256, 1 << 20
_NODE_LEAST, _NODE_MASK, _NODE_MOST = 16, 7, 256  # the same for ids, which are as good as random
_TOP = 64  # most ids in the document
# Leaves are put into packs this many bytes at a time, so that they lie side by side and are read with few requests.
_TOGETHER = 4 << 20
_AHEAD = 1024  # leaves whose ids are still being computed
MOST_MISSING = 1000  # names of files that are not there; how many there are is told beside


class FileListWriter:
    """Takes the list's lines in order of their paths; `finish` gives the keys of the component's document."""

    def __init__(self, writer: PackWriter) -> None:
        self._writer = writer
        self._leaf = bytearray()
        self._entries = 0
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._pending: deque[Future[bytes]] = deque()
        self._ids = bytearray()

    def add(self, path: str, line: bytes) -> None:
        self._leaf += line
        self._entries += 1
        if (
            (self._entries >= _LEAF_LEAST and _chosen(path))
            or self._entries >= _LEAF_MOST
            or len(self._leaf) >= _LEAF_BYTES
        ):
            self._cut()

    def _cut(self) -> None:
        if self._leaf:
            self._gathered.append(bytes(self._leaf))
            self._gathered_bytes += len(self._leaf)
            self._leaf.clear()
        self._entries = 0
        if self._gathered_bytes >= _TOGETHER:
            self._put()

    def _put(self) -> None:
        self._pending += [self._writer.put(leaf, keep=True) for leaf in self._gathered]
        self._gathered, self._gathered_bytes = [], 0
        self._resolve(_AHEAD)

    def _resolve(self, left: int) -> None:
        while len(self._pending) > left:
            self._ids += self._pending.popleft().result()

    def finish(self) -> dict[str, object]:
        """`detail`, and `detail_depth` unless the detail is the leaves themselves."""
        self._cut()
        self._put()
        self._resolve(0)
        ids, depth = bytes(self._ids), 0
        while len(ids) > _TOP * _ID:
            futures = [self._writer.put(node, keep=True) for node in _nodes(ids)]
            ids, depth = b"".join(future.result() for future in futures), depth + 1
        return {"detail": [chunk.hex() for chunk in _split(ids)], **({"detail_depth": depth} if depth else {})}


def _chosen(path: str) -> bool:
    # Multiplied, because the low bits of a CRC follow a pattern where names are numbered.
    return (zlib.crc32(path.encode("utf-8", "surrogatepass")) * 0x9E3779B1 & 0xFFFFFFFF) >> 29 == 0


def _split(ids: bytes) -> Iterator[bytes]:
    return (ids[at : at + _ID] for at in range(0, len(ids), _ID))


def _nodes(ids: bytes) -> Iterator[bytes]:
    """Runs of ids, cut after those that satisfy the mask."""
    begun = 0
    for end in range(_ID, len(ids), _ID):
        length = (end - begun) // _ID
        if length >= _NODE_MOST or (length >= _NODE_LEAST and ids[end - 1] & _NODE_MASK == 0):
            yield ids[begun:end]
            begun = end
    yield ids[begun:]


def list_chunks(repository: Repository, component: Component) -> Iterator[bytes]:
    """Ids of all chunks that the list of a files component consists of. Raises CorruptObject."""
    above: list[bytes] = []
    for leaf in _leaves(repository, component, above.append, None):
        yield from above
        above.clear()
        yield leaf
    yield from above


def list_lines(
    repository: Repository, component: Component, lost: Callable[[CorruptObject], None] | None = None
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """(fields, line) of the list in order. What cannot be read raises CorruptObject, or is told to `lost` and left out."""
    leaves = _leaves(repository, component, lambda _: None, lost)
    yield from _lines(repository, leaves, lost)


def missing_files(repository: Repository, component: Component, most: int) -> list[str]:
    """Keys of the first `most` files that rows refer to and that were not there: the list's last lines. Raises CorruptObject."""
    named = min(component.missing_references, MOST_MISSING)
    if not named:
        return []
    last = deque(_leaves(repository, component, lambda _: None, None), maxlen=named // _LEAF_LEAST + 2)
    keys = (fields["missing"] for fields, _ in _lines(repository, last, None) if "missing" in fields)
    return [str(key) for key in islice(keys, most)]


def _lines(
    repository: Repository, leaves: Iterable[bytes], lost: Callable[[CorruptObject], None] | None
) -> Iterator[tuple[dict[str, Any], bytes]]:
    for chunk, plain in _contents(repository, leaves, lost):
        for line in plain.splitlines(keepends=True):
            try:
                yield json.loads(line), line
            except ValueError:
                error = CorruptObject("A detail has a malformed line", on=f"chunk {chunk.hex()[:16]}")
                if lost is None:
                    raise error from None
                lost(error)


def _leaves(
    repository: Repository,
    component: Component,
    saw: Callable[[bytes], None],
    lost: Callable[[CorruptObject], None] | None,
) -> Iterator[bytes]:
    """Ids of the leaves in order; `saw` is told those of the levels above."""

    def below(above: Iterator[bytes]) -> Iterator[bytes]:
        for chunk, ids in _contents(repository, above, lost):
            saw(chunk)
            if len(ids) % _ID:
                raise CorruptObject("A file list has a malformed level", on=f"chunk {chunk.hex()[:16]}")
            yield from _split(ids)

    level: Iterator[bytes] = map(bytes.fromhex, component.detail)
    for _ in range(component.detail_depth):
        level = below(level)
    return level


def _contents(
    repository: Repository, chunks: Iterable[bytes], lost: Callable[[CorruptObject], None] | None
) -> Iterator[tuple[bytes, bytes]]:
    """(id, plaintext) of chunks in order, some MiB fetched at once."""
    for batch in _batches(repository, chunks):
        repository.read_ahead(batch)
        found: list[tuple[bytes, bytes | CorruptObject]] = []
        for chunk in batch:  # all of them now: whatever is read in between drives them out of the cache
            try:
                found.append((chunk, repository.read_chunk(chunk)))
            except CorruptObject as error:
                found.append((chunk, error))
        for chunk, plain in found:
            if isinstance(plain, bytes):
                yield chunk, plain
            elif lost is None:
                raise plain
            else:
                lost(plain)


def _batches(repository: Repository, chunks: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for chunk in chunks:
        location = repository.index.find(chunk)
        batch.append(chunk)
        size += location.plain if location else 0
        if size >= _TOGETHER // 2:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def read_files(repository: Repository, component: Component) -> Iterator[FileEntry]:
    """The files of a backup in path order. Raises CorruptObject."""
    for fields, _ in list_lines(repository, component):
        if "missing" not in fields:
            yield FileEntry.from_dict(fields, component.key)
