"""How the journal stands: the slot, the segments of each region, the gaps. What cannot be asked is told as an issue."""

from collections.abc import Sequence
from dataclasses import dataclass

from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.journal.server import journal_session
from sbh_pipelines.database.journal.slot import SlotSpill, SlotState, read_left_slot, read_slot, read_spill
from sbh_pipelines.database.session.targets import journal_database
from sbh_pipelines.errors import CorruptObject, ObjectMissing, SbhError
from sbh_pipelines.repository.journal.gaps import Gap
from sbh_pipelines.repository.journal.journal import Journal, Listing
from sbh_pipelines.repository.journal.segments.changes import commit_time, lsn_text, moment_text
from sbh_pipelines.repository.journal.segments.directory import SegmentFacts


@dataclass(frozen=True, slots=True)
class SlotFacts:
    """The replication slot.

    Attributes:
        name: Its name.
        state: What the server says of the log that it needs: `reserved`, `extended`, `unreserved`, `lost`.
        lost: Whether nothing can be read from it any more.
        why: Why the server gave it up; None while it has not.
        held_bytes: Of the server's log, because of it.
        safe_bytes: What may still be written before the server gives it up; None where it has no limit.
        confirmed: Up to where it was read, as a position of the log.
        catalog_xmin_age: How many transactions ago the oldest began whose catalogue rows cannot be vacuumed because of it.
        active: Whether a session uses it now.
        failover: Whether standbys keep it in step.
        spilled_bytes: What decoding wrote to the server's disk for large transactions; None where the server has not counted.
    """

    name: str
    state: str
    lost: bool
    why: str | None
    held_bytes: int
    safe_bytes: int | None
    confirmed: str
    catalog_xmin_age: int
    active: bool
    failover: bool
    spilled_bytes: int | None


@dataclass(frozen=True, slots=True)
class GapLine:
    """A gap: something that the journal could tell ended there.

    Attributes:
        region: The region whose journal it is in.
        time: When it was noticed, ISO 8601 UTC.
        kind: What happened.
        table: The table; None for all.
        tenant_key: The tenant's key; None for all.
        position: Up to where the log is told.
        why: For people.
    """

    region: str
    time: str
    kind: str
    table: str | None
    tenant_key: str | None
    position: str
    why: str


@dataclass(frozen=True, slots=True)
class RegionJournal:
    """The journal of a region.

    Attributes:
        region: The region.
        incarnation: The current one; None where nothing was ever drained.
        segments: Of all incarnations.
        bytes: Theirs together.
        drained_until: Up to when the log was read, ISO 8601 UTC; None likewise.
        behind_s: How long ago that was, s.
        tables: Those of which the newest segment tells, by full name.
        tenants: Tenants whose key is registered: changes of others are dropped.
        gaps: How many there are.
    """

    region: str
    incarnation: str | None
    segments: int
    bytes: int
    drained_until: str | None
    behind_s: float | None
    tables: Sequence[str]
    tenants: int
    gaps: int


@dataclass(frozen=True, slots=True)
class JournalStatus:
    """How the journal stands.

    Attributes:
        enabled: Whether the settings have it on.
        publication: Its name on the server.
        slot: The slot; None where there is none, or the server could not be asked.
        regions: The journal of each region.
        gaps: Of all regions, the newest first.
        issues: What could not be asked or read.
    """

    enabled: bool
    publication: str
    slot: SlotFacts | None
    regions: Sequence[RegionJournal]
    gaps: Sequence[GapLine]
    issues: Sequence[SbhError]

    @property
    def trouble(self) -> str:
        """What keeps the journal from going on, for people; empty where nothing does."""
        if not self.enabled:
            return (
                ""
                if self.slot is None
                else (
                    f"off, and a slot is there: it holds {self.slot.held_bytes / (1 << 20):.1f} MiB of the server's log, more and"
                    f" more: sbh journal drop --confirm {self.slot.name}"
                )
            )
        if not any(region.incarnation for region in self.regions):
            return ""
        if self.slot is None and not self.issues:
            return "the slot is gone: the next drain makes a new one, and what is committed until then is in no journal"
        return (
            f"the server gave the slot up: {self.slot.why or self.slot.state}" if self.slot and self.slot.lost else ""
        )


