"""From where on the journal of a region is kept.

Every moment of the last `journal.keep_days` days is to be within reach. A moment is put together from a backup before it, so what a
tenant needs begins at the last fence before the snapshot of its newest backup that is as old as that. What lies before that fence,
for all tenants, may go.

A day more is kept than was promised: a recovery that planned a moment ago reads on undisturbed, whatever goes meanwhile. A tenant
that had no backup for LONGEST_WAIT does not hold the others' journal: the moments before its next backup are out of its reach.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sbh_pipelines.backup.contents.backup_list import read_backups
from sbh_pipelines.backup.contents.manifests import read_manifest
from sbh_pipelines.backup.contents.ownership import is_own
from sbh_pipelines.backup.contents.summary import BackupSummary
from sbh_pipelines.backup.journal.window.snapshot import Snapshot
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.errors import CorruptObject, ObjectMissing, SbhError, UnknownBackup
from sbh_pipelines.model import HousedTenant, parse_timestamp
from sbh_pipelines.repository.catalog.owners import slug_of
from sbh_pipelines.repository.journal.journal import Journal, Listing
from sbh_pipelines.repository.journal.segments.cover import plan_cover
from sbh_pipelines.repository.journal.segments.names import Incarnation, SegmentName
from sbh_pipelines.repository.journal.segments.public_key import PublicKey
from sbh_pipelines.repository.repository import Repository

GRACE = timedelta(days=1)
LONGEST_WAIT = timedelta(days=8)  # a weekly full backup, and a day in which somebody sees that it failed


@dataclass(frozen=True, slots=True)
class Need:
    """The backup from which a tenant's oldest moments are put together.

    Attributes:
        home: Name of the tenant's repository.
        backup_id: The backup.
        xmin: Every transaction with a lesser 64-bit id had ended when its snapshot was taken.
        system_id: The server's cluster.
        timeline: Of its log.
    """

    home: str
    backup_id: str
    xmin: int
    system_id: int
    timeline: int


@dataclass(frozen=True, slots=True)
class Needs:
    """What the tenants of a region need.

    Attributes:
        horizon: Moments before this one are not promised, and nothing of them is needed but for the ways that begin there.
        needs: The backups from which these ways begin.
        issues: Repositories that did not tell: because of them more is kept.
    """

    horizon: datetime
    needs: Sequence[Need]
    issues: Sequence[SbhError]

    @property
    def time(self) -> int:
        """No fence later than this is the floor, microseconds since 1970 UTC."""
        return self.longest if self.issues else _microseconds(self.horizon)

    @property
    def longest(self) -> int:
        """What is older than this goes, whoever would need it, microseconds since 1970 UTC."""
        return _microseconds(self.horizon - LONGEST_WAIT)

    def first_of(self, incarnation: Incarnation) -> Need | None:
        """The need of this server's backups that reaches back furthest."""
        server = incarnation.system_id, incarnation.timeline
        here = [need for need in self.needs if (need.system_id, need.timeline) == server]
        return min(here, key=lambda need: need.xmin, default=None)


@dataclass(frozen=True, slots=True)
class Outdated:
    """A segment that nobody needs any more.

    Attributes:
        name: The segment.
        why: For people.
    """

    name: SegmentName
    why: str


def read_needs(site: Site, region: str, keys: Mapping[str, PublicKey], now: datetime) -> Needs:
    """What the tenants need who are journaled, whose public keys are given. A few requests for each tenant."""
    horizon = now - timedelta(days=site.settings.journal.keep_days) - GRACE

    def look(key: PublicKey) -> Need | SbhError | None:
        slug = slug_of(key.home)
        if slug is None:
            return None
        try:
            with site.repository(HousedTenant(slug, key.tenant_key, region, "", key.home)) as repository:
                return _need(repository, key, horizon)
        except UnknownBackup:
            return None
        except SbhError as error:
            return error

    found = side_by_side(look, keys.values(), name="needs")
    needs = [one for one in found if isinstance(one, Need)]
    return Needs(horizon, needs, [one for one in found if isinstance(one, SbhError)])


def outdated(journal: Journal, listing: Listing, needs: Needs, issues: list[SbhError]) -> list[Outdated]:
    """Segments that may go, oldest first. What could not be read is added to `issues`. Raises the store's errors."""
    found = list[Outdated]()
    for name in listing.incarnations:
        incarnation = Incarnation.parse(name)
        if incarnation is None:
            continue
        segments = listing.of(name)
        if name != listing.incarnations[-1] and _is_over(journal, segments, needs.time):
            why = f"all of incarnation {name} is older than {needs.horizon:%Y-%m-%d %H:%M} UTC"
            found += [Outdated(segment, why) for segment in segments]
            continue
        need = needs.first_of(incarnation)
        floor = _floor(journal, segments, needs, need.xmin if need else None, issues)
        why = f"older than {needs.horizon:%Y-%m-%d %H:%M} UTC"
        if need is not None:
            why += f", and than what {need.backup_id} of {need.home} needs"
        found += [Outdated(segment, why) for segment in segments if segment.end <= floor]
    return found


def _need(repository: Repository, key: PublicKey, horizon: datetime) -> Need | None:
    """The tenant's newest usable backup up to the horizon; without one its first usable one after it.

    A later one may reach back further than its time: a transaction was running that had begun long before.
    """
    points = [(point, one) for one in read_backups(repository).sound.values() if (point := _point_of(one)) is not None]
    points.sort(key=lambda found: (found[0], found[1].id))
    before = [one for point, one in points if horizon - LONGEST_WAIT <= point <= horizon]
    after = [one for point, one in points if point > horizon]
    for summary in (*reversed(before), *after):
        try:
            manifest = read_manifest(repository, summary.id)
            of = manifest.recovery_point
            snapshot = Snapshot.parse(of.snapshot)
            if not snapshot.of_standby and is_own(repository, manifest, key.tenant_key):
                return Need(key.home, summary.id, snapshot.xmin, int(of.system_identifier), of.timeline)
        except (CorruptObject, UnknownBackup, KeyError, TypeError, ValueError):
            continue  # recovery passes it over as well
    return None


def _point_of(summary: BackupSummary) -> datetime | None:
    if summary.aside or summary.figures is None or summary.figures.point is None:
        return None
    try:
        return parse_timestamp(summary.figures.point)
    except ValueError:
        return None


def _is_over(journal: Journal, segments: Sequence[SegmentName], time: int) -> bool:
    """Whether the last that a former incarnation says is older than the time."""
    last = max(segments, key=lambda one: one.end)
    try:
        fences = journal.directory(last).facts.fences
        return bool(fences) and fences[-1].time < time
    except (CorruptObject, ObjectMissing):
        return last.stored is not None and last.stored.timestamp() * 1_000_000 < time


def _floor(
    journal: Journal, segments: Sequence[SegmentName], needs: Needs, xmin: int | None, issues: list[SbhError]
) -> int:
    """Position before the last fence that is old enough; of the segments only those at the beginning are opened."""
    begins = min(one.start for one in segments)
    floor = begins
    for stretch in plan_cover(segments, begins, max(one.end for one in segments)).stretches:
        try:
            fences = journal.directory(stretch.segment).facts.fences
        except (CorruptObject, ObjectMissing) as error:
            issues.append(error)
            continue
        for fence in fences:
            is_needed = xmin is not None and fence.xid >= xmin and fence.time > needs.longest
            if is_needed or fence.time > needs.time:
                return floor
            floor = max(floor, fence.before)
    return floor


def _microseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)
