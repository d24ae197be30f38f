"""What the audit trail is to withstand."""

from typing import Literal

from pydantic import Field

from sbh_pipelines.settings.section import Section


class AuditSettings(Section):
    """The trail of who did what. It cannot be switched off."""

    object_lock_days: int | None = Field(
        None,
        ge=1,
        le=36_500,
        description="Put events under S3 object lock for so many days; null: without. The buckets must have it enabled.",
    )
    object_lock_mode: Literal["governance", "compliance"] = Field(
        "compliance",
        description="`compliance`: nobody can delete an event before its time, not even the account's root user;"
        " `governance`: who has the permission to bypass it can.",
    )
    repeats_s: float = Field(
        60.0,
        ge=0,
        le=3600,
        description="`sbh serve`: accesses and denials that repeat one of the same user within so long are one event, with how many"
        " there were; s. 0: an event each.",
    )
    required: bool = Field(
        True,
        description="Refuse reads, plans and restores whose event cannot be written. Switch it off only to read backups where"
        " nothing can be written, such as a copy in another account.",
    )
