"""The tenant columns of a suggestion: what names a row of the tenants table, in whatever spelling."""

from collections import Counter

from sbh_pipelines.database.schema.catalog import Catalog
from sbh_pipelines.database.schema.listing import Listing
from sbh_pipelines.database.schema.mapping import ways
from sbh_pipelines.doctor.suggest import names
from sbh_pipelines.doctor.suggest.suggestion import Suggestion


def suggest_columns(made: Suggestion, catalog: Catalog, listing: Listing | None) -> None:
    """Columns that are foreign keys to the tenants table where none is NULL, and those that are spelled alike."""
    tenants = catalog.tables.get(listing.base if listing else 0)
    key = tenants.column(made.applied.tenants.key) if tenants else None
    if tenants is None or key is None:
        return
    by_key: Counter[str] = Counter()
    always: Counter[str] = Counter()
    for table in catalog.tables.values():
        for foreign in ways.foreign_keys(table):
            if foreign.parent == tenants.oid and len(foreign.columns) == 1:
                by_key[foreign.columns[0]] += 1
                always[foreign.columns[0]] += ways.required(table, foreign.columns)
    words = {names.normal(f"{names.singular(tenants.name)}_{end}") for end in ("id", "uuid", "key")}
    likely = [
        name for name, times in by_key.most_common() if always[name] and not names.is_memory([name]) and times >= 2
    ]
    words |= {names.normal(name) for name in likely[:1]}
    found: Counter[str] = Counter()
    for table in catalog.tables.values():
        if table.oid == tenants.oid:
            continue
        for column in table.columns:
            alike = names.normal(column.name) in words or column.name in likely
            if alike and ways.comparable(column, key):
                found[column.name] += 1
    current = made.applied.database.tenant_columns
    chosen = [name for name, _ in found.most_common()]
    kept = [name for name in current if any(t.column(name) for t in catalog.tables.values())]
    if set(chosen) <= set(kept):
        return
    chosen = list(dict.fromkeys([*kept, *chosen]))
    numbers = ", ".join(f"{name} in {tables_text(found[name])}" for name in chosen)
    value = chosen[0] if len(chosen) == 1 else chosen
    made.set("database", "tenant_column", value, f"names a row of {tenants.full_name}: {numbers}")


def tables_text(number: int) -> str:
    return f"{number} table{'s' if number != 1 else ''}"
