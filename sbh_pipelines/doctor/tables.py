"""The tenancy map: is every table accounted for, and every row."""

from collections import Counter
from collections.abc import Iterator, Sequence

from sbh_pipelines.database.merge.kept import find_kept
from sbh_pipelines.database.schema import inspect
from sbh_pipelines.database.schema.catalog import ForeignKey
from sbh_pipelines.database.schema.listing import Listing
from sbh_pipelines.database.schema.mapping.ways import foreign_keys, link_fields, required
from sbh_pipelines.database.schema.tenancy import (
    AMBIGUOUS,
    SHARED,
    TENANTS,
    UNMAPPED,
    MappedTable,
    TableStatus,
    TenancyMap,
)
from sbh_pipelines.database.session.connection import Connection
from sbh_pipelines.doctor.findings import Report
from sbh_pipelines.errors import PrivilegeMissing, SbhError, SettingsError, SourceConflict
from sbh_pipelines.settings import Settings
from sbh_pipelines.settings.section import toml, toml_block

AREA = "tenancy"
STRAY_TIMEOUT_S = 20.0
SHOWN = 10


def check(report: Report, connection: Connection, settings: Settings, tenancy: TenancyMap) -> None:
    report.tables.extend((*tenancy.statuses, *tenancy.outside, *tenancy.nearby))
    for status in tenancy.statuses:
        if status.status in (UNMAPPED, AMBIGUOUS):
            name = f"{status.schema}.{status.name}"
            report.fail(AREA, f"The table {name} is {status.status}: backups are refused", status.why, status.remedy)
    _outside(report, settings, tenancy)
    counts = Counter(status.status for status in tenancy.statuses)
    if tenancy.statuses:
        report.ok(AREA, f"Tables: {len(tenancy.statuses)}", ", ".join(f"{n} {kind}" for kind, n in counts.items()))
    else:
        report.fail(AREA, "There is no table", "", "correct database.schemas, or database.dsn")
    if secured := inspect.row_secured(tenancy):
        report.ok(AREA, f"Tables with row security: {len(secured)}", some(secured))
    keyless = [mapped.full_name for mapped in tenancy.tables if not mapped.table.primary_key]
    if keyless:
        report.warn(
            AREA,
            f"Tables without a primary key: {len(keyless)}; a restore compares their rows as a whole, which takes longer",
            some(keyless),
            "add primary keys where you can",
        )
    _kept(report, settings, tenancy)
    _loose(report, tenancy)
    _borders(report, settings, tenancy)


def _kept(report: Report, settings: Settings, tenancy: TenancyMap) -> None:
    """What a tenant's own users never take from a backup: it must be there, or none of them can restore."""
    try:
        kept = find_kept(tenancy, settings.restore.kept, settings.database.schemas)
    except SettingsError as error:
        report.fail(
            AREA, f"{error.what}: no restore by a tenant's own users begins", f"{error.on}: {error.why}", error.remedy
        )
        return
    whole = [
        table.full_name for table in tenancy.tables if table.status == TENANTS and table.full_name not in kept.tables
    ]
    if whole and not kept.columns.keys() & set(whole):
        report.warn(
            AREA,
            "A tenant's admin may put its own row of the tenants table back: a suspension, a plan, a limit",
            f"restore.kept does not name {some(whole)}",
            f"kept = {toml([*(settings.restore.kept or ()), f'{whole[0]}.*'])} under [restore]",
        )
    elif kept.tables or kept.columns:
        names = kept.of(table.full_name for table in tenancy.tables)
        report.ok(AREA, f"Restores by a tenant's own users leave as it is: {len(names)}", some(list(names)))


def some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _outside(report: Report, settings: Settings, tenancy: TenancyMap) -> None:
    _of_schemas(report, settings, tenancy.outside, "not mapped, and hold{} tenants' rows: backups are refused")
    _of_schemas(report, settings, tenancy.nearby, "not mapped, and may hold tenants' rows, which no backup has")
    if tenancy.other_schemas:
        names = [schema for schema, _ in tenancy.other_schemas]
        report.warn(
            AREA,
            f"Schemas that no setting names: {len(names)}; no backup has the rows of their tables",
            some([f"{schema} ({n} table{'s' if n > 1 else ''})" for schema, n in tenancy.other_schemas]),
            f"if that is right: left_out = {toml([*settings.database.left_out, *names])}; if not:"
            f" schemas = {toml([*settings.database.schemas, *names])}",
        )


def _of_schemas(report: Report, settings: Settings, statuses: Sequence[TableStatus], what: str) -> None:
    """A finding a table; one for all of a schema that has many, as of the chunks of a time series."""
    by_schema: dict[str, list[TableStatus]] = {}
    for status in statuses:
        by_schema.setdefault(status.schema, []).append(status)
    for schema, found in by_schema.items():
        if len(found) > SHOWN:
            report.fail(
                AREA,
                f"{len(found)} tables of the schema {schema} are {what.format('')}",
                f"{some([status.name for status in found])}: {found[0].why}",
                f"map it: schemas = {toml([*settings.database.schemas, schema])}; or leave it out on purpose:"
                f" left_out = {toml([*settings.database.left_out, schema])}",
            )
            continue
        for status in found:
            report.fail(AREA, f"The table {schema}.{status.name} is {what.format('s')}", status.why, status.remedy)


def _loose(report: Report, tenancy: TenancyMap) -> None:
    """Tables whose only way to a tenant may be NULL: mapped, and worth a look."""
    loose = [
        mapped.full_name
        for mapped in tenancy.tables
        if mapped.hops and mapped.hops[0].join is None and not required(mapped.table, mapped.hops[0].columns)
    ]
    if loose:
        report.ok(
            AREA,
            f"Tables whose rows are a tenant's by a column that may be NULL: {len(loose)}",
            some(loose),
        )


