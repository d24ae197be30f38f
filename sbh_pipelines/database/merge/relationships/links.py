"""What ties the rows of one captured table to those of another: foreign keys, and the conditions that settings declare."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from sbh_pipelines.database.merge.staging import Staging
from sbh_pipelines.database.schema.catalog import ForeignKey
from sbh_pipelines.database.schema.tenancy import Hop, MappedTable, TenancyMap
from sbh_pipelines.database.session.sql import ident

_SUB_QUERY = re.compile(r"\bselect\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Link:
    """Rows of `child` hang on rows of `parent`.

    Attributes:
        child: the table whose rows refer.
        parent: the table they refer to.
        columns: the child's, of a foreign key.
        parent_columns: the parent's.
        operators: parent's column = own column.
        join: the condition over t (the child) and p (the parent), where settings declare one.
        decides: whether a row is the tenant's because its parent is.
    """

    child: MappedTable
    parent: MappedTable
    columns: tuple[str, ...]
    parent_columns: tuple[str, ...]
    operators: tuple[str, ...]
    join: str | None
    decides: bool

    @property
    def condition(self) -> str:
        """SQL over rows `t` of the child and `p` of the parent, under the names of their columns."""
        if self.join is not None:
            return f"({self.join})"
        pairs = zip(self.parent_columns, self.operators, self.columns, strict=True)
        return " AND ".join(f"p.{ident(theirs)} {equals} t.{ident(own)}" for theirs, equals, own in pairs)

    @property
    def filled(self) -> str:
        """SQL over `t`: the row refers to something."""
        return " AND ".join(f"t.{ident(column)} IS NOT NULL" for column in self.columns) or "true"

    @property
    def staged(self) -> bool:
        """Whether the columns that it needs are staged: generated ones are not."""
        for table, columns in ((self.child, self.columns), (self.parent, self.parent_columns)):
            generated = [c.name for c in table.table.columns if c.generated]
            said = self.join or ""
            # nosemgrep: expression-of-others - escaped
            if any(c in columns or re.search(rf"(?<!\w){re.escape(c)}(?!\w)", said) for c in generated):
                return False
        return True

    @property
    def foreseeable(self) -> bool:
        """Whether staged rows tell what it will give: a sub-query reads tables as they are, not as they are to be."""
        return self.join is None or not _SUB_QUERY.search(self.join)


def links_of(tenancy: TenancyMap) -> list[Link]:
    """All links between captured tables, by child in the order of the map. What the server does not enforce is none."""
    mapped = {table.table.oid: table for table in tenancy.tables}
    return [link for table in tenancy.tables for link in _of_table(table, mapped) if link.staged]


def _of_table(table: MappedTable, mapped: dict[int, MappedTable]) -> Iterator[Link]:
    hop = table.hops[0] if table.hops else None
    if hop is not None and (parent := mapped.get(hop.parent.oid)) is not None:
        yield Link(table, parent, hop.columns, hop.parent_columns, hop.operators, hop.join, decides=True)
    for key in (*table.table.foreign_keys, *table.table.doubtful_keys):
        parent = mapped.get(key.parent)
        if parent is not None and key.enforced and not _same(key, hop):
            yield Link(table, parent, key.columns, key.parent_columns, key.operators, None, decides=False)


def _same(key: ForeignKey, hop: Hop | None) -> bool:
    return hop is not None and hop.parent.oid == key.parent and hop.columns == key.columns and hop.join is None


def refers(link: Link, child: Staging, child_rows: str, parent: Staging, parent_rows: str) -> str:
    """A FROM item: staged rows of both tables, `t` and `p`, that belong together."""
    return f"{child.placed(child_rows, 't')} JOIN {parent.placed(parent_rows, 'p')} ON {link.condition}"
