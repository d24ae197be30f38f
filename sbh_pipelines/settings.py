"""One frozen Settings, read from `sbh.toml` and the environment.

The environment wins over the file: `SBH_DATABASE__DSN` overrides `[database] dsn`, `SBH_BACKUP__MEMORY_MIB` overrides
`[backup] memory_mib`, and so on. The file is the one named by `SBH_SETTINGS`, else `sbh.toml` in the working directory.

Every secret `X` can be given in three ways, first found wins: `X` itself (in the environment, else in the file);
`X_file`, a path; `X_secret`, the name or ARN of an AWS Secrets Manager secret. Secrets are `SecretStr`: a repr or a log
shows stars.
Loading does no I/O beyond the file; `X_file` and `X_secret` are resolved by `security.secrets` when they are needed.
"""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from sbh_pipelines.errors import SettingsError

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
    keep_hourly: int = Field(0, ge=0)
    keep_daily: int = Field(0, ge=0)
    keep_weekly: int = Field(0, ge=0)
    keep_monthly: int = Field(0, ge=0)


class RetentionSettings(_Section):
    """How long backups are kept; the specification's `retention_config`."""

    full_backups: RetentionClass = RetentionClass(keep_daily=7, keep_weekly=4, keep_monthly=12)
    keep_within_hours: float = Field(
        24.0,
        ge=0,
        description="Keep every backup made in the hours before the newest one: a backup made before a migration is not"
        " forgotten because the daily one follows.",
    )
    time_zone: str = Field("UTC", description="Time zone in which days, weeks and months begin.")


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


class ScheduleSettings(_Section):
    """Cron lines of the schedules, in `time_zone`."""

    daily_full: str = "0 2 * * *"
    time_zone: str = "UTC"


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
    alerts: AlertSettings = AlertSettings()
    schedules: ScheduleSettings = ScheduleSettings()

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
