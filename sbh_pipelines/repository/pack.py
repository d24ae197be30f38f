"""From plaintext to stored packs: sealing in threads, packs per tenant, uploads in threads, memory bounded.

    PackPipeline     shared by all tenants of a batch: two thread pools and the byte budget
    PackWriter       one tenant's open pack; `put` takes a chunk, `finish` flushes

The budget counts plaintext that waits to be sealed plus sealed bytes in open and uploading packs, each of which is in memory
once: chunks are sealed in memory of the thread's own, put into the pack's, and the driver sends from there. When it is used
up, what the largest open pack holds goes to a temporary file, from which it is read when the pack is stored: a pass over a table
has rows of all tenants of a batch open at once, and each tenant's are one object nevertheless. Where no other is open, or the disk
is full, the pack is closed early instead: packs get smaller, memory does not grow. One chunk larger than the whole budget (a single
huge row) is let through alone. What readers of files hold before it is put has an allowance of its own.
"""

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType

from sbh_pipelines.allocator import bound_arenas
from sbh_pipelines.concurrency import Allowance
from sbh_pipelines.errors import NoRoom, SbhError
from sbh_pipelines.repository.format import Entry, Keys, pack_entries, pack_trailer
from sbh_pipelines.repository.index import ChunkIndex
from sbh_pipelines.repository.inventory import Written
from sbh_pipelines.repository.seal import DIRECTORY, Sealer, SealingSpace
from sbh_pipelines.settings import BackupSettings
from sbh_pipelines.spill import PIECE, Spill
from sbh_pipelines.stores.base import ObjectStore

# Most chunks in a pack: of tiny files a pack of bytes alone would gather hundreds of thousands, each with its entry.
_PACK_ENTRIES = 8192
_KEPT_SPACE = 8 << 20  # bytes of a chunk for which memory is kept; one huge row is not to stay in it
_WAITING = 4 << 20  # bytes of plaintext that keep a sealing thread busy: more of it would only take packs their room
_BLOCK = 256 << 10  # kept memory comes in so many bytes, or times that
_SMALL = 256 << 10  # bytes of a chunk that the allocator has at hand


