"""Is this backup whole? From the manifest down to every referenced chunk.

Shallow: signature, component documents, details, and that every referenced chunk lies in a pack that is there with its
full size. Deep: also downloads every referenced pack, re-hashes it, and opens every referenced chunk.
"""

import hashlib
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Self

from sbh_pipelines.backup.contents.file_list import list_chunks, read_files
from sbh_pipelines.backup.contents.layers import table_rows
from sbh_pipelines.backup.contents.manifest import Component, Manifest
from sbh_pipelines.backup.contents.manifests import read_component
from sbh_pipelines.backup.contents.stored_table import read_table
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.concurrency import streamed
from sbh_pipelines.document import optional
from sbh_pipelines.errors import CorruptObject, SbhError, StoreError
from sbh_pipelines.model import Progress, ProgressSink, no_progress
from sbh_pipelines.repository.format import FILES, VALIDATE, Entry, Keys
from sbh_pipelines.repository.index import Marks
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.stores.base import MOST_BYTES

_MAX_ISSUES = 200
_PACKS_AHEAD = 3
_TAKE_ANOTHER = "take another backup of the tenant: it stores anew what the tenant still has of this pack"


@dataclass
class Verification:
    """What was checked so far, and what is wrong: errors of the tree, each naming the object."""

    backup_id: str
    deep: bool
    issues: list[SbhError] = field(default_factory=list)
    objects: int = 0
    chunks: int = 0
    bytes: int = 0  # stored bytes downloaded
    seconds: float = 0.0
    components: dict[str, Component] = field(default_factory=dict)  # those that could be read

    def found(self, error: SbhError) -> None:
        # A hole in a repository can break thousands of chunks; the first two hundred say it.
        if len(self.issues) < _MAX_ISSUES and all(str(error) != str(known) for known in self.issues):
            self.issues.append(error)

    @property
    def valid(self) -> bool:
        return not self.issues


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """What was found by checking a backup. Damage is a result, not an error.

    Attributes:
        tenant_id: Whose backup it is; absent for one of the platform.
        backup_id: The backup.
        valid: Whether it can be restored.
        issues: What is wrong, each naming the object; at most two hundred.
        deep: Whether everything was downloaded, decrypted and hashed.
        objects_checked: Documents, index objects and packs.
        chunks_checked: Chunks that the backup needs.
        bytes_checked: Bytes that were downloaded.
        seconds: How long it took.
        missing_references: Files that rows refer to and that were not in the bucket when the backup was made. It is whole without
            them.
        missing_files: The keys of a few of them.
    """

    tenant_id: str | None = optional()
    backup_id: str
    valid: bool
    issues: Sequence[SbhError]
    deep: bool
    objects_checked: int
    chunks_checked: int
    bytes_checked: int
    seconds: float
    missing_references: int = 0
    missing_files: Sequence[str] = ()

    @classmethod
    def of(cls, tenant_id: str | None, found: Verification, missing_files: Sequence[str] = ()) -> Self:
        files = found.components.get(FILES)
        return cls(
            tenant_id=tenant_id,
            backup_id=found.backup_id,
            valid=found.valid,
            issues=tuple(found.issues),
            deep=found.deep,
            objects_checked=found.objects,
            chunks_checked=found.chunks,
            bytes_checked=found.bytes,
            seconds=round(found.seconds, 3),
            missing_references=files.missing_references if files else 0,
            missing_files=tuple(missing_files),
        )


def raise_first(verification: Verification) -> None:
    """Raise the first issue, if there is any."""
    if verification.issues:
        raise verification.issues[0]


