"""Step `snapshot_tables`: one snapshot, every table read once for all tenants of the batch, sealed into packs."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from sbh_pipelines.backup.details import LineWriter, TableWriter, json_line, table_header
from sbh_pipelines.backup.drafts import SIDE_BY_SIDE, Workshop, running
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import Component, Draft, Progress, ProgressSink, RecoveryPoint, Tenant
from sbh_pipelines.repository.pack import PackPipeline, PackWriter
from sbh_pipelines.settings import BackupSettings
from sbh_pipelines.sources.database.capture import TableSink, capture_tables
from sbh_pipelines.sources.database.connection import Connection, translated
from sbh_pipelines.sources.database.references import reference_columns, referenced_keys
from sbh_pipelines.sources.database.snapshot import exported_snapshot
from sbh_pipelines.sources.database.tenancy import MappedTable, TenancyMap, load_map

STEP = "snapshot_tables"


def pipeline(settings: BackupSettings) -> PackPipeline:
    """The threads and the byte budget of one step."""
    return PackPipeline(
        settings.memory_mib << 20, settings.pack_mib << 20, settings.seal_threads, settings.upload_threads
    )


class _TenantRows:
    """One tenant's side of the pass: its writer, its tables, and the error that took it out, if any."""

    def __init__(self, draft: Draft, writer: PackWriter) -> None:
        self.draft, self.writer = draft, writer
        self.tables: dict[str, TableWriter] = {}
        self.references: list[str] = []
        self.error: SbhError | None = None


class _Guard:
    """A TableSink that keeps one tenant's failure from the others: after it, the tenant's rows are skipped."""

    def __init__(self, rows: _TenantRows, table: MappedTable) -> None:
        self._rows = rows
        try:
            self._sink: TableWriter | None = TableWriter(rows.writer, table)
            rows.tables[table.full_name] = self._sink
        except SbhError as error:
            self._give_up(error)

    def _give_up(self, error: SbhError) -> None:
        self._rows.error, self._sink = error, None

    def group(self, text: bytes, rows: int) -> None:
        if self._sink is not None and self._rows.error is None:
            try:
                self._sink.group(text, rows)
            except SbhError as error:
                self._give_up(error)

    def close(self) -> None:
        if self._sink is not None and self._rows.error is None:
            try:
                self._sink.close()
            except SbhError as error:
                self._give_up(error)


def snapshot_tables(shop: Workshop, drafts: Sequence[Draft], progress: ProgressSink) -> list[Draft]:
    """Read all tables of all running drafts at one recovery point."""
    begun = time.monotonic()
    drafts = shop.each(drafts, STEP, lambda d: (shop.lease(d), shop.repository(d), d)[2])
    live = running(drafts)
    if not live:
        return drafts
    try:
        with shop.kept(live):
            done = _capture(shop, live, progress)
    except SbhError as error:
        done = [shop.fail(d, STEP, error) for d in live]
    seconds = (time.monotonic() - begun) / len(live)
    results = {d.tenant.id: d.with_counters(seconds_snapshot=seconds) for d in done}
    return [results.get(d.tenant.id, d) for d in drafts]


def _capture(shop: Workshop, drafts: list[Draft], progress: ProgressSink) -> list[Draft]:
    settings = shop.site.settings
    with exported_snapshot(settings.database) as (snapshot_id, point, connection), pipeline(settings.backup) as packs:
        tenancy = load_map(connection, settings)
        columns = reference_columns(settings, tenancy) if settings.files.enabled else []
        tenants = {d.tenant.key: _TenantRows(d, shop.repository(d).writer(packs)) for d in drafts}
        lock, ended = threading.Lock(), [0]

        def open_sink(table: MappedTable, key: str, rows: int) -> TableSink:
            return _Guard(tenants[key], table)

        def table_done(table: MappedTable, size: int) -> None:
            with lock:
                ended[0] += 1
                progress(Progress(STEP, table.full_name, ended[0], len(tenancy.tables), "tables"))

        try:
            capture_tables(settings.database, snapshot_id, tenancy.tables, list(tenants), open_sink, table_done)
            schema = _schema_lines(tenancy, connection)
            for rows in tenants.values():
                if rows.error is None:
                    _add_references(rows, connection, columns)
        except BaseException:
            for rows in tenants.values():
                rows.writer.abort()
            raise
        with ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="finish") as pool:
            return list(pool.map(lambda rows: _finish(shop, rows, tenancy, point, schema), tenants.values()))


def _add_references(rows: _TenantRows, connection: Connection, columns: list[tuple[MappedTable, str]]) -> None:
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


def _finish(shop: Workshop, rows: _TenantRows, tenancy: TenancyMap, point: RecoveryPoint, schema: list[bytes]) -> Draft:
    draft, writer = rows.draft, rows.writer
    try:
        if rows.error is not None:
            raise rows.error
        described = LineWriter(writer)
        for line in schema:
            described.add(line)
        described.add(json_line({"tenant": _tenant_fields(draft.tenant)}))
        detail = described.finish()
        database = _summaries(rows, tenancy, "database")
        config = _summaries(rows, tenancy, "config")
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
        **written(writer),
    )
    return replace(counted, step=STEP, recovery_point=point, components=components, objects=(*draft.objects, *index))


def written(writer: PackWriter) -> dict[str, float]:
    """A finished writer's share of the counters."""
    return {
        "chunks": writer.chunks,
        "chunks_new": writer.chunks_new,
        "bytes_stored": writer.bytes_stored,
        "packs": len(writer.stored),
    }


def _tenant_fields(tenant: Tenant) -> dict[str, str]:
    return {"id": tenant.id, "key": tenant.key, "region": tenant.region, "tier": tenant.tier}


def _summaries(rows: _TenantRows, tenancy: TenancyMap, component: str) -> list[dict[str, Any]]:
    return [rows.tables[t.full_name].summary() for t in tenancy.tables if t.component == component]


def _component(kind: str, summaries: list[dict[str, Any]], more: dict[str, Any]) -> Component:
    # The key and the checksum are set when the document is written.
    facts = {
        "tables": [s["table"].split(".", 1)[1] for s in summaries],
        "rows": sum(s["rows"] for s in summaries),
        "table_details": summaries,
        **more,
    }
    return Component(kind, "", sum(s["bytes"] for s in summaries), "", facts)
