"""Up to when the journal tells the rows of tenants since their newest backups: what would be lost of them now.

A process keeps what it has read of each region's journal: the next look reads the segments that are new. And it keeps which
snapshot a backup has, where only a manifest says so.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from sbh_pipelines.backup.contents.manifests import read_manifest
from sbh_pipelines.backup.journal.view.chains import Chains, read_chains
from sbh_pipelines.backup.journal.view.recovery_windows import base_of
from sbh_pipelines.backup.journal.view.windows import Base, Chain, Reach, reaches
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import CorruptObject, ObjectMissing, SbhError
from sbh_pipelines.model import BackupId, Tenant, TenantId, parse_timestamp
from sbh_pipelines.repository.catalog.records import TenantRecord
from sbh_pipelines.repository.journal.journal import Journal, Listing
from sbh_pipelines.repository.journal.segments.changes import microseconds_of
from sbh_pipelines.repository.journal.segments.cover import plan_cover

_READ_ANEW_S = 6 * 3600.0  # segments go meanwhile, by compaction and retention
_LONGEST_US = (
    3_600_000_000  # how long a transaction may have been open when a backup was made, for its way to be found here
)
_MOST_BASES = 20_000
_MOST_READ = 200  # manifests in one look; the others are read at the next ones
_MOST_SITES = 8


class Newest(NamedTuple):
    """A tenant's newest backup, and what the catalog says of the tenant."""

    tenant: Tenant
    backup_id: BackupId
    record: TenantRecord | None


@dataclass(frozen=True, slots=True)
class RegionLook:
    """What the journal of a region tells.

    Attributes:
        listing: Its segments.
        chains: What they say.
        reaches: How far it leads from the newest backup of each tenant.
    """

    listing: Listing
    chains: Chains
    reaches: Mapping[TenantId, Reach]


@dataclass(slots=True)
class _Kept:
    read_at: float
    since: int
    chains: list[Chain]


@dataclass
class Standing:
    """Thread-safe. Use `standing_of`."""

    _kept: dict[str, _Kept] = field(default_factory=dict)
    _bases: "OrderedDict[tuple[TenantId, BackupId], Base]" = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def chains(self, journal: Journal, listing: Listing, since: int) -> Chains:
        """The chains of a region, back to `since`. Raises the store's errors."""
        with self._lock:
            issues: list[SbhError] = []
            kept = self._kept.get(journal.region)
            young = kept is not None and time.monotonic() - kept.read_at < _READ_ANEW_S
            if kept is None or not young or since < kept.since or not _go_on(journal, listing, kept.chains, issues):
                found = read_chains(journal, since)
                kept = self._kept[journal.region] = _Kept(time.monotonic(), since, list(found.chains))
                issues = list(found.issues)
            return Chains([_copied(chain) for chain in kept.chains], issues)

    def bases(self, site: Site, newest: Iterable[Newest]) -> dict[TenantId, Base]:
        """Where the ways of these tenants begin; some may be missing until the next look."""
        found: dict[TenantId, Base] = {}
        left = _MOST_READ
        for one in newest:
            base = _recorded(one)
            if base is None:
                with self._lock:
                    base = self._bases.get((one.tenant.id, one.backup_id))
                if base is None and left:
                    left -= 1
                    base = self._read(site, one)
            if base is not None:
                found[one.tenant.id] = base
        return found

    def _read(self, site: Site, one: Newest) -> Base | None:
        try:
            with site.repository(one.tenant) as repository:
                manifest = read_manifest(repository, one.backup_id)
        except SbhError:
            return None  # other looks tell of it
        if manifest.tenant_key != one.tenant.key:
            return None
        base = base_of(manifest)
        with self._lock:
            self._bases[one.tenant.id, one.backup_id] = base
            while len(self._bases) > _MOST_BASES:
                self._bases.popitem(last=False)
        return base


class TenantReaches:
    """How far the journal of a region leads from backups: reckoned once for all tenants of whom it says nothing in particular."""

    def __init__(self, chains: Sequence[Chain]) -> None:
        self._chains = chains
        self._named = {key for chain in chains for event in chain.events for key in event.tenants or ()}
        self._named |= {key for chain in chains for key in chain.skipped}
        self._known: dict[tuple[object, ...], Reach] = {}

    def of(self, tenant_key: str, base: Base) -> Reach:
        named = tenant_key if tenant_key in self._named else ""
        key = (named, base.time, base.xmin, base.system_id, base.timeline, base.tables)
        if key not in self._known:
            (self._known[key],) = reaches(tenant_key, self._chains, [base])
        return self._known[key]


