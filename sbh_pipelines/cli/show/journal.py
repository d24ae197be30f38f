"""The change journal on the terminal: drains, how it stands, a tenant's transactions and the moment before the bad one."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sbh_pipelines.cli.output import count, facts, plural, print_issues, seconds, table, utc, verdict
from sbh_pipelines.cli.show.spans import span
from sbh_pipelines.model import size_text, timestamp

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import (
        DrainResult,
        GapLine,
        JournalListing,
        JournalSetup,
        JournalStatus,
        MomentWindow,
        RecoveryWindows,
        ShownTransaction,
        TenantWindows,
    )

_MOST_LEFT_OUT = 20


@dataclass(frozen=True, slots=True)
class Suspect:
    """What may be the transaction that somebody looks for.

    Attributes:
        xid: Its id; None for an event of which it is not known.
        why: Why this one.
        before: The last moment before it.
        command: Compares what is there now with what was there then.
    """

    xid: int | None
    why: str
    before: str
    command: str


def suspect_of(found: "JournalListing", from_copy: str | None = None) -> Suspect | None:
    """The newest table that was emptied, or else the transaction of which most rows were changed or went; None without either.

    `from_copy`: whose journal was read.
    """
    emptied = [event for event in found.events if event.kind == "truncated" and event.before]
    if emptied and (before := emptied[-1].before):
        return _suspect(found, emptied[-1].xid, f"it emptied {emptied[-1].table}", before, from_copy)
    worst = max(found.transactions, key=lambda one: (one.lost, one.time), default=None)
    if worst is None or not worst.lost:
        return None
    return _suspect(
        found,
        worst.xid,
        f"it changed or took {plural(worst.lost, 'row')}, more than any other",
        worst.before,
        from_copy,
    )


def _suspect(found: "JournalListing", xid: int | None, why: str, before: str, from_copy: str | None) -> Suspect:
    place = f" --from-copy {from_copy}" if from_copy is not None else ""
    return Suspect(xid, why, before, f"sbh restore diff @{before} -t {found.tenant_id}{place}")


def show_listing(out: Any, found: "JournalListing", suspect: Suspect | None) -> None:
    told = f"told from {found.told_from} until {found.told_until}" if found.told_until else "nothing is journaled yet"
    rows = [row for one in found.transactions for row in _transaction(one)]
    title = f"{plural(len(found.transactions), 'transaction')} of {found.tenant_id}; {told}"
    out.print(table(title, ("committed", ">transaction", "table", ">inserted", ">updated", ">deleted"), rows))
    if found.more:
        out.print("Earlier ones were left out: --limit, --since and --until choose.")
    for one in found.transactions:
        for row in one.samples:
            key = ", ".join(f"{name}={value}" for name, value in row.key.items())
            values = ", ".join(f"{name}={'NULL' if value is None else value}" for name, value in row.columns.items())
            out.print(f"{one.xid or one.time}  {row.table} {row.change} ({key})  {values}".rstrip(), markup=False)
    for event in found.events:
        when = event.time or (f"at {event.position}" if event.position else "some time")
        out.print(f"{when}  {event.table} {event.kind}: {event.why}", style="yellow", markup=False)
    for gap in found.gaps:
        out.print(f"Nothing is told {gap}", style="yellow", markup=False)
    print_issues(out, found.issues)
    if suspect is not None:
        which = f"transaction {suspect.xid}" if suspect.xid else "it"
        out.print(f"The moment before {which} ({suspect.why}): {suspect.before}", markup=False)
        out.print(f"  {suspect.command}", markup=False)


def _transaction(one: "ShownTransaction") -> list[tuple[str, ...]]:
    """A line for each table; time and id stand in the first."""
    heads = [(one.time, str(one.xid or "")), *[("", "")] * len(one.tables)]
    return [
        (*head, name, count(counts.inserted), count(counts.updated), count(counts.deleted))
        for head, (name, counts) in zip(heads, one.tables.items(), strict=False)
    ]


def drain_line(done: "DrainResult") -> str:
    """A drain on one line, for logs."""
    gap = f", gap: {done.gap}" if done.gap else ""
    did = ", ".join(
        (
            plural(done.transactions, "transaction"),
            plural(done.changes, "change"),
            plural(done.events, "event"),
            f"{plural(len(done.covered), 'table')} covered",
            f"{size_text(done.held_bytes)} of log held",
            seconds(done.seconds),
        )
    )
    return f"{_at(done.fence_time)}  {did}{gap}"


def _at(microseconds: int) -> str:
    return timestamp(datetime.fromtimestamp(microseconds / 1_000_000, UTC))


def show_drain(out: Any, done: "DrainResult") -> None:
    rows = [
        (one.region, count(one.changes), count(one.tenants), count(one.skipped), size_text(one.bytes), one.segment)
        for one in done.regions
    ]
    out.print(drain_line(done), markup=False)
    out.print(table("", ("region", ">changes", ">tenants", ">dropped", ">size", "segment"), rows))
    left = [(name, why) for name, why in done.left_out.items()]
    left += [(name, "not told up to now: from its next backup on") for name in done.not_covered]
    if left:
        out.print(table("Tables with backups only", ("table", "~why"), left[:_MOST_LEFT_OUT]))
    if len(left) > _MOST_LEFT_OUT:
        out.print(f"… and {len(left) - _MOST_LEFT_OUT:,} more tables")
    for line in done.publication:
        out.print(f"publication  {line}", markup=False)


def show_setup(out: Any, done: "JournalSetup") -> None:
    known = done.registered
    out.print(
        facts(
            {
                "tenants registered": f"{count(known.new)} new, {count(known.known)} known",
                "without a backup yet": ", ".join(known.without_backup),
                "next": "make a backup of each tenant: moments can be reached from the first backup after this on",
            }
        )
    )
    print_issues(out, known.issues)
    show_drain(out, done.drained)


def show_status(out: Any, found: "JournalStatus") -> None:
    slot = found.slot
    out.print(
        facts(
            {
                "journal": verdict(found.enabled, "on" if found.enabled else "off"),
                "publication": found.publication,
                "slot": slot.name if slot else "none: `sbh journal setup` makes it",
                "state": verdict(not slot.lost, slot.why or slot.state) if slot else "",
                "log held": size_text(slot.held_bytes) if slot else "",
                "may still be written": size_text(slot.safe_bytes) if slot else "",
                "read up to": slot.confirmed if slot else "",
                "spilled by decoding": size_text(slot.spilled_bytes) if slot else "",
                "kept in step on standbys": ("yes" if slot.failover else "no") if slot else "",
            }
        )
    )
    rows = [
        (
            one.region,
            utc(one.drained_until) or "never",
            span(one.behind_s),
            count(one.segments),
            size_text(one.bytes),
            count(len(one.tables)),
            count(one.tenants),
            count(one.gaps),
        )
        for one in found.regions
    ]
    columns = ("region", "drained until", ">behind", "->segments", ">size", "->tables", "->tenants", ">gaps")
    out.print(table("", columns, rows))
    if found.trouble:
        out.print(found.trouble, style="red", markup=False)
    print_issues(out, found.issues)


def gaps_table(gaps: "Sequence[GapLine]") -> Any:
    rows = [
        (utc(gap.time), gap.region, gap.kind, gap.table or "all", gap.tenant_key or "all", gap.position, gap.why)
        for gap in gaps
    ]
    columns = ("noticed", "-region", "~what", "table", "tenant", "-told up to", "~why")
    return table(plural(len(gaps), "gap"), columns, rows)


def show_windows(out: Any, found: "RecoveryWindows") -> None:
    rows = [row for one in found.tenants for row in _windows(one)]
    columns = ("tenant", "table", "from", "to", "~ended by")
    out.print(table(f"Moments that {plural(len(found.tenants), 'tenant')} can be brought to", columns, rows))
    print_issues(out, found.issues)


def _windows(one: "TenantWindows") -> list[tuple[str, ...]]:
    """Tables with the same moments share their lines."""
    lines = [_line(one.tenant_id, "all", window) for window in one.windows] or [(one.tenant_id, "all", "none", "", "")]
    alike: dict[tuple[MomentWindow, ...], list[str]] = {}
    for tables in one.tables:
        alike.setdefault(tuple(tables.windows), []).append(tables.table)
    for windows, names in alike.items():
        lines += [_line("", ", ".join(names) if not n else "", window) for n, window in enumerate(windows)]
    return [*lines, *(("", table, "", "", "backups only") for table in one.not_journaled)]


def _line(tenant: str, name: str, window: "MomentWindow") -> tuple[str, ...]:
    return (tenant, name, window.start, window.end, window.why or ("" if window.end != window.start else "a backup"))
