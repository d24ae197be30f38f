"""Frozen values and ids. No I/O, no clock: the time is passed in.

Ids are types: parsed once at the edge (`TenantId.parse`), never checked again inside. They are subclasses of `str` so
that they go into keys, JSON and Dagster partitions as they are.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self, TypeVar

from sbh_pipelines.errors import InvalidId, RequestError

Clock = Callable[[], datetime]

SAFETY = "safety"  # the purpose of a backup made before a restore: it holds what somebody wanted to be rid of
RECOVERED = (
    "recovered"  # the purpose of one that was put together for a moment of the past: nobody ever saw it on the server
)
ASIDE = (SAFETY, RECOVERED)  # what `latest` passes over, and no rule of a policy counts

_SHOWN = 40  # characters of what was typed for a moment
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


def unparsed(given: object) -> str:
    """What an error says of a text that is not what it should be: it may be a secret that came to the wrong place.

    The digest tells one text of several from the others, and is too short to find out whether a guess is right.
    """
    text = given if isinstance(given, str) else repr(given)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:4]
    return f"a text of {len(text)} characters, digest {digest}"


def typed(text: str) -> str:
    """What an error says of a text that was to name a moment, which is no secret: as it was typed, if need be cut."""
    shown = "".join(one if one.isprintable() else "?" for one in text[:_SHOWN])
    return shown + ("…" if len(text) > _SHOWN else "")


def parse_moment(text: str) -> datetime:
    """In UTC, which it is also taken for where it does not say. Raises ValueError, also for one that UTC has no date for."""
    moment = datetime.fromisoformat(text)
    try:
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        raise ValueError("out of range") from None


class TenantId(str):
    """A tenant's slug: 1 to 128 of A-Z a-z 0-9 . _ -, beginning with a letter or digit, without `..`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidId, which does not repeat what was given."""
        if not isinstance(text, str) or not _TENANT.fullmatch(text) or ".." in text:
            raise InvalidId(
                "Not a tenant id",
                on=unparsed(text),
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
                on=unparsed(text),
                why="a backup id looks like backup_20240115_1200",
                remedy="use an id shown by `sbh backup list`",
            )
        return cls(text)

    @staticmethod
    def valid(text: str) -> bool:
        return bool(_BACKUP.fullmatch(text))

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
            raise InvalidId("Not a restore id", on=unparsed(text), remedy="use the id that `sbh restore run` printed")
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
            raise InvalidId("Not an approval id", on=unparsed(text), remedy="use an id shown by `sbh approvals list`")
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
        raise RequestError(what, on=unparsed(text), remedy="use one of: " + ", ".join(kind)) from None


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


class ReferencePolicy(StrEnum):
    """What becomes of rows outside a restore that refer to rows which it would remove.

    refuse    nothing is done; the plan names them
    declared  as their foreign keys say for a deletion: they go too, or their reference is set to NULL or its default
    keep      the rows that they refer to stay
    """

    REFUSE = "refuse"
    DECLARED = "declared"
    KEEP = "keep"

    @classmethod
    def parse(cls, text: str) -> "ReferencePolicy":
        """Raises RequestError."""
        return _one_of(cls, text, "Not a way to treat references")


@dataclass(frozen=True, slots=True)
class Tenant:
    """One customer, as the application's tenants table has it. `key` is the text form of what tenant columns hold."""

    id: TenantId
    key: str
    region: str
    tier: str


@dataclass(frozen=True, slots=True)
class HousedTenant(Tenant):
    """A tenant of whom it is known where its repository lies: `home` is the slug; `slug~2` and so on where earlier ones had it."""

    home: str


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
        return cls(**{name: document[name] for name in cls.__slots__ if name in document})


@dataclass(frozen=True, slots=True)
class Progress:
    """One notice of progress: `done` of `total` `unit`s of `step` for `subject` (a tenant, a table, or a batch).

    Attributes:
        moved: Bytes that were read or written for them so far, also of a unit under way; 0 where that is not told.
        share: How much of the step is done, 0 to 1, where that is told more finely than by units; 0 where it is not.
    """

    step: str
    subject: str
    done: int
    total: int
    unit: str
    moved: int = 0
    share: float = 0.0


ProgressSink = Callable[[Progress], None]


def no_progress(_: Progress) -> None:
    """The default ProgressSink."""


def size_text(number: float | None) -> str:
    """Bytes in the largest unit of which there is one: `0 B`, `812 B`, `3.1 KiB`, `2.25 MiB`, `1.2 GiB`."""
    if number is None:
        return ""
    value, unit = float(number), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024:
            break
        value, unit = value / 1024, larger
    if unit == "B":
        return f"{value:,.0f} B"
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
