"""What the engine returns, as Dagster metadata: numbers that can be plotted, and Markdown tables to read.

Sizes come twice: raw bytes as a number, and a text. Nothing here is personal data: manifests hold only counts,
sizes, ids and hashes.
"""

from collections.abc import Iterable, Mapping, Sequence

import dagster as dg

from sbh_pipelines.backup.contents.manifest import Component
from sbh_pipelines.backup.create.draft import AppliedRetention, Draft
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import parse_timestamp, size_text
from sbh_pipelines.orchestration.common.failed_tenants import FailedTenant

MetadataMap = dict[str, dg.MetadataValue]

_ROWS_SHOWN = 200


def markdown(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; numbers are aligned to the right. At most 200 rows, and a line that says how many more."""
    body = [list(row) for row in rows]
    shown = body[:_ROWS_SHOWN]
    numeric = [bool(shown) and all(isinstance(row[n], int | float) for row in shown) for n in range(len(headings))]
    lines = [
        _line(headings),
        "|" + "|".join(" ---: " if right else " --- " for right in numeric) + "|",
        *(_line([_cell(value) for value in row]) for row in shown),
    ]
    if len(body) > len(shown):
        lines.append(f"\n… and {len(body) - len(shown):,} more")
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.2f}"
    # Names come from the database: they must not end the cell, the row, or be taken for markup.
    text = str(value).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return " ".join(text.split())


def backup_metadata(draft: Draft, manifest_location: str) -> MetadataMap:
    """Metadata of the materialization of one tenant's backup."""
    counters = draft.counters
    source_bytes = int(counters.get("table_bytes", 0) + counters.get("file_bytes", 0))
    stored_bytes = int(counters.get("bytes_stored", 0))
    rows = int(counters.get("rows", 0))
    seconds = {name.removeprefix("seconds_"): value for name, value in counters.items() if name.startswith("seconds_")}
    metadata: MetadataMap = {
        "backup_id": dg.MetadataValue.text(str(draft.backup_id)),
        "backup_type": dg.MetadataValue.text(str(draft.type)),
        "tenant": dg.MetadataValue.text(str(draft.tenant.id)),
        "region": dg.MetadataValue.text(draft.tenant.region),
        "tier": dg.MetadataValue.text(draft.tenant.tier),
        **_built_on(draft),
        "rows": dg.MetadataValue.int(rows),
        "dagster/partition_row_count": dg.MetadataValue.int(rows),
        "tables": dg.MetadataValue.int(int(counters.get("tables", 0))),
        "files": dg.MetadataValue.int(int(counters.get("files", 0))),
        "files_missing": dg.MetadataValue.int(int(counters.get("missing_files", 0))),
        "source_size": dg.MetadataValue.text(size_text(source_bytes)),
        "source_bytes": dg.MetadataValue.int(source_bytes),
        "stored_size": dg.MetadataValue.text(size_text(stored_bytes)),
        "stored_bytes": dg.MetadataValue.int(stored_bytes),
        "chunks": dg.MetadataValue.int(int(counters.get("chunks", 0))),
        "chunks_new": dg.MetadataValue.int(int(counters.get("chunks_new", 0))),
        "duration_s": dg.MetadataValue.float(round(sum(seconds.values()), 3)),
        "checksum": dg.MetadataValue.text(draft.manifest.checksum if draft.manifest else ""),
        "manifest": dg.MetadataValue.path(manifest_location),
        "dagster/uri": dg.MetadataValue.text(manifest_location),
        "components": dg.MetadataValue.md(components_table(draft.components)),
        "table_details": dg.MetadataValue.md(tables_table(draft.components)),
        "step_seconds": dg.MetadataValue.md(markdown(["step", "seconds"], seconds.items())),
    }
    if stored_bytes and not draft.parent:  # nothing new stored, or only what changed: the ratio says nothing
        metadata["source_to_stored_ratio"] = dg.MetadataValue.float(round(source_bytes / stored_bytes, 2))
    if draft.recovery_point:
        point = draft.recovery_point
        metadata |= {
            "recovery_point": dg.MetadataValue.timestamp(parse_timestamp(point.time)),
            "recovery_point_lsn": dg.MetadataValue.text(point.lsn),
            "recovery_point_snapshot": dg.MetadataValue.text(point.snapshot),
        }
    if draft.retention is not None:
        metadata["retention"] = dg.MetadataValue.md(retention_table(draft.retention))
        errors = [error for error in (draft.retention.error, *draft.retention.errors) if error]
        if errors:
            metadata["retention_errors"] = dg.MetadataValue.md(issues_table(errors))
    return metadata


def _built_on(draft: Draft) -> MetadataMap:
    """How much of a backup is new: what it builds on, and what was read again. Of a full one, why it is one."""
    metadata: MetadataMap = {}
    if draft.requested and draft.type != draft.requested:
        metadata["requested_type"] = dg.MetadataValue.text(str(draft.requested))
        metadata["reason"] = dg.MetadataValue.text(str(draft.reason or ""))
    if draft.parent:
        metadata["parent"] = dg.MetadataValue.text(str(draft.parent))
    counted = (
        "rows_changed",
        "files_read",
        "files_reused",
        "journal_compared",
        "journal_differs",
        "journal_uncompared",
    )
    metadata |= {name: dg.MetadataValue.int(int(draft.counters[name])) for name in counted if name in draft.counters}
    if draft.reread:
        metadata["read_whole"] = dg.MetadataValue.md(markdown(["table", "why"], sorted(draft.reread.items())))
    if draft.left_out:
        metadata["left_out"] = dg.MetadataValue.md(
            markdown(["what refers to it", "what it is"], sorted(draft.left_out.items()))
        )
    return metadata


def components_table(components: Mapping[str, Component]) -> str:
    """The parts of a backup: what each holds, how large it is before compression, and its checksum."""
    return markdown(
        ["component", "holds", "size", "checksum"],
        (
            [
                name,
                _holds(part),
                size_text(part.size if part.total_size is None else part.total_size),
                f"{part.checksum[:23]}…",
            ]
            for name, part in components.items()
        ),
    )


def _holds(part: Component) -> str:
    counts = [(len(part.table_names), "tables"), (part.rows, "rows"), (part.file_count, "files")]
    return ", ".join(f"{count:,} {unit}" for count, unit in counts if count is not None and (count or unit != "tables"))


def tables_table(components: Mapping[str, Component]) -> str:
    """Rows and sizes of every table in the backup, the largest first."""
    details = [(name, table) for name, part in components.items() for table in part.tables]
    details.sort(key=lambda detail: -detail[1].bytes)
    return markdown(
        ["table", "component", "rows", "size", "row groups"],
        ([table.table, name, table.rows, size_text(table.bytes), table.groups] for name, table in details),
    )


def retention_table(retention: AppliedRetention) -> str:
    """Which backups stay, which were forgotten, and why."""
    fates = [
        *((backup, "kept") for backup in retention.kept),
        *((backup, "forgotten") for backup in retention.forgotten),
    ]
    return markdown(["backup", "fate", "reason"], ([b, fate, ", ".join(retention.reasons[b])] for b, fate in fates))


def failures_table(failures: Iterable[FailedTenant]) -> str:
    """The tenants of a batch that failed: where, why, and what to do."""
    return markdown(
        ["tenant", "step", "code", "what", "on", "why", "to mend it", "may pass by itself"],
        ([f.tenant, f.step, f.code, f.what, f.on, f.why, f.remedy, f.transient] for f in failures),
    )


def issues_table(issues: Iterable[SbhError]) -> str:
    """What a validation found."""
    return markdown(
        ["code", "what", "on", "why", "to mend it"], ([i.code, i.what, i.on, i.why, i.remedy] for i in issues)
    )
