"""The backup before a restore in place, made at the very snapshot that the restore compares with, so that it can be undone.

It is an incremental one: of a tenant that was backed up within the hour it costs little. A pin keeps it from being forgotten
while an undo is likely.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from sbh_pipelines.backup.contents.manifests import read_manifest
from sbh_pipelines.backup.create.draft import Draft
from sbh_pipelines.backup.create.drafts import OpenDrafts, new_draft
from sbh_pipelines.backup.create.files.files_step import enumerate_files
from sbh_pipelines.backup.create.publish import verify_checksums, write_manifest
from sbh_pipelines.backup.create.snapshot_step import snapshot_tables
from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.retain.holds import place_term
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.session.connection import Connection
from sbh_pipelines.database.session.snapshot import on_snapshot
from sbh_pipelines.errors import NotPrimary, SbhError
from sbh_pipelines.model import SAFETY, BackupId, BackupType, ProgressSink, RecoveryPoint, RestoreId, Tenant
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class SafetyBackup:
    """The backup that undoes a restore.

    Attributes:
        id: Its id.
        type: Its type; None where its manifest cannot be read.
    """

    id: BackupId
    type: str | None


class _Lent(OpenDrafts):
    """A workshop under the restore's lease and at the restore's snapshot."""

    def __init__(self, site: Site, held: leases.Lease, snapshot_id: str, point: RecoveryPoint) -> None:
        super().__init__(site)
        self._held, self._snapshot_id, self._point = held, snapshot_id, point

    def take(self, draft: Draft, released: leases.ReleasedLease | None = None) -> leases.Lease:
        return self.lease(draft)

    def rename(self, draft: Draft) -> None:
        self.lease(draft)

    def lease(self, draft: Draft) -> leases.Lease:
        self._held.renew_if_due()
        self._since.setdefault(draft.lease_owner, time.monotonic())
        return self._held

    def all_leases(self) -> list[leases.Lease]:
        return [self._held]

    def end(self, draft: Draft) -> None:
        if repository := self._repositories.pop(draft.lease_owner, None):
            repository.close()

    @contextmanager
    def snapshot(self) -> Iterator[tuple[str, RecoveryPoint, Connection]]:
        with on_snapshot(self.site.settings.database, self._snapshot_id) as connection:
            yield self._snapshot_id, self._point, connection


def is_wanted(site: Site, request: RestoreRequest) -> bool:
    """Whether the request, or where it does not say the settings, want one."""
    return site.settings.restore.safety_backup if request.safety_backup is None else request.safety_backup


def refusal_at_copy(site: Site, tenant: Tenant, request: RestoreRequest, *, in_place: bool) -> NotPrimary | None:
    """Why a restore in place from a copy does not begin: it would need a safety backup there. None where it may."""
    if site.copy_name is None or not in_place or not is_wanted(site, request):
        return None
    return NotPrimary(
        "No safety backup is made at a copy",
        on=f"{tenant.id}, the copy {site.copy_name}",
        why="a copy takes no backups, it holds those that are brought there: a restore from it cannot be undone with"
        " `sbh restore undo`",
        remedy="read what it would do, keep what is there now in another way if you need it (`pg_dump`), and go on without:"
        " `--no-safety-backup` (CLI), `safety_backup: false` (API, Dagster)",
    )


def safety_backup(
    site: Site,
    repository: Repository,
    tenant: Tenant,
    requested_by: str,
    held: leases.Lease,
    snapshot_id: str,
    point: RecoveryPoint,
    restore_id: RestoreId,
    progress: ProgressSink,
) -> SafetyBackup:
    """The backup that holds the tenant as it is at the snapshot: a new one, or the one that still describes it.

    `repository` is the restore's; the new backup is written through an opening of its own.
    Raises what made it fail; nothing has been restored then.
    """
    open_drafts = _Lent(site, held, snapshot_id, point)
    # Not looked up in the table of tenants: the tenant's own row may be what was lost.
    fresh = new_draft(tenant, requested_by, BackupType.INCREMENTAL, f"before {restore_id}", site.clock())
    drafts = [replace(fresh, purpose=SAFETY)]
    try:
        drafts = snapshot_tables(open_drafts, drafts, progress)
        drafts = enumerate_files(open_drafts, drafts, progress)
        drafts = write_manifest(open_drafts, drafts)
        (draft,) = verify_checksums(open_drafts, drafts, progress)
        if draft.error is not None:
            raise draft.error
        made = SafetyBackup(draft.backup_id, draft.type)
        if draft.unchanged_since is not None:
            made = SafetyBackup(draft.unchanged_since, _type_of(repository, draft.unchanged_since))
    finally:
        for draft in drafts:
            open_drafts.end(draft)
    until = site.clock() + timedelta(days=site.settings.restore.keep_safety_days)
    place_term(repository, made.id, f"undoes {restore_id}", requested_by, site.clock, until)
    return made


def _type_of(repository: Repository, backup_id: BackupId) -> str | None:
    """Only told to people: a manifest that cannot be read must not keep a tenant from being restored."""
    try:
        return read_manifest(repository, backup_id).type
    except SbhError:
        return None
