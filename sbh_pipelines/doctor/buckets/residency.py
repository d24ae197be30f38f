"""Residency, as the world is: the region that the server names for each bucket, and what nothing proves."""

from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.backup.site.store_binding import is_provable
from sbh_pipelines.doctor.findings import Level, Report
from sbh_pipelines.errors import ResidencyError
from sbh_pipelines.model import utc_now
from sbh_pipelines.placement import Place, catalog_place
from sbh_pipelines.repository.catalog.owners import slug_of
from sbh_pipelines.settings import Settings
from sbh_pipelines.settings.places.locality import is_local
from sbh_pipelines.stores.open_store import endpoint, is_aws, storage_of
from sbh_pipelines.stores.region_proof import require_region
from sbh_pipelines.stores.s3_control import S3Control

AREA = "residency"


def check_bucket(report: Report, settings: Settings, control: S3Control, place: Place) -> None:
    """Where the place's bucket really is: an error where backups would refuse to write, else what is known."""
    wanted, storage = is_provable(settings, place), storage_of(settings, place)
    bucket, region = place.bucket, storage.real_region(place.region)
    with report.trying(AREA, level=Level.ERROR if wanted else Level.WARNING):
        found = control.real_region(bucket)
        address = endpoint(storage, place.region)
        if found == region:
            report.ok(AREA, f"The bucket {bucket} is in its region", found)
        elif wanted:
            try:
                require_region(replace(place, region=region), found)
            except ResidencyError as error:
                report.fail(AREA, f"{error.what}: {bucket}", f"{error.why} [{error.code}]", error.remedy)
        elif is_aws(storage, place.region):
            report.warn(
                AREA,
                f"The bucket {bucket} is in another region, and residency.prove = never lets it be",
                f"it stands for {region} and is in {found or 'a region that the server does not tell'}",
                f"make the bucket in {region}, or correct storage.bucket and files.bucket; take residency.prove out",
            )
        elif address is not None and is_local(_host(address)):
            report.ok(AREA, f"The bucket {bucket} is on this machine", f"{address}, which is not asked for a region")
        else:
            report.warn(
                AREA,
                f"Nothing proves in which region the bucket {bucket} is",
                f"{address} says {found or 'nothing'}, the settings say {region}",
                "make sure by other means that this server is where the tenants' data may be; if it knows regions, name its"
                " region as the settings do and set residency.prove = always",
            )


def check_rules(report: Report, settings: Settings) -> None:
    """What the settings allow, in one line; where the platform's backup lies."""
    residency, storage = settings.residency, settings.storage
    if not (residency.zones or residency.default or residency.tiers or residency.tenants):
        report.ok(AREA, "Tenants may lie in every region of storage.regions", ", ".join(storage.regions))
    else:
        rules = f"{len(residency.zones)} zones, {len(residency.tiers)} tiers, {len(residency.tenants)} tenants"
        report.ok(AREA, "Regions are allowed by zone, tier and tenant", rules)
    home = settings.platform.region or storage.regions[0]
    report.ok(AREA, "The platform backup and its list of all tenants lie in one region", home)
    if residency.moved:
        report.warn(
            AREA,
            f"Tenants whose move to another region is accepted: {len(residency.moved)}",
            ", ".join(residency.moved[:10]),
            "after their first backup in the new region take them out of residency.moved",
        )


def check_moved(report: Report, settings: Settings, homes: Mapping[str, str]) -> None:
    """Tenants of which a region knows backups that they are not in (any more). `homes`: their regions by slug.

    As far as the regions' catalogs tell, which is every backup made since they were begun.
    """
    site, regions = Site(settings, utc_now), settings.storage.regions
    known: dict[str, set[str]] = {}  # regions by slug
    for region in regions if len(regions) > 1 else ():
        with report.trying(AREA, level=Level.WARNING):
            folder = settings.storage.path
            if folder is not None and not (folder / catalog_place(settings, region).bucket).is_dir():
                continue  # looking would make it
            former = {mark.home for mark in site.owners.all_former(region)}
            for home in site.catalog(region).read():
                if home not in former and (slug := slug_of(home)) is not None:
                    known.setdefault(slug, set()).add(region)
    away = {slug: known[slug] - {home} for slug, home in homes.items() if known.get(slug, {home}) - {home}}
    stuck = [slug for slug in away if homes[slug] not in known[slug] and slug not in settings.residency.moved]
    if stuck:
        report.fail(
            AREA,
            f"Tenants that were moved to a region where their backups would begin anew: {len(stuck)}",
            _listed([f"{slug} (now {homes[slug]}, backups in {', '.join(sorted(away[slug]))})" for slug in stuck]),
            "correct the tenant's region; or, where the move is meant, add the slug to residency.moved",
        )
    if left := [slug for slug in away if slug not in stuck]:
        report.warn(
            AREA,
            f"Tenants with backups left in a region that they moved away from: {len(left)}",
            _listed([f"{slug} ({', '.join(sorted(away[slug]))})" for slug in left]),
            "they are neither listed nor pruned any more: delete them when they are no longer needed",
        )


def _listed(names: list[str]) -> str:
    return ", ".join(sorted(names)[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""
