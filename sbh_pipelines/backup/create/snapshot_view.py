"""The database at the one snapshot of a batch: its tables, their definitions, and totals of each tenant's rows."""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from sbh_pipelines.backup.contents.json_lines import json_line
from sbh_pipelines.database.capture.capture import each_table
from sbh_pipelines.database.capture.changes import Totals, Window, ages, snapshot_xmin, totals
from sbh_pipelines.database.capture.tenant_keys import check_keys_apart
from sbh_pipelines.database.capture.unreadable import apart
from sbh_pipelines.database.schema.definition import VOLATILE, read_definitions
from sbh_pipelines.database.schema.key_hash import KeyCode, key_code
from sbh_pipelines.database.schema.table_header import TableHeader
from sbh_pipelines.database.schema.tenancy import MappedTable, TenancyMap
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import RecoveryPoint
from sbh_pipelines.settings import Settings

TenantTotals = dict[str, Totals]  # by table
RowFailure = Callable[[Connection, MappedTable, str, SbhError], None]
"""Told of a tenant, by its key, one of whose rows in the table cannot be read."""


@dataclass
class View:
    """The database at one snapshot."""

    settings: Settings
    snapshot_id: str
    point: RecoveryPoint
    connection: Connection
    tenancy: TenancyMap
    definitions: Mapping[str, str] = field(init=False)
    codes: Mapping[str, KeyCode] = field(init=False)

    def __post_init__(self) -> None:
        check_keys_apart(self.connection, self.tenancy)
        self.definitions = read_definitions(self.connection, self.tenancy.tables)
        self.codes = {t.full_name: key_code(t) for t in self.tenancy.tables}

    @property
    def held_bytes(self) -> int:
        """How much of a table's rows may be in memory before they are whole groups."""
        return (self.settings.backup.memory_mib << 20) // 4 // self.settings.database.connections

    def each_table(self, work: Callable[[Connection, MappedTable], None]) -> None:
        each_table(self.settings.database, self.snapshot_id, self.tenancy.tables, work)

    def totals(
        self,
        since: Mapping[str, tuple[str, int]],
        failed: RowFailure,
        wanted: Mapping[str, Collection[str]] | None = None,
    ) -> dict[str, TenantTotals]:
        """By tenant key, of every table; `since` gives each tenant's (snapshot, seed). Those that failed are left out.

        `wanted`: of which tables those of each tenant are; of all, without it.
        """
        found: dict[str, TenantTotals] = {key: {} for key in since}
        if not any(since if wanted is None else wanted.values()):
            return found
        lock = threading.Lock()

        def work(connection: Connection, table: MappedTable) -> None:
            asked = {key: of for key, of in since.items() if wanted is None or table.full_name in wanted[key]}
            if not asked:
                return
            known = ages(connection, (snapshot_xmin(snapshot) for snapshot, _ in asked.values()))
            seen = self.definitions[table.full_name] != VOLATILE  # else nothing tells what is new
            windows = {
                key: Window(known[snapshot_xmin(snap)] if seen else None, seed) for key, (snap, seed) in asked.items()
            }

            def count(keys: Sequence[str]) -> None:
                mine = {key: windows[key] for key in keys}
                of_table = totals(connection, table, self.codes[table.full_name], mine)
                with lock:
                    for key, mine_now in of_table.items():
                        if key in found:
                            found[key][table.full_name] = mine_now

            def fail(key: str, error: SbhError) -> None:
                with lock:
                    found.pop(key, None)
                failed(connection, table, key, error)

            apart(connection, list(windows), count, fail)

        self.each_table(work)
        return found

    def schema_lines(self) -> list[bytes]:
        """What the config component says of the tables and of their sequences."""
        lines = [
            json_line({"table": TableHeader.of_table(t).as_dict(), "status": t.status, "why": t.why})
            for t in self.tenancy.tables
        ]
        cursor = self.connection.cursor()
        for name in sorted({c.sequence for t in self.tenancy.tables for c in t.table.columns if c.sequence}):
            with translated("read a sequence", name):
                cursor.execute(f"SELECT last_value, is_called FROM {name}")
                value, called = cursor.fetchone()
            lines.append(json_line({"sequence": name, "last_value": value, "is_called": called}))
        return lines
