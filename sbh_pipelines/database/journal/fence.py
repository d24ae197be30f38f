"""Fences: transactions of our own in the server's log. What was decided before one is before it in the stream.

Three proofs rest on a fence F with transaction id `xid`. Every transaction with a greater id was given it after `before` was read,
so all that it wrote is behind `before`. Every transaction that a snapshot sees which was taken before F began was committed before
F was, so it is in the stream up to F; of a snapshot that was taken while F ran that is not so. And F itself in the stream says that
the reader came this far, and missed nothing on the way.
"""

import json
import secrets
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

from sbh_pipelines.database.journal.lsn import as_number, lsn_text
from sbh_pipelines.database.journal.messages import Begin, Commit, Delete, Insert, LogicalMessage, Message, Update
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.errors import SlotTrouble

PREFIX = "sbh"
"""Of our messages, among those of others in the log."""


@dataclass(frozen=True, slots=True)
class Fence:
    """A transaction of ours.

    Attributes:
        xid: Its 64-bit transaction id.
        before: A flushed position from before it had an id.
        after: A flushed position from after its commit; it may be in the middle of a record. How far to look.
        time: The server's clock in it, microseconds since 1970 UTC.
        snapshot: What it saw: `xmin:xmax:xip,...`, 64-bit ids.
        mark: By which it is known in the stream.
    """

    xid: int
    before: int
    after: int
    time: int
    snapshot: str
    mark: str

    @property
    def xmin(self) -> int:
        """Every transaction with a lesser id had ended when the fence was placed."""
        return int(self.snapshot.partition(":")[0])

    def widen(self, xid: int) -> int:
        """All 64 bits of a transaction id of which the stream sends 32; of a transaction near the fence."""
        distance = (xid - self.xid) & 0xFFFF_FFFF
        return self.xid + distance - (distance >> 31 << 32)


_FENCE = f"""
SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8, pg_catalog.pg_current_snapshot()::pg_catalog.text,
       (EXTRACT(epoch FROM pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8,
       pg_catalog.pg_logical_emit_message(true, '{PREFIX}', %s::pg_catalog.text)"""
_FLUSHED = f"SELECT {as_number('pg_catalog.pg_current_wal_flush_lsn()')}"


def place_fence(connection: Connection, note: str) -> Fence:
    """A fence, committed and on the server's disk. The connection is in autocommit; `note` is for people who read the log."""
    mark = secrets.token_hex(16)
    with translated("place a fence"):
        cursor = connection.cursor()
        before = _flushed(cursor)
        # Its own flush is enough: a standby that is away must not hold it up. It makes asynchronous commits before it durable.
        cursor.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit = local")
        try:
            cursor.execute(_FENCE, (json.dumps({"mark": mark, "note": note}),))
            xid, snapshot, time, _ = cursor.fetchone()
            cursor.execute("COMMIT")
        except BaseException:
            if not connection.closed:
                cursor.execute("ROLLBACK")
            raise
        return Fence(int(xid), before, _flushed(cursor), int(time), str(snapshot), mark)


def _flushed(cursor: object) -> int:
    cursor.execute(_FLUSHED)  # type: ignore[attr-defined]
    return int(cursor.fetchone()[0])  # type: ignore[attr-defined]


def up_to(messages: Iterable[Message], fence: Fence) -> Iterator[Message]:
    """The messages up to the fence's own Commit, whose `end_lsn` is where the stretch ends: there a slot may be advanced to.

    The fence's own message is among them. Raises SlotTrouble when the stream ends before the fence came by.
    """
    own = seen = False
    try:
        for message in messages:
            yield message
            kind = type(message)
            if kind is Insert or kind is Update or kind is Delete:
                continue
            if isinstance(message, Begin):
                own = message.xid == fence.xid & 0xFFFF_FFFF
            elif isinstance(message, LogicalMessage):
                seen = seen or (own and is_fence(message, fence))
            elif isinstance(message, Commit) and own and seen:
                return
    finally:
        if isinstance(messages, Generator):
            messages.close()
    raise SlotTrouble(
        "The stream of changes ended before a transaction that it has to hold",
        on=f"transaction {fence.xid}, looked for up to {lsn_text(fence.after)}",
        why="the slot is of another database or server, or gives less than was committed",
        remedy="try again; if it stays so, `sbh journal drop`, and a new slot begins",
    )


def is_fence(message: LogicalMessage, fence: Fence) -> bool:
    """Whether it is that fence's message, whoever else writes messages of the same prefix."""
    if message.prefix != PREFIX or not message.transactional:
        return False
    try:
        said = json.loads(message.content)
    except ValueError:
        return False
    return isinstance(said, dict) and said.get("mark") == fence.mark
