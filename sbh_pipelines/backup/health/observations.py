"""Looks at all tenants, kept with the time they were had, so that asking often costs little.

One set for each store a process works with, of the tenants there are: some two KiB for each. Whoever has little time names
a budget: the oldest looks are then renewed first, and the others stay as they are, which their time tells.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sbh_pipelines.backup.health.observation import Look, look
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.model import BackupId, Tenant, TenantId

_BETWEEN_CLOCKS = 32  # tenants, before the budget is looked at again
_MOST_STORES = 8


class Looks:
    """Thread-safe; one renewal at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._had: dict[TenantId, Look] = {}

    def renewed(
        self,
        site: Site,
        tenants: Sequence[Tenant],
        newest: Mapping[TenantId, BackupId],
        *,
        max_age_s: float,
        fully_after_s: float,
        budget_s: float | None = None,
    ) -> dict[TenantId, Look]:
        """A look for each tenant, none older than `max_age_s` unless the budget was too small: then some may be missing.

        `newest`: the newest backup that the catalog knows of; where a look has not seen it yet, there is a new one. So is
        there where the last one failed.
        """
        wanted = {tenant.id: tenant for tenant in tenants}
        with self._lock:
            now, limit = site.clock(), timedelta(seconds=max_age_s)
            due = [tenant for tenant in tenants if self._due(tenant, now - limit, now, newest)]
            due.sort(key=lambda tenant: (self._time_of(tenant), tenant.id))
            until = None if budget_s is None else time.monotonic() + budget_s
            for first in range(0, len(due), _BETWEEN_CLOCKS):
                if until is not None and time.monotonic() >= until:
                    break
                some = due[first : first + _BETWEEN_CLOCKS]
                for seen in side_by_side(lambda t: self._look(site, t, fully_after_s), some, name="looks"):
                    self._had[seen.tenant.id] = seen
            return {tenant_id: had for tenant_id in wanted if (had := self._had.get(tenant_id)) is not None}

    def _due(self, tenant: Tenant, before: datetime, now: datetime, newest: Mapping[TenantId, BackupId]) -> bool:
        had = self._had.get(tenant.id)
        if had is None or not before < had.at <= now or had.tenant != tenant or had.error is not None:
            return True
        seen = "" if had.newest is None else had.newest.id
        return newest.get(tenant.id, BackupId("")) > seen

    def _time_of(self, tenant: Tenant) -> float:
        had = self._had.get(tenant.id)
        return 0.0 if had is None else had.at.timestamp()

    def keep_only(self, tenants: Sequence[Tenant]) -> None:
        """Drop the looks at tenants that are gone."""
        known = {tenant.id for tenant in tenants}
        with self._lock:
            self._had = {tenant_id: had for tenant_id, had in self._had.items() if tenant_id in known}

    def _look(self, site: Site, tenant: Tenant, fully_after_s: float) -> Look:
        before = self._had.get(tenant.id)
        if before is not None and before.tenant != tenant:
            before = None
        return look(site, tenant, before, fully_after_s)


_OF_STORES: dict[str, Looks] = {}
_CHOOSING = threading.Lock()


def looks_of(site: Site) -> Looks:
    """The looks of this process at what the site's settings lead to: services come and go, Dagster makes one per tick."""
    settings = site.settings
    named = "\n".join(
        part.model_dump_json() for part in (settings.storage, settings.retention, settings.health, settings.keys)
    )
    with _CHOOSING:
        if named not in _OF_STORES and len(_OF_STORES) >= _MOST_STORES:
            _OF_STORES.pop(next(iter(_OF_STORES)))
        return _OF_STORES.setdefault(named, Looks())
