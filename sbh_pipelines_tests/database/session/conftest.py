"""Servers of two versions for sessions: the shared stack's 18, and a 15 of these tests' own."""

from collections.abc import Iterator

import pytest

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.support.databases import Database, fresh_database
from sbh_pipelines_tests.support.own_server import OwnServer, own_server


@pytest.fixture(scope="package")
def server_15() -> Iterator[OwnServer]:
    with own_server(15) as running:
        yield running


@pytest.fixture(params=[18, 15])
def either(request: pytest.FixtureRequest, embedded_stack: Stack) -> Iterator[Database]:
    """An empty database of this test's own, on PostgreSQL 18 and on 15."""
    if request.param == 18:
        with fresh_database(embedded_stack) as made:
            yield made
    else:
        server: OwnServer = request.getfixturevalue("server_15")
        made = server.create_database(f"own_{request.node.callspec.indices['either']}_{abs(hash(request.node.nodeid))}")
        yield made
        server.drop_database(made.name)
