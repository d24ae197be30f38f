"""What counts as healthy, and how the figures about it are kept."""

from pydantic import Field

from sbh_pipelines.settings.section import Section


class HealthSettings(Section):
    """What counts as healthy, and how many series the metrics may have."""

    refresh_s: float = Field(
        900.0,
        ge=0,
        description="Health and metrics of all tenants look at a tenant's backups again after this, s. Whoever asks for one"
        " tenant always gets a new look.",
    )
    refresh_fully_s: float = Field(
        6 * 3600.0, ge=0, description="And at all of it, not only at what backups there are, after this, s."
    )
    recovery_point_grace: float = Field(
        0.25,
        ge=0,
        description="A recovery point is missed when it is older than its objective by more than this share of it: an hourly"
        " backup needs some minutes beyond the hour.",
    )
    size_window: int = Field(
        30,
        ge=3,
        description="The newest backup is compared with so many before it, of the same type if there are enough.",
    )
    size_least: int = Field(3, ge=1, description="With fewer backups to compare with, a size is not judged.")
    size_shrunk_below: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="A backup with less than this share of the median rows, files or bytes is too small.",
    )
    size_grown_above: float = Field(
        3.0, gt=1, description="One with more than this multiple of the median is too large."
    )
    size_floor_rows: int = Field(100, ge=0, description="Numbers of rows and of files below this are not judged.")
    size_floor_mib: float = Field(1.0, ge=0, description="Sizes below this are not judged, MiB.")
    retention_grace_s: float = Field(
        900.0,
        ge=0,
        description="Backups that the policy no longer keeps must be gone so long after the tenant's newest backup, s.",
    )
    drill_overdue_days: float = Field(
        10.0,
        ge=0,
        description="No drill of any tenant for so many days is told about, where drills are scheduled; 0: never.",
    )
    tenant_metrics: bool = Field(True, description="Whether metrics have series for single tenants.")
    most_tenants: int = Field(
        1000,
        ge=0,
        description="At most so many tenants have series of their own: those with trouble first. All are in the sums.",
    )
