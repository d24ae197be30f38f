"""What KMS answers, as errors of ours: which state the key is in, and what an operator does about it."""

from collections.abc import Iterator
from contextlib import contextmanager

from sbh_pipelines.errors import KeyServiceError, KeyServiceUnavailable

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
        remedy = f"grant {needed} on the key, in its policy or by a grant, to the role of the backup; docs/security.md lists all"
        return KeyServiceError(f"The use of the KMS key is denied: {needed}", on=place, why=code, remedy=remedy)
    if code in _CREDENTIALS:
        return KeyServiceError(
            "KMS does not accept the credentials", on=place, why=code, remedy="renew or correct them; `sbh doctor`"
        )
    return KeyServiceError(f"KMS refused to {verb.replace('_', ' ')}", on=place, why=code, remedy="run `sbh doctor`")
