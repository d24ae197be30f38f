"""Fixtures of the verbs' tests: a small application in a database of its own, its files and backups in a directory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.support.application import Application
from sbh_pipelines_tests.support.databases import Database, fresh_database


@pytest.fixture
def database(request: pytest.FixtureRequest, embedded_stack: Stack) -> Iterator[Database]:
    """A database of this test's own: that of `application` where the test uses it, else empty."""
    filled = "application" in request.fixturenames
    template = request.getfixturevalue("application_template") if filled else "template1"
    with fresh_database(embedded_stack, template) as made:
        yield made


@pytest.fixture
def application(database: Database, tmp_path: Path) -> Application:
    """Tenants `acme` (1) and `bolt` (2) with rows and files; nothing is backed up yet."""
    made = Application(database, tmp_path)
    made.create_files()
    return made
