"""An application whose changes are journaled, for a test that does to it whatever can be done: tables, changes, a witness.

Nothing here is taken from the engine, but for what a backup is to be compared with. Statements are chosen by small numbers, so that
a failing sequence says what it did.
"""

from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2

from sbh_pipelines.backup.contents.layers import table_rows
from sbh_pipelines.backup.contents.manifest import WITH_TABLES
from sbh_pipelines.backup.contents.manifests import read_component, read_manifest
from sbh_pipelines.backup.contents.stored_table import read_sums, read_table
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.database.capture.changes import Window
from sbh_pipelines.database.capture.deleted_rows import sums
from sbh_pipelines.database.schema.key_hash import key_code
from sbh_pipelines.database.schema.tenancy import load_map
from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.model import Tenant, TenantId, utc_now
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.application import Application
from sbh_pipelines_tests.support.databases import Database, copy_text
from sbh_pipelines_tests.support.incremental.machine import Session
from sbh_pipelines_tests.support.site import Wrap, site_with_stores

TENANTS = {1: "acme", 2: "bolt", 3: "crab"}
REGIONS = {1: "eu-west-1", 2: "us-east-1", 3: "eu-west-1"}

SCHEMA = """
CREATE SCHEMA attic;
CREATE TABLE tenants (id int PRIMARY KEY, slug text UNIQUE NOT NULL, region text NOT NULL, tier text, settings text);
INSERT INTO tenants VALUES (1, 'acme', 'eu-west-1', 'critical', '{}'), (2, 'bolt', 'us-east-1', 'critical', NULL),
    (3, 'crab', 'eu-west-1', 'critical', NULL);
CREATE TABLE pairs (tenant_id int REFERENCES tenants, id int, body text, large text, PRIMARY KEY (tenant_id, id));
CREATE TABLE notes (id int PRIMARY KEY, tenant_id int REFERENCES tenants, body text, large text);
CREATE TABLE tokens (body text, id uuid PRIMARY KEY, tenant_id int NOT NULL, large text);
CREATE TABLE tasks (id int PRIMARY KEY, note_id int REFERENCES notes ON DELETE CASCADE ON UPDATE CASCADE, body text, large text);
CREATE TABLE remarks (id int PRIMARY KEY, task_id int REFERENCES tasks ON DELETE SET NULL ON UPDATE CASCADE, body text);
CREATE TABLE events (id int, part int, tenant_id int, body text, large text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE events_0 PARTITION OF events FOR VALUES IN (0);
CREATE TABLE events_1 (large text, part int NOT NULL, body text, tenant_id int, id int NOT NULL, PRIMARY KEY (id, part));
ALTER TABLE events ATTACH PARTITION events_1 FOR VALUES IN (1);
CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2);
ALTER TABLE notes REPLICA IDENTITY FULL; ALTER TABLE tasks REPLICA IDENTITY FULL; ALTER TABLE remarks REPLICA IDENTITY FULL;
CREATE UNIQUE INDEX tokens_whose ON tokens (tenant_id, id); ALTER TABLE tokens REPLICA IDENTITY USING INDEX tokens_whose;
ALTER TABLE events_0 REPLICA IDENTITY FULL; ALTER TABLE events_1 REPLICA IDENTITY FULL; ALTER TABLE events_2 REPLICA IDENTITY FULL;
CREATE FUNCTION long(n int) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(md5(n::text || g), '') FROM generate_series(1, 90) g $$;
ALTER TABLE pairs ALTER large SET STORAGE EXTERNAL; ALTER TABLE notes ALTER large SET STORAGE EXTERNAL;
INSERT INTO pairs SELECT 1 + n % 3, n, E'pair\\t\\\\ ' || n, CASE WHEN n % 9 = 0 THEN long(n) END FROM generate_series(1, 240) n;
INSERT INTO notes SELECT n, 1 + n % 3, 'note ' || n, CASE WHEN n % 7 = 0 THEN long(n) END FROM generate_series(1, 150) n;
INSERT INTO tokens SELECT 'token ' || n, md5('token' || n)::uuid, 1 + n % 3, CASE WHEN n % 11 = 0 THEN long(n) END
    FROM generate_series(1, 240) n;
INSERT INTO tasks SELECT n, 1 + n % 150, 'task ' || n, CASE WHEN n % 13 = 0 THEN long(n) END FROM generate_series(1, 240) n;
INSERT INTO remarks SELECT n, 1 + n % 240, 'remark ' || n FROM generate_series(1, 300) n;
INSERT INTO events SELECT n, n % 3, 1 + n / 3 % 3, 'event ' || n, CASE WHEN n % 13 = 0 THEN long(n) END
    FROM generate_series(1, 270) n;
"""

