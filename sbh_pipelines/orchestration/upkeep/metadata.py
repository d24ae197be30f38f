"""What prune and forgetting report, as Dagster metadata: sums that can be plotted, a line per tenant or per backup."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from sbh_pipelines.model import size_text
from sbh_pipelines.orchestration.common.metadata import MetadataMap, issues_table, markdown

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import JournalUpkeep, NothingToPrune, PruneReport, RetentionOutcome

# Of a prune's report: what it did, and what a dry run would do.
_DONE = ("bytes_freed", "packs_deleted", "packs_rewritten", "packs_retired", "bytes_retired", "kept_because_young")
_PLANNED = ("bytes_to_remove", "packs_to_remove", "packs_to_rewrite", "packs_to_retire", "bytes_to_retire")


def pruned_metadata(reports: "Mapping[str, PruneReport | NothingToPrune]", dry_run: bool) -> MetadataMap:
    """The sums, and a line per tenant, where most is freed first; of a single tenant also each decision."""
    shown = _PLANNED if dry_run else _DONE
    figures = {tenant: [int(getattr(report, name, 0)) for name in shown] for tenant, report in reports.items()}
    sums = {name: sum(values[at] for values in figures.values()) for at, name in enumerate(shown)}
    lines = (
        [tenant, *map(_figure, shown, figures[tenant]), getattr(reports[tenant], "note", None)]
        for tenant in sorted(reports, key=lambda tenant: -figures[tenant][0])
    )
    metadata: MetadataMap = {
        "dry_run": dg.MetadataValue.bool(dry_run),
        **{name: dg.MetadataValue.int(total) for name, total in sums.items()},
        shown[0].replace("bytes", "size"): dg.MetadataValue.text(size_text(sums[shown[0]])),
        "by_tenant": dg.MetadataValue.md(
            markdown(["tenant", *(name.replace("bytes_", "").replace("_", " ") for name in shown), "note"], lines)
        ),
    }
    if len(reports) == 1 and (decisions := getattr(next(iter(reports.values())), "decisions", ())):
        rows = ([d.key, d.action, d.why, size_text(d.size), size_text(d.live)] for d in decisions)
        metadata["decisions"] = dg.MetadataValue.md(markdown(["object", "what", "why", "size", "needed of it"], rows))
    return metadata


def _figure(name: str, value: int) -> object:
    return size_text(value) if name.startswith("bytes") else value


def journals_metadata(journals: "Sequence[JournalUpkeep]") -> dict[str, dg.MetadataValue[Any]]:
    """A line per region that has a change journal, and what could not be read; nothing where none has."""
    if not journals:
        return {}
    lines = (
        [
            one.region,
            one.segments_before,
            size_text(one.bytes_before),
            len(one.removed),
            size_text(one.bytes_freed),
            sum(merged.sources for merged in one.merged),
            len(one.merged),
            one.gaps_removed,
        ]
        for one in journals
    )
    columns = ["region", "segments", "size", "removed", "freed", "merged", "into", "gaps removed"]
    issues = [error for one in journals for error in one.issues]
    return {
        "journals": dg.MetadataValue.md(markdown(columns, lines)),
        **({"journal_issues": dg.MetadataValue.md(issues_table(issues))} if issues else {}),
    }


def forgotten_metadata(reports: "Mapping[str, RetentionOutcome]", dry_run: bool) -> MetadataMap:
    """A line per backup with the rule that keeps or drops it, those that go first; and what could not be read."""
    backups = [(tenant, backup) for tenant, report in reports.items() for backup in report.backups]
    gone = {(tenant, backup_id) for tenant, report in reports.items() for backup_id in report.forgotten}
    lines = (
        [tenant, b.id, b.type, b.created_at, _fate((tenant, b.id) in gone, dry_run), "; ".join(b.reasons)]
        for tenant, b in sorted(backups, key=lambda entry: (entry[0], entry[1].id) not in gone)
    )
    errors = [error for report in reports.values() for error in report.errors]
    return {
        "dry_run": dg.MetadataValue.bool(dry_run),
        "forgotten": dg.MetadataValue.int(len(gone)),
        "kept": dg.MetadataValue.int(len(backups) - len(gone)),
        "backups": dg.MetadataValue.md(markdown(["tenant", "backup", "type", "created", "fate", "why"], lines)),
        **({"errors": dg.MetadataValue.md(issues_table(errors))} if errors else {}),
    }


def _fate(goes: bool, dry_run: bool) -> str:
    if dry_run:
        return "would be forgotten" if goes else "would be kept"
    return "forgotten" if goes else "kept"
