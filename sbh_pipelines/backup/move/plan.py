"""What a move would do, and every reason to refuse it; nothing is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sbh_pipelines.backup.contents.manifest import LATEST
from sbh_pipelines.backup.contents.ownership import resolve_own
from sbh_pipelines.backup.copies.copier.kinds import repository_kind
from sbh_pipelines.backup.move.files import other_files
from sbh_pipelines.backup.restore.plan import RestorePlan
from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.restore.restore import plan_restore, target_of
from sbh_pipelines.backup.site.moves import move_of, site_name
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.schema.tenants import find_tenants
from sbh_pipelines.database.session.connection import describe_dsn
from sbh_pipelines.database.session.snapshot import exported_snapshot
from sbh_pipelines.errors import MoveRefused, ObjectMissing, SbhError, TenantMoved
from sbh_pipelines.model import BackupId, ProgressSink, Tenant
from sbh_pipelines.placement import catalog_place, check_tenant, files_place, is_one_place
from sbh_pipelines.repository.bounds import all_below
from sbh_pipelines.repository.catalog.moves import Move, MoveState
from sbh_pipelines.repository.keys.data_key import read_key_object, unwrap
from sbh_pipelines.repository.keys.epochs import epochs

# The tenant is not in the target: there is nothing to go back to, and what a killed move left goes on from the same backup.
WHOLE = RestoreRequest(safety_backup=False)
_NAMED = 5  # tables in an error


class Stage(StrEnum):
    """How far a move is."""

    NEW = "new"
    BEGUN = "begun"  # the target has some of it
    LEFT = "left"  # the source says that the tenant went, and the target does not say yet that it arrived
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Ends:
    """Both ends of a move.

    Attributes:
        source: The site that the tenant leaves.
        target: The site that it comes to.
        tenant: As the source's database has it.
        stage: How far the move is.
        left: What the source says of a move that is finished there.
        arriving: What the target says of one that was begun.
    """

    source: Site
    target: Site
    tenant: Tenant
    stage: Stage
    left: Move | None = None
    arriving: Move | None = None

    @property
    def place_here(self) -> str:
        """Where the source's repository is."""
        return repository_url(self.source, self.tenant)

    @property
    def place_there(self) -> str:
        """Where the target's repository is, or will be."""
        return repository_url(self.target, self.tenant)


@dataclass(frozen=True, slots=True)
class TableRows:
    """A table of the tenant.

    Attributes:
        table: `schema.table`.
        rows: The tenant's rows in it, in the backup.
    """

    table: str
    rows: int


@dataclass(frozen=True, slots=True)
class MovePlan:
    """What a move would do, by the tenant's newest backup. The move itself makes one more.

    Attributes:
        tenant_id: The tenant.
        region: Its region.
        from_site: The site that it leaves: its name, else its database.
        to_site: The site that it comes to.
        stage: `new`; `begun`: a move that was cut short goes on; `left`: only its end is missing; `done`: nothing is.
        backup_id: The newest backup.
        backups: How many backups the target will have.
        objects: Objects of the repository; those that the target has already are not brought again.
        bytes: Their bytes.
        tables: The tenant's tables.
        rows: Rows of all of them.
        files: Files that are written at the target.
        file_bytes: Their bytes.
        others: What is at the target, and neither the backup's nor absent: rows by table, files.
        problems: Why the move is refused.
    """

    tenant_id: str
    region: str
    from_site: str
    to_site: str
    stage: Stage
    backup_id: str
    backups: int
    objects: int
    bytes: int
    tables: Sequence[TableRows]
    rows: int
    files: int
    file_bytes: int
    others: Sequence[str]
    problems: Sequence[SbhError]


def repository_url(site: Site, tenant: Tenant) -> str:
    """Where the tenant's repository is at a site, for people."""
    store, prefix = site.backup_store(tenant)
    return store.url(prefix)


