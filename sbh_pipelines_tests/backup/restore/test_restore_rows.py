"""What a restore of rows must get right beyond bytes: keys, constraints, other tenants, sequences, refusals."""

import uuid
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from psycopg2.extensions import make_dsn

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.database.merge import pace
from sbh_pipelines.errors import ProofFailed, RestoreRefused, SbhError, SchemaMismatch, SourceConflict
from sbh_pipelines.model import Progress
from sbh_pipelines_tests.support.application import ADMIN, Application
from sbh_pipelines_tests.support.databases import Database
from sbh_pipelines_tests.support.schemas import literal
from sbh_pipelines_tests.support.values import DEFINITIONS, OWN, PLAIN

TENANTS = """
CREATE TABLE tenants (id int PRIMARY KEY, slug text UNIQUE, region text, tier text);
INSERT INTO tenants VALUES (1, 'acme', 'eu-west-1', NULL), (2, 'bolt', 'eu-west-1', NULL);
"""


class Scene:
    """A database with tenants `acme` (1) and `bolt` (2) and the tables of one test."""

    def __init__(self, database: Database, directory: Path, schema: str, /, **settings: Any) -> None:
        self.database = database
        database.run(TENANTS + schema)
        self.application = Application(database, directory)
        self.service: BackupService = self.application.service(**settings)
        self.backup_id = ""

    def back_up(self) -> None:
        self.backup_id = self.service.create_backup("acme", ADMIN)["id"]

    def restore(self) -> dict[str, Any]:
        return self.service.restore_backup(self.backup_id, "acme", ADMIN)

    def refused(self, kind: type[SbhError]) -> str:
        """The restore is refused, and no table has changed; the error's text."""
        before = self.everything()
        with pytest.raises(kind) as caught:
            self.restore()
        assert self.everything() == before
        return str(caught.value)

    def everything(self) -> dict[str, bytes]:
        tables = self.database.ask(
            "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        return {t: self.database.copy(f"SELECT ctid, xmin, z.* FROM ONLY {t} z ORDER BY 1") for (t,) in tables}

    def copy(self, table: str) -> bytes:
        return self.database.copy(f"SELECT * FROM {table} z ORDER BY z::text")


@pytest.fixture
def scene(database: Database, tmp_path: Path) -> Callable[..., Scene]:
    def make(schema: str, **settings: Any) -> Scene:
        return Scene(database, tmp_path, schema, **settings)

    return make


def test_every_type_and_every_value(scene: Callable[..., Scene], database: Database) -> None:
    """A table with a column of every type: each listed value comes back as it was, and NULL is not the empty string."""
    kinds = {n: k for n, k in {**PLAIN, **OWN}.items() if n not in ("vector", "xml")}
    for definition in DEFINITIONS:
        database.run(definition.format(schema="public"))
    columns = {n: f'"{nth} {n}"'.replace('""', '"') for nth, n in enumerate(kinds) if '"' not in n}
    listed = ", ".join(f"{c} {kinds[n].sql.format(schema='public')}" for n, c in columns.items())
    made = scene(f"CREATE TABLE wide (tenant_id int, nr serial PRIMARY KEY, {listed})")
    rows = 0
    for name, column in columns.items():
        values = ", ".join(f"(1, {literal(value)})" for value in kinds[name].listed)
        database.run(f"INSERT INTO wide (tenant_id, {column}) VALUES {values}")
        rows += len(kinds[name].listed)
    database.run("INSERT INTO wide (tenant_id) VALUES (1), (2)")
    assert rows > 400
    before = made.copy("wide")
    made.back_up()
    database.run(
        "DELETE FROM wide WHERE nr % 2 = 0 AND tenant_id = 1",
        "UPDATE wide SET tenant_id = 1 WHERE tenant_id = 1 AND nr % 3 = 0",
    )
    result = made.restore()
    assert made.copy("wide") == before
    assert result["rows_inserted"] == rows // 2 + (rows % 2)


@pytest.mark.parametrize("body", ["1 MB", "larger than a row group"])
def test_large_values(scene: Callable[..., Scene], database: Database, body: str) -> None:
    """Rows of a MiB with every awkward character, and one row longer than a group may be."""
    repeats = {"1 MB": 60_000, "larger than a row group": 400_000}[body]
    made = scene("CREATE TABLE big (tenant_id int, id int PRIMARY KEY, body text, bytes bytea)")
    database.run(
        f"INSERT INTO big SELECT 1, n, repeat(E'tab\\tnl\\n\\\\\\\\.\\\\N' || chr(128512), {repeats}), decode(repeat('00ff', 1000), 'hex')"
        " FROM generate_series(1, 3) n"
    )
    before = made.copy("big")
    made.back_up()
    database.run("UPDATE big SET body = left(body, 10) WHERE id = 2; DELETE FROM big WHERE id = 3")
    made.restore()
    assert made.copy("big") == before


def test_only_what_differs_is_written(scene: Callable[..., Scene], database: Database) -> None:
    """Of a table of many groups, one damaged row costs one group's download and one row's write."""
    made = scene(
        "CREATE TABLE big (tenant_id int, id int PRIMARY KEY, body text);"
        "INSERT INTO big SELECT 1 + n % 2, n, (SELECT string_agg(md5((n * k)::text), '') FROM generate_series(1, 30) k)"
        " FROM generate_series(1, 16000) n"
    )
    made.back_up()
    before = made.database.copy("SELECT id, xmin FROM big WHERE id <> 7000 ORDER BY 1")
    database.run("UPDATE big SET body = 'ruined' WHERE id = 7000")
    result = made.restore()
    (big,) = [t for t in result["tables"] if t["table"] == "public.big"]
    assert big["groups"] >= 6
    assert big["groups"] - big["groups_matching"] <= 2
    assert (big["inserted"], big["updated"], big["deleted"]) == (0, 1, 0)
    assert made.database.copy("SELECT id, xmin FROM big WHERE id <> 7000 ORDER BY 1") == before


def test_pauses_lie_between_the_statements(
    scene: Callable[..., Scene], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before them all: the others' statements are to find a server that is idle in between."""
    made = scene(
        "CREATE TABLE big (tenant_id int, id int PRIMARY KEY, body text);"
        "INSERT INTO big SELECT 1, n, repeat('x', 300) FROM generate_series(1, 2000) n",
        restore={"safety_backup": False, "batch_rows": 100, "pause_ms": 7},
    )
    made.back_up()
    database.run("DELETE FROM big")
    events: list[str] = []
    monkeypatch.setattr(pace.time, "sleep", lambda seconds: events.append("pause" if seconds == 0.007 else "other"))

    def notice(step: Progress) -> None:
        if step.step == "restore: merge":
            events.append("written")

    made.service.restore_backup(made.backup_id, "acme", ADMIN, progress=notice)
    wrote = events[events.index("written") + 1 :]  # the first says that it begins
    assert wrote.count("written") >= 10
    assert wrote == ["written", *["pause", "written"] * (wrote.count("written") - 1)]


@pytest.mark.parametrize(("batch_s", "rested"), [(0.25, True), (0.001, False)], ids=["a busy server", "an idle one"])
def test_a_pace_changes_nothing_but_the_time(
    scene: Callable[..., Scene], database: Database, monkeypatch: pytest.MonkeyPatch, batch_s: float, rested: bool
) -> None:
    """A restore that writes for long rests between its batches, in proportion to them; one that is over at once does not."""
    made = scene(
        "CREATE TABLE big (tenant_id int, id int PRIMARY KEY, body text);"
        "INSERT INTO big SELECT 1, n, repeat('x', 300) FROM generate_series(1, 2000) n",
        restore={"safety_backup": False, "batch_rows": 100, "pace": 3.0},
    )
    before = made.copy("big")
    made.back_up()
    database.run("DELETE FROM big WHERE id % 2 = 0; UPDATE big SET body = 'ruined' WHERE id % 3 = 0")
    rests: list[float] = []
    ticks = count()
    clock = SimpleNamespace(monotonic=lambda: batch_s * next(ticks), sleep=rests.append)
    monkeypatch.setattr(pace, "time", clock)
    result = made.restore()
    assert made.copy("big") == before
    assert result["rows_inserted"] == 1000
    assert result["proof"]["rows"] == 1000 + result["rows_updated"]
    assert set(rests) == ({3 * batch_s} if rested else set())
    assert (len(rests) >= 10) == rested


def test_rows_without_a_key_below_a_row_that_was_added(scene: Callable[..., Scene], database: Database) -> None:
    """Keyless children of a parent that the backup does not have go with it: none is left pointing nowhere."""
    made = scene(
        "CREATE TABLE jobs (tenant_id int, id int PRIMARY KEY); CREATE TABLE log (job int REFERENCES jobs, line text);"
        "INSERT INTO jobs VALUES (1, 1), (2, 2); INSERT INTO log VALUES (1, 'a'), (1, 'a'), (1, NULL), (2, 'b')"
    )
    before = made.copy("log")
    made.back_up()
    database.run("INSERT INTO jobs VALUES (1, 3); INSERT INTO log VALUES (3, 'x'), (3, 'x'), (1, 'a')")
    result = made.restore()
    assert made.copy("log") == before
    assert result["rows_deleted"] == 4


def test_duplicate_rows_are_counted(scene: Callable[..., Scene], database: Database) -> None:
    """A table without a key is a multiset: three equal rows come back as three."""
    made = scene(
        "CREATE TABLE bag (tenant_id int, v text); INSERT INTO bag VALUES (1, 'x'), (1, 'x'), (1, 'x'), (1, ''), (1, NULL), (2, 'x')"
    )
    before = made.copy("bag")
    made.back_up()
    database.run(
        "DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag WHERE v = 'x' AND tenant_id = 1);"
        "INSERT INTO bag VALUES (1, ''), (1, 'new')"
    )
    made.restore()
    assert made.copy("bag") == before


def test_a_primary_key_with_included_columns(scene: Callable[..., Scene], database: Database) -> None:
    """Columns of INCLUDE are no part of the key; NULL in them must not hide a row."""
    made = scene(
        "CREATE TABLE k (tenant_id int, id int, name text, PRIMARY KEY (id) INCLUDE (name));"
        "INSERT INTO k VALUES (1, 1, NULL), (1, 2, 'b'), (1, 3, NULL)"
    )
    before = made.copy("k")
    made.back_up()
    database.run("UPDATE k SET name = 'changed' WHERE id = 1; UPDATE k SET name = NULL WHERE id = 2")
    made.restore()
    assert made.copy("k") == before


def test_a_key_of_an_extension_type(scene: Callable[..., Scene], database: Database) -> None:
    """The key's equality operator is not in pg_catalog; the key, and a foreign key to it, work all the same."""
    if not database.ask("SELECT FROM pg_available_extensions WHERE name = 'vector'"):
        pytest.skip("the server has no extension with a type of its own")
    database.run("CREATE EXTENSION vector")
    made = scene(
        "CREATE TABLE v (tenant_id int, id vector(2) PRIMARY KEY, body text); CREATE TABLE c (v vector(2) REFERENCES v, n int);"
        "INSERT INTO v VALUES (1, '[1,2]', 'a'), (1, '[3,4]', 'b'); INSERT INTO c VALUES ('[1,2]', 1), ('[3,4]', 2)"
    )
    before = made.copy("v"), made.copy("c")
    made.back_up()
    database.run(
        "DELETE FROM c WHERE n = 2; DELETE FROM v WHERE body = 'b'; UPDATE v SET body = 'z'; INSERT INTO v VALUES (1, '[0,0]')"
    )
    made.restore()
    assert (made.copy("v"), made.copy("c")) == before


def test_foreign_keys_in_a_circle(scene: Callable[..., Scene], database: Database) -> None:
    """Tables that refer to each other, and to themselves, are put back whole."""
    made = scene(
        "CREATE TABLE a (tenant_id int, id int PRIMARY KEY, b int, up int REFERENCES a);"
        "CREATE TABLE b (tenant_id int, id int PRIMARY KEY, a int REFERENCES a);"
        "ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b DEFERRABLE INITIALLY DEFERRED;"
        "INSERT INTO a SELECT 1, n, NULL, nullif(n - 1, 0) FROM generate_series(1, 9) n;"
        "INSERT INTO b SELECT 1, n, 10 - n FROM generate_series(1, 9) n; UPDATE a SET b = id"
    )
    before = made.copy("a"), made.copy("b")
    made.back_up()
    database.run("UPDATE a SET b = NULL, up = NULL; DELETE FROM b; DELETE FROM a WHERE id > 3")
    result = made.restore()
    assert (made.copy("a"), made.copy("b")) == before
    assert result["proof"]["foreign_keys"] == 3


def test_values_that_swapped_places_under_a_unique_key(scene: Callable[..., Scene], database: Database) -> None:
    made = scene(
        "CREATE TABLE u (tenant_id int, id int PRIMARY KEY, place int UNIQUE, EXCLUDE USING btree (place WITH =));"
        "INSERT INTO u SELECT 1, n, n FROM generate_series(1, 5) n"
    )
    before = made.copy("u")
    made.back_up()
    database.run("UPDATE u SET place = place + 100; UPDATE u SET place = 106 - place")
    made.restore()
    assert made.copy("u") == before


@pytest.mark.parametrize(
    "constraint",
    [
        "UNIQUE (code)",
        "UNIQUE (code) DEFERRABLE INITIALLY DEFERRED",
        "UNIQUE NULLS NOT DISTINCT (code) DEFERRABLE",
        "EXCLUDE USING btree (code WITH =)",
        "EXCLUDE USING btree (lower(code) WITH =) WHERE (code IS NOT NULL) DEFERRABLE",
    ],
)
def test_a_value_that_another_tenant_has_taken(
    scene: Callable[..., Scene], database: Database, constraint: str
) -> None:
    """The restore is refused and rolled back, also where the server itself would not look (deferrable constraints)."""
    made = scene(
        f"CREATE TABLE u (tenant_id int, id int PRIMARY KEY, code text, {constraint});"
        "INSERT INTO u VALUES (1, 1, 'x'), (1, 2, 'y'), (2, 3, 'z')"
    )
    made.back_up()
    database.run("DELETE FROM u WHERE id = 1; UPDATE u SET code = 'x' WHERE id = 3")
    assert "u_" in made.refused(RestoreRefused)


def test_nulls_that_are_not_distinct(scene: Callable[..., Scene], database: Database) -> None:
    made = scene(
        "CREATE TABLE u (tenant_id int, id int PRIMARY KEY, code text, UNIQUE NULLS NOT DISTINCT (code) DEFERRABLE);"
        "INSERT INTO u VALUES (1, 1, NULL), (2, 3, 'z')"
    )
    made.back_up()
    database.run("DELETE FROM u WHERE id = 1; UPDATE u SET code = NULL WHERE id = 3")
    made.refused(RestoreRefused)


def test_a_row_that_moved_to_another_tenant(scene: Callable[..., Scene], database: Database) -> None:
    """Its key is the other tenant's now: refused, and the other tenant keeps it."""
    made = scene(
        "CREATE TABLE t (tenant_id int, id int PRIMARY KEY, body text); CREATE TABLE c (t int REFERENCES t, id int PRIMARY KEY);"
        "INSERT INTO t VALUES (1, 1, 'a'), (1, 2, 'b'); INSERT INTO c VALUES (1, 1), (2, 2)"
    )
    made.back_up()
    database.run("UPDATE t SET tenant_id = 2 WHERE id = 2")
    assert "held by rows of bolt: id = 2" in made.refused(RestoreRefused)


def test_a_child_that_moved_to_a_parent_of_another_tenant(scene: Callable[..., Scene], database: Database) -> None:
    made = scene(
        "CREATE TABLE t (tenant_id int, id int PRIMARY KEY); CREATE TABLE c (t int REFERENCES t, id int PRIMARY KEY);"
        "INSERT INTO t VALUES (1, 1), (2, 2); INSERT INTO c VALUES (1, 1), (1, 2)"
    )
    made.back_up()
    database.run("UPDATE c SET t = 2 WHERE id = 2")
    made.refused(RestoreRefused)


def test_another_tenants_row_refers_to_one_that_would_go(scene: Callable[..., Scene], database: Database) -> None:
    """No foreign key is broken anywhere, not only among the tenant's own rows."""
    made = scene(
        "CREATE TABLE t (tenant_id int, id int PRIMARY KEY, sees int REFERENCES t); INSERT INTO t VALUES (1, 1, NULL), (2, 2, 1)"
    )
    made.back_up()
    database.run("INSERT INTO t VALUES (1, 3, NULL); UPDATE t SET sees = 3 WHERE id = 2")
    assert "t_sees_fkey" in made.refused(RestoreRefused)


def test_a_row_of_a_shared_table_refers_to_one_that_would_go(scene: Callable[..., Scene], database: Database) -> None:
    made = scene(
        "CREATE TABLE t (tenant_id int, id int PRIMARY KEY); CREATE TABLE featured (t int REFERENCES t); INSERT INTO t VALUES (1, 1)",
        database={"shared": ["featured"]},
    )
    made.back_up()
    database.run("INSERT INTO t VALUES (1, 3); INSERT INTO featured VALUES (3)")
    assert "featured" in made.refused(RestoreRefused)


def test_foreign_keys_to_and_from_other_schemas(scene: Callable[..., Scene], database: Database) -> None:
    """Tables outside database.schemas are not backed up, but the foreign keys that cross the border are held."""
    made = scene(
        "CREATE SCHEMA other; CREATE TABLE other.currency (code text PRIMARY KEY); INSERT INTO other.currency VALUES ('EUR'), ('USD');"
        "CREATE TABLE t (tenant_id int, id int PRIMARY KEY, currency text REFERENCES other.currency);"
        "CREATE TABLE other.watch (t int REFERENCES t); INSERT INTO t VALUES (1, 1, 'EUR'), (1, 2, 'USD')"
    )
    made.back_up()
    database.run("DELETE FROM t WHERE id = 1; DELETE FROM other.currency WHERE code = 'EUR'")
    assert "currency" in made.refused(RestoreRefused)
    database.run(
        "INSERT INTO other.currency VALUES ('EUR'); INSERT INTO t VALUES (1, 9, 'USD'); INSERT INTO other.watch VALUES (9)"
    )
    assert "watch" in made.refused(RestoreRefused)
    database.run("DELETE FROM other.watch")
    made.restore()
    assert database.ask("SELECT id FROM t ORDER BY 1") == [(1,), (2,)]


def test_a_shared_parent_that_is_gone(scene: Callable[..., Scene], database: Database) -> None:
    made = scene(
        "CREATE TABLE plans (id int PRIMARY KEY); INSERT INTO plans VALUES (1), (2);"
        "CREATE TABLE t (tenant_id int, id int PRIMARY KEY, plan int REFERENCES plans); INSERT INTO t VALUES (1, 1, 1), (1, 2, 2)",
        database={"shared": ["plans"]},
    )
    made.back_up()
    database.run("DELETE FROM t WHERE plan = 2; DELETE FROM plans WHERE id = 2")
    assert "plans" in made.refused(RestoreRefused)


def test_children_of_inheritance_are_no_parents_of_a_foreign_key(
    scene: Callable[..., Scene], database: Database
) -> None:
    """A foreign key looks at the table itself: an equal row in a table that inherits from it does not satisfy it."""
    made = scene(
        "CREATE TABLE base (tenant_id int, id int PRIMARY KEY); CREATE TABLE sub (PRIMARY KEY (id)) INHERITS (base);"
        "CREATE TABLE c (tenant_id int, id int PRIMARY KEY, base int REFERENCES base);"
        "INSERT INTO base VALUES (2, 7); INSERT INTO c VALUES (1, 1, 7); INSERT INTO sub VALUES (1, 8)"
    )
    made.back_up()
    database.run("DELETE FROM c; DELETE FROM ONLY base; INSERT INTO sub VALUES (1, 7)")
    made.refused(RestoreRefused)


@pytest.mark.parametrize("generated", ["ALWAYS", "BY DEFAULT"])
def test_identities_go_on_after_a_restore(scene: Callable[..., Scene], database: Database, generated: str) -> None:
    """Also where the sequence had been set back: the next row gets a number nobody has."""
    made = scene(
        f'CREATE TABLE t (tenant_id int, "Nr" int GENERATED {generated} AS IDENTITY PRIMARY KEY, s serial, n bigserial);'
        "INSERT INTO t (tenant_id) SELECT 1 FROM generate_series(1, 50)"
    )
    made.back_up()
    database.run("TRUNCATE t RESTART IDENTITY")
    made.restore()
    assert database.ask('INSERT INTO t (tenant_id) VALUES (1) RETURNING "Nr", s, n') == [(51, 51, 51)]


def test_triggers_and_rules_stay_silent(scene: Callable[..., Scene], database: Database) -> None:
    made = scene(
        "CREATE TABLE t (tenant_id int, id int PRIMARY KEY, at timestamptz DEFAULT now()); CREATE TABLE fired (what text);"
        "INSERT INTO t SELECT 1, n FROM generate_series(1, 9) n; CREATE RULE silent AS ON DELETE TO t DO ALSO INSERT INTO fired VALUES ('rule');"
        "CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO fired VALUES (TG_OP); NEW.at := now(); RETURN NEW; END $$;"
        "CREATE TRIGGER loud BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION fire();",
        database={"excluded": ["fired"]},
    )
    before = made.copy("t")
    made.back_up()
    database.run("DELETE FROM t WHERE id < 5; UPDATE t SET at = 'epoch' WHERE id = 6; TRUNCATE fired")
    made.restore()
    assert made.copy("t") == before
    assert database.ask("SELECT * FROM fired") == []


def test_a_trigger_that_fires_always_is_found_out(scene: Callable[..., Scene], database: Database) -> None:
    """It changes what is written, so the proof fails and all is rolled back."""
    made = scene(
        "CREATE TABLE t (tenant_id int, id int PRIMARY KEY, at int); INSERT INTO t VALUES (1, 1, 1), (1, 2, 2);"
        "CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.at := 99; RETURN NEW; END $$;"
        "CREATE TRIGGER loud BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION fire(); ALTER TABLE t ENABLE ALWAYS TRIGGER loud"
    )
    made.back_up()
    database.run("DELETE FROM t WHERE id = 2")
    assert "ENABLE ALWAYS" in made.refused(ProofFailed)


def test_row_security_that_is_forced(scene: Callable[..., Scene], database: Database) -> None:
    made = scene(
        "CREATE TABLE t (tenant_id int, id int PRIMARY KEY); INSERT INTO t VALUES (1, 1), (1, 2), (2, 3);"
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY none ON t USING (false)"
    )
    before = made.copy("t")
    made.back_up()
    database.run("DELETE FROM t WHERE id = 1")
    made.restore()
    assert made.copy("t") == before


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE t DROP COLUMN body",
        "ALTER TABLE t ALTER COLUMN body TYPE varchar(9)",
        "ALTER TABLE t RENAME COLUMN body TO text",
        "ALTER TABLE t ADD COLUMN extra int NOT NULL DEFAULT 1; ALTER TABLE t ALTER COLUMN extra DROP DEFAULT",
        "DROP TABLE t",
        "ALTER TABLE t RENAME TO u",
    ],
)
def test_a_schema_in_which_something_has_no_place(scene: Callable[..., Scene], database: Database, change: str) -> None:
    """What would be lost, or cannot be filled, is refused before anything is written."""
    made = scene("CREATE TABLE t (tenant_id int, id int PRIMARY KEY, body text); INSERT INTO t VALUES (1, 1, 'x')")
    made.back_up()
    database.run("UPDATE t SET body = 'y'", change)
    assert "public." in made.refused(SchemaMismatch)


