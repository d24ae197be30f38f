"""The database: can a backup read it, can a restore write it, is every table and every tenant accounted for."""

from collections.abc import Callable
from contextlib import closing

from sbh_pipelines.database.schema import inspect
from sbh_pipelines.database.schema.inspect import ServerFacts, unholdable_parents
from sbh_pipelines.database.schema.listing import find_listing
from sbh_pipelines.database.schema.tenancy import TenancyMap, survey_map
from sbh_pipelines.database.session.connection import Connection, connect, describe_dsn
from sbh_pipelines.database.session.programs import program_version
from sbh_pipelines.database.session.sql import ident
from sbh_pipelines.doctor import contents, tables, tenants, transit
from sbh_pipelines.doctor.findings import Level, Report
from sbh_pipelines.doctor.machine import check_clock
from sbh_pipelines.settings import Settings

AREA = "database"
OLDEST_VERSION = 130000


def check(report: Report, settings: Settings, say: Callable[[str], None]) -> dict[str, str]:
    """Check the database; the regions of the tenants found, by slug, for checks of what belongs to them."""
    with report.trying(AREA), closing(connect(settings.database, "doctor")) as connection:
        facts = inspect.server_facts(connection)
        _server(report, settings, facts)
        transit.check_session(report, connection)
        _programs(report, settings, facts)
        _check_role(report, facts)
        with report.trying("tenancy"):
            listing = find_listing(connection, settings)
            tenancy = survey_map(connection, settings)
            tables.check(report, connection, settings, tenancy)
            _privileges(report, connection, tenancy, facts)
            _check_parents(report, connection, tenancy, facts)
            say("rows of no tenant")
            tables.check_rows(report, connection, tenancy, listing)
            contents.check(report, connection, tenancy)
        with report.trying("tenants"):
            return tenants.check(report, connection, settings, find_listing(connection, settings))
    return {}


def _server(report: Report, settings: Settings, facts: ServerFacts) -> None:
    place = describe_dsn(settings.database.dsn)
    report.ok(AREA, "The database answers", f"{place}, PostgreSQL {facts.version_text}")
    if facts.version < OLDEST_VERSION:
        report.fail(
            AREA, "The server is too old", f"PostgreSQL {facts.version_text}; 13 is the oldest", "upgrade the server"
        )
    if facts.in_recovery:
        report.warn(
            AREA,
            "The database is a standby: backups work, restores do not",
            place,
            "for restores point database.dsn at the primary",
        )
    check_clock(report, "the database server", facts.clock_offset_s)


def _programs(report: Report, settings: Settings, facts: ServerFacts) -> None:
    """pg_dump refuses a server that is newer than itself."""
    for name, program in (("pg_dump", settings.platform.pg_dump), ("psql", settings.platform.psql)):
        with report.trying("platform", level=Level.WARNING):
            version = program_version(program)
            if version // 10_000 < facts.version // 10_000:
                report.warn(
                    "platform",
                    f"{name} is older than the server: the platform cannot be backed up",
                    f"{program}: {version // 10_000}; the server: {facts.version // 10_000}",
                    f"install the server's client programs, and name {name} in platform.{name}",
                )
            else:
                report.ok("platform", f"{name} is as new as the server", f"{program}, version {version // 10_000}")


def _privileges(report: Report, connection: Connection, tenancy: TenancyMap, facts: ServerFacts) -> None:
    with report.trying(AREA):
        missing = inspect.missing_privileges(connection, tenancy, facts.role)
        for privileges in missing:
            # Without these there is no backup; without the others only no restore. Both are needed one day.
            blocks = "backups" if {"SELECT", "USAGE"} & set(privileges.missing) else "restores"
            report.fail(
                AREA,
                f"The role {facts.role} lacks privileges on {privileges.name}: {blocks} fail",
                ", ".join(privileges.missing),
                privileges.statement,
            )
        if not missing:
            report.ok(AREA, f"The role {facts.role} may read and write all {len(tenancy.tables)} tables of tenants")


def _check_role(report: Report, facts: ServerFacts) -> None:
    role = ident(facts.role)
    needs = (
        (facts.bypasses_row_security, "see all rows where tables have row security", f"ALTER ROLE {role} BYPASSRLS;"),
        (
            facts.may_set_replication_role,
            "keep triggers from firing in a restore",
            f"GRANT SET ON PARAMETER session_replication_role TO {role};",
        ),
        (
            facts.may_use_temporary,
            "create temporary tables, which a restore stages rows in",
            f"GRANT TEMPORARY ON DATABASE {ident(facts.database)} TO {role};",
        ),
    )
    for granted, what, remedy in needs:
        if granted:
            report.ok(AREA, f"The role {facts.role} may {what}")
        else:
            old = facts.version < 150000 and "PARAMETER" in remedy
            report.fail(
                AREA, f"The role {facts.role} may not {what}", "", f"ALTER ROLE {role} SUPERUSER;" if old else remedy
            )
    if facts.may_create_schemas:
        report.ok(AREA, f"The role {facts.role} may create schemas, which `sbh restore run --into-schema` needs")
    else:
        # Nothing else needs it, so that its want is no warning.
        grant = f"GRANT CREATE ON DATABASE {ident(facts.database)} TO {role};"
        report.ok(AREA, f"The role {facts.role} may not create schemas: no `sbh restore run --into-schema`", grant)
    if facts.superuser:
        report.warn(
            AREA,
            f"The role {facts.role} is a superuser: more than it needs",
            "",
            f"ALTER ROLE {role} NOSUPERUSER BYPASSRLS; then run `sbh doctor` for the grants",
        )


def _check_parents(report: Report, connection: Connection, tenancy: TenancyMap, facts: ServerFacts) -> None:
    """Whether a restore may hold the rows of shared tables that tenants' rows refer to."""
    with report.trying(AREA):
        for privileges in unholdable_parents(connection, tenancy, facts.role):
            report.fail(
                AREA,
                f"The role {facts.role} may not hold rows of {privileges.name}: restores fail",
                f"tenants' rows refer to it; missing {', '.join(privileges.missing)}",
                privileges.statement,
            )
