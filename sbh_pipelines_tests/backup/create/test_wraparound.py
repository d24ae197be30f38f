"""Transaction ids that begin anew, jump, or are handed out twice: on clusters whose counter is really moved."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest

from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application, State
from sbh_pipelines_tests.support.databases import Database, fresh_database
from sbh_pipelines_tests.support.own_server import OwnServer, own_server, wait_for

_IN_SEGMENT = 8192 * 4 * 32  # transactions in a file of pg_xact
_ROWS = """
INSERT INTO projects (tenant_id, code, body) SELECT 1 + n % 2, 'more-' || n, md5(n::text) FROM generate_series(1, 400) n;
INSERT INTO items (project_id, title) SELECT id, 'first' FROM projects;
"""
_CHANGE = """
UPDATE projects SET body = 'changed {0}' WHERE code LIKE 'more-%{0}7';
DELETE FROM items WHERE project_id % 61 = {0};
UPDATE projects SET tenant_id = 3 - tenant_id WHERE code LIKE 'more-{0}1';
INSERT INTO projects (tenant_id, code) VALUES (1, 'late-{0}'), (2, 'later-{0}');
"""
BOTH = (ACME, BOLT)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[OwnServer]:
    with own_server(getattr(request, "param", 18)) as made:
        yield made


@pytest.fixture
def application(server: OwnServer, tmp_path: Path) -> Application:
    return _application(server.create_database("app"), tmp_path)


def _application(database: Database, directory: Path) -> Application:
    made = Application(database, directory)
    made.create()
    database.run(_ROWS)
    _keep_all(made)
    return made


def _keep_all(application: Application) -> None:
    kinds = ("full", "incremental", "differential")
    application.settings = application.configured(retention={f"{kind}_backups": {"keep_last": 100} for kind in kinds})


def _jump(server: OwnServer, application: Application, xid: int) -> None:
    """Make the cluster's next transaction `xid`, at most two billion ahead of its last jump; all older rows are frozen."""
    server.tool("vacuumdb", "--all", "--freeze", "-h", "127.0.0.1", "-p", str(server.port), "-U", "sbh_admin", "-q")
    server.stop()
    segment = server.data / "pg_xact" / f"{xid // _IN_SEGMENT:04X}"
    if not segment.exists():
        segment.write_bytes(bytes(262_144))
        shutil.chown(segment, *_owner(server.data))
    server.tool("pg_resetwal", "-x", str(xid), "-D", str(server.data))
    server.start()
    _keep_all(application)  # the server has another port now


def _owner(folder: Path) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_uid, found.st_gid


def _burn(application: Application, transactions: int) -> None:
    application.database.run(
        f"DO $$ BEGIN FOR n IN 1..{transactions} LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
    )


