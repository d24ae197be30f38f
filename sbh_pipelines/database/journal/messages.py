"""The messages of pgoutput, the server's own output plugin, version 1 of its protocol. No I/O.

After PostgreSQL's documentation, "Logical Replication Message Formats". A transaction comes whole, after its commit: Begin, its
changes in the order in which they were made, Commit. Before the first change of a table comes its Relation.

A field is the text that the type's output function gives, in the encoding of the session; None for NULL; UNSENT where the server
did not send the value, because an UPDATE left it as it was and it is stored apart from its row. What `streaming`, `two_phase` and
`binary` would add is refused: nobody asks for it.
"""

import struct
from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple

from sbh_pipelines.errors import JournalError


class Unsent(Enum):
    """A value that was not sent. No bytes, so that no value of a row can be taken for it."""

    UNSENT = "unsent"


UNSENT: Final = Unsent.UNSENT
Field = bytes | None | Unsent
Fields = tuple[Field, ...]


class Begin(NamedTuple):
    """A transaction begins.

    Attributes:
        final_lsn: Where its commit record begins: what the slot goes by, and what a position of the slot is compared with.
        time_us: When it was committed by the server's clock, microseconds since 1970 UTC.
        xid: The 32 bits of its id that the server sends. `fence.Fence.widen` gives all 64.
    """

    final_lsn: int
    time_us: int
    xid: int


class Commit(NamedTuple):
    """The transaction is complete.

    Attributes:
        end_lsn: Where its commit record ends: the order of transactions, and always a boundary between records.
        time_us: As in Begin.
        commit_lsn: Begin's final_lsn.
    """

    end_lsn: int
    time_us: int
    commit_lsn: int


class RelationColumn(NamedTuple):
    """A column as a Relation names it.

    Attributes:
        key: Whether it is part of the replica identity. With identity FULL all are.
        name: Its name.
        type: The oid of its type.
        modifier: The type's modifier.
    """

    key: bool
    name: str
    type: int
    modifier: int


class Relation(NamedTuple):
    """The shape of a table, for the changes after it.

    Attributes:
        relid: The oid: of the partition, where there are partitions.
        schema: Its schema's name; empty for `pg_catalog`.
        name: Its name.
        identity: The replica identity: d default, n nothing, f full, i an index.
        columns: Those that the fields of changes are of, in order. Generated columns are among them only where the publication
            says so.
    """

    relid: int
    schema: str
    name: str
    identity: str
    columns: tuple[RelationColumn, ...]

    @property
    def full_name(self) -> str:
        return f"{self.schema or 'pg_catalog'}.{self.name}"


class Insert(NamedTuple):
    """A row came.

    Attributes:
        relid: The oid of its table.
        new: Its fields.
    """

    relid: int
    new: Fields


class Update(NamedTuple):
    """A row was changed.

    Attributes:
        relid: The oid of its table.
        old_kind: What `old` is. K: the fields of the identity, sent where one of them changed or is stored apart; None in all
            others means nothing. O: the whole row before (identity FULL). None: not sent, so the identity is as in `new`.
        old: Fields before; empty where they were not sent. They are never UNSENT.
        new: Fields after.
    """

    relid: int
    old_kind: str | None
    old: Fields
    new: Fields


class Delete(NamedTuple):
    """A row went.

    Attributes:
        relid: The oid of its table.
        old_kind: K or O, as in Update.
        old: Its fields, or those of its identity.
    """

    relid: int
    old_kind: str
    old: Fields


class Truncate(NamedTuple):
    """All rows of tables went.

    Attributes:
        relids: The oids of the tables: of the partitions, where there are partitions.
    """

    relids: tuple[int, ...]


class LogicalMessage(NamedTuple):
    """What a session wrote into the log by `pg_logical_emit_message`.

    Attributes:
        transactional: Whether it is part of the transaction that it stands in.
        lsn: Where it is.
        prefix: Whose it is.
        content: Its bytes.
    """

    transactional: bool
    lsn: int
    prefix: str
    content: bytes


Message = Begin | Commit | Relation | Insert | Update | Delete | Truncate | LogicalMessage

_EPOCH_US = 946_684_800_000_000  # 2000-01-01, from which the server counts
_BEGIN = struct.Struct(">cqqI")
_COMMIT = struct.Struct(">cBqqq")
_RELID = struct.Struct(">cI")
_RELID_KIND = struct.Struct(">cIc")
_SHORT = struct.Struct(">h")
_LENGTH = struct.Struct(">i")
_COLUMN = struct.Struct(">Ii")
_TRUNCATE = struct.Struct(">ciB")
_MESSAGE = struct.Struct(">cBQ")
_NULL, _UNSENT, _TEXT = b"nut"
_new = tuple.__new__  # of a NamedTuple, without the call of its own: there is one for each change
_CHANGED, _KEY, _OLD = b"N", b"K", b"O"
_LSN = 0xFFFF_FFFF_FFFF_FFFF


