"""A backup service without servers, for what only Dagster decides: it keeps nothing, and fails where it is told to."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import PrivateAttr

from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import BackupId, BackupType, Component, Draft, DraftStatus, RecoveryPoint, Tenant, TenantId
from sbh_pipelines.orchestration.resources import BackupServiceResource
from sbh_pipelines.settings import Settings

POINT = RecoveryPoint("2026-01-02T03:04:05Z", "700:705:", "0/16B3748", "7000000000000000001", 1, 180000, "app")


def draft(tenant: str, region: str = "eu-west-1") -> Draft:
    return Draft(
        Tenant(TenantId(tenant), "1", region, "important"),
        BackupId("backup_20260102_0304"),
        BackupType.FULL,
        "dagster",
        "2026-01-02T03:04:00Z",
        f"owner-of-{tenant}",
    )


@dataclass
class FakeService:
    """`errors[step][tenant]` is what a step fails with; `raises[step]` is raised by the step as a whole."""

    names: Sequence[str] = ("tenant-1", "tenant-2", "tenant-3")
    errors: dict[str, dict[str, SbhError]] = field(default_factory=dict)
    raises: dict[str, BaseException] = field(default_factory=dict)
    issues: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    leases: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    unusable: list[SbhError] = field(default_factory=list)

    def unusable_tenants(self) -> list[SbhError]:
        return self.unusable

    def tenants(self) -> list[Tenant]:
        if "tenants" in self.raises:
            raise self.raises["tenants"]
        return [draft(name).tenant for name in self.names]

    def begin(
        self, tenant_ids: Sequence[str], user_ctx: Any, backup_type: str, *, description: str | None
    ) -> list[Draft]:
        self.asked.append(
            {"tenants": list(tenant_ids), "user": user_ctx.user_id, "type": backup_type, "why": description}
        )
        self.leases |= set(tenant_ids)
        return self._each("begin", [replace(draft(name), description=description) for name in tenant_ids])

    def snapshot_tables(self, drafts: list[Draft], *, progress: Any = None) -> list[Draft]:
        return self._each(
            "snapshot_tables",
            drafts,
            lambda d: replace(d, recovery_point=POINT).with_counters(
                rows=1000, tables=5, table_bytes=3 << 20, seconds_snapshot=0.5
            ),
        )

    def enumerate_files(self, drafts: list[Draft], *, progress: Any = None) -> list[Draft]:
        return self._each(
            "enumerate_files",
            drafts,
            lambda d: d.with_counters(
                files=7, file_bytes=1 << 20, bytes_stored=1 << 20, missing_files=self.missing.get(d.tenant.id, 0)
            ),
        )

    def write_manifest(self, drafts: list[Draft]) -> list[Draft]:
        return self._each("write_manifest", drafts, lambda d: replace(d, manifest=manifest(d), components=components()))

    def verify_checksums(self, drafts: list[Draft], *, progress: Any = None) -> list[Draft]:
        return self._each("verify_checksums", drafts)

    def apply_retention(self, drafts: list[Draft], *, dry_run: bool = False) -> list[Draft]:
        kept = {"kept": ["backup_20260102_0304"], "forgotten": [], "reasons": {"backup_20260102_0304": "newest"}}
        done = self._each("apply_retention", drafts, lambda d: replace(d, status=DraftStatus.COMPLETED, retention=kept))
        self.leases -= {d.tenant.id for d in done}
        return done

    def abandon(self, drafts: Sequence[Draft]) -> None:
        self.leases -= {d.tenant.id for d in drafts}

    def list_backups(self, tenant_id: str, user_ctx: Any) -> list[dict[str, Any]]:
        return [manifest(draft(tenant_id))]

    def validate_backup(
        self, backup_id: str, tenant_id: str, user_ctx: Any, deep: bool = False, progress: Any = None
    ) -> dict[str, Any]:
        issues = self.issues.get(tenant_id, [])
        counts = {"objects_checked": 4, "chunks_checked": 9, "bytes_checked": 99, "seconds": 0.1}
        found = {"backup_id": backup_id, "tenant_id": tenant_id, "valid": not issues, "issues": issues, "deep": deep}
        return found | counts

    def _each(self, step: str, drafts: list[Draft], change: Callable[[Draft], Draft] = lambda d: d) -> list[Draft]:
        self.calls.append(step)
        if step in self.raises:
            raise self.raises[step]
        after = []
        for d in drafts:
            error = self.errors.get(step, {}).get(d.tenant.id)
            if d.status is DraftStatus.FAILED:
                after.append(d)
            elif error:
                self.leases.discard(d.tenant.id)
                after.append(d.failed(step, error))
            else:
                after.append(change(replace(d, step=step)))
        return after


def components() -> dict[str, Component]:
    tables = [{"table": "public.a|b", "rows": 1000, "bytes": 3 << 20, "groups": 2}]
    facts = {"tables": ["public.a|b"], "rows": 1000, "table_details": tables}
    return {
        "database": Component("json", "database/x.json", 3 << 20, "sha256:" + "ab" * 32, facts),
        "files": Component("file_list", "f", 10, "sha256:" + "ab" * 32, {"file_count": 7, "total_size": 1 << 20}),
    }


def manifest(d: Draft) -> Mapping[str, Any]:
    return {"id": str(d.backup_id), "tenant_id": str(d.tenant.id), "type": "full", "checksum": "sha256:" + "cd" * 32}


class FakeResource(BackupServiceResource):
    """The resource with the fake in place of the service; keyed, because Dagster copies resources."""

    fake: str
    step_retry_wait_s: float = 0.0
    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    @property
    def service(self) -> Any:
        return FAKES[self.fake]


FAKES: dict[str, FakeService] = {}
