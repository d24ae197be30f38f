"""Somebody who reads a run's output (its compute log, its events, a traceback) wants customers' rows, and may end the server's sessions.

What stops them: an error of the driver loses what the server says of rows before anybody can catch it, and the driver prints nothing.
"""

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from typing import Any

import psycopg2
import pytest

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.database.session.connection import connect, translated
from sbh_pipelines.database.session.copying import copy_in
from sbh_pipelines.database.session.driver import Cursor
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.errors import SbhError
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.databases import Database, fresh_database
from sbh_pipelines_tests.support.effort import examples
from sbh_pipelines_tests.support.restore.platform import PROGRAMS

SECRET = "SECRET-OF-A-CUSTOMER"
_ROWS = f"""
CREATE TABLE letters (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, body text);
INSERT INTO letters SELECT n, 1 + n % 2, '{SECRET} ' || repeat(md5(n::text), 60) FROM generate_series(1, 1600) n;
UPDATE notes SET body = '{SECRET}';
"""
_MUCH = 300_000  # bytes
_LOST = "UPDATE letters SET body = 'ruined' || body WHERE tenant_id = 1; DELETE FROM notes WHERE tenant_id = 1"


def _terminated(cursor: Any, database: Database) -> None:
    database.ask("SELECT pg_terminate_backend(%s)", [cursor.connection.info.backend_pid])


def _cancelled(cursor: Any, database: Database) -> None:
    database.ask("SELECT pg_cancel_backend(%s)", [cursor.connection.info.backend_pid])


class _Growing:
    """The file of a COPY, in either direction; something happens when so much of it has passed that there is more to come."""

    def __init__(self, file: Any, then: Callable[[], None]) -> None:
        self._file, self._then, self._passed = file, then, 0

    def read(self, size: int) -> bytes:
        piece: bytes = self._file.read(size)
        self._grow(piece)
        return piece

    def write(self, piece: bytes) -> Any:
        self._grow(piece)
        return self._file.write(piece)

    def _grow(self, piece: bytes) -> None:
        before, self._passed = self._passed, self._passed + len(piece)
        if before < _MUCH <= self._passed:
            with suppress(Exception):
                self._then()


def _jobs(application: Application, target: Database) -> Mapping[str, Callable[[BackupService], object]]:
    dsn = f"{application.database.stack.dsn(postgres.ADMIN)} dbname={target.name}"
    return {
        "restore": lambda service: service.restores.run("latest", ACME, ADMIN),
        "plan": lambda service: service.restores.plan("latest", ACME, ADMIN, RestoreRequest.of(samples=3)),
        "look": lambda service: service.restores.into_schema("latest", ACME, ADMIN),
        "backup": lambda service: service.backups.create(ACME, ADMIN, "full"),
        "recovery": lambda service: service.platform.recover(dsn, ADMIN, confirm=True),
    }


def _shown(error: BaseException) -> Iterator[str]:
    """All that a traceback, a debugger or a log can make of an error, also of errors that are not shown as its reason."""
    found: BaseException | None = error
    seen = list[BaseException]()
    while found is not None and found not in seen:
        seen.append(found)
        yield from (str(found), repr(found), *map(str, getattr(found, "__notes__", ())))
        yield str(getattr(found, "pgerror", ""))
        found = found.__cause__ or found.__context__
    yield from traceback.format_exception(error)


@pytest.fixture
def backed_up(application: Application) -> Application:
    application.database.run(
        _ROWS, f"GRANT CREATE, TEMPORARY ON DATABASE {application.database.name} TO {postgres.BACKUP}"
    )
    service = application.service(platform=PROGRAMS)
    service.backups.create_all([ACME, BOLT], ADMIN)
    service.platform.create(ADMIN)
    return application


@pytest.mark.soak
@pytest.mark.parametrize(("job", "times"), [("restore", 2), ("plan", 1), ("look", 1), ("backup", 1), ("recovery", 1)])
def test_a_session_that_is_ended_in_a_copy(
    job: str,
    times: int,
    backed_up: Application,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Whichever COPY of the job it is, the process prints nothing of a row, and its error says nothing of one."""
    service, copy = backed_up.service(platform=PROGRAMS), Cursor.copy_expert
    at = begun = 0

    def copy_expert(self: Any, sql: Any, file: Any, size: int = 8192) -> None:
        def end() -> None:
            nonlocal begun
            begun += 1
            if begun == at:
                (_terminated if at % 2 else _cancelled)(self, backed_up.database)

        copy(self, sql, _Growing(file, end), size)

    monkeypatch.setattr(Cursor, "copy_expert", copy_expert)
    backed_up.database.run(_LOST)
    texts = list[str]()
    with fresh_database(backed_up.database.stack) as target:
        for number in range(examples(times)):
            at, begun = number + 1, 0
            try:
                _jobs(backed_up, target)[job](service)
            except SbhError as error:
                texts.extend(_shown(error))
    assert len(texts) > 0
    for text in (*texts, *capfd.readouterr()):
        assert SECRET not in text
        assert "CONTEXT" not in text
        assert "DETAIL" not in text


def test_what_a_killed_job_leaves_on_record(backed_up: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its status, the audit trail and whatever else is stored in clear say nothing of a row either."""
    service = backed_up.service(platform=PROGRAMS)
    copy = Cursor.copy_expert

    def copy_expert(self: Any, sql: Any, file: Any, size: int = 8192) -> None:
        copy(self, sql, _Growing(file, lambda: _terminated(self, backed_up.database)), size)

    monkeypatch.setattr(Cursor, "copy_expert", copy_expert)
    backed_up.database.run(_LOST)
    with pytest.raises(SbhError):
        service.restores.run("latest", ACME, ADMIN)
    assert service.restores.of(ACME, ADMIN)[0].status == "failed"
    stored = [file for file in backed_up.directory.rglob("*") if file.is_file()]
    assert stored
    assert [file for file in stored if SECRET.encode() in file.read_bytes()] == []


@pytest.mark.parametrize(
    "statement",
    [
        f"""SELECT '{{"a": "b", "name": "{SECRET}"}}'::int""",
        f"""SELECT 'x"{SECRET}'::date""",
        f"DO $$ BEGIN ASSERT false, '{SECRET}'; END $$",
        f"DO $$ BEGIN RAISE unique_violation USING MESSAGE = '{SECRET}'; END $$",
        f"CREATE TEMP TABLE n (k text UNIQUE); INSERT INTO n VALUES ('{SECRET}'), ('{SECRET}')",
    ],
)
def test_a_value_in_the_server_s_words(statement: str, application: Application) -> None:
    """With quotes in it, in what the application's code says, in a key that is there twice: neither error has it."""
    with closing(connect(application.settings.database, "test")) as connection:
        with pytest.raises(psycopg2.Error) as raw:
            connection.cursor().execute(statement)
        assert SECRET not in " ".join(_shown(raw.value))
        with pytest.raises(SbhError) as caught, translated("try"):
            connection.cursor().execute(statement)
        assert SECRET not in " ".join(_shown(caught.value))


def test_a_value_that_reads_as_the_server_s_words(application: Application) -> None:
    """A line in a value that looks like the name of a function is not taken for one."""
    row = f"x\\nPL/pgSQL function {SECRET}() line 1\n".encode()
    with closing(connect(application.settings.database, "test")) as connection:
        connection.cursor().execute("CREATE TEMP TABLE numbers (n int)")
        with pytest.raises(SbhError) as caught, translated("load rows"):
            copy_in(connection.cursor(), "numbers", [row], "UTF8")
    assert SECRET not in " ".join(_shown(caught.value))
