"""Repositories whose tenant was erased, of a region: what is not written for them any more, and dropped where it lies."""

from collections.abc import Mapping

from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import ObjectMissing
from sbh_pipelines.model import HousedTenant
from sbh_pipelines.repository.bounds import all_below
from sbh_pipelines.repository.catalog.erased import ERASED, erased_slug, is_erased
from sbh_pipelines.repository.catalog.owners import slug_of
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.repository.journal.segments.public_key import PublicKey


def maybe_erased(site: Site, region: str) -> set[str]:
    """Homes that an object in the region's catalog says are erased: one listing, and none of it is believed yet."""
    catalog = site.catalog(region)
    try:
        keys = [info.key[len(catalog.prefix) :] for info in all_below(catalog.store, catalog.prefix + ERASED)]
    except ObjectMissing:  # no bucket there yet
        return set()
    return {home for home in map(erased_slug, keys) if home is not None}


def was_erased(site: Site, region: str, home: str) -> bool:
    """Whether the repository's tenant was erased, or is being erased, and was not admitted again."""
    slug = slug_of(home)
    if slug is None:
        return False

    def keys_left() -> bool:
        store, prefix = site.backup_store(HousedTenant(slug, "", region, "", home))
        return next(all_below(store, prefix + Keys.KEYS), None) is not None

    return is_erased(site.catalog(region), home, keys_left)


def without_erased(site: Site, region: str, keys: Mapping[str, PublicKey]) -> dict[str, PublicKey]:
    """Public keys of the journal, by tenant key, without those of erased tenants: somebody may have put an old object back."""
    homes = maybe_erased(site, region)
    return {
        tenant_key: key
        for tenant_key, key in keys.items()
        if key.home not in homes or not was_erased(site, region, key.home)
    }
