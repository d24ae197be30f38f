"""Errors of bringing something back: restores, drills, exports, recoveries."""

from sbh_pipelines.errors.base import SbhError


class RestoreError(SbhError):
    """A restore, a drill or a recovery did not do all that was asked."""

    code, exit_status, http_status = "SBH-700", 9, 500
    advice = "`sbh restore status RESTORE -t TENANT` says what was written"


class RestoreRefused(RestoreError):
    """The plan found a reason not to begin. Nothing was written."""

    code, http_status = "SBH-701", 409
    advice = "the text names it; choose more (`--rows`, the whole tenant), or another backup"


class ProofFailed(RestoreError):
    """What was written could not be proved to be what was backed up. All rows were rolled back."""

    code = "SBH-702"
    advice = "repeat once, then report it with the text"


class RestoreConflict(RestoreRefused):
    """A row cannot come back: its unique value is taken by now. Nothing was written."""

    code = "SBH-703"
    advice = "the text lists the rows; change or remove the new ones with the customer, or leave these out"


class HookFailed(RestoreError):
    """A hook before or after the restore failed."""

    code, http_status = "SBH-704", 502
    advice = "before: nothing was written. After: the restore stands; end the maintenance by hand"


class DrillFailed(RestoreError):
    """What a drill restored is not what it should be."""

    code = "SBH-705"
    advice = (
        "run the assertion that the text names on the live tenant: either the backup lacks something, or the "
        "assertion is out of date"
    )


class ExportFailed(RestoreError):
    """The folder of an export cannot be written. Nothing is left of it."""

    code = "SBH-706"
    advice = "free space, check the folder's permissions, or name another one"


class ReferencesBroken(RestoreError):
    """A recovery is done, and rows of it refer to rows that no backup brought back."""

    code, http_status = "SBH-707", 409
    advice = "the text has the SQL that shows them; mend them in the new database, give the same command again"


class KeptAsItIs(RestoreError):
    """The settings keep this table as it is in restores by the tenant's own users."""

    code, http_status = "SBH-708", 403
    advice = "leave the table out, or ask an administrator of the platform"


class RecordUnsigned(RestoreError):
    """Nobody vouches for the record of a restore that is to be undone."""

    code, http_status = "SBH-709", 409
    advice = (
        "find the backup made just before the restore, `sbh backup list TENANT`, and restore the tables that you "
        "know it wrote from it"
    )
