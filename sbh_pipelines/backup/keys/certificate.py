"""Certificates of erasure: what was destroyed, when, by whom and why, signed so that anybody can check it offline.

The signature is Ed25519 over the document's canonical form (JSON with sorted keys, separators `,` and `:`, no ASCII escaping,
UTF-8) without its `signature`. The private key is derived from the data key of the region's catalog; the public key is what
`sbh keys public` prints, to be kept by those who will check certificates.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sbh_pipelines.document import as_document, optional
from sbh_pipelines.errors import CorruptObject, ObjectMissing, RequestError
from sbh_pipelines.repository.bounds import listed, most_bytes
from sbh_pipelines.repository.catalog.erased import ErasedCopy, ErasedKey, FormerWrapping
from sbh_pipelines.repository.format import Keys, canonical, parse_document
from sbh_pipelines.stores.base import ObjectStore

LOCAL = "local"  # how names of key files begin, and their provider's name
ALGORITHM = "Ed25519"
KIND = "sbh-erasure-certificate"
VERSION = 1


@dataclass(frozen=True, slots=True)
class DestroyedKmsKey:
    """A KMS key of the tenant's own.

    Attributes:
        key_id: Its ARN.
        deletion_date: Time at which it is deleted for good, UTC; it unwraps nothing from now on.
    """

    key_id: str
    deletion_date: str


@dataclass(frozen=True, slots=True)
class Destroyed:
    """What was destroyed.

    Attributes:
        objects: Objects, in their current versions.
        versions: Versions of objects, those included.
        bytes: Bytes of all versions.
        keys: The key objects that there were.
        kms_keys: KMS keys of the tenant's own.
        former_wrappings: What wrapped the data keys before, so that earlier copies have it still.
    """

    objects: int
    versions: int
    bytes: int
    keys: Sequence[ErasedKey]
    kms_keys: Sequence[DestroyedKmsKey]
    former_wrappings: Sequence[FormerWrapping] | None = optional()


@dataclass(frozen=True, slots=True)
class NotDestroyed:
    """What could not be deleted, unreadable without the keys.

    Attributes:
        versions: How many versions of objects.
        examples: Some of them, with why.
    """

    versions: int
    examples: Sequence[str]


@dataclass(frozen=True, slots=True)
class JournalRemains:
    """Sealed blocks of the change journal, which lie among other tenants' and are unreadable without the keys.

    Attributes:
        regions: Regions whose journal may have some.
        until: Time at which the last of them is gone, UTC, where `sbh repository prune --all` runs daily; older versions of the
            objects stay for as long as the bucket keeps such. Of journals in copies each copy says its own.
    """

    regions: Sequence[str]
    until: str


@dataclass(frozen=True, slots=True)
class KeptTrail:
    """The audit trail of the tenant, which is kept.

    Attributes:
        events: How many events it has, this erasure's included.
        head: Hash of the last one.
    """

    events: int
    head: str | None


@dataclass(frozen=True, slots=True)
class Signature:
    """Over the certificate without it.

    Attributes:
        algorithm: Always Ed25519.
        public_key: The public key, in base64; it proves nothing by itself.
        value: The signature, in base64.
    """

    algorithm: str
    public_key: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureCertificate:
    """A certificate of erasure.

    Attributes:
        kind: Always sbh-erasure-certificate.
        version: Of the format.
        tenant_id: The tenant.
        erasure_id: Id of the erasure.
        requested_by: Who asked for it.
        reason: Why.
        begun_at: Time at which it began, UTC.
        finished_at: Time at which it ended, UTC.
        regions: Regions that were looked into.
        buckets: Buckets that were looked into.
        destroyed: What was destroyed.
        not_destroyed: What could not be deleted.
        copies_made_before: What a copy of the bucket made before could still open, in words.
        audit_trail: The audit trail, which is kept.
        kept_elsewhere: What of the tenant may be where an erasure of backups does not reach, in words.
        signed_in: The region whose key signed it.
        journal: What may still lie in change journals; absent where there are none.
        copies: What was destroyed in each copy, and what is locked there until when; absent where there are none.
        signature: The signature; None before it is signed.
    """

    kind: str = KIND
    version: int = VERSION
    tenant_id: str
    erasure_id: str
    requested_by: str
    reason: str
    begun_at: str
    finished_at: str
    regions: Sequence[str]
    buckets: Sequence[str]
    destroyed: Destroyed
    not_destroyed: NotDestroyed
    copies_made_before: str
    audit_trail: KeptTrail
    signed_in: str
    kept_elsewhere: Sequence[str] | None = optional()
    journal: JournalRemains | None = optional()
    copies: Sequence[ErasedCopy] | None = optional()
    signature: Signature | None = optional()

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "ErasureCertificate":
        """The certificate that is stored as `document`; its signature is not looked at. Raises CorruptObject."""
        try:
            destroyed = document["destroyed"]
            keys = [ErasedKey(**key) for key in destroyed["keys"]]
            kms_keys = [DestroyedKmsKey(**key) for key in destroyed["kms_keys"]]
            former = destroyed.get("former_wrappings")
            wrappings = None if former is None else [FormerWrapping(**one) for one in former]
            journal, copies = document.get("journal"), document.get("copies")
            parts = {
                "copies": None if copies is None else [ErasedCopy.of(one) for one in copies],
                "journal": None if journal is None else JournalRemains(**journal),
                "destroyed": Destroyed(
                    **{**destroyed, "keys": keys, "kms_keys": kms_keys, "former_wrappings": wrappings}
                ),
                "not_destroyed": NotDestroyed(**document["not_destroyed"]),
                "audit_trail": KeptTrail(**document["audit_trail"]),
                "signature": Signature(**document["signature"]),
            }
            return cls(**{**document, **parts})
        except (KeyError, TypeError) as error:
            on = ascii(str(document.get("tenant_id", "")))[:80]
            raise CorruptObject("The certificate is damaged", on=on, why=type(error).__name__) from None


def public_key_of(seed: bytes) -> str:
    """In base64."""
    return base64.b64encode(_private(seed).public_key().public_bytes_raw()).decode()


def sign_certificate(certificate: ErasureCertificate, seed: bytes) -> ErasureCertificate:
    value = base64.b64encode(_private(seed).sign(canonical(as_document(certificate)))).decode()
    return replace(certificate, signature=Signature(ALGORITHM, public_key_of(seed), value))


def verify_certificate(document: Mapping[str, object], public_key: str) -> None:
    """Raises CorruptObject unless this certificate was signed with the private half of `public_key` (base64).

    The key that the certificate itself names proves nothing: anybody could have made one.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key, validate=True))
    except (ValueError, binascii.Error):
        raise RequestError(
            "Not a public key", on=ascii(public_key)[:80], remedy="it is what `sbh keys public` prints, in base64"
        ) from None
    signature = document.get("signature")
    bare = {name: value for name, value in document.items() if name != "signature"}
    try:
        if not isinstance(signature, dict) or signature.get("algorithm") != ALGORITHM or bare.get("kind") != KIND:
            raise ValueError("not a certificate")
        key.verify(base64.b64decode(str(signature.get("value")), validate=True), canonical(bare))
    except (InvalidSignature, ValueError, binascii.Error):
        raise CorruptObject(
            "The certificate is not genuine",
            on=ascii(str(document.get("tenant_id", "")))[:80],
            why="changed, or signed with another key",
            remedy="compare the public key with the one that was kept for this region",
        ) from None


