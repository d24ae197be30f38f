"""The database: can a backup read it, can a restore write it, is every table and every tenant accounted for."""

from collections.abc import Callable
from contextlib import closing

from sbh_pipelines.database.merge.transaction import restore_database
from sbh_pipelines.database.schema import inspect
from sbh_pipelines.database.schema.inspect import ServerFacts
from sbh_pipelines.database.schema.listing import find_listing
from sbh_pipelines.database.schema.tenancy import TenancyMap, survey_map
from sbh_pipelines.database.session.connection import describe_dsn, look
from sbh_pipelines.database.session.programs import check_pg_dump, lets_names_out, program_version
from sbh_pipelines.doctor import contents, journal, looks, role, tables, tenants, transit
from sbh_pipelines.doctor.findings import Level, Report
from sbh_pipelines.doctor.machine import check_clock
from sbh_pipelines.settings import Settings

AREA = "database"
OLDEST_VERSION = 140000


def check(report: Report, settings: Settings, say: Callable[[str], None]) -> dict[str, str]:
    """Check the database; the regions of the tenants found, by slug, for checks of what belongs to them."""
    with report.trying(AREA), closing(look(settings.database, "doctor")) as connection:
        facts = inspect.server_facts(connection)
        _server(report, settings, facts)
        transit.check_session(report, connection)
        _programs(report, settings, facts)
        looks.check(report, connection)
        role.check(report, connection, settings, facts)
        with report.trying("tenancy"):
            listing = find_listing(connection, settings)
            tenancy = survey_map(connection, settings)
            tables.check(report, connection, settings, tenancy)
            role.check_tables(report, connection, settings, tenancy, facts)
            _restores(report, settings, tenancy)
            say("rows of no tenant")
            tables.check_rows(report, connection, settings, tenancy, listing)
            contents.check(report, connection, tenancy)
            say("change journal")
            journal.check(report, settings, tenancy)
        with report.trying("tenants"):
            return tenants.check(report, connection, settings, find_listing(connection, settings))
    return {}


def _restores(report: Report, settings: Settings, tenancy: TenancyMap) -> None:
    """The role of restores, where it is another."""
    if settings.restore.dsn is not None:
        with report.trying(AREA), closing(look(restore_database(settings), "doctor")) as connection:
            facts = inspect.server_facts(connection)
            role.check_writer(report, connection, settings, facts)
            role.check_writers_tables(report, connection, settings, tenancy, facts)


def _server(report: Report, settings: Settings, facts: ServerFacts) -> None:
    place = describe_dsn(settings.database.dsn)
    report.ok(AREA, "The database answers", f"{place}, PostgreSQL {facts.version_text}")
    if facts.version < OLDEST_VERSION:
        report.fail(
            AREA, "The server is too old", f"PostgreSQL {facts.version_text}; 14 is the oldest", "upgrade the server"
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
    with report.trying("platform", level=Level.WARNING):
        program = settings.platform.pg_dump
        version = program_version(program)
        if lets_names_out(version):
            with report.trying("platform"):
                check_pg_dump(program)
        elif version // 10_000 < facts.version // 10_000:
            report.warn(
                "platform",
                "pg_dump is older than the server: the platform cannot be backed up",
                f"{program}: {version // 10_000}; the server: {facts.version // 10_000}",
                "install the server's client programs, and name pg_dump in platform.pg_dump",
            )
        else:
            told = f"{version // 10_000}.{version % 10_000}"
            report.ok("platform", "pg_dump is as new as the server", f"{program}, version {told}")
