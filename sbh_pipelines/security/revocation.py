"""The list of tokens that are believed no longer, `auth.revoked_file`: one rule a line.

    0f3c…                                   the token of this id (`jti`)
    user:NAME before 2026-01-15T12:00:00Z   those that NAME was given before; without a time: all
    issuer:NAME before 2026-01-15T12:00:00Z those that NAME issued, or whoever NAME issued one to
    # …                                     nothing

A line of the second or third kind that makes no sense is an error, and then nothing is believed.
"""

import os
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sbh_pipelines.errors import RequestError, SettingsError
from sbh_pipelines.model import parse_timestamp, timestamp
from sbh_pipelines.security.people import BY_SYSTEM, plain
from sbh_pipelines.security.policy import UserContext

_USER, _ISSUER, _BEFORE = "user:", "issuer:", " before "
_LARGEST_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class Revocation:
    """A rule of the list. One of the first three is there.

    Attributes:
        token_id: The token of this id.
        user: Those of this user.
        issuer: Those that this user issued, themselves or through others.
        before: Those issued before this time only; None: all. Not with an id.
    """

    token_id: str = ""
    user: str = ""
    issuer: str = ""
    before: datetime | None = None

    @classmethod
    def parse(cls, line: str) -> "Revocation":
        """Raises ValueError."""
        kind = next((kind for kind in (_USER, _ISSUER) if line.startswith(kind)), "")
        if not kind:
            return cls(token_id=line)
        name, said, time = line.removeprefix(kind).rpartition(_BEFORE)
        name, moment = (name, parse_timestamp(time)) if said else (time, None)
        if not name.strip():
            raise ValueError("it names nobody")
        if moment is not None and moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return cls(
            user=name.strip() if kind == _USER else "", issuer=name.strip() if kind == _ISSUER else "", before=moment
        )

    def line(self) -> str:
        time = f"{_BEFORE}{timestamp(self.before)}" if self.before else ""
        return self.token_id or (f"{_USER}{self.user}{time}" if self.user else f"{_ISSUER}{self.issuer}{time}")

    def covers(self, user: UserContext, issued: float) -> bool:
        """Whether it means this user's token of that time, by the people it names."""
        if self.before is not None and issued >= self.before.timestamp():
            return False
        if self.user:
            return plain(self.user) == plain(user.user_id)
        issuers = {plain(name.removeprefix(BY_SYSTEM)) for name in user.issued_by}
        return bool(self.issuer) and plain(self.issuer) in issuers


class RevokedTokens:
    """Read anew whenever the file changes; one `stat` a token. Thread-safe."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._seen: tuple[int, int, int] | None = None
        self._ids: frozenset[str] = frozenset()
        self._rules: tuple[Revocation, ...] = ()
        self._lock = threading.Lock()

    def has(self, token_id: object, user: UserContext, issued: float) -> bool:
        """A token without an id is revoked by its user only. Raises SettingsError where the file cannot be read: nothing is
        believed then.
        """
        if self._file is None:
            return False
        with self._lock:
            try:
                now = self._file.stat()
                stamp = (now.st_mtime_ns, now.st_size, now.st_ino)
                if stamp != self._seen:
                    self._read(self._file, now.st_size)
                    self._seen = stamp
            except (OSError, UnicodeDecodeError) as error:
                raise _unreadable(self._file, type(error).__name__) from None
            if isinstance(token_id, str) and token_id in self._ids:
                return True
            return any(rule.covers(user, issued) for rule in self._rules)

    def _read(self, file: Path, size: int) -> None:
        if size > _LARGEST_FILE:
            raise _unreadable(file, f"it is larger than {_LARGEST_FILE} bytes")
        rules = []
        for number, line in enumerate(file.read_text("utf-8").split("\n"), 1):
            if line.strip() and not line.startswith("#"):
                try:
                    rules.append(Revocation.parse(line.strip()))
                except ValueError:
                    raise _unreadable(file, f"line {number} is neither an id nor `user:NAME before TIME`") from None
        self._ids = frozenset(rule.token_id for rule in rules if rule.token_id)
        self._rules = tuple(rule for rule in rules if not rule.token_id)


def add_revocation(file: Path, rule: Revocation) -> None:
    """Append it, in one write. Raises RequestError where the list is full or the rule would be another, SettingsError."""
    line = rule.line()
    if "\n" in line or not line.isprintable() or Revocation.parse(line) != rule:
        raise RequestError(
            "This cannot be revoked", why="the name or id has characters that a line of the list cannot have"
        )
    try:
        with open(os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640), "r+b", buffering=0) as out:
            size = os.fstat(out.fileno()).st_size
            ended = size == 0 or os.pread(out.fileno(), 1, size - 1) == b"\n"
            written = ("" if ended else "\n") + line + "\n"
            if size + len(written.encode()) > _LARGEST_FILE:
                raise RequestError(
                    "The list of revoked tokens is full",
                    on=str(file),
                    remedy="drop the ids of tokens that have expired from it",
                )
            out.write(written.encode())
            os.fsync(out.fileno())
    except OSError as error:
        raise SettingsError(
            "The list of revoked tokens cannot be written",
            on=str(file),
            why=error.strerror or type(error).__name__,
            remedy=f"let this account write to it, or add the line yourself: {line}",
        ) from None


def _unreadable(file: Path, why: str) -> SettingsError:
    return SettingsError(
        "The list of revoked tokens cannot be read",
        on=str(file),
        why=why,
        remedy="put it back, or correct auth.revoked_file; drop ids of tokens that have expired",
    )
