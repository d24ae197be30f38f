"""Poolers that hand a session of the server from one client to the next, after each transaction or statement.

Nothing of ours works through one: a snapshot, a lock, a temporary table and every setting belong to a session. Worse, what we
set would stay in sessions of the application: its names would not be found, its writes be refused.

That there is a pooler shows at once: the process that a pooler names when a client logs in is an invention of its own
(`BackendKeyData`), the one that `pg_backend_pid()` names is the server's. Which mode it is in does not show in one connection: a
pool of one session looks stable. So a second connection is opened, and both ask in turn who answers. In the same session: it
is shared. That is seen before anything is set.
"""

import select
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE

from sbh_pipelines.errors import PoolerRefused

_ROUNDS = 5  # in a busy pool both may get other sessions once or twice
_WAIT_S = 3.0
_WHO = "SELECT pg_catalog.pg_backend_pid()"


def check(connection: Any, backend: int, another: Callable[[], Any], place: str) -> bool:
    """Whether a pooler is between us and the server's process `backend`, which is ours alone as long as we are connected.

    `another` opens one more connection, asynchronous. Raises PoolerRefused where sessions are shared.
    """
    if connection.info.backend_pid == backend:
        return False
    seen = {backend}
    with closing(another()) as second:
        _wait(second, _WAIT_S)
        for _ in range(_ROUNDS):
            other = _ask(second, _WAIT_S)
            own = _own(connection)
            if own != backend or other in seen:
                raise PoolerRefused(
                    "The database is reached through a pooler that shares its sessions among clients",
                    on=place,
                    why="pool_mode is transaction or statement: snapshots and temporary tables would be lost, and the"
                    " settings of a backup would stay in sessions of the application",
                    remedy="let database.dsn name the server itself, or a pool of its own in which pool_mode is session",
                )
            if other is None:  # waits for a session, while we got an answer before it: ours is held for us
                break
    return True


def _own(connection: Any) -> int:
    cursor = connection.cursor()
    cursor.execute(_WHO)
    return int(cursor.fetchone()[0])


def _ask(connection: Any, timeout_s: float) -> int | None:
    """Who answers; None where nobody does in time."""
    cursor = connection.cursor()
    cursor.execute(_WHO)
    return int(cursor.fetchone()[0]) if _wait(connection, timeout_s) else None


def _wait(connection: Any, timeout_s: float) -> bool:
    """Whether what was asked of an asynchronous connection is there in time."""
    end = time.monotonic() + timeout_s
    while (state := connection.poll()) != POLL_OK:
        left = end - time.monotonic()
        if left <= 0:
            return False
        wanted = {POLL_READ: ([connection], []), POLL_WRITE: ([], [connection])}.get(state)
        if wanted is None:
            raise psycopg2.OperationalError("the pooler's connection is in no state to wait for")
        select.select(*wanted, [], left)
    return True
