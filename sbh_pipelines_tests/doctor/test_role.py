"""What doctor asks of the role: each want is named with the statement that mends it."""

from contextlib import closing

import pytest

from sbh_pipelines.database.schema import inspect
from sbh_pipelines.database.schema.tenancy import survey_map
from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.doctor import role
from sbh_pipelines.doctor.findings import Finding, Level, Report
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.databases import Database, fresh_database

SCHEMA = """
CREATE TABLE tenants (id int PRIMARY KEY, slug text, region text, tier text);
CREATE FUNCTION of_index(text) RETURNS text LANGUAGE sql IMMUTABLE RETURN lower($1);
CREATE TABLE notes (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, body text);
CREATE INDEX ON notes (of_index(body));
CREATE SCHEMA "Odd one";
"""
ROLE = "sbh_hardened"


@pytest.fixture
def hardened(embedded_stack: Stack) -> object:
    """A database whose role has a name that needs quotes, and every privilege at first."""
    with fresh_database(embedded_stack) as made:
        made.run(
            SCHEMA,
            f"CREATE ROLE {ROLE} LOGIN BYPASSRLS CREATEDB",
            f"GRANT pg_read_all_data, pg_write_all_data TO {ROLE}",
            f"GRANT SET ON PARAMETER session_replication_role TO {ROLE}",
            f"GRANT CREATE, TEMPORARY ON DATABASE {made.name} TO {ROLE}",
        )
        yield made
        made.run(f"REVOKE ALL ON DATABASE {made.name} FROM {ROLE}", f"DROP OWNED BY {ROLE}", f"DROP ROLE {ROLE}")


def wants(database: Database, **fields: object) -> list[Finding]:
    """Errors and warnings that are about the role."""
    dsn = f"{database.dsn} options='-c role={ROLE}'"
    database.run(f"GRANT {ROLE} TO sbh_backup WITH SET TRUE")
    settings = Settings(database={"dsn": dsn, **fields})  # type: ignore[arg-type]
    report = Report()
    with closing(connect(settings.database, "test")) as connection:
        facts = inspect.server_facts(connection)
        assert facts.role == ROLE
        role.check(report, connection, settings, facts)
        role.check_tables(report, connection, settings, survey_map(connection, settings), facts)
    return [finding for finding in report.findings if finding.level is not Level.OK]


def test_a_role_that_may_all_of_it_wants_nothing(hardened: Database) -> None:
    assert wants(hardened) == []


@pytest.mark.parametrize(
    ("damage", "level", "statement"),
    [
        (
            "REVOKE EXECUTE ON FUNCTION pg_export_snapshot() FROM PUBLIC",
            Level.ERROR,
            f'GRANT EXECUTE ON FUNCTION pg_catalog.pg_export_snapshot() TO "{ROLE}";',
        ),
        (
            "REVOKE EXECUTE ON FUNCTION of_index FROM PUBLIC",
            Level.ERROR,
            f'GRANT EXECUTE ON FUNCTION public.of_index(text) TO "{ROLE}";',
        ),
        (f"ALTER ROLE {ROLE} NOCREATEDB", Level.WARNING, f'ALTER ROLE "{ROLE}" CREATEDB; or let drill.dsn name another server'),
        (
            f"REVOKE pg_read_all_data FROM {ROLE}; GRANT SELECT ON tenants, notes TO {ROLE}; CREATE TABLE \"Odd one\".t (id serial)",
            Level.WARNING,
            f'GRANT pg_read_all_data TO "{ROLE}";',
        ),
        (f"ALTER ROLE {ROLE} CREATEROLE", Level.ERROR, f'ALTER ROLE "{ROLE}" NOCREATEROLE;'),
        (
            f"GRANT pg_execute_server_program TO {ROLE}",
            Level.ERROR,
            f'REVOKE pg_execute_server_program FROM "{ROLE}";',
        ),
        (
            f"ALTER ROLE {ROLE} SUPERUSER",
            Level.ERROR,
            f'ALTER ROLE "{ROLE}" NOSUPERUSER BYPASSRLS; then run `sbh doctor` for the grants',
        ),
        (
            "ALTER TABLE notes OWNER TO app",
            Level.WARNING,
            "give them to the application's owner (ALTER ... OWNER TO), or say that these roles are trusted, under [database]:"
            ' trusted_owners = ["app"]',
        ),
        ("GRANT CREATE ON SCHEMA public TO PUBLIC", Level.WARNING, 'REVOKE CREATE ON SCHEMA "public" FROM PUBLIC;'),
        ("ALTER SYSTEM SET zero_damaged_pages = on", Level.ERROR, f'ALTER ROLE "{ROLE}" SET zero_damaged_pages = off;'),
    ],
)  # fmt: skip
def test_each_want_is_mended_by_its_statement(hardened: Database, damage: str, level: Level, statement: str) -> None:
    for part in damage.split(";"):
        hardened.run(part)
    hardened.reload()
    try:
        found = [finding for finding in wants(hardened, excluded=[]) if finding.area in ("database", "platform")]
        assert [(finding.level, finding.remedy) for finding in found] == [(level, statement)]
    finally:
        hardened.run("ALTER SYSTEM RESET ALL")
        hardened.reload()


