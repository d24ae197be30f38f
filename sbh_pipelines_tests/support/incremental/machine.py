"""The application that the stateful test drives: every kind of table, what may happen to its rows, and a witness.

Nothing here is taken from the engine. Statements are chosen by small numbers, so that a failing sequence says what it did.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.application import Application
from sbh_pipelines_tests.support.databases import Database, copy_text

TENANTS = {1: "acme", 2: "bolt"}

SCHEMA = """
CREATE SCHEMA attic;
CREATE TYPE mood AS ENUM ('calm', 'glad', 'sad');
CREATE TABLE tenants (id int PRIMARY KEY, slug text UNIQUE NOT NULL, region text NOT NULL, tier text, settings jsonb);
INSERT INTO tenants VALUES (1, 'acme', 'eu-west-1', 'critical', '{}'), (2, 'bolt', 'eu-west-1', 'critical', NULL);
CREATE TABLE docs (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id int REFERENCES tenants, body text, feeling mood);
CREATE TABLE tokens (
    id uuid PRIMARY KEY DEFERRABLE INITIALLY IMMEDIATE, tenant_id int, body text, feelings mood[], extra numeric);
CREATE TABLE grid (name text, n int, tenant_id int, body text, PRIMARY KEY (n, name) DEFERRABLE INITIALLY IMMEDIATE);
CREATE TABLE labels (tenant_id int, label text, body text, PRIMARY KEY (label) DEFERRABLE INITIALLY IMMEDIATE);
CREATE TABLE tasks (
    id int PRIMARY KEY, doc_id bigint REFERENCES docs ON DELETE CASCADE ON UPDATE CASCADE, body text);
CREATE TABLE remarks (
    id uuid PRIMARY KEY, task_id int REFERENCES tasks ON DELETE CASCADE ON UPDATE CASCADE, body text);
CREATE TABLE likes (id int PRIMARY KEY, kind text, ref bigint, body text);
CREATE TABLE events (id bigint, part int, tenant_id int, body text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE events_0 PARTITION OF events FOR VALUES IN (0);
CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2);
CREATE TABLE logs (tenant_id int, body text);
CREATE TABLE prefs (tenant_id int, name varchar(40), value text, PRIMARY KEY (tenant_id, name));

INSERT INTO docs (tenant_id, body, feeling)
    SELECT 1 + n % 2, 'doc ' || n, (ARRAY['calm', 'glad', 'sad', NULL])[1 + n % 4]::mood FROM generate_series(1, 360) n;
INSERT INTO tokens SELECT md5('token' || n)::uuid, 1 + n % 2, 'token ' || n, ARRAY['glad', 'sad']::mood[], n / 7.0
    FROM generate_series(1, 400) n;
INSERT INTO grid SELECT E'row\\t' || n % 23, n / 23, 1 + n % 2, 'cell ' || n FROM generate_series(0, 399) n;
INSERT INTO labels SELECT 1 + n % 2, (ARRAY['a', '', E'\\t', E'\\n', E'\\\\', '\\N', 'ä', E'\\x1f', '"', E'\\b'])[1 + n % 10] || n / 10, 'label ' || n
    FROM generate_series(0, 319) n;
