"""Restores while others work: every write of another session is either seen, and the restore gives up, or lands after it."""

import http.server
import json
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from io import BytesIO
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.document import as_document
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import (
    HookFailed,
    LeaseHeld,
    LeaseLost,
    PrivilegeMissing,
    ProofFailed,
    RestoreConflict,
    RestoreRefused,
    SbhError,
    SourceConflict,
)
from sbh_pipelines.model import Progress, utc_now
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.format import Keys
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application
from sbh_pipelines_tests.support.databases import Database, fresh_database
from sbh_pipelines_tests.support.served import served
from sbh_pipelines_tests.support.servers import until

SCHEMA = """
CREATE TABLE tenants (id int PRIMARY KEY, slug text UNIQUE, region text, tier text);
CREATE TABLE plans (id int PRIMARY KEY);
CREATE TABLE projects (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, body text, plan int REFERENCES plans);
CREATE TABLE tasks (id int PRIMARY KEY, project_id int NOT NULL REFERENCES projects, body text);
CREATE TABLE loose (id int PRIMARY KEY, tenant_id int NOT NULL, body text);
CREATE TABLE pins (project_id int REFERENCES projects);
INSERT INTO tenants VALUES (1, 'acme', 'eu-west-1', NULL), (2, 'bolt', 'eu-west-1', NULL);
INSERT INTO plans VALUES (1), (2), (3);
INSERT INTO projects SELECT n, 1 + n % 2, 'project ' || n, 1 + n % 2 FROM generate_series(1, 20) n;
UPDATE projects SET plan = 3 WHERE id = 4;
INSERT INTO tasks SELECT n, 1 + n % 20, 'task ' || n FROM generate_series(1, 60) n;
INSERT INTO loose SELECT n, 1 + n % 2, 'loose ' || n FROM generate_series(1, 20) n;
"""
TABLES = ("tenants", "plans", "projects", "tasks", "loose", "pins")
DAMAGE = """
UPDATE projects SET body = 'ruined' WHERE id = 2; UPDATE loose SET body = 'ruined' WHERE id = 2;
DELETE FROM tasks WHERE project_id IN (4, 8); DELETE FROM projects WHERE id = 4;
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
    "a shared row that a restored one refers to": "DELETE FROM plans WHERE id = 3",
    "a row that restored ones refer to": "DELETE FROM projects WHERE id = 8",
}
WAITING = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
STEPS = ("compare", "decided", "merge", "prove", "files", "commit")

State = Mapping[str, bytes]


@dataclass
class LiveApplication:
    database: Database
    application: Application
    saved: dict[str, bytes] = field(default_factory=dict)
    backup_id: str = ""

    def service(self, **sections: Any) -> BackupService:
        database = {"shared": ["plans", "pins"], "lock_timeout_s": 0.4, **sections.pop("database", {})}
        return self.application.service(database=database, **sections)

    def reset(self, *then: str) -> None:
        with self.database.session() as connection:
            cursor = connection.cursor()
            cursor.execute(f"BEGIN; TRUNCATE {', '.join(self.saved)}; SET LOCAL session_replication_role = replica")
            for table, text in self.saved.items():
                cursor.copy_expert(f"COPY {table} FROM STDIN", BytesIO(text))
            cursor.execute("COMMIT")
            for statement in then:
                cursor.execute(statement)

    def state(self) -> State:
        return {t: self.database.copy(f"SELECT * FROM {t} x ORDER BY x") for t in TABLES}

    def places(self) -> list[tuple[Any, ...]]:
        """Where every row lies, and who wrote it."""
        parts = (f"SELECT '{t}', ctid::text, xmin::text, x::text FROM {t} x" for t in TABLES)
        return self.database.ask(" UNION ALL ".join(parts) + " ORDER BY 1, 2")

    def after(self, *statements: str) -> State:
        """The state after these, one by one, from the beginning; those that the server refuses do nothing."""
        self.reset()
        for statement in statements:
            with suppress(psycopg2.IntegrityError):
                self.database.run(statement)
        return self.state()


@pytest.fixture(scope="module")
def live_app(embedded_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApplication]:
    with fresh_database(embedded_stack) as database:
        database.run(SCHEMA)
        made = LiveApplication(database, Application(database, tmp_path_factory.mktemp("live")))
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
        self.rows = -1  # written; -1: it failed, or was not begun
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            cursor = self.connection.cursor()
            cursor.execute(self.statement)
            self.rows = cursor.rowcount
            if self.commit:
                self.connection.commit()
        except psycopg2.Error:
            self.connection.rollback()

    def begin(self) -> None:
        self.thread.start()
        self.thread.join(0.15)

    def end(self) -> None:
        self.thread.join(240)
        assert not self.thread.is_alive()
        self.connection.commit()
        self.connection.close()


def at(step: str, act: Callable[[], None]) -> Callable[[Progress], None]:
    """A progress sink that acts once, at the first notice of a step; `decided` is when nothing is written yet."""
    seen: list[str] = []

    def sink(progress: Progress) -> None:
        name = progress.step.removeprefix("restore: ")
        if name == "files" and "prove" not in seen:
            name = "decided"  # the files are read, to be sure of them
        if name == step and name not in seen:
            act()
        seen.append(name)

    return sink


# (what is written, when, whether it is committed before the restore goes on)
MOMENTS = [
    ("a row without a foreign key", "compare", True),
    ("a row without a foreign key", "commit", False),
    ("a row that refers to the tenant", "decided", False),
    ("a row that refers to the tenant", "prove", True),
    ("a row that refers to one that stays", "prove", True),
    ("a row that refers to one that goes", "decided", True),
    ("a row that refers to one that goes", "files", True),
    ("a row below one that goes, of a shared table", "decided", True),
    ("a row below one that goes, of a shared table", "commit", True),
    ("a row that is restored", "decided", True),
    ("a row that is restored", "prove", True),
    ("a row that stays", "files", True),
    ("a row that goes", "decided", False),
    ("a row that stays, deleted", "merge", True),
    ("the tenant's own row", "decided", True),
    ("a key that comes back", "decided", True),
    ("a key that comes back", "commit", False),
    ("a shared row that a restored one refers to", "decided", True),
    ("a shared row that a restored one refers to", "commit", True),
    ("a row that restored ones refer to", "decided", True),
    ("a row that restored ones refer to", "commit", True),
]


@pytest.mark.parametrize(("write", "step", "commit"), MOMENTS)
def test_a_write_at_a_step(live_app: LiveApplication, write: str, step: str, commit: bool) -> None:
    """The outcome is that of one after the other, or the restore has done nothing and says why."""
    statement = WRITES[write]
    restored, finished = live_app.after(), live_app.after(statement)
    failed = live_app.after(*DAMAGE.split(";")[:-1], statement)
    live_app.reset(DAMAGE)
    writer = Writer(live_app.database, statement, commit=commit)
    raised: SbhError | None = None
    try:
        live_app.service().restore_backup(live_app.backup_id, ACME, ADMIN, progress=at(step, writer.begin))
    except SbhError as error:
        raised = error
    writer.end()
    if raised is None:
        # Who waited to change a row that was put back meanwhile finds it replaced, and is told: no row was changed.
        assert live_app.state() == (restored if writer.rows == 0 else finished)
    else:
        assert isinstance(raised, SourceConflict | RestoreConflict)
        assert live_app.state() == failed


def test_other_tenants_write_on(live_app: LiveApplication) -> None:
    """At every step, into every table, without waiting."""
    live_app.reset(DAMAGE)
    steps: list[str] = []

    def write(progress: Progress) -> None:
        steps.append(progress.step)
        n = 1000 + len(steps)
        live_app.database.run(
            "SET lock_timeout = '10s'",  # the restore waits for this, and would not give anything free meanwhile
            f"INSERT INTO projects VALUES ({n}, 2, 'theirs', 1); INSERT INTO tasks VALUES ({n}, {n}, 'theirs');"
            f"INSERT INTO loose VALUES ({n}, 2, 'theirs'); UPDATE projects SET body = '{n}' WHERE id = 3;"
            "UPDATE loose SET body = body || '.' WHERE tenant_id = 2; UPDATE tenants SET tier = 'x' WHERE id = 2;"
            "DELETE FROM tasks WHERE body = 'theirs' AND id % 2 = 0",
        )

    live_app.service().restore_backup(live_app.backup_id, ACME, ADMIN, progress=write)
    assert {"restore: merge", "restore: prove", "restore: commit"} <= set(steps)
    mine = live_app.database.ask("SELECT * FROM projects WHERE tenant_id = 1 ORDER BY id")
    theirs = live_app.database.ask("SELECT count(*) FROM projects WHERE tenant_id = 2")
    live_app.reset()
    assert mine == live_app.database.ask("SELECT * FROM projects WHERE tenant_id = 1 ORDER BY id")
    assert theirs == [(10 + len(steps),)]


def refused(live_app: LiveApplication, service: BackupService, **more: Any) -> SbhError:
    """The restore fails, and no row has moved; the error."""
    before = live_app.places()
    with pytest.raises(SbhError) as caught:
        service.restore_backup(live_app.backup_id, ACME, ADMIN, **more)
    assert live_app.places() == before
    return caught.value


def test_a_deadlock(live_app: LiveApplication) -> None:
    """The restore is the victim: a clean error that says to try again."""
    live_app.reset(DAMAGE)
    before = live_app.state()
    with closing(live_app.database.connect()) as other:
        other.autocommit = False
        other.cursor().execute("SET deadlock_timeout = '10min'")
        other.cursor().execute("SELECT FROM loose WHERE id = 2 FOR UPDATE")

        def want() -> None:
            """Once the restore waits for it, and before it asks whether that is a deadlock."""
            until(lambda: live_app.database.ask(f"{WAITING} AND pid <> %s", (other.info.backend_pid,)))
            other.cursor().execute("SELECT FROM projects WHERE id = 2 FOR UPDATE")

        wanting = threading.Thread(target=want)
        live_app.database.run(f"ALTER DATABASE {live_app.database.name} SET deadlock_timeout = '4s'")
        try:
            with pytest.raises(SourceConflict, match="deadlock"):
                live_app.service(database={"lock_timeout_s": 60}).restore_backup(
                    live_app.backup_id, ACME, ADMIN, progress=at("merge", wanting.start)
                )
        finally:
            live_app.database.run(f"ALTER DATABASE {live_app.database.name} RESET deadlock_timeout")
        wanting.join()
        other.rollback()
    assert live_app.state() == before


def test_a_lock_that_is_not_given_free(live_app: LiveApplication) -> None:
    """Told as what it is, with the setting that bounds the wait."""
    live_app.reset(DAMAGE)
    with closing(live_app.database.connect()) as other:
        other.autocommit = False
        other.cursor().execute("LOCK TABLE loose IN SHARE MODE")
        error = refused(live_app, live_app.service(database={"lock_timeout_s": 0.2}))
    assert isinstance(error, SourceConflict)
    assert "public.loose" in str(error)
    assert "lock_timeout_s" in error.remedy


def test_a_statement_that_takes_too_long(live_app: LiveApplication) -> None:
    live_app.reset(DAMAGE)
    with closing(live_app.database.connect()) as other:
        other.autocommit = False
        other.cursor().execute("LOCK TABLE loose IN SHARE MODE")
        error = refused(live_app, live_app.service(database={"lock_timeout_s": 20, "statement_timeout_s": 0.3}))
    assert isinstance(error, SourceConflict)
    assert "statement_timeout_s" in error.remedy


@pytest.fixture
def tampered(live_app: LiveApplication) -> Iterator[Callable[[str, str], None]]:
    """Adds a trigger that fires always on projects; takes it away at the end."""
    live_app.reset(DAMAGE)

    def tamper(event: str, body: str) -> None:
        live_app.database.run(
            f"CREATE FUNCTION tamper() RETURNS trigger SECURITY DEFINER LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN COALESCE(NEW, OLD); END $$;"
            f"CREATE TRIGGER tamper {event} ON projects FOR EACH ROW EXECUTE FUNCTION tamper();"
            "ALTER TABLE projects ENABLE ALWAYS TRIGGER tamper"
        )

    yield tamper
    live_app.database.run("DROP FUNCTION tamper CASCADE")


@pytest.mark.parametrize(
    ("event", "body"),
    [
        ("AFTER INSERT", "INSERT INTO public.plans VALUES (9) ON CONFLICT DO NOTHING"),
        ("AFTER INSERT", "INSERT INTO public.loose VALUES (95, 1, 'of a trigger') ON CONFLICT DO NOTHING"),
        ("AFTER DELETE", "DELETE FROM public.tasks WHERE id = 2"),
        ("BEFORE INSERT", "UPDATE public.loose SET body = 'tampered' WHERE id = 3"),
        ("BEFORE INSERT", "DELETE FROM public.loose WHERE id = 3; INSERT INTO public.loose VALUES (3, 2, 'tampered')"),
        ("BEFORE DELETE", "DELETE FROM public.loose WHERE id = 4"),
    ],
)
def test_a_trigger_that_fires_always_writes_elsewhere(
    live_app: LiveApplication, tampered: Callable[[str, str], None], event: str, body: str
) -> None:
    """Whatever it writes, and to whose rows: found by the server's own counts, and rolled back."""
    tampered(event, body)
    error = refused(live_app, live_app.service())
    assert isinstance(error, ProofFailed)
    assert "ENABLE ALWAYS" in error.remedy


