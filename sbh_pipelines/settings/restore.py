"""How tenants are brought back: in place, after complete failure, and in drills."""

from pathlib import Path

from pydantic import Field, SecretStr, model_validator

from sbh_pipelines.settings.section import QualifiedName, Section


class Hook(Section):
    """Something done before or after a restore in place: SQL on the application's database, or a call of a webhook."""

    sql: str | None = Field(
        None, description="A statement. `:tenant` stands for the tenant's key, `:slug` for its slug, both as literals."
    )
    webhook_url: SecretStr | None = Field(
        None, description="POSTed a JSON object that says what begins or ended (a secret)."
    )
    timeout_s: float = Field(30.0, gt=0, description="Bound of the hook, s.")

    @model_validator(mode="after")
    def _one_of_two(self) -> "Hook":
        if (self.sql is None) == (self.webhook_url is None):
            raise ValueError("a hook has either sql or webhook_url")
        return self


class RestoreSettings(Section):
    """What restores need to know of the application."""

    dsn: str | None = Field(
        None,
        description="libpq connection string of the same database for a role that may write, without the password: restores, their"
        " plans and hooks, `--into-schema`, and drills where `drill.dsn` is null; null: `database.dsn`, whose role then does both.",
    )
    password: SecretStr | None = Field(None, description="Its password (a secret); never that of `database`.")
    password_file: Path | None = None
    password_secret: str | None = None
    safety_backup: bool = Field(
        True, description="Back the tenant up before every restore in place, so that it can be undone."
    )
    keep_safety_days: float = Field(
        7.0, gt=0, description="How long such a backup is kept whatever the retention policy says, days."
    )
    pace: float = Field(
        1.0,
        ge=0,
        le=100,
        description="How long a restore rests between two batches of rows, as a multiple of what the first of them took,"
        " 5 s at most: 1 leaves half of the time to the others. One that writes for less than a second does not rest. 0: as fast"
        " as it can.",
    )
    batch_rows: int = Field(
        50_000,
        ge=100,
        description="The most rows that one statement of a restore writes. With a pace there are fewer, as many as a tenth of a"
        " second is enough for.",
    )
    pause_ms: int = Field(0, ge=0, description="The least rest between two such statements, ms, whatever the pace.")
    lease_wait_s: float = Field(
        60.0, ge=0, description="How long a restore waits for a backup of the tenant to end, s."
    )
    renamed: dict[str, str] = Field(
        {},
        description="Tables and columns that were renamed since backups were made, old name to new:"
        ' `"tasks.title" = "tasks.name"`, `"todo" = "tasks"`.',
    )
    fill: dict[str, str] = Field(
        {},
        description="By `table.column`, the value (as text) of rows that come back, for columns that backups lack and for those"
        " that have become not null since.",
    )
    newest: dict[QualifiedName, str] = Field(
        {}, description="By table, the column with the time of a row's last change, for restores with `newest-wins`."
    )
    look_mib: int = Field(
        4096,
        ge=0,
        description="How much `--into-schema` may put into the application's database for a tenant, MiB of rows as text.",
    )
    keep_looks_days: float = Field(
        3.0, gt=0, description="After how long a schema of `--into-schema` is dropped, days."
    )
    looks_by_tenants: bool = Field(
        False,
        description="Whether admins of a tenant may put its old rows into a schema, too; else users of the platform only.",
    )
    kept: list[str] | None = Field(
        None,
        description="What restores by a tenant's own users leave as it is, tables (`api_keys.*`) and columns"
        " (`users.disabled_at`): what decides who gets in and what is paid for. Null: the tenant's row of the tenants table;"
        " a list that is to keep it names it (`tenants.*`).",
    )
    sensitive: list[str] = Field(
        [],
        description="Columns (`table.column`) whose values a preview masks. Conditions over them (`--rows`) and `--show-sensitive`"
        " are for those who may export.",
    )
    before: list[Hook] = Field(
        [], description="Done before a restore in place, in order, e.g. to put the tenant into maintenance."
    )
    after: list[Hook] = Field([], description="Done after it, also when it failed.")

    def masked_columns(self, table: str) -> set[str]:
        """The columns of a table (`schema.table`) that `sensitive` names, as `column`, `table.column` or `schema.table.column`."""
        owners = ("", table.rpartition(".")[2], table)
        named = (declared.rpartition(".") for declared in self.sensitive)
        return {column for owner, _, column in named if owner in owners}


class PlatformSettings(Section):
    """The platform backup: what tenants share, and what an empty server needs first."""

    prefix: str = Field(
        "_sbh-platform/",
        description="Prefix of the platform's repository, in the bucket of the region's catalog. Must lie outside every"
        " tenant's prefix: no slug begins with `_`.",
    )
    region: str | None = Field(None, description="Region it is kept in; null: the first of `storage.regions`.")
    pg_dump: str = Field(
        "pg_dump", description="The program; at least as new as the server, and of a minor release without known holes."
    )
    psql: str = Field("psql", description="No longer used: no program runs what pg_dump wrote. May be left out.")
    schedule: str = Field("30 1 * * *", description="Cron line of the platform backup. Empty: off.")
    keep_last: int = Field(30, ge=1, description="Platform backups that are kept: the newest ones.")

    @model_validator(mode="after")
    def _a_folder(self) -> "PlatformSettings":
        if not self.prefix.endswith("/") or self.prefix.startswith("/") or "{" in self.prefix:
            raise ValueError("platform.prefix must be plain text, end with / and not begin with it")
        return self


class DrillSettings(Section):
    """Restores into a throw-away database, to know that and how fast they work."""

    dsn: str | None = Field(
        None,
        description="libpq connection string of a server on which databases may be created and dropped, without the"
        " password; null: the application's own server, as the role of `restore.dsn` where there is one.",
    )
    password: SecretStr | None = Field(
        None,
        description="Its password (a secret); null: that of the role that restores where `drill.dsn` names the same host, port and"
        " user, else none but what a passfile has.",
    )
    password_file: Path | None = None
    password_secret: str | None = None
    schedule: str = Field(
        "0 5 * * 6",
        description="Cron line of the drill, which Dagster reads from the environment of its code server. Empty: off.",
    )
    tenants_per_drill: int = Field(
        1, ge=1, description="Tenants sampled by each drill: those drilled longest ago first."
    )
    assertions: list[str] = Field(
        [],
        description="SQL that must give true when run on the restored tenant; `:tenant` stands for its key, as a literal.",
    )
    objectives_s: dict[str, float] = Field(
        {
            "complete failure": 4 * 3600.0,
            "database corruption": 3600.0,
            "file system loss": 2 * 3600.0,
            "configuration error": 1800.0,
        },
        description="Recovery time objective of each scenario, s.",
    )
    recovery_point_objectives_s: dict[str, float] = Field(
        {"critical": 3600.0, "important": 86400.0, "archive": 7 * 86400.0},
        description="Recovery point objective of each tier, s.",
    )