def open_ends(source: Site, target: Site, tenant: Tenant) -> Ends:
    """Both ends, once nothing speaks against a move between them.

    Raises MoveRefused, TenantMoved where the tenant went elsewhere, SlugTaken, TenantErased, ResidencyError, and the errors of
    reaching databases, stores and keys.
    """
    _refuse_one_site(source, target, tenant)
    if tenant.region not in target.settings.storage.regions:
        raise _refused(
            tenant,
            f"its region, {tenant.region}, is none of {site_name(target.settings)}",
            f"add it to storage.regions there (now {', '.join(target.settings.storage.regions)}), or choose another site",
        )
    _refuse_one_place(source, target, tenant)
    _refuse_files(source, target, tenant)
    check_tenant(target.settings, tenant, application=True)
    source.owners.check(tenant)
    target.owners.check(tenant)
    if source.owners.home_of(tenant) != target.owners.home_of(tenant):
        raise _refused(
            tenant,
            f"its repository is called {source.owners.home_of(tenant)} here and would be {target.owners.home_of(tenant)} there:"
            " tenants that had the slug before were put aside at one of the sites, and keys are bound to the name",
            "give the tenant a slug that neither site has had",
        )
    target.admit(tenant)
    target.check_place(tenant)
    here, there = repository_url(source, tenant), repository_url(target, tenant)
    left, arriving = move_of(source, tenant), move_of(target, tenant)
    begun = arriving is not None and arriving.state is MoveState.ON_ITS_WAY
    if left is not None and left.state is MoveState.WENT:
        # A place that has another address since is known by the final backup.
        if left.place != there and not (begun and arriving is not None and arriving.backup_id == left.backup_id):
            raise TenantMoved(
                "The tenant went to another site already",
                on=str(tenant.id),
                why=f"it was moved to {left.site} at {left.at}",
                remedy=f"move it from there: --from with the settings of {left.site}",
            )
        return Ends(source, target, tenant, Stage.LEFT if begun else Stage.DONE, left)
    if left is not None:
        raise _refused(
            tenant,
            f"it is on its way from {left.site} to {site_name(source.settings)}, and has not arrived",
            f"finish that move first, with the command that began it; or end it there: `sbh tenants move {tenant.id} --to SETTINGS"
            f" --arrived`, with the settings of {site_name(source.settings)}",
        )
    if begun and arriving is not None and arriving.place != here:
        raise _refused(
            tenant,
            f"a move of it to the target from {arriving.site} was begun",
            "finish that one first, with the command that began it; or end it there: `sbh tenants move"
            f" {tenant.id} --to SETTINGS --give-up`, with the settings of {site_name(target.settings)}",
        )
    _refuse_there(target, tenant, begun=begun)
    _refuse_keys(source, target, tenant)
    return Ends(source, target, tenant, Stage.BEGUN if begun else Stage.NEW, arriving=arriving)


def _refuse_one_site(source: Site, target: Site, tenant: Tenant) -> None:
    found = []
    for site in (source, target):
        with exported_snapshot(site.settings.database) as (_, point, _):
            found.append((point.system_identifier, point.database))
    if found[0] == found[1]:
        raise _refused(
            tenant,
            f"both settings are of one database, {describe_dsn(target.settings.database.dsn)}: one server's identifier, one name",
            "give the settings of two sites: --from and --to; where one server was made from a physical copy of the other, rename"
            " its database",
        )


def _refuse_one_place(source: Site, target: Site, tenant: Tenant) -> None:
    """Two sites with one place for backups, or one catalog, would take each other's for their own."""
    here, there = source.settings, target.settings
    places = [(source.backup_place(tenant), target.backup_place(tenant))]
    places.append((catalog_place(here, tenant.region), catalog_place(there, tenant.region)))
    keys = [site.catalog(tenant.region).known_owner_key() for site in (source, target)]
    one_catalog = keys[0] is not None and keys[1] is not None and keys[0].id == keys[1].id  # also one of two addresses
    if one_catalog or any(is_one_place(here, one, there, other) for one, other in places):
        raise _refused(
            tenant,
            "both sites keep its backups, or their catalogs, in one place",
            "give each site buckets of its own: docs/sites.md, *What each site has of its own*",
        )


def _refuse_files(source: Site, target: Site, tenant: Tenant) -> None:
    here, there = source.settings, target.settings
    if not here.files.enabled:
        return
    if not there.files.enabled:
        raise _refused(tenant, "it may have files, and files.enabled is off at the target", "set files.enabled there")
    if sorted(here.files.exclude) != sorted(there.files.exclude):
        raise _refused(
            tenant,
            f"files.exclude differs: {sorted(here.files.exclude)} here, {sorted(there.files.exclude)} there: what one site has for"
            " a file of the tenant the other does not look at",
            "set the same files.exclude at both",
        )
    if is_one_place(here, files_place(here, tenant), there, files_place(there, tenant), files=True):
        raise _refused(
            tenant,
            "both sites have its files in one place: a restore at one would write the other's, and who removes what is left at the"
            " first would remove them from both",
            "give the other site a files.bucket or a files.prefix of its own: docs/sites.md, *What each site has of its own*",
        )


