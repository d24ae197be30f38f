"""Files that commands write: never over something else, never through a link, never half."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sbh_pipelines.errors import RequestError


def write_made(file: Path, text: str, made_by: str, mode: int = 0o644) -> None:
    """Write a file that commands make: a new one, or in place of an earlier one, in one step.

    An earlier one is a plain file of one name that has `made_by` in its first KiB; all else is left as it is. Raises RequestError.
    """
    with _written(file, "name a file in a directory that is there"):
        before = os.stat(file, follow_symlinks=False) if os.path.lexists(file) else None
        if before is not None:
            _must_be_made(file, before, made_by)
        with _beside(file, text) as new:
            os.fchmod(new.fileno(), mode)
            if before is None:
                os.link(new.name, file)  # not rename: what came to be there meanwhile stays
                os.unlink(new.name)
            else:
                os.replace(new.name, file)


def rewrite(file: Path, text: str) -> None:
    """Write a file that is there anew, in one step; its mode and its owner stay. Raises RequestError."""
    with _written(file, "run it as the user whose file it is, with room on the disk"):
        file = file.resolve()  # a link to it stays
        before = file.stat()
        with _beside(file, text) as new:
            os.fchown(new.fileno(), before.st_uid, before.st_gid)
            os.fchmod(new.fileno(), stat.S_IMODE(before.st_mode))
            os.fsync(new.fileno())
            os.replace(new.name, file)


@contextmanager
def _written(file: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RequestError(
            "Cannot write the file", on=str(file), why=error.strerror or type(error).__name__, remedy=remedy
        ) from None


@contextmanager
def _beside(file: Path, text: str) -> Iterator[Any]:
    """A file with the text in the same directory, for the block to put in its place; gone where that fails."""
    with tempfile.NamedTemporaryFile(
        "w", dir=file.parent, prefix=f".{file.name}.", encoding="utf-8", delete=False
    ) as new:
        try:
            new.write(text)
            new.flush()
            yield new
        except BaseException:
            os.unlink(new.name)
            raise


def _must_be_made(file: Path, before: os.stat_result, made_by: str) -> None:
    begins = b""
    if stat.S_ISREG(before.st_mode) and before.st_nlink == 1:
        with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as found:
            begins = found.read(1024)
    if made_by.encode() not in begins:
        raise RequestError(
            "The file is something else",
            on=str(file),
            why="only a file that this command made is written anew; not a link, nor one of several names",
            remedy="choose another name, or remove it first",
        )
