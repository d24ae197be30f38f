"""One tenant's repository, brought to a copy in an order in which every interruption is harmless.

    1. manifests are listed      what they need is there from then on, also what a prune retires: it stays for a day
    2. the copy is listed
    3. keys                      `wrapping.bring_keys`; every epoch of the manifests that were listed
    4. everything else is listed
    5. packs, index objects, component documents; then the copy is listed: what it acknowledged it has
    6. events of the audit trail, holds
    7. manifests, oldest first   each is complete at the copy from then on
    8. the head of the trail

All of it under a lease at the copy that an erasure waits for; that the tenant was not erased is asked at both ends before, every
few seconds, before the manifests, and when all is there.

A run that is killed anywhere leaves what a killed backup leaves: objects that no manifest needs. The next one lists both ends and
goes on. What is gone at the source when it is to be read, because of a prune, has the tenant planned again. A manifest that is
gone was forgotten: it is not copied. Nothing is ever deleted at the copy, and a deletion at the source is no reason to.

A pack that is damaged at the source keeps no other backup from being copied than those that need it; these are named. Which they
are only their details tell, so the tenant's key is asked then, and then only.
"""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from sbh_pipelines.backup.contents.manifests import read_manifest
from sbh_pipelines.backup.contents.verification import chunks_of
from sbh_pipelines.backup.copies.copier.folder_copy import FolderCopy
from sbh_pipelines.backup.copies.copier.inventory import Inventory, Wanted
from sbh_pipelines.backup.copies.copier.kinds import Kind, repository_kind
from sbh_pipelines.backup.copies.copier.transfer import (
    PartlyCopied,
    SourceVanished,
    Transfers,
    diverged,
    is_whole,
    read_source,
)
from sbh_pipelines.backup.copies.locks import Locks
from sbh_pipelines.backup.copies.place import CopyPlace
from sbh_pipelines.backup.copies.retention import forgotten_here
from sbh_pipelines.backup.copies.wrapping import admit, bring_keys, destroy_keys, key_ends
from sbh_pipelines.backup.site.owners import is_bound
from sbh_pipelines.errors import (
    CopyError,
    CorruptObject,
    ObjectMissing,
    RepositoryError,
    SbhError,
    StoreDenied,
    StoreError,
    TenantErased,
    UnknownBackup,
)
from sbh_pipelines.model import BackupId, HousedTenant
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.bounds import HEAD_BYTES, all_below, most_bytes
from sbh_pipelines.repository.format import FIRST_EPOCH, Keys, checksum, pack_id_of, parse_document
from sbh_pipelines.repository.keys.data_key import open_key_ring, read_key_object
from sbh_pipelines.repository.keys.epochs import epoch_of
from sbh_pipelines.repository.repository import CLEARED
from sbh_pipelines.stores.base import ObjectInfo

_NAMED = 10  # backups in an error
_ASK_EVERY_S = 5.0  # whether the tenant is erased by now; an erasure waits for a little longer
_PLANS = 4  # how often a tenant is planned while its repository is pruned
_NEEDED = (Kind.PACK, Kind.INDEX, Kind.DOCUMENT)


def copy_tenant(
    place: CopyPlace, tenant: HousedTenant, transfers: Transfers, *, anew: bool = False, trail: bool = True
) -> tuple[int, int]:
    """(objects, bytes) that were stored at the copy; (0, 0) where it has everything. Without `trail` no event is brought.

    `anew`: what is at the copy was found not to be whole, so none of it is believed: all is read, and what is another put again.

    Raises TenantErased, LeaseHeld while an erasure is at the tenant, LeaseLost, ResidencyError, CopyDiverged, CorruptObject for a
    damaged object of the source, CopyError, and the stores' and key providers' errors. A damaged manifest, document or pack
    does not keep what needs none from being copied: then PartlyCopied is raised, at the end.
    """
    with _at_work(place, tenant) as lease:
        copy = _TenantCopy(place, tenant, transfers, anew, lease, trail)
        _planned(copy, tenant)
    if copy.damaged is not None:
        said = copy.damaged
        part = PartlyCopied(said.what, on=said.on, why=said.why, remedy=said.remedy)
        part.objects, part.bytes = copy.folder.objects, copy.folder.bytes
        raise part
    return copy.folder.objects, copy.folder.bytes


