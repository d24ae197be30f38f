"""The slot: made, read, advanced, lost, dropped, and what a crash of the server does to it."""

import threading
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from sbh_pipelines.database.journal.messages import Insert
from sbh_pipelines.database.journal.slot import (
    PLUGIN,
    advance_slot,
    create_slot,
    drop_slot,
    read_slot,
    read_spill,
)
from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.errors import PrivilegeMissing, SlotTrouble, SourceConflict
from sbh_pipelines.settings import DatabaseSettings
from sbh_pipelines_tests.database.journal.conftest import Journaled, ends, of_kind
from sbh_pipelines_tests.support.own_server import own_server

VERSIONS = pytest.mark.parametrize("version", [18, 15])


def session(dsn: str) -> "closing[Any]":
    return closing(connect(DatabaseSettings(dsn=dsn), "test"))


def test_what_is_said_of_a_slot(journaled: Journaled) -> None:
    connection, slot = journaled.connection, journaled.slot
    assert read_slot(connection, slot) is None
    begin = create_slot(connection, slot)
    state = read_slot(connection, slot)
    assert state is not None
    assert (state.name, state.plugin, state.database) == (slot, PLUGIN, journaled.database.name)
    assert state.confirmed_flush == begin >= state.restart_lsn > 0
    assert (state.wal_status, state.safe_wal_size, state.invalidation_reason) == ("reserved", None, None)
    assert (state.active, state.active_pid, state.lost, state.failover) == (False, None, False, False)
    assert state.catalog_xmin_age >= 0
    journaled.run("CREATE TABLE t AS SELECT repeat('x', 1000) FROM generate_series(1, 2000)")
    later = read_slot(connection, slot)
    assert later is not None
    assert later.held_bytes > state.held_bytes + 2_000_000


def test_a_name_that_is_taken(journaled: Journaled) -> None:
    journaled.begin()
    with pytest.raises(Exception, match="already exists"):
        create_slot(journaled.connection, journaled.slot)


def test_a_slot_waits_for_transactions_that_write_and_gives_up(journaled: Journaled) -> None:
    journaled.run("CREATE TABLE t (id int)")
    waited: list[float] = []
    with closing(journaled.database.connect()) as other:
        other.cursor().execute("BEGIN; INSERT INTO t VALUES (1)")
        with pytest.raises(SourceConflict, match="goes on since before"):
            create_slot(journaled.connection, journaled.slot, wait_s=0.3, attempts=2, sleep=waited.append)
        assert waited == [1]
        assert read_slot(journaled.connection, journaled.slot) is None
        soon = threading.Timer(0.5, lambda: other.cursor().execute("COMMIT"))
        soon.start()
        assert create_slot(journaled.connection, journaled.slot, wait_s=120) > 0
        soon.join()
    cursor = journaled.connection.cursor()
    cursor.execute("SHOW lock_timeout")
    assert cursor.fetchone() == ("0",)


def test_a_slot_that_standbys_keep_in_step(journaled: Journaled) -> None:
    """Where the server can do that."""
    create_slot(journaled.connection, journaled.slot, failover=True)
    state = read_slot(journaled.connection, journaled.slot)
    assert state is not None
    assert state.failover == (journaled.connection.server_version >= 170000)


def test_a_role_that_may_not(journaled: Journaled) -> None:
    """Slots are for roles with REPLICATION; the rest of a drain needs no more than the backup's role has."""
    with session(journaled.database.dsn) as backup, pytest.raises(PrivilegeMissing):
        create_slot(backup, journaled.slot)


def test_a_slot_goes_forward_only(journaled: Journaled) -> None:
    journaled.publish_nothing()
    journaled.begin()
    (*_, end) = ends(journaled.read())
    advance_slot(journaled.connection, journaled.slot, end)
    advance_slot(journaled.connection, journaled.slot, journaled.position)
    state = read_slot(journaled.connection, journaled.slot)
    assert state is not None
    assert state.confirmed_flush == end
    with pytest.raises(SlotTrouble, match="not advanced as far"):
        advance_slot(journaled.connection, journaled.slot, end + (1 << 40))


