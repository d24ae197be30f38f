"""When backups are made."""

from typing import Any, Literal

from pydantic import Field, field_validator

from sbh_pipelines.settings.section import Section

ScheduleName = Literal["hourly_incremental", "differential", "daily_full", "weekly_full"]

_FOLLOWED: dict[str, list[ScheduleName]] = {
    "critical": ["hourly_incremental", "daily_full"],
    "important": ["daily_full"],
    "archive": ["weekly_full"],
}


class ScheduleSettings(Section):
    """Which schedules a tenant follows, and their cron lines. Dagster reads the cron lines and `time_zone` from the
    environment of its code server only; who follows which is read here, at every tick."""

    hourly_incremental: str = Field("0 * * * *", description="Cron line of incremental backups. Empty: off.")
    differential: str = Field(
        "", description="Cron line of differential backups, e.g. `0 */6 * * *`. Empty: off, until turned on in Dagster."
    )
    daily_full: str = Field("0 2 * * *", description="Cron line of the daily full backups. Empty: off.")
    weekly_full: str = Field("0 3 * * 0", description="Cron line of the weekly full backups. Empty: off.")
    daily_prune: str = Field("30 4 * * *", description="Cron line of prune. Empty: off.")
    time_zone: str = Field("UTC", description="Time zone of the cron lines.")
    incremental_tenants_per_run: int = Field(
        10_000,
        ge=1,
        description="Most tenants in one run of `hourly_incremental` and `differential`: unchanged ones cost next to"
        " nothing. Runs of fulls take `backup.batch_tenants`.",
    )
    tiers: dict[str, list[ScheduleName]] = Field(
        _FOLLOWED,
        description="The schedules that the tenants of a tier follow; tiers that are not named here keep their default."
        " A tier without an entry follows those of `tenants.default_tier`. An empty list: none.",
    )
    tenants: dict[str, list[ScheduleName]] = Field(
        {}, description="The schedules that single tenants follow, by slug, whatever their tier. An empty list: none."
    )

    @field_validator("tiers", mode="before")
    @classmethod
    def _over_the_defaults(cls, tiers: Any) -> Any:
        return {**_FOLLOWED, **tiers} if isinstance(tiers, dict) else tiers
