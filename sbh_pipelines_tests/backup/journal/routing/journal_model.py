"""A small database in memory that knows whose each row is at each commit, and the stream that a server would give of it."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field

from sbh_pipelines.database.journal.identity import Leaf, TableIdentity
from sbh_pipelines.database.journal.messages import (
    Begin,
    Commit,
    Delete,
    Insert,
    Message,
    Relation,
    RelationColumn,
    Update,
)
from sbh_pipelines.database.schema.catalog import Column, ForeignKey, Table
from sbh_pipelines.database.schema.tenancy import INHERITED, OWNED, Hop, MappedTable

EQUAL = "OPERATOR(pg_catalog.=)"


def column(name: str, type_: str = "integer") -> Column:
    return Column(name, type_, True, False, False, "", None, None, EQUAL, True)


def table(oid: int, name: str, *columns: str, parent: int = 0) -> Table:
    key = ForeignKey(f"{name}_key", oid, parent, (columns[1],), ("id",), (EQUAL,))
    return Table(
        oid,
        "public",
        name,
        "r",
        tuple(column(c) for c in columns),
        ("id",),
        False,
        0,
        (key,) if parent else (),
        (EQUAL,),
    )


PROJECTS = table(1, "projects", "id", "tenant_id", "title")
TASKS = table(2, "tasks", "id", "project_id", "title", parent=1)
COMMENTS = table(3, "comments", "id", "task_id", "title", parent=2)
TO_PROJECT = Hop(PROJECTS, ("project_id",), ("id",), (EQUAL,))
TO_TASK = Hop(TASKS, ("task_id",), ("id",), (EQUAL,))
TENANT = column("tenant_id")
MAPPED = (
    MappedTable(PROJECTS, OWNED, "database", (), TENANT, ""),
    MappedTable(TASKS, INHERITED, "database", (TO_PROJECT,), TENANT, ""),
    MappedTable(COMMENTS, INHERITED, "database", (TO_TASK, TO_PROJECT), TENANT, ""),
)
TABLES = (PROJECTS, TASKS, COMMENTS)
Row = tuple[bytes, bytes | None, bytes]  # id, link, title


@dataclass
class Model:
    """Rows by table and id. Foreign keys hold at each commit: what is deleted takes along what follows it."""

    rows: list[dict[bytes, Row]] = field(default_factory=lambda: [{}, {}, {}])
    messages: list[Message] = field(default_factory=list)
    full: bool = True
    lsn: int = 1000
    xid: int = 700

    def owner(self, nth: int, row: Row) -> bytes | None:
        while nth:
            if row[1] is None:
                return None
            found = self.rows[nth - 1].get(row[1])
            if found is None:
                return None
            nth, row = nth - 1, found
        return row[1]

    def by_tenant(self) -> dict[tuple[int, bytes], dict[bytes, bytes]]:
        """COPY text of the rows by (table, tenant) and id."""
        found: dict[tuple[int, bytes], dict[bytes, bytes]] = {}
        for nth, rows in enumerate(self.rows):
            for row in rows.values():
                owner = self.owner(nth, row)
                if owner is not None:
                    found.setdefault((nth, owner), {})[row[0]] = b"\t".join(
                        rb"\N" if value is None else value for value in row
                    )
        return found

    def begin(self) -> None:
        self.xid += 1
        self.lsn += 10
        self.messages.append(Begin(self.lsn, self.lsn, self.xid))

    def commit(self) -> int:
        self.lsn += 8
        self.messages.append(Commit(self.lsn, self.lsn, self.lsn - 8))
        return self.lsn

    def insert(self, nth: int, row: Row) -> None:
        if row[0] not in self.rows[nth] and self._fits(nth, row):
            self.rows[nth][row[0]] = row
            self.messages.append(Insert(nth + 1, row))

    def update(self, nth: int, key: bytes, row: Row) -> None:
        """A new key goes on to what follows the row, as ON UPDATE CASCADE does."""
        old = self.rows[nth].get(key)
        if old is None or not self._fits(nth, row) or (row[0] != key and row[0] in self.rows[nth]):
            return
        del self.rows[nth][key]
        self.rows[nth][row[0]] = row
        kind: str | None = "O"
        sent: tuple[bytes | None, ...] = old
        if not self.full:
            kind, sent = ("K", (old[0], old[1], None)) if old[:2] != row[:2] else (None, ())
        self.messages.append(Update(nth + 1, kind, sent, row))
        if row[0] != key and nth < 2:
            for child in [child for child in self.rows[nth + 1].values() if child[1] == key]:
                self.update(nth + 1, child[0], (child[0], row[0], child[2]))

    def delete(self, nth: int, key: bytes) -> None:
        row = self.rows[nth].pop(key, None)
        if row is None:
            return
        self.messages.append(Delete(nth + 1, "O", row) if self.full else Delete(nth + 1, "K", (row[0], row[1], None)))
        if nth < 2:
            for child in [child for child in self.rows[nth + 1].values() if child[1] == key]:
                self.delete(nth + 1, child[0])

    def _fits(self, nth: int, row: Row) -> bool:
        return nth == 0 or row[1] is None or row[1] in self.rows[nth - 1]

    def relations(self) -> Iterator[Relation]:
        for nth, one in enumerate(TABLES):
            columns = tuple(
                RelationColumn(self.full or at < 2, column.name, 23, -1) for at, column in enumerate(one.columns)
            )
            yield Relation(nth + 1, "public", one.name, "f" if self.full else "i", columns)

    def identities(self) -> dict[str, TableIdentity]:
        found = {}
        for one in TABLES:
            columns = tuple(c.name for c in one.columns)[: 3 if self.full else 2]
            kind = "f" if self.full else "i"
            leaf = Leaf(one.oid, "public", one.name, "r", "p", kind, columns, columns, (), (), False)
            found[one.full_name] = TableIdentity(one.full_name, one.oid, "r", (leaf,), True, "x")
        return found

    def copied(self) -> list[dict[bytes, Row]]:
        return deepcopy(self.rows)
