"""What the doctor says of tables and tenants: true, and ready to paste."""

import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from sbh_pipelines.doctor import database
from sbh_pipelines.doctor.findings import Report
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.databases import Database, fresh_database

TENANTS = (
    "CREATE TABLE tenants (id int PRIMARY KEY, slug text UNIQUE, region text, tier text);"
    "INSERT INTO tenants VALUES (1, 'one', 'eu-west-1', 'critical'), (2, 'two', 'eu-west-1', 'critical');"
)
Examine = Callable[..., Report]


@pytest.fixture
def app(embedded_stack: Stack) -> Iterator[Database]:
    with fresh_database(embedded_stack) as made:
        yield made


def examined(app: Database, schema: str, **sections: Any) -> Report:
    """The report on a schema, under these fields of the settings' sections."""
    if schema:
        app.run(TENANTS + schema)
    report = Report()
    sections["database"] = {"dsn": app.dsn, **sections.get("database", {})}
    sections["storage"] = {"regions": ["eu-west-1"]}
    database.check(report, Settings(**sections), lambda _: None)
    return report


def said(report: Report, level: str, *words: str) -> str:
    """The only finding of the level with all these words."""
    texts = [f"{f.what}\n{f.detail}\n{f.remedy}" for f in report.findings if f.level == level]
    (found,) = [text for text in texts if all(word in text for word in words)]
    return found


def test_a_shared_table_that_refers_to_tenants_is_pointed_out(app: Database) -> None:
    """And that what goes with a tenant's row does not come back with it."""
    schema = (
        "CREATE TABLE teams (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants);"
        "CREATE TABLE users (id int PRIMARY KEY, current_team_id int REFERENCES teams ON DELETE SET NULL);"
        "CREATE TABLE seen (id int PRIMARY KEY, team int NOT NULL REFERENCES teams ON DELETE CASCADE, u int REFERENCES users);"
    )
    report = examined(app, schema, database={"shared": ["users", "public.seen"]})
    assert report.errors == []
    assert "a restore of a tenant leaves such rows as they are" in said(
        report, "warning", "public.users refers to tenants' rows"
    )
    cascade = said(report, "warning", "public.seen go with a tenant's row", "ON DELETE CASCADE")
    assert 'shared = ["users"]' in cascade
    block = tomllib.loads(cascade[cascade.index("[[database.links]]") :])
    assert block["database"]["links"] == [{"table": "public.seen", "via": ["team"]}]


@pytest.mark.parametrize(
    "join", ["p.id = (SELECT x.id FROM nowhere x WHERE x.id = t.item)", "t.item = p.idd", "t.item = p.id AND"]
)
def test_a_condition_that_does_not_run_is_an_error(app: Database, join: str) -> None:
    """Every backup would fail by it."""
    link = {"table": "notes", "parent": "tenants", "join": join}
    report = examined(app, "CREATE TABLE notes (id int PRIMARY KEY, item int)", database={"links": [link]})
    assert join in said(report, "error", "condition of database.links for public.notes cannot run")


def test_a_tenant_column_that_cannot_hold_the_keys_is_an_error(app: Database) -> None:
    """Rows of a vendor's table, whose `tenant_id` is something else: backups of all tenants would fail by it."""
    report = examined(app, "CREATE TABLE vendors (id int PRIMARY KEY, tenant_id uuid)")
    assert "of type uuid" in said(report, "error", "public.vendors cannot be told by tenant")


def test_rows_of_nobody_are_the_platform_backups_and_another_way_is_named_first(app: Database) -> None:
    schema = (
        "CREATE TABLE roles (id int PRIMARY KEY, tenant_id int REFERENCES tenants); INSERT INTO roles VALUES (1, NULL), (2, 1);"
        "CREATE TABLE projects (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants); INSERT INTO projects VALUES (1, 1);"
        "CREATE TABLE jobs (id int PRIMARY KEY, role_id int REFERENCES roles, project_id int NOT NULL REFERENCES projects);"
        "INSERT INTO jobs VALUES (1, NULL, 1)"
    )
    report = examined(app, schema, database={"links": [{"table": "jobs", "via": ["role_id"]}]})
    assert report.errors == []
    roles = said(report, "warning", "Rows of no tenant in public.roles: 1")
    assert "the platform backup has them" in roles
    jobs = said(report, "warning", "Rows of no tenant in public.jobs: 1")
    assert "(project_id) -> public.projects is NOT NULL" in jobs
    assert "in the table's link" in jobs
    for text in (roles, jobs):
        assert "delete" not in text


def test_other_schemas_are_counted_and_can_be_left_out(app: Database) -> None:
    report = examined(app, "CREATE SCHEMA jobs; CREATE TABLE jobs.clock (at date); CREATE TABLE jobs.tick (at date)")
    text = said(report, "warning", "Schemas that no setting names: 1", "jobs (2 tables)")
    assert 'left_out = ["jobs"]' in text
    again = examined(app, "", database={"left_out": ["jobs"]})
    assert not [f for f in again.warnings if "Schemas that no setting names" in f.what]


def test_a_list_of_tenants_that_may_not_be_read_names_its_grant(app: Database) -> None:
    """A view is no table of the map; its grant mends it all the same."""
    app.run(
        TENANTS
        + "CREATE VIEW live AS SELECT * FROM tenants; CREATE ROLE \"poor reader\" LOGIN PASSWORD 'poor' BYPASSRLS"
    )
    try:
        app.run('GRANT SELECT ON tenants TO "poor reader"')
        parts = parse_dsn(app.dsn) | {"user": "poor reader"}
        parts.pop("passfile", None)
        fields = {"database": {"dsn": make_dsn(**parts), "password": "poor"}, "tenants": {"table": "live"}}
        report = examined(app, "", **fields)
        grant = said(report, "error", "may not read public.live")
        app.run(grant.splitlines()[-1])
        assert not [f for f in examined(app, "", **fields).errors if "public.live" in f.what]
    finally:
        app.run('DROP OWNED BY "poor reader"; DROP ROLE "poor reader"')


def test_many_chunks_in_a_schema_are_one_finding(app: Database) -> None:
    """A time series has thousands; each is named in the map."""
    report = examined(
        app,
        "CREATE TABLE metrics (tenant_id int, at date); CREATE SCHEMA chunks; DO $$ BEGIN FOR n IN 1..15 LOOP"
        " EXECUTE format('CREATE TABLE chunks.part_%s () INHERITS (metrics)', n); END LOOP; END $$",
    )
    text = said(report, "error", "15 tables of the schema chunks are not mapped, and hold tenants' rows")
    assert 'schemas = ["public", "chunks"]' in text
    assert 'left_out = ["chunks"]' in text
    assert sum(status.status == "outside" for status in report.tables) == 15


@pytest.mark.parametrize(
    ("kept", "level", "words"),
    [
        (None, "ok", "public.tenants.*"),
        (["tenants.*", "users.email"], "ok", "public.users.email"),
        (["users.*"], "warning", 'kept = ["users.*", "public.tenants.*"]'),
        (["users.emial"], "error", "users.emial"),
    ],
)
def test_what_a_tenants_own_users_leave_as_it_is(app: Database, kept: list[str] | None, level: str, words: str) -> None:
    tables = "CREATE TABLE users (id int PRIMARY KEY, tenant_id int REFERENCES tenants, email text);"
    assert said(examined(app, tables, restore={"kept": kept}), level, words)
