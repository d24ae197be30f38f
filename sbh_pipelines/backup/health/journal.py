"""How the change journal stands, where it is on: how far it is behind, whether it can go on, and which tenants it leads nowhere."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from sbh_pipelines.backup.health.findings import CRITICAL, ERROR, JOURNAL, WARNING, Finding, span_text
from sbh_pipelines.backup.journal.guard import Outlook, look_ahead
from sbh_pipelines.backup.journal.view.standing import Newest, RegionLook, look_at_regions, told_until
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.journal.server import journal_session
from sbh_pipelines.database.journal.slot import read_left_slot
from sbh_pipelines.database.session.targets import journal_database
from sbh_pipelines.errors import JournalBehind, JournalInterrupted, SbhError, SlotAtRisk
from sbh_pipelines.model import TenantId
from sbh_pipelines.repository.journal.gaps import PREDICTION_FAILED, Gap
from sbh_pipelines.repository.journal.segments.changes import commit_time, microseconds_of, moment_text
from sbh_pipelines.settings import Settings

_HELD_MUCH = 0.5  # of what the slot may hold
_BACK_UP = "back the tenants up: `sbh backup create TENANT`; their schedules do it by themselves"


@dataclass(frozen=True, slots=True)
class RegionTold:
    """The journal of a region.

    Attributes:
        behind_s: How long ago it was drained, s; None where it never was.
        segments: How many there are.
        bytes: Theirs together.
        tables: Tables that are told up to the end.
        gaps: How many are on record.
    """

    behind_s: float | None
    segments: int
    bytes: int
    tables: int
    gaps: int


@dataclass(frozen=True, slots=True)
class JournalState:
    """How the journal stands.

    Attributes:
        regions: Of each region that answered.
        behind: Of each tenant all of whose rows are told since its newest backup, up to when, as seconds ago.
        outlook: The slot, and what the next drain would find; None where the server was not asked, or did not answer.
        findings: What is wrong.
        seen: Whether all of it was looked at, so that what is not found is not there.
    """

    regions: Mapping[str, RegionTold] = field(default_factory=dict)
    behind: Mapping[TenantId, float] = field(default_factory=dict)
    outlook: Outlook | None = None
    findings: Sequence[Finding] = ()
    seen: bool = True


def look_at_journal(site: Site, newest: Sequence[Newest], now: datetime, *, everyone: bool) -> JournalState:
    """`everyone`: `newest` is of all tenants, and the journal itself is asked about too.

    Where the journal is off, only whether a slot was left behind.
    """
    settings = site.settings
    if not settings.journal.enabled:
        return JournalState(findings=[*_left(settings)] if everyone else [])
    findings: list[Finding] = []
    regions = settings.storage.regions if everyone else {one.tenant.region for one in newest}
    try:
        looks = look_at_regions(site, newest, regions)
        gaps = {region: site.journal(region).gaps() for region in looks} if everyone else {}
    except SbhError as error:
        return JournalState(findings=[_unreadable(error)] if everyone else [], seen=False)
    behind: dict[TenantId, float] = {}
    for look in looks.values():
        for tenant_id, reach in look.reaches.items():
            if (until := told_until(reach)) is not None:
                behind[tenant_id] = round(max((now - commit_time(until)).total_seconds(), 0.0), 1)
    if not everyone:
        return JournalState(behind=behind)
    told = {region: _told(look, gaps[region], now) for region, look in looks.items()}
    outlook, seen = None, True
    try:
        outlook = look_ahead(site)
        findings += _slot(settings, outlook)
    except SbhError as error:
        findings.append(_unreadable(error))
        seen = False
    findings += _behind(settings, told)
    for region, look in looks.items():
        findings += _gaps(region, gaps[region], look, now, settings.journal.keep_days)
    findings += _interrupted(list(looks.values()))
    return JournalState(told, behind, outlook, findings, seen)


def _told(look: RegionLook, gaps: Sequence[Gap], now: datetime) -> RegionTold:
    chains = look.chains.chains
    until = max((fence.time for chain in chains for fence in chain.fences), default=None)
    last = chains[-1] if chains else None
    current = [] if last is None else [name for name, ranges in last.coverage.items() if ranges[-1][1] == last.end]
    return RegionTold(
        None if until is None else round(max((now - commit_time(until)).total_seconds(), 0.0), 1),
        len(look.listing.segments),
        sum(name.size for name in look.listing.segments),
        len(current),
        len(gaps),
    )


def _unreadable(error: SbhError) -> Finding:
    return Finding(JOURNAL, "journal_unreadable", "", error, WARNING)


def _behind(settings: Settings, told: Mapping[str, RegionTold]) -> Iterator[Finding]:
    """One that was never drained is behind nothing: `sbh doctor` says what it needs, and failed drains are told by themselves."""
    most = settings.journal.objective_minutes * 60
    for region, one in told.items():
        if one.behind_s is None or one.behind_s <= most:
            continue
        error = JournalBehind(
            "What was committed lately is in no journal",
            on=region,
            why=f"it was drained {span_text(one.behind_s)} ago; journal.objective_minutes is"
            f" {settings.journal.objective_minutes:g}",
            remedy="see the runs of `journal_drain_job`; drain now: `sbh journal drain`",
        )
        yield Finding(JOURNAL, "journal_behind", region, error, ERROR)


def _slot(settings: Settings, outlook: Outlook) -> Iterator[Finding]:
    slot, name = outlook.slot, settings.journal.slot
    if outlook.found is not None:
        error = SlotAtRisk(
            "The change journal cannot go on from where it is",
            on=name,
            why=outlook.found.why,
            remedy="drain: `sbh journal drain` records the gap and begins anew; then " + _BACK_UP,
        )
        yield Finding(JOURNAL, "journal_slot", name, error, ERROR)
        return
    if slot is None:
        return
    share = slot.held_bytes / outlook.limit_bytes
    nearly_lost = slot.wal_status == "unreserved" or (
        slot.safe_wal_size is not None and slot.safe_wal_size < slot.held_bytes
    )
    if share < _HELD_MUCH and not nearly_lost:
        return
    held = f"{slot.held_bytes / 2**30:.2f} GiB"
    why = f"it holds {held} of the server's log, and is dropped at {settings.journal.max_lag_gib:g} GiB"
    if nearly_lost:
        left = "" if slot.safe_wal_size is None else f", after {max(slot.safe_wal_size, 0) / 2**30:.2f} GiB more"
        why = f"it holds {held} of the server's log, and the server gives it up soon{left}"
    error = SlotAtRisk(
        "The journal's slot is about to be dropped",
        on=name,
        why=why,
        remedy="drain: `sbh journal drain`. If it goes on to grow: a transaction is open for long, or drains fail",
    )
    yield Finding(JOURNAL, "journal_held", name, error, CRITICAL if nearly_lost else WARNING)


def _left(settings: Settings) -> Iterator[Finding]:
    slot = None
    # Who has turned it off may have taken the role away, too.
    with suppress(SbhError), journal_session(journal_database(settings), "journal status") as connection:
        slot = read_left_slot(connection, settings.journal.slot)
    if slot is not None:
        error = SlotAtRisk(
            "The change journal is off, and its slot is still there",
            on=slot.name,
            why=f"it holds {slot.held_bytes / 2**20:.1f} MiB of the server's log, more and more, and no drain looks after it",
            remedy=f"sbh journal drop --confirm {slot.name}",
        )
        yield Finding(JOURNAL, "journal_left", slot.name, error, WARNING)


def _gaps(region: str, gaps: Sequence[Gap], look: RegionLook, now: datetime, keep_days: float) -> Iterator[Finding]:
    """A gap is over for a tenant with its next backup."""
    oldest = microseconds_of(now) - int(keep_days * 86_400_000_000)
    times = [reach.base.time for reach in look.reaches.values()]
    for gap in sorted(gaps, key=lambda one: one.time, reverse=True):
        if gap.kind == PREDICTION_FAILED:
            if gap.time >= oldest:
                yield _differs(region, gap)
            continue
        waiting = sum(time < gap.time for time in times)
        if gap.time < oldest or not waiting:
            continue
        what = f"of {gap.table}" if gap.table else "of all tables"
        error = JournalInterrupted(
            "The change journal has a gap",
            on=f"{region}, {moment_text(gap.time)}",
            why=f"{gap.why}; {waiting:,} tenants can be brought to no moment after it ({what})",
            remedy=_BACK_UP + "; `sbh journal gaps` lists them",
        )
        yield Finding(JOURNAL, "journal_gap", f"{region}/{gap.time}", error, ERROR, group=region)


def _differs(region: str, gap: Gap) -> Finding:
    """What the journal told was wrong, and nobody knows why: that is not over with the next backup."""
    error = JournalInterrupted(
        "The change journal led to something else than what the tables hold",
        on=f"{region}, {gap.table}, tenant key {gap.tenant}, {moment_text(gap.time)}",
        why=gap.why,
        remedy="that full backup is right, and the journal is followed again from it on. Moments between it and the full"
        " backup before are refused, and an incremental backup in between may have the same fault. Either the table's"
        " files were changed past the server's log, or the journal is at fault: report it",
    )
    return Finding(JOURNAL, "journal_differs", f"{region}/{gap.tenant}/{gap.table}", error, ERROR)


def _interrupted(looks: Sequence[RegionLook]) -> Iterator[Finding]:
    """Tables of which something was not told since the tenants' newest backups, with the first reason of each."""
    tenants: Counter[str] = Counter()
    whys: dict[str, str] = {}
    for look in looks:
        for reach in look.reaches.values():
            table, _, why = reach.why.partition(": ")
            if reach.tables and why:
                tenants[table] += 1
                whys.setdefault(table, f"{why}; {moment_text(reach.span.end)} is the last moment before")
    for table, number in sorted(tenants.items()):
        error = JournalInterrupted(
            "Tenants can be brought to no later moment than a change of a table",
            on=table,
            why=f"{whys[table]} ({number:,} tenants)",
            remedy=_BACK_UP,
        )
        yield Finding(JOURNAL, "journal_interrupted", table, error, WARNING)
