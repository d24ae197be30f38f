"""The tenancy map: which rows of which table are a tenant's.

Every table of the mapped schemas gets a status. A table that is neither owned, inherited, declared, shared nor excluded
stops every backup with an error that names it: nothing is ever silently left out.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sbh_pipelines.database.schema.catalog import Catalog, Column, ForeignKey, Table, read_catalog
from sbh_pipelines.database.session.connection import Connection
from sbh_pipelines.database.session.sql import from_only, ident, literal
from sbh_pipelines.errors import TenancyError
from sbh_pipelines.settings import Settings, TableLink

OWNED, INHERITED, DECLARED, TENANTS = "owned", "inherited", "declared", "tenants"
SHARED, EXCLUDED = "shared", "excluded"
UNMAPPED, AMBIGUOUS = "unmapped", "ambiguous"


@dataclass(frozen=True, slots=True)
class TableStatus:
    """How one table is mapped, for people: `sbh doctor` prints these."""

    schema: str
    name: str
    status: str
    why: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Hop:
    """One step from a table to the table that decides its tenant: by a foreign key, or by a declared condition."""

    parent: Table
    columns: tuple[str, ...] = ()
    parent_columns: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()  # the foreign key's own: types may bring an equality that is not pg_catalog's
    join: str | None = None  # SQL over the aliases t (the child) and p (the parent)

    def sql(self, child: str, parent: str) -> str:
        """The JOIN that adds the parent under the alias `parent`."""
        if self.join is None:
            pairs = zip(self.columns, self.parent_columns, self.operators, strict=True)
            condition = " AND ".join(
                f"{parent}.{ident(theirs)} {equals} {child}.{ident(own)}" for own, theirs, equals in pairs
            )
            return f"JOIN {from_only(self.parent)} AS {parent} ON {condition}"
        # LIMIT 1: a condition that two parents satisfy must not duplicate the row.
        return (
            f"CROSS JOIN LATERAL (SELECT p.* FROM (SELECT {child}.*) AS t, {from_only(self.parent)} AS p"
            f" WHERE ({self.join}) LIMIT 1) AS {parent}"
        )


@dataclass(frozen=True, slots=True)
class MappedTable:
    """A captured table and the way from its rows to their tenant: no hop for owned tables, one for each inheritance."""

    table: Table
    status: str
    component: str  # database or config
    hops: tuple[Hop, ...]
    tenant_column: Column  # of the last hop's table
    why: str

    @property
    def full_name(self) -> str:
        return self.table.full_name

    @property
    def encoding(self) -> str:
        """What the rows' COPY text is in."""
        return self.table.encoding

    @property
    def depth(self) -> int:
        return len(self.hops)

    @property
    def source(self) -> str:
        """FROM items in which the table is `t` and every row appears at most once."""
        aliases = ["t", *(f"p{n}" for n in range(1, self.depth + 1))]
        joins = [hop.sql(child, parent) for hop, child, parent in zip(self.hops, aliases, aliases[1:], strict=False)]
        return " ".join([f"{from_only(self.table)} AS t", *joins])

    @property
    def tenant(self) -> str:
        """The tenant's key, as an expression over `source`."""
        alias = f"p{self.depth}" if self.hops else "t"
        return f"{alias}.{ident(self.tenant_column.name)}"

    @property
    def captured_columns(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.table.columns if not c.generated)

    def tenant_is(self, keys: Sequence[str]) -> str:
        """Condition: the row belongs to one of the tenants with these keys.

        The keys are written out: names and join conditions may contain `%`, which would be taken for placeholders.
        """
        listed = f"ARRAY[{', '.join(map(literal, keys))}]::text[]::{self.tenant_column.type}[]"
        return f"{self.tenant} {self.tenant_column.equality} ANY({listed})"

    def tenant_number(self, keys: Sequence[str]) -> str:
        """SQL: which of the tenants with these keys, counted from 1, a row of theirs belongs to, as the type's equality says.

        For a row whose key is spelled in another way than the tenant's (`ACME` and `acme` of citext, 1.0 and 1) as well.
        """
        if len(keys) == 1:
            return "1"
        return f"array_position(ARRAY[{', '.join(map(literal, keys))}]::text[]::{self.tenant_column.type}[], {self.tenant})"

    @property
    def belongs_to_nobody(self) -> str:
        """Condition over `own_source` alone: the row has no tenant. Its way to one ends at a NULL, or at no row.

        A row whose tenant is not listed in the tenants table has one, and does not count.
        """
        if not self.hops:
            return f"{self.tenant} IS NULL"
        aliases = ["t", *(f"p{n}" for n in range(1, self.depth + 1))]
        joins = [hop.sql(child, parent) for hop, child, parent in zip(self.hops, aliases, aliases[1:], strict=False)]
        return f"NOT EXISTS (SELECT FROM (SELECT) AS way {' '.join(joins)} WHERE {self.tenant} IS NOT NULL)"

    @property
    def linking_columns(self) -> tuple[str, ...]:
        """The table's own columns that say whose a row is."""
        if not self.hops:
            return (self.tenant_column.name,)
        hop = self.hops[0]
        if hop.join is None:
            return hop.columns
        return tuple(c.name for c in self.table.columns if re.search(rf"(?<!\w){re.escape(c.name)}(?!\w)", hop.join))

    @property
    def own_source(self) -> str:
        """FROM item of all rows of the table, whoever's they are, as `t`."""
        return f"{from_only(self.table)} AS t"

    @property
    def always_belongs(self) -> bool:
        """Whether the schema rules out rows of nobody: NOT NULL and foreign keys all the way. Needs a table of the catalogue."""
        table = self.table
        for hop in self.hops:
            if hop.join is not None or not _required(table, hop.columns):
                return False
            if not any(key.columns == hop.columns and key.parent == hop.parent.oid for key in table.foreign_keys):
                return False
            table = hop.parent
        return _required(table, (self.tenant_column.name,))


