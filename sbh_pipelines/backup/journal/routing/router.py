"""Whose each change is.

A row that follows another is the tenant's whose that one was *at this change*, and not what it is now. What the window's own
changes say of rows that others follow decides: the last of them before this change; else what the row was before the first of them
after it. A row that the window does not change was all the time what a snapshot taken in it sees. What is still not known then is
an event.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import cast

from sbh_pipelines.backup.journal.routing.departures import Departure, Departures, Orphans
from sbh_pipelines.backup.journal.routing.events import EventKind, Happenings
from sbh_pipelines.backup.journal.routing.records import (
    DELETE,
    INSERT,
    ROUTED,
    UPDATE,
    RecordFields,
    RoutedFields,
    Waiting,
)
from sbh_pipelines.backup.journal.routing.routes import Index, Key, Link, Plan, Route
from sbh_pipelines.backup.journal.routing.states import State, States

Lookup = Callable[[Index, Sequence[Key]], Mapping[Key, Link]]
"""The links of the rows that these keys find in an index, as of the snapshot; of those that are there."""

_AT_ONCE = 2_000  # records whose parents are looked up together
_CACHED = 50_000  # rows that were looked up and are kept in mind


def note_first(plan: Plan, firsts: States, record: Waiting) -> None:
    """What a record of the first pass says of the time before it. Changes of what nobody follows are none."""
    if len(record) == ROUTED:
        return
    transaction, table, _, op, _, _, _, link_before, link_after, found_before, found_after, _ = record
    if not found_before and not found_after:
        return
    for index, before, after in found_by(plan.routes[table].indexes, found_before, found_after):
        if op == UPDATE and before == after and link_before == link_after:
            continue
        if before is not None and link_before is not None:
            firsts.put_first(index, before, State(True, link_before, transaction))
        if after is not None and link_after is not None and after != before:
            firsts.put_first(index, after, State(False, link_after, transaction))


def found_by(
    indexes: tuple[int, ...], before: tuple[Key | None, ...], after: tuple[Key | None, ...]
) -> Iterator[tuple[int, Key | None, Key | None]]:
    """(number of an index over a record's table, key by which the row was found before, and after)."""
    nowhere = (None,) * len(indexes)
    return zip(indexes, before or nowhere, after or nowhere, strict=True)


class _Unknown(Exception):
    """Whose a row is cannot be found out. The text says why, without values."""


class Router:
    """The second pass: changes by tenant, in the order of the stream. `happenings`: what is no change of one tenant."""

    def __init__(
        self,
        plan: Plan,
        firsts: States,
        lasts: States,
        lookup: Lookup,
        happenings: Happenings,
        orphans: Orphans = lambda *_: (),
    ) -> None:
        """`firsts` as `note_first` filled it over the whole window; `lasts` is empty."""
        self._plan, self._firsts, self._lasts, self._lookup = plan, firsts, lasts, lookup
        self._happenings = happenings
        self._departures = Departures(plan, orphans, self._left_behind)
        # By index: rows that the window does not change, as the snapshot sees them. So what is here is true all the time.
        self._seen: list[dict[Key, Link | None]] = [{} for _ in plan.indexes]

    def route(self, records: Iterable[Waiting]) -> Iterator[RoutedFields]:
        """The changes of all tenants. Rows of nobody are left out, as backups leave them out."""
        waiting = iter(records)
        while chunk := list(islice(waiting, _AT_ONCE)):
            self._look_ahead([record for record in chunk if len(record) != ROUTED])
            for record in chunk:
                if len(record) == ROUTED:
                    yield record
                else:
                    yield from self._one(record)
        self._departures.finish()

    def _one(self, record: RecordFields) -> Sequence[RoutedFields]:
        at, table, layout, op, key, row, old_key, link_before, link_after, found_before, found_after, whole = record
        route = self._plan.routes[table]
        try:
            before = None if link_before is None else self._owner(route, link_before, at)
            after = before if link_after == link_before else None
            if link_after is not None and link_after != link_before:
                after = self._owner(route, link_after, at)
        except _Unknown as unknown:
            self._happenings.add(at, EventKind.UNROUTED, table, None, str(unknown))
            for follower in self._plan.followers[table]:
                self._happenings.add(at, EventKind.MOVED, follower, None, f"{route.name}: {unknown}")
            self._follow(record, set())
            return ()
        told: list[RoutedFields] = []
        if op == UPDATE and before == after:
            if after is not None:
                told.append((at, after, layout, UPDATE, key, row))
        else:
            if before is not None:
                told.append((at, before, layout, DELETE, old_key, b""))
            if after is not None:
                if not whole:
                    why = "an UPDATE gave a row to another tenant, and values that it left as they were are not in the stream"
                    self._happenings.add(at, EventKind.INCOMPLETE, table, (after,), why)
                told.append((at, after, layout, INSERT, b"", row))
        if found_before or found_after:
            owners = {one for one in (before, after) if one is not None}
            self._follow(record, owners)
            if op == UPDATE and before != after:
                self._moved(at, table, owners, "changed hands")
        return told

    def _owner(self, route: Route, link: Link, at: int) -> bytes | None:
        """The tenant's key; None for a row of nobody. Raises _Unknown."""
        while route.leads_to is not None:
            if None in link:
                return None
            index = self._plan.indexes[route.leads_to]
            link = self._seen[index.number].get(_key(link)) or self._state(index, _key(link), at)
            route = self._plan.routes[index.route]
        return link[0]

    def _state(self, index: Index, key: Key, at: int) -> Link:
        name = self._plan.routes[index.route].name
        last = self._lasts.get(index.number, key)
        if last is not None:
            # What follows a row is deleted after it, in the same transaction.
            if last.there or last.transaction == at:
                return last.link
            raise _Unknown(f"the row of {name} that it follows was deleted before")
        first = self._firsts.get(index.number, key)
        if first is not None:
            if first.there or first.transaction == at:
                return first.link
            raise _Unknown(f"the row of {name} that it follows came later")
        if key not in self._seen[index.number]:
            self._look(index, [key])
        found = self._seen[index.number][key]
        if found is None:
            raise _Unknown(f"the row of {name} that it follows is not there")
        return found

    def _follow(self, record: RecordFields, owners: set[bytes]) -> None:
        """What others that follow this row find from now on."""
        at, table, _, op, _, _, _, link_before, link_after, found_before, found_after, _ = record
        for number, before, after in found_by(self._plan.routes[table].indexes, found_before, found_after):
            index = self._plan.indexes[number]
            if op == UPDATE and before == after and link_before == link_after:
                continue
            if before is not None and before != after and link_before is not None:
                self._lasts.put(number, before, State(False, link_before, at))
                if index.loose:
                    self._moved(at, table, owners, "went, and the server lets rows refer to what is not there")
                else:
                    self._departures.add(number, before, Departure(at, table, frozenset(owners)))
            if after is not None and link_after is not None:
                if after != before:
                    self._came(at, index, after, link_after, owners)
                self._lasts.put(number, after, State(True, link_after, at))

    def _came(self, at: int, index: Index, key: Key, link: Link, owners: set[bytes]) -> None:
        """A row is found by a key by which none was found a moment ago. What followed the one before it follows this one."""
        table = index.route
        if index.loose:
            self._moved(at, table, owners, "came, and the server lets rows refer to what is not there")
        last = self._lasts.get(index.number, key)
        if last is None or last.there:
            return
        if last.transaction == at and last.link == link:
            return
        try:
            former = self._owner(self._plan.routes[table], last.link, at)
        except _Unknown as unknown:
            self._moved(at, table, None, str(unknown))
            self._moved(last.transaction, table, None, str(unknown))
            return
        if last.transaction != at or (former is not None and owners != {former}):
            # Between two transactions nothing can have followed it, but for what a session without triggers left behind. That was
            # nobody's meanwhile.
            both = {*owners, *([former] if former is not None else [])}
            self._moved(at, table, both, "was exchanged for another")
            self._moved(last.transaction, table, both, "went, and came again later")

    def _left_behind(self, gone: Departure) -> None:
        why = f"a row of {self._plan.routes[gone.table].name} went, and left rows behind that refer to it"
        for follower in self._plan.followers[gone.table]:
            self._happenings.add(gone.transaction, EventKind.MOVED, follower, gone.owners, why)

    def _moved(self, at: int, table: int, tenants: set[bytes] | None, how: str) -> None:
        why = f"a row of {self._plan.routes[table].name} {how}"
        for follower in self._plan.followers[table]:
            self._happenings.add(at, EventKind.MOVED, follower, tenants, why)

    def _look_ahead(self, chunk: Sequence[RecordFields]) -> None:
        """Look up what the chunk will ask for, each table once. What it misses is looked up when it is asked for."""
        if sum(map(len, self._seen)) > _CACHED:
            for seen in self._seen:
                seen.clear()
        wanted: list[set[Key]] = [set() for _ in self._plan.indexes]
        coming: list[set[Key]] = [set() for _ in self._plan.indexes]
        routes = self._plan.routes
        for record in chunk:
            route = routes[record[1]]
            if route.leads_to is not None:
                before, after = record[7], record[8]
                if before is not None and None not in before:
                    wanted[route.leads_to].add(_key(before))
                if after is not None and None not in after:
                    wanted[route.leads_to].add(_key(after))
            for number, found in zip(route.indexes, record[10], strict=False):
                if found is not None:
                    coming[number].add(found)
        for index, keys, found_after in zip(self._plan.indexes, wanted, coming, strict=True):
            number, seen = index.number, self._seen[index.number]
            unseen = [key for key in keys if key not in seen]
            self._lasts.prepare(number, {*unseen, *found_after})
            self._firsts.prepare(number, unseen)
            known: dict[Key, State | None] = {
                key: self._lasts.get(number, key) or self._firsts.get(number, key) for key in unseen
            }
            self._look(index, [key for key in unseen if known[key] is None])
            leads_to = routes[index.route].leads_to
            if leads_to is None:
                continue
            for key in keys:
                state = known.get(key)
                link = state.link if state is not None else seen[key]
                if link is not None and None not in link:
                    wanted[leads_to].add(_key(link))

    def _look(self, index: Index, keys: Sequence[Key]) -> None:
        for start in range(0, len(keys), _AT_ONCE):
            asked = keys[start : start + _AT_ONCE]
            found = self._lookup(index, asked)
            for key in asked:
                self._seen[index.number][key] = found.get(key)


def _key(link: Link) -> Key:
    """Of a link without a NULL."""
    return cast(Key, link)
