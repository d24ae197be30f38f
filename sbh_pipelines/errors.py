"""Every error this system raises, in one tree.

    SbhError
    ├── SettingsError          SBH-100  sbh.toml or the environment is wrong
    │   ├── TenancyError       SBH-110  a table of the source is not mapped, or not mapped unambiguously
    │   ├── ResidencyError     SBH-120  a write would leave the tenant's allowed regions
    │   ├── PoolerRefused      SBH-130  a pooler shares the database's sessions among its clients
    │   └── UnsafeProgram      SBH-131  a program of PostgreSQL's with a known hole
    ├── RequestError           SBH-200  the caller asked for something that cannot be
    │   ├── InvalidId          SBH-201  a tenant or backup id is malformed
    │   ├── UnknownTenant      SBH-202
    │   ├── UnknownBackup      SBH-203
    │   ├── UnknownRestore     SBH-204
    │   ├── NotConfirmed       SBH-205  a destructive operation without its confirmation
    │   ├── AccessDenied       SBH-206  the role or the tenant of the caller does not allow it
    │   ├── ForgetRefused      SBH-207  the backup is pinned, held, the last full one or the newest
    │   ├── UnknownHold        SBH-208
    │   ├── Unauthenticated    SBH-209  no token, or one that is not believed
    │   ├── TooManyRequests    SBH-210  (transient) the caller's rate limit
    │   ├── IdempotencyConflict SBH-211 an idempotency key that was used for another request
    │   ├── ApprovalNeeded     SBH-212  a second person has to approve it
    │   ├── EraseRefused       SBH-213  a tenant under legal hold, or not confirmed by its name
    │   ├── TenantErased       SBH-214  the tenant's backups were erased, and it was not admitted again
    │   ├── TookTooLong        SBH-215  (transient) the answer was not there in time
    │   ├── SlugChangedHands   SBH-216  the backup is of the tenant that had the slug before
    │   ├── SlugTaken          SBH-217  the slug's repository is of the tenant that had it before
    │   └── OwnerRefused       SBH-218  a repository that cannot be adopted, retired or erased so
    ├── SourceError            SBH-300  the application's database or its files
    │   ├── SourceUnavailable  SBH-301  (transient) cannot connect, or the connection was lost
    │   ├── PrivilegeMissing   SBH-302
    │   ├── SourceConflict     SBH-303  (transient) concurrent writes, locks, deadlocks
    │   ├── SourceChanged      SBH-304  a file kept changing while it was read
    │   ├── SchemaMismatch     SBH-305  backup and live schema do not fit
    │   ├── UnreadableRow      SBH-306  a row that the server cannot give: damaged, too large, or not in its encoding
    │   └── LookRefused        SBH-307  a schema of copies is too large, or the tenant has one already
    ├── StoreError             SBH-400  the object store
    │   ├── StoreUnavailable   SBH-401  (transient)
    │   ├── ObjectMissing      SBH-402
    │   ├── ObjectExists       SBH-403  a create-only put found the key taken
    │   ├── ObjectChanged      SBH-404  a conditional request found another version
    │   └── StoreDenied        SBH-405
    ├── KeyServiceError        SBH-500  keys cannot be wrapped or unwrapped
    │   ├── KeyServiceUnavailable SBH-501 (transient)
    │   ├── KeyRotationFailed  SBH-502  some keys of a rotation were not wrapped anew; the others were
    │   ├── KeyEpochRolledBack SBH-503  a key object that is older than the newest key epoch was put back
    │   └── KeyUnopened        SBH-504  a wrapped key is damaged, or was wrapped by another key
    ├── RepositoryError        SBH-600  the tenant's repository
    │   ├── CorruptObject      SBH-601  an object is damaged, truncated, swapped or foreign
    │   │   ├── ObjectTooLarge SBH-607  larger than any of its kind: it was not read
    │   │   └── TooManyObjects SBH-608  more under a prefix than there can be of their kind
    │   ├── FormatUnsupported  SBH-602  written by a newer version
    │   ├── LeaseHeld          SBH-603  (transient) another writer works on this tenant
    │   ├── LeaseLost          SBH-604
    │   ├── PruneRefused       SBH-605  what is there is not understood well enough to remove anything
    │   ├── AuditBroken        SBH-606  an event of the audit trail was removed, changed or moved
    │   ├── JournalError       SBH-620  the change journal
    │   │   ├── JournalGap     SBH-621  the journal cannot tell: what happened in between was not written, or is lost
    │   │   ├── MomentOutOfReach SBH-622 no backup and journal together reach the moment that was asked for
    │   │   ├── SlotTrouble    SBH-623  the replication slot is missing, lost, another's, or holds too much of the log
    │   │   ├── NotJournaled   SBH-624  the table has backups only: its changes do not say whose rows they are
    │   │   └── NoRoom         SBH-625  (transient) the disk of temporary files is full
    │   └── CopyError          SBH-640  copies of the backups in a second place
    │       ├── CopyDiverged   SBH-641  an object at the copy is another than here, under a name that never changes
    │       ├── CopyUnverified SBH-642  what is at the copy is not whole, or nothing was found whole there yet
    │       ├── NotPrimary     SBH-643  it is only for the place where backups are made
    │       ├── PrimaryFenced  SBH-644  a copy took over from the place where backups were made
    │       └── NotPromoted    SBH-645  the settings name a primary that was not promoted
    ├── RestoreError           SBH-700
    │   ├── RestoreRefused     SBH-701  the plan found a reason not to begin; nothing was written
    │   │   └── RestoreConflict SBH-703 rows of the backup are in conflict with newer work
    │   ├── ProofFailed        SBH-702  what was written is not what was backed up; rolled back
    │   ├── HookFailed         SBH-704  a hook before or after the restore
    │   ├── DrillFailed        SBH-705  what a drill restored is not what it should be
    │   ├── ExportFailed       SBH-706  the folder of an export cannot be written; nothing is left of it
    │   ├── ReferencesBroken   SBH-707  a recovery is done, and rows of it refer to rows that no backup brought back
    │   ├── KeptAsItIs         SBH-708  a table that restores by the tenant's own users leave as it is
    │   └── RecordUnsigned     SBH-709  nobody vouches for the record of a restore that is to be undone
    ├── EmbeddedError          SBH-800  the embedded servers
    ├── BatchError             SBH-900  some tenants of a batch failed; the others did not
    ├── AlertError             SBH-910  a channel did not take an alert
    ├── HealthError            SBH-930  what a look at the backups found; reported, and raised by nothing
    │   ├── RecoveryPointMissed  SBH-931  a tenant would lose more than its objective allows
    │   ├── LastBackupFailed     SBH-932
    │   ├── UnusualSize          SBH-933  much smaller or larger than the backups before it
    │   ├── RetentionNotEnforced SBH-934  backups are there that the policy no longer keeps
    │   ├── DrillOverdue         SBH-935
    │   ├── RunStuck             SBH-936  a run whose worker is gone, that is over its time, or that says nothing
    │   ├── JournalBehind        SBH-937  what was committed is in no journal for too long
    │   ├── JournalInterrupted   SBH-938  a gap, or a table that the journal stopped telling of
    │   ├── SlotAtRisk           SBH-939  the journal's slot is gone, or about to be dropped
    │   ├── CopyBehind           SBH-940  what was verified at a copy is older than was promised
    │   └── SourceFilesMissing   SBH-941  rows refer to files that were not there when the newest backup was made
    └── OrchestratorError      SBH-920  Dagster refused to launch or cancel a run
        ├── OrchestratorUnavailable SBH-921 (transient)
        └── RequestUnreadable  SBH-923  what a run was asked for was sealed, and does not open

Each error says what failed (`what`), on what (`on`), why (`why`), and what to do next (`remedy`), and carries a stable
`code`, the CLI's `exit_status` and the API's `http_status`. `transient` is true where the same call may succeed later.
Drivers' and SDKs' errors are translated once, at the seam where they arise; they never leak through a face.
"""

