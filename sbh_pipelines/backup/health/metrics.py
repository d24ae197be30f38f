"""The specification's backup metrics, summed over one tenant or all."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sbh_pipelines.backup.health.examination import Examination
from sbh_pipelines.backup.health.findings import point_missed
from sbh_pipelines.backup.health.observation import Look, TypeSums
from sbh_pipelines.model import timestamp
from sbh_pipelines.settings import Settings


def backup_metrics(settings: Settings, examination: Examination, tenant: str | None = None) -> dict[str, Any]:
    """{backups_total, backups_successful, backups_failed, backup_size_total, backup_duration_avg, last_backup_at, then
    logical_bytes_total, stored_bytes_total, by_type: {type: {...}}, recovery_point_age_s, recovery_points_missed,
    tenants, tenants_without_backup, damaged, drills, last_drill_at, as_of, tenants_not_looked_at}.

    Successful are the backups that are there, failed the failures on record: both end with retention. `backup_size_total` is
    the sum of what manifests call `size`; `logical_bytes_total` has the content of the files as well, and
    `stored_bytes_total` is what these backups added to their repositories. The duration, s, is the mean over the backups
    that recorded one, null where none did. The age of the recovery point is that of the worst tenant. `as_of` is the oldest
    look that went into the sums.
    """
    looks = [examination.looks[t.id] for t in examination.tenants if t.id in examination.looks]
    all_of_them = sum((seen.backups for seen in looks), TypeSums())
    failed = sum(sum(seen.failed.values()) for seen in looks)
    ages = [age for age in examination.ages.values() if age is not None]
    drilled = [seen.drill.at for seen in looks if seen.drill is not None and seen.drill.at]
    return {
        "backups_total": all_of_them.count + failed,
        "backups_successful": all_of_them.count,
        "backups_failed": failed,
        "backup_size_total": all_of_them.size,
        "backup_duration_avg": _mean(all_of_them),
        "last_backup_at": _text(all_of_them.newest),
        "logical_bytes_total": all_of_them.logical,
        "stored_bytes_total": all_of_them.stored,
        "by_type": by_type(looks),
        "recovery_point_age_s": max(ages, default=None),
        "recovery_points_missed": sum(
            point_missed(settings, t, examination.ages[t.id]) for t in examination.tenants if t.id in examination.ages
        ),
        "tenant_id": tenant,
        "tenants": len(examination.tenants),
        "tenants_without_backup": sum(seen.newest is None and seen.error is None for seen in looks),
        "damaged": sum(seen.damaged for seen in looks),
        "drills": sum(seen.drills for seen in looks),
        "last_drill_at": max(drilled, default=None),
        "as_of": _text(min((seen.at for seen in looks), default=None)),
        "tenants_not_looked_at": len(examination.unseen),
    }


def by_type(looks: Iterable[Look]) -> dict[str, dict[str, Any]]:
    """{type: {successful, failed, size, stored_bytes, duration_avg, last_at}}."""
    sums: dict[str, TypeSums] = {}
    failed: dict[str, int] = {}
    for seen in looks:
        for kind, own in seen.sums.items():
            sums[kind] = sums.get(kind, TypeSums()) + own
        for kind, number in seen.failed.items():
            failed[kind] = failed.get(kind, 0) + number
    return {
        kind: {
            "successful": (own := sums.get(kind, TypeSums())).count,
            "failed": failed.get(kind, 0),
            "size": own.size,
            "stored_bytes": own.stored,
            "duration_avg": _mean(own),
            "last_at": _text(own.newest),
        }
        for kind in sorted({*sums, *failed})
    }


def _mean(sums: TypeSums) -> float | None:
    return round(sums.seconds / sums.timed, 3) if sums.timed else None


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else timestamp(moment)
