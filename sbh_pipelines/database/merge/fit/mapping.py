"""How the tables of a backup map to the live tables, where the schema has changed in between.

Everything is decided here, before a row is written: what comes from the backup, what stays as it is live, what is lost
and what cannot be done. `lossy` differences need the operator's consent, `blocking` ones end the restore.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sbh_pipelines.database.merge.fit.columns import ColumnFrom, ColumnMapper, SchemaDifference
from sbh_pipelines.database.merge.fit.conversion import assigned, from_text
from sbh_pipelines.database.merge.fit.renames import Renames
from sbh_pipelines.database.schema.table_header import TableHeader
from sbh_pipelines.database.schema.tenancy import MappedTable, TenancyMap
from sbh_pipelines.database.session.sql import SQL_ASCII, exchanged, ident, literal
from sbh_pipelines.settings import RestoreSettings
from sbh_pipelines.settings.section import toml_block

__all__ = ["ColumnFrom", "SchemaDifference", "TableMapping", "map_tables", "stored_key", "wanted_columns"]


@dataclass(frozen=True, slots=True)
class TableMapping:
    """One captured table of the live database as the backup has it."""

    table: MappedTable
    header: TableHeader
    columns: tuple[ColumnFrom, ...]  # one for each captured column, in order
    differences: tuple[SchemaDifference, ...]
    same: bool  # a row's COPY text is the same in both, and so is the order of rows

    @property
    def blocked(self) -> bool:
        return any(d.blocking for d in self.differences)


def map_tables(
    headers: Mapping[str, TableHeader],
    tenancy: TenancyMap,
    settings: RestoreSettings,
    schemas: Sequence[str],
    rows: Mapping[str, int] | None = None,
) -> tuple[list[TableMapping], list[SchemaDifference]]:
    """The mappings, parents first, and all differences: those of the mappings and those of tables that have none.

    `headers` is by the full name that a table had when it was backed up. `rows` says how many rows it has there; where it
    is not known, a table that is gone counts as one with rows.
    """
    renames = Renames(settings.renamed, headers, tenancy.catalog, schemas)
    sources: dict[str, list[str]] = {}
    differences: list[SchemaDifference] = []
    for name in headers:
        sources.setdefault(renames.table(name), []).append(name)
    mappings = []
    for table in tenancy.tables:
        names = sources.pop(table.full_name, [])
        found = _table_differences(table, names, renames)
        if len(names) == 1:
            header = headers[names[0]]
            columns, of_columns, same = ColumnMapper(table, names[0], header, settings, renames).map()
            found += of_columns
            same = same and exchanged(header.encoding, table.encoding) in (table.encoding, SQL_ASCII)
            mappings.append(TableMapping(table, header, columns, tuple(found), same))
        differences += found
    mapped = {mapping.table.full_name for mapping in mappings}
    new = [table for table in tenancy.tables if table.full_name not in mapped]
    for live, names in sources.items():
        differences += [
            _not_captured(name, live, tenancy, 1 if rows is None else rows.get(name, 1), _renamed(headers[name], new))
            for name in names
        ]
    return mappings, differences


def _renamed(header: TableHeader, new: Sequence[MappedTable]) -> str:
    """What a table that is gone may be called now: the only new one with the same columns."""
    columns = {(c.name, c.type.name) for c in header.columns}
    alike = [t for t in new if {(c.name, c.type) for c in t.table.columns if not c.generated} == columns]
    return alike[0].full_name if len(alike) == 1 else ""


def wanted_columns(
    mapping: TableMapping, stored_alias: str, live_alias: str | None, *, dry_run: bool = False
) -> list[str]:
    """One SQL expression for each captured live column: what it shall be.

    `stored_alias` is a relation with the backup's row as text in c1, c2, ...; `live_alias` the live row with the same key,
    left joined, or None where there is none to keep values of. Values that do not fit their type raise an error of the
    server; none is cut. A `dry_run` gives NULL for new numbers and for defaults that call a function: a sequence that
    was asked for a number has moved on for good.
    """
    return [_wanted(c, stored_alias, live_alias, dry_run=dry_run) for c in mapping.columns]


def _wanted(source: ColumnFrom, stored: str, live: str | None, *, dry_run: bool = False) -> str:
    column = source.column
    fill = None if source.fill is None else from_text(f"{literal(source.fill)}::text", column.type)
    if source.position is not None:
        value = from_text(f"{stored}.c{source.position + 1}", column.type)
        return (
            value if fill is None else f"CASE WHEN {stored}.c{source.position + 1} IS NULL THEN {fill} ELSE {value} END"
        )
    if fill is not None:
        new = fill
    elif dry_run and (column.identity or "(" in (column.default or "")):
        new = f"NULL::{column.type}"
    elif column.identity and column.sequence:
        new = f"pg_catalog.nextval({literal(column.sequence)}::regclass)::{column.type}"
    elif column.default is not None:
        new = assigned(column.default, column.type)
    else:
        new = f"NULL::{column.type}"
    return new if live is None else f"CASE WHEN {live}.ctid IS NULL THEN {new} ELSE {live}.{ident(column.name)} END"


def stored_key(mapping: TableMapping, stored_alias: str) -> list[str]:
    """SQL of the live primary key's columns, in order, from the backup's row: to find the live row by.

    Raises KeyError for a key that the backup has no values for; the mapping is `blocked` then.
    """
    columns = {c.column.name: c for c in mapping.columns if not c.kept}
    return [_wanted(columns[name], stored_alias, None) for name in mapping.table.table.primary_key]


def _table_differences(table: MappedTable, names: list[str], renames: Renames) -> list[SchemaDifference]:
    full_name = table.full_name
    if not names:
        return [
            SchemaDifference(
                full_name, None, "added table", None, full_name, "Not in the backup: its rows stay as they are."
            )
        ]
    if len(names) > 1:
        both = " and ".join(names)
        decision = f"The backup's tables {both} would both become {full_name}: correct restore.renamed."
        return [SchemaDifference(full_name, None, "renamed table", both, full_name, decision, blocking=True)]
    if names[0] == full_name:
        return []
    if renames.live(names[0]):
        decision = (
            f"{names[0]} is declared as renamed, but a table of that name is still there: correct restore.renamed."
        )
        return [SchemaDifference(full_name, None, "renamed table", names[0], full_name, decision, blocking=True)]
    decision = f"Rows of {names[0]} are restored into {full_name}, as restore.renamed declares."
    return [SchemaDifference(full_name, None, "renamed table", names[0], full_name, decision)]


def _not_captured(name: str, live: str, tenancy: TenancyMap, rows: int, renamed: str) -> SchemaDifference:
    status = next((s for s in tenancy.statuses if f"{s.schema}.{s.name}" == live), None)
    change = "dropped table" if name == live else "renamed table"
    if status is not None:
        decision = f"{live} is there, but no longer as a table of tenants ({status.status}): map it as it was, or leave it out."
        return SchemaDifference(live, None, change, name, status.status, decision, blocking=True)
    if name != live:
        decision = f"{name} is declared as renamed to {live}, and no such table is there: correct restore.renamed."
        return SchemaDifference(name, None, change, name, live, decision, blocking=True)
    if not rows:
        decision = "The table is gone; the backup has no rows of it."
        return SchemaDifference(name, None, change, name, None, decision)
    if renamed:
        decision = f"The table is gone, and {renamed} is new and has its columns: say whether it was renamed."
    else:
        decision = "The table is gone, or has another name now: its rows in the backup are not restored."
    block = toml_block("[restore.renamed]", {name: renamed or "the.new name"})
    remedy = f"if it was renamed, say so in the settings:\n{block}\n"
    return SchemaDifference(name, None, change, name, None, decision, lossy=True, remedy=remedy)
