"""The platform backup: what is in it, how many are kept, what is said where it cannot be made; and roles on another server."""

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import (
    CorruptObject,
    PrivilegeMissing,
    SettingsError,
    SourceError,
    TenancyError,
    UnknownBackup,
)
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.databases import Database, fresh_database
from sbh_pipelines_tests.support.effort import examples
from sbh_pipelines_tests.support.own_server import VERSIONS, own_server
from sbh_pipelines_tests.support.restore.platform import PROGRAMS, READER, content
from sbh_pipelines_tests.support.schemas import NAMES, literal, quoted
from sbh_pipelines_tests.support.values import PLAIN

ROLE = quoted(READER)


@pytest.fixture
def reader(application: Application) -> Iterator[None]:
    """A role of the whole cluster with settings, memberships and grants."""
    database = quoted(application.database.name)
    application.database.run(
        f"CREATE ROLE {ROLE} LOGIN NOINHERIT PASSWORD 'only here' CONNECTION LIMIT 3 VALID UNTIL '2031-02-03'",
        f"GRANT pg_monitor TO {ROLE}; GRANT {ROLE} TO app WITH ADMIN OPTION; GRANT SELECT ON projects TO {ROLE}",
        f"GRANT SET ON PARAMETER log_statement TO {ROLE}",
        f"ALTER ROLE {ROLE} SET work_mem = '8MB'; ALTER ROLE {ROLE} IN DATABASE {database} SET search_path = \"Odd %\", public",
        f"ALTER DATABASE {database} SET \"app.custom\" = 'it''s %'",
        f"REVOKE ALL ON DATABASE {database} FROM PUBLIC; GRANT CONNECT ON DATABASE {database} TO {ROLE} WITH GRANT OPTION",
        f"GRANT CONNECT, CREATE ON DATABASE {database} TO {postgres.BACKUP}",
    )
    yield
    application.database.run(
        f"REVOKE ALL ON PARAMETER log_statement FROM {ROLE}",
        f"DROP OWNED BY {ROLE}",
        f"REVOKE ALL ON DATABASE {database} FROM {ROLE}",
        f"DROP ROLE {ROLE}",
    )


_ROLE_FACTS = f"""
SELECT to_jsonb(r) - 'oid' - 'rolconfig', has_table_privilege(r.oid, 'projects', 'SELECT'),
    has_table_privilege(r.oid, 'projects', 'INSERT'), pg_has_role(r.oid, 'pg_monitor', 'MEMBER'),
    (SELECT m.admin_option FROM pg_auth_members m WHERE m.roleid = r.oid AND m.member = 'app'::regrole),
    has_parameter_privilege(r.oid, 'log_statement', 'SET'),
    has_database_privilege(r.oid, current_database(), 'CONNECT WITH GRANT OPTION'),
    has_database_privilege('sbh_backup', current_database(), 'CREATE'),
    (SELECT array_agg(c ORDER BY c) FROM pg_db_role_setting s, unnest(s.setconfig) c WHERE s.setrole = r.oid),
    (SELECT array_agg(c ORDER BY c) FROM pg_db_role_setting s, unnest(s.setconfig) c WHERE s.setrole = 0
     AND s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())),
    (SELECT count(*) FROM pg_database d, aclexplode(d.datacl) a WHERE d.datname = current_database() AND a.grantee = 0)
FROM pg_roles r WHERE rolname = {literal(READER)}"""


