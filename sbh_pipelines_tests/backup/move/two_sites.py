"""Two sites of one application, each with a database, buckets and keys of its own, and tenants that move from one to the other."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sbh_pipelines.backup.move.move import Moved
from sbh_pipelines.backup.move.plan import MovePlan
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.model import Clock, utc_now
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application, State
from sbh_pipelines_tests.support.databases import fresh_database

# What only acme has; projects of acme have odd numbers at one site, and bolt's are other rows at each.
WITHOUT_ACME = (
    "DELETE FROM items WHERE project_id IN (SELECT id FROM projects WHERE tenant_id = 1);"
    " UPDATE projects SET lead = NULL WHERE tenant_id = 1; DELETE FROM projects WHERE tenant_id = 1;"
    " DELETE FROM notes WHERE tenant_id = 1; DELETE FROM tenants WHERE id = 1;"
    " UPDATE notes SET body = 'of the other site'"
)


@dataclass
class TwoSites:
    """`here` has acme and bolt, `there` a bolt of its own.

    Attributes:
        here: The site that acme leaves.
        there: The site that it comes to.
        clock: Of both.
        sections: What the settings of both say besides.
    """

    here: Application
    there: Application
    clock: Clock = utc_now
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)

    def service(self, site: Application, **sections: dict[str, Any]) -> BackupService:
        name = "eu_1" if site is self.here else "eu_2"
        return site.service(clock=self.clock, **{"site": {"name": name}, **self.sections, **sections})

    @property
    def source(self) -> BackupService:
        """A service over the first site, as another process has it."""
        return self.service(self.here)

    @property
    def target(self) -> BackupService:
        return self.service(self.there)

    def plan(self, tenant: str = ACME) -> MovePlan:
        return self.source.moves.plan(tenant, ADMIN, self.target.moves, ADMIN)

    def move(self, tenant: str = ACME, **options: Any) -> Moved:
        return self.source.moves.run(tenant, ADMIN, self.target.moves, ADMIN, **options)

    def others(self) -> tuple[State, State]:
        """What a move of acme has nothing to do with."""
        return self.here.state(BOLT), self.there.state(BOLT)


@contextmanager
def two_sites(here: Application, directory: Path) -> Iterator[TwoSites]:
    """The second site, in `directory`, its tables filled beside those of `here`."""
    with fresh_database(here.database.stack) as database:
        directory.mkdir()
        (directory / "backup.key").write_bytes(base64.b64encode(bytes(range(32, 64))))
        there = Application(database, directory)
        there.create_tables()
        database.run(WITHOUT_ACME)
        there.write_file(BOLT, "docs/of the other site.txt", b"another bolt's")
        yield TwoSites(here, there)
