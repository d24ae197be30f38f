"""Changes between the passes, as tuples: one is made for each change of a window, so nothing is made twice.

A change whose tenant stands in it, and by which no other row changes hands, is `Routed` as soon as it is decoded. All others wait
as a `Record`. What flows are plain tuples of their fields, of 6 and of 12; the classes say what the fields are.
"""

from typing import Final, NamedTuple

from sbh_pipelines.backup.journal.routing.routes import Key, Link
from sbh_pipelines.repository.journal.segments.changes import Change, Op

INSERT, UPDATE, DELETE = b"I", b"U", b"D"


class Record(NamedTuple):
    """A row changed, as it waits to be routed.

    Attributes:
        transaction: Number of its transaction.
        table: Number of the table.
        layout: Number of the layout of its fields.
        op: I, U or D.
        key: COPY text of the primary key before; empty where `row` has it.
        row: COPY text after; empty for a DELETE.
        old_key: COPY text of the primary key before, for an UPDATE that changed whose the row is; else as `key`.
        before: Its link before; None for an INSERT.
        after: Its link after; None for a DELETE.
        found_before: For each index over the table the key that found it before; None where none did.
        found_after: The same after.
        whole: Whether all values after are known.
    """

    transaction: int
    table: int
    layout: int
    op: bytes
    key: bytes
    row: bytes
    old_key: bytes
    before: Link | None
    after: Link | None
    found_before: tuple[Key | None, ...] = ()
    found_after: tuple[Key | None, ...] = ()
    whole: bool = True


class Routed(NamedTuple):
    """A change of one tenant.

    Attributes:
        transaction: Number of its transaction.
        tenant: The tenant's key, as the row has it.
        layout: Number of the layout of its fields.
        op: I, U or D.
        key: As a Change has it.
        row: As a Change has it.
    """

    transaction: int
    tenant: bytes
    layout: int
    op: bytes
    key: bytes
    row: bytes

    @property
    def change(self) -> Change:
        """What is stored of it."""
        return Change(self.layout, Op(self.op.decode()), self.key, self.row)


RecordFields = tuple[
    int,
    int,
    int,
    bytes,
    bytes,
    bytes,
    bytes,
    Link | None,
    Link | None,
    tuple[Key | None, ...],
    tuple[Key | None, ...],
    bool,
]
RoutedFields = tuple[int, bytes, int, bytes, bytes, bytes]
Waiting = RecordFields | RoutedFields
"""A change as it is in the spool."""

ROW: Final = 5
"""Where the row is in either of them."""
ROUTED: Final = 6
"""Fields of what is routed already."""
