"""S3's error codes, one by one: what each means here, whether the same call may succeed later, and what to do.

The codes are those of https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html and of servers that speak S3.
"""

import re
import shlex
from dataclasses import dataclass

from sbh_pipelines.errors import ObjectChanged, ObjectMissing, StoreDenied, StoreError, StoreUnavailable


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a code means.

    Attributes:
        kind: The error that it becomes; only StoreUnavailable is transient.
        remedy: What to do.
        what: What failed, where it is more than that an action did; may hold `{action}`.
    """

    kind: type[StoreError]
    remedy: str
    what: str = "The store failed to {action}"


_REFUSED = "The store refused to {action}"
_GRANT = "grant it to the role in its policy and the bucket's (docs/operations.md, deploy/policies); `sbh doctor` tries each right"
_ENCRYPTED = (
    'Where the bucket\'s policy demands encryption, set under [files]: encryption = "AES256", or "aws:kms"; for backups under'
    " [storage]: sse"
)
_SLOWER = "try again later; if it stays so, lower files.connections and backup.upload_threads"
_REGION = (
    "give the tenant the bucket's region, or put its region under [storage] regions and its address in endpoint_url; aws s3api"
    " get-bucket-location tells it"
)
_RENEW = "renew the credentials, e.g. aws sso login, or correct what storage.access_key_id stands for"
_KEY_STATE = "enable the KMS key of the bucket or the object again: aws kms enable-key, or cancel-key-deletion"
_ROOM = "raise the bucket's quota or add disks, then run it again; sbh repository prune gives room back"

MEANINGS = {
    # Who asks
    "AccessDenied": Meaning(StoreDenied, _GRANT, _REFUSED),
    "AllAccessDisabled": Meaning(StoreDenied, "let AWS support enable the bucket again", _REFUSED),
    "AccountProblem": Meaning(StoreDenied, "see the AWS account's messages: its use of S3 is blocked", _REFUSED),
    "NotSignedUp": Meaning(StoreDenied, "sign the AWS account up for S3", _REFUSED),
    "InvalidAccessKeyId": Meaning(
        StoreDenied,
        "correct storage.access_key_id or the profile: this server has no such key, or it was deleted",
        _REFUSED,
    ),
    "SignatureDoesNotMatch": Meaning(
        StoreDenied,
        "correct the secret access key (storage.secret_access_key or its file): it is not that of storage.access_key_id; a"
        " proxy on the way must leave Host and the path as they are",
        _REFUSED,
    ),
    "RequestTimeTooSkewed": Meaning(
        StoreDenied, "set this machine's clock: timedatectl set-ntp true; it differs by more than 15 minutes", _REFUSED
    ),
    "RequestExpired": Meaning(StoreDenied, "set this machine's clock: timedatectl set-ntp true", _REFUSED),
    "ExpiredToken": Meaning(StoreDenied, _RENEW, _REFUSED),
    "ExpiredTokenException": Meaning(StoreDenied, _RENEW, _REFUSED),
    "InvalidToken": Meaning(StoreDenied, _RENEW, _REFUSED),
    "TokenRefreshRequired": Meaning(StoreDenied, _RENEW, _REFUSED),
    "InvalidSecurity": Meaning(StoreDenied, _RENEW, _REFUSED),
    "UnauthorizedAccess": Meaning(StoreDenied, _GRANT, _REFUSED),
    # Where it is
    "NoSuchBucket": Meaning(
        ObjectMissing,
        "create the bucket (`aws s3 mb s3://BUCKET`), or correct its name: storage.bucket, files.bucket; `sbh doctor` names each",
        "No such bucket",
    ),
    "NoSuchKey": Meaning(ObjectMissing, "run `sbh backup validate`", "No such object"),
    "NoSuchVersion": Meaning(ObjectMissing, "the version was removed; run it again", "No such version of the object"),
    "NoSuchUpload": Meaning(
        StoreError,
        "run it again; let the lifecycle rule that aborts unfinished uploads wait for some days",
        "The upload was aborted meanwhile",
    ),
    "InvalidBucketName": Meaning(StoreError, "correct the bucket's name in the settings", "This is no name of a bucket"),
    "InvalidBucketState": Meaning(StoreError, "see the bucket's settings", _REFUSED),
    "PermanentRedirect": Meaning(StoreError, _REGION, "The bucket is in another region"),
    "AuthorizationHeaderMalformed": Meaning(StoreError, _REGION, "The bucket is in another region"),
    "IllegalLocationConstraintException": Meaning(StoreError, _REGION, "The bucket is in another region"),
    "TemporaryRedirect": Meaning(StoreUnavailable, "try again in an hour: the bucket is new, its name not known everywhere"),
    # Not now
    "SlowDown": Meaning(StoreUnavailable, _SLOWER),
    "SlowDownRead": Meaning(StoreUnavailable, _SLOWER),
    "SlowDownWrite": Meaning(StoreUnavailable, _SLOWER),
    "ServiceUnavailable": Meaning(StoreUnavailable, _SLOWER),
    "Throttling": Meaning(StoreUnavailable, _SLOWER),
    "ThrottlingException": Meaning(StoreUnavailable, _SLOWER),
    "RequestLimitExceeded": Meaning(StoreUnavailable, _SLOWER),
    "RequestThrottled": Meaning(StoreUnavailable, _SLOWER),
    "TooManyRequests": Meaning(StoreUnavailable, _SLOWER),
    "BandwidthLimitExceeded": Meaning(StoreUnavailable, _SLOWER),
    "XMinioServerNotInitialized": Meaning(StoreUnavailable, "wait until the server has started"),
    "InternalError": Meaning(StoreUnavailable, "try again; if it stays so, see the store's own log"),
    "RequestTimeout": Meaning(StoreUnavailable, "try again; the network on the way to the store stalls"),
    "RequestTimeoutException": Meaning(StoreUnavailable, "try again; the network on the way to the store stalls"),
    "OperationAborted": Meaning(StoreUnavailable, "try again: another operation works on the same bucket"),
    "ConditionalRequestConflict": Meaning(StoreUnavailable, "try again: another writer was at the same object"),
    "BadDigest": Meaning(StoreUnavailable, "try again; if it stays so, the network or a proxy changes what is sent"),
    "XAmzContentSHA256Mismatch": Meaning(StoreUnavailable, "try again; if it stays so, a proxy changes what is sent"),
    "XAmzContentChecksumMismatch": Meaning(StoreUnavailable, "try again; if it stays so, a proxy changes what is sent"),
    "IncompleteBody": Meaning(StoreUnavailable, "try again: the connection broke"),
    # What the object is
    "PreconditionFailed": Meaning(ObjectChanged, "run it again", "The object is no longer the version expected"),
    "InvalidObjectState": Meaning(
        StoreError,
        "bring it back for some days, wait for that, then run it again: aws s3api restore-object --bucket {bucket} --key {key}"
        " --restore-request Days=7; or copy it to another storage class, or exclude its folder with files.exclude",
        "An object is archived, and cannot be read before it is brought back",
    ),
    "ObjectNotInActiveTierError": Meaning(
        StoreError, "bring it back first: aws s3api restore-object", "An object is archived"
    ),
    "InvalidRange": Meaning(StoreError, "the object is too short: sbh backup validate", "The range is not in the object"),
    "MethodNotAllowed": Meaning(StoreError, "the newest version is a delete marker, or the server does not know this request"),
    "EntityTooLarge": Meaning(
        StoreError, "raise the server's limit: S3 takes 5 GiB in one request and 5 TiB in parts", "An object is too large"
    ),
    "EntityTooSmall": Meaning(StoreError, "report it: a part of an upload was too small", "A part of an upload is too small"),
    "MaxMessageLengthExceeded": Meaning(StoreError, "raise the server's limit of a request", "A request is too large"),
    "KeyTooLongError": Meaning(StoreError, "shorten the prefix: a key has at most 1024 bytes", "A key is too long"),
    "MetadataTooLarge": Meaning(
        StoreError, "shorten the file's metadata: S3 takes 2 KiB", "An object's metadata is too large for the store"
    ),
    "InvalidTag": Meaning(StoreError, "correct the file's tags: the store does not take them", "A tag is not one"),
    "InvalidStorageClass": Meaning(
        StoreError,
        "this store has no such storage class; set under [files]: keep_storage_class = false",
        "The store does not know a storage class",
    ),
    # Locks, rooms and keys
    "ObjectLocked": Meaning(StoreDenied, "wait until its object lock ends", "The object is locked"),
    "InvalidRetentionPeriod": Meaning(StoreError, "correct audit.object_lock_days", "The lock's period is not one"),
    "QuotaExceeded": Meaning(StoreError, _ROOM, "The bucket is full"),
    "XMinioAdminBucketQuotaExceeded": Meaning(StoreError, _ROOM, "The bucket is full"),
    "XMinioStorageFull": Meaning(StoreError, _ROOM, "The store is full"),
    "InsufficientCapacity": Meaning(StoreError, _ROOM, "The store is full"),
    "InsufficientStorage": Meaning(StoreError, _ROOM, "The store is full"),
    "TooManyBuckets": Meaning(StoreError, "ask for a higher limit of buckets", "There are too many buckets"),
    "KMS.DisabledException": Meaning(StoreError, _KEY_STATE, "The KMS key is disabled"),
    "KMS.KMSInvalidStateException": Meaning(StoreError, _KEY_STATE, "The KMS key is not in a state to be used"),
    "KMS.NotFoundException": Meaning(
        StoreError,
        "correct the key's ARN (storage.sse_kms_key_id, files.encryption_kms_key_id, or the bucket's default); it must be in the"
        " bucket's region",
        "There is no such KMS key",
    ),
    "KMS.InvalidKeyUsageException": Meaning(StoreError, "name a symmetric KMS key", "The KMS key is of the wrong kind"),
    "KMS.KeyUnavailableException": Meaning(StoreUnavailable, "try again: KMS cannot reach the key", "KMS cannot be used"),
    "KMS.InternalException": Meaning(StoreUnavailable, "try again", "KMS failed"),
    "KMS.ThrottlingException": Meaning(StoreUnavailable, _SLOWER, "KMS is asked too often"),
    "KMS.AccessDeniedException": Meaning(
        StoreDenied, "grant kms:Decrypt and kms:GenerateDataKey on the bucket's key to the role", "The KMS key was refused"
    ),
    # What was asked
    "MissingContentMD5": Meaning(StoreError, "report it: this server asks for Content-MD5 here", _REFUSED),
    "InvalidDigest": Meaning(StoreError, "report it: this server does not take the digest", _REFUSED),
    "InvalidRequest": Meaning(
        StoreError,
        "objects under keys of the customer's own (SSE-C) cannot be read by a backup; else see what the server says",
        _REFUSED,
    ),
    "InvalidArgument": Meaning(StoreError, "see what the server says; report it if the settings are right", _REFUSED),
    "NotImplemented": Meaning(StoreError, "this server cannot do it; use one that can", "The store cannot {action}"),
    "MalformedXML": Meaning(StoreError, "report it, with the server's name and version", _REFUSED),
}  # fmt: skip

_BY_STATUS = {
    301: "PermanentRedirect", 307: "TemporaryRedirect", 401: "AccessDenied", 403: "AccessDenied", 404: "NoSuchKey",
    408: "RequestTimeout", 412: "PreconditionFailed", 413: "EntityTooLarge", 416: "InvalidRange", 429: "SlowDown",
    501: "NotImplemented", 503: "ServiceUnavailable", 507: "InsufficientStorage",
}  # fmt: skip
_SAID = re.compile(r"<(Code|Message|StorageClass|AccessTier|Region)>([^<]{0,500})</")
_OURS = {"Code", "Message"}


@dataclass(frozen=True, slots=True)
class Told:
    """What an answer says of an error.

    Attributes:
        code: S3's code; '' where the answer has none.
        status: The HTTP status; 0 where it is not known.
        message: The server's words.
        more: A storage class, a region.
    """

    code: str
    status: int
    message: str = ""
    more: str = ""

    @classmethod
    def read(cls, text: str, status: int = 0) -> "Told":
        """What is in an answer's XML, or in an error's text that quotes it."""
        said = dict(reversed(_SAID.findall(text)))
        more = ", ".join(f"{name} {said[name]}" for name in ("StorageClass", "AccessTier", "Region") if said.get(name))
        return cls(said.get("Code", "").strip(), status, said.get("Message", ""), more)


def meaning(told: Told) -> Meaning:
    """What the answer means: by its code, else by the HTTP status."""
    code = told.code if told.code in MEANINGS else _BY_STATUS.get(told.status) or _BY_STATUS.get(_number(told.code), "")
    if code in MEANINGS:
        return MEANINGS[code]
    if told.code.startswith("KMS."):
        return Meaning(StoreError, "see the state and the policy of the bucket's KMS key", "KMS refused")
    if told.status >= 500:
        return MEANINGS["InternalError"]
    return Meaning(StoreError, "see what the server says, and its own log; run `sbh doctor`")


def s3_error(
    action: str,
    on: str,
    told: Told,
    *,
    bucket: str = "",
    key: str = "",
    grant: str = "",
    missing: str = "",
    create: str = "",
) -> StoreError:
    """The error for an answer.

    `action` says in words what was tried, `on` to what. `missing`, with the remedy `create`, is said of what is not there; `grant`
    is the remedy where it is not allowed.
    """
    found = meaning(told)
    remedy = found.remedy
    if found is MEANINGS["AccessDenied"] and action.startswith(("put", "begin")):
        remedy = f"{remedy}. {_ENCRYPTED}"
    if grant and found is MEANINGS["AccessDenied"]:
        remedy = grant
    if found.kind is ObjectMissing and create:
        remedy = create
    what = missing if missing and found.kind is ObjectMissing else found.what.format(action=action)
    if "{bucket}" in remedy:
        remedy = remedy.format(bucket=bucket or "BUCKET", key=in_shell(key) if key else "KEY")
    why = ": ".join(
        filter(None, (told.code or (f"HTTP {told.status}" if told.status else ""), told.more or told.message))
    )
    return found.kind(what, on=on, why=why[:300], remedy=remedy)


def in_shell(key: str) -> str:
    """A key as a shell takes it; characters that are not printable are escaped."""
    return shlex.quote(key if key.isprintable() else ascii(key)[1:-1])


def _number(text: str) -> int:
    return int(text) if text.isdigit() and len(text) == 3 else 0
