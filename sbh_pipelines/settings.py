"""One frozen Settings, read from `sbh.toml` and the environment.

The environment wins over the file: `SBH_DATABASE__DSN` overrides `[database] dsn`, `SBH_BACKUP__MEMORY_MIB` overrides
`[backup] memory_mib`, and so on. The file is the one named by `SBH_SETTINGS`, else `sbh.toml` in the working directory.

Every secret `X` can be given in three ways, first found wins: `X` itself (in the environment, else in the file);
`X_file`, a path; `X_secret`, the name or ARN of an AWS Secrets Manager secret. Secrets are `SecretStr`: a repr or a log
shows stars.
Loading does no I/O beyond the file; `X_file` and `X_secret` are resolved by `security.secrets` when they are needed.
"""

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from sbh_pipelines.errors import SettingsError

_SLUG = r"[A-Za-z0-9][A-Za-z0-9._-]*"  # what a tenant id is made of

QualifiedName = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class TableLink(_Section):
    """How the rows of a table without a foreign key to an owned table belong to a tenant. One of the three ways."""

    table: QualifiedName = Field(description="The table, as `schema.table` or `table`.")
    via: list[str] | None = Field(
        None, description="The foreign key to follow where several lead to different owners: the table's own columns."
    )
    parent: QualifiedName | None = Field(None, description="With `join`: the table whose rows decide.")
    join: str | None = Field(
        None,
        description="SQL condition linking the table (alias `t`) to `parent` (alias `p`), for links that are no foreign"
        " key, e.g. `t.item_type = 'task' AND t.item_id = p.id`.",
    )
    tenant_column: str | None = Field(None, description="The tenant column of this table where its name differs.")


class DatabaseSettings(_Section):
    """The application's PostgreSQL database."""

    dsn: str = Field(
        "host=127.0.0.1 dbname=app",
        description="libpq connection string or URI, without the password. Non-local hosts should say `sslmode=verify-full`.",
    )
    password: SecretStr | None = Field(None, description="Password of the backup role (a secret).")
    password_file: Path | None = None
    password_secret: str | None = None
    schemas: list[str] = Field(["public"], min_length=1, description="Schemas whose tables must all be mapped.")
    tenant_column: str = Field("tenant_id", description="Column that marks a table as owned by tenants.")
    shared: list[QualifiedName] = Field([], description="Tables all tenants share; left to the platform backup.")
    excluded: list[QualifiedName] = Field(
        [], description="Tables deliberately not backed up (sessions, caches, queues)."
    )
    config_tables: list[QualifiedName] = Field(
        [], description="Owned tables that hold a tenant's configuration: they go into the `config` component."
    )
    links: list[TableLink] = Field([], description="Tables whose tenant cannot be derived from foreign keys.")
    connections: int = Field(3, ge=1, le=32, description="Connections one backup reads with, on one exported snapshot.")
    work_mem_mib: int = Field(256, ge=1, le=65536, description="`work_mem` of the backup sessions, MiB (sorts by key).")
    lock_timeout_s: float = Field(5.0, gt=0, description="How long a restore waits for a lock before it gives up, s.")
    statement_timeout_s: float = Field(0.0, ge=0, description="Bound of one statement, s; 0 means none.")
    connect_timeout_s: int = Field(10, ge=1)


class TenantsSettings(_Section):
    """Where tenants are listed: one table of the application."""

    table: QualifiedName = "tenants"
    key: str = Field("id", description="Column that the tenant columns refer to.")
    slug: str = Field("slug", description="Column with the tenant's slug: its name everywhere in this system.")
    region: str = Field("region", description="Column with the tenant's region.")
    tier: str | None = Field("tier", description="Column with the tier (critical, important, archive); null if none.")
    default_tier: str = "important"


class FileReference(_Section):
    """A column that names objects of the tenant, checked against the listing at every backup."""

    table: QualifiedName
    column: str


class FilesSettings(_Section):
    """The tenants' files: one bucket per region, one prefix per tenant."""

    enabled: bool = True
    bucket: str = Field("sbh-files-{region}", description="Bucket; `{region}` and `{tenant}` are filled in.")
    prefix: str = Field("files/{tenant}/", description="Prefix of a tenant's files; must contain `{tenant}`.")
    exclude: list[str] = Field(["backups/"], description="Prefixes below it that are not the tenant's files.")
    references: list[FileReference] = Field([], description="Columns that hold object keys.")
    connections: int = Field(16, ge=1, le=128, description="Files read or written at once.")

    @model_validator(mode="after")
    def _tenant_in_prefix(self) -> "FilesSettings":
        if "{tenant}" not in self.prefix:
            raise ValueError("files.prefix must contain {tenant}, or tenants would share one prefix")
        if not self.prefix.endswith("/"):
            raise ValueError("files.prefix must end with /, or tenant-1 would also match tenant-10")
        return self


