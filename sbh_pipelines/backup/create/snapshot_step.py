"""Step `snapshot_tables`: one snapshot, every table read once for all tenants of the batch, sealed into packs."""

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import groupby
from operator import itemgetter

from sbh_pipelines.backup.contents.json_lines import LineWriter, json_line
from sbh_pipelines.backup.contents.manifest import Component
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.backup.create.drafts import SIDE_BY_SIDE, OpenDrafts, running, start
from sbh_pipelines.backup.create.journaled.journal_view import Directories, JournalView
from sbh_pipelines.backup.create.journaled.prediction import prove_journal
from sbh_pipelines.backup.create.journaled.table_fold import TenantFold, capture_folds
from sbh_pipelines.backup.create.parent import find_parent, incomparable
from sbh_pipelines.backup.create.recovery_points import known_records
from sbh_pipelines.backup.create.snapshot_view import View
from sbh_pipelines.backup.create.table_delta import TenantDelta, capture_delta
from sbh_pipelines.backup.create.tenant_capture import GuardedTable, TenantRows, Whole
from sbh_pipelines.backup.create.unchanged import Compared, find_unchanged
from sbh_pipelines.backup.create.unreadable import named
from sbh_pipelines.backup.journal.registration import register_backed_up
from sbh_pipelines.concurrency import Meter, side_by_side
from sbh_pipelines.database.capture.capture import check_same_files, copy_tenants
from sbh_pipelines.database.capture.changes import all_rows
from sbh_pipelines.database.capture.unreadable import apart
from sbh_pipelines.database.schema.file_references import reference_columns, referenced_keys
from sbh_pipelines.database.schema.large_objects import count_large_objects, large_object_columns, large_objects_text
from sbh_pipelines.database.schema.tenancy import UNLOGGED, MappedTable, TenancyMap, load_map
from sbh_pipelines.database.session.connection import Connection
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import BackupType, ProgressSink, Tenant, TenantId
from sbh_pipelines.repository.catalog.records import TenantRecord
from sbh_pipelines.repository.format import CONFIG, DATABASE
from sbh_pipelines.repository.lease import ReleasedLease
from sbh_pipelines.repository.pack import pipeline, written

STEP = "snapshot_tables"


def snapshot_tables(open_drafts: OpenDrafts, drafts: Sequence[Draft], progress: ProgressSink) -> list[Draft]:
    """Read the tables of all running drafts: all of them, or what changed since their parents.

    One recovery point, and one pass over each table, for `backup.batch_tenants` drafts. Those of incremental backups whose
    tenants did not change come back UNCHANGED.
    """
    drafts = open_drafts.each(drafts, STEP, lambda d: _leased(open_drafts, d))
    drafts, records = _looked_up(open_drafts, drafts)
    drafts = open_drafts.each(drafts, STEP, lambda d: _opened(open_drafts, d))
    directories = Directories(open_drafts.site)
    live, size = running(drafts), open_drafts.site.settings.backup.batch_tenants
    results: dict[TenantId, Draft] = {}
    for first in range(0, len(live), size):
        begun, batch = time.monotonic(), live[first : first + size]
        held: dict[TenantId, Draft] = {}  # started here: nobody else knows of their leases yet
        try:
            with open_drafts.kept(batch):
                done = _capture(open_drafts, batch, held, records, directories, progress)
        except SbhError as error:
            done = [open_drafts.fail(held.get(d.tenant.id, d), STEP, error) for d in batch]
        except BaseException:
            for draft in held.values():
                open_drafts.end(draft)
            raise
        seconds = (time.monotonic() - begun) / len(batch)
        results |= {d.tenant.id: d.with_counters(seconds_snapshot=seconds) for d in done}
    return [results.get(d.tenant.id, d) for d in drafts]


