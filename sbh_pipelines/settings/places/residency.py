"""Where tenants' data may lie: zones of regions, who belongs to which, and how a bucket's region is proved."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from sbh_pipelines.settings.keys import KeysSettings
from sbh_pipelines.settings.places.storage import StorageSettings
from sbh_pipelines.settings.restore import PlatformSettings
from sbh_pipelines.settings.section import Section
from sbh_pipelines.settings.source import FilesSettings

Name = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class ResidencySettings(Section):
    """Which regions a tenant's data may lie in. A tenant's own list counts before its tier's, that before the default."""

    zones: dict[Name, list[Name]] = Field(
        {},
        description='Names for groups of regions, to be used in the lists below, e.g. `eu = ["eu-west-1", "eu-central-1"]`.',
    )
    default: list[Name] = Field(
        [], description="Zones and regions allowed to tenants not named below; empty: all of `storage.regions`."
    )
    tiers: dict[str, list[Name]] = Field({}, description="By tier, the zones and regions allowed to its tenants.")
    tenants: dict[str, list[Name]] = Field({}, description="By slug, the zones and regions allowed to the tenant.")
    moved: list[str] = Field(
        [],
        description="Slugs of tenants that were moved to another region on purpose: their repositories may begin anew there.",
    )
    platform_lists_all: bool = Field(
        False,
        description="The platform backup lists the slug, key, region and tier of every tenant. Where regions are of several zones"
        " it lies outside of some: true says that this may be.",
    )
    prove: Literal["always", "aws", "never"] = Field(
        "aws",
        description="Whether a bucket's region is asked of the server before anything is written to it: `aws`: where the server"
        " is AWS's; `always`: of every server, for those that know regions (MinIO with a region set); `never`.",
    )
    recheck_s: float = Field(3600.0, gt=0, description="A process asks again where a bucket is after this time, s.")

    @model_validator(mode="after")
    def _consistent(self) -> "ResidencySettings":
        for zone, regions in self.zones.items():
            if not regions:
                raise ValueError(f"the zone {zone} has no regions")
            if zone in {region for others in self.zones.values() for region in others}:
                raise ValueError(f"{zone} is the name of a zone and of a region")
        for name, listed in [*self.tiers.items(), *self.tenants.items()]:
            if not listed:
                raise ValueError(f"nothing is allowed to {name}: name a zone or a region, or leave it out")
        return self

    def regions_of(self, names: list[str]) -> frozenset[str]:
        """The regions that a list of zones and regions stands for."""
        return frozenset(region for name in names for region in self.zones.get(name, [name]))

    def is_one_zone(self, regions: list[str]) -> bool:
        """Whether data may move freely among these regions, as far as zones are concerned."""
        return not self.zones or len(set(regions)) == 1 or any(set(regions) <= set(z) for z in self.zones.values())


def check_places(
    residency: ResidencySettings,
    storage: StorageSettings,
    files: FilesSettings,
    keys: KeysSettings,
    platform: PlatformSettings,
    copied_to: Iterable[str] = (),
) -> None:
    """Raises ValueError where the sections together would take data out of its zone, or a key out of its region.

    `copied_to`: the regions in which copies lie, which may be allowed as well.
    """
    regions = storage.regions
    known = {*regions, *copied_to, *residency.zones, *(region for zone in residency.zones.values() for region in zone)}
    lists = {"default": residency.default}
    lists |= {f"tiers.{name}": listed for name, listed in residency.tiers.items()}
    lists |= {f"tenants.{name}": listed for name, listed in residency.tenants.items()}
    for name, listed in lists.items():
        if strange := [one for one in listed if one not in known]:
            raise ValueError(f"residency.{name} names {', '.join(strange)}: neither a zone nor a region")
        if listed and not residency.regions_of(listed) & set(regions):
            raise ValueError(f"residency.{name} allows none of storage.regions ({', '.join(regions)})")
    for field, key_id in (
        ("keys.kms_key_id", keys.kms_key_id if keys.provider == "aws-kms" else ""),
        ("storage.sse_kms_key_id", storage.sse_kms_key_id or ""),
    ):
        for region in regions:
            home = key_region(key_id.replace("{region}", region))
            if home not in ("", region):
                raise ValueError(f"{field} is a key in {home}, and {region} would use it: write {{region}} into it")
    if residency.is_one_zone(regions):
        return
    buckets = {"storage.bucket": storage.bucket, "storage.catalog_bucket": storage.catalog_bucket or storage.bucket}
    if files.enabled:
        buckets["files.bucket"] = files.bucket
    for field, template in buckets.items():
        if "{region}" not in template + (storage.endpoint_url or ""):
            raise ValueError(f"{field} is one bucket for regions of several zones: write {{region}} into it")
    if not residency.platform_lists_all:
        raise ValueError(
            f"the platform backup lies in {platform.region or regions[0]} and lists the tenants of all zones: set"
            " residency.platform_lists_all = true if that may be, or run one installation for each zone"
        )


def key_region(key_id: str) -> str:
    """The region that a KMS key's ARN names; '' for an id or an alias, which is of the region where it is used."""
    parts = key_id.split(":")
    return parts[3] if parts[0] == "arn" and len(parts) > 5 else ""