def _next(application: Application) -> int:
    ((found,),) = application.database.ask("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
    return int(found)


def _back_up(service: BackupService, kind: str = "incremental") -> tuple[Draft, ...]:
    drafts = service.backups.create_all(BOTH, ADMIN, kind)
    for draft in drafts:
        if draft.error is not None:
            raise draft.error
    return tuple(drafts)


def _reasons(drafts: tuple[Draft, ...]) -> set[str]:
    return {reason for draft in drafts for reason in draft.reread.values()}


@pytest.mark.parametrize("server", [18, 15], ids=["PostgreSQL 18", "PostgreSQL 15"], indirect=True)
def test_the_counter_goes_round(server: OwnServer, application: Application) -> None:
    """Backups before and after 2**32 restore byte for byte; a window over half the circle is read again, and says why."""
    application.database.run("ALTER DATABASE template0 ALLOW_CONNECTIONS true")
    made: list[tuple[tuple[Draft, ...], dict[str, State]]] = []

    def back_up(kind: str = "incremental") -> tuple[Draft, ...]:
        drafts = _back_up(application.service(), kind)
        assert all(draft.status is DraftStatus.COMPLETED for draft in drafts)
        made.append((drafts, {tenant: application.state(tenant) for tenant in BOTH}))
        return drafts

    back_up("full")
    _jump(server, application, 2_000_000_000)
    application.database.run(_CHANGE.format(1))
    (reason,) = _reasons(back_up())
    assert "transactions have gone by since the backup it builds on" in reason
    application.database.run(_CHANGE.format(2))
    assert _reasons(back_up()) == set()
    _jump(server, application, 4_000_000_000)
    _jump(server, application, 2**32 - 60)
    application.database.run(_CHANGE.format(3))
    assert len(_reasons(back_up())) == 1
    application.database.run(_CHANGE.format(4))
    assert _reasons(back_up()) == set()
    assert _next(application) < 2**32
    with closing(application.database.connect()) as late:
        late.cursor().execute("BEGIN; UPDATE projects SET body = 'begun before' WHERE code = 'more-390'")
        _burn(application, 100)
        assert _next(application) > 2**32
        application.database.run(_CHANGE.format(5))
        assert _reasons(back_up()) == set()
        late.cursor().execute("COMMIT")
    application.database.run(_CHANGE.format(6))
    assert _reasons(back_up()) == set()
    # Now rows that were frozen long ago seem young again: their ids are those of transactions of today.
    _burn(application, 1500)
    application.database.run(_CHANGE.format(7))
    back_up()
    _burn(application, 5)
    assert {draft.status for draft in _back_up(application.service())} <= {DraftStatus.UNCHANGED, DraftStatus.COMPLETED}
    service = application.service()
    for drafts, _ in made:
        for draft in drafts:
            assert service.validate_backup(draft.backup_id, draft.tenant.id, ADMIN, deep=True)["issues"] == []
    for drafts, states in (made[-1], made[-3], made[4], made[2], made[0]):
        for tenant in BOTH:
            application.wipe(tenant)
        for draft in drafts:
            service.restore_backup(draft.backup_id, draft.tenant.id, ADMIN)
        assert {tenant: application.state(tenant) for tenant in BOTH} == states


def test_a_server_that_was_promoted(server: OwnServer, application: Application) -> None:
    """A copy of the cluster that left recovery has another timeline, and may give ids out again: everything is read."""
    _back_up(application.service(), "full")
    server.stop()
    copy = replace(server, directory=server.directory / "copy")
    copy.directory.mkdir()
    shutil.copytree(server.data, copy.data)
    (copy.data / "recovery.signal").touch()
    for path in (copy.directory, copy.data, *copy.data.rglob("*")):
        shutil.chown(path, *_owner(server.data))
    copy.options = {"restore_command": "false"}
    copy.start()
    try:
        promoted = Application(copy.database("app"), application.directory)
        wait_for(lambda: promoted.database.ask("SELECT pg_is_in_recovery()") == [(False,)], "the promotion")
        _keep_all(promoted)
        promoted.database.run(_CHANGE.format(1))
        drafts = _back_up(promoted.service())
        assert _reasons(drafts) == {"the server was promoted or restored since (timeline 1, now 2)"}
        states = {tenant: promoted.state(tenant) for tenant in BOTH}
        for tenant in BOTH:
            promoted.wipe(tenant)
            promoted.service().restore_backup("latest", tenant, ADMIN)
        assert {tenant: promoted.state(tenant) for tenant in BOTH} == states
    finally:
        copy.stop("immediate")


def test_another_cluster(application: Application, embedded_stack: Stack) -> None:
    """A cluster of its own has transaction ids of its own: everything is read."""
    _back_up(application.service(), "full")
    with fresh_database(embedded_stack) as database:
        elsewhere = _application(database, application.directory)
        assert _reasons(_back_up(elsewhere.service())) == {"the database cluster is another one (system identifier)"}


@pytest.mark.parametrize("whole", [True, False], ids=["the server", "one process"])
def test_ids_that_a_crash_gives_out_again(whole: bool, tmp_path: Path) -> None:
    """What a server has not flushed a crash undoes, and its ids are used again: after it everything is read."""
    with own_server(18, wal_writer_delay="3s", synchronous_commit="off") as server:
        application = _application(server.create_database("app"), tmp_path)
        application.database.run("CHECKPOINT", "UPDATE projects SET body = 'may be lost' WHERE code = 'more-101'")
        _back_up(application.service(), "full")
        if whole:
            server.stop("immediate")
            server.start()
            _keep_all(application)
        else:
            _kill_a_process(application)
        application.database.run(
            "SET synchronous_commit = on", "UPDATE projects SET body = 'written later' WHERE code = 'more-101'"
        )
        drafts = _back_up(application.service())
        assert _reasons(drafts) == {
            "the server was restarted or recovered from a crash since: transaction ids may have been given out again"
        }
        state = application.state(BOLT)
        application.wreck(BOLT)
        application.service().restore_backup("latest", BOLT, ADMIN)
        assert application.state(BOLT) == state


def _kill_a_process(application: Application) -> None:
    """SIGKILL of a backend: the server ends all processes and recovers, without a new postmaster. Until it has."""
    checkpointer = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"
    before = application.database.ask(checkpointer)
    with closing(application.database.connect()) as connection:
        os.kill(connection.info.backend_pid, signal.SIGKILL)
    deadline = time.monotonic() + 240
    while True:
        with suppress(psycopg2.OperationalError):
            if application.database.ask(checkpointer) not in (before, []):
                return
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_disk_that_was_reset_and_ran_on(server: OwnServer, application: Application) -> None:
    """A disk put back to an earlier state, whose server has gone further than before since: its rows are read again."""
    _back_up(application.service(), "full")
    server.stop()
    shutil.copytree(server.data, server.directory / "earlier")
    server.start()
    _keep_all(application)
    application.database.run("UPDATE projects SET body = 'of a history that never was' WHERE code = 'more-101'")
    _back_up(application.service())
    server.stop()
    owner = _owner(server.data)
    shutil.rmtree(server.data)
    (server.directory / "earlier").rename(server.data)
    for path in (server.data, *server.data.rglob("*")):
        shutil.chown(path, *owner)
    server.start()
    _keep_all(application)
    application.database.run("UPDATE projects SET body = 'written' WHERE code = 'more-101'")
    application.database.run(
        "SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1000000))",
    )
    _burn(application, 200)
    application.database.run("UPDATE projects SET body = 'written' WHERE code = 'more-100'")
    _back_up(application.service())
    state = application.state(BOLT)
    application.wreck(BOLT)
    application.service().restore_backup("latest", BOLT, ADMIN)
    assert application.state(BOLT) == state
