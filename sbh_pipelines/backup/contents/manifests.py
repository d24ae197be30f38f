"""Manifests that were read and believed, kept by the process: they never change, and a tenant has dozens.

What is remembered is found again only by whoever holds the tenant's key (the name in here is made with it) and only while
the store lists the object with the same ETag and size: another tenant, another key, or an object that was overwritten
cannot hit. Nothing is remembered of what exists: that is asked of the store at every call. Bounded in bytes; thread-safe.
"""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import datetime

import zstandard

from sbh_pipelines.backup.contents.manifest import LATEST, WITH_TABLES, Component, Manifest
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.errors import CorruptObject, InvalidId, ObjectMissing, SbhError, UnknownBackup
from sbh_pipelines.model import BackupId, parse_moment, typed
from sbh_pipelines.repository.bounds import listed
from sbh_pipelines.repository.documents import manifest_id
from sbh_pipelines.repository.format import VALIDATE, Keys, checksum
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.stores.base import ObjectInfo

_PROOF = b"sbh manifest cache"
_ENTRY_BYTES = 300  # of an entry beside its content, roughly
_LONG = ("components", "signature", "stats", "index", "recovery_point")  # what a line of a list does not need


class ManifestCache:
    """The least recently used go first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = self.hits = self.misses = 0
        self._found: OrderedDict[bytes, tuple[bytes, bytes]] = OrderedDict()  # the brief one, and the whole
        self._lock = threading.Lock()

    def get(self, name: bytes, *, brief: bool = False) -> Manifest | None:
        with self._lock:
            kept = self._found.get(name)
            if kept is None:
                self.misses += 1
                return None
            self.hits += 1
            self._found.move_to_end(name)
        return Manifest(json.loads(kept[0] if brief else zstandard.decompress(kept[1])))

    def put(self, name: bytes, manifest: Manifest) -> None:
        short = {key: value for key, value in manifest.document.items() if key not in _LONG}
        kept = json.dumps(short).encode(), zstandard.compress(json.dumps(manifest.document).encode(), 3)
        size = _size(kept)
        if size > self.max_bytes:
            return
        with self._lock:
            if name in self._found:
                return
            self._found[name] = kept
            self.bytes += size
            while self.bytes > self.max_bytes:
                _, gone = self._found.popitem(last=False)
                self.bytes -= _size(gone)


def _size(kept: tuple[bytes, bytes]) -> int:
    return len(kept[0]) + len(kept[1]) + _ENTRY_BYTES


def read_manifests(
    repository: Repository, cache: ManifestCache, *, brief: bool = False
) -> tuple[list[Manifest], list[SbhError]]:
    """All manifests, oldest first, and an error for each that is damaged: a listing, and a request for each not in the cache.

    `brief` ones may lack what is long: parsing it would cost more than all else.
    """
    there = sorted(
        (backup_id, info)
        for info in listed(repository.store, repository.prefix, Keys.MANIFESTS)
        if (backup_id := manifest_id(info.key[len(repository.prefix) :]))
    )
    proof = str(repository.sealer.sign(_PROOF)).encode()
    names = [_name(proof, repository, info) for _, info in there]
    found: list[Manifest | SbhError | None] = [cache.get(name, brief=brief) for name in names]
    missing = [at for at, manifest in enumerate(found) if manifest is None]

    def read(at: int) -> Manifest | SbhError | None:
        try:
            return read_manifest(repository, there[at][0])
        except CorruptObject as damage:
            return damage
        except UnknownBackup:
            return None  # forgotten since it was listed

    for at, manifest in zip(missing, side_by_side(read, missing, name="manifests"), strict=True):
        found[at] = manifest
        if isinstance(manifest, Manifest):
            cache.put(names[at], manifest)
    return [f for f in found if isinstance(f, Manifest)], [f for f in found if isinstance(f, SbhError)]


def _name(proof: bytes, repository: Repository, info: ObjectInfo) -> bytes:
    place = f"{repository.tenant}\n{repository.store.url(info.key)}\n{info.etag}\n{info.size}"
    return hashlib.sha256(proof + b"\n" + place.encode()).digest()


def is_relative(text: str) -> bool:
    """Whether a text names a backup by its place among others: `latest`, or `@` and a moment."""
    return text == LATEST or text.startswith("@")


def resolve_backup(repository: Repository, text: str, own: Callable[[Manifest], bool] | None = None) -> BackupId:
    """The backup of this id; for `latest` the newest one, for `@2024-01-15T14:32` the newest that is not later than this time
    (UTC, unless it says otherwise). Those made for a restore are left out, and those that are not `own`. Raises InvalidId,
    UnknownBackup.

    A safety backup holds what somebody wanted to be rid of: whoever restores `latest` twice must not get it back. And one
    put together for a moment of the past is old, whenever it was made.
    """
    if not is_relative(text):
        return BackupId.parse(text)
    until = None if text == LATEST else _moment(text[1:])
    ids = repository.manifest_ids()
    for backup_id in reversed(ids):
        try:
            manifest = read_manifest(repository, backup_id)
            late = until is not None and manifest.is_later_than(until)
            if not manifest.is_aside and not late and (own is None or own(manifest)):
                return backup_id
        except CorruptObject:
            if until is None:
                return backup_id  # whoever reads it finds out
    why = "" if not ids else "none is old enough" if until else "all there are were made for restores; name one of them"
    raise UnknownBackup(
        "The tenant has no backups", on=repository.tenant, why=why, remedy="make one: `sbh backup create`"
    )


def _moment(text: str) -> datetime:
    try:
        return parse_moment(text)
    except ValueError:
        raise InvalidId(
            "Not a time",
            on=typed(text),
            why="a transaction or a position of the log names a moment, and no backup that is there"
            if text.startswith(("xid:", "lsn:"))
            else "",
            remedy="write it as @2024-01-15T14:32, or @2024-01-15T14:32+01:00",
        ) from None


def read_manifest(repository: Repository, backup_id: BackupId) -> Manifest:
    """The manifest of a committed backup, its signature checked. Raises UnknownBackup, CorruptObject."""
    return Manifest(repository.manifest(backup_id))


def read_tables(
    repository: Repository, manifest: Manifest, components: Iterable[str] = WITH_TABLES
) -> dict[str, TableSummary]:
    """The tables of these components by their full names. Raises CorruptObject."""
    return {table.table: table for name in components for table in read_component(repository, manifest, name).tables}


def read_component(repository: Repository, manifest: Manifest, name: str) -> Component:
    """A component as its document has it, checked against the manifest. Raises CorruptObject."""
    key = Keys.component(name, manifest.id)
    try:
        document = repository.get_document(key)
    except ObjectMissing:
        raise CorruptObject("A component's document is missing", on=repository.url(key), remedy=VALIDATE) from None
    expected = manifest.component_checksum(name)
    if checksum(document) != expected or document.get("checksum") != expected:
        raise CorruptObject(
            "A component's document is not the one of the manifest",
            on=repository.url(key),
            why="changed, or swapped with another backup's",
            remedy=VALIDATE,
        )
    return Component.from_dict(document)
