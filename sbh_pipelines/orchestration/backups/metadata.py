"""What a backup leaves as Dagster metadata: a sentence, links, figures, then tables.

The order is that of the page. Numbers are those that mean something over time, for Dagster plots every one; what is the same
from run to run is text. Nothing here is personal data: manifests hold only counts, sizes, ids and hashes.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime

import dagster as dg

from sbh_pipelines.backup.contents.manifest import Component
from sbh_pipelines.backup.create.draft import MADE_NOW, AppliedRetention, Draft
from sbh_pipelines.model import parse_timestamp, size_text
from sbh_pipelines.orchestration.common.assets import asset_key
from sbh_pipelines.orchestration.common.links import Links, markdown_link
from sbh_pipelines.orchestration.common.metadata import MetadataMap, issues_table, markdown, plural

_RUNBOOK = "`docs/operations/partial-loss.md`"


def backup_metadata(draft: Draft, manifest_location: str, links: Links, now: datetime) -> MetadataMap:
    """Metadata of the materialization of one tenant's backup. `now`: UTC."""
    counters = draft.counters
    metadata: MetadataMap = {
        "summary": dg.MetadataValue.md(summary(draft)),
        "links": dg.MetadataValue.md(_links(draft, links)),
        "backup_id": dg.MetadataValue.text(str(draft.backup_id)),
        **_moment(draft, now),
        "rows": dg.MetadataValue.int(int(counters.get("rows", 0))),
        **(_numbers(draft, "rows_changed") if draft.parent else {}),
        "files": dg.MetadataValue.int(int(counters.get("files", 0))),
        **(_numbers(draft, "files_read") if draft.parent else {}),
        "files_missing": dg.MetadataValue.int(int(counters.get("missing_files", 0))),
        "source_bytes": dg.MetadataValue.int(_source_bytes(draft)),
        "stored_bytes": dg.MetadataValue.int(_stored_bytes(draft)),
        "duration_s": dg.MetadataValue.float(round(sum(_seconds(draft).values()), 3)),
        **_type(draft),
        "components": dg.MetadataValue.md(components_table(draft.components)),
        "table_details": dg.MetadataValue.md(tables_table(draft.components)),
        **_tables_of_note(draft),
        **(_retention(draft.retention) if draft.retention is not None else {}),
        "step_seconds": dg.MetadataValue.md(markdown(["step", "seconds"], _seconds(draft).items())),
        "tenant": dg.MetadataValue.text(str(draft.tenant.id)),
        "region": dg.MetadataValue.text(draft.tenant.region),
        "tier": dg.MetadataValue.text(draft.tenant.tier),
        "tables": dg.MetadataValue.text(str(int(counters.get("tables", 0)))),
        "chunks": dg.MetadataValue.text(
            f"{int(counters.get('chunks_new', 0)):,} new of {int(counters.get('chunks', 0)):,}"
        ),
        **_ratio(draft),
        "manifest": dg.MetadataValue.path(manifest_location),
        "checksum": dg.MetadataValue.text(draft.manifest.checksum if draft.manifest else ""),
    }
    if draft.recovery_point:
        metadata["recovery_point_lsn"] = dg.MetadataValue.text(draft.recovery_point.lsn)
    return metadata


def unchanged_metadata(draft: Draft) -> MetadataMap:
    """Metadata of a tenant for which nothing had to be stored."""
    metadata: MetadataMap = {
        "summary": dg.MetadataValue.md(
            f"Nothing changed since `{draft.unchanged_since}`: that backup describes the tenant{_as_of(draft)}."
        ),
        "unchanged_since": dg.MetadataValue.text(str(draft.unchanged_since)),
    }
    if draft.recovery_point:
        metadata["recovery_point"] = dg.MetadataValue.timestamp(parse_timestamp(draft.recovery_point.time))
    metadata["tenant"] = dg.MetadataValue.text(str(draft.tenant.id))
    metadata["region"] = dg.MetadataValue.text(draft.tenant.region)
    if draft.recovery_point:
        metadata["recovery_point_lsn"] = dg.MetadataValue.text(draft.recovery_point.lsn)
    return metadata


def summary(draft: Draft) -> str:
    """`**19,883 rows and 135 files** as of 2026-11-28 11:49:18 UTC, 2.2 MiB new. Kept as newest full, daily 1 of 7.`"""
    counters = draft.counters
    held = f"**{plural(int(counters.get('rows', 0)), 'row')} and {plural(int(counters.get('files', 0)), 'file')}**"
    stored = _stored_bytes(draft)
    said = [f"{held}{_as_of(draft)}, {f'{size_text(stored)} new' if stored else 'nothing new to store'}."]
    if missing := int(counters.get("missing_files", 0)):
        said.append(f"Rows refer to {plural(missing, 'file')} that the bucket does not have.")
    if draft.requested and draft.type != draft.requested:
        said.append(f"A {draft.type} backup instead of {draft.requested}: {draft.reason}.")
    if rules := _rules(draft):
        said.append(f"Kept as {', '.join(rules)}.")
    return " ".join(said)


def _rules(draft: Draft) -> list[str]:
    """The rules that keep the backup; that it is new keeps it from nothing later on."""
    if draft.retention is None:
        return []
    return [rule for rule in draft.retention.reasons.get(draft.backup_id, ()) if rule != MADE_NOW]


def _as_of(draft: Draft) -> str:
    if draft.recovery_point is None:
        return ""
    return f" as of {parse_timestamp(draft.recovery_point.time):%Y-%m-%d %H:%M:%S} UTC"


