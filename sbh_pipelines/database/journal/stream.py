r"""The changes of a slot up to a position, read by SQL: looked at and not taken, so that whoever reads may die.

One look is one COPY. The server decodes everything from the slot's restart position on and puts what belongs to the publication
into a temporary file before the first row comes; here, one message at a time is in memory. Each look begins anew, so cost follows
the log between the slot's restart position and `upto`, and cutting one stretch into several looks without advancing the slot
between them reads the beginning again and again. A reader with a long way to go may take it in stretches instead: look up to
`STRETCH_BYTES` further, store, advance the slot to the end of the last Commit, look again; without a Commit in it, twice as far.

Where a stretch ends matters. The slot forgets a transaction as soon as its commit record *begins* before the position it was
advanced to. So a slot is advanced only to boundaries between records: the `end_lsn` of a Commit, best of one's own fence
(`fence.up_to`). A flush position is none: the server flushes whole pages, and a record may go on.

Whoever may connect may write a message of their own into the log, of any size; those that are larger than a fence's stay with the
server, so that the most that one message takes here is a row of a table.

Values are in the database's encoding, as those of COPY in `capture`.
"""

import os
import struct
import threading
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from typing import BinaryIO

import psycopg2

from sbh_pipelines.database.journal.lsn import as_lsn
from sbh_pipelines.database.journal.messages import Begin, Message, parse
from sbh_pipelines.database.journal.slot import slot_errors
from sbh_pipelines.database.session.connection import LENIENT, Connection, database_encoding
from sbh_pipelines.database.session.copying import copy
from sbh_pipelines.database.session.encodings import to_utf8
from sbh_pipelines.database.session.sql import ident, literal
from sbh_pipelines.errors import JournalError

STRETCH_BYTES = 512 << 20
"""How much of the log one look may be over: the server's temporary file is about as large."""

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_MESSAGE = ord("M")  # of logical messages, the first byte
_MESSAGE_BYTES = 4096  # more than a fence's has
_ROW = struct.Struct(">hi")
_TRAILER = b"\xff\xff"
_BUFFER = 1 << 18


def read_stream(connection: Connection, slot: str, publication: str, upto: int) -> Generator[Message]:
    """The messages of all transactions whose commit record begins before `upto`, in commit order.

    The connection is one of `connect`, in autocommit, and busy until the iterator ends or is closed. Raises SlotTrouble where the
    slot cannot be read, JournalError for a stream that is not understood, and the source's errors.
    """
    encoding = database_encoding(connection)

    def decode(name: bytes) -> str:
        return to_utf8(name, encoding).decode(LENIENT)

    for data in _looked_at(connection, slot, publication, upto, encoding):
        message = parse(data, decode)
        if message is None:
            continue
        if type(message) is Begin and message.final_lsn >= upto:
            return
        yield message


def _looked_at(connection: Connection, slot: str, publication: str, upto: int, encoding: str) -> Iterator[bytes]:
    """The messages as the server gives them, one by one."""
    look = (
        "SELECT data FROM pg_catalog.pg_logical_slot_peek_binary_changes("
        f"{literal(slot)}, {as_lsn(upto)}, NULL, 'proto_version', '1', 'messages', 'true',"
        f" 'publication_names', {literal(ident(publication))})"
        f" WHERE pg_catalog.get_byte(data, 0) OPERATOR(pg_catalog.<>) {_MESSAGE}"
        f" OR pg_catalog.length(data) OPERATOR(pg_catalog.<) {_MESSAGE_BYTES}"
    )
    with slot_errors("look at the changes", slot):
        cursor = connection.cursor()
        # The plugin converts what it sends to the session's encoding. No conversion: what COPY of the same row is.
        cursor.execute(f"BEGIN; SET LOCAL client_encoding = {literal(encoding)}")
    copied = _Copied(connection, f"COPY ({look}) TO STDOUT (FORMAT binary)", slot)
    ended = "ROLLBACK"
    try:
        with closing(copied):
            try:
                yield from _rows(copied.source)
            except JournalError:
                copied.wait()  # what the server says of it comes first
                raise
            copied.wait()
        ended = "COMMIT"
    finally:
        with suppress(psycopg2.Error):
            cursor.execute(ended)


def _rows(source: BinaryIO) -> Iterator[bytes]:
    """The one field of each row of a COPY in binary (PostgreSQL documentation, COPY, "Binary Format")."""
    if source.read(len(_HEADER)) != _HEADER:
        raise JournalError("The server's answer is not a COPY in binary")
    unpack, size, read = _ROW.unpack, _ROW.size, source.read
    while len(head := read(size)) == size:
        _, length = unpack(head)
        data = read(length)
        if len(data) != length:
            break
        yield data
    if head != _TRAILER:
        raise JournalError("The server's stream of changes broke off", remedy="try again")


class _Copied:
    """A COPY under way in a thread of its own, read through a pipe: the server waits for whoever reads."""

    def __init__(self, connection: Connection, statement: str, slot: str) -> None:
        receiver, sender = os.pipe()
        self.source: BinaryIO = open(receiver, "rb", _BUFFER)
        self._sink = open(sender, "wb", _BUFFER)
        self._connection, self._slot = connection, slot
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(statement,), name="stream", daemon=True)
        self._thread.start()

    def _run(self, statement: str) -> None:
        try:
            with self._sink as sink:
                copy(self._connection.cursor(), statement, sink)
        except BaseException as error:
            self._error = error

    def wait(self) -> None:
        """Until the COPY is over. Raises what it raised."""
        self._thread.join()
        if self._error is not None:
            with slot_errors("look at the changes", self._slot):
                raise self._error

    def close(self) -> None:
        """End it, where it still runs: else all that is left of the answer would have to be read."""
        self.source.close()
        if self._thread.is_alive():
            self._connection.end_statement()
        self._thread.join()