import traceback
from collections.abc import Mapping
from typing import Any, ClassVar


class SbhError(Exception):
    """Base of all errors. The four fields must never contain a secret."""

    code: ClassVar[str] = "SBH-000"
    exit_status: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    transient: ClassVar[bool] = False

    kept_as: "SbhError | None" = None
    """What is said in its place where others read it later: it names rows, or other tenants, to whoever asked."""

    def __init__(self, what: str, *, on: str = "", why: str = "", remedy: str = "") -> None:
        super().__init__(what, on, why, remedy)
        self.what, self.on, self.why, self.remedy = what, on, why, remedy

    def __str__(self) -> str:
        text = f"[{self.code}] {self.what}"
        if self.on:
            text += f" ({self.on})"
        if self.why:
            text += f": {self.why}"
        if self.remedy:
            text += f". To mend it: {self.remedy}"
        return text

    @property
    def to_keep(self) -> "SbhError":
        """What records, and runs that others may see, say of it."""
        return self.kept_as or self

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.what, self.on, self.why, self.remedy)

    def as_dict(self) -> dict[str, str | bool]:
        """The error as JSON-ready fields: code, what, on, why, remedy, transient."""
        return {
            "code": self.code,
            "what": self.what,
            "on": self.on,
            "why": self.why,
            "remedy": self.remedy,
            "transient": self.transient,
        }