def skip_unchanged(open_drafts: OpenDrafts, drafts: Sequence[Draft]) -> list[Draft]:
    """Of many drafts not started yet, find the UNCHANGED ones in one pass, however many they are.

    The others are compared again, at their own recovery points, when their tables are read.
    """
    live, settings = running(drafts), open_drafts.site.settings
    try:
        with open_drafts.snapshot() as (snapshot_id, point, connection):
            view = View(settings, snapshot_id, point, connection, load_map(connection, settings))
            with closing(JournalView(open_drafts.site, point, view.definitions)) as journal:
                found, _ = find_unchanged(open_drafts, view, live, journal)
    except SbhError as error:
        found = [draft.failed(STEP, error) for draft in live]
    results = {draft.tenant.id: draft for draft in found}
    return [results.get(draft.tenant.id, draft) for draft in drafts]


def _leased(open_drafts: OpenDrafts, draft: Draft) -> Draft:
    """The draft, its lease held, if it was started."""
    if draft.lease_owner:
        open_drafts.lease(draft)
    return draft


def _looked_up(
    open_drafts: OpenDrafts, drafts: Sequence[Draft]
) -> tuple[Sequence[Draft], Mapping[TenantId, TenantRecord]]:
    """What the catalogs have of the tenants whose leases are held; where a region's cannot be read, its drafts have failed.

    Listed under the leases, and before the repositories are opened, the catalogs also tell which key epochs were begun, and whose
    tenants are backed up at another site.
    """
    held, found = [draft for draft in running(drafts) if draft.lease_owner], dict[TenantId, TenantRecord]()
    silent: dict[str, SbhError] = {}
    for region in {draft.tenant.region for draft in held}:
        try:
            found |= known_records(open_drafts, [draft for draft in held if draft.tenant.region == region])
        except SbhError as error:
            silent[region] = error

    def allowed(draft: Draft) -> Draft:
        if not draft.lease_owner:
            return draft
        if draft.tenant.region in silent:
            raise silent[draft.tenant.region]
        return open_drafts.refuse_elsewhere(draft)

    return open_drafts.each(drafts, STEP, allowed), found


def _opened(open_drafts: OpenDrafts, draft: Draft, files: str | None = None) -> Draft:
    """The draft, its repository open, if it was started."""
    if draft.lease_owner:
        open_drafts.repository(draft, files=files)
    return draft


def _started(
    open_drafts: OpenDrafts, drafts: Sequence[Draft], held: dict[TenantId, Draft], compared: Mapping[TenantId, Compared]
) -> tuple[list[Draft], Mapping[TenantId, TenantRecord]]:
    """The drafts with their leases and ids, their repositories open, or failed; and what the catalogs have of them.

    The snapshot has been taken.
    """

    def begin(draft: Draft) -> Draft:
        draft = start(open_drafts, draft, _released(compared.get(draft.tenant.id)))
        if draft.status is DraftStatus.RUNNING:
            held[draft.tenant.id] = draft
        return draft

    def opened(draft: Draft) -> Draft:
        known = compared.get(draft.tenant.id)
        state = known.record.state if known is not None else None
        crowded = state is not None and state.crowded
        draft = _opened(open_drafts, draft, state.files if state is not None and not crowded else None)
        return replace(draft, crowded=crowded or open_drafts.is_crowded(draft))

    begun, records = _looked_up(open_drafts, open_drafts.each(drafts, STEP, begin))
    return open_drafts.each(begun, STEP, opened), records


def _released(known: Compared | None) -> ReleasedLease | None:
    """How the backup that the catalog speaks of left the lease."""
    if known is None or known.record.state is None or known.record.state.lease is None:
        return None
    return ReleasedLease(str(known.record.backup_id), known.record.state.lease)


