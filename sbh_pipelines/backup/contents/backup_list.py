"""What backups a tenant has, at the cost of a constant number of requests.

`manifests/` says which backups there are. What retention must know of each is kept in one signed document, `listing.json`,
so that only manifests it does not name are read. It is a cache and never believed about what exists: missing, damaged or
forged, it is made anew from the manifests. What the next backup needs of the newest one is in it as well, sealed: so building on
that costs no request for its manifest and its documents. So is where the audit trail ended, which costs none for its head.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Self

from sbh_pipelines.backup.contents.manifest import Component, Manifest
from sbh_pipelines.backup.contents.summary import BackupSummary
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.errors import CorruptObject, FormatUnsupported, ObjectMissing, UnknownBackup
from sbh_pipelines.model import BackupId, RecoveryPoint
from sbh_pipelines.repository.documents import open_private, read_signed, signed
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.repository.trail.end import HeadSeen

_KIND = "listing"
_PACK_ID = 8  # bytes of a pack's id that name it here
_MOST_PACKS = 500
_INDEX_BYTES = 16 << 10
_CHUNK_BYTES = 16 << 10
_MALFORMED = KeyError, TypeError, ValueError, AttributeError


@dataclass(frozen=True, slots=True)
class LatestBackup:
    """What the next backup needs of the newest one.

    Attributes:
        id: Its id.
        etag: Of its manifest when that was published: while the store lists this one, it is the manifest that is spoken of.
        created_at: As in the manifest.
        point: Its recovery point.
        components: Its components, as their documents have them.
        packs: Beginnings, in hex, of the ids of the packs that its verification found. While all are there, all of it is.
        index: What small index objects said then, by key below the prefix: objects of a name never change.
        chunks: Details and sums of tables that changed in it, by chunk id: those that change often need not be fetched.
    """

    id: BackupId
    etag: str
    created_at: str
    point: RecoveryPoint
    components: Mapping[str, Component]
    packs: frozenset[str]
    index: Mapping[str, bytes]
    chunks: Mapping[bytes, bytes] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        components: Mapping[str, Component],
        etag: str,
        repository: Repository,
        at_hand: Mapping[bytes, bytes],
    ) -> Self | None:
        """`repository` is the view that it was verified in; `at_hand` are chunks of the backup before. None where the manifest's
        ETag is not known, or there are too many packs to name.
        """
        packs = frozenset(pack[:_PACK_ID].hex() for pack in repository.index.packs())
        if not etag or manifest.is_recovered or len(packs) > _MOST_PACKS:
            return None
        room, index = _INDEX_BYTES, {}
        for name, body in sorted(repository.small_index.items(), key=lambda one: len(one[1])):
            room -= len(body)
            if room >= 0:
                index[name] = body
        chunks = _at_hand(components, repository, at_hand)
        return cls(manifest.id, etag, manifest.created_at, manifest.recovery_point, components, packs, index, chunks)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Raises KeyError, TypeError, ValueError, AttributeError."""
        components = {name: Component.from_dict(part) for name, part in fields["components"].items()}
        point = RecoveryPoint.from_dict(fields["point"])
        packs = frozenset(map(str, fields["packs"]))
        index = {str(name): bytes.fromhex(body) for name, body in fields["entries"].items()}
        chunks = {bytes.fromhex(chunk): text.encode("ascii") for chunk, text in fields["lines"].items()}
        chunks |= {bytes.fromhex(chunk): bytes.fromhex(body) for chunk, body in fields["sums"].items()}
        etag, created_at = str(fields["etag"]), str(fields["created_at"])
        return cls(BackupId(fields["id"]), etag, created_at, point, components, packs, index, chunks)

    def as_dict(self) -> dict[str, object]:
        """Ids of chunks are in hex everywhere and lines of JSON are themselves, so that in the sealed whole each is compressed to
        where it was met before.
        """
        lines = {chunk: plain.decode("ascii") for chunk, plain in self.chunks.items() if plain.isascii()}
        return {
            "id": self.id,
            "etag": self.etag,
            "created_at": self.created_at,
            "point": asdict(self.point),
            "components": {name: component.as_dict() for name, component in self.components.items()},
            "packs": sorted(self.packs),
            "lines": {chunk.hex(): text for chunk, text in lines.items()},
            "sums": {chunk.hex(): plain.hex() for chunk, plain in self.chunks.items() if chunk not in lines},
            "entries": {name: body.hex() for name, body in self.index.items()},
        }

    def is_newest(self, repository: Repository) -> bool:
        """Whether its manifest is what was listed when the index was loaded."""
        return repository.inventory.etag_of(Keys.manifest(self.id)) == self.etag

    def details(self, repository: Repository) -> frozenset[str]:
        """Chunks of its details, if all packs in which it was found are there: whatever hangs on them is there, too.

        A pack's name is the digest of its content, and no chunk is lost but with its pack; one that a prune took out of use counts
        as gone. The repository's index must be loaded.
        """
        if repository.lost or repository.damages or repository.marked_damaged:
            return frozenset()
        if not self.packs <= {pack[:_PACK_ID].hex() for pack in repository.index.packs()}:
            return frozenset()
        parts = self.components.values()
        details = [*(part.detail for part in parts), *(table.detail for part in parts for table in part.tables)]
        return frozenset(chunk for detail in details for chunk in detail)


