"""The section `[tenants]` of a suggestion: which table it is, and where each tenant's slug and region are."""

from collections import Counter
from collections.abc import Collection

from sbh_pipelines.database.schema.catalog import Catalog, Table, read_catalog
from sbh_pipelines.database.schema.inspect import TenantRow, tenant_rows, user_schemas
from sbh_pipelines.database.schema.listing import Listing, find_listing
from sbh_pipelines.database.session.connection import Connection
from sbh_pipelines.database.session.sql import ident
from sbh_pipelines.doctor.suggest import names
from sbh_pipelines.doctor.suggest.suggestion import CHECK, Suggestion
from sbh_pipelines.errors import InvalidId
from sbh_pipelines.model import TenantId


def suggest_tenants(connection: Connection, made: Suggestion) -> None:
    if find_listing(connection, made.applied) is None and not _table(connection, made):
        made.unknown.append("which table lists the tenants: none is called like it, and none is referred to by others")
        return
    listing = find_listing(connection, made.applied)
    if listing is None:
        return
    catalog = read_catalog(connection, made.applied.database.schemas)
    base = catalog.tables.get(listing.base)
    if base is None:
        made.add("schemas", listing.schema, f"the tenants are in {listing.full_name}")
        base = read_catalog(connection, made.applied.database.schemas).tables.get(listing.base)
    _key(made, listing, base)
    _region_and_tier(connection, made, listing)
    _slug(connection, made, base)


def _table(connection: Connection, made: Suggestion) -> bool:
    """The table of tenants by its name, of several the one that most tables refer to; else whichever most refer to."""
    catalog = read_catalog(connection, made.applied.database.schemas)
    if not catalog.tables:
        return _elsewhere(connection, made)
    best = _best(catalog)
    if best is None:
        return False
    referring = _referring(catalog)
    named = [table for table in catalog.tables.values() if names.tenant_rank(table.name) is not None]
    others = [t.full_name for t in named if t.oid != best.oid and referring[t.oid]]
    times = referring[best.oid]
    why = f"{times} table{'s refer' if times > 1 else ' refers'} to it" if times else "it is called so"
    if best not in named or others:
        why = (
            CHECK
            + why
            + (f"; or is it {', '.join(others)}?" if others else "; nothing else says that it lists the tenants")
        )
    made.set("tenants", "table", best.full_name, why)
    return True


def _best(catalog: Catalog) -> Table | None:
    referring = _referring(catalog)
    tables = catalog.tables.values()
    named = [table for table in tables if names.tenant_rank(table.name) is not None]
    likely = [t for t in named if referring[t.oid]] or [t for t in tables if referring[t.oid]] or named
    return max(likely, key=lambda t: (referring[t.oid], -(names.tenant_rank(t.name) or 0)), default=None)


def _elsewhere(connection: Connection, made: Suggestion) -> bool:
    """The mapped schemas are empty: the tables are in others. All of a database's schemas are looked at."""
    catalog = read_catalog(connection, user_schemas(connection))
    best = _best(catalog)
    if best is None:
        return False
    made.set("database", "schemas", [best.schema], "the other schemas of the settings have no tables")
    made.reasons[f"schemas:{best.schema}"] = "the tenants are there"
    return _table(connection, made)


def _referring(catalog: Catalog) -> Counter[int]:
    """How many tables refer to each, all of whose rows do."""
    return Counter(
        parent
        for table in catalog.tables.values()
        for parent in {key.parent for key in table.foreign_keys if key.parent != table.oid}
    )


def _key(made: Suggestion, listing: Listing, base: Table | None) -> None:
    if listing.column(made.applied.tenants.key) is None and base is not None and len(base.primary_key) == 1:
        made.set("tenants", "key", base.primary_key[0], "the primary key")


