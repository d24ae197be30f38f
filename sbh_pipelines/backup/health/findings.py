"""What an observation of a tenant's backups says is wrong, in the terms of the specification's health check. No I/O.

Each finding has a stable key, by which an alert about it is sent once.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sbh_pipelines.backup.drill.records import PASSED
from sbh_pipelines.backup.health.observation import Observation
from sbh_pipelines.backup.site.moves import moved_error
from sbh_pipelines.errors import (
    DrillOverdue,
    KeyServiceError,
    LastBackupFailed,
    RecoveryPointMissed,
    RetentionNotEnforced,
    SbhError,
    SourceFilesMissing,
    StoreError,
    TenantErased,
    TenantMoved,
    UnusualSize,
)
from sbh_pipelines.model import BackupId, Tenant, timestamp
from sbh_pipelines.repository.catalog.moves import Move
from sbh_pipelines.settings import Settings

STORAGE, LAST, SIZE, RETENTION = (
    "storage_accessible",
    "last_backup_successful",
    "backup_size_reasonable",
    "retention_policy_enforced",
)
CHECKS = (STORAGE, LAST, SIZE, RETENTION)
KEYS, POINT, INTACT, DRILLS, SOURCE = (
    "keys_usable",
    "recovery_point_objectives_met",
    "backups_intact",
    "drills_passed",
    "source_readable",
)
JOURNAL, COPIES, FILES = "journal_current", "copies_current", "source_files_present"
ALL_CHECKS = (*CHECKS, KEYS, POINT, INTACT, DRILLS, SOURCE, JOURNAL, COPIES, FILES)

WARNING, ERROR, CRITICAL = "warning", "error", "critical"
_SEVERE_TIER = "critical"
_MOVES_FOR = timedelta(hours=4)  # a move that takes longer was cut short, or is looked after by people
_TOLD_TO = timedelta(seconds=1)  # how exactly a record says when it failed


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong.

    Attributes:
        check: The check that it makes false.
        kind: What it is, a word for programs; with `subject` its key.
        subject: A tenant, a region, or nothing.
        error: What is wrong, why, and what to do about it.
        severity: How bad it is: warning, error or critical.
        tenant: The tenant whose backups it is about, if it is about one.
        delay_s: People need not be told before it has stood so long, s.
        group: Findings of one kind and group are one issue of the health check, though people are told of each; empty: of none.
    """

    check: str
    kind: str
    subject: str
    error: SbhError
    severity: str = ERROR
    tenant: str = ""
    delay_s: float = 0.0
    group: str = ""

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.subject}" if self.subject else self.kind


def of_error(error: SbhError, subject: str, tenant: str = "") -> Finding | None:
    """What it means that a tenant, or a region, could not be looked at. None: nothing, for it has been erased."""
    if isinstance(error, TenantErased):
        return None
    if isinstance(error, StoreError):
        return Finding(STORAGE, "storage_unreachable", subject, error, CRITICAL, tenant)
    if isinstance(error, KeyServiceError):
        return Finding(KEYS, "key_trouble", subject, error, CRITICAL, tenant)
    return Finding(INTACT, "unreadable", subject, error, ERROR, tenant)


def of_observation(settings: Settings, seen: Observation, age_s: float | None, now: datetime) -> list[Finding]:
    """`age_s` of the tenant's newest recovery point; None: it has none."""
    tenant = seen.tenant
    if seen.error is not None:
        found = of_error(seen.error, str(tenant.id), str(tenant.id))
        return [found] if found else []
    findings = [*_intact(seen), *_sizes(seen), *_retention(settings, seen, now), *_drill(seen), *_files(seen)]
    if scheduled(settings, tenant):
        findings += [*_last(settings, seen, age_s, now), *_point(settings, seen, age_s)]
    return findings


def on_its_way(tenant: Tenant, move: Move) -> Finding:
    """A move that is not finished: the tenant is not backed up here, and where it came from perhaps not any more."""
    error = moved_error(tenant, move)
    return Finding(POINT, "move_unfinished", str(tenant.id), error, ERROR, str(tenant.id), _MOVES_FOR.total_seconds())


