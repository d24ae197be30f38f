"""The application: its database, its table of tenants, their files."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, model_validator

from sbh_pipelines.settings.section import QualifiedName, Section


class TableLink(Section):
    """How the rows of a table without a foreign key to an owned table belong to a tenant. One of the three ways."""

    table: QualifiedName = Field(description="The table, as `schema.table` or `table`.")
    via: list[str] | None = Field(
        None, description="The foreign key to follow where several lead to different owners: the table's own columns."
    )
    parent: QualifiedName | None = Field(
        None,
        description="With `join`: the table whose rows decide. With `via`: which of several tables, where the same columns refer to"
        " more than one.",
    )
    join: str | None = Field(
        None,
        description="SQL condition linking the table (alias `t`) to `parent` (alias `p`), for links that are no foreign"
        " key, e.g. `t.item_type = 'task' AND t.item_id = p.id`.",
    )
    tenant_column: str | None = Field(None, description="The tenant column of this table where its name differs.")


class FollowRule(Section):
    """Tenancy of two levels: tables with this column belong to whom the row of `parent` that it names belongs to.

    It holds for tables without a tenant column and without a link of their own, whether or not the column is a foreign key; not
    where it is one to another table.
    Where several rules fit a table, the first whose column is NOT NULL decides, else the first.
    """

    column: str = Field(min_length=1, description="The column, e.g. `project_id`.")
    parent: QualifiedName = Field(description="The table whose rows decide, e.g. `projects`.")
    parent_column: str | None = Field(
        None, description="The unique column of `parent` that it names; its primary key if not given."
    )


class DatabaseSettings(Section):
    """The application's PostgreSQL database."""

    dsn: str = Field(
        "host=127.0.0.1 dbname=app",
        description="libpq connection string or URI, without the password. To other machines `sslmode=verify-full` is what"
        " counts where it does not say; name the CA with `sslrootcert`. Over what may not be encrypted no password is sent in"
        " clear, unless it says `require_auth=password`.",
    )
    allow_plaintext: bool = Field(
        False,
        description="Whether `sslmode=disable`, `allow` or `prefer` may be used to a database on another machine.",
    )
    password: SecretStr | None = Field(
        None, description="Password of the backup role (a secret). It goes to the host, port and user of `dsn` only."
    )
    password_file: Path | None = None
    password_secret: str | None = None
    schemas: list[str] = Field(["public"], min_length=1, description="Schemas whose tables must all be mapped.")
    search_path: list[str] = Field(
        [],
        description="Schemas in which code of the application finds names without a schema: functions of indexes, constraints and"
        " triggers, conditions of `links`, hooks, assertions of drills. Empty: what the database says (`ALTER DATABASE ... SET"
        " search_path`), else `schemas`, `public` and the schemas of extensions.",
    )
    trusted_owners: list[str] = Field(
        [],
        description="Roles besides the owner of the tenants table whose code in tables may run with the rights of the backup's"
        " role; `sbh doctor` names that of others.",
    )
    left_out: list[QualifiedName] = Field(
        [],
        description="What is left out on purpose of what is outside `schemas`: schemas, or tables as `schema.table`. No backup has"
        " their rows.",
    )
    tenant_column: str | list[str] = Field(
        "tenant_id",
        description='Column that marks a table as owned by tenants; several names as a list, e.g. `["tenantId", "tenant_id"]`.',
    )
    shared: list[QualifiedName] = Field([], description="Tables all tenants share; left to the platform backup.")
    excluded: list[QualifiedName] = Field(
        [], description="Tables deliberately not backed up (sessions, caches, queues)."
    )
    config_tables: list[QualifiedName] = Field(
        [], description="Owned tables that hold a tenant's configuration: they go into the `config` component."
    )
    links: list[TableLink] = Field([], description="Tables whose tenant cannot be derived from foreign keys.")
    follow: list[FollowRule] = Field([], description="Columns that lead to a table of tenants wherever they are.")
    connections: int = Field(3, ge=1, le=32, description="Connections one backup reads with, on one exported snapshot.")
    work_mem_mib: int = Field(256, ge=1, le=65536, description="`work_mem` of the backup sessions, MiB (sorts by key).")
    lock_timeout_s: float = Field(5.0, gt=0, description="How long a restore waits for a lock before it gives up, s.")
    statement_timeout_s: float = Field(0.0, ge=0, description="Bound of one statement, s; 0 means none.")
    look_timeout_s: float = Field(
        60.0,
        gt=0,
        description="Bound of a statement that lists tenants or schemas, where `statement_timeout_s` is 0, s.",
    )
    connect_timeout_s: int = Field(10, ge=1)

    @property
    def tenant_columns(self) -> tuple[str, ...]:
        return (self.tenant_column,) if isinstance(self.tenant_column, str) else tuple(self.tenant_column)

    @model_validator(mode="after")
    def _some_tenant_column(self) -> "DatabaseSettings":
        if not self.tenant_columns or not all(self.tenant_columns):
            raise ValueError("database.tenant_column must name a column")
        return self


