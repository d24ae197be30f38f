"""The application's list of tenants."""

from collections import Counter
from contextlib import closing
from dataclasses import dataclass

from sbh_pipelines.database.schema.listing import Listing, find_listing, no_listing
from sbh_pipelines.database.session.connection import look, translated
from sbh_pipelines.database.session.sql import ident, literal, sql_name
from sbh_pipelines.errors import InvalidId, SbhError, SettingsError, UnknownTenant
from sbh_pipelines.model import Tenant, TenantId
from sbh_pipelines.settings import DatabaseSettings, Settings
from sbh_pipelines.settings.section import toml


@dataclass(frozen=True, slots=True)
class TenantList:
    """The tenants that can be backed up, by slug, and an error for each that cannot: never silently left out."""

    tenants: tuple[Tenant, ...]
    unusable: tuple[SbhError, ...]


def list_tenants(settings: Settings, database: DatabaseSettings | None = None) -> TenantList:
    """All tenants. `database`: where to ask, if not as the application's. Raises the source's errors."""
    return _query(settings, None, database)


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


def _query(settings: Settings, slugs: list[str] | None, database: DatabaseSettings | None = None) -> TenantList:
    wanted, asked_of = settings.tenants, database or settings.database
    # Sensors and the API ask often: behind a migration's lock they must fail soon rather than pile up.
    with closing(look(asked_of, "tenants", within_s=asked_of.look_timeout_s)) as connection:
        listing = find_listing(connection, settings)
        if listing is None:
            raise no_listing(settings)
        listing.check()
        query = listing.select
        with translated("list the tenants", listing.full_name):
            cursor = connection.cursor()
            if slugs is not None:
                asked = ", ".join(map(literal, slugs))
                query += f" WHERE listed.{ident(wanted.slug)}::text = ANY(ARRAY[{asked}]::text[])"
            # nosemgrep: statement-made-by-format - two statements of ours
            cursor.execute(query + " ORDER BY 1")
            rows = cursor.fetchall()
    tenants: dict[str, Tenant] = {}
    unusable: list[SbhError] = []
    times = Counter(row[0] for row in rows)
    holders = Counter(slug for slug, _, _, _, live, _ in rows if live)
    for slug, key, region, tier, live, keys in rows:
        given_away = times[slug] > 1 and not live and holders[slug] == 1
        try:
            if key is None or (times[slug] > 1 and not (live and holders[slug] == 1)):
                if given_away and slugs is not None:
                    continue  # who has the slug now is asked for
                raise _not_told_apart(listing, slug, key, times[slug] > 1)
            if keys > 1:
                raise SettingsError(
                    "A tenant cannot be told apart",
                    on=f"slug {ascii(slug)[:64]}, key {ascii(key)[:64]}",
                    why=f"{keys} rows of {listing.full_name} have this key: each would get the rows of all",
                    remedy="name a column that is unique: [tenants] key = ...; of a view, leave out what doubles its rows",
                )
            tenants[slug] = Tenant(_parsed(listing, slug, key), key, region or "", tier or wanted.default_tier)
        except SbhError as error:
            unusable.append(error)
    return TenantList(tuple(tenants.values()), tuple(unusable))


def _parsed(listing: Listing, slug: str, key: str) -> TenantId:
    try:
        return TenantId.parse(slug)
    except InvalidId as error:
        remedy = (
            f"UPDATE {sql_name(listing)} SET {ident(listing.settings.slug)} = '...' WHERE {ident(listing.settings.key)} ="
            f" {literal(key)}; or take another column for all: [tenants] slug = {toml(listing.settings.key)}"
        )
        raise InvalidId(
            "A tenant's slug cannot be used",
            on=f"key {ascii(key)[:64]}, slug {ascii(slug)[:64]}",
            why=error.why,
            remedy=remedy,
        ) from None


def _not_told_apart(listing: Listing, slug: str, key: str | None, doubled: bool) -> SettingsError:
    table, column = sql_name(listing), ident(listing.settings.slug)
    remedy = f"give it a key, or leave it out: [tenants] where = {toml(ident(listing.settings.key) + ' IS NOT NULL')}"
    if doubled:
        remedy = (
            f"give each its own: UPDATE {table} SET {column} = '...' WHERE {ident(listing.settings.key)} = {literal(key or '...')};"
            f" or leave out those that are tenants no more: [tenants] where = {toml(gone_condition(listing))}"
        )
    return SettingsError(
        "A tenant cannot be told apart",
        on=f"slug {ascii(slug)[:64]}, key {ascii(key)[:64]}",
        why="several tenants have this slug" if doubled else "it has no key",
        remedy=remedy,
    )


def gone_condition(listing: Listing) -> str:
    """A condition that leaves out deleted tenants: the table's own, or one on a column that looks like it."""
    if listing.live:
        return listing.live
    found = next((c.name for c in listing.columns if c.name.lower().replace("_", "") in _GONE), None)
    return f"{ident(found)} IS NULL" if found else "deleted_at IS NULL"


_GONE = ("deletedat", "archivedat", "removedat", "discardedat", "closedat", "deactivatedat")
