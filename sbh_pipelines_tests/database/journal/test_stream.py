"""The stream of a real server: which messages come, and that values are what COPY gives."""

import struct
from contextlib import closing, suppress
from dataclasses import replace

import psycopg2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg2.extensions import make_dsn

from sbh_pipelines.database.journal.fence import up_to
from sbh_pipelines.database.journal.messages import (
    UNSENT,
    Begin,
    Commit,
    Delete,
    Fields,
    Insert,
    LogicalMessage,
    Relation,
    Truncate,
    Unsent,
    Update,
    parse,
)
from sbh_pipelines.database.journal.rows import copy_field, line
from sbh_pipelines.database.journal.slot import advance_slot, drop_slot
from sbh_pipelines.database.journal.stream import read_stream
from sbh_pipelines.database.schema.key_hash import unescape
from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.errors import JournalError, SlotTrouble, SourceConflict, SourceUnavailable
from sbh_pipelines.settings import DatabaseSettings
from sbh_pipelines_tests.database.journal.conftest import Journaled, ends, of_kind
from sbh_pipelines_tests.support.databases import copy_text
from sbh_pipelines_tests.support.values import DEFINITIONS, OWN, PLAIN

WIDE = "repeat('wide', 3000)"


def made_types(journaled: Journaled) -> dict[str, str]:
    """The types that this server knows, by a column's name."""
    found = {}
    for number, kind in enumerate([*PLAIN.values(), *OWN.values()]):
        sql = kind.sql.format(schema="public")
        with suppress(psycopg2.Error):
            journaled.database.run(f"CREATE TEMPORARY TABLE x (c {sql})")
            found[f"c{number}"] = sql
    return found


def test_every_type_is_as_copy_gives_it(journaled: Journaled) -> None:
    """All edge values of all types, inserted and then updated, on both versions."""
    journaled.run(*(definition.format(schema="public") for definition in DEFINITIONS))
    types = made_types(journaled)
    listed = [*PLAIN.values(), *OWN.values()]
    journaled.run(
        f"CREATE TABLE t (n serial PRIMARY KEY, {', '.join(f'{name} {sql}' for name, sql in types.items())})",
        "ALTER TABLE t REPLICA IDENTITY FULL",
    )
    journaled.publish("t")
    journaled.begin()
    with closing(journaled.database.connect()) as connection:
        cursor = connection.cursor()
        for name, sql in types.items():
            for value in listed[int(name[1:])].listed:
                with suppress(psycopg2.Error):  # infinite intervals are of PostgreSQL 17
                    cursor.execute(f"INSERT INTO t ({name}) VALUES (%s::text::{sql})", (value,))
        cursor.execute("INSERT INTO t DEFAULT VALUES")
    messages = journaled.take()
    with closing(connect(DatabaseSettings(dsn=journaled.connection.dsn), "test")) as session:
        copied = copy_text(session, "SELECT * FROM t ORDER BY n").split(b"\n")[:-1]
    inserted = of_kind(messages, Insert)
    assert len(inserted) > 200
    assert [line(m.new) for m in inserted] == copied
    journaled.run("UPDATE t SET n = n + 100000")
    messages = journaled.take()
    updated = of_kind(messages, Update)
    assert [line(m.old) for m in updated] == copied
    assert sorted(line(m.new).partition(b"\t")[2] for m in updated) == sorted(row.partition(b"\t")[2] for row in copied)
    (relation,) = of_kind(messages, Relation)
    assert (relation.full_name, relation.identity, [c.name for c in relation.columns]) == (
        "public.t",
        "f",
        ["n", *types],
    )