@pytest.mark.usefixtures("reader")
def test_a_new_server_gets_the_roles_but_no_password(application: Application) -> None:
    """Settings and privileges of the database, too; owners are who they were."""
    service = application.service(platform=PROGRAMS)
    service.backups.create_all([ACME, BOLT], ADMIN)
    made = service.platform.create(ADMIN)
    assert made.manifest.components["database"].counts["role"] >= 4
    application.database.run("ALTER TABLE notes OWNER TO app")
    service.platform.create(ADMIN)
    before = application.database.ask(_ROLE_FACTS)
    with own_server() as server:
        target = server.create_database("new")
        report = service.platform.recover(server.dsn().replace("dbname=postgres", "dbname=new"), ADMIN, confirm=True)
        made_roles = set(report.roles_made) - {postgres.JOURNAL}  # which has rights here once a test has journaled
        assert (report.status, made_roles) == ("completed", {"app", READER})
        assert any(difference.startswith("datlocprovider") for difference in report.differences)
        assert target.ask(_ROLE_FACTS) == before
        assert target.ask("SELECT rolname FROM pg_authid WHERE rolpassword IS NOT NULL") == []
        assert target.ask("SELECT tableowner FROM pg_tables WHERE tablename = 'notes'") == [("app",)]
        assert content(target) == content(application.database)
    for stored in application.directory.rglob("*"):
        assert not stored.is_file() or b"only here" not in stored.read_bytes()


def test_a_newer_server_takes_over(tmp_path: Path, embedded_stack: Stack) -> None:
    """What an older release dumped; the report says that the server is another."""
    with own_server(15) as server:
        application = Application(server.create_database("old"), tmp_path)
        application.create()
        programs = {**PROGRAMS, "pg_dump": str(VERSIONS[15] / "pg_dump")}
        service = application.service(platform=programs)
        service.backups.create_all([ACME, BOLT], ADMIN)
        service.platform.create(ADMIN)
        with fresh_database(embedded_stack) as target:
            report = service.platform.recover(_admin(target), ADMIN, confirm=True)
            assert report.status == "completed"
            assert "PostgreSQL 18, was 15" in report.differences
            assert content(target) == content(application.database)


def test_the_newest_are_kept(application: Application) -> None:
    """And the space of the others is given back, in time."""
    now = [datetime.now(UTC)]
    service = application.service(platform={**PROGRAMS, "keep_last": 2}, clock=lambda: now[0])
    service.backups.create_all([ACME], ADMIN)
    made = []
    for _ in range(3):
        made.append(service.platform.create(ADMIN))
        now[0] += timedelta(seconds=1)
    assert [m.id for m in service.platform.backups(ADMIN)] == [made[2].manifest.id, made[1].manifest.id]
    assert [list(m.retention.forgotten) for m in made] == [[], [], [made[0].manifest.id]]
    assert made[2].retention.error is None
    assert service.platform.validate(ADMIN, deep=True).valid


def test_a_damaged_one_is_passed_over(application: Application) -> None:
    """Said, and not silently; where none is left that says why."""
    service = application.service(platform=PROGRAMS)
    with pytest.raises(UnknownBackup, match="sbh platform backup"):
        service.platform.validate(ADMIN)
    service.backups.create_all([ACME, BOLT], ADMIN)
    first = service.platform.create(ADMIN).manifest.id
    second = service.platform.create(ADMIN).manifest.id
    repository = application.bucket / "_sbh-platform"
    (repository / "post-data" / f"{second}.json").unlink()
    with fresh_database(application.database.stack) as target:
        dsn = target.stack.dsn(postgres.ADMIN).replace("dbname=app", f"dbname={target.name}")
        report = service.platform.recover(dsn, ADMIN, confirm=True)
        assert (report.status, report.platform_backup) == ("completed", first)
        assert [issue.code for issue in report.issues] == ["SBH-601"]
    (kept,) = (repository / "restores").iterdir()
    assert report.restore_id in kept.name
    (repository / "manifests" / f"{first}.json").write_text("{}")
    assert [str(error)[:9] for error in service.platform.damaged(ADMIN)] == ["[SBH-601]"]
    with pytest.raises(CorruptObject):
        service.platform.validate(ADMIN)


