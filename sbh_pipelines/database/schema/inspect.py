"""What `sbh doctor` asks of the database: server, privileges of the role, stray rows, tenants table. Reads only."""

from dataclasses import dataclass
from datetime import UTC, datetime

from sbh_pipelines.database.schema.listing import Listing
from sbh_pipelines.database.schema.tenancy import TENANTS, MappedTable, TenancyMap
from sbh_pipelines.database.session import search_path
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.database.session.sql import ident, sql_name

TABLE_PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE")
_SET_ROLE_PRIVILEGE = 150000  # from here on SET on a parameter can be granted; before, only superusers may


_MORE = """
SELECT a.name FROM pg_roles r
CROSS JOIN LATERAL (VALUES ('CREATEROLE', r.rolcreaterole), ('REPLICATION', r.rolreplication)) a(name, has)
WHERE r.rolname = current_user AND a.has
UNION ALL SELECT p.rolname::text FROM pg_roles p WHERE p.rolname IN (
    'pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files', 'pg_signal_backend', 'pg_create_subscription')
AND pg_has_role(current_user, p.oid, 'MEMBER')"""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """The server and the role that asks."""

    version: int  # server_version_num
    version_text: str
    database: str
    role: str
    superuser: bool
    bypasses_row_security: bool
    may_set_replication_role: bool
    may_use_temporary: bool
    may_create_schemas: bool
    may_create_databases: bool
    more_than_needed: tuple[str, ...]  # attributes and memberships with which code of a table's owner could do harm
    in_recovery: bool
    clock_offset_s: float  # server's clock minus ours


@dataclass(frozen=True, slots=True)
class TablePrivileges:
    """What the role may not do with one table or sequence; `statement` is the GRANT that mends it."""

    name: str
    missing: tuple[str, ...]
    statement: str


@dataclass(frozen=True, slots=True)
class StrayRows:
    """Rows of one table that are no tenant's: without a tenant, or of one that the tenants table does not list."""

    table: str
    unlinked: int
    unknown_tenant: int


@dataclass(frozen=True, slots=True)
class TenantRow:
    key: str | None
    slug: str | None
    region: str | None
    tier: str | None
    live: bool = True  # it satisfies the condition that the table itself has for slugs to be unique


def server_facts(connection: Connection) -> ServerFacts:
    with translated("ask the server what it is"), own_names(connection):
        cursor = connection.cursor()
        before = datetime.now(UTC)
        cursor.execute("SELECT clock_timestamp()")
        server_time = cursor.fetchone()[0]
        after = datetime.now(UTC)
        cursor.execute(
            "SELECT current_setting('server_version_num')::int, current_setting('server_version'), current_database(),"
            " rolname, rolsuper, rolbypassrls, has_database_privilege(current_database(), 'TEMPORARY'),"
            " has_database_privilege(current_database(), 'CREATE'), rolcreatedb, pg_is_in_recovery()"
            " FROM pg_roles WHERE rolname = current_user"
        )
        version, text, database, role, superuser, bypass, temporary, create, databases, recovery = cursor.fetchone()
        cursor.execute(_MORE)
        more = tuple(str(name) for (name,) in cursor.fetchall())
        may_set = superuser
        if version >= _SET_ROLE_PRIVILEGE and not superuser:
            cursor.execute("SELECT has_parameter_privilege('session_replication_role', 'SET')")
            may_set = cursor.fetchone()[0]
    # Beyond what the question took: a busy server, or line, is no clock that is off.
    offset = (server_time - min(max(server_time, before), after)).total_seconds()
    return ServerFacts(
        version,
        text,
        database,
        role,
        superuser,
        superuser or bypass,
        may_set,
        temporary,
        create,
        superuser or databases,
        more,
        recovery,
        offset,
    )


def listing_privileges(connection: Connection, listing: Listing) -> list[TablePrivileges]:
    """What the role lacks to read the list of tenants, where that is a view: no table of the map."""
    with translated("read the role's privileges"):
        cursor = connection.cursor()
        cursor.execute("SELECT has_table_privilege(%s::oid, 'SELECT'), current_user", (listing.oid,))
        held, role = cursor.fetchone()
        if held:
            return []
    return [TablePrivileges(listing.full_name, ("SELECT",), f"GRANT SELECT ON {sql_name(listing)} TO {ident(role)};")]