INSERT INTO tasks SELECT n, 1 + n % 360, 'task ' || n FROM generate_series(1, 500) n;
INSERT INTO remarks SELECT md5('remark' || n)::uuid, 1 + n % 500, 'remark ' || n FROM generate_series(1, 600) n;
INSERT INTO likes SELECT n, CASE WHEN n % 9 = 0 THEN 'other' ELSE 'doc' END, 1 + n % 360, 'like ' || n FROM generate_series(1, 420) n;
INSERT INTO events SELECT n, n % 3, 1 + n / 3 % 2, 'event ' || n FROM generate_series(1, 450) n;
INSERT INTO logs SELECT 1 + n % 2, 'log ' || n % 50 FROM generate_series(1, 300) n;
INSERT INTO prefs SELECT 1 + n % 2, 'pref ' || n, 'value ' || n FROM generate_series(1, 200) n;
CREATE TABLE attic.spare (LIKE events INCLUDING ALL);
INSERT INTO attic.spare SELECT id, 2, tenant_id, CASE WHEN id % 10 = 0 THEN 'spare' ELSE body END FROM events_2 WHERE id % 11 <> 0;
"""

DECLARED = {"table": "likes", "parent": "docs", "join": "t.kind = 'doc' AND t.ref = p.id"}

# Parents before children; key columns, and a tenant's rows (alias x).
TABLES: Mapping[str, tuple[str, str]] = {
    "tenants": ("id", "tenants x WHERE x.id = {}"),
    "docs": ("id", "docs x WHERE x.tenant_id = {}"),
    "tokens": ("id", "tokens x WHERE x.tenant_id = {}"),
    "grid": ("n, name", "grid x WHERE x.tenant_id = {}"),
    "labels": ("label", "labels x WHERE x.tenant_id = {}"),
    "tasks": ("id", "tasks x WHERE x.doc_id IN (SELECT id FROM docs WHERE tenant_id = {})"),
    "remarks": (
        "id",
        "remarks x WHERE x.task_id IN (SELECT k.id FROM tasks k JOIN docs d ON d.id = k.doc_id WHERE d.tenant_id = {})",
    ),
    "likes": ("id", "likes x WHERE x.kind = 'doc' AND x.ref IN (SELECT id FROM docs WHERE tenant_id = {})"),
    "events": ("id, part", "events x WHERE x.tenant_id = {}"),
    "logs": ("", "logs x WHERE x.tenant_id = {}"),
    "prefs": ("tenant_id, name", "prefs x WHERE x.tenant_id = {}"),
}

# Chosen rows of tenant {t}; {n} is 0..36, {s} a number never used before. Locked rows of other sessions are passed over.
_PICK = "SELECT id FROM {0} WHERE tenant_id = {{t}} AND {1} FOR UPDATE SKIP LOCKED"
_DOCS = _PICK.format("docs", "id %% 37 = {n}")
CHANGES: Mapping[str, str] = {
    "insert docs": "INSERT INTO docs (tenant_id, body) SELECT {t}, 'new {s} ' || g FROM generate_series(0, {n} %% 4) g",
    "update docs": f"UPDATE docs SET body = 'changed {{s}}' WHERE id IN ({_DOCS})",
    "delete docs": f"DELETE FROM docs WHERE id IN ({_DOCS})",
    "move docs": "UPDATE docs SET tenant_id = 3 - tenant_id WHERE id IN (SELECT id FROM docs WHERE id %% 37 = {n} FOR UPDATE SKIP LOCKED)",
    "orphan docs": "UPDATE docs SET tenant_id = CASE WHEN tenant_id IS NULL THEN {t} END WHERE id %% 101 = {n}",
    "key of docs": "UPDATE docs SET id = DEFAULT WHERE id = (SELECT min(id) + {n} FROM docs)",
    "update and back docs": f"UPDATE docs SET body = body WHERE id IN ({_DOCS})",
    "insert tokens": "INSERT INTO tokens (id, tenant_id, body) SELECT md5('token {s} ' || g)::uuid, {t}, 'new {s}' FROM generate_series(0, {n} %% 5) g",
    "update tokens": "UPDATE tokens SET extra = {s} WHERE tenant_id = {t} AND left(id::text, 1) = to_hex({n} %% 16)",
    "delete tokens": "DELETE FROM tokens WHERE tenant_id = {t} AND right(id::text, 1) = to_hex({n} %% 16)",
    "swap tokens": "UPDATE tokens x SET id = y.id FROM (SELECT id, coalesce(lead(id) OVER w, first_value(id) OVER w) AS next"
    " FROM (SELECT id FROM tokens WHERE tenant_id = {t} ORDER BY id LIMIT 2 + {n} %% 3) z WINDOW w AS (ORDER BY id)) y WHERE x.id = y.next",
    "move tokens": "UPDATE tokens SET tenant_id = 3 - tenant_id WHERE left(id::text, 2) = lpad(to_hex({n} * 7 %% 256), 2, '0')",
    "key of grid": "UPDATE grid SET n = n + 1000 WHERE tenant_id = {t} AND n = {n} %% 18",
    "key back of grid": "UPDATE grid SET n = n - 1000 WHERE tenant_id = {t} AND n = 1000 + {n} %% 18",
    "swap grid": "UPDATE grid SET n = 17 - n WHERE name = E'row\\t' || {n} %% 23 AND n IN (3, 14)",
    "swap owners of grid": "UPDATE grid SET tenant_id = 3 - tenant_id WHERE n = {n} %% 18 AND name IN (E'row\\t1', E'row\\t2')",
    "delete grid": "DELETE FROM grid WHERE tenant_id = {t} AND n = {n}",
    "insert grid": "INSERT INTO grid (name, n, tenant_id, body) SELECT E'a\\x1fb' || {s}, g, {t}, 'new' FROM generate_series(1, 3) g",
    "insert labels": "INSERT INTO labels (tenant_id, label, body) SELECT {t}, chr(1 + ({n} * 7 + g) %% 126) || '{s}', 'new' FROM generate_series(0, {n} %% 4) g",
    "update labels": "UPDATE labels SET body = '{s}' WHERE tenant_id = {t} AND length(label) = 2 AND label LIKE '%%' || {n} %% 10",
    "spell labels": "UPDATE labels SET label = label || ' ' WHERE tenant_id = {t} AND label LIKE '%%' || {n}",
    "delete labels": "DELETE FROM labels WHERE tenant_id = {t} AND label LIKE '%%' || {n} %% 10 || '%%' AND label < 'a'",
    "insert tasks": "INSERT INTO tasks (id, doc_id, body) SELECT {s} * 100 + 1000, id, 'new' FROM docs WHERE tenant_id = {t} ORDER BY id LIMIT 1",
    "update tasks": "UPDATE tasks SET body = '{s}' WHERE id %% 41 = {n}",
    "delete tasks": "DELETE FROM tasks WHERE id %% 61 = {n}",
    "key of tasks": "UPDATE tasks SET id = -id WHERE id %% 71 = {n} AND id > 0",
    "move tasks": "UPDATE tasks SET doc_id = (SELECT min(id) FROM docs WHERE tenant_id = {t}) WHERE id %% 53 = {n}",
    "orphan tasks": "UPDATE tasks SET doc_id = NULL WHERE id %% 89 = {n}",
    "insert remarks": "INSERT INTO remarks (id, task_id, body) SELECT md5('remark {s}')::uuid, min(id), 'new' FROM tasks",
    "update remarks": "UPDATE remarks SET body = '{s}' WHERE left(id::text, 1) = to_hex({n} %% 16)",
    "delete remarks": "DELETE FROM remarks WHERE right(id::text, 1) = to_hex({n} %% 16)",
    "insert likes": "INSERT INTO likes (id, kind, ref, body) SELECT {s} + 1000000, 'doc', max(id) - {n}, 'new' FROM docs",
    "kind of likes": "UPDATE likes SET kind = CASE kind WHEN 'doc' THEN 'other' ELSE 'doc' END WHERE id %% 43 = {n}",
    "delete likes": "DELETE FROM likes WHERE id %% 47 = {n}",
    "insert events": "INSERT INTO events (id, part, tenant_id, body) SELECT {s} * 1000 + g, ({n} + g) %% 3, {t}, 'new' FROM generate_series(0, 3) g",
    "update events": "UPDATE events SET body = '{s}' WHERE tenant_id = {t} AND id %% 37 = {n}",
    "part of events": "UPDATE events SET part = (part + 1) %% 3 WHERE id %% 37 = {n}",
    "delete events": "DELETE FROM events WHERE id %% 59 = {n}",
    "insert logs": "INSERT INTO logs (tenant_id, body) SELECT {t}, 'log ' || {n} FROM generate_series(0, {n} %% 3)",
    "delete logs": "DELETE FROM logs WHERE ctid = (SELECT min(ctid) FROM logs WHERE tenant_id = {t} AND body = 'log {n}')",
    "update logs": "UPDATE logs SET body = 'log ' || {n} %% 5 WHERE tenant_id = {t} AND body = 'log {n}'",
    "move logs": "UPDATE logs SET tenant_id = 3 - tenant_id WHERE body = 'log {n}'",
    "update prefs": "UPDATE prefs SET value = '{s}' WHERE tenant_id = {t} AND name LIKE '%%' || {n}",
    "delete prefs": "DELETE FROM prefs WHERE tenant_id = {t} AND name LIKE '%%' || {n}",
    "insert prefs": "INSERT INTO prefs (tenant_id, name, value) VALUES ({t}, 'new {s}', NULL)",
    "settings": "UPDATE tenants SET settings = to_jsonb({s}) WHERE id = {t}",
    "lock docs": f"SELECT 1 FROM ({_DOCS}) x",
    "nothing": "SELECT pg_current_xact_id()",
}  # fmt: skip

# What needs the tables to itself. None of it changes what a tenant has, but for the first two.
UPHEAVALS: Mapping[str, tuple[str, ...]] = {
    "truncate tokens": (
        "CREATE TEMP TABLE saved ON COMMIT DROP AS SELECT * FROM tokens WHERE left(id::text, 1) <> to_hex({n} %% 16);"
        " TRUNCATE tokens; INSERT INTO tokens SELECT * FROM saved",
    ),
    "truncate logs": ("TRUNCATE logs; INSERT INTO logs (tenant_id, body) SELECT 1 + n %% 2, 'log ' || n %% 40 FROM generate_series(1, 200) n",),
    "vacuum full": ("VACUUM FULL docs", "VACUUM FULL grid", "VACUUM FULL logs"),
    "vacuum freeze": ("VACUUM (FREEZE, DISABLE_PAGE_SKIPPING) docs, tokens, tasks, events, logs",),
    "cluster": ("CLUSTER tasks USING tasks_pkey", "CLUSTER labels USING labels_pkey"),
    "analyze": ("ANALYZE",),
    "reindex": ("REINDEX TABLE docs",),
    "swap partition": (
        "ALTER TABLE events DETACH PARTITION events_2; ALTER TABLE events_2 SET SCHEMA attic;"
        " ALTER TABLE attic.events_2 RENAME TO was; ALTER TABLE attic.spare SET SCHEMA public; ALTER TABLE spare RENAME TO events_2;"
        " ALTER TABLE attic.was RENAME TO spare; ALTER TABLE events ATTACH PARTITION events_2 FOR VALUES IN (2)",
    ),
    "attach again": (
        "ALTER TABLE events DETACH PARTITION events_1",
        "UPDATE events_1 SET body = 'apart {s}' WHERE id %% 37 = {n}",
        "ALTER TABLE events ATTACH PARTITION events_1 FOR VALUES IN (1)",
    ),
    "rewrite": ("ALTER TABLE remarks ALTER COLUMN body TYPE text USING body || ''",),
}  # fmt: skip

# Another schema: backups of before are validated, and restored no more.
ALTERATIONS: Mapping[str, str] = {
    "add a column with a default": "ALTER TABLE {table} ADD COLUMN added_{s} text DEFAULT 'was not there {s}'",
    "drop a column": "ALTER TABLE {table} DROP COLUMN body; ALTER TABLE {table} ADD COLUMN body text DEFAULT 'again {s}'",
    "another type": "ALTER TABLE {table} ALTER COLUMN body TYPE varchar({length})",
    "rename a label": "ALTER TYPE mood RENAME VALUE '{label}' TO 'mood {s}'",
    "add a label": "ALTER TYPE mood ADD VALUE 'added {s}'",
}


@dataclass
class Session:
    """A transaction of another session that is still open; `savepoints` are how many it has."""

    connection: Any
    savepoints: int = 0

    def run(self, statement: str) -> None:
        self.connection.cursor().execute(statement)


@dataclass
class ChangingApplication:
    """The application in one database, its changes, and its states. `version` counts alterations of the schema."""

    database: Database
    directory: Path
    version: int = 0
    stamp: int = 0
    settings: Settings = field(init=False)
    sessions: list[Session] = field(default_factory=list)
    prepared: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.application = Application(self.database, self.directory)
        keep = {"keep_last": 1000}
        self.settings = self.application.configured(
            database={"links": [DECLARED], "config_tables": ["prefs"], "left_out": ["attic"]},
            retention={f"{kind}_backups": keep for kind in ("full", "incremental", "differential")},
            prune={"min_age_hours": 0, "small_packs": 2, "index_objects": 4},
        )
        for tenant in TENANTS.values():
            self.application.write_file(tenant, "a file", b"of the tenant")
        self.main = self.connect()

    def service(self) -> BackupService:
        return BackupService(self.settings)

    def connect(self) -> Any:
        connection = self.database.connect()
        connection.cursor().execute("SET lock_timeout = '100ms'; SET synchronous_commit = off")
        return connection

    def close(self) -> None:
        for session in self.sessions:
            session.connection.close()
        self.main.close()
        for name in self.prepared:
            self.database.run(f"ROLLBACK PREPARED '{name}'")

    def statement(self, change: str, tenant: int, number: int) -> str:
        self.stamp += 1
        return CHANGES[change].replace("%%", "%").format(t=tenant, n=number, s=self.stamp)

    def upheaval(self, name: str, number: int) -> Iterator[str]:
        self.stamp += 1
        for statement in UPHEAVALS[name]:
            yield statement.replace("%%", "%").format(n=number, s=self.stamp)

    def alter(self, name: str, table: str) -> None:
        self.stamp += 1
        ((label,),) = self.database.ask("SELECT min(enumlabel) FROM pg_enum WHERE enumtypid = 'mood'::regtype")
        for one in (table, "attic.spare") if table == "events" and "label" not in name else (table,):
            statement = ALTERATIONS[name].format(table=one, s=self.stamp, length=self.stamp + 1000, label=label)
            self.main.cursor().execute(statement)
        self.version += 1

    def state(self, tenant: int) -> dict[str, bytes]:
        """What the tenant has: sorted COPY text by table."""
        return {
            name: copy_text(self.main, f'SELECT x.* FROM {rows.format(tenant)} ORDER BY x::text COLLATE "C"')
            for name, (_, rows) in TABLES.items()
        }

    def make_way(self, tenant: int, state: Mapping[str, bytes]) -> None:
        """Delete the rows of others that hold the keys of `state`, and those that would come to the tenant with it.

        A restore refuses where another tenant's row is in the way; here that is not the question.
        """
        with closing(self.connect()) as connection:
            cursor = connection.cursor()
            for name, (key, rows) in TABLES.items():
                if not key or name == "tenants":
                    continue
                cursor.execute(f"CREATE TEMP TABLE w AS SELECT * FROM {name} WITH NO DATA")
                cursor.copy_expert("COPY w FROM STDIN", BytesIO(state[name]))
                cursor.execute(
                    f"DELETE FROM {name} WHERE ({key}) IN (SELECT {key} FROM w)"
                    f" AND ({key}) NOT IN (SELECT {', '.join('x.' + k.strip() for k in key.split(','))} FROM {rows.format(tenant)})"
                )
                cursor.execute("DROP TABLE w")
            cursor.execute(
                "DELETE FROM likes WHERE NOT EXISTS (SELECT FROM docs WHERE docs.id = ref AND kind = 'doc' AND tenant_id IS NOT NULL)"
            )
            cursor.execute("DELETE FROM tasks WHERE doc_id IS NULL")
