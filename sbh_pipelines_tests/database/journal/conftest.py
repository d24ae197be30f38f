"""Servers whose log can be decoded, of two versions, and databases with a slot."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from psycopg2.extensions import make_dsn

from sbh_pipelines.database.journal.fence import Fence, place_fence, up_to
from sbh_pipelines.database.journal.messages import Commit, Message
from sbh_pipelines.database.journal.slot import advance_slot, create_slot, drop_slot
from sbh_pipelines.database.journal.stream import read_stream
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.settings import DatabaseSettings
from sbh_pipelines_tests.support.databases import Database
from sbh_pipelines_tests.support.mapped import INTEGERS, mapped_database
from sbh_pipelines_tests.support.own_server import OwnServer, own_server

_NUMBERS = itertools.count()


@pytest.fixture(scope="package", params=[18, 15])
def server(request: pytest.FixtureRequest) -> Iterator[OwnServer]:
    """A server of each version with `wal_level = logical`."""
    with own_server(request.param, wal_level="logical", max_wal_senders="4") as running:
        yield running


@dataclass
class Journaled:
    """A database, a session of an administrator's, and a slot and a publication of all its tables."""

    database: Database
    connection: Any
    slot: str
    publication: str = "pub"
    position: int = field(default=0)

    def run(self, *statements: str) -> None:
        self.database.run(*statements)

    def publish(self, *tables: str) -> None:
        self.run(f"CREATE PUBLICATION {self.publication} FOR TABLE {', '.join(tables)}")

    def publish_nothing(self) -> None:
        self.run(f"CREATE PUBLICATION {self.publication}")

    def mapped(self, schema: str, **fields: Any) -> dict[str, MappedTable]:
        """The tables of an application by name, with `tenants` of which each is one."""
        made = mapped_database(self.database, schema, INTEGERS, None, **fields)
        return {table.table.name: table for table in made.map.tables}

    def begin(self) -> None:
        """Make the slot: what is done from here on is in `read`."""
        self.position = create_slot(self.connection, self.slot)

    def fence(self) -> Fence:
        return place_fence(self.connection, "test")

    def read(self, fence: Fence | None = None) -> list[Message]:
        """All messages up to a fence of now."""
        fence = fence or self.fence()
        return list(up_to(read_stream(self.connection, self.slot, self.publication, fence.after), fence))

    def take(self) -> list[Message]:
        """The same, after which the slot forgets them."""
        found = self.read()
        advance_slot(self.connection, self.slot, ends(found)[-1])
        return found


def ends(messages: Sequence[Message]) -> list[int]:
    return [m.end_lsn for m in messages if isinstance(m, Commit)]


def of_kind(messages: Sequence[Message], kind: type) -> list[Any]:
    return [m for m in messages if isinstance(m, kind)]


def journaled_database(server: OwnServer, encoding: str = "") -> Iterator[Journaled]:
    name = f"journal_{next(_NUMBERS)}"
    template = "template1"
    if encoding:
        template = f"template0 ENCODING '{encoding}' LOCALE 'C'"
    database = server.create_database(name, template)
    with closing(connect(DatabaseSettings(dsn=make_dsn(server.dsn(), dbname=name)), "test")) as connection:
        try:
            yield Journaled(database, connection, f"slot_{name}")
        finally:
            with (
                closing(connect(DatabaseSettings(dsn=make_dsn(server.dsn(), dbname=name)), "test")) as other,
                suppress(Exception),
            ):
                drop_slot(other, f"slot_{name}")
    server.drop_database(name)


@pytest.fixture
def journaled(server: OwnServer) -> Iterator[Journaled]:
    yield from journaled_database(server)


@pytest.fixture
def latin(server: OwnServer) -> Iterator[Journaled]:
    yield from journaled_database(server, "LATIN1")


@pytest.fixture
def ascii_only(server: OwnServer) -> Iterator[Journaled]:
    yield from journaled_database(server, "SQL_ASCII")
