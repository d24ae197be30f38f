"""One tenant of a recovery: its rows from the newest backup that is whole into the tables, in one transaction; then the proof.

Rows are loaded before indexes, constraints and triggers are there. A tenant that comes later, because all its backups could not be
read at first, is loaded past them, and what the server would have checked is checked here.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain

from sbh_pipelines.backup.contents.json_lines import read_lines
from sbh_pipelines.backup.contents.layers import table_rows
from sbh_pipelines.backup.contents.manifest import LATEST, WITH_TABLES, Component, Manifest
from sbh_pipelines.backup.contents.manifests import read_component, read_manifest, read_tables
from sbh_pipelines.backup.contents.stored_table import Group, StoredTable, read_table
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.backup.contents.verification import raise_first, verify_backup
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.capture.capture import copy_table
from sbh_pipelines.database.capture.line_sums import LineSums, pieces_counted
from sbh_pipelines.database.rebuild.load import dangling, doubled, load_rows, without_triggers
from sbh_pipelines.database.rebuild.run import Loaded, LoadedFacts, note_proved, note_tenant, run, transaction
from sbh_pipelines.database.rebuild.shared import narrow
from sbh_pipelines.database.schema.catalog import read_catalog
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection
from sbh_pipelines.document import as_document
from sbh_pipelines.errors import CorruptObject, ProofFailed, RestoreRefused, SbhError, SchemaMismatch, UnknownBackup
from sbh_pipelines.model import BackupId, Tenant, TenantId
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.settings import DatabaseSettings

_REPLICA = "BEGIN; SET LOCAL session_replication_role = replica"
_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ"


@dataclass(frozen=True, slots=True)
class TenantChoice:
    """A tenant to bring back, and from which backup.

    Attributes:
        tenant: The tenant; its id and region count.
        backup_id: A backup id, or `latest`.
    """

    tenant: Tenant
    backup_id: str = LATEST


@dataclass(frozen=True, slots=True)
class LoadTarget:
    """Where tenants are loaded.

    Attributes:
        site: Opens the tenants' repositories.
        database: The database that is filled.
        tables: The tenancy map of the platform backup, by the tables' full names.
        schemas: The schemas that hold tenants' tables.
        constrained: Whether constraints are there already.
    """

    site: Site
    database: DatabaseSettings
    tables: Mapping[str, MappedTable] = field(repr=False)
    schemas: Sequence[str]
    constrained: bool


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A damaged backup in whose place an older one was loaded.

    Attributes:
        backup_id: The backup.
        code: Stable code of the error.
        what: What is wrong.
        on: With what.
        why: Why, where that is known.
        remedy: What to do next.
        transient: Whether it may pass by itself.
    """

    backup_id: str
    code: str
    what: str
    on: str
    why: str
    remedy: str
    transient: bool

    @classmethod
    def of(cls, backup_id: str, error: SbhError) -> "PassedOver":
        return cls(backup_id, error.code, error.what, error.on, error.why, error.remedy, error.transient)


def load_tenant(target: LoadTarget, chosen: TenantChoice, until: datetime | None) -> None:
    """Load the rows of the newest backup that is whole, at or before `until`, and note the tenant as loaded.

    Where one turns out to be damaged the one before it is taken; not so where it was named. Raises UnknownBackup, CorruptObject,
    SchemaMismatch, RestoreRefused; nothing of the tenant was loaded then.
    """
    tenant, passed = chosen.tenant, list[tuple[str, CorruptObject]]()
    with target.site.repository(tenant) as repository:
        repository.load_index()
        for backup_id in _candidates(repository, chosen.backup_id):
            try:
                manifest = read_manifest(repository, backup_id)
                if chosen.backup_id == LATEST and manifest.is_safety:
                    continue  # what the tenant was before a restore that it needed
                if until is not None and manifest.is_later_than(until):
                    continue
                raise_first(verify_backup(repository, manifest, deep=False, own_only=True))
                _load(target, repository, tenant, manifest, [PassedOver.of(i, e) for i, e in passed])
                return
            except CorruptObject as error:
                passed.append((backup_id, error))
    if passed:
        raise passed[0][1]
    raise UnknownBackup(
        "The tenant has no backup to recover from",
        on=tenant.id + (f", at or before {until.isoformat()}" if until else ""),
        remedy="leave it out by naming the others with --tenant, or choose a later --until",
    )