def told_until(reach: Reach) -> int | None:
    """The moment up to which all rows of the tenant are told, microseconds since 1970 UTC.

    None where only the backup is there, or tables are that the journal does not cover.
    """
    whole = set(reach.tables) == reach.base.tables
    return reach.span.end if whole and reach.span.end > reach.span.start else None


def look_at_regions(site: Site, newest: Sequence[Newest], regions: Iterable[str]) -> dict[str, RegionLook]:
    """What the journals of these regions tell, and of these tenants. Raises the store's errors."""
    standing = standing_of(site)
    bases = standing.bases(site, newest)
    found: dict[str, RegionLook] = {}
    for region in sorted(set(regions) & set(site.settings.storage.regions)):
        own = [one.tenant for one in newest if one.tenant.region == region and one.tenant.id in bases]
        journal = site.journal(region)
        listing = journal.listing()
        since = min((bases[tenant.id].time for tenant in own), default=microseconds_of(site.clock())) - _LONGEST_US
        chains = standing.chains(journal, listing, since)
        reach = TenantReaches(chains.chains)
        found[region] = RegionLook(
            listing, chains, {tenant.id: reach.of(tenant.key, bases[tenant.id]) for tenant in own}
        )
    return found


def rows_told(site: Site, newest: Sequence[Newest]) -> Mapping[TenantId, int]:
    """`told_until` of those tenants for whom it is known; nothing where the journal is off. Raises the store's errors."""
    if not site.settings.journal.enabled or not newest:
        return {}
    looks = look_at_regions(site, newest, {one.tenant.region for one in newest})
    until = {tenant: told_until(reach) for look in looks.values() for tenant, reach in look.reaches.items()}
    return {tenant: moment for tenant, moment in until.items() if moment is not None}


def _recorded(one: Newest) -> Base | None:
    """What the catalog says: of the backup itself, or of the latest tick that found the tenant to be what it says."""
    record = one.record
    if record is None or record.backup_id != one.backup_id or record.state is None:
        return None
    if not record.is_surely_of(one.tenant.key):
        return None
    point = record.point
    return Base(
        backup_id=record.backup_id,
        time=microseconds_of(parse_timestamp(point.time)),
        xmin=int(point.snapshot.partition(":")[0]),
        system_id=int(point.system_identifier),
        timeline=point.timeline,
        tables=frozenset(record.state.tables),
    )


def _go_on(journal: Journal, listing: Listing, chains: list[Chain], issues: list[SbhError]) -> bool:
    """Add what is new to the last chain; False where it has to be read anew."""
    if not chains or not listing.incarnations or listing.incarnations[-1] != chains[-1].incarnation.text:
        return False
    segments = listing.of(chains[-1].incarnation.text)
    start, end = chains[-1].end, max((one.end for one in segments), default=0)
    for stretch in plan_cover(segments, start, end).stretches if end > start else ():
        try:
            facts = journal.directory(stretch.segment).facts
        except (CorruptObject, ObjectMissing) as error:
            issues.append(error)
            return False
        if stretch.start != chains[-1].end:
            chains.append(Chain(chains[-1].incarnation, stretch.start, stretch.start))
        chains[-1].add(facts, stretch.start, stretch.end)
    return True


def _copied(chain: Chain) -> Chain:
    """One that the next look does not change."""
    return replace(
        chain,
        fences=list(chain.fences),
        coverage={table: list(ranges) for table, ranges in chain.coverage.items()},
        events=list(chain.events),
        skipped=dict(chain.skipped),
        ends=set(chain.ends),
    )


_OF_SITES: dict[str, Standing] = {}
_CHOOSING = threading.Lock()


def standing_of(site: Site) -> Standing:
    """This process's, of what the site's settings lead to."""
    named = "\n".join(part.model_dump_json() for part in (site.settings.storage, site.settings.journal))
    with _CHOOSING:
        if named not in _OF_SITES and len(_OF_SITES) >= _MOST_SITES:
            _OF_SITES.pop(next(iter(_OF_SITES)))
        return _OF_SITES.setdefault(named, Standing())