def test_bytes_of_a_database_without_an_encoding(ascii_only: Journaled) -> None:
    """Whatever they are; in names they are shown as everywhere."""
    ascii_only.run("CREATE TABLE t (id int PRIMARY KEY, body text)", 'ALTER TABLE t ADD COLUMN "ü" int')
    ascii_only.publish("t")
    ascii_only.begin()
    with closing(ascii_only.database.connect()) as connection:
        connection.cursor().execute(rb"""INSERT INTO t VALUES (1, E'\351\377\t')""")
    messages = ascii_only.take()
    (inserted,), (relation,) = of_kind(messages, Insert), of_kind(messages, Relation)
    assert line(inserted.new) == rb"1	" + b"\xe9\xff" + rb"\t	\N"
    assert relation.columns[2].name == "ü"


def test_text_of_a_latin1_database_is_not_converted(latin: Journaled) -> None:
    latin.run('CREATE TABLE "Grüße" (id int PRIMARY KEY, "è" text)')
    latin.publish('"Grüße"')
    latin.begin()
    latin.run("""INSERT INTO "Grüße" VALUES (1, 'é\tß\\')""")
    messages = latin.take()
    (relation,), (inserted,) = of_kind(messages, Relation), of_kind(messages, Insert)
    assert (relation.name, relation.columns[1].name) == ("Grüße", "è")
    assert line(inserted.new) == b"1\t\xe9\\t\xdf\\\\"


def test_a_value_that_is_stored_apart_and_did_not_change(journaled: Journaled) -> None:
    """With the default identity it is nowhere; with FULL it is in the old row."""
    journaled.run(
        "CREATE TABLE t (id int PRIMARY KEY, n int, body text)",
        "ALTER TABLE t ALTER body SET STORAGE EXTERNAL",
        f"INSERT INTO t VALUES (1, 0, {WIDE})",
    )
    journaled.publish("t")
    journaled.begin()
    journaled.run("UPDATE t SET n = 1")
    (update,) = of_kind(journaled.take(), Update)
    assert (update.old_kind, update.old, update.new) == (None, (), (b"1", b"1", UNSENT))
    assert line(update.new) == rb"1	1	\u"
    journaled.run("ALTER TABLE t REPLICA IDENTITY FULL", "UPDATE t SET n = 2")
    (update,) = of_kind(journaled.take(), Update)
    body = journaled.database.ask("SELECT body FROM t")[0][0].encode()
    assert (update.old_kind, update.old, update.new) == ("O", (b"1", b"1", body), (b"1", b"2", UNSENT))


def test_keys_that_change_and_rows_that_go(journaled: Journaled) -> None:
    """The key before comes where it changed; what is not of the key is None in it."""
    journaled.run(
        "CREATE TABLE t (a int, b int, n text NOT NULL, PRIMARY KEY (b, a)); INSERT INTO t VALUES (1, 2, 'x')"
    )
    journaled.publish("t")
    journaled.begin()
    journaled.run("UPDATE t SET n = 'y'", "UPDATE t SET a = 7", "DELETE FROM t")
    messages = journaled.take()
    (relation,) = of_kind(messages, Relation)
    assert [c.key for c in relation.columns] == [True, True, False]
    assert relation.identity == "d"
    assert of_kind(messages, Update) == [
        Update(relation.relid, None, (), (b"1", b"2", b"y")),
        Update(relation.relid, "K", (b"1", b"2", None), (b"7", b"2", b"y")),
    ]
    assert of_kind(messages, Delete) == [Delete(relation.relid, "K", (b"7", b"2", None))]


def test_truncate_of_a_partition_and_of_the_root(journaled: Journaled) -> None:
    """Both name the partitions."""
    journaled.run(
        "CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE p1 PARTITION OF t FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE p2 PARTITION OF t FOR VALUES FROM (10) TO (20)",
    )
    journaled.publish("t")
    journaled.begin()
    journaled.run("INSERT INTO t VALUES (1), (11)", "TRUNCATE p1", "TRUNCATE t")
    messages = journaled.take()
    oids = [
        oid
        for (oid,) in journaled.database.ask("SELECT 'p1'::regclass::oid::int8 UNION ALL SELECT 'p2'::regclass::oid")
    ]
    assert [m.relid for m in of_kind(messages, Insert)] == oids
    assert [set(m.relids) - {*oids} for m in of_kind(messages, Truncate)] == [set(), set()]
    assert [set(m.relids) & {*oids} for m in of_kind(messages, Truncate)] == [{oids[0]}, {*oids}]


