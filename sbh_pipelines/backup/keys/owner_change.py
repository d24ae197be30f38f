"""A slug that changed hands: its repository goes over to the tenant that has the slug now, or is put aside for the former one.

Nothing is copied, and nothing of a backup is touched. *Adopted*: the object of the repository's first key names another owner, in
one conditional write. *Retired*: a mark in the catalog of every region says whose the repository is and that the slug's next tenant
has another one; each region's mark is one write, which takes effect whole. Before each write stands its event in the trail of the
repository. Killed anywhere, the same call, given again, goes on; until then the tenant that has the slug now is refused, in
those regions that have not heard of it.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from sbh_pipelines.backup.keys.erasure_places import is_there
from sbh_pipelines.backup.retain.prune import lease_for
from sbh_pipelines.backup.site.owners import Owners
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import (
    CorruptObject,
    KeyServiceError,
    NotConfirmed,
    ObjectMissing,
    OwnerRefused,
    TenantErased,
    UnknownBackup,
)
from sbh_pipelines.model import HousedTenant, Tenant, TenantId, timestamp
from sbh_pipelines.repository.catalog.owners import (
    OwnerDocument,
    Ownership,
    former_key,
    home_name,
    mark_body,
    split_home,
)
from sbh_pipelines.repository.keys.data_key import EPOCH, read_key_object
from sbh_pipelines.repository.keys.epochs import set_owner
from sbh_pipelines.repository.repository import Repository

ADOPT, RETIRE = "adopt", "retire"


@dataclass(frozen=True, slots=True)
class Adoption:
    """A repository that went over to the tenant which has its slug now.

    Attributes:
        tenant_id: The slug.
        region: Where the repository lies.
        key: The tenant's key in the application.
        former_keys: Keys whose backups are the tenant's from now on.
        left: How many backups in it stay another tenant's.
    """

    tenant_id: str
    region: str
    key: str
    former_keys: Sequence[str]
    left: int


@dataclass(frozen=True, slots=True)
class Retired:
    """A repository that was put aside.

    Attributes:
        tenant_id: The slug.
        home: The name under which it lies: the slug, or that with a number.
        regions: Where there is something of it.
        former_keys: The keys of the tenants whose backups are in it, as these say.
        next_home: The name under which the repository of the slug's next tenant lies.
    """

    tenant_id: str
    home: str
    regions: Sequence[str]
    former_keys: Sequence[str]
    next_home: str


@dataclass(slots=True)
class _Found:
    """What there is of a repository, in all regions."""

    keys: dict[str, set[str]] = field(default_factory=dict)  # of backups, by region
    owners: dict[str, OwnerDocument] = field(default_factory=dict)

    @property
    def all_keys(self) -> set[str]:
        return {key for keys in self.keys.values() for key in keys}


def check_confirmed(slug: str, confirm: str, what: str) -> None:
    """Raises NotConfirmed."""
    if confirm != slug:
        raise NotConfirmed(
            f"To {what} a repository must be confirmed by its slug",
            on=slug,
            why="it decides who may read the backups that are in it",
            remedy=f"sbh tenants {what} {slug} --confirm {slug}",
        )


def adopt(site: Site, tenant: Tenant, user_id: str, former_keys: Sequence[str] = ()) -> Adoption:
    """Hand the slug's repository to the tenant that has the slug now: the same customer, under another key.

    `former_keys`: whose backups become the tenant's; needed where there are several's. Raises OwnerRefused, LeaseHeld.
    """
    home = site.owners.home_of(tenant)
    housed = HousedTenant(tenant.id, tenant.key, tenant.region, tenant.tier, home)
    with ExitStack() as stack:
        try:
            repository = stack.enter_context(site.opened(housed, home))
        except UnknownBackup:
            raise _refused(tenant.id, "there is no repository of this slug", "nothing is needed: back it up") from None
        lease_for(site, housed, ADOPT, stack)
        place, secret = site.owners.key_place(housed), site.catalog(tenant.region).owner_key
        keys = Owners.keys_in(repository)
        there = {key for key in keys.values() if key is not None} - {tenant.key}
        wanted = _chosen(repository, keys, there, former_keys, tenant)

        def choose(now: OwnerDocument | None) -> OwnerDocument:
            had = [key for key in there if now is not None and now.adopts(secret, home, key)]
            taken = {*wanted, *had}
            others = [backup_id for backup_id, key in keys.items() if key not in (None, tenant.key, *taken)]
            made = OwnerDocument.of(secret, home, tenant.key, taken, others)
            if now == made or (not wanted and now is not None and now.says(secret, home, tenant.key) is Ownership.OWN):
                raise _refused(tenant.id, "its repository is this tenant's already", "nothing is needed")
            return made

        choose(repository.owner)
        props = {"home": home, "key": tenant.key, "former_keys": sorted(wanted)}
        site.track(housed, "tenant.adopted", user_id, props)
        made = set_owner(place, choose)
    return Adoption(tenant.id, tenant.region, tenant.key, sorted(wanted), len(made.others))


def _chosen(
    repository: Repository, keys: Mapping[str, str | None], there: set[str], named: Sequence[str], tenant: Tenant
) -> set[str]:
    """The keys whose backups the tenant is to have. Raises OwnerRefused where nobody said, and there is a choice."""
    if unknown := sorted(set(named) - there):
        raise _refused(
            tenant.id, f"no backup in it has the key {unknown[0][:80]}", "see `sbh backup list`, which names the keys"
        )
    if named:
        return set(named)
    others = set(repository.owner.others) if repository.owner else set()
    likely = {key for backup_id, key in keys.items() if key in there and backup_id not in others}
    if len(likely) > 1:
        several = ", ".join(sorted(likely)[:10])
        raise _refused(tenant.id, f"several tenants' backups are in it: keys {several}", "say which: --former-key KEY")
    return {key for key in likely if key is not None}


def retire(site: Site, slug: TenantId, live: Tenant | None, user_id: str) -> Retired:
    """Put the slug's repository aside, in every region: it stays the former tenant's, and the slug's next tenant begins anew.

    `live`: who has the slug now; None where nobody has. Raises OwnerRefused, LeaseHeld.
    """
    catalogs = {region: site.catalog(region) for region in site.settings.storage.regions}
    regions = [region for region, catalog in catalogs.items() if is_there(catalog.store, catalog.prefix)]
    numbers = {region: _newest(site, slug, region) for region in regions}
    number = min(
        numbers.values(), default=1
    )  # a killed run may have told some regions only: then those that are behind
    home = home_name(slug, number)
    with ExitStack() as stack:
        found = _look(site, slug, home, regions, stack)
        _refuse_own(site, slug, home, found, live)
        behind = [region for region, newest in numbers.items() if newest == number]
        if not found.keys and len(behind) == len(numbers):
            raise _refused(slug, "there is no repository of this slug", "nothing is needed: back it up")
        for region in found.keys:
            housed = HousedTenant(slug, "", region, "", home)
            site.track(
                housed,
                "tenant.retired",
                user_id,
                {"home": home, "former_keys": sorted(found.all_keys), "region": region},
            )
        put_aside(site, home, found.all_keys, found.owners, user_id, behind)
    return Retired(slug, home, sorted(found.keys), sorted(found.all_keys), home_name(slug, number + 1))


def put_aside(
    site: Site, home: str, keys: set[str], owners: Mapping[str, OwnerDocument], user_id: str, regions: Sequence[str]
) -> None:
    """Say in the catalogs of these regions that the repository is that of tenants with these keys, and nobody else's."""
    parts = split_home(home)
    assert parts is not None
    for region in regions:
        catalog = site.catalog(region)
        if not is_there(catalog.store, catalog.prefix):
            continue  # a region that is set up later
        secret = catalog.owner_key
        own = owners.get(region)
        tags = [own.tag] if own is not None and own.key_id == secret.id else []
        body = mark_body(secret, home, keys, tags, user_id, timestamp(site.clock()))
        catalog.store.put(catalog.prefix + former_key(home), body)
        site.owners.former(parts[0], region, anew=True)


