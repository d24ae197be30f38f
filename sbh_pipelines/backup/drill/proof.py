"""The proof of a drill's database, besides the content hashes that the recovery itself compares."""

from collections.abc import Mapping, Sequence
from contextlib import closing

from sbh_pipelines.backup.contents.stored_table import read_table
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.backup.recover.recovery import COMPLETED, RecoveryReport
from sbh_pipelines.database.rebuild.operator_sql import check_assertions, count_rows, valid_foreign_keys
from sbh_pipelines.database.session.connection import Connection, look
from sbh_pipelines.errors import DrillFailed
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.settings import DatabaseSettings, Settings


def raise_unless_restored(report: RecoveryReport) -> None:
    """Judge the report of a recovery of one tenant. Raises what kept it from being restored, or DrillFailed."""
    for line in report.tenants:
        if line.error:
            raise line.error
    if error := report.error:
        raise DrillFailed(error.what, on=error.on, why=error.why, remedy=error.remedy)
    if report.status != COMPLETED:
        raise DrillFailed("The recovery did not complete", on=report.restore_id)


def prove_rows(
    repository: Repository,
    tables: Sequence[TableSummary],
    settings: Settings,
    target: DatabaseSettings,
    tenant_key: str,
    report: RecoveryReport,
) -> tuple[int, dict[str, int]]:
    """The server's version, and what was proved: {groups, tables, foreign_keys, assertions}. Raises DrillFailed.

    The report says how many rows of no tenant the tables have besides, and which tables have another name by now, or are gone.
    """
    schemas = settings.database.schemas
    changes = [change for line in report.tenants for change in line.schema_changes]
    moved = {c.then: c.table for c in changes if c.change == "renamed table"}
    gone = {c.then for c in changes if c.change == "dropped table"}
    with closing(look(target, "drill")) as connection:
        for summary in tables:
            if summary.table not in gone:
                header = read_table(repository, summary).header
                name = moved.get(summary.table)
                schema, table = name.split(".", 1) if name else (header.schema, header.name)
                _count(connection, summary, schema, table, report.rows_of_no_tenant)
        proof = {
            "groups": sum(table.groups for table in tables),
            "tables": len(tables),
            "foreign_keys": valid_foreign_keys(connection, schemas),
            "assertions": check_assertions(connection, settings.drill.assertions, tenant_key),
        }
        return int(connection.server_version), proof


def _count(
    connection: Connection, summary: TableSummary, schema: str, table: str, of_nobody: Mapping[str, int]
) -> None:
    name = f"{schema}.{table}"
    found = count_rows(connection, schema, table) - of_nobody.get(name, 0)
    if found != summary.rows:
        raise DrillFailed(
            "A restored table has another number of rows than the backup",
            on=name,
            why=f"{found:,} rows, where the backup has {summary.rows:,}",
            remedy="look for rules and constraints of the table that change what is written",
        )
