"""What a restore did, and the proof of it. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass

from sbh_pipelines.backup.contents.moment_facts import MomentFacts
from sbh_pipelines.backup.restore.plan import LeftBehind
from sbh_pipelines.backup.restore.request import Scope
from sbh_pipelines.database.merge.fit.columns import SchemaDifference
from sbh_pipelines.document import optional, unshown
from sbh_pipelines.errors import SbhError


@dataclass(frozen=True, slots=True)
class TableResult:
    """What happened to one table.

    Attributes:
        table: `schema.table`.
        rows: the tenant's rows in the backup.
        groups: row groups in the backup.
        groups_matching: of those, found equal to live rows.
        inserted: rows that came back.
        updated: rows that were changed.
        deleted: rows that went.
        kept: live rows that differ from the backup's and stayed, as the mode says.
    """

    table: str
    rows: int
    groups: int
    groups_matching: int
    inserted: int
    updated: int
    deleted: int
    kept: int


@dataclass(frozen=True, slots=True)
class RowsProven:
    """What was read back before the commit.

    Attributes:
        groups: row groups found to have the backup's chunk ids.
        rows: rows found to be what was staged.
        foreign_keys: keys found to hold.
    """

    groups: int
    rows: int
    foreign_keys: int


@dataclass(frozen=True, slots=True)
class Proof(RowsProven):
    """What proves a restore.

    Attributes:
        files: files read back, with the backup's size and hash.
    """

    files: int


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What a restore did.

    Attributes:
        restore_id: the restore.
        backup_id: what was restored; `@` and a moment where that was put together of a copy for the restore alone.
        tenant_id: whose rows and files.
        status: completed.
        mode: exact, missing-only or newest-wins.
        scope: what of the tenant.
        target: `in place`, or the other database.
        safety_backup_id: the backup that undoes it; None where there is none.
        tables: what happened to each table.
        rows_inserted: rows of all tables that came back.
        rows_updated: rows that were changed.
        rows_deleted: rows that went.
        rows_kept: live rows that differ from the backup's and stayed.
        files_restored: files that were written.
        files_removed: files that went.
        files_unchanged: files that were as the backup has them.
        files_kept: files that differ from the backup's, or that it does not have, and stayed.
        files_kept_extra: of those, the ones that the backup does not have.
        bytes_downloaded: read from the repository.
        recovery_point: the instant that the backup describes.
        schema: how the schema differs from the backup's.
        proof: what was read back.
        finished_at: time of the end, UTC.
        seconds: s.
        audit_error: why its end is not on record, where it could not be written; what is restored stays.
        backup_type: type of the backup that was restored.
        safety_backup_type: type of the backup that undoes it; None where there is none, or its manifest cannot be read.
        kept: what of `restore.kept` is in the scope, and stayed as it was: `schema.table.*`, `schema.table.column`.
        moment: of a backup that was put together for a moment of the past: how, and what is not sure of it.
        from_copy: the copy whose backup it was; None for one of the place where backups are made.
        left_behind: tables that were not chosen, and lack rows which went with those that came back.
    """

    restore_id: str
    backup_id: str
    tenant_id: str
    status: str
    mode: str
    scope: Scope
    target: str
    safety_backup_id: str | None
    tables: tuple[TableResult, ...]
    rows_inserted: int
    rows_updated: int
    rows_deleted: int
    rows_kept: int
    files_restored: int
    files_removed: int
    files_unchanged: int
    files_kept: int
    files_kept_extra: int
    bytes_downloaded: int
    recovery_point: Mapping[str, object]
    schema: tuple[SchemaDifference, ...]
    proof: Proof
    finished_at: str
    seconds: float
    audit_error: SbhError | None = optional()
    backup_type: str = unshown()
    safety_backup_type: str | None = unshown()
    kept: tuple[str, ...] = ()
    moment: MomentFacts | None = optional()
    from_copy: str | None = optional()
    left_behind: tuple[LeftBehind, ...] = ()

    @property
    def undoable(self) -> bool:
        """Whether something was changed, and there is a backup from before it."""
        rows = self.rows_inserted or self.rows_updated or self.rows_deleted
        return bool(self.safety_backup_id and (rows or self.files_restored or self.files_removed))
