"""Values of the tenancy map: what a table's status is, and which way leads from its rows to their tenant."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sbh_pipelines.database.schema.catalog import Catalog, Column, Table
from sbh_pipelines.database.session.sql import from_only, ident, literal

OWNED, INHERITED, DECLARED, TENANTS = "owned", "inherited", "declared", "tenants"
SHARED, EXCLUDED = "shared", "excluded"
EXTENSION = "extension"
UNMAPPED, AMBIGUOUS = "unmapped", "ambiguous"
OUTSIDE = "outside"
UNLOGGED = "unlogged: this server is a standby, and its rows are on the primary only"


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
        listed = f"ARRAY[{', '.join(map(literal, keys))}]::text[]::{self.tenant_column.type}[]"
        return f"pg_catalog.array_position({listed}, {self.tenant})"

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
        # nosemgrep: expression-of-others - escaped
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
    """What is whose.

    Attributes:
        tables: those that are captured, parents before their children.
        statuses: of all tables of the mapped schemas, in the catalogue's order.
        catalog: the tables of the mapped schemas.
        outside: tables of other schemas whose rows are tenants': a backup without them is refused.
        nearby: tables of other schemas whose rows may be tenants', as a foreign key of theirs leads to a captured table.
        other_schemas: schemas that are neither mapped nor left out, with the number of their other tables.
    """

    tables: tuple[MappedTable, ...]
    statuses: tuple[TableStatus, ...]
    catalog: Catalog
    outside: tuple[TableStatus, ...] = ()
    nearby: tuple[TableStatus, ...] = ()
    other_schemas: tuple[tuple[str, int], ...] = ()

    def find(self, full_name: str) -> MappedTable | None:
        return next((t for t in self.tables if t.full_name == full_name), None)
