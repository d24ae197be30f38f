"""Lays a tenant's transactions over a backup, up to the moment: merged by key, nothing written."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from sbh_pipelines.backup.create.moment.way.base import Base
from sbh_pipelines.backup.create.moment.way.chain import Beginning, Chain
from sbh_pipelines.backup.create.moment.way.stop import Commit, Prefix
from sbh_pipelines.backup.create.moment.way.target import Target
from sbh_pipelines.backup.create.moment.way.told import Remake, TablesTold
from sbh_pipelines.backup.journal.fold import Merge, converted
from sbh_pipelines.backup.journal.window.horizon import Horizon
from sbh_pipelines.errors import JournalGap
from sbh_pipelines.repository.journal.gaps import Gap
from sbh_pipelines.repository.journal.reading import read_transactions
from sbh_pipelines.repository.journal.segments.changes import Layout, Transaction
from sbh_pipelines.repository.journal.segments.directory import Directory, Event, FencePoint
from sbh_pipelines.repository.seal import Sealer

SealerOf = Callable[[str], Sealer]
_Item = Event | tuple[Sequence[Layout], Transaction]


class Unreached(Exception):
    """The log does not go on to the moment, or to where it is sure what the base shows."""

    def __init__(self, fence: FencePoint, base: Base, *, settled: bool, over: bool) -> None:
        """`fence`: the last one; `settled`: whether all that the base shows lies before it.

        `over`: nothing will ever follow on it, so that a drain does not help.
        """
        super().__init__()
        self.fence, self.base, self.settled, self.over = fence, base, settled, over


class BaseUnusable(Exception):
    """Changes of the tenant were not written, which the base does not show."""


@dataclass(frozen=True, slots=True)
class Laid:
    """What came of it.

    Attributes:
        last_in: The last transaction of the tenant that is in, whether the base shows it or not; None where there is none.
        first_out: The first one that is not; None where none is known.
        edge: The position up to which the moment goes.
        transactions: How many were laid over the base.
        changes: How many changes.
        missing: Tables of the base of which the journal does not tell all, and why.
        came: Tables that came after the base.
        fence: The last fence before the moment.
        remade: Tables of the base that had another definition at the moment.
    """

    last_in: Commit | None
    first_out: Commit | None
    edge: int
    transactions: int
    changes: int
    missing: dict[str, str]
    came: tuple[str, ...]
    fence: FencePoint
    remade: Mapping[str, Remake] = field(default_factory=dict)


def lay(
    chain: Chain,
    beginning: Beginning,
    base: Base,
    target: Target,
    tenant_key: str,
    sealer_of: SealerOf,
    merge: Merge,
    tables: Collection[str],
    gaps: Sequence[Gap] = (),
) -> Laid:
    """Merge what was done to `tables` of the tenant between the base and the moment; `gaps`: those recorded of the chain.

    Raises BaseTooLate, BaseUnusable, Unreached, SegmentLost, and CorruptObject for blocks.
    """
    return _Laying(chain, beginning, base, target, tenant_key, merge, frozenset(tables), gaps).run(sealer_of)


class _Laying:
    def __init__(
        self,
        chain: Chain,
        beginning: Beginning,
        base: Base,
        target: Target,
        tenant_key: str,
        merge: Merge,
        tables: frozenset[str],
        gaps: Sequence[Gap],
    ) -> None:
        self._chain, self._beginning, self._target, self._merge = chain, beginning, target, merge
        self._base = base
        self._snapshot, self._tenant_key, self._tables = base.snapshot, tenant_key, tables
        self._prefix = Prefix(target, base.snapshot)
        self._told = TablesTold(tenant_key, base.definitions, beginning.position, gaps, base.lsn)
        self._fence = beginning.fence  # the last one that is not beyond the moment
        self._stop: int | None = None  # before the first fence that is
        self._horizon = Horizon(base.snapshot, base.lsn)
        self._settled = False  # whether all that the base shows has come by
        self._changes = 0

    def run(self, sealer_of: SealerOf) -> Laid:
        index = self._beginning.index
        for index in self._chain.onward(self._beginning.index):
            stretch, directory = self._chain.stretches[index], self._chain.directory(index)
            if directory.facts.skipped.get(self._tenant_key, (0, 0))[1] >= self._snapshot.xmin:
                raise BaseUnusable
            start = max(stretch.start, self._beginning.position)
            self._told.stretch(directory.facts, start, stretch.end)
            self._pass_fences(directory.facts.fences)
            for item in _in_order(self._chain, directory, self._tenant_key, sealer_of, start, stretch.end):
                self._take(item)
            if self._settled and self._is_over(stretch.end):
                return self._laid(stretch.end)
        last = self._chain.facts(index).fences[-1]
        over = not self._chain.goes_on or not self._chain.at_end(index)
        raise Unreached(last, self._base, settled=self._settled, over=over)

    def _pass_fences(self, fences: Sequence[FencePoint]) -> None:
        time = self._target.microseconds
        for fence in fences:
            self._settled = self._horizon.is_before(fence) or self._settled
            if self._stop is not None:
                continue
            if time is not None and fence.time > time and not self._snapshot.shows(fence.xid):
                self._stop = fence.before
                self._prefix.stop_behind(fence.after)
            else:
                self._fence = fence if self._target.lsn is None or fence.after <= self._target.lsn else self._fence

    def _is_over(self, end: int) -> bool:
        if self._prefix.first_out is not None or self._stop is not None:
            return True
        return self._target.lsn is not None and end >= self._target.lsn

    def _take(self, item: _Item) -> None:
        if isinstance(item, Event):
            self._take_event(item)
            return
        layouts, transaction = item
        if not self._prefix.takes(Commit(transaction.commit, transaction.xid, transaction.time)):
            return
        for change in transaction.changes:
            layout = layouts[change.layout]
            if layout.table not in self._tables or not self._told.is_told(layout, transaction.commit):
                continue
            if not self._recast(layout):
                continue
            try:
                self._merge.add(layout.table, layout, change)
            except JournalGap as error:
                self._told.end(layout.table, error.why or error.what)
            self._changes += 1

    def _recast(self, layout: Layout) -> bool:
        """Have what was merged of a table be written under this definition; whether that can be."""
        known = self._merge.layout(layout.table)
        if known is None or known.definition == layout.definition:
            return True
        conversion = self._told.conversion(known.definition, layout.definition)
        if conversion is None:
            self._told.end(layout.table)
            return False
        self._merge.recast(layout.table, layout, partial(converted, conversion))
        return True

    def _remade(self, edge: int) -> dict[str, Remake]:
        """The tables that are others at `edge` than at the base; what was merged of them is written as they are there."""
        found = self._told.remakes(edge)
        for table in self._tables:
            known, definition = self._merge.layout(table), self._told.in_force(table, edge)
            if known is not None and definition is not None and definition != known.definition:
                columns = self._told.columns(definition) or known.columns
                self._recast(replace(known, columns=columns, definition=definition))
        return found

    def _take_event(self, event: Event) -> None:
        if event.tenants is not None and self._tenant_key not in event.tenants:
            return
        if event.xid:
            if self._prefix.takes(Commit(event.position, event.xid, event.time)):
                self._told.event(event)
        elif not self._prefix.is_beyond(event.position):
            self._told.event(event)

    def _laid(self, end: int) -> Laid:
        edges = [end, *([self._stop] if self._stop is not None else [])]
        if self._target.lsn is not None:
            edges.append(self._target.lsn)
        if self._prefix.first_out is not None:
            edges.append(self._prefix.first_out.lsn - 1)
        edge = min(edges)
        remade = self._remade(edge)
        return Laid(
            self._prefix.last_in,
            self._prefix.first_out,
            edge,
            self._prefix.laid,
            self._changes,
            self._told.missing(edge),
            tuple(table for table, position in self._told.came.items() if position < edge),
            self._fence,
            remade,
        )


def _in_order(
    chain: Chain, directory: Directory, tenant_key: str, sealer_of: SealerOf, start: int, end: int
) -> Iterator[_Item]:
    """Events and the tenant's transactions in the order of the log; of one commit the events first."""
    events = sorted(
        (one for one in directory.facts.events if start < one.position <= end), key=lambda one: one.position
    )
    at = 0
    for told in read_transactions(chain.journal, directory, tenant_key, sealer_of, start, end):
        while at < len(events) and events[at].position <= told[1].commit:
            yield events[at]
            at += 1
        yield told
    yield from events[at:]
