"""Step `snapshot_tables`: one snapshot, every table read once for all tenants of the batch, sealed into packs."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import groupby
from operator import itemgetter

from sbh_pipelines.backup.contents.json_lines import LineWriter, json_line
from sbh_pipelines.backup.contents.manifest import WITH_TABLES, Component
from sbh_pipelines.backup.contents.stored_table import table_header
from sbh_pipelines.backup.create.catalog_record import known_records
from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.backup.create.drafts import SIDE_BY_SIDE, OpenDrafts, running, start
from sbh_pipelines.backup.create.snapshot_view import View
from sbh_pipelines.backup.create.table_delta import capture_delta
from sbh_pipelines.backup.create.tenant_capture import Basis, Capture, TableCapture, find_basis, plan_tables
from sbh_pipelines.backup.create.unchanged import Compared, find_unchanged
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.database.capture.capture import check_same_files, check_spelling, copy_chosen, rows_of
from sbh_pipelines.database.capture.changes import Sums, Window, sums, totals
from sbh_pipelines.database.schema.file_references import reference_columns, referenced_keys
from sbh_pipelines.database.schema.key_hash import bucket_bits
from sbh_pipelines.database.schema.tenancy import MappedTable, TenancyMap, load_map
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import Progress, ProgressSink, TenantId
from sbh_pipelines.repository.format import CONFIG, DATABASE
from sbh_pipelines.repository.pack import PackWriter, pipeline, written

STEP = "snapshot_tables"

Failed = Callable[[Draft, SbhError], None]  # ends the draft of a tenant that fails


def snapshot_tables(open_drafts: OpenDrafts, drafts: Sequence[Draft], progress: ProgressSink) -> list[Draft]:
    """Read the tables of all running drafts: all of them, or what changed since their parents.

    One recovery point, and one pass over each table, for `backup.batch_tenants` drafts. Those of incremental backups whose
    tenants did not change come back UNCHANGED.
    """
    drafts = open_drafts.each(drafts, STEP, lambda d: _opened(open_drafts, d))
    live, size = running(drafts), open_drafts.site.settings.backup.batch_tenants
    results: dict[TenantId, Draft] = {}
    for first in range(0, len(live), size):
        begun, batch = time.monotonic(), live[first : first + size]
        held: dict[TenantId, Draft] = {}  # started here: nobody else knows of their leases yet
        try:
            with open_drafts.kept(batch):
                done = _capture(open_drafts, batch, held, progress)
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
            view = View(settings.database, snapshot_id, point, connection, load_map(connection, settings))
            found, _ = find_unchanged(open_drafts, view, live)
    except SbhError as error:
        found = [draft.failed(STEP, error) for draft in live]
    results = {draft.tenant.id: draft for draft in found}
    return [results.get(draft.tenant.id, draft) for draft in drafts]


def _opened(open_drafts: OpenDrafts, draft: Draft) -> Draft:
    """The draft, its lease held and its repository open, if it was started."""
    if draft.lease_owner:
        open_drafts.lease(draft)
        open_drafts.repository(draft)
    return draft


def _started(open_drafts: OpenDrafts, draft: Draft, held: dict[TenantId, Draft]) -> Draft:
    """The draft with its lease and id, its repository open; or failed."""
    draft = start(open_drafts, draft)
    if draft.status is not DraftStatus.RUNNING:
        return draft
    held[draft.tenant.id] = draft
    try:
        return _opened(open_drafts, draft)
    except SbhError as error:
        return open_drafts.fail(draft, STEP, error)


def _capture(
    open_drafts: OpenDrafts, drafts: list[Draft], held: dict[TenantId, Draft], progress: ProgressSink
) -> list[Draft]:
    settings = open_drafts.site.settings
    with open_drafts.snapshot() as (snapshot_id, point, connection), pipeline(settings.backup) as packs:
        view = View(settings.database, snapshot_id, point, connection, load_map(connection, settings))
        waiting = [d for d in drafts if not d.lease_owner]
        settled, compared = find_unchanged(open_drafts, view, waiting) if waiting else ([], {})
        settled = open_drafts.each(settled, STEP, lambda d: _started(open_drafts, d, held))
        started = [*running(settled), *(d for d in drafts if d.lease_owner)]
        ended = [d for d in settled if d.status is not DraftStatus.RUNNING]
        if not started:
            return ended
        writers = {d.tenant.id: open_drafts.repository(d).writer(packs) for d in started}

        def failed(draft: Draft, error: SbhError) -> None:
            writers[draft.tenant.id].abort()
            ended.append(open_drafts.fail(draft, STEP, error))

        try:
            bases = _find_bases(open_drafts, view, started, compared, failed)
            captures = _plan(view, bases, writers, failed)
            _read_tables(view, captures, progress)
            schema = _schema_lines(view.tenancy, connection)
            columns = reference_columns(settings, view.tenancy) if settings.files.enabled else []
            _add_references(captures, connection, columns)
        except BaseException:
            for writer in writers.values():
                writer.abort()
            raise
        done = side_by_side(
            lambda capture: _finish(capture, view, schema, failed),
            captures.values(),
            name="finish",
            threads=SIDE_BY_SIDE,
        )
        return ended + [draft for draft in done if draft is not None]


def _find_bases(
    open_drafts: OpenDrafts, view: View, drafts: Sequence[Draft], compared: Mapping[TenantId, Compared], failed: Failed
) -> list[Basis]:
    """What each draft builds on, and how its tables differ from that."""
    records = known_records(open_drafts, drafts)

    def find(draft: Draft) -> Basis | None:
        tenant = draft.tenant.id
        try:
            return find_basis(
                open_drafts.site,
                draft,
                open_drafts.repository(draft),
                view.point,
                records.get(tenant),
                compared.get(tenant),
            )
        except SbhError as error:
            failed(draft, error)
            return None

    bases = [b for b in side_by_side(find, drafts, name="parents", threads=SIDE_BY_SIDE) if b is not None]
    totals_by_key = view.totals({b.key: (b.since, b.seed) for b in bases if b.lacks_totals})
    return [replace(b, totals=totals_by_key[b.key]) if b.key in totals_by_key else b for b in bases]


def _plan(
    view: View, bases: Sequence[Basis], writers: Mapping[TenantId, PackWriter], failed: Failed
) -> dict[str, Capture]:
    """How the tables of each tenant are read, by the tenant's key."""

    def plan(basis: Basis) -> Capture | None:
        writer = writers[basis.draft.tenant.id]
        try:
            return Capture(basis, plan_tables(basis, view, writer), writer)
        except SbhError as error:
            failed(basis.draft, error)
            return None

    planned = side_by_side(plan, bases, name="parents", threads=SIDE_BY_SIDE)
    return {capture.basis.key: capture for capture in planned if capture is not None}


