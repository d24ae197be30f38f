"""The first pass: messages of the stream become records. What a message cannot say becomes an event. No I/O.

Fields are matched by name: partitions have the columns of their root in an order of their own, and what the root is now the stream
may not have been.
"""

from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

from sbh_pipelines.backup.journal.routing.events import EventKind, Happenings
from sbh_pipelines.backup.journal.routing.records import DELETE, INSERT, UPDATE, Waiting
from sbh_pipelines.backup.journal.routing.routes import Key, Link, Plan, Route
from sbh_pipelines.database.journal.identity import TableIdentity, changed_meanwhile
from sbh_pipelines.database.journal.messages import (
    UNSENT,
    Begin,
    Commit,
    Delete,
    Fields,
    Insert,
    Message,
    Relation,
    Truncate,
    Update,
)
from sbh_pipelines.database.journal.rows import line
from sbh_pipelines.repository.journal.segments.changes import Layout
from sbh_pipelines.repository.journal.segments.makeup import Makeup, between

Picker = Callable[[Fields], Fields]


@dataclass(frozen=True, slots=True)
class _Shape:
    """Where a relation's fields are.

    Attributes:
        route: Its table.
        layout: Number of the layout.
        row: Picks the captured columns; None where the fields are these, in their order.
        columns: Where the captured columns are.
        key: Picks the columns of the primary key.
        link: Picks the columns of the link.
        found: For each index over the table, picks its columns.
        needed: Where all fields of key, link and indexes are.
        keyed: Fields that are part of the replica identity.
        own: Whether the link is the tenant's key itself.
        told: Whether the identity has all that is needed.
        odd: Whether it is not what was read of the table beside its changes.
    """

    route: Route
    layout: int
    row: Picker | None
    columns: tuple[int, ...]
    key: Picker
    link: Picker
    found: tuple[Picker, ...]
    needed: tuple[int, ...]
    keyed: frozenset[int]
    own: bool
    told: bool
    odd: bool


class Transactions:
    """What is known of the transactions of a window, by number. 24 bytes each."""

    def __init__(self) -> None:
        self.commits, self.times, self.xids = array("Q"), array("q"), array("Q")

    def __len__(self) -> int:
        return len(self.commits)


