"""The tenants: is each listed once, under a name and in a region that can be used."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress

from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.schema import inspect
from sbh_pipelines.database.schema.inspect import TenantRow
from sbh_pipelines.database.schema.listing import Listing, no_listing
from sbh_pipelines.database.schema.tenants import gone_condition, list_tenants
from sbh_pipelines.database.session.connection import Connection
from sbh_pipelines.database.session.sql import ident, literal, sql_name
from sbh_pipelines.doctor.findings import Level, Report
from sbh_pipelines.errors import CorruptObject, InvalidId, SlugTaken
from sbh_pipelines.model import Tenant, TenantId, utc_now
from sbh_pipelines.placement import allowed_regions, catalog_place
from sbh_pipelines.repository.catalog.records import TenantRecord
from sbh_pipelines.settings import Settings
from sbh_pipelines.settings.section import toml

_TIERS = ("critical", "important", "archive")
_SHOWN = 10
_ASKED = 500  # repositories, one request each


def check(report: Report, connection: Connection, settings: Settings, listing: Listing | None) -> dict[str, str]:
    """The regions of the tenants found, by slug. Raises SettingsError where a column is wanting."""
    if listing is None:
        raise no_listing(settings)
    for lacking in inspect.listing_privileges(connection, listing):
        report.fail("tenants", f"The role may not read {lacking.name}: backups fail", "SELECT", lacking.statement)
        return {}
    rows = inspect.tenant_rows(connection, listing)
    alike_keys = [key for key, times in Counter(row.key for row in rows).items() if times > 1 and key]
    _finding(
        report,
        Level.ERROR,
        "that share a key, so that each would get the rows of all",
        alike_keys,
        "name a column that is unique: [tenants] key = ...; of a view, leave out what doubles its rows",
    )
    table, slug, key = sql_name(listing), ident(listing.settings.slug), ident(listing.settings.key)
    bad = [row for row in rows if not _valid(row.slug)]
    holders = Counter(row.slug for row in rows if row.live)
    repeated = [
        one for one, times in Counter(row.slug for row in rows).items() if times > 1 and one and holders[one] != 1
    ]
    given_away = [row for row in rows if not row.live and row.slug not in repeated and holders[row.slug] == 1]
    folded = Counter((row.slug or "").lower() for row in rows if row.slug not in repeated and row not in given_away)
    alike = [one for one, times in folded.items() if times > 1 and one]
    elsewhere = [row for row in rows if row.region not in settings.storage.regions]
    astray = [row for row in rows if row not in elsewhere and not _at_home(settings, row)]
    tierless = [row for row in rows if row.tier is not None and row.tier not in _TIERS]
    named = literal(bad[0].key or "...") if bad else ""
    _finding(
        report,
        Level.ERROR,
        "that cannot be backed up, for want of a valid slug",
        [f"{row.key or '(no key)'}={ascii(row.slug)[:80]}" for row in bad],
        f"UPDATE {table} SET {slug} = '...' WHERE {key} = {named}; -- 1 to 128 of A-Z a-z 0-9 . _ -, no '..'\n"
        f"or take another column for all, e.g. [tenants] slug = {toml(listing.settings.key)}",
    )
    _finding(
        report,
        Level.ERROR,
        "that share a slug, so that their backups would mix",
        [ascii(one)[1:-1] for one in repeated],
        f"leave out those that are tenants no more: [tenants] where = {toml(gone_condition(listing))}; or give each its own:"
        f" UPDATE {table} SET {slug} = '...' WHERE {key} = '...'; ALTER TABLE {table} ADD UNIQUE ({slug});",
    )
    _finding(
        report,
        Level.WARNING,
        "whose slug another tenant has now: they are in no backup",
        [f"{row.key}={ascii(row.slug)[1:-1]}" for row in given_away],
        f"if they are tenants no more, say so: [tenants] where = {toml(gone_condition(listing))}",
    )
    _finding(report, Level.WARNING, "that differ from another only by case", alike, "rename one of each pair")
    _finding(
        report,
        Level.ERROR,
        "in regions where no backup may be written",
        [f"{ascii(row.slug)[1:-1]} ({row.region})" for row in elsewhere],
        f"add the region to storage.regions (now {', '.join(settings.storage.regions)}), or correct the tenant's;"
        " those without a region get [tenants] default_region = " + toml(settings.storage.regions[0]),
    )
    _finding(
        report,
        Level.ERROR,
        "in regions where their data may not lie: nothing of them is written",
        [f"{ascii(row.slug)[1:-1]} ({row.region})" for row in astray],
        "correct the tenant's region in the application, or what residency.tenants, .tiers or .default allow",
    )
    _finding(
        report,
        Level.WARNING,
        "with a tier that no policy knows",
        [f"{row.slug} ({row.tier})" for row in tierless],
        f"use one of {', '.join(_TIERS)}",
    )
    if rows:
        regions = Counter(row.region for row in rows)
        report.ok("tenants", f"Tenants: {len(rows)}", ", ".join(f"{n} in {region}" for region, n in regions.items()))
    else:
        report.warn("tenants", "There is no tenant", listing.full_name, "nothing will be backed up until there is one")
    return {row.slug: row.region or "" for row in rows if row.slug and _valid(row.slug)}


def check_owners(report: Report, settings: Settings) -> None:
    """Slugs that changed hands, and tenants that got another slug: as the regions' catalogs tell, by the tenants' keys."""
    with report.trying("tenants", level=Level.WARNING):
        site, tenants = Site(settings, utc_now), list_tenants(settings).tenants
        slugs = {str(tenant.id) for tenant in tenants}
        keys = {tenant.key: str(tenant.id) for tenant in tenants}
        taken: list[str] = []
        renamed: dict[str, str] = {}
        aside: set[str] = set()
        for region in settings.storage.regions:
            folder = settings.storage.path
            if folder is not None and not (folder / catalog_place(settings, region).bucket).is_dir():
                continue  # looking would make it
            here = [tenant for tenant in tenants if tenant.region == region]
            records = site.catalog(region).read()
            taken += _taken(site, here, records)
            aside |= {mark.home for mark in site.owners.all_former(region)}
            for home, record in records.items():
                owner = record.state.owner if record.state is not None else None
                if home not in slugs and home not in aside and owner in keys:
                    renamed[str(home)] = keys[owner]
        slug = taken[0] if taken else ""
        _finding(
            report,
            Level.ERROR,
            "whose slug another tenant had: nothing is backed up for them (SBH-217)",
            taken,
            f"another customer: sbh tenants retire {slug} --confirm {slug}\n"
            f"or the same one, whose key in the application changed: sbh tenants adopt {slug} --confirm {slug}",
        )
        old = next(iter(renamed), "")
        _finding(
            report,
            Level.WARNING,
            "that have another slug now, and began anew under it",
            [f"{before} (now {now})" for before, now in renamed.items()],
            f"what was backed up before is read under the former slug, by users of the platform: sbh backup list {old};"
            f" when it is no longer needed: sbh tenants erase {old} --confirm {old} --reason ...",
        )
        if aside:
            shown = ", ".join(sorted(aside)[:_SHOWN])
            report.ok("tenants", f"Repositories of former tenants that were put aside: {len(aside)}", shown)


def _taken(site: Site, tenants: Sequence[Tenant], records: Mapping[TenantId, TenantRecord]) -> list[str]:
    """Those under whose slug another tenant's backups are."""
    found, unsaid = [], []
    for tenant in tenants:
        record = records.get(TenantId(site.owners.home_of(tenant)))
        if record is None or not record.is_surely_of(tenant.key):
            unsaid.append(tenant)
    for tenant in unsaid[:_ASKED]:  # of earlier releases, or nothing is known: their repositories tell
        try:
            with suppress(CorruptObject):  # it is nobody's then, and whoever opens it is told
                site.owners.check(tenant)
        except SlugTaken:
            found.append(str(tenant.id))
    return found


def _finding(report: Report, level: Level, what: str, names: list[str], remedy: str) -> None:
    if names:
        shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        say = report.fail if level is Level.ERROR else report.warn
        say("tenants", f"Tenants {what}: {len(names)}", shown, remedy)


def _at_home(settings: Settings, row: TenantRow) -> bool:
    if not row.slug or not _valid(row.slug):
        return True  # said already
    tenant = Tenant(TenantId.parse(row.slug), "", row.region or "", row.tier or settings.tenants.default_tier)
    return tenant.region in allowed_regions(settings, tenant)


def _valid(slug: str | None) -> bool:
    try:
        return bool(TenantId.parse(slug or ""))
    except InvalidId:
        return False
