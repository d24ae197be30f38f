"""What answers look like, for the OpenAPI document. They are made elsewhere; tests hold them against this."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_BACKUP: dict[str, Any] = {
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
_OPERATION: dict[str, Any] = {
    "operation_id": "0f1c8a52-5f0e-4f1c-9a4e-0d6a3b7c1e11",
    "kind": "backup.create",
    "tenant_id": "tenant-1",
    "status": "queued",
    "links": {
        "self": "/api/operations/0f1c8a52-5f0e-4f1c-9a4e-0d6a3b7c1e11",
        "cancel": "/api/operation/0f1c8a52-5f0e-4f1c-9a4e-0d6a3b7c1e11/cancel",
    },
}
Status = Literal["queued", "running", "canceling", "canceled", "completed", "failed"]


class Answer(BaseModel):
    """May have more keys than are named here."""

    model_config = ConfigDict(extra="allow")


class ErrorAnswer(Answer):
    code: str = Field(description="Stable code of the error tree.", examples=["SBH-203"])
    what: str
    on: str
    why: str
    remedy: str
    transient: bool = Field(description="Whether the same call may succeed later.")


class Problem(ErrorAnswer):
    """RFC 9457, with the fields of the error tree."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
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
            ]
        },
    )

    type: str
    title: str
    status: int
    detail: str
    request_id: str


class Backup(Answer):
    id: str
    tenant_id: str
    status: Literal["completed", "running", "failed"]
    type: str | None
    region: str | None
    created_by: str | None
    created_at: str | None
    description: str | None
    checksum: str | None
    size: int | None


class DamagedBackup(ErrorAnswer):
    backup_id: str | None


class BackupPage(Answer):
    """`damaged` are backups whose manifest cannot be read, on every page."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"backups": [_BACKUP], "damaged": [], "next_cursor": None}]},
    )

    backups: list[Backup]
    damaged: list[DamagedBackup]
    next_cursor: str | None


class Manifest(Answer):
    """The signed manifest, whole."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
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
            ]
        },
    )

    id: str
    tenant_id: str
    type: str
    region: str
    created_by: str
    created_at: str
    components: dict[str, Any]
    checksum: str
    size: int


class Accepted(Answer):
    """Long work was asked for; `Location` is where it can be watched."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [_OPERATION]})

    operation_id: str
    kind: str
    tenant_id: str
    status: Status
    links: dict[str, str]


class Operation(Accepted):
    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
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
            ]
        },
    )

    requested_by: str
    created_at: str | None
    started_at: str | None
    finished_at: str | None
    backup_id: str | None
    restore_id: str | None
    progress: int = Field(default=0, ge=0, le=100, description="Percent.")
    step: str | None = None
    result: dict[str, Any] | None = None
    error: ErrorAnswer | None = None


class OperationPage(Answer):
    operations: list[Operation]
    next_cursor: str | None


class Plan(Answer):
    """What a restore would do. With `problems` it would refuse."""

    tenant_id: str
    backup_id: str
    mode: str
    scope: dict[str, Any]
    tables: list[dict[str, Any]]
    files: dict[str, Any]
    problems: list[ErrorAnswer]
    estimate: dict[str, Any]
    nothing_to_do: bool


class Validation(Answer):
    tenant_id: str
    backup_id: str
    valid: bool
    deep: bool
    issues: list[dict[str, Any]]


class BackupStatus(Answer):
    backup_id: str
    tenant_id: str
    status: Literal["running", "completed", "failed"]


class Restore(Answer):
    """The record of one restore; `progress` is percent."""

    restore_id: str
    tenant_id: str
    status: str


class RestorePage(Answer):
    restores: list[Restore]
    next_cursor: str | None


class Tenant(Answer):
    """`rpo` is ok, missed, or none where the tenant has no objective; `age_s` is how old the newest recovery point is."""

    id: str
    region: str
    tier: str
    backup_id: str | None
    recovery_point: str | None
    recorded_as: str | None
    age_s: float | None
    rpo_objective_s: float | None
    rpo: Literal["ok", "missed", "none"]


class TenantPage(Answer):
    tenants: list[Tenant]
    issues: list[ErrorAnswer]
    next_cursor: str | None


class RetentionPreview(Answer):
    """What the policy would forget now, and why each other backup stays."""

    tenant_id: str
    dry_run: bool
    backups: list[dict[str, Any]]
    forgotten: list[str]


class Hold(Answer):
    id: str
    kind: str
    backup_id: str | None
    reason: str


class Holds(Answer):
    holds: list[Hold]


class Live(Answer):
    status: Literal["ok"]


class Health(Answer):
    """The keys of the specification."""

    backup_service: str
    storage_accessible: bool | None
    last_backup_successful: bool | None
    backup_size_reasonable: bool | None
    retention_policy_enforced: bool | None


class AuditPage(Answer):
    events: list[dict[str, Any]]
    next_cursor: str | None


class Approval(Answer):
    approval_id: str
    tenant_id: str
    status: str


class ApprovalPage(Answer):
    approvals: list[Approval]
    errors: list[ErrorAnswer]
    next_cursor: str | None
