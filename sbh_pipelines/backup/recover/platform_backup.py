"""The platform backup: what tenants share, and what an empty server needs before any tenant can be brought back.

It has a repository of its own, under `platform.prefix`, in which `_platform` stands for the tenant. One snapshot gives

    pre-data, post-data   the schema as pg_dump writes it: what comes before rows, and what after them
    shared                rows of the shared tables, and of the extensions' configuration
    no-tenant             rows of tenants' tables that have no tenant: built-in ones, for all
    database              roles, grants, settings, extensions, sequences, foreign keys, the tenancy map, the tenants

No password of a role is ever read.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

from sbh_pipelines.backup.contents.json_lines import LineWriter, json_line, read_lines
from sbh_pipelines.backup.contents.manifest import Component, Manifest
from sbh_pipelines.backup.contents.manifests import read_component, read_manifest
from sbh_pipelines.backup.contents.stored_table import TableWriter
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.backup.contents.verification import raise_first, verify_backup
from sbh_pipelines.backup.create.draft import Draft
from sbh_pipelines.backup.create.drafts import OpenDrafts, start
from sbh_pipelines.backup.create.publish import commit, write_documents
from sbh_pipelines.backup.create.unreadable import named_among
from sbh_pipelines.backup.retain.prune import PruneReport, prune
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.capture.capture import each_table
from sbh_pipelines.database.capture.deleted_rows import Sums
from sbh_pipelines.database.rebuild.shared import Fact, mapped_table, read_facts
from sbh_pipelines.database.rebuild.unowned import UnownedRows, copy_rows, nobodys_rows, shared_rows
from sbh_pipelines.database.schema.tenancy import MappedTable, TenancyMap, load_map
from sbh_pipelines.database.schema.tenants import list_tenants
from sbh_pipelines.database.session.connection import Connection, database_encoding, savepoint
from sbh_pipelines.database.session.programs import POST_DATA, PRE_DATA, dump_section
from sbh_pipelines.database.session.snapshot import exported_snapshot
from sbh_pipelines.document import as_document, optional
from sbh_pipelines.errors import CorruptObject, SbhError, UnknownBackup, UnreadableRow
from sbh_pipelines.model import BackupId, BackupType, Progress, ProgressSink, parse_timestamp, timestamp
from sbh_pipelines.placement import platform_tenant
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.repository.pack import PackWriter, pipeline, written
from sbh_pipelines.repository.repository import Repository


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformRetention:
    """What was done about older platform backups.

    Attributes:
        forgotten: Those that are gone.
        bytes_freed: Bytes that a prune gave back then.
        error: What could not be removed, and why.
    """

    forgotten: Sequence[BackupId] = ()
    bytes_freed: int | None = optional()
    error: SbhError | None = optional()


@dataclass(frozen=True, slots=True)
class PlatformBackup:
    """A platform backup that was made.

    Attributes:
        manifest: Its manifest.
        retention: What was done about older ones.
    """

    manifest: Manifest
    retention: PlatformRetention

    @property
    def document(self) -> Mapping[str, object]:
        """The manifest, with `retention`."""
        return {**self.manifest.document, "retention": as_document(self.retention)}


STEP = "platform backup"
SHARED_ROWS, NO_TENANT, FACTS = "shared", "no-tenant", "database"
TYPE = "platform"


def create_platform_backup(open_drafts: OpenDrafts, created_by: str, progress: ProgressSink) -> PlatformBackup:
    """Make one.

    Raises SettingsError (no pg_dump, or one older than the server), PrivilegeMissing, LeaseHeld and the store's errors.
    """
    now, tenant = open_drafts.site.clock(), platform_tenant(open_drafts.site.settings)
    draft = start(open_drafts, Draft(tenant, BackupId.at(now), BackupType.FULL, created_by, timestamp(now), ""))
    if draft.error is not None:
        raise draft.error
    try:
        with open_drafts.kept([draft]):
            draft = _captured(open_drafts, draft, progress)
            draft = _published(open_drafts, draft, progress)
        retention = _keep_newest(open_drafts, draft)
    except SbhError as error:
        open_drafts.fail(draft, STEP, error)
        raise
    except BaseException:
        open_drafts.end(draft)
        raise
    open_drafts.end(draft)
    if retention.forgotten:
        try:
            pruned = prune(open_drafts.site, tenant, False, progress)
            freed = pruned.bytes_freed if isinstance(pruned, PruneReport) else 0
            retention = replace(retention, bytes_freed=freed)
        except SbhError as error:  # the backup is there, and its maker may have no right to delete
            retention = replace(retention, error=error)
    assert draft.manifest is not None
    return PlatformBackup(draft.manifest, retention)


def _captured(open_drafts: OpenDrafts, draft: Draft, progress: ProgressSink) -> Draft:
    settings, repository, begun = open_drafts.site.settings, open_drafts.repository(draft), time.monotonic()
    with (
        exported_snapshot(settings.database) as (snapshot_id, point, connection),
        pipeline(settings.backup) as packs,
    ):
        tenancy = load_map(connection, settings)
        shared = shared_rows(connection, tenancy, settings.database.left_out)
        writer = repository.writer(packs)
        try:
            components = {
                section: _dumped(
                    writer,
                    dump_section(
                        settings.database,
                        settings.platform.pg_dump,
                        section,
                        snapshot_id,
                        database_encoding(connection),
                    ),
                )
                for section in (PRE_DATA, POST_DATA)
            }
            progress(Progress(STEP, "schema", 1, 3, "parts"))
            components[SHARED_ROWS] = _unowned(open_drafts, writer, shared, snapshot_id)
            components[NO_TENANT] = _unowned(open_drafts, writer, nobodys_rows(tenancy), snapshot_id, but_empty=True)
            progress(Progress(STEP, "shared tables", 2, 3, "parts"))
            components[FACTS] = _facts(open_drafts, writer, connection, tenancy, [rows.table for rows in shared])
            writer.finish()
        except BaseException:
            writer.abort()
            raise
        index = repository.write_index(draft.backup_id, TYPE, writer)
        progress(Progress(STEP, "roles, sequences, tenants", 3, 3, "parts"))
    done = replace(draft, step=STEP, recovery_point=point, components=components, objects=index)
    return done.with_counters(seconds_snapshot=time.monotonic() - begun, **written(writer))


def _dumped(writer: PackWriter, pieces: Iterator[bytes]) -> Component:
    lines, size = LineWriter(writer), 0
    for piece in pieces:
        lines.add(piece)
        size += len(piece)
    return Component("sql", "", size, "", {"detail": lines.finish()})


def _unowned(
    open_drafts: OpenDrafts,
    writer: PackWriter,
    wanted: Sequence[UnownedRows],
    snapshot_id: str,
    *,
    but_empty: bool = False,
) -> Component:
    """The rows, table by table. `but_empty`: without the tables that have none of them."""
    by_name, summaries = {rows.table.full_name: rows for rows in wanted}, dict[str, TableSummary]()

    def work(connection: Connection, table: MappedTable) -> None:
        sink, rows = TableWriter(writer, table), by_name[table.full_name]
        try:
            with savepoint(connection):
                number = copy_rows(connection, rows, sink.group)
        except UnreadableRow as error:
            raise named_among(error, connection, table, f"{table.own_source} {rows.where}") from None
        sink.close()
        # Nothing is compared with later: these rows are read whole every time.
        if number or not but_empty:
            summaries[table.full_name] = sink.summary("", "none", "", Sums(0), "0" * 16, "")

    if wanted:
        each_table(open_drafts.site.settings.database, snapshot_id, [rows.table for rows in wanted], work)
    in_order = [summaries[name] for name in sorted(summaries)]
    return Component.of_tables("json", in_order, with_schemas=True)


def _facts(
    open_drafts: OpenDrafts,
    writer: PackWriter,
    connection: Connection,
    tenancy: TenancyMap,
    shared: Sequence[MappedTable],
) -> Component:
    lines, counts, size = LineWriter(writer), dict[str, int](), 0

    def add(kind: str, fact: Mapping[str, object]) -> None:
        nonlocal size
        line = json_line({kind: fact})
        lines.add(line)
        size += len(line)
        counts[kind] = counts.get(kind, 0) + 1

    for kind, fact in read_facts(connection, tenancy, shared):
        add(kind, fact)
    listed = list_tenants(open_drafts.site.settings)
    for tenant in listed.tenants:
        add("tenant", {"id": tenant.id, "key": tenant.key, "region": tenant.region, "tier": tenant.tier})
    facts = {"counts": counts, "unusable_tenants": len(listed.unusable), "detail": lines.finish()}
    return Component("json", "", size, "", facts)


def _published(open_drafts: OpenDrafts, draft: Draft, progress: ProgressSink) -> Draft:
    """Write the documents, check all of it with a fresh view of the store, commit."""
    repository, schemas = open_drafts.repository(draft), open_drafts.site.settings.database.schemas
    draft = write_documents(repository, draft, draft.components, type=TYPE, schemas=schemas)
    with closing(open_drafts.reopened(draft)) as fresh:
        commit(open_drafts, draft, fresh, progress)
    return draft


def _keep_newest(open_drafts: OpenDrafts, draft: Draft) -> PlatformRetention:
    repository = open_drafts.repository(draft)
    doomed = repository.manifest_ids()[: -open_drafts.site.settings.platform.keep_last]
    try:
        if doomed:
            open_drafts.lease(draft).renew()
            repository.store.delete([repository.prefix + Keys.manifest(backup_id) for backup_id in doomed])
    except SbhError as error:
        return PlatformRetention(error=error)
    return PlatformRetention(forgotten=doomed)


# reading


@dataclass(frozen=True, slots=True)
class OpenPlatformBackup:
    """A platform backup, opened.

    Attributes:
        repository: The platform's repository.
        manifest: Its manifest.
        facts: What it says of the database, by kind; all but the tenants' are few and small.
    """

    repository: Repository
    manifest: Manifest
    facts: Mapping[str, list[Fact]] = field(repr=False)

    @property
    def id(self) -> str:
        return str(self.manifest.id)

    @property
    def point(self) -> datetime:
        return parse_timestamp(self.manifest.recovery_point.time)

    def one(self, kind: str) -> Fact:
        return self.facts[kind][0]

    def of(self, kind: str) -> list[Fact]:
        return self.facts.get(kind, [])

    def tables(self, kind: str) -> dict[str, MappedTable]:
        """The tables of `table` or `shared_table` facts, by their full names."""
        return {table.full_name: table for table in map(mapped_table, self.of(kind))}

    def script(self, section: str) -> Iterator[bytes]:
        """The SQL of a section. Raises CorruptObject."""
        component = read_component(self.repository, self.manifest, section)
        return self.repository.read_chunks(map(bytes.fromhex, component.detail))

    def shared(self) -> list[TableSummary]:
        """Summaries of the shared tables."""
        return read_component(self.repository, self.manifest, SHARED_ROWS).tables

    def of_nobody(self) -> list[TableSummary]:
        """Summaries of the rows of tenants' tables that have no tenant; none in a backup of an earlier release."""
        if NO_TENANT not in self.manifest.component_names:
            return []
        return read_component(self.repository, self.manifest, NO_TENANT).tables