def parse(data: bytes, decode: Callable[[bytes], str]) -> Message | None:
    """One message; None for what says nothing of rows (names of types, origins). `decode` is for names.

    Raises JournalError for what is not of this protocol.
    """
    try:
        read = _READERS[data[:1]]
        return None if read is None else read(data, decode)
    except (KeyError, IndexError, ValueError, struct.error) as error:
        raise JournalError(
            "The server's stream of changes is not understood",
            on=f"message {data[:1]!r} of {len(data)} bytes",
            why=type(error).__name__,
            remedy="report it with the server's version: another output plugin, or another protocol than was asked for",
        ) from None


def _fields(data: bytes, at: int) -> tuple[Fields, int]:
    """A row's fields, and where they end."""
    (count,) = _SHORT.unpack_from(data, at)
    at += 2
    found: list[Field] = []
    add, length = found.append, _LENGTH.unpack_from
    for _ in range(count):
        kind = data[at]
        if kind == _TEXT:
            start = at + 5
            at = start + length(data, at + 1)[0]
            add(data[start:at])
        elif kind == _NULL:
            add(None)
            at += 1
        elif kind == _UNSENT:
            add(UNSENT)
            at += 1
        else:
            raise ValueError(kind)
    return tuple(found), at


def _ended(data: bytes, at: int) -> None:
    if at != len(data):
        raise ValueError(at)


def _insert(data: bytes, _: Callable[[bytes], str]) -> Insert:
    _, relid, kind = _RELID_KIND.unpack_from(data)
    if kind != _CHANGED:
        raise ValueError(kind)
    new, at = _fields(data, 6)
    _ended(data, at)
    return _new(Insert, (relid, new))


def _update(data: bytes, _: Callable[[bytes], str]) -> Update:
    _, relid, kind = _RELID_KIND.unpack_from(data)
    old_kind, at = None, 6
    old: Fields = ()
    if kind != _CHANGED:
        if kind not in (_KEY, _OLD):
            raise ValueError(kind)
        old_kind = kind.decode("ascii")
        old, at = _fields(data, 6)
        if data[at : at + 1] != _CHANGED:
            raise ValueError(at)
        at += 1
    new, at = _fields(data, at)
    _ended(data, at)
    return _new(Update, (relid, old_kind, old, new))


def _delete(data: bytes, _: Callable[[bytes], str]) -> Delete:
    _, relid, kind = _RELID_KIND.unpack_from(data)
    if kind not in (_KEY, _OLD):
        raise ValueError(kind)
    old, at = _fields(data, 6)
    _ended(data, at)
    return _new(Delete, (relid, kind.decode("ascii"), old))


def _begin(data: bytes, _: Callable[[bytes], str]) -> Begin:
    _ended(data, _BEGIN.size)
    _, final, time, xid = _BEGIN.unpack(data)
    return Begin(final & _LSN, time + _EPOCH_US, xid)


def _commit(data: bytes, _: Callable[[bytes], str]) -> Commit:
    _ended(data, _COMMIT.size)
    _, _flags, commit, end, time = _COMMIT.unpack(data)
    return Commit(end & _LSN, time + _EPOCH_US, commit & _LSN)


def _relation(data: bytes, decode: Callable[[bytes], str]) -> Relation:
    _, relid = _RELID.unpack_from(data)
    schema, at = _name(data, 5, decode)
    name, at = _name(data, at, decode)
    identity = data[at : at + 1].decode("ascii")
    (count,) = _SHORT.unpack_from(data, at + 1)
    at += 3
    columns = []
    for _ in range(count):
        flags = data[at]
        column, at = _name(data, at + 1, decode)
        columns.append(RelationColumn(bool(flags & 1), column, *_COLUMN.unpack_from(data, at)))
        at += _COLUMN.size
    _ended(data, at)
    return Relation(relid, schema, name, identity, tuple(columns))


def _truncate(data: bytes, _: Callable[[bytes], str]) -> Truncate:
    _, count, _options = _TRUNCATE.unpack_from(data)
    return Truncate(struct.unpack(f">{count}I", data[_TRUNCATE.size :]))


def _message(data: bytes, decode: Callable[[bytes], str]) -> LogicalMessage:
    _, flags, lsn = _MESSAGE.unpack_from(data)
    prefix, at = _name(data, _MESSAGE.size, decode)
    (length,) = _LENGTH.unpack_from(data, at)
    _ended(data, at + 4 + length)
    return LogicalMessage(bool(flags & 1), lsn, prefix, data[at + 4 :])


def _name(data: bytes, at: int, decode: Callable[[bytes], str]) -> tuple[str, int]:
    end = data.index(b"\0", at)
    return decode(data[at:end]), end + 1


_READERS: dict[bytes, Callable[[bytes, Callable[[bytes], str]], Message] | None] = {
    b"I": _insert,
    b"U": _update,
    b"D": _delete,
    b"B": _begin,
    b"C": _commit,
    b"R": _relation,
    b"T": _truncate,
    b"M": _message,
    b"Y": None,
    b"O": None,
}
