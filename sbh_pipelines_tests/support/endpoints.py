"""Every endpoint: what the policy table calls it, and what it answers to somebody who may."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BACKUP, RESTORE = "{backup_id}", "restore_20240115_120000_0a1b2c"
APPROVAL = "approval_20240115_120000_0a1b2c"
OPERATION = "0f1c8a52-5f0e-4f1c-9a4e-0d6a3b7c1e11"


@dataclass(frozen=True)
class Endpoint:
    """`status` is the answer where nothing is in the way and there is no Dagster: 503 is what needs one. `for_all`: what a
    platform user gets who names no tenant."""

    method: str
    path: str
    action: str
    status: int = 200
    body: Mapping[str, Any] | None = None
    for_all: int = 400
    platform_only: bool = False
    role_first: bool = (
        False  # whether who may not is told so, also where no tenant is named and one thing is wrong besides
    )
    at: str = ""  # the path with its ids filled in, where it is not `path`

    def url(self, backup_id: str) -> str:
        return (self.at or self.path).replace(BACKUP, backup_id)


ENDPOINTS = [
    Endpoint("POST", "/api/backup", "backup.create", 503, {"type": "full", "description": "Weekly backup"}),
    Endpoint("GET", "/api/backup", "backup.list"),
    Endpoint("GET", "/api/backup/{backup_id}", "backup.list"),
    Endpoint("GET", "/api/backup/{backup_id}/status", "backup.status"),
    Endpoint("POST", "/api/backup/{backup_id}/restore", "backup.restore", 503, {"confirm": True}),
    Endpoint("POST", "/api/backup/{backup_id}/restore", "backup.restore", 409, {"confirm": False}),
    Endpoint("POST", "/api/backup/{backup_id}/restore", "restore.into_schema", 503, {"into_schema": "old"}),
    Endpoint("POST", "/api/backup/{backup_id}/restore", "restore.plan", 200, {"validate_only": True}),
    Endpoint("POST", "/api/backup/{backup_id}/diff", "restore.plan", 200, {"samples": 1}),
    Endpoint("GET", "/api/backup/{backup_id}/diff", "restore.plan"),
    Endpoint("POST", "/api/backup/{backup_id}/validate", "backup.validate", 200),
    Endpoint("POST", "/api/backup/{backup_id}/validate", "backup.validate", 503, {"deep": True}),
    Endpoint("GET", "/api/backup/{backup_id}/holds", "backup.list"),
    Endpoint("POST", "/api/backup/{backup_id}/pin", "backup.hold", 200, {"reason": "a test"}),
    Endpoint("DELETE", "/api/backup/{backup_id}/pin", "backup.hold", 200),
    Endpoint("GET", "/api/restore", "backup.status"),
    Endpoint("GET", "/api/restore/{restore_id}", "backup.status", 404, at=f"/api/restore/{RESTORE}"),
    Endpoint(
        "POST",
        "/api/restore/{restore_id}/undo",
        "backup.restore",
        404,
        {"confirm": True},
        at=f"/api/restore/{RESTORE}/undo",
    ),
    Endpoint(
        "POST",
        "/api/restore/{restore_id}/undo",
        "backup.restore",
        409,
        {"confirm": False},
        at=f"/api/restore/{RESTORE}/undo",
    ),
    Endpoint(
        "POST",
        "/api/restore/{restore_id}/undo",
        "restore.plan",
        404,
        {"validate_only": True},
        at=f"/api/restore/{RESTORE}/undo",
    ),
    Endpoint("GET", "/api/journal", "journal.read"),
    Endpoint("GET", "/api/journal/windows", "backup.list"),
    Endpoint("GET", "/api/journal/status", "journal.status", for_all=200, platform_only=True),
    Endpoint("GET", "/api/copies", "copies.status", for_all=200),
    Endpoint("GET", "/api/copies/{name}", "copies.status", 400, at="/api/copies/nowhere"),
    Endpoint("POST", "/api/copies/{name}/run", "copies.run", 400, role_first=True, at="/api/copies/nowhere/run"),
    Endpoint(
        "POST",
        "/api/copies/{name}/verify",
        "copies.verify",
        400,
        {"deep": True},
        role_first=True,
        at="/api/copies/nowhere/verify",
    ),
    Endpoint("GET", "/api/approvals", "backup.status"),
    Endpoint("POST", "/api/approvals", "restore.request", 200, {"backup_id": "latest", "reason": "a test"}),
    Endpoint("POST", "/api/approvals", "restore.request", 404, {"restore_id": RESTORE, "reason": "a test"}),
    Endpoint("GET", "/api/approvals/{approval_id}", "backup.status", 400, at=f"/api/approvals/{APPROVAL}"),
    Endpoint(
        "POST", "/api/approvals/{approval_id}/approve", "restore.approve", 400, at=f"/api/approvals/{APPROVAL}/approve"
    ),
    Endpoint(
        "POST", "/api/approvals/{approval_id}/reject", "restore.approve", 400, at=f"/api/approvals/{APPROVAL}/reject"
    ),
    Endpoint("GET", "/api/operations", "backup.status", 503, for_all=503),
    Endpoint(
        "GET", "/api/operations/{operation_id}", "backup.status", 503, for_all=503, at=f"/api/operations/{OPERATION}"
    ),
    Endpoint(
        "GET", "/api/operation/{operation_id}", "backup.status", 503, for_all=503, at=f"/api/operation/{OPERATION}"
    ),
    Endpoint(
        "POST",
        "/api/operation/{operation_id}/cancel",
        "run.cancel",
        503,
        for_all=503,
        at=f"/api/operation/{OPERATION}/cancel",
    ),
    Endpoint(
        "POST",
        "/api/operations/{operation_id}/cancel",
        "run.cancel",
        503,
        for_all=503,
        at=f"/api/operations/{OPERATION}/cancel",
    ),
    Endpoint("GET", "/api/retention/preview", "backup.forget"),
    Endpoint("GET", "/api/tenants", "backup.list", for_all=200),
    Endpoint("GET", "/api/health", "health.read", for_all=200),
    Endpoint("GET", "/api/metrics", "health.read", for_all=200),
    Endpoint("GET", "/metrics", "health.read", for_all=200, platform_only=True),
    Endpoint("GET", "/api/audit", "audit.read", for_all=200),
]
PUBLIC = {("GET", "/api/health/live"), ("GET", "/api/openapi.json")}