def _capture(
    open_drafts: OpenDrafts,
    drafts: list[Draft],
    held: dict[TenantId, Draft],
    records: Mapping[TenantId, TenantRecord],
    directories: Directories,
    progress: ProgressSink,
) -> list[Draft]:
    settings = open_drafts.site.settings
    _enrol(open_drafts, [d for d in drafts if d.lease_owner])
    with ExitStack() as stack:
        snapshot_id, point, connection = stack.enter_context(open_drafts.snapshot())
        packs = stack.enter_context(pipeline(settings.backup))
        view = View(settings, snapshot_id, point, connection, load_map(connection, settings))
        journal = stack.enter_context(closing(JournalView(open_drafts.site, point, view.definitions, directories)))
        waiting = [d for d in drafts if not d.lease_owner]
        settled, compared = find_unchanged(open_drafts, view, waiting, journal) if waiting else ([], {})
        settled, found = _started(open_drafts, settled, held, compared)
        _enrol(open_drafts, running(settled))
        started = [*running(settled), *(d for d in drafts if d.lease_owner)]
        ended = [d for d in settled if d.status is not DraftStatus.RUNNING]
        if not started:
            return ended
        by_slug = {d.tenant.id: TenantRows(d, open_drafts.repository(d), packs) for d in started}
        tenants = {rows.draft.tenant.key: rows for rows in by_slug.values()}
        try:
            for slug, rows in by_slug.items():
                rows.record = found.get(slug) or records.get(slug)
            _find_parents(open_drafts, view, tenants, compared, journal)
            _read_tables(open_drafts, view, tenants, progress)
            schema = view.schema_lines()
            columns = reference_columns(settings, view.tenancy) if settings.files.enabled else []
            _add_references(tenants, connection, columns)
            _name_large_objects(tenants, connection, view.tenancy)
            _name_unlogged(tenants, view.tenancy)
        except BaseException:
            for rows in tenants.values():
                rows.writer.abort()
            raise
        done = side_by_side(
            lambda rows: _finish(open_drafts, rows, view, schema), tenants.values(), name="finish", threads=SIDE_BY_SIDE
        )
    # The snapshot is gone: nothing on the server waits for this.
    return ended + prove_journal(open_drafts, view, done, directories)


def _enrol(open_drafts: OpenDrafts, drafts: Sequence[Draft]) -> None:
    """Have the journal learn their keys; their repositories are open."""
    register_backed_up(open_drafts.site, ((d.tenant, open_drafts.repository(d).sealer) for d in drafts))


def _find_parents(
    open_drafts: OpenDrafts,
    view: View,
    tenants: Mapping[str, TenantRows],
    compared: Mapping[TenantId, Compared],
    journal: JournalView,
) -> None:
    """Find what each incremental draft builds on, and how its tables differ from that."""

    def find(rows: TenantRows) -> None:
        try:
            catalog = open_drafts.site.catalog(rows.draft.tenant.region)
            rows.seed_id, rows.seed = catalog.seed_id, catalog.hash_seed
            if rows.draft.type is BackupType.FULL:
                return
            rows.parent, reason = find_parent(rows.repository, rows.draft.type, view.point)
        except SbhError as error:
            rows.error = error
            return
        if rows.parent is None:
            rows.draft = replace(rows.draft, type=BackupType.FULL, reason=reason)
            return
        rows.draft = replace(rows.draft, parent=rows.parent.id)
        rows.since = rows.parent.point.snapshot
        rows.incomparable = incomparable(rows.parent.point, view.point)
        known = compared.get(rows.draft.tenant.id)
        if known is not None and known.record.backup_id == rows.parent.id:
            # At the record's recovery point the tenant still was what the parent says.
            rows.since, rows.totals = known.record.point.snapshot, known.totals
        rows.ask(view, journal)

    side_by_side(find, tenants.values(), name="parents", threads=SIDE_BY_SIDE)
    told = {rows.draft.tenant: rows.journal for rows in tenants.values() if rows.journal and not rows.error}
    journal.collect(told, {rows.draft.tenant: rows.repository.sealer for rows in tenants.values()})
    wanted = {key: names for key, rows in tenants.items() if (names := rows.uncertain(view))}
    since = {key: (tenants[key].since, tenants[key].seed) for key in wanted}
    for key, found in view.totals(since, lambda *failure: _fail(tenants, *failure), wanted).items():
        tenants[key].totals = {**tenants[key].totals, **found}
    side_by_side(lambda rows: rows.plan(view), tenants.values(), name="parents", threads=SIDE_BY_SIDE)


