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
from sbh_pipelines.model import Tenant
from sbh_pipelines.placement import catalog_place
from sbh_pipelines.repository.catalog.catalog import Catalog
from sbh_pipelines.repository.catalog.moves import Move, MoveMark, MoveState, move_key, read_move, write_move
from sbh_pipelines.repository.catalog.owners import slug_of
from sbh_pipelines.settings import Settings

_MARKS_S = 30.0  # how old what is known of all may be; under a tenant's lease it is asked for anew


@dataclass(frozen=True, slots=True)
class MovedTenant:
    """A tenant that is not backed up here, as it went to another site or has not arrived from one.

    Attributes:
        tenant_id: The tenant.
        state: `went`, or `on_its_way`.
        site: The other site: its name, else its database.
        place: Where its backups are there.
        backup_id: The last backup before the move.
        since: When the move was finished here, or its rows were about to come here, UTC, ISO 8601.
    """

    tenant_id: str
    state: MoveState
    site: str
    place: str
    backup_id: str
    since: str


def site_name(settings: Settings) -> str:
    """The site's name, else which database it is of."""
    return settings.site.name or describe_dsn(settings.database.dsn)


def move_of(site: Site, tenant: Tenant) -> Move | None:
    """What is said of the tenant now; None where it is here. One request. Raises the store's and the key provider's errors."""
    catalog = site.catalog(tenant.region)
    mark = read_move(catalog, site.owners.home_of(tenant))
    return _said(catalog, mark, tenant) if mark is not None else None


def refuse_elsewhere(site: Site, tenant: Tenant, since: float) -> None:
    """Raises TenantMoved where the tenant is not backed up here, and what kept that from being known.

    `since`: from when on its lease is held, by the monotonic clock: no request, where a listing of the catalog after that shows
    no mark.
    """
    if site.catalog(tenant.region).moves_listed.lacks(move_key(site.owners.home_of(tenant)), since):
        return
    if (move := move_of(site, tenant)) is not None:
        raise moved_error(tenant, move)


def known_moves(site: Site, tenants: Iterable[Tenant]) -> Mapping[Tenant, Move]:
    """What was said a moment ago of those of whom something is. A region that does not answer is asked once in a while."""
    by_region, found = defaultdict[str, list[Tenant]](list), dict[Tenant, Move]()
    for tenant in tenants:
        by_region[tenant.region].append(tenant)
    for region, own in by_region.items():
        if region in site.settings.storage.regions and not _lacks_directory(site, region):
            with suppress(SbhError):
                found |= _moves(site, region, own)
    return found


def _moves(site: Site, region: str, tenants: Iterable[Tenant]) -> dict[Tenant, Move]:
    """Of tenants of a region, of which there may be very many, and few that move."""
    catalog = site.catalog(region)
    own, found = list(tenants), dict[Tenant, Move]()
    marks = catalog.moves.of(catalog, {tenant.id for tenant in own}, _MARKS_S)
    slugs = {slug_of(home) for home in marks}
    for tenant in own:
        mark = marks.get(site.owners.home_of(tenant)) if tenant.id in slugs else None
        if mark is not None and (move := _said(catalog, mark, tenant)) is not None:
            found[tenant] = move
    return found


def _said(catalog: Catalog, mark: MoveMark, tenant: Tenant) -> Move | None:
    key = catalog.known_owner_key()
    own = key is not None and mark.is_of(key, tenant.key)
    return mark.move if own and mark.move.state is not MoveState.HERE else None


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


def moved_tenants(site: Site, tenants: Sequence[Tenant]) -> Sequence[MovedTenant]:
    """Those of the tenants that are not backed up here."""
    moves = known_moves(site, tenants).items()
    return [MovedTenant(one.id, move.state, move.site, move.place, move.backup_id, move.at) for one, move in moves]


def moved_error(tenant: Tenant, move: Move) -> TenantMoved:
    """Why no backup is made here of a tenant of which this is said."""
    if move.state is MoveState.ON_ITS_WAY:
        return TenantMoved(
            "The tenant is on its way from another site, and is not backed up here before it has arrived",
            on=str(tenant.id),
            why=f"a move from {move.site} was begun at {move.at}; until it lets the tenant go, backups are made there",
            remedy="finish the move: give the command once more that began it. Where the tenant is in use here, or is gone from"
            f" {move.site}: `sbh tenants move {tenant.id} --to SETTINGS --arrived`, with the settings of this site",
        )
    return TenantMoved(
        "The tenant went to another site, and is backed up there",
        on=str(tenant.id),
        why=f"it was moved to {move.site} at {move.at}; its last backup here is {move.backup_id}",
        remedy=f"work with the settings of {move.site}; to bring it back, move it from there to here",
    )


def say_move(site: Site, tenant: Tenant, move: Move, by: str) -> None:
    """Store what is said of the tenant, in place of what was. Raises the store's and the key provider's errors."""
    catalog = site.catalog(tenant.region)
    write_move(catalog, MoveMark.of(catalog.owner_key, site.owners.home_of(tenant), tenant.key, move), by)
