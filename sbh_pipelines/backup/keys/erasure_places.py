"""ErasurePlace a tenant may have backups: every bucket and prefix that an erasure has to look into."""

from collections.abc import Iterator
from dataclasses import dataclass

from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import ObjectMissing
from sbh_pipelines.model import HousedTenant, TenantId
from sbh_pipelines.placement import Place, backup_place, place_identity
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.stores.base import ObjectStore
from sbh_pipelines.stores.purge import Chosen, Purger, PurgeResult, chosen_but


@dataclass(frozen=True, slots=True)
class ErasurePlace:
    """A bucket and prefix that may hold something of the tenant.

    Attributes:
        place: The bucket, the prefix and the region.
        store: Reads there.
        purger: Deletes there, in all versions.
    """

    place: Place
    store: ObjectStore
    purger: Purger

    @property
    def prefix(self) -> str:
        return self.place.prefix

    def all_but_audit(self) -> Chosen:
        return chosen_but(self.prefix + Keys.AUDIT)

    def all_but_audit_and_lease(self) -> Chosen:
        return chosen_but(self.prefix + Keys.AUDIT, self.prefix + Keys.LEASE)

    def is_empty(self) -> bool:
        keep = self.prefix + Keys.AUDIT
        return all(info.key.startswith(keep) for info in self.store.list(self.prefix))


def places_of(site: Site, slug: TenantId, home: str) -> Iterator[ErasurePlace]:
    """Every place in which the tenant may have backups, once."""
    seen = set()
    for region in site.settings.storage.regions:
        place = backup_place(site.settings, HousedTenant(slug, "", region, "", home))
        store = site.raw_store(place)
        address = place_identity(site.settings, place)
        if address not in seen and is_there(store, place.prefix):
            seen.add(address)
            yield ErasurePlace(place, store, site.purger(place))


def is_there(store: ObjectStore, prefix: str) -> bool:
    """Whether there is such a bucket: a region that is set up later has none yet."""
    try:
        next(store.list(prefix), None)
    except ObjectMissing:
        return False
    return True


def purge_in(place: ErasurePlace, prefix: str, chosen: Chosen, done: PurgeResult) -> None:
    """Delete; what could not be deleted is counted at the end."""
    one = place.purger.purge(prefix, chosen)
    one.left, one.left_keys = 0, []
    done.add(one)
