"""How the tables of a tenant's backup fit the schema that a platform backup has, and how their rows get into it.

A backup from before a migration has what the schema has no place for any more: columns that were dropped, types that changed.
It comes back as a restore in place would bring it that accepts schema changes, and what is lost is told. Where the platform
backup is the older of the two, what is missing came since, and nothing is left out unless the caller accepts that.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sbh_pipelines.backup.contents.layers import table_rows
from sbh_pipelines.backup.contents.stored_table import StoredTable
from sbh_pipelines.backup.recover.platform_backup import OpenPlatformBackup
from sbh_pipelines.database.capture.line_sums import LineSums, pieces_counted
from sbh_pipelines.database.merge.fit.mapping import SchemaDifference, TableMapping, map_tables, wanted_columns
from sbh_pipelines.database.rebuild.load import load_rows
from sbh_pipelines.database.rebuild.shared import narrow
from sbh_pipelines.database.schema.catalog import read_catalog
from sbh_pipelines.database.schema.table_header import TableHeader
from sbh_pipelines.database.schema.tenancy import EXCLUDED, OWNED, SHARED, MappedTable, TableStatus, TenancyMap
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.copying import copy_in
from sbh_pipelines.database.session.sql import exchanged, ident, sql_name
from sbh_pipelines.errors import SchemaMismatch
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.settings import RestoreSettings

_RAW = "pg_temp.sbh_raw"


@dataclass(frozen=True, slots=True)
class NewSchema:
    """The schema that rows are loaded into.

    Attributes:
        tables: Tables of tenants, by their full names, as the platform backup maps them.
        others: The status of the other tables, by full name: those of no tenant, and of no backup.
        schemas: The schemas that hold them.
        settings: What is declared as renamed, and which values new columns get.
    """

    tables: Mapping[str, MappedTable] = field(repr=False)
    others: Mapping[str, str]
    schemas: Sequence[str]
    settings: RestoreSettings

    def width(self, name: str) -> int:
        """How many columns a table has that are not computed."""
        return len(self.tables[name].table.columns)


def new_schema(platform: OpenPlatformBackup, settings: RestoreSettings) -> NewSchema:
    """The schema that a database built from this platform backup has."""
    others = {f"{fact['schema']}.{fact['name']}": EXCLUDED for fact in platform.of("ddl_only")}
    others |= dict.fromkeys(platform.tables("shared_table"), SHARED)
    return NewSchema(platform.tables("table"), others, platform.manifest.schemas, settings)


@dataclass(frozen=True, slots=True)
class TableFit:
    """A table of a backup, and where its rows go.

    Attributes:
        stored: The full name that it has in the backup.
        table: The table that is filled, with the columns that are the backup's to the last byte.
        mapping: Where each column's value comes from; None where rows go in as they are.
    """

    stored: str
    table: MappedTable
    mapping: TableMapping | None = None

    @property
    def positions(self) -> list[int]:
        """Which fields of a stored row the proved columns are."""
        assert self.mapping is not None
        of = {c.column.name: c.position for c in self.mapping.columns if c.position is not None}
        return [of[column.name] for column in self.table.table.columns]


def fit_tables(
    connection: Connection, schema: NewSchema, headers: Mapping[str, TableHeader], rows: Mapping[str, int], on: str
) -> tuple[list[TableFit], list[SchemaDifference]]:
    """Where the rows of the tables go that have any, and what of them is lost or changes.

    Raises SchemaMismatch for what cannot be.
    """
    plain = {name: _plain(schema.tables.get(name), header) for name, header in headers.items()}
    strange = [name for name, table in plain.items() if table is None and rows[name]]
    longer = [
        name for name, table in plain.items() if table and rows[name] and len(table.table.columns) < schema.width(name)
    ]
    tenancy = _tenancy(connection, schema) if strange or longer else None
    if tenancy is not None:
        strange += [name for name in longer if _needs_values(tenancy.find(name), headers[name], schema.settings)]
    fits = [TableFit(name, table) for name, table in plain.items() if table is not None and name not in strange]
    if tenancy is None or not strange:
        return fits, []
    mappings, found = map_tables(headers, tenancy, schema.settings, schema.schemas, rows)
    chosen = [m for m in mappings if m.header.full_name in strange]
    concerned = {*strange, *(m.table.full_name for m in chosen)}
    differences = [d for d in found if concerned & {d.table, d.then} and _counts(d)]
    if blocking := [d.decision for d in differences if d.blocking]:
        raise SchemaMismatch(
            "The backup does not fit the schema of the platform backup",
            on=on,
            why="; ".join(
                f"{d.table}{'.' + d.column if d.column else ''}: {d.change}" for d in differences if d.blocking
            ),
            remedy=" ".join(blocking),
        )
    return fits + [_mapped(m) for m in chosen], differences


def _counts(difference: SchemaDifference) -> bool:
    """Whether it matters where no row is there yet, to be matched or to be kept."""
    if difference.change == "added column":
        return difference.blocking
    return difference.change not in ("key changed", "added table", "reordered columns")


def _plain(table: MappedTable | None, header: TableHeader) -> MappedTable | None:
    """The table with the backup's columns, if they are all there and of the same types."""
    narrowed = narrow(table, header) if table is not None else None
    if narrowed is None:
        return None
    types = {column.name: column.type for column in narrowed.table.columns}
    return narrowed if all(types[c.name] == c.type.name for c in header.columns) else None


