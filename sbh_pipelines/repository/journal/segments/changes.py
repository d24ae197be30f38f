"""What a journal says: positions, layouts of tables, changes, transactions. Values without I/O.

Rows are lines of COPY text without the newline (PostgreSQL documentation, COPY, "Text Format"), as `database/capture` stores
them, with one field more than COPY knows: `\\u`, a value that an UPDATE left as it was and that the server did not send.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

UNCHANGED = rb"\u"
"""In place of a field: the value is what it was before this change. COPY itself never writes it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def lsn_text(lsn: int) -> str:
    """A position in the server's log as PostgreSQL writes it: 16/B374D848."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> int:
    """Raises ValueError."""
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def commit_time(microseconds: int) -> datetime:
    """A transaction's `time` as a moment, UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)


def moment_text(microseconds: int) -> str:
    """A transaction's `time` for people: ISO 8601, UTC, to the microsecond."""
    return commit_time(microseconds).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def microseconds_of(moment: datetime) -> int:
    """A moment as transactions have their `time`."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


class Op(StrEnum):
    """What was done to a row."""

    INSERT = "I"
    UPDATE = "U"
    DELETE = "D"


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of a table are written in a segment.

    Attributes:
        table: Its full name, `schema.table`; of a partition that of its root.
        columns: Names of the captured columns, in the order of a row's fields. Generated columns are not among them.
        key: Names of the primary key's columns, in the key's order.
        definition: The table's fingerprint (`database/schema/definition.py`) when its changes were read.
        encoding: Of the rows' text, as PostgreSQL names it.
    """

    table: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    definition: str
    encoding: str

    @property
    def key_fields(self) -> tuple[int, ...]:
        """Where the key's columns are among the fields of a row."""
        return tuple(self.columns.index(name) for name in self.key)


@dataclass(frozen=True, slots=True)
class Change:
    """One row changed.

    Attributes:
        layout: Number of the table's layout in the segment's directory.
        op: What was done.
        key: The row's primary key before the change, as COPY text fields joined by tabs. For an INSERT, and for an UPDATE that
            left the key as it was, it is empty: `row` has the key.
        row: All captured columns after the change, a line of COPY text without the newline; fields may be UNCHANGED, those of
            the key never. Empty for a DELETE.
    """

    layout: int
    op: Op
    key: bytes
    row: bytes


@dataclass(frozen=True, slots=True)
class Transaction:
    """A committed transaction's changes of one tenant, or a piece of them where they are many.

    Attributes:
        commit: Position of the end of its commit record: the order of transactions.
        time: Its commit time by the server's clock, microseconds since 1970 UTC.
        xid: Its 64-bit transaction id (of the top transaction; what sub-transactions did is in it).
        changes: In the order in which they were made.
        last: False for all pieces but the last one.
    """

    commit: int
    time: int
    xid: int
    changes: Sequence[Change]
    last: bool = True
