"""The ways from journaled rows to their tenants, as numbers: what decoding and routing go by. Values without I/O.

A row is its tenant's by a column of its own, or by a key that leads to a row of another table, which is a tenant's in one of
the two ways. The columns that say it are the table's *link*. A table that others lead to has an *index* for each set of columns
by which its rows are found.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sbh_pipelines.database.schema.catalog import ForeignKey, Table
from sbh_pipelines.database.schema.tenancy import Hop, MappedTable

Link = tuple[bytes | None, ...]
"""Values of a row's link, as the types' output functions write them."""

Key = tuple[bytes, ...]
"""Values by which a row is found in an index."""


@dataclass(frozen=True, slots=True)
class Route:
    """A table and where its link leads.

    Attributes:
        number: Of the table, among those of the plan.
        table: The table; of partitions the root.
        link: Names of the columns that say whose a row is.
        leads_to: Number of the index that the link is looked up in; None where it is the tenant's key itself.
        indexes: Numbers of the indexes over this table's own rows.
        quick: Whether the rows that have a link are found without looking through a large table.
    """

    number: int
    table: MappedTable
    link: tuple[str, ...]
    leads_to: int | None
    indexes: tuple[int, ...]
    quick: bool = True

    @property
    def name(self) -> str:
        return self.table.full_name


@dataclass(frozen=True, slots=True)
class Index:
    """How the rows of one table are found by what others hold.

    Attributes:
        number: Of the index, among those of the plan.
        route: Number of the table whose rows are found.
        columns: Names of its columns that are looked up.
        hops: The steps that look them up, one of each table that leads here.
        loose: Whether the server lets a row refer to one that is not there: then rows change hands when that comes or goes. A key
            that was never validated counts as such where the rows that refer to nothing cannot be looked for.
    """

    number: int
    route: int
    columns: tuple[str, ...]
    hops: tuple[Hop, ...]
    loose: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """All journaled tables.

    Attributes:
        routes: By number.
        indexes: By number; one that leads on to another comes before that.
        followers: For each table the numbers of those whose rows change hands with its own, to any depth.
        left_out: Tables that cannot be journaled here, and why.
    """

    routes: tuple[Route, ...]
    indexes: tuple[Index, ...]
    followers: tuple[tuple[int, ...], ...]
    left_out: dict[str, str] = field(default_factory=dict)

    def find(self, name: str) -> Route | None:
        """The table of this full name."""
        return next((route for route in self.routes if route.name == name), None)


def plan_routes(tables: Sequence[MappedTable], quick: Callable[[MappedTable], bool] = lambda _: True) -> Plan:
    """The plan for these tables, of which each one that another leads to must be one itself, and comes before it.

    `quick`: `Route.quick` of a table. Tables for which that is not so are left out, and those that lead to them.
    """
    left_out: dict[str, str] = {}
    taken: dict[int, MappedTable] = {}
    for table in tables:
        if why := _why_not(table, taken):
            left_out[table.full_name] = why
        else:
            taken[table.table.oid] = table
    numbers = {oid: number for number, oid in enumerate(taken)}
    found: dict[tuple[int, tuple[str, ...]], list[MappedTable]] = {}
    # Deepest first: what is found in an index leads on to one that comes later.
    for table in sorted(taken.values(), key=lambda table: -table.depth):
        if table.hops:
            hop = table.hops[0]
            found.setdefault((numbers[hop.parent.oid], hop.parent_columns), []).append(table)
    where = {of: number for number, of in enumerate(found)}
    indexes = tuple(
        Index(
            where[of],
            of[0],
            of[1],
            tuple(table.hops[0] for table in children),
            any(_loose(table, quick(table)) for table in children),
        )
        for of, children in found.items()
    )
    routes = tuple(
        Route(
            number,
            table,
            table.linking_columns,
            where[(numbers[table.hops[0].parent.oid], table.hops[0].parent_columns)] if table.hops else None,
            tuple(index.number for index in indexes if index.route == number),
            quick(table),
        )
        for number, table in enumerate(taken.values())
    )
    followers = tuple(
        tuple(
            other.number for other in routes if any(hop.parent.oid == route.table.table.oid for hop in other.table.hops)
        )
        for route in routes
    )
    return Plan(routes, indexes, followers, left_out)


def _why_not(table: MappedTable, taken: dict[int, MappedTable]) -> str:
    if not table.table.primary_key:
        return "it has no primary key"
    if not table.tenant_column.exact:
        return f"equal values of {table.tenant_column.name} may be written in several ways"
    if not table.hops:
        return ""
    hop = table.hops[0]
    if hop.join is not None:
        return "a condition leads to its tenant, and not a key"
    parent = taken.get(hop.parent.oid)
    if parent is None:
        return f"whose its rows are, {hop.parent.full_name} says, which is not journaled"
    if parent.hops != table.hops[1:]:
        return f"its way from {hop.parent.full_name} to the tenant is not that of that table's own rows"
    for own, theirs in zip(hop.columns, hop.parent_columns, strict=True):
        columns = table.table.column(own), hop.parent.column(theirs)
        if not all(column is not None and column.exact for column in columns):
            return f"equal values of {own} may be written in several ways"
        if len({column.type.partition("(")[0] for column in columns if column}) > 1 and not _valid(table.table, hop):
            return f"{own} is of another type than what it leads to, and may lead to nothing"
    return ""


def _loose(table: MappedTable, quick: bool) -> bool:
    hop = table.hops[0]
    return not _enforced(table.table, hop) or not (quick or _valid(table.table, hop))


def _enforced(table: Table, hop: Hop) -> bool:
    """Whether the server sees to it that the row that a hop leads to is there."""
    return any(key.enforced and _is_of(key, hop) for key in (*table.foreign_keys, *table.doubtful_keys))


def _valid(table: Table, hop: Hop) -> bool:
    """Whether it has done so for every row."""
    return any(_is_of(key, hop) for key in table.foreign_keys)


def _is_of(key: ForeignKey, hop: Hop) -> bool:
    pairs = zip(key.columns, key.parent_columns, strict=True)
    return key.parent == hop.parent.oid and set(pairs) == set(zip(hop.columns, hop.parent_columns, strict=True))
