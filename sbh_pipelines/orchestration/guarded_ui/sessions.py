"""Who is logged in. A session is a random name in a cookie; what it stands for never leaves this process.

So logging out, or a restart, ends it at once, which a signed cookie that carries its own content could not offer.
"""

import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sbh_pipelines.security.policy import UserContext
from sbh_pipelines.security.tokens import VerifiedToken

_MOST = 10_000
_MOST_OF_ONE = 50


@dataclass(frozen=True, slots=True)
class Session:
    """`ends` is on the process's monotonic clock. `token`: what it was opened with, which may be revoked."""

    token: VerifiedToken
    ends: float

    @property
    def user(self) -> UserContext:
        return self.token.user


class Sessions:
    """In memory, bounded: the oldest ends where there are too many, of one user first. Thread-safe."""

    def __init__(self, life_s: float, clock: Callable[[], float] = time.monotonic, most: int = _MOST) -> None:
        self._life_s, self._clock, self._most = life_s, clock, most
        self._open: dict[bytes, Session] = {}
        self._lock = threading.Lock()

    def open(self, token: VerifiedToken, left_s: float) -> tuple[str, int]:
        """A new session's name, and how long it lives, s. `left_s`: what is left of the token, which it never outlives."""
        life = min(self._life_s, left_s)
        name, now = secrets.token_urlsafe(32), self._clock()
        with self._lock:
            self._open = {key: session for key, session in self._open.items() if session.ends > now}
            own = [key for key, session in self._open.items() if session.user.user_id == token.user.user_id]
            for key in own[: max(0, len(own) + 1 - _MOST_OF_ONE)]:
                del self._open[key]
            while len(self._open) >= self._most:
                del self._open[next(iter(self._open))]
            self._open[_key(name)] = Session(token, now + life)
        return name, int(life)

    def find(self, name: str | None) -> Session | None:
        if not name:
            return None
        with self._lock:
            session = self._open.get(_key(name))
        return session if session and session.ends > self._clock() else None

    def close(self, name: str | None) -> None:
        with self._lock:
            self._open.pop(_key(name or ""), None)


def _key(name: str) -> bytes:
    """Looked up by a digest, so that how long a look-up takes tells nothing about names that exist."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