def _required(table: Table, columns: tuple[str, ...]) -> bool:
    return all((column := table.column(name)) and column.not_null for name in columns)


@dataclass(frozen=True, slots=True)
class TenancyMap:
    tables: tuple[MappedTable, ...]  # captured ones, parents before their children
    statuses: tuple[TableStatus, ...]  # all tables
    catalog: Catalog

    def find(self, full_name: str) -> MappedTable | None:
        return next((t for t in self.tables if t.full_name == full_name), None)


def load_map(connection: Connection, settings: Settings) -> TenancyMap:
    """The tenancy map. Raises TenancyError naming every table that is unmapped or ambiguous."""
    tenancy = survey_map(connection, settings)
    bad = [s for s in tenancy.statuses if s.status in (UNMAPPED, AMBIGUOUS)]
    if bad:
        raise TenancyError(
            f"{len(bad)} table{'s are' if len(bad) > 1 else ' is'} not mapped to tenants",
            on=", ".join(f"{s.schema}.{s.name}" for s in bad[:20]),
            why="; ".join(f"{s.name}: {s.why}" for s in bad[:5]),
            remedy="; ".join(dict.fromkeys(s.remedy for s in bad[:5])),
        )
    return tenancy


def survey_map(connection: Connection, settings: Settings) -> TenancyMap:
    """The tenancy map, also with tables that are unmapped or ambiguous.

    Raises TenancyError only where a setting names what does not exist.
    """
    return _Mapper(read_catalog(connection, settings.database.schemas), settings).map()