def _borders(report: Report, settings: Settings, tenancy: TenancyMap) -> None:
    """Shared tables that refer to tenants' rows: they stay as they are when a tenant's rows go or come back."""
    captured = {mapped.table.oid: mapped.full_name for mapped in tenancy.tables}
    for table, key in _shared_keys(tenancy):
        if key.parent not in captured:
            continue
        columns, parent = ", ".join(key.columns), captured[key.parent]
        others = toml([name for name in settings.database.shared if name not in (table, table.partition(".")[2])])
        remedy = f"if each of its rows is one tenant's: shared = {others}, and\n" + toml_block(
            "[[database.links]]", {"table": table, "via": list(key.columns)}
        )
        if key.on_delete == "c":
            report.warn(
                AREA,
                f"Rows of the shared table {table} go with a tenant's row, and do not come back with it",
                f"{key.name}: ({columns}) -> {parent} ON DELETE CASCADE",
                remedy,
            )
        else:
            report.warn(
                AREA,
                f"The shared table {table} refers to tenants' rows",
                f"{key.name}: ({columns}) -> {parent}; a restore of a tenant leaves such rows as they are",
                remedy,
            )


def _shared_keys(tenancy: TenancyMap) -> Iterator[tuple[str, ForeignKey]]:
    for status, table in zip(tenancy.statuses, tenancy.catalog.tables.values(), strict=True):
        if status.status == SHARED:
            for key in foreign_keys(table):
                yield table.full_name, key


def check_rows(
    report: Report, connection: Connection, settings: Settings, tenancy: TenancyMap, listing: Listing | None
) -> None:
    """Rows of nobody, and of tenants that are not listed; each condition that a backup would run is run."""
    clean = True
    keys: list[str] = []
    with report.trying("tenants"):
        keys = inspect.tenant_keys(connection, listing) if listing and listing.column(listing.settings.key) else []
    for mapped in tenancy.tables:
        try:
            if keys:
                inspect.try_condition(connection, mapped, keys)
            found = inspect.stray_rows(connection, mapped, listing, STRAY_TIMEOUT_S)
        except SourceConflict:
            clean = False
            report.warn(
                AREA,
                f"Not looked for rows of no tenant in {mapped.full_name}",
                f"it takes longer than {STRAY_TIMEOUT_S:g} s",
                f"declare {mapped.tenant_column.name} NOT NULL with a foreign key to {listing.full_name if listing else '...'}",
            )
            continue
        except PrivilegeMissing:
            clean = False  # said already, with its GRANT
            continue
        except SbhError as error:
            clean = False
            _cannot_run(report, mapped, error)
            continue
        if found and found.unlinked:
            clean = False
            _nobodys(report, mapped, tenancy, found.unlinked, settings)
        if found and found.unknown_tenant and listing:
            clean = False
            left_out = f" (tenants.where: {listing.settings.where})" if listing.settings.where else ""
            report.warn(
                AREA,
                f"Rows of unlisted tenants in {found.table}: {found.unknown_tenant:,}; no backup has them",
                f"{listing.full_name} does not list these tenants{left_out}",
                f"list their tenants, or remove the rows when nobody needs them; then add a foreign key to {listing.full_name}",
            )
    if clean:
        report.ok(AREA, "Every row of every table of tenants belongs to a listed tenant")


def _cannot_run(report: Report, mapped: MappedTable, error: SbhError) -> None:
    joins = [hop.join for hop in mapped.hops if hop.join is not None]
    if joins:
        report.fail(
            AREA,
            f"The condition of database.links for {mapped.full_name} cannot run: backups fail",
            f"{error.why} [{error.code}]: {joins[0]}",
            "correct `join`: t is the table, p its parent; names of other tables and of functions need their schema,"
            " as in public.projects, or a schema in database.search_path",
        )
        return
    column = mapped.tenant_column
    report.fail(
        AREA,
        f"The rows of {mapped.full_name} cannot be told by tenant: backups fail",
        f"{error.why} [{error.code}]; {column.name} is of type {column.type}",
        "if the column does not name a tenant, map the table in another way:\n"
        + toml_block("[[database.links]]", {"table": mapped.full_name, "tenant_column": "..."}),
    )


def _nobodys(report: Report, mapped: MappedTable, tenancy: TenancyMap, rows: int, settings: Settings) -> None:
    """Rows whose way ends: another way first, if there is one; else they are everybody's, and the platform backup's."""
    hop = mapped.hops[0] if mapped.hops else None
    columns = (mapped.tenant_column.name,) if hop is None else hop.columns
    captured = {t.table.oid: t for t in tenancy.tables}
    others = [key for key in foreign_keys(mapped.table) if key.parent in captured and key.columns != columns]
    other = min(others, key=lambda k: not required(mapped.table, k.columns), default=None)
    remedy = "nothing is to be done if they are for all tenants (built-in rows, templates); else give them a tenant"
    if other is not None:
        always = "is NOT NULL" if required(mapped.table, other.columns) else "may lead to a tenant as well"
        fields = link_fields(mapped.table, other, tenancy.catalog)
        linked = any(link.table in (mapped.full_name, mapped.table.name) for link in settings.database.links)
        how = "in the table's link, in place of what is there" if linked else "to try it"
        block = toml_block("[[database.links]]", {"table": mapped.full_name, **fields})
        remedy += f". But ({', '.join(other.columns)}) -> {captured[other.parent].full_name} {always}; {how}:\n{block}"
    what = f"Rows of no tenant in {mapped.full_name}: {rows:,}; the platform backup has them, no tenant's"
    report.warn(AREA, what, f"{', '.join(columns) or 'the declared condition'} leads to none", remedy)
