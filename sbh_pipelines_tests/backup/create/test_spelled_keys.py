"""Tenants' keys that are spelled in several ways: whose a row is, the equality of the column's type decides."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sbh_pipelines.backup.create.draft import DraftStatus
from sbh_pipelines.errors import TenancyError
from sbh_pipelines_tests.support.application import ADMIN, Application
from sbh_pipelines_tests.support.blind_type import blind_type
from sbh_pipelines_tests.support.databases import Database, fresh_database
from sbh_pipelines_tests.support.own_server import own_server

KINDS = {
    "a type that ignores case": "made.blind",
    "a collation that ignores case": "text COLLATE made.insensitive",
    "numbers with digits after the point": "numeric",
}
_COLLATION = "CREATE COLLATION made.insensitive (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
_SETUP = (
    blind_type(),
    "CREATE FUNCTION made.spelled(key text, n int) RETURNS text LANGUAGE sql IMMUTABLE AS"
    " $$SELECT CASE WHEN left(key, 1) COLLATE \"C\" < 'A' THEN split_part(key COLLATE \"C\", '.', 1) || CASE n % 3 WHEN 0 THEN '' WHEN 1 THEN '.0' ELSE '.00' END"
    " ELSE CASE n % 3 WHEN 0 THEN key WHEN 1 THEN upper(key) ELSE initcap(key) END END$$",
)
_TABLES = """
CREATE TABLE tenants (id {kind} PRIMARY KEY, slug text, region text, tier text);
INSERT INTO tenants SELECT k::{type}, s, 'eu-west-1', 'critical' FROM unnest('{{{keys}}}'::text[], '{{a,b,c}}'::text[]) AS x(k, s);
CREATE TABLE notes (id int PRIMARY KEY, tenant_id {kind} NOT NULL REFERENCES tenants, body text);
INSERT INTO notes SELECT n, made.spelled(('{{{keys}}}'::text[])[1 + n % 3], n / 3)::{type}, 'note' FROM generate_series(1, 600) n;
CREATE TABLE parts (id int PRIMARY KEY, note_id int NOT NULL REFERENCES notes, body text);
INSERT INTO parts SELECT n, n, 'part' FROM generate_series(1, 600) n;
CREATE TABLE loose (tenant_id {kind} NOT NULL REFERENCES tenants, body text);
INSERT INTO loose SELECT tenant_id, body FROM notes WHERE id < 30;
"""
_ALL = ("notes", "parts", "loose")


@pytest.fixture(params=KINDS)
def application(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Application]:
    kind = KINDS[request.param]
    keys = "10,7,30" if kind == "numeric" else "acme,bolt,coil"
    with _database(request, kind) as database:
        database.run(*_SETUP, *([_COLLATION] if "COLLATE" in kind else []))
        database.run(_TABLES.format(kind=kind, type=kind.partition(" ")[0], keys=keys))
        application = Application(database, tmp_path)
        application.settings = application.configured(files={"enabled": False})
        yield application


@contextmanager
def _database(request: pytest.FixtureRequest, kind: str) -> Iterator[Database]:
    if "COLLATE" not in kind:
        with fresh_database(request.getfixturevalue("embedded_stack")) as made:
            yield made
        return
    with own_server(15) as server:  # the embedded one is built without ICU
        yield server.create_database("spelled")


def rows(database: Database) -> list[list[tuple[str, ...]]]:
    return [database.ask(f"SELECT t::text FROM {table} t ORDER BY 1") for table in _ALL]


def test_rows_go_to_the_tenant_of_the_equal_key(application: Application) -> None:
    """In a batch, of changes as well; restored they are spelled as they were, and other tenants' rows are left alone."""
    database, service = application.database, application.service()
    for draft in service.backups.create_all(("a", "b", "c"), ADMIN):
        assert (draft.error, draft.counters["rows"]) == (None, 200 + 200 + (9 if draft.tenant.id == "a" else 10) + 1)
    whole = rows(database)
    database.run(
        "DELETE FROM parts WHERE id % 50 = 1; DELETE FROM notes WHERE id % 50 = 1 AND id NOT IN (SELECT note_id FROM parts)",
        "UPDATE notes SET tenant_id = made.spelled(tenant_id::text, 1)::text::"
        + _type(database)
        + " WHERE id % 50 = 3",
        "UPDATE parts SET body = 'changed' WHERE id % 50 = 7; INSERT INTO parts VALUES (1000, 2, 'new')",
    )
    for draft in service.backups.create_all(("a", "b", "c"), ADMIN, "incremental"):
        assert (draft.error, draft.status) == (None, DraftStatus.COMPLETED)
    later = rows(database)
    database.run("DELETE FROM parts WHERE id % 2 = 0; UPDATE notes SET body = 'wrecked'; DELETE FROM loose")
    for tenant in "abc":
        service.restore_backup("latest", tenant, ADMIN)
    assert rows(database) == later
    for tenant in "abc":
        service.restore_backup(str(service.backups.of(tenant, ADMIN)[-1].id), tenant, ADMIN)
    assert rows(database) == whole


def test_two_tenants_of_equal_keys_are_refused(application: Application) -> None:
    """A table that does not tell them apart would give the rows of one to the other."""
    database, service = application.database, application.service()
    database.run(
        "ALTER TABLE notes DROP CONSTRAINT notes_tenant_id_fkey; ALTER TABLE loose DROP CONSTRAINT loose_tenant_id_fkey;"
        'ALTER TABLE tenants DROP CONSTRAINT tenants_pkey, ALTER id TYPE text COLLATE "C";'
        "INSERT INTO tenants SELECT made.spelled(id, 1), 'd', 'eu-west-1', 'critical' FROM tenants WHERE slug = 'a'"
    )
    (draft,) = service.backups.create_all(("b",), ADMIN)
    assert isinstance(draft.error, TenancyError)
    assert "public.loose" in str(draft.error) or "public.notes" in str(draft.error)


def _type(database: Database) -> str:
    ((kind,),) = database.ask(
        "SELECT format_type(atttypid, -1) FROM pg_attribute WHERE attrelid = 'notes'::regclass AND attname = 'tenant_id'"
    )
    return str(kind)