# A tenant's rows (alias x).
TABLES: Mapping[str, str] = {
    "tenants": "tenants x WHERE x.id = {}",
    "pairs": "pairs x WHERE x.tenant_id = {}",
    "notes": "notes x WHERE x.tenant_id = {}",
    "tokens": "tokens x WHERE x.tenant_id = {}",
    "tasks": "tasks x WHERE x.note_id IN (SELECT id FROM notes WHERE tenant_id = {})",
    "remarks": "remarks x WHERE x.task_id IN (SELECT k.id FROM tasks k JOIN notes n ON n.id = k.note_id WHERE n.tenant_id = {})",
    "events": "events x WHERE x.tenant_id = {}",
}

# Keys are used again, also those that "replica" left something behind for. {t} and {u} are tenants, {n} is 0..36, {s} a number never used before. Locked rows of other sessions are passed over.
_MINE = "(SELECT id FROM {0} WHERE tenant_id = {{t}} AND {1} FOR UPDATE SKIP LOCKED)"
_NOTES = _MINE.format("notes", "id % 37 = {n}")
CHANGES: Mapping[str, str] = {
    "insert pairs": "INSERT INTO pairs SELECT {t}, {s} * 10 + g, 'new', CASE WHEN g = 1 THEN long({s}) END FROM generate_series(0, {n} % 4) g",
    "update pairs": "UPDATE pairs SET body = '{s}' WHERE tenant_id = {t} AND id % 37 = {n}",
    "large pairs": "UPDATE pairs SET large = CASE WHEN large IS NULL THEN long({s}) END WHERE tenant_id = {t} AND id % 37 = {n}",
    "key of pairs": "UPDATE pairs SET id = id + 100000 * {s} WHERE tenant_id = {t} AND id % 53 = {n}",
    "move pairs": "UPDATE pairs SET tenant_id = {u}, id = id % 1000 + 1000 * {s} WHERE tenant_id = {t} AND id % 53 = {n}",
    "move and key pairs": "UPDATE pairs SET tenant_id = {u} WHERE tenant_id = {t} AND id % 61 = {n}",
    "delete pairs": "DELETE FROM pairs WHERE tenant_id = {t} AND id % 61 = {n}",
    "insert notes": "INSERT INTO notes SELECT {s} * 10 + g, {t}, E'new\\n', CASE WHEN g = 1 THEN long({s}) END FROM generate_series(0, {n} % 3) g",
    "update notes": f"UPDATE notes SET body = '{{s}}' WHERE id IN {_NOTES}",
    "large notes": f"UPDATE notes SET large = CASE WHEN large IS NULL THEN long({{s}}) END WHERE id IN {_NOTES}",
    "key of notes": "UPDATE notes SET id = {s} * 10 + 9 WHERE id = (SELECT id FROM notes WHERE tenant_id = {t} ORDER BY id OFFSET {n} LIMIT 1 FOR UPDATE SKIP LOCKED)",
    "key back of notes": "UPDATE notes SET id = (SELECT min(g) FROM generate_series(1, 150) g WHERE NOT EXISTS (SELECT FROM notes WHERE id = g))"
    " WHERE id = (SELECT max(id) FROM notes WHERE tenant_id = {t})",
    "insert again notes": "INSERT INTO notes SELECT min(g), {t}, 'again {s}' FROM generate_series(1, 150) g WHERE NOT EXISTS (SELECT FROM notes WHERE id = g) HAVING min(g) IS NOT NULL",
    "move notes": "UPDATE notes SET tenant_id = {u} WHERE id = (SELECT id FROM notes WHERE tenant_id = {t} ORDER BY id OFFSET {n} LIMIT 1 FOR UPDATE SKIP LOCKED)",
    "orphan notes": "UPDATE notes SET tenant_id = CASE WHEN tenant_id IS NULL THEN {t} END WHERE id % 101 = {n}",
    "delete notes": f"DELETE FROM notes WHERE id IN {_NOTES} AND id % 5 < 2",
    "insert tokens": "INSERT INTO tokens SELECT 'new', md5('{s} ' || g)::uuid, {t}, CASE WHEN g = 1 THEN long({s}) END FROM generate_series(0, {n} % 4) g",
    "update tokens": "UPDATE tokens SET body = '{s}' WHERE tenant_id = {t} AND left(id::text, 1) = to_hex({n} % 16)",
    "key of tokens": "UPDATE tokens SET id = md5('{s}' || id::text)::uuid WHERE tenant_id = {t} AND left(id::text, 2) LIKE '_' || to_hex({n} % 16)",
    "move tokens": "UPDATE tokens SET tenant_id = {u} WHERE tenant_id = {t} AND right(id::text, 1) = to_hex({n} % 16)",
    "delete tokens": "DELETE FROM tokens WHERE tenant_id = {t} AND right(id::text, 1) = to_hex({n} % 16)",
    "insert tasks": "INSERT INTO tasks SELECT {s} * 10, max(id), 'new', long({s}) FROM notes WHERE tenant_id = {t}",
    "update tasks": "UPDATE tasks SET body = '{s}' WHERE id % 41 = {n}",
    "large tasks": "UPDATE tasks SET large = CASE WHEN large IS NULL THEN long({s}) END WHERE id % 41 = {n}",
    "key of tasks": "UPDATE tasks SET id = {s} * 10 + 9 WHERE id = (SELECT id FROM tasks ORDER BY id OFFSET {n} LIMIT 1 FOR UPDATE SKIP LOCKED)",
    "hand on tasks": "UPDATE tasks SET note_id = (SELECT min(id) FROM notes WHERE tenant_id = {t}) WHERE id % 71 = {n}",
    "orphan tasks": "UPDATE tasks SET note_id = NULL WHERE id % 89 = {n}",
    "delete tasks": "DELETE FROM tasks WHERE id % 61 = {n}",
    "insert remarks": "INSERT INTO remarks SELECT {s} * 10 + g, (SELECT max(id) - {n} FROM tasks), 'new' FROM generate_series(0, 2) g",
    "update remarks": "UPDATE remarks SET body = '{s}' WHERE id % 37 = {n}",
    "hand on remarks": "UPDATE remarks SET task_id = (SELECT min(id) FROM tasks WHERE id % 7 = {n} % 7) WHERE id % 71 = {n}",
    "delete remarks": "DELETE FROM remarks WHERE id % 59 = {n}",
    "insert events": "INSERT INTO events SELECT {s} * 10 + g, ({n} + g) % 3, {t}, 'new', CASE WHEN g = 1 THEN long({s}) END FROM generate_series(0, 3) g",
    "update events": "UPDATE events SET body = '{s}' WHERE tenant_id = {t} AND id % 37 = {n}",
    "part of events": "UPDATE events SET part = (part + 1) % 3 WHERE id % 37 = {n}",
    "move events": "UPDATE events SET tenant_id = {u} WHERE tenant_id = {t} AND id % 53 = {n}",
    "delete events": "DELETE FROM events WHERE id % 59 = {n}",
    "settings": "UPDATE tenants SET settings = '{s}' WHERE id = {t}",
    "all in one": "UPDATE notes SET body = body || '.' WHERE id % 7 = {n} % 7; UPDATE tasks SET body = '{s}' WHERE id % 7 = {n} % 7;"
    " DELETE FROM remarks WHERE id % 71 = {n}; UPDATE events SET body = '{s}' WHERE id % 7 = {n} % 7",
    "there and back": "WITH gone AS (DELETE FROM tokens WHERE tenant_id = {t} AND left(id::text, 1) = to_hex({n} % 16) RETURNING *)"
    " SELECT count(*) FROM gone; INSERT INTO tokens SELECT '{s}', md5('token' || {n} + 1)::uuid, {u} ON CONFLICT (id) DO UPDATE SET body = '{s}'",
    "nothing": "SELECT pg_current_xact_id()",
}  # fmt: skip

