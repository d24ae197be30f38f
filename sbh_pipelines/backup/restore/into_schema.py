"""A tenant's rows in a schema of their own beside the live ones: for looking at an old state with SQL."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sbh_pipelines.backup.contents.layers import table_rows
from sbh_pipelines.backup.contents.manifests import read_manifest, read_tables
from sbh_pipelines.backup.contents.stored_table import read_table
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.merge.transaction import restore_database
from sbh_pipelines.database.rebuild.new_schema import Look, NewSchema, drop_looks, looks
from sbh_pipelines.database.session.connection import look
from sbh_pipelines.errors import LookRefused, ProofFailed, RequestError, SbhError
from sbh_pipelines.model import BackupId, Progress, ProgressSink, Tenant
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.settings import Settings

_LONGEST_LABEL = 63


@dataclass(frozen=True, slots=True)
class TableCopy:
    """A table of the new schema.

    Attributes:
        table: `schema.table`, the new one.
        of: `schema.table` in the backup.
        rows: how many it has.
    """

    table: str
    of: str
    rows: int


@dataclass(frozen=True, slots=True)
class SchemaCopy:
    """A tenant's rows of a backup in a schema of their own.

    Attributes:
        tenant_id: whose rows.
        backup_id: from which backup.
        schema: name of the new schema, which the system chose.
        label: what the caller called it; in the schema's comment.
        expires_at: from when on it is dropped, UTC, ISO 8601.
        recovery_point: the instant that the backup describes.
        tables: what was made.
        rows: of all tables.
        seconds: s.
    """

    tenant_id: str
    backup_id: str
    schema: str
    label: str
    expires_at: str
    recovery_point: Mapping[str, object]
    tables: tuple[TableCopy, ...]
    rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class DroppedLooks:
    """Schemas of copies that were dropped.

    Attributes:
        dropped: Their names.
        failed: By name, why one is still there.
    """

    dropped: tuple[str, ...]
    failed: Mapping[str, SbhError]


def into_schema(
    site: Site,
    repository: Repository,
    tenant: Tenant,
    backup_id: BackupId,
    label: str,
    tables: tuple[str, ...],
    progress: ProgressSink,
) -> SchemaCopy:
    """All of it in one transaction: the schema is there whole, or not at all. What is over of earlier ones is dropped before.

    Raises RequestError, LookRefused where it would be too large or the tenant has one, SchemaMismatch where a type is gone.
    """
    _check_label(label)
    begun, now, settings = time.monotonic(), site.clock(), site.settings
    repository.load_index()
    manifest = read_manifest(repository, backup_id)
    summaries = _chosen(read_tables(repository, manifest), tables)
    _check_size(sum(summary.bytes for summary in summaries.values()), settings.restore.look_mib, tenant)
    drop_expired(settings, now)
    names = _names(list(summaries))
    expires = (now + timedelta(days=settings.restore.keep_looks_days)).astimezone(UTC).replace(microsecond=0)
    made = []
    with NewSchema(restore_database(settings), tenant.id, tenant.key, label) as target:
        target.create(now, expires)
        for number, (full_name, summary) in enumerate(summaries.items()):
            progress(Progress("restore into schema", tenant.id, number, len(summaries), "tables"))
            stored = read_table(repository, summary)
            rows = target.fill(names[full_name], stored.header, _pieces(repository, summary))
            if rows != summary.rows:
                raise ProofFailed(
                    "A table has not the backup's number of rows; rolled back",
                    on=full_name,
                    why=f"{rows}, and the backup had {summary.rows}",
                    remedy="sbh backup validate --deep",
                )
            made.append(TableCopy(f"{target.schema}.{names[full_name]}", full_name, rows))
        target.commit()
    return SchemaCopy(
        tenant_id=tenant.id,
        backup_id=backup_id,
        schema=target.schema,
        label=label,
        expires_at=expires.isoformat(),
        recovery_point=manifest.document["recovery_point"],
        tables=tuple(made),
        rows=sum(t.rows for t in made),
        seconds=round(time.monotonic() - begun, 3),
    )


def all_looks(settings: Settings) -> list[Look]:
    """The schemas of copies that are there."""
    with closing(look(restore_database(settings), "looks", within_s=settings.database.look_timeout_s)) as connection:
        return looks(connection)


def drop_expired(settings: Settings, now: datetime) -> DroppedLooks:
    """Drop those whose time is over."""
    return drop(settings, [look for look in all_looks(settings) if look.expired(now)])


def drop(settings: Settings, chosen: Sequence[Look]) -> DroppedLooks:
    failed = {look.schema: error for look, error in drop_looks(restore_database(settings), chosen)} if chosen else {}
    return DroppedLooks(tuple(look.schema for look in chosen if look.schema not in failed), failed)


def _pieces(repository: Repository, summary: TableSummary) -> Iterator[bytes]:
    return table_rows(repository, read_table(repository, summary))


def _chosen(summaries: dict[str, TableSummary], tables: tuple[str, ...]) -> dict[str, TableSummary]:
    if not tables:
        return summaries
    chosen = {n: s for n, s in summaries.items() if n in tables or n.split(".", 1)[1] in tables}
    known = {*chosen, *(n.split(".", 1)[1] for n in chosen)}
    if unknown := [t for t in tables if t not in known]:
        raise RequestError(
            "No such table in the backup",
            on=", ".join(ascii(t)[:64] for t in unknown),
            remedy="one of: " + ", ".join(summaries)[:1000],
        )
    return chosen


def _names(full_names: list[str]) -> dict[str, str]:
    """Table names in the one schema: where two schemas have a table of one name, theirs goes before it."""
    short = [name.split(".", 1)[1] for name in full_names]
    return {
        full: name if short.count(name) == 1 else full.replace(".", "_", 1)
        for full, name in zip(full_names, short, strict=True)
    }


def _check_label(label: str) -> None:
    if len(label) > _LONGEST_LABEL or not all(character.isprintable() for character in label):
        raise RequestError(
            "Not a label for a schema of copies",
            on=ascii(label)[:80],
            why=f"it has up to {_LONGEST_LABEL} printable characters",
            remedy="choose another; the schema's name is the system's, whatever the label",
        )


def _check_size(size: int, limit_mib: int, tenant: Tenant) -> None:
    if size > limit_mib << 20:
        raise LookRefused(
            "The rows are too many for a schema beside the live tables; nothing was written",
            on=tenant.id,
            why=f"{size / (1 << 20):,.0f} MiB as text, and restore.look_mib is {limit_mib:,}",
            remedy="choose tables (--tables), take `sbh export`, or raise restore.look_mib if the server has the space",
        )
