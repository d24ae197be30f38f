"""The key that wraps each tenant's data key."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from sbh_pipelines.settings.section import Section


class KeysSettings(Section):
    """The key that wraps each tenant's data key."""

    provider: Literal["local", "aws-kms"] = Field(
        "aws-kms", description="`aws-kms`; or `local`: a key file, for development and air-gapped sites."
    )
    key_file: Path | None = Field(
        None,
        description="With `local`: the key file, 32 random bytes in base64. `sbh settings init` makes one, as `sbh stack up` does,"
        " or `umask 077; openssl rand -base64 32 > master.key`. With `aws-kms`: only to read what it wrapped"
        " before the site moved to KMS, until `sbh keys rotate --all` has wrapped that anew.",
    )
    previous_key_files: list[Path] = Field(
        [],
        description="Key files that were in use before: what they wrapped is still read. Empty it after"
        " `sbh keys rotate --all`.",
    )
    kms_key_id: str = Field(
        "alias/sbh-backup",
        description="Key id, ARN or alias; `{region}` is filled in. With `{tenant}` each tenant has a KMS key of its own,"
        " which an erasure destroys; in an alias a dot of the slug is written as a slash.",
    )
    kms_endpoint_url: str | None = Field(
        None, description="Only for KMS servers other than AWS, or VPC endpoints; `{region}` is filled in."
    )
    kms_timeout_s: float = Field(10.0, gt=0, description="Bound of one request to KMS, s.")
    kms_deletion_days: int = Field(
        7,
        ge=7,
        le=30,
        description="Waiting period of a tenant's own KMS key whose deletion an erasure schedules, days.",
    )

    def lying_in(self, region: str) -> "KeysSettings":
        """The same section, of key objects that lie in this region: it is its KMS that is asked."""
        copy = self.model_copy()
        copy._lies_in = region
        return copy

    @model_validator(mode="after")
    def _consistent(self) -> "KeysSettings":
        if self.provider == "local" and self.key_file is None:
            raise ValueError("keys.provider = 'local' needs keys.key_file")
        if "{tenant}" in self.kms_key_id and not self.kms_key_id.startswith(("alias/", "arn:")):
            raise ValueError("keys.kms_key_id with {tenant} must be an alias, or the ARN of one")
        return self
