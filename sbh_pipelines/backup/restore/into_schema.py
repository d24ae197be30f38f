"""A tenant's rows in a schema of their own beside the live ones: for looking at an old state with SQL."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sbh_pipelines.backup.contents.layers import table_rows
from sbh_pipelines.backup.contents.manifests import read_manifest, read_tables
from sbh_pipelines.backup.contents.stored_table import read_table
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.rebuild.new_schema import NewSchema
from sbh_pipelines.errors import ProofFailed, RequestError
from sbh_pipelines.model import BackupId, Progress, ProgressSink, Tenant
from sbh_pipelines.repository.repository import Repository

_LONGEST_NAME = 63  # bytes, PostgreSQL's NAMEDATALEN - 1


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
        schema: name of the new schema.
        recovery_point: the instant that the backup describes.
        tables: what was made.
        rows: of all tables.
        seconds: s.
    """

    tenant_id: str
    backup_id: str
    schema: str
    recovery_point: Mapping[str, object]
    tables: tuple[TableCopy, ...]
    rows: int
    seconds: float


def into_schema(
    site: Site,
    repository: Repository,
    tenant: Tenant,
    backup_id: BackupId,
    schema: str,
    tables: tuple[str, ...],
    progress: ProgressSink,
) -> SchemaCopy:
    """All of it in one transaction: the schema is there whole, or not at all.

    Raises RequestError, RestoreRefused where the schema exists, SchemaMismatch where a type is gone.
    """
    _check_name(schema)
    begun = time.monotonic()
    repository.load_index()
    manifest = read_manifest(repository, backup_id)
    summaries = _chosen(read_tables(repository, manifest), tables)
    names = _names(list(summaries))
    made = []
    with NewSchema(site.settings.database, schema) as target:
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
            made.append(TableCopy(f"{schema}.{names[full_name]}", full_name, rows))
        target.commit()
    return SchemaCopy(
        tenant_id=tenant.id,
        backup_id=backup_id,
        schema=schema,
        recovery_point=manifest.document["recovery_point"],
        tables=tuple(made),
        rows=sum(t.rows for t in made),
        seconds=round(time.monotonic() - begun, 3),
    )


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


def _check_name(schema: str) -> None:
    if not schema or len(schema.encode()) > _LONGEST_NAME or "\0" in schema or schema.startswith("pg_"):
        raise RequestError(
            "Not a name for a schema",
            on=ascii(schema)[:80],
            why=f"it has 1 to {_LONGEST_NAME} bytes and does not begin with pg_",
            remedy="choose another name",
        )