def _rebuild(kind: type[SbhError], what: str, on: str, why: str, remedy: str) -> SbhError:
    return kind(what, on=on, why=why, remedy=remedy)


class SettingsError(SbhError):
    code, exit_status, http_status = "SBH-100", 3, 500


class TenancyError(SettingsError):
    code = "SBH-110"


class ResidencyError(SettingsError):
    code, http_status = "SBH-120", 403


class PoolerRefused(SettingsError):
    code = "SBH-130"


class UnsafeProgram(SettingsError):
    code = "SBH-131"


class RequestError(SbhError):
    code, exit_status, http_status = "SBH-200", 2, 400


class InvalidId(RequestError):
    code, http_status = "SBH-201", 422


class UnknownTenant(RequestError):
    code, http_status = "SBH-202", 404


class UnknownBackup(RequestError):
    code, http_status = "SBH-203", 404


class UnknownRestore(RequestError):
    code, http_status = "SBH-204", 404


class NotConfirmed(RequestError):
    code, http_status = "SBH-205", 409


class AccessDenied(RequestError):
    code, exit_status, http_status = "SBH-206", 4, 403


class ForgetRefused(RequestError):
    code, http_status = "SBH-207", 409


class UnknownHold(RequestError):
    code, http_status = "SBH-208", 404


class Unauthenticated(RequestError):
    code, exit_status, http_status = "SBH-209", 4, 401


class TooManyRequests(RequestError):
    code, http_status, transient = "SBH-210", 429, True


class IdempotencyConflict(RequestError):
    code, http_status = "SBH-211", 422


class ApprovalNeeded(RequestError):
    code, exit_status, http_status = "SBH-212", 4, 403


class EraseRefused(RequestError):
    code, http_status = "SBH-213", 409


class TenantErased(RequestError):
    code, http_status = "SBH-214", 410


class TookTooLong(RequestError):
    code, http_status, transient = "SBH-215", 503, True


class SlugChangedHands(RequestError):
    code, http_status = "SBH-216", 409


class SlugTaken(RequestError):
    code, http_status = "SBH-217", 409


class OwnerRefused(RequestError):
    code, http_status = "SBH-218", 409


class SourceError(SbhError):
    code, exit_status, http_status = "SBH-300", 5, 502


class SourceUnavailable(SourceError):
    code, http_status, transient = "SBH-301", 503, True


class PrivilegeMissing(SourceError):
    code = "SBH-302"


class SourceConflict(SourceError):
    code, http_status, transient = "SBH-303", 409, True


class SourceChanged(SourceError):
    code, transient = "SBH-304", True


class SchemaMismatch(SourceError):
    code, http_status = "SBH-305", 409


class UnreadableRow(SourceError):
    """`cause`: `large`, `damaged` on the server's disk, or `encoding`; a large row has lost nothing."""

    code = "SBH-306"
    cause = "large"


class LookRefused(SourceError):
    code, http_status = "SBH-307", 409


class StoreError(SbhError):
    code, exit_status, http_status = "SBH-400", 6, 502


class StoreUnavailable(StoreError):
    code, http_status, transient = "SBH-401", 503, True


class ObjectMissing(StoreError):
    code = "SBH-402"


class ObjectExists(StoreError):
    code = "SBH-403"


class ObjectChanged(StoreError):
    code = "SBH-404"


class StoreDenied(StoreError):
    code = "SBH-405"


class KeyServiceError(SbhError):
    code, exit_status, http_status = "SBH-500", 7, 502


class KeyServiceUnavailable(KeyServiceError):
    code, http_status, transient = "SBH-501", 503, True


class KeyRotationFailed(KeyServiceError):
    """Some keys of a rotation were not wrapped anew. `report` says which, and what was done for the others."""

    code = "SBH-502"
    report: Any = None  # of rotation, which errors know nothing of


class KeyUnopened(KeyServiceError):
    """The key service, or the key file, answered that it did not wrap this: it is damaged, or another's."""

    code, http_status = "SBH-504", 409


class KeyEpochRolledBack(KeyServiceError):
    code, http_status = "SBH-503", 409


class RepositoryError(SbhError):
    code, exit_status, http_status = "SBH-600", 8, 500


class CorruptObject(RepositoryError):
    code = "SBH-601"


class ObjectTooLarge(CorruptObject):
    code = "SBH-607"


class TooManyObjects(CorruptObject):
    code = "SBH-608"


class FormatUnsupported(RepositoryError):
    code = "SBH-602"


