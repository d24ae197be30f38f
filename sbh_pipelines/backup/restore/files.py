"""The files of a restore: compare the backup's list with the live one, put back, remove.

Both lists are in key order, so they are compared as streams. A file is unchanged when path, size and ETag are equal;
otherwise it is written again. Every slice that will be written is read and authenticated before the first write.
"""

import hashlib
import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import IO

from sbh_pipelines.backup.contents.file_list import read_files
from sbh_pipelines.backup.contents.manifest import Component
from sbh_pipelines.backup.create.files.files_step import live_files
from sbh_pipelines.backup.restore.plan import FilePlan, FileSample
from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import streamed
from sbh_pipelines.database.merge.modes import RULES, Winner
from sbh_pipelines.errors import CorruptObject, ObjectMissing, ProofFailed
from sbh_pipelines.files.file import FileEntry
from sbh_pipelines.files.patterns import PathPatterns
from sbh_pipelines.model import Tenant, parse_timestamp
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.stores.base import FileStore, ObjectInfo

_SPOOL = 4 << 20


class FileRestore:
    """One restore's files. Call `compare`, `authenticate`, `put_back`, `remove_extra` in this order."""

    def __init__(
        self,
        site: Site,
        repository: Repository,
        tenant: Tenant,
        component: Component | None,
        request: RestoreRequest,
    ) -> None:
        """`component`: the backup's files; None where none are wanted."""
        self._site, self._repository, self._tenant = site, repository, tenant
        self._component = component if site.settings.files.enabled else None
        self._rules, self._samples = RULES[request.mode], request.samples
        self._keep_extra = request.keep_extra_files or not self._rules.removes
        self._chosen = PathPatterns(request.files)
        # The plan goes to a temporary file when it is long: a million files to put back are not held in memory.
        self._back: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_SPOOL)
        self._extra: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_SPOOL)
        self.plan = FilePlan()
        self.extra = self.proven = self.removed = self.restored = 0
        self.downloaded = 0
        self._counting = threading.Lock()

    @property
    def kept_extra(self) -> int:
        """Files that the backup does not have, and that stay."""
        return self.extra if self._keep_extra else 0

    @property
    def changes_anything(self) -> bool:
        return bool(self.to_restore or (self.extra and not self._keep_extra))

    @property
    def to_restore(self) -> int:
        return self.plan.missing + self.plan.different

    def compare(self) -> FilePlan:
        """Compare the two lists; nothing is written."""
        if self._component is None:
            return self.plan
        _, prefix = self._site.files_store(self._tenant)
        missing = different = unchanged = kept = size = 0
        samples: list[FileSample] = []

        def sample(change: str, path: str) -> None:
            if len(samples) < self._samples:
                samples.append(FileSample(change, path))

        for entry, live in self._pairs(prefix, read_files(self._repository, self._component)):
            if entry is None:
                assert live is not None
                self._note_extra(live.key)
                sample("kept" if self._keep_extra else "remove", live.key[len(prefix) :])
                continue
            if live is not None and (live.size, live.etag) == (entry.size, entry.etag):
                unchanged += 1
                continue
            if live is not None and not self._wins(entry, live):
                kept += 1
                sample("kept", entry.path)
                continue
            missing, different = missing + (live is None), different + (live is not None)
            size += entry.size
            self._back.write(entry.to_line())
            sample("missing" if live is None else "different", entry.path)
        kept += self.extra if self._keep_extra else 0
        self.plan = FilePlan(missing, different, self.extra, unchanged, kept, size, tuple(samples))
        return self.plan

    def _wins(self, entry: FileEntry, live: ObjectInfo) -> bool:
        """Whether the backup's file is to replace one that differs."""
        if self._rules.by_time:
            return parse_timestamp(entry.modified) > live.modified
        return self._rules.winner is Winner.BACKUP

    def _pairs(self, prefix: str, entries: Iterator[FileEntry]) -> Iterator[tuple[FileEntry | None, ObjectInfo | None]]:
        """(the backup's file, the live one) of each chosen path, in key order."""
        live = (o for o in live_files(self._site, self._tenant) if self._chosen.match(o.key[len(prefix) :]))
        at = next(live, None)
        for entry in entries:
            if not self._chosen.match(entry.path):
                continue
            key = (prefix + entry.path).encode("utf-8", "surrogatepass")
            while at is not None and at.key.encode("utf-8", "surrogatepass") < key:
                yield None, at
                at = next(live, None)
            if at is not None and at.key == prefix + entry.path:
                yield entry, at
                at = next(live, None)
            else:
                yield entry, None
        while at is not None:
            yield None, at
            at = next(live, None)

    def _note_extra(self, key: str) -> None:
        self._extra.write(json.dumps(key).encode() + b"\n")
        self.extra += 1

    def _planned(self) -> Iterator[FileEntry]:
        self._back.seek(0)
        for line in self._back:
            yield FileEntry.from_dict(json.loads(line), "the restore's plan")

    def authenticate(self) -> None:
        """Read every slice to be written and compare the files' hashes. Raises CorruptObject; nothing is written."""
        self._all(self._check, lambda done: None)

    def _check(self, entry: FileEntry) -> None:
        digest = hashlib.sha256()
        for piece in self._slices(entry):
            digest.update(piece)
        if digest.hexdigest() != entry.sha256:
            raise CorruptObject("A file's content is not what was backed up", on=entry.path)

    def _slices(self, entry: FileEntry) -> Iterator[bytes]:
        for chunk in entry.chunks:
            name = bytes.fromhex(chunk)
            length = self._repository.locate(name).length
            with self._counting:
                self.downloaded += length
            yield self._repository.read_chunk(name)

    def put_back(self, notice: Callable[[int, int], None]) -> None:
        """Write the missing and different files, and read each back: size and hash must be the backup's."""
        notice(0, self.to_restore)
        self.restored = self.proven = self._all(self._write, lambda done: notice(done, self.to_restore))

    def _write(self, entry: FileEntry) -> None:
        store, prefix = self._site.files_store(self._tenant)
        key = prefix + entry.path
        kept = entry.to_keep(storage_class=self._site.settings.files.keep_storage_class)
        store.put_stream(key, self._slices(entry), kept, size=entry.size)
        digest = hashlib.sha256()
        _, pieces = store.stream(key)
        for piece in pieces:
            digest.update(piece)
        if digest.hexdigest() != entry.sha256:
            raise ProofFailed(
                "A file read back is not the backup's", on=store.url(key), remedy="check the store; try again"
            )

    def _all(self, work: Callable[[FileEntry], None], notice: Callable[[int], None]) -> int:
        """`work` on every planned file, several at once; how many there were."""
        connections = self._site.settings.files.connections
        done = 0
        for _ in streamed(work, self._planned(), name="files", threads=connections, ahead=connections * 2):
            done += 1
            if done % 100 == 0:
                notice(done)
        return done

    def remove_extra(self) -> None:
        """Delete what was not in the backup, unless it is to be kept. Raises ProofFailed where one is still there after that."""
        if self._keep_extra or not self.extra:
            return
        store, _ = self._site.files_store(self._tenant)
        store.delete(self._extra_keys())
        left = self._left(store)
        if left is not None:
            raise ProofFailed(
                "A file that was not in the backup is still there",
                on=store.url(left),
                why="the store said that it had been deleted; or it was written again meanwhile",
                remedy="restore once more; rows and other files are restored",
            )
        self.removed = self.extra

    def _extra_keys(self) -> Iterator[str]:
        self._extra.seek(0)
        return (json.loads(line) for line in self._extra)

    def _left(self, store: FileStore) -> str | None:
        """A file that was to go and is there, if there is one. Both lists are in key order."""
        gone = self._extra_keys()
        at = next(gone, None)
        for info in live_files(self._site, self._tenant):
            key = info.key.encode("utf-8", "surrogatepass")
            while at is not None and at.encode("utf-8", "surrogatepass") < key:
                at = next(gone, None)
            if at == info.key and _is_there(store, at):  # a listing may name what has a slash at its end without it
                return at
        return None


def _is_there(store: FileStore, key: str) -> bool:
    try:
        store.head(key)
    except ObjectMissing:
        return False
    return True
