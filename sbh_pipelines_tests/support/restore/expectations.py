"""What a restore must lead to: a second implementation, plain Python over rows that were read by plain SQL.

It shares no code with the engine and is written for tables that fit into memory. A state is all rows of all tenants.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

Row = tuple[str | None, ...]
Key = tuple[str | None, ...]
State = Mapping[str, list[Row]]
Chooser = Callable[[Mapping[str, str | None]], bool]

EXACT, MISSING_ONLY, NEWEST_WINS = "exact", "missing-only", "newest-wins"


@dataclass(frozen=True)
class Reference:
    """A foreign key."""

    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """`owner` says whose a row is: a column with the tenant's key, or the reference to follow; None: everybody's."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...] = ()
    unique: tuple[tuple[str, ...], ...] = ()
    references: tuple[Reference, ...] = ()
    owner: str | Reference | None = None
    newest: str | None = None

    def take(self, row: Row, columns: Iterable[str]) -> Key:
        return tuple(row[self.columns.index(c)] for c in columns)

    def named(self, row: Row) -> dict[str, str | None]:
        return dict(zip(self.columns, row, strict=True))


@dataclass(frozen=True)
class Counts:
    """Rows of one table."""

    insert: int = 0
    update: int = 0
    delete: int = 0
    kept: int = 0


@dataclass
class Expected:
    """The state after the restore; or, where `broken` is not empty, why it must be refused."""

    state: dict[str, list[Row]]
    counts: dict[str, Counts]
    broken: list[str] = field(default_factory=list)


