"""A backup service without servers, for what only Dagster decides: it keeps nothing, and fails where it is told to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

from sbh_pipelines.backup.contents.manifest import Component, Manifest
from sbh_pipelines.backup.contents.verification import Validation
from sbh_pipelines.backup.create.draft import AppliedRetention, Draft, DraftStatus
from sbh_pipelines.backup.restore.into_schema import DroppedLooks
from sbh_pipelines.backup.retain.forget import RetentionLine, RetentionOutcome
from sbh_pipelines.backup.retain.prune import PruneReport
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import BackupId, BackupType, HousedTenant, RecoveryPoint, Tenant, TenantId
from sbh_pipelines.orchestration.common.resources import BackupServiceResource
from sbh_pipelines.settings import Settings

POINT = RecoveryPoint("2026-01-02T03:04:05Z", "700:705:", "0/16B3748", "7000000000000000001", 1, 180000, "app")


def draft(tenant: str, region: str = "eu-west-1", kind: BackupType = BackupType.FULL, tier: str = "important") -> Draft:
    return Draft(
        Tenant(TenantId(tenant), "1", region, tier),
        BackupId("backup_20260102_0304"),
        kind,
        "dagster",
        "2026-01-02T03:04:00Z",
        f"owner-of-{tenant}",
        requested=kind,
    )


@dataclass
class FakeService:
    """`errors[step][tenant]` is what a step fails with; `raises[step]` is raised by the step as a whole.

    Backups that are not full find the tenants in `unchanged` to be so, and those in `orphans` to have no parent.
    """

    names: Sequence[str] = ("tenant-1", "tenant-2", "tenant-3")
    errors: dict[str, dict[str, SbhError]] = field(default_factory=dict)
    raises: dict[str, BaseException] = field(default_factory=dict)
    issues: dict[str, list[SbhError]] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    leases: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    unusable: list[SbhError] = field(default_factory=list)
    tiers: dict[str, str] = field(default_factory=dict)
    unchanged: set[str] = field(default_factory=set)
    orphans: set[str] = field(default_factory=set)
    retention_error: SbhError | None = None

    def request_counts(self) -> dict[str, int]:
        return {"get": 2, "put": 1}

    @property
    def tenants(self) -> "FakeTenants":
        return FakeTenants(self)

    @property
    def backups(self) -> "FakeService":
        return self

    @property
    def retention(self) -> "FakeService":
        return self

    def begin(
        self, tenant_ids: Sequence[str], user_ctx: Any, backup_type: str, *, description: str | None
    ) -> list[Draft]:
        self.asked.append(
            {"tenants": list(tenant_ids), "user": user_ctx.user_id, "type": backup_type, "why": description}
        )
        self.leases |= set(tenant_ids)
        kind = BackupType.parse(backup_type)
        return self._each("begin", [replace(draft(name, kind=kind), description=description) for name in tenant_ids])

    def snapshot_tables(self, drafts: list[Draft], *, progress: Any = None) -> list[Draft]:
        return self._each("snapshot_tables", drafts, self._read)

    def _read(self, d: Draft) -> Draft:
        d = replace(d, recovery_point=POINT)
        if d.type is not BackupType.FULL and d.tenant.id in self.unchanged:
            self.leases.discard(d.tenant.id)
            return replace(d, status=DraftStatus.UNCHANGED, unchanged_since=BackupId("backup_20260101_0000"))
        counters = {"rows": 1000, "tables": 5, "table_bytes": 3 << 20, "seconds_snapshot": 0.5}
        if d.type is not BackupType.FULL and d.tenant.id in self.orphans:
            d = replace(d, type=BackupType.FULL, reason="the tenant has no backup to build on")
        elif d.type is not BackupType.FULL:
            d = replace(d, parent=BackupId("backup_20260101_0000"), reread={"public.a|b": "its definition changed"})
            counters |= {"rows_changed": 12}
        return d.with_counters(**counters)

    def enumerate_files(self, drafts: list[Draft], *, progress: Any = None) -> list[Draft]:
        return self._each(
            "enumerate_files",
            drafts,
            lambda d: d.with_counters(
                files=7,
                files_read=2,
                files_reused=5,
                file_bytes=1 << 20,
                bytes_stored=1 << 20,
                missing_files=self.missing.get(d.tenant.id, 0),
            ),
        )

    def write_manifest(self, drafts: list[Draft]) -> list[Draft]:
        return self._each(
            "write_manifest", drafts, lambda d: replace(d, manifest=Manifest(manifest(d)), components=components())
        )

    def verify_checksums(self, drafts: list[Draft], *, progress: Any = None) -> list[Draft]:
        return self._each("verify_checksums", drafts)

    def apply_retention(self, drafts: list[Draft], *, dry_run: bool = False) -> list[Draft]:
        newest, error = BackupId("backup_20260102_0304"), self.retention_error
        applied = AppliedRetention(
            kept=() if error else (newest,),
            forgotten=(),
            reasons={} if error else {newest: ("newest",)},
            errors=(),
            error=error,
            dry_run=dry_run,
        )
        done = self._each(
            "apply_retention", drafts, lambda d: replace(d, status=DraftStatus.COMPLETED, retention=applied)
        )
        self.leases -= {d.tenant.id for d in done}
        return done

    def abandon(self, drafts: Sequence[Draft]) -> None:
        self.leases -= {d.tenant.id for d in drafts}

    def prune(self, tenant_id: str, user_ctx: Any, *, dry_run: bool = False, progress: Any = None) -> PruneReport:
        self._upkeep("prune", tenant_id)
        done = (
            {"bytes_to_remove": 3 << 20, "packs_to_remove": 3}
            if dry_run
            else {"bytes_freed": 1 << 20, "packs_deleted": 2}
        )
        nothing: dict[str, Any] = {of.name: 0 for of in fields(PruneReport)}
        return PruneReport(**{**nothing, "tenant_id": tenant_id, "dry_run": dry_run, "decisions": (), **done})

    def forget(self, tenant_id: str, user_ctx: Any, *, dry_run: bool = False) -> RetentionOutcome:
        self._upkeep("forget", tenant_id)
        line = partial(RetentionLine, type=BackupType.FULL, created_at="2026-01-01T00:00:00Z")
        stays = line(id=BackupId("backup_20260102_0304"), keep=True, reasons=["newest full", "daily 1 of 7"])
        goes = line(id=BackupId("backup_20260101_0000"), keep=False, reasons=["no rule keeps it"])
        return RetentionOutcome(TenantId(tenant_id), dry_run, [stays, goes], [goes.id], [])

    @property
    def restores(self) -> "FakeService":
        return self

    @property
    def drills(self) -> "FakeService":
        return self

    def drop_leftovers(self, user_ctx: Any) -> list[str]:
        self.calls.append("drop_leftovers")
        return []

    def drop_expired_looks(self, user_ctx: Any) -> DroppedLooks:
        self.calls.append("drop_expired_looks")
        return DroppedLooks(("sbh_look_x",), {})

    def compact_catalogs(self, user_ctx: Any) -> dict[str, Any]:
        self.calls.append("compact_catalogs")
        return {"eu-west-1": {"objects": 1}}

    def keep_journals(self, user_ctx: Any) -> list[Any]:
        self.calls.append("keep_journals")
        return []

    def _upkeep(self, verb: str, tenant_id: str) -> None:
        """Fails once with what `errors` has for the tenant, then no more."""
        self.calls.append(f"{verb} {tenant_id}")
        if error := self.errors.get(verb, {}).pop(tenant_id, None):
            raise error

    def of(self, tenant_id: str, user_ctx: Any) -> list[Manifest]:
        return [Manifest(manifest(draft(tenant_id)))]

    def validate(
        self, backup_id: str, tenant_id: str, user_ctx: Any, deep: bool = False, progress: Any = None
    ) -> Validation:
        issues = self.issues.get(tenant_id, [])
        return Validation(
            tenant_id=tenant_id,
            backup_id=backup_id,
            valid=not issues,
            issues=issues,
            deep=deep,
            objects_checked=4,
            chunks_checked=9,
            bytes_checked=99,
            seconds=0.1,
        )

    def _each(self, step: str, drafts: list[Draft], change: Callable[[Draft], Draft] = lambda d: d) -> list[Draft]:
        self.calls.append(step)
        if step in self.raises:
            raise self.raises[step]
        after = []
        for d in drafts:
            error = self.errors.get(step, {}).get(d.tenant.id)
            if d.status in (DraftStatus.FAILED, DraftStatus.UNCHANGED):
                after.append(d)
            elif error:
                self.leases.discard(d.tenant.id)
                after.append(d.failed(step, error))
            else:
                after.append(change(replace(d, step=step)))
        return after


@dataclass(frozen=True)
class FakeTenants:
    """The tenants that the fake service names."""

    fake: FakeService

    def unusable(self) -> list[SbhError]:
        return self.fake.unusable

    def all(self) -> list[Tenant]:
        if "tenants" in self.fake.raises:
            raise self.fake.raises["tenants"]
        return [draft(name, tier=self.fake.tiers.get(name, "important")).tenant for name in self.fake.names]

    def housed(self, tenant: Tenant) -> HousedTenant:
        return HousedTenant(tenant.id, tenant.key, tenant.region, tenant.tier, str(tenant.id))


def components() -> dict[str, Component]:
    tables = [{"table": "public.a|b", "rows": 1000, "bytes": 3 << 20, "groups": 2}]
    facts = {"tables": ["public.a|b"], "rows": 1000, "table_details": tables}
    return {
        "database": Component("json", "database/x.json", 3 << 20, "sha256:" + "ab" * 32, facts),
        "files": Component("file_list", "f", 10, "sha256:" + "ab" * 32, {"file_count": 7, "total_size": 1 << 20}),
    }


def manifest(d: Draft) -> Mapping[str, Any]:
    asked = str(d.requested or d.type)
    names = {"id": str(d.backup_id), "tenant_id": str(d.tenant.id), "type": str(d.type), "requested_type": asked}
    return {**names, "checksum": "sha256:" + "cd" * 32}


class FakeResource(BackupServiceResource):
    """The resource with the fake in place of the service."""

    def __init__(self, fake: str) -> None:
        super().__init__(step_retry_wait_s=0.0)
        self.fake = fake

    @property
    def service(self) -> Any:
        return FAKES[self.fake]


FAKES: dict[str, FakeService] = {}
