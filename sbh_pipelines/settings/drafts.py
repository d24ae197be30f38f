"""Where Dagster's runs keep what their steps hand to each other."""

from pydantic import Field, field_validator

from sbh_pipelines.settings.section import Section


class DraftsSettings(Section):
    """For runs on several hosts: where the drafts of a run are, which its next step reads, or a run that goes on with it.

    They hold ids, counters and references, never rows. Only Dagster's workers may write there: who changes a draft changes what
    becomes of a backup."""

    bucket: str | None = Field(
        None,
        description="Bucket of the drafts, reached with AWS's own chain of credentials. Null: files below the storage folder of the"
        " instance, which serve runs on one host.",
    )
    prefix: str = Field("runs/", description="Prefix of the drafts in that bucket; a folder per run below it.")
    region: str | None = Field(None, description="Region of the bucket; null: as AWS's chain says.")
    endpoint_url: str | None = Field(None, description="Only for S3 servers other than AWS.")

    @field_validator("prefix")
    @classmethod
    def _is_a_folder(cls, prefix: str) -> str:
        if not prefix.endswith("/") or prefix.startswith("/"):
            raise ValueError("drafts.prefix must end with /, and not begin with it")
        return prefix
