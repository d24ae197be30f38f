"""The tenants of the site: those of the application's table, those of whom only backups are left, and a memory of both.

Only a process that asks for it (`remember`) takes a tenant's row as it was a moment ago; what writes never does.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from sbh_pipelines.backup.contents.manifest import LATEST
from sbh_pipelines.backup.contents.manifests import read_manifest
from sbh_pipelines.backup.contents.ownership import described_tenant
from sbh_pipelines.backup.site.moves import MovedTenant, backed_up_here, moved_tenants
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.schema.tenants import find_tenant, list_tenants, unknown
from sbh_pipelines.errors import SbhError, SourceError, StoreError, UnknownTenant
from sbh_pipelines.model import BackupId, HousedTenant, Tenant, TenantId
from sbh_pipelines.repository.documents import list_manifest_ids
from sbh_pipelines.security.policy import ALL_TENANTS, UserContext

_SHARE = 20  # of the time at most a twentieth goes into listing tenants


@dataclass(frozen=True, slots=True)
class _Directory:
    """The tenants as they were listed once.

    Attributes:
        until: when it is too old, by the monotonic clock
        by_slug: the tenants
    """

    until: float
    by_slug: Mapping[TenantId, Tenant]


class Tenants:
    """Who there is to back up and to restore. Thread-safe."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._age_s = 0.0
        self._directory: _Directory | None = None
        self._refreshing = threading.Lock()

    def remember(self, seconds: float) -> None:
        """From now on the tenants' rows may be as old as this, or, where listing them takes long, twenty times as long as that."""
        self._age_s = seconds

    def all(self) -> list[Tenant]:
        """The tenants of the application that can be backed up, by slug; without those that went to another site."""
        return list(self._known().by_slug.values()) if self._age_s else self._listed()

    def visible_to(self, user_ctx: UserContext) -> list[Tenant]:
        """Those of them that the caller may see."""
        return [tenant for tenant in self.all() if user_ctx.tenant_id in (ALL_TENANTS, tenant.id)]

    def moved(self, user_ctx: UserContext) -> Sequence[MovedTenant]:
        """Of the tenants that went to another site, or are on their way from one, and have rows here: those the caller may see."""
        listed = list_tenants(self._site.settings).tenants
        return moved_tenants(self._site, [one for one in listed if user_ctx.tenant_id in (ALL_TENANTS, one.id)])

    def unusable(self) -> list[SbhError]:
        """An error for each tenant that cannot be backed up (slug malformed, shared or missing).

        They are in no backup: a face that backs up all tenants must raise or report these.
        """
        return list(list_tenants(self._site.settings).unusable)

    def find(self, tenant_id: str, *, gone: bool = True, as_now: bool = False) -> Tenant:
        """A tenant of the application; where its row is `gone`, or the database, as its last backup has it. `as_now`: whatever is
        remembered. Unless `gone`, only a memory of the tenants answers for a database that cannot be asked.

        Raises InvalidId, UnknownTenant, SourceError.
        """
        slug = TenantId.parse(tenant_id)
        if self._age_s and not as_now:
            try:
                if (known := self._known().by_slug.get(slug)) is not None:
                    return known
            except SourceError:
                pass
        return self._looked_up(slug, gone)  # asks for this one, and says why there is none

    def housed(self, tenant: Tenant) -> HousedTenant:
        """The tenant with the name under which its repository lies: another than the slug where earlier tenants had that."""
        return self._site.owners.housed(tenant)

    def check_residency(self, tenant: Tenant) -> None:
        """Everything that a write of the tenant's backup checks. Raises ResidencyError, and the store's errors."""
        self._site.check_place(tenant)

    def _listed(self) -> list[Tenant]:
        return backed_up_here(self._site, list_tenants(self._site.settings).tenants)

    def _looked_up(self, slug: TenantId, gone: bool) -> Tenant:
        try:
            return find_tenant(self._site.settings, slug)
        except (UnknownTenant, SourceError) as error:  # its row is gone, or the whole database
            if isinstance(error, UnknownTenant) and not gone:
                self._refuse_erased(slug)
                raise
            known = self._directory  # however old: who had the slug when the database was last there
            if isinstance(error, SourceError) and known is not None and slug in known.by_slug:
                return known.by_slug[slug]
            if not gone:  # a backup tells who had the slug once, not that somebody has it now
                raise error if known is None else unknown(slug) from error
            try:
                lost = lost_tenant(self._site, slug)
            except SbhError as second:
                if isinstance(error, SourceError):
                    raise error from second  # the store is out of reach as well: what to mend first is the database
                raise
            if lost is None:
                raise
            return lost

    def _refuse_erased(self, slug: TenantId) -> None:
        for region in self._site.settings.storage.regions:
            with suppress(StoreError):
                for home in self._site.owners.homes(slug, region):
                    self._site.admit(HousedTenant(slug, "", region, "", home))

    def _known(self) -> _Directory:
        """All tenants in one query: a look-up of its own for each request would cost more than the rest of it.

        One thread asks anew, the others go on with what they have.
        """
        known = self._directory
        if known is not None and time.monotonic() < known.until:
            return known
        if not self._refreshing.acquire(blocking=known is None):
            assert known is not None
            return known
        try:
            if self._directory is not known and self._directory is not None:
                return self._directory  # the thread that had the lock before has just done it
            begun = time.monotonic()
            listed = {tenant.id: tenant for tenant in self._listed()}
            ended = time.monotonic()
            until = ended + max(self._age_s, _SHARE * (ended - begun))
            self._directory = known = _Directory(until, listed)
            return known
        finally:
            self._refreshing.release()


def lost_tenant(site: Site, slug: TenantId, backup_id: str = LATEST) -> Tenant | None:
    """The tenant as this backup has it, for `latest` the newest of all regions; None where no region has one.

    Raises TenantErased, CorruptObject, and the errors of reaching the store.
    """
    found: dict[str, HousedTenant] = {}  # by backup id
    for home in site.owners.every_home(slug):  # of several that the slug has had, the last one that has backups
        for region in site.settings.storage.regions:
            housed = HousedTenant(slug, "", region, "", home)
            store, prefix = site.backup_store(housed)
            found |= dict.fromkeys(list_manifest_ids(store, prefix), housed)
        if found:
            break
    wanted = max(found, default="") if backup_id == LATEST else backup_id
    if wanted not in found:
        for region in site.settings.storage.regions:
            for home in site.owners.homes(slug, region):
                site.admit(HousedTenant(slug, "", region, "", home))
        return None
    with site.repository(found[wanted]) as repository:
        repository.load_index()
        described = described_tenant(repository, read_manifest(repository, BackupId.parse(wanted)))
    return None if described is None else replace(described, id=slug)