def list_platform_backups(site: Site) -> tuple[list[Manifest], list[SbhError]]:
    """Manifests, newest first, and an error for each that is damaged."""
    sound: list[Manifest] = []
    damaged: list[SbhError] = []
    try:
        repository = site.repository(platform_tenant(site.settings))
    except UnknownBackup:
        return [], []
    with repository:
        for backup_id in reversed(repository.manifest_ids()):
            try:
                sound.append(read_manifest(repository, backup_id))
            except CorruptObject as error:
                damaged.append(error)
    return sound, damaged


@contextmanager
def open_platform(
    site: Site, wanted: str, until: datetime | None, notice: Callable[[SbhError], None]
) -> Iterator[OpenPlatformBackup]:
    """A platform backup that is whole: the one named, or of `latest` the newest at `until`, else the first after it.

    A newer one that is damaged is passed over and noticed. Raises UnknownBackup, CorruptObject.
    """
    try:
        repository = site.repository(platform_tenant(site.settings))
    except UnknownBackup:
        raise _no_backup() from None
    with repository:
        repository.load_index()
        yield _select(repository, wanted, until, notice)


def _select(
    repository: Repository, wanted: str, until: datetime | None, notice: Callable[[SbhError], None]
) -> OpenPlatformBackup:
    if wanted != "latest":
        return _opened(repository, BackupId.parse(wanted))
    ids, first = repository.manifest_ids(), None
    later: list[BackupId] = []
    for backup_id in reversed(ids):
        try:
            if until is not None and read_manifest(repository, backup_id).is_later_than(until):
                later.insert(0, backup_id)
                continue
            return _opened(repository, backup_id)
        except (CorruptObject, UnknownBackup) as error:
            first = first or error
            notice(error)
    for backup_id in later:
        with suppress(CorruptObject, UnknownBackup):
            return _opened(repository, backup_id)
    raise first or _no_backup()


def _opened(repository: Repository, backup_id: BackupId) -> OpenPlatformBackup:
    manifest = read_manifest(repository, backup_id)
    raise_first(verify_backup(repository, manifest, deep=False, own_only=True))
    facts: dict[str, list[Fact]] = {}
    for line in read_lines(repository, read_component(repository, manifest, FACTS).detail):
        for kind, fact in line.items():
            facts.setdefault(kind, []).append(fact)
    return OpenPlatformBackup(repository, manifest, facts)


def _no_backup() -> UnknownBackup:
    return UnknownBackup("There is no platform backup", remedy="make one while the server lives: `sbh platform backup`")
