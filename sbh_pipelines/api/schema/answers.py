"""Answers that exist on the wire only, and an example of each: what the service returns describes itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sbh_pipelines.api.schema.problems import ErrorAnswer, Problem
from sbh_pipelines.backup.service.results import Approval, CopyStatus, HoldLine, RestoreRecord
from sbh_pipelines.document import optional
from sbh_pipelines.errors import SbhError
from sbh_pipelines.repository.trail.event import AuditEvent

_BACKUP = {
    "id": "backup_20240115_1200",
    "tenant_id": "tenant-1",
    "type": "full",
    "status": "completed",
    "region": "eu-west-1",
    "created_by": "admin-user",
    "created_at": "2024-01-15T12:00:00Z",
    "description": "Weekly backup",
    "checksum": "sha256:5f0c…",
    "size": 1100000,
}
_OPERATION = {
    "operation_id": "0f1c8a52-5f0e-4f1c-9a4e-0d6a3b7c1e11",
    "kind": "backup.create",
    "tenant_id": "tenant-1",
    "status": "queued",
    "links": {
        "self": "/api/operations/0f1c8a52-5f0e-4f1c-9a4e-0d6a3b7c1e11",
        "cancel": "/api/operations/0f1c8a52-5f0e-4f1c-9a4e-0d6a3b7c1e11/cancel",
    },
}
Status = Literal["queued", "running", "canceling", "canceled", "completed", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """One line of the list of backups. Of one that runs or failed only what its id says is known.

    Attributes:
        id: Its id.
        tenant_id: Whose backup it is.
        type: full, incremental or differential.
        region: Where it is.
        created_by: The user who asked for it.
        created_at: Time at which it was begun, UTC.
        description: Free text.
        checksum: Of the manifest.
        size: Bytes before compression.
        parent: The backup that it builds on.
        purpose: Why it was made, where that was not to have a backup.
        requested_type: The type that was asked for.
        status: completed, running or failed.
        error: Why it failed.
    """

    id: str
    tenant_id: str
    type: str | None = None
    region: str | None = None
    created_by: str | None = None
    created_at: str
    description: str | None = None
    checksum: str | None = None
    size: int | None = None
    parent: str | None = optional()
    purpose: str | None = optional()
    requested_type: str | None = optional()
    status: Literal["completed", "running", "failed"]
    error: ErrorAnswer | None = optional()


@dataclass(frozen=True, slots=True)
class DamagedBackup(ErrorAnswer):
    """A backup whose manifest cannot be read.

    Attributes:
        backup_id: Its id, where the error names it.
    """

    backup_id: str | None


@dataclass(frozen=True, slots=True)
class BackupPage:
    """A page of a tenant's backups, the newest first.

    Attributes:
        backups: At most `limit` of them.
        damaged: Backups whose manifest cannot be read; on every page.
        next_cursor: Where the next page begins; null on the last one.
    """

    backups: Sequence[Backup]
    damaged: Sequence[Mapping[str, object]]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """The signed manifest, whole."""

    id: str
    tenant_id: str
    type: str
    region: str
    created_by: str
    created_at: str
    components: Mapping[str, object]
    checksum: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """Long work was asked for; `Location` is where it can be watched.

    Attributes:
        operation_id: Id of the operation, which is that of Dagster's run.
        kind: What was asked for, such as backup.create.
        tenant_id: Whose backups it works on.
        status: How far it is.
        links: Paths of this API: the operation itself, its cancellation, and what came of it.
    """

    operation_id: str
    kind: str
    tenant_id: str
    status: Status
    links: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationLine:
    """One line of the list of operations.

    Attributes:
        operation_id: Id of the operation, which is that of Dagster's run.
        kind: What was asked for, such as backup.create.
        tenant_id: Whose backups it works on.
        status: How far it is.
        requested_by: The user who asked for it.
        created_at: Time at which it was queued, UTC.
        started_at: Time at which its run began, UTC; null before.
        finished_at: Time at which it ended, UTC; null before.
        backup_id: The backup that it makes or works on, where that is known.
        restore_id: The restore that it makes, where that is known.
        dagster_url: Dagster's page of the run, for users of the platform.
        links: Paths of this API: the operation itself, its cancellation, and what came of it.
    """

    operation_id: str
    kind: str
    tenant_id: str
    status: Status
    requested_by: str
    created_at: str | None
    started_at: str | None
    finished_at: str | None
    backup_id: str | None
    restore_id: str | None
    dagster_url: str | None = optional()
    links: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation(OperationLine):
    """Long work: how far it is, then what came of it.

    Attributes:
        progress: Percent.
        step: The step at work, or the last one.
        result: Figures of what was done; null where nothing was yet.
        error: Why it failed or was canceled.
    """

    progress: int
    step: str | None
    result: Mapping[str, object] | None
    error: ErrorAnswer | None


@dataclass(frozen=True, slots=True)
class OperationPage:
    """A page of operations, the newest first.

    Attributes:
        operations: At most `limit` of them.
        next_cursor: Where the next page begins; null on the last one.
    """

    operations: Sequence[OperationLine]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class RestorePage:
    """A page of a tenant's restores, the newest first.

    Attributes:
        restores: At most `limit` of them.
        next_cursor: Where the next page begins; null on the last one.
    """

    restores: Sequence[RestoreRecord]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class TenantLine:
    """A tenant, and up to when it is safe.

    Attributes:
        id: Its slug.
        region: Where its data and backups are.
        tier: Its tier, which may name its objectives and schedules.
        backup_id: The backup that describes its newest recovery point; null where it has none.
        recovery_point: The newest time to which it can be restored, UTC.
        recorded_as: `backup`, or `unchanged` where a run found the tenant equal to that backup.
        age_s: Age of the recovery point, s.
        rows_until: Up to when the change journal tells all of its rows since then, UTC; null where it does not.
        rows_lost_s: How much of its rows would be lost now, s: by the journal or the backup, whichever is later.
        rpo_objective_s: How much the settings allow to be lost, s; null where the tenant has no objective.
        rpo: Whether the objective is met; `none` where there is none.
    """

    id: str
    region: str
    tier: str
    backup_id: str | None
    recovery_point: str | None
    recorded_as: str | None
    age_s: float | None
    rows_until: str | None
    rows_lost_s: float | None
    rpo_objective_s: float | None
    rpo: Literal["ok", "missed", "none"]


@dataclass(frozen=True, slots=True)
class TenantPage:
    """A page of tenants, by slug.

    Attributes:
        tenants: At most `limit` of them.
        issues: What could not be read, so that a recovery point may be older than it need be.
        next_cursor: Where the next page begins; null on the last one.
    """

    tenants: Sequence[TenantLine]
    issues: Sequence[SbhError]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Holds:
    """All that keeps a backup.

    Attributes:
        holds: Pins and legal holds, by id.
    """

    holds: Sequence[HoldLine]


@dataclass(frozen=True, slots=True)
class Live:
    """The server answers.

    Attributes:
        status: Always ok.
    """

    status: Literal["ok"]


@dataclass(frozen=True, slots=True)
class AuditPage:
    """A page of an audit trail, the newest event first.

    Attributes:
        tenant_id: Whose trail it is; `*` is the platform.
        region: In which region.
        events: At most `limit` of them.
        errors: Parts of the trail that cannot be believed.
        next_cursor: Where the next page begins; null on the last one.
    """

    tenant_id: str
    region: str
    events: Sequence[AuditEvent]
    errors: Sequence[SbhError]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class ApprovalPage:
    """A page of approvals, the newest first.

    Attributes:
        approvals: At most `limit` of them.
        errors: Approvals that are damaged; on every page.
        next_cursor: Where the next page begins; null on the last one.
    """

    approvals: Sequence[Approval]
    errors: Sequence[SbhError]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class CopyList:
    """The copies of the settings.

    Attributes:
        copies: Each with its tenants; for a tenant's users with that tenant alone.
    """

    copies: Sequence[CopyStatus]


_COPY = {
    "name": "dr",
    "to": "eu-central-1",
    "kind": "managed",
    "objective_s": 7200.0,
    "tenants": [
        {
            "tenant_id": "tenant-1",
            "region": "eu-west-1",
            "standing": "current",
            "backup_id": "backup_20240115_1200",
            "recovery_point": "2024-01-15T12:00:00Z",
            "lag_s": 1260.0,
            "verified_at": "2024-01-15T12:20:41Z",
            "why": "",
            "misplaced": False,
        }
    ],
    "worst_lag_s": 1260.0,
    "issues": [],
    "steps": [],
    "by_copy": [],
    "damages": [],
}

EXAMPLES: Mapping[type, Sequence[Mapping[str, object]]] = {
    Problem: [
        {
            "type": "urn:sbh-pipelines:error:SBH-203",
            "title": "No such backup",
            "status": 404,
            "detail": "No such backup (backup_20240115_1200 of tenant-1)",
            "instance": "/api/backup/backup_20240115_1200",
            "code": "SBH-203",
            "what": "No such backup",
            "on": "backup_20240115_1200 of tenant-1",
            "why": "",
            "remedy": "see `sbh backup list tenant-1`",
            "transient": False,
            "request_id": "3f9d5c2e8b7a416d0c5e9f12",
        }
    ],
    CopyList: [{"copies": [_COPY]}],
    CopyStatus: [_COPY],
    BackupPage: [{"backups": [_BACKUP], "damaged": [], "next_cursor": None}],
    Manifest: [
        {
            **{k: v for k, v in _BACKUP.items() if k != "status"},
            "components": {
                "database": {
                    "type": "rows",
                    "key": "files/tenant-1/backups/database/backup_20240115_1200.json",
                    "size": 1048576,
                    "checksum": "sha256:abc1…",
                    "tables": ["users", "projects"],
                },
                "files": {
                    "type": "file_list",
                    "key": "files/tenant-1/backups/files/backup_20240115_1200.json",
                    "size": 51200,
                    "checksum": "sha256:def4…",
                    "file_count": 150,
                    "total_size": 104857600,
                },
            },
        }
    ],
    Accepted: [_OPERATION],
    Operation: [
        {
            **_OPERATION,
            "status": "completed",
            "requested_by": "admin-user",
            "created_at": "2024-01-15T12:00:00Z",
            "started_at": "2024-01-15T12:00:02Z",
            "finished_at": "2024-01-15T12:00:09Z",
            "backup_id": "backup_20240115_1200",
            "restore_id": None,
            "progress": 100,
            "step": "apply_retention",
            "result": {"backup_id": "backup_20240115_1200", "rows": 1200, "stored_bytes": 48210},
            "error": None,
        }
    ],
}
"""Of the answer that a class describes, by class."""
