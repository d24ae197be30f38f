"""When backups are made, and what is kept of the changes between two of them."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, field_validator

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
    journal_drain: str = Field(
        "*/5 * * * *",
        description="Cron line of the drain of the change journal, where `journal.enabled`. Empty: off. A moment between two"
        " drains can be recovered once the later one is done.",
    )
    copies: str = Field(
        "20 * * * *",
        description="Cron line of the run that brings every copy up to date, where there are any. Empty: off.",
    )
    storage_report: str = Field("50 5 * * 1", description="Cron line of the report of storage. Empty: off.")
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


class JournalSettings(Section):
    """The change journal: what was changed of each tenant's rows between two backups. It needs `wal_level = logical`; `sbh doctor`
    says which tables it can cover, and `sbh journal setup` makes its slot and its publication."""

    enabled: bool = Field(False, description="Whether changes are journaled at all.")
    dsn: str | None = Field(
        None,
        description="libpq connection string of the same database, without the password, as a role that may replicate, and on the"
        " primary. What it leaves out is as in `database.dsn`: `user=sbh_journal` says another role alone. Null: `database.dsn`.",
    )
    password: SecretStr | None = Field(
        None,
        description="Password of that role (a secret). Without it that of `database` holds, if host, port and user are the same.",
    )
    password_file: Path | None = None
    password_secret: str | None = None
    slot: str = Field(
        "sbh_journal",
        pattern=r"^[a-z0-9_]{1,63}$",
        description="The logical replication slot. It holds back the removal of the server's log until a drain has read it.",
    )
    publication: str = Field(
        "sbh_journal",
        min_length=1,
        max_length=63,
        description="The publication, which the journal keeps: the tables whose changes it can tell whose they are.",
    )
    prefix: str = Field(
        "_sbh-journal/",
        description="Prefix of the journal, beside the catalog; a folder per region below it. Must lie outside every tenant's"
        " prefix: no slug begins with `_`.",
    )
    keep_days: float = Field(
        7.0, gt=0, le=366, description="How far back a tenant can be recovered to a moment, if backups are there."
    )
    keep_recovered_days: float = Field(
        3.0, gt=0, le=366, description="How long a backup is kept that was put together for a moment of the past, days."
    )
    max_lag_gib: float = Field(
        10.0,
        gt=0,
        description="A slot that holds back more of the server's log than this is dropped by the next drain, GiB: production comes"
        " before the journal, which then has a gap.",
    )
    objective_minutes: float = Field(
        15.0,
        gt=0,
        description="How far the journal may be behind, minutes: more is told to people. About three times the interval of"
        " `schedules.journal_drain`.",
    )
    loop_seconds: float = Field(
        5.0, gt=0, le=3600, description="`sbh journal run`: from the end of a drain to the next one, s."
    )

    @field_validator("prefix")
    @classmethod
    def _is_a_folder(cls, prefix: str) -> str:
        if not prefix.endswith("/") or prefix.startswith("/") or "{" in prefix:
            raise ValueError("journal.prefix must be plain text that ends with /, and does not begin with it")
        return prefix
