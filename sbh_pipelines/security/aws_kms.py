"""AWS KMS: one key per region, or one per tenant and region, the tenant in the encryption context."""

import base64
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC
from typing import Any

from sbh_pipelines.errors import KeyServiceError, KeyServiceUnavailable, KeyUnopened
from sbh_pipelines.model import timestamp
from sbh_pipelines.security.key_provider import NOTHING_BOUND, bound_fields, wrapped_bytes

_CONTEXT_NAME = "sbh:tenant"
_ATTEMPTS = 4


class AwsKms:
    """Keys named by a template. `{region}` in it is filled in; `{tenant}` gives each tenant a key of its own.

    An alias must not contain dots, and slugs may: in an alias a dot of the slug is written as a slash, which no slug has.
    """

    name = "aws-kms"

    def __init__(
        self,
        key_id: str,
        endpoint_url: str | None,
        access: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 10.0,
        deletion_days: int = 7,
        lies_in: str | None = None,
    ) -> None:
        """`lies_in`: the region whose KMS is asked, where that is not the one that a key belongs to: of a copy."""
        self._key_id, self._endpoint_url, self._access = key_id, endpoint_url, dict(access or {})
        self._timeout_s, self._deletion_days = timeout_s, deletion_days
        self._lies_in = lies_in
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"AwsKms({self._key_id})"

    def reads(self, provider: str) -> bool:
        return provider == self.name

    def key_of(self, tenant: str, region: str) -> str:
        """The key's id, ARN or alias."""
        return self._key_id.replace("{region}", self._lies_in or region).replace("{tenant}", tenant.replace(".", "/"))

    def wrap(
        self, data_key: bytes, tenant: str, region: str, bound: Mapping[str, str] = NOTHING_BOUND
    ) -> dict[str, str]:
        region, key_id = self._lies_in or region, self.key_of(tenant, region)
        context = _context(tenant, bound)
        answer = self._call("encrypt", region, key_id, KeyId=key_id, Plaintext=data_key, EncryptionContext=context)
        _check_region(answer["KeyId"], region)
        return {
            "provider": self.name,
            "key_id": answer["KeyId"],
            "wrapped": base64.b64encode(answer["CiphertextBlob"]).decode(),
        }

    def unwrap(self, wrapped: Mapping[str, Any], tenant: str, region: str) -> bytes:
        region = self._lies_in or region
        _check_region(wrapped["key_id"], region)
        answer = self._call(
            "decrypt",
            region,
            wrapped["key_id"],
            KeyId=wrapped["key_id"],
            CiphertextBlob=wrapped_bytes(wrapped, tenant),
            EncryptionContext=_context(tenant, bound_fields(wrapped, tenant)),
        )
        return bytes(answer["Plaintext"])

    def destroy(self, tenant: str, region: str) -> list[dict[str, str]]:
        """Schedule the deletion of the tenant's own key; from that moment on it unwraps nothing. [] where keys are shared."""
        if "{tenant}" not in self._key_id:
            return []
        region, key_id = self._lies_in or region, self.key_of(tenant, region)
        try:
            found = self._call("describe_key", region, key_id, KeyId=key_id)["KeyMetadata"]
        except KeyServiceError as error:
            if "NotFoundException" in error.why:
                return []
            raise
        until = found.get("DeletionDate")
        if found.get("KeyState") != "PendingDeletion":
            arguments = {"KeyId": found["KeyId"], "PendingWindowInDays": self._deletion_days}
            until = self._call("schedule_key_deletion", region, found["Arn"], **arguments)["DeletionDate"]
        return [{"key_id": found["Arn"], "deletion_date": timestamp(until.astimezone(UTC)) if until else ""}]

    def _client(self, region: str) -> Any:
        import boto3  # imported late: sites with a key file never pay for it
        from botocore.config import Config

        with self._lock:
            if region not in self._clients:
                patience = Config(
                    connect_timeout=min(self._timeout_s, 5),
                    read_timeout=self._timeout_s,
                    retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
                )
                endpoint = self._endpoint_url.replace("{region}", region) if self._endpoint_url else None
                self._clients[region] = boto3.client(
                    "kms", region_name=region, endpoint_url=endpoint, config=patience, **self._access
                )
            return self._clients[region]

    def _call(self, verb: str, region: str, key_id: str, **arguments: Any) -> Any:
        with translated(verb, key_id, region):
            return getattr(self._client(region), verb)(**arguments)


def _context(tenant: str, bound: Mapping[str, str]) -> dict[str, str]:
    return {_CONTEXT_NAME: tenant, **{f"sbh:{name}": value for name, value in bound.items()}}


