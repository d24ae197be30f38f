"""Rows of nobody that will be the tenant's because what they hang on comes back, and that were not staged (see returning.py).

They hang on parents that no table was chosen for, or on some by a key that was broken; or the mode leaves them. Where the tenant
is to be exactly what it was they go. Else they stay, and an undo must know them: they were nobody's before.
"""

from collections.abc import Iterator, Mapping

from sbh_pipelines.database.merge.merge import TableMerge, place_columns
from sbh_pipelines.database.merge.relationships.links import Link
from sbh_pipelines.database.merge.relationships.parents import coming
from sbh_pipelines.database.schema.tenancy import MappedTable, TenancyMap
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.sql import free_name, ident


class Followers:
    """`find` for each table, parents first, once all merges are decided."""

    def __init__(
        self, connection: Connection, tenancy: TenancyMap, links: list[Link], merges: Mapping[int, TableMerge]
    ) -> None:
        self._connection, self._merges = connection, merges
        self._deciding = {link.child.table.oid: link for link in links if link.decides and link.foreseeable}
        self._numbers = {table.table.oid: number for number, table in enumerate(tenancy.tables, 1)}
        self._found: dict[int, MappedTable] = {}

    def find(self, table: MappedTable) -> int:
        """How many rows of the table follow."""
        link = self._deciding.get(table.table.oid)
        parents = list(self._parents(link)) if link is not None else []
        if link is None or not parents:
            return 0
        merge = self._merges.get(table.table.oid)
        listed = ", ".join(f"t.{ident(name)}" for name in table.captured_columns)
        text = f"ROW({listed})::text"
        part, place = place_columns(table)
        with translated("look for rows that follow their parents", table.full_name):
            cursor = self._connection.cursor()
            cursor.execute(
                f"CREATE TEMP TABLE {self.rows(table)} ON COMMIT DROP AS SELECT {listed}, t.tableoid AS {part},"
                f" t.ctid AS {place}, pg_catalog.row_number() OVER (PARTITION BY {text}) AS {_nth(table)} FROM {table.own_source}"
                f" WHERE EXISTS (SELECT FROM ({' UNION ALL '.join(parents)}) p WHERE {link.condition})"
                f" AND {table.belongs_to_nobody}"
            )
            if cursor.rowcount and merge is not None and merge.staging.adopted:
                self._without_adopted(merge, text)
            cursor.execute(f"SELECT count(*) FROM {self.rows(table)}")
            found: int = cursor.fetchone()[0]
        if found:
            self._found[table.table.oid] = table
        return found

    def rows(self, table: MappedTable) -> str:
        """A temporary table with the rows' columns under their names, and where they lie: `place_columns`."""
        return f"pg_temp.sbh_follows_{self._numbers[table.table.oid]}"

    def of(self, table: MappedTable) -> str | None:
        """`rows` of a table that has such."""
        return self.rows(table) if table.table.oid in self._found else None

    def _parents(self, link: Link) -> Iterator[str]:
        """SELECTs of the parent's rows that come, or follow themselves."""
        parent = link.parent
        listed = ", ".join(map(ident, parent.captured_columns))
        merge = self._merges.get(parent.table.oid)
        if merge is not None and (merge.todo_rows or merge.staging.adopted):
            yield f"SELECT {listed} FROM {merge.staging.named(coming(merge), 'q')}"
        if (rows := self.of(parent)) is not None:
            yield f"SELECT {listed} FROM {rows}"

    def _without_adopted(self, merge: TableMerge, text: str) -> None:
        """Leave out those that are staged as the tenant's already."""
        staging, rows, cursor = merge.staging, self.rows(merge.table), self._connection.cursor()
        if staging.keyed:
            same = staging.key_of_live("t", "h")
            cursor.execute(f"DELETE FROM {rows} t USING {staging.have} h WHERE h.nobodys AND {same}")
            return
        adopted = f"SELECT {staging.record('h')}::text AS sbh_text, count(*) AS n FROM {staging.have} h WHERE h.nobodys GROUP BY 1"
        cursor.execute(
            f"DELETE FROM {rows} t USING ({adopted}) a WHERE a.sbh_text = {text} AND t.{_nth(merge.table)} <= a.n"
        )


def _nth(table: MappedTable) -> str:
    """The name of a number beside all columns of the table: which of equal rows it is."""
    return free_name("sbh_n", table.captured_columns)