def _read_tables(view: View, captures: Mapping[str, Capture], progress: ProgressSink) -> None:
    lock, ended = threading.Lock(), [0]
    slugs = [capture.basis.draft.tenant.id for capture in captures.values()]
    subject = slugs[0] if len(slugs) == 1 else f"{len(slugs)} tenants"

    def work(connection: Connection, table: MappedTable) -> None:
        name = table.full_name
        live = {key: capture for key, capture in captures.items() if not capture.failed}
        whole = [key for key, capture in live.items() if name in capture.plan.whole]
        deltas = [delta for capture in live.values() if (delta := capture.plan.deltas.get(name)) is not None]
        if deltas:
            capture_delta(connection, table, view.codes[name], deltas)
            whole += [delta.key for delta in deltas if captures[delta.key].add_delta(name, delta)]
        if whole:
            _read_whole(connection, view, table, {key: captures[key] for key in whole})
        with lock:
            ended[0] += 1
            progress(Progress(STEP, subject, ended[0], len(view.tenancy.tables), "tables"))

    view.each_table(work)


def _read_whole(connection: Connection, view: View, table: MappedTable, captures: Mapping[str, Capture]) -> None:
    """All rows of these tenants, and the sums that the next backup compares with."""
    code, name = view.codes[table.full_name], table.full_name
    seeds = {key: capture.basis.seed for key, capture in captures.items()}
    guessed = {key: capture.basis.rows_before(name) for key, capture in captures.items()}
    if not code.keyed or any(rows is None for rows in guessed.values()):
        found = totals(connection, table, code, {key: Window(None, seed) for key, seed in seeds.items()})
        counts, hashes = {key: t.rows for key, t in found.items()}, {key: t.key_hash for key, t in found.items()}
    else:  # how many buckets a tenant needs is known well enough without counting first
        counts, hashes = {key: rows or 0 for key, rows in guessed.items()}, {}
    bits = {key: bucket_bits(rows) if code.keyed else 0 for key, rows in counts.items()}
    windows = {key: Window(None, seed, bits[key]) for key, seed in seeds.items() if bits[key] or not hashes}
    in_buckets, _ = sums(connection, table, code, windows)
    counts |= {key: mine.rows for key, mine in in_buckets.items()}
    hashes |= {key: mine.key_hash for key, mine in in_buckets.items()}
    sinks = {key: TableCapture(capture, table) for key, capture in captures.items()}
    copy_chosen(connection, table, rows_of(table, list(captures)), counts, lambda _table, key, _rows: sinks[key])
    for key, sink in sinks.items():
        mine = in_buckets.get(key) or Sums(0)
        sink.finish(view.definitions[name], code.kind, mine, hashes[key])


