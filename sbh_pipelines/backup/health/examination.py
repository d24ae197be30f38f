"""A look at everything: regions, keys, catalogs, and the backups of all tenants given. Health, metrics and alerts are made
of it.

Beyond the looks (`look.py`), it costs for each region a listing of the catalog, what of the catalog this service has not
read yet, and an unwrapping of the catalog's key: that is the sign of whether the key service answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sbh_pipelines.backup.drill.records import PASSED
from sbh_pipelines.backup.health.findings import (
    CRITICAL,
    ERROR,
    INTACT,
    KEYS,
    SOURCE,
    STORAGE,
    WARNING,
    Finding,
    drill_overdue,
    of_error,
    of_look,
)
from sbh_pipelines.backup.health.observation import Look
from sbh_pipelines.backup.health.observations import looks_of
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import SbhError, StoreUnavailable, TenantErased
from sbh_pipelines.model import Tenant, TenantId, parse_timestamp
from sbh_pipelines.placement import catalog_place
from sbh_pipelines.repository.catalog.catalog import open_catalog
from sbh_pipelines.repository.catalog.records import TenantRecord
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.settings import Settings


@dataclass(frozen=True, slots=True)
class Examination:
    """`ages`: of each tenant's newest recovery point, s; None where it has none. `unseen`: tenants of which nothing was
    learned this time, so that what was known of them stands. `regions`: whether its store answers, whether its key does
    (None: nothing is sealed there yet).
    """

    at: datetime
    tenants: Sequence[Tenant]
    looks: Mapping[TenantId, Look]
    ages: Mapping[TenantId, float | None]
    findings: Sequence[Finding]
    regions: Mapping[str, tuple[bool, bool | None]]
    unseen: frozenset[str]
    unusable: int = 0


def examine(
    site: Site,
    tenants: Sequence[Tenant],
    *,
    unusable: Sequence[SbhError] = (),
    source: SbhError | None = None,
    everyone: bool = False,
    max_age_s: float = 0.0,
    budget_s: float | None = None,
) -> Examination:
    """`source`: why the tenants could not be listed. `everyone`: they are all there are."""
    now, findings = site.clock(), list[Finding]()
    if source is not None:
        findings.append(Finding(SOURCE, "source_unreachable", "", source, CRITICAL))
    findings += [Finding(SOURCE, "tenant_unusable", error.on or error.what, error, ERROR) for error in unusable]
    regions: dict[str, tuple[bool, bool | None]] = {}
    known: dict[TenantId, TenantRecord] = {}
    for region in sorted({t.region for t in tenants if t.region in site.settings.storage.regions}):
        reached, records, found = _region(site, region, [t.id for t in tenants if t.region == region])
        regions[region] = reached
        findings += found
        known |= records
    lost = {region for region, (up, _) in regions.items() if not up}
    locked = {region for region, (_, key) in regions.items() if key is False}
    reachable = [t for t in tenants if t.region not in lost]
    keeper = looks_of(site)
    if everyone and source is None:
        keeper.keep_only(tenants)
    newest = {tenant_id: record.backup_id for tenant_id, record in known.items() if not record.unchanged}
    fully = site.settings.health.refresh_fully_s if everyone else 0.0
    looks = keeper.renewed(site, reachable, newest, max_age_s=max_age_s, fully_after_s=fully, budget_s=budget_s)
    ages: dict[TenantId, float | None] = {}
    unseen = {str(t.id) for t in tenants if t.id not in looks}
    for tenant in reachable:
        if (seen := looks.get(tenant.id)) is None:
            continue
        age = _age(seen, known.get(tenant.id), now)
        told = of_look(site.settings, seen, age, now)
        if seen.error is None:
            ages[tenant.id] = age
        elif not isinstance(seen.error, TenantErased):
            unseen.add(str(tenant.id))
        if seen.error is None or tenant.region not in locked:  # else the region's finding says why
            findings += told
    if everyone and not lost and not unseen:
        findings += _drills(site.settings, looks, now)
    return Examination(now, tenants, looks, ages, findings, regions, frozenset(unseen), len(unusable))


def _region(
    site: Site, region: str, tenants: Sequence[TenantId]
) -> tuple[tuple[bool, bool | None], dict[TenantId, TenantRecord], list[Finding]]:
    """((store answers, key answers), the catalog's records, findings)."""
    try:
        _bucket_is_there(site, region)
        catalog = site.catalog(region)
        sealed = next(iter(catalog.store.list(catalog.prefix + Keys.KEYS)), None) is not None
    except SbhError as error:
        found = of_error(error, region)
        if found is not None and found.check == STORAGE:
            return (False, None), {}, [found]
        return (True, None), {}, [found] if found else []
    if sealed:
        try:  # a catalog of its own: the one that is shared unwraps its key only once
            _ = open_catalog(catalog.store, catalog.prefix, region, site.keys, site.clock).seed_id
        except SbhError as error:
            found = of_error(error, region)
            if found is not None and found.check == STORAGE:
                return (False, None), {}, [found]
            if found is not None and found.check != KEYS:  # a local key file that is gone, a key object that is damaged
                found = Finding(KEYS, "key_trouble", region, error, CRITICAL)
            return (True, False), {}, [found] if found else []
    try:
        records = catalog.read(list(tenants))
    except SbhError as error:
        found = of_error(error, region)
        return (found is None or found.check != STORAGE, True), {}, [found] if found else []
    damages = catalog.damages
    findings = [Finding(INTACT, "catalog_damaged", region, damages[0].error, WARNING)] if damages else []
    return (True, True if sealed else None), records, findings


def _bucket_is_there(site: Site, region: str) -> None:
    """A directory that stands for a bucket is made when it is opened: whether it was there must be seen before."""
    storage = site.settings.storage
    if storage.kind != "local" or storage.path is None:
        return
    folder = storage.path / catalog_place(site.settings, region).bucket
    if not folder.is_dir():
        raise StoreUnavailable(
            "The directory of a bucket is gone",
            on=str(folder),
            remedy="mount it, or bring it back; nothing is written there",
        )


def _age(seen: Look, record: TenantRecord | None, now: datetime) -> float | None:
    """The catalog is believed where it speaks of the newest backup that was seen, or of a later one."""
    newest = seen.newest
    if newest is None:
        return None
    figures = newest.figures
    points = [parse_timestamp(figures.point)] if figures is not None and figures.point else [newest.created_at]
    if record is not None and record.backup_id >= newest.id:
        points.append(parse_timestamp(record.point.time))
    return round(max((now - max(points)).total_seconds(), 0.0), 1)


def _drills(settings: Settings, looks: Mapping[TenantId, Look], now: datetime) -> list[Finding]:
    drilled = [parse_timestamp(s.drill.at) for s in looks.values() if s.drill is not None and s.drill.at]
    first = min((s.oldest_at for s in looks.values() if s.oldest_at is not None), default=None)
    return drill_overdue(settings, max(drilled, default=None), first, now)


def drill_passed(seen: Look) -> bool | None:
    """Whether the tenant's newest drill passed; None: it was never drilled."""
    return None if seen.drill is None else seen.drill.status == PASSED