# What needs the tables to itself.
UPHEAVALS: Mapping[str, tuple[str, ...]] = {
    "truncate": ("CREATE TEMP TABLE kept ON COMMIT DROP AS SELECT * FROM tokens WHERE left(id::text, 1) <> to_hex({n} % 16);"
        " TRUNCATE tokens; INSERT INTO tokens SELECT * FROM kept",),
    "truncate all": ("TRUNCATE remarks",),
    "truncate a parent": ("CREATE TEMP TABLE kept ON COMMIT DROP AS SELECT * FROM tasks WHERE id % 5 > 0; TRUNCATE tasks CASCADE;"
        " INSERT INTO tasks SELECT * FROM kept",),
    "truncate a partition": ("TRUNCATE events_1",),
    "detach and attach": ("ALTER TABLE events DETACH PARTITION events_1", "UPDATE events_1 SET body = 'apart {s}' WHERE id % 37 = {n}",
        "ALTER TABLE events ATTACH PARTITION events_1 FOR VALUES IN (1)"),
    "detach and attach at once": ("ALTER TABLE events DETACH PARTITION events_1; UPDATE events_1 SET body = 'apart {s}' WHERE id % 37 = {n};"
        "ALTER TABLE events ATTACH PARTITION events_1 FOR VALUES IN (1)",),
    "drop a partition": ("DROP TABLE events_2; CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2);"
        " ALTER TABLE events_2 REPLICA IDENTITY FULL",),
    "come and go": ("CREATE TABLE events_9 PARTITION OF events FOR VALUES IN (9); INSERT INTO events VALUES ({s}, 9, {t}, 'nine');"
        " DROP TABLE events_9",),
    "a new partition": ("CREATE TABLE IF NOT EXISTS events_5 PARTITION OF events FOR VALUES IN (5)",
        "INSERT INTO events VALUES ({s} * 10, 5, {t}, 'five')", "ALTER TABLE events_5 REPLICA IDENTITY FULL"),
    "swap a partition": ("ALTER TABLE events DETACH PARTITION events_2; ALTER TABLE events_2 SET SCHEMA attic; ALTER TABLE attic.events_2 RENAME TO was{s}; ALTER INDEX attic.events_2_pkey RENAME TO was{s}_pkey;"
        " CREATE TABLE events_2 (LIKE events INCLUDING ALL); ALTER TABLE events_2 REPLICA IDENTITY FULL; INSERT INTO events_2 SELECT id, part, tenant_id, 'swapped' FROM attic.was{s} WHERE id % 3 = 0;"
        " ALTER TABLE events ATTACH PARTITION events_2 FOR VALUES IN (2)",),
    "vacuum full": ("VACUUM FULL notes", "VACUUM FULL tokens"),
    "freeze": ("VACUUM (FREEZE, DISABLE_PAGE_SKIPPING) pairs, notes, tokens, tasks, remarks",),
    "cluster": ("CLUSTER tasks USING tasks_pkey",),
    "checkpoint": ("CHECKPOINT",),
    "lost identity": ("ALTER TABLE notes REPLICA IDENTITY DEFAULT", "UPDATE notes SET tenant_id = 1 + tenant_id % 3 WHERE id % 37 = {n}",
        "ALTER TABLE notes REPLICA IDENTITY FULL"),
    "lost identity of a partition": ("ALTER TABLE events_0 REPLICA IDENTITY DEFAULT; UPDATE events SET body = '{s}' WHERE id % 37 = {n}",
        "ALTER TABLE events_0 REPLICA IDENTITY FULL"),
    "out of the publication": ("ALTER PUBLICATION sbh_journal DROP TABLE ONLY tasks", "UPDATE tasks SET body = 'unseen {s}' WHERE id % 37 = {n}"),
    "out and in": ("ALTER PUBLICATION sbh_journal DROP TABLE ONLY pairs; UPDATE pairs SET body = 'unseen {s}' WHERE id % 37 = {n};"
        " ALTER PUBLICATION sbh_journal ADD TABLE ONLY pairs",),
    "a column": ("ALTER TABLE pairs ADD COLUMN added_{s} text", "UPDATE pairs SET added_{s} = '{s}' WHERE id % 37 = {n}"),
    "a column of a parent": ("ALTER TABLE notes ADD COLUMN added_{s} int; UPDATE notes SET body = '{s}' WHERE id % 37 = {n}",),
    "a column with a default": ("ALTER TABLE tokens ADD COLUMN added_{s} text DEFAULT 'constant {s}'",),
    "a column that is filled": ("ALTER TABLE remarks ADD COLUMN added_{s} text DEFAULT clock_timestamp()::text",),
    "a column is gone": ("ALTER TABLE tasks DROP COLUMN body; UPDATE tasks SET id = id WHERE id % 37 = {n}; ALTER TABLE tasks ADD COLUMN body text",),
    "another name": ("ALTER TABLE notes RENAME COLUMN body TO large_{s}; ALTER TABLE notes RENAME COLUMN large TO body;"
        " ALTER TABLE notes RENAME COLUMN large_{s} TO large",),
    "another type": ("ALTER TABLE remarks ALTER COLUMN body TYPE varchar({length})",),
    "rewritten": ("ALTER TABLE events ALTER COLUMN body TYPE text USING body || ''",),
    "rewritten otherwise": ("ALTER TABLE tokens ALTER COLUMN body TYPE text USING body || '{s}'",),
    "replica": ("SET session_replication_role = replica; DELETE FROM notes WHERE id % 71 = {n}; SET session_replication_role = origin",),
    "another table": ("ALTER TABLE remarks RENAME TO former{s}; ALTER TABLE former{s} SET SCHEMA attic; ALTER INDEX attic.remarks_pkey RENAME TO former{s}_pkey;"
        " CREATE TABLE remarks (LIKE attic.former{s} INCLUDING ALL, FOREIGN KEY (task_id) REFERENCES tasks ON DELETE SET NULL ON UPDATE CASCADE);"
        " INSERT INTO remarks SELECT * FROM attic.former{s} WHERE id % 2 = 0; ALTER TABLE remarks REPLICA IDENTITY FULL",),
}  # fmt: skip

