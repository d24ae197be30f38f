"""Connections that are refused, each with what mends it."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import SbhError, SourceError, SourceUnavailable
from sbh_pipelines.settings import DatabaseSettings
from sbh_pipelines_tests.support.databases import Database, fresh_database


@pytest.fixture(scope="module")
def closed(embedded_stack: Stack) -> Iterator[Database]:
    """A database that roles may not enter, and roles that may not log in."""
    with fresh_database(embedded_stack) as made:
        made.run(
            f"REVOKE CONNECT ON DATABASE {made.name} FROM PUBLIC",
            "CREATE ROLE \"Not 'in\" NOLOGIN PASSWORD 'pw'",
            "CREATE ROLE sbh_outside LOGIN PASSWORD 'pw'",
            "CREATE ROLE sbh_one LOGIN PASSWORD 'pw' CONNECTION LIMIT 0",
            f"GRANT CONNECT ON DATABASE {made.name} TO sbh_one",
        )
        yield made
        made.run("REVOKE ALL ON DATABASE " + made.name + " FROM sbh_one", 'DROP ROLE "Not \'in", sbh_outside, sbh_one')


@pytest.mark.parametrize(
    ("dsn", "password", "kind", "remedy"),
    [
        ("user=sbh_outside dbname={name}", "wrong", SourceError, 'ALTER ROLE "sbh_outside" PASSWORD'),
        ("user=sbh_outside dbname={name}", "pw", SourceError, 'GRANT CONNECT ON DATABASE "{name}" TO "sbh_outside";'),
        ("user='Not \\'in' dbname={name}", "pw", SourceError, 'ALTER ROLE "Not \'in" LOGIN;'),
        ("user=sbh_one dbname={name}", "pw", SourceUnavailable, 'ALTER ROLE "sbh_one" CONNECTION LIMIT -1'),
        ("user=sbh_outside dbname=sbh_nowhere", "pw", SourceError, "correct dbname"),
        ("user=sbh_outside dbname=x port=1", "pw", SourceUnavailable, "listen_addresses"),
        ("user=x dbname=x host=nowhere.invalid hostaddr=''", "pw", SourceUnavailable, "correct host"),
    ],
)
def test_what_mends_it(closed: Database, dsn: str, password: str, kind: type[SbhError], remedy: str) -> None:
    with closing(closed.connect()) as connection:
        parts = connection.info.dsn_parameters
    place = f"host={parts['host']} port={parts['port']} {dsn.format(name=closed.name)}"  # the last of a name counts
    with pytest.raises(SbhError) as caught:
        connect(DatabaseSettings(dsn=place, password=password, connect_timeout_s=60), "test")  # type: ignore[arg-type]
    assert (type(caught.value), remedy.format(name=closed.name) in caught.value.remedy) == (kind, True), caught.value
    assert "pw" not in str(caught.value).replace("password", "")
