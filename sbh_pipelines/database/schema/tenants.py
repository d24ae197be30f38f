"""The application's list of tenants."""

from collections import Counter
from contextlib import closing
from dataclasses import dataclass

from sbh_pipelines.database.schema.catalog import Table, read_catalog
from sbh_pipelines.database.session.connection import connect, translated
from sbh_pipelines.database.session.sql import ident, literal, sql_name
from sbh_pipelines.errors import SbhError, SettingsError, UnknownTenant
from sbh_pipelines.model import Tenant, TenantId
from sbh_pipelines.settings import Settings


@dataclass(frozen=True, slots=True)
class TenantList:
    """The tenants that can be backed up, by slug, and an error for each that cannot: never silently left out."""

    tenants: tuple[Tenant, ...]
    unusable: tuple[SbhError, ...]


def list_tenants(settings: Settings) -> TenantList:
    """All tenants. Raises the source's errors."""
    return _query(settings, None)


def find_tenants(settings: Settings, slugs: list[TenantId]) -> dict[TenantId, Tenant]:
    """The tenants among `slugs` that exist. Raises SettingsError when two have the same slug."""
    found = _query(settings, [str(s) for s in slugs])
    if found.unusable:
        raise found.unusable[0]
    return {tenant.id: tenant for tenant in found.tenants}


def find_tenant(settings: Settings, slug: TenantId) -> Tenant:
    """Raises UnknownTenant."""
    found = find_tenants(settings, [slug])
    if slug not in found:
        raise unknown(slug)
    return found[slug]


def unknown(slug: TenantId) -> UnknownTenant:
    return UnknownTenant("No such tenant", on=str(slug), remedy="see `sbh tenants list`")


def _query(settings: Settings, slugs: list[str] | None) -> TenantList:
    wanted = settings.tenants
    with closing(connect(settings.database, "tenants")) as connection:
        # Sensors and the API ask often: behind a migration's lock they must fail soon rather than pile up.
        with translated("prepare the session"):
            connection.cursor().execute(f"SET lock_timeout = {int(settings.database.lock_timeout_s * 1000)}")
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
            if slugs is not None:
                query += f" WHERE {ident(wanted.slug)}::text = ANY(ARRAY[{', '.join(map(literal, slugs))}]::text[])"
            cursor.execute(query + " ORDER BY 1")
            rows = cursor.fetchall()
    tenants: dict[str, Tenant] = {}
    unusable: list[SbhError] = []
    shared = {slug for slug, times in Counter(row[0] for row in rows).items() if times > 1}
    for slug, key, region, tier in rows:
        try:
            if slug in shared or key is None:
                raise SettingsError(
                    "A tenant cannot be told apart",
                    on=f"slug {ascii(slug)[:64]}, key {ascii(key)[:64]}",
                    why="several tenants have this slug" if slug in shared else "it has no key",
                    remedy="correct the tenants table; make the slug column unique and not null",
                )
            tenants[slug] = Tenant(TenantId.parse(slug), key, region or "", tier or wanted.default_tier)
        except SbhError as error:
            unusable.append(error)
    return TenantList(tuple(tenants.values()), tuple(unusable))


def _require(table: Table, names: list[str]) -> None:
    for name in names:
        if table.column(name) is None:
            raise SettingsError(
                "The tenants table has no such column",
                on=f"{table.full_name}.{name}",
                remedy="correct the [tenants] section",
            )
