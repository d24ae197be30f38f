"""One row that the server cannot give fails its own tenant alone, and is named; the others are backed up in the same run."""

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.backup.create.unreadable import named
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.database.merge.row_choice import parse_rows
from sbh_pipelines.database.schema.tenancy import load_map
from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import UnreadableRow
from sbh_pipelines.model import Tenant, TenantId
from sbh_pipelines_tests.support.application import ADMIN, Application
from sbh_pipelines_tests.support.databases import Database, fresh_database
from sbh_pipelines_tests.support.torn_toast import tear_toast

TENANTS = [f"t{n}" for n in range(1, 6)]
BAD = "t3"  # in the middle of the batch
SCHEMA = """
CREATE TABLE tenants (id int PRIMARY KEY, slug text UNIQUE, region text, tier text);
INSERT INTO tenants SELECT n, 't' || n, 'eu-west-1', 'critical' FROM generate_series(1, 5) n;
CREATE TABLE notes ("Id" int, part text, tenant_id int NOT NULL REFERENCES tenants, body text, PRIMARY KEY ("Id", part));
ALTER TABLE notes ALTER body SET STORAGE EXTERNAL;
INSERT INTO notes SELECT n, 'p', 1 + n % 5, 'note ' || n FROM generate_series(1, 400) n;
CREATE TABLE loose (tenant_id int NOT NULL REFERENCES tenants, body text NOT NULL);
ALTER TABLE loose ALTER body SET STORAGE EXTERNAL;
INSERT INTO loose SELECT 1 + n % 5, 'loose ' || n FROM generate_series(1, 40) n;
CREATE TABLE prices (id int PRIMARY KEY, body text);
ALTER TABLE prices ALTER body SET STORAGE EXTERNAL;
INSERT INTO prices VALUES (1, 'a'), (2, repeat('price', 1000));
"""
LONG = "repeat('long', 3000)"


@pytest.fixture
def database(embedded_stack: Stack) -> Iterator[Database]:
    with fresh_database(embedded_stack) as made:
        yield made


@pytest.fixture
def application(database: Database, tmp_path: Path) -> Application:
    database.run(SCHEMA)
    application = Application(database, tmp_path)
    application.settings = application.configured(
        database={"dsn": database.dsn, "connections": 2, "shared": ["prices"]},
        files={"enabled": False},
        platform={"pg_dump": str(postgres.binaries() / "pg_dump")},
    )
    return application


def back_up(service: BackupService, kind: str) -> dict[str, Draft]:
    drafts = service.backups.create_all(TENANTS, ADMIN, kind)
    return {draft.tenant.id: draft for draft in drafts}


def fails_alone(drafts: dict[str, Draft], others: Sequence[DraftStatus]) -> str:
    """The text of the one tenant's error."""
    error = drafts.pop(BAD).error
    assert isinstance(error, UnreadableRow)
    assert {draft.status for draft in drafts.values()} == set(others)
    return str(error)


def test_a_damaged_value_fails_its_tenant_alone(application: Application) -> None:
    """In a full backup, in one of changes, and where nothing else changed; the row, its column and the SQL are named.

    By its place: a text in its key may be a person's address, and errors go into records, runs and alerts.
    """
    database, service = application.database, application.service()
    back_up(service, "full")
    database.run(f"INSERT INTO notes VALUES (9001, 'it''s', 3, {LONG}), (9002, 'p', 2, 'short')")
    tear_toast(database, "notes")
    text = fails_alone(back_up(service, "incremental"), [DraftStatus.UNCHANGED, DraftStatus.COMPLETED])
    assert "public.notes of t3, the row at ctid (" in text
    assert "it's" not in text
    again = fails_alone(back_up(service, "full"), [DraftStatus.COMPLETED])
    assert "it's" not in again
    select, update = re.search(r"SELECT .*?(?=;)", again), re.search(r"UPDATE .*?;", again)
    assert select is not None
    assert update is not None
    assert database.ask(select[0]) == [(9001, "it's")]
    rows = shlex.split(again[again.index("sbh restore run") :].partition(" --confirm")[0])[-1]
    assert parse_rows(rows.replace("...", "part = 'x'")).table == "public.notes"
    database.run(update[0])
    assert all(draft.error is None for draft in back_up(service, "incremental").values())


def test_a_damaged_value_of_a_table_without_a_key(application: Application) -> None:
    """Its rows are compared as a whole, so that it is met before rows are read; the place of the row is named."""
    database, service = application.database, application.service()
    back_up(service, "full")
    database.run(f"INSERT INTO loose VALUES (3, {LONG})")
    ((place,),) = database.ask("SELECT ctid::text FROM loose WHERE length(body) > 100")
    tear_toast(database, "loose")
    for kind in ("incremental", "full"):
        drafts = back_up(service, kind)
        text = fails_alone(drafts, [DraftStatus.COMPLETED if kind == "full" else DraftStatus.UNCHANGED])
        assert f"public.loose of t3, the row at ctid {place}, column body" in text
        assert f"WHERE ctid = '{place}'" in text
    # What is too large has lost nothing: nobody is told to empty it.
    with closing(connect(application.settings.database, "test")) as connection:
        connection.cursor().execute("BEGIN")
        table = load_map(connection, application.settings).find("public.loose")
        assert table is not None
        told = named(
            UnreadableRow("Cannot read a table"), connection, table, Tenant(TenantId("t3"), "3", "eu-west-1", "")
        )
    assert "too large" in str(told)
    assert "UPDATE" not in str(told)
    update = re.search(r"UPDATE .*?;", text)
    assert update is not None
    database.run(update[0])  # the column is NOT NULL
    assert all(draft.error is None for draft in back_up(service, "incremental").values())


def test_a_damaged_value_of_a_shared_table(application: Application) -> None:
    """It fails the platform backup, which names it; tenants are backed up."""
    service = application.service()
    tear_toast(application.database, "prices")
    assert all(draft.error is None for draft in back_up(service, "full").values())
    with pytest.raises(UnreadableRow) as raised:
        service.platform.create(ADMIN)
    assert "public.prices, id = 2, column body" in str(raised.value)