def _private(seed: bytes) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(seed)


def describe_keys(store: ObjectStore, prefix: str) -> list[ErasedKey]:
    """Each key object; nothing secret, and nothing is unwrapped."""
    found = []
    for info in listed(store, prefix, Keys.KEYS):
        try:
            document = parse_document(store.get(info.key, most_bytes(Keys.KEYS)), store.url(info.key))
        except (ObjectMissing, CorruptObject):
            document = {}
        fields = (document.get(name) for name in ("epoch", "region", "provider", "key_id"))
        found.append(ErasedKey(store.url(info.key), *fields))
    return found


def what_copies_open(
    keys: Sequence[ErasedKey],
    own_keys: Sequence[DestroyedKmsKey],
    slug: str,
    former: Sequence[FormerWrapping] = (),
    doubts: Sequence[str] = (),
) -> str:
    """In words, for the certificate: crypto-erasure reaches as far as the wrapped keys, or the keys that wrap them.

    `former`: what wrapped them before, and is in copies made before; `doubts`: why that may not be all.
    """
    own = {name for key in own_keys for name in (key.key_id, key.key_id.rpartition("/")[2])}  # an ARN, or its id
    wrapped_by = {str(key.key_id): key.provider or "" for key in keys if key.key_id}
    for one in former:
        wrapped_by.setdefault(one.key_id, LOCAL if one.key_id.startswith(LOCAL) else "")
    others = {key_id: provider for key_id, provider in wrapped_by.items() if key_id not in own}
    unknown = f" Whether other keys wrapped them before is not known: {'; '.join(doubts)}." if doubts else ""
    if own_keys and not others:
        until = ", ".join(f"{key.key_id} on {key.deletion_date}" for key in own_keys)
        return (
            "Nothing, since the deletion of the tenant's own KMS key was scheduled: it unwraps nothing while it is pending, and"
            f" is deleted for good ({until}). Until then only who may call kms:CancelKeyDeletion could make it usable again."
            + unknown
        )
    if not others:
        return "No key was found, so nothing that was copied before can be opened with what this site keeps." + unknown
    files = sorted(key_id for key_id, provider in others.items() if provider == LOCAL)
    services = sorted(others.keys() - files)
    holders = [
        *([f"the key file ({', '.join(files)})"] if files else []),
        *(
            [f"the KMS key, with sbh:tenant={slug} in the encryption context ({', '.join(services)})"]
            if services
            else []
        ),
    ]
    current = {str(key.key_id) for key in keys}
    kept = (
        "It is not the tenant's key that the settings name"
        if own_keys
        else "That key wraps other tenants' keys as well"
    )
    earlier = sorted(others.keys() - current)
    before = f" Made before a rotation it has a wrapping by {', '.join(earlier)}." if earlier else ""
    return (
        "Who has a copy of the bucket made before the erasure, its key objects included, and may use"
        f" {' or '.join(holders)}, can open that copy. {kept}, so it was not destroyed." + before + unknown
    )
