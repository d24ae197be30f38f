"""Names of segments and incarnations. A segment's name tells its range, so that one listing is enough to plan a reading."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

GAPS, KEYS, SLOTS = "gaps/", "keys/", "slots/"  # folders beside the incarnations
_INCARNATION = re.compile(
    r"(?P<created>\d{8}T\d{6}Z)-(?P<system>[0-9a-f]{1,16})-(?P<timeline>[0-9a-f]{1,8})-[0-9a-f]{8}"
)
_TIME = "%Y%m%dT%H%M%SZ"
_SEGMENT = re.compile(r"([^/]+)/(\d{1,2})/([0-9A-F]{16})-([0-9A-F]{16})-([0-9a-f]{16})")


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One unbroken life of slot and server.

    Attributes:
        text: Its name. Later ones sort behind earlier ones.
        created: When it began, `YYYYMMDDTHHMMSSZ`.
        system_id: System identifier of the server's cluster.
        timeline: Timeline of its log.
    """

    text: str
    created: str
    system_id: int
    timeline: int

    @classmethod
    def new(cls, now: datetime, system_id: int, timeline: int, *, after: Iterable[str] = ()) -> Self:
        """One that sorts behind all of `after`, also where a clock went back."""
        created = max([now.astimezone(UTC).strftime(_TIME), *(name[:16] for name in after)])
        while True:
            text = f"{created}-{system_id & 0xFFFFFFFFFFFFFFFF:016x}-{timeline:x}-{os.urandom(4).hex()}"
            if all(text > name for name in after):
                return cls(text, created, system_id, timeline)
            created = _second_after(created)

    @classmethod
    def parse(cls, text: str) -> "Incarnation | None":
        """None for what is no such name, and where its time is none."""
        parts = _INCARNATION.fullmatch(text)
        if parts is None or not _is_time(parts["created"]):
            return None
        return cls(text, parts["created"], int(parts["system"], 16), int(parts["timeline"], 16))


@dataclass(frozen=True, slots=True, order=True)
class SegmentName:
    """A segment's name, and how large it is.

    Attributes:
        incarnation: Name of its incarnation.
        start: Where its range starts: of commits, this one is not in it.
        end: Where its range ends: this commit is in it.
        level: 0 for what a drain wrote, more for what was merged.
        digest: The first 16 hex digits of the SHA-256 of its directory, which names the digest of every block.
        region: Whose tenants it is of.
        size: Bytes of the object, as the listing told; 0 where it was not listed.
        stored: When it was, by the store's clock, as the listing told.
    """

    incarnation: str
    start: int
    end: int
    level: int
    digest: str
    region: str
    size: int = field(default=0, compare=False)
    stored: datetime | None = field(default=None, compare=False)

    @classmethod
    def parse(cls, region: str, below: str, size: int = 0, stored: datetime | None = None) -> "SegmentName | None":
        """`below`: the key below the region's prefix. None for what is no segment's name."""
        parts = _SEGMENT.fullmatch(below)
        if parts is None or Incarnation.parse(parts[1]) is None:
            return None
        start, end = int(parts[3], 16), int(parts[4], 16)
        name = cls(parts[1], start, end, int(parts[2]), parts[5], region, size, stored)
        return name if start < end and name.below == below else None

    @property
    def below(self) -> str:
        """Its key below the region's prefix."""
        return f"{self.incarnation}/{self.level}/{self.start:016X}-{self.end:016X}-{self.digest}"

    @property
    def bound(self) -> bytes:
        """What its directory's seal is bound to."""
        return f"{self.region}/{self.below}".encode()


def _is_time(created: str) -> bool:
    try:
        datetime.strptime(created, _TIME)
    except ValueError:
        return False
    return True


def _second_after(created: str) -> str:
    moment = datetime.strptime(created, _TIME).replace(tzinfo=UTC)
    return datetime.fromtimestamp(moment.timestamp() + 1, UTC).strftime(_TIME)
