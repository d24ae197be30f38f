"""A key file: 32 random bytes that wrap every tenant's data key, where there is no key service."""

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from sbh_pipelines.errors import KeyUnopened, SettingsError
from sbh_pipelines.security.key_provider import DATA_KEY_BYTES, NOTHING_BOUND, bound_fields, wrapped_bytes

_MAKE = "`umask 077; openssl rand -base64 32 > FILE`, or `sbh settings init`"
_ANY_FILE = "local"  # what key objects said before they named the file


class LocalKeyFile:
    """A file with 32 random bytes in base64: for development, tests and sites without a KMS. Back it up elsewhere.

    `previous` are files that were in use before: what they wrapped is still read, until `sbh keys rotate --all` has wrapped
    it with the current one.
    """

    name = "local"

    def __init__(self, path: Path, previous: Sequence[Path] = ()) -> None:
        self._path, self._previous = path, tuple(previous)

    def reads(self, provider: str) -> bool:
        return provider == self.name

    def wrap(
        self, data_key: bytes, tenant: str, region: str, bound: Mapping[str, str] = NOTHING_BOUND
    ) -> dict[str, str]:
        key, nonce = _read(self._path), os.urandom(12)
        sealed = nonce + AESGCM(key).encrypt(nonce, data_key, _aad(tenant, bound))
        return {"provider": self.name, "key_id": key_file_id(key), "wrapped": base64.b64encode(sealed).decode()}

    def unwrap(self, wrapped: Mapping[str, Any], tenant: str, region: str) -> bytes:
        aad = _aad(tenant, bound_fields(wrapped, tenant))
        sealed = wrapped_bytes(wrapped, tenant)
        wanted = wrapped.get("key_id", _ANY_FILE)
        missing = list[str]()
        for path in (self._path, *self._previous):
            try:
                key = _read(path)
            except SettingsError:
                if path == self._path:
                    raise
                missing.append(str(path))  # as of a region that is lost: it may not be the one that is needed
                continue
            if wanted not in (_ANY_FILE, key_file_id(key)):
                continue
            try:
                return AESGCM(key).decrypt(sealed[:12], sealed[12:], aad)
            except (InvalidTag, ValueError):
                continue
        raise KeyUnopened(
            "The tenant's data key does not unwrap",
            on=tenant,
            why="the key object is damaged or of another tenant, or the key file is not the one it was wrapped with"
            + ("" if wanted == _ANY_FILE else f", which is {wanted[:40]}")
            + (f"; {', '.join(missing)} cannot be read" if missing else ""),
            remedy="restore keys/ from the bucket's older version, or the right key file; one that was replaced belongs in"
            " keys.previous_key_files",
        )

    def destroy(self, tenant: str, region: str) -> list[dict[str, str]]:
        """Nothing: the file is all tenants'."""
        return []


def key_file_id(key: bytes) -> str:
    """A name that tells one key file from another and says nothing about the key."""
    return f"local-{HKDFExpand(SHA256(), 4, b'sbh key file').derive(key).hex()}"


def _read(path: Path) -> bytes:
    try:
        written = path.read_bytes()
    except OSError as error:
        raise SettingsError(
            "Cannot read the key file",
            on=str(path),
            why=error.strerror or type(error).__name__,
            remedy="where there are backups put it back from where you keep its copy, for they cannot be read without it;"
            f" for a new site make one: {_MAKE}",
        ) from None
    try:
        key = base64.b64decode(written, validate=False)
    except ValueError:
        key = b""
    if len(key) != DATA_KEY_BYTES:
        raw = len(written) == DATA_KEY_BYTES
        raise SettingsError(
            "The key file is not a key",
            on=str(path),
            why=f"it must hold {DATA_KEY_BYTES} bytes in base64, "
            + ("and has them as they are" if raw else f"not {len(key)}"),
            remedy=f"`umask 077; base64 {path} > {path}.b64`, and name that file in keys.key_file"
            if raw
            else f"for a new site: {_MAKE}",
        )
    return key


def _aad(tenant: str, bound: Mapping[str, str]) -> bytes:
    more = "".join(f"\0{name}={value}" for name, value in sorted(bound.items()))
    return b"sbh-data-key\x00" + tenant.encode() + more.encode()
