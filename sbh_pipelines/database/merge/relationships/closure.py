"""Chosen rows, with what hangs on them: the rows that refer to them, and the parents they cannot be without.

Works on staged tables that hold all rows of both sides. What is not chosen leaves them, and so is neither compared nor
written.

    roots        rows of one table that satisfy the condition: the backup's come back, live ones may go
    dependants   rows that refer to a chosen row by a foreign key or a declared condition, to any depth
    twins        the other side's row of the same key: a row is compared with what it is now
    parents      rows of the backup that a chosen row refers to, and that are not there any more; an existing one stays as it is
"""

from collections.abc import Callable, Mapping, Sequence

from sbh_pipelines.database.merge.relationships.links import Link, links_of, refers
from sbh_pipelines.database.merge.row_choice import RowChoice
from sbh_pipelines.database.merge.staging import Staging
from sbh_pipelines.database.schema.catalog import Table
from sbh_pipelines.database.schema.tenancy import MappedTable, TenancyMap
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.sql import ident
from sbh_pipelines.errors import RequestError, RestoreRefused

_ROUNDS = 1000  # depth of dependants; a chain of rows that refer to each other


def involved(tenancy: TenancyMap, root: MappedTable) -> list[MappedTable]:
    """The tables that chosen rows of `root` may lead to: descendants, and all their ancestors; in the map's order."""
    reached = {root.table.oid}
    links = links_of(tenancy)
    downwards = [(link.parent.table.oid, link.child.table.oid) for link in links]
    upwards = [(child, parent) for parent, child in downwards]
    for steps in (downwards, upwards):
        while found := {end for start, end in steps if start in reached} - reached:
            reached |= found
    return [t for t in tenancy.tables if t.table.oid in reached]


class Closure:
    """Chooses among the staged rows of the involved tables."""

    def __init__(self, connection: Connection, tenancy: TenancyMap, stagings: Mapping[int, Staging]) -> None:
        self._connection, self._stagings = connection, stagings
        ends = [(link, link.child.table.oid, link.parent.table.oid) for link in links_of(tenancy)]
        self._links = [
            (link, stagings[child], stagings[parent])
            for link, child, parent in ends
            if child in stagings and parent in stagings
        ]

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
        for link, child, parent in self._links:
            for own, theirs in ((child.want, parent.want), (child.have, parent.have)):
                with translated("choose rows", child.table.full_name):
                    found += self._pick(
                        own,
                        f"SELECT t.ctid FROM {refers(link, child, own, parent, theirs)}"
                        f" JOIN {_picked(theirs)} y ON y.place = p.ctid",
                    )
        return found

    def _twins(self) -> int:
        """The other side's rows of the keys that are chosen."""
        found = 0
        for staging in self._stagings.values():
            if not staging.keyed:
                found += self._twins_by_text(staging)
                continue
            for own, other in ((staging.want, staging.have), (staging.have, staging.want)):
                with translated("choose rows", staging.table.full_name):
                    found += self._pick(
                        other,
                        f"SELECT o.ctid FROM {other} o JOIN {own} x ON {staging.same_key('x', 'o')}"
                        f" JOIN {_picked(own)} p ON p.place = x.ctid",
                    )
        return found

    def _twins_by_text(self, staging: Staging) -> int:
        """Of rows without a key: those of nobody that were adopted for a chosen row of the backup."""
        if not staging.adopted:
            return 0
        with translated("choose rows", staging.table.full_name):
            return self._pick(
                staging.have,
                f"SELECT h.ctid FROM {staging.have} h WHERE h.nobodys AND {staging.record('h')}::text IN"
                f" (SELECT {staging.record('w')}::text FROM {staging.want} w"
                f" JOIN {_picked(staging.want)} p ON p.place = w.ctid)",
            )

    def _parents(self) -> int:
        """Rows of the backup that a chosen row of the backup refers to and that no live row of the tenant stands for."""
        found = 0
        for link, child, parent in self._links:
            with translated("choose rows", parent.table.full_name):
                found += self._pick(
                    parent.want,
                    f"SELECT p.ctid FROM {refers(link, child, child.want, parent, parent.want)}"
                    f" JOIN {_picked(child.want)} x ON x.place = t.ctid"
                    f" JOIN {parent.want} w ON w.ctid = p.ctid WHERE {_not_there(link, parent)}",
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


def _not_there(link: Link, parent: Staging) -> str:
    """The condition that the tenant has no row that can stand for the wanted row `w`."""
    pairs = zip(link.parent_columns, link.operators, strict=True)
    same = " AND ".join(f"h.{parent.columns[c]} {equals} w.{parent.columns[c]}" for c, equals in pairs)
    if link.join is not None:
        same = parent.same_key("h", "w") if parent.keyed else "false"
    return f"NOT EXISTS (SELECT FROM {parent.have} h WHERE {same} AND NOT h.nobodys)"


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
        remedy=_quoting(name, tenancy) or "one of: " + ", ".join(t.full_name for t in tenancy.tables)[:1000],
    )


def _quoting(name: str, tenancy: TenancyMap) -> str:
    """For a name that is one but for its capitals, which SQL gives up without quotes."""
    for table in tenancy.tables:
        for full in (table.full_name, table.table.name):
            if name == full.lower() and name != full:
                quoted = ".".join(map(ident, full.split(".", 1)))
                return f"names in capitals need double quotes in --rows: '{quoted} where ...'; in --tables write {full}"
    return ""