def test_what_decoding_cost(journaled: Journaled) -> None:
    """A transaction that is larger than the server's memory for it is written to its disk."""
    journaled.run("CREATE TABLE t (id int PRIMARY KEY, body text)")
    journaled.publish("t")
    journaled.begin()
    journaled.run("INSERT INTO t SELECT n, repeat('x', 400) FROM generate_series(1, 5000) n")
    cursor = journaled.connection.cursor()
    cursor.execute("SET logical_decoding_work_mem = '64kB'")
    journaled.read()
    spill = read_spill(journaled.connection, journaled.slot)
    assert spill is not None
    assert spill.spilled_transactions >= 1
    assert spill.spilled_bytes > 1_000_000
    assert spill.transactions >= 2


def test_a_slot_that_is_gone_is_trouble_and_dropping_it_is_none(journaled: Journaled) -> None:
    journaled.publish_nothing()
    assert drop_slot(journaled.connection, journaled.slot) is False
    with pytest.raises(SlotTrouble, match="does not exist"):
        advance_slot(journaled.connection, journaled.slot, 1 << 32)
    journaled.begin()
    assert drop_slot(journaled.connection, journaled.slot) is True
    assert read_slot(journaled.connection, journaled.slot) is None
    with pytest.raises(SlotTrouble, match="does not exist"):
        journaled.read()


@VERSIONS
def test_a_slot_that_held_too_much_is_lost(version: int) -> None:
    with own_server(
        version, wal_level="logical", max_slot_wal_keep_size="1MB", min_wal_size="32MB", max_wal_size="32MB"
    ) as server:
        database = server.database("postgres")
        with session(server.dsn()) as connection:
            journaled = Journaled(database, connection, "s")
            journaled.publish_nothing()
            journaled.begin()
            state = read_slot(connection, "s")
            assert state is not None
            assert state.safe_wal_size is not None
            for _ in range(4):
                database.run("SELECT pg_logical_emit_message(false, 'x', repeat('y', 9000000)), pg_switch_wal()")
            database.run("CHECKPOINT")
            state = read_slot(connection, "s")
            assert state is not None
            assert (state.lost, state.wal_status) == (True, "lost")
            assert state.invalidation_reason == ("wal_removed" if version >= 17 else None)
            with pytest.raises(SlotTrouble):
                journaled.read()
            with pytest.raises(SlotTrouble):
                advance_slot(connection, "s", state.confirmed_flush + (1 << 30))
            assert drop_slot(connection, "s")


@VERSIONS
def test_a_crash_takes_a_slot_back_and_loses_nothing(version: int) -> None:
    """It is where it was at the last checkpoint: all since comes again, ends of Commits unchanged."""
    with own_server(version, wal_level="logical") as server:
        database = server.database("postgres")
        database.run("CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION pub FOR TABLE t")
        with session(server.dsn()) as connection:
            journaled = Journaled(database, connection, "s")
            journaled.begin()
            database.run("CHECKPOINT", "INSERT INTO t VALUES (1)")
            journaled.take()
            database.run("INSERT INTO t VALUES (2)")
            second = journaled.take()
            database.run("INSERT INTO t VALUES (3)")
        server.stop("immediate")
        server.start()
        with session(server.dsn()) as connection:
            journaled = Journaled(database, connection, "s")
            state = read_slot(connection, "s")
            assert state is not None
            assert state.confirmed_flush < ends(second)[-1]
            again = journaled.read()
            assert {*second} <= {*again}
            assert [m.new for m in of_kind(again, Insert)][-2:] == [(b"2",), (b"3",)]


def test_a_server_that_decodes_nothing_or_has_no_slot_left() -> None:
    """What is to be set is said; both need a restart."""
    with (
        own_server(18) as server,
        session(server.dsn()) as connection,
        pytest.raises(SlotTrouble, match="set wal_level = logical"),
    ):
        create_slot(connection, "s")
    with own_server(18, wal_level="logical", max_replication_slots="1") as server, session(server.dsn()) as connection:
        create_slot(connection, "one")
        with pytest.raises(SlotTrouble, match="raise max_replication_slots"):
            create_slot(connection, "two")


def test_a_slot_of_another_database(journaled: Journaled) -> None:
    journaled.publish_nothing()
    journaled.begin()
    with session(journaled.database.stack.dsn()) as elsewhere, pytest.raises(SlotTrouble, match="name another one"):
        replace(journaled, connection=elsewhere).read(journaled.fence())
