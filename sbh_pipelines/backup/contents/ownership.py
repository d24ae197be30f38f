"""Whose a backup is. A repository is named by a slug, which one tenant may give up and another take; a tenant's key stays.

So every backup says the key of the tenant that it holds, and only what has the live tenant's key is given out.
"""

from collections.abc import Sequence

from sbh_pipelines.backup.contents.json_lines import read_lines
from sbh_pipelines.backup.contents.manifest import Manifest
from sbh_pipelines.backup.contents.manifests import read_component, read_manifest, resolve_backup
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.errors import CorruptObject, SlugChangedHands, UnknownBackup
from sbh_pipelines.model import BackupId
from sbh_pipelines.repository.format import CONFIG
from sbh_pipelines.repository.repository import Repository


def tenant_key_of(repository: Repository, manifest: Manifest) -> str:
    """The key of the tenant in the backup. Raises CorruptObject where it cannot be read.

    The manifest has it; of one that an earlier release wrote it is in the configuration.
    """
    if manifest.tenant_key is not None:
        return manifest.tenant_key
    with repository.again() as view:
        view.load_index()
        for line in read_lines(view, read_component(view, manifest, CONFIG).detail):
            if "tenant" in line:
                return str(line["tenant"]["key"])
    raise CorruptObject("A backup does not say its tenant's key", on=f"{manifest.id} of {repository.tenant}")


def tenant_keys_of(repository: Repository, manifests: Sequence[Manifest]) -> list[str | None]:
    """Of several manifests, whole ones; None where it cannot be read."""

    def key(manifest: Manifest) -> str | None:
        try:
            return tenant_key_of(repository, manifest)
        except (CorruptObject, UnknownBackup):
            return None

    return side_by_side(key, manifests, name="owners")


def is_own(repository: Repository, manifest: Manifest, tenant_key: str, *, live: bool = False) -> bool:
    """Whether a backup is of the tenant with this key, or, unless it is to go into `live` tables, of a key that it had before."""
    found = tenant_key_of(repository, manifest)
    return found == tenant_key or (not live and repository.adopts(found))


def is_anothers(repository: Repository, backup_id: BackupId, tenant_key: str) -> bool:
    """Whether a backup is of another tenant, who had the slug before. Of one that is not there or is damaged it is not said."""
    try:
        return not is_own(repository, read_manifest(repository, backup_id), tenant_key)
    except (CorruptObject, UnknownBackup):
        return False


def refuse_anothers(repository: Repository, backup_id: BackupId, tenant_key: str) -> None:
    """Raises SlugChangedHands for what `is_anothers`."""
    if is_anothers(repository, backup_id, tenant_key):
        raise _another(repository, backup_id)


def resolve_own(repository: Repository, text: str, tenant_key: str, *, live: bool = False) -> BackupId:
    """`resolve_backup` among the backups that `is_own` accepts. Raises SlugChangedHands as well."""
    others: list[BackupId] = []

    def own(manifest: Manifest) -> bool:
        mine = is_own(repository, manifest, tenant_key, live=live)
        others.extend([] if mine else [manifest.id])
        return mine

    try:
        found = resolve_backup(repository, text, own)
    except UnknownBackup:
        if others:
            raise _another(repository, others[0]) from None
        raise
    if not is_own(repository, read_manifest(repository, found), tenant_key, live=live):
        raise _another(repository, found)
    return found


def _another(repository: Repository, backup_id: BackupId) -> SlugChangedHands:
    return SlugChangedHands(
        "The backup is another tenant's: the slug changed hands since it was made",
        on=f"{backup_id} of {repository.tenant}",
        why=f"the slug {repository.tenant} is another tenant's now, whose key is not the one in the backup",
        remedy="choose a backup of this tenant: `sbh backup list`; a platform administrator can list, show and export the former"
        " tenant's with --former-key KEY, and put them into a schema with `sbh restore run --into-schema`; what was adopted from a"
        " former key goes there as well, and into live tables never",
    )
