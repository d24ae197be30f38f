"""Which backup a caller means."""

from sbh_pipelines.errors import CorruptObject, UnknownBackup
from sbh_pipelines.model import SAFETY, BackupId
from sbh_pipelines.repository.repository import Repository

LATEST = "latest"


def resolve_backup(repository: Repository, text: str) -> BackupId:
    """The backup of this id; for `latest` the newest one, those made before a restore left out. Raises InvalidId, UnknownBackup.

    A safety backup holds what somebody wanted to be rid of: whoever restores `latest` twice must not get it back.
    """
    if text != LATEST:
        return BackupId.parse(text)
    ids = repository.manifest_ids()
    for backup_id in reversed(ids):
        try:
            if repository.manifest(backup_id).get("purpose") != SAFETY:
                return backup_id
        except CorruptObject:
            return backup_id  # whoever reads it finds out
    why = "all there are were made before restores; name one of them" if ids else ""
    raise UnknownBackup(
        "The tenant has no backups", on=repository.tenant, why=why, remedy="make one: `sbh backup create`"
    )
