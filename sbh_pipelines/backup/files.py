"""Step `enumerate_files`: list a tenant's files, read them, seal their slices, store the list."""

import hashlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace

from sbh_pipelines.backup.details import FileListWriter, json_line, read_lines
from sbh_pipelines.backup.drafts import Workshop, running
from sbh_pipelines.backup.rows import pipeline, written
from sbh_pipelines.backup.site import Site
from sbh_pipelines.errors import ObjectChanged
from sbh_pipelines.model import Component, Draft, Progress, ProgressSink, Tenant, timestamp
from sbh_pipelines.repository.pack import PackPipeline, PackWriter
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.sources.files import (
    FileEntry,
    InexactListing,
    OpenFile,
    Versions,
    kept_changing,
    list_files,
    open_file,
    slices,
)
from sbh_pipelines.stores.base import FileStore, ObjectInfo

STEP = "enumerate_files"
_NOTICE_EVERY = 100  # files
_ATTEMPTS = 5


def enumerate_files(shop: Workshop, drafts: Sequence[Draft], progress: ProgressSink) -> list[Draft]:
    """Back up the files of all running drafts; listed now, that is after the rows' snapshot.

    All tenants of the batch share `files.connections` readers, so the number of files in memory is bounded for all of
    them together.
    """
    live = running(drafts)
    if not live:
        return list(drafts)
    settings = shop.site.settings
    readers = ThreadPoolExecutor(settings.files.connections, thread_name_prefix="files")
    with shop.kept(live), pipeline(settings.backup) as packs, readers:

        def work(draft: Draft) -> Draft:
            begun = time.monotonic()
            shop.lease(draft)
            done = _tenant_files(shop, draft, packs, readers, progress)
            return done.with_counters(seconds_files=time.monotonic() - begun)

        return shop.each(drafts, STEP, work)


def live_files(site: Site, tenant: Tenant, *, exactly: bool = False) -> Iterator[ObjectInfo]:
    """The tenant's files as they are now, in key order."""
    if not site.settings.files.enabled:
        return iter(())
    store, prefix = site.files_store(tenant)
    return list_files(store, prefix, site.settings.files.exclude, exactly=exactly)


def _tenant_files(
    shop: Workshop, draft: Draft, packs: PackPipeline, readers: ThreadPoolExecutor, progress: ProgressSink
) -> Draft:
    site = shop.site
    repository = shop.repository(draft)
    writer = repository.writer(packs)
    try:
        try:
            component = _read_files(site, draft, repository, writer, readers, progress, exactly=False)
        except InexactListing:  # what was read of the files is stored, and is not stored again
            component = _read_files(site, draft, repository, writer, readers, progress, exactly=True)
        writer.finish()
        index = repository.write_index(draft.backup_id, "files", writer)
    except BaseException:
        writer.abort()
        raise
    count = component.facts["file_count"]
    progress(Progress(STEP, draft.tenant.id, count, count, "files"))
    counted = draft.with_counters(
        files=count,
        file_bytes=component.facts["total_size"],
        missing_files=component.facts["missing_references"],
        **written(writer),
    )
    return replace(
        counted,
        step=STEP,
        components={**draft.components, "files": component},
        objects=(*draft.objects, *index),
    )


def _read_files(
    site: Site,
    draft: Draft,
    repository: Repository,
    writer: PackWriter,
    readers: ThreadPoolExecutor,
    progress: ProgressSink,
    *,
    exactly: bool,
) -> Component:
    """Read all files and write their list. Raises InexactListing unless `exactly`."""
    store, prefix = site.files_store(draft.tenant)
    listing = FileListWriter(writer)
    missing = _Missing(_references(repository, draft), prefix)
    count = total = list_size = 0
    reader = _Reader(store, writer, prefix, _LazyVersions(site, draft.tenant))
    files = live_files(site, draft.tenant, exactly=exactly)
    for entry in _read_ahead(reader, files, readers, 2 * site.settings.files.connections):
        if entry is None:
            continue  # deleted after it was listed, and no version of it is left
        line = entry.to_line()
        listing.add(entry.path, line)
        missing.saw(prefix + entry.path)
        count, total, list_size = count + 1, total + entry.size, list_size + len(line)
        if count % _NOTICE_EVERY == 0:
            progress(Progress(STEP, draft.tenant.id, count, 0, "files"))
    for key in missing.rest():
        listing.add(key, json_line({"missing": key}))
    facts = {
        "file_count": count,
        "total_size": total,
        "missing_references": missing.count,
        "detail": listing.finish(),
    }
    return Component("file_list", "", list_size, "", facts)


