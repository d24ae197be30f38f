"""Frozen values and ids. No I/O, no clock: whoever needs the time is given it.

Ids are types: parsed once at the edge (`TenantId.parse`), never checked again inside. They are subclasses of `str` so
that they go into keys, JSON and Dagster partitions as they are.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self, TypeVar

from sbh_pipelines.errors import InvalidId, RequestError, SbhError

Clock = Callable[[], datetime]

SAFETY = "safety"  # the purpose of a backup made before a restore: `latest` passes it over

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_BACKUP = re.compile(r"backup_\d{8}_\d{4}(_\d{2,4})?")
_RESTORE = re.compile(r"restore_\d{8}_\d{6}_[0-9a-f]{6}")
_DRILL = re.compile(r"drill_\d{8}_\d{6}_[0-9a-f]{6}")
_APPROVAL = re.compile(r"approval_\d{8}_\d{6}_[0-9a-f]{6}")


def utc_now() -> datetime:
    """The wall clock, UTC: the default Clock."""
    return datetime.now(UTC)


def timestamp(moment: datetime) -> str:
    """ISO 8601 in UTC with seconds, as every document writes it: 2024-01-15T12:00:00Z."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


class TenantId(str):
    """A tenant's slug: 1 to 128 of A-Z a-z 0-9 . _ -, beginning with a letter or digit, without `..`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidId. The message shows at most 64 characters of what was given, escaped."""
        if not isinstance(text, str) or not _TENANT.fullmatch(text) or ".." in text:
            raise InvalidId(
                "Not a tenant id",
                on=ascii(text)[:64],
                why="a tenant id has 1 to 128 of the characters A-Z a-z 0-9 . _ -, begins with a letter or digit and has no '..'",
                remedy="use the slug shown by `sbh tenants list`",
            )
        return cls(text)


class BackupId(str):
    """`backup_YYYYMMDD_HHMM` in UTC, with `_NN` appended where a tenant has several in one minute."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidId."""
        if not isinstance(text, str) or not _BACKUP.fullmatch(text):
            raise InvalidId(
                "Not a backup id",
                on=ascii(text)[:64],
                why="a backup id looks like backup_20240115_1200",
                remedy="use an id shown by `sbh backup list`",
            )
        return cls(text)

    @classmethod
    def at(cls, moment: datetime, nth: int = 1) -> Self:
        """The id of the nth backup (1-based) begun in the minute of `moment`."""
        base = moment.astimezone(UTC).strftime("backup_%Y%m%d_%H%M")
        return cls(base if nth == 1 else f"{base}_{nth:02d}")


class RestoreId(str):
    """`restore_YYYYMMDD_HHMMSS_xxxxxx` in UTC."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidId."""
        if not isinstance(text, str) or not _RESTORE.fullmatch(text):
            raise InvalidId("Not a restore id", on=ascii(text)[:64], remedy="use the id that `sbh restore run` printed")
        return cls(text)

    @classmethod
    def at(cls, moment: datetime, token: str) -> Self:
        return cls(f"{moment.astimezone(UTC).strftime('restore_%Y%m%d_%H%M%S')}_{token}")


class DrillId(str):
    """`drill_YYYYMMDD_HHMMSS_xxxxxx` in UTC: drills sort by when they began."""

    __slots__ = ()

    @classmethod
    def at(cls, moment: datetime, token: str) -> Self:
        return cls(f"{moment.astimezone(UTC).strftime('drill_%Y%m%d_%H%M%S')}_{token}")

    @staticmethod
    def valid(text: str) -> bool:
        return _DRILL.fullmatch(text) is not None


class ApprovalId(str):
    """`approval_YYYYMMDD_HHMMSS_xxxxxx` in UTC: approvals sort by when they were asked for."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidId."""
        if not isinstance(text, str) or not cls.valid(text):
            raise InvalidId("Not an approval id", on=ascii(text)[:64], remedy="use an id shown by `sbh approvals list`")
        return cls(text)

    @classmethod
    def at(cls, moment: datetime, token: str) -> Self:
        return cls(f"{moment.astimezone(UTC).strftime('approval_%Y%m%d_%H%M%S')}_{token}")

    @staticmethod
    def valid(text: str) -> bool:
        return _APPROVAL.fullmatch(text) is not None


_Choice = TypeVar("_Choice", bound=StrEnum)


def _one_of(kind: type[_Choice], text: str, what: str) -> _Choice:
    """Raises RequestError."""
    try:
        return kind(text)
    except ValueError:
        raise RequestError(what, on=ascii(text)[:64], remedy="use one of: " + ", ".join(kind)) from None


class BackupType(StrEnum):
    FULL = "full"
    INCREMENTAL = "incremental"
    DIFFERENTIAL = "differential"

    @classmethod
    def parse(cls, text: str) -> "BackupType":
        """Raises RequestError."""
        return _one_of(cls, text, "Not a backup type")


class MergeMode(StrEnum):
    """How rows and files of the backup meet the live ones.

    exact         the chosen part becomes what it was
    missing-only  what is gone comes back; nothing that is there is changed or removed
    newest-wins   as missing-only, and a row that differs is put back where the backup's is the later one
    """

    EXACT = "exact"
    MISSING_ONLY = "missing-only"
    NEWEST_WINS = "newest-wins"

    @classmethod
    def parse(cls, text: str) -> "MergeMode":
        """Raises RequestError."""
        return _one_of(cls, text, "Not a merge mode")