def missing_privileges(
    connection: Connection, tenancy: TenancyMap, role: str, *, writes: bool = True
) -> list[TablePrivileges]:
    """Tables and sequences of the map on which a backup or, where the role `writes`, a restore would be refused."""
    tables = {mapped.table.oid: mapped.table for mapped in tenancy.tables}
    sequences = {c.sequence for table in tables.values() for c in table.columns if c.sequence}
    found = []
    with translated("read the role's privileges"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(
            "SELECT t.oid::bigint, array_agg(p.name ORDER BY p.nth) FROM unnest(%s::oid[]) AS t(oid)"
            " CROSS JOIN unnest(%s::text[]) WITH ORDINALITY AS p(name, nth)"
            " WHERE NOT has_table_privilege(t.oid, p.name) GROUP BY 1",
            (list(tables), list(TABLE_PRIVILEGES) if writes else ["SELECT"]),
        )
        for oid, missing in cursor.fetchall():
            grant = f"GRANT {', '.join(missing)} ON {sql_name(tables[oid])} TO {ident(role)};"
            found.append(TablePrivileges(tables[oid].full_name, tuple(missing), grant))
        cursor.execute(
            "SELECT s FROM unnest(%s::text[]) AS s WHERE NOT has_sequence_privilege(s, 'SELECT, UPDATE')"
            " OR NOT has_sequence_privilege(s, %s)",
            (sorted(sequences), "UPDATE" if writes else "SELECT, UPDATE"),
        )
        for (name,) in cursor.fetchall():
            wanted = ("UPDATE",) if writes else ("SELECT",)
            grant = f"GRANT {'SELECT, UPDATE' if writes else 'SELECT'} ON SEQUENCE {name} TO {ident(role)};"
            found.append(TablePrivileges(name, wanted, grant))
        cursor.execute(
            "SELECT s FROM unnest(%s::text[]) AS s WHERE NOT has_schema_privilege(s, 'USAGE')",
            (sorted({table.schema for table in tables.values()}),),
        )
        for (name,) in cursor.fetchall():
            found.append(TablePrivileges(name, ("USAGE",), f"GRANT USAGE ON SCHEMA {ident(name)} TO {ident(role)};"))
    return sorted(found, key=lambda privileges: privileges.name)


def writable_tables(connection: Connection, tenancy: TenancyMap) -> list[str]:
    """Tables of the map that the role may write."""
    with translated("read the role's privileges"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(
            "SELECT oid::regclass::text FROM unnest(%s::oid[]) AS t(oid) WHERE has_table_privilege(oid, 'INSERT, UPDATE, DELETE')"
            " ORDER BY 1",
            ([mapped.table.oid for mapped in tenancy.tables],),
        )
        return [name for (name,) in cursor.fetchall()]


def unholdable_parents(connection: Connection, tenancy: TenancyMap, role: str) -> list[TablePrivileges]:
    """Tables that tenants' rows refer to without being tenants' tables, and whose rows a restore may not hold.

    `FOR KEY SHARE` keeps such a row from being deleted until the restore commits; it needs UPDATE on one column at least.
    """
    captured = {mapped.table.oid for mapped in tenancy.tables}
    catalog = tenancy.catalog
    keys = [key for mapped in tenancy.tables for key in mapped.table.foreign_keys]
    keys += [key for key in catalog.outside_keys if key.table in captured]
    known = {**catalog.outside, **catalog.tables}
    parents = {key.parent: known[key.parent] for key in keys if key.parent not in captured and key.parent in known}
    found = []
    with translated("read the role's privileges"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(
            "SELECT oid::bigint, has_table_privilege(oid, 'SELECT'), has_any_column_privilege(oid, 'UPDATE')"
            " FROM unnest(%s::oid[]) AS t(oid)",
            (list(parents),),
        )
        for oid, readable, holdable in cursor.fetchall():
            missing = [name for name, held in (("SELECT", readable), ("UPDATE", holdable)) if not held]
            if missing:
                grant = f"GRANT {', '.join(missing)} ON {sql_name(parents[oid])} TO {ident(role)};"
                found.append(TablePrivileges(parents[oid].full_name, tuple(missing), grant))
    return sorted(found, key=lambda privileges: privileges.name)


_UNREADABLE = """
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't' AND n.nspname <> 'information_schema' AND left(n.nspname, 3) <> 'pg_'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e')
  AND NOT CASE c.relkind WHEN 'S' THEN has_sequence_privilege(c.oid, 'SELECT') ELSE has_table_privilege(c.oid, 'SELECT') END
ORDER BY 1"""

_OF_PATH = """
SELECT n.nspname::text, has_schema_privilege(n.oid, 'USAGE'),
       EXISTS (SELECT FROM aclexplode(n.nspacl) a WHERE a.grantee = 0 AND a.privilege_type = 'CREATE')
FROM pg_namespace n WHERE n.nspname = ANY(%s) ORDER BY 1"""


def unreadable_relations(connection: Connection) -> list[str]:
    """Tables and sequences of the database, in SQL, that the role may not read; extensions' own are not dumped."""
    with translated("read the role's privileges"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_UNREADABLE)
        return [name for (name,) in cursor.fetchall()]


def schemas_of_path(connection: Connection) -> list[tuple[str, bool, bool]]:
    """(schema, whether the role may use it, whether every role may create in it) of the application's search path."""
    with translated("read the role's privileges"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_OF_PATH, (search_path.split(connection.application_path),))
        return [(name, usable, everybody) for name, usable, everybody in cursor.fetchall() if name != "pg_catalog"]


def missing_of_path(connection: Connection, there: list[str]) -> list[str]:
    """Schemas of the application's search path that do not exist; without `public`, which is in every path."""
    known = {*there, "public", "pg_catalog", "pg_temp"}
    return [name for name in search_path.split(connection.application_path) if name not in known]


def not_settable(connection: Connection, names: list[str]) -> list[str]:
    """Those of these parameters that the role was not granted to set. From PostgreSQL 15 on."""
    with translated("read the role's privileges"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(
            "SELECT n FROM unnest(%s::text[]) n WHERE NOT has_parameter_privilege(n, 'SET') ORDER BY 1", (names,)
        )
        return [name for (name,) in cursor.fetchall()]


def switched_on(connection: Connection, names: list[str]) -> list[str]:
    """Those of these settings that are on in this session."""
    with translated("read the session's settings"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute("SELECT name FROM pg_settings WHERE name = ANY(%s) AND setting = 'on' ORDER BY 1", (names,))
        return [name for (name,) in cursor.fetchall()]


def row_secured(tenancy: TenancyMap) -> list[str]:
    """Captured tables with row security: a role without BYPASSRLS would be refused."""
    return [mapped.full_name for mapped in tenancy.tables if mapped.table.row_security]


def stray_rows(
    connection: Connection, mapped: MappedTable, listing: Listing | None, timeout_s: float
) -> StrayRows | None:
    """Rows of one table that no tenant's backup holds; None where the schema itself rules them out.

    Scans the table, for at most `timeout_s`: past that it raises SourceConflict.
    """
    if listing is None or mapped.status == TENANTS or _cannot_stray(mapped, listing):
        return None
    unlisted = f"NOT EXISTS (SELECT FROM {listing.source} WHERE {_same_tenant(mapped, listing)})"
    with translated("look for rows of no tenant", on=mapped.full_name):
        cursor = connection.cursor()
        cursor.execute("SELECT set_config('statement_timeout', %s, false)", (str(int(timeout_s * 1000)),))
        try:
            cursor.execute(f"SELECT count(*) FROM {mapped.own_source} WHERE {mapped.belongs_to_nobody}")
            nobodys = cursor.fetchone()[0]
            cursor.execute(f"SELECT count(*) FROM {mapped.source} WHERE {mapped.tenant} IS NOT NULL AND {unlisted}")
            strangers = cursor.fetchone()[0]
        finally:
            cursor.execute("SELECT set_config('statement_timeout', '0', false)")
    return StrayRows(mapped.full_name, nobodys, strangers)


def _same_tenant(mapped: MappedTable, listing: Listing) -> str:
    """Condition: the row's tenant is `listed`, as the application sees it."""
    key = listing.settings.key
    listed = listing.column(key)
    if listed is not None and listed.type == mapped.tenant_column.type:
        return f"listed.{ident(key)} {listed.equality} {mapped.tenant}"
    return f"listed.{ident(key)}::text = {mapped.tenant}::text"


def _cannot_stray(mapped: MappedTable, listing: Listing) -> bool:
    """True where NOT NULL columns and foreign keys tie every row to a listed tenant."""
    if not mapped.always_belongs or listing.oid != listing.base or listing.settings.where:
        return False
    last = mapped.hops[-1].parent if mapped.hops else mapped.table
    columns = (mapped.tenant_column.name,)
    return last.oid == listing.base or any(
        key.columns == columns and key.parent == listing.base for key in last.foreign_keys
    )


def user_schemas(connection: Connection) -> list[str]:
    """The schemas that have tables, other than the server's own."""
    with translated("look for schemas"):
        cursor = connection.cursor()
        cursor.execute(
            "SELECT DISTINCT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p')"
            " AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'sbh_recovery') ORDER BY 1"
        )
        return [name for (name,) in cursor.fetchall()]


def tenant_keys(connection: Connection, listing: Listing, most: int = 1000) -> list[str]:
    """Keys of tenants, as they are listed; not more than `most`."""
    with translated("read the tenants table", on=listing.full_name):
        cursor = connection.cursor()
        cursor.execute(
            f"SELECT listed.{ident(listing.settings.key)}::text FROM {listing.source} ORDER BY 1 LIMIT {most}"
        )
        return [key for (key,) in cursor.fetchall() if key is not None]


def try_condition(connection: Connection, mapped: MappedTable, keys: list[str]) -> None:
    """Plan what a backup reads of the table. Raises the source's errors: a key that the column cannot hold, a name that is not
    there."""
    with translated("read a table", on=mapped.full_name):
        connection.cursor().execute(f"EXPLAIN SELECT FROM {mapped.source} WHERE {mapped.tenant_is(keys)}")


def tenant_rows(connection: Connection, listing: Listing) -> list[TenantRow]:
    """The tenants as they are listed, unchecked; raises SettingsError when a column that the settings name is missing."""
    listing.check()
    with translated("read the tenants table", on=listing.full_name):
        cursor = connection.cursor()
        cursor.execute(f"{listing.select} ORDER BY 1, 2")
        return [TenantRow(key, slug, region, tier, live) for slug, key, region, tier, live, _ in cursor.fetchall()]
