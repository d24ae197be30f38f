"""Fixtures: an application's database of the test's own."""

from collections.abc import Iterator

import pytest

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.support.databases import Database, fresh_database


@pytest.fixture
def database(embedded_stack: Stack, application_template: str) -> Iterator[Database]:
    """With the tables and rows of `Application`."""
    with fresh_database(embedded_stack, application_template) as made:
        yield made
