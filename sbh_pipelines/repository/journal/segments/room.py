"""Room for the journal's temporary files: where there is none, that passes, and is told with the folder and how much it takes.

What a moment takes lies in folders of its own, named `sbh-moment-*` below the folder for temporary files, which only this user
may enter. The process that made one holds a lock in it; where that is free, the process was killed, and who comes next removes
the folder. A lock tells that across containers, too, where the number of a process does not.
"""

import fcntl
import os
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sbh_pipelines.errors import NoRoom


@contextmanager
def room(needed: int, folder: Path | str | None = None) -> Iterator[None]:
    """Around what writes `needed` bytes altogether, as far as that is known by now. Raises NoRoom where it does not go."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise NoRoom(
            "A temporary file of the journal cannot be written",
            on=str(folder or _folder()),
            why=f"{why}; it needs more than {needed:,} bytes",
            remedy="free space there, or set TMPDIR to a folder on a larger disk, and try again: nothing is lost by it",
        ) from None


_PREFIX, _HELD = "sbh-moment-", "held"
_SETTLED_S = 60.0  # after that whoever made a folder has its lock
_LEAST_FREE = 100 << 20


@contextmanager
def moment_folder() -> Iterator[Path]:
    """A private folder for what a moment takes, gone after the block; those that killed processes left are removed first.

    Raises NoRoom where nearly nothing is free.
    """
    with room(_LEAST_FREE):
        parent = Path(tempfile.gettempdir())
        _sweep(parent)
        if (free := shutil.disk_usage(parent).free) < _LEAST_FREE:
            raise OSError(0, f"{free:,} bytes are free")
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    try:
        with (folder / _HELD).open("wb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Nobody else's folder is touched, nor one that a link leads to."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # it went meanwhile, or is held
            found = folder.lstat()
            own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
            if own and time.time() - found.st_mtime > _SETTLED_S:
                _remove(folder)


def _remove(folder: Path) -> None:
    """Raises OSError while its lock is held."""
    with (folder / _HELD).open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)


def _folder() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:  # none can be written to
        return "TMPDIR"