def made_after_it_went(tenant: Tenant, move: Move, newest: BackupId) -> Finding:
    """What is said of the tenant is of before it came back, and it is not backed up because of it."""
    error = TenantMoved(
        "Backups were made here of a tenant after it went to another site, and none is made any more",
        on=str(tenant.id),
        why=f"the catalog says that it was moved to {move.site} at {move.at}, with {move.backup_id} as its last backup here, and"
        f" {newest} is here: an older state of the catalog was put back, or an older version of the tenant's mark in it",
        remedy=f"where the tenant is in use here: `sbh tenants move {tenant.id} --to SETTINGS --arrived`, with the settings of this"
        " site; then find out who wrote to the catalog's bucket",
    )
    return Finding(POINT, "made_after_it_went", str(tenant.id), error, ERROR, str(tenant.id))


def scheduled(settings: Settings, tenant: Tenant) -> bool:
    """Whether the tenant follows some schedule: one that is backed up by hand only misses no objective."""
    follows = settings.schedules
    if tenant.id in follows.tenants:
        return bool(follows.tenants[tenant.id])
    return bool(follows.tiers.get(tenant.tier, follows.tiers.get(settings.tenants.default_tier, ["unknown"])))


def point_missed(settings: Settings, tenant: Tenant, age_s: float | None) -> bool:
    objective = settings.recovery_point_objective_s(tenant.tier) if scheduled(settings, tenant) else None
    return objective is not None and (age_s is None or age_s > objective * (1 + settings.health.recovery_point_grace))


def _point(settings: Settings, seen: Observation, age_s: float | None) -> list[Finding]:
    tenant, objective = seen.tenant, settings.recovery_point_objective_s(seen.tenant.tier)
    if objective is None or not point_missed(settings, tenant, age_s):
        return []
    if age_s is None:  # of which people are told as a tenant without a backup
        none = RecoveryPointMissed(
            "A tenant has no recovery point", on=tenant.id, remedy="make a backup that can be read"
        )
        return [Finding(POINT, "no_recovery_point", str(tenant.id), none, ERROR, str(tenant.id))]
    error = RecoveryPointMissed(
        "A tenant's recovery point is older than its objective",
        on=tenant.id,
        why=f"{span_text(age_s)} old, where tier {settings.data_type(tenant.tier)} is to lose {span_text(objective)} at most",
        remedy=f"see why its runs failed or did not begin; back it up now: `sbh backup create {tenant.id}`",
    )
    severity = CRITICAL if settings.data_type(tenant.tier) == _SEVERE_TIER else ERROR
    return [Finding(POINT, "rpo_missed", str(tenant.id), error, severity, str(tenant.id))]


def _last(settings: Settings, seen: Observation, age_s: float | None, now: datetime) -> list[Finding]:
    tenant = seen.tenant
    if seen.newest is None and not seen.damaged:
        error = LastBackupFailed(
            "A tenant has no backup",
            on=tenant.id,
            why=(seen.newest_failure.why if seen.newest_failure else "") or "none was made yet",
            remedy=f"back it up now: `sbh backup create {tenant.id}`",
        )
        # A tenant that is new waits for its first backup as long as any waits for its next.
        delay = (settings.recovery_point_objective_s(tenant.tier) or 0.0) * (1 + settings.health.recovery_point_grace)
        return [Finding(LAST, "no_backup", str(tenant.id), error, ERROR, str(tenant.id), delay)]
    failure = seen.newest_failure
    if failure is None or failure.failed_at is None:
        return []
    safe_since = None if age_s is None else now - timedelta(seconds=age_s)
    if safe_since is not None and safe_since >= failure.failed_at + _TOLD_TO:
        return []
    if seen.newest is not None and seen.newest.id > failure.id:
        return []
    error = LastBackupFailed(
        "The tenant's last backup failed",
        on=f"{failure.id} of {tenant.id}",
        why=failure.why,
        remedy=(failure.error.remedy if failure.error else "") or "see the run's log",
    )
    return [Finding(LAST, "backup_failed", str(tenant.id), error, ERROR, str(tenant.id))]