def journal_status(site: Site) -> JournalStatus:
    """Asks the server, and each region's store."""
    settings, issues = site.settings.journal, list[SbhError]()
    slot: SlotFacts | None = None
    try:
        slot = read_slot_facts(site)
    except SbhError as error:
        issues.append(error)
    regions: list[RegionJournal] = []
    gaps: list[GapLine] = []
    for region in site.settings.storage.regions:
        try:
            found, theirs = _region(site, region, issues)
        except SbhError as error:
            issues.append(error)
            continue
        regions.append(found)
        gaps += theirs
    gaps.sort(key=lambda gap: gap.time, reverse=True)
    return JournalStatus(settings.enabled, settings.publication, slot, regions, gaps, issues)


def read_slot_facts(site: Site) -> SlotFacts | None:
    """The slot, as the server says; None where there is none."""
    name = site.settings.journal.slot
    with journal_session(journal_database(site.settings), "journal status") as connection:
        of = read_slot if site.settings.journal.enabled else read_left_slot
        state = of(connection, name)
        return None if state is None else _facts(state, read_spill(connection, name))


def gap_lines(journal: Journal, issues: list[SbhError]) -> list[GapLine]:
    """The gaps of a region, oldest first; what cannot be believed is added to `issues`."""
    found = [_line(journal.region, gap) for gap in journal.gaps()]
    issues += journal.damages
    return found


def _region(site: Site, region: str, issues: list[SbhError]) -> tuple[RegionJournal, list[GapLine]]:
    journal = site.journal(region)
    listing = journal.listing()
    issues += journal.strange(listing)
    newest = _newest(journal, listing, issues)
    gaps = gap_lines(journal, issues)
    times = [fence.time for fence in newest.fences] if newest else []
    until = max(times, default=None)
    behind = None if until is None else (site.clock() - commit_time(until)).total_seconds()
    return (
        RegionJournal(
            region=region,
            incarnation=listing.incarnations[-1] if listing.incarnations else None,
            segments=len(listing.segments),
            bytes=sum(name.size for name in listing.segments),
            drained_until=None if until is None else moment_text(until),
            behind_s=None if behind is None else round(max(behind, 0.0), 1),
            tables=sorted(newest.coverage) if newest else [],
            tenants=len(journal.public_keys.read()),
            gaps=len(gaps),
        ),
        gaps,
    )


def _newest(journal: Journal, listing: Listing, issues: list[SbhError]) -> SegmentFacts | None:
    """What the last segment says; one that cannot be read is passed over."""
    if not listing.incarnations:
        return None
    for name in sorted(listing.of(listing.incarnations[-1]), key=lambda one: (one.end, -one.level), reverse=True)[:3]:
        try:
            return journal.directory(name).facts
        except (CorruptObject, ObjectMissing) as error:
            issues.append(error)
    return None


def _facts(state: SlotState, spill: SlotSpill | None) -> SlotFacts:
    return SlotFacts(
        name=state.name,
        state=state.wal_status,
        lost=state.lost,
        why=state.invalidation_reason,
        held_bytes=state.held_bytes,
        safe_bytes=state.safe_wal_size,
        confirmed=lsn_text(state.confirmed_flush),
        catalog_xmin_age=state.catalog_xmin_age,
        active=state.active,
        failover=state.failover,
        spilled_bytes=None if spill is None else spill.spilled_bytes,
    )


def _line(region: str, gap: Gap) -> GapLine:
    return GapLine(region, moment_text(gap.time), gap.kind, gap.table, gap.tenant, lsn_text(gap.position), gap.why)
