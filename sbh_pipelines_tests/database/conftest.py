"""Fixtures of the sources' tests."""

from collections.abc import Iterator

import pytest

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.support.databases import Database, fresh_database


@pytest.fixture
def database(embedded_stack: Stack) -> Iterator[Database]:
    """An empty database of this test's own."""
    with fresh_database(embedded_stack) as made:
        yield made