def _region_and_tier(connection: Connection, made: Suggestion, listing: Listing) -> None:
    section = made.applied.tenants
    regions = made.applied.storage.regions
    if not section.region or listing.column(section.region) is None:
        found = _column_of(connection, made, listing, "region", regions)
        if found:
            made.set("tenants", "region", found, "each tenant's is one of storage.regions")
        elif section.region and "region" in section.model_fields_set:
            made.set("tenants", "region", "", f"there is no column {section.region}")
        if not found and not section.default_region and len(regions) > 1:
            why = f"{CHECK}no column says where a tenant is; storage.regions has {', '.join(regions)}"
            made.set("tenants", "default_region", regions[0], why)
    if not section.tier or listing.column(section.tier) is not None:
        return
    if found := _column_of(connection, made, listing, "tier", made.applied.schedules.tiers):
        made.set("tenants", "tier", found, "each tenant's is a tier of the schedules")
    elif "tier" in section.model_fields_set:
        made.set("tenants", "tier", "", f"there is no column {section.tier}: all have default_tier")


def _column_of(
    connection: Connection, made: Suggestion, listing: Listing, field: str, values: Collection[str]
) -> str | None:
    """A column that every tenant has one of `values` in, whatever it is called; the one that is called like the field first."""
    if listing.column(made.applied.tenants.key) is None:
        return None
    for column in sorted(listing.columns, key=lambda one: field not in names.words(one.name)):
        if not column.type.startswith(("text", "character", "varchar")):
            continue
        rows = _rows(connection, made, made.applied.tenants.key, **{field: column.name})
        if rows and all(getattr(row, field) in values for row in rows):
            return column.name
    return None


def _slug(connection: Connection, made: Suggestion, base: Table | None) -> None:
    """A column in which every tenant has a name of its own that can be used; else the key."""
    current = made.applied.tenants.slug
    listing = find_listing(connection, made.applied)
    if listing is None or listing.column(made.applied.tenants.key) is None:
        return
    found = [c.name for word in names.SLUGS for c in listing.columns if names.normal(c.name) == word]
    for name in dict.fromkeys([current, *found]):
        if listing.column(name) is None:
            continue
        rows = _rows(connection, made, name)
        good = [row for row in rows if _usable(row.slug)]
        if len(good) < len(rows) or (not rows and name != current):
            continue
        doubled = len({row.slug for row in rows}) < len(rows)
        gone = _gone(listing) if doubled else ""
        if doubled and not (gone and _unique_where(connection, made, name, gone)):
            continue
        if name != current:
            why = f"{len(rows)} tenants, each with a name of its own in it"
            if names.normal(name) in ("name", "domain"):
                why = f"{CHECK}{why}; but a tenant that changes it begins anew here: the key does not change"
            made.set("tenants", "slug", name, why)
        if gone:
            made.set(
                "tenants",
                "where",
                gone,
                f"{CHECK}slugs are unique among these rows only: the others have given theirs away",
            )
        return
    if current != made.applied.tenants.key:
        why = "no other column has a name of its own for each tenant that can be used (A-Z a-z 0-9 . _ -)"
        made.set("tenants", "slug", made.applied.tenants.key, why)


def _rows(connection: Connection, made: Suggestion, slug: str, **more: str) -> list[TenantRow]:
    section = {"slug": slug, **more}
    tried = Suggestion(made.settings, {**made.tenants, **section}, made.database)
    listing = find_listing(connection, tried.applied)
    return tenant_rows(connection, listing) if listing else []


def _unique_where(connection: Connection, made: Suggestion, slug: str, where: str) -> bool:
    rows = _rows(connection, made, slug, where=where)
    return bool(rows) and len({row.slug for row in rows}) == len(rows)


def _gone(listing: Listing) -> str:
    if listing.live:
        return listing.live
    return next(
        (
            f"{ident(c.name)} IS NULL"
            for c in listing.columns
            if set(names.words(c.name)) & set(names.GONE) and c.type.startswith(("timestamp", "date"))
        ),
        "",
    )


def _usable(slug: str | None) -> bool:
    try:
        return bool(TenantId.parse(slug or ""))
    except InvalidId:
        return False
