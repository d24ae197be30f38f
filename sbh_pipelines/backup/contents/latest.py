"""Which backup a caller means."""

from datetime import UTC, datetime

from sbh_pipelines.errors import CorruptObject, InvalidId, UnknownBackup
from sbh_pipelines.model import SAFETY, BackupId, parse_timestamp
from sbh_pipelines.repository.repository import Repository

LATEST = "latest"


def resolve_backup(repository: Repository, text: str) -> BackupId:
    """The backup of this id; for `latest` the newest one, for `@2024-01-15T14:32` the newest that is not later than this time
    (UTC, unless it says otherwise). Those made before a restore are left out. Raises InvalidId, UnknownBackup.

    A safety backup holds what somebody wanted to be rid of: whoever restores `latest` twice must not get it back.
    """
    if text != LATEST and not text.startswith("@"):
        return BackupId.parse(text)
    until = None if text == LATEST else _moment(text[1:])
    ids = repository.manifest_ids()
    for backup_id in reversed(ids):
        try:
            manifest = repository.manifest(backup_id)
            late = until is not None and parse_timestamp(manifest["recovery_point"]["time"]) > until
            if manifest.get("purpose") != SAFETY and not late:
                return backup_id
        except CorruptObject:
            if until is None:
                return backup_id  # whoever reads it finds out
    why = (
        ""
        if not ids
        else "none is old enough"
        if until
        else "all there are were made before restores; name one of them"
    )
    raise UnknownBackup(
        "The tenant has no backups", on=repository.tenant, why=why, remedy="make one: `sbh backup create`"
    )


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidId(
            "Not a time", on=ascii(text)[:64], remedy="write it as @2024-01-15T14:32, or @2024-01-15T14:32+01:00"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