def verify_backup(
    repository: Repository,
    manifest: Manifest,
    *,
    deep: bool,
    own_only: bool = False,
    whole: set[bytes] | None = None,
    settled: Collection[str] = frozenset(),
    progress: ProgressSink = no_progress,
) -> Verification:
    """Check one backup; the repository's index must have been loaded. Finds all damage, raises none of it.

    `own_only` leaves out damage that keeps nobody from restoring: an index object that is gone while its packs are there.
    Damage to objects that this backup does not need is another backup's. `whole`: packs whose content was found to be their names',
    and which are not read again; what is read here is added. `settled`: chunks of details that are known to be there with all that
    hangs on them, and are not read.
    """
    begun = time.monotonic()
    result = Verification(str(manifest.document.get("id")), deep)
    try:
        repository.check_signature(manifest.document, result.backup_id)
        result.objects += 1
    except CorruptObject as error:
        result.found(error)
        return result
    if deep:
        _lift_marks(repository)
    for name in manifest.component_names:
        try:
            result.components[name] = read_component(repository, manifest, name)
            result.objects += 1
        except (SbhError, KeyError, TypeError, ValueError) as error:
            result.found(_as_damage(error, repository.url(Keys.component(name, result.backup_id))))
    with repository.index.marks() as marks:
        details = chain.from_iterable(map(_details, result.components.values()))
        repository.read_ahead(chunk for chunk in details if chunk.hex() not in settled)
        for name, component in result.components.items():
            try:
                _Checker(repository, result, marks, settled).component(name, component)
            except (SbhError, KeyError, TypeError, ValueError) as error:
                result.found(_as_damage(error, repository.url(Keys.component(name, result.backup_id))))
        result.chunks = marks.count()
        result.objects += marks.pack_count()
        # Chunks can be found without an index (packs describe themselves), and a later backup indexes such packs.
        result.objects += len(repository.indexed.intersection(manifest.index))
        orphaned = marks.touches(repository.unindexed)
        if not own_only and (result.issues or orphaned):
            for key in manifest.index:
                # A prune writes what several index objects say into one, and removes them.
                if orphaned or not repository.pruned or any(damage.key == key for damage in repository.damages):
                    _check_index(repository, key, result)
        if result.issues:
            # A chunk that is missing may be in a pack that cannot be read, and behind a detail that is lost may be
            # groups in other lost packs: what else is wrong is worth knowing now.
            for damage in repository.damages:
                result.found(damage.error)
            for pack_id in repository.lost:
                result.found(repository.lost_pack(pack_id))
        if deep:
            known = whole if whole is not None else set[bytes]()
            left = (pack for pack in marks.by_pack() if pack[0] not in known)
            _read_packs(repository, left, marks.pack_count(), result, known, progress)
    result.seconds = time.monotonic() - begun
    return result


def _lift_marks(repository: Repository) -> None:
    """A pack that was found to be damaged may have been restored from the bucket's older version meanwhile."""
    for pack_id in sorted(repository.marked_damaged):
        with suppress(SbhError):  # it still cannot be read, or whoever validates may not delete the mark
            repository.lift(pack_id)


def _details(component: Component) -> Iterator[bytes]:
    """The chunks of a component's details; nothing from a document that is malformed."""
    parts: list[TableSummary | Component] = [*component.tables, component]
    for part in parts:
        with suppress(KeyError, ValueError, TypeError):
            yield from [bytes.fromhex(chunk) for chunk in part.detail]


def _as_damage(error: Exception, place: str) -> SbhError:
    if isinstance(error, SbhError):
        return error
    return CorruptObject("A document lacks a field", on=place, why=str(error), remedy=VALIDATE)


def _check_index(repository: Repository, key: str, result: Verification) -> None:
    if key in repository.indexed:
        return
    damaged = next((damage.error for damage in repository.damages if damage.key == key), None)
    result.found(
        damaged
        or CorruptObject(
            "An index object is missing",
            on=repository.url(key),
            why="deleted",
            remedy="none is needed: packs are read by their own directories, and the next backup indexes them again",
        )
    )