class Decoder:
    """Makes records of the messages of a window. `layouts`: by number. `transactions`: those that were read."""

    def __init__(
        self,
        plan: Plan,
        identities: Mapping[str, TableIdentity],
        definitions: Mapping[str, str],
        happenings: Happenings,
        *,
        start: int,
        widen: Callable[[int], int],
        left_out: Collection[str] = (),
        steps: Mapping[str, tuple[str, Makeup, Makeup]] | None = None,
    ) -> None:
        """
        identities: of the tables of the plan, by full name, read after the fence.
        start: what was committed up to there is passed over.
        widen: all 64 bits of a transaction's id.
        left_out: tables that are not of the plan, and may be in the publication all the same.
        steps: of tables that were altered harmlessly in the window: the definition before, its columns, and those after.
        """
        self._plan, self._identities, self._definitions = plan, identities, definitions
        self._leaves = {
            oid: table
            for table, identity in identities.items()
            for oid in (identity.oid, *(leaf.oid for leaf in identity.leaves))
        }
        self._happenings, self._start, self._widen = happenings, start, widen
        self._left_out = left_out
        self._steps = steps or {}
        self.makeups: dict[str, Makeup] = {}
        """Columns under definitions that were in force for a while in the window, by their fingerprints."""
        self._by_name = {route.name: route for route in plan.routes}
        self._shapes: dict[int, _Shape | None] = {}
        self._strange: set[int] = set()  # relations that are none of the plan
        self.layouts: list[Layout] = []
        self.transactions = Transactions()
        self.end = start
        self._xid = 0
        self._number = 0  # of the transaction
        self._passing = False
        self.passed_over = 0
        """How many transactions were passed over: those that were told before."""
        self.last_passed = (0, 0)
        """The end of the last of them, and its id on the wire."""

    def decode(self, messages: Iterator[Message]) -> Iterator[Waiting]:
        """The records of whole transactions, in order; all of them behind `start`."""
        for message in messages:
            kind = type(message)
            if kind is Insert or kind is Update or kind is Delete:
                if self._passing:
                    continue
                record = self._row(message)  # type: ignore[arg-type]
                if record is not None:
                    yield record
            elif isinstance(message, Begin):
                # A commit record that begins before `start` ends there or before: `start` is between two records.
                self._passing = message.final_lsn < self._start
                self._xid = message.xid
            elif isinstance(message, Commit):
                if self._passing:
                    self.passed_over += 1
                    self.last_passed = message.end_lsn, self._xid
                else:
                    self.end = message.end_lsn
                    self._ended(message)
            elif isinstance(message, Relation):
                self._shapes[message.relid] = self._shape(message)
            elif isinstance(message, Truncate) and not self._passing:
                self._truncated(message)

    def _ended(self, commit: Commit) -> None:
        self.transactions.commits.append(commit.end_lsn)
        self.transactions.times.append(commit.time_us)
        self.transactions.xids.append(self._widen(self._xid))
        self._number += 1

    def _row(self, message: Insert | Update | Delete) -> Waiting | None:
        shape = self._shapes.get(message.relid)
        if shape is None:
            self._unknown(message.relid)
            return None
        if shape.odd:
            self._untold(
                shape.route, EventKind.CHANGED, "the table had another definition than was read beside its changes"
            )
        if isinstance(message, Insert):
            return self._inserted(shape, message.new)
        if not shape.told:
            why = "the replica identity has not all columns of the key and of the way to the tenant"
            self._untold(shape.route, EventKind.IDENTITY, why)
            return None
        if isinstance(message, Delete):
            return self._deleted(shape, message.old)
        return self._updated(shape, message)

    def _inserted(self, shape: _Shape, new: Fields) -> Waiting | None:
        row = line(new if shape.row is None else shape.row(new))
        after = _sent(shape.link(new))
        if shape.own and not shape.found:
            return None if after[0] is None else (self._number, after[0], shape.layout, INSERT, b"", row)
        found = _found(new, shape)
        return self._number, shape.route.number, shape.layout, INSERT, b"", row, b"", None, after, (), found, True

    def _deleted(self, shape: _Shape, old: Fields) -> Waiting | None:
        if UNSENT in old and any(old[at] is UNSENT for at in shape.keyed):
            self._untold(shape.route, EventKind.IDENTITY, "a value of the identity was not sent")
            return None
        key = line(shape.key(old))
        before = _sent(shape.link(old))
        if shape.own and not shape.found:
            return None if before[0] is None else (self._number, before[0], shape.layout, DELETE, key, b"")
        found = _found(old, shape)
        return self._number, shape.route.number, shape.layout, DELETE, key, b"", key, before, None, found, (), True

    def _updated(self, shape: _Shape, update: Update) -> Waiting | None:
        new = update.new
        unsent = UNSENT in new
        if unsent:
            new = _filled(shape, update)
        old = update.old if update.old_kind is not None else new
        if (unsent or UNSENT in old) and any(old[at] is UNSENT or new[at] is UNSENT for at in shape.needed):
            self._untold(shape.route, EventKind.IDENTITY, "a value of the identity was not sent")
            return None
        row = line(new if shape.row is None else shape.row(new))
        before, after = _sent(shape.link(old)), _sent(shape.link(new))
        key = b""
        if old is not new:
            key_before = shape.key(old)
            if key_before != shape.key(new):
                key = line(key_before)
                if not key:  # which would say that the key stayed what it was
                    self._untold(shape.route, EventKind.IDENTITY, "the key of a row was empty, and another after")
                    return None
        if shape.own and before == after and (old is new or all(pick(old) == pick(new) for pick in shape.found)):
            return None if after[0] is None else (self._number, after[0], shape.layout, UPDATE, key, row)
        old_key = key if key or before == after else line(shape.key(old))
        whole = not unsent or not any(new[at] is UNSENT for at in shape.columns)
        found_before, found_after = _found(old, shape), _found(new, shape)
        of = shape.route.number
        return (
            self._number,
            of,
            shape.layout,
            UPDATE,
            key,
            row,
            old_key,
            before,
            after,
            found_before,
            found_after,
            whole,
        )

    def _truncated(self, message: Truncate) -> None:
        for relid in message.relids:
            shape = self._shapes.get(relid)
            if shape is None:
                self._unknown(relid)
            else:
                self._happenings.add(self._number, EventKind.TRUNCATED, shape.route.number, None, "TRUNCATE")
                for follower in self._plan.followers[shape.route.number]:  # those that no foreign key empties, too
                    self._happenings.add(
                        self._number, EventKind.MOVED, follower, None, f"TRUNCATE of {shape.route.name}"
                    )

    def _untold(self, route: Route, kind: EventKind, why: str) -> None:
        """A change that cannot be told. What follows its row cannot either, in all of the window: who owned the row before the
        change is looked up after it."""
        self._happenings.add(self._number, kind, route.number, None, why)
        self._happenings.untold.update(self._plan.followers[route.number])

    def _unknown(self, relid: int) -> None:
        """A relation that is none of the plan: one that was left out, or a partition that came and went."""
        if relid in self._strange:
            return
        for route in self._plan.routes:
            if route.table.table.kind == "p":
                self._untold(route, EventKind.CHANGED, "rows changed of what was a partition, perhaps of this table")

    def _shape(self, relation: Relation) -> _Shape | None:
        name = self._leaves.get(relation.relid)
        route = self._by_name.get(name or relation.full_name)
        if route is None:
            if relation.full_name in self._left_out:
                self._strange.add(relation.relid)
            return None
        places = {column.name: at for at, column in enumerate(relation.columns)}
        computed = {column.name for column in route.table.table.columns if column.generated}
        captured = route.table.captured_columns
        columns, definition = captured, self._definitions.get(route.name, "")
        meanwhile = changed_meanwhile(relation, self._identities[name]) if name else ""
        if name is not None and name in self._steps and not meanwhile:
            columns, definition = self._stepped(name, relation, captured, definition)
        elif name is None or meanwhile or set(places) - computed != set(captured):
            # It was another table, or another definition than was read.
            columns, definition = tuple(column for column in places if column not in computed), ""
        needed = [*route.table.table.primary_key, *route.link]
        needed += [column for index in route.indexes for column in self._plan.indexes[index].columns]
        if not definition:
            self._untold(route, EventKind.CHANGED, "the table had another definition than was read beside its changes")
        if not set(needed) <= set(places):
            return None
        keyed = frozenset(at for at, column in enumerate(relation.columns) if column.key)
        columns_at = tuple(places[column] for column in columns)
        return _Shape(
            route,
            self._layout(route, columns, definition),
            None if columns_at == tuple(range(len(places))) else _picker(columns_at),
            columns_at,
            _picker([places[column] for column in route.table.table.primary_key]),
            _picker([places[column] for column in route.link]),
            tuple(_picker([places[column] for column in self._plan.indexes[index].columns]) for index in route.indexes),
            tuple(places[column] for column in needed),
            keyed,
            route.leads_to is None,
            {places[column] for column in needed} <= keyed,
            not definition,
        )

    def _stepped(
        self, table: str, relation: Relation, captured: tuple[str, ...], definition: str
    ) -> tuple[tuple[str, ...], str]:
        """(columns, definition) of rows of a table that was altered in the window; no definition where that is not certain."""
        before, then, now = self._steps[table]
        found = None
        if relation.relid == self._identities[table].oid or (then.aligned and now.aligned):
            found = between(then, now, [(column.name, column.type, column.modifier) for column in relation.columns])
        if found is None:
            return tuple(column.name for column in relation.columns), ""
        columns = tuple(column.name for column in found.stored)
        if found is now:
            return (captured, definition) if set(columns) == set(captured) else (columns, "")
        if found is then:
            return columns, before
        self.makeups[found.digest] = found
        return columns, found.digest

    def _layout(self, route: Route, columns: tuple[str, ...], definition: str) -> int:
        layout = Layout(route.name, columns, route.table.table.primary_key, definition, route.table.encoding)
        if layout not in self.layouts:
            self.layouts.append(layout)
        return self.layouts.index(layout)


def _filled(shape: _Shape, update: Update) -> Fields:
    """The new values, with those that were not sent as they were before, where that was sent."""
    if update.old_kind is None:
        return update.new
    return tuple(
        update.old[at] if value is UNSENT and (update.old_kind == "O" or at in shape.keyed) else value
        for at, value in enumerate(update.new)
    )


def _picker(places: Sequence[int]) -> Picker:
    if len(places) > 1:
        return itemgetter(*places)
    if not places:
        return lambda _: ()
    (at,) = places
    return lambda fields: (fields[at],)


def _sent(fields: Fields) -> Link:
    """Fields that were all sent."""
    return fields  # type: ignore[return-value]


def _found(fields: Fields, shape: _Shape) -> tuple[Key | None, ...]:
    if not shape.found:
        return ()
    return tuple([_key(pick(fields)) for pick in shape.found])


def _key(values: Fields) -> Key | None:
    return None if None in values else values  # type: ignore[return-value]