class _LazyVersions:
    """Version look-ups; the client behind it is made when a file first needs it."""

    def __init__(self, site: Site, tenant: Tenant) -> None:
        self._site, self._tenant = site, tenant
        self._made: Versions | None = None

    def version_with_etag(self, key: str, etag: str) -> str | None:
        if self._made is None:
            self._made = self._site.file_versions(self._tenant)
        return self._made.version_with_etag(key, etag) if self._made else None


class _Reader:
    """Reads one listed file into the repository."""

    def __init__(self, store: FileStore, writer: PackWriter, prefix: str, versions: Versions) -> None:
        self._store, self._writer, self._prefix, self._versions = store, writer, prefix, versions

    def read(self, info: ObjectInfo) -> FileEntry | None:
        for _ in range(_ATTEMPTS):
            opened = open_file(self._store, info, self._versions)
            if opened is None:
                return None
            try:
                return self._entry(opened)
            except ObjectChanged:  # while it was read
                continue
        raise kept_changing(info.key, _ATTEMPTS)

    def _entry(self, opened: OpenFile) -> FileEntry:
        digest = hashlib.sha256()
        pending: deque[Future[bytes]] = deque()
        chunks: list[str] = []
        for piece in slices(opened.pieces, digest):
            pending.append(self._writer.put(piece))
            while len(pending) > 4:
                chunks.append(pending.popleft().result().hex())
        chunks += [future.result().hex() for future in pending]
        found = opened.info
        return FileEntry(
            path=found.key[len(self._prefix) :],
            size=found.size,
            etag=found.etag,
            version=opened.version,
            modified=timestamp(found.modified),
            sha256=digest.hexdigest(),
            attributes=opened.attributes,
            chunks=tuple(chunks),
        )


def _read_ahead(
    reader: _Reader, files: Iterator[ObjectInfo], readers: ThreadPoolExecutor, most: int
) -> Iterator[FileEntry | None]:
    """Entries in listing order, at most `most` of them read or waiting."""
    ahead: deque[Future[FileEntry | None]] = deque()
    try:
        for info in files:
            ahead.append(readers.submit(reader.read, info))
            if len(ahead) >= most:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        for future in ahead:  # after an error: nobody will take these
            future.cancel()
        wait(ahead)


class _Missing:
    """Compares referenced keys with the files that came by; both are in byte order, so one of each is in memory."""

    def __init__(self, references: Iterator[str], prefix: str) -> None:
        self._references, self._prefix = references, prefix
        self._next = next(references, None)
        self._found: list[str] = []
        self.count = 0

    def saw(self, key: str) -> None:
        """A file exists. Every reference before it has no file."""
        at = key.encode("utf-8", "surrogatepass")
        while self._next is not None and self._next.encode() < at:
            self._lost()
        if self._next == key:
            self._next = next(self._references, None)

    def _lost(self) -> None:
        assert self._next is not None
        self.count += 1
        if len(self._found) < 1000:  # the count is exact; of the names a thousand are enough to act on
            self._found.append(self._next)
        self._next = next(self._references, None)

    def rest(self) -> list[str]:
        """Call after the last file: the first thousand references without a file."""
        while self._next is not None:
            self._lost()
        return self._found


def _references(repository: Repository, draft: Draft) -> Iterator[str]:
    chunks = draft.components["database"].facts["reference_keys"]
    return (fields["key"] for fields in read_lines(repository, chunks))
