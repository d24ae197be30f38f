"""What the journal cannot say by rows: tables emptied, rows that changed hands, changes whose tenant is not known.

An event ends what can be told of its table at its position. One of all tenants is nobody's in particular.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

MOST_EVENTS = 5_000
MOST_TENANTS = 1_000  # of one event: more are all


class EventKind(StrEnum):
    """Why a table cannot be told from its changes alone.

    truncated   all its rows went, or those of a partition
    moved       rows changed hands because one that they follow did
    unrouted    whose a changed row is was not found out
    incomplete  a row came to a tenant, and not all of its values were sent
    identity    the server did not say which row was changed, or whose it was
    changed     the table had another definition than was read, or was another table
    """

    TRUNCATED = "truncated"
    MOVED = "moved"
    UNROUTED = "unrouted"
    INCOMPLETE = "incomplete"
    IDENTITY = "identity"
    CHANGED = "changed"


UNSAID = frozenset({EventKind.TRUNCATED, EventKind.IDENTITY, EventKind.CHANGED})
"""After which not all that happened to a table's rows is among its changes."""


@dataclass(frozen=True, slots=True)
class Happening:
    """An event, before its transaction's position is looked up.

    Attributes:
        transaction: Number of the transaction.
        kind: Of the event.
        table: Number of the table.
        tenants: Their keys; None for all.
        why: For people.
    """

    transaction: int
    kind: EventKind
    table: int
    tenants: frozenset[bytes] | None
    why: str


class Happenings:
    """Gathers events, one for each transaction, kind and table. Bounded: tables with too many are in `untold`."""

    def __init__(self, most: int = MOST_EVENTS) -> None:
        self._found: dict[tuple[int, EventKind, int], tuple[set[bytes] | None, str]] = {}
        self._most = most
        self.untold: set[int] = set()
        """Tables of which nothing is told in this window at all."""

    def add(self, transaction: int, kind: EventKind, table: int, tenants: Iterable[bytes] | None, why: str) -> None:
        if table in self.untold:
            return
        of = transaction, kind, table
        known = self._found.get(of)
        if known is None:
            if len(self._found) >= self._most:
                self.untold.add(table)
                self._found = {one: said for one, said in self._found.items() if one[2] != table}
                return
            self._found[of] = None if tenants is None else set(tenants), why
            return
        gathered, why = known
        if gathered is None or tenants is None:
            self._found[of] = None, why
            return
        gathered.update(tenants)
        if len(gathered) > MOST_TENANTS:
            self._found[of] = None, why

    def __iter__(self) -> Iterator[Happening]:
        for (transaction, kind, table), (tenants, why) in sorted(self._found.items(), key=lambda one: one[0]):
            yield Happening(transaction, kind, table, None if tenants is None else frozenset(tenants), why)
