"""Tenants that move between sites: what the catalog of a region says of them.

A tenant that went keeps its rows and its repository here until somebody removes them, but nothing is backed up for it any more.
One that is on its way has some of both already, and its backups are not due before it has arrived. What cannot be read here keeps
nobody from being backed up.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.session.connection import describe_dsn
from sbh_pipelines.errors import SbhError, TenantMoved
from sbh_pipelines.model import Tenant, timestamp
from sbh_pipelines.placement import catalog_place
from sbh_pipelines.repository.catalog.owners import Move, former_key, mark_body, slug_of
from sbh_pipelines.settings import Settings


@dataclass(frozen=True, slots=True)
class MovedTenant:
    """A tenant that went to another site.

    Attributes:
        tenant_id: The tenant.
        to: The site it went to: its name, else its database.
        place: Where its backups are there.
        backup_id: The last backup that was made here.
        moved_at: When the move was finished here, UTC, ISO 8601.
    """

    tenant_id: str
    to: str
    place: str
    backup_id: str
    moved_at: str


def site_name(settings: Settings) -> str:
    """The site's name, else which database it is of."""
    return settings.site.name or describe_dsn(settings.database.dsn)


def move_of(site: Site, tenant: Tenant, *, anew: bool = False) -> Move | None:
    """What is said of the tenant; None where it is here, and was here. `anew`: not as it was a moment ago.

    Raises the store's and the key provider's errors.
    """
    return _moves(site, tenant.region, [tenant], anew=anew).get(tenant)


def known_moves(site: Site, tenants: Iterable[Tenant]) -> Mapping[Tenant, Move]:
    """What is said of those of whom something is. A region that does not answer is asked once, and says nothing."""
    by_region, found = defaultdict[str, list[Tenant]](list), dict[Tenant, Move]()
    for tenant in tenants:
        by_region[tenant.region].append(tenant)
    for region, own in by_region.items():
        if not _lacks_directory(site, region):
            with suppress(SbhError):
                found |= _moves(site, region, own)
    return found


def _moves(site: Site, region: str, tenants: Iterable[Tenant], *, anew: bool = False) -> dict[Tenant, Move]:
    """Of tenants of a region, of which there may be very many, and few that move."""
    if region not in site.settings.storage.regions:
        return {}
    marks = {mark.home: mark for mark in site.owners.moving(region, anew=anew)}
    key = site.catalog(region).known_owner_key() if marks else None
    if key is None:
        return {}
    found, slugs = dict[Tenant, Move](), {slug_of(home) for home in marks}
    for tenant in tenants:
        mark = marks.get(site.owners.home_of(tenant)) if tenant.id in slugs else None
        if mark is not None and mark.move is not None and mark.is_of(key, tenant.key):
            found[tenant] = mark.move
    return found


def _lacks_directory(site: Site, region: str) -> bool:
    """Whether the directory that stands for a bucket is gone: to open it would make it, and nobody would see that it was."""
    storage = site.settings.storage
    if storage.kind != "local" or storage.path is None or region not in storage.regions:
        return False
    return not (storage.path / catalog_place(site.settings, region).bucket).is_dir()


def backed_up_here(site: Site, tenants: Sequence[Tenant]) -> list[Tenant]:
    """Those of the tenants whose backups are made here: that neither went nor are on their way."""
    moves = known_moves(site, tenants)
    return [tenant for tenant in tenants if tenant not in moves]


def moved_away(site: Site, tenants: Sequence[Tenant]) -> Sequence[MovedTenant]:
    """Those of the tenants that went, and where to."""
    moves = known_moves(site, tenants).items()
    return [MovedTenant(one.id, move.site, move.place, move.backup_id, move.at) for one, move in moves if move.away]


def moved_error(tenant: Tenant, move: Move) -> TenantMoved:
    """Why no backup is made here of a tenant of which this is said."""
    if not move.away:
        return TenantMoved(
            "The tenant is on its way from another site, and is backed up there until it has arrived",
            on=str(tenant.id),
            why=f"a move from {move.site} was begun at {move.at}",
            remedy="finish the move: give the command once more that began it",
        )
    return TenantMoved(
        "The tenant went to another site, and is backed up there",
        on=str(tenant.id),
        why=f"it was moved to {move.site} at {move.at}; its last backup here is {move.backup_id}",
        remedy=f"work with the settings of {move.site}; to bring it back, move it from there to here",
    )


def say_move(site: Site, tenant: Tenant, move: Move, by: str) -> None:
    """Store what is said of the tenant, in place of what was. Raises the store's and the key provider's errors."""
    catalog, home = site.catalog(tenant.region), site.owners.home_of(tenant)
    body = mark_body(catalog.owner_key, home, [tenant.key], [], by, timestamp(site.clock()), move)
    catalog.store.put(catalog.prefix + former_key(home), body)
    site.owners.moving(tenant.region, anew=True)


def unsay_move(site: Site, tenant: Tenant) -> None:
    """The tenant is here, as others are. Raises the store's errors."""
    catalog = site.catalog(tenant.region)
    catalog.store.delete([catalog.prefix + former_key(site.owners.home_of(tenant))])
    site.owners.moving(tenant.region, anew=True)
