"""Which moment somebody asks for, and how it is written."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from sbh_pipelines.errors import InvalidId
from sbh_pipelines.model import parse_moment, typed
from sbh_pipelines.repository.journal.segments.changes import lsn_text, parse_lsn

AT = "@"
_XID, _LSN = "xid:", "lsn:"
_LARGEST = (1 << 63) - 1
_POSITION = re.compile(r"[0-9A-Fa-f]{1,8}[/-][0-9A-Fa-f]{1,8}")


@dataclass(frozen=True, slots=True)
class Target:
    """A moment, asked for in one of three ways; the other two are None.

    Attributes:
        time: All that was committed by then, by the server's clock.
        before: The transaction that is left out, with all that was committed after it. Its 64-bit id, or the lower 32 bits of it,
            as the server's log and the tables' `xmin` show them.
        lsn: A position of the server's log: all that was committed up to there.
    """

    time: datetime | None = None
    before: int | None = None
    lsn: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of `2026-01-15T14:32` (UTC, unless it says otherwise), `xid:812345`, `lsn:16/B374D848`. Raises InvalidId."""
        text = text.removeprefix(AT)
        if text.startswith(_XID):
            return cls.before_transaction(text.removeprefix(_XID))
        if text.startswith(_LSN):
            return cls.at_position(text.removeprefix(_LSN))
        try:
            return cls(time=parse_moment(text))
        except ValueError:
            raise InvalidId(
                "Not a moment",
                on=typed(text),
                remedy="write it as 2024-01-15T14:32:07, or 2024-01-15T14:32:07+01:00; a transaction as xid:812345, a position of"
                " the log as lsn:16/B374D848",
            ) from None

    @classmethod
    def before_transaction(cls, text: str) -> Self:
        """Raises InvalidId."""
        if not (text.isascii() and text.isdigit() and 3 <= int(text) <= _LARGEST):
            raise InvalidId(
                "Not a transaction's id", on=typed(text), remedy="use one that `sbh journal show` lists, e.g. 812345"
            )
        return cls(before=int(text))

    @classmethod
    def at_position(cls, text: str) -> Self:
        """Of `16/B374D848`; in the path of a URL, which takes no slash, `16-B374D848`. Raises InvalidId."""
        try:
            position = parse_lsn(text.replace("-", "/")) if _POSITION.fullmatch(text) else -1
        except ValueError:
            position = -1
        if not 0 < position <= _LARGEST:
            raise InvalidId(
                "Not a position of the log",
                on=typed(text),
                remedy="use one that `sbh journal show` lists: 16/B374D848",
            )
        return cls(lsn=position)

    @property
    def text(self) -> str:
        """As `parse` reads it."""
        if self.time is not None:
            return self.time.isoformat().replace("+00:00", "Z")
        return f"{_XID}{self.before}" if self.before is not None else f"{_LSN}{lsn_text(self.lsn or 0)}"

    @property
    def words(self) -> str:
        """For people."""
        if self.time is not None:
            return self.text
        if self.before is not None:
            return f"just before transaction {self.before}"
        return f"position {lsn_text(self.lsn or 0)} of the log"

    @property
    def option(self) -> str:
        """As `sbh backup create` takes it."""
        if self.time is not None:
            return f"--at {self.text}"
        return f"--before {self.before}" if self.before is not None else f"--lsn {lsn_text(self.lsn or 0)}"

    @property
    def microseconds(self) -> int | None:
        """The time since 1970 UTC, as transactions have it."""
        if self.time is None:
            return None
        since = self.time - datetime(1970, 1, 1, tzinfo=UTC)
        return (since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds
