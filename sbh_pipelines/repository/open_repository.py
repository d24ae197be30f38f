"""Opening a repository: its keys are unwrapped, or made where it is about to begin."""

from collections.abc import Callable

from sbh_pipelines.errors import (
    CorruptObject,
    ObjectMissing,
    UnknownBackup,
)
from sbh_pipelines.model import TenantId
from sbh_pipelines.repository.format import (
    Keys,
)
from sbh_pipelines.repository.keys.data_key import EPOCH, KeyPlace, KeyRing, create_data_key, open_key_ring, read_epoch
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
) -> Repository:
    """Unwrap (or, with `create`, make) the tenant's data key; the index is not read yet, see `load_index`.

    `admit` is asked where there is no key: it raises for a tenant that was erased. Raises UnknownBackup when there is no
    repository and `create` is false, and the key provider's errors.
    """
    ring, new = _key_ring(store, prefix, tenant, region, keys, create, admit)
    repository = Repository(store, prefix, tenant, ring.sealer(tenant, compression_level))
    repository.new = new
    return repository


def _key_ring(
    store: ObjectStore,
    prefix: str,
    tenant: TenantId,
    region: str,
    keys: KeyProvider,
    create: bool,
    admit: Callable[[], None],
) -> tuple[KeyRing, bool]:
    """The keys, and whether they were made just now."""
    key = prefix + Keys.data_key(EPOCH)
    try:
        return open_key_ring(store, prefix, tenant, region, keys), False
    except ObjectMissing:
        pass
    admit()
    if next(store.list(prefix + Keys.MANIFESTS), None) is not None:
        # To say that there are none, or to make a new key, would hide that they have become unreadable.
        raise CorruptObject(
            "The tenant's data key is gone, but its backups are there",
            on=store.url(key),
            remedy="restore the key object from the bucket's older version",
        )
    if not create:
        raise UnknownBackup(
            "The tenant has no backups", on=str(tenant), remedy=f"make one: `sbh backup create {tenant}`"
        )
    data_key, new = create_data_key(store, prefix, tenant, region, keys)
    place = KeyPlace(store, prefix, tenant, region, keys)
    return KeyRing(EPOCH, data_key, name_key_of(data_key), lambda epoch: read_epoch(place, epoch)[0]), new
