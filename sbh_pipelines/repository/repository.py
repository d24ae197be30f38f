"""One tenant's repository: finding and reading chunks, writing documents.

Open for reading: nothing is written. Open for writing: the data key is created if there is none. Both read the index
objects and the list of packs; a pack that no index names (its writer was killed) is opened by its own directory, so what
was stored is reused; an index entry whose pack is gone is not believed, so what was lost is stored anew.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

from sbh_pipelines.concurrency import streamed
from sbh_pipelines.errors import (
    CorruptObject,
    ObjectMissing,
    RepositoryError,
    SbhError,
    StoreDenied,
    StoreError,
)
from sbh_pipelines.model import BackupId, TenantId
from sbh_pipelines.repository.bounds import DIRECTORY_BYTES, UNNAMED_PACKS, most_bytes, too_many
from sbh_pipelines.repository.catalog.owners import OwnerDocument
from sbh_pipelines.repository.documents import Documents, read_signed, signed
from sbh_pipelines.repository.format import (
    PACK_TRAILER_BYTES,
    VALIDATE,
    Entry,
    IndexedPack,
    Keys,
    compact,
    pack_entries,
    pack_id_of,
    pack_index,
    parse_document,
    seal_epoch,
    unpack_entries,
    unpack_index,
    unpack_trailer,
)
from sbh_pipelines.repository.index import ChunkIndex, Location
from sbh_pipelines.repository.inventory import Inventory, Written, take_inventory
from sbh_pipelines.repository.pack import PackPipeline, PackWriter
from sbh_pipelines.repository.retirement import Retirement, read_retirement, retirement_object
from sbh_pipelines.repository.seal import DIRECTORY, INDEX, Sealer
from sbh_pipelines.stores.base import ObjectInfo, ObjectStore

_CACHED_CHUNKS = 4
MERGED = "merged"  # the step that names index objects which stand for several earlier ones
_MERGE_AT = 8  # small index objects
_KEPT_INDEX_BYTES = 256 << 10  # of each repository that is open
_CONDEMNED = "damaged-pack"  # the kind of the signed document
CLEARED = "whole-pack"  # of one that was put again since: it stands in the place of the mark
_DOUBTFUL_MARKS = 8  # not signed, and for each the pack is read
_HASHED_AT_ONCE = 8 << 20
_LARGEST_PACK = 3 << 30  # the largest that can be set, and one row more
_READ_AHEAD = 4 << 20  # bytes of plaintext
_TOGETHER = 4 << 20  # bytes of plaintext that one request gives
_GAP = 64 << 10  # bytes of other chunks, which are sooner read than another request is made
INDEX_BYTES = 2 << 20  # of entries in one index object: some 44,000 chunks


@dataclass(frozen=True, slots=True)
class Damage:
    """Something wrong with an object, found while opening; the repository goes on without it."""

    key: str
    error: SbhError


class Directory(NamedTuple):
    """What a pack says of itself."""

    epoch: int
    entries: Iterator[Entry]


def _forged_mark(on: str) -> CorruptObject:
    return CorruptObject(
        "A mark says that a pack is damaged, and is not signed",
        on=on,
        why="of an earlier release, or forged: the pack is whole, or there are too many such marks to look at it",
        remedy="run `sbh backup validate --deep`; then delete the mark",
    )


class Repository(Documents):
    """Opened by `open_repository`. Thread-safe for reading; one PackWriter per step for writing."""

    def __init__(self, store: ObjectStore, prefix: str, tenant: TenantId, sealer: Sealer) -> None:
        super().__init__(store, prefix, tenant, sealer)
        self.index = ChunkIndex()
        self.written = Written()  # by this process, for the proof before a commit
        self._proves = False  # whether that is believed only where a listing proves it
        self.inventory = Inventory(beside=None)  # what there was when the index was loaded
        self.damages: list[Damage] = []
        self.owner: OwnerDocument | None = None  # whose it says it is
        self.adopts: Callable[[str], bool] = lambda _: False  # whether a key is one that its owner had before
        self.new = False  # its data key was made just now: nothing there can be read with it
        self.indexed: set[str] = set()  # index objects that were read and are whole
        self.old_index: set[str] = set()  # those that are sealed in an earlier key epoch than the newest
        self.unindexed: dict[bytes, int] = {}  # whole packs, and their sizes, that no index names
        self.lost: set[bytes] = set()  # packs that an index names and that are gone, or not whole
        self.marked_damaged: set[bytes] = set()  # packs that deep validation found to be damaged
        self.doubted: set[bytes] = set()  # packs with a mark that nobody signed, beyond those that were looked into
        self.left_behind: set[bytes] = set()  # packs of a copy that its source gave up: read where no other has a chunk
        self.retirements: list[Retirement] = []  # what prunes took out of use
        self.at_hand: Mapping[bytes, bytes] = {}  # small chunks that the newest backup left for who builds on it
        self._bodies: dict[str, bytes] = {}  # small index objects, opened
        self.remembered = _CACHED_CHUNKS  # small chunks kept in memory, of those that were read last
        self._recent: OrderedDict[bytes, bytes] = OrderedDict()
        self._remembering = threading.Lock()

    @property
    def small_index(self) -> Mapping[str, bytes]:
        """What the small index objects say, by name."""
        return self._bodies

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.index.close()

    def again(self) -> "Repository":
        """A new view of this repository, not loaded yet: to see what the store has now.

        Index objects that were read are not read again: they never change, and their names are digests of their content.
        """
        other = Repository(self.store, self.prefix, self.tenant, self.sealer)
        other._bodies = dict(self._bodies)
        other.written, other._proves, other.listing = self.written, True, self.listing
        other.owner, other.adopts = self.owner, self.adopts
        return other

    def take_inventory(self, objects: Iterable[ObjectInfo] | None = None) -> None:
        """List what is there, unless the caller has done so just now: then those are the objects."""
        named = self.written.names
        self.inventory = Inventory() if self.new else take_inventory(self.store, self.prefix, named, objects)

    def load_index(self, known: Mapping[str, bytes] | None = None) -> None:
        """Read the index objects and the packs that no index names.

        `known`: what index objects say, by name, so that they need not be read; an inventory was taken before then.
        """
        if known is None:
            self.take_inventory()
        else:
            self._bodies |= {name: body for name, body in known.items() if name in self.inventory.index}
        if self.new:
            return
        for key in self.inventory.strange:
            place = ascii(self.store.url(key))[1:-1]
            self.damages.append(
                Damage(ascii(key[len(self.prefix) :])[1:-1], CorruptObject("Not a pack's name", on=place))
            )
        packs = dict(self.inventory.packs)
        names = self._read_marks(packs)
        retired = {pack_id for retirement in self.retirements for pack_id in retirement.packs}
        for pack_id in self.marked_damaged:
            packs.pop(pack_id, None)
        # Of the packs left behind those in use come first: what a prune copied out of others is read there from then on.
        last = (*sorted(self.left_behind - retired), *retired, *self.doubted)
        unused = {pack_id: packs.pop(pack_id) for pack_id in last if pack_id in packs}
        self.index.last_resort = lambda: self._read_retired(unused)
        for name in names:
            try:
                kept = self._bodies.pop(name, None) or self.written.content(name, self.inventory)
                body = kept or self.read_index(name)
                if sum(map(len, self._bodies.values())) + len(body) <= _KEPT_INDEX_BYTES:
                    self._bodies[name] = body
                named = []
                for pack_id, size, epoch, entries in unpack_index(body, self.url(name)):
                    named.append(pack_id)
                    if packs.get(pack_id) == size:
                        self.index.add_pack(pack_id, size, entries, epoch)
                    elif pack_id not in retired and pack_id not in self.doubted and pack_id not in self.left_behind:
                        self.index.add_lost(pack_id, entries)
                        self.lost.add(pack_id)
                        packs.pop(pack_id, None)
                self.index.name_packs(name, named)
                self.indexed.add(name)
            except (RepositoryError, ObjectMissing) as error:
                self.damages.append(Damage(name, error))
        unnamed = {pack_id: size for pack_id, size in packs.items() if not self.index.has_pack(pack_id)}
        for number, (pack_id, size) in enumerate(unnamed.items()):
            if number >= UNNAMED_PACKS:  # looked at when a chunk is not found elsewhere: indexes may be lost
                unused[pack_id] = size
                continue
            try:
                self._add_unindexed(pack_id, size)
                self.unindexed[pack_id] = size
            except (RepositoryError, ObjectMissing) as error:
                self.damages.append(Damage(Keys.pack(pack_id), error))
        if len(unnamed) > UNNAMED_PACKS:
            self.damages.append(Damage(Keys.PACKS, too_many(self.url(Keys.PACKS), UNNAMED_PACKS)))
        self.inventory = replace(self.inventory, packs={}, index={})  # they are in the index now

    def _add_unindexed(self, pack_id: bytes, size: int) -> None:
        directory = self.read_directory(pack_id, size)
        self.index.add_pack(pack_id, size, directory.entries, directory.epoch)

    def _read_marks(self, packs: Mapping[bytes, int]) -> list[str]:
        """Take in which packs are damaged and what prunes retired; the names of the index objects in use."""
        names, doubtful = [], 0
        for name, info in self.inventory.index.items():
            if name.startswith(Keys.DAMAGED):
                pack_id = pack_id_of(name.removeprefix(Keys.DAMAGED))
                if pack_id is None:
                    continue
                if pack_id not in packs or self._says(_CONDEMNED, pack_id):
                    self.marked_damaged.add(pack_id)
                    continue
                if self._says(CLEARED, pack_id):
                    continue
                doubtful += 1  # of an earlier release, or put there to make a good pack count as lost
                if doubtful > _DOUBTFUL_MARKS:  # not looked into: what it holds is read where nothing else has it
                    self.doubted.add(pack_id)
                elif self._digest(pack_id, packs[pack_id]) != pack_id:
                    self.marked_damaged.add(pack_id)
                    continue
                self.damages.append(Damage(name, _forged_mark(self.url(name))))
            elif name.startswith(Keys.RETIRED):
                try:
                    body = self.store.get(info.key, most_bytes(name))
                    self.retirements.append(read_retirement(name, body, info.modified, self.url(name)))
                except (RepositoryError, ObjectMissing) as error:
                    self.damages.append(Damage(name, error))
            else:
                names.append(name)
        retired = {name for retirement in self.retirements for name in retirement.index}
        return [name for name in names if name not in retired]

    def _read_retired(self, packs: Mapping[bytes, int]) -> None:
        """Packs that were retired, unnamed ones beyond the bound, and those that may be damaged: some may be needed."""
        retired = {pack_id for retirement in self.retirements for pack_id in retirement.packs}
        for pack_id, size in packs.items():
            try:
                self._add_unindexed(pack_id, size)
                if pack_id in self.left_behind and pack_id not in retired and not self.index.names_of(pack_id):
                    self.unindexed[pack_id] = size  # of a prune that was killed: the next one names it
            except ObjectMissing:
                continue  # removed meanwhile
            except RepositoryError as error:
                self.damages.append(Damage(Keys.pack(pack_id), error))

    def _says(self, kind: str, pack_id: bytes) -> bool:
        """Whether the mark of a pack is one of this kind that the tenant's key signed."""
        try:
            return read_signed(self, Keys.damaged(pack_id), kind).get("pack") == pack_id.hex()
        except (RepositoryError, ObjectMissing):
            return False

    def _digest(self, pack_id: bytes, size: int) -> bytes:
        """SHA-256 of a pack's bytes, of which few are in memory; nothing for one that is larger than any, or gone."""
        digest, key = hashlib.sha256(), self.prefix + Keys.pack(pack_id)
        if size > _LARGEST_PACK:
            return b""
        try:
            for start in range(0, size, _HASHED_AT_ONCE):
                digest.update(self.store.get_range(key, start, min(_HASHED_AT_ONCE, size - start)))
        except ObjectMissing:
            return b""
        return digest.digest()

    def lift(self, pack_id: bytes) -> bool:
        """Believe again in a pack that was found to be damaged, if its content is what its name says.

        The object's older version was restored, or it was put again. False when it is still damaged, or gone. Who may not delete
        the mark says in its place that the pack is whole. Raises the store's errors.
        """
        key = self.prefix + Keys.pack(pack_id)
        try:
            size = self.store.head(key).size
        except ObjectMissing:
            return False
        if self._digest(pack_id, size) != pack_id:
            return False
        self._add_unindexed(pack_id, size)
        self.lost.discard(pack_id)
        self.marked_damaged.discard(pack_id)
        mark = self.prefix + Keys.damaged(pack_id)
        try:
            self.store.delete([mark])
        except StoreDenied:
            self.store.put(mark, signed(self, CLEARED, {"pack": pack_id.hex()}))
        return True

    @property
    def pruned(self) -> bool:
        """Whether index objects have been rewritten: those that older manifests name may be gone."""
        return any(name.startswith(Keys.PRUNED) or f"-{MERGED}-" in name for name in self.indexed)

    def condemn(self, pack_id: bytes) -> None:
        """Record that a pack's content is not what it was; its size does not show it, so nothing else would tell.

        From the next opening on its chunks count as lost, and the next backup stores anew those it needs.
        """
        body = signed(self, _CONDEMNED, {"damaged": Keys.pack(pack_id), "pack": pack_id.hex()})
        self.store.put(self.prefix + Keys.damaged(pack_id), body)

    def seen_ids(self) -> list[BackupId]:
        """Ids of all backups that were committed when the index was loaded, oldest first.

        Of use to whoever has held the lease since: without it none comes and none goes.
        """
        known = self.inventory.manifest_ids
        return self.manifest_ids() if known is None else known

    def read_index(self, name: str) -> bytes:
        """The body of an index object, authenticated. Raises CorruptObject, ObjectMissing."""
        data = self.store.get(self.prefix + name, most_bytes(name))
        # The key ends in a digest of the content, so an index copied over another is found out.
        digest = hashlib.sha256(data).hexdigest()[:16]
        if not name.endswith(digest):
            raise CorruptObject(
                "An index object is damaged", on=self.url(name), why="its content is not its name's", remedy=VALIDATE
            )
        body = self.sealer.open(data, b"", INDEX, on=self.url(name))
        if seal_epoch(data) < self.sealer.epoch:
            self.old_index.add(name)
        return body

    def read_directory(self, pack_id: bytes, size: int) -> Directory:
        """The entries and the key epoch of a pack by its own directory. Raises CorruptObject and the store's errors."""
        sealed, place = self._sealed_directory(pack_id, size), self.url(Keys.pack(pack_id))
        return Directory(seal_epoch(sealed), unpack_entries(self.sealer.open(sealed, b"", DIRECTORY, on=place), place))

    def peek_epoch(self, pack_id: bytes, size: int) -> int:
        """The key epoch that a pack says it is of, without opening it; 0 for an unknown one. Raises CorruptObject."""
        return seal_epoch(self._sealed_directory(pack_id, size))

    def _sealed_directory(self, pack_id: bytes, size: int) -> bytes:
        key, place = self.prefix + Keys.pack(pack_id), self.url(Keys.pack(pack_id))
        if size < PACK_TRAILER_BYTES:
            raise CorruptObject("Not a whole pack", on=place, why="truncated", remedy=VALIDATE)
        trailer = self.store.get_range(key, size - PACK_TRAILER_BYTES, PACK_TRAILER_BYTES)
        offset, length = unpack_trailer(trailer, size, place)
        if length > DIRECTORY_BYTES:
            raise CorruptObject(
                "Not a pack of ours",
                on=place,
                why=f"it says that its directory has {length:,} bytes, and none has more than {DIRECTORY_BYTES:,}",
                remedy="see who can write to the bucket, and delete the object",
            )
        return self.store.get_range(key, offset, length)

    def locate(self, chunk: bytes) -> Location:
        """Raises CorruptObject, naming the pack where it is known, when no pack holds the chunk."""
        location = self.index.find(chunk)
        if location is None:
            raise self.missing(chunk)
        return location

    def missing(self, chunk: bytes) -> CorruptObject:
        """The error for a chunk that no pack holds."""
        lost = self.index.lost_pack(chunk)
        if lost is not None:
            return self.lost_pack(lost)
        place = f"{self.url(Keys.PACKS)} chunk {chunk.hex()[:16]}"
        return CorruptObject("A chunk is missing", on=place, why="no pack holds it", remedy=VALIDATE)

    def lost_pack(self, pack_id: bytes) -> CorruptObject:
        """The error for a pack of `lost`."""
        return CorruptObject(
            "A pack is missing or not whole",
            on=self.url(Keys.pack(pack_id)),
            why="deleted, truncated or overwritten",
            remedy=VALIDATE,
        )

    def read_chunk(self, chunk: bytes) -> bytes:
        """The plaintext, authenticated. Raises CorruptObject."""
        with self._remembering:
            recent = self._recent.get(chunk)
        if recent is not None:
            return recent
        location = self.locate(chunk)
        if (plain := self.at_hand.get(chunk)) is not None:
            return plain
        if (kept := self._kept(chunk, location)) is not None:
            return kept
        name = Keys.pack(location.pack)
        try:
            plain = self._opened(name, location, chunk)
        except RepositoryError:  # a line or a cache may have changed the answer; what is damaged is so a second time
            plain = self._opened(name, location, chunk)
        if len(plain) <= 1 << 20:  # details are read more than once
            with self._remembering:
                self._recent[chunk] = plain
                while len(self._recent) > self.remembered:
                    self._recent.popitem(last=False)
        return plain

    def small_chunks(self) -> dict[bytes, bytes]:
        """Small chunks in memory, by id: those that were at hand, and those that were read last."""
        with self._remembering:
            return {**self.at_hand, **self._recent}

    def _kept(self, chunk: bytes, location: Location) -> bytes | None:
        """A chunk that this process has put into a pack; for a proof only if the listing shows that as it was sent."""
        plain = self.written.chunk(chunk)
        if plain is None or not self._proves or self.written.is_proved(Keys.pack(location.pack), self.inventory):
            return plain
        return None

    def _opened(self, name: str, location: Location, chunk: bytes) -> bytes:
        try:
            sealed = self.store.get_range(self.prefix + name, location.offset, location.length)
        except ObjectMissing:
            raise CorruptObject("A pack is missing", on=self.url(name), remedy=VALIDATE) from None
        return self.sealer.open(sealed, chunk, on=self.url(name))

    def read_ahead(self, chunks: Iterable[bytes]) -> None:
        """Fetch small chunks that will be read one by one, a request per pack; what cannot be had is left to `read_chunk`."""
        wanted: dict[bytes, dict[bytes, Location]] = {}
        room, here = _READ_AHEAD, 0
        for chunk in chunks:
            with self._remembering:
                if chunk in self._recent:
                    self._recent.move_to_end(chunk)
                    here += 1
                    continue
            if chunk in self.at_hand:
                continue
            location = self.index.find(chunk)
            if location is not None and location.plain <= room and self._kept(chunk, location) is None:
                wanted.setdefault(location.pack, {})[chunk] = location
                room -= location.plain
        if wanted:
            with self._remembering:  # what the last call fetched has been read by now
                while len(self._recent) > max(here, _CACHED_CHUNKS):
                    self._recent.popitem(last=False)
        for pack, found in wanted.items():
            name = Keys.pack(pack)
            try:
                parts = self.store.get_ranges(self.prefix + name, [(at.offset, at.length) for at in found.values()])
                opened = [
                    self.sealer.open(part, chunk, on=self.url(name)) for chunk, part in zip(found, parts, strict=True)
                ]
            except (RepositoryError, StoreError):
                continue
            with self._remembering:
                self._recent.update(zip(found, opened, strict=True))

    def read_chunks(self, chunks: Iterator[bytes], threads: int = 2) -> Iterator[bytes]:
        """Plaintexts in order, some MiB read ahead; chunks that follow each other in a pack come with one request."""
        for plain in streamed(
            self._read_together, self._together(chunks), name="read", threads=threads, ahead=threads + 1
        ):
            yield from plain

    def _together(self, chunks: Iterator[bytes]) -> Iterator[list[bytes]]:
        """The chunks in their order, cut where another pack begins, where much lies between, and before they become too much."""
        batch, pack, room, end = list[bytes](), b"", 0, 0
        for chunk in chunks:
            location = self.index.find(chunk)
            here, size = (location.pack, location.plain) if location is not None else (b"", 0)
            near = location is not None and 0 <= location.offset - end <= _GAP
            end = location.offset + location.length if location is not None else 0
            if batch and (here != pack or size > room or not near):
                yield batch
                batch = []
            if not batch:
                pack, room = here, _TOGETHER
            batch.append(chunk)
            room -= size
        if batch:
            yield batch

    def _read_together(self, chunks: list[bytes]) -> list[bytes]:
        """The plaintexts of chunks of one pack; `read_chunk` gives those that are at hand, and says what is wrong with one."""
        places = [self.index.find(chunk) for chunk in chunks]
        with self._remembering:
            recent = any(chunk in self._recent for chunk in chunks)
        wanted = [at for chunk, at in zip(chunks, places, strict=True) if at and self._kept(chunk, at) is None]
        if recent or len(wanted) < max(2, len(chunks)):
            return list(map(self.read_chunk, chunks))
        name = Keys.pack(wanted[0].pack)
        try:
            parts = self.store.get_ranges(self.prefix + name, [(at.offset, at.length) for at in wanted])
            return [self.sealer.open(part, chunk, on=self.url(name)) for chunk, part in zip(chunks, parts, strict=True)]
        except (RepositoryError, StoreError):
            return list(map(self.read_chunk, chunks))

    def put_document(self, key: str, document: Mapping[str, object]) -> None:
        body = compact(document)
        self.written.put(key, body, self.store.put(self.prefix + key, body), body)

    def get_document(self, key: str) -> dict[str, Any]:
        """Raises ObjectMissing, CorruptObject."""
        kept = self.written.content(key, self.inventory)
        return super().get_document(key) if kept is None else parse_document(kept, self.url(key))

    def writer(self, pipeline: PackPipeline) -> PackWriter:
        return PackWriter(pipeline, self.store, self.prefix, self.sealer, self.index, self.written)

    def write_index(self, backup_id: str, stage: str, writer: PackWriter) -> tuple[str, ...]:
        """Publish where a finished writer's chunks are; the keys written. No packs, no index.

        Packs that no index names (their writer was killed, or their index is lost) are taken in on this occasion. A
        large step gets several index objects, so that neither writing nor reading one needs much memory.
        """
        packs = [*writer.stored, *self.unindexed.items()]
        self.unindexed.clear()
        merged = self._merge_index(backup_id) if packs and len(self._bodies) >= _MERGE_AT else ()
        keys: list[str] = []
        pending: list[IndexedPack] = []
        room = INDEX_BYTES
        for pack_id, size in packs:
            entries, epoch = pack_entries(self.index.entries_of(pack_id)), self.index.epoch_of(pack_id)
            assert epoch is not None
            pending.append(IndexedPack(pack_id, size, entries, epoch))
            room -= len(entries)
            if room <= 0:
                keys.append(self.put_index(backup_id, stage, pending))
                pending, room = [], INDEX_BYTES
        if pending:
            keys.append(self.put_index(backup_id, stage, pending))
        return (*merged, *keys)

    def _merge_index(self, backup_id: str) -> tuple[str, ...]:
        """Say what many small index objects say in one; the key written.

        Every backup reads them all, and an hourly one adds one each time. They are retired, not removed: a writer needs no
        right to delete, and who has listed them can still read them. Prune removes them. Of the two writes a crash between
        leaves the merged object beside the others.
        """
        small = dict(self._bodies)
        packs: dict[bytes, IndexedPack] = {}
        for name, body in small.items():
            for pack_id, size, epoch, entries in unpack_index(body, self.url(name)):
                if self.index.has_pack(pack_id) and pack_id not in packs:
                    packs[pack_id] = IndexedPack(pack_id, size, pack_entries(entries), epoch)
        if not packs:
            return ()
        key = self.put_index(backup_id, MERGED, list(packs.values()))
        retired, body = retirement_object(backup_id, (), small.keys(), ())
        self.store.put(self.prefix + retired, body)
        self._bodies.clear()
        self.indexed -= small.keys()
        return (key,)

    def put_index(self, backup_id: str, stage: str, packs: list[IndexedPack]) -> str:
        """Store one index object for packs; its key below the prefix."""
        content = pack_index(packs)
        body = self.sealer.seal(content, b"", INDEX)
        key = Keys.index(backup_id, stage, hashlib.sha256(body).hexdigest()[:16])
        self.written.put(key, body, self.store.put(self.prefix + key, body), content)
        return key
