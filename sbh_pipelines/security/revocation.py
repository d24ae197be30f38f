"""Tokens that are believed no longer, by their `jti`: a file with one id a line, which need hold only unexpired ones."""

import threading
from pathlib import Path

from sbh_pipelines.errors import SettingsError

_LARGEST_FILE = 1 << 20


class RevokedTokens:
    """Read anew whenever the file changes; one `stat` a token. Thread-safe."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._seen: tuple[int, int, int] | None = None
        self._ids: frozenset[str] = frozenset()
        self._lock = threading.Lock()

    def has(self, token_id: object) -> bool:
        """A token without an id cannot be revoked. Raises SettingsError where the file cannot be read: nothing is
        believed then.
        """
        if self._file is None:
            return False
        with self._lock:
            try:
                now = self._file.stat()
                stamp = (now.st_mtime_ns, now.st_size, now.st_ino)
                if stamp != self._seen:
                    if now.st_size > _LARGEST_FILE:
                        raise _unreadable(self._file, f"it is larger than {_LARGEST_FILE} bytes")
                    lines = self._file.read_text("utf-8").split("\n")
                    self._ids, self._seen = frozenset(line.strip() for line in lines) - {""}, stamp
            except (OSError, UnicodeDecodeError) as error:
                raise _unreadable(self._file, type(error).__name__) from None
            return isinstance(token_id, str) and token_id in self._ids


def _unreadable(file: Path, why: str) -> SettingsError:
    return SettingsError(
        "The list of revoked tokens cannot be read",
        on=str(file),
        why=why,
        remedy="put it back, or correct auth.revoked_file; drop ids of tokens that have expired",
    )