def _read_tables(
    open_drafts: OpenDrafts, view: View, tenants: Mapping[str, TenantRows], progress: ProgressSink
) -> None:
    lock, ended = threading.Lock(), [0]
    expected = sum(_expected_bytes(open_drafts, rows) for rows in tenants.values())
    slugs = [rows.draft.tenant.id for rows in tenants.values()]
    subject = slugs[0] if len(slugs) == 1 else f"{len(slugs)} tenants"
    meter = Meter(progress, STEP, subject, "tables", len(view.tenancy.tables), expected)

    def work(connection: Connection, table: MappedTable) -> None:
        whole: list[str] = []
        changed: dict[str, TenantDelta] = {}
        folded: dict[str, TenantFold] = {}
        for rows in tenants.values():
            if rows.error is None:
                delta = rows.approach[table.full_name]
                if isinstance(delta, TenantDelta):
                    changed[delta.key] = delta
                elif isinstance(delta, TenantFold):
                    folded[delta.key] = delta
                elif delta is Whole.YES:
                    whole.append(rows.draft.tenant.key)

        def take_fold(keys: Sequence[str]) -> None:
            folds = [folded[key].anew() for key in keys]
            capture_folds(connection, table, view.codes[table.full_name], folds)
            for one in folds:
                whole.extend(tenants[one.key].took(table, one))

        def take_delta(keys: Sequence[str]) -> None:
            deltas = [changed[key].anew() for key in keys]
            capture_delta(connection, table, view.codes[table.full_name], deltas, view.held_bytes)
            for one in deltas:
                whole.extend(tenants[one.key].took(table, one))

        def take_whole(keys: Sequence[str]) -> None:
            _read_whole(connection, view, table, {key: tenants[key] for key in keys}, meter)

        def fail(key: str, error: SbhError) -> None:
            _fail(tenants, connection, table, key, error)

        apart(connection, list(folded), take_fold, fail)
        apart(connection, list(changed), take_delta, fail)
        apart(connection, whole, take_whole, fail)
        with lock:
            ended[0] += 1
            meter.done(ended[0])

    view.each_table(work)


def _fail(
    tenants: Mapping[str, TenantRows], connection: Connection, table: MappedTable, key: str, error: SbhError
) -> None:
    """A row of one tenant cannot be read: the others go on."""
    rows = tenants[key]
    rows.error = rows.error or named(error, connection, table, rows.draft.tenant)


def _expected_bytes(open_drafts: OpenDrafts, rows: TenantRows) -> int:
    """Of the tables that are read whole: what they had in the newest backup; 0 where that is not known."""
    latest = open_drafts.latest(rows.draft)
    whole = {name for name, approach in rows.approach.items() if approach is Whole.YES}
    parts = latest.components.values() if latest is not None else ()
    return sum(table.bytes for part in parts for table in part.tables if table.table in whole)


def _read_whole(
    connection: Connection, view: View, table: MappedTable, tenants: Mapping[str, TenantRows], meter: Meter
) -> None:
    """All rows of these tenants, and the sums that the next backup compares with."""
    code, sinks = view.codes[table.full_name], {key: GuardedTable(rows, table, meter) for key, rows in tenants.items()}
    chosen = all_rows(table, {key: rows.seed for key, rows in tenants.items()})
    for key, found in copy_tenants(connection, table, code, chosen, sinks, view.held_bytes).items():
        sinks[key].finish(view.definitions[table.full_name], code.kind, found.sums, found.key_hash)


