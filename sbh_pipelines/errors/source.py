"""Errors of what is around: the application's database and files, the object store, the key service."""

from typing import Any

from sbh_pipelines.errors.base import SbhError


class SourceError(SbhError):
    """The application's database or its files cannot be used as asked."""

    code, exit_status, http_status = "SBH-300", 5, 502
    advice = "`sbh doctor`"


class SourceUnavailable(SourceError):
    """The database does not answer, or the connection was lost."""

    code, http_status, transient = "SBH-301", 503, True
    advice = "is it up? `sbh doctor`; if it stays away, [complete-failure.md](operations/complete-failure.md)"


class PrivilegeMissing(SourceError):
    """The database role lacks a privilege."""

    code = "SBH-302"
    advice = "`sbh doctor` names the grant"


class SourceConflict(SourceError):
    """Somebody wrote to the same rows, or holds a lock. Nothing was written."""

    code, http_status, transient = "SBH-303", 409, True
    advice = "stop the writers, repeat"


class SourceChanged(SourceError):
    """A file, or a table, kept changing while it was read."""

    code, transient = "SBH-304", True
    advice = (
        "try again; bucket versioning helps with files; keep TRUNCATE, VACUUM FULL and ALTER TABLE out of the hours "
        "of backups"
    )


class SchemaMismatch(SourceError):
    """Backup and live schema do not fit. Nothing was written."""

    code, http_status = "SBH-305", 409
    advice = "`sbh restore diff` lists every difference; `--accept-schema-changes` where a loss is all right"


class UnreadableRow(SourceError):
    """The server cannot give a row of the tenant: damaged on its disk, too large for COPY, or not in its encoding.

    `cause`: `large`, `damaged` on the server's disk, or `encoding`; a large row has lost nothing.
    """

    code = "SBH-306"
    advice = "the text names table, key and column, and has the SQL; other tenants are backed up meanwhile"
    cause = "large"


class LookRefused(SourceError):
    """The tenant has a schema of old rows already, or the rows are too many for one."""

    code, http_status = "SBH-307", 409
    advice = "`sbh restore drop-look` with what the text names; or choose tables, or `sbh export`"


class StoreError(SbhError):
    """The object store refused a request."""

    code, exit_status, http_status = "SBH-400", 6, 502
    advice = "the text has S3's own code; `sbh doctor`"


class StoreUnavailable(StoreError):
    """The object store does not answer, or asks to slow down, after all repeats."""

    code, http_status, transient = "SBH-401", 503, True
    advice = "wait for it, repeat; `sbh doctor`"


class ObjectMissing(StoreError):
    """An object that should be there is not."""

    code = "SBH-402"
    advice = "`sbh backup validate BACKUP -t TENANT` names what is missing; a versioned bucket has its older version"


class ObjectExists(StoreError):
    """Another process made the same object first."""

    code = "SBH-403"
    advice = "run it again; if it stays so, see who else writes to the bucket"


class ObjectChanged(StoreError):
    """Another process changed an object between reading and writing it."""

    code = "SBH-404"
    advice = "run it again; if it stays so, see who else writes to the bucket"


class StoreDenied(StoreError):
    """The bucket's policy or the credentials do not allow the request."""

    code = "SBH-405"
    advice = (
        "the text names the object and the action; compare with [operations.md](operations.md), *The bucket*; `sbh "
        "doctor`"
    )


class KeyServiceError(SbhError):
    """Keys cannot be wrapped or unwrapped: without them no backup can be read."""

    code, exit_status, http_status = "SBH-500", 7, 502
    advice = "enable the KMS key, or put the key file back; `sbh keys verify`"


class KeyServiceUnavailable(KeyServiceError):
    """The key service does not answer."""

    code, http_status, transient = "SBH-501", 503, True
    advice = "wait for it, repeat; `sbh doctor`"


class KeyRotationFailed(KeyServiceError):
    """Some keys of a rotation were not wrapped anew; the others were.

    `report` says which, and what was done for the others.
    """

    code = "SBH-502"
    advice = "mend what the text names, then run it again: the others are done, and doing them twice is harmless"
    report: Any = None  # of rotation, which errors know nothing of


class KeyUnopened(KeyServiceError):
    """The key service, or the key file, answered that it did not wrap this key: it is damaged, or another's."""

    code, http_status = "SBH-504", 409
    advice = (
        "the right key file or KMS key; else the key object's older version. At a copy, `sbh copies run` writes it "
        "again"
    )


class KeyEpochRolledBack(KeyServiceError):
    """A key object that is older than the newest key epoch was put back: its key may be known to somebody."""

    code, http_status = "SBH-503", 409
    advice = "see who can write to the bucket; `sbh keys rotate TENANT` puts the object right"