def test_sub_transactions_and_prepared_ones(journaled: Journaled) -> None:
    """What was rolled back is not there; the rest comes under the top transaction, a prepared one when it is committed."""
    journaled.run("CREATE TABLE t (id int PRIMARY KEY)")
    journaled.publish("t")
    journaled.begin()
    with closing(journaled.database.connect()) as one:
        cursor = one.cursor()
        cursor.execute("BEGIN; INSERT INTO t VALUES (1); SELECT pg_current_xact_id()::text::int8")
        top = cursor.fetchone()[0]
        cursor.execute(
            "SAVEPOINT a; INSERT INTO t VALUES (2); ROLLBACK TO a;"
            "SAVEPOINT b; INSERT INTO t VALUES (3); SAVEPOINT c; INSERT INTO t VALUES (4); COMMIT"
        )
        cursor.execute("BEGIN; INSERT INTO t VALUES (5); SELECT pg_current_xact_id()::text::int8")
        prepared = cursor.fetchone()[0]
        cursor.execute("PREPARE TRANSACTION 'two'")
        cursor.execute("BEGIN; INSERT INTO t VALUES (6); ROLLBACK")
    fence = journaled.fence()
    messages = journaled.read(fence)
    assert [m.new for m in of_kind(messages, Insert)] == [(b"1",), (b"3",), (b"4",)]
    assert {fence.widen(m.xid) for m in of_kind(messages, Begin)} == {top, fence.xid}
    advance_slot(journaled.connection, journaled.slot, ends(messages)[-1])
    journaled.run("COMMIT PREPARED 'two'")
    fence = journaled.fence()
    messages = journaled.read(fence)
    assert [m.new for m in of_kind(messages, Insert)] == [(b"5",)]
    assert [fence.widen(m.xid) for m in of_kind(messages, Begin)] == [prepared, fence.xid]


def test_messages_come_also_those_of_others(journaled: Journaled) -> None:
    journaled.publish_nothing()
    journaled.begin()
    journaled.run("SELECT pg_logical_emit_message(true, 'sbh', '{}')", "SELECT pg_logical_emit_message(true, 'x', 'ü')")
    found = of_kind(journaled.take(), LogicalMessage)
    assert [(m.prefix, m.content) for m in found[:2]] == [("sbh", b"{}"), ("x", "ü".encode())]
    assert len(found) == 3


def test_what_began_before_the_position_belongs_to_it(journaled: Journaled) -> None:
    """A slot advanced to a Commit's end gives neither that transaction again nor loses the next; looking changes nothing."""
    journaled.run("CREATE TABLE t (id int PRIMARY KEY)")
    journaled.publish("t")
    journaled.begin()
    journaled.run(*(f"INSERT INTO t VALUES ({n})" for n in range(5)))
    messages = journaled.read()
    assert journaled.read(journaled.fence())[: len(messages)] == messages
    for nth, end in enumerate(ends(messages)[:5], start=1):
        advance_slot(journaled.connection, journaled.slot, end)
        rest = [m.new for m in of_kind(journaled.read(), Insert)]
        assert rest == [(str(n).encode(),) for n in range(nth, 5)]
        upto = list(read_stream(journaled.connection, journaled.slot, journaled.publication, end))
        assert upto == []