class LeaseHeld(RepositoryError):
    code, http_status, transient = "SBH-603", 409, True


class LeaseLost(RepositoryError):
    code = "SBH-604"


class PruneRefused(RepositoryError):
    code, http_status = "SBH-605", 409


class AuditBroken(RepositoryError):
    code = "SBH-606"


class JournalError(RepositoryError):
    code = "SBH-620"


class JournalGap(JournalError):
    code, http_status = "SBH-621", 409


class MomentOutOfReach(JournalError):
    code, http_status = "SBH-622", 409


class SlotTrouble(JournalError):
    code = "SBH-623"


class NotJournaled(JournalError):
    code, http_status = "SBH-624", 409


class NoRoom(JournalError):
    code, http_status, transient = "SBH-625", 503, True


class CopyError(RepositoryError):
    code, http_status = "SBH-640", 502


class CopyDiverged(CopyError):
    code, http_status = "SBH-641", 409


class CopyUnverified(CopyError):
    code = "SBH-642"


class NotPrimary(CopyError):
    code, http_status = "SBH-643", 409


class PrimaryFenced(CopyError):
    code, http_status = "SBH-644", 409


class NotPromoted(CopyError):
    code, http_status = "SBH-645", 409


class RestoreError(SbhError):
    code, exit_status, http_status = "SBH-700", 9, 500


class RestoreRefused(RestoreError):
    code, http_status = "SBH-701", 409


class ProofFailed(RestoreError):
    code = "SBH-702"


class RestoreConflict(RestoreRefused):
    code = "SBH-703"


class HookFailed(RestoreError):
    code, http_status = "SBH-704", 502


class DrillFailed(RestoreError):
    code = "SBH-705"


class ExportFailed(RestoreError):
    code = "SBH-706"


class ReferencesBroken(RestoreError):
    code, http_status = "SBH-707", 409


class KeptAsItIs(RestoreError):
    code, http_status = "SBH-708", 403


class RecordUnsigned(RestoreError):
    code, http_status = "SBH-709", 409


class EmbeddedError(SbhError):
    code, exit_status, http_status = "SBH-800", 10, 500


class BatchError(SbhError):
    code, exit_status, http_status = "SBH-900", 11, 500


class AlertError(SbhError):
    """Some channels did not take an alert; the others did."""

    code, exit_status, http_status = "SBH-910", 12, 502


class HealthError(SbhError):
    """Findings about backups, not failures of a call."""

    code, exit_status, http_status = "SBH-930", 14, 503


class RecoveryPointMissed(HealthError):
    code = "SBH-931"


class LastBackupFailed(HealthError):
    code = "SBH-932"


class UnusualSize(HealthError):
    code = "SBH-933"


class RetentionNotEnforced(HealthError):
    code = "SBH-934"


class DrillOverdue(HealthError):
    code = "SBH-935"


class RunStuck(HealthError):
    code = "SBH-936"


class JournalBehind(HealthError):
    code = "SBH-937"


class JournalInterrupted(HealthError):
    code = "SBH-938"


class SlotAtRisk(HealthError):
    code = "SBH-939"


class CopyBehind(HealthError):
    code = "SBH-940"


class SourceFilesMissing(HealthError):
    code = "SBH-941"


class OrchestratorError(SbhError):
    code, exit_status, http_status = "SBH-920", 13, 502


class OrchestratorUnavailable(OrchestratorError):
    code, http_status, transient = "SBH-921", 503, True
    unanswered = False  # whether a run was asked for, and may come all the same


class RequestUnreadable(OrchestratorError):
    code = "SBH-923"


def unforeseen(error: Exception, on: str) -> SbhError:
    """An error that nobody thought of, as one of its tenant alone: the others of a batch go on.

    Of its text nothing is kept: it may quote what was read.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    where = f"{frames[-1][0].f_code.co_filename.rpartition('/')[2]}:{frames[-1][1]}" if frames else "?"
    return SbhError(
        "Something that was not foreseen went wrong",
        on=on,
        why=f"{type(error).__name__} at {where}",
        remedy="report it; if an object of the tenant is damaged or foreign, `sbh backup validate` names it",
    )


def error_from_dict(fields: Mapping[str, object]) -> SbhError:
    """The error that `as_dict` described; for one that crossed a process or a stored record."""
    kinds = [SbhError]
    for kind in kinds:
        if kind.code == fields.get("code"):
            break
        kinds.extend(kind.__subclasses__())
    else:
        kind = SbhError
    return kind(
        str(fields.get("what", "")),
        on=str(fields.get("on", "")),
        why=str(fields.get("why", "")),
        remedy=str(fields.get("remedy", "")),
    )
