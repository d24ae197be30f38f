"""Listed files, read into the repository: several at once, and again when one changes meanwhile."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import ObjectChanged
from sbh_pipelines.files.file import FileEntry, OpenFile, Versions, kept_changing, open_file
from sbh_pipelines.model import Tenant, timestamp
from sbh_pipelines.repository.chunking import FILE_SLICES, slices
from sbh_pipelines.repository.pack import PackWriter
from sbh_pipelines.stores.base import FileStore, ObjectInfo

_ATTEMPTS = 5


class LazyVersions:
    """Version look-ups; the client behind it is made when a file first needs it."""

    def __init__(self, site: Site, tenant: Tenant) -> None:
        self._site, self._tenant = site, tenant
        self._made: Versions | None = None

    def version_with_etag(self, key: str, etag: str) -> str | None:
        if self._made is None:
            self._made = self._site.file_versions(self._tenant)
        return self._made.version_with_etag(key, etag) if self._made else None


class Gone:
    """In place of the line of a file that is not there any more."""


_Read = tuple[ObjectInfo, bytes | Gone]  # what was read, which may be newer than what was listed, and its line


class Reader:
    """Reads one listed file into the repository."""

    def __init__(
        self,
        store: FileStore,
        writer: PackWriter,
        prefix: str,
        versions: Versions,
        moved: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`moved` is told how many bytes were read, from any thread."""
        self._store, self._writer, self._prefix, self._versions = store, writer, prefix, versions
        self._moved = moved

    def read_in_bounds(self, info: ObjectInfo) -> _Read:
        """`read`, when there is memory for the content that is not cut yet and the slice that is."""
        with self._writer.room(2 * min(info.size, FILE_SLICES.most)):
            return self.read(info)

    def read(self, info: ObjectInfo) -> _Read:
        for _ in range(_ATTEMPTS):
            opened = open_file(self._store, info, self._versions)
            if opened is None:
                return info, Gone()
            try:
                return opened.info, self._entry(opened).to_line()
            except ObjectChanged:  # while it was read
                continue
        raise kept_changing(info.key, _ATTEMPTS)

    def _entry(self, opened: OpenFile) -> FileEntry:
        digest = hashlib.sha256()
        pending: deque[Future[bytes]] = deque()
        chunks: list[str] = []
        for piece in slices(opened.pieces, digest):
            pending.append(self._writer.put(piece))
            self._moved(len(piece))
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


def read_ahead(
    reader: Reader, files: Iterator[tuple[ObjectInfo, bytes | None]], readers: ThreadPoolExecutor, most: int
) -> Iterator[tuple[ObjectInfo, bytes | Gone, bool]]:
    """(file, its line, whether it was read) in listing order, at most `most` of them read or waiting."""
    ahead: deque[Future[_Read] | _Read] = deque()

    def first() -> tuple[ObjectInfo, bytes | Gone, bool]:
        done = ahead.popleft()
        return (*done.result(), True) if isinstance(done, Future) else (*done, False)

    try:
        for info, line in files:
            ahead.append(readers.submit(reader.read_in_bounds, info) if line is None else (info, line))
            while ahead and (len(ahead) >= most or not isinstance(ahead[0], Future)):
                yield first()
        while ahead:
            yield first()
    finally:
        waiting = [future for future in ahead if isinstance(future, Future)]
        for future in waiting:  # after an error: nobody will take these
            future.cancel()
        wait(waiting)