CALM = frozenset({"vacuum full", "freeze", "cluster", "checkpoint"})
"""Upheavals that change no row."""

_REFUSED = (
    psycopg2.errors.LockNotAvailable,
    psycopg2.errors.IntegrityError,
    psycopg2.errors.DeadlockDetected,
    psycopg2.errors.ObjectNotInPrerequisiteState,  # its identity is not there just now
)


@dataclass
class JournaledApplication:
    """The application in one database, its sessions and its backups' settings. `ahead`: seconds that its clock is."""

    database: Database
    directory: Path
    stamp: int = 100
    ahead: float = 0
    settings: Settings = field(init=False)
    sessions: list[Session] = field(default_factory=list)
    prepared: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.settings = self._configured()
        self.main = self.connect()

    def _configured(self) -> Settings:
        application = Application(self.database, self.directory)
        keep = {"keep_last": 1000}
        return application.configured(
            database={"left_out": ["attic"], "lock_timeout_s": 2},
            storage={"regions": sorted(set(REGIONS.values()))},
            journal={"enabled": True, "dsn": f"user={postgres.ADMIN}"},
            retention={f"{kind}_backups": keep for kind in ("full", "incremental", "differential")},
        )

    def connect(self) -> Any:
        connection = self.database.connect()
        connection.cursor().execute("SET lock_timeout = '100ms'")
        return connection

    def server_was_killed(self) -> None:
        """It runs again, perhaps at another port: what was open is gone, what was prepared is there."""
        for session in self.sessions:
            session.connection.close()
        self.sessions.clear()
        self.main.close()
        self.settings, self.main = self._configured(), self.connect()

    def close(self) -> None:
        for session in self.sessions:
            session.connection.close()
        self.main.close()
        for name in self.prepared:
            self.database.run(f"ROLLBACK PREPARED '{name}'")

    def change(self, name: str, tenant: int, number: int, session: Session | None = None) -> bool:
        """Whether it was done: it may run into what others have locked."""
        self.stamp += 1
        other = 1 + (tenant + number) % 3
        statement = CHANGES[name].format(t=tenant, u=other, n=number, s=self.stamp)
        cursor = (session.connection if session else self.main).cursor()
        try:
            if session is not None:
                session.savepoints += 1
                cursor.execute(f"SAVEPOINT s{session.savepoints}")
            cursor.execute(statement)
        except _REFUSED:
            if session is not None:
                cursor.execute(f"ROLLBACK TO s{session.savepoints}")
            return False
        return True

    def begin(self) -> Session:
        session = Session(self.connect())
        session.run("BEGIN")
        self.sessions.append(session)
        return session

    def end(self, nth: int, how: str) -> None:
        if not self.sessions:
            return
        session = self.sessions.pop(nth % len(self.sessions))
        if how == "PREPARE":
            self.stamp += 1
            name = f"{self.database.name} {self.stamp}"
            session.run(f"PREPARE TRANSACTION '{name}'")
            self.prepared.append(name)
        else:
            session.run(how)
        session.connection.close()

    def end_prepared(self, how: str) -> None:
        if self.prepared:
            self.main.cursor().execute(f"{how} PREPARED '{self.prepared.pop(0)}'")

    def settle(self) -> None:
        for nth in range(len(self.sessions)):
            self.end(0, ("COMMIT", "ROLLBACK")[nth % 2])
        while self.prepared:
            self.end_prepared("COMMIT")

    def upheaval(self, name: str, tenant: int, number: int) -> None:
        self.stamp += 1
        for statement in UPHEAVALS[name]:
            with suppress(*_REFUSED, psycopg2.errors.UndefinedObject):
                text = statement.format(t=tenant, n=number, s=self.stamp, length=self.stamp + 1000)
                self.main.cursor().execute(text)

    def copy_in(self, tenant: int, number: int) -> None:
        """Rows by COPY, with all that has to be escaped."""
        self.stamp += 1
        rows = "".join(f"{tenant}\t{self.stamp * 10 + n}\ta\\tb\\\\\\n\\b{n}\t\\N\n" for n in range(1 + number % 7))
        from io import StringIO

        self.main.cursor().copy_expert("COPY pairs (tenant_id, id, body, large) FROM STDIN", StringIO(rows))

    def site(self, wrap: Wrap = lambda store, _: store) -> Any:
        return site_with_stores(self.settings, utc_now, wrap)

    @staticmethod
    def tenant(number: int) -> Tenant:
        return Tenant(TenantId(TENANTS[number]), str(number), REGIONS[number], "critical")


