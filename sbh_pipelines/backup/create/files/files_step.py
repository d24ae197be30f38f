"""Step `enumerate_files`: list a tenant's files, read them, seal their slices, store the list.

With a parent only new and changed files are read; for the others the parent's entry is taken over, without a request.
Where no file changed at all, and no reference either, the parent's whole list is.
"""

import hashlib
import time
from collections.abc import Iterable, Iterator, MutableSet, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime

from sbh_pipelines.backup.contents.file_list import MOST_MISSING, FileListWriter
from sbh_pipelines.backup.contents.json_lines import json_line, read_lines
from sbh_pipelines.backup.contents.manifest import Component
from sbh_pipelines.backup.create.draft import Draft
from sbh_pipelines.backup.create.drafts import OpenDrafts, running
from sbh_pipelines.backup.create.files.file_reader import Gone, LazyVersions, Reader, read_ahead
from sbh_pipelines.backup.create.files.files_beside import FilesBeside
from sbh_pipelines.backup.create.parent import ParentFiles, parent_files
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import Meter
from sbh_pipelines.files.file import InexactListing
from sbh_pipelines.files.listing import Listing, ListingPrint, is_settled, list_files, listing_fingerprint, made_exactly
from sbh_pipelines.model import Progress, ProgressSink, Tenant, utc_now
from sbh_pipelines.repository.format import DATABASE, FILES
from sbh_pipelines.repository.pack import PackPipeline, PackWriter, pipeline, written
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.stores.base import ObjectInfo

STEP = "enumerate_files"
_NOTICE_EVERY = 100  # files


def enumerate_files(open_drafts: OpenDrafts, drafts: Sequence[Draft], progress: ProgressSink) -> list[Draft]:
    """Back up the files of all running drafts; listed after the rows' snapshot, now or when the repository was opened.

    All tenants of the batch share `files.connections` readers, so the number of files in memory is bounded for all of
    them together.
    """
    live = running(drafts)
    if not live:
        return list(drafts)
    settings = open_drafts.site.settings
    readers = ThreadPoolExecutor(settings.files.connections, thread_name_prefix="files")
    with open_drafts.kept(live), pipeline(settings.backup) as packs, readers:

        def work(draft: Draft) -> Draft:
            begun = time.monotonic()
            open_drafts.lease(draft)
            done = _tenant_files(open_drafts, draft, packs, readers, progress)
            return done.with_counters(seconds_files=time.monotonic() - begun)

        return open_drafts.each(drafts, STEP, work)


def live_files(site: Site, tenant: Tenant, *, exactly: bool = False) -> Iterator[ObjectInfo]:
    """The tenant's files as they are now, in key order."""
    if not site.settings.files.enabled:
        return iter(())
    store, prefix = site.files_store(tenant)
    return list_files(store, prefix, site.settings.files.exclude, exactly=exactly)


def files_unchanged(site: Site, tenant: Tenant, known: str | None, missing: MutableSet[str] | None = None) -> bool:
    """Whether the tenant's files are those of the backup whose list of them has the fingerprint `known`; one listing.

    Keys that the listing shows below the tenant's prefix, files or not, leave `missing`.
    False where it has none that tells: an older release made it, or files were being written.
    """
    if not known:
        return False
    if not site.settings.files.enabled:
        return bool(known == ListingPrint().text(exactly=False))
    store, prefix = site.files_store(tenant)
    exclude, exactly = site.settings.files.exclude, made_exactly(known)
    return bool(known == listing_fingerprint(store, prefix, exclude, exactly=exactly, missing=missing))


def _listing(site: Site, tenant: Tenant, exactly: bool) -> "nullcontext[None] | Listing":
    """The tenant's files; None where files are not backed up."""
    if not site.settings.files.enabled:
        return nullcontext()
    store, prefix = site.files_store(tenant)
    return Listing(store, prefix, site.settings.files.exclude, exactly=exactly)