def _newest(site: Site, slug: str, region: str) -> int:
    parts = split_home(site.owners.homes(slug, region)[0])
    assert parts is not None
    return parts[1]


def _look(site: Site, slug: TenantId, home: str, regions: Sequence[str], stack: ExitStack) -> _Found:
    """Whose backups are in it, region by region, with the lease of each held.

    Of one that cannot be opened, as its key is gone, only what its key object says of its owner is known.
    """
    found = _Found()
    for region in regions:
        housed = HousedTenant(slug, "", region, "", home)
        if not is_there(*site.backup_store(housed)):
            continue  # a region that is set up later
        with suppress(UnknownBackup, TenantErased):
            try:
                repository = stack.enter_context(site.opened(housed, home))
            except (KeyServiceError, CorruptObject) as error:
                if error.transient:
                    raise
                lease_for(site, housed, RETIRE, stack)
                found.keys[region] = set()
                with suppress(ObjectMissing, CorruptObject):
                    if (owner := read_key_object(site.owners.key_place(housed), EPOCH).owner) is not None:
                        found.owners[region] = owner
                continue
            lease_for(site, housed, RETIRE, stack)
            found.keys[region] = {key for key in Owners.keys_in(repository).values() if key is not None}
            if repository.owner is not None:
                found.owners[region] = repository.owner
    return found


def _refuse_own(site: Site, slug: str, home: str, found: _Found, live: Tenant | None) -> None:
    if live is None:
        return
    said = [
        owner.says(site.catalog(region).known_owner_key(), home, live.key) for region, owner in found.owners.items()
    ]
    if live.key in found.all_keys or Ownership.OWN in said:
        raise _refused(
            slug,
            f"it is, or has backups, of the tenant that has the slug now (key {live.key[:80]})",
            "nothing is needed: backups of others in it are shown to nobody, and no policy drops them",
        )


def _refused(slug: str, why: str, remedy: str) -> OwnerRefused:
    return OwnerRefused("The slug's repository cannot change hands so", on=slug, why=why, remedy=remedy)
