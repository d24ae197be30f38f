"""Restores of backups that are older than a change of the schema: what comes of every kind of change, end to end.

One database for the module, a table (or a few) for each case, and two backups of all of them: a full one, and an incremental
one, whose tables are layered. Each case is damaged, altered, planned and restored by itself.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.document import as_document
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import RestoreRefused, SbhError, SchemaMismatch
from sbh_pipelines_tests.backup.restore.test_restore_rows import Scene
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application
from sbh_pipelines_tests.support.databases import Database, fresh_database

EXACT, MISSING_ONLY = "exact", "missing-only"
TENANTS = """
CREATE TABLE tenants (id int PRIMARY KEY, slug text UNIQUE, region text, tier text);
INSERT INTO tenants VALUES (1, 'acme', 'eu-west-1', NULL), (2, 'bolt', 'eu-west-1', NULL);
CREATE TABLE plans (id int PRIMARY KEY); INSERT INTO plans VALUES (7);
CREATE TYPE mood AS ENUM ('good', 'bad', 'odd'); CREATE DOMAIN small AS int;
"""
# Row 3 is written again between the two backups; row 4 is another tenant's.
BASE = """
CREATE TABLE {t} (id int PRIMARY KEY, tenant_id int NOT NULL, a text, b int{more});
INSERT INTO {t} (id, tenant_id, a, b) VALUES (1, 1, 'one', 10), (2, 1, 'two', NULL), (3, 1, 'trois', 30), (4, 2, 'four', 40);
"""
BETWEEN = "UPDATE {t} SET a = 'three' WHERE id = 3"
# One row is lost, one ruined, one new; what they are to be again depends on the mode.
DAMAGE = "DELETE FROM {t} WHERE id = 1; UPDATE {t} SET a = 'ruin' WHERE id = 2; INSERT INTO {t} (id, tenant_id, a, b) VALUES (9, 1, 'nine', 90)"


@dataclass(frozen=True)
class Case:
    """`drift` is done after the damage. `exact` and `missing` are all rows in the order of their ids, after each mode."""

    drift: str
    exact: str
    missing: str
    changes: Mapping[str, tuple[bool, bool]] = field(default_factory=dict)  # kind of difference: (lossy, blocking)
    more: str = ""
    between: str = BETWEEN
    damage: str = DAMAGE
    settings: Mapping[str, Any] = field(default_factory=dict)
    table: str = "{t}"  # its name after the drift


def rows(*lines: str) -> str:
    return "; ".join(lines)


PLAIN_EXACT = rows("1,1,one,10", "2,1,two,", "3,1,three,30", "4,2,four,40")
PLAIN_MISSING = rows("1,1,one,10", "2,1,ruin,", "3,1,three,30", "4,2,four,40", "9,1,nine,90")
COMES_BACK: dict[str, Case] = {
    "nullable column added": Case(
        "ALTER TABLE {t} ADD x text; UPDATE {t} SET x = 'live ' || id",
        rows("1,1,one,10,", "2,1,two,,live 2", "3,1,three,30,live 3", "4,2,four,40,live 4"),
        rows("1,1,one,10,", "2,1,ruin,,live 2", "3,1,three,30,live 3", "4,2,four,40,live 4", "9,1,nine,90,live 9"),
        {"added column": (False, False)},
    ),
    "column with a default added": Case(
        "ALTER TABLE {t} ADD x varchar(5) NOT NULL DEFAULT 'fresh'; UPDATE {t} SET x = 'live' WHERE id > 2",
        rows("1,1,one,10,fresh", "2,1,two,,fresh", "3,1,three,30,live", "4,2,four,40,live"),
        rows("1,1,one,10,fresh", "2,1,ruin,,fresh", "3,1,three,30,live", "4,2,four,40,live", "9,1,nine,90,live"),
        {"added column": (False, False)},
    ),
    "not null column added, with a fill": Case(
        "ALTER TABLE {t} ADD x date; UPDATE {t} SET x = '2026-05-05'; ALTER TABLE {t} ALTER x SET NOT NULL",
        rows("1,1,one,10,2020-01-01", "2,1,two,,2026-05-05", "3,1,three,30,2026-05-05", "4,2,four,40,2026-05-05"),
        rows(
            "1,1,one,10,2020-01-01",
            "2,1,ruin,,2026-05-05",
            "3,1,three,30,2026-05-05",
            "4,2,four,40,2026-05-05",
            "9,1,nine,90,2026-05-05",
        ),
        {"added column": (False, False)},
        settings={"fill": {"{t}.x": "2020-01-01"}},
    ),
    "identity column added": Case(
        "ALTER TABLE {t} ADD x int GENERATED ALWAYS AS IDENTITY (START 100)",
        "",
        "",
        {"added column": (False, False)},
    ),
    "int became bigint": Case(
        "ALTER TABLE {t} ALTER b TYPE bigint", PLAIN_EXACT, PLAIN_MISSING, {"retyped column": (False, False)}
    ),
    "columns reordered": Case(
        "ALTER TABLE {t} ADD c text; UPDATE {t} SET c = a; ALTER TABLE {t} DROP a; ALTER TABLE {t} RENAME c TO a",
        rows("1,1,10,one", "2,1,,two", "3,1,30,three", "4,2,40,four"),
        rows("1,1,10,one", "2,1,,ruin", "3,1,30,three", "4,2,40,four", "9,1,90,nine"),
        {"reordered columns": (False, False)},
    ),
    "column renamed": Case(
        "ALTER TABLE {t} RENAME a TO title",
        PLAIN_EXACT,
        PLAIN_MISSING,
        {"renamed column": (False, False)},
        settings={"renamed": {"{t}.a": "{t}.title"}},
    ),
    "table renamed": Case(
        "ALTER TABLE {t} RENAME TO {t}_new",
        PLAIN_EXACT,
        PLAIN_MISSING,
        {"renamed table": (False, False)},
        settings={"renamed": {"{t}": "{t}_new"}},
        table="{t}_new",
    ),
    "table and column renamed, column added": Case(
        "ALTER TABLE {t} RENAME TO {t}_new; ALTER TABLE {t}_new RENAME a TO title; ALTER TABLE {t}_new ADD x int DEFAULT 5",
        rows("1,1,one,10,5", "2,1,two,,5", "3,1,three,30,5", "4,2,four,40,5"),
        rows("1,1,one,10,5", "2,1,ruin,,5", "3,1,three,30,5", "4,2,four,40,5", "9,1,nine,90,5"),
        {"renamed table": (False, False), "renamed column": (False, False), "added column": (False, False)},
        settings={"renamed": {"{t}": "{t}_new", "{t}.a": "title"}},
        table="{t}_new",
    ),
    "column dropped": Case(
        "ALTER TABLE {t} DROP b",
        rows("1,1,one", "2,1,two", "3,1,three", "4,2,four"),
        rows("1,1,one", "2,1,ruin", "3,1,three", "4,2,four", "9,1,nine"),
        {"dropped column": (True, False)},
    ),
    "timestamp became timestamptz": Case(
        "ALTER TABLE {t} ALTER at TYPE timestamptz USING at AT TIME ZONE 'UTC'",
        rows("1,1,one,10,2026-01-01 10:00:00+00", "2,1,two,,", "3,1,three,30,", "4,2,four,40,"),
        rows("1,1,one,10,2026-01-01 10:00:00+00", "2,1,ruin,,", "3,1,three,30,", "4,2,four,40,", "9,1,nine,90,"),
        {"retyped column": (True, False)},
        more=", at timestamp",
        between=BETWEEN + "; UPDATE {t} SET at = '2026-01-01 10:00' WHERE id = 1",
    ),
    "enum label added": Case(
        "ALTER TYPE mood ADD VALUE IF NOT EXISTS 'new' BEFORE 'good'",
        rows("1,1,one,10,bad", "2,1,two,,", "3,1,three,30,", "4,2,four,40,"),
        rows("1,1,one,10,bad", "2,1,ruin,,", "3,1,three,30,", "4,2,four,40,", "9,1,nine,90,"),
        more=", m mood",
        between=BETWEEN + "; UPDATE {t} SET m = 'bad' WHERE id = 1",
    ),
    "primary key got a column": Case(
        "ALTER TABLE {t} DROP CONSTRAINT {t}_pkey, ADD PRIMARY KEY (tenant_id, id)",
        PLAIN_EXACT,
        PLAIN_MISSING,
        {"key changed": (False, False)},
    ),
    "primary key is another column": Case(
        "UPDATE {t} SET b = 20 WHERE id = 2; ALTER TABLE {t} DROP CONSTRAINT {t}_pkey, ADD PRIMARY KEY (b)",
        rows("1,1,one,10", "2,1,two,20", "3,1,three,30", "4,2,four,40"),
        rows("1,1,one,10", "2,1,ruin,20", "3,1,three,30", "4,2,four,40", "9,1,nine,90"),
        {"key changed": (False, False), "now not null": (False, False)},
        between=BETWEEN + "; UPDATE {t} SET b = 20 WHERE id = 2",
    ),
    "primary key dropped": Case(
        "ALTER TABLE {t} DROP CONSTRAINT {t}_pkey",
        PLAIN_EXACT,
        rows("1,1,one,10", "2,1,ruin,", "2,1,two,", "3,1,three,30", "4,2,four,40", "9,1,nine,90"),
        {"key changed": (False, False)},
    ),
    "primary key added": Case(
        "ALTER TABLE {t} ADD PRIMARY KEY (id)",
        PLAIN_EXACT,
        PLAIN_MISSING,
        {"key changed": (False, False), "now not null": (False, False)},
        more="); ALTER TABLE {t} DROP CONSTRAINT {t}_pkey; ALTER TABLE {t} ALTER id DROP NOT NULL; SELECT (1",
    ),
    "generated column added": Case(
        "ALTER TABLE {t} ADD x text GENERATED ALWAYS AS (upper(a)) STORED",
        rows("1,1,one,10,ONE", "2,1,two,,TWO", "3,1,three,30,THREE", "4,2,four,40,FOUR"),
        rows("1,1,one,10,ONE", "2,1,ruin,,RUIN", "3,1,three,30,THREE", "4,2,four,40,FOUR", "9,1,nine,90,NINE"),
    ),
    "column became generated": Case(
        "ALTER TABLE {t} DROP b, ADD b int GENERATED ALWAYS AS (id * 100) STORED",
        rows("1,1,one,100", "2,1,two,200", "3,1,three,300", "4,2,four,400"),
        rows("1,1,one,100", "2,1,ruin,200", "3,1,three,300", "4,2,four,400", "9,1,nine,900"),
        {"identity/generated changed": (False, False)},
    ),
    "partitioned since": Case(
        "ALTER TABLE {t} RENAME TO {t}_old; CREATE TABLE {t} (LIKE {t}_old, PRIMARY KEY (id)) PARTITION BY RANGE (id);"
        "CREATE TABLE {t}_low PARTITION OF {t} FOR VALUES FROM (0) TO (3); CREATE TABLE {t}_high PARTITION OF {t} DEFAULT;"
        "INSERT INTO {t} SELECT * FROM {t}_old; DROP TABLE {t}_old",
        PLAIN_EXACT,
        PLAIN_MISSING,
    ),
    "null filled, for a column not null now": Case(
        "UPDATE {t} SET b = 0 WHERE b IS NULL; ALTER TABLE {t} ALTER b SET NOT NULL",
        rows("1,1,one,10", "2,1,two,77", "3,1,three,30", "4,2,four,40"),
        rows("1,1,one,10", "2,1,ruin,0", "3,1,three,30", "4,2,four,40", "9,1,nine,90"),
        {"now not null": (False, False)},
        settings={"fill": {"{t}.b": "77"}},
    ),
    "constraints that the old rows satisfy": Case(
        "ALTER TABLE {t} ADD CHECK (id > 0), ADD UNIQUE (a), ADD p int DEFAULT 7 REFERENCES plans",
        rows("1,1,one,10,7", "2,1,two,,7", "3,1,three,30,7", "4,2,four,40,7"),
        rows("1,1,one,10,7", "2,1,ruin,,7", "3,1,three,30,7", "4,2,four,40,7", "9,1,nine,90,7"),
        {"added column": (False, False)},
    ),
}
REFUSED: dict[str, tuple[Case, str]] = {
    "not null column without a value": (
        Case(
            "ALTER TABLE {t} ADD x int; UPDATE {t} SET x = 1; ALTER TABLE {t} ALTER x SET NOT NULL",
            "",
            "",
            {"added column": (False, True)},
        ),
        "restore.fill",
    ),
    "text became too short a varchar": (
        Case(
            "ALTER TABLE {t} ALTER a TYPE varchar(4)",
            "",
            "",
            {"retyped column": (True, False)},
            damage=DAMAGE + "; UPDATE {t} SET a = 'iii' WHERE id = 3",
        ),
        "too long",
    ),
    "enum label removed": (
        Case(
            "ALTER TABLE {t} ALTER m TYPE text; CREATE TYPE mood_{t} AS ENUM ('good');"
            "ALTER TABLE {t} ALTER m TYPE mood_{t} USING m::mood_{t}",
            "",
            "",
            {"retyped column": (True, False)},
            more=", m mood",
            between=BETWEEN + "; UPDATE {t} SET m = 'odd' WHERE id = 1",
        ),
        "invalid input",
    ),
    "null in a column not null now": (
        Case(
            "UPDATE {t} SET b = 0 WHERE b IS NULL; ALTER TABLE {t} ALTER b SET NOT NULL",
            "",
            "",
            {"now not null": (False, False)},
        ),
        "NOT NULL",
    ),
    "new check": (Case("ALTER TABLE {t} ADD CHECK (a <> 'two')", "", ""), "check"),
    "new unique, among the old rows": (
        Case(
            "ALTER TABLE {t} ADD UNIQUE (b)",
            "",
            "",
            between=BETWEEN + "; UPDATE {t} SET b = 5 WHERE id < 3",
            damage=DAMAGE + "; UPDATE {t} SET b = NULL WHERE id = 2",
        ),
        "unique",
    ),
    "new unique, with another tenant's row": (
        Case("ALTER TABLE {t} ADD UNIQUE (b)", "", "", between=BETWEEN + "; UPDATE {t} SET b = 40 WHERE id = 1"),
        "unique",
    ),
    "new foreign key": (
        Case("UPDATE {t} SET b = 7; ALTER TABLE {t} ADD FOREIGN KEY (b) REFERENCES plans", "", ""),
        "plans",
    ),
    "domain tightened": (
        Case(
            "UPDATE {t} SET b = NULL; ALTER TABLE {t} ALTER b TYPE small; ALTER DOMAIN small ADD CHECK (VALUE > 25)",
            "",
            "",
            {"retyped column": (True, False)},
        ),
        "domain",
    ),
    "key has a column the backup lacks": (
        Case(
            "ALTER TABLE {t} ADD x int DEFAULT 1; ALTER TABLE {t} DROP CONSTRAINT {t}_pkey, ADD PRIMARY KEY (id, x)",
            "",
            "",
            {"added column": (False, False), "key changed": (False, True)},
        ),
        "cannot be matched",
    ),
    "key is doubled in the old rows": (
        Case(
            "UPDATE {t} SET b = id * 10; ALTER TABLE {t} DROP CONSTRAINT {t}_pkey, ADD PRIMARY KEY (b)",
            "",
            "",
            {"key changed": (False, False), "now not null": (False, False)},
            between=BETWEEN + "; UPDATE {t} SET b = 30 WHERE id < 4",
        ),
        "key",
    ),
}


@dataclass
class DriftedDatabase:
    """The database, and the ids of the two backups."""

    database: Database
    application: Application
    names: Mapping[str, str]
    full: str = ""
    layered: str = ""

    def everything(self) -> dict[str, str]:
        """By table all rows with where they lie and who wrote them; and all sequences."""
        with self.database.session() as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
            parts = [f"SELECT '{t}', ctid::text, xmin::text, z::text FROM ONLY {t} z" for (t,) in cursor.fetchall()]
            parts.append("SELECT '', sequencename, last_value::text, '' FROM pg_sequences")
            cursor.execute(" UNION ALL ".join(parts) + " ORDER BY 1, 2")
            return {table: repr(list(rows)) for table, rows in groupby(cursor.fetchall(), key=lambda row: str(row[0]))}

    def rows(self, table: str) -> str:
        text = self.database.copy(f"SELECT * FROM {table} t ORDER BY id, 3").decode()
        return "; ".join(line.replace("\\N", "").replace("\t", ",") for line in text.splitlines())

    def service(self, case: Case, table: str) -> Any:
        def named(value: Any) -> Any:
            return {k.format(t=table): v.format(t=table) for k, v in value.items()}

        return self.application.service(
            database={"shared": ["plans"]}, restore={k: named(v) for k, v in case.settings.items()}
        )


@pytest.fixture(scope="module")
def drifted(embedded_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DriftedDatabase]:
    with fresh_database(embedded_stack) as database:
        cases = {**COMES_BACK, **{name: case for name, (case, _) in REFUSED.items()}}
        names = {name: f"t{nth}" for nth, name in enumerate(cases)}
        database.run(TENANTS)
        for name, case in cases.items():
            t = names[name]
            database.run(BASE.format(t=t, more=case.more.format(t=t)))
        application = Application(database, tmp_path_factory.mktemp("drift"))
        made = DriftedDatabase(database, application, names)
        service = application.service(database={"shared": ["plans"]})
        made.full = service.create_backup(ACME, ADMIN)["id"]
        for name, case in cases.items():
            database.run(case.between.format(t=names[name]))
        (draft,) = service.backups.create_all([ACME], ADMIN, "incremental")
        assert draft.error is None
        made.layered = draft.backup_id
        yield made


def differences(plan: dict[str, Any]) -> dict[str, tuple[bool, bool]]:
    return {d["change"]: (d["lossy"], d["blocking"]) for d in plan["schema"]}


@pytest.mark.parametrize("name", COMES_BACK)
def test_rows_come_back_into_a_changed_table(drifted: DriftedDatabase, name: str) -> None:
    """What lost rows, changed rows and new rows are after both modes; the plan says it all, and writes nothing."""
    case, old = COMES_BACK[name], drifted.names[name]
    table = case.table.format(t=old)
    for statement in (case.damage + ";" + case.drift).format(t=old).split(";"):
        drifted.database.run(statement)
    service = drifted.service(case, old)
    lossy = any(lossy for lossy, _ in case.changes.values())
    request = RestoreRequest.of(tables=[table], mode=MISSING_ONLY, accept_schema_changes=lossy)
    service.restore_backup(drifted.layered, ACME, ADMIN, request=request)
    assert not case.missing or drifted.rows(table) == case.missing
    drifted.database.run(f"DELETE FROM {table} WHERE id = 1")
    before = drifted.everything()
    request = RestoreRequest.of(tables=[table])
    plan = as_document(service.restores.plan(drifted.layered, ACME, ADMIN, request))
    assert drifted.everything() == before
    assert differences(plan) == case.changes
    assert [p["code"] for p in plan["problems"]] == ([SchemaMismatch.code] if lossy else [])
    if lossy:
        with pytest.raises(SchemaMismatch):
            service.restore_backup(drifted.layered, ACME, ADMIN, request=request)
        assert drifted.everything() == before
        request = RestoreRequest.of(tables=[table], accept_schema_changes=True)
    result = service.restore_backup(drifted.layered, ACME, ADMIN, request=request)
    (planned,), (done,) = plan["tables"], result["tables"]
    assert [planned[k] for k in ("insert", "update", "delete")] == [done[k] for k in ("inserted", "updated", "deleted")]
    assert not case.exact or drifted.rows(table) == case.exact
    after = drifted.everything()
    assert {t for t in before if before[t] != after.get(t)} - {""} <= {table, f"{old}_low", f"{old}_high"}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_place_in_a_changed_table(drifted: DriftedDatabase, name: str) -> None:
    """Told by the plan already, without the values; nothing is written."""
    case, said = REFUSED[name]
    table = drifted.names[name]
    for statement in (case.damage + ";" + case.drift).format(t=table).split(";"):
        drifted.database.run(statement)
    service = drifted.service(case, table)
    before = drifted.everything()
    request = RestoreRequest.of(tables=[table], accept_schema_changes=True)
    try:
        plan = as_document(service.restores.plan(drifted.layered, ACME, ADMIN, request))
        told = bool(plan["problems"])
        assert differences(plan) == case.changes
    except SbhError:  # where a value cannot be read at all
        told = True
    assert drifted.everything() == before
    with pytest.raises(SbhError) as caught:
        service.restore_backup(drifted.layered, ACME, ADMIN, request=request)
    assert drifted.everything() == before
    assert told
    assert said in str(caught.value)


# tables of one test each


def test_rows_of_changed_tables(database: Database, tmp_path: Path) -> None:
    """Chosen rows, their dependants and a lost parent come back into tables that have other columns now."""
    made = Scene(
        database,
        tmp_path,
        "CREATE TABLE p (id int PRIMARY KEY, tenant_id int, a text); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p, a text);"
        "INSERT INTO p VALUES (1, 1, 'x'), (2, 1, 'y'); INSERT INTO c VALUES (1, 1, 'c'), (2, 2, 'd')",
    )
    made.back_up()
    database.run(
        "DELETE FROM c; DELETE FROM p WHERE id = 1; ALTER TABLE p ADD x int; ALTER TABLE c ADD x int DEFAULT 4"
    )
    for rows, lost in (("p where id = 1", 1), ("c where id = 2", 0)):
        request = RestoreRequest.of(rows=rows)
        plan = as_document(made.service.restores.plan(made.backup_id, ACME, ADMIN, request))
        assert {t["table"]: t["insert"] for t in plan["tables"] if t["insert"]} == (
            {"public.p": 1, "public.c": 1} if lost else {"public.c": 1}
        )
        made.service.restore_backup(made.backup_id, ACME, ADMIN, request=request)
    assert database.ask("SELECT * FROM p ORDER BY 1") == [(1, 1, "x", None), (2, 1, "y", None)]
    assert database.ask("SELECT * FROM c ORDER BY 1") == [(1, 1, "c", 4), (2, 2, "d", 4)]


def test_the_configuration_in_a_renamed_table(database: Database, tmp_path: Path) -> None:
    options = "CREATE TABLE opts (id int PRIMARY KEY, tenant_id int, a text); INSERT INTO opts VALUES (1, 1, 'x')"
    made = Scene(database, tmp_path, options, database={"config_tables": ["opts"]})
    made.back_up()
    database.run("DELETE FROM opts; ALTER TABLE opts RENAME TO options")
    service = made.application.service(
        database={"config_tables": ["options"]}, restore={"renamed": {"opts": "options"}}
    )
    service.restore_backup(made.backup_id, ACME, ADMIN, request=RestoreRequest.of(config_only=True))
    assert database.ask("SELECT * FROM options") == [(1, 1, "x")]


def test_tables_added_and_dropped(database: Database, tmp_path: Path) -> None:
    """A dropped table is a loss to be accepted, an empty one is none; rows of a new table stay as they are."""
    made = Scene(
        database,
        tmp_path,
        "CREATE TABLE t (id int PRIMARY KEY, tenant_id int); CREATE TABLE old (id int PRIMARY KEY, tenant_id int);"
        "CREATE TABLE bare (id int PRIMARY KEY, tenant_id int); INSERT INTO t VALUES (1, 1); INSERT INTO old VALUES (1, 1)",
    )
    made.back_up()
    database.run(
        "DROP TABLE old, bare; CREATE TABLE fresh (id int PRIMARY KEY, tenant_id int, t int REFERENCES t);"
        "INSERT INTO t VALUES (2, 1); INSERT INTO fresh VALUES (1, 1, 1); DELETE FROM t WHERE id = 9"
    )
    plan = as_document(made.service.restores.plan(made.backup_id, ACME, ADMIN))
    assert {(d["table"], d["change"], d["lossy"]) for d in plan["schema"]} == {
        ("public.old", "dropped table", True),
        ("public.bare", "dropped table", False),
        ("public.fresh", "added table", False),
    }
    assert "public.old" in made.refused(SchemaMismatch)
    request = RestoreRequest.of(accept_schema_changes=True)
    made.service.restore_backup(made.backup_id, ACME, ADMIN, request=request)
    assert database.ask("SELECT * FROM t") == [(1, 1)]
    assert database.ask("SELECT * FROM fresh") == [(1, 1, 1)]
    database.run("INSERT INTO t VALUES (2, 1); INSERT INTO fresh VALUES (2, 1, 2)")
    assert as_document(made.service.restores.plan(made.backup_id, ACME, ADMIN, request))["problems"]
    with pytest.raises(RestoreRefused, match="fresh"):
        made.service.restore_backup(made.backup_id, ACME, ADMIN, request=request)


WIDE = "1, repeat(md5(n::text), 30) FROM generate_series(1, 3000) n"
AWKWARD = {
    "numeric from a sequence": "id numeric PRIMARY KEY, tenant_id int, b text); CREATE SEQUENCE s OWNED BY t.id;"
    "ALTER TABLE t ALTER id SET DEFAULT nextval('s'); INSERT INTO t (tenant_id) VALUES (1), (1)",
    "text from a sequence": "id text PRIMARY KEY, tenant_id int, b text); CREATE SEQUENCE s OWNED BY t.id;"
    "ALTER TABLE t ALTER id SET DEFAULT 'P-' || nextval('s'); INSERT INTO t (tenant_id) VALUES (1), (1)",
    "numbers beyond the sequence": "id bigint GENERATED BY DEFAULT AS IDENTITY (MAXVALUE 100) PRIMARY KEY, tenant_id int);"
    "INSERT INTO t (tenant_id) VALUES (1); INSERT INTO t VALUES (5000, 1)",
    "a sequence without a lower end": "id bigint GENERATED BY DEFAULT AS IDENTITY (MINVALUE -9223372036854775808) PRIMARY KEY,"
    "tenant_id int); INSERT INTO t VALUES (1, 1)",
    "a generated key": "id int, tenant_id int, b int GENERATED ALWAYS AS (id * 2) STORED PRIMARY KEY);"
    "INSERT INTO t VALUES (1, 1), (2, 1)",
    "a generated unique key": "id int PRIMARY KEY, tenant_id int, b text GENERATED ALWAYS AS (id::text) STORED UNIQUE);"
    "INSERT INTO t VALUES (1, 1), (2, 1)",
    "arrays": f"id int[] PRIMARY KEY, tenant_id int, b text); INSERT INTO t SELECT ARRAY[n % 90, n], {WIDE}",
    "composite values": f"id pair PRIMARY KEY, tenant_id int, b text); INSERT INTO t SELECT ROW(n, 'x,' || n)::pair, {WIDE}",
    "a domain": f"id key_text PRIMARY KEY, tenant_id int, b text); INSERT INTO t SELECT md5(n::text), {WIDE}",
    "floats": "id float8 PRIMARY KEY, tenant_id int, b text); INSERT INTO t VALUES ('NaN', 1, ''), ('-0', 1, ''), ('inf', 1, '');"
    f"INSERT INTO t SELECT sqrt(n), {WIDE}",
}


@pytest.mark.parametrize("kind", AWKWARD)
def test_awkward_keys(database: Database, tmp_path: Path, kind: str) -> None:
    """A row of such a key comes back, into a table of one group as of several; the plan knew it."""
    types = "CREATE TYPE pair AS (a int, b text); CREATE DOMAIN key_text AS text;"
    made = Scene(database, tmp_path, f"{types} CREATE TABLE t ({AWKWARD[kind]}")
    before = made.copy("t")
    made.back_up()
    database.run("DELETE FROM t WHERE ctid = (SELECT ctid FROM t ORDER BY length(id::text) DESC, id::text LIMIT 1)")
    plan = as_document(made.service.restores.plan(made.backup_id, ACME, ADMIN))
    assert {t["table"]: t["insert"] for t in plan["tables"]} == {"public.t": 1, "public.tenants": 0}
    made.restore()
    assert made.copy("t") == before