@dataclass(frozen=True, slots=True)
class Tenant:
    """One customer, as the application's tenants table has it. `key` is the text form of what tenant columns hold."""

    id: TenantId
    key: str
    region: str
    tier: str


@dataclass(frozen=True, slots=True)
class RecoveryPoint:
    """The instant a backup describes."""

    time: str  # ISO 8601, UTC: the server's clock when the snapshot was taken
    snapshot: str  # pg_current_snapshot(): xmin:xmax:xip
    lsn: str
    system_identifier: str
    timeline: int
    server_version: int  # as server_version_num, e.g. 180004
    database: str
    started: str = ""  # when the server was started, and when its statistics began: both anew after a crash

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        return cls(**document)


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a backup as its document and the manifest describe it.

    `size` is bytes of the component before compression; `checksum` is `sha256:` + hex over the canonical JSON of its
    document without the checksum. `facts` are the keys peculiar to the kind (tables, file_count, total_size, ...).
    """

    type: str
    key: str
    size: int
    checksum: str
    facts: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {"type": self.type, "key": self.key, "size": self.size, "checksum": self.checksum, **self.facts}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        rest = {k: v for k, v in document.items() if k not in ("type", "key", "size", "checksum")}
        return cls(document["type"], document["key"], document["size"], document["checksum"], rest)


class DraftStatus(StrEnum):
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    UNCHANGED = "unchanged"  # nothing to store: the tenant still is what `unchanged_since` says


@dataclass(frozen=True, slots=True)
class Draft:
    """A backup in the making: what one step hands to the next. Small; holds references and counters, never data.

    Each step returns a new Draft. A step that fails for one tenant returns that tenant's draft with status FAILED and
    the error's fields; the other tenants of the batch go on. Steps pass FAILED drafts through untouched.
    """

    tenant: Tenant
    backup_id: BackupId
    type: BackupType  # what is made; differs from `requested` where there was no parent
    created_by: str
    created_at: str
    lease_owner: str
    description: str | None = None
    requested: BackupType | None = None  # the type asked for
    reason: str | None = None  # why `type` is not `requested`
    parent: BackupId | None = None  # the backup it builds on; None for a full
    reread: Mapping[str, str] = field(default_factory=dict)  # table -> why all of it was read and not only what changed
    unchanged_since: BackupId | None = None  # with UNCHANGED: the backup that describes the tenant
    status: DraftStatus = DraftStatus.RUNNING
    error: Mapping[str, Any] | None = None  # SbhError.as_dict()
    step: str = "begin"  # the last step that touched it
    recovery_point: RecoveryPoint | None = None
    components: Mapping[str, Component] = field(default_factory=dict)
    counters: Mapping[str, float] = field(default_factory=dict)  # see Counters in docs/design.md
    objects: tuple[str, ...] = ()  # index objects this backup wrote, below the prefix
    manifest: Mapping[str, Any] | None = None
    retention: Mapping[str, Any] | None = None
    purpose: str = ""  # why it is made, where that is not to have a backup: SAFETY
    via: str = ""  # the face its creator came through, for the audit trail
    begun: str = ""  # `created_at` to the microsecond: what the duration is counted from

    def failed(self, step: str, error: SbhError) -> "Draft":
        return replace(self, status=DraftStatus.FAILED, step=step, error=error.as_dict())

    def with_counters(self, **more: float) -> "Draft":
        """Add to the counters (they are sums)."""
        return replace(self, counters={**self.counters, **{k: self.counters.get(k, 0) + v for k, v in more.items()}})

    def as_dict(self) -> dict[str, Any]:
        document = {f: getattr(self, f) for f in self.__slots__}
        document["tenant"] = asdict(self.tenant)
        document["recovery_point"] = asdict(self.recovery_point) if self.recovery_point else None
        document["components"] = {name: c.as_dict() for name, c in self.components.items()}
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Draft":
        values = dict(document)
        values["tenant"] = Tenant(**{**values["tenant"], "id": TenantId(values["tenant"]["id"])})
        values["backup_id"] = BackupId(values["backup_id"])
        values["type"] = BackupType(values["type"])
        values["requested"] = BackupType(values["requested"]) if values["requested"] else None
        for name in ("parent", "unchanged_since"):
            values[name] = BackupId(values[name]) if values[name] else None
        values["status"] = DraftStatus(values["status"])
        values["objects"] = tuple(values["objects"])
        if values["recovery_point"]:
            values["recovery_point"] = RecoveryPoint.from_dict(values["recovery_point"])
        values["components"] = {k: Component.from_dict(c) for k, c in values["components"].items()}
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Progress:
    """One notice of progress: `done` of `total` `unit`s of `step` for `subject` (a tenant, a table, or a batch)."""

    step: str
    subject: str
    done: int
    total: int
    unit: str


ProgressSink = Callable[[Progress], None]


def no_progress(_: Progress) -> None:
    """The default ProgressSink."""
