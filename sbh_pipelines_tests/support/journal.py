"""A small application on a server of its own whose changes are journaled, and who reads the journal with the tenants' keys."""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from sbh_pipelines.backup.journal.drain import drain
from sbh_pipelines.backup.journal.drain_result import DrainResult
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.model import utc_now
from sbh_pipelines.repository.journal.reading import read_transactions
from sbh_pipelines.repository.journal.segments.block import open_block, public_of
from sbh_pipelines.repository.journal.segments.changes import Op, Transaction
from sbh_pipelines.repository.journal.segments.directory import Directory, Event
from sbh_pipelines.repository.journal.segments.public_key import PublicKey
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.application import Application
from sbh_pipelines_tests.support.databases import Database
from sbh_pipelines_tests.support.own_server import OwnServer, own_server
from sbh_pipelines_tests.support.site import Wrap, site_with_stores

SCHEMA = """
CREATE TABLE tenants (id int PRIMARY KEY, slug text UNIQUE NOT NULL, region text NOT NULL, tier text);
CREATE TABLE projects (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, title text, body text);
CREATE TABLE items (id int PRIMARY KEY, project_id int NOT NULL REFERENCES projects ON DELETE CASCADE ON UPDATE CASCADE, title text);
CREATE TABLE comments (id bigint PRIMARY KEY, item_id int REFERENCES items ON DELETE CASCADE ON UPDATE CASCADE, title text);
ALTER TABLE projects REPLICA IDENTITY FULL;
ALTER TABLE items REPLICA IDENTITY FULL;
ALTER TABLE comments REPLICA IDENTITY FULL;
INSERT INTO tenants VALUES (1, 'acme', 'eu-west-1', 'standard'), (2, 'bolt', 'us-east-1', 'standard'),
    (3, 'crab', 'eu-west-1', 'standard');
INSERT INTO projects SELECT n, 1 + n % 3, 'project ' || n, NULL FROM generate_series(1, 9) n;
INSERT INTO items SELECT n, 1 + n % 9, 'item ' || n FROM generate_series(1, 30) n;
INSERT INTO comments SELECT n, 1 + n % 30, 'comment ' || n FROM generate_series(1, 60) n;
"""
QUERIES = {
    "public.tenants": "SELECT t.* FROM tenants t WHERE t.id = {}",
    "public.projects": "SELECT t.* FROM projects t WHERE t.tenant_id = {}",
    "public.items": "SELECT t.* FROM items t JOIN projects p ON p.id = t.project_id WHERE p.tenant_id = {}",
    "public.comments": "SELECT t.* FROM comments t JOIN items i ON i.id = t.item_id JOIN projects p ON p.id = i.project_id"
    " WHERE p.tenant_id = {}",
}
REGIONS = {1: "eu-west-1", 2: "us-east-1", 3: "eu-west-1"}
Rows = dict[str, dict[bytes, bytes]]
"""COPY text of a tenant's rows, by table and first column."""


class Opener:
    """Opens blocks of one tenant, as the tenant's sealer does."""

    def __init__(self, private: bytes) -> None:
        self.private = private

    def open_block(self, sealed: bytes, epoch: int, aad: bytes, *, on: str) -> bytes:
        return open_block(sealed, self.private, aad, on=on)


