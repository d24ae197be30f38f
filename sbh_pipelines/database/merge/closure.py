"""Chosen rows, with what hangs on them: the rows that refer to them, and the parents they cannot be without.

Works on staged tables that hold all rows of both sides. What is not chosen leaves them, and so is neither compared nor
written.

    roots        rows of one table that satisfy the condition: the backup's come back, live ones may go
    dependants   rows that refer to a chosen row by a foreign key, to any depth
    twins        the other side's row of the same key: a row is compared with what it is now
    parents      rows of the backup that a chosen row refers to, and that are not there any more; an existing one stays as it is
"""

from collections.abc import Callable, Mapping, Sequence

from sbh_pipelines.database.merge.row_choice import RowChoice
from sbh_pipelines.database.merge.staging import Staging
from sbh_pipelines.database.schema.catalog import ForeignKey, Table
from sbh_pipelines.database.schema.tenancy import MappedTable, TenancyMap
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.errors import RequestError, RestoreRefused

_ROUNDS = 1000  # depth of dependants; a chain of rows that refer to each other


def involved(tenancy: TenancyMap, root: MappedTable) -> list[MappedTable]:
    """The tables that chosen rows of `root` may lead to: descendants, and all their ancestors; in the map's order."""
    reached = {root.table.oid}
    captured = {t.table.oid: t for t in tenancy.tables}
    keys = [key for table in tenancy.tables for key in table.table.foreign_keys if key.parent in captured]
    downwards, upwards = [(k.parent, k.table) for k in keys], [(k.table, k.parent) for k in keys]
    for steps in (downwards, upwards):
        while found := {end for start, end in steps if start in reached} - reached:
            reached |= found
    return [t for t in tenancy.tables if t.table.oid in reached]


class Closure:
    """Chooses among the staged rows of the involved tables."""

    def __init__(self, connection: Connection, stagings: Mapping[int, Staging]) -> None:
        self._connection, self._stagings = connection, stagings
        self._keys = [key for s in stagings.values() for key in s.table.table.foreign_keys if key.parent in stagings]

    def choose(self, root: MappedTable, choice: RowChoice) -> None:
        """Leave only the chosen rows, their dependants and lost parents in the staged tables."""
        for staging in self._stagings.values():
            for side in (staging.want, staging.have):
                with translated("choose rows", staging.table.full_name):
                    self._run(f"CREATE TEMP TABLE {_picked(side)} (place tid PRIMARY KEY) ON COMMIT DROP")
        first = self._stagings[root.table.oid]
        condition = choice.to_sql({name: f"x.{staged}" for name, staged in first.columns.items()})
        found = 0
        for side in (first.want, first.have):
            with translated("choose rows", root.full_name):
                found += self._pick(side, f"SELECT x.ctid FROM {side} x WHERE {condition}")
        if not found:
            raise RequestError(
                "No row satisfies the condition, in the backup or now",
                on=root.full_name,
                remedy="look at the condition; `sbh export --tables` shows the backup's rows",
            )
        self._until_nothing_new(lambda: self._dependants() + self._twins())
        self._until_nothing_new(self._parents)
        self._until_nothing_new(self._twins)
        for staging in self._stagings.values():
            for side in (staging.want, staging.have):
                with translated("choose rows", staging.table.full_name):
                    self._run(
                        f"DELETE FROM {side} x WHERE NOT EXISTS (SELECT FROM {_picked(side)} p WHERE p.place = x.ctid)"
                    )
            staging.finish()

    def _until_nothing_new(self, step: Callable[[], int]) -> None:
        for _ in range(_ROUNDS):
            if not step():
                return
        raise RestoreRefused(
            "Rows refer to each other to too great a depth",
            why=f"more than {_ROUNDS} steps",
            remedy="restore the tables",
        )

    def _dependants(self) -> int:
        """Rows that refer to a chosen row of their own side."""
        found = 0
        for key in self._keys:
            child, parent = self._stagings[key.table], self._stagings[key.parent]
            if not _staged(key, child, parent):
                continue
            for own, theirs in ((child.want, parent.want), (child.have, parent.have)):
                with translated("choose rows", child.table.full_name):
                    found += self._pick(
                        own,
                        f"SELECT x.ctid FROM {own} x JOIN {theirs} y ON {_refers(key, child, parent, 'x', 'y')}"
                        f" JOIN {_picked(theirs)} p ON p.place = y.ctid",
                    )
        return found

    def _twins(self) -> int:
        """The other side's rows of the keys that are chosen."""
        found = 0
        for staging in self._stagings.values():
            if not staging.keyed:
                continue
            for own, other in ((staging.want, staging.have), (staging.have, staging.want)):
                with translated("choose rows", staging.table.full_name):
                    found += self._pick(
                        other,
                        f"SELECT o.ctid FROM {other} o JOIN {own} x ON {staging.same_key('x', 'o')}"
                        f" JOIN {_picked(own)} p ON p.place = x.ctid",
                    )
        return found

    def _parents(self) -> int:
        """Rows of the backup that a chosen row of the backup refers to and that no live row stands for."""
        found = 0
        for key in self._keys:
            child, parent = self._stagings[key.table], self._stagings[key.parent]
            if not _staged(key, child, parent):
                continue
            same = " AND ".join(
                f"h.{parent.columns[c]} {equals} y.{parent.columns[c]}"
                for c, equals in zip(key.parent_columns, key.operators, strict=True)
            )
            with translated("choose rows", parent.table.full_name):
                found += self._pick(
                    parent.want,
                    f"SELECT y.ctid FROM {parent.want} y JOIN {child.want} x ON {_refers(key, child, parent, 'x', 'y')}"
                    f" JOIN {_picked(child.want)} p ON p.place = x.ctid"
                    f" WHERE NOT EXISTS (SELECT FROM {parent.have} h WHERE {same})",
                )
        return found

    def _pick(self, side: str, places: str) -> int:
        return self._run(f"INSERT INTO {_picked(side)} {places} ON CONFLICT DO NOTHING")

    def _run(self, statement: str) -> int:
        cursor = self._connection.cursor()
        cursor.execute(statement)
        count: int = max(cursor.rowcount, 0)
        return count


def _picked(side: str) -> str:
    return side.replace("sbh_", "sbh_pick_")


def _staged(key: ForeignKey, child: Staging, parent: Staging) -> bool:
    return all(c in child.columns for c in key.columns) and all(c in parent.columns for c in key.parent_columns)


def _refers(key: ForeignKey, child: Staging, parent: Staging, x: str, y: str) -> str:
    return " AND ".join(
        f"{y}.{parent.columns[theirs]} {equals} {x}.{child.columns[own]}"
        for own, theirs, equals in zip(key.columns, key.parent_columns, key.operators, strict=True)
    )


def named_root(tenancy: TenancyMap, name: str, schemas: Sequence[str]) -> MappedTable:
    """The captured table that the choice names. Raises RequestError."""
    found: Table | None = tenancy.catalog.find(name, list(schemas))
    mapped = tenancy.find(found.full_name) if found else None
    if mapped is None:
        raise no_such_table(name, tenancy)
    return mapped


def no_such_table(name: str, tenancy: TenancyMap) -> RequestError:
    return RequestError(
        "No such table of tenants",
        on=ascii(name)[:100],
        remedy="one of: " + ", ".join(t.full_name for t in tenancy.tables)[:1000],
    )
