"""The specification's health check, of one tenant or of all, from what was really looked at.

`unhealthy`: the store, the keys or the application's database cannot be reached, so that no backup can be made or read.
`degraded`: something else is not as it should be. Each False, and each of the further checks that failed, has an entry in
`issues`.
"""

from typing import Any

from sbh_pipelines.backup.health.examination import Examination
from sbh_pipelines.backup.health.findings import ALL_CHECKS, KEYS, SOURCE, STORAGE, Finding
from sbh_pipelines.model import timestamp

HEALTHY, DEGRADED, UNHEALTHY = "healthy", "degraded", "unhealthy"
_MOST_OF_A_KIND = 50


def health(examination: Examination, tenant: str | None = None) -> dict[str, Any]:
    """{backup_service, storage_accessible, last_backup_successful, backup_size_reasonable, retention_policy_enforced, then
    keys_usable, recovery_point_objectives_met, backups_intact, drills_passed, source_readable; at, tenant_id, tenants,
    tenants_not_looked_at, issues_count, issues: [{check, kind, tenant_id, severity, code, what, on, why, remedy}]}.

    At most 50 issues of a kind are listed; `issues_count` is of all. A check that could not be made because something else
    stood in its way is as good as it was when it was last made; `tenants_not_looked_at` tells.
    """
    false = {finding.check for finding in examination.findings}
    shown: dict[str, list[Finding]] = {}
    for finding in examination.findings:
        shown.setdefault(finding.kind, []).append(finding)
    return {
        "backup_service": status(examination),
        **{check: check not in false for check in ALL_CHECKS},
        "at": timestamp(examination.at),
        "tenant_id": tenant,
        "tenants": len(examination.tenants),
        "tenants_not_looked_at": len(examination.unseen),
        "issues_count": len(examination.findings),
        "issues": [f.as_dict() for findings in shown.values() for f in findings[:_MOST_OF_A_KIND]],
    }


def status(examination: Examination) -> str:
    """Trouble of a whole region, or of the database, stops backups; trouble of single tenants does not stop the others."""
    whole = [f for f in examination.findings if not f.tenant or len(examination.tenants) == 1]
    if any(f.check in (STORAGE, KEYS) or (f.kind == "source_unreachable" and f.check == SOURCE) for f in whole):
        return UNHEALTHY
    return DEGRADED if examination.findings else HEALTHY
