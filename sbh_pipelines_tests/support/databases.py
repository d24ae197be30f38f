"""Databases of the tests' own, on the shared server: made empty, dropped afterwards."""

import select
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, make_dsn

from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack

# What makes COPY text exact. Of the session's start, so that it stays when a session is reset.
_PINNED = r"-c timezone=UTC -c datestyle=ISO,\ YMD -c extra_float_digits=3 -c lc_monetary=C"


@dataclass(frozen=True, slots=True)
class Database:
    """One database: `dsn` is the backup role's, as the settings have it; `connect` is a superuser's.

    `run`, `ask`, `copy` and `session` share sessions: one that is new costs 5 ms of a core, and a test asks dozens of times.
    `beside` holds what was made for the application that has its rows here, buckets for instance; it goes with the database.
    """

    stack: Stack
    name: str
    beside: ExitStack = field(default_factory=ExitStack, compare=False)
    _idle: list[Any] = field(default_factory=list, compare=False, repr=False)

    @property
    def dsn(self) -> str:
        return make_dsn(self.stack.dsn(postgres.BACKUP), dbname=self.name)

    def connect(self, role: str = postgres.ADMIN) -> Any:
        """A new connection in autocommit; the settings that make COPY text exact are pinned."""
        connection = psycopg2.connect(make_dsn(self.stack.dsn(role), dbname=self.name, options=_PINNED))
        connection.autocommit = True
        return connection

    @contextmanager
    def session(self) -> Iterator[Any]:
        """A superuser's connection in autocommit, as good as new: what a session sets or makes for itself is gone after it.

        What new sessions alone would have, such as settings of the database, it may not have: `connect` has.
        """
        connection = self._taken() or self.connect()
        try:
            yield connection
            if connection.info.transaction_status == TRANSACTION_STATUS_IDLE:
                cursor = connection.cursor()
                cursor.execute("DISCARD ALL")
                if connection.server_version >= 150000:
                    cursor.execute("SELECT pg_stat_force_next_flush()")  # as the end of a session does
                self._idle.append(connection)
                return
        except BaseException:
            connection.close()
            raise
        connection.close()

    def _taken(self) -> Any:
        """An idle session that the server has not ended; None where there is none."""
        while self._idle:
            connection = self._idle.pop()
            if not select.select([connection], [], [], 0)[0]:
                return connection
            connection.close()
        return None

    def let_go(self) -> None:
        """End the idle sessions: a template may have none, and what the database brings to a session only new ones have."""
        while (connection := self._taken()) is not None:
            connection.close()

    def run(self, *statements: str) -> None:
        with self.session() as connection:
            for statement in statements:
                connection.cursor().execute(statement)

    def ask(self, query: str, arguments: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        with self.session() as connection:
            return _asked(connection, query, arguments)

    def reload(self) -> None:
        """Have the server read its settings, until sessions that begin from now on have them."""
        deadline = time.monotonic() + 120
        before = self._loaded()
        self.run("SELECT pg_reload_conf()")
        while self._loaded() == before:
            assert time.monotonic() < deadline, "the server does not read its settings"
            time.sleep(0.01)

    def _loaded(self) -> list[tuple[Any, ...]]:
        with closing(self.connect()) as connection:
            return _asked(connection, "SELECT pg_conf_load_time()")

    def copy(self, query: str) -> bytes:
        """The rows of a query as COPY text."""
        with self.session() as connection:
            return copy_text(connection, query)


def _asked(connection: Any, query: str, arguments: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
    cursor = connection.cursor()
    cursor.execute(query, arguments)
    found: list[tuple[Any, ...]] = cursor.fetchall()
    return found


def copy_text(connection: Any, query: str) -> bytes:
    text = BytesIO()
    connection.cursor().copy_expert(f"COPY ({query}) TO STDOUT", text)
    return text.getvalue()


def end_sessions(admin: Any, name: str) -> None:
    """Whoever has idle sessions in the database begins new ones: it is to be copied, which takes that there are none."""
    idle = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = %s AND state = 'idle'"
    admin.cursor().execute(idle, [name])


@contextmanager
def fresh_database(stack: Stack, template: str = "template1", encoding: str = "") -> Iterator[Database]:
    """A database of its own, empty or a copy of `template`, or empty and of another encoding; dropped at the end.

    Its files are copied: on the RAM disk that costs a fifth of writing them to the WAL.
    """
    name = f"test_{uuid.uuid4().hex[:12]}"
    with closing(psycopg2.connect(stack.dsn(postgres.ADMIN))) as admin:
        admin.autocommit = True
        source = template
        if encoding:
            source = f"template0 ENCODING '{encoding}' LOCALE 'C' LOCALE_PROVIDER libc"
        end_sessions(admin, template)
        admin.cursor().execute(f"CREATE DATABASE {name} TEMPLATE {source} STRATEGY file_copy")
        made = Database(stack, name)
        try:
            with made.beside:
                yield made
        finally:
            made.let_go()
            admin.cursor().execute(f"DROP DATABASE {name} WITH (FORCE)")