def _add_references(
    captures: Mapping[str, Capture], connection: Connection, columns: list[tuple[MappedTable, str]]
) -> None:
    """The keys of files that rows refer to, for the check against the listing; the parent's where no row changed."""
    lines: dict[str, LineWriter] = {}
    for key, capture in captures.items():
        if capture.basis.parent and all(table.full_name in capture.plan.taken_over for table, _ in columns):
            capture.add_references(None)
        elif not capture.failed:
            lines[key] = LineWriter(capture.writer)
    for tenant, found in groupby(referenced_keys(connection, columns, list(lines)), key=itemgetter(0)):
        check_spelling(columns[0][0], lines, (tenant,))
        captures[tenant].attempt(partial(_add_keys, lines[tenant], found))
    for table in {table.full_name: table for table, _ in columns}.values():
        check_same_files(connection, table)
    for tenant, written_lines in lines.items():
        captures[tenant].add_references(written_lines)


def _add_keys(lines: LineWriter, found: Iterable[tuple[str, str]]) -> None:
    for _, key in found:
        lines.add(json_line({"key": key}))


def _schema_lines(tenancy: TenancyMap, connection: Connection) -> list[bytes]:
    lines = [json_line({"table": table_header(t), "status": t.status, "why": t.why}) for t in tenancy.tables]
    sequences = sorted({c.sequence for t in tenancy.tables for c in t.table.columns if c.sequence})
    cursor = connection.cursor()
    for name in sequences:
        with translated("read a sequence", name):
            cursor.execute(f"SELECT last_value, is_called FROM {name}")
            value, called = cursor.fetchone()
        lines.append(json_line({"sequence": name, "last_value": value, "is_called": called}))
    return lines


def _finish(capture: Capture, view: View, schema: list[bytes], failed: Failed) -> Draft | None:
    """The draft with what was captured; None where that failed."""
    basis, writer = capture.basis, capture.writer
    draft, tenant = basis.draft, basis.draft.tenant
    try:
        captured = capture.captured()
        described = LineWriter(writer)
        for line in schema:
            described.add(line)
        described.add(json_line({"tenant": asdict(tenant)}))
        detail = described.finish()
        database, config = (
            [captured.tables[t.full_name] for t in view.tenancy.tables if t.component == name] for name in WITH_TABLES
        )
        writer.finish()
        index = basis.repository.write_index(draft.backup_id, DATABASE, writer)
    except SbhError as error:
        failed(draft, error)
        return None
    counted = draft.with_counters(
        rows=sum(s.rows for s in (*database, *config)),
        tables=len(database) + len(config),
        groups=sum(s.groups for s in (*database, *config)),
        table_bytes=sum(s.bytes for s in (*database, *config)),
        rows_changed=captured.changed_rows,
        **written(writer),
    )
    return replace(
        counted,
        step=STEP,
        recovery_point=view.point,
        components={
            DATABASE: Component.of_tables("json", database, reference_keys=list(captured.references)),
            CONFIG: Component.of_tables("config", config, detail=detail),
        },
        objects=(*draft.objects, *index),
        reread=captured.reread,
    )