@dataclass
class Journaled:
    """`tenants`: those that have a public key."""

    server: OwnServer
    database: Database
    directory: Path
    tenants: tuple[int, ...] = (1, 2, 3)
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.private = {tenant: X25519PrivateKey.generate().private_bytes_raw() for tenant in REGIONS}
        self.settings = self.configured()

    def configured(self) -> Settings:
        application = Application(self.database, self.directory)
        sections: dict[str, Mapping[str, Any]] = {
            "database": {"dsn": self.database.dsn, "lock_timeout_s": 2},
            "storage": {"regions": ["eu-west-1", "us-east-1"]},
            "journal": {"enabled": True, "dsn": f"user={postgres.ADMIN}"},
        }
        for name, values in self.sections.items():
            sections[name] = {**sections.get(name, {}), **values}
        return application.configured(**sections)

    def site(self, wrap: Wrap | None = None) -> Site:
        return site_with_stores(self.settings, utc_now, wrap) if wrap else Site(self.settings, utc_now)

    def register(self) -> None:
        site = self.site()
        for tenant in self.tenants:
            key = PublicKey(f"slug-{tenant}", str(tenant), 1, public_of(self.private[tenant]))
            site.journal(REGIONS[tenant]).public_keys.register([key])

    def run(self, *statements: str) -> None:
        self.database.run(*statements)

    def drain(self, wrap: Wrap | None = None) -> DrainResult:
        return drain(self.site(wrap))

    def forget_lease(self) -> None:
        """As if the time of a killed drain's lease were over."""
        site = self.site()
        journal = site.journal("eu-west-1")
        journal.store.delete([journal.prefix + "lease.json"])

    def rows(self, tenant: int) -> Rows:
        """What the tenant has now, read without the engine."""
        found: Rows = {}
        for table, query in QUERIES.items():
            lines = self.database.copy(query.format(tenant)).split(b"\n")[:-1]
            found[table] = {line.split(b"\t", 1)[0]: line for line in lines}
        return found

    def directories(self, region: str) -> list[Directory]:
        """Of the current incarnation's cover, in order."""
        journal = self.site().journal(region)
        incarnation = journal.incarnations()[-1]
        names = journal.segments(incarnation)
        cover = journal.cover(incarnation, min(n.start for n in names), max(n.end for n in names))
        assert not cover.holes
        return [journal.directory(stretch.segment) for stretch in cover.stretches]

    def transactions(self, tenant: int, after: int = 0) -> Iterator[tuple[Any, Transaction]]:
        """(layouts, transaction) of a tenant in the current incarnation, each commit once."""
        region = REGIONS[tenant]
        journal = self.site().journal(region)
        incarnation = journal.incarnations()[-1]
        names = journal.segments(incarnation)
        cover = journal.cover(incarnation, min(n.start for n in names), max(n.end for n in names))
        assert not cover.holes
        opener: Any = Opener(self.private[tenant])
        for stretch in cover.stretches:
            start = max(stretch.start, after)
            yield from read_transactions(
                journal, journal.directory(stretch.segment), str(tenant), lambda _: opener, start, stretch.end
            )

    def events(self, tenant: int) -> list[Event]:
        return [
            event
            for directory in self.directories(REGIONS[tenant])
            for event in directory.facts.events
            if event.tenants is None or str(tenant) in event.tenants
        ]

    def applied(self, tenant: int, rows: Rows, after: int = 0) -> Rows:
        """The rows after the journal's transactions behind a position."""
        found = {table: dict(lines) for table, lines in rows.items()}
        for layouts, transaction in self.transactions(tenant, after):
            for change in transaction.changes:
                lines = found[layouts[change.layout].table]
                first = change.row.split(b"\t", 1)[0]
                if change.op is not Op.INSERT:
                    del lines[change.key or first]
                if change.op is not Op.DELETE:
                    assert first not in lines
                    lines[first] = merged(change.row, rows, layouts[change.layout].table, first)
        return found


def merged(row: bytes, rows: Rows, table: str, key: bytes) -> bytes:
    """A row with what it left as it was, which these tests have from the start."""
    if rb"\u" not in row.split(b"\t"):
        return row
    before = rows[table][key].split(b"\t")
    return b"\t".join(before[at] if value == rb"\u" else value for at, value in enumerate(row.split(b"\t")))


@contextmanager
def journal_of(server: OwnServer, directory: Path, *, drained: bool = True) -> Iterator[Journaled]:
    """A database of its own on the server, with everybody's key registered, and drained once."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    database = server.create_database(name)
    database.run(SCHEMA)
    made = Journaled(server, database, directory)
    made.register()
    if drained:
        made.drain()
    try:
        yield made
    finally:
        database.run(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()"
        )
        server.drop_database(name)


@contextmanager
def logical_server(version: int = 18) -> Iterator[OwnServer]:
    with own_server(version, wal_level="logical", max_replication_slots="10", wal_sender_timeout="0") as server:
        yield server
