"""Step `snapshot_tables`: one snapshot, every table read once for all tenants of the batch, sealed into packs."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from enum import Enum
from typing import Any

from sbh_pipelines.backup.delta import MAX_CHANGED, SMALL, TenantDelta, capture_delta
from sbh_pipelines.backup.details import LineWriter, json_line
from sbh_pipelines.backup.drafts import SIDE_BY_SIDE, Workshop, running, start
from sbh_pipelines.backup.packing import pipeline, written
from sbh_pipelines.backup.parents import Parent, find_parent, incomparable
from sbh_pipelines.backup.tables import TableWriter, read_table, table_header
from sbh_pipelines.backup.unchanged import Compared, TenantTotals, View, find_unchanged
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import BackupType, Component, Draft, DraftStatus, Progress, ProgressSink, Tenant, TenantId
from sbh_pipelines.repository.pack import PackPipeline
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.sources.database.capture import copy_table
from sbh_pipelines.sources.database.changes import Sums, Window, sums, totals
from sbh_pipelines.sources.database.connection import Connection, translated
from sbh_pipelines.sources.database.definition import VOLATILE
from sbh_pipelines.sources.database.keys import bucket_bits
from sbh_pipelines.sources.database.references import reference_columns, referenced_keys
from sbh_pipelines.sources.database.snapshot import exported_snapshot
from sbh_pipelines.sources.database.tenancy import MappedTable, TenancyMap, load_map

STEP = "snapshot_tables"


class Whole(Enum):
    """What is to be done with a table of which no delta is taken."""

    YES = "read all of it"
    NO = "it is as the parent has it"


class _TenantRows:
    """One tenant's side of the pass: its writer, what it builds on, its tables so far, the error that took it out, if any."""

    def __init__(self, draft: Draft, repository: Repository, packs: PackPipeline) -> None:
        self.draft, self.repository = draft, repository
        self.writer = repository.writer(packs)
        self.seed, self.seed_id = 0, ""
        self.parent: Parent | None = None
        self.since = ""  # rows written after this snapshot are new
        self.incomparable: str | None = None
        self.totals: TenantTotals = {}
        self.tables: dict[str, dict[str, Any]] = {}  # entries of the components' documents
        self.taken_over: set[str] = set()  # tables that are as the parent has them
        self.reread: dict[str, str] = {}
        self.changed_rows = 0
        self.references: list[str] = []
        self.error: SbhError | None = None

    def approach(self, view: View, table: MappedTable) -> "Whole | TenantDelta":
        """How this tenant's rows of the table are read."""
        name = table.full_name
        if self.parent is None:
            return Whole.YES
        then = self.parent.tables.get(name)
        why = self._why_whole(view, name, then)
        if why is None:
            assert then is not None
            now = self.totals[name]
            if not now.new and (now.rows, now.key_hash) == (then["rows"], then["key_hash"]):
                self.tables[name] = dict(then)
                self.taken_over.add(name)
                return Whole.NO
            if now.rows <= SMALL:
                return Whole.YES
            if not view.codes[name].keyed:
                why = "it changed and has no primary key"
            elif now.new > MAX_CHANGED * now.rows:
                why = "more than a third of it changed"
        if why is None:
            assert then is not None
            try:
                stored = read_table(self.repository, then)
            except SbhError as error:
                self.error = error
                return Whole.NO
            if stored.state is not None:
                definition = view.definitions[name]
                return TenantDelta(
                    self.draft.tenant.key,
                    self.repository,
                    self.writer,
                    stored,
                    self.since,
                    self.seed,
                    definition,
                )
            why = "the backup it builds on does not say enough"
        self.reread[name] = why
        return Whole.YES

    def _why_whole(self, view: View, name: str, then: Mapping[str, Any] | None) -> str | None:
        if self.incomparable:
            return self.incomparable
        if then is None:
            return "it was not in the backup it builds on"
        if "key_hash" not in then:
            return "the backup it builds on was made by an older release"
        if then["seed"] != self.seed_id:
            return "the catalog of the region is a new one: hashes of keys do not compare"
        if VOLATILE in (view.definitions[name], then["definition"]):
            return "a column's text depends on names in the catalogue"
        if view.definitions[name] != then["definition"]:
            return "its definition changed"
        return None

    def took(self, table: MappedTable, delta: TenantDelta) -> list[str]:
        """Take over what came of a delta; this tenant's key, in a list, if the table is to be read whole after all."""
        self.error = self.error or delta.error
        if delta.summary is not None:
            self.tables[table.full_name] = delta.summary
            self.changed_rows += delta.rows
        if delta.again is None or self.error is not None:
            return []
        self.reread[table.full_name] = delta.again
        return [self.draft.tenant.key]


