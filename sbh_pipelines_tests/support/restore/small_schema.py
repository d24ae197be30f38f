"""A schema of a test's own in an empty database, with tenants 1 `acme` and 2 `globex`; and what is in it, read by plain SQL."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sbh_pipelines.backup.restore.plan import RestorePlan
from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.restore.result import RestoreResult
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines_tests.support.application import ADMIN, Application
from sbh_pipelines_tests.support.databases import Database, copy_text

ACME, GLOBEX = "acme", "globex"
ORGS = """
CREATE TABLE orgs (id int PRIMARY KEY, slug text UNIQUE NOT NULL, region text NOT NULL DEFAULT 'eu-west-1');
INSERT INTO orgs VALUES (1, 'acme'), (2, 'globex');
"""
_TABLES = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
ORDER BY 1"""

Rows = Mapping[str, list[str]]


class SmallSchema:
    """The tables of `ddl` beside `orgs`. Settings of the section `database` may be given; `tenant_column` is `org_id`."""

    def __init__(self, database: Database, directory: Path, ddl: str, **settings: Any) -> None:
        self.database = database
        database.run(ORGS + ddl)
        tenants = {"table": "orgs", "tier": ""}
        sections = {name: settings.pop(name) for name in ("restore", "tenants") if name in settings}
        mapped = {"tenant_column": "org_id", **settings}
        self.service: BackupService = Application(database, directory).service(
            database=mapped, **{"tenants": tenants, **sections}
        )

    @classmethod
    def over(cls, other: "SmallSchema", directory: Path) -> "SmallSchema":
        """The same, as another process sees it."""
        made = cls.__new__(cls)
        made.database = other.database
        made.service = BackupService(other.service.settings, site=None)
        return made

    def backup(self, *tenants: str, type: str = "full") -> None:
        for tenant in tenants or (ACME, GLOBEX):
            self.service.backups.create(tenant, ADMIN, type)

    def run(self, *statements: str) -> None:
        self.database.run(*statements)

    def rows(self) -> Rows:
        """All rows of all tables, in no order that depends on where they lie."""
        with self.database.session() as connection:
            cursor = connection.cursor()
            cursor.execute(_TABLES)
            names = [name for (name,) in cursor.fetchall()]
            return {
                name: sorted(copy_text(connection, f"SELECT * FROM {name}").decode().splitlines()) for name in names
            }

    def plan(self, tenant: str = ACME, backup: str = "latest", **request: Any) -> RestorePlan:
        return self.service.restores.plan(backup, tenant, ADMIN, RestoreRequest.of(**request))

    def restore(self, tenant: str = ACME, backup: str = "latest", **request: Any) -> RestoreResult:
        return self.service.restores.run(backup, tenant, ADMIN, RestoreRequest.of(**request))
