"""Whose a backup is. A repository is named by a slug, which one tenant may give up and another take; a tenant's key stays.

So every backup says the key of the tenant that it holds, and only what has the live tenant's key is given out.
"""

import threading
from collections.abc import Sequence
from typing import Self

from sbh_pipelines.backup.contents.json_lines import read_lines
from sbh_pipelines.backup.contents.manifest import Manifest
from sbh_pipelines.backup.contents.manifests import is_relative, read_component, read_manifest, resolve_backup
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.errors import CorruptObject, SlugChangedHands, UnknownBackup
from sbh_pipelines.model import BackupId, Tenant, TenantId
from sbh_pipelines.repository.format import CONFIG
from sbh_pipelines.repository.repository import Repository


class KeyReader:
    """Reads whose backups are. To be closed. Thread-safe.

    A manifest has the key; of one that an earlier release wrote it is in the configuration, which needs the index. That is read for
    the first such backup, once for all of them.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._view: Repository | None = None
        self._loading = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._view is not None:
            self._view.close()

    def key_of(self, manifest: Manifest) -> str:
        """The key of the tenant in the backup. Raises CorruptObject where it cannot be read."""
        if manifest.tenant_key is not None:
            return manifest.tenant_key
        view = self._loaded()
        for line in read_lines(view, read_component(view, manifest, CONFIG).detail):
            if "tenant" in line:
                return str(line["tenant"]["key"])
        raise CorruptObject("A backup does not say its tenant's key", on=f"{manifest.id} of {self._repository.tenant}")

    def keys_of(self, backup_ids: Sequence[BackupId]) -> list[str | None]:
        """Of several backups; None where it cannot be read. No more than a few manifests are in memory at once."""

        def key(backup_id: BackupId) -> str | None:
            try:
                return self.key_of(read_manifest(self._repository, backup_id))
            except (CorruptObject, UnknownBackup):
                return None

        return side_by_side(key, backup_ids, name="owners")

    def _loaded(self) -> Repository:
        with self._loading:
            if self._view is None:
                self._view = self._repository.again()
                self._view.load_index()
            return self._view


def described_tenant(repository: Repository, manifest: Manifest) -> Tenant | None:
    """The tenant as a backup has it; None where it does not say. The index must have been loaded. Raises CorruptObject."""
    for fields in read_lines(repository, read_component(repository, manifest, CONFIG).detail):
        if "tenant" in fields:
            return Tenant(**{**fields["tenant"], "id": TenantId(fields["tenant"]["id"])})
    return None


def is_own(
    repository: Repository, manifest: Manifest, tenant_key: str, *, live: bool = False, reader: KeyReader | None = None
) -> bool:
    """Whether a backup is of the tenant with this key, or, unless it is to go into `live` tables, of a key that it had before.

    `reader`: where several are asked for. Raises CorruptObject where it cannot be read.
    """
    if reader is None:
        with KeyReader(repository) as own:
            found = own.key_of(manifest)
    else:
        found = reader.key_of(manifest)
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
    with KeyReader(repository) as reader:

        def own(manifest: Manifest) -> bool:
            mine = is_own(repository, manifest, tenant_key, live=live, reader=reader)
            others.extend([] if mine else [manifest.id])
            return mine

        try:
            found = resolve_backup(repository, text, own)
        except UnknownBackup:
            if others:
                raise _another(repository, others[0]) from None
            raise
        if not own(read_manifest(repository, found)):
            raise _another(repository, found)
        return found


def resolve_named(repository: Repository, text: str, tenant_key: str) -> BackupId:
    """An id as it is, whosever backup it names; `latest`, and `@` and a time, as `resolve_own` has them."""
    return resolve_own(repository, text, tenant_key) if is_relative(text) else BackupId.parse(text)


def _another(repository: Repository, backup_id: BackupId) -> SlugChangedHands:
    return SlugChangedHands(
        "The backup is another tenant's: the slug changed hands since it was made",
        on=f"{backup_id} of {repository.tenant}",
        why=f"the slug {repository.tenant} is another tenant's now, whose key is not the one in the backup",
        remedy="choose a backup of this tenant: `sbh backup list`; a platform administrator can list, show and export the former"
        " tenant's with --former-key KEY, and put them into a schema with `sbh restore run --into-schema`; what was adopted from a"
        " former key goes there as well, and into live tables never",
    )