def _tenant_files(
    open_drafts: OpenDrafts, draft: Draft, packs: PackPipeline, readers: ThreadPoolExecutor, progress: ProgressSink
) -> Draft:
    repository = open_drafts.repository(draft)
    writer = repository.writer(packs)
    latest = open_drafts.latest(draft)
    before = latest.components.get(FILES) if latest is not None else None
    seen = open_drafts.files_beside(draft)
    step = _Step(open_drafts.site, draft, repository, writer, readers, progress, before, seen)
    try:
        try:
            done = step.run(exactly=False)
        except InexactListing:  # what was read of the files is stored, and is not stored again
            done = step.run(exactly=True)
        writer.finish()
        index = repository.write_index(draft.backup_id, FILES, writer)
    except BaseException:
        writer.abort()
        raise
    count = done.component.file_count or 0
    progress(Progress(STEP, draft.tenant.id, count, count, "files"))
    reread = {**draft.reread, **({"files": step.reason} if step.reason else {})}
    return replace(with_files(draft, done.component, done.read, writer, index), reread=reread)


def with_files(draft: Draft, component: Component, read: int, writer: PackWriter, index: Sequence[str]) -> Draft:
    """The draft with its files, `read` of which were read and the others taken over."""
    count = component.file_count or 0
    counted = draft.with_counters(
        files=count,
        file_bytes=component.total_size or 0,
        files_read=read,
        files_reused=count - read,
        missing_files=component.missing_references,
        **written(writer),
    )
    components = {**draft.components, FILES: component}
    return replace(counted, step=STEP, components=components, objects=(*draft.objects, *index))


@dataclass(frozen=True, slots=True)
class _Done:
    component: Component
    read: int  # files that were read; the others were taken over
    gone: bool = False  # whether something that was listed was not there any more


class _Step:
    """One tenant's files on their way into the repository."""

    def __init__(
        self,
        site: Site,
        draft: Draft,
        repository: Repository,
        writer: PackWriter,
        readers: ThreadPoolExecutor,
        progress: ProgressSink,
        latest: Component | None,
        beside: FilesBeside | None,
    ) -> None:
        """`latest`: the files of the newest backup, where they are known; `beside`: what a listing since the snapshot showed."""
        self._beside = beside
        self._site, self._draft, self._repository, self._writer = site, draft, repository, writer
        self._latest = latest
        self._readers, self._progress = readers, progress
        self._store, self._prefix = site.files_store(draft.tenant)
        self._in_directory = site.settings.storage.kind == "local"
        self._parent, self.reason = parent_files(repository, draft, in_directory=self._in_directory)
        self._references = references_digest(draft)

    def run(self, *, exactly: bool) -> _Done:
        """List, read what must be read, write the list. Raises InexactListing unless `exactly`."""
        parent, beside = self._parent, self._beside
        if beside is not None and parent is not None:
            if self._nothing_changed(parent, beside.fingerprint.text(parent.exact)):
                return _Done(parent.component.same_files(beside.listed_at.isoformat()), 0)
            # Tables were read since: files may have come after the rows that name them, or have another name now. Listed once more.
            if beside.files is not None and not (exactly or parent.exact) and self._all_referenced(beside.files):
                done = self._write(parent, beside.files, beside.listed_at, exact=False)
                if not done.gone:
                    return done
                # What was read is stored, and is not stored again.
        exactly = exactly or (parent is not None and parent.exact)
        # The machine's clock and not the site's: it is the one that stamps files.
        now = utc_now()
        with _listing(self._site, self._draft.tenant, exactly) as listing:
            exact = listing is not None and listing.exact
            fingerprint = listing.fingerprint if listing is not None else ListingPrint().text(exactly=False)
            if parent is not None and self._nothing_changed(parent, fingerprint):
                return _Done(parent.component.same_files(now.isoformat()), 0)
            return self._write(parent, listing or (), now, exact=exact)

    def _expected(self, parent: ParentFiles | None) -> int:
        """Bytes that will be read: where every file is, those of the newest backup; else nothing tells."""
        return 0 if parent is not None or self._latest is None else self._latest.total_size or 0

    def _nothing_changed(self, parent: ParentFiles, fingerprint: str) -> bool:
        return (
            fingerprint == parent.component.listing
            and parent.component.references == self._references
            # Else something of the files may be lost, and is to be read again.
            and not (self._repository.lost or self._repository.damages)
        )

    def _all_referenced(self, files: Sequence[ObjectInfo]) -> bool:
        """Whether every file that a row names is among these: few, for they are of one page."""
        keys = {info.key for info in files}
        return all(key in keys for key in _references(self._repository, self._draft))

    def _write(self, parent: ParentFiles | None, files: Iterable[ObjectInfo], now: datetime, *, exact: bool) -> _Done:
        """`now`: when the listing of the files was begun, UTC; `exact`: whether only an exact listing gives these."""
        listed = iter(files)
        pairs = parent.same(listed, self._prefix) if parent is not None else ((info, None) for info in listed)
        meter = Meter(self._progress, STEP, self._draft.tenant.id, "files", expected=self._expected(parent))
        versions = LazyVersions(self._site, self._draft.tenant)
        reader = Reader(self._store, self._writer, self._prefix, versions, meter.moved)
        listed_files = FileComponent(self._repository, self._writer, self._draft, self._prefix)
        found = ListingPrint()
        settled, gone = True, False
        read = 0
        for info, line, was_read in read_ahead(reader, pairs, self._readers, 2 * self._site.settings.files.connections):
            if isinstance(line, Gone):  # deleted after it was listed, and no version of it is left
                # Or it is a folder's marker, which a quick listing cannot tell from an empty file.
                exact, gone = exact or not info.size, True
                continue
            path = info.key[len(self._prefix) :]
            listed_files.add(path, info.size, line)
            found.add(path, info.size, info.etag, info.modified)
            settled = settled and (not self._in_directory or is_settled(info.modified, now))
            read += was_read
            if listed_files.count % _NOTICE_EVERY == 0:
                meter.done(listed_files.count)
        return _Done(listed_files.finish(found.text(exact) if settled else None, now), read, gone)


