"""What comes of references to rows that a restore removes: rows that go too, and rows that lose their reference.

A replica session does nothing of what foreign keys declare, so it is written here, by the places of the rows.
"""

from dataclasses import dataclass, field

from sbh_pipelines.database.capture.changes import ages, snapshot_xmin
from sbh_pipelines.database.merge.foreign_keys import enforced_keys
from sbh_pipelines.database.schema.catalog import ForeignKey, Table
from sbh_pipelines.database.schema.tenancy import TenancyMap
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.sql import from_only, ident, literal
from sbh_pipelines.errors import ProofFailed


@dataclass(slots=True)
class Found:
    """A temporary table with the places of rows of one table that refer to rows which go."""

    key: ForeignKey
    child: Table
    name: str
    rows: int


@dataclass(slots=True)
class Consequences:
    """`apply` writes them. One restore's.

    Attributes:
        connection: in the restore's transaction.
        tenancy: which tables there are.
        going: rows that are deleted too, by table.
        losing: rows whose reference is taken away, by table.
    """

    connection: Connection
    tenancy: TenancyMap
    going: dict[int, list[Found]] = field(default_factory=dict)
    losing: dict[int, list[Found]] = field(default_factory=dict)

    @property
    def own_tables(self) -> list[str]:
        """Tables of this tenant, beside those that are restored, in which rows are changed."""
        changed = self.going.keys() | self.losing.keys()
        return [t.full_name for t in self.tenancy.tables if t.table.oid in changed]

    @property
    def written(self) -> dict[int, tuple[int, int, int]]:
        """(inserted, updated, deleted) rows by table, as `written_by` counts them."""
        return {
            oid: (0, self._rows(self.losing.get(oid, []), oid), self._rows(self.going.get(oid, []), oid, going=True))
            for oid in self.going.keys() | self.losing.keys()
        }

    def apply(self) -> None:
        """Do what was decided. Raises ProofFailed where a row was not there any more, and the source's errors."""
        for oid, losing in self.losing.items():
            self._take_references(oid, losing)
        for oid, going in reversed(self.going.items()):
            with translated("delete rows that refer to others", self.table(oid).full_name):
                cursor = self.connection.cursor()
                deleted = 0
                for found in going:
                    cursor.execute(
                        f"DELETE FROM {from_only(found.child)} AS t USING {found.name} r"
                        " WHERE t.tableoid = r.part AND t.ctid = r.place"
                    )
                    deleted += cursor.rowcount
            self._check(oid, deleted, self._rows(going, oid, going=True))

    def late(self, other: Connection, snapshot: str) -> list[str]:
        """Tables with rows that others wrote since `snapshot` and that refer to rows deleted here.

        `other` is another connection, which sees what was committed meanwhile.
        """
        xmin = snapshot_xmin(snapshot)
        found = []
        for key in enforced_keys(self.tenancy):
            child = self.table(key.table)
            for going in self.going.get(key.parent, []):
                age = ages(other, [xmin])[xmin]
                with translated("look for late references", child.full_name):
                    cursor = other.cursor()
                    listed = ", ".join(f"t.{ident(c)}::text" for c in key.columns)
                    cursor.execute(
                        f"SELECT DISTINCT {listed} FROM {from_only(child)} AS t WHERE pg_catalog.age(t.xmin) BETWEEN 0 AND {age}"
                    )
                    rows = [row for row in cursor.fetchall() if None not in row]
                    if not rows:
                        continue
                    texts = ", ".join(f"({', '.join(map(literal, row))})" for row in rows)
                    mine = self.connection.cursor()
                    given = ", ".join(f"r.{ident(c)}::text" for c in key.parent_columns)
                    mine.execute(f"SELECT EXISTS (SELECT FROM {going.name} r WHERE ({given}) IN ({texts}))")
                    if mine.fetchone()[0]:
                        found.append(child.full_name)
        return sorted(set(found))

    def new_values(self, key: ForeignKey, child: Table) -> dict[str, tuple[str, bool]]:
        """What the columns that lose their reference get, as SQL, and whether they must not be NULL."""
        with translated("read the defaults of columns", child.full_name):
            cursor = self.connection.cursor()
            cursor.execute(
                "SELECT a.attname, pg_get_expr(d.adbin, d.adrelid), a.attnotnull FROM pg_attribute a"
                " LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.attgenerated = ''"
                " WHERE a.attrelid = %s AND a.attname = ANY(%s)",
                (child.oid, list(key.delete_columns or key.columns)),
            )
            found = cursor.fetchall()
        sets_null = key.on_delete == "n"
        return {
            name: ("NULL" if sets_null or default is None else f"({default})", required)
            for name, default, required in found
        }

    def table(self, oid: int) -> Table:
        catalog = self.tenancy.catalog
        return catalog.tables.get(oid) or catalog.outside[oid]

    def _rows(self, found: list[Found], oid: int, *, going: bool = False) -> int:
        if going:
            return sum(f.rows for f in found)
        if not found:
            return 0
        places = " UNION ".join(f"SELECT part, place FROM {f.name}" for f in found)
        gone = "".join(f" EXCEPT SELECT part, place FROM {f.name}" for f in self.going.get(oid, []))
        cursor = self.connection.cursor()
        cursor.execute(f"SELECT count(*) FROM (SELECT * FROM ({places}) losing{gone}) rows_that_lose")
        rows: int = cursor.fetchone()[0]
        return rows

    def _take_references(self, oid: int, losing: list[Found]) -> None:
        """One UPDATE of a table: a row that is written twice has moved when its place is looked for again."""
        table = self.table(oid)
        among = {
            f.name: f"EXISTS (SELECT FROM {f.name} r WHERE r.part = t.tableoid AND r.place = t.ctid)" for f in losing
        }
        cases: dict[str, list[str]] = {}
        for found in losing:
            for column, (value, _) in self.new_values(found.key, found.child).items():
                cases.setdefault(column, []).append(f"WHEN {among[found.name]} THEN {value}")
        set_list = ", ".join(f"{ident(c)} = CASE {' '.join(whens)} ELSE t.{ident(c)} END" for c, whens in cases.items())
        gone = "".join(
            f" AND NOT EXISTS (SELECT FROM {f.name} r WHERE r.part = t.tableoid AND r.place = t.ctid)"
            for f in self.going.get(oid, [])
        )
        expected = self._rows(losing, oid)
        with translated("take references away", table.full_name):
            cursor = self.connection.cursor()
            cursor.execute(f"UPDATE {from_only(table)} AS t SET {set_list} WHERE ({' OR '.join(among.values())}){gone}")
            self._check(oid, cursor.rowcount, expected)

    def _check(self, oid: int, written: int, decided: int) -> None:
        if written != decided:
            raise ProofFailed(
                "Rows that refer to others could not be changed; rolled back",
                on=self.table(oid).full_name,
                why=f"{decided} were to be, {written} were",
                remedy="look for ENABLE ALWAYS or REPLICA triggers on the table; nothing was changed",
            )
