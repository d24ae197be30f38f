"""Which backup an incremental or differential one builds on, and whether it can."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sbh_pipelines.backup.contents.backup_list import read_backups, read_latest
from sbh_pipelines.backup.contents.file_list import list_lines
from sbh_pipelines.backup.contents.manifest import WITH_TABLES, Component
from sbh_pipelines.backup.contents.manifests import read_component, read_manifest
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.backup.create.draft import Draft
from sbh_pipelines.database.capture.changes import MAX_WINDOW, snapshot_xmin
from sbh_pipelines.database.schema.definition import VOLATILE
from sbh_pipelines.errors import CorruptObject, UnknownBackup
from sbh_pipelines.files.listing import is_settled, made_exactly
from sbh_pipelines.model import BackupId, BackupType, RecoveryPoint, parse_timestamp, timestamp
from sbh_pipelines.repository.format import FILES, Keys, pack_id_of
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.stores.base import ObjectInfo


@dataclass(frozen=True, slots=True)
class Parent:
    """A backup to build on, with what its documents say of its tables."""

    id: BackupId
    point: RecoveryPoint
    tables: Mapping[str, TableSummary]  # by full name
    reference_keys: Sequence[str]


def find_parent(repository: Repository, kind: BackupType, now: RecoveryPoint) -> tuple[Parent | None, str]:
    """The newest backup (for a differential: the newest full) that can be read and is not younger than `now`.

    Without one: None, and why a full backup is made instead. The repository's index must be loaded.
    """
    if repository.lost or any(pack_id_of(damage.key.removeprefix(Keys.PACKS)) for damage in repository.damages):
        # What is missing must be stored anew, which only reading everything does.
        return None, "the repository has lost packs: everything is read again"
    latest = read_latest(repository)
    for backup_id in _candidates(repository, kind):
        if latest is not None and backup_id == latest.id and not _is_later(latest.point, now):
            return _parent(backup_id, latest.point, [latest.components[name] for name in WITH_TABLES]), ""
        try:
            manifest = read_manifest(repository, backup_id)
            point = manifest.recovery_point
            if manifest.is_recovered:
                continue  # the server never was what it says
            if _is_later(point, now):
                continue  # made while we waited for the lease
            components = [read_component(repository, manifest, name) for name in WITH_TABLES]
        except (CorruptObject, UnknownBackup):
            continue
        return _parent(backup_id, point, components), ""
    wanted = "full backup" if kind is BackupType.DIFFERENTIAL else "backup"
    return None, f"the tenant has no {wanted} to build on"


def _is_later(point: RecoveryPoint, now: RecoveryPoint) -> bool:
    return point.system_identifier == now.system_identifier and point.time > now.time


def _parent(backup_id: BackupId, point: RecoveryPoint, components: Sequence[Component]) -> Parent:
    tables = {summary.table: summary for component in components for summary in component.tables}
    return Parent(backup_id, point, tables, components[0].reference_keys)


def _candidates(repository: Repository, kind: BackupType) -> list[BackupId]:
    """Newest first; which backups are full ones is known without reading all manifests."""
    if kind is BackupType.DIFFERENTIAL:
        sound = read_backups(repository).sound.values()
        return sorted((summary.id for summary in sound if summary.full), reverse=True)
    return sorted(repository.seen_ids(), reverse=True)


def incomparable(before: RecoveryPoint, now: RecoveryPoint) -> str | None:
    """Why rows written since `before` cannot be told by their `xmin`; None where they can."""
    if before.system_identifier != now.system_identifier:
        return "the database cluster is another one (system identifier)"
    if before.database != now.database:
        return "the database has another name"
    if before.timeline != now.timeline:
        return f"the server was promoted or restored since (timeline {before.timeline}, now {now.timeline})"
    if _position(now.lsn) < _position(before.lsn):
        return "the server's log went back: its disk was reset to an earlier state"
    distance = snapshot_xmin(now.snapshot) - snapshot_xmin(before.snapshot)
    if distance < 0:
        return "the server's transaction counter went back"
    if distance > MAX_WINDOW:
        return f"{distance:,} transactions have gone by since the backup it builds on"
    if _shows_more(before.snapshot, now.snapshot):
        return "the backup it builds on was made from a later snapshot"
    if before.started != now.started:
        return "the server was restarted or recovered from a crash since: transaction ids may have been given out again"
    return None


def incomparable_table(then: TableSummary | None, definition: str, seed_id: str) -> str | None:
    """Why what the backup says of a table does not compare with the table as it is now; None where it does."""
    if then is None:
        return "it was not in the backup it builds on"
    if then.key_hash is None:
        return "the backup it builds on was made by an older release"
    if then.seed != seed_id:
        return "the catalog of the region is a new one: hashes of keys do not compare"
    if VOLATILE in (definition, then.definition):
        return "changes in it do not show: a column's text depends on the catalogue, or rows have no transaction ids"
    if definition != then.definition:
        return "its definition changed"
    return None


def _shows_more(before: str, now: str) -> bool:
    """Whether a transaction had ended at `before` that had not at `now`.

    Two backups may take their snapshots in another order than they begin and end, and what was committed asynchronously in between
    shows in neither the times nor the position in the log.
    """
    (before_xmin, before_xmax, before_running), (_, now_xmax, now_running) = _parts(before), _parts(now)
    if before_xmax > now_xmax:
        return True
    if before_xmin < before_xmax and not before_running:
        return False  # taken on a standby, which gives no list
    return any(xid < before_xmax and xid not in before_running for xid in now_running)


def _parts(snapshot: str) -> tuple[int, int, set[int]]:
    xmin, xmax, running = snapshot.split(":")
    return int(xmin), int(xmax), {int(xid) for xid in running.split(",") if xid}


def _position(lsn: str) -> int:
    high, low = lsn.split("/")
    return int(high, 16) << 32 | int(low, 16)


@dataclass(frozen=True, slots=True)
class ParentFiles:
    """The parent's list of files."""

    repository: Repository
    component: Component
    listed_at: datetime  # no later than its listing
    in_directory: bool  # whether ETags are of inode, time and size, and not of the content

    @property
    def exact(self) -> bool:
        """Whether the quick listing did not do for it."""
        return made_exactly(self.component.listing or "")

    def same(
        self, listed: Iterator[ObjectInfo], prefix: str, unlisted: Callable[[str], None] | None = None
    ) -> Iterator[tuple[ObjectInfo, bytes | None]]:
        """Each listed file with its line of the parent's list, or None where it must be read. Both in order of the path.

        `unlisted` is told the paths of the parent's list that are not listed. A file is the same if size, ETag and modified
        time are, and if everything that was stored of it is still there: what was lost since is read again. So is what the lost
        part of a damaged list said.
        """
        lines = list_lines(self.repository, self.component, lambda _: None)
        fields, line, at = _next(lines)
        for info in listed:
            path = info.key[len(prefix) :].encode("utf-8", "surrogatepass")
            while at is not None and at < path:
                if unlisted is not None:
                    unlisted(fields["path"])
                fields, line, at = _next(lines)
            yield info, line if at == path and self._is_same(fields, info) else None
            if at == path:
                fields, line, at = _next(lines)
        while unlisted is not None and at is not None:
            unlisted(fields["path"])
            fields, line, at = _next(lines)

    def _is_same(self, fields: Mapping[str, Any], info: ObjectInfo) -> bool:
        then = (fields.get("size"), fields.get("etag"), fields.get("modified"))
        if then != (info.size, info.etag, timestamp(info.modified)):
            return False
        if self.in_directory and not is_settled(info.modified, self.listed_at):
            return False
        return all(self.repository.index.find(bytes.fromhex(chunk)) for chunk in fields["chunks"])


def _next(lines: Iterator[tuple[dict[str, Any], bytes]]) -> tuple[Mapping[str, Any], bytes, bytes | None]:
    """(fields, line, path as bytes) of the next file of a list; the path is None at the end."""
    for fields, line in lines:
        if isinstance(path := fields.get("path"), str):
            return fields, line, path.encode("utf-8", "surrogatepass")
    return {}, b"", None


def parent_files(repository: Repository, draft: Draft, *, in_directory: bool) -> tuple[ParentFiles | None, str]:
    """What the draft can build on. None for a full backup, and where the parent cannot be read: then with the reason."""
    if draft.type is BackupType.FULL or draft.parent is None:
        return None, ""
    latest = read_latest(repository)
    try:
        if latest is not None and latest.id == draft.parent:
            component, created_at = latest.components[FILES], latest.created_at
        else:
            manifest = read_manifest(repository, draft.parent)
            component, created_at = read_component(repository, manifest, FILES), manifest.created_at
    except (CorruptObject, UnknownBackup) as error:
        return None, f"the file list of {draft.parent} cannot be read: {error.what}"
    listed_at = parse_timestamp(component.listed_at or created_at)
    return ParentFiles(repository, component, listed_at, in_directory), ""