class StorageSettings(_Section):
    """Where backups are kept, and how S3 is reached (for the files as well)."""

    kind: Literal["s3", "local"] = Field("s3", description="`s3`, or `local`: a directory per bucket under `path`.")
    path: Path | None = Field(None, description="With `local`: the directory that holds a folder per bucket.")
    bucket: str = Field("sbh-files-{region}", description="Bucket for backups; `{region}` is filled in.")
    prefix: str = Field(
        "files/{tenant}/backups/", description="Prefix of a tenant's repository; must contain `{tenant}`."
    )
    catalog_prefix: str = Field(
        "_sbh-catalog/",
        description="Prefix of the regions' catalogs (which backup describes each tenant); a folder per region below it."
        " Must lie outside every tenant's prefix: no slug begins with `_`.",
    )
    catalog_bucket: str | None = Field(
        None, description="Bucket of the catalogs; null: `bucket`. Needed where that contains `{tenant}`."
    )
    regions: list[str] = Field(
        ["eu-west-1", "us-east-1"], min_length=1, description="Regions in which backups may be written at all."
    )
    endpoint_url: str | None = Field(None, description="Only for S3 servers other than AWS; `{region}` is filled in.")
    access_key_id: str | None = Field(None, description="Null: the SDK's own chain (instance role, profile, ...).")
    secret_access_key: SecretStr | None = None
    secret_access_key_file: Path | None = None
    secret_access_key_secret: str | None = None
    timeout_s: float = Field(60.0, gt=0, description="Bound of one request, s.")
    retries: int = Field(5, ge=0, le=20, description="Retries of a request on transient errors, with backoff.")

    @model_validator(mode="after")
    def _consistent(self) -> "StorageSettings":
        if self.kind == "local" and self.path is None:
            raise ValueError("storage.kind = 'local' needs storage.path")
        if "{tenant}" not in self.prefix or not self.prefix.endswith("/"):
            raise ValueError("storage.prefix must contain {tenant} and end with /")
        if not self.catalog_prefix.endswith("/") or self.catalog_prefix.startswith("/"):
            raise ValueError("storage.catalog_prefix must end with /, and not begin with it")
        if "{" in self.catalog_prefix:
            raise ValueError("storage.catalog_prefix must be plain text: its folders per region are added to it")
        if "{tenant}" in (self.catalog_bucket or self.bucket):
            raise ValueError("storage.catalog_bucket must name a bucket that does not depend on the tenant")
        return self


class KeysSettings(_Section):
    """The key that wraps each tenant's data key."""

    provider: Literal["local", "aws-kms"] = Field(
        "aws-kms", description="`aws-kms`; or `local`: a 32-byte key file, for development and air-gapped sites."
    )
    key_file: Path | None = Field(None, description="With `local`: the key file (created by `sbh stack up`).")
    kms_key_id: str = Field("alias/sbh-backup", description="Key id, ARN or alias; `{region}` is filled in.")
    kms_endpoint_url: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "KeysSettings":
        if self.provider == "local" and self.key_file is None:
            raise ValueError("keys.provider = 'local' needs keys.key_file")
        return self


class BackupSettings(_Section):
    """How backups are made."""

    memory_mib: int = Field(
        256, ge=64, description="Bound of the data in flight and in open packs of one backup process, MiB."
    )
    pack_mib: int = Field(16, ge=1, le=512, description="Size at which a pack is closed and stored, MiB.")
    compression_level: int = Field(1, ge=-7, le=19, description="zstd level.")
    seal_threads: int = Field(2, ge=1, le=64, description="Threads that compress and encrypt.")
    upload_threads: int = Field(6, ge=1, le=64, description="Packs uploaded at once.")
    batch_tenants: int = Field(200, ge=1, le=2000, description="Tenants read in one pass over the database.")
    verify: Literal["stat", "read"] = Field(
        "stat",
        description="Before the manifest is published: `stat` checks that every referenced object is there with its"
        " size; `read` downloads, decrypts and re-hashes all of it.",
    )
    lease_s: float = Field(300.0, gt=0, description="A dead writer's lease on a tenant expires after this, s.")


class RetentionClass(_Section):
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


class RetentionClassOverride(_Section):
    """Fields of a RetentionClass that are other for some tenants."""

    keep_last: int | None = Field(None, ge=0, description="Replaces the field of this name where it is given.")
    keep_within_hours: float | None = Field(None, ge=0, description="Likewise.")
    keep_within_days: float | None = Field(None, ge=0, description="Likewise.")
    keep_hourly: int | None = Field(None, ge=0, description="Likewise.")
    keep_daily: int | None = Field(None, ge=0, description="Likewise.")
    keep_weekly: int | None = Field(None, ge=0, description="Likewise.")
    keep_monthly: int | None = Field(None, ge=0, description="Likewise.")


