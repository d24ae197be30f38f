"""Opening a repository: its keys are unwrapped, or made where it is about to begin."""

from collections.abc import Callable

from sbh_pipelines.errors import (
    CorruptObject,
    ObjectMissing,
    UnknownBackup,
)
from sbh_pipelines.model import TenantId
from sbh_pipelines.repository.bounds import all_below
from sbh_pipelines.repository.catalog.owners import OwnerDocument
from sbh_pipelines.repository.format import (
    Keys,
)
from sbh_pipelines.repository.keys.data_key import (
    EPOCH,
    KeyObject,
    KeyPlace,
    KeyRing,
    create_data_key,
    open_key_ring,
    read_epoch,
)
from sbh_pipelines.repository.keys.epoch_marks import EpochMarks
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.repository.seal import name_key_of
from sbh_pipelines.security.keys import KeyProvider
from sbh_pipelines.stores.base import ObjectStore


def open_repository(
    store: ObjectStore,
    prefix: str,
    tenant: TenantId,
    region: str,
    keys: KeyProvider,
    *,
    create: bool,
    compression_level: int = 1,
    admit: Callable[[], None] = lambda: None,
    marks: EpochMarks | None = None,
    belongs_to: Callable[[], OwnerDocument | None] = lambda: None,
    home: str = "",
    first: KeyObject | None = None,
) -> Repository:
    """Unwrap (or, with `create`, make) the tenant's data key; the index is not read yet, see `load_index`.

    `admit` is asked where there is no key: it raises for a tenant that was erased. `belongs_to`: what a repository that is begun
    says of its owner. `home`: the name under which it lies, where that is not the slug. `first`: the first key object, if the
    caller has read it just now. Raises UnknownBackup when there is no
    repository and `create` is false, and the key provider's errors.
    """
    place = KeyPlace(store, prefix, tenant, region, keys, marks, home)
    ring, new = _key_ring(place, tenant, create, admit, belongs_to, first)
    if create and marks is not None:  # whoever began the epoch may have been killed before it left its mark
        marks.begin(ring.name_key, ring.epoch)
    repository = Repository(store, prefix, tenant, ring.sealer(tenant, compression_level))
    repository.owner = ring.owner
    repository.new = new
    return repository


def _key_ring(
    place: KeyPlace,
    tenant: TenantId,
    create: bool,
    admit: Callable[[], None],
    belongs_to: Callable[[], OwnerDocument | None],
    first: KeyObject | None,
) -> tuple[KeyRing, bool]:
    """The keys, and whether they were made just now."""
    try:
        return open_key_ring(place, first), False
    except ObjectMissing:
        pass
    admit()
    if next(all_below(place.store, place.prefix + Keys.MANIFESTS), None) is not None:
        # To say that there are none, or to make a new key, would hide that they have become unreadable.
        raise CorruptObject(
            "The tenant's data key is gone, but its backups are there",
            on=place.url(EPOCH),
            remedy="restore the key object from the bucket's older version",
        )
    if not create:
        raise UnknownBackup(
            "The tenant has no backups", on=str(tenant), remedy=f"make one: `sbh backup create {tenant}`"
        )
    said = belongs_to()
    data_key, new = create_data_key(place.store, place.prefix, tenant, place.region, place.keys, said, place.home)
    if not new:
        return open_key_ring(place), False
    return KeyRing(EPOCH, data_key, name_key_of(data_key), lambda epoch: read_epoch(place, epoch)[0], said), True
