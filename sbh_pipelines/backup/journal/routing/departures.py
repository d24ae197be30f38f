"""Rows that others follow and that went: whether something stayed behind that refers to them.

A foreign key sees to it that nothing does, but not for who works with `session_replication_role = replica`: imports, and servers
that replicate. What stays behind is nobody's from then on, without a change of its own.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from sbh_pipelines.backup.journal.routing.followers import Followers
from sbh_pipelines.backup.journal.routing.routes import Index, Key, Link, Plan

Orphans = Callable[[Index, Sequence[Key]], Collection[Key]]
"""Those keys of an index that are no row's after the window, and that rows refer to all the same."""

FindRows = Callable[[Index, Sequence[Key]], Mapping[Key, Link]]
"""The rows that have these keys in an index, as of after the window."""

_AT_ONCE = 2_000


class Departure(NamedTuple):
    """A row that went.

    Attributes:
        transaction: Number of its transaction.
        table: Number of the table.
        owners: Whose it was.
    """

    transaction: int
    table: int
    owners: frozenset[bytes]


class Departures:
    """Gathers them by index and key; a few thousand at a time. `left`: is told of those that left something behind."""

    def __init__(self, plan: Plan, orphans: Orphans, left: Callable[[Departure], None]) -> None:
        self._plan, self._orphans, self._left = plan, orphans, left
        self._gone: dict[int, dict[Key, Departure]] = {}

    def add(self, index: int, key: Key, departure: Departure) -> None:
        gone = self._gone.setdefault(index, {})
        known = gone.get(key)
        gone[key] = known._replace(owners=known.owners | departure.owners) if known else departure
        if len(gone) >= _AT_ONCE:
            self._look(index)

    def finish(self) -> None:
        for index in list(self._gone):
            self._look(index)

    def _look(self, index: int) -> None:
        gone = self._gone.pop(index)
        for key in self._orphans(self._plan.indexes[index], list(gone)):
            self._left(gone[key])


def find_orphans(index: Index, keys: Sequence[Key], find: FindRows, followers: Followers) -> set[Key]:
    """Where it cannot be found out in time, rows are believed to be there."""
    there = find(index, keys)
    left = [key for key in keys if key not in there]
    counted = followers.count(index, left)
    return {*left} if counted is None else {*counted}