class FileComponent:
    """A backup's list of files on its way into the repository, compared with what the draft's rows refer to."""

    def __init__(self, repository: Repository, writer: PackWriter, draft: Draft, prefix: str) -> None:
        self._lines = FileListWriter(writer)
        self._missing = _Missing(_references(repository, draft))
        self._digest, self._prefix = references_digest(draft), prefix
        self.count = self._total = self._size = 0

    def add(self, path: str, size: int, line: bytes) -> None:
        """A file of `size` bytes, by its line. In order of the paths."""
        self._lines.add(path, line)
        self._missing.saw(self._prefix + path)
        self.count, self._total, self._size = self.count + 1, self._total + size, self._size + len(line)

    def finish(self, listing: str | None, listed_at: datetime) -> Component:
        """The component, its list stored: with the fingerprint of the listing, and a time no later than that."""
        for key in self._missing.rest():
            self._lines.add(key, json_line({"missing": key}))
        return Component.of_files(
            size=self._size,
            file_count=self.count,
            total_size=self._total,
            missing_references=self._missing.count,
            references=self._digest,
            listing=listing,
            listed_at=listed_at.isoformat(),
            detail=self._lines.finish(),
        )


class _Missing:
    """Compares referenced keys with the files that came by; both are in byte order, so one of each is in memory."""

    def __init__(self, references: Iterator[str]) -> None:
        self._references = references
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
        if len(self._found) < MOST_MISSING:  # the count is exact; of the names these are enough to act on
            self._found.append(self._next)
        self._next = next(self._references, None)

    def rest(self) -> list[str]:
        """Call after the last file: the first `MOST_MISSING` references without a file."""
        while self._next is not None:
            self._lost()
        return self._found


def references_digest(draft: Draft) -> str:
    """Of the references of the draft's rows to files."""
    return hashlib.sha256("".join(draft.components[DATABASE].reference_keys).encode()).hexdigest()[:32]


def _references(repository: Repository, draft: Draft) -> Iterator[str]:
    chunks = draft.components[DATABASE].reference_keys
    return (fields["key"] for fields in read_lines(repository, chunks))
