"""One tenant of a recovery: its rows from the newest backup that is whole into the tables, in one transaction; then the proof.

Rows are loaded before indexes, constraints and triggers are there. A tenant that comes later, because all its backups could not be
read at first, is loaded past them, and what the server would have checked is checked here.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from sbh_pipelines.backup.contents.json_lines import read_lines
from sbh_pipelines.backup.contents.manifest import LATEST, WITH_TABLES, Component, Manifest
from sbh_pipelines.backup.contents.manifests import read_component, read_manifest, read_tables
from sbh_pipelines.backup.contents.ownership import is_own
from sbh_pipelines.backup.contents.stored_table import Group, StoredTable, read_table
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.backup.contents.verification import raise_first, verify_backup
from sbh_pipelines.backup.recover.fit import NewSchema, fit_tables, load_fit, restricted
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.capture.capture import copy_table
from sbh_pipelines.database.capture.line_sums import LineSums
from sbh_pipelines.database.merge.fit.columns import SchemaDifference
from sbh_pipelines.database.rebuild.load import dangling, doubled, without_triggers
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
        schema: Its tables, as the platform backup maps them.
        point: Recovery point of the platform backup.
        constrained: Whether constraints are there already.
        accept: Whether what a newer backup has no place for is left out, too.
    """

    site: Site
    database: DatabaseSettings
    schema: NewSchema
    point: datetime
    constrained: bool
    accept: bool = False


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
                if chosen.backup_id == LATEST and manifest.is_aside:
                    continue  # what the tenant was before a restore that it needed, or at some moment of the past
                if tenant.key and not is_own(repository, manifest, tenant.key, live=True):
                    continue  # of a tenant that had the slug before
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
    summaries = {summary.table: summary for component in components for summary in component.tables}
    with transaction(target.database, "recovery", _REPLICA if target.constrained else "BEGIN") as connection:
        headers = {name: read_table(repository, summary).header for name, summary in summaries.items()}
        rows = {name: summary.rows for name, summary in summaries.items()}
        fits, changes = fit_tables(connection, target.schema, headers, rows, str(tenant.id))
        if not target.accept and manifest.is_later_than(target.point):
            _refuse_loss(changes, tenant)
        fits = [fit for fit in fits if rows[fit.stored]]
        with without_triggers(connection, [fit.table for fit in fits]) if target.constrained else nullcontext():
            for fit in fits:
                stored = read_table(repository, summaries[fit.stored])
                # Rows of layers come in no order, and others are no longer the backup's lines: their sums are compared.
                counted = LineSums(_sums_key(repository)) if stored.layers or fit.mapping else None
                load_fit(repository, connection, fit, stored, counted)
                if counted is not None:
                    sums[fit.table.full_name] = counted.text()
        drifted = {fit.stored: [fit.table.full_name, *fit.table.captured_columns] for fit in fits if fit.mapping}
        drifted |= {name: [] for name, number in rows.items() if number and not any(f.stored == name for f in fits)}
        facts = LoadedFacts(
            key=key,
            rows=sum(rows[fit.stored] for fit in fits),
            bytes=sum(summaries[fit.stored].bytes for fit in fits),
            seconds=round(time.monotonic() - begun, 3),
            point=manifest.point_time,
            sums=sums,
            sequences=sequences,
            passed_over=as_document(passed),
            drifted=drifted,
            schema_changes=as_document(changes),
        )
        if target.constrained:
            _check_constraints(connection, target, [fit.table for fit in fits], key)
            _prove_tables(target, repository, connection, manifest, facts)
        statement = note_tenant(tenant.id, tenant.region, manifest.id, facts)
        run(connection, statement, "note a tenant", tenant.id)


def _refuse_loss(changes: Sequence[SchemaDifference], tenant: Tenant) -> None:
    """The platform backup is the older one: what the schema has no place for came since. Raises SchemaMismatch."""
    if lossy := [change for change in changes if change.lossy]:
        strange = ", ".join(f"{c.table}.{c.column}" if c.column else c.table for c in lossy)
        raise SchemaMismatch(
            "The backup is newer than the schema of the platform backup",
            on=str(tenant.id),
            why=f"{strange} came, or changed, after the platform backup was made",
            remedy="where the application still runs, make a platform backup (`sbh platform backup`) and begin again; else recover"
            " the tenant as of a time before (`sbh platform restore --until`), or without what has no place"
            " (`sbh platform restore --accept-schema-changes`)",
        )


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


def _check_constraints(connection: Connection, target: LoadTarget, tables: Sequence[MappedTable], key: str) -> None:
    """What a replica session does not check: foreign keys, deferrable unique and exclusion constraints."""
    catalog = read_catalog(connection, list(target.schema.schemas))
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

    def __init__(self, repository: Repository, stored: StoredTable, sums: str | None, by_sums: bool) -> None:
        self._repository, self._sums = repository, sums
        self._groups: Iterator[Group] = iter(()) if by_sums else stored.groups
        self._found = LineSums(_sums_key(repository)) if by_sums else None
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
        with transaction(target.database, "proof", _SNAPSHOT) as connection:
            _prove_tables(target, repository, connection, manifest, loaded.facts)
            run(connection, note_proved(loaded.tenant_id), "note a proof", loaded.tenant_id)


def _prove_tables(
    target: LoadTarget, repository: Repository, connection: Connection, manifest: Manifest, facts: LoadedFacts
) -> None:
    for summary in read_tables(repository, manifest).values():
        stored = read_table(repository, summary)
        table = _proved_table(target, summary, stored, facts)
        if table is not None and not _rows_match(repository, connection, summary, stored, table, facts):
            raise ProofFailed(
                "The rows read back are not the backup's",
                on=f"{table.full_name} of {repository.tenant}, {manifest.id}",
                why="another tenant's backup holds rows of the same key, or the server writes or orders values in another way",
                remedy="compare the server's version and locale with the platform backup's",
            )


def _proved_table(
    target: LoadTarget, summary: TableSummary, stored: StoredTable, facts: LoadedFacts
) -> MappedTable | None:
    """The table with the columns that were loaded as they are in the backup; None where there is nothing to compare."""
    if summary.table in facts.drifted:
        named = facts.drifted[summary.table]
        return restricted(target.schema.tables[named[0]], named[1:], stored.header) if len(named) > 1 else None
    table = target.schema.tables.get(summary.table)
    return narrow(table, stored.header) if table else None


def _rows_match(
    repository: Repository,
    connection: Connection,
    summary: TableSummary,
    stored: StoredTable,
    table: MappedTable,
    facts: LoadedFacts,
) -> bool:
    by_sums = bool(stored.layers) or summary.table in facts.drifted
    sink = _RowComparison(repository, stored, facts.sums.get(table.full_name), by_sums)

    plan = None if by_sums else (group.rows for group in read_table(repository, summary).groups)
    copy_table(connection, table, facts.key, sink, plan)
    return sink.finish()


def _sums_key(repository: Repository) -> bytes:
    return repository.sealer.name(b"sbh recovery: sums of rows")
