"""What lies below a tenant's prefix at one instant, as one listing tells it.

Whoever opens a repository wants to know of packs, index objects, manifests and holds. They lie in folders of one prefix, so one
request tells of all of them, where each folder apart would cost its own. Approvals and the audit trail, which only ever grow, are
left out: the listing begins behind them. Of other objects there may be any number; where there are many the folders are listed
apart, and nothing but packs and index objects is known.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from sbh_pipelines.model import BackupId
from sbh_pipelines.repository.bounds import all_below, listed, most_objects, too_many
from sbh_pipelines.repository.documents import manifest_id
from sbh_pipelines.repository.format import Keys, pack_id_of
from sbh_pipelines.stores.base import ObjectInfo, ObjectStore

_BEHIND_AUDIT = Keys.AUDIT.removesuffix("/") + "0"  # "0" follows "/"
_MOST_BESIDE = 10_000  # objects that are neither packs nor of the index
_KEPT = (Keys.MANIFESTS, Keys.HOLDS, Keys.LEASE)


@dataclass(frozen=True, slots=True)
class Inventory:
    """What was listed.

    Attributes:
        packs: The packs, by id.
        index: Index objects, marks of damaged packs, and retirements.
        strange: Keys among the packs that are no pack's.
        beside: By key below the prefix: manifests, holds, the lease, and what was asked for by name. None: not known.
    """

    packs: dict[bytes, ObjectInfo] = field(default_factory=dict)
    index: list[ObjectInfo] = field(default_factory=list)
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

    @property
    def lease_etag(self) -> str | None:
        """ETag of the lease's object; None where there is none, or it is not known."""
        lease = (self.beside or {}).get(Keys.LEASE)
        return lease.etag if lease else None

    def takes(self, prefix: str, info: ObjectInfo) -> bool:
        """Whether an object is a pack, or of the index; it is added."""
        name = info.key[len(prefix) :]
        if name.startswith(Keys.INDEX):
            self.index.append(info)
            return True
        if not name.startswith(Keys.PACKS):
            return False
        pack_id = pack_id_of(name.removeprefix(Keys.PACKS))
        if pack_id is None:
            self.strange.append(info.key)
        else:
            self.packs[pack_id] = info
        return True


def take_inventory(store: ObjectStore, prefix: str, named: Collection[str] = ()) -> Inventory:
    """List what is there; `named` are further keys below the prefix to keep. Raises TooManyObjects, and the store's errors."""
    beside: dict[str, ObjectInfo] = {}
    found, passed = Inventory(beside=beside), 0
    for info in all_below(store, prefix, after=prefix + _BEHIND_AUDIT):
        if found.takes(prefix, info):
            for folder, count in ((Keys.PACKS, len(found.packs) + len(found.strange)), (Keys.INDEX, len(found.index))):
                if count > most_objects(folder):
                    raise too_many(store.url(prefix + folder), most_objects(folder))
            continue
        name, passed = info.key[len(prefix) :], passed + 1
        if name.startswith(_KEPT) or name in named:
            beside[name] = info
        if passed > _MOST_BESIDE:
            return _listed_apart(store, prefix)
    return found


def _listed_apart(store: ObjectStore, prefix: str) -> Inventory:
    found = Inventory(beside=None)
    for folder in (Keys.PACKS, Keys.INDEX):
        for info in listed(store, prefix, folder):
            found.takes(prefix, info)
    return found