class TenantsSettings(Section):
    """Where tenants are listed: one table of the application, or a view of one."""

    table: QualifiedName = Field("tenants", description="The table, or a view or materialized view of it.")
    base: QualifiedName | None = Field(
        None, description="Where `table` is a view of several tables: the one whose rows are the tenants."
    )
    key: str = Field("id", description="Column that the tenant columns refer to.")
    slug: str = Field("slug", description="Column with the tenant's slug: its name everywhere in this system.")
    region: str | None = Field(
        "region",
        description='Column with the tenant\'s region; `""` if there is none, and all are in `default_region`.',
    )
    default_region: str | None = Field(
        None,
        description="Region of tenants whose row names none, or where there is no such column; without it the only entry of"
        " `storage.regions`, if there is one only.",
    )
    tier: str | None = Field(
        "tier",
        description='Column with the tier (critical, important, archive); `""` if there is none, and all have `default_tier`.',
    )
    default_tier: str = "important"
    where: str | None = Field(
        None,
        description="SQL condition over the table's columns: which rows are tenants, e.g. `deleted_at IS NULL`.",
    )


class FileReference(Section):
    """A column that names objects of the tenant, checked against the listing at every backup."""

    table: QualifiedName
    column: str


class FilesSettings(Section):
    """The tenants' files: one bucket per region, one prefix per tenant."""

    enabled: bool = True
    bucket: str = Field("sbh-files-{region}", description="Bucket; `{region}` and `{tenant}` are filled in.")
    prefix: str = Field("files/{tenant}/", description="Prefix of a tenant's files; must contain `{tenant}`.")
    exclude: list[str] = Field(["backups/"], description="Prefixes below it that are not the tenant's files.")
    references: list[FileReference] = Field([], description="Columns that hold object keys.")
    connections: int = Field(16, ge=1, le=128, description="Files read or written at once.")
    encryption: Literal["none", "AES256", "aws:kms"] = Field(
        "none",
        description="Server-side encryption asked for with every file that a restore writes, for buckets whose policy demands"
        " it: `AES256` or `aws:kms`; `none`: what the bucket does by default.",
    )
    encryption_kms_key_id: str | None = Field(
        None,
        description="With `aws:kms`: key id, ARN or alias ARN; `{region}` is filled in. Null: the account's `aws/s3` key.",
    )
    encryption_bucket_key: bool = Field(
        True, description="With `aws:kms`: let S3 ask KMS once for many objects (an S3 Bucket Key), which costs less."
    )
    keep_storage_class: bool = Field(
        True,
        description="Whether a restored file gets the storage class that it had; one that was archived (`GLACIER`,"
        " `DEEP_ARCHIVE`) becomes a standard one, which can be read. For stores that do not know the classes: `false`.",
    )

    @model_validator(mode="after")
    def _tenant_in_prefix(self) -> "FilesSettings":
        if "{tenant}" not in self.prefix:
            raise ValueError("files.prefix must contain {tenant}, or tenants would share one prefix")
        if not self.prefix.endswith("/"):
            raise ValueError("files.prefix must end with /, or tenant-1 would also match tenant-10")
        if self.encryption_kms_key_id and self.encryption != "aws:kms":
            raise ValueError("files.encryption_kms_key_id needs files.encryption = 'aws:kms'")
        return self
