"""A fence that was placed before a backup's snapshot and ends after it is not taken for one that lies behind all that it shows."""

import os
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from sbh_pipelines.backup.create.draft import Draft
from sbh_pipelines.backup.create.drafts import OpenDrafts
from sbh_pipelines.backup.journal import drain as drain_module
from sbh_pipelines.database.journal.fence import place_fence
from sbh_pipelines_tests.backup.create.test_journal_incremental import BOTH, SCHEMA
from sbh_pipelines_tests.support.application import ADMIN
from sbh_pipelines_tests.support.folding import Folding
from sbh_pipelines_tests.support.own_server import OwnServer, own_server

WAIT_S = 120


@pytest.fixture
def server() -> Iterator[OwnServer]:
    """Commits wait for the disk on it, as a fence's has to."""
    with own_server(18, wal_level="logical", max_replication_slots="10", wal_sender_timeout="0", fsync="on") as made:
        yield made


@pytest.fixture
def folding(server: OwnServer, tmp_path: Path) -> Iterator[Folding]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    database = server.create_database(name)
    database.run(SCHEMA)
    made = Folding.of(database, tmp_path)
    try:
        yield made
    finally:
        made.drop_slot()


class Race:
    """The fence's commit is logged and waits; another commit is logged behind it, and shows; then the backup's snapshot is taken."""

    def __init__(self, folding: Folding) -> None:
        self._folding = folding
        self._wanted, self._shown, self._taken = Event(), Event(), Event()
        self._fences, self._snapshots = iter([self._fence]), iter([True])
        self._snapshot_of = OpenDrafts.snapshot

    def place_fence(self, connection: Any, note: str) -> Any:
        return next(self._fences, place_fence)(connection, note)

    def _fence(self, connection: Any, note: str) -> Any:
        cursor = connection.cursor()
        cursor.execute("SET commit_delay = 100000; SET commit_siblings = 0; SELECT pg_backend_pid()")
        pid = cursor.fetchone()[0]
        assert self._wanted.wait(WAIT_S)
        placed: list[Any] = []
        database = self._folding.database
        with closing(database.connect()) as other, closing(database.connect()) as look:
            other.autocommit, look.autocommit = False, True
            other.cursor().execute(
                "SET LOCAL synchronous_commit = off; UPDATE docs SET body = 'raced' WHERE id IN (10, 11)"
            )
            fence = Thread(target=lambda: placed.append(place_fence(connection, note)))
            fence.start()
            found = look.cursor()
            state = ""
            while state != "COMMIT" and fence.is_alive():
                found.execute("SELECT query FROM pg_stat_activity WHERE pid = %s AND state = 'active'", (pid,))
                state = next(iter(found.fetchall()), ("",))[0]
            time.sleep(0.01)
            os.kill(pid, signal.SIGSTOP)
            try:
                other.commit()
                self._shown.set()
                assert self._taken.wait(WAIT_S)
            finally:
                os.kill(pid, signal.SIGCONT)
            fence.join()
        return placed[0]

    @contextmanager
    def snapshot(self, drafts: OpenDrafts) -> Iterator[Any]:
        first = next(self._snapshots, False)
        if first:
            self._wanted.set()
            assert self._shown.wait(WAIT_S)
        with self._snapshot_of(drafts) as found:
            if first:
                self._taken.set()
            yield found


def test_what_a_snapshot_shows_is_not_behind_the_fence_that_it_did_not_see_end(
    folding: Folding, monkeypatch: pytest.MonkeyPatch
) -> None:
    folding.drain()
    folding.back_up(BOTH, "full")
    folding.drain()
    folding.back_up(BOTH)
    race, drafts = Race(folding), list[Draft]()
    monkeypatch.setattr(drain_module, "place_fence", race.place_fence)
    monkeypatch.setattr(OpenDrafts, "snapshot", lambda self: race.snapshot(self))
    drain = Thread(target=folding.drain)
    backup = Thread(target=lambda: drafts.extend(folding.service.backups.create_all(list(BOTH), ADMIN, "incremental")))
    drain.start()
    backup.start()
    drain.join()
    backup.join()
    for draft in drafts:
        assert (draft.error, draft.reread) == (None, {})
        folding.check(draft)
    folding.database.run("UPDATE docs SET body = 'later' WHERE id IN (50, 51)")
    folding.back_up(BOTH)