def _add_references(
    tenants: Mapping[str, TenantRows], connection: Connection, columns: list[tuple[MappedTable, str]]
) -> None:
    """The keys of files that rows refer to, for the check against the listing; the parent's where no row changed."""
    asked: list[str] = []
    for key, rows in tenants.items():
        if rows.parent and all(table.full_name in rows.taken_over for table, _ in columns):
            rows.references = list(rows.parent.reference_keys)
        elif rows.error is None:
            asked.append(key)

    def take(keys: Sequence[str]) -> None:
        lines = {key: LineWriter(tenants[key].writer) for key in keys}
        for tenant, found in groupby(referenced_keys(connection, columns, keys), key=itemgetter(0)):
            try:
                for _, key in found:
                    lines[tenant].add(json_line({"key": key}))
            except SbhError as error:
                tenants[tenant].error = error
        for tenant, written_lines in lines.items():
            rows = tenants[tenant]
            if rows.error is None:
                try:
                    rows.references = written_lines.finish()
                except SbhError as error:
                    rows.error = error

    apart(connection, asked, take, lambda key, error: _fail(tenants, connection, columns[0][0], key, error))
    for table in {table.full_name: table for table, _ in columns}.values():
        check_same_files(connection, table)


def _name_unlogged(tenants: Mapping[str, TenantRows], tenancy: TenancyMap) -> None:
    """A standby has no rows of unlogged tables: a backup that is taken there is without them, and says so."""
    for table in tenancy.catalog.tables.values():
        if table.unreadable:
            for rows in tenants.values():
                rows.left_out[f"table {table.full_name}"] = UNLOGGED


def _name_large_objects(tenants: Mapping[str, TenantRows], connection: Connection, tenancy: TenancyMap) -> None:
    """Rows come back with the numbers of large objects, whose contents are in no backup: said in each manifest."""
    for column in large_object_columns(connection, tenancy):
        asked = [key for key, rows in tenants.items() if rows.error is None]
        for tenant, objects in count_large_objects(connection, column, asked).items() if asked else ():
            tenants[tenant].left_out[column.named] = large_objects_text(objects)


def _finish(open_drafts: OpenDrafts, rows: TenantRows, view: View, schema: list[bytes]) -> Draft:
    draft, writer = rows.draft, rows.writer
    try:
        if rows.error is not None:
            raise rows.error
        described = LineWriter(writer)
        for line in schema:
            described.add(line)
        described.add(json_line({"tenant": _tenant_fields(draft.tenant)}))
        detail = described.finish()
        database = _summaries(rows, view.tenancy, DATABASE)
        config = _summaries(rows, view.tenancy, CONFIG)
        writer.finish()
        index = open_drafts.repository(draft).write_index(draft.backup_id, DATABASE, writer)
    except SbhError as error:
        writer.abort()
        return open_drafts.fail(draft, STEP, error)
    components = {
        DATABASE: Component.of_tables("json", database, reference_keys=rows.references),
        CONFIG: Component.of_tables("config", config, detail=detail),
    }
    counted = draft.with_counters(
        rows=sum(s.rows for s in (*database, *config)),
        tables=len(database) + len(config),
        groups=sum(s.groups for s in (*database, *config)),
        table_bytes=sum(s.bytes for s in (*database, *config)),
        rows_changed=rows.changed_rows,
        **written(writer),
    )
    return replace(
        counted,
        step=STEP,
        recovery_point=view.point,
        components=components,
        objects=(*draft.objects, *index),
        reread=rows.reread,
        left_out=rows.left_out,
    )


def _tenant_fields(tenant: Tenant) -> dict[str, str]:
    return {"id": tenant.id, "key": tenant.key, "region": tenant.region, "tier": tenant.tier}


def _summaries(rows: TenantRows, tenancy: TenancyMap, component: str) -> list[TableSummary]:
    return [rows.tables[t.full_name] for t in tenancy.tables if t.component == component]
