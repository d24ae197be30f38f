"""A pooler between us and the database: session mode works and is left clean; the other modes are noticed before anything is set."""

from contextlib import closing

import psycopg2
import pytest

from sbh_pipelines.database.session import pooler
from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.database.session.snapshot import exported_snapshot, on_snapshot
from sbh_pipelines.errors import PoolerRefused
from sbh_pipelines.settings import DatabaseSettings
from sbh_pipelines_tests.support.own_server import OwnServer
from sbh_pipelines_tests.support.pgbouncer import pgbouncer

_ALL = "SELECT json_object_agg(name, setting) FROM pg_settings WHERE name <> 'application_name'"


def through(port: int) -> DatabaseSettings:
    return DatabaseSettings(dsn=f"host=127.0.0.1 port={port} dbname=postgres user=sbh_backup")


def as_others_see_it(port: int) -> object:
    with closing(psycopg2.connect(through(port).dsn)) as client:
        client.autocommit = True  # in statement mode there are no transactions
        cursor = client.cursor()
        cursor.execute(_ALL)
        return cursor.fetchone()[0]


@pytest.mark.parametrize("ignore", ["", "options"])
@pytest.mark.parametrize(("mode", "size"), [("transaction", 1), ("transaction", 5), ("statement", 5)])
def test_shared_sessions_are_refused_and_nothing_is_left_in_them(
    server_15: OwnServer, mode: str, size: int, ignore: str
) -> None:
    """Whether the pooler takes options or not; a pool of one session looks stable from any single connection."""
    with pgbouncer(server_15, mode, size, ignore=ignore) as port:
        before = as_others_see_it(port)
        with pytest.raises(PoolerRefused) as caught:
            connect(through(port), "test")
        assert "pool_mode is session" in caught.value.remedy
        assert as_others_see_it(port) == before


@pytest.mark.parametrize("ignore", ["", "options"])
def test_sessions_of_our_own_work_and_are_given_back_as_they_were(server_15: OwnServer, ignore: str) -> None:
    with pgbouncer(server_15, "session", 3, ignore=ignore) as port:
        before = as_others_see_it(port)
        with (
            exported_snapshot(through(port)) as (snapshot_id, _, first),
            on_snapshot(through(port), snapshot_id) as second,
        ):
            assert (first.pooled, second.pooled) == (True, True)
        with closing(connect(through(port), "test")) as connection:
            connection.cursor().execute("BEGIN")  # left open, as an error leaves it
        assert [as_others_see_it(port) for _ in range(3)] == [before] * 3


def test_a_pool_whose_only_session_is_ours_is_ours(server_15: OwnServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooler, "_WAIT_S", 0.2)
    with pgbouncer(server_15, "session", 1) as port, closing(connect(through(port), "test")) as connection:
        assert connection.pooled


def test_without_a_pooler_there_is_none(server_15: OwnServer) -> None:
    with closing(connect(DatabaseSettings(dsn=server_15.dsn()), "test")) as connection:
        assert not connection.pooled