@contextmanager
def _at_work(place: CopyPlace, tenant: HousedTenant) -> Iterator[leases.Lease | None]:
    """While the block runs no erasure of the tenant is finished at the copy, and no other copier is at it; None: not a tenant's.

    The lease is there before the tombstone is looked for, and an erasure leaves the tombstone before it looks for the lease: one of
    the two sees the other. A copier that was killed holds it until it expires. Raises TenantErased, LeaseHeld.
    """
    if not is_bound(tenant):
        yield None
        return
    admit(place, tenant)  # first: nothing at all is put for who was erased
    store, prefix = place.target.backup_store(tenant)
    seconds, name = place.source.settings.backup.lease_s, f"copy {place.name}"
    held = leases.acquire(store, prefix + Keys.COPYING, leases.new_owner(name), name, seconds, place.target.clock)
    with leases.kept(held, seconds):
        yield held


def _planned(copy: "_TenantCopy", tenant: HousedTenant) -> None:
    for attempt in range(1, _PLANS + 1):
        try:
            copy.run()
            break
        except SourceVanished as error:
            if attempt == _PLANS:
                raise CopyError(
                    "The source changes faster than it is copied",
                    on=str(tenant.id),
                    why=f"{_PLANS} times something that was listed was gone: {error.on}",
                    remedy="run the copy again when no prune runs",
                ) from None


