"""How each table is mapped: statuses by name first, then inheritance from the owned tables outwards."""

from collections import Counter
from collections.abc import Callable

from sbh_pipelines.database.schema.catalog import Catalog, Column, ForeignKey, Table
from sbh_pipelines.database.schema.listing import Listing
from sbh_pipelines.database.schema.mapping import ways
from sbh_pipelines.database.schema.mapping.mapped_table import (
    AMBIGUOUS,
    DECLARED,
    EXCLUDED,
    EXTENSION,
    INHERITED,
    OWNED,
    SHARED,
    TENANTS,
    UNLOGGED,
    UNMAPPED,
    Hop,
    MappedTable,
    TableStatus,
    TenancyMap,
)
from sbh_pipelines.database.schema.mapping.ways import Way
from sbh_pipelines.errors import TenancyError
from sbh_pipelines.settings import Settings
from sbh_pipelines.settings.section import toml, toml_block
from sbh_pipelines.settings.source import FollowRule, TableLink


class Mapper:
    """Works out the map. What a link says comes first, then the tenant column, the rules of database.follow, foreign keys."""

    def __init__(
        self,
        catalog: Catalog,
        settings: Settings,
        listing: Listing | None,
        what_is: Callable[[str], str] = lambda name: "",
    ) -> None:
        """`what_is` says of a name that is no table of the catalogue what it is, if it is anything."""
        self.catalog, self.settings, self.database = catalog, settings, settings.database
        self._what_is = what_is
        self.listing = listing
        self.tenants = listing.base if listing else None
        self.mapped: dict[int, MappedTable] = {}
        self.statuses: dict[int, TableStatus] = {}
        self.links = self._links()
        self.named_by: dict[str, set[int]] = {}  # which tables a column of this name leads to, by foreign keys
        for table in catalog.tables.values():
            for key in ways.foreign_keys(table):
                if len(key.columns) == 1:
                    self.named_by.setdefault(key.columns[0], set()).add(key.parent)
        self.rules = [self._follow_rule(rule) for rule in self.database.follow]
        self.shared = {self._named(name, "shared").oid for name in self.database.shared}
        self.excluded = {self._named(name, "excluded").oid for name in self.database.excluded}
        self.config = {self._named(name, "config_tables").oid for name in self.database.config_tables}

    def _links(self) -> dict[int, TableLink]:
        found: dict[int, TableLink] = {}
        for link in self.database.links:
            table = self._named(link.table, "links.table")
            if table.oid in found:
                raise TenancyError(
                    "A table has two links",
                    on=f"database.links: {table.full_name}",
                    why="one of them would be passed over",
                    remedy="keep one [[database.links]] for the table; several parents of one table go into one `join`",
                )
            found[table.oid] = link
        return found

    def _named(self, name: str, setting: str) -> Table:
        table = self.catalog.find(name, self.database.schemas)
        if table is None:
            raise TenancyError(
                "A setting names a table that does not exist",
                on=f"database.{setting}: {name!r}",
                why=self._what_is(name),
                remedy=f"correct the name, or add its schema: schemas = {toml(self.database.schemas)}",
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
        if self.listing and self.tenants not in self.catalog.tables:
            raise TenancyError(
                "The tenants are in a schema that is not mapped",
                on=f"tenants.table: {self.listing.full_name}",
                remedy=f"schemas = {toml([*self.database.schemas, self.listing.schema])}",
            )
        open_tables = [table for table in self.catalog.tables.values() if not self._settle(table)]
        while open_tables:
            settled = [t for t in open_tables if self._inherit(t)]
            if not settled:
                break
            open_tables = [t for t in open_tables if t not in settled]
        undecided = {t.oid for t in open_tables}
        for table in open_tables:
            self._status(table, UNMAPPED, *self._why_open(table, undecided))
        captured = sorted(self.mapped.values(), key=lambda m: (m.depth, m.full_name))
        return TenancyMap(tuple(captured), tuple(self.statuses[oid] for oid in self.catalog.tables), self.catalog)

    def _settle(self, table: Table) -> bool:
        """Give the table the status that it has by itself, whatever the others have; False where it has none."""
        link = self.links.get(table.oid)
        if table.oid in self.excluded:
            self._status(table, EXCLUDED, "excluded by the settings")
        elif table.unreadable:
            self._status(table, EXCLUDED, UNLOGGED)
        elif table.extension and table.extension_rows is None and link is None:
            self._status(table, EXTENSION, f"made by the extension {table.extension}, which fills it")
        elif table.oid in self.shared:
            self._status(table, SHARED, "shared by the settings")
        elif table.oid == self.tenants:
            self._own(table, self.settings.tenants.key, TENANTS, "lists the tenants")
        elif table.extension and link is None:
            why = f"configuration of the extension {table.extension}; rows of your own are in the platform backup"
            self._status(table, EXTENSION, why)
        elif table.kind == "f":
            remedy = f"excluded = {toml([*self.database.excluded, table.full_name])}"
            self._status(table, UNMAPPED, "a foreign table: its rows are elsewhere", remedy)
        elif link and (link.via or link.join):
            return False
        elif link and link.tenant_column:
            if table.column(link.tenant_column) is None:
                raise TenancyError(
                    "A link names no column of its table",
                    on=f"database.links: {table.full_name}, tenant_column = {toml(link.tenant_column)}",
                    why=f"the columns are {', '.join(column.name for column in table.columns)}",
                    remedy="correct tenant_column",
                )
            self._own(table, link.tenant_column, OWNED, f"has the column {link.tenant_column}")
        else:
            return self._own_by_name(table)
        return True

    def _own_by_name(self, table: Table) -> bool:
        names = [name for name in self.database.tenant_columns if table.column(name)]
        if len(names) > 1:
            block = toml_block("[[database.links]]", {"table": table.full_name, "tenant_column": names[0]})
            self._status(table, AMBIGUOUS, f"has several tenant columns: {', '.join(names)}", f"say which:\n{block}")
        elif names:
            self._own(table, names[0], OWNED, f"has the column {names[0]}")
        return bool(names)

    def _why_open(self, table: Table, undecided: set[int]) -> tuple[str, str]:
        """Why the table has no status, and what to do about it. Tables behind open ones are not to be declared: they follow."""
        link = self.links.get(table.oid)
        keys = ways.foreign_keys(table)
        waiting = [key for key in keys if key.parent in undecided]
        stuck = [key for key in keys if key.parent in self.statuses and self._is_open(key.parent)]
        if link and link.join:
            return (
                f"declared to follow {link.parent}, which is no table of a tenant",
                "correct `parent`, or map it first",
            )
        if stuck or (waiting and not self._in_circle(table, undecided)):
            first = ", ".join(dict.fromkeys(self.catalog.tables[key.parent].full_name for key in (*stuck, *waiting)))
            return (
                f"its foreign keys lead to tables that are not mapped either: {first}",
                f"map {first} first: what follows is mapped with it, or else shared as they are",
            )
        if waiting:
            return (
                "its foreign keys lead in a circle of tables that are not mapped: `via` says which decides",
                f"say which one decides:\n{ways.via(table, self._best(table, keys), self.catalog)}",
            )
        shared = toml([*self.database.shared, table.full_name])
        why = f"no column {' or '.join(map(repr, self.database.tenant_columns))}, and no foreign key leads to a table of a tenant"
        outside = [
            key for key in (*self.catalog.outside_keys, *self.catalog.doubtful_outside_keys) if key.table == table.oid
        ]
        if outside:
            names = ", ".join(dict.fromkeys(self.catalog.outside[key.parent].full_name for key in outside))
            why += f" of database.schemas; it refers to {names}"
        return (
            why,
            f"if all tenants share it, in [database]: shared = {shared}; if you do not want it: excluded ="
            f" {toml([*self.database.excluded, table.full_name])}; if its rows are tenants':\n"
            + toml_block(
                "[[database.links]]",
                {
                    "table": table.full_name,
                    "parent": self.listing.full_name if self.listing else "...",
                    "join": "t.... = p....",
                },
            ),
        )

    def _is_open(self, oid: int) -> bool:
        return self.statuses[oid].status in (AMBIGUOUS, UNMAPPED)

    def _in_circle(self, table: Table, undecided: set[int]) -> bool:
        """Whether one of the table's ways among undecided tables leads back to it."""
        reached: set[int] = set()
        edge = {table.oid}
        while edge:
            edge = {
                key.parent
                for oid in edge
                for key in ways.foreign_keys(self.catalog.tables[oid])
                if key.parent in undecided
            } - reached
            reached |= edge
        return table.oid in reached

    def _best(self, table: Table, keys: list[ForeignKey]) -> ForeignKey:
        leading = ways.ways(table, keys, self.mapped, self.tenants)
        return leading[0].key if leading else keys[0]

    def _status(self, table: Table, status: str, why: str, remedy: str = "") -> None:
        self.statuses[table.oid] = TableStatus(table.schema, table.name, status, why, remedy)

    def _own(self, table: Table, column_name: str, status: str, why: str) -> None:
        column = table.column(column_name)
        if column is None:
            raise TenancyError(
                "The tenants table has no such column",
                on=f"{table.full_name}.{column_name}",
                why=f"its columns are {', '.join(c.name for c in table.columns)}",
                remedy='[tenants] key = "..."',
            )
        self._map(table, status, (), column, why)

    def _map(self, table: Table, status: str, hops: tuple[Hop, ...], column: Column, why: str) -> None:
        component = "config" if status == TENANTS or table.oid in self.config else "database"
        self.mapped[table.oid] = MappedTable(table, status, component, hops, column, why)
        self._status(table, status, why)

    def _inherit(self, table: Table) -> bool:
        """Map the table by its link, a rule or its foreign keys, if what they lead to is known by now."""
        link = self.links.get(table.oid)
        if link and link.join:
            return self._declare(table, link)
        keys = ways.foreign_keys(table)
        if link and link.via:
            keys = [key for key in keys if set(key.columns) == set(link.via)]
            if link.parent:
                parent = self._named(link.parent, "links.parent").oid
                keys = [key for key in keys if key.parent == parent]
            if not keys:
                there = "; ".join(", ".join(key.columns) for key in ways.foreign_keys(table)) or "none"
                raise TenancyError(
                    "A link names no foreign key",
                    on=f"database.links: {table.full_name} via {toml(link.via)}"
                    + (f" to {link.parent}" if link.parent else ""),
                    why=f"its foreign keys are: {there}",
                    remedy="give the columns of one of the table's foreign keys; without one, give `parent` and `join`",
                )
        elif rule := self._rule(table):
            return self._obey(table, *rule)
        leading = ways.ways(table, keys, self.mapped, self.tenants)
        undecided = [key for key in keys if key.parent not in self.mapped and key.parent not in self.statuses]
        if not keys and table.inherits:
            return self._inherit_as_parent(table)
        if not leading or undecided:
            # Wait while a parent may still turn out to be a tenant's; cycles among undecided ones end as unmapped.
            return False
        if len(leading) > 1:
            self._several(table, leading)
        elif doubt := (None if link else self._doubt(table, leading[0])):
            self._status(table, AMBIGUOUS, *doubt)
        else:
            self._follow(table, leading[0])
        return True

    def _several(self, table: Table, leading: list[Way]) -> None:
        choices = ", ".join(way.text for way in leading)
        why = f"several foreign keys lead to tables of tenants: {choices}"
        remedy = f"say which one decides:\n{ways.via(table, leading[0].key, self.catalog)}"
        if not leading[0].required:
            remedy += f"\nor, if its rows are not one tenant's each: shared = {toml([*self.database.shared, table.full_name])}"
        self._status(table, AMBIGUOUS, why, remedy)

    def _doubt(self, table: Table, way: Way) -> tuple[str, str] | None:
        """Why its only way does not map the table by itself, and what does; None where it does.

        A column that may be NULL can be a memory of whatever tenant was used last (users.current_org_id): to take its rows for
        that tenant's would let a restore of one delete what is another's.
        """
        if way.required:
            return None
        why = f"its only foreign key to a table of tenants may be NULL: {way.text}"
        if named := self._always_there(table):
            column, parent = named
            rule = toml_block("[[database.follow]]", {"column": column, "parent": parent.full_name})
            return (
                f"{why}; and {column}, which is NOT NULL, leads to {parent.full_name} in other tables",
                f"if it does here:\n{rule}\nelse:\n{ways.via(table, way.key, self.catalog)}",
            )
        joined = ways.is_joined_to_tenants(table, self.catalog, self.tenants, self.database.tenant_columns)
        if not way.to_tenants and joined is None:
            return None
        if joined is not None:
            why += f"; and {joined.full_name} joins its rows with any number of tenants"
        shared = f"shared = {toml([*self.database.shared, table.full_name])}"
        return (
            why,
            f"if its rows belong to all tenants, or to none: {shared}; if each is that tenant's alone:\n"
            + ways.via(table, way.key, self.catalog),
        )

    def _always_there(self, table: Table) -> tuple[str, Table] | None:
        """A NOT NULL column that is no foreign key here, and in all other tables that have one of its name to the same table."""
        own = {name for key in ways.foreign_keys(table) for name in key.columns}
        for column in table.columns:
            parents = self.named_by.get(column.name, set())
            if not column.not_null or column.name in own or len(parents) != 1:
                continue
            parent = self.mapped.get(next(iter(parents)))
            key = parent.table.primary_key if parent else ()
            theirs = parent.table.column(key[0]) if parent and len(key) == 1 else None
            if parent and theirs and parent.table.oid != table.oid and ways.comparable(column, theirs):
                return column.name, parent.table
        return None

    def _follow(self, table: Table, way: Way) -> None:
        key, parent = way.key, way.parent
        hop = Hop(parent.table, key.columns, key.parent_columns, key.operators)
        why = f"follows {parent.full_name} by {', '.join(key.columns)}"
        if not key.valid:
            why += f" ({key.name} is not valid: the server has not looked at all rows)"
        self._map(table, INHERITED, (hop, *parent.hops), parent.tenant_column, why)

    def _inherit_as_parent(self, table: Table) -> bool:
        """A child of old-style inheritance has its parent's columns, and not its foreign keys."""
        for oid in table.inherits:
            parent = self.mapped.get(oid)
            hop = parent.hops[0] if parent and parent.hops else None
            if parent and hop and hop.join is None and all(table.column(name) for name in hop.columns):
                self._map(table, INHERITED, parent.hops, parent.tenant_column, f"as {parent.full_name}, its parent")
                return True
        return False

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

    def _rule(self, table: Table) -> tuple[Table, Hop] | None:
        """The parent and the hop of the rule of database.follow that holds for the table."""
        fitting = [(parent, hop) for parent, hop in self.rules if parent.oid != table.oid and self._fits(table, hop)]
        return next((fit for fit in fitting if ways.required(table, fit[1].columns)), fitting[0] if fitting else None)

    def _fits(self, table: Table, hop: Hop) -> bool:
        """Whether the table has the rule's column, it can be compared with the parent's, and is no foreign key to another table."""
        own, theirs = table.column(hop.columns[0]), hop.parent.column(hop.parent_columns[0])
        elsewhere = [
            key for key in ways.foreign_keys(table) if key.columns == hop.columns and key.parent != hop.parent.oid
        ]
        return own is not None and theirs is not None and not elsewhere and ways.comparable(own, theirs)

    def _follow_rule(self, rule: FollowRule) -> tuple[Table, Hop]:
        parent = self._named(rule.parent, "follow.parent")
        named = rule.parent_column or (parent.primary_key[0] if len(parent.primary_key) == 1 else "")
        column = parent.column(named)
        unique = [list(parent.primary_key), *(list(u.elements) for u in parent.unique_keys if u.predicate is None)]
        if column is None or not any(len(key) == 1 and ways.bare(key[0]) == named for key in unique):
            raise TenancyError(
                "A rule of database.follow names no unique column of its parent",
                on=f"database.follow: {rule.column} -> {parent.full_name}.{named or '(the primary key has several columns)'}",
                remedy='say which: parent_column = "..."; it must have a unique index of its own',
            )
        return parent, Hop(parent, (rule.column,), (named,), (column.equality,))

    def _obey(self, table: Table, parent: Table, hop: Hop) -> bool:
        mapped = self.mapped.get(parent.oid)
        if mapped is None:
            return False
        why = f"follows {parent.full_name} by {hop.columns[0]} (database.follow)"
        self._map(table, DECLARED, (hop, *mapped.hops), mapped.tenant_column, why)
        return True
