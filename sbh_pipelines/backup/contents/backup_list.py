"""What backups a tenant has, at the cost of a constant number of requests.

`manifests/` says which backups there are. What retention must know of each is kept in one signed document, `listing.json`,
so that only manifests it does not name are read. It is a cache and never believed about what exists: missing, damaged or
forged, it is made anew from the manifests.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sbh_pipelines.backup.contents.summary import BackupSummary
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.errors import CorruptObject, ObjectMissing, UnknownBackup
from sbh_pipelines.model import BackupId
from sbh_pipelines.repository.documents import read_signed, signed
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.repository.repository import Repository

_KIND = "listing"


@dataclass(frozen=True, slots=True)
class Backups:
    """`damaged` are those whose manifest cannot be read; `cached` is what `listing.json` held."""

    sound: Mapping[BackupId, BackupSummary]
    damaged: Mapping[BackupId, CorruptObject]
    cached: Mapping[BackupId, BackupSummary]

    @property
    def newest(self) -> datetime:
        """When the newest one was made; long ago where there are none. One put together for a moment of the past never is it."""
        found = (s.created_at for s in self.sound.values() if not s.recovered)
        return max(found, default=datetime.min.replace(tzinfo=UTC))

    @property
    def newest_id(self) -> BackupId | None:
        """Which it is."""
        found = [(s.created_at, s.id) for s in self.sound.values() if not s.recovered]
        return max(found)[1] if found else None

    def without(self, gone: Iterable[BackupId], damage: Mapping[BackupId, CorruptObject]) -> "Backups":
        """The same once some turned out to be gone or damaged."""
        lost = set(gone)
        left = {i: s for i, s in self.sound.items() if i not in damage and i not in lost}
        return Backups(left, {i: d for i, d in {**self.damaged, **damage}.items() if i not in lost}, self.cached)


def read_backups(
    repository: Repository, own: BackupSummary | None = None, ids: Iterable[BackupId] | None = None
) -> Backups:
    """Two requests, and one for each manifest that is not cached; `own` is a backup just made, which need not be read, nor be
    among `ids`, those of all others, where they are known.

    What the repository says is another tenant's, who had the slug before, is left out: no policy counts it, and none drops it.
    """
    others = repository.owner.others if repository.owner is not None else ()
    listed = {*(repository.manifest_ids() if ids is None else ids), *([own.id] if own and ids is not None else ())}
    there = sorted(backup_id for backup_id in listed if backup_id not in others)
    cached = (
        _read_listing(repository) if there != [own and own.id] else {}
    )  # of the first backup there is nothing to read
    known = {**cached, **({own.id: own} if own else {})}

    def read(backup_id: BackupId) -> BackupSummary | CorruptObject | None:
        try:
            return BackupSummary.from_dict(repository.manifest(backup_id))
        except CorruptObject as damage:
            return damage
        except UnknownBackup:
            return None  # forgotten since it was listed

    unknown = [backup_id for backup_id in there if backup_id not in known]
    found: dict[BackupId, BackupSummary | CorruptObject | None] = {i: known[i] for i in there if i in known}
    found |= zip(unknown, side_by_side(read, unknown, name="manifests"), strict=True)
    return Backups(
        {i: f for i, f in found.items() if isinstance(f, BackupSummary)},
        {i: f for i, f in found.items() if isinstance(f, CorruptObject)},
        cached,
    )


def _read_listing(repository: Repository) -> dict[BackupId, BackupSummary]:
    try:
        entries = read_signed(repository, Keys.LISTING, _KIND).get("backups")
        # An entry of an earlier release has no figures: its backup is read once more, and written with them.
        listed = entries if isinstance(entries, list) else []
        known = [entry for entry in listed if isinstance(entry, dict) and "figures" in entry]
        found = [BackupSummary.from_dict(entry) for entry in known]
    except (ObjectMissing, CorruptObject):
        return {}
    return {summary.id: summary for summary in found}


def write_listing(repository: Repository, backups: Backups) -> None:
    """Store the sound ones, if that is not what is stored already."""
    if backups.sound != backups.cached:
        oldest_first = sorted(backups.sound.values(), key=lambda summary: summary.id)
        fields = {"backups": [summary.as_listed() for summary in oldest_first]}
        repository.store.put(repository.prefix + Keys.LISTING, signed(repository, _KIND, fields))
