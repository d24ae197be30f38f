"""A tenant's admin wants names that everybody uses to be found in a schema of the tenant's old rows: hooks, assertions, applications.

What stops them: the system names the schema, only the platform may ask for one, and sessions never look where a role's name leads.
"""

import re
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from sbh_pipelines.database.rebuild.new_schema import NewSchema
from sbh_pipelines.database.schema.mapping.outside import COPIES
from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.doctor import looks
from sbh_pipelines.doctor.findings import Report
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import AccessDenied, LookRefused
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.databases import fresh_database

MALLORY = UserContext("mallory", BOLT, Role.ADMIN, "api")
NAME = re.compile(r"sbh_look_bolt_\d{8}_\d{6}")


@pytest.fixture
def application(embedded_stack: Stack, application_template: str, tmp_path: Path) -> Iterator[Application]:
    with fresh_database(embedded_stack, application_template) as database:
        database.run(f"GRANT CREATE ON DATABASE {database.name} TO {postgres.BACKUP}")
        made = Application(database, tmp_path)
        made.create_files()
        yield made


def _schemas(application: Application) -> list[str]:
    found = application.database.ask(
        "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname NOT IN ('public', 'information_schema') ORDER BY 1"
    )
    return [name for (name,) in found]


def test_a_tenants_admin_gets_no_schema(application: Application) -> None:
    """Unless the settings say so; then none of their naming."""
    service = application.service()
    service.backups.create(BOLT, ADMIN)
    with pytest.raises(AccessDenied):
        service.restores.into_schema("latest", BOLT, MALLORY, postgres.BACKUP)
    assert _schemas(application) == []
    allowing = application.service(restore={"looks_by_tenants": True})
    copy = allowing.restores.into_schema("latest", BOLT, MALLORY, postgres.BACKUP)
    assert NAME.fullmatch(copy.schema)
    assert _schemas(application) == [copy.schema]
    with pytest.raises(AccessDenied):
        allowing.restores.into_schema("latest", ACME, MALLORY, "x")


def test_a_schema_named_like_the_role_captures_nothing(application: Application) -> None:
    """However it came to be there: hooks and assertions use the application's tables."""
    application.database.run(
        f"CREATE SCHEMA {postgres.BACKUP} AUTHORIZATION {postgres.BACKUP}",
        f"CREATE TABLE {postgres.BACKUP}.tenants AS SELECT * FROM public.tenants",
        f"CREATE TABLE {postgres.BACKUP}.notes AS SELECT * FROM public.notes",
        f"ALTER TABLE {postgres.BACKUP}.tenants OWNER TO {postgres.BACKUP}",
    )
    hook = {"sql": "UPDATE tenants SET tier = 'archive' WHERE id = :tenant"}
    service = application.service(
        restore={"before": [hook], "safety_backup": False},
        database={"left_out": [postgres.BACKUP]},
        drill={"assertions": ["SELECT current_schemas(true) = ARRAY['pg_catalog', 'public']::name[]"]},
    )
    service.backups.create(ACME, ADMIN)
    service.restores.run("latest", ACME, ADMIN)
    captured = f"SELECT tier FROM {postgres.BACKUP}.tenants WHERE id = 1"
    assert application.database.ask(captured) == [("critical",)]


def test_nobody_fills_the_disk_with_copies(application: Application) -> None:
    """One at a time for a tenant, none larger than the settings say, and none stays for ever."""
    now = [datetime.now(UTC)]
    service = application.service(clock=lambda: now[0])
    service.backups.create_all([ACME, BOLT], ADMIN)
    first = service.restores.into_schema("latest", BOLT, ADMIN)
    with pytest.raises(LookRefused, match="drop-look") as refused:
        service.restores.into_schema("latest", BOLT, ADMIN, "again")
    assert first.schema in str(refused.value)
    service.restores.into_schema("latest", ACME, ADMIN)
    with pytest.raises(LookRefused, match="look_mib"):
        application.service(restore={"look_mib": 0}).restores.into_schema("latest", BOLT, ADMIN)
    now[0] += timedelta(days=3, minutes=1)
    dropped = service.restores.drop_expired_looks(ADMIN)
    assert first.schema in dropped.dropped
    assert _schemas(application) == []