def _check_region(key_id: str, region: str) -> None:
    """An ARN tells where its key is: one elsewhere would let a tenant's key leave its region."""
    parts = key_id.split(":")
    if key_id.startswith("arn:") and len(parts) > 3 and parts[3] != region:
        raise KeyServiceError(
            "The KMS key is in another region",
            on=key_id,
            why=f"it is in {parts[3]}, and the tenant in {region}",
            remedy="write {region} into keys.kms_key_id, or name an alias that exists in every region",
        )


_NEEDED = {
    "encrypt": "kms:Encrypt",
    "decrypt": "kms:Decrypt",
    "describe_key": "kms:DescribeKey",
    "schedule_key_deletion": "kms:ScheduleKeyDeletion",
}


# Answers that a later call may not get.
_TRANSIENT = {
    "ThrottlingException": "KMS refuses requests because there are too many",
    "LimitExceededException": "KMS refuses requests because there are too many",
    "KMSInternalException": "KMS has an internal error",
    "DependencyTimeoutException": "KMS timed out",
    "KeyUnavailableException": "KMS cannot use the key now",
    "ServiceUnavailableException": "KMS is not available",
}


_STATES = {
    "DisabledException": ("The KMS key is disabled", "enable the key in KMS; nothing is lost (aws kms enable-key)"),
    "KMSInvalidStateException": (
        "The KMS key is pending deletion, or not ready for use",
        "cancel the key's deletion (aws kms cancel-key-deletion), then enable it, before its waiting period ends: after it"
        " nothing can bring it back",
    ),
    "NotFoundException": (
        "The KMS key does not exist",
        "correct keys.kms_key_id, or create the alias in this region; a key that was deleted is lost, and with it every backup"
        " whose data key it wrapped",
    ),
    "InvalidCiphertextException": (
        "KMS does not open the tenant's wrapped key",
        "the key object is damaged or of another tenant: restore its older version",
    ),
    "IncorrectKeyException": (
        "The tenant's key was wrapped by another KMS key than it says",
        "the key object names another key: restore its older version",
    ),
    "InvalidKeyUsageException": (
        "The KMS key is not one that encrypts",
        "name a symmetric key whose usage is ENCRYPT_DECRYPT in keys.kms_key_id",
    ),
    "InvalidArnException": ("Not the ARN of a KMS key in this region", "correct keys.kms_key_id"),
    "InvalidAliasNameException": ("Not the name of a KMS alias", "correct keys.kms_key_id"),
}


_CREDENTIALS = {
    "UnrecognizedClientException",
    "InvalidClientTokenId",
    "ExpiredTokenException",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "IncompleteSignature",
    "MissingAuthenticationToken",
}
_OTHERS = {"InvalidCiphertextException", "IncorrectKeyException"}  # of what it did not wrap


@contextmanager
def translated(verb: str, key_id: str, region: str) -> Iterator[None]:
    """Around one call of the SDK. Messages carry KMS's code, and nothing that was sent."""
    from botocore.exceptions import BotoCoreError, ClientError

    place = f"{key_id} in {region}"
    try:
        yield
    except ClientError as error:
        answer = error.response
        code = str(answer.get("Error", {}).get("Code", ""))
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        raise _error(verb, place, code, status) from None
    except BotoCoreError as error:
        raise KeyServiceUnavailable(
            "Cannot reach KMS",
            on=place,
            why=type(error).__name__,
            remedy="check network, keys.kms_endpoint_url and credentials; nothing is lost, try again",
        ) from None


def _error(verb: str, place: str, code: str, status: int) -> KeyServiceError:
    if code in _TRANSIENT or status >= 500:
        what = _TRANSIENT.get(code, "KMS has an internal error")
        remedy = "try again; if it stays, see the quotas and the health of KMS in this region"
        return KeyServiceUnavailable(what, on=place, why=code or f"HTTP {status}", remedy=remedy)
    if code in _STATES:
        what, remedy = _STATES[code]
        return KeyServiceError(what, on=place, why=code, remedy=remedy)
    if code == "AccessDeniedException":
        needed = _NEEDED.get(verb, f"kms:{verb}")
        remedy = f"grant {needed} on the key, in its policy or by a grant, to the role of the backup; docs/encryption.md lists all"
        return KeyServiceError(f"The use of the KMS key is denied: {needed}", on=place, why=code, remedy=remedy)
    if code in _CREDENTIALS:
        return KeyServiceError(
            "KMS does not accept the credentials", on=place, why=code, remedy="renew or correct them; `sbh doctor`"
        )
    kind = KeyUnopened if code in _OTHERS else KeyServiceError
    return kind(f"KMS refused to {verb.replace('_', ' ')}", on=place, why=code, remedy="run `sbh doctor`")