def _candidates(repository: Repository, wanted: str) -> list[BackupId]:
    return list(reversed(repository.manifest_ids())) if wanted == LATEST else [BackupId.parse(wanted)]


def _load(
    target: LoadTarget, repository: Repository, tenant: Tenant, manifest: Manifest, passed: Sequence[PassedOver]
) -> None:
    begun, sums = time.monotonic(), dict[str, str]()
    components = [read_component(repository, manifest, name) for name in WITH_TABLES]
    key, sequences = _key_and_sequences(repository, components[-1], tenant)
    summaries = [summary for component in components for summary in component.tables]
    with transaction(target.database, "recovery", _REPLICA if target.constrained else "BEGIN") as connection:
        tables = [
            (summary, _target_table(target, summary, read_table(repository, summary), key)) for summary in summaries
        ]
        wanted = [(summary, table) for summary, table in tables if table is not None and summary.rows]
        with without_triggers(connection, [t for _, t in wanted]) if target.constrained else nullcontext():
            for summary, table in wanted:
                if counted := _load_table(repository, connection, summary, table):
                    sums[table.full_name] = counted
        if target.constrained:
            _check_constraints(connection, target, [table for _, table in wanted], key)
            _prove_tables(target, repository, connection, manifest, key, sums)
        facts = LoadedFacts(
            key=key,
            rows=sum(s.rows for s in summaries),
            bytes=sum(s.bytes for s in summaries),
            seconds=round(time.monotonic() - begun, 3),
            point=manifest.point_time,
            sums=sums,
            sequences=sequences,
            passed_over=as_document(passed),
        )
        statement = note_tenant(tenant.id, tenant.region, manifest.id, facts)
        run(connection, statement, "note a tenant", tenant.id)


def _load_table(
    repository: Repository, connection: Connection, summary: TableSummary, table: MappedTable
) -> str | None:
    """Load all rows; of a layered table, whose rows come in no order, the sums that the proof compares with."""
    stored = read_table(repository, summary)
    counted = LineSums(_sums_key(repository)) if stored.layers else None
    pieces = table_rows(repository, stored)
    if counted is not None:
        pieces = pieces_counted(pieces, counted)
    load_rows(connection, table.table.schema, table.table.name, table.captured_columns, pieces, table.encoding)
    return counted.text() if counted is not None else None


def _key_and_sequences(repository: Repository, config: Component, tenant: Tenant) -> tuple[str, dict[str, int]]:
    """The tenant's key, and the values of sequences, at the backup."""
    key: str | None = None
    sequences: dict[str, int] = {}
    for line in read_lines(repository, config.detail):
        if "tenant" in line:
            key = str(line["tenant"]["key"])
        elif "sequence" in line and line["is_called"]:
            sequences[line["sequence"]] = int(line["last_value"])
    if key is None:
        raise CorruptObject(
            "A backup does not say its tenant's key", on=f"{config.facts.get('backup_id')} of {tenant.id}"
        )
    return key, sequences


def _target_table(target: LoadTarget, summary: TableSummary, stored: StoredTable, key: str) -> MappedTable | None:
    """The table as the backup has it; None where it is gone and had no rows. Raises SchemaMismatch."""
    table = target.tables.get(summary.table)
    narrowed = narrow(table, stored.header) if table else None
    if narrowed is not None or not summary.rows:
        return narrowed
    known = table.captured_columns if table else ()
    strange = ", ".join(name for name in stored.header.column_names if name not in known) if table else "the table"
    raise SchemaMismatch(
        "The backup does not fit the schema of the platform backup",
        on=f"{summary.table} of the tenant with the key {key}",
        why=f"{strange} is not in the schema: it was changed between the two",
        remedy="recover with a platform backup of the same time (--platform), or the tenant at another time (--until)",
    )


