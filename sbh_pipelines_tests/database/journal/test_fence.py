"""Fences: what is proved by one."""

import threading
from contextlib import closing, suppress

import pytest

from sbh_pipelines.database.journal.fence import Fence, is_fence, place_fence, up_to
from sbh_pipelines.database.journal.messages import Begin, Commit, Insert, LogicalMessage
from sbh_pipelines.database.journal.slot import advance_slot
from sbh_pipelines.database.journal.stream import read_stream
from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.errors import SlotTrouble
from sbh_pipelines.settings import DatabaseSettings
from sbh_pipelines_tests.database.journal.conftest import Journaled, ends, of_kind
from sbh_pipelines_tests.support.own_server import own_server


def fence(xid: int = 5, mark: str = "m") -> Fence:
    return Fence(xid, 0, 100, 0, f"{xid}:{xid}:", mark)


def own(mark: str = "m") -> LogicalMessage:
    return LogicalMessage(True, 1, "sbh", f'{{"mark": "{mark}"}}'.encode())


def test_what_a_fence_says(journaled: Journaled) -> None:
    journaled.publish_nothing()
    journaled.begin()
    placed = place_fence(journaled.connection, "Ü")
    messages = journaled.read(placed)
    begin, message, commit = messages
    assert isinstance(begin, Begin)
    assert isinstance(message, LogicalMessage)
    assert isinstance(commit, Commit)
    assert placed.widen(begin.xid) == placed.xid
    assert placed.before <= begin.final_lsn < commit.end_lsn <= placed.after
    assert 0 <= commit.time_us - placed.time < 60_000_000
    assert placed.xmin <= placed.xid
    assert is_fence(message, placed)
    assert not is_fence(message, place_fence(journaled.connection, "Ü"))
    cursor = journaled.connection.cursor()
    cursor.execute("SHOW synchronous_commit")
    assert cursor.fetchone() == ("on",)


def test_asynchronous_commits_before_it_are_in_the_stream(journaled: Journaled) -> None:
    journaled.run("CREATE TABLE t (id int PRIMARY KEY)")
    journaled.publish("t")
    journaled.begin()
    with closing(journaled.database.connect()) as other:
        cursor = other.cursor()
        cursor.execute("SET synchronous_commit = off")
        for number in range(50):
            cursor.execute("INSERT INTO t VALUES (%s)", (number,))
    assert len(of_kind(journaled.read(), Insert)) == 50


def test_a_stretch_ends_at_the_fence_whoever_writes_beside_it(journaled: Journaled) -> None:
    """Many stretches beside writers: no row twice, none missing, and a stretch ends between transactions."""
    journaled.run("CREATE TABLE t (id int PRIMARY KEY, by int)")
    journaled.publish("t")
    journaled.begin()
    stop = threading.Event()

    def write(writer: int) -> None:
        with closing(journaled.database.connect()) as other, suppress(StopIteration):
            cursor = other.cursor()
            for number in range(1_000_000):
                if stop.is_set():
                    return
                cursor.execute("INSERT INTO t VALUES (%s, %s)", (writer * 1_000_000 + number, writer))

    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for writer in writers:
        writer.start()
    found: list[bytes] = []
    try:
        for _ in range(15):
            found += [m.new[0] for m in of_kind(journaled.take(), Insert)]
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    found += [m.new[0] for m in of_kind(journaled.take(), Insert)]
    there = [str(key).encode() for (key,) in journaled.database.ask("SELECT id FROM t ORDER BY id")]
    assert sorted(found, key=int) == there
    assert len(there) > 50


def test_a_stream_without_the_fence_is_refused(journaled: Journaled) -> None:
    """A slot that gives less than was committed, as one that was advanced by somebody else."""
    journaled.publish_nothing()
    journaled.begin()
    placed = journaled.fence()
    (*_, end) = ends(journaled.read())
    advance_slot(journaled.connection, journaled.slot, end)
    with pytest.raises(SlotTrouble, match="ended before"):
        list(up_to(read_stream(journaled.connection, journaled.slot, "pub", placed.after), placed))


def test_another_transactions_mark_is_no_fence() -> None:
    """Its mark and its id both: whoever may write messages cannot end a stretch early."""
    forged = [Begin(1, 0, 4), own(), Commit(2, 0, 1)]
    real = [Begin(3, 0, 5), own(), Commit(4, 0, 3)]
    assert list(up_to([*forged, *real, *forged], fence())) == [*forged, *real]
    for messages in ([], forged, real[:2], [Begin(3, 0, 5), own("x"), Commit(4, 0, 3)]):
        with pytest.raises(SlotTrouble):
            list(up_to(messages, fence()))
    assert not is_fence(own()._replace(content=b"\xff"), fence())
    assert not is_fence(own()._replace(content=b"[]"), fence())
    assert not is_fence(own()._replace(transactional=False), fence())


@pytest.mark.parametrize("xid", [5, (1 << 32) + 5, (7 << 32) - 3, (1 << 31) + 9])
@pytest.mark.parametrize("distance", [0, 1, -2, (1 << 31) - 1, 1 - (1 << 31)])
def test_the_upper_bits_of_a_transaction_id(xid: int, distance: int) -> None:
    if xid + distance >= 0:
        assert fence(xid).widen((xid + distance) & 0xFFFF_FFFF) == xid + distance


def test_the_role_of_backups_may_place_one(journaled: Journaled) -> None:
    with closing(connect(DatabaseSettings(dsn=journaled.database.dsn), "test")) as backup:
        assert place_fence(backup, "").xid > 0


@pytest.mark.parametrize("version", [18, 15])
def test_ids_of_more_than_32_bits(version: int) -> None:
    """A server whose counter has gone round once: snapshots and fences have all bits, the stream the lower ones."""
    with own_server(version, wal_level="logical") as server:
        server.stop()
        server.tool("pg_resetwal", "-e", "1", "-D", str(server.data))
        server.start()
        database = server.database("postgres")
        database.run("CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION pub FOR TABLE t")
        with closing(connect(DatabaseSettings(dsn=server.dsn()), "test")) as connection:
            journaled = Journaled(database, connection, "s")
            journaled.begin()
            ((xid,),) = database.ask("INSERT INTO t VALUES (1) RETURNING pg_current_xact_id()::text::int8")
            placed = journaled.fence()
            found = [placed.widen(m.xid) for m in of_kind(journaled.read(placed), Begin)]
    assert xid > 1 << 32
    assert found == [xid, placed.xid]
    assert placed.xmin > xid
