"""Rows that come back, and the rows they hang on: whether these will be there, and be the tenant's.

A table that was chosen alone may be of no use alone: its rows hang on parents that are gone, or that are nobody's now, to any
depth. Such parents come back with it, and nothing else of their tables.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sbh_pipelines.database.merge.merge import TableMerge
from sbh_pipelines.database.merge.read_back import check_staged, sum_staged
from sbh_pipelines.database.merge.relationships.links import Link
from sbh_pipelines.database.merge.staging import Staging
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.sql import from_only


@dataclass(frozen=True, slots=True)
class Strangers:
    """Rows that would be written and not be the tenant's.

    Attributes:
        table: their full name.
        parent: full name of the table whose rows they hang on; empty where they name their tenant themselves.
        rows: how many.
    """

    table: str
    parent: str
    rows: int


def strangers(connection: Connection, merges: Mapping[int, TableMerge], links: list[Link]) -> Iterator[Strangers]:
    """What would not be the tenant's once all was written. Needs `decide`; by the oids of tables."""
    for merge in merges.values():
        if not merge.table.hops and merge.todo_rows:
            with translated("look whose rows they are", merge.table.full_name):
                cursor = connection.cursor()
                cursor.execute(
                    f"SELECT count(*) FROM {merge.staging.named(_own(merge), 't')}"
                    f" WHERE NOT coalesce({merge.table.tenant_is([merge.staging.tenant_key])}, false)"
                )
                if rows := cursor.fetchone()[0]:
                    yield Strangers(merge.table.full_name, "", rows)
    for link in links:
        child, parent = merges.get(link.child.table.oid), merges.get(link.parent.table.oid)
        if not link.decides or child is None or not (child.todo_rows or child.staging.adopted):
            continue
        if not link.foreseeable:
            continue  # what was written is asked whose it is before the commit
        if parent is not None and not parent.staging.keyed:
            continue  # which of its rows go is known by their texts only: what is read back will tell
        with translated("look whose rows they are", link.child.full_name):
            cursor = connection.cursor()
            cursor.execute(
                f"SELECT count(*) FROM {child.staging.named(coming(child), 't')} WHERE {_lacks(link, child, parent)}"
            )
            if rows := cursor.fetchone()[0]:
                yield Strangers(link.child.full_name, link.parent.full_name, rows)


