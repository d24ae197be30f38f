"""What drains, moments and transactions say, as Dagster metadata: numbers that are plotted, and tables to read.

Of rows there are counts only: whoever may see runs need not be allowed to see a tenant's data.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from sbh_pipelines.model import parse_timestamp, size_text
from sbh_pipelines.orchestration.common.metadata import MetadataMap, issues_table, markdown
from sbh_pipelines.orchestration.journal.strip import strip
from sbh_pipelines.settings import Settings

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import DrainResult, JournalListing, MomentWindow, TenantWindows

_US = 1_000_000
_ALMOST_A_SECOND = timedelta(microseconds=999_999)  # a moment before the backup's is not within reach


def drained_text(done: "DrainResult") -> str:
    """A drain in a sentence."""
    if done.gap:
        return (
            f"A gap: {done.gap}. A new chain begins: moments are within reach again from each tenant's next backup on"
        )
    dropped = sum(region.skipped for region in done.regions)
    without = f" (besides {dropped:,} of tenants without a backup, which are in no journal)" if dropped else ""
    return (
        f"{done.changes:,} changes of {done.transactions:,} transactions{without} in {done.seconds:.1f} s;"
        f" {len(done.covered):,} tables are told up to now, the server holds {size_text(done.held_bytes)} of its log"
    )


def drained_metadata(done: "DrainResult", settings: Settings) -> MetadataMap:
    """Metadata of one drain; the numbers of each region carry its name."""
    tables = len(done.covered) + len(done.not_covered) + len(done.left_out)
    metadata: MetadataMap = {
        "summary": dg.MetadataValue.text(f"{drained_text(done)}."),
        "told_until": dg.MetadataValue.timestamp(done.fence_time / _US),
        **({} if done.before is None else {"lag_s": dg.MetadataValue.float(_lag(done))}),
        "changes": dg.MetadataValue.int(done.changes),
        "transactions": dg.MetadataValue.int(done.transactions),
        "stored_bytes": dg.MetadataValue.int(sum(region.bytes for region in done.regions)),
        "tenants": dg.MetadataValue.int(sum(region.tenants for region in done.regions)),
        "changes_dropped": dg.MetadataValue.int(sum(region.skipped for region in done.regions)),
        "held_log_mib": dg.MetadataValue.float(round(done.held_bytes / 2**20, 3)),
        "duration_s": dg.MetadataValue.float(round(done.seconds, 3)),
        "tables_covered": dg.MetadataValue.int(len(done.covered)),
        "tables_not_covered": dg.MetadataValue.int(tables - len(done.covered)),
        "regions": dg.MetadataValue.md(_regions(done)),
        "coverage": dg.MetadataValue.md(coverage_table(done)),
        "gap": dg.MetadataValue.text(done.gap or "none: the chain goes on"),
        "dropped_at": dg.MetadataValue.text(f"{settings.journal.max_lag_gib:g} GiB of the server's log"),
        "incarnation": dg.MetadataValue.text(done.incarnation),
    }
    for region in done.regions if len(done.regions) > 1 else ():
        metadata |= {
            f"changes_{region.region}": dg.MetadataValue.int(region.changes),
            f"stored_bytes_{region.region}": dg.MetadataValue.int(region.bytes),
        }
    if done.events:
        metadata["events"] = dg.MetadataValue.int(done.events)
    if done.publication:
        metadata["publication"] = dg.MetadataValue.md("\n".join(f"* `{line}`" for line in done.publication))
    return metadata


def _lag(done: "DrainResult") -> float:
    """How far the journal was behind when the drain began: what would have been lost then, s."""
    return round(max(done.fence_time - (done.before or 0), 0) / _US, 1)


def _regions(done: "DrainResult") -> str:
    return markdown(
        ["region", "changes", "tenants", "changes dropped", "size"],
        ([one.region, one.changes, one.tenants, one.skipped, size_text(one.bytes)] for one in done.regions),
    )


def coverage_table(done: "DrainResult") -> str:
    """Which tables the journal tells of, and why it does not of the others: those first."""
    rows = [[name, "backups only", why] for name, why in sorted(done.left_out.items())]
    rows += [[name, "from its next backup on", "what it is like has changed"] for name in done.not_covered]
    rows += [[name, "told up to now", ""] for name in done.covered]
    return markdown(["table", "moments", "why"], rows)


def moments_metadata(found: "TenantWindows", since: datetime, now: datetime) -> MetadataMap:
    """The moments that a tenant can be brought to, as a bar and as a table."""
    metadata: MetadataMap = {
        "moments": dg.MetadataValue.md(strip(_spans(found.windows), since, now)),
        "windows": dg.MetadataValue.md(_windows(found)),
        "told_until": dg.MetadataValue.text(found.drained_until or "never: nothing was drained"),
        "within_reach": dg.MetadataValue.text(_share(_spans(found.windows), since, now)),
    }
    if found.behind_s is not None:
        metadata["behind_s"] = dg.MetadataValue.float(found.behind_s)
    if found.not_journaled:
        metadata["as_at_backups_only"] = dg.MetadataValue.md(_listed(found.not_journaled))
    return metadata


def _spans(windows: "Sequence[MomentWindow]") -> list[tuple[datetime, datetime]]:
    return [(parse_timestamp(one.start), parse_timestamp(one.end)) for one in windows]


def _windows(found: "TenantWindows") -> str:
    def rows(table: str, windows: "Sequence[MomentWindow]") -> Iterable[list[object]]:
        for (start, end), one in zip(_spans(windows), windows, strict=True):
            first, last = (f"{moment:%Y-%m-%d %H:%M:%S}" for moment in (start + _ALMOST_A_SECOND, end))
            yield [
                table,
                first,
                max(first, last),
                _length(end - start),
                one.why or "up to where the journal was drained",
            ]

    every = [*rows("all", found.windows)]
    for one in found.tables:
        every += rows(one.table, one.windows)
    return (
        markdown(["tables", "from (UTC)", "to", "length", "what ends it"], every)
        if every
        else "None: no backup, no moment."
    )


def _share(spans: Sequence[tuple[datetime, datetime]], since: datetime, now: datetime) -> str:
    reached = sum((max(min(end, now) - max(start, since), timedelta()) for start, end in spans), timedelta())
    return f"{_length(reached)} of the last {_length(now - since)}"


def _length(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    if not seconds:
        return "a moment"
    days, hours, minutes = seconds // 86_400, seconds // 3600 % 24, seconds // 60 % 60
    parts = [f"{days} d"] if days else []
    parts += [f"{hours} h"] if hours else []
    parts += [f"{minutes} min"] if minutes and not days else []
    return " ".join(parts) or f"{seconds} s"


def _listed(names: Sequence[str]) -> str:
    return markdown(["table"], ([name] for name in names))


def shown_metadata(found: "JournalListing") -> MetadataMap:
    """A tenant's transactions with counts by table, and what interrupts them."""
    rows: list[list[object]] = []
    for one in found.transactions:
        for at, (table, counts) in enumerate(one.tables.items()):
            head = [one.time, str(one.xid)] if not at else ["", ""]
            tail = f"`@{one.before}`" if not at and one.lost else ""
            rows.append([*head, table, counts.inserted, counts.updated, counts.deleted, tail])
    headings = ["committed", "transaction", "table", "inserted", "updated", "deleted", "the moment before"]
    metadata: MetadataMap = {
        "transactions": dg.MetadataValue.int(len(found.transactions)),
        "transactions_by_table": dg.MetadataValue.md(markdown(headings, rows) if rows else "Nothing was changed."),
        "told": dg.MetadataValue.text(
            f"{found.told_from} to {found.told_until}" if found.told_until else "nothing is journaled yet"
        ),
    }
    if found.more:
        metadata["left_out"] = dg.MetadataValue.text("earlier ones: `since`, `until` and `limit` choose")
    if found.events:
        metadata["events"] = dg.MetadataValue.md(
            markdown(["at", "table", "what", "why"], ([e.time, e.table, e.kind, e.why] for e in found.events))
        )
    if found.gaps:
        metadata["gaps"] = dg.MetadataValue.md("\n".join(f"* Nothing is told {gap}" for gap in found.gaps))
    if found.issues:
        metadata["issues"] = dg.MetadataValue.md(issues_table(found.issues))
    return metadata