class RetentionOverride(_Section):
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


class RetentionSettings(_Section):
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
        tables = {name: {**kept, **given[name]} for name, kept in _SPECIFIED.items() if isinstance(given.get(name), dict)}
        return {**given, **tables}


class PruneSettings(_Section):
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
        90.0, ge=1, description="How long records of failed backups and of restores are kept."
    )
    max_clock_skew_s: float = Field(
        300.0, gt=0, description="Prune refuses when this machine's clock and the store's differ by more, s."
    )


class AlertSettings(_Section):
    """Who is told when a run fails. Any number of channels; the log is always one of them."""

    webhook_url: SecretStr | None = Field(
        None, description="Gets a JSON POST per alert (a secret: it may hold a token)."
    )
    webhook_url_file: Path | None = None
    webhook_url_secret: str | None = None
    sns_topic_arn: str | None = None
    sns_endpoint_url: str | None = None
    smtp_host: str | None = None
    smtp_port: int = 587
    smtp_starttls: bool = True
    smtp_user: str | None = None
    smtp_password: SecretStr | None = None
    smtp_password_file: Path | None = None
    smtp_password_secret: str | None = None
    mail_from: str = "sbh-pipelines@localhost"
    mail_to: list[str] = []


ScheduleName = Literal["hourly_incremental", "differential", "daily_full", "weekly_full"]

_FOLLOWED: dict[str, list[ScheduleName]] = {
    "critical": ["hourly_incremental", "daily_full"],
    "important": ["daily_full"],
    "archive": ["weekly_full"],
}


class ScheduleSettings(_Section):
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


class Settings(BaseSettings):
    """Everything that can be set. Frozen; `repr` masks secrets."""

    model_config = SettingsConfigDict(
        env_prefix="SBH_", env_nested_delimiter="__", frozen=True, extra="forbid", hide_input_in_errors=True
    )

    database: DatabaseSettings = DatabaseSettings()
    tenants: TenantsSettings = TenantsSettings()
    files: FilesSettings = FilesSettings()
    storage: StorageSettings = StorageSettings()
    keys: KeysSettings = KeysSettings()
    backup: BackupSettings = BackupSettings()
    retention: RetentionSettings = RetentionSettings()
    prune: PruneSettings = PruneSettings()
    alerts: AlertSettings = AlertSettings()
    schedules: ScheduleSettings = ScheduleSettings()

    @model_validator(mode="after")
    def _catalog_apart(self) -> "Settings":
        for field, template in (("files.prefix", self.files.prefix), ("storage.prefix", self.storage.prefix)):
            if _may_overlap(self.storage.catalog_prefix, template):
                raise ValueError(f"storage.catalog_prefix lies within {field} of some tenant, or around it")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # The environment comes before what the file gave (passed as init arguments), so that it wins.
        return env_settings, init_settings


def _may_overlap(prefix: str, template: str) -> bool:
    """Whether, for some tenant, one of the two prefixes lies within the other."""

    def pattern(folder: str) -> str:
        return re.escape(folder).replace(r"\{tenant\}", _SLUG).replace(r"\{region\}", ".+")

    folders = zip(prefix.rstrip("/").split("/"), template.rstrip("/").split("/"), strict=False)
    return all(re.fullmatch(pattern(theirs), ours) for ours, theirs in folders)


def load_settings(path: Path | str | None = None) -> Settings:
    """Read the settings; `path` overrides `SBH_SETTINGS`. Relative paths in the file are relative to the file.

    Raises SettingsError when the file is missing though named, is not TOML, or a field is unknown or out of bounds.
    """
    named = path or os.environ.get("SBH_SETTINGS")
    file = Path(named) if named else Path("sbh.toml")
    values: dict[str, Any] = {}
    if file.exists():
        try:
            values = tomllib.loads(file.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise SettingsError(
                "Cannot read the settings",
                on=str(file),
                why=str(error),
                remedy="correct the file; it must be TOML in UTF-8",
            ) from None
        _resolve_paths(values, file.resolve().parent)
    elif named:
        raise SettingsError(
            "No settings file", on=str(file), remedy="create it, or point SBH_SETTINGS at the right one"
        )
    try:
        return Settings(**values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        raise SettingsError(
            "The settings are not valid", on=str(file), why=problems, remedy="see docs/settings.md for every field"
        ) from None


def _resolve_paths(values: dict[str, Any], base: Path) -> None:
    for section in values.values():
        if isinstance(section, dict):
            for name, value in section.items():
                if (name.endswith("_file") or name == "path") and isinstance(value, str):
                    section[name] = str(base / value)
