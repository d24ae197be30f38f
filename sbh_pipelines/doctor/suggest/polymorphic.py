"""Tables that refer to one of several (item_type, item_id): which is which is looked up in their rows."""

from collections.abc import Mapping

from sbh_pipelines.database.schema import samples
from sbh_pipelines.database.schema.catalog import Column, Table
from sbh_pipelines.database.schema.listing import Listing
from sbh_pipelines.database.schema.mapping.mapped_table import MappedTable
from sbh_pipelines.database.schema.mapping.ways import Way, comparable
from sbh_pipelines.database.session.connection import Connection
from sbh_pipelines.database.session.sql import ident, literal, sql_name
from sbh_pipelines.doctor.suggest import names
from sbh_pipelines.doctor.suggest.suggestion import CHECK, Suggestion


def quoted(name: str) -> str:
    """The name as SQL has it: quoted where it must be."""
    return name if name.isascii() and name.islower() and name.replace("_", "").isalpha() else ident(name)


def suggest(
    connection: Connection, table: Table, mapped: Mapping[int, MappedTable], listing: Listing | None, made: Suggestion
) -> bool:
    """A link for the table, if the types found in it are tables that are mapped; False where it is no such table."""
    for kind, key in names.type_columns(table):
        values = samples.some_values(connection, table, kind.name)
        if not values:
            continue
        found = {v: m for v in values if (m := _named(v, key, mapped)) is not None}
        lost = len(values) - len(found)
        if not found:
            continue
        why = f"{CHECK}no foreign key; {kind.name} says which table {key.name} refers to, as far as rows are there now"
        if lost:
            why += f"; {lost} of its {len(values)} values name no table of tenants, and their rows would be nobody's"
        if len({m.full_name for m in found.values()}) == 1:
            parent = next(iter(found.values()))
            types = ", ".join(map(literal, found))
            condition = f"t.{quoted(kind.name)} IN ({types}) AND {_same(key, 't', parent.table, 'p')}"
            made.link(table.full_name, why, parent=parent.full_name, join=condition)
            return True
        if listing is None or listing.base not in mapped:
            continue
        tenants = mapped[listing.base]
        cases = " ".join(
            f"WHEN {literal(value)} THEN ({owner(m, _same(key, 't', m.table, 'x0'))})" for value, m in found.items()
        )
        condition = f"p.{quoted(tenants.tenant_column.name)} = CASE t.{quoted(kind.name)} {cases} END"
        made.link(table.full_name, why, parent=tenants.full_name, join=condition)
        return True
    return False


def _named(value: str, key: Column, mapped: Mapping[int, MappedTable]) -> MappedTable | None:
    """The table that the value names, whose key can be compared with the column."""
    for one in mapped.values():
        if names.speaks_of(value, one.table) and len(one.table.primary_key) == 1:
            own = one.table.column(one.table.primary_key[0])
            if own and (comparable(own, key) or _is_text(key)):
                return one
    return None


def _is_text(column: Column) -> bool:
    return column.type.partition("(")[0] in ("text", "character varying", "character")


def _same(key: Column, child: str, parent: Table, alias: str) -> str:
    own = parent.column(parent.primary_key[0])
    cast = "::text" if own and not comparable(own, key) else ""
    return f"{alias}.{quoted(parent.primary_key[0])}{cast} = {child}.{quoted(key.name)}"


def owner(parent: MappedTable, condition: str) -> str:
    """Query of the tenant of the row of `parent` (as x0) that satisfies the condition over `t`."""
    aliases = [f"x{n}" for n in range(parent.depth + 1)]
    joins = [hop.sql(child, onward) for hop, child, onward in zip(parent.hops, aliases, aliases[1:], strict=False)]
    source = " ".join([f"{sql_name(parent.table)} x0", *joins])
    return f"SELECT {aliases[-1]}.{quoted(parent.tenant_column.name)} FROM {source} WHERE {condition}"


def owner_by(way: Way) -> str:
    """Query of the tenant that a foreign key of `t` leads to."""
    pairs = zip(way.key.columns, way.key.parent_columns, strict=True)
    return owner(way.parent, " AND ".join(f"x0.{quoted(theirs)} = t.{quoted(own)}" for own, theirs in pairs))
