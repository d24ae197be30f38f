"""Files of a site held against a backup by their content: those that were restored have other times and ETags than the backup's."""

import hashlib
from collections.abc import Iterator
from itertools import zip_longest

from sbh_pipelines.backup.contents.file_list import read_files
from sbh_pipelines.backup.contents.manifests import read_component, read_manifest
from sbh_pipelines.backup.create.files.files_step import live_files
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import streamed
from sbh_pipelines.files.file import FileEntry
from sbh_pipelines.model import BackupId, Tenant
from sbh_pipelines.repository.format import FILES
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.stores.base import ObjectInfo

_AT_ONCE = 4  # files that are read
_Pair = tuple[FileEntry | None, ObjectInfo | None]


def same_files(site: Site, tenant: Tenant, repository: Repository, backup_id: BackupId) -> tuple[int, bool]:
    """(how many files of the site are the backup's, whether all are): each is read, and no other may be there."""
    entries = _entries(repository, backup_id)
    if not site.settings.files.enabled:
        return 0, next(entries, None) is None
    files = 0
    for is_same in _compared(site, tenant, zip_longest(entries, live_files(site, tenant))):
        if not is_same:
            return files, False
        files += 1
    return files, True


def other_files(site: Site, tenant: Tenant, repository: Repository, backup_id: BackupId) -> int:
    """How many files of the site are not the backup's; those that are missing do not count."""
    if not site.settings.files.enabled:
        return 0
    pairs = _at_site(_entries(repository, backup_id), live_files(site, tenant), site.files_store(tenant)[1])
    return sum(not is_same for is_same in _compared(site, tenant, pairs))


def _entries(repository: Repository, backup_id: BackupId) -> Iterator[FileEntry]:
    repository.load_index()
    return read_files(repository, read_component(repository, read_manifest(repository, backup_id), FILES))


def _at_site(entries: Iterator[FileEntry], live: Iterator[ObjectInfo], prefix: str) -> Iterator[_Pair]:
    """Each file of the site, and what the backup has of it; both come in the order of their names."""
    entry = next(entries, None)
    for info in live:
        name = info.key[len(prefix) :]
        while entry is not None and entry.path < name:
            entry = next(entries, None)
        yield (entry if entry is not None and entry.path == name else None), info


def _compared(site: Site, tenant: Tenant, pairs: Iterator[_Pair]) -> Iterator[bool]:
    store, prefix = site.files_store(tenant)

    def same(pair: _Pair) -> bool:
        entry, info = pair
        if entry is None or info is None or (info.key, info.size) != (prefix + entry.path, entry.size):
            return False
        digest = hashlib.sha256()
        for piece in store.stream(info.key)[1]:
            digest.update(piece)
        return digest.hexdigest() == entry.sha256

    return streamed(same, pairs, name="proof", threads=_AT_ONCE, ahead=4 * _AT_ONCE)
