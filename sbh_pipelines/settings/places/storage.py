"""Where backups are kept, under which keys, and how they are made."""

from pathlib import Path
from typing import Literal

from pydantic import Field, PrivateAttr, SecretStr, model_validator

from sbh_pipelines.settings.section import Section

InstantClass = Literal[
    "STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "REDUCED_REDUNDANCY"
]


class StorageSettings(Section):
    """Where backups are kept, and how S3 is reached (for the files as well)."""

    kind: Literal["s3", "local"] = Field("s3", description="`s3`, or `local`: a directory per bucket under `path`.")
    path: Path | None = Field(None, description="With `local`: the directory that holds a folder per bucket.")
    bucket: str = Field("sbh-files-{region}", description="Bucket for backups; `{region}` is filled in.")
    prefix: str = Field(
        "files/{tenant}/backups/",
        description="Prefix of a tenant's repository; must contain `{tenant}`. In the bucket of the files it may not hold"
        " `files.prefix`, and may lie within it only where `files.exclude` names it.",
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
    access_key_id: str | None = Field(
        None,
        description="Null: AWS's own chain, as the `aws` command has it: instance or container role, profile (`AWS_PROFILE`),"
        " SSO, `credential_process`, web identity. Temporary keys are renewed.",
    )
    secret_access_key: SecretStr | None = None
    secret_access_key_file: Path | None = None
    secret_access_key_secret: str | None = None
    ca_file: Path | None = Field(
        None,
        description="Certificates (PEM) of a private CA that S3 servers are trusted by, besides the system's. Null: the file that"
        " `AWS_CA_BUNDLE` names, if it does.",
    )
    allow_http: bool = Field(
        False,
        description="Whether S3, KMS and webhooks on other machines may be spoken to without TLS. This machine always may.",
    )
    sse: Literal["none", "AES256", "aws:kms"] = Field(
        "none",
        description="Server-side encryption asked for with every object of a backup, on top of our own: `AES256` (the store's"
        " keys), `aws:kms`; `none`: what the bucket does by default. The application's files get the bucket's default.",
    )
    sse_kms_key_id: str | None = Field(
        None,
        description="With `aws:kms`: key id, ARN or alias ARN; `{region}` is filled in. Null: the account's `aws/s3` key.",
    )
    sse_bucket_key: bool = Field(
        True, description="With `aws:kms`: let S3 ask KMS once for many objects (an S3 Bucket Key), which costs less."
    )
    pack_classes: dict[str, InstantClass] = Field(
        {},
        description="By tier of the tenant, the S3 storage class of new packs; `*`: of every tier that is not named. Only classes"
        " that are read at once. All but packs stays in the bucket's default class. By age: a lifecycle rule (deploy/policies). Not"
        " of copies.",
        examples=[{"archive": "GLACIER_IR", "*": "STANDARD"}],
    )
    upload_mib_s: float | None = Field(
        None,
        ge=1,
        description="The most that a process sends to S3, on average, MiB a second: of backups, and of files put back.",
    )
    download_mib_s: float | None = Field(
        None, ge=1, description="The most that a process receives from S3, on average, MiB a second."
    )
    timeout_s: float = Field(
        60.0,
        gt=0,
        description="How long a connection may be silent, s. A transfer takes as long as data flow.",
    )
    retries: int = Field(5, ge=0, le=20, description="Retries of a request on transient errors, with backoff.")

    _of_files: "StorageSettings | None" = PrivateAttr(None)

    @property
    def of_files(self) -> "StorageSettings":
        """How the application's files are reached: they are no part of a copy."""
        return self._of_files or self

    def pack_class(self, tier: str) -> str | None:
        """The storage class of a new pack of a tenant of this tier; None: what the bucket has by default."""
        return self.pack_classes.get(tier, self.pack_classes.get("*")) if self.kind == "s3" else None

    def lying_in(self, region: str, of_files: "StorageSettings") -> "StorageSettings":
        """The same section, of backups that lie in this region, whichever they are of."""
        copy = self.model_copy()
        copy._lies_in, copy._of_files = region, of_files
        return copy

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
        if self.sse_kms_key_id and self.sse != "aws:kms":
            raise ValueError("storage.sse_kms_key_id needs storage.sse = 'aws:kms'")
        if "{tenant}" in (self.catalog_bucket or self.bucket):
            raise ValueError("storage.catalog_bucket must name a bucket that does not depend on the tenant")
        return self


class BackupSettings(Section):
    """How backups are made."""

    memory_mib: int = Field(
        96,
        ge=64,
        description="What a backup process grows by over its size without work (some 90 MiB), for content on its way: resident"
        " memory, MiB. Libraries, connections and tenants at work come to it (docs/benchmarks.md): plan for 200 MiB and three times"
        " this. What a batch of many tenants has open beyond it goes to temporary files, sealed.",
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
    lease_s: float = Field(
        300.0, gt=0, le=86_400, description="A dead writer's lease on a tenant expires after this, s."
    )
