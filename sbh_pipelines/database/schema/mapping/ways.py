"""Ways from a table to its tenant: the foreign keys that lead there, the best first."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sbh_pipelines.database.schema.catalog import Catalog, Column, ForeignKey, Table
from sbh_pipelines.database.schema.mapping.mapped_table import MappedTable
from sbh_pipelines.settings.section import toml_block

_PEOPLE = re.compile(r"user|member|person|people|author|employee|contact|profile", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Way:
    """A foreign key that leads to a table of tenants.

    Attributes:
        key: the foreign key.
        parent: the table that it leads to, mapped.
        required: whether no row can be without it: all its columns are NOT NULL.
        to_tenants: whether it leads to the tenants table itself.
    """

    key: ForeignKey
    parent: MappedTable
    required: bool
    to_tenants: bool

    @property
    def rank(self) -> tuple[object, ...]:
        """What decides first comes first: no row without it, all rows looked at, few steps, straight to the tenants, to a thing
        rather than to a person (who may come and go)."""
        person = bool(_PEOPLE.search(self.parent.table.name))
        return (not self.required, not self.key.valid, self.parent.depth, not self.to_tenants, person, self.key.columns)

    @property
    def text(self) -> str:
        always = "NOT NULL" if self.required else "may be NULL"
        steps = self.parent.depth + 1
        doubt = "" if self.key.valid else ", NOT VALID"
        return (
            f"({', '.join(self.key.columns)}) -> {self.parent.full_name} ({always}{doubt},"
            f" {steps} step{'s' if steps > 1 else ''})"
        )


def foreign_keys(table: Table) -> list[ForeignKey]:
    """The table's foreign keys to other tables, also those that are not valid; one for each set of columns and parent."""
    found: dict[tuple[frozenset[str], int], ForeignKey] = {}
    for key in (*table.foreign_keys, *table.doubtful_keys):
        if key.parent != table.oid:
            found.setdefault((frozenset(key.columns), key.parent), key)
    return list(found.values())


def ways(table: Table, keys: Iterable[ForeignKey], mapped: Mapping[int, MappedTable], tenants: int | None) -> list[Way]:
    """Those of `keys` that lead to tables of tenants, the best first."""
    found = [
        Way(key, mapped[key.parent], required(table, key.columns), key.parent == tenants)
        for key in keys
        if key.parent in mapped
    ]
    return sorted(found, key=lambda way: way.rank)


def required(table: Table, columns: Iterable[str]) -> bool:
    return all((column := table.column(name)) and column.not_null for name in columns)


def via(table: Table, key: ForeignKey, catalog: Catalog) -> str:
    """The settings that make this foreign key decide."""
    return toml_block("[[database.links]]", {"table": table.full_name, **link_fields(table, key, catalog)})


def link_fields(table: Table, key: ForeignKey, catalog: Catalog) -> dict[str, object]:
    """What a link says of the foreign key: its columns; where these refer to several tables, also which."""
    alike = [other for other in foreign_keys(table) if set(other.columns) == set(key.columns)]
    parent = {"parent": catalog.tables[key.parent].full_name} if len(alike) > 1 else {}
    return {"via": list(key.columns), **parent}


def is_joined_to_tenants(
    table: Table, catalog: Catalog, tenants: int | None, tenant_columns: Iterable[str]
) -> Table | None:
    """A table that joins rows of `table` with any number of tenants, so that a row is no single tenant's; if there is one.

    It has a unique key of exactly the two: a foreign key to `table`, and one to the tenants table or a tenant column.
    """
    for other in catalog.tables.values():
        mine = [key.columns for key in other.foreign_keys if key.parent == table.oid and other.oid != table.oid]
        if not mine:
            continue
        theirs = [key.columns for key in other.foreign_keys if key.parent == tenants]
        theirs += [(name,) for name in tenant_columns if other.column(name)]
        unique = [set(other.primary_key), *(set(map(bare, key.elements)) for key in other.unique_keys)]
        if any({*own, *tenant} in unique for own in mine for tenant in theirs if own != tenant):
            return other
    return None


def bare(element: str) -> str:
    """The column that an element of a unique key is, without its quotes."""
    return element[1:-1].replace('""', '"') if element.startswith('"') else element


def comparable(one: Column, other: Column) -> bool:
    """Whether `=` between the two is that of their types: the same type, or two of one family."""
    return one.type == other.type or any(
        one.type.partition("(")[0] in family and other.type.partition("(")[0] in family for family in _FAMILIES
    )


_FAMILIES = (("smallint", "integer", "bigint"), ("text", "character varying"))