def _at_hand(
    components: Mapping[str, Component], repository: Repository, before: Mapping[bytes, bytes]
) -> dict[bytes, bytes]:
    """What the next backup will want of the tables that changed in this one, if it changes them again."""
    found: dict[bytes, bytes] = {}
    room = _CHUNK_BYTES
    for table in (table for part in components.values() for table in part.tables):
        for chunk in map(bytes.fromhex, (*table.detail[:1], *table.sums)):
            plain = repository.written.chunk(chunk)
            if plain is None:
                plain = before.get(chunk)
            if plain is not None and len(plain) <= room and chunk not in found:
                found[chunk] = plain
                room -= len(plain)
    return found


@dataclass(frozen=True, slots=True)
class Backups:
    """`damaged` are those whose manifest cannot be read; `cached` and `latest` are what `listing.json` held."""

    sound: Mapping[BackupId, BackupSummary]
    damaged: Mapping[BackupId, CorruptObject]
    cached: Mapping[BackupId, BackupSummary]
    latest: LatestBackup | None = None

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
        kept = {i: d for i, d in {**self.damaged, **damage}.items() if i not in lost}
        return replace(self, sound=left, damaged=kept)


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
    first = own is not None and there == [own.id]  # of the first backup there is nothing to read
    listing = _Listing() if first else _read_listing(repository)
    known = {**listing.backups, **({own.id: own} if own else {})}

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
        listing.backups,
        listing.latest,
    )


def read_latest(repository: Repository) -> LatestBackup | None:
    """What `listing.json` says of the newest backup; None where that is not what was listed when the index was loaded."""
    latest = _read_listing(repository).latest
    return latest if latest is not None and latest.is_newest(repository) else None


def read_head_seen(repository: Repository) -> HeadSeen | None:
    """What `listing.json` says of the head of the tenant's audit trail; it may have moved since."""
    return _read_listing(repository).head


@dataclass(frozen=True, slots=True)
class _Listing:
    """What `listing.json` says."""

    backups: Mapping[BackupId, BackupSummary] = field(default_factory=dict)
    latest: LatestBackup | None = None
    head: HeadSeen | None = None


def _read_listing(repository: Repository) -> _Listing:
    """Read once by each view of a repository."""
    if not isinstance(repository.listing, _Listing):
        missing = repository.inventory.lacks(Keys.LISTING)
        repository.listing = _Listing() if missing else _listing_of(repository)
    return repository.listing


def _listing_of(repository: Repository) -> _Listing:
    try:
        fields = read_signed(repository, Keys.LISTING, _KIND)
        entries = fields.get("backups")
        # An entry of an earlier release lacks figures: its backup is read once more, and written with them.
        listed = entries if isinstance(entries, list) else []
        known = [entry for entry in listed if isinstance(entry, dict) and "missing" in entry.get("figures", {})]
        found = [BackupSummary.from_dict(entry) for entry in known]
    except (ObjectMissing, CorruptObject):
        return _Listing()
    latest, head, private = None, None, dict[str, Any]()
    with suppress(CorruptObject, FormatUnsupported):
        private = open_private(repository, Keys.LISTING, fields)
    with suppress(*_MALFORMED):
        latest = LatestBackup.from_dict(private["latest"])
    with suppress(*_MALFORMED):
        head = HeadSeen.from_dict(private["head"])
    return _Listing({summary.id: summary for summary in found}, latest, head)


def write_listing(
    repository: Repository, backups: Backups, latest: LatestBackup | None = None, head: HeadSeen | None = None
) -> None:
    """Store the sound ones, if that is not what is stored already; `latest` is one that was made just now.

    `head`: of the audit trail, as it is now.
    """
    if backups.sound != backups.cached or latest is not None:
        oldest_first = sorted(backups.sound.values(), key=lambda summary: summary.id)
        fields = {"backups": [summary.as_listed() for summary in oldest_first]}
        kept = latest or backups.latest
        private = {"latest": kept.as_dict()} if kept is not None and kept.id in backups.sound else {}
        private |= {"head": head.as_dict()} if head is not None else {}
        body = signed(repository, _KIND, fields, Keys.LISTING, private)
        repository.store.put(repository.prefix + Keys.LISTING, body)