def _check_constraints(connection: Connection, target: LoadTarget, tables: Sequence[MappedTable], key: str) -> None:
    """What a replica session does not check: foreign keys, deferrable unique and exclusion constraints."""
    catalog = read_catalog(connection, list(target.schemas))
    known = {table.full_name: table for table in catalog.tables.values()}
    everything = {**catalog.outside, **catalog.tables}
    outside = list(catalog.outside_keys)
    for mapped in tables:
        table = known[mapped.full_name]
        for foreign in chain(table.foreign_keys, (k for k in outside if k.table == table.oid)):
            if dangling(connection, mapped, key, everything[foreign.parent], foreign):
                raise _conflict(mapped, foreign.name, "a row refers to a row that is not there")
        for unique in table.unique_keys:
            if unique.deferrable and doubled(connection, table, unique):
                raise _conflict(mapped, unique.name, "another row holds the same key")


def _conflict(table: MappedTable, constraint: str, why: str) -> RestoreRefused:
    return RestoreRefused(
        "The tenant's rows do not fit what is in the database",
        on=f"{table.full_name}, constraint {constraint}",
        why=why,
        remedy="recover the tenant from another backup (--until); nothing of it was loaded",
    )


# the proof


class _RowComparison:
    """A TableSink over the rows read back: compares with the backup's groups, or sums them up where it has layers."""

    def __init__(self, repository: Repository, stored: StoredTable, sums: str | None) -> None:
        self._repository, self._sums = repository, sums
        self._groups: Iterator[Group] = iter(()) if stored.layers else stored.groups
        self._found = LineSums(_sums_key(repository)) if stored.layers else None
        self.differs = False

    def group(self, text: bytes, rows: int) -> None:
        if self._found is not None:
            self._found.add(text)
            return
        expected = next(self._groups, None)
        if expected is None or self._repository.sealer.name(text) != expected.chunk:
            self.differs = True

    def close(self) -> None:
        pass

    def finish(self) -> bool:
        """Whether all of it is the backup's."""
        if self._found is not None:
            nothing = LineSums(b"").text()
            return self._found.same(self._sums or nothing)
        return not self.differs and next(self._groups, None) is None


def prove_tenant(target: LoadTarget, loaded: Loaded) -> None:
    """Read the tenant's rows back and compare them with the backup; note it. Raises ProofFailed, CorruptObject."""
    tenant = Tenant(TenantId(loaded.tenant_id), "", loaded.region, "")
    with target.site.repository(tenant) as repository:
        repository.load_index()
        manifest = read_manifest(repository, BackupId(loaded.backup_id))
        key, sums = loaded.facts.key, loaded.facts.sums
        with transaction(target.database, "proof", _SNAPSHOT) as connection:
            _prove_tables(target, repository, connection, manifest, key, sums)
            run(connection, note_proved(loaded.tenant_id), "note a proof", loaded.tenant_id)


def _prove_tables(
    target: LoadTarget,
    repository: Repository,
    connection: Connection,
    manifest: Manifest,
    key: str,
    sums: Mapping[str, str],
) -> None:
    for summary in read_tables(repository, manifest).values():
        stored = read_table(repository, summary)
        table = _target_table(target, summary, stored, key)
        if table is not None and not _rows_match(repository, connection, summary, stored, table, key, sums):
            raise ProofFailed(
                "The rows read back are not the backup's",
                on=f"{table.full_name} of {repository.tenant}, {manifest.id}",
                why="another tenant's backup holds rows of the same key, or the server writes or orders values in another way",
                remedy="compare the server's version and locale with the platform backup's",
            )


def _rows_match(
    repository: Repository,
    connection: Connection,
    summary: TableSummary,
    stored: StoredTable,
    table: MappedTable,
    key: str,
    sums: Mapping[str, str],
) -> bool:
    sink = _RowComparison(repository, stored, sums.get(table.full_name))

    def plan(_: str) -> Iterator[int]:
        return (group.rows for group in read_table(repository, summary).groups)

    copy_table(connection, table, [key], lambda *_: sink, None if stored.layers else plan)
    return sink.finish()


def _sums_key(repository: Repository) -> bytes:
    return repository.sealer.name(b"sbh recovery: sums of rows")