def _needs_values(table: MappedTable | None, header: TableHeader, settings: RestoreSettings) -> bool:
    """Whether columns that came since get what the settings declare, or have nothing to get."""
    added = [c for c in table.table.columns if c.name not in header.column_names and not c.generated] if table else []
    return bool(added) and (
        bool(settings.fill) or any(c.not_null and c.default is None and not c.identity for c in added)
    )


def _tenancy(connection: Connection, schema: NewSchema) -> TenancyMap:
    """The new database as the platform backup maps it, with what its catalogue says of the columns."""
    catalog = read_catalog(connection, list(schema.schemas))
    there = {table.full_name: table for table in catalog.tables.values()}
    tables = [
        replace(m, table=replace(there[name], primary_key=m.table.primary_key, key_operators=m.table.key_operators))
        for name, m in schema.tables.items()
        if name in there
    ]
    known = {**dict.fromkeys(schema.tables, OWNED), **schema.others}
    statuses = [TableStatus(t.schema, t.name, known[t.full_name], "") for t in there.values() if t.full_name in known]
    return TenancyMap(tuple(tables), tuple(statuses), catalog)


def _mapped(mapping: TableMapping) -> TableFit:
    exact = [c.column.name for c in mapping.columns if c.position is not None and not c.cast and c.fill is None]
    return TableFit(mapping.header.full_name, restricted(mapping.table, exact, mapping.header), mapping)


def restricted(table: MappedTable, columns: Sequence[str], header: TableHeader) -> MappedTable:
    """The table with these columns only, to be read in the encoding of a backup's rows."""
    bare = table.table
    whole = set(columns).issuperset(bare.primary_key)
    bare = replace(
        bare,
        columns=tuple(column for column in bare.columns if column.name in columns),
        primary_key=bare.primary_key if whole else (),
        key_operators=bare.key_operators if whole else (),
        encoding=exchanged(header.encoding, bare.encoding),
    )
    return replace(table, table=bare)


def load_fit(
    repository: Repository, connection: Connection, fit: TableFit, stored: StoredTable, sums: LineSums | None
) -> None:
    """Load all rows; what is proved of them is added to the sums."""
    pieces = table_rows(repository, stored)
    if fit.mapping is not None:
        if sums is not None:
            pieces = pieces_counted(pieces, sums, lambda piece: _fields(piece, fit.positions))
        _load_mapped(connection, fit, pieces)
        return
    if sums is not None:
        pieces = pieces_counted(pieces, sums)
    table = fit.table
    load_rows(connection, table.table.schema, table.table.name, table.captured_columns, pieces, table.encoding)


def _fields(piece: bytes, positions: Sequence[int]) -> bytes:
    """These fields of each row of COPY text, in this order."""
    lines = piece.split(b"\n")
    lines.pop()
    rows = (line.split(b"\t") for line in lines)
    return b"".join(b"\t".join([row[n] for n in positions]) + b"\n" for row in rows)


def _load_mapped(connection: Connection, fit: TableFit, pieces: Iterator[bytes]) -> None:
    """Rows come in as text and go through the mapping."""
    mapping = fit.mapping
    assert mapping is not None
    table, columns = mapping.table.table, ", ".join(ident(c.column.name) for c in mapping.columns)
    fields = ", ".join(f"c{nth} text" for nth in range(1, len(mapping.header.columns) + 1))
    with translated("load rows", table.full_name):
        cursor = connection.cursor()
        cursor.execute(f"CREATE TEMP TABLE {_RAW} ({fields}) ON COMMIT DROP")
        copy_in(cursor, _RAW, pieces, fit.table.encoding)
        values = ", ".join(wanted_columns(mapping, "s", None))
        cursor.execute(
            f"INSERT INTO {sql_name(table)} ({columns}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {_RAW} AS s"
        )
        cursor.execute(f"DROP TABLE {_RAW}")
