"""Who may name an object, a label, a bound, a comment or a setting of their own role wants the name run as SQL by backup or restore.

What stops them: names are quoted as identifiers, values as literals, and of what the server says only what it quoted itself is used.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg2.extensions import make_dsn

from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.databases import Database
from sbh_pipelines_tests.support.own_server import VERSIONS, OwnServer, own_server
from sbh_pipelines_tests.support.schemas import literal, quoted

# In whatever kind of quotes it lands: it ends them, and does harm.
EVIL = "DROP TABLE canary;--"
NAME = f"n'\"$$;{EVIL}\n\\! %s {{0}} é"
N, L = quoted(NAME), literal(NAME)

_HOSTILE = r"""
CREATE TABLE canary (id int);
CREATE ROLE <N> LOGIN;
CREATE SCHEMA <N>;
CREATE DOMAIN <N>.<d> AS text CHECK (VALUE <> [L]);
CREATE TYPE <N>.<e> AS ENUM ([L], 'b');
CREATE COLLATION <N>.<c> (provider = libc, locale = 'C');
CREATE SEQUENCE <N>.<s>;
CREATE FUNCTION <N>.<f>(text) RETURNS text LANGUAGE sql IMMUTABLE AS <<body>>;
CREATE TABLE <N>.<N> (
    <i> int PRIMARY KEY, tenant_id int NOT NULL, code text COLLATE <N>.<c> DEFAULT [L],
    <1> <N>.<d>, <2> <N>.<e> DEFAULT [L],
    <3> int DEFAULT nextval(<<nextval>>),
    CONSTRAINT <x> CHECK (code <> [no]),
    CONSTRAINT <y> UNIQUE (code),
    CONSTRAINT <z> FOREIGN KEY (tenant_id) REFERENCES tenants);
