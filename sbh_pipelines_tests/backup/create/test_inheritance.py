"""Children of old-style inheritance: every row is in the backup once, under the table that it lies in, and comes back there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sbh_pipelines.backup.create.draft import DraftStatus
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.support.application import ADMIN, Application
from sbh_pipelines_tests.support.databases import Database, fresh_database

SCHEMA = """
CREATE TABLE tenants (id int PRIMARY KEY, slug text UNIQUE, region text, tier text);
INSERT INTO tenants VALUES (1, 'acme', 'eu-west-1', 'critical'), (2, 'bolt', 'eu-west-1', 'critical');
CREATE TABLE events (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, body text);
CREATE TABLE clicks (extra text, PRIMARY KEY (id)) INHERITS (events);
CREATE TABLE deep (more int) INHERITS (clicks);
INSERT INTO events SELECT n, 1 + n % 2, 'event' FROM generate_series(1, 300) n;
INSERT INTO clicks SELECT n, 1 + n % 2, 'click', 'x' FROM generate_series(1, 300) n;
INSERT INTO deep SELECT n, 1 + n % 2, 'deep', 'y', n FROM generate_series(1, 30) n;
"""
COUNTS = {"public.events": 150, "public.clicks": 150, "public.deep": 15, "public.tenants": 1}


@pytest.fixture
def application(embedded_stack: Stack, tmp_path: Path) -> Iterator[Application]:
    with fresh_database(embedded_stack) as database:
        database.run(SCHEMA)
        application = Application(database, tmp_path)
        application.settings = application.configured(files={"enabled": False})
        yield application


def rows(database: Database) -> list[tuple[str, str]]:
    """Each row, and the table that it lies in."""
    found: list[tuple[str, str]] = []
    for table in ("events", "clicks", "deep"):
        found += database.ask(f"SELECT '{table}', t::text FROM ONLY {table} t ORDER BY 2")
    return found


def test_rows_come_back_into_the_table_that_they_lay_in(application: Application) -> None:
    """From a full backup and from changes. Ids are the same in parent and child: one does not stand for the other."""
    database, service = application.database, application.service()
    manifest = service.backups.create("acme", ADMIN)
    stored = {t.table: t.rows for part in manifest.components.values() for t in part.tables}
    assert stored == COUNTS
    database.run(
        "DELETE FROM ONLY events WHERE id = 2; UPDATE ONLY clicks SET body = 'changed' WHERE id = 2",
        "INSERT INTO deep VALUES (1000, 1, 'new', 'z', 1)",
    )
    (draft,) = service.backups.create_all(("acme",), ADMIN, "incremental")
    assert draft.status is DraftStatus.COMPLETED
    then = rows(database)
    # Without ONLY: a statement on the parent writes to the children as well.
    database.run(
        "UPDATE events SET body = 'wrecked' WHERE tenant_id = 1",
        "DELETE FROM events WHERE id % 4 = 0 AND tenant_id = 1",
    )
    service.restore_backup("latest", "acme", ADMIN)
    assert rows(database) == then