def _sizes(seen: Observation) -> list[Finding]:
    if not seen.unusual:
        return []
    small = any(one.small for one in seen.unusual)
    error = UnusualSize(
        f"A backup is unusually {'small' if small else 'large'}",
        on=f"{seen.unusual[0].backup_id} of {seen.tenant.id}",
        why="; ".join(one.text for one in seen.unusual),
        remedy="ask whether this much was to go; what is gone is in the backup before: `sbh restore diff`"
        if small
        else "ask whether this much was to come; see what grew in the backup's details",
    )
    severity = ERROR if small else WARNING
    return [Finding(SIZE, "size_unusual", str(seen.tenant.id), error, severity, str(seen.tenant.id))]


def _retention(settings: Settings, seen: Observation, now: datetime) -> list[Finding]:
    tenant = seen.tenant
    if seen.retention_error is not None:
        return [Finding(RETENTION, "retention", str(tenant.id), seen.retention_error, WARNING, str(tenant.id))]
    grace = timedelta(seconds=settings.health.retention_grace_s)
    if not seen.doomed or seen.newest is None or now - seen.newest.created_at < grace:
        return []
    error = RetentionNotEnforced(
        "Backups are there that the retention policy no longer keeps",
        on=tenant.id,
        why=f"{seen.doomed:,} of {seen.backups.count:,}, since {timestamp(seen.newest.created_at)} at the latest",
        remedy=f"`sbh backup forget {tenant.id} --dry-run` shows them, and without it says why they cannot go",
    )
    return [Finding(RETENTION, "retention", str(tenant.id), error, WARNING, str(tenant.id))]


def _intact(seen: Observation) -> list[Finding]:
    if not seen.damages:
        return []
    first = seen.damages[0]
    more = f"; {seen.damaged:,} in all" if seen.damaged > 1 else ""
    error = type(first)(first.what, on=first.on, why=first.why + more, remedy=first.remedy)
    return [Finding(INTACT, "damaged", str(seen.tenant.id), error, ERROR, str(seen.tenant.id))]


def _files(seen: Observation) -> list[Finding]:
    newest = seen.newest
    if newest is None or newest.figures is None or not seen.files_missing:
        return []
    tenant = str(seen.tenant.id)
    error = SourceFilesMissing(
        "Rows refer to files that are not in the bucket",
        on=f"{newest.id} of {tenant}",
        why=f"{seen.files_missing:,} were missing when it was made, and {newest.figures.files:,} files are in it",
        remedy=f"`sbh backup show {newest.id} -t {tenant}` names some; put them back (an older backup may have them:"
        f" `sbh restore diff BACKUP -t {tenant}`), or correct the rows",
    )
    return [Finding(FILES, "source_files_missing", tenant, error, WARNING, tenant)]


def _drill(seen: Observation) -> list[Finding]:
    drill = seen.newest_drill
    if drill is None or drill.status == PASSED:
        return []
    error = drill.error or SbhError("The tenant's last drill did not pass", on=drill.id)
    return [Finding(DRILLS, "drill_failed", str(seen.tenant.id), error, ERROR, str(seen.tenant.id))]


def drill_overdue(
    settings: Settings, newest: datetime | None, first_backup: datetime | None, now: datetime
) -> list[Finding]:
    """Of the whole fleet: drills sample it. `newest`: when any tenant's newest drill ended."""
    days = settings.health.drill_overdue_days
    since = newest or first_backup
    if not days or not settings.drill.schedule or since is None or now - since <= timedelta(days=days):
        return []
    error = DrillOverdue(
        "No drill for too long",
        why=f"the last one was at {timestamp(newest)}" if newest else "there was none yet",
        remedy="see the runs of drill_job; drill a tenant now: `sbh drill run --tenant TENANT`",
    )
    return [Finding(DRILLS, "drill_overdue", "", error, WARNING)]


def span_text(seconds: float) -> str:
    minutes = round(seconds / 60)
    days, hours, left = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {left} min" if hours else f"{left} min"