class LostParents:
    """The parents that chosen tables need, found level by level.

    `lacking` names tables to be compared; `add` each with all that differs of it. Then `finish` leaves only what is needed.
    """

    def __init__(self, connection: Connection, links: list[Link], merges: Mapping[int, TableMerge]) -> None:
        self._connection, self._merges = connection, merges
        self._links = [link for link in links if link.foreseeable]
        self._parents: dict[int, Staging] = {}

    def lacking(self) -> Link | None:
        """A link to a table that is neither chosen nor added, and whose rows are needed."""
        while self._pick():
            pass
        for link in self._links:
            parent = link.parent.table.oid
            if parent in self._merges or parent in self._parents:
                continue
            if (rows := self._rows(link)) is not None and self._ask(
                f"SELECT EXISTS (SELECT FROM {rows} WHERE {self._needs(link)})", link
            ):
                return link
        return None

    def give_up(self, link: Link) -> None:
        """Go on without rows of the table that the link leads to."""
        self._links = [other for other in self._links if other.parent.table.oid != link.parent.table.oid]

    def add(self, staging: Staging) -> None:
        self._parents[staging.table.table.oid] = staging
        with translated("look for parents", staging.table.full_name):
            self._connection.cursor().execute(
                f"CREATE TEMP TABLE {_picked(staging)} (place tid PRIMARY KEY) ON COMMIT DROP"
            )

    def finish(self) -> None:
        """Leave only the picked rows in what was added, and the rows of nobody that have their keys."""
        for staging in self._parents.values():
            check_staged(staging)
            with translated("look for parents", staging.table.full_name):
                cursor = self._connection.cursor()
                cursor.execute(
                    f"DELETE FROM {staging.want} w WHERE NOT EXISTS"
                    f" (SELECT FROM {_picked(staging)} p WHERE p.place = w.ctid)"
                )
                cursor.execute(
                    f"DELETE FROM {staging.have} h WHERE NOT (h.nobodys AND EXISTS"
                    f" (SELECT FROM {staging.want} w WHERE {staging.same_key('w', 'h')}))"
                )
            sum_staged(staging)
            staging.finish()

    def _pick(self) -> int:
        found = 0
        for link in self._links:
            parent = self._parents.get(link.parent.table.oid)
            if parent is None or (rows := self._rows(link)) is None:
                continue
            there = f"NOT EXISTS (SELECT FROM {parent.have} h WHERE {parent.same_key('h', 'w')} AND NOT h.nobodys)"
            found += self._run(
                f"INSERT INTO {_picked(parent)} SELECT p.ctid FROM {rows} JOIN {parent.placed(parent.want, 'p')}"
                f" ON {link.condition} JOIN {parent.want} w ON w.ctid = p.ctid WHERE {self._needs(link)} AND {there}"
                " ON CONFLICT DO NOTHING",
                link,
            )
        return found

    def _rows(self, link: Link) -> str | None:
        """A FROM item: the rows of the child that are to be there, as `t`."""
        oid = link.child.table.oid
        if (merge := self._merges.get(oid)) is not None:
            return merge.staging.named(coming(merge), "t") if merge.todo_rows or merge.staging.adopted else None
        if (staging := self._parents.get(oid)) is not None:
            picked = f"(SELECT x.* FROM {staging.want} x JOIN {_picked(staging)} y ON y.place = x.ctid)"
            return staging.named(picked, "t")
        return None

    def _needs(self, link: Link) -> str:
        child = self._merges.get(link.child.table.oid)
        staging = child.staging if child is not None else self._parents[link.child.table.oid]
        return _lacks_live(link, staging.tenant_key)

    def _run(self, statement: str, link: Link) -> int:
        with translated("look for parents", link.parent.full_name):
            cursor = self._connection.cursor()
            cursor.execute(statement)
            return max(int(cursor.rowcount), 0)

    def _ask(self, query: str, link: Link) -> bool:
        with translated("look for parents", link.parent.full_name):
            cursor = self._connection.cursor()
            cursor.execute(query)
            return bool(cursor.fetchone()[0])


def _picked(staging: Staging) -> str:
    return f"pg_temp.sbh_parents_{staging.number}"


def coming(merge: TableMerge) -> str:
    """A FROM item of staged columns: rows that come back, and rows of nobody that stay as they are and are to be the tenant's."""
    columns = ", ".join(merge.staging.columns.values())
    same = f"g.sbh_text = {merge.staging.record('h')}::text"
    if merge.staging.keyed:
        same = merge.staging.same_key("g", "h")
    stays = f"NOT EXISTS (SELECT FROM {merge.gone} g WHERE {same})"
    return (
        f"(SELECT {columns} FROM {_own(merge)} own UNION ALL"
        f" SELECT {columns} FROM {merge.staging.have} h WHERE h.nobodys AND {stays})"
    )


def _own(merge: TableMerge) -> str:
    """A FROM item: rows that come back and are to be the tenant's."""
    return f"(SELECT w.* FROM {merge.todo} w WHERE {merge.staging.is_own('w')})"


def _lacks_live(link: Link, tenant_key: str) -> str:
    """The condition that no live row stands for the parent of `t`: one of the tenant, where the parent decides whose `t` is."""
    if not link.decides:
        return f"({link.filled}) AND NOT EXISTS (SELECT FROM {from_only(link.parent.table)} p WHERE {link.condition})"
    mine = f"(SELECT t.* FROM {link.parent.source} WHERE {link.parent.tenant_is([tenant_key])})"
    return f"NOT EXISTS (SELECT FROM {mine} AS p WHERE {link.condition})"


def _lacks(link: Link, child: TableMerge, parent: TableMerge | None) -> str:
    """The condition that `t` will have no parent of this tenant."""
    key = child.staging.tenant_key
    if parent is None:
        return _lacks_live(link, key)
    staging = parent.staging
    stays = f"NOT EXISTS (SELECT FROM {parent.gone} g WHERE {staging.key_of_live('t', 'g')})"
    mine = f"(SELECT t.* FROM {link.parent.source} WHERE {link.parent.tenant_is([key])} AND {stays})"
    return (
        f"NOT EXISTS (SELECT FROM {mine} AS p WHERE {link.condition})"
        f" AND NOT EXISTS (SELECT FROM {staging.named(coming(parent), 'p')} WHERE {link.condition})"
    )
