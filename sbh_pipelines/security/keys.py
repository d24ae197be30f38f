"""Envelope encryption: a random data key per tenant, wrapped by AWS KMS or by a local key file.

The wrapped key is bound to its tenant: by KMS's encryption context, or by the associated data of AES-GCM. A key object
copied from another tenant therefore does not unwrap.
"""

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sbh_pipelines.errors import KeyServiceError, KeyServiceUnavailable, SettingsError
from sbh_pipelines.settings import Settings

DATA_KEY_BYTES = 32
_CONTEXT_NAME = "sbh:tenant"


class KeyProvider(Protocol):
    """Wraps and unwraps data keys. Both raise KeyServiceError or KeyServiceUnavailable."""

    name: str

    def wrap(self, data_key: bytes, tenant: str, region: str) -> dict[str, str]:
        """JSON-ready fields that `unwrap` needs: provider, key_id, wrapped (base64)."""
        ...

    def unwrap(self, wrapped: Mapping[str, str], tenant: str, region: str) -> bytes: ...


class LocalKeyFile:
    """A file with 32 random bytes in base64: for development, tests and sites without a KMS. Back it up elsewhere."""

    name = "local"

    def __init__(self, path: Path) -> None:
        self._path = path

    def _key(self) -> AESGCM:
        try:
            key = base64.b64decode(self._path.read_bytes(), validate=False)
        except (OSError, ValueError) as error:
            raise SettingsError(
                "Cannot read the key file",
                on=str(self._path),
                why=type(error).__name__,
                remedy="put the file back from where you keep its copy; without it no backup can be read",
            ) from None
        if len(key) != DATA_KEY_BYTES:
            raise SettingsError(
                "The key file is not a key",
                on=str(self._path),
                why=f"it must hold {DATA_KEY_BYTES} bytes in base64, not {len(key)}",
                remedy="for a new site: `openssl rand -base64 32 > FILE`",
            )
        return AESGCM(key)

    def wrap(self, data_key: bytes, tenant: str, region: str) -> dict[str, str]:
        nonce = os.urandom(12)
        sealed = nonce + self._key().encrypt(nonce, data_key, _aad(tenant))
        return {"provider": self.name, "key_id": "local", "wrapped": base64.b64encode(sealed).decode()}

    def unwrap(self, wrapped: Mapping[str, str], tenant: str, region: str) -> bytes:
        sealed = _decode(wrapped, tenant)
        try:
            return self._key().decrypt(sealed[:12], sealed[12:], _aad(tenant))
        except (InvalidTag, ValueError):
            raise KeyServiceError(
                "The tenant's data key does not unwrap",
                on=tenant,
                why="the key object is damaged or of another tenant, or the key file is not the one it was wrapped with",
                remedy="restore keys/ from the bucket's older version, or the right key file",
            ) from None


class AwsKms:
    """AWS KMS, one key per region, the tenant in the encryption context."""

    name = "aws-kms"

    def __init__(self, key_id: str, endpoint_url: str | None, access: Mapping[str, str] | None = None) -> None:
        self._key_id, self._endpoint_url, self._access = key_id, endpoint_url, dict(access or {})
        self._clients: dict[str, Any] = {}

    def _client(self, region: str) -> Any:
        import boto3  # imported late: sites with a key file never pay for it

        if region not in self._clients:
            self._clients[region] = boto3.client(
                "kms", region_name=region, endpoint_url=self._endpoint_url, **self._access
            )
        return self._clients[region]

    def wrap(self, data_key: bytes, tenant: str, region: str) -> dict[str, str]:
        key_id = self._key_id.replace("{region}", region)
        answer = self._call(
            "encrypt", region, key_id, KeyId=key_id, Plaintext=data_key, EncryptionContext={_CONTEXT_NAME: tenant}
        )
        return {
            "provider": self.name,
            "key_id": answer["KeyId"],
            "wrapped": base64.b64encode(answer["CiphertextBlob"]).decode(),
        }

    def unwrap(self, wrapped: Mapping[str, str], tenant: str, region: str) -> bytes:
        answer = self._call(
            "decrypt",
            region,
            wrapped["key_id"],
            KeyId=wrapped["key_id"],
            CiphertextBlob=_decode(wrapped, tenant),
            EncryptionContext={_CONTEXT_NAME: tenant},
        )
        return bytes(answer["Plaintext"])

    def _call(self, verb: str, region: str, key_id: str, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(self._client(region), verb)(**arguments)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in (
                "ThrottlingException",
                "KMSInternalException",
                "DependencyTimeoutException",
                "KeyUnavailableException",
            ):
                raise KeyServiceUnavailable(f"KMS cannot {verb} now", on=key_id, why=code, remedy="try again") from None
            raise KeyServiceError(
                f"KMS refused to {verb}",
                on=f"{key_id} in {region}",
                why=code,
                remedy=_KMS_REMEDIES.get(code, "run `sbh doctor`"),
            ) from None
        except BotoCoreError as error:
            raise KeyServiceUnavailable(
                "Cannot reach KMS",
                on=f"{key_id} in {region}",
                why=type(error).__name__,
                remedy="check network and credentials",
            ) from None


_KMS_REMEDIES = {
    "AccessDeniedException": "grant kms:Encrypt and kms:Decrypt on the key to the role of the backup",
    "DisabledException": "enable the key in KMS; nothing is lost",
    "KMSInvalidStateException": "cancel the key's deletion (aws kms cancel-key-deletion), then enable it",
    "NotFoundException": "correct keys.kms_key_id, or create the alias in this region",
    "InvalidCiphertextException": "the key object is damaged or of another tenant: restore its older version",
    "IncorrectKeyException": "the key object names another key: restore its older version",
}


def _aad(tenant: str) -> bytes:
    return b"sbh-data-key\x00" + tenant.encode()


def _decode(wrapped: Mapping[str, str], tenant: str) -> bytes:
    try:
        return base64.b64decode(wrapped["wrapped"], validate=True)
    except (KeyError, ValueError):
        raise KeyServiceError(
            "The tenant's key object is damaged", on=tenant, remedy="restore keys/ from the bucket's older version"
        ) from None


def open_key_provider(settings: Settings, access: Mapping[str, str] | None = None) -> KeyProvider:
    """The provider that the settings name. `access`: explicit AWS credentials, for servers other than AWS."""
    keys = settings.keys
    if keys.provider == "local":
        assert keys.key_file is not None
        return LocalKeyFile(keys.key_file)
    return AwsKms(keys.kms_key_id, keys.kms_endpoint_url, access)
