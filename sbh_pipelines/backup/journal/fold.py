"""What many transactions did to each row, in one result per key: for backups that need not look at the tables.

Changes are merged column by column, in the order of the commits. A value that an UPDATE left as it was is the one before; where
nothing in the window says what that was, it stays open, and the result names the key whose row had it before the window: an
incremental reads the row from the database at its snapshot, a recovery takes the value from the backup it builds on.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from sbh_pipelines.backup.journal.key_states import KeyState, KeyStates
from sbh_pipelines.errors import JournalGap
from sbh_pipelines.repository.journal.segments.changes import UNCHANGED, Change, Layout, Op, Transaction

Told = tuple[Sequence[Layout], Transaction]
"""A transaction, with the layouts that its changes count in: those of its segment."""


@dataclass(frozen=True, slots=True)
class KeyResult:
    """What became of the row of one key.

    Attributes:
        key: The primary key, as COPY text fields joined by tabs.
        existed: Whether there was a row of this key before the first of the transactions.
        exists: Whether there is one after the last.
        row: All columns of it, a line of COPY text without the newline; fields may be UNCHANGED. Empty where there is none.
        origin: Whose row, as it was before the first transaction, has the UNCHANGED fields' values: the key that the row had then.
    """

    key: bytes
    existed: bool
    exists: bool
    row: bytes
    origin: bytes

    @property
    def is_open(self) -> bool:
        """Whether values are still unknown."""
        return UNCHANGED in self.row and UNCHANGED in self.row.split(b"\t")


class Merge:
    """Changes by group (a table, or a table of one tenant) and key. In memory up to a bound, then in a temporary file; `close` it.

    For several threads at once, each with groups of its own.
    """

    def __init__(self, most_bytes: int | None = None) -> None:
        self._states = KeyStates(most_bytes) if most_bytes is not None else KeyStates()
        self._layouts: dict[Hashable, Layout] = {}
        self._casts: dict[Hashable, int] = {}  # how often the group's rows were written anew

    def close(self) -> None:
        self._states.close()

    def layout(self, group: Hashable) -> Layout | None:
        """How the results' rows are written; None where nothing happened."""
        return self._layouts.get(group)

    def add(self, group: Hashable, layout: Layout, change: Change) -> None:
        """Raises JournalGap where the change cannot follow on those before, or has other columns."""
        known = self._layouts.setdefault(group, layout)
        if known is not layout and (known.columns, known.key, known.encoding) != (
            layout.columns,
            layout.key,
            layout.encoding,
        ):
            raise JournalGap("A table's columns changed among its changes", on=layout.table)
        if change.op is Op.DELETE:
            self._leave(group, layout, change.key)
            return
        fields = change.row.split(b"\t")
        if len(fields) != len(layout.columns):
            raise JournalGap("A change has another number of columns than its table", on=layout.table)
        at = layout.key_fields
        key = fields[at[0]] if len(at) == 1 else b"\t".join([fields[n] for n in at])
        if change.op is Op.INSERT:
            self._arrive(group, layout, key, change.row, key)
        elif change.key and change.key != key:
            before = self._leave(group, layout, change.key)
            self._arrive(group, layout, key, filled(change.row, before.row), before.origin)
        else:
            self._update(group, layout, key, change.row)

    def recast(self, group: Hashable, layout: Layout, convert: Callable[[bytes], bytes]) -> None:
        """Write the rows of a group anew, as they are in another layout of the same key."""
        older = self._place(group)
        self._casts[group] = self._casts.get(group, 0) + 1
        newer = self._place(group)
        for key, state in self._states.items(older):
            self._states.put(newer, key, replace(state, row=convert(state.row)) if state.row else state)
        self._layouts[group] = layout

    def _place(self, group: Hashable) -> Hashable:
        return group, self._casts.get(group, 0)

    def results(self, group: Hashable) -> Iterator[KeyResult]:
        """All keys of a group to which something happened that shows, in no particular order; from one thread at a time."""
        for key, state in self._states.items(self._place(group)):
            if state.existed or state.exists:
                yield KeyResult(key, state.existed, state.exists, state.row if state.exists else b"", state.origin)

    def _leave(self, group: Hashable, layout: Layout, key: bytes) -> KeyState:
        """The row of this key goes: deleted, or to another key. What it was."""
        before = self._states.get(self._place(group), key) or KeyState(existed=True, exists=True, row=b"", origin=key)
        if not before.exists:
            raise _contradiction(layout, "a row is deleted that was not there")
        self._states.put(self._place(group), key, KeyState(before.existed, exists=False, row=b"", origin=key))
        return before

    def _arrive(self, group: Hashable, layout: Layout, key: bytes, row: bytes, origin: bytes) -> None:
        before = self._states.get(self._place(group), key)
        if before is not None and before.exists:
            raise _contradiction(layout, "a row comes to a key that has one")
        self._states.put(
            self._place(group),
            key,
            KeyState(before is not None and before.existed, exists=True, row=row, origin=origin),
        )

    def _update(self, group: Hashable, layout: Layout, key: bytes, row: bytes) -> None:
        before = self._states.get(self._place(group), key)
        if before is None:
            self._states.put(self._place(group), key, KeyState(existed=True, exists=True, row=row, origin=key))
            return
        if not before.exists:
            raise _contradiction(layout, "a row changes that was deleted")
        merged = filled(row, before.row)
        self._states.put(
            self._place(group), key, KeyState(before.existed, exists=True, row=merged, origin=before.origin)
        )


def merge_changes(told: Iterable[Told], merge: Merge, tables: Iterable[str] | None = None) -> Merge:
    """Take what transactions did to tables (full names; None: to all) into the merge, by table. Returns it.

    The transactions come in the order of their commits, each once, all pieces of one together. Raises JournalGap.
    """
    wanted = None if tables is None else frozenset(tables)
    for layouts, transaction in told:
        for change in transaction.changes:
            layout = layouts[change.layout]
            if wanted is None or layout.table in wanted:
                merge.add(layout.table, layout, change)
    return merge


def filled(row: bytes, before: bytes) -> bytes:
    """A row with its UNCHANGED fields taken from what it was before, which may have such fields too, or be empty: unknown."""
    if not before or UNCHANGED not in row:
        return row
    older = before.split(b"\t")
    return b"\t".join([older[nth] if field == UNCHANGED else field for nth, field in enumerate(row.split(b"\t"))])


def converted(conversion: Sequence[int | bytes | None], row: bytes) -> bytes:
    """A row as one of another definition: of each field where it is in the row, or COPY text of what it is; None for NULL."""
    fields = row.split(b"\t")
    return b"\t".join(
        [fields[one] if isinstance(one, int) else one if one is not None else rb"\N" for one in conversion]
    )


def _contradiction(layout: Layout, why: str) -> JournalGap:
    return JournalGap("The journal contradicts itself", on=layout.table, why=why)
