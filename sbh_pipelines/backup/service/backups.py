"""What makes reads cheap in a process that answers many of them: manifests, and for seconds also tenants, are remembered.

Only a process that asks for it (`remember_tenants`) takes a tenant's row as it was a moment ago; what writes never does.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

from sbh_pipelines.backup.contents.manifests import ManifestCache, read_manifests
from sbh_pipelines.backup.create.status import BackupStatus, backup_status
from sbh_pipelines.backup.service.gate import Access
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import InvalidId, SbhError, SourceError, UnknownBackup
from sbh_pipelines.model import BackupId, Clock, Tenant, TenantId, utc_now
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.security.policy import UserContext
from sbh_pipelines.settings import Settings

_RECORDERS = 16  # threads; none before it is needed
_SHARE = 20  # of the time at most a twentieth goes into listing tenants
_MOST_FAILURES = 200  # that are read


@dataclass(frozen=True, slots=True)
class _Directory:
    """`until`: by the monotonic clock."""

    until: float
    by_slug: Mapping[TenantId, Tenant]


class Reading(Access):
    """Inherited by BackupService."""

    def __init__(self, settings: Settings, *, clock: Clock = utc_now, site: Site | None = None) -> None:
        super().__init__(settings, clock=clock, site=site)
        self.manifest_cache = ManifestCache(settings.api.cache_mib << 20)
        self._tenant_age_s = 0.0
        self._directory: _Directory | None = None
        self._refreshing = threading.Lock()
        self._recorders = ThreadPoolExecutor(_RECORDERS, thread_name_prefix="record")

    def remember_tenants(self, seconds: float) -> None:
        """From now on the tenants' rows may be as old as this, or, where listing them takes long, twenty times as long as that."""
        self._tenant_age_s = seconds

    def tenant(self, tenant_id: str) -> Tenant:
        if not self._tenant_age_s:
            return super().tenant(tenant_id)
        slug = TenantId.parse(tenant_id)
        try:
            known = self._known_tenants().by_slug.get(slug)
        except SourceError:
            known = None
        return super().tenant(slug) if known is None else known  # asks for this one, and says why there is none

    def tenants(self) -> list[Tenant]:
        return list(self._known_tenants().by_slug.values()) if self._tenant_age_s else super().tenants()

    def _known_tenants(self) -> "_Directory":
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
                return self._directory  # whoever had the lock before has just done it
            begun = time.monotonic()
            listed = {tenant.id: tenant for tenant in super().tenants()}
            ended = time.monotonic()
            until = ended + max(self._tenant_age_s, _SHARE * (ended - begun))
            self._directory = known = _Directory(until, listed)
            return known
        finally:
            self._refreshing.release()

    def list_all_backups(self, tenant_id: str, user_ctx: UserContext) -> tuple[list[dict[str, Any]], list[SbhError]]:
        """The manifests of a tenant's backups, newest first, without what is long in them (components, signature), and an error
        for each backup whose manifest cannot be read.

        At the cost of one listing, and one request for each manifest that this process has not read before.
        """
        return self._listed(tenant_id, user_ctx, brief=True)

    def _listed(
        self, tenant_id: str, user_ctx: UserContext, *, record: bool = True, brief: bool = False
    ) -> tuple[list[dict[str, Any]], list[SbhError]]:
        tenant = self._allowed(tenant_id, user_ctx, "backup.list")
        try:
            repository = self._site.repository(tenant)
        except UnknownBackup:
            return [], []
        try:
            with self._recorded_beside(tenant, user_ctx) if record else nullcontext():
                sound, damaged = read_manifests(repository, self.manifest_cache, brief=brief)
        finally:
            repository.close()
        newest_first = sorted(sound, key=lambda m: (m.created_at, m.id), reverse=True)
        return [dict(manifest.document) for manifest in newest_first], damaged

    @contextmanager
    def _recorded_beside(self, tenant: Tenant, user_ctx: UserContext) -> Iterator[None]:
        """That the tenant's backups are listed is recorded while they are read; nobody is given them before it is."""
        here = copy_context()  # which face the caller came through
        recording = self._recorders.submit(here.run, self._accessed, tenant, user_ctx, "list")
        try:
            yield
        finally:
            recording.result()

    def unfinished_backups(self, tenant_id: str, user_ctx: UserContext, status: str) -> list[BackupStatus]:
        """`status` running: the one at work, if any; failed: what is on record of those that were not committed, newest first."""
        tenant = self._allowed(tenant_id, user_ctx, "backup.status")
        store, prefix = self._site.backup_store(tenant)
        if status == "running":
            lease = leases.running(store, prefix, self._site.clock)
            ids = [lease.purpose] if lease else []
        else:
            names = (info.key.rsplit("/", 1)[1] for info in store.list(prefix + Keys.FAILURES))
            ids = sorted((name.removesuffix(".json") for name in names), reverse=True)[:_MOST_FAILURES]
        found = []
        for text in ids:
            try:
                at = backup_status(self._site, tenant, BackupId.parse(text))
            except InvalidId:  # a restore's lease, or not one of ours
                continue
            if at is not None and at.status == status:
                found.append(at)
        return found