class _Checker:
    """Walks one component's details and marks every chunk they refer to."""

    def __init__(self, repository: Repository, result: Verification, marks: Marks, settled: Collection[str]) -> None:
        self._repository, self._result, self._marks, self._settled = repository, result, marks, settled

    def component(self, name: str, component: Component) -> None:
        for table in component.tables:
            if not self._is_settled(table.detail):
                with self._noted():
                    self._table(table)
        self._mark(component.detail)
        self._mark(component.reference_keys)
        if name == FILES and not self._is_settled(component.detail):
            with self._noted():
                self._files(component)

    def _is_settled(self, detail: Sequence[str]) -> bool:
        return bool(detail) and all(chunk in self._settled for chunk in detail)

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except SbhError as error:
            self._result.found(error)

    def _mark(self, chunks: Sequence[str]) -> None:
        for chunk in chunks:
            self._chunk(bytes.fromhex(chunk))

    def _chunk(self, chunk: bytes) -> int:
        """Mark a chunk; its plain length, 0 when it is missing."""
        location = self._repository.index.find(chunk)
        if location is None:
            self._result.found(self._repository.missing(chunk))
            return 0
        self._marks.add(chunk)
        return location.plain

    def _table(self, summary: TableSummary) -> None:
        self._mark(summary.detail)
        table = read_table(self._repository, summary)
        expected = summary.rows, summary.bytes
        if table.state is not None:
            self._mark(list(table.state.chunks()))
            expected = table.state.base.rows, table.state.base.bytes
        if self._is_settled(table.lines):
            return  # the groups are those of the backup that this one builds on, and only what was laid over them is new
        rows = size = 0
        for group in table.groups:
            plain = self._chunk(group.chunk)
            if plain and plain != group.bytes:
                self._result.found(_wrong_size(self._repository, group.chunk, summary.table))
            rows += group.rows
            size += group.bytes
        if (rows, size) != expected:
            self._result.found(CorruptObject("A table's groups do not add up", on=summary.table, remedy=VALIDATE))
        elif self._result.deep and table.layers:
            for _ in table_rows(self._repository, read_table(self._repository, summary)):
                pass  # that the layers add up shows at the end

    def _files(self, component: Component) -> None:
        for chunk in list_chunks(self._repository, component):
            self._chunk(chunk)
        count = total = 0
        for entry in read_files(self._repository, component):
            plain = [self._chunk(bytes.fromhex(chunk)) for chunk in entry.chunks]
            if all(plain) and sum(plain) != entry.size:
                self._result.found(
                    CorruptObject("A file's slices do not add up", on="a file of the list", remedy=VALIDATE)
                )
            count += 1
            total += entry.size
        if (count, total) != (component.file_count, component.total_size):
            self._result.found(CorruptObject("The file list does not add up", on=component.key, remedy=VALIDATE))


def _wrong_size(repository: Repository, chunk: bytes, table: str) -> CorruptObject:
    return CorruptObject("A chunk has a wrong size", on=f"{table}, chunk {chunk.hex()[:16]}", remedy=VALIDATE)


def _read_packs(
    repository: Repository,
    packs: Iterator[tuple[bytes, list[Entry]]],
    total: int,
    result: Verification,
    whole: set[bytes],
    progress: ProgressSink,
) -> None:
    """Download, re-hash and open; a few packs at once. Those that are whole are added to `whole`."""

    def read(pack_id: bytes, entries: list[Entry]) -> tuple[int, list[SbhError]]:
        place = repository.url(Keys.pack(pack_id))
        try:
            body = _downloaded(repository, pack_id)
            if hashlib.sha256(body).digest() != pack_id:
                # A mark keeps everybody from the pack, so it must be the pack: a line or a cache may have changed the answer.
                body = _downloaded(repository, pack_id)
        except SbhError as error:
            return 0, [error]
        if hashlib.sha256(body).digest() != pack_id:
            with suppress(StoreError):  # whoever validates may have no right to write
                repository.condemn(pack_id)
            return len(body), [
                CorruptObject("A pack is damaged", on=place, why="its content is not its name's", remedy=_TAKE_ANOTHER)
            ]
        errors: list[SbhError] = []
        for entry in entries:
            try:
                repository.sealer.open(body[entry.offset : entry.offset + entry.length], entry.chunk, on=place)
            except SbhError as error:
                errors.append(error)
        whole.add(pack_id)
        return len(body), errors

    found = streamed(lambda pack: read(*pack), packs, name="verify", threads=_PACKS_AHEAD, ahead=_PACKS_AHEAD)
    for done, (size, errors) in enumerate(found, 1):
        result.bytes += size
        for error in errors:
            result.found(error)
        progress(Progress("validate", result.backup_id, done, total, "packs"))


def _downloaded(repository: Repository, pack_id: bytes) -> memoryview:
    size = repository.index.size_of(pack_id) or MOST_BYTES
    return memoryview(repository.store.get(repository.prefix + Keys.pack(pack_id), size))


def chunks_of(repository: Repository, manifest: Manifest) -> Iterator[bytes]:
    """Ids of all chunks a restore of this backup can ask for; one may come more than once.

    The repository's index must be loaded. Raises CorruptObject when a document or a detail cannot be read: what lies
    behind it is then unknown.
    """
    for name in manifest.component_names:
        component = read_component(repository, manifest, name)
        for listed in (component.detail, component.reference_keys):
            yield from map(bytes.fromhex, listed)
        for summary in component.tables:
            yield from map(bytes.fromhex, summary.detail)
            table = read_table(repository, summary)
            if table.state is not None:
                yield from map(bytes.fromhex, table.state.chunks())
            for group in table.groups:
                yield group.chunk
        if name == FILES:
            yield from list_chunks(repository, component)
            for entry in read_files(repository, component):
                yield from map(bytes.fromhex, entry.chunks)
