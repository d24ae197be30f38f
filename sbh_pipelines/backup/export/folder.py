"""The folder of an export: complete under its name, or not there.

Everything is written below a temporary name next to the folder, `.{name}.{random}.incomplete`, for its owner only, and renamed
when it is complete. What an export that was killed left behind is removed by the next one to the same folder: whoever
writes holds a lock on its directory, which ends with the process. Names come from databases and object keys, so every one
is taken apart: what cannot be a file name as it is goes under a made-up one.
"""

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import RawIOBase
from pathlib import Path
from typing import Any

from sbh_pipelines.errors import ExportFailed, RequestError

_NAME_BYTES, _PATH_BYTES = 255, 3000
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,10}")


class WrittenFile(RawIOBase):
    """A new file below the folder, for its owner only; counts and hashes what is written. Raises ExportFailed.

    Buffered by nobody: whoever writes does so in large pieces.
    """

    def __init__(self, place: Path) -> None:
        super().__init__()
        self._place = place
        self._digest = hashlib.sha256()
        self.size = 0
        self._fd = -1
        self._fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size

    def write(self, body: Any) -> int:
        if self.closed:  # by now the descriptor's number may be another file's, or a connection's
            raise ValueError("write to a closed file")
        with memoryview(body) as whole, whole.cast("B") as view, _failing(self._place):
            at = 0
            while at < len(view):
                at += os.write(self._fd, view[at:])
            self._digest.update(view)
        self.size += at
        return at

    def close(self) -> None:
        if not self.closed:
            super().close()
            fd, self._fd = self._fd, -1
            if fd >= 0:
                with _failing(self._place):
                    os.close(fd)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


class ExportFolder:
    """Where an export is written: `root` is the temporary folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create(self, name: str) -> WrittenFile:
        """A file directly below the root, under a name of ours. Raises ExportFailed."""
        with _failing(self.root / name):
            return WrittenFile(self.root / name)

    def replace(self, name: str) -> WrittenFile:
        """The same, where a file that did not come to its end may be in the way."""
        with _failing(self.root / name):
            (self.root / name).unlink(missing_ok=True)
        return self.create(name)

    def create_tenant_file(self, path: str, number: int) -> tuple[WrittenFile, str]:
        """A file for an object of the tenant, and its name in the folder: `files/{path}` where that can be had, else
        `files-renamed/{number}`, with the ending of the path where it is an ordinary one. Raises ExportFailed.
        """
        if usable_path(path):
            place = self.root / "files" / path
            try:
                self._make(place.parent)
                return WrittenFile(place), f"files/{path}"
            except OSError as error:
                # Another object is where this one's folder would be, or this file system takes two names for one.
                if error.errno not in (
                    errno.EEXIST,
                    errno.ENOTDIR,
                    errno.EISDIR,
                    errno.ENAMETOOLONG,
                    errno.EINVAL,
                    errno.EILSEQ,
                ):
                    raise _failure(place, error) from None
        suffix = _SUFFIX.fullmatch(os.path.splitext(path.rpartition("/")[2])[1])
        name = f"files-renamed/{number:08d}{suffix[0] if suffix else ''}"
        with _failing(self.root / name):
            self._make(self.root / "files-renamed")
            return WrittenFile(self.root / name), name

    def _make(self, folder: Path) -> None:
        """The folder and those above it, each for its owner only."""
        try:
            folder.mkdir(mode=0o700)
        except FileNotFoundError:
            self._make(folder.parent)
            folder.mkdir(mode=0o700)
        except FileExistsError:
            if not folder.is_dir():
                raise


def usable_path(path: str) -> bool:
    """Whether an object's key can be the path of a file below a folder, and lead nowhere else."""
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return False
    parts = path.split("/")
    return (
        len(encoded) <= _PATH_BYTES
        and all(part not in ("", ".", "..") and len(part.encode()) <= _NAME_BYTES for part in parts)
        and not any(unicodedata.category(character) == "Cc" for character in path)
    )


def table_file(schema: str, name: str, ending: str) -> str:
    """`schema.name.ending`; where a name has other characters than letters, digits, `_` and `-`, or is long, those are
    replaced and a digest keeps it apart from others.
    """
    plain = schema and name and all(c.isalnum() or c in "_-" for c in schema + name)
    if plain and len(f"{schema}.{name}".encode()) <= 200:
        return f"{schema}.{name}.{ending}"
    digest = hashlib.sha256(f"{len(schema)} {schema} {name}".encode("utf-8", "surrogatepass")).hexdigest()[:12]
    safe = "".join(c if c.isalnum() or c in "_-" else "_" for c in f"{schema}.{name}")[:40]
    return f"{safe}-{digest}.{ending}"


@contextmanager
def new_folder(folder: Path) -> Iterator[ExportFolder]:
    """A folder to write an export to; `folder` has it when the block ends well, and nothing is left when it does not.

    Raises RequestError where `folder` is there and not empty, ExportFailed where it cannot be written.
    """
    folder = Path(os.path.realpath(folder))
    _check_free(folder)
    with _failing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        root = folder.with_name(f".{folder.name[:200]}.{secrets.token_hex(4)}.incomplete")
        root.mkdir(mode=0o700)
        lock = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield ExportFolder(root)
        with _failing(folder):
            try:
                os.rename(root, folder)  # takes the place of an empty folder, and of nothing else
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    _check_free(folder)
                raise
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _check_free(folder: Path) -> None:
    try:
        taken = any(os.scandir(folder))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        taken = os.path.lexists(folder)  # else something above it is a file, which shows when it is made
    except OSError as error:
        raise _failure(folder, error) from None
    if taken:
        raise RequestError(
            "The folder of the export is not empty",
            on=str(folder),
            why="an export must not be mixed with other files, nor overwrite any",
            remedy="name a folder that does not exist, or empty this one",
        )


def _remove_abandoned(folder: Path) -> None:
    """What exports to this folder that were killed left: rows and files of a tenant must not lie about."""
    # nosemgrep: expression-of-others - escaped
    ours = re.compile(re.escape(f".{folder.name[:200]}.") + r"[0-9a-f]{8}\.incomplete")
    for left in folder.parent.iterdir():
        if not ours.fullmatch(left.name):
            continue
        with suppress(OSError):  # somebody else's, or being written
            lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left)
            finally:
                os.close(lock)


@contextmanager
def _failing(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _failure(place, error) from None


def _failure(place: Path, error: OSError) -> ExportFailed:
    remedies = {
        errno.ENOSPC: "free space, or name a folder on another disk",
        errno.EDQUOT: "free space, or name a folder on another disk",
        errno.EXDEV: "name a folder below this one: it is where another disk begins",
        errno.EBUSY: "name a folder below this one: it is where another disk begins",
    }
    return ExportFailed(
        "The export cannot be written",
        on=ascii(str(place))[1:-1][:300],
        why=error.strerror or str(error),
        remedy=remedies.get(error.errno or 0, "check the folder's permissions, or name another one"),
    )
