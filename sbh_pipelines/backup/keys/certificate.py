"""Certificates of erasure: what was destroyed, when, by whom and why, signed so that anybody can check it offline.

The signature is Ed25519 over the document's canonical form (JSON with sorted keys, separators `,` and `:`, no ASCII escaping,
UTF-8) without its `signature`. The private key is derived from the data key of the region's catalog; the public key is what
`sbh keys public` prints, to be kept by whoever will want to check certificates.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sbh_pipelines.errors import CorruptObject, RequestError
from sbh_pipelines.repository.format import canonical

ALGORITHM = "Ed25519"
KIND = "sbh-erasure-certificate"
VERSION = 1


def public_key_of(seed: bytes) -> str:
    """In base64."""
    return base64.b64encode(_private(seed).public_key().public_bytes_raw()).decode()


def sign_certificate(facts: Mapping[str, Any], seed: bytes, region: str) -> dict[str, Any]:
    """The certificate with the region whose key signs it, and the signature."""
    document = {"kind": KIND, "version": VERSION, **facts, "signed_in": region}
    value = base64.b64encode(_private(seed).sign(canonical(document))).decode()
    return {**document, "signature": {"algorithm": ALGORITHM, "public_key": public_key_of(seed), "value": value}}


def verify_certificate(document: Mapping[str, Any], public_key: str) -> None:
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
