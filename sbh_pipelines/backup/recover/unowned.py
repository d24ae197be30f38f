"""The steps of a recovery that bring rows of no tenant: shared ones before tenants' rows, those of nobody after them."""

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from sbh_pipelines.backup.contents.stored_table import Group, read_table
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.backup.recover.platform_backup import OpenPlatformBackup
from sbh_pipelines.database.rebuild.left_out import NOTED, LeftOut, as_facts
from sbh_pipelines.database.rebuild.load import load_rows, without_triggers
from sbh_pipelines.database.rebuild.run import note_phase, run, transaction
from sbh_pipelines.database.rebuild.shared import narrow
from sbh_pipelines.database.rebuild.unowned import StagedRows, UnownedRows, copy_rows, of_extension
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection
from sbh_pipelines.errors import CorruptObject, PrivilegeMissing, ProofFailed
from sbh_pipelines.settings import DatabaseSettings

REPLICA = "BEGIN; SET LOCAL session_replication_role = replica"


@dataclass(frozen=True, slots=True)
class UnownedSteps:
    """Each method is one step, in one transaction, which notes it.

    Attributes:
        target: The database that is filled.
        platform: The platform backup.
        owners: Whether the target's role may do everything; else what it may not do with an extension's table is left out.
    """

    target: DatabaseSettings
    platform: OpenPlatformBackup
    owners: bool

    def load_shared(self) -> None:
        begun, rows, left_out = time.monotonic(), 0, list[LeftOut]()
        tables = self.platform.tables("shared_table")
        with transaction(self.target, "shared rows") as connection:
            for summary in self.platform.shared():
                table = tables[summary.table]
                known = of_extension(connection, table)
                if known is None and not self.owners:
                    why = "its table is not there: the extension could not be made"
                    left_out.append(LeftOut(f"rows of {table.full_name}", why))
                elif known:
                    rows += self._over(connection, table, summary, left_out)
                else:
                    rows += self._into_empty(connection, table, summary)
            facts = {"rows": rows, NOTED: as_facts(left_out)}
            run(connection, note_phase("shared", time.monotonic() - begun, facts), "note a step", "shared")

    def load_of_nobody(self, constrained: bool) -> None:
        """Rows whose key a tenant's row has by now stay away. `constrained`: constraints and triggers are there already."""
        begun, rows, left_out = time.monotonic(), dict[str, int](), list[LeftOut]()
        tables = self.platform.tables("table")
        wanted = [(tables[summary.table], summary) for summary in self.platform.of_nobody()]
        with transaction(self.target, "rows of no tenant", REPLICA if constrained else "BEGIN") as connection:
            quiet = without_triggers(connection, [t for t, _ in wanted]) if constrained and wanted else nullcontext()
            with quiet:
                for table, summary in wanted:
                    staged = self._staged(connection, table, summary)
                    rows[table.full_name] = staged.move_beside()
                    staged.drop()
                    if away := summary.rows - rows[table.full_name]:
                        why = "a tenant's backup has rows of these keys: they are there, and the tenant's"
                        left_out.append(LeftOut(f"{away} rows of {table.full_name} that had no tenant", why))
            facts = {"rows": sum(rows.values()), "tables": rows, NOTED: as_facts(left_out)}
            run(connection, note_phase("no_tenant", time.monotonic() - begun, facts), "note a step", "no_tenant")

    def _groups(self, summary: TableSummary) -> Iterator[Group]:
        return read_table(self.platform.repository, summary).groups

    def _pieces(self, summary: TableSummary) -> Iterator[bytes]:
        return self.platform.repository.read_chunks(group.chunk for group in self._groups(summary))

    def _into_empty(self, connection: Connection, table: MappedTable, summary: TableSummary) -> int:
        """Load the rows into a table that has none, and read them back to compare."""
        found, name = list[bytes](), self.platform.repository.sealer.name
        listed, pieces = table.captured_columns, self._pieces(summary)
        load_rows(connection, table.table.schema, table.table.name, listed, pieces, table.encoding)
        plan = (group.rows for group in self._groups(summary))
        rows = copy_rows(connection, UnownedRows(table), lambda text, _: found.append(name(text)), plan)
        self._compare(table, summary, found)
        return rows

    def _staged(self, connection: Connection, table: MappedTable, summary: TableSummary) -> StagedRows:
        """The rows in a temporary table, read back and compared."""
        stored = narrow(table, read_table(self.platform.repository, summary).header)
        if stored is None:
            raise CorruptObject("A platform backup's rows do not fit its own schema", on=table.full_name)
        staged = StagedRows(connection, stored, self._pieces(summary))
        plan = (group.rows for group in self._groups(summary))
        self._compare(table, summary, staged.groups(self.platform.repository.sealer.name, plan))
        return staged

    def _compare(self, table: MappedTable, summary: TableSummary, found: Sequence[bytes]) -> None:
        if found != [group.chunk for group in self._groups(summary)]:
            raise ProofFailed(
                "The shared rows read back are not the backup's; rolled back",
                on=table.full_name,
                why="the server writes or orders values in another way",
                remedy="compare the server's version and locale with the platform backup's",
            )

    def _over(self, connection: Connection, table: MappedTable, summary: TableSummary, left_out: list[LeftOut]) -> int:
        """Load rows into a table that an extension filled, over those of the same keys."""
        run(connection, "SAVEPOINT sbh_extension", "load rows", table.full_name)
        try:
            staged = self._staged(connection, table, summary)
            rows = staged.move_over()
            staged.drop()
            return rows
        except PrivilegeMissing as error:
            if self.owners:
                raise
            run(connection, "ROLLBACK TO SAVEPOINT sbh_extension", "load rows", table.full_name)
            left_out.append(LeftOut(f"rows of {table.full_name}, a table of an extension", error.why))
            return 0
