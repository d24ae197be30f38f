"""Errors of a tenant's repository, its audit trail, the change journal and the copies."""

from sbh_pipelines.errors.base import SbhError


class RepositoryError(SbhError):
    """The tenant's repository cannot be used as asked."""

    code, exit_status, http_status = "SBH-600", 8, 500
    advice = "the text names the object; `sbh backup validate BACKUP -t TENANT --deep`"


class CorruptObject(RepositoryError):
    """An object is damaged, cut short, swapped or foreign."""

    code = "SBH-601"
    advice = (
        "take the backup before it; `sbh backup validate BACKUP -t TENANT --deep`; a versioned bucket has the "
        "object's older version"
    )


class ObjectTooLarge(CorruptObject):
    """An object is larger than any of its kind: it was not read."""

    code = "SBH-607"
    advice = "see who can write to the bucket; delete the object, or bring back its older version"


class TooManyObjects(CorruptObject):
    """There are more objects under a prefix than there can be of their kind."""

    code = "SBH-608"
    advice = "see who can write to the bucket; [format.md](format.md) names the keys that are ours, delete the others"


class FormatUnsupported(RepositoryError):
    """It was written by a newer version."""

    code = "SBH-602"
    advice = "use that version, or a newer one"


class LeaseHeld(RepositoryError):
    """Another backup, restore or prune of the tenant is at work."""

    code, http_status, transient = "SBH-603", 409, True
    advice = "wait for it; a killed one lets go after `backup.lease_s` (five minutes)"


class LeaseLost(RepositoryError):
    """Another writer took over, because this one was silent for longer than its lease."""

    code = "SBH-604"
    advice = "run it again; raise `backup.lease_s` if steps take longer than it"


class PruneRefused(RepositoryError):
    """What is there is not understood well enough to remove anything. Nothing was removed."""

    code, http_status = "SBH-605", 409
    advice = (
        "`sbh backup validate BACKUP -t TENANT --deep` each backup that the text names; correct a clock that it names"
    )


class AuditBroken(RepositoryError):
    """An event of the audit trail was removed, changed or moved."""

    code = "SBH-606"
    advice = (
        "keep everything as it is; see who can write to the bucket, look for the object's older versions, then `sbh "
        "audit verify`. [audit.md](audit.md)"
    )


class JournalError(RepositoryError):
    """The change journal cannot do what was asked."""

    code = "SBH-620"
    advice = "the text says why; `sbh journal status`. Backups need no journal"


class JournalGap(JournalError):
    """The journal cannot tell what happened in between: it was not written, or is lost."""

    code, http_status = "SBH-621", 409
    advice = "`sbh tenants recovery-points TENANT --pitr`; take another moment, or a backup"


class MomentOutOfReach(JournalError):
    """No backup and journal together reach the moment."""

    code, http_status = "SBH-622", 409
    advice = "`sbh tenants recovery-points TENANT --pitr`; take another moment, or a backup"


class SlotTrouble(JournalError):
    """The replication slot is missing, lost, another's, or holds too much of the log."""

    code = "SBH-623"
    advice = "`sbh journal status`; `sbh journal drain` makes a missing one. Nothing is wrong with the backups"


class NotJournaled(JournalError):
    """The journal is off, or the table has backups only: its changes do not say whose rows they are."""

    code, http_status = "SBH-624", 409
    advice = "`sbh doctor` grades each table, and says why"


class NoRoom(JournalError):
    """The disk of temporary files is full."""

    code, http_status, transient = "SBH-625", 503, True
    advice = "free space in the folder that the text names, or set `TMPDIR`"


class CopyError(RepositoryError):
    """A copy of the backups in a second place cannot be used as asked."""

    code, http_status = "SBH-640", 502
    advice = "the text says what comes first; [operations.md](operations.md), *What a copy keeps*"


class CopyDiverged(CopyError):
    """An object at the copy is another than here, under a name that never changes. Nothing was overwritten."""

    code, http_status = "SBH-641", 409
    advice = (
        "where the source is new or emptied, the copy is right: [region-lost.md](operations/region-lost.md); else "
        "find out who wrote there"
    )


class CopyUnverified(CopyError):
    """What is at the copy is not whole, or nothing was found whole there yet."""

    code = "SBH-642"
    advice = "`sbh copies verify NAME`; nothing is to do where the copy was begun just now"


class NotPrimary(CopyError):
    """It is only for the place where backups are made, and a copy was named."""

    code, http_status = "SBH-643", 409
    advice = "leave out `--from-copy`; a restore from a copy needs `--no-safety-backup`"


class PrimaryFenced(CopyError):
    """A copy took over from this place of backups: these are the settings of before, or its process was not started
    again.
    """

    code, http_status = "SBH-644", 409
    advice = '`primary = "NAME"` at the top of `sbh.toml`, as the text says; start it again'


class NotPromoted(CopyError):
    """The settings name a primary that was not promoted."""

    code, http_status = "SBH-645", 409
    advice = "`sbh copies promote NAME`; or take the line out"
