"""Databases of the tests' own, on the shared server: made empty, dropped afterwards."""

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import psycopg2
from psycopg2.extensions import make_dsn

from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack


@dataclass(frozen=True, slots=True)
class Database:
    """One database: `dsn` is the backup role's, as the settings have it; `connect` is a superuser's.

    `beside` holds what was made for the application that has its rows here, buckets for instance; it goes with the database.
    """

    stack: Stack
    name: str
    beside: ExitStack = field(default_factory=ExitStack, compare=False)

    @property
    def dsn(self) -> str:
        return make_dsn(self.stack.dsn(postgres.BACKUP), dbname=self.name)

    def connect(self, role: str = postgres.ADMIN) -> Any:
        """A connection in autocommit; the settings that make COPY text exact are pinned."""
        connection = psycopg2.connect(make_dsn(self.stack.dsn(role), dbname=self.name))
        connection.autocommit = True
        connection.cursor().execute(
            "SET timezone = 'UTC'; SET datestyle = 'ISO, YMD'; SET extra_float_digits = 3; SET lc_monetary = 'C'"
        )
        return connection

    def run(self, *statements: str) -> None:
        with closing(self.connect()) as connection:
            for statement in statements:
                connection.cursor().execute(statement)

    def ask(self, query: str, arguments: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        with closing(self.connect()) as connection:
            cursor = connection.cursor()
            cursor.execute(query, arguments)
            found: list[tuple[Any, ...]] = cursor.fetchall()
            return found

    def reload(self) -> None:
        """Have the server read its settings, until sessions that begin from now on have them."""
        loaded, deadline = "SELECT pg_conf_load_time()", time.monotonic() + 120
        before = self.ask(loaded)
        self.run("SELECT pg_reload_conf()")
        while self.ask(loaded) == before:
            assert time.monotonic() < deadline, "the server does not read its settings"
            time.sleep(0.01)

    def copy(self, query: str) -> bytes:
        """The rows of a query as COPY text."""
        with closing(self.connect()) as connection:
            return copy_text(connection, query)


def copy_text(connection: Any, query: str) -> bytes:
    text = BytesIO()
    connection.cursor().copy_expert(f"COPY ({query}) TO STDOUT", text)
    return text.getvalue()


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
        admin.cursor().execute(f"CREATE DATABASE {name} TEMPLATE {source} STRATEGY file_copy")
        made = Database(stack, name)
        try:
            with made.beside:
                yield made
        finally:
            admin.cursor().execute(f"DROP DATABASE {name} WITH (FORCE)")
