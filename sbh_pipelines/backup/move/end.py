"""The end of a move at one site alone: for one that was cut short and whose other site is gone, or is not to be asked."""

from dataclasses import replace

from sbh_pipelines.backup.site.moves import move_of, say_move
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.schema.tenants import find_tenants
from sbh_pipelines.errors import MoveRefused
from sbh_pipelines.model import HousedTenant, Tenant, TenantId, timestamp
from sbh_pipelines.repository.catalog.moves import MoveState, list_moves, read_move, write_move
from sbh_pipelines.repository.catalog.owners import slug_of
from sbh_pipelines.repository.documents import list_manifest_ids


def end_here(site: Site, tenant: Tenant, user_id: str) -> None:
    """The site has the tenant, as it is. Raises MoveRefused."""
    move = move_of(site, tenant)
    if move is None:
        raise _refused(tenant.id, "nothing is said of a move of it", "nothing is needed: it is backed up here")
    if move.state is MoveState.ON_ITS_WAY and move.backup_id not in list_manifest_ids(*site.backup_store(tenant)):
        raise _refused(
            tenant.id,
            f"its history has not come: the final backup, {move.backup_id}, is not here",
            "finish the move with the command that began it; or delete its rows and files here, and give it up: --give-up",
        )
    props = {"from": move.site, "place": move.place, "backup_id": move.backup_id, "said_by_hand": True}
    site.track(tenant, "tenant.arrived", user_id, props)
    say_move(site, tenant, replace(move, state=MoveState.HERE, at=timestamp(site.clock())), user_id)


def give_up_here(site: Site, slug: TenantId, user_id: str) -> None:
    """The tenant does not come. Raises MoveRefused."""
    if slug in find_tenants(site.settings, [slug]):
        raise _refused(
            slug,
            "it has rows here, and would be backed up",
            "delete its rows and files here first; or keep what is here: --arrived in place of --give-up",
        )
    given_up = False
    for region in site.settings.storage.regions:
        catalog = site.catalog(region)
        for home, _ in list_moves(catalog):
            mark = read_move(catalog, home) if slug_of(home) == slug else None
            if mark is not None and mark.move.state is MoveState.ON_ITS_WAY:
                props = {"from": mark.move.site, "place": mark.move.place, "backup_id": mark.move.backup_id}
                site.track(HousedTenant(slug, "", region, "", home), "tenant.move_given_up", user_id, props)
                here = replace(mark.move, state=MoveState.HERE, at=timestamp(site.clock()))
                write_move(catalog, replace(mark, move=here), user_id)
                given_up = True
    if not given_up:
        raise _refused(slug, "it is not on its way here", "nothing is needed")


def _refused(slug: TenantId, why: str, remedy: str) -> MoveRefused:
    return MoveRefused("The move cannot be ended so; nothing was written", on=str(slug), why=why, remedy=remedy)