def _links(draft: Draft, links: Links) -> str:
    tenant, backup = str(draft.tenant.id), str(draft.backup_id)
    plan = links.launchpad(
        "restore_job", "restore_tenant", {"tenant": tenant, "backup_id": backup, "validate_only": True}
    )
    validate = links.launchpad(
        "validate_backup_job", "validate_backups", {"tenants": [tenant], "backup_id": backup, "deep": True}
    )
    earlier = next(_earlier(draft), None)
    shown = [
        markdown_link("See what a restore would do", plan),
        markdown_link("Validate it", validate),
        *([markdown_link(f"Before it: {earlier}", links.partition(asset_key(draft.type), tenant))] if earlier else []),
        f"How to restore: {_RUNBOOK}",
    ]
    return " · ".join(shown)


def _earlier(draft: Draft) -> Iterator[str]:
    """The backup it builds on; else those that stay besides it, the newest first."""
    if draft.parent:
        yield str(draft.parent)
    for kept in draft.retention.kept if draft.retention is not None else ():
        if kept != draft.backup_id:
            yield str(kept)


def _moment(draft: Draft, now: datetime) -> MetadataMap:
    if draft.recovery_point is None:
        return {}
    moment = parse_timestamp(draft.recovery_point.time)
    return {
        "recovery_point": dg.MetadataValue.timestamp(moment),
        "recovery_point_age_s": dg.MetadataValue.float(round(max((now - moment).total_seconds(), 0.0), 1)),
    }


def _type(draft: Draft) -> MetadataMap:
    """What was made; where it is not what was asked for, why; and what it builds on."""
    metadata: MetadataMap = {"backup_type": dg.MetadataValue.text(str(draft.type))}
    if draft.requested and draft.type != draft.requested:
        metadata["requested_type"] = dg.MetadataValue.text(str(draft.requested))
        metadata["reason"] = dg.MetadataValue.text(str(draft.reason or ""))
    if draft.parent:
        metadata["parent"] = dg.MetadataValue.text(str(draft.parent))
    return metadata


def _tables_of_note(draft: Draft) -> MetadataMap:
    """What was read whole, what rows refer to that is in no backup, and how the journal compared."""
    metadata: MetadataMap = {}
    if draft.reread:
        metadata["read_whole"] = dg.MetadataValue.md(markdown(["table", "why"], sorted(draft.reread.items())))
    if draft.left_out:
        metadata["left_out"] = dg.MetadataValue.md(
            markdown(["what refers to it", "what it is"], sorted(draft.left_out.items()))
        )
    if "journal_compared" in draft.counters:
        compared, differs, not_compared = (
            int(draft.counters.get(f"journal_{name}", 0)) for name in ("compared", "differs", "uncompared")
        )
        metadata["journal_against_tables"] = dg.MetadataValue.text(
            f"{compared:,} tables compared, {differs:,} differ, {not_compared:,} could not be compared"
        )
    return metadata


def _ratio(draft: Draft) -> MetadataMap:
    """Of a full backup that stored something: of others it says nothing."""
    stored = _stored_bytes(draft)
    if not stored or draft.parent:
        return {}
    return {"source_to_stored_ratio": dg.MetadataValue.text(f"{_source_bytes(draft) / stored:.2f}")}


def _numbers(draft: Draft, *names: str) -> MetadataMap:
    return {name: dg.MetadataValue.int(int(draft.counters[name])) for name in names if name in draft.counters}


def _source_bytes(draft: Draft) -> int:
    return int(draft.counters.get("table_bytes", 0) + draft.counters.get("file_bytes", 0))


def _stored_bytes(draft: Draft) -> int:
    return int(draft.counters.get("bytes_stored", 0))


def _seconds(draft: Draft) -> dict[str, float]:
    """By step, s."""
    found = draft.counters.items()
    return {name.removeprefix("seconds_"): value for name, value in found if name.startswith("seconds_")}


def _retention(retention: AppliedRetention) -> MetadataMap:
    metadata: MetadataMap = {"retention": dg.MetadataValue.md(retention_table(retention))}
    errors = [error for error in (retention.error, *retention.errors) if error]
    if errors:
        metadata["retention_errors"] = dg.MetadataValue.md(issues_table(errors))
    return metadata


def components_table(components: Mapping[str, Component]) -> str:
    """The parts of a backup: what each holds, and how large it is before compression."""
    return markdown(
        ["component", "holds", "size"],
        (
            [name, _holds(part), size_text(part.size if part.total_size is None else part.total_size)]
            for name, part in components.items()
        ),
    )


def _holds(part: Component) -> str:
    counts = [(len(part.table_names), "table"), (part.rows, "row"), (part.file_count, "file")]
    return ", ".join(plural(count, unit) for count, unit in counts if count is not None and (count or unit != "table"))


def tables_table(components: Mapping[str, Component]) -> str:
    """Rows and sizes of every table in the backup, the largest first."""
    details = [(name, table) for name, part in components.items() for table in part.tables]
    details.sort(key=lambda detail: -detail[1].bytes)
    return markdown(
        ["table", "rows", "size", "component"],
        ([table.table, table.rows, size_text(table.bytes), name] for name, table in details),
    )


def retention_table(retention: AppliedRetention) -> str:
    """Which backups stay, which were forgotten, and why."""
    fates = [
        *((backup, "kept") for backup in retention.kept),
        *((backup, "forgotten") for backup in retention.forgotten),
    ]
    return markdown(["backup", "fate", "reason"], ([b, fate, ", ".join(retention.reasons[b])] for b, fate in fates))