def test_a_position_within_a_commit_record_would_lose_it(journaled: Journaled) -> None:
    """Why a slot is advanced to ends of Commits only."""
    journaled.run("CREATE TABLE t (id int PRIMARY KEY)")
    journaled.publish("t")
    journaled.begin()
    journaled.run("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)")
    messages = journaled.read()
    begin = of_kind(messages, Begin)[0]
    assert begin.final_lsn < begin.final_lsn + 8 < ends(messages)[0]
    within = list(read_stream(journaled.connection, journaled.slot, journaled.publication, begin.final_lsn + 8))
    assert within == messages[: within.index(Commit(ends(messages)[0], begin.time_us, begin.final_lsn)) + 1]
    advance_slot(journaled.connection, journaled.slot, begin.final_lsn + 8)
    assert [m.new for m in of_kind(journaled.read(), Insert)] == [(b"2",)]


def test_a_role_with_replication_and_nothing_else(journaled: Journaled) -> None:
    """It may read no table: the stream has all values."""
    journaled.run("CREATE TABLE t (id int PRIMARY KEY)", "CREATE ROLE reader LOGIN REPLICATION NOINHERIT")
    journaled.publish("t")
    try:
        dsn = make_dsn(journaled.database.stack.dsn("reader"), dbname=journaled.database.name)
        with closing(connect(DatabaseSettings(dsn=dsn), "test")) as reader:
            mine = replace(journaled, connection=reader)
            mine.begin()
            journaled.run("INSERT INTO t VALUES (1)")
            assert [m.new for m in of_kind(mine.take(), Insert)] == [(b"1",)]
            assert drop_slot(reader, mine.slot)
    finally:
        journaled.run("DROP ROLE reader")


def test_a_reader_that_stops_leaves_a_session_that_works(journaled: Journaled) -> None:
    journaled.run("CREATE TABLE t (id int PRIMARY KEY, body text)")
    journaled.publish("t")
    journaled.begin()
    journaled.run("INSERT INTO t SELECT n, repeat('x', 500) FROM generate_series(1, 20000) n")
    stream = read_stream(journaled.connection, journaled.slot, journaled.publication, journaled.fence().after)
    assert isinstance(next(stream), Begin)
    stream.close()
    assert len(of_kind(journaled.read(), Insert)) == 20000


def test_a_session_that_is_ended_while_it_is_read(journaled: Journaled) -> None:
    """What the server says of it comes up, not that the stream broke off; and the slot is as it was."""
    journaled.run("CREATE TABLE t (id int PRIMARY KEY, body text)")
    journaled.publish("t")
    journaled.begin()
    journaled.run("INSERT INTO t SELECT n, repeat('x', 500) FROM generate_series(1, 40000) n")
    fence = journaled.fence()
    with closing(connect(DatabaseSettings(dsn=journaled.connection.dsn), "test")) as other:
        stream = up_to(read_stream(other, journaled.slot, journaled.publication, fence.after), fence)
        next(stream)
        journaled.run(f"SELECT pg_terminate_backend({other.get_backend_pid()})")
        with pytest.raises(SourceUnavailable):
            list(stream)
    with closing(connect(DatabaseSettings(dsn=journaled.connection.dsn), "test")) as other:
        other.cursor().execute("SET statement_timeout = 20")
        stream = read_stream(other, journaled.slot, journaled.publication, fence.after)
        with pytest.raises(SourceConflict, match="statement_timeout"):
            list(stream)
    assert len(of_kind(journaled.read(fence), Insert)) == 40000


def test_a_large_value_and_many_rows(journaled: Journaled) -> None:
    """30 MB in one field, and rows of all lengths around it."""
    journaled.run("CREATE TABLE t (id int PRIMARY KEY, body text)")
    journaled.publish("t")
    journaled.begin()
    journaled.run(
        "INSERT INTO t SELECT n, repeat('x', n) FROM generate_series(1, 3000) n",
        "INSERT INTO t VALUES (0, repeat('é', 15000000))",
    )
    lengths = [len(m.new[1]) for m in of_kind(journaled.take(), Insert)]
    assert lengths == [*range(1, 3001), 30000000]


