"""The drill of a file system loss: every file of the backup is written to this machine's disk, read back and compared.

Each goes to a temporary file without a name, which the system takes back even from a process that is killed; no path of
the tenant's is used on this machine. A file is given up as soon as it is proven, so the disk needs room for the files at
work and not for all. The tenant's own files are neither read nor written.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

from sbh_pipelines.backup.contents.file_list import read_files
from sbh_pipelines.backup.contents.manifest import Component
from sbh_pipelines.concurrency import streamed
from sbh_pipelines.errors import DrillFailed, RestoreRefused
from sbh_pipelines.files.file import FileEntry
from sbh_pipelines.model import Progress, ProgressSink
from sbh_pipelines.repository.repository import Repository

_SPARE = 256 << 20  # bytes of the disk that are left to others
_SMALL = 64 << 20  # so much is written without asking the disk
_READ = 1 << 20
_NOTICE = 100  # files


@dataclass(frozen=True, slots=True)
class FilesProven:
    """Files whose SHA-256 was the backup's when they were read back, and their bytes."""

    files: int = 0
    bytes: int = 0


def restore_files(
    repository: Repository, component: Component, connections: int, progress: ProgressSink
) -> FilesProven:
    """Restore and prove all files of a backup, `connections` at once.

    Raises CorruptObject where the repository is damaged, DrillFailed where a file is not what was backed up,
    RestoreRefused where the disk has no room for one.
    """
    total, total_bytes = component.file_count or 0, component.total_size or 0
    files = size = 0

    def fitting() -> Iterator[FileEntry]:
        for entry in read_files(repository, component):
            _room_for(entry, connections)
            yield entry

    for restored in streamed(
        lambda entry: _restore(repository, entry), fitting(), name="files", threads=connections, ahead=connections * 2
    ):
        size += restored
        files += 1
        if files % _NOTICE == 0 or files == total:
            progress(Progress("drill: files", str(repository.tenant), files, total, "files"))
    if (files, size) != (total, total_bytes):
        raise DrillFailed(
            "Not all files came back",
            on=component.key,
            why=f"{files:,} files of {size:,} bytes, where the backup has {total:,} of {total_bytes:,}",
            remedy="run `sbh backup validate --deep`",
        )
    return FilesProven(files, size)


def _restore(repository: Repository, entry: FileEntry) -> int:
    """Write one file, read it back, compare; its bytes."""
    with tempfile.TemporaryFile(prefix="sbh-drill-") as file:
        for piece in _slices(repository, entry):
            file.write(piece)
        size = file.tell()
        file.seek(0)
        digest = hashlib.sha256()
        while piece := file.read(_READ):
            digest.update(piece)
    if size != entry.size or digest.hexdigest() != entry.sha256:
        raise DrillFailed(
            "A restored file is not what was backed up",
            on=entry.path,
            why="its SHA-256 is another",
            remedy="run `sbh backup validate --deep`, and take another backup of the tenant",
        )
    return size


def _slices(repository: Repository, entry: FileEntry) -> Iterator[bytes]:
    for chunk in entry.chunks:
        yield repository.read_chunk(bytes.fromhex(chunk))


def _room_for(entry: FileEntry, connections: int) -> None:
    """Refuse a file that the disk cannot take; small ones are let through without looking."""
    if entry.size * connections <= _SMALL:
        return
    place = tempfile.gettempdir()
    free = shutil.disk_usage(place).free
    if entry.size + _SPARE > free:
        raise RestoreRefused(
            "The disk has no room for a file of the drill",
            on=place,
            why=f"the file has {entry.size:,} bytes, and {free:,} are free",
            remedy="let TMPDIR name a folder on a larger disk",
        )