def test_a_role_that_may_not_silence_triggers(live_app: LiveApplication) -> None:
    """A plan works without; a restore ends before anything else with what is missing."""
    live_app.reset(DAMAGE)
    role = f"plain_{uuid.uuid4().hex[:8]}"
    live_app.database.run(
        f"CREATE ROLE {role} LOGIN BYPASSRLS PASSWORD 'plain'; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};"
        f"GRANT pg_monitor TO {role}"
    )
    try:
        plain = make_dsn(live_app.database.dsn, user=role, password="plain", passfile="/dev/null")
        error = refused(live_app, live_app.service(database={"dsn": plain}))
    finally:
        live_app.database.run(f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert isinstance(error, PrivilegeMissing)
    assert "session_replication_role" in str(error)
    assert error.remedy


def test_small_batches_with_pauses(live_app: LiveApplication) -> None:
    """Many statements, the same outcome; sequences and keys included."""
    live_app.reset("INSERT INTO loose SELECT n, 1, repeat('x', 300) FROM generate_series(1000, 3000) n", DAMAGE)
    wanted = live_app.after()
    live_app.reset("INSERT INTO loose SELECT n, 1, repeat('x', 300) FROM generate_series(1000, 3000) n", DAMAGE)
    begun = time.monotonic()
    live_app.service(restore={"batch_rows": 100, "pause_ms": 20}).restore_backup(live_app.backup_id, ACME, ADMIN)
    assert time.monotonic() - begun > 0.2
    assert live_app.state() == wanted


# hooks


@pytest.fixture
def listener() -> Iterator[tuple[str, list[Any], list[int]]]:
    """(URL, what was posted to it, the status it answers with next, or none to not answer at all)."""
    posted: list[Any] = []
    answers: list[int] = []
    asleep = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            answer = answers.pop(0) if answers else 204
            if answer == 0:
                asleep.wait(120)
            elif answer == 1:
                self.wfile.write(b"not HTTP\r\n\r\n")
            else:
                self.send_response(answer)
                self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with served(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        yield f"http://127.0.0.1:{server.server_address[1]}/secret-token", posted, answers
        asleep.set()


def test_hooks_before_and_after(live_app: LiveApplication, listener: tuple[str, list[Any], list[int]]) -> None:
    """In their order; what a statement writes before is part of what is restored; after a failure they are told so."""
    url, posted, _ = listener
    live_app.reset(DAMAGE)
    before = [
        {"sql": "UPDATE tenants SET tier = 'maintenance' WHERE id = :tenant AND slug = :slug"},
        {"webhook_url": url},
    ]
    after = [{"webhook_url": url}, {"sql": "INSERT INTO plans SELECT 50 + count(*) FROM plans"}]
    service = live_app.service(restore={"before": before, "after": after})
    service.restore_backup(live_app.backup_id, ACME, ADMIN)
    told = {"tenant_id": ACME, "backup_id": live_app.backup_id}
    assert posted == [
        {"event": "restore.before", "outcome": "begins", **told},
        {"event": "restore.after", "outcome": "completed", **told},
    ]
    wanted = live_app.state()
    assert wanted == {**live_app.after(), "plans": b"1\n2\n3\n53\n"}
    live_app.reset(DAMAGE, "INSERT INTO pins VALUES (90)")
    with pytest.raises(RestoreRefused):
        service.restore_backup(live_app.backup_id, ACME, ADMIN)
    assert [p["outcome"] for p in posted[2:]] == ["begins", "failed"]
    assert live_app.database.ask("SELECT tier FROM tenants WHERE id = 1") == [("maintenance",)]


@pytest.mark.parametrize("answer", [500, 0, 1], ids=["500", "no answer", "not HTTP"])
def test_a_webhook_that_fails(
    live_app: LiveApplication, listener: tuple[str, list[Any], list[int]], answer: int
) -> None:
    """The restore does not begin, what comes after it is done, and nothing tells the URL."""
    url, posted, answers = listener
    live_app.reset(DAMAGE)
    answers.append(answer)
    settings = {
        "before": [{"webhook_url": url, "timeout_s": 1 if answer == 0 else 60}],
        "after": [{"webhook_url": url}],
    }
    service = live_app.service(restore=settings)
    error = refused(live_app, service)
    assert isinstance(error, HookFailed)
    assert [p["outcome"] for p in posted] == ["begins", "failed"]
    shown = (
        "".join(traceback.format_exception(error)) + repr(error) + str(as_document(service.restores.of(ACME, ADMIN)))
    )
    assert "secret-token" not in shown + repr(service.settings)


@pytest.mark.parametrize("url", ["http://127.0.0.1:secret-token/", "http://[secret-token/", "file:///secret-token"])
def test_a_webhook_that_cannot_be_called(live_app: LiveApplication, url: str) -> None:
    live_app.reset(DAMAGE)
    error = refused(live_app, live_app.service(restore={"before": [{"webhook_url": url}]}))
    assert isinstance(error, HookFailed)
    assert "secret-token" not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "hook", [{"sql": "SELECT 1 / 0"}, {"sql": "SELECT pg_sleep(9)", "timeout_s": 0.2}, {"sql": "SELECT FROM nowhere"}]
)
def test_a_statement_that_fails(live_app: LiveApplication, hook: dict[str, Any]) -> None:
    live_app.reset(DAMAGE)
    assert isinstance(refused(live_app, live_app.service(restore={"before": [hook]})), HookFailed)


def test_a_hook_that_fails_afterwards(live_app: LiveApplication) -> None:
    """The rows are restored; the error and the status do not say anything else."""
    wanted = live_app.after()
    live_app.reset(DAMAGE)
    service = live_app.service(restore={"after": [{"sql": "SELECT 1 / 0"}]})
    before = {status["restore_id"] for status in as_document(service.restores.of(ACME, ADMIN))}
    with pytest.raises(HookFailed) as caught:
        service.restore_backup(live_app.backup_id, ACME, ADMIN)
    assert live_app.state() == wanted
    assert "nothing was written" not in str(caught.value)
    (status,) = [s for s in as_document(service.restores.of(ACME, ADMIN)) if s["restore_id"] not in before]
    assert status["status"] == "completed"


# leases


def test_while_a_backup_of_the_tenant_runs(live_app: LiveApplication) -> None:
    """Waits as long as the settings say, and gives up after that."""
    live_app.reset(DAMAGE)
    site = Site(live_app.service().settings, utc_now)
    store, prefix = site.backup_store(live_app.application.tenant())
    held = leases.acquire(store, prefix, leases.new_owner("backup"), "backup", 60, utc_now)
    assert isinstance(refused(live_app, live_app.service(restore={"lease_wait_s": 0.1})), LeaseHeld)
    threading.Timer(0.4, held.release).start()
    result = live_app.service(restore={"lease_wait_s": 20}).restore_backup(live_app.backup_id, ACME, ADMIN)
    assert result["status"] == "completed"


def test_two_restores_at_once(live_app: LiveApplication) -> None:
    """The second one is told that the first is running, and does nothing."""
    wanted = live_app.after()
    live_app.reset(DAMAGE)
    service, errors = live_app.service(), list[type[SbhError]]()

    def second() -> None:
        with pytest.raises(LeaseHeld) as caught:
            service.restore_backup(live_app.backup_id, ACME, ADMIN)
        errors.append(caught.type)

    service.restore_backup(live_app.backup_id, ACME, ADMIN, progress=at("merge", second))
    assert errors == [LeaseHeld]
    assert live_app.state() == wanted


@pytest.mark.parametrize("step", ["decided", "prove", "commit"])
def test_the_lease_is_lost_in_the_middle(live_app: LiveApplication, step: str) -> None:
    """Somebody took it because the process was asleep: whoever has it writes, and nobody else."""
    live_app.reset(DAMAGE)
    site = Site(live_app.service().settings, utc_now)
    store, prefix = site.backup_store(live_app.application.tenant())

    def take() -> None:
        later = utc_now() + timedelta(hours=1)
        taken.append(leases.acquire(store, prefix, leases.new_owner("other"), "other", 60, lambda: later))

    taken: list[leases.Lease] = []
    error = refused(live_app, live_app.service(), progress=at(step, take))
    assert isinstance(error, LeaseLost)
    taken[0].release()
    store.replace(prefix + Keys.LEASE, b"{}", store.get_with_etag(prefix + Keys.LEASE)[1])
