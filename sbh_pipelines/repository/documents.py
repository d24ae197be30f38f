"""The documents of a tenant's repository: manifests, signed; the components they name; small signed documents.

Holds and the listing of backups are such small ones. They carry a `kind`, which no manifest has, so that one cannot be passed
off as the other.
"""

import base64
import hmac
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from sbh_pipelines.errors import (
    CorruptObject,
    ObjectMissing,
    ObjectTooLarge,
    SbhError,
    StoreError,
    StoreUnavailable,
    UnknownBackup,
)
from sbh_pipelines.model import BackupId, TenantId
from sbh_pipelines.repository.bounds import listed, most_bytes
from sbh_pipelines.repository.format import (
    FIRST_EPOCH,
    FORMAT_VERSION,
    LAST_EPOCH,
    VALIDATE,
    Keys,
    canonical,
    checksum,
    compact,
    parse_document,
    pretty,
)
from sbh_pipelines.repository.seal import PRIVATE, Sealer
from sbh_pipelines.stores.base import ObjectStore

SEALED = "sealed"  # the field with what only the tenant's key opens
_NONE: Mapping[str, object] = {}


class Documents:
    """What a repository says of itself in JSON; chunks and packs are `Repository`'s."""

    def __init__(self, store: ObjectStore, prefix: str, tenant: TenantId, sealer: Sealer) -> None:
        self.store, self.prefix, self.tenant, self.sealer = store, prefix, tenant, sealer
        self._manifest: dict[str, Any] | None = None  # the one that was read last
        self.listing: object = None  # what the listing of the backups says, if it was read

    def url(self, key: str) -> str:
        return self.store.url(self.prefix + key)

    def manifest_ids(self) -> list[BackupId]:
        """Ids of all committed backups, oldest first."""
        return list_manifest_ids(self.store, self.prefix)

    def manifest(self, backup_id: BackupId) -> dict[str, Any]:
        """A committed backup, its signature checked. Raises UnknownBackup, CorruptObject."""
        if self._manifest is not None and self._manifest["id"] == backup_id:
            return dict(self._manifest)  # they never change
        key = Keys.manifest(backup_id)
        try:
            data = self.store.get(self.prefix + key, most_bytes(key))
        except ObjectMissing:
            raise UnknownBackup(
                "No such backup", on=f"{backup_id} of {self.tenant}", remedy=f"see `sbh backup list {self.tenant}`"
            ) from None
        document = parse_document(data, self.url(key))
        self.check_signature(document, backup_id)
        self._manifest = document
        return dict(document)

    def sign(self, document: Mapping[str, object]) -> dict[str, object]:
        """The document with its checksum and signature."""
        whole = {**document, "checksum": checksum(document)}
        epoch = self.sealer.epoch
        return {**whole, "signature": _signed(self._signature(whole, epoch), epoch)}

    def is_genuine(self, document: Mapping[str, object]) -> bool:
        """Whether the signature is one of ours, under the key of the epoch that it names, and the checksum is right.

        Raises CorruptObject where there is no key of that epoch, and the key provider's errors.
        """
        signature = document.get("signature")
        if not isinstance(signature, dict) or document.get("checksum") != checksum(document):
            return False
        value, epoch = signature.get("value"), signature.get("key_epoch")
        if not isinstance(value, str) or type(epoch) is not int or not FIRST_EPOCH <= epoch <= LAST_EPOCH:
            return False
        if signature != _signed(value, epoch):
            return False
        return hmac.compare_digest(value.encode("utf-8", "replace"), self._signature(document, epoch).encode())

    def check_signature(self, document: Mapping[str, Any], backup_id: str) -> None:
        """Raises CorruptObject."""
        place = self.url(Keys.manifest(backup_id))
        if not self.is_genuine(document):
            raise CorruptObject(
                "A manifest's signature is wrong",
                on=place,
                why="changed, or copied from another tenant",
                remedy=VALIDATE,
            )
        if document.get("id") != backup_id or document.get("tenant_id") != self.tenant:
            raise CorruptObject(
                "A manifest is in the wrong place", on=place, why="it names another backup", remedy=VALIDATE
            )
        if document.get("format_version", 0) > FORMAT_VERSION:
            raise CorruptObject("A manifest is of a newer format", on=place, remedy="read it with a newer release")

    def _signature(self, document: Mapping[str, object], epoch: int) -> str:
        return self.sealer.sign(canonical({k: v for k, v in document.items() if k != "signature"}), epoch)

    def publish_manifest(self, manifest: Mapping[str, object]) -> str:
        """The commit, read back: a backup that is said to be made is there. Its ETag, if that is known.

        Raises ObjectExists when the id is taken.
        """
        key, body = self.prefix + Keys.manifest(str(manifest["id"])), pretty(manifest)
        try:
            etag = self.store.create(key, body)
        except StoreError:
            # The answer may have been lost on its way, and a retry then finds the key taken: by this very manifest.
            with suppress(SbhError):
                prove_stored(self.store, key, body)
                return ""
            raise
        prove_stored(self.store, key, body)
        return etag

    def get_document(self, key: str) -> dict[str, Any]:
        """Raises ObjectMissing, CorruptObject."""
        return parse_document(self.store.get(self.prefix + key, most_bytes(key)), self.url(key))


