"""How long backups are kept, and how space is given back."""

from typing import Any

from pydantic import Field, model_validator

from sbh_pipelines.settings.section import Section


class RetentionClass(Section):
    """What is kept of one type of backup: whatever any of the rules keeps."""

    keep_last: int = Field(0, ge=0, description="Backups kept: so many of the newest.")
    keep_within_hours: float = Field(
        0, ge=0, description="Backups kept: those of so many hours before the tenant's newest backup."
    )
    keep_within_days: float = Field(0, ge=0, description="As `keep_within_hours`, in days of 24 h; the longer counts.")
    keep_hourly: int = Field(0, ge=0)
    keep_daily: int = Field(0, ge=0)
    keep_weekly: int = Field(0, ge=0)
    keep_monthly: int = Field(0, ge=0)


class RetentionClassOverride(Section):
    """Fields of a RetentionClass that are other for some tenants."""

    keep_last: int | None = Field(None, ge=0, description="Replaces the field of this name where it is given.")
    keep_within_hours: float | None = Field(None, ge=0, description="Likewise.")
    keep_within_days: float | None = Field(None, ge=0, description="Likewise.")
    keep_hourly: int | None = Field(None, ge=0, description="Likewise.")
    keep_daily: int | None = Field(None, ge=0, description="Likewise.")
    keep_weekly: int | None = Field(None, ge=0, description="Likewise.")
    keep_monthly: int | None = Field(None, ge=0, description="Likewise.")


class RetentionOverride(Section):
    """A policy's difference for some tenants: it replaces the fields it names and no other."""

    full_backups: RetentionClassOverride = RetentionClassOverride()
    incremental_backups: RetentionClassOverride = RetentionClassOverride()
    differential_backups: RetentionClassOverride = RetentionClassOverride()
    keep_within_hours: float | None = Field(None, ge=0, description="Likewise.")
    time_zone: str | None = Field(None, description="Likewise.")


# The specification's retention_config, which says nothing of differential backups.
_SPECIFIED = {
    "full_backups": {"keep_daily": 7, "keep_weekly": 4, "keep_monthly": 12},
    "incremental_backups": {"keep_hourly": 24, "keep_daily": 7},
    "differential_backups": {"keep_daily": 7, "keep_weekly": 4},
}


class RetentionSettings(Section):
    """How long backups are kept; the specification's `retention_config`. A field that is not given has its default,
    also where others of its table are.
    """

    full_backups: RetentionClass = RetentionClass(**_SPECIFIED["full_backups"])
    incremental_backups: RetentionClass = RetentionClass(**_SPECIFIED["incremental_backups"])
    differential_backups: RetentionClass = RetentionClass(**_SPECIFIED["differential_backups"])
    keep_within_hours: float = Field(
        24.0,
        ge=0,
        description="Keep every full and differential backup of so many hours before the tenant's newest backup: one made"
        " before a migration is not forgotten because the daily one follows. Incremental ones are counted by the hour instead.",
    )
    time_zone: str = Field("UTC", description="Time zone in which hours, days, weeks and months begin.")
    tiers: dict[str, RetentionOverride] = Field(
        {},
        description="By a tier's name, what is other for its tenants: any of the fields above, e.g."
        " `[retention.tiers.archive.full_backups]` with `keep_weekly = 8`. The fields it does not name stay.",
    )
    tenants: dict[str, RetentionOverride] = Field(
        {}, description="By a tenant's slug, what is other for it, in the same way; wins over its tier."
    )

    @model_validator(mode="before")
    @classmethod
    def _missing_ones_have_their_default(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        tables = {
            name: {**kept, **given[name]} for name, kept in _SPECIFIED.items() if isinstance(given.get(name), dict)
        }
        return {**given, **tables}


class PruneSettings(Section):
    """How space is given back. What no backup needs is retired by one prune and removed by a later one."""

    min_age_hours: float = Field(
        24.0,
        ge=0,
        description="Nothing younger is retired, and nothing is removed that was retired less than this ago: the longest"
        " that a validation, or a writer that was asleep, may rely on what it once read.",
    )
    repack_below: float = Field(
        0.5, ge=0, le=1, description="A pack of which less than this share is needed is rewritten without the rest."
    )
    small_packs: int = Field(
        32,
        ge=0,
        description="So many packs of less than a quarter of `backup.pack_mib` are merged into large ones; 0: never.",
    )
    index_objects: int = Field(16, ge=1, description="More small index objects than this are merged.")
    keep_records_days: float = Field(
        90.0, ge=1, description="How long records of failed backups, of restores and of drills are kept."
    )
    max_clock_skew_s: float = Field(
        300.0, gt=0, description="Prune refuses when this machine's clock and the store's differ by more, s."
    )