class _Guard:
    """A TableSink that keeps one tenant's failure from the others: after it, the tenant's rows are skipped."""

    def __init__(self, rows: _TenantRows, table: MappedTable) -> None:
        self._rows, self._sink = rows, TableWriter(rows.writer, table)

    @property
    def rows(self) -> int:
        return self._sink.rows

    def group(self, text: bytes, rows: int) -> None:
        self._try(lambda: self._sink.group(text, rows))

    def close(self) -> None:
        self._try(self._sink.close)

    def finish(self, definition: str, kind: str, snapshot: str, found: Sums, key_hash: str) -> None:
        def keep() -> None:
            summary = self._sink.summary(definition, kind, self._rows.seed_id, snapshot, found, key_hash)
            self._rows.tables[self._sink.table.full_name] = summary
            self._rows.changed_rows += self._sink.rows

        self._try(keep)

    def _try(self, write: Callable[[], None]) -> None:
        if self._rows.error is None:
            try:
                write()
            except SbhError as error:
                self._rows.error = error


def snapshot_tables(shop: Workshop, drafts: Sequence[Draft], progress: ProgressSink) -> list[Draft]:
    """Read the tables of all running drafts: all of them, or what changed since their parents.

    One recovery point, and one pass over each table, for `backup.batch_tenants` drafts. Those of incremental backups whose
    tenants did not change come back UNCHANGED.
    """
    drafts = shop.each(drafts, STEP, lambda d: _opened(shop, d))
    live, size = running(drafts), shop.site.settings.backup.batch_tenants
    results: dict[TenantId, Draft] = {}
    for first in range(0, len(live), size):
        begun, batch = time.monotonic(), live[first : first + size]
        try:
            with shop.kept(batch):
                done = _capture(shop, batch, progress)
        except SbhError as error:
            done = [shop.fail(d, STEP, error) for d in batch]
        seconds = (time.monotonic() - begun) / len(batch)
        results |= {d.tenant.id: d.with_counters(seconds_snapshot=seconds) for d in done}
    return [results.get(d.tenant.id, d) for d in drafts]


def skip_unchanged(shop: Workshop, drafts: Sequence[Draft]) -> list[Draft]:
    """Of many drafts not started yet, find the UNCHANGED ones in one pass, however many they are.

    The others are compared again, at their own recovery points, when their tables are read.
    """
    live, settings = running(drafts), shop.site.settings
    try:
        with exported_snapshot(settings.database) as (snapshot_id, point, connection):
            view = View(settings.database, snapshot_id, point, connection, load_map(connection, settings))
            found, _ = find_unchanged(shop, view, live)
    except SbhError as error:
        found = [draft.failed(STEP, error) for draft in live]
    results = {draft.tenant.id: draft for draft in found}
    return [results.get(draft.tenant.id, draft) for draft in drafts]


def _opened(shop: Workshop, draft: Draft) -> Draft:
    """The draft, its lease held and its repository open, if it was started."""
    if draft.lease_owner:
        shop.lease(draft)
        shop.repository(draft)
    return draft


def _capture(shop: Workshop, drafts: list[Draft], progress: ProgressSink) -> list[Draft]:
    settings = shop.site.settings
    with exported_snapshot(settings.database) as (snapshot_id, point, connection), pipeline(settings.backup) as packs:
        view = View(settings.database, snapshot_id, point, connection, load_map(connection, settings))
        waiting = [d for d in drafts if not d.lease_owner]
        settled, compared = find_unchanged(shop, view, waiting) if waiting else ([], {})
        settled = shop.each(settled, STEP, lambda d: _opened(shop, start(shop, d)))
        started = [*running(settled), *(d for d in drafts if d.lease_owner)]
        ended = [d for d in settled if d.status is not DraftStatus.RUNNING]
        if not started:
            return ended
        tenants = {d.tenant.key: _TenantRows(d, shop.repository(d), packs) for d in started}
        try:
            _find_parents(shop, view, tenants, compared)
            _read_tables(shop, view, tenants, progress)
            schema = _schema_lines(view.tenancy, connection)
            columns = reference_columns(settings, view.tenancy) if settings.files.enabled else []
            for rows in tenants.values():
                if rows.error is None:
                    _add_references(rows, connection, columns)
        except BaseException:
            for rows in tenants.values():
                rows.writer.abort()
            raise
        with ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="finish") as pool:
            return ended + list(pool.map(lambda rows: _finish(shop, rows, view, schema), tenants.values()))