State = Mapping[str, list[bytes]]


def state_of(connection: Any, tenant: int) -> dict[str, list[bytes]]:
    """Sorted lines of COPY text by table, read without the engine."""
    return {
        name: sorted(copy_text(connection, f"SELECT x.* FROM {rows.format(tenant)}").split(b"\n")[:-1])
        for name, rows in TABLES.items()
    }


def stored_state(application: JournaledApplication, tenant: int, backup_id: Any) -> tuple[dict[str, list[bytes]], Any]:
    """(as `state_of`, but what a backup has; its tables' summaries)."""
    with application.site().repository(application.tenant(tenant)) as repository:
        repository.load_index()
        manifest = read_manifest(repository, backup_id)
        found = [table for name in WITH_TABLES for table in read_component(repository, manifest, name).tables]
        return {
            one.table.removeprefix("public."): sorted(
                b"".join(table_rows(repository, read_table(repository, one))).split(b"\n")[:-1]
            )
            for one in found
        }, found


def check_backup(
    application: JournaledApplication, tenant: int, backup_id: Any, truth: State, snapshot_id: str | None
) -> None:
    """What the backup has is `truth`, and what later backups compare with is what a scan of the snapshot gives."""
    stored, summaries = stored_state(application, tenant, backup_id)
    assert stored.keys() == truth.keys()
    for name, lines in truth.items():
        lost, alien = set(lines) - set(stored[name]), set(stored[name]) - set(lines)
        assert stored[name] == lines, f"{name} of {tenant}: lost {sorted(lost)[:5]}, too many {sorted(alien)[:5]}"
    if snapshot_id is not None:
        _check_sums(application, tenant, summaries, snapshot_id)


def _check_sums(
    application: JournaledApplication, tenant: int, summaries: list[TableSummary], snapshot_id: str
) -> None:
    found = {one.table: one for one in summaries}
    key = str(tenant)
    with (
        closing(connect(application.settings.database, "test")) as connection,
        application.site().repository(application.tenant(tenant)) as repository,
    ):
        cursor = connection.cursor()
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        cursor.execute(f"SET TRANSACTION SNAPSHOT '{snapshot_id}'")
        repository.load_index()
        seed = application.site().catalog(REGIONS[tenant]).hash_seed
        for table in load_map(connection, application.settings).tables:
            summary = found[table.full_name]
            state = read_table(repository, summary).state
            if state is None:
                continue
            stored = read_sums(repository, state.bits, state.sums, state.rows, state.key_hash)
            live = sums(connection, table, key_code(table), {key: Window(None, seed, state.bits)})[0][key]
            assert (summary.rows, summary.key_hash) == (live.rows, live.key_hash), table.full_name
            assert (state.rows, state.key_hash) == (live.rows, live.key_hash), table.full_name
            assert (stored.counts, stored.hashes) == (live.counts, live.hashes), table.full_name