CREATE INDEX <j> ON <N>.<N> (<N>.<f>(code)) WHERE code <> [L];
CREATE STATISTICS <N>.<t> ON tenant_id, code FROM <N>.<N>;
INSERT INTO <N>.<N> VALUES (1, 1, [L], 'x', [L]), (2, 1, 'b', [v], 'b'), (3, 2, 'c', NULL, NULL);
COMMENT ON TABLE <N>.<N> IS [L];
COMMENT ON CONSTRAINT <x> ON <N>.<N> IS [L];
CREATE VIEW <N>.<w> AS SELECT [L] AS <N> FROM <N>.<N>;
CREATE PUBLICATION <N> FOR TABLE <N>.<N>;
ALTER TABLE <N>.<N> ENABLE ROW LEVEL SECURITY;
CREATE POLICY <N> ON <N>.<N> TO <N> USING (code <> [L]);
GRANT SELECT ON <N>.<N> TO <N>;
ALTER DEFAULT PRIVILEGES FOR ROLE <N> GRANT SELECT ON TABLES TO <N>;
ALTER ROLE <N> SET search_path TO [L], 'a;DROP TABLE canary;--';
ALTER ROLE <N> SET application_name TO [L];
"""


def _hostile() -> str:
    """`<x>` is a name of ours, `[x]` a literal."""
    made = _HOSTILE.replace("<<nextval>>", literal(f"{N}.{quoted(NAME + 's')}")).replace(
        "<<body>>", literal(f"SELECT $1 || {L}")
    )
    made = made.replace("<N>", N).replace("[L]", L)
    made = re.sub(r"<(\w+)>", lambda found: quoted(NAME + found[1]), made)
    return re.sub(r"\[(\w+)\]", lambda found: literal(NAME + found[1]), made)


@pytest.fixture(params=sorted(VERSIONS))
def server(request: pytest.FixtureRequest) -> Iterator[OwnServer]:
    with own_server(request.param) as made:
        made.database("postgres").run(f"ALTER ROLE {postgres.BACKUP} CREATEDB")
        yield made


def _unharmed(database: Database) -> None:
    assert database.ask("SELECT to_regclass('public.canary') IS NOT NULL") == [(True,)]
    assert database.ask("SELECT rolname FROM pg_roles WHERE rolsuper") == [(postgres.ADMIN,)]


def test_names_stay_names(server: OwnServer, tmp_path: Path) -> None:
    """Through backup, restore, a look, a drill and the rebuild of the whole, and they come back as they were."""
    application = Application(server.create_database("app"), tmp_path)
    application.create()
    application.database.run(_hostile(), f"GRANT CREATE ON DATABASE app TO {postgres.BACKUP}")
    application.database.run(
        f"ALTER DATABASE app SET search_path TO public, {L}", f"GRANT CONNECT ON DATABASE app TO {N}"
    )
    service = application.service(
        database={"schemas": ["public", NAME], "shared": ["canary"]},
        platform={"pg_dump": str(VERSIONS[server.version] / "pg_dump")},
        restore={"fill": {}, "safety_backup": True},
    )
    service.backups.create_all([ACME, BOLT], ADMIN)
    service.platform.create(ADMIN)
    rows = f"SELECT * FROM {N}.{N} ORDER BY 1"
    before = application.database.ask(rows)
    application.database.run(f"DELETE FROM {N}.{N} WHERE tenant_id = 1")
    assert service.restores.plan("latest", ACME, ADMIN).problems == ()
    service.restores.run("latest", ACME, ADMIN)
    assert application.database.ask(rows) == before
    look = service.restores.into_schema("latest", ACME, ADMIN, NAME.replace("\n", " ")[:60])
    assert application.database.ask(f"SELECT count(*) FROM {look.schema}.{N}") == [(2,)]
    service.restores.drop_look(look.schema, ACME, ADMIN)
    drill = service.drills.run(ACME, ADMIN, scenarios=["database corruption"])
    assert (drill.status, drill.error) == ("passed", None)
    _unharmed(application.database)
    with own_server(server.version) as other:
        empty = other.create_database("new")
        report = service.platform.recover(make_dsn(other.dsn(), dbname="new"), ADMIN, confirm=True, files=False)
        assert (report.status, report.left_out) == ("completed", [])
        assert NAME in report.roles_made
        assert empty.ask(rows) == before
        _unharmed(empty)
        settings = "SELECT setconfig FROM pg_db_role_setting WHERE setrole <> 0"
        assert empty.ask(settings) == application.database.ask(settings)


def test_a_bound_that_ends_the_statement(application: Application) -> None:
    """Of a partition: what a plan proposes for rows without one is made from it. A COMMIT would take the restore's proof away."""
    bound = (
        "zz') TO ('::text)) v(edge) WHERE edge <= first), NULL FROM (SELECT chr(113) AS first) x;"
        " COMMIT; CREATE SCHEMA app; DROP TABLE public.canary; --"
    )
    application.database.run(
        "CREATE TABLE canary (id int); ALTER TABLE canary OWNER TO sbh_backup",
        f"GRANT CREATE ON DATABASE {application.database.name} TO sbh_backup",
        "CREATE TABLE parts (tenant_id int NOT NULL REFERENCES tenants, code text PRIMARY KEY) PARTITION BY RANGE (code)",
        f"CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('a') TO ({literal(bound)})",
        "CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM ('zzz') TO ('zzzz')",
        "INSERT INTO parts VALUES (1, 'b'), (1, 'zzzb')",
    )
    service = application.service(database={"shared": ["canary"]})
    service.backups.create(ACME, ADMIN)
    application.database.run("DROP TABLE parts_2")
    plan = service.restores.plan("latest", ACME, ADMIN)
    (difference,) = [one for one in plan.schema if one.change == "dropped partition"]
    assert f"FROM ({literal(bound)}) TO (MAXVALUE)" in difference.remedy
    assert application.database.ask(
        "SELECT to_regclass('public.canary') IS NOT NULL, to_regnamespace('app') IS NULL"
    ) == [(True, True)]
