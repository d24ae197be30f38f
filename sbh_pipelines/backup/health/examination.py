"""An examination of everything: regions, keys, catalogs, and the backups of all tenants given. Health, metrics and alerts
are made of it.

Beyond the observations (`observation.py`), it costs for each region a listing of the catalog, what of the catalog this
service has not read yet, and an unwrapping of the catalog's key: the sign of whether the key service answers. For each tenant that
went to another site it costs a listing of the backups that it has here.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from sbh_pipelines.backup.drill.records import PASSED
from sbh_pipelines.backup.health.copies import CopiesState, look_at_copies
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
    made_after_it_went,
    of_error,
    of_observation,
    on_its_way,
)
from sbh_pipelines.backup.health.journal import JournalState, look_at_journal
from sbh_pipelines.backup.health.observation import Observation, observations_of
from sbh_pipelines.backup.journal.view.standing import Newest
from sbh_pipelines.backup.site.moves import known_moves, move_of
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.errors import SbhError, StoreUnavailable, TenantErased
from sbh_pipelines.model import BackupId, Tenant, TenantId, parse_timestamp
from sbh_pipelines.placement import catalog_place
from sbh_pipelines.repository.catalog.catalog import open_catalog
from sbh_pipelines.repository.catalog.moves import Move, MoveState
from sbh_pipelines.repository.catalog.records import TenantRecord
from sbh_pipelines.repository.documents import list_manifest_ids
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.settings import Settings


@dataclass(frozen=True, slots=True)
class RegionState:
    """What answers in a region.

    Attributes:
        store: Whether its store answers.
        key: Whether its key unwraps; None where nothing is sealed there yet, or the store does not answer.
    """

    store: bool
    key: bool | None


@dataclass(frozen=True, slots=True)
class Examination:
    """What is known of all tenants given, and of their regions.

    Attributes:
        examined_at: Time of the examination, UTC.
        tenants: The tenants that were to be examined.
        observations: What is known of each; some may be missing, and some may be of earlier.
        ages: Of each tenant's newest recovery point, s; None where it has none. Where the change journal tells all rows since the
            newest backup, it is the moment up to which it does.
        findings: What is wrong.
        regions: What answers in each region.
        unseen: Tenants of which nothing was learned this time, so that what was known of them stands.
        unusable: How many tenants cannot be backed up at all.
        journal: How the change journal stands.
        copies: How the copies stand.
    """

    examined_at: datetime
    tenants: Sequence[Tenant]
    observations: Mapping[TenantId, Observation]
    ages: Mapping[TenantId, float | None]
    findings: Sequence[Finding]
    regions: Mapping[str, RegionState]
    unseen: frozenset[str]
    unusable: int = 0
    journal: JournalState = field(default_factory=JournalState)
    copies: CopiesState = field(default_factory=CopiesState)


def examine(
    site: Site,
    tenants: Sequence[Tenant],
    *,
    unusable: Sequence[SbhError] = (),
    source: SbhError | None = None,
    everyone: bool = False,
    here_only: bool = False,
    max_age_s: float = 0.0,
    budget_s: float | None = None,
) -> Examination:
    """`source`: why the tenants could not be listed. `everyone`: they are all there are. `here_only`: without those that went to
    another site, or have not arrived from one.
    """
    now, findings = site.clock(), list[Finding]()
    if source is not None:
        findings.append(Finding(SOURCE, "source_unreachable", "", source, CRITICAL))
    findings += [Finding(SOURCE, "tenant_unusable", error.on or error.what, error, ERROR) for error in unusable]
    regions: dict[str, RegionState] = {}
    known: dict[TenantId, TenantRecord] = {}
    for region in sorted({t.region for t in tenants if t.region in site.settings.storage.regions}):
        regions[region], records, found = _region(site, region, [t for t in tenants if t.region == region])
        findings += found
        known |= records
    lost = {region for region, state in regions.items() if not state.store}
    locked = {region for region, state in regions.items() if state.key is False}
    if here_only:  # of a store that does not answer nothing more is asked
        elsewhere = known_moves(site, [t for t in tenants if t.region not in lost])
        findings += [on_its_way(t, move) for t, move in elsewhere.items() if move.state is MoveState.ON_ITS_WAY]
        if site.copy_name is None:  # to a copy marks may come after backups
            went = [(t, move) for t, move in elsewhere.items() if move.state is MoveState.WENT]
            findings += filter(None, side_by_side(lambda one: _came_back(site, *one), went, name="health"))
        tenants = [t for t in tenants if t not in elsewhere]
    reachable = [t for t in tenants if t.region not in lost]
    kept = observations_of(site)
    if everyone and source is None:
        kept.keep_only(tenants)
    newest = {tenant_id: record.backup_id for tenant_id, record in known.items() if not record.unchanged}
    fully = site.settings.health.refresh_fully_s if everyone else 0.0
    observations = kept.renewed(site, reachable, newest, max_age_s=max_age_s, fully_after_s=fully, budget_s=budget_s)
    journal = look_at_journal(site, _newest(reachable, observations, known), now, everyone=everyone and not lost)
    findings += journal.findings if source is None else ()
    oldest = {t: seen.oldest_at for t, seen in observations.items() if seen.oldest_at is not None}
    copies = look_at_copies(site, tenants, oldest, now, everyone=everyone)
    findings += copies.findings if source is None else ()
    ages: dict[TenantId, float | None] = {}
    unseen = {str(t.id) for t in tenants if t.id not in observations}
    for tenant in reachable:
        if (seen := observations.get(tenant.id)) is None:
            continue
        age = _age(seen, known.get(tenant.id), now)
        if age is not None and tenant.id in journal.behind:
            age = min(age, journal.behind[tenant.id])
        found = of_observation(site.settings, seen, age, now)
        if seen.error is None:
            ages[tenant.id] = age
        elif not isinstance(seen.error, TenantErased):
            unseen.add(str(tenant.id))
        if seen.error is None or tenant.region not in locked:  # else the region's finding says why
            findings += found
    if everyone and not lost and not unseen:
        findings += _drills(site.settings, observations, now)
    return Examination(
        now, tenants, observations, ages, findings, regions, frozenset(unseen), len(unusable), journal, copies
    )


def _region(
    site: Site, region: str, tenants: Sequence[Tenant]
) -> tuple[RegionState, dict[TenantId, TenantRecord], list[Finding]]:
    """(what answers, the catalog's records, findings)."""
    try:
        _bucket_is_there(site, region)
        catalog = site.catalog(region)
        sealed = next(iter(catalog.store.list(catalog.prefix + Keys.KEYS)), None) is not None
    except SbhError as error:
        found = of_error(error, region)
        if found is not None and found.check == STORAGE:
            return RegionState(False, None), {}, [found]
        return RegionState(True, None), {}, [found] if found else []
    if sealed:
        try:  # a catalog of its own: the one that is shared unwraps its key only once
            _ = open_catalog(
                catalog.store, catalog.prefix, region, site.keys, site.clock, create=site.copy_name is None
            ).seed_id
        except SbhError as error:
            found = of_error(error, region)
            if found is not None and found.check == STORAGE:
                return RegionState(False, None), {}, [found]
            if found is not None and found.check != KEYS:  # a local key file that is gone, a key object that is damaged
                found = Finding(KEYS, "key_trouble", region, error, CRITICAL)
            return RegionState(True, False), {}, [found] if found else []
    try:
        records = site.records(region, tenants)
    except SbhError as error:
        found = of_error(error, region)
        return RegionState(found is None or found.check != STORAGE, True), {}, [found] if found else []
    damages = catalog.damages
    findings = [Finding(INTACT, "catalog_damaged", region, damages[0].error, WARNING)] if damages else []
    return RegionState(True, True if sealed else None), records, findings


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


def _came_back(site: Site, tenant: Tenant, known: Move) -> Finding | None:
    """A mark of before the tenant came back, put in the place of a later one, is as genuine: only its backups tell."""
    with suppress(SbhError):  # of a bucket that is given up once its tenant went, nobody need be told
        newest = max(list_manifest_ids(*site.backup_store(tenant)), default=BackupId(""))
        # Said anew: it may have come back a moment ago, or have come and gone.
        move = move_of(site, tenant) if newest > known.backup_id else None
        if move is not None and move.state is MoveState.WENT and newest > move.backup_id:
            return made_after_it_went(tenant, move, newest)
    return None


def _age(seen: Observation, record: TenantRecord | None, now: datetime) -> float | None:
    """The catalog is believed where it speaks of the newest backup that was seen, or of a later one."""
    newest = seen.newest
    if newest is None:
        return None
    figures = newest.figures
    points = [parse_timestamp(figures.point)] if figures is not None and figures.point else [newest.created_at]
    if record is not None and record.backup_id >= newest.id:
        points.append(parse_timestamp(record.point.time))
    return round(max((now - max(points)).total_seconds(), 0.0), 1)


def _newest(
    tenants: Sequence[Tenant], observations: Mapping[TenantId, Observation], known: Mapping[TenantId, TenantRecord]
) -> list[Newest]:
    """The newest backup of each tenant that was seen to have one."""
    seen = [(tenant, observations[tenant.id].newest) for tenant in tenants if tenant.id in observations]
    return [Newest(tenant, newest.id, known.get(tenant.id)) for tenant, newest in seen if newest is not None]


def _drills(settings: Settings, observations: Mapping[TenantId, Observation], now: datetime) -> list[Finding]:
    drilled = [
        parse_timestamp(s.newest_drill.finished_at)
        for s in observations.values()
        if s.newest_drill is not None and s.newest_drill.finished_at
    ]
    first = min((s.oldest_at for s in observations.values() if s.oldest_at is not None), default=None)
    return drill_overdue(settings, max(drilled, default=None), first, now)


def drill_passed(seen: Observation) -> bool | None:
    """Whether the tenant's newest drill passed; None: it was never drilled."""
    return None if seen.newest_drill is None else seen.newest_drill.status == PASSED
