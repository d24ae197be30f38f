"""The proof compares with the backup's bytes: what a session parsed in another way than it was written is found, and rolled back."""

from collections.abc import Iterator
from typing import Any

import pytest

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.database.merge import staging
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import ProofFailed
from sbh_pipelines.model import MergeMode
from sbh_pipelines_tests.support.application import ADMIN, Application
from sbh_pipelines_tests.support.databases import fresh_database

SCHEMA = """
CREATE TABLE tenants (id int PRIMARY KEY, slug text UNIQUE, region text, tier text);
INSERT INTO tenants VALUES (1, 'acme', 'eu-west-1', 'critical');
CREATE TABLE keyed (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, words text[], gone text);
INSERT INTO keyed SELECT n, 1, CASE WHEN n % 90 = 5 THEN ARRAY['a', NULL] ELSE ARRAY['a'] END, 'x' FROM generate_series(1, 300) n;
CREATE TABLE loose (tenant_id int NOT NULL REFERENCES tenants, words text[]);
INSERT INTO loose VALUES (1, ARRAY['b', NULL]), (1, ARRAY['b']);
CREATE TABLE uses (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, what regclass);
INSERT INTO uses VALUES (1, 1, 'keyed'), (2, 1, 'loose');
"""
WAYS = {
    "the whole tenant": RestoreRequest(),
    "rows that are missing": RestoreRequest(mode=MergeMode.MISSING_ONLY),
    "chosen rows": RestoreRequest(rows="keyed where id < 10"),
    "one table": RestoreRequest(tables=("loose",)),
    "a table without a key, rows that are missing": RestoreRequest(tables=("loose",), mode=MergeMode.MISSING_ONLY),
}


@pytest.fixture(scope="module")
def application(embedded_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    with fresh_database(embedded_stack) as database:
        database.run(SCHEMA)
        application = Application(database, tmp_path_factory.mktemp("read-back"))
        application.settings = application.configured(files={"enabled": False})
        application.service().backups.create("acme", ADMIN)
        yield application


@pytest.fixture
def parsed_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions take NULL in an array for a word while they stage rows, as with `array_nulls = off`."""
    original = staging.copy_in

    def copy_in(cursor: Any, *arguments: Any) -> int:
        cursor.execute("SET array_nulls = off")
        return original(cursor, *arguments)

    monkeypatch.setattr(staging, "copy_in", copy_in)


def restored(service: BackupService, request: RestoreRequest) -> dict[str, Any]:
    return service.restore_backup("latest", "acme", ADMIN, request=request)


def content(application: Application) -> list[list[tuple[str]]]:
    return [application.database.ask(f"SELECT t::text FROM {table} t ORDER BY 1") for table in ("keyed", "loose")]


@pytest.mark.parametrize("request_of", WAYS)
def test_what_was_parsed_otherwise_is_rolled_back(
    application: Application, parsed_otherwise: None, request_of: str
) -> None:
    """In every mode and scope; the same restore goes well in a session as it should be."""
    application.database.run("DELETE FROM keyed WHERE id % 2 = 1", "DELETE FROM loose")
    wrecked = content(application)
    with pytest.raises(ProofFailed):
        restored(application.service(), WAYS[request_of])
    assert content(application) == wrecked


@pytest.mark.parametrize("request_of", WAYS)
def test_what_was_parsed_as_it_was_written_comes_back(application: Application, request_of: str) -> None:
    application.database.run("DELETE FROM keyed WHERE id % 90 = 5", "DELETE FROM loose")
    restored(application.service(), WAYS[request_of])
    restored(application.service(), WAYS["the whole tenant"])
    assert application.database.ask("SELECT count(*) FROM keyed WHERE words[2] IS NULL AND cardinality(words) = 2") == [
        (4,)
    ]
    assert application.database.ask("SELECT words FROM loose ORDER BY 1") == [(["b"],), (["b", None],)]


@pytest.mark.parametrize(
    "request_of",
    [RestoreRequest(), RestoreRequest(rows="uses where id > 0"), RestoreRequest(mode=MergeMode.MISSING_ONLY)],
)
def test_names_are_read_back_as_they_were_written(application: Application, request_of: RestoreRequest) -> None:
    """The text of a regclass depends on the search path."""
    application.database.run("UPDATE uses SET what = 'tenants' WHERE id = 1", "DELETE FROM uses WHERE id = 2")
    restored(application.service(), request_of)
    restored(application.service(), RestoreRequest())
    assert application.database.ask("SELECT what::text FROM uses ORDER BY id") == [("keyed",), ("loose",)]


def test_of_a_changed_table_the_columns_that_are_as_they_were(
    application: Application, parsed_otherwise: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column that was dropped and one that was added are left out of the comparison; the others are in it."""
    database, service = application.database, application.service()
    database.run("DELETE FROM keyed WHERE id = 5; ALTER TABLE keyed DROP gone, ADD came int DEFAULT 7")
    drifted = RestoreRequest(tables=("keyed",), accept_schema_changes=True)
    try:
        with pytest.raises(ProofFailed):
            restored(service, drifted)
        monkeypatch.undo()
        restored(service, drifted)
        assert database.ask("SELECT words, came FROM keyed WHERE id = 5") == [(["a", None], 7)]
    finally:
        database.run("ALTER TABLE keyed DROP came, ADD gone text DEFAULT 'x'")
