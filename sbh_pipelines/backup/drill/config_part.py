"""The drill of a configuration error: the tables of the config component, and what it says of the tenant, brought back alone.

The database has the schema and what tenants share, as the live one would. Rows are loaded with foreign keys quiet, as they may
refer to rows of the tenant that this scenario leaves where they are; then they are read back and compared.
"""

import os
from dataclasses import replace

from sbh_pipelines.backup.contents.json_lines import read_lines
from sbh_pipelines.backup.contents.manifest import Component
from sbh_pipelines.backup.contents.stored_table import read_table
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.backup.recover.fit import NewSchema, TableFit, fit_tables, load_fit, new_schema
from sbh_pipelines.backup.recover.platform_backup import open_platform
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.capture.line_sums import LineSums
from sbh_pipelines.database.merge.fit.columns import SchemaDifference
from sbh_pipelines.database.rebuild.load import without_triggers
from sbh_pipelines.database.rebuild.run import transaction
from sbh_pipelines.database.rebuild.unowned import UnownedRows, copy_rows
from sbh_pipelines.database.session.connection import Connection
from sbh_pipelines.errors import DrillFailed
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.settings import DatabaseSettings

_REPLICA = "BEGIN; SET LOCAL session_replication_role = replica"


def loaded_schema(site: Site, platform_backup: str) -> NewSchema:
    """The schema of a database that was built from a platform backup. Raises UnknownBackup, CorruptObject."""
    with open_platform(site, platform_backup, None, lambda _: None) as platform:
        return new_schema(platform, site.settings.restore)


def restore_config(
    repository: Repository, component: Component, schema: NewSchema, target: DatabaseSettings
) -> tuple[dict[str, int], list[SchemaDifference]]:
    """Load and prove all of the component: what was proved, and what the schema has no place for any more.

    Raises DrillFailed, CorruptObject, SchemaMismatch.
    """
    facts = sum(1 for _ in read_lines(repository, component.detail))  # to read one is to authenticate it
    summaries = {summary.table: summary for summary in component.tables}
    headers = {name: read_table(repository, summary).header for name, summary in summaries.items()}
    rows = {name: summary.rows for name, summary in summaries.items()}
    with transaction(target, "drill", _REPLICA) as connection:
        fits, changes = fit_tables(connection, schema, headers, rows, repository.tenant)
        fits = [fit for fit in fits if rows[fit.stored]]
        with without_triggers(connection, [fit.table for fit in fits]):
            for fit in fits:
                _restore_table(repository, connection, fit, summaries[fit.stored])
    return {"config_tables": len(component.tables), "config_facts": facts}, changes


def _restore_table(repository: Repository, connection: Connection, fit: TableFit, summary: TableSummary) -> None:
    key = os.urandom(32)
    loaded, found = LineSums(key), LineSums(key)
    load_fit(repository, connection, fit, read_table(repository, summary), loaded)
    # All rows there are: they are the tenant's. Those that lead to it may not be there.
    copy_rows(connection, UnownedRows(replace(fit.table, hops=())), lambda text, _: found.add(text))
    if not found.same(loaded.text()) or found.rows != summary.rows:
        raise DrillFailed(
            "The configuration read back is not the backup's",
            on=fit.table.full_name,
            why=f"{found.rows:,} rows came back, where the backup has {summary.rows:,}",
            remedy="look for rules on the table that change what is written, and compare the server's locale",
        )