def test_why_it_cannot_be_made(application: Application, tmp_path: Path) -> None:
    """No program, an old one, one that fails, no right to read, an unmapped table. Nothing is published then."""
    old, broken = tmp_path / "old", tmp_path / "broken"
    old.write_text(
        "#!/bin/sh\n[ $1 = --version ] && exec echo 'pg_dump 17.6'\necho 'pg_dump: error: server version mismatch' >&2; exit 1"
    )
    broken.write_text("#!/bin/sh\n[ $1 = --version ] && exec echo 'pg_dump 18.1'\necho half a dump\nexit 3")
    for program, kind, words in (
        ("/nowhere/pg_dump", SettingsError, "platform.pg_dump"),
        (old, SettingsError, "older than the server"),
        (broken, SourceError, "pg_dump failed"),
    ):
        with suppress(OSError):
            Path(program).chmod(0o755)
        with pytest.raises(kind, match=words):
            application.service(platform={**PROGRAMS, "pg_dump": str(program)}).platform.create(ADMIN)
    service = application.service(platform=PROGRAMS)
    application.database.run("CREATE TABLE stray (id int)")
    with pytest.raises(TenancyError, match="stray"):
        service.platform.create(ADMIN)
    poor = application.database.stack.dsn("app").replace("dbname=app", f"dbname={application.database.name}")
    application.database.run("DROP TABLE stray; ALTER TABLE tenants OWNER TO app")
    with pytest.raises((PrivilegeMissing, SourceError), match="permission denied"):
        application.service(platform=PROGRAMS, database={"dsn": poor}).platform.create(ADMIN)
    assert service.platform.backups(ADMIN) == []


def _rows(draw: Callable[..., Any], kinds: list[str]) -> list[tuple[str | None, ...]]:
    row = st.tuples(*(st.none() | PLAIN[kind].values for kind in kinds))
    return list(draw(st.lists(row, max_size=8)))


@st.composite
def shared(draw: Callable[..., Any]) -> dict[str, tuple[list[tuple[str, str]], list[tuple[str | None, ...]]]]:
    """Shared tables by name: columns with their kinds, and rows."""
    tables = {}
    for name in draw(
        st.lists(st.sampled_from([n for n in NAMES if "." not in n]), min_size=3, max_size=5, unique=True)
    ):
        columns = draw(
            st.lists(
                st.tuples(st.sampled_from(NAMES), st.sampled_from(sorted(PLAIN))),
                min_size=1,
                max_size=5,
                unique_by=lambda c: c[0],
            )
        )
        tables[name] = (columns, _rows(draw, [kind for _, kind in columns]))
    return tables


@settings(
    max_examples=examples(2),
    phases=[Phase.reuse, Phase.generate],  # shrinking takes minutes: each example makes two databases
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(tables=shared())
def test_shared_rows_come_back(
    application: Application, tables: dict[str, tuple[list[tuple[str, str]], list[tuple[str | None, ...]]]]
) -> None:
    """Whatever they are called and hold."""
    with fresh_database(application.database.stack) as source, fresh_database(application.database.stack) as target:
        with closing(source.connect()) as connection:
            cursor = connection.cursor()
            cursor.execute("CREATE TABLE tenants (id int PRIMARY KEY, slug text, region text, tier text)")
            cursor.execute("CREATE SCHEMA s; CREATE EXTENSION vector")
            for name, (columns, rows) in tables.items():
                listed = ", ".join(f"{quoted(column)} {PLAIN[kind].sql}" for column, kind in columns)
                cursor.execute(f"CREATE TABLE s.{quoted(name)} ({listed})")
                for row in rows:
                    with suppress(psycopg2.DatabaseError):
                        cursor.execute(f"INSERT INTO s.{quoted(name)} VALUES ({', '.join(map(literal, row))})")
        database = {"dsn": source.dsn, "schemas": ["public", "s"], "shared": [f"s.{name}" for name in tables]}
        service = application.service(database=database, platform={**PROGRAMS, "prefix": f"_{source.name}/"})
        service.platform.create(ADMIN)
        report = service.platform.recover(_admin(target), ADMIN, confirm=True)
        assert report.status == "completed"
        assert content(target) == content(source)


def _admin(database: Database) -> str:
    return database.stack.dsn(postgres.ADMIN).replace("dbname=app", f"dbname={database.name}")