class _Mapper:
    """Works out the map: statuses by name first, then inheritance from the owned tables outwards."""

    def __init__(self, catalog: Catalog, settings: Settings) -> None:
        self.catalog, self.settings, self.database = catalog, settings, settings.database
        self.mapped: dict[int, MappedTable] = {}
        self.statuses: dict[int, TableStatus] = {}
        self.links = {self._named(link.table, "links.table").oid: link for link in self.database.links}
        self.shared = {self._named(name, "shared").oid for name in self.database.shared}
        self.excluded = {self._named(name, "excluded").oid for name in self.database.excluded}
        self.config = {self._named(name, "config_tables").oid for name in self.database.config_tables}

    def _named(self, name: str, setting: str) -> Table:
        table = self.catalog.find(name, self.database.schemas)
        if table is None:
            raise TenancyError(
                "A setting names a table that does not exist",
                on=f"database.{setting}: {name!r}",
                remedy=f"correct the name, or add its schema to database.schemas (now {', '.join(self.database.schemas)})",
            )
        return table

    def map(self) -> TenancyMap:
        times = Counter(table.full_name for table in self.catalog.tables.values())
        if doubled := sorted(name for name, count in times.items() if count > 1):
            raise TenancyError(
                "Two tables have one name",
                on=", ".join(doubled),
                why="a dot in a schema's or a table's name makes schema.table ambiguous",
                remedy="rename one of them, or take its schema out of database.schemas",
            )
        tenants = self.catalog.find(self.settings.tenants.table, self.database.schemas)
        open_tables: list[Table] = []
        for table in self.catalog.tables.values():
            if table.oid in self.excluded:
                self._status(table, EXCLUDED, "excluded by the settings")
            elif table.oid in self.shared:
                self._status(table, SHARED, "shared by the settings")
            elif tenants is not None and table.oid == tenants.oid:
                self._own(table, self.settings.tenants.key, TENANTS, "lists the tenants")
            elif table.kind == "f":
                self._status(
                    table,
                    UNMAPPED,
                    "a foreign table: its rows are elsewhere",
                    f"add {table.full_name!r} to database.excluded",
                )
            elif (column := self._tenant_column(table)) and table.column(column):
                self._own(table, column, OWNED, f"has the column {column}")
            else:
                open_tables.append(table)
        while open_tables:
            settled = [t for t in open_tables if self._inherit(t)]
            if not settled:
                break
            open_tables = [t for t in open_tables if t not in settled]
        for table in open_tables:
            self._status(
                table,
                UNMAPPED,
                self._why_open(table, {t.oid for t in open_tables}),
                f"add {table.full_name!r} to database.shared or database.excluded, or declare it in database.links",
            )
        captured = sorted(self.mapped.values(), key=lambda m: (m.depth, m.full_name))
        return TenancyMap(tuple(captured), tuple(self.statuses[oid] for oid in self.catalog.tables), self.catalog)

    def _why_open(self, table: Table, undecided: set[int]) -> str:
        link = self.links.get(table.oid)
        if link and link.join:
            return f"declared to follow {link.parent}, which is no table of a tenant"
        if any(key.parent in undecided and key.parent != table.oid for key in table.foreign_keys):
            return (
                "its foreign keys lead to tables that are not mapped either, or in a circle: `via` says which decides"
            )
        return f"no column {self.database.tenant_column!r}, and no foreign key leads to a table of a tenant"

    def _tenant_column(self, table: Table) -> str:
        link = self.links.get(table.oid)
        if link and (link.via or link.join):
            return ""
        return (link.tenant_column if link else None) or self.database.tenant_column

    def _status(self, table: Table, status: str, why: str, remedy: str = "") -> None:
        self.statuses[table.oid] = TableStatus(table.schema, table.name, status, why, remedy)

    def _own(self, table: Table, column_name: str, status: str, why: str) -> None:
        column = table.column(column_name)
        if column is None:
            raise TenancyError(
                "The tenants table has no such column",
                on=f"{table.full_name}.{column_name}",
                remedy="correct tenants.key",
            )
        self._map(table, status, (), column, why)

    def _map(self, table: Table, status: str, hops: tuple[Hop, ...], column: Column, why: str) -> None:
        component = "config" if status == TENANTS or table.oid in self.config else "database"
        self.mapped[table.oid] = MappedTable(table, status, component, hops, column, why)
        self._status(table, status, why)

    def _inherit(self, table: Table) -> bool:
        """Map the table by its link or its foreign keys, if what they lead to is known by now."""
        link = self.links.get(table.oid)
        if link and link.join:
            return self._declare(table, link)
        paths = [f for f in table.foreign_keys if f.parent != table.oid]
        if link and link.via:
            paths = [f for f in paths if set(f.columns) == set(link.via)]
            if not paths:
                raise TenancyError(
                    "A link names no foreign key",
                    on=f"database.links: {table.full_name} via {link.via}",
                    remedy="give the columns of one of the table's foreign keys",
                )
        leading = [f for f in paths if f.parent in self.mapped]
        undecided = [f for f in paths if f.parent not in self.mapped and f.parent not in self.statuses]
        if not leading or undecided:
            # Wait while a parent may still turn out to be a tenant's; cycles among undecided ones end as unmapped.
            return False
        if len(leading) > 1:
            choices = ", ".join(
                f"({', '.join(f.columns)}) -> {self.catalog.tables[f.parent].full_name}" for f in leading
            )
            self._status(
                table,
                AMBIGUOUS,
                f"several foreign keys lead to tables of tenants: {choices}",
                f"say which one decides: [[database.links]] table = {table.full_name!r}, via = {list(leading[0].columns)!r}",
            )
            return True
        self._follow(table, leading[0], INHERITED)
        return True

    def _follow(self, table: Table, key: ForeignKey, status: str) -> None:
        parent = self.mapped[key.parent]
        hop = Hop(parent.table, key.columns, key.parent_columns, key.operators)
        why = f"follows {parent.full_name} by {', '.join(key.columns)}"
        self._map(table, status, (hop, *parent.hops), parent.tenant_column, why)

    def _declare(self, table: Table, link: TableLink) -> bool:
        if link.parent is None:
            raise TenancyError(
                "A link with `join` needs `parent`",
                on=f"database.links: {link.table}",
                remedy="name the table that `p` stands for",
            )
        parent = self.mapped.get(self._named(link.parent, "links.parent").oid)
        if parent is None:
            return False
        hops = (Hop(parent.table, join=link.join), *parent.hops)
        self._map(table, DECLARED, hops, parent.tenant_column, f"declared: follows {parent.full_name}")
        return True
