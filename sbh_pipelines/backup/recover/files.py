"""A tenant's files in a recovery: what is missing in the bucket, or is not what the backup has, is put back; nothing is deleted."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from sbh_pipelines.backup.contents.file_list import read_files
from sbh_pipelines.backup.contents.manifest import Component
from sbh_pipelines.backup.contents.manifests import read_component, read_manifest
from sbh_pipelines.backup.create.files.files_step import live_files
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import streamed
from sbh_pipelines.errors import CorruptObject, ProofFailed
from sbh_pipelines.files.file import FileEntry
from sbh_pipelines.model import BackupId, Tenant
from sbh_pipelines.repository.format import FILES
from sbh_pipelines.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class FilesPutBack:
    """What was done about a tenant's files.

    Attributes:
        restored: Files that were missing or another, and were written.
        unchanged: Files whose path, size and ETag are the backup's.
        bytes: Bytes written.
    """

    restored: int
    unchanged: int
    bytes: int


def put_files_back(site: Site, tenant: Tenant, backup_id: str) -> FilesPutBack:
    """Write what is missing in the bucket, or is not what the backup has.

    Raises CorruptObject, ProofFailed and the store's errors; what was written by then stays.
    """
    if not site.settings.files.enabled:
        return FilesPutBack(0, 0, 0)
    with site.repository(tenant) as repository:
        repository.load_index()
        manifest = read_manifest(repository, BackupId(backup_id))
        return _Files(site, tenant, repository).put_back(read_component(repository, manifest, FILES))


class _Files:
    def __init__(self, site: Site, tenant: Tenant, repository: Repository) -> None:
        self._site, self._tenant, self._repository = site, tenant, repository
        self._store, self._prefix = site.files_store(tenant)
        self._unchanged = 0

    def put_back(self, component: Component) -> FilesPutBack:
        connections = self._site.settings.files.connections
        restored = size = 0
        wanting = self._wanting(component)
        for written in streamed(self._write, wanting, name="files", threads=connections, ahead=connections * 2):
            restored += 1
            size += written
        return FilesPutBack(restored, self._unchanged, size)

    def _wanting(self, component: Component) -> Iterator[FileEntry]:
        """Entries whose file is missing or another; both lists are in key order."""
        live = live_files(self._site, self._tenant)
        at = next(live, None)
        for entry in read_files(self._repository, component):
            key = _order(self._prefix + entry.path)
            while at is not None and _order(at.key) < key:
                at = next(live, None)
            if at is not None and _order(at.key) == key and (at.size, at.etag) == (entry.size, entry.etag):
                self._unchanged += 1
            else:
                yield entry

    def _write(self, entry: FileEntry) -> int:
        key, digest = self._prefix + entry.path, hashlib.sha256()
        for piece in self._slices(entry):  # all of it is authenticated before the first byte is written
            digest.update(piece)
        if digest.hexdigest() != entry.sha256:
            raise CorruptObject("A file's content is not what was backed up", on=entry.path)
        kept = entry.to_keep(storage_class=self._site.settings.files.keep_storage_class)
        self._store.put_stream(key, self._slices(entry), kept, size=entry.size)
        written = hashlib.sha256()
        _, pieces = self._store.stream(key)
        for view in pieces:
            written.update(view)
        if written.hexdigest() != entry.sha256:
            raise ProofFailed(
                "A file read back is not the backup's", on=self._store.url(key), remedy="check the store; try again"
            )
        return entry.size

    def _slices(self, entry: FileEntry) -> Iterator[bytes]:
        return (self._repository.read_chunk(bytes.fromhex(chunk)) for chunk in entry.chunks)


def _order(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")
