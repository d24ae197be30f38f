"""What copying did, and how far a copy is behind: the values that the faces show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sbh_pipelines.document import optional, unshown
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import TenantId

Standing = Literal["current", "behind", "never", "ended", "left_out", "failed"]


@dataclass(frozen=True, slots=True)
class TenantCopied:
    """What a run of a copy did for one tenant.

    Attributes:
        tenant_id: Its slug.
        region: The region whose tenant it is.
        objects: Objects that were stored at the copy.
        bytes: Their bytes.
        backup_id: The newest backup that was verified there; None where there is none yet.
        recovery_point: Its recovery point, UTC, or that of a later tick that found the tenant unchanged.
        error: What was in the way; None where nothing was.
        left_out: Why it is not copied (its tier, its residency); None where it is.
        ended: Why nothing is backed up for it any more; empty where something is.
        kept_backups: Of one that is left out: how many of its backups lie at the copy all the same; None where none does.
        kept_since: Since when they are not continued, UTC.
        home: The name of its repository; None where that could not be said.
    """

    tenant_id: TenantId
    region: str
    objects: int = 0
    bytes: int = 0
    backup_id: str | None = None
    recovery_point: datetime | None = None
    error: SbhError | None = None
    left_out: str | None = None
    ended: str = ""
    kept_backups: int | None = None
    kept_since: datetime | None = None
    home: str | None = unshown()


@dataclass(frozen=True, slots=True)
class CopyRun:
    """A run of one copy.

    Attributes:
        name: The copy's name.
        tenants: Each tenant that was looked at.
        shared: Objects and bytes stored of what is no tenant's: catalog, platform repository, audit trails, journal; by kind.
        issues: What failed of that.
        objects: Objects stored in all.
        bytes: Their bytes.
        seconds: How long it took.
        outside_hours: Whether nothing was done, because copying may not begin now.
        unlisted: Why the application did not say who its tenants are, so that the catalogs were gone by; None where it did.
    """

    name: str
    tenants: Sequence[TenantCopied]
    shared: Mapping[str, tuple[int, int]]
    issues: Sequence[SbhError]
    objects: int
    bytes: int
    seconds: float
    outside_hours: bool = False
    unlisted: SbhError | None = None


@dataclass(frozen=True, slots=True)
class CopyLine:
    """One repository in one copy: a tenant's, or the platform's.

    Attributes:
        tenant_id: Its slug.
        region: The region whose tenant it is.
        standing: `current`; `behind`: older than the objective; `never`: nothing was verified there yet; `ended`: nothing is backed
            up for it any more, and what there was is there; `left_out`; `failed`.
        backup_id: The newest backup that was verified there.
        recovery_point: Until when the tenant is there, UTC.
        lag_s: How old that is, s; absent where nothing is backed up any more.
        verified_at: When it was verified, UTC.
        why: Why it has ended or is left out, or what failed.
        kept_backups: Of one that is left out: how many of its backups lie there all the same; absent where none does.
        kept_since: Since when they are not continued, UTC.
        misplaced: Whether they may not lie there.
    """

    tenant_id: TenantId
    region: str
    standing: Standing
    backup_id: str | None
    recovery_point: datetime | None
    lag_s: float | None
    verified_at: datetime | None
    why: str = ""
    kept_backups: int | None = optional()
    kept_since: datetime | None = optional()
    misplaced: bool = False


@dataclass(frozen=True, slots=True)
class CopyStep:
    """Something of a region, and of no tenant, that the last run could not bring.

    Attributes:
        region: The region.
        step: `catalog`, `audit`, `platform` or `journal`.
        error: Why.
        since: Since when it is so, UTC.
    """

    region: str
    step: str
    error: SbhError
    since: datetime


@dataclass(frozen=True, slots=True)
class CopyStatus:
    """One copy.

    Attributes:
        name: Its name.
        to: The region in which it lies.
        kind: `managed` or `external`.
        objective_s: How old recovery points there may become, s.
        tenants: Each tenant of the regions that are copied, and what else lies there.
        worst_lag_s: The greatest lag of those that are copied; None where none was.
        issues: What could not be asked, so that of some tenants less is known than there is.
        damages: What of the states was not believed; of whom they told is `never` there, or as another says.
        steps: What the last run could not bring of the regions' own: catalog, trail, platform backup, journal.
        unlisted: Why the application did not say who its tenants are, so that the catalogs were gone by; absent where it did.
        by_copy: Regions of which the copy alone was asked what was verified there, for the source did not say.
        undeleted: Why its last upkeep could delete nothing there; None where it could, or there was none.
    """

    name: str
    to: str
    kind: str
    objective_s: float
    tenants: Sequence[CopyLine]
    worst_lag_s: float | None
    issues: Sequence[SbhError]
    steps: Sequence[CopyStep] = ()
    unlisted: SbhError | None = optional()
    by_copy: Sequence[str] = ()
    undeleted: SbhError | None = optional()
    damages: Sequence[SbhError] = ()