def test_a_slot_that_is_not_there_or_in_use(journaled: Journaled) -> None:
    journaled.publish_nothing()
    with pytest.raises(SlotTrouble, match="does not exist"):
        journaled.read()
    journaled.begin()
    journaled.run("SELECT pg_logical_emit_message(true, 'x', repeat('y', 1000)) FROM generate_series(1, 20000)")
    fence = journaled.fence()
    with closing(read_stream(journaled.connection, journaled.slot, journaled.publication, fence.after)) as stream:
        next(stream)
        with (
            closing(connect(DatabaseSettings(dsn=journaled.connection.dsn), "test")) as other,
            suppress(SourceConflict),  # the server has put all of it into its file, or not yet
        ):
            list(read_stream(other, journaled.slot, journaled.publication, fence.after))
    assert len(journaled.read(fence)) == 20005


@pytest.mark.parametrize(
    "data", [b"", b"X", b"I", b"B\0\0", b"I\0\0\0\1N\0\2t\0\0\0\1a", b"I\0\0\0\1N\0\1tx", b"I\0\0\0\1N\0\1b\0\0\0\1a"]
)
def test_what_is_not_of_the_protocol_is_refused(data: bytes) -> None:
    with pytest.raises(JournalError, match="not understood"):
        parse(data, bytes.decode)


def packed(fields: Fields) -> bytes:
    """Fields as the protocol has them, after PostgreSQL's documentation, "TupleData"."""
    text = struct.pack(">h", len(fields))
    for one in fields:
        text += b"n" if one is None else b"u" if isinstance(one, Unsent) else b"t" + struct.pack(">i", len(one)) + one
    return text


_fields = st.lists(st.one_of(st.none(), st.just(UNSENT), st.binary(max_size=20)), max_size=8).map(tuple)
_oids = st.integers(0, 2**32 - 1)


@settings(max_examples=100, deadline=None)
@given(_oids, st.sampled_from(["K", "O", None]), _fields, _fields)
def test_changes_are_taken_apart_as_they_were_put_together(
    relid: int, kind: str | None, old: Fields, new: Fields
) -> None:
    head, before = struct.pack(">I", relid), b"" if kind is None else kind.encode() + packed(old)
    old = () if kind is None else old
    assert parse(b"I" + head + b"N" + packed(new), bytes.decode) == Insert(relid, new)
    update = b"U" + head + before + b"N" + packed(new)
    assert parse(update, bytes.decode) == Update(relid, kind, old, new)
    if kind is not None:
        assert parse(b"D" + head + before, bytes.decode) == Delete(relid, kind, old)
    with pytest.raises(JournalError):
        parse(update + b"x", bytes.decode)
    with pytest.raises(JournalError):
        parse(update[:-1], bytes.decode)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_give_another_error_than_ours(data: bytes) -> None:
    with suppress(JournalError):
        parse(b"IUDBCRTM"[len(data) % 8 : len(data) % 8 + 1] + data, lambda name: name.decode("latin-1"))


@settings(max_examples=200, deadline=None)
@given(st.binary().map(lambda b: b.replace(b"\0", b"")))
def test_a_field_comes_back_from_its_line(value: bytes) -> None:
    written = copy_field(value)
    assert not set(written) & set(b"\t\n\r")
    assert unescape(written) == value
    assert (written == rb"\N", written == rb"\u") == (False, False)


def test_large_messages_of_others_stay_with_the_server(journaled: Journaled) -> None:
    """Any role may write them; a fence and a row of any size come all the same."""
    journaled.run("CREATE TABLE t (id int PRIMARY KEY, body text)")
    journaled.publish("t")
    journaled.begin()
    for transactional in ("false", "true"):
        journaled.run(f"SELECT pg_logical_emit_message({transactional}, 'x', repeat('z', 100000))")
    journaled.run("INSERT INTO t VALUES (1, repeat('z', 100000))")
    messages = journaled.take()
    (inserted,) = of_kind(messages, Insert)
    assert len(inserted.new[1]) == 100000
    contents = [message.content for message in of_kind(messages, LogicalMessage)]
    assert contents
    assert max(map(len, contents)) < 4096