def prove_stored(store: ObjectStore, key: str, body: bytes) -> None:
    """Read back what was written just now, where nothing else would tell that it is not there.

    Raises StoreUnavailable where the store has no such object, or another one, and the store's errors.
    """
    try:
        found = store.get(key, len(body))
    except ObjectMissing:
        why = "it said that it had been written, and has no such object"
    except ObjectTooLarge:
        why = "it said that it had been written, and has a larger one there"
    else:
        if found == body:
            return
        why = "it said that it had been written, and has something else there"
    raise StoreUnavailable(
        "An object does not read back as it was written",
        on=store.url(key),
        why=why,
        remedy="run it again; if it stays so, do not use this store: it loses what it acknowledged",
    )


def list_manifest_ids(store: ObjectStore, prefix: str) -> list[BackupId]:
    """Ids of all committed backups below a tenant's prefix, oldest first: one listing, and no key is needed."""
    found = (manifest_id(info.key[len(prefix) :]) for info in listed(store, prefix, Keys.MANIFESTS))
    return sorted(backup_id for backup_id in found if backup_id is not None)


def manifest_id(name: str) -> BackupId | None:
    """Of which backup a key below the tenant's prefix is the manifest; None for one that is no manifest's."""
    backup_id = name.removeprefix(Keys.MANIFESTS).removesuffix(".json")
    return BackupId(backup_id) if BackupId.valid(backup_id) and name == Keys.manifest(backup_id) else None


def _signed(value: str, epoch: int) -> dict[str, object]:
    return {"algorithm": "HMAC-SHA256", "key_epoch": epoch, "value": value}


def signed(
    repository: Documents, kind: str, fields: Mapping[str, object], key: str = "", private: Mapping[str, object] = _NONE
) -> bytes:
    """What to store: the fields with kind, tenant, checksum and signature. What is `private` is sealed, bound to the key."""
    if private:
        sealed = repository.sealer.seal(canonical(private), key.encode(), PRIVATE)
        fields = {**fields, SEALED: base64.b64encode(sealed).decode()}
    return compact(repository.sign({"kind": kind, "tenant_id": repository.tenant, **fields}))


def keyed_digest(repository: Documents, fields: Mapping[str, object]) -> str:
    """Names a content to those who have the tenant's key: nobody else can hold a guess against it. The same in every epoch."""
    return "hmac-sha256:" + repository.sealer.name(b"sbh digest\0" + canonical(fields)).hex()


def open_private(repository: Documents, key: str, fields: Mapping[str, object]) -> dict[str, Any]:
    """What was sealed in a document that `signed` made; nothing where there is nothing. Raises CorruptObject."""
    text, place = fields.get(SEALED), repository.url(key)
    if text is None:
        return {}
    try:
        sealed = base64.b64decode(str(text).encode("ascii"), validate=True)
    except ValueError:
        raise CorruptObject("A sealed part of a document is damaged", on=place, remedy=VALIDATE) from None
    return parse_document(repository.sealer.open(sealed, key.encode(), PRIVATE, on=place), place)


def sealed_anew(repository: Documents, key: str, fields: Mapping[str, object]) -> dict[str, object]:
    """The same fields, with what is sealed in them sealed in the newest epoch. Raises CorruptObject."""
    if SEALED not in fields:
        return dict(fields)
    sealed = repository.sealer.seal(canonical(open_private(repository, key, fields)), key.encode(), PRIVATE)
    return {**fields, SEALED: base64.b64encode(sealed).decode()}


def read_signed(repository: Documents, key: str, kind: str) -> dict[str, Any]:
    """The fields of a document of this tenant and kind. Raises ObjectMissing, CorruptObject."""
    document = parse_document(repository.store.get(repository.prefix + key, most_bytes(key)), repository.url(key))
    return check_signed(repository, key, kind, document)


def check_signed(repository: Documents, key: str, kind: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a document that was read from there. Raises CorruptObject where it is not this tenant's, of this kind."""
    bare = {name: value for name, value in document.items() if name not in ("checksum", "signature")}
    if not repository.is_genuine(document) or bare.get("kind") != kind or bare.get("tenant_id") != repository.tenant:
        raise CorruptObject(
            "A document's signature is wrong",
            on=repository.url(key),
            why=f"changed, forged, of another tenant, or no {kind}",
            remedy="see who can write to the bucket, and restore the object's older version",
        )
    return {name: value for name, value in bare.items() if name not in ("kind", "tenant_id")}
