"""A prune's plan, carried out. The caller holds the tenant's lease, and has marked what every backup needs.

First what is needed is copied out of packs that are given up, and the new packs and index objects are read back. Then
one object retires the old ones: a repository that is opened from here on does not use them. They are not removed: that is
left to a prune that finds their retirement old enough. What earlier prunes retired is removed here, index objects before
packs. A crash between any two of these writes and deletes loses nothing; docs/format.md goes through them.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from sbh_pipelines.errors import CorruptObject, ObjectMissing, StoreError
from sbh_pipelines.model import Progress, ProgressSink
from sbh_pipelines.repository.format import (
    Entry,
    IndexedPack,
    Keys,
    pack_entries,
    pack_trailer,
    seal_epoch,
    unpack_index,
)
from sbh_pipelines.repository.index import Marks
from sbh_pipelines.repository.prune_plan import DAMAGED_REMEDY, Decision, Plan, refused
from sbh_pipelines.repository.repository import INDEX_BYTES, Repository
from sbh_pipelines.repository.retirement import retirement_object
from sbh_pipelines.repository.seal import DIRECTORY

_READ_BYTES = 8 << 20  # of sealed chunks read at once
_PACK_CHUNKS = 8192
_REMOVED_AT_ONCE = 1000
_RETIRED_AT_ONCE = 10_000  # packs in one retirement


@dataclass(slots=True)
class Report:
    """What was done. Bytes are of stored objects."""

    packs_retired: int = 0
    bytes_retired: int = 0
    packs_rewritten: int = 0
    packs_written: int = 0
    bytes_rewritten: int = 0
    packs_deleted: int = 0
    objects_deleted: int = 0
    bytes_freed: int = 0
    index_objects_replaced: int = 0
    index_objects_written: int = 0


def execute(
    repository: Repository, marks: Marks, plan: Plan, still_ours: Callable[[], None], progress: ProgressSink
) -> Report:
    """Do it. `still_ours` raises LeaseLost when the lease was lost; it is asked before whatever takes effect.

    Raises PruneRefused when a chunk that is to be copied turns out to be damaged; what was in use stays in use.
    """
    report = Report()
    index = _IndexWriter(repository, plan.prune_id)
    retired: set[bytes] = set()
    done = 0
    for slice_ in _slices(plan):
        if done:  # what was copied so far takes effect, so that a run that is killed later need not copy it again
            report.index_objects_written += len(index.finish())
            still_ours()
            earlier = {_pack(d.key) for d in plan.rewrite[:done]} - retired
            _retire(repository, plan.prune_id, sorted(earlier), (), ())
            retired |= earlier
        for pack in _rewritten(repository, marks, plan, slice_, done, progress):
            index.add(pack)
            report.packs_written += 1
            report.bytes_rewritten += pack.size
        done += len(slice_)
    if plan.rewrites_index:
        _carry_over(repository, plan, index)
    report.index_objects_written += len(index.finish())
    if plan.retires:
        still_ours()
        documents = [d.key for d in plan.retire_documents]
        _retire(repository, plan.prune_id, sorted(plan.dropped - retired), plan.replace_index, documents)
    report.packs_retired, report.packs_rewritten = len(plan.retire), len(plan.rewrite)
    report.bytes_retired = sum(d.size for d in (*plan.retire, *plan.rewrite))
    report.index_objects_replaced = len(plan.replace_index)
    for some in _in_order(plan.remove):
        still_ours()
        repository.store.delete([repository.prefix + d.key for d in some])
        report.objects_deleted += len(some)
        report.packs_deleted += sum(d.key.startswith(Keys.PACKS) for d in some)
        report.bytes_freed += sum(d.size for d in some)
        progress(Progress("prune: remove", repository.tenant, report.objects_deleted, len(plan.remove), "objects"))
    return report


def _pack(key: str) -> bytes:
    return bytes.fromhex(key.removeprefix(Keys.PACKS))


def _retire(
    repository: Repository,
    prune_id: str,
    packs: list[bytes],
    index: Collection[str],
    documents: Collection[str],
) -> None:
    """Take all of this out of use; the index objects and documents with the first packs."""
    others = index, documents
    for start in range(0, max(len(packs), 1), _RETIRED_AT_ONCE):
        key, body = retirement_object(prune_id, packs[start : start + _RETIRED_AT_ONCE], *others)
        repository.store.put(repository.prefix + key, body)
        others = (), ()


def _slices(plan: Plan) -> Iterator[list[Decision]]:
    """The packs to rewrite, in parts of about `slice_bytes`; without one, all at once."""
    some: list[Decision] = []
    size = 0
    for decision in plan.rewrite:
        if some and plan.slice_bytes is not None and size + decision.live > plan.slice_bytes:
            yield some
            some, size = [], 0
        some.append(decision)
        size += decision.live
    if some:
        yield some


def _in_order(remove: list[Decision]) -> Iterator[list[Decision]]:
    """Index objects, then packs, then documents, then marks and retirements: a store deletes a batch in any order."""

    def marks(key: str) -> bool:
        return key.startswith((Keys.DAMAGED, Keys.RETIRED))

    kinds: list[Callable[[str], bool]] = [
        lambda key: key.startswith(Keys.INDEX) and not marks(key),
        lambda key: key.startswith(Keys.PACKS),
        lambda key: not key.startswith((Keys.INDEX, Keys.PACKS)),
        marks,
    ]
    for of_kind in kinds:
        chosen = [d for d in remove if of_kind(d.key)]
        for start in range(0, len(chosen), _REMOVED_AT_ONCE):
            yield chosen[start : start + _REMOVED_AT_ONCE]


def _rewritten(
    repository: Repository, marks: Marks, plan: Plan, rewrite: list[Decision], done: int, progress: ProgressSink
) -> Iterator[IndexedPack]:
    """Copy the needed chunks of packs that are given up: the new packs, stored and read back.

    Sealed chunks say nothing of their place, so they are copied as they are; each is opened before, so that damage is
    found and not carried on. Those of an earlier key epoch are sealed anew, so that a pack is of one epoch. In memory are
    one new pack and `_READ_BYTES` of old ones.
    """
    pieces: list[bytes] = []
    entries: list[Entry] = []
    offset = 0
    for number, decision in enumerate(rewrite, done + 1):
        for entry, sealed in _needed(repository, marks, decision.key):
            pieces.append(sealed)
            entries.append(Entry(entry.chunk, offset, len(sealed), entry.plain))
            offset += len(sealed)
            if offset >= plan.pack_bytes_target or len(entries) >= _PACK_CHUNKS:
                yield _store_pack(repository, pieces, entries, offset)
                pieces, entries, offset = [], [], 0
        progress(Progress("prune: rewrite packs", repository.tenant, number, len(plan.rewrite), "packs"))
    if entries:
        yield _store_pack(repository, pieces, entries, offset)


def _needed(repository: Repository, marks: Marks, key: str) -> Iterator[tuple[Entry, bytes]]:
    """The needed chunks of a pack, as they are to be stored, each proved to open."""
    place = repository.url(key)
    for some in _batches(marks.of_pack(_pack(key))):
        try:
            parts = repository.store.get_ranges(repository.prefix + key, [(e.offset, e.length) for e in some])
            for entry, sealed in zip(some, parts, strict=True):
                plain = repository.sealer.open(sealed, entry.chunk, on=place)
                if len(plain) != entry.plain:
                    raise CorruptObject("A chunk has a wrong size", on=place)
                old = seal_epoch(sealed) != repository.sealer.epoch
                yield entry, repository.sealer.seal(plain, entry.chunk) if old else bytes(sealed)
        except (CorruptObject, ObjectMissing) as error:
            raise refused(repository, str(error), DAMAGED_REMEDY) from None


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    some: list[Entry] = []
    size = 0
    for entry in entries:
        if some and size + entry.length > _READ_BYTES:
            yield some
            some, size = [], 0
        some.append(entry)
        size += entry.length
    if some:
        yield some


def _store_pack(repository: Repository, pieces: list[bytes], entries: list[Entry], payload: int) -> IndexedPack:
    packed = pack_entries(entries)
    directory = repository.sealer.seal(packed, b"", DIRECTORY)
    body = b"".join([*pieces, directory, pack_trailer(payload, len(directory))])
    pack_id = hashlib.sha256(body).digest()
    key = repository.prefix + Keys.pack(pack_id)
    repository.store.put(key, body)
    if hashlib.sha256(repository.store.get(key, len(body))).digest() != pack_id:
        raise StoreError(
            "A pack does not read back as it was written",
            on=repository.store.url(key),
            remedy="nothing was removed; examine the store",
        )
    return IndexedPack(pack_id, len(body), packed, repository.sealer.epoch)


def _carry_over(repository: Repository, plan: Plan, index: "_IndexWriter") -> None:
    """What the replaced index objects say of packs that stay, and what packs that no index names say of themselves."""
    gone = plan.dropped | repository.lost
    for retirement in repository.retirements:
        gone |= retirement.packs
    carried: set[bytes] = set()
    for name in sorted(plan.replace_index & repository.indexed):
        for pack_id, size, epoch, entries in unpack_index(repository.read_index(name), repository.url(name)):
            if pack_id not in gone and pack_id not in carried:
                carried.add(pack_id)
                index.add(IndexedPack(pack_id, size, pack_entries(entries), epoch))
    for pack_id, size in plan.index_unnamed.items():
        directory = repository.read_directory(pack_id, size)
        index.add(IndexedPack(pack_id, size, pack_entries(directory.entries), directory.epoch))


class _IndexWriter:
    """Gathers entries into index objects of bounded size, each read back."""

    def __init__(self, repository: Repository, prune_id: str) -> None:
        self._repository, self._prune_id = repository, prune_id
        self._pending: list[IndexedPack] = []
        self._room = INDEX_BYTES
        self._keys: list[str] = []

    def add(self, pack: IndexedPack) -> None:
        self._pending.append(pack)
        self._room -= len(pack.entries)
        if self._room <= 0:
            self._write()

    def finish(self) -> list[str]:
        """The keys of all that was written since the last time."""
        if self._pending:
            self._write()
        keys, self._keys = self._keys, []
        return keys

    def _write(self) -> None:
        key = self._repository.put_index(self._prune_id, "index", self._pending)
        self._repository.read_index(key)
        self._keys.append(key)
        self._pending, self._room = [], INDEX_BYTES
