"""Of whom an erasure is: of one tenant, though several had its slug, and one repository may have backups of two."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from sbh_pipelines.backup.keys.erasure_places import is_there
from sbh_pipelines.backup.site.owners import Owners
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import (
    CorruptObject,
    KeyServiceError,
    ObjectMissing,
    OwnerRefused,
    TenantErased,
    UnknownBackup,
    UnknownTenant,
)
from sbh_pipelines.model import HousedTenant, Tenant, TenantId
from sbh_pipelines.repository.catalog.owners import OwnerDocument, Ownership


@dataclass(frozen=True, slots=True)
class Erased:
    """Whose backups go.

    Attributes:
        slug: The tenant's slug.
        home: The name of its repository.
        keys: The keys in the application whose backups go; empty where none is known.
    """

    slug: TenantId
    home: str
    keys: frozenset[str]


def whose(
    site: Site, slug: TenantId, live: Tenant | None, former_key: str | None = None, also_keys: Sequence[str] = ()
) -> Erased:
    """The live tenant; the one with `former_key` where that is given; where nobody has the slug, the only one who had it.

    `also_keys`: of others whose backups go with it, as they are in the same repository. Raises OwnerRefused where several had it.
    """
    if former_key is not None:
        with suppress(UnknownTenant):
            found = site.owners.former_tenant(slug, former_key, live)
            return Erased(slug, found.home, frozenset({former_key, *also_keys}))
        return Erased(slug, str(slug), frozenset({former_key, *also_keys}))
    if live is not None:
        return Erased(slug, site.owners.home_of(live), frozenset({live.key, *also_keys}))
    homes = [home for home in site.owners.every_home(slug) if _has_backups(site, slug, home)]
    if len(homes) > 1:
        raise OwnerRefused(
            "Several tenants had this slug, and nobody has it now",
            on=slug,
            why=f"their repositories are {', '.join(homes)}",
            remedy=f"say whose: sbh tenants erase {slug} --confirm {slug} --former-key KEY --reason ...",
        )
    return Erased(slug, homes[0] if homes else str(slug), frozenset(also_keys))


def keys_of_home(site: Site, erased: Erased) -> tuple[set[str], dict[str, OwnerDocument]]:
    """(the keys whose backups are in the repository; what it says of its owner, by region), as far as it can be read."""
    keys, owners = set(erased.keys), dict[str, OwnerDocument]()
    for region in site.settings.storage.regions:
        housed = HousedTenant(erased.slug, "", region, "", erased.home)
        if not is_there(*site.backup_store(housed)):
            continue  # a region that is set up later
        with (
            suppress(UnknownBackup, TenantErased, CorruptObject, KeyServiceError),
            site.opened(housed, erased.home) as repository,
        ):
            if repository.owner is not None:
                owners[region] = repository.owner
            keys |= {key for key in Owners.keys_in(repository).values() if key is not None}
    return keys, owners


def refuse_others(site: Site, erased: Erased) -> None:
    """Raises OwnerRefused where there are backups of others than those whose backups are to go."""
    found, owners = keys_of_home(site, erased)
    for region, owner in owners.items():
        secret = site.catalog(region).known_owner_key()
        said = {owner.says(secret, erased.home, key) for key in erased.keys}
        if said == {Ownership.OTHER}:
            raise _refused(erased, "the repository is another tenant's, who had the slug before")
        found = {key for key in found if not owner.adopts(secret, erased.home, key)}
    if erased.keys and (others := sorted(found - erased.keys)):
        raise _refused(erased, f"there are backups of another tenant as well, of key {', '.join(others[:10])}", others)
    if not erased.keys and len(found) > 1:
        raise _refused(
            erased, f"there are backups of several tenants: keys {', '.join(sorted(found)[:10])}", sorted(found)
        )


def _refused(erased: Erased, why: str, also: Sequence[str] = ()) -> OwnerRefused:
    slug = erased.slug
    options = " ".join(f"--also-key {key}" for key in also[:10]) or "--former-key KEY"
    return OwnerRefused(
        "The erasure would destroy another tenant's backups",
        on=slug,
        why=why,
        remedy=f"sbh tenants erase {slug} --confirm {slug} {options} --reason ... where they are to go",
    )


def is_shared(site: Site, erased: Erased) -> bool:
    """Whether another repository of the slug has a key object: a KMS key that goes by the slug wraps its data key as well."""
    return any(
        _has(site, HousedTenant(erased.slug, "", region, "", home), True)
        for region in site.settings.storage.regions
        for home in site.owners.homes(erased.slug, region)
        if home != erased.home
    )


def _has_backups(site: Site, slug: TenantId, home: str) -> bool:
    return any(_has(site, HousedTenant(slug, "", region, "", home), False) for region in site.settings.storage.regions)


def _has(site: Site, housed: HousedTenant, key_only: bool) -> bool:
    store, prefix = site.backup_store(housed)
    try:
        return next(iter(store.list(prefix + ("keys/" if key_only else ""))), None) is not None
    except ObjectMissing:
        return False
