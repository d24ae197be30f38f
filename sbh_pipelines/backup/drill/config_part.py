"""The drill of a configuration error: the tables of the config component, and what it says of the tenant, brought back alone.

The database has the schema and what tenants share, as the live one would. Rows are loaded with foreign keys quiet, as they may
refer to rows of the tenant that this scenario leaves where they are; then they are read back and compared.
"""

import os
from collections.abc import Mapping
from dataclasses import replace

from sbh_pipelines.backup.contents.json_lines import read_lines
from sbh_pipelines.backup.contents.layers import table_rows
from sbh_pipelines.backup.contents.manifest import Component
from sbh_pipelines.backup.contents.stored_table import read_table
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.backup.recover.platform_backup import open_platform
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.capture.line_sums import LineSums, pieces_counted
from sbh_pipelines.database.rebuild.load import load_rows
from sbh_pipelines.database.rebuild.run import transaction
from sbh_pipelines.database.rebuild.shared import narrow
from sbh_pipelines.database.rebuild.unowned import UnownedRows, copy_rows
from sbh_pipelines.database.schema.table_header import TableHeader
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection
from sbh_pipelines.errors import DrillFailed, SchemaMismatch
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.settings import DatabaseSettings

_REPLICA = "BEGIN; SET LOCAL session_replication_role = replica"


def mapped_tables(site: Site, platform_backup: str) -> dict[str, MappedTable]:
    """The tenancy map of a platform backup, by the tables' full names. Raises UnknownBackup, CorruptObject."""
    with open_platform(site, platform_backup, None, lambda _: None) as platform:
        return platform.tables("table")


def restore_config(
    repository: Repository, component: Component, tables: Mapping[str, MappedTable], target: DatabaseSettings
) -> dict[str, int]:
    """Load and prove all of the component; what was proved. Raises DrillFailed, CorruptObject, SchemaMismatch."""
    facts = sum(1 for _ in read_lines(repository, component.detail))  # to read one is to authenticate it
    with transaction(target, "drill", _REPLICA) as connection:
        for summary in component.tables:
            if summary.rows:  # a table that had none may be gone by now
                _restore_table(repository, connection, summary, tables)
    return {"config_tables": len(component.tables), "config_facts": facts}


def _restore_table(
    repository: Repository, connection: Connection, summary: TableSummary, tables: Mapping[str, MappedTable]
) -> None:
    stored = read_table(repository, summary)
    table = _backed_up_table(tables, summary, stored.header)
    key = os.urandom(32)
    loaded, found = LineSums(key), LineSums(key)
    pieces = pieces_counted(table_rows(repository, stored), loaded)
    load_rows(connection, table.table.schema, table.table.name, table.captured_columns, pieces, table.encoding)
    # All rows there are: they are the tenant's.
    copy_rows(connection, UnownedRows(table), lambda text, _: found.add(text))
    if not found.same(loaded.text()) or found.rows != summary.rows:
        raise DrillFailed(
            "The configuration read back is not the backup's",
            on=table.full_name,
            why=f"{found.rows:,} rows came back, where the backup has {summary.rows:,}",
            remedy="look for rules and ENABLE ALWAYS or REPLICA triggers on the table, and compare the server's locale",
        )


def _backed_up_table(tables: Mapping[str, MappedTable], summary: TableSummary, header: TableHeader) -> MappedTable:
    """The table with the columns that the backup has, by itself: rows that lead to its tenant may not be there. Raises
    SchemaMismatch.
    """
    table = tables.get(summary.table)
    narrowed = narrow(table, header) if table else None
    if narrowed is None:
        raise SchemaMismatch(
            "The backup does not fit the schema of the platform backup",
            on=summary.table,
            why="a column, or the table, is not in it: the schema was changed between the two",
            remedy="make a platform backup after each migration: `sbh platform backup`",
        )
    return replace(narrowed, hops=())
