"""What lies below a tenant's prefix at one instant, as one listing tells it.

Whoever opens a repository wants to know of packs, index objects, manifests and holds. They lie in folders of one prefix, so one
request tells of all of them, where each folder apart would cost its own. Approvals and the audit trail, which only ever grow, are
left out: the listing begins behind them. Of other objects there may be any number; where there are many the folders are listed
apart, and nothing but packs and index objects is known.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from sbh_pipelines.model import BackupId
from sbh_pipelines.repository.bounds import all_below, listed, most_objects, too_many
from sbh_pipelines.repository.documents import manifest_id
from sbh_pipelines.repository.format import Keys, pack_id_of
from sbh_pipelines.stores.base import ObjectInfo, ObjectStore

_BEHIND_AUDIT = Keys.AUDIT.removesuffix("/") + "0"  # "0" follows "/"
_MOST_BESIDE = 10_000  # objects that are neither packs nor of the index
_KEPT = (Keys.MANIFESTS, Keys.HOLDS, Keys.LEASE, Keys.LISTING)
_KEPT_BYTES = 64 << 10  # of documents and index objects, and as many of chunks


@dataclass(frozen=True, slots=True)
class Inventory:
    """What was listed.

    Attributes:
        packs: Sizes of the packs, bytes, by id.
        index: Index objects, marks of damaged packs, and retirements, by key below the prefix.
        strange: Keys among the packs that are no pack's.
        beside: By key below the prefix: manifests, holds, the lease, `listing.json`, what was asked for by name. None: not known.
    """

    packs: dict[bytes, int] = field(default_factory=dict)
    index: dict[str, ObjectInfo] = field(default_factory=dict)
    strange: list[str] = field(default_factory=list)
    beside: Mapping[str, ObjectInfo] | None = field(default_factory=dict)

    @property
    def manifest_ids(self) -> list[BackupId] | None:
        """Ids of all committed backups, oldest first; None where that is not known."""
        if self.beside is None:
            return None
        return sorted(found for name in self.beside if (found := manifest_id(name)) is not None)

    @property
    def holds(self) -> list[str] | None:
        """Keys of pins and holds, below the prefix; None where that is not known."""
        return None if self.beside is None else [name for name in self.beside if name.startswith(Keys.HOLDS)]

    def lacks(self, name: str) -> bool:
        """Whether an object of those beside was not there."""
        return self.beside is not None and name not in self.beside

    @property
    def lease_etag(self) -> str | None:
        """ETag of the lease's object; None where there is none, or it is not known."""
        return self.etag_of(Keys.LEASE)

    def etag_of(self, name: str) -> str | None:
        """ETag of an object of those beside; None where it was not there, or is not known."""
        found = (self.beside or {}).get(name)
        return found.etag if found else None

    def takes(self, prefix: str, info: ObjectInfo) -> bool:
        """Whether an object is a pack, or of the index; it is added."""
        name = info.key[len(prefix) :]
        if name.startswith(Keys.INDEX):
            self.index[name] = info
            return True
        if not name.startswith(Keys.PACKS):
            return False
        pack_id = pack_id_of(name.removeprefix(Keys.PACKS))
        if pack_id is None:
            self.strange.append(info.key)
        else:
            self.packs[pack_id] = info.size
        return True


def take_inventory(
    store: ObjectStore, prefix: str, named: Collection[str] = (), objects: Iterable[ObjectInfo] | None = None
) -> Inventory:
    """List what is there; `named` are further keys below the prefix to keep. Raises TooManyObjects, and the store's errors.

    `objects`: all that is there, where the caller has listed it just now.
    """
    beside: dict[str, ObjectInfo] = {}
    found, passed = Inventory(beside=beside), 0
    for info in all_below(store, prefix, after=prefix + _BEHIND_AUDIT) if objects is None else objects:
        name = info.key[len(prefix) :]
        if name.startswith(_KEPT) or name in named:
            beside[name] = info
        if found.takes(prefix, info):
            for folder, count in ((Keys.PACKS, len(found.packs) + len(found.strange)), (Keys.INDEX, len(found.index))):
                if count > most_objects(folder):
                    raise too_many(store.url(prefix + folder), most_objects(folder))
            continue
        passed += 1
        if passed > _MOST_BESIDE:
            return _listed_apart(store, prefix)
    return found


def _listed_apart(store: ObjectStore, prefix: str) -> Inventory:
    found = Inventory(beside=None)
    for folder in (Keys.PACKS, Keys.INDEX):
        for info in listed(store, prefix, folder):
            found.takes(prefix, info)
    return found


class Written:
    """What a writer has put into a repository, for the proof that it is there. Thread-safe.

    A server that makes its ETags of an object's bytes proves with each listing what it has: where the ETag is the MD5 of what was
    sent, reading the object back would tell nothing more. So of small objects, and of chunks that are read once more, the content
    is kept for that reading. Where the ETag is anything else, as in a directory or with a KMS key, nothing is kept.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._etags: dict[str, str] = {}
        self._bodies: dict[str, bytes] = {}
        self._room = _KEPT_BYTES
        self._chunks: OrderedDict[bytes, bytes] = OrderedDict()
        self._chunk_bytes = 0

    @property
    def names(self) -> Collection[str]:
        """Keys below the prefix of what a listing can prove."""
        with self._lock:
            return frozenset(self._etags)

    def put(self, name: str, sent: bytes | bytearray, etag: str, content: bytes | None = None) -> None:
        """An object was stored, and the store answered with this ETag; `content` is what a reader makes of it."""
        if "-" in etag or etag.strip('"') != hashlib.md5(sent, usedforsecurity=False).hexdigest():
            return
        with self._lock:
            self._etags[name] = etag
            self._room += len(self._bodies.pop(name, b""))
            if content is not None and len(content) <= self._room:
                self._bodies[name] = content
                self._room -= len(content)

    def keep(self, chunk: bytes, plain: bytes) -> None:
        """A chunk that will be read soon goes into a pack; the latest are kept."""
        with self._lock:
            self._chunks[chunk] = plain
            self._chunk_bytes += len(plain)
            while self._chunk_bytes > _KEPT_BYTES:
                self._chunk_bytes -= len(self._chunks.popitem(last=False)[1])

    def chunk(self, chunk: bytes) -> bytes | None:
        """The plaintext of a chunk that was kept."""
        with self._lock:
            return self._chunks.get(chunk)

    def is_proved(self, name: str, inventory: Inventory) -> bool:
        """Whether the listing shows the object as it was sent."""
        with self._lock:
            etag = self._etags.get(name)
        return etag is not None and inventory.etag_of(name) == etag

    def content(self, name: str, inventory: Inventory) -> bytes | None:
        """What a reader would make of an object, if the listing proves it; None: it must be read."""
        if not self.is_proved(name, inventory):
            return None
        with self._lock:
            return self._bodies.get(name)
