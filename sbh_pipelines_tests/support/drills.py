"""Records of drills that did not take place."""

from collections.abc import Sequence
from typing import Any

from sbh_pipelines.backup.drill.records import DrillRecord, ScenarioResult
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import BackupId, DrillId, TenantId


def drill_record(
    drill_id: str, tenant_id: str, error: SbhError | None, scenarios: Sequence[ScenarioResult] = (), **more: Any
) -> DrillRecord:
    """One that failed with `error`, or passed."""
    at = "2026-03-01T05:00:00Z"
    values: dict[str, Any] = {
        "backup_id": BackupId("backup_20260101_0000"),
        "status": "failed" if error else "passed",
        "issues": (),
        "tier": "critical",
        "recovery_point_age_s": 60.0,
        "recovery_point_objective_s": None,
        "drilled_by": "tester",
        "started_at": at,
        "finished_at": at,
        "versions": {},
    }
    return DrillRecord(
        drill_id=DrillId(drill_id),
        tenant_id=TenantId(tenant_id),
        error=error,
        scenarios=tuple(scenarios),
        **{**values, **more},
    )
