"""The specification's health check and backup metrics, of one tenant or of all, from one examination.

`unhealthy`: the store, the keys or the application's database cannot be reached, so that no backup can be made or read.
`degraded`: something else is not as it should be. Each False, and each of the further checks that failed, has an entry in
`issues`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sbh_pipelines.backup.health.examination import Examination
from sbh_pipelines.backup.health.findings import ALL_CHECKS, KEYS, SOURCE, STORAGE, Finding, point_missed
from sbh_pipelines.backup.health.observation import Observation, TypeSums
from sbh_pipelines.settings import Settings

HEALTHY, DEGRADED, UNHEALTHY = "healthy", "degraded", "unhealthy"
_MOST_OF_A_KIND = 50


@dataclass(frozen=True, slots=True)
class HealthIssue:
    """One thing that is wrong.

    Attributes:
        check: The check that it makes false.
        kind: What it is, a word for programs.
        tenant_id: The tenant whose backups it is about, if it is about one.
        severity: How bad it is: warning, error or critical.
        code: Stable code of the error tree.
        what: What is wrong.
        on: On what.
        why: Why, where that is known.
        remedy: What to do next.
    """

    check: str
    kind: str
    tenant_id: str | None
    severity: str
    code: str
    what: str
    on: str
    why: str
    remedy: str

    @classmethod
    def of(cls, finding: Finding) -> "HealthIssue":
        error = finding.error
        said = (error.code, error.what, error.on, error.why, error.remedy)
        return cls(finding.check, finding.kind, finding.tenant or None, finding.severity, *said)


@dataclass(frozen=True, slots=True)
class HealthReport:
    """How the backups stand.

    A check that could not be made because something else stood in its way is as good as it was when it was last made;
    `tenants_not_looked_at` tells.

    Attributes:
        backup_service: healthy, degraded or unhealthy.
        storage_accessible: Whether every region's store answers.
        last_backup_successful: Whether every scheduled tenant has a backup, and its last one did not fail.
        backup_size_reasonable: Whether the newest backups are as large as those before.
        retention_policy_enforced: Whether what the policy no longer keeps is gone.
        keys_usable: Whether the keys can be unwrapped.
        recovery_point_objectives_met: Whether no recovery point is older than its objective.
        backups_intact: Whether manifests and catalogs can be read.
        drills_passed: Whether the newest drills passed, and are not overdue.
        source_readable: Whether the application's database answers, and all its tenants can be backed up.
        journal_current: Whether the change journal, where it is on, tells all but the last minutes, without a gap.
        copies_current: Whether what was verified at each copy is whole and not older than was promised.
        source_files_present: Whether all files that rows refer to were there when the newest backups were made.
        at: Time of the examination, UTC.
        tenant_id: The one tenant it is about; null where it is about all.
        tenants: How many tenants it is about.
        tenants_not_looked_at: How many of them nothing was learned of this time.
        issues_count: How many things are wrong.
        issues: What is wrong, at most 50 of a kind.
    """

    backup_service: str
    storage_accessible: bool
    last_backup_successful: bool
    backup_size_reasonable: bool
    retention_policy_enforced: bool
    keys_usable: bool
    recovery_point_objectives_met: bool
    backups_intact: bool
    drills_passed: bool
    source_readable: bool
    journal_current: bool
    copies_current: bool
    source_files_present: bool
    at: datetime
    tenant_id: str | None
    tenants: int
    tenants_not_looked_at: int
    issues_count: int
    issues: Sequence[HealthIssue]

    @property
    def checks(self) -> Mapping[str, bool]:
        """Whether each check holds."""
        return {check: getattr(self, check) for check in ALL_CHECKS}


@dataclass(frozen=True, slots=True)
class TypeMetrics:
    """The figures of backups of one type.

    Attributes:
        successful: Backups that are there.
        failed: Failures on record.
        size: Sum of what manifests call `size`, bytes.
        stored_bytes: What these backups added to their repositories, bytes.
        duration_avg: Mean duration of those that recorded one, s.
        last_at: Creation time of the newest, UTC.
    """

    successful: int
    failed: int
    size: int
    stored_bytes: int
    duration_avg: float | None
    last_at: datetime | None


@dataclass(frozen=True, slots=True)
class BackupMetrics:
    """The specification's figures, summed over one tenant or all.

    Attributes:
        backups_total: Backups that are there, and failures on record; both end with retention.
        backups_successful: Backups that are there.
        backups_failed: Failures on record.
        backup_size_total: Sum of what manifests call `size`, bytes.
        backup_duration_avg: Mean duration of the backups that recorded one, s; null where none did.
        last_backup_at: Creation time of the newest backup, UTC.
        logical_bytes_total: What the backups would bring back, the content of files included, bytes.
        stored_bytes_total: What the backups added to their repositories, bytes.
        by_type: The figures by type of backup.
        recovery_point_age_s: Age of the worst tenant's recovery point, s.
        recovery_points_missed: Tenants that miss their recovery point objective.
        tenant_id: The one tenant it is about; null where it is about all.
        tenants: How many tenants it is about.
        tenants_without_backup: How many of them have no backup.
        damaged: Manifests that cannot be read.
        files_missing: Files that rows refer to and that were not there when the newest backups were made.
        drills: Drills on record.
        last_drill_at: Time at which the newest drill ended, UTC.
        as_of: Time of the oldest observation that went into the sums, UTC.
        tenants_not_looked_at: How many tenants nothing was learned of this time.
    """

    backups_total: int
    backups_successful: int
    backups_failed: int
    backup_size_total: int
    backup_duration_avg: float | None
    last_backup_at: datetime | None
    logical_bytes_total: int
    stored_bytes_total: int
    by_type: Mapping[str, TypeMetrics]
    recovery_point_age_s: float | None
    recovery_points_missed: int
    tenant_id: str | None
    tenants: int
    tenants_without_backup: int
    damaged: int
    files_missing: int
    drills: int
    last_drill_at: str | None
    as_of: datetime | None
    tenants_not_looked_at: int


def health_report(examination: Examination, tenant: str | None = None) -> HealthReport:
    """`tenant`: the only one that was examined; None where all were."""
    false = {finding.check for finding in examination.findings}
    found = _grouped(examination.findings)
    shown: dict[str, list[Finding]] = {}
    for finding in found:
        shown.setdefault(finding.kind, []).append(finding)
    return HealthReport(
        backup_service=status(examination),
        **{check: check not in false for check in ALL_CHECKS},
        at=examination.examined_at,
        tenant_id=tenant,
        tenants=len(examination.tenants),
        tenants_not_looked_at=len(examination.unseen),
        issues_count=len(found),
        issues=[HealthIssue.of(one) for findings in shown.values() for one in findings[:_MOST_OF_A_KIND]],
    )


def _grouped(findings: Iterable[Finding]) -> list[Finding]:
    """Those of a group as the first of them, which tells of the others."""
    found: list[Finding] = []
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        group = groups.setdefault((finding.kind, finding.group), []) if finding.group else []
        group.append(finding)
        if len(group) == 1:
            found.append(finding)
    return [_with_others(one, groups.get((one.kind, one.group), [])) for one in found]


def _with_others(first: Finding, group: Sequence[Finding]) -> Finding:
    if len(group) < 2:
        return first
    error = first.error
    why = f"{error.why}; and {len(group) - 1:,} more since that of {group[-1].error.on}"
    return replace(first, error=type(error)(error.what, on=error.on, why=why, remedy=error.remedy))


def status(examination: Examination) -> str:
    """Trouble of a whole region, or of the database, stops backups; trouble of single tenants does not stop the others."""
    whole = [f for f in examination.findings if not f.tenant or len(examination.tenants) == 1]
    if any(f.check in (STORAGE, KEYS) or (f.kind == "source_unreachable" and f.check == SOURCE) for f in whole):
        return UNHEALTHY
    return DEGRADED if examination.findings else HEALTHY


def backup_metrics(settings: Settings, examination: Examination, tenant: str | None = None) -> BackupMetrics:
    """`tenant`: the only one that was examined; None where all were."""
    observations = [examination.observations[t.id] for t in examination.tenants if t.id in examination.observations]
    sums, failed = sums_by_type(observations)
    total = sum(sums.values(), TypeSums())
    ages = examination.ages
    drilled = [drill.finished_at for seen in observations if (drill := seen.newest_drill) and drill.finished_at]
    return BackupMetrics(
        backups_total=total.count + sum(failed.values()),
        backups_successful=total.count,
        backups_failed=sum(failed.values()),
        backup_size_total=total.size,
        backup_duration_avg=total.mean_seconds,
        last_backup_at=total.newest,
        logical_bytes_total=total.logical,
        stored_bytes_total=total.stored,
        by_type={
            kind: _type_metrics(sums.get(kind, TypeSums()), failed.get(kind, 0)) for kind in sorted({*sums, *failed})
        },
        recovery_point_age_s=max((age for age in ages.values() if age is not None), default=None),
        recovery_points_missed=sum(point_missed(settings, t, ages[t.id]) for t in examination.tenants if t.id in ages),
        tenant_id=tenant,
        tenants=len(examination.tenants),
        tenants_without_backup=sum(seen.newest is None and seen.error is None for seen in observations),
        damaged=sum(seen.damaged for seen in observations),
        files_missing=sum(seen.files_missing for seen in observations),
        drills=sum(seen.drills for seen in observations),
        last_drill_at=max(drilled, default=None),
        as_of=min((seen.observed_at for seen in observations), default=None),
        tenants_not_looked_at=len(examination.unseen),
    )


def sums_by_type(observations: Iterable[Observation]) -> tuple[dict[str, TypeSums], dict[str, int]]:
    """(the backups that are there, how many failures are on record), by type."""
    sums: dict[str, TypeSums] = {}
    failed: dict[str, int] = {}
    for seen in observations:
        for kind, own in seen.sums.items():
            sums[kind] = sums.get(kind, TypeSums()) + own
        for kind, number in seen.failed.items():
            failed[kind] = failed.get(kind, 0) + number
    return sums, failed


def _type_metrics(sums: TypeSums, failed: int) -> TypeMetrics:
    return TypeMetrics(sums.count, failed, sums.size, sums.stored, sums.mean_seconds, sums.newest)
