"""A journaled application whose tenants are backed up, and whose every state is kept."""

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from sbh_pipelines.backup.contents.layers import table_rows
from sbh_pipelines.backup.contents.manifest import Manifest
from sbh_pipelines.backup.contents.manifests import read_tables
from sbh_pipelines.backup.contents.stored_table import read_table
from sbh_pipelines.backup.create.moment.way.target import Target
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.model import TenantId, utc_now
from sbh_pipelines.repository.journal.segments.public_key import PublicKey
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.support.journal import SCHEMA, Journaled, Rows
from sbh_pipelines_tests.support.own_server import OwnServer
from sbh_pipelines_tests.support.site import Wrap, site_with_stores

ADMIN = UserContext("tester", "*", Role.ADMIN)
SLUGS = {1: "acme", 2: "bolt", 3: "crab"}


@dataclass
class Kept:
    """What the tenants had after a commit.

    Attributes:
        at: A time after that commit and before the next one, by the server's clock.
        rows: By tenant.
    """

    at: datetime
    rows: Mapping[int, Rows]


@dataclass
class Recovered(Journaled):
    kept: list[Kept] = field(default_factory=list)

    @cached_property
    def service(self) -> BackupService:
        return BackupService(self.settings)

    def with_stores(self, wrap: Wrap) -> BackupService:
        return BackupService(self.settings, site=site_with_stores(self.settings, utc_now, wrap))

    def back_up(self, kind: str = "full", *tenants: int) -> list[str]:
        """Ids of the backups, by tenant."""
        return [self.service.backups.create(SLUGS[t], ADMIN, kind).id for t in tenants or SLUGS]

    def back_up_together(self) -> None:
        """Full backups of all tenants by one pass over the tables, which costs a third of three."""
        drafts = self.service.backups.create_all(list(SLUGS.values()), ADMIN)
        assert [draft.error for draft in drafts] == [None] * len(SLUGS)

    def register_own(self) -> None:
        """Have blocks sealed to the tenants' own keys."""
        site = self.site()
        for number, slug in SLUGS.items():
            tenant = self.service.tenants.find(TenantId(slug))
            with site.repository(tenant) as repository:
                sealer = repository.sealer
                key = PublicKey(site.owners.home_of(tenant), str(number), sealer.epoch, sealer.journal_public())
                site.journal(tenant.region).public_keys.register([key])

    def now(self) -> datetime:
        text = self.database.copy("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')")
        return datetime.fromisoformat(text.decode().strip()).replace(tzinfo=UTC)

    def keep(self) -> Kept:
        made = Kept(self.now(), {tenant: self.rows(tenant) for tenant in SLUGS})
        self.kept.append(made)
        return made

    def do(self, *statements: str) -> Kept:
        """Each set of statements is a transaction of its own."""
        for statement in statements:
            self.database.run(statement)
        return self.keep()

    def recover(self, tenant: int, moment: datetime | Target, **options: Any) -> Manifest:
        target = moment if isinstance(moment, Target) else Target(time=moment)
        return self.service.backups.create_at(SLUGS[tenant], ADMIN, target, **options)

    def stored(self, tenant: int, manifest: Manifest) -> Rows:
        """The rows of a backup."""
        found: Rows = {}
        with self.site().repository(self.service.tenants.find(TenantId(SLUGS[tenant]), gone=True)) as repository:
            repository.load_index()
            for name, summary in read_tables(repository, manifest).items():
                text = b"".join(table_rows(repository, read_table(repository, summary)))
                lines = text.split(b"\n")[:-1]
                assert len(lines) == summary.rows
                found[name] = {line.split(b"\t", 1)[0]: line for line in lines}
        return found


R = TypeVar("R", bound=Recovered)


@contextmanager
def recovered_application(
    server: OwnServer, directory: Path, schema: str = SCHEMA, **sections: Any
) -> Iterator[Recovered]:
    """A database of its own on the server; each tenant has a full backup, made after the first drain."""
    with backed_up(Recovered, server, directory, schema, **sections) as made:
        yield made


@contextmanager
def backed_up(
    kind: Callable[..., R], server: OwnServer, directory: Path, schema: str = SCHEMA, **sections: Any
) -> Iterator[R]:
    """As `recovered_application`, of a kind of its own."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    database = server.create_database(name)
    database.run(schema)
    made = kind(server, database, directory, sections={"restore": {"safety_backup": True}, **sections})
    made.back_up_together()
    made.register_own()
    made.drain()
    made.back_up_together()
    try:
        yield made
    finally:
        database.run(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()"
        )
        server.drop_database(name)
