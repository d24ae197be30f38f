"""Backups that a moment can be put together from, the newest first.

A backup describes its tenant at its own instant, and again at the latest one at which a tick found nothing changed since: what the
journal says after that is enough.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from sbh_pipelines.backup.contents.backup_list import read_backups
from sbh_pipelines.backup.contents.manifest import WITH_TABLES, Component, Manifest
from sbh_pipelines.backup.contents.manifests import read_component, read_manifest
from sbh_pipelines.backup.contents.ownership import is_own
from sbh_pipelines.backup.contents.summary import BackupSummary
from sbh_pipelines.backup.contents.verification import verify_backup
from sbh_pipelines.backup.create.moment.way.target import Target
from sbh_pipelines.backup.journal.view.unchanged import unchanged_at
from sbh_pipelines.backup.journal.window.snapshot import Snapshot
from sbh_pipelines.errors import CorruptObject, UnknownBackup
from sbh_pipelines.model import RecoveryPoint, parse_timestamp
from sbh_pipelines.repository.catalog.records import TenantRecord
from sbh_pipelines.repository.journal.segments.changes import parse_lsn
from sbh_pipelines.repository.journal.segments.names import Incarnation
from sbh_pipelines.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class Base:
    """A backup to start from.

    Attributes:
        manifest: Its manifest.
        point: The instant it describes: its own, or a later one at which the tenant was the same.
        snapshot: Which transactions it shows.
        components: Its components with tables, by name; none before it is `opened`.
    """

    manifest: Manifest
    point: RecoveryPoint
    snapshot: Snapshot
    components: Mapping[str, Component] = field(default_factory=dict)

    @property
    def definitions(self) -> dict[str, str | None]:
        """Of its tables, by full name."""
        return {table.table: table.definition for part in self.components.values() for table in part.tables}

    @property
    def lsn(self) -> int:
        """Where the log was then; 0 where the server does not say it."""
        return parse_lsn(self.point.lsn)

    def is_of(self, incarnation: Incarnation) -> bool:
        """Whether the journal's incarnation is of the server that it was taken from."""
        same = int(self.point.system_identifier) == incarnation.system_id
        return same and self.point.timeline == incarnation.timeline


def bases(
    repository: Repository, tenant_key: str, target: Target, record: TenantRecord | None = None
) -> Iterator[Base]:
    """The tenant's own backups, not made for a restore, not later than the target's time; the newest first.

    `record`: what the catalog says of the tenant. Whether what they need is there is for `opened` to find out.
    """
    sound = [one for one in read_backups(repository).sound.values() if not one.aside]
    found: list[tuple[str, BackupSummary, RecoveryPoint | None]] = [
        (time, one, None) for one in sound if (time := _point_of(one))
    ]
    if (same := unchanged_at(record, tenant_key)) is not None and record is not None:
        found += [(same.time, one, same) for one in sound if one.id == record.backup_id]
    in_time = (one for one in found if target.time is None or parse_timestamp(one[0]) <= target.time)
    for _, summary, later in sorted(in_time, key=lambda one: (one[0], one[1].id), reverse=True):
        try:
            manifest = read_manifest(repository, summary.id)
            point = later or manifest.recovery_point
            snapshot = Snapshot.parse(point.snapshot)
            if snapshot.of_standby or not is_own(repository, manifest, tenant_key, live=True):
                continue
        except (CorruptObject, UnknownBackup, KeyError, TypeError, ValueError):
            continue  # one that says too little is no better than one that is damaged
        yield Base(manifest, point, snapshot)


def opened(repository: Repository, base: Base) -> Base | None:
    """With its components; None where not all that it needs is there. The repository's index must be loaded."""
    if verify_backup(repository, base.manifest, deep=False, own_only=True).issues:
        return None
    return replace(base, components={name: read_component(repository, base.manifest, name) for name in WITH_TABLES})


def _point_of(summary: BackupSummary) -> str:
    """Empty where it is not known."""
    point = summary.figures.point if summary.figures is not None else None
    return point or ""