def _refuse_there(target: Site, tenant: Tenant, *, begun: bool) -> None:
    known = find_tenants(target.settings, [tenant.id]).get(tenant.id)
    if known is None or (begun and known.key == tenant.key):
        return
    raise _refused(
        tenant,
        f"{site_name(target.settings)} has a tenant of this slug already, with the key {known.key[:80]}"
        + (", and no move to there was begun" if known.key == tenant.key else ""),
        "where those are leftovers of the same tenant, delete its rows and files there; else give one of the two another slug",
    )


def _refuse_keys(source: Site, target: Site, tenant: Tenant) -> None:
    """Where the target has backups of the tenant already, as when it comes back, one ring of data keys must open both."""
    here, there = (site.owners.key_place(tenant) for site in (source, target))
    for epoch in sorted(epochs(there)):
        theirs = read_key_object(there, epoch)
        try:
            ours = read_key_object(here, epoch)
        except ObjectMissing:
            ours = None
        if ours is not None and (theirs.destroyed or ours.destroyed or unwrap(there, theirs) == unwrap(here, ours)):
            continue
        raise _refused(
            tenant,
            f"its old backups at {site_name(target.settings)} have a data key, of epoch {epoch}, that was made there after it went",
            f"erase the old backups there, which come along anyway: `sbh tenants erase {tenant.id}`, then `sbh tenants readmit"
            f" {tenant.id}`, with the settings of {site_name(target.settings)}",
        )


def plan_move(ends: Ends, progress: ProgressSink, *, overwrite: bool = False) -> MovePlan:
    """By the newest backup; of a tenant that went, nothing but that. `overwrite`: also what was changed at the target since the
    move was begun.

    Raises UnknownBackup where there is no backup, CorruptObject, and the source's and stores' errors.
    """
    source, target, tenant = ends.source, ends.target, ends.tenant
    sites = tenant.id, tenant.region, site_name(source.settings), site_name(target.settings), ends.stage
    if ends.left is not None:
        return MovePlan(*sites, ends.left.backup_id, 0, 0, 0, (), 0, 0, 0, (), ())
    store, prefix = source.backup_store(tenant)
    sizes = [info.size for info in all_below(store, prefix) if repository_kind(info.key[len(prefix) :]) is not None]
    with source.repository(tenant) as repository:
        newest, backups = resolve_own(repository, LATEST, tenant.key, live=True), repository.manifest_ids()

        def compared(backup_id: BackupId) -> RestorePlan:
            into = target_of(target, None, WHOLE)
            return plan_restore(target, repository, tenant, backup_id, WHOLE, into, progress, names_others=True)

        plan = against = compared(newest)
        begun = ends.arriving.backup_id if ends.arriving is not None else newest
        if begun != newest and begun in backups:
            against = compared(BackupId(begun))
        files = against.files.different + against.files.extra
        if files and ends.stage is Stage.BEGUN:
            files = other_files(target, tenant, repository, BackupId(against.backup_id))
    others = _others(against, files)
    refused = [_in_the_way(ends, others)] if others and not (overwrite and ends.stage is Stage.BEGUN) else []
    return MovePlan(
        *sites,
        backup_id=newest,
        backups=len(backups),
        objects=len(sizes),
        bytes=sum(sizes),
        tables=[TableRows(table.table, table.rows_in_backup) for table in plan.tables],
        rows=sum(table.rows_in_backup for table in plan.tables),
        files=plan.files.missing + plan.files.different,
        file_bytes=plan.files.bytes_to_write,
        others=others,
        problems=[*plan.problems, *refused],
    )


def _others(plan: RestorePlan, files: int) -> list[str]:
    """What would be written over, or removed. Of a move that was begun the backup's own rows and files may be there."""
    found = [
        f"{table.table}: {table.update} rows changed, {table.delete} more"
        for table in plan.tables
        if table.update + table.delete
    ]
    if files:
        found.append(f"{files} files")
    return found


def _in_the_way(ends: Ends, others: Sequence[str]) -> MoveRefused:
    there, found = site_name(ends.target.settings), "; ".join(others[:_NAMED])
    if ends.stage is Stage.NEW:
        why = f"{there} has something under its key or prefix: {found}"
        return _refused(
            ends.tenant, why, "see whose it is; where it is a leftover of the tenant, delete it there first"
        )
    return _refused(
        ends.tenant,
        f"{there} has what did not come with the move that was begun: {found}",
        f"where the tenant is in use there, end the move there: `sbh tenants move {ends.tenant.id} --to SETTINGS --arrived`;"
        " where it is not, --overwrite makes it what it is here, and keeps no backup of what is there",
    )


def _refused(tenant: Tenant, why: str, remedy: str) -> MoveRefused:
    return MoveRefused("The tenant cannot be moved so; nothing was written", on=str(tenant.id), why=why, remedy=remedy)