class _TenantCopy:
    def __init__(
        self,
        place: CopyPlace,
        tenant: HousedTenant,
        transfers: Transfers,
        anew: bool,
        lease: leases.Lease | None,
        trail: bool,
    ) -> None:
        self._lease, self._asked, self._trail = lease, time.monotonic(), trail
        self._place, self._tenant, self._transfers, self._anew = place, tenant, transfers, anew
        here, prefix = place.source.backup_store(tenant)
        there, below = place.target.backup_store(tenant)
        self.folder = FolderCopy(
            here, there, prefix, transfers, self._leave_out, self._attributes, self._between, prefix_there=below
        )
        self._locks = transfers.locks(tenant.region)
        self.damaged: SbhError | None = None
        self._lost: dict[bytes, CorruptObject] = {}  # packs of which neither end has a whole one
        self._newest = FIRST_EPOCH
        self._incomplete: set[str] = set()  # manifests of which a document is damaged

    def _between(self) -> None:
        """Now and then: an erasure that began meanwhile is not kept waiting by a long copy."""
        if self._lease is not None and time.monotonic() - self._asked >= _ASK_EVERY_S:
            self._lease.renew_if_due()
            admit(self._place, self._tenant)
            self._asked = time.monotonic()

    def _still_ours(self) -> None:
        """Raises LeaseLost where another has the lease by now."""
        if self._lease is not None:
            self._lease.renew()

    def run(self) -> None:
        folder, before = self.folder, self.folder.objects
        self.damaged = None
        self._lost.clear()
        self._incomplete.clear()
        head = self._read_head()
        with Inventory(folder.prefix, repository_kind) as inventory:
            inventory.add_source(all_below(folder.here, folder.prefix + Keys.MANIFESTS))
            beside = _Beside(folder.below)
            inventory.add_target(beside.noted(all_below(folder.there, folder.below)), folder.below)
            self._bring_keys(beside.epochs)
            inventory.add_source(all_below(folder.here, folder.prefix), without=Kind.MANIFEST)
            brought = folder.bring(inventory, _NEEDED, anew=self._anew)
            if brought:
                folder.check_arrived(inventory, _NEEDED)
            if self._trail:
                folder.bring(inventory, [Kind.EVENT])
            folder.bring(inventory, [Kind.HOLD], immutable=False, if_vanished="skip")
            if brought and is_bound(self._tenant):
                admit(self._place, self._tenant)  # an erasure may have begun meanwhile
            forgotten = forgotten_here(folder.there, folder.below) if beside.forgets else ()
            skipped = {Keys.manifest(backup_id) for backup_id in forgotten}
            skipped -= {inventory.last(Kind.MANIFEST)}  # whatever is said there, the newest is copied
            skipped = _without_held(skipped, inventory.names(Kind.HOLD))
            if self._lost:
                wanted = inventory.wanted(Kind.MANIFEST, immutable=False, all_of_them=self._anew)
                skipped |= self._needing_lost([one.name for one in wanted if one.name not in skipped])
            asked = False
            for one in inventory.wanted(Kind.MANIFEST, immutable=False, all_of_them=self._anew):
                if one.name not in skipped | self._incomplete:
                    if not asked:
                        self._still_ours()
                        asked = True
                    self._manifest(one)
        if head is not None:
            self._put_head(head)
        if folder.objects > before and is_bound(self._tenant):
            self._refuse_erased()
            self._still_ours()

    def _refuse_erased(self) -> None:
        """Once more, when all is there: what came of who is erased by now opens no more, and goes with the erasure's next step."""
        try:
            admit(self._place, self._tenant)
        except TenantErased:
            with suppress(StoreDenied):  # who copies need not have the right to delete: the erasure has
                destroy_keys(self._place, self._tenant)
            raise

    def _bring_keys(self, there: Collection[int] | None = None) -> None:
        written = bring_keys(self._place, self._tenant, there, anew=self._anew)
        for _ in range(written):
            self.folder.counted(0)
        target = key_ends(self._place, self._tenant).target
        with suppress(ObjectMissing):
            self._newest = read_key_object(target, FIRST_EPOCH).newest
        catalog = self._place.target.catalog(self._tenant.region)
        if written and self._newest > FIRST_EPOCH and catalog.has_key:  # a catalog without a key would make one
            ring = open_key_ring(target)
            self._place.target.epoch_marks(self._tenant.region).begin(ring.name_key, ring.epoch)

    def _attributes(self, name: str) -> Mapping[str, str] | None:
        """What puts an object under lock from its put on; keys never are, for an erasure destroys them."""
        return self._locks.attributes() if self._locks is not None and Locks.wants(name) else None

    def _leave_out(self, name: str, error: CorruptObject) -> bool:
        """Of what is damaged at the source packs and documents are left out: the backups that need them are not copied."""
        if repository_kind(name) is Kind.DOCUMENT:
            self.damaged = error
            self._incomplete.add(Keys.MANIFESTS + name.partition("/")[2])
            return True
        pack_id = pack_id_of(name.removeprefix(Keys.PACKS))
        if pack_id is None:
            return False
        if not self._is_marked_damaged(pack_id) and not is_whole(self.folder.there, self.folder.below + name):
            self._lost[pack_id] = error
        return True

    def _needing_lost(self, manifests: Sequence[str]) -> set[str]:
        """Those of these manifests that need what is in no whole pack; says so in `damaged`. Reads the source with its keys."""
        needing = set[str]()
        with self._place.source.repository(self._tenant) as repository:
            repository.marked_damaged |= self._lost.keys()
            repository.load_index()
            for name in manifests:
                backup_id = BackupId(name.removeprefix(Keys.MANIFESTS).removesuffix(".json"))
                try:
                    chunks = chunks_of(repository, read_manifest(repository, backup_id))
                    if all(repository.index.find(chunk) for chunk in chunks):
                        continue
                except (RepositoryError, StoreError) as error:
                    if error.transient:
                        raise
                except UnknownBackup:  # forgotten since it was listed
                    continue
                except (KeyError, TypeError, ValueError, AttributeError):
                    pass  # a malformed document says nothing of what its backup needs
                needing.add(name)
        if needing:
            first = next(iter(self._lost.values()))
            ids = sorted(name.removeprefix(Keys.MANIFESTS).removesuffix(".json") for name in needing)
            more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
            self.damaged = CorruptObject(
                "Backups need what is damaged at the source, and were not copied",
                on=first.on,
                why=f"{', '.join(ids[:_NAMED])}{more}: their packs are not what their names say; all else was brought",
                remedy=f"restore the older version of the pack in the source's bucket; or run `sbh backup validate {ids[-1]}"
                f" -t {self._tenant.id} --deep`, take another backup, and forget those that are damaged",
            )
        return needing

    def _is_marked_damaged(self, pack_id: bytes) -> bool:
        mark = Keys.damaged(pack_id)
        try:
            body = self.folder.here.get(self.folder.prefix + mark, most_bytes(mark))
            return parse_document(body, self.folder.here.url(mark)).get("kind") != CLEARED
        except CorruptObject:
            return True
        except ObjectMissing:
            return False

    def _manifest(self, one: Wanted) -> None:
        folder = self.folder
        key, key_there = folder.prefix + one.name, folder.below + one.name
        try:
            body = read_source(folder.here, key, most_bytes(Keys.MANIFESTS), one.etag)
        except SourceVanished:
            return  # forgotten
        try:
            document = parse_document(body, folder.here.url(key))
            if checksum(document) != document.get("checksum"):
                raise CorruptObject(
                    "A manifest of the source is damaged, and was not copied",
                    on=folder.here.url(key),
                    why="its checksum is not its content's",
                    remedy="restore its older version from the bucket, or forget the backup",
                )
        except CorruptObject as error:
            self.damaged = error
            return
        if _epoch_of(document) > self._newest:  # signed anew since the keys were brought
            self._bring_keys()
            if _epoch_of(document) > self._newest:  # an epoch's key is there before anything is signed in it
                self.damaged = CorruptObject(
                    "A manifest of the source names a key epoch that there is none of, and was not copied",
                    on=folder.here.url(key),
                    why=f"it says epoch {_epoch_of(document)}, and the newest is {self._newest}",
                    remedy="see who can write to the bucket; `sbh backup validate` says whether it is genuine",
                )
                return
        if not one.absent:
            self._check_same(key_there, document)
        if self._transfers.put(folder.there, key_there, body, self._attributes(one.name), absent=one.absent):
            folder.counted(len(body))

    def _check_same(self, key: str, document: dict[str, object]) -> None:
        """A manifest changes in its signature only; one that is damaged is put again. Raises CopyDiverged."""
        there = self.folder.there
        try:
            known = parse_document(there.get(key, most_bytes(Keys.MANIFESTS)), there.url(key))
        except (ObjectMissing, CorruptObject):
            return
        if known.get("checksum") != document["checksum"] and checksum(known) == known.get("checksum"):
            raise diverged(there.url(key), "it is another backup of the same id")

    # the head of the audit trail

    def _head_key(self) -> str:
        _, below = self._place.source.audit_store(self._tenant.region)
        return f"{below}heads/{self._tenant.home}.json"

    def _read_head(self) -> bytes | None:
        """Read before the events are listed: a head that is ahead of its trail says that the trail was cut."""
        if not (self._trail and is_bound(self._tenant)):
            return None
        store, _ = self._place.source.audit_store(self._tenant.region)
        try:
            return store.get(self._head_key(), HEAD_BYTES)
        except ObjectMissing:
            return None

    def _put_head(self, head: bytes) -> None:
        store, _ = self._place.target.audit_store(self._tenant.region)
        if self._transfers.put(store, self._head_key(), head):
            self.folder.counted(len(head))


class _Beside:
    """What a listing of the copy tells that is no part of the inventory: epochs of keys, and whether it forgot backups."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.epochs: set[int] = set()
        self.forgets = False

    def noted(self, listing: Iterable[ObjectInfo]) -> Iterator[ObjectInfo]:
        for info in listing:
            name = info.key[len(self._prefix) :]
            if (epoch := epoch_of(name)) is not None:
                self.epochs.add(epoch)
            self.forgets = self.forgets or name == Keys.COPY
            yield info


def _without_held(skipped: set[str], holds: Iterable[str]) -> set[str]:
    """What was forgotten at the copy and is held at the source since comes again."""
    left = set(skipped)
    for hold in holds if left else ():
        if hold.startswith(f"{Keys.HOLDS}legal-tenant-"):
            return set()
        left = {name for name in left if name.removeprefix(Keys.MANIFESTS).removesuffix(".json") not in hold}
    return left


def _epoch_of(document: dict[str, object]) -> int:
    """The newest key epoch that a manifest needs, as far as it says."""
    signature = document.get("signature")
    said = [document.get("key_epoch"), signature.get("key_epoch") if isinstance(signature, dict) else None]
    return max([FIRST_EPOCH, *(epoch for epoch in said if type(epoch) is int)])
