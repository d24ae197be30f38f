"""The compliance report: what it says of each tenant, of the platform and of all together.

docs/compliance.md maps the figures to controls, and says what stays the reader's duty.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sbh_pipelines.backup.audit.trail_figures import RecoveryTime, RestoreEvent
from sbh_pipelines.document import keyed, optional
from sbh_pipelines.errors import SbhError


@dataclass(frozen=True, slots=True)
class RecoveryPointFigures:
    """How much a tenant could have lost.

    Attributes:
        objective_s: The age that the settings allow, s; None where there is no objective.
        longest_gap_s: The longest time between two backups, s; a tenant that did not change needs none.
        gaps_over: How many such times are over the objective.
        age_s: Age of the recovery point now, s.
    """

    objective_s: float | None
    longest_gap_s: float | None
    gaps_over: int | None
    age_s: float | None


@dataclass(frozen=True, slots=True)
class HoldFigures:
    """Legal holds.

    Attributes:
        placed: Placed in the period.
        released: Released in the period.
        now: In force now.
    """

    placed: int
    released: int
    now: int


@dataclass(frozen=True, slots=True)
class TrailVerdict:
    """Whether a tenant's trail is whole.

    Attributes:
        valid: Whether nothing is wrong with it.
        events: Number of genuine events.
        late: Number of events that were recorded late.
        seq: Number of the last genuine event.
        hash: Its hash.
        broken: How much is wrong.
        unrecorded: Backups without an event.
    """

    valid: bool
    events: int
    late: int
    seq: int
    hash: str
    broken: int
    unrecorded: Sequence[str]


@dataclass(frozen=True, slots=True)
class TenantCompliance:
    """The figures of one tenant in the period.

    Attributes:
        tenant_id: Its slug.
        region: Where its backups are.
        backups: How many were made, of which type, how many failed, and whose event came late.
        recovery_point: How much it could have lost.
        validated: Validations of backups.
        invalid: How many of them found damage.
        drills: Drills that ended.
        drills_passed: How many of them passed.
        recovery_time: How long drills took, by scenario.
        restores: Restores that were planned, started, completed, failed and undone.
        restored: Restores that ended, the first 50.
        users: Restores and exports by who did them.
        accessed: Times that somebody looked at backups.
        exported: Exports.
        deleted: Backups forgotten.
        pruned: Prunes of the repository.
        holds: Legal holds.
        approvals: Restores that a second person was asked for, approved, rejected; and those without one.
        keys_rotated: Rotations of keys.
        erased: Erasures.
        denied: Calls that were denied.
        audit: Whether its trail is whole.
    """

    tenant_id: str
    region: str
    backups: Mapping[str, int]
    recovery_point: RecoveryPointFigures
    validated: int
    invalid: int
    drills: int
    drills_passed: int
    recovery_time: Mapping[str, RecoveryTime]
    restores: Mapping[str, int]
    restored: Sequence[RestoreEvent]
    users: Mapping[str, int]
    accessed: int
    exported: int
    deleted: int
    pruned: int
    holds: HoldFigures
    approvals: Mapping[str, int]
    keys_rotated: int
    erased: int
    denied: int
    audit: TrailVerdict


@dataclass(frozen=True, slots=True)
class PlatformTrail:
    """Whether the platform's trail of a region is whole.

    Attributes:
        region: The region.
        valid: Whether nothing is wrong with it; None where it cannot be read.
        events: Number of genuine events.
        seq: Number of the last genuine event.
        hash: Its hash.
        broken: How much is wrong.
        error: Why it cannot be read.
    """

    region: str
    valid: bool | None
    events: int | None = optional()
    seq: int | None = optional()
    hash: str | None = optional()
    broken: int | None = optional()
    error: SbhError | None = optional()


@dataclass(frozen=True, slots=True)
class PlatformCompliance:
    """The figures of what belongs to no tenant, of all regions together.

    Attributes:
        backups: Backups of the platform, made and failed.
        restores: Restores of the platform, started, completed and failed.
        unchanged: Times that a tenant was found unchanged.
        policy_changes: Changes of the policy.
        keys_rotated: Rotations of keys.
        denied: Calls that were denied.
        audits_verified: Verifications of trails.
        audit: Whether the trails are whole, by region.
    """

    backups: Mapping[str, int]
    restores: Mapping[str, int]
    unchanged: int
    policy_changes: int
    keys_rotated: int
    denied: int
    audits_verified: int
    audit: Sequence[PlatformTrail]


@dataclass(frozen=True, slots=True)
class ComplianceTotals:
    """The figures of all tenants together.

    Attributes:
        tenants: How many tenants.
        backups_made: Backups made.
        backups_failed: Backups that failed.
        longest_gap_s: The longest time between two backups of a tenant, s.
        longest_gap_of: Of which tenant.
        gaps_over: How many such times are over the tenant's objective.
        validated: Validations of backups.
        invalid: How many of them found damage.
        drills: Drills that ended.
        drills_passed: How many of them passed.
        recovery_time: How long drills took, by scenario.
        restores_completed: Restores that were completed.
        restores_failed: Restores that failed.
        restores_undone: Restores that were undone.
        exported: Exports.
        accessed: Times that somebody looked at backups.
        deleted: Backups forgotten.
        holds_placed: Legal holds placed.
        holds_released: Legal holds released.
        holds_now: Legal holds in force now.
        approved: Restores that a second person approved.
        break_glass: Restores that none did.
        keys_rotated: Rotations of keys.
        erased: Erasures.
        denied: Calls that were denied.
        trails_valid: Trails that are whole.
        trails_broken: Tenants whose trail is not, the first 50.
        events_late: Events that were recorded late.
    """

    tenants: int
    backups_made: int
    backups_failed: int
    longest_gap_s: float | None
    longest_gap_of: str | None
    gaps_over: int
    validated: int
    invalid: int
    drills: int
    drills_passed: int
    recovery_time: Mapping[str, RecoveryTime]
    restores_completed: int
    restores_failed: int
    restores_undone: int
    exported: int
    accessed: int
    deleted: int
    holds_placed: int
    holds_released: int
    holds_now: int
    approved: int
    break_glass: int
    keys_rotated: int
    erased: int
    denied: int
    trails_valid: int
    trails_broken: Sequence[str]
    events_late: int


@dataclass(frozen=True, slots=True)
class SettingsInForce:
    """What the settings say now.

    Attributes:
        key_provider: What wraps keys.
        regions: Where backups may be.
        storage: The kind of store.
        server_side_encryption: How the store encrypts besides.
        object_lock_days: For how long events of the trail are locked, days.
        object_lock_mode: How; None where they are not locked.
        audit_required: Whether nothing is done that cannot be recorded.
        tokens: Whose tokens are believed.
        safety_backup: Whether restores make a backup first.
    """

    key_provider: str
    regions: Sequence[str]
    storage: str
    server_side_encryption: str | None
    object_lock_days: int | None
    object_lock_mode: str | None
    audit_required: bool
    tokens: str
    safety_backup: bool


@dataclass(frozen=True, slots=True)
class UnreadTenant:
    """A tenant whose trail cannot be read, and which is in no figure.

    Attributes:
        tenant_id: Its slug.
        region: Where its trail lies.
        error: Why it cannot be read.
    """

    tenant_id: str
    region: str
    error: SbhError


@dataclass(frozen=True, slots=True, kw_only=True)
class ComplianceReport:
    """What trails and repositories show for a period.

    Attributes:
        since: The period's first moment, UTC.
        until: The moment before which it ends, UTC.
        at: Time of the report, UTC.
        settings: What the settings say now.
        totals: The figures of all tenants together.
        tenants: The figures of each.
        platform: The figures of what belongs to no tenant; None where only tenants were asked for.
        errors: Tenants that are in no figure.
    """

    since: datetime = keyed("from")
    until: datetime = keyed("to")
    at: datetime
    settings: SettingsInForce
    totals: ComplianceTotals
    tenants: Sequence[TenantCompliance]
    platform: PlatformCompliance | None
    errors: Sequence[UnreadTenant]