def test_a_concurrent_write_ends_in_a_retryable_error(scene: Callable[..., Scene], database: Database) -> None:
    """A row that another session holds: the restore gives up after the lock timeout, and works afterwards."""
    made = scene(
        "CREATE TABLE t (tenant_id int, id int PRIMARY KEY, body text); INSERT INTO t VALUES (1, 1, 'x'), (1, 2, 'y')",
        database={"lock_timeout_s": 0.2},
    )
    before = made.copy("t")
    made.back_up()
    database.run("UPDATE t SET body = 'ruined'")
    other = database.connect()
    other.autocommit = False
    other.cursor().execute("UPDATE t SET body = 'held' WHERE id = 1")
    try:
        made.refused(SourceConflict)
    finally:
        other.close()
    made.restore()
    assert made.copy("t") == before


def test_a_sequence_that_may_not_be_read(scene: Callable[..., Scene], database: Database) -> None:
    """A missing privilege is an error of ours, told for the tenant; its lease is free again."""
    made = scene("CREATE TABLE t (tenant_id int, id serial PRIMARY KEY)")
    role = f"poor_{uuid.uuid4().hex[:8]}"
    database.run(
        f"CREATE ROLE {role} LOGIN BYPASSRLS PASSWORD 'poor'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role};"
    )
    poor = make_dsn(database.dsn, user=role, password="poor", passfile="/dev/null")
    try:
        service = made.application.service(database={"dsn": poor})
        (draft,) = service.backups.create_all(["acme"], ADMIN)
        assert draft.error is not None
        assert (draft.error.code, "t_id_seq" in draft.error.on) == ("SBH-302", True)
        made.back_up()
    finally:
        database.run(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_role_that_row_security_would_hide_rows_from(scene: Callable[..., Scene], database: Database) -> None:
    """It is told, instead of making a backup without them."""
    made = scene(
        "CREATE TABLE t (tenant_id int, id int PRIMARY KEY); INSERT INTO t VALUES (1, 1);"
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY none ON t USING (false)"
    )
    role = f"blind_{uuid.uuid4().hex[:8]}"
    database.run(f"CREATE ROLE {role} LOGIN PASSWORD 'blind'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role};")
    blind = make_dsn(database.dsn, user=role, password="blind", passfile="/dev/null")
    try:
        (draft,) = made.application.service(database={"dsn": blind}).backups.create_all(["acme"], ADMIN)
        assert draft.error is not None
        assert (draft.error.code, draft.error.on) == ("SBH-302", "public.t")
    finally:
        database.run(f"DROP OWNED BY {role}; DROP ROLE {role}")
