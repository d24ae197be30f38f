"""A tenant's files as they were at a moment, made the files of a draft.

Files are read by their versions; those that the base backup has already are taken over, without a request. Where the bucket's
versions do not tell, the files are those of the newest backup before the moment, and the facts say so.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime

from sbh_pipelines.backup.contents.file_list import list_lines
from sbh_pipelines.backup.contents.manifest import Component
from sbh_pipelines.backup.contents.manifests import read_component, read_manifest
from sbh_pipelines.backup.create.draft import Draft
from sbh_pipelines.backup.create.drafts import OpenDrafts
from sbh_pipelines.backup.create.files.file_reader import Gone, LazyVersions, Reader, read_ahead
from sbh_pipelines.backup.create.files.files_step import STEP, FileComponent, references_digest, with_files
from sbh_pipelines.backup.create.moment.file_source import FromBackup, FromVersions, file_source
from sbh_pipelines.backup.create.parent import ParentFiles
from sbh_pipelines.errors import CorruptObject, ObjectChanged, ObjectMissing, UnknownBackup
from sbh_pipelines.files.file import OpenFile
from sbh_pipelines.files.moment import Doubt, FileSource, MomentFiles
from sbh_pipelines.model import BackupId, Progress, ProgressSink, no_progress, parse_timestamp
from sbh_pipelines.repository.format import FILES
from sbh_pipelines.repository.pack import PackPipeline, PackWriter
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.stores.base import ObjectInfo
from sbh_pipelines.stores.versions import NULL

_NOTICE_EVERY = 100  # files
_NAMED = 1000
_REMOVED = "the base backup has it, and the bucket no version of it: it was removed for good; left out"
_GONE = "its version was removed while the files were read; left out"


def files_at_moment(
    open_drafts: OpenDrafts,
    draft: Draft,
    base: BackupId,
    moment: datetime,
    packs: PackPipeline,
    readers: ThreadPoolExecutor,
    progress: ProgressSink = no_progress,
) -> tuple[Draft, MomentFiles]:
    """The draft with the files of `moment`, and what is not sure of them. Its rows, with their references, must be in it.

    `base` is the backup whose stored files are taken over where they are the same. Raises MomentOutOfReach where neither
    versions nor a backup have the files of that time, the store's errors, CorruptObject.
    """
    repository = open_drafts.repository(draft)
    writer = repository.writer(packs)
    try:
        component, read, facts, reason = _Making(open_drafts, draft, repository, writer, readers, progress).run(
            base, moment
        )
        writer.finish()
        index = repository.write_index(draft.backup_id, FILES, writer)
    except BaseException:
        writer.abort()
        raise
    count = component.file_count or 0
    progress(Progress(STEP, draft.tenant.id, count, count, "files"))
    reread = {**draft.reread, **({"files": reason} if reason else {})}
    return replace(with_files(draft, component, read, writer, index), reread=reread), facts


class _Doubts:
    """What turns out while the files are read. Thread-safe; a thousand are named."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.named: list[Doubt] = []
        self.count = 0

    def add(self, key: str, why: str) -> None:
        with self._lock:
            self.count += 1
            if len(self.named) < _NAMED:
                self.named.append(Doubt(key, why))


class _VersionReader(Reader):
    """Reads the version that was listed, and no other."""

    def read(self, info: ObjectInfo) -> tuple[ObjectInfo, bytes | Gone]:
        try:
            attributes, pieces = self._store.stream(info.key, version=info.version, if_match=info.etag)
            version = None if info.version == NULL else info.version
            return info, self._entry(OpenFile(info, version, attributes, pieces)).to_line()
        except (ObjectMissing, ObjectChanged):  # removed for good; or put again as `null` in a bucket that is suspended
            return info, Gone()


class _Making:
    """One tenant's files of a moment on their way into the repository."""

    def __init__(
        self,
        open_drafts: OpenDrafts,
        draft: Draft,
        repository: Repository,
        writer: PackWriter,
        readers: ThreadPoolExecutor,
        progress: ProgressSink,
    ) -> None:
        self._site, self._draft, self._repository, self._writer = open_drafts.site, draft, repository, writer
        self._readers, self._progress = readers, progress
        self._store, self._prefix = self._site.files_store(draft.tenant)

    def run(self, base: BackupId, moment: datetime) -> tuple[Component, int, MomentFiles, str]:
        """(component, files read, facts, why everything was read if it was)."""
        if not self._site.settings.files.enabled:
            nothing = self._list().finish(None, moment)
            return nothing, 0, MomentFiles(FileSource.NONE, moment, "files are not backed up"), ""
        with file_source(self._site, self._draft.tenant, self._repository, moment) as source:
            if isinstance(source, FromBackup):
                return self._taken_over(source), 0, source.facts, ""
            parent, reason = self._parent(base)
            return (*self._read(source, parent, moment), reason)

    def _parent(self, base: BackupId) -> tuple[ParentFiles | None, str]:
        try:
            manifest = read_manifest(self._repository, base)
            component = read_component(self._repository, manifest, FILES)
        except (CorruptObject, UnknownBackup) as error:
            return None, f"the file list of {base} cannot be read: {error.what}"
        listed_at = parse_timestamp(component.listed_at or manifest.created_at)
        return ParentFiles(self._repository, component, listed_at, in_directory=False), ""

    def _read(
        self, source: FromVersions, parent: ParentFiles | None, moment: datetime
    ) -> tuple[Component, int, MomentFiles]:
        doubts, files, read = _Doubts(), self._list(), 0
        skipped = tuple(self._prefix + e for e in self._site.settings.files.exclude)

        def unlisted(path: str) -> None:
            key = self._prefix + path
            # Rules remove a file's last traces some time after it was deleted: then it was not there at the moment.
            if source.kept_days is None and not source.listing.knows(key) and not key.startswith(skipped):
                doubts.add(key, _REMOVED)

        def pairs() -> Iterator[tuple[ObjectInfo, bytes | None]]:
            listed = iter(source.listing)
            if parent is None:
                return ((info, None) for info in listed)
            return parent.same(listed, self._prefix, unlisted)

        reader = _VersionReader(self._store, self._writer, self._prefix, LazyVersions(self._site, self._draft.tenant))
        most = 2 * self._site.settings.files.connections
        for info, line, was_read in read_ahead(reader, pairs(), self._readers, most):
            if isinstance(line, Gone):
                doubts.add(info.key, _GONE)
                continue
            files.add(info.key[len(self._prefix) :], info.size, line)
            read += was_read
            if files.count % _NOTICE_EVERY == 0:
                self._progress(Progress(STEP, self._draft.tenant.id, files.count, 0, "files"))
        return files.finish(None, moment), read, source.facts.doubted(doubts.named, doubts.count)

    def _taken_over(self, source: FromBackup) -> Component:
        """The backup's list, compared with the references of this draft's rows."""
        listed_at = source.facts.as_of
        if source.component.references == references_digest(self._draft):
            return source.component.same_files(listed_at.isoformat())
        files = self._list()
        for fields, line in list_lines(self._repository, source.component):
            if "missing" not in fields:
                files.add(fields["path"], fields["size"], line)
        return files.finish(None, listed_at)

    def _list(self) -> FileComponent:
        return FileComponent(self._repository, self._writer, self._draft, self._prefix)
