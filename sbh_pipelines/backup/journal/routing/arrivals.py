"""Rows that others follow and that came: whether something waited for them.

What refers to a row that is not there is nobody's: an old row under a key that was never validated, one that was written, or left
behind, by a session with `session_replication_role = replica`. It becomes a tenant's when that row comes, without a change of its
own.

A snapshot within the window says how many rows refer to the key. The window's own changes say how many of these came since it
began, by those of its transactions that the snapshot shows. What is more was there before, and waited.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, cast

from sbh_pipelines.backup.journal.routing.followers import Followers
from sbh_pipelines.backup.journal.routing.records import ROUTED, RecordFields, Waiting
from sbh_pipelines.backup.journal.routing.router import found_by
from sbh_pipelines.backup.journal.routing.routes import Index, Key, Link, Plan
from sbh_pipelines.backup.journal.routing.states import States

MOST_AT_ONCE = 100_000  # rows that are kept in mind; for more, the changes are gone through again
_ASKED_AT_ONCE = 2_000
_MOST_LOOKED_UP = 1_000  # tenants that are found out one by one


class Arrival(NamedTuple):
    """A row that came, and rows that waited for it, or may have.

    Attributes:
        transaction: Number of its transaction.
        table: Number of the table.
        owners: Whose it is; None where that is not known.
    """

    transaction: int
    table: int
    owners: frozenset[bytes] | None


class Arrivals:
    """`note` the records of the first pass, then ask. Rows that were there when the window began, went and came again, are told of
    elsewhere: the router knows them."""

    def __init__(self, plan: Plan, firsts: States, most: int = MOST_AT_ONCE) -> None:
        """`firsts` as `note_first` filled it over the whole window."""
        self._plan, self._firsts, self._most = plan, firsts, most
        self._noted = 0
        self._looked_up = 0

    def note(self, record: Waiting) -> None:
        if len(record) != ROUTED:
            self._noted += sum(1 for _ in self._came(record))

    def _came(self, record: RecordFields) -> Iterator[tuple[int, Key]]:
        """(index, key) for each key by which a row is found that was not found by it before."""
        found_before, found_after = record[9], record[10]
        if found_after:
            for number, before, after in found_by(self._plan.routes[record[1]].indexes, found_before, found_after):
                if after is not None and after != before:
                    yield number, after

    def waited_for(
        self,
        records: Iterable[Waiting],
        followers: Followers,
        visible: Callable[[int], bool],
        lookup: Callable[[Index, Sequence[Key]], Mapping[Key, Link]],
        doubtful: Collection[int],
    ) -> Iterator[Arrival]:
        """The rows that something waited for.

        records: Of the window; gone through more than once where many rows came.
        followers: As of the snapshot.
        visible: Whether the snapshot shows a transaction, by its number.
        lookup: As of the snapshot.
        doubtful: Tables of which the window's changes are not all there.
        """
        asked = [
            not index.loose and bool(followers.tables(index.number)) for index in self._plan.indexes
        ]  # of a loose one each arrival is told of by itself
        counted = {route.number for index in self._plan.indexes for route in followers.tables(index.number)}
        parts = -(-self._noted // self._most) if any(asked) else 0
        for part in range(parts):
            came: list[dict[Key, tuple[int, int, Link]]] = [{} for _ in self._plan.indexes]
            changed: dict[tuple[int, Key], int] = {}
            early: set[tuple[int, Key]] = set()
            for record in records:
                if len(record) == ROUTED:
                    continue
                at, table, link_before, link_after = record[0], record[1], record[7], record[8]
                leads_to = self._plan.routes[table].leads_to
                if leads_to is not None and asked[leads_to] and table in counted:
                    for key, change in _changes(link_before, link_after):
                        of = leads_to, key
                        if parts > 1 and hash(of) % parts != part:
                            continue
                        if key not in came[leads_to]:  # else it came before, as nearly always
                            first = self._firsts.get(*of)
                            if first is None or first.there:
                                continue
                            if at < first.transaction:
                                early.add(of)
                        if visible(at):
                            changed[of] = changed.get(of, 0) + change
                for of in self._came(record):
                    if link_after is None or not asked[of[0]] or hash(of) % parts != part:
                        continue
                    first = self._firsts.get(*of)
                    if first is not None and not first.there and first.transaction == at:
                        came[of[0]].setdefault(of[1], (at, table, link_after))
            for index in self._plan.indexes:
                unsure = any(route.number in doubtful for route in followers.tables(index.number))
                arrived = came[index.number]
                keys = list(arrived)
                for start in range(0, len(keys), _ASKED_AT_ONCE):
                    some = keys[start : start + _ASKED_AT_ONCE]
                    there = None if unsure else followers.count(index, some)
                    for key in some:
                        of = index.number, key
                        if there is None or of in early or there.get(key, 0) != changed.get(of, 0):
                            at, table, link = arrived[key]
                            yield Arrival(at, table, self._owners(table, link, lookup))

    def _owners(
        self, table: int, link: Link, lookup: Callable[[Index, Sequence[Key]], Mapping[Key, Link]]
    ) -> frozenset[bytes] | None:
        """Whose a row was when it came. What it follows must not have changed in the window, or anybody's it may be."""
        route = self._plan.routes[table]
        while route.leads_to is not None:
            if None in link:
                return frozenset()
            index, key = self._plan.indexes[route.leads_to], cast(Key, link)
            self._looked_up += 1
            if self._looked_up > _MOST_LOOKED_UP or self._firsts.get(index.number, key) is not None:
                return None
            found = lookup(index, [key]).get(key)
            if found is None:
                return None
            link, route = found, self._plan.routes[index.route]
        return frozenset(one for one in link if one is not None)


def _changes(before: Link | None, after: Link | None) -> Iterator[tuple[Key, int]]:
    """To which keys one row less refers, and to which one more."""
    if before != after:
        for link, change in ((before, -1), (after, 1)):
            if link is not None and None not in link:
                yield cast(Key, link), change