def _find_parents(
    shop: Workshop, view: View, tenants: Mapping[str, _TenantRows], compared: Mapping[TenantId, Compared]
) -> None:
    """Find what each incremental draft builds on, and how its tables differ from that."""

    def find(rows: _TenantRows) -> None:
        rows.seed_id = shop.site.catalog(rows.draft.tenant.region).seed_id
        rows.seed = shop.site.catalog(rows.draft.tenant.region).hash_seed
        if rows.draft.type is BackupType.FULL:
            return
        try:
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

    with ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="parents") as pool:
        list(pool.map(find, tenants.values()))
    since = {
        key: (rows.since, rows.seed)
        for key, rows in tenants.items()
        if rows.parent and not rows.totals and not rows.incomparable and not rows.error
    }
    for key, found in view.totals(since).items():
        tenants[key].totals = found


def _read_tables(
    shop: Workshop, view: View, tenants: Mapping[str, _TenantRows], progress: ProgressSink
) -> None:
    lock, ended = threading.Lock(), [0]

    def work(connection: Connection, table: MappedTable) -> None:
        whole, changed = [], []
        for rows in tenants.values():
            if rows.error is None:
                delta = rows.approach(view, table)
                if isinstance(delta, TenantDelta):
                    changed.append(delta)
                elif delta is Whole.YES:
                    whole.append(rows.draft.tenant.key)
        code = view.codes[table.full_name]
        if changed:
            capture_delta(connection, table, code, changed)
            for one in changed:
                whole += tenants[one.key].took(table, one)
        if whole:
            _read_whole(connection, view, table, {key: tenants[key] for key in whole})
        with lock:
            ended[0] += 1
            progress(Progress(STEP, table.full_name, ended[0], len(view.tenancy.tables), "tables"))

    view.each_table(work)


def _read_whole(connection: Connection, view: View, table: MappedTable, tenants: Mapping[str, _TenantRows]) -> None:
    """All rows of these tenants, and the sums that the next backup compares with."""
    sinks = {key: _Guard(rows, table) for key, rows in tenants.items()}
    copy_table(connection, table, list(tenants), lambda _table, key, _rows: sinks[key])
    code = view.codes[table.full_name]
    windows = {key: Window(None, rows.seed, bucket_bits(sinks[key].rows) if code.keyed else 0) for key, rows in tenants.items()}
    sizes = totals(connection, table, code, {k: w for k, w in windows.items() if not w.bits})
    found, _ = sums(connection, table, code, {k: w for k, w in windows.items() if w.bits})
    for key in tenants:
        mine = found.get(key) or Sums(0)
        key_hash = mine.key_hash if key in found else sizes[key].key_hash
        sinks[key].finish(view.definitions[table.full_name], code.kind, view.point.snapshot, mine, key_hash)


def _add_references(rows: _TenantRows, connection: Connection, columns: list[tuple[MappedTable, str]]) -> None:
    if rows.parent and all(table.full_name in rows.taken_over for table, _ in columns):
        rows.references = list(rows.parent.reference_keys)
        return
    lines = LineWriter(rows.writer)
    try:
        for key in referenced_keys(connection, columns, rows.draft.tenant.key):
            lines.add(json_line({"key": key}))
        rows.references = lines.finish()
    except SbhError as error:
        rows.error = error


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


def _finish(shop: Workshop, rows: _TenantRows, view: View, schema: list[bytes]) -> Draft:
    draft, writer = rows.draft, rows.writer
    try:
        if rows.error is not None:
            raise rows.error
        described = LineWriter(writer)
        for line in schema:
            described.add(line)
        described.add(json_line({"tenant": _tenant_fields(draft.tenant)}))
        detail = described.finish()
        database = _summaries(rows, view.tenancy, "database")
        config = _summaries(rows, view.tenancy, "config")
        writer.finish()
        index = shop.repository(draft).write_index(draft.backup_id, "database", writer)
    except SbhError as error:
        writer.abort()
        return shop.fail(draft, STEP, error)
    components = {
        "database": _component("json", database, {"reference_keys": rows.references}),
        "config": _component("config", config, {"detail": detail}),
    }
    counted = draft.with_counters(
        rows=sum(s["rows"] for s in (*database, *config)),
        tables=len(database) + len(config),
        groups=sum(s["groups"] for s in (*database, *config)),
        table_bytes=sum(s["bytes"] for s in (*database, *config)),
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
    )


def _tenant_fields(tenant: Tenant) -> dict[str, str]:
    return {"id": tenant.id, "key": tenant.key, "region": tenant.region, "tier": tenant.tier}


def _summaries(rows: _TenantRows, tenancy: TenancyMap, component: str) -> list[dict[str, Any]]:
    return [rows.tables[t.full_name] for t in tenancy.tables if t.component == component]


def _component(kind: str, summaries: list[dict[str, Any]], more: dict[str, Any]) -> Component:
    # The key and the checksum are set when the document is written.
    facts = {
        "tables": [s["table"].split(".", 1)[1] for s in summaries],
        "rows": sum(s["rows"] for s in summaries),
        "table_details": summaries,
        **more,
    }
    return Component(kind, "", sum(s["bytes"] for s in summaries), "", facts)