class _Blocks:
    """Memory for plaintext that waits to be sealed, used again and again: what is fresh from the system is dear. Thread-safe."""

    def __init__(self, most: int) -> None:
        """`most`: bytes that are kept while nothing is in them."""
        self._most, self._kept, self._lock = most, 0, threading.Lock()
        self._free: dict[int, list[bytearray]] = {}  # by size

    def copy(self, plain: memoryview) -> "tuple[bytes | memoryview, bytearray | None]":
        """A copy, and the memory that it is in, to be given back after it."""
        size = -(-len(plain) // _BLOCK) * _BLOCK
        if len(plain) <= _SMALL or size > _KEPT_SPACE:
            return bytes(plain), None
        with self._lock:
            free = self._free.get(size)
            block = free.pop() if free else None
            self._kept -= size if block is not None else 0
        if block is None:
            block = bytearray(size)
        view = memoryview(block)[: len(plain)]
        view[:] = plain
        return view, block

    def give_back(self, block: bytearray) -> None:
        with self._lock:
            if self._kept + len(block) <= self._most:
                self._kept += len(block)
                self._free.setdefault(len(block), []).append(block)


class _OpenPack:
    """What a pack holds so far: `body` in memory, and before it what was spilled, in pieces."""

    __slots__ = ("body", "entries", "pieces", "spilled")

    def __init__(self) -> None:
        self.body = bytearray()
        self.entries: list[Entry] = []
        self.pieces: list[int] = []
        self.spilled = 0  # bytes

    @property
    def size(self) -> int:
        return self.spilled + len(self.body)

    def split(self) -> "_OpenPack":
        """What is in memory, as a pack of its own; what was spilled stays. No chunk lies in both."""
        rest, at = _OpenPack(), self.spilled
        rest.entries = [replace(entry, offset=entry.offset - at) for entry in self.entries if entry.offset >= at]
        rest.body, self.body = self.body, bytearray()
        del self.entries[len(self.entries) - len(rest.entries) :]
        return rest


class PackPipeline:
    """Threads and memory for any number of PackWriters. A context manager."""

    def __init__(
        self,
        memory_bytes: int,
        pack_bytes: int,
        seal_threads: int,
        upload_threads: int,
        reading_bytes: int = 16 << 20,
    ) -> None:
        bound_arenas()
        self.pack_bytes = pack_bytes
        self.reading = Allowance(reading_bytes)
        self._limit = memory_bytes
        self._used = self._waiting = 0
        self._most_waiting = seal_threads * _WAITING
        self.peak = 0  # the most the budget ever held, bytes
        self._changed = threading.Condition()
        self._writers: set[PackWriter] = set()
        self._claims = 0  # packs that wait for memory to be stored from: before anything else gets some
        self._spill, self._spilling, self._disk_is_full = Spill(), threading.Lock(), False
        self.space, self.blocks = SealingSpace(), _Blocks(min(self._most_waiting, memory_bytes // 4))
        self.sealers = ThreadPoolExecutor(seal_threads, thread_name_prefix="seal")
        # Apart from the uploaders: these go on with packs in memory while it waits for memory.
        self.fetcher = ThreadPoolExecutor(1, thread_name_prefix="fetch")
        self.uploaders = ThreadPoolExecutor(upload_threads, thread_name_prefix="upload")

    def __enter__(self) -> "PackPipeline":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for threads in (self.sealers, self.fetcher, self.uploaders):
            # What waits to be sealed is counted until it is, and little: somebody may wait for that memory.
            threads.shutdown(wait=True, cancel_futures=kind is not None and threads is not self.sealers)
        self._spill.close()

    def register(self, writer: "PackWriter") -> None:
        with self._changed:
            self._writers.add(writer)

    def unregister(self, writer: "PackWriter") -> None:
        with self._changed:
            self._writers.discard(writer)

    def acquire(self, size: int, *, claims: bool = False) -> None:
        """Wait until `size` bytes fit the budget, and few wait to be sealed. `claims`: sealed bytes, before all others."""
        with self._changed:
            self._claims += claims
        try:
            while not self._acquired(size, claims):
                with self._changed:
                    waits = self._waits(size, claims)
                    largest = None if waits else max(self._writers, key=lambda w: w.open_bytes, default=None)
                    alone = len(self._writers) < 2
                if largest is not None and largest.open_bytes:
                    if alone or self._disk_is_full:
                        largest.close_pack()
                    else:
                        largest.spill_pack()
                    continue
                with self._changed:
                    if not self._fits(size, claims):
                        self._changed.wait(timeout=1.0)
        finally:
            with self._changed:
                self._claims -= claims
                self._changed.notify_all()

    def _waits(self, size: int, claims: bool) -> bool:
        """Whether it is others' turn: room would not help."""
        if claims:
            return False
        return self._claims > 0 or (self._waiting > 0 and self._waiting + size > self._most_waiting)

    def _fits(self, size: int, claims: bool) -> bool:
        return not self._waits(size, claims) and (self._used + size <= self._limit or not self._used)

    def _acquired(self, size: int, claims: bool) -> bool:
        with self._changed:
            if not self._fits(size, claims):
                return False
            self._used += size
            if not claims:
                self._waiting += size
            self.peak = max(self.peak, self._used)
            return True

    def spill(self, pack: _OpenPack) -> None:
        """Move what it holds in memory to disk. Where there is no room it stays, and no pack is spilled any more."""
        size, pieces = len(pack.body), list[int]()
        if self._disk_is_full:
            return
        with self._spilling:
            try:
                with memoryview(pack.body) as body:
                    for at in range(0, size, PIECE):
                        with body[at : at + PIECE] as piece:
                            pieces.append(self._spill.put(piece))
            except BaseException as error:
                for number in pieces:
                    self._spill.drop(number)
                if not isinstance(error, NoRoom):
                    raise
                self._disk_is_full = True
                return
        pack.pieces += pieces
        pack.body, pack.spilled = bytearray(), pack.spilled + size
        self.release(size)

    def whole(self, pack: _OpenPack) -> bytearray:
        """What was spilled of a pack, in memory, which must have been acquired. Raises NoRoom where the file cannot be read."""
        body, filled = bytearray(pack.spilled), 0
        with memoryview(body) as room, self._spilling:
            while pack.pieces:
                filled += self._spill.take_into(pack.pieces.pop(0), room[filled:])
        return body

    def drop(self, pack: _OpenPack) -> None:
        """What it holds is not needed."""
        with self._spilling:
            for piece in pack.pieces:
                self._spill.drop(piece)
        self.release(len(pack.body))

    def release(self, size: int, *, sealed: int = 0) -> None:
        """So many bytes are in memory no more, and so many of plaintext are sealed."""
        with self._changed:
            self._used -= size
            self._waiting -= sealed
            self._changed.notify_all()


class PackWriter:
    """Stores one tenant's chunks. Thread-safe.

    `stored` collects (pack id, size) of what was uploaded; the index has their entries. After an upload or a seal failed,
    every later `put` and `finish` raises that error: the tenant fails, the batch goes on.
    """

    def __init__(
        self,
        pipeline: PackPipeline,
        store: ObjectStore,
        prefix: str,
        sealer: Sealer,
        index: ChunkIndex,
        written: Written,
    ) -> None:
        self._pipeline, self._store, self._prefix, self._sealer, self._index = pipeline, store, prefix, sealer, index
        self._written = written
        self._lock = threading.RLock()
        self._pack = _OpenPack()
        self._uploads: set[Future[None]] = set()
        self._sealing: set[Future[bytes]] = set()
        self._error: BaseException | None = None
        self.stored: list[tuple[bytes, int]] = []
        self.chunks = self.chunks_new = self.bytes_stored = self._entries_stored = 0
        pipeline.register(self)

    @property
    def open_bytes(self) -> int:
        """What the open pack holds in memory."""
        return len(self._pack.body)

    def room(self, size: int) -> AbstractContextManager[None]:
        """Memory for content of so many bytes that is read to be put here."""
        return self._pipeline.reading.taken(size)

    def put(self, plain: bytes | memoryview, *, keep: bool = False) -> "Future[bytes]":
        """Queue a chunk; the future gives its id. Blocks while the pipeline's memory is full. `keep`: it is read once more soon.

        What a view shows is copied.
        """
        self._raise_if_failed()
        size, block = len(plain), None
        self._pipeline.acquire(size)
        try:
            if isinstance(plain, memoryview):
                plain, block = self._pipeline.blocks.copy(plain)
            future = self._pipeline.sealers.submit(self._seal, plain, block, keep)
        except BaseException:
            self._pipeline.release(size, sealed=size)
            raise
        with self._lock:
            self._sealing.add(future)
        future.add_done_callback(self._sealed)
        return future

    def _seal(self, plain: bytes | memoryview, block: bytearray | None, keep: bool) -> bytes:
        held = size = len(plain)
        try:
            name = self._sealer.name(plain)
            new = self._index.claim(name)
            if keep:
                self._written.keep(name, bytes(plain))
            if new:
                space = self._pipeline.space if size <= _KEPT_SPACE else SealingSpace()
                sealed = self._sealer.seal_chunk(plain, name, space)
                held = len(sealed)
                self._pipeline.release(size - held, sealed=size)
                size = 0
                self._append(name, sealed, len(plain))
                held = 0
            with self._lock:
                self.chunks += 1
                self.chunks_new += new
            return name
        except BaseException as error:
            self._error = self._error or error
            raise
        finally:
            if block is not None:
                self._pipeline.blocks.give_back(block)
            if held:
                self._pipeline.release(held, sealed=size)

    def _sealed(self, future: "Future[bytes]") -> None:
        with self._lock:
            self._sealing.discard(future)

    def _append(self, name: bytes, sealed: memoryview, plain: int) -> None:
        with self._lock:
            pack = self._pack
            at = pack.size
            pack.body += sealed  # first: an entry without its bytes would name those of the next one
            pack.entries.append(Entry(name, at, len(sealed), plain))
            if pack.size >= self._pipeline.pack_bytes or len(pack.entries) >= _PACK_ENTRIES:
                self.close_pack()

    def spill_pack(self) -> None:
        """Move what the open pack holds in memory to disk."""
        with self._lock:
            if self._pack.body:
                self._pipeline.spill(self._pack)

    def close_pack(self) -> None:
        """Hand the open pack, if it holds anything, to the uploaders."""
        with self._lock:
            pack, self._pack = self._pack, _OpenPack()
            if not pack.entries:
                return
            try:
                if pack.pieces and pack.body:
                    self._pipeline.spill(pack)
                if pack.pieces and pack.body:
                    self._hand_over(pack.split())  # the disk is full, and what waits for memory may hold none
                self._hand_over(pack)
            except BaseException as error:  # perhaps in another tenant's thread: the pack that is lost is this one's
                self._error = self._error or error
                self._pipeline.drop(pack)
                raise

    def _hand_over(self, pack: _OpenPack) -> None:
        if pack.pieces:
            self._under_way(self._pipeline.fetcher.submit(self._fetch, pack))
        else:
            self._under_way(self._pipeline.uploaders.submit(self._upload, pack.body, pack.entries))

    def _under_way(self, stored: Future[None]) -> None:
        with self._lock:
            self._uploads.add(stored)
            stored.add_done_callback(self._uploaded)

    def _fetch(self, pack: _OpenPack) -> None:
        """Get a pack that was spilled into memory, and hand it to the uploaders."""
        try:
            self._pipeline.acquire(pack.size, claims=True)
            try:
                body = self._pipeline.whole(pack)
                self._under_way(self._pipeline.uploaders.submit(self._upload, body, pack.entries))
            except BaseException:
                self._pipeline.release(pack.size)
                self._pipeline.drop(pack)
                raise
        except BaseException as error:
            self._error = self._error or error
            raise

    def _uploaded(self, upload: "Future[None]") -> None:
        with self._lock:
            self._uploads.discard(upload)

    def _upload(self, body: bytearray, entries: list[Entry]) -> None:
        size = len(body)
        try:
            directory = self._sealer.seal(pack_entries(entries), b"", DIRECTORY)
            body += directory
            body += pack_trailer(size, len(directory))
            pack_id = hashlib.sha256(body).digest()
            etag = self._store.put(self._prefix + Keys.pack(pack_id), body)
            self._written.put(Keys.pack(pack_id), body, etag)
            self._index.add_pack(pack_id, len(body), entries, self._sealer.epoch)
            with self._lock:
                self.stored.append((pack_id, len(body)))
                self._entries_stored += len(entries)
                self.bytes_stored += len(body)
        except BaseException as error:
            self._error = self._error or error
            raise
        finally:
            self._pipeline.release(size)

    def finish(self) -> None:
        """Flush, wait for all uploads, and raise what failed."""
        try:
            self._wait(lambda: list(self._sealing))
            self._raise_if_failed()
            self.close_pack()
            self._wait(lambda: list(self._uploads))
            self._raise_if_failed()
            if self._entries_stored != self.chunks_new:
                raise RuntimeError(f"{self.chunks_new} chunks were sealed, and {self._entries_stored} stored")
        finally:
            self._pipeline.unregister(self)

    def abort(self) -> None:
        """Give up: drop what is open, wait for what is under way, so that the budget is whole again."""
        self._pipeline.unregister(self)
        self._wait(lambda: list(self._sealing))
        with self._lock:
            dropped, self._pack = self._pack, _OpenPack()
        self._pipeline.drop(dropped)
        self._wait(lambda: list(self._uploads))

    def _wait(self, futures: "Callable[[], list[Future[bytes]] | list[Future[None]]]") -> None:
        # Done-callbacks remove futures from the sets; a future that failed has left its error in self._error.
        while True:
            with self._lock:
                waiting = futures()
            if not waiting:
                return
            for future in waiting:
                future.exception()

    def _raise_if_failed(self) -> None:
        if self._error is not None:
            if isinstance(self._error, SbhError):
                raise self._error
            raise RuntimeError(f"sealing or storing a chunk failed: {self._error!r}") from self._error


def pipeline(settings: BackupSettings) -> PackPipeline:
    """The threads and the byte budget of one step."""
    memory = settings.memory_mib << 20
    # A quarter for files that are read, or rows; an eighth for what sealing and the allocator need.
    reading, spare = memory // 4, memory // 8
    return PackPipeline(
        memory - reading - spare, settings.pack_mib << 20, settings.seal_threads, settings.upload_threads, reading
    )


def written(writer: PackWriter) -> dict[str, float]:
    """A finished writer's share of the counters."""
    return {
        "chunks": writer.chunks,
        "chunks_new": writer.chunks_new,
        "bytes_stored": writer.bytes_stored,
        "packs": len(writer.stored),
    }