def test_what_others_change_meanwhile_is_not_laid_to_it(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a database at work somebody makes a table, empties one, or grants a right while the rows are copied."""
    service = application.service()
    service.backups.create(BOLT, ADMIN)
    fill = NewSchema.fill

    def busy(target: NewSchema, *arguments: Any) -> int:
        if not application.database.ask("SELECT to_regclass('public.of_others')")[0][0]:
            application.database.run("CREATE TABLE of_others (n int)", "GRANT SELECT ON of_others TO PUBLIC")
        application.database.run("TRUNCATE of_others")
        return fill(target, *arguments)

    monkeypatch.setattr(NewSchema, "fill", busy)
    copy = service.restores.into_schema("latest", BOLT, ADMIN)
    assert sum(table.rows for table in copy.tables)
    with pytest.raises(LookRefused):
        service.restores.into_schema("latest", BOLT, ADMIN)


def test_only_what_is_ours_is_ever_dropped(application: Application) -> None:
    """A comment that says so makes no schema of somebody else's a copy."""
    service = application.service()
    service.backups.create(BOLT, ADMIN)
    copy = service.restores.into_schema("latest", BOLT, ADMIN)
    comment = application.database.ask(
        "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = %s", (copy.schema,)
    )[0][0]
    with closing(application.database.connect()) as connection:
        cursor = connection.cursor()
        cursor.execute(
            "CREATE SCHEMA sbh_look_bolt_20200101_000000; CREATE TABLE sbh_look_bolt_20200101_000000.kept (n int)"
        )
        cursor.execute("COMMENT ON SCHEMA sbh_look_bolt_20200101_000000 IS %s", (comment.replace("202", "200"),))
        cursor.execute("COMMENT ON SCHEMA public IS %s", (comment.replace("202", "200"),))
    assert service.restores.drop_expired_looks(ADMIN).dropped == ()
    assert _schemas(application) == ["sbh_look_bolt_20200101_000000", copy.schema]
    with pytest.raises(AccessDenied):
        service.restores.drop_look(copy.schema, BOLT, MALLORY)


def test_doctor_finds_what_earlier_releases_made(application: Application) -> None:
    """Under a name that a caller chose: a role's is an error."""
    for name in (postgres.BACKUP, "old"):
        application.database.run(
            f"CREATE SCHEMA {name}", f"COMMENT ON SCHEMA {name} IS '{COPIES.replace(chr(39), chr(39) * 2)}'"
        )
    report = Report()
    with closing(connect(application.settings.database, "test")) as connection:
        looks.check(report, connection)
    (error,), (warning,) = report.errors, report.warnings
    assert postgres.BACKUP in error.what
    assert warning.remedy == 'DROP SCHEMA "old" CASCADE;'


def test_nobody_else_may_look(application: Application) -> None:
    """Not even where the database's owner opened everything new to everybody."""
    application.database.run(
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {postgres.BACKUP} GRANT USAGE ON SCHEMAS TO PUBLIC",
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {postgres.BACKUP} GRANT SELECT ON TABLES TO PUBLIC",
    )
    service = application.service()
    service.backups.create(BOLT, ADMIN)
    copy = service.restores.into_schema("latest", BOLT, ADMIN)
    with (
        closing(application.database.connect("app")) as connection,
        pytest.raises(psycopg2.errors.InsufficientPrivilege),
    ):
        connection.cursor().execute(f"SELECT * FROM {copy.schema}.notes")
    application.database.run(
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {postgres.BACKUP} REVOKE USAGE ON SCHEMAS FROM PUBLIC",
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {postgres.BACKUP} REVOKE SELECT ON TABLES FROM PUBLIC",
    )