class Model:
    """The application's tables, parents first."""

    def __init__(self, tables: Iterable[Table]) -> None:
        self.tables = {table.name: table for table in tables}

    # whose rows, which rows

    def of_tenant(self, state: State, tenant: str) -> dict[str, list[Row]]:
        owners: dict[str, list[str | None]] = {}  # of each row, parents first
        for name, table in self.tables.items():
            if isinstance(table.owner, Reference):
                parent, columns = self.tables[table.owner.parent], table.owner.columns
                keys = (parent.take(row, table.owner.parent_columns) for row in state[parent.name])
                by_key = dict(zip(keys, owners[parent.name], strict=True))
                owners[name] = [by_key[table.take(row, columns)] for row in state[name]]
            else:
                owners[name] = [table.take(row, [table.owner])[0] if table.owner else None for row in state[name]]
        return {
            name: [row for row, owner in zip(state[name], found, strict=True) if owner == tenant]
            for name, found in owners.items()
        }

    def _closure(self, then: State, now: State, table: str, chooser: Chooser) -> dict[str, set[Key]]:
        """Keys of the rows that are chosen, then or now, and of all that refer to them, then or now, directly or not."""
        chosen: dict[str, set[Key]] = {name: set() for name in self.tables}
        root = self.tables[table]
        chosen[table] = {root.take(r, root.key) for rows in (then, now) for r in rows[table] if chooser(root.named(r))}
        grown = True
        while grown:
            before = sum(map(len, chosen.values()))
            for rows in (then, now):
                for name, child in self.tables.items():
                    for reference in child.references if child.key else ():
                        parent = self.tables[reference.parent]
                        targets = {
                            parent.take(row, reference.parent_columns)
                            for row in rows[parent.name]
                            if parent.take(row, parent.key) in chosen[parent.name]
                        }
                        chosen[name] |= {
                            child.take(row, child.key)
                            for row in rows[name]
                            if child.take(row, reference.columns) in targets
                        }
            grown = sum(map(len, chosen.values())) > before
        return chosen

    # restores

    def restore_tables(self, then: State, now: State, tenant: str, mode: str, tables: Iterable[str]) -> Expected:
        """All of the tenant's rows of `tables`."""
        mine_then, mine_now = self.of_tenant(then, tenant), self.of_tenant(now, tenant)
        state, counts = {name: list(rows) for name, rows in now.items()}, {}
        for name in tables:
            table = self.tables[name]
            if table.key:
                keys = {table.take(row, table.key) for row in [*mine_then[name], *mine_now[name]]}
                state[name], counts[name] = self._merge(table, mine_then[name], now[name], keys, mode)
            else:
                state[name], counts[name] = _merge_multiset(mine_then[name], mine_now[name], now[name], mode)
        return self._checked(state, counts)

    def restore_rows(self, then: State, now: State, tenant: str, mode: str, table: str, chooser: Chooser) -> Expected:
        """The rows of one table that `chooser` takes, what refers to them, and the missing ones they refer to."""
        mine_then, mine_now = self.of_tenant(then, tenant), self.of_tenant(now, tenant)
        chosen = self._closure(mine_then, mine_now, table, chooser)
        parents = self._missing_parents(mine_then, now, chosen)
        state, counts = {name: list(rows) for name, rows in now.items()}, {}
        for name, one in self.tables.items():
            if keys := chosen[name] | parents[name]:
                state[name], counts[name] = self._merge(one, mine_then[name], now[name], keys, mode)
        return self._checked(state, counts)

    def _missing_parents(self, then: State, now: State, chosen: Mapping[str, set[Key]]) -> dict[str, set[Key]]:
        """Keys of rows that are not there now and that rows coming back refer to."""
        found: dict[str, set[Key]] = {name: set() for name in self.tables}
        grown = True
        while grown:
            grown = False
            for name, child in self.tables.items():
                coming = [r for r in then[name] if child.key and child.take(r, child.key) in chosen[name] | found[name]]
                for reference in child.references:
                    parent = self.tables[reference.parent]
                    wanted = {child.take(row, reference.columns) for row in coming}
                    wanted -= {parent.take(row, reference.parent_columns) for row in now[parent.name]}
                    keys = {
                        parent.take(row, parent.key)
                        for row in then[parent.name]
                        if parent.take(row, reference.parent_columns) in wanted
                    } - chosen[parent.name]
                    grown = grown or not keys <= found[parent.name]
                    found[parent.name] |= keys
        return found

    def _merge(
        self, table: Table, then: Iterable[Row], now: Iterable[Row], keys: set[Key], mode: str
    ) -> tuple[list[Row], Counts]:
        """All rows of the table after the restore of those with these keys. `now` are all tenants' rows."""
        old = {key: row for row in then if (key := table.take(row, table.key)) in keys}
        new = {table.take(row, table.key): row for row in now}
        insert = update = delete = kept = 0
        for key in keys:
            was, is_now = old.get(key), new.get(key)
            if was == is_now:
                continue
            if was is None:
                if mode == EXACT:
                    del new[key]
                    delete += 1
            elif is_now is None:
                new[key] = was
                insert += 1
            elif mode == EXACT or (mode == NEWEST_WINS and self._later(table, was, is_now)):
                new[key] = was
                update += 1
            else:
                kept += 1
        return list(new.values()), Counts(insert, update, delete, kept)

    @staticmethod
    def _later(table: Table, was: Row, is_now: Row) -> bool:
        if table.newest is None:
            raise AssertionError(f"no column tells which row of {table.name} is the later one")
        (then,), (now,) = table.take(was, [table.newest]), table.take(is_now, [table.newest])
        return then is not None and now is not None and then > now  # ISO texts of one length

    # what the database would say

    def _checked(self, state: dict[str, list[Row]], counts: dict[str, Counts]) -> Expected:
        broken = []
        for name, table in self.tables.items():
            for columns in table.unique:
                values = Counter(table.take(row, columns) for row in state[name])
                broken += [f"conflict: {name} {columns} {value}" for value, n in values.items() if n > 1]
            for reference in table.references:
                parent = self.tables[reference.parent]
                there = {parent.take(row, reference.parent_columns) for row in state[parent.name]}
                broken += [
                    f"orphan: {name} {value}"
                    for row in state[name]
                    if None not in (value := table.take(row, reference.columns)) and value not in there
                ]
        return Expected(state, counts, broken)


def _merge_multiset(
    then: Iterable[Row], mine: Iterable[Row], now: Iterable[Row], mode: str
) -> tuple[list[Row], Counts]:
    """Rows without a key are equal or not; the nth of equal rows there is the nth of equal rows here."""
    missing = Counter(then) - Counter(mine)
    extra = Counter(mine) - Counter(then) if mode == EXACT else Counter()
    left = Counter(now) + missing - extra
    return list(left.elements()), Counts(insert=missing.total(), delete=extra.total())
