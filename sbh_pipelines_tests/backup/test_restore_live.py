"""Restores while others work: every write of another session is either seen, and the restore gives up, or lands after it."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from sbh_pipelines.backup.request import RestoreRequest
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.stack import Stack
from sbh_pipelines.errors import SbhError, SourceConflict
from sbh_pipelines.model import Progress
from sbh_pipelines_tests.backup.application import ACME, ADMIN, Application
from sbh_pipelines_tests.sources.databases import Database, fresh_database

SCHEMA = """
CREATE TABLE tenants (id int PRIMARY KEY, slug text UNIQUE, region text, tier text);
CREATE TABLE plans (id int PRIMARY KEY);
CREATE TABLE projects (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, body text, plan int REFERENCES plans);
CREATE TABLE tasks (id int PRIMARY KEY, project_id int NOT NULL REFERENCES projects, body text);
CREATE TABLE loose (id int PRIMARY KEY, tenant_id int NOT NULL, body text);
CREATE TABLE pins (project_id int REFERENCES projects);
INSERT INTO tenants VALUES (1, 'acme', 'eu-west-1', NULL), (2, 'bolt', 'eu-west-1', NULL);
INSERT INTO plans VALUES (1), (2);
INSERT INTO projects SELECT n, 1 + n % 2, 'project ' || n, 1 + n % 2 FROM generate_series(1, 20) n;
INSERT INTO tasks SELECT n, 1 + n % 20, 'task ' || n FROM generate_series(1, 60) n;
INSERT INTO loose SELECT n, 1 + n % 2, 'loose ' || n FROM generate_series(1, 20) n;
"""
TABLES = ("tenants", "plans", "projects", "tasks", "loose", "pins")
DAMAGE = """
UPDATE projects SET body = 'ruined' WHERE id = 2; UPDATE loose SET body = 'ruined' WHERE id = 2;
DELETE FROM tasks WHERE project_id = 4; DELETE FROM projects WHERE id = 4;
INSERT INTO projects VALUES (90, 1, 'new', 1); INSERT INTO loose VALUES (90, 1, 'new');
"""
# What another session does meanwhile.
WRITES = {
    "a row without a foreign key": "INSERT INTO loose VALUES (91, 1, 'later')",
    "a row that refers to the tenant": "INSERT INTO projects VALUES (91, 1, 'later', 1)",
    "a row that refers to one that stays": "INSERT INTO tasks VALUES (91, 6, 'later')",
    "a row that refers to one that goes": "INSERT INTO tasks VALUES (91, 90, 'later')",
    "a row below one that goes, of a shared table": "INSERT INTO pins VALUES (90)",
    "a row that is restored": "UPDATE projects SET body = 'later' WHERE id = 2",
    "a row that stays": "UPDATE loose SET body = 'later' WHERE id = 4",
    "a row that goes": "DELETE FROM loose WHERE id = 90",
    "a row that stays, deleted": "DELETE FROM tasks WHERE id = 5",
    "the tenant's own row": "UPDATE tenants SET tier = 'critical' WHERE id = 1",
    "a key that comes back": "INSERT INTO projects VALUES (4, 1, 'later', 1)",
    "a shared row that a restored one refers to": "DELETE FROM plans WHERE id = 2",
}
STEPS = ("compare", "safety", "merge", "prove", "files", "commit")

State = Mapping[str, bytes]


@dataclass
class Place:
    database: Database
    application: Application
    saved: dict[str, bytes] = field(default_factory=dict)
    backup_id: str = ""

    def service(self, **sections: Any) -> BackupService:
        database = {"shared": ["plans", "pins"], "lock_timeout_s": 0.4, **sections.pop("database", {})}
        return self.application.service(database=database, **sections)

    def reset(self, *then: str) -> None:
        with closing(self.database.connect()) as connection:
            cursor = connection.cursor()
            cursor.execute(f"BEGIN; TRUNCATE {', '.join(self.saved)}; SET LOCAL session_replication_role = replica")
            for table, text in self.saved.items():
                cursor.copy_expert(f"COPY {table} FROM STDIN", BytesIO(text))
            cursor.execute("COMMIT")
            for statement in then:
                cursor.execute(statement)
        self.application.write_file(ACME, "lost", b"lost") if False else None

    def state(self) -> State:
        return {t: self.database.copy(f"SELECT * FROM {t} x ORDER BY x") for t in TABLES}

    def after(self, *statements: str) -> State:
        """The state after these, one by one, from the beginning; those that the server refuses do nothing."""
        self.reset()
        for statement in statements:
            try:
                self.database.run(statement)
            except psycopg2.IntegrityError:
                pass
        return self.state()


@pytest.fixture(scope="module")
def place(embedded_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with fresh_database(embedded_stack) as database:
        database.run(SCHEMA)
        made = Place(database, Application(database, tmp_path_factory.mktemp("live")))
        made.saved = {t: database.copy(f"TABLE {t}") for t in TABLES}
        made.application.write_file(ACME, "docs/a.txt", b"a")
        made.backup_id = made.service().create_backup(ACME, ADMIN)["id"]
        yield made


class Writer:
    """Another session, in a thread of its own: it may have to wait for the restore."""

    def __init__(self, database: Database, statement: str, *, commit: bool) -> None:
        self.connection = database.connect()
        self.connection.autocommit = False
        self.statement, self.commit = statement, commit
        self.error: psycopg2.Error | None = None
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.connection.cursor().execute(self.statement)
            if self.commit:
                self.connection.commit()
        except psycopg2.Error as error:
            self.error = error
            self.connection.rollback()

    def begin(self) -> None:
        self.thread.start()
        self.thread.join(0.15)

    def end(self) -> None:
        self.thread.join(20)
        assert not self.thread.is_alive()
        self.connection.commit()
        self.connection.close()


def at(step: str, act: Callable[[], None]) -> Callable[[Progress], None]:
    """A progress sink that acts once, at the first notice of a step; `files` is the second time, when they are written."""
    waiting = [True]
    merged = []

    def sink(progress: Progress) -> None:
        name = progress.step.removeprefix("restore: ")
        merged.append(name) if name == "prove" else None
        if waiting and name == step and (step != "files" or merged):
            waiting.clear()
            act()

    return sink


@pytest.mark.parametrize("commit", [True, False], ids=["committed", "open"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("write", WRITES)
def test_a_write_at_a_step(place: Place, write: str, step: str, commit: bool) -> None:
    """The outcome is that of one after the other, or the restore has done nothing and may be tried again."""
    statement = WRITES[write]
    finished = place.after(statement)  # as if restored first
    failed = place.after(*DAMAGE.split(";")[:-1], statement)
    place.reset(DAMAGE)
    writer = Writer(place.database, statement, commit=commit)
    raised: SbhError | None = None
    try:
        place.service(restore={"safety_backup": True}).restore_backup(
            place.backup_id, ACME, ADMIN, progress=at(step, writer.begin)
        )
    except SbhError as error:
        raised = error
    if not writer.thread.ident:
        writer.begin()
    writer.end()
    now = place.state()
    print(write, step, commit, "->", raised and (raised.code, raised.what, raised.why), "| writer:", writer.error)
    if raised is None:
        assert now == finished
    else:
        assert isinstance(raised, SourceConflict)
        assert now == failed
        assert place.service().restore_backup(place.backup_id, ACME, ADMIN)["status"] == "completed"
