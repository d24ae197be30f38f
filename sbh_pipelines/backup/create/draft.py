"""A backup in the making, as one step hands it to the next."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from sbh_pipelines.backup.contents.manifest import Component, Manifest
from sbh_pipelines.document import as_document, optional
from sbh_pipelines.errors import SbhError, error_from_dict
from sbh_pipelines.model import BackupId, BackupType, RecoveryPoint, Tenant, TenantId


class DraftStatus(StrEnum):
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    UNCHANGED = "unchanged"  # nothing to store: the tenant still is what `unchanged_since` says


MADE_NOW = "made just now"
"""Why retention keeps the backup that it follows, besides what the rules say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedRetention:
    """What retention did after a tenant's backup.

    Attributes:
        kept: The backups that stay, the newest first.
        forgotten: The backups that are gone; of a dry run, that would be.
        reasons: The rules that keep each, or why it goes.
        errors: Manifests and holds that cannot be read.
        error: What kept it from being done.
        dry_run: Whether nothing was changed.
    """

    kept: Sequence[BackupId]
    forgotten: Sequence[BackupId]
    reasons: Mapping[BackupId, Sequence[str]]
    errors: Sequence[SbhError]
    error: SbhError | None = optional()
    dry_run: bool

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "AppliedRetention":
        error = document.get("error")
        return cls(
            kept=tuple(map(BackupId, document["kept"])),
            forgotten=tuple(map(BackupId, document["forgotten"])),
            reasons={BackupId(backup): tuple(reasons) for backup, reasons in document["reasons"].items()},
            errors=tuple(map(error_from_dict, document["errors"])),
            error=None if error is None else error_from_dict(error),
            dry_run=document["dry_run"],
        )


@dataclass(frozen=True, slots=True)
class Draft:
    """A backup in the making: what one step hands to the next. Small; holds references and counters, never data.

    Each step returns a new Draft. A step that fails for one tenant returns that tenant's draft with status FAILED and
    the error; the other tenants of the batch go on. Steps pass FAILED drafts through untouched.

    Attributes:
        tenant: Whose backup it is.
        backup_id: Its id; not chosen for good before it holds a lease.
        type: What is made; differs from `requested` where there was no parent.
        created_by: The user who asked for it.
        created_at: When it was begun, ISO 8601, UTC.
        lease_owner: Who holds the tenant's lease for it; empty before it is started.
        description: A note for the manifest.
        requested: The type asked for.
        reason: Why `type` is not `requested`.
        parent: The backup it builds on; None for a full one.
        reread: Table, or `files` -> why all of it was read and not only what changed.
        left_out: What its rows refer to and is not in it -> why.
        unchanged_since: With UNCHANGED: the backup that describes the tenant.
        status: How far it is.
        error: With FAILED: why.
        step: The last step that touched it.
        recovery_point: The instant it describes, once its tables are read.
        components: Its parts so far, by name.
        counters: What the steps counted, by name; seconds where the name says so.
        objects: Index objects that it wrote, below the tenant's prefix.
        manifest: Signed, once it is prepared; published by `verify_checksums`.
        retention: What retention did after it.
        purpose: Why it is made, where that is not to have a backup.
        moment: Of a recovered one: how it was put together.
        via: The face its creator came through, for the audit trail.
        begun: `created_at` to the microsecond: what the duration is counted from.
        in_one_process: Whether one process goes through all of its steps: nobody goes on with it when that is dead.
        crowded: Whether one page of a listing does not hold the tenant's files and its repository; see `files_beside`.
    """

    tenant: Tenant
    backup_id: BackupId
    type: BackupType
    created_by: str
    created_at: str
    lease_owner: str
    description: str | None = None
    requested: BackupType | None = None
    reason: str | None = None
    parent: BackupId | None = None
    reread: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    unchanged_since: BackupId | None = None
    status: DraftStatus = DraftStatus.RUNNING
    error: SbhError | None = None
    step: str = "begin"
    recovery_point: RecoveryPoint | None = None
    components: Mapping[str, Component] = field(default_factory=dict)
    counters: Mapping[str, float] = field(default_factory=dict)
    objects: tuple[str, ...] = ()
    manifest: Manifest | None = None
    retention: AppliedRetention | None = None
    purpose: str = ""
    moment: Mapping[str, Any] | None = None
    via: str = ""
    begun: str = ""
    in_one_process: bool = False
    crowded: bool = False

    def failed(self, step: str, error: SbhError) -> "Draft":
        # A copy: the error's own traceback would keep alive what the failed step had open.
        return replace(self, status=DraftStatus.FAILED, step=step, error=error_from_dict(error.as_dict()))

    def with_counters(self, **more: float) -> "Draft":
        """Add to the counters (they are sums)."""
        return replace(self, counters={**self.counters, **{k: self.counters.get(k, 0) + v for k, v in more.items()}})

    def as_dict(self) -> dict[str, object]:
        """Without what is empty: of a large tick nearly all drafts are of tenants that did not change."""
        document: dict[str, object] = {f: v for f in self.__slots__ if (v := getattr(self, f)) or f in _ALWAYS}
        document["tenant"] = {name: getattr(self.tenant, name) for name in _TENANT}
        if self.recovery_point:
            document["recovery_point"] = asdict(self.recovery_point)
        if self.error:
            document["error"] = self.error.as_dict()
        if self.manifest:
            document["manifest"] = dict(self.manifest.document)
        if self.components:
            document["components"] = {name: c.as_dict() for name, c in self.components.items()}
        if self.retention:
            document["retention"] = as_document(self.retention)
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Draft":
        values = dict(document)
        values["tenant"] = Tenant(**{**values["tenant"], "id": TenantId(values["tenant"]["id"])})
        values["backup_id"] = BackupId(values["backup_id"])
        values["type"] = BackupType(values["type"])
        values["status"] = DraftStatus(values["status"])
        for name in values.keys() & _READERS.keys():
            if values[name]:
                values[name] = _READERS[name](values[name])
        return cls(**values)


_ALWAYS = frozenset(one.name for one in fields(Draft) if one.default is MISSING and one.default_factory is MISSING)
_TENANT = tuple(one.name for one in fields(Tenant))
_READERS: Mapping[str, Callable[[Any], object]] = {
    "requested": BackupType,
    "parent": BackupId,
    "unchanged_since": BackupId,
    "error": error_from_dict,
    "objects": tuple,
    "recovery_point": RecoveryPoint.from_dict,
    "manifest": Manifest,
    "components": lambda parts: {name: Component.from_dict(part) for name, part in parts.items()},
    "retention": AppliedRetention.from_dict,
}