def test_a_schema_of_the_path_that_the_role_may_not_use(hardened: Database) -> None:
    hardened.run(f"REVOKE pg_read_all_data, pg_write_all_data FROM {ROLE}", f"GRANT ALL ON tenants, notes TO {ROLE}")
    found = wants(hardened, search_path=["public", "Odd one"])
    assert [finding.remedy for finding in found] == [f'GRANT USAGE ON SCHEMA "Odd one" TO "{ROLE}";']


def test_a_schema_of_the_path_that_anybody_may_make(hardened: Database) -> None:
    """Before its owner does."""
    (found,) = wants(hardened, search_path=["public", "later"])
    assert "later is not there" in found.what


@pytest.mark.parametrize(
    "hidden",
    [
        "CREATE INDEX ON notes (id) WHERE theirs(1)",
        "CREATE INDEX ON notes ((theirs(id)))",
        "ALTER TABLE notes ADD CHECK (theirs(id))",
        "ALTER TABLE notes ADD COLUMN g boolean DEFAULT theirs(1)",
        "ALTER TABLE notes ADD COLUMN g boolean GENERATED ALWAYS AS (theirs(id)) STORED",
        "CREATE STATISTICS ON (theirs(id)), (id + 1) FROM notes",
        "CREATE DOMAIN d AS int CHECK (theirs(VALUE)); ALTER TABLE notes ADD COLUMN g d",
        "CREATE OPERATOR ~~~ (FUNCTION = theirs, RIGHTARG = int); ALTER TABLE notes ADD CHECK (~~~ id)",
        "CREATE TRIGGER g BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION fires(); ALTER TABLE notes ENABLE ALWAYS TRIGGER g",
    ],
)
def test_whose_code_runs_with_the_roles_rights(hardened: Database, hidden: str) -> None:
    """Wherever it hides; not that of triggers which do not fire in a restore, and of roles that the settings trust."""
    hardened.run(
        "CREATE FUNCTION theirs(int) RETURNS boolean LANGUAGE sql IMMUTABLE RETURN true; ALTER FUNCTION theirs OWNER TO app",
        "CREATE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; ALTER FUNCTION fires OWNER TO app",
        "CREATE TRIGGER quiet BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION fires()",
    )
    assert wants(hardened) == []
    hardened.run(hidden)
    (found,) = wants(hardened)
    name = "fires()" if "TRIGGER" in hidden else "theirs(integer)"
    assert f"function public.{name} of app" in found.detail
    assert wants(hardened, trusted_owners=["app"]) == []
