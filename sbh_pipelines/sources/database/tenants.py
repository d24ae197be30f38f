"""The application's list of tenants."""

from sbh_pipelines.errors import InvalidId, SettingsError, UnknownTenant
from sbh_pipelines.model import Tenant, TenantId
from sbh_pipelines.settings import Settings
from sbh_pipelines.sources.database.catalog import Table, read_catalog
from sbh_pipelines.sources.database.connection import connect, translated
from sbh_pipelines.sources.database.tenancy import ident, sql_name


def list_tenants(settings: Settings) -> list[Tenant]:
    """All tenants, by slug. Raises InvalidId for a slug that cannot be a tenant id, and the source's errors."""
    return _query(settings, None)


def find_tenants(settings: Settings, slugs: list[TenantId]) -> dict[TenantId, Tenant]:
    """The tenants among `slugs` that exist."""
    return {tenant.id: tenant for tenant in _query(settings, [str(s) for s in slugs])}


def find_tenant(settings: Settings, slug: TenantId) -> Tenant:
    """Raises UnknownTenant."""
    found = find_tenants(settings, [slug])
    if slug not in found:
        raise unknown(slug)
    return found[slug]


def unknown(slug: TenantId) -> UnknownTenant:
    return UnknownTenant("No such tenant", on=str(slug), remedy="see `sbh tenants list`")


def _query(settings: Settings, slugs: list[str] | None) -> list[Tenant]:
    wanted = settings.tenants
    connection = connect(settings.database, "tenants")
    try:
        table = read_catalog(connection, settings.database.schemas).find(wanted.table, settings.database.schemas)
        if table is None:
            raise SettingsError("The tenants table does not exist", on=wanted.table, remedy="correct tenants.table")
        _require(table, [wanted.key, wanted.slug, wanted.region, *([wanted.tier] if wanted.tier else [])])
        tier_column = f"{ident(wanted.tier)}::text" if wanted.tier else "NULL"
        query = (
            f"SELECT {ident(wanted.slug)}::text, {ident(wanted.key)}::text, {ident(wanted.region)}::text, {tier_column}"
            f" FROM {sql_name(table)}"
        )
        with translated("list the tenants", wanted.table):
            cursor = connection.cursor()
            if slugs is None:
                cursor.execute(query + " ORDER BY 1")
            else:
                cursor.execute(query + f" WHERE {ident(wanted.slug)}::text = ANY(%s) ORDER BY 1", (slugs,))
            rows = cursor.fetchall()
    finally:
        connection.close()
    tenants = [_tenant(slug, key, region, tier or wanted.default_tier) for slug, key, region, tier in rows]
    doubles = sorted({t.id for t in tenants if sum(o.id == t.id for o in tenants) > 1}) if slugs is not None else []
    if doubles:
        raise SettingsError(
            "Several tenants have one slug", on=", ".join(doubles), remedy="make the slug column unique"
        )
    return tenants


def _tenant(slug: str | None, key: str | None, region: str | None, tier: str) -> Tenant:
    if slug is None or key is None:
        raise InvalidId(
            "A tenant has no slug or no key", on=f"slug {slug!r}, key {key!r}", remedy="correct the tenants table"
        )
    return Tenant(TenantId.parse(slug), key, region or "", tier)


def _require(table: Table, names: list[str]) -> None:
    for name in names:
        if table.column(name) is None:
            raise SettingsError(
                "The tenants table has no such column",
                on=f"{table.full_name}.{name}",
                remedy="correct the [tenants] section",
            )
