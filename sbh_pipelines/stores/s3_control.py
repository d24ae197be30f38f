"""S3's control calls, through boto3: where a bucket is and how it is set up. Data go through `object_store.py`."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from sbh_pipelines.errors import ObjectMissing, StoreDenied, StoreError, StoreUnavailable

_DENIED = {"AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AllAccessDisabled", "ExpiredToken"}
_MISSING = {"NoSuchBucket", "404", "NotFound"}
# What servers answer where a bucket has no such setting, or the server no such notion.
_UNSET = {
    "ServerSideEncryptionConfigurationNotFoundError",
    "ObjectLockConfigurationNotFoundError",
    "NoSuchPublicAccessBlockConfiguration",
    "NoSuchBucketPolicy",
    "NoSuchLifecycleConfiguration",
    "NotImplemented",
    "MethodNotAllowed",
    "InvalidRequest",
}


@dataclass(frozen=True, slots=True)
class BucketTime:
    """The server's clock minus ours, and how far off that may be: the HTTP Date header counts whole seconds."""

    offset_s: float
    error_s: float


class S3Control:
    """Control calls to one S3 server, in one region. Read-only. Raises StoreUnavailable, StoreDenied, ObjectMissing."""

    def __init__(
        self,
        region: str,
        *,
        endpoint_url: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        import boto3  # imported late: it takes a quarter of a second
        from botocore.config import Config

        self._client = boto3.client(
            "s3",
            region_name=region,
            endpoint_url=endpoint_url,
            aws_access_key_id=access_key_id,
            aws_secret_access_key=secret_access_key,
            config=Config(
                s3={"addressing_style": "path" if endpoint_url else "auto"},
                connect_timeout=min(timeout_s, 5),
                read_timeout=timeout_s,
                retries={"max_attempts": 2},
            ),
        )

    def check_bucket(self, bucket: str) -> BucketTime:
        """The bucket answers. Raises ObjectMissing when there is none, StoreDenied when we may not know."""
        before = datetime.now(UTC)
        answer = self._call("head_bucket", bucket)
        now = datetime.now(UTC)
        middle, half = before + (now - before) / 2, (now - before).total_seconds() / 2
        header = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        if not header:
            return BucketTime(0.0, float("inf"))
        # The header is cut to the second: the true time is half a second later on average.
        offset = (parsedate_to_datetime(header) - middle).total_seconds() + 0.5
        return BucketTime(offset, half + 0.5)

    def location(self, bucket: str) -> str:
        """The region the server says the bucket is in; '' where it does not say."""
        answer = self._call("get_bucket_location", bucket)
        found = answer.get("LocationConstraint")
        return {None: "us-east-1", "EU": "eu-west-1"}.get(found, found or "")

    def real_region(self, bucket: str) -> str:
        """The region the bucket is in, whichever endpoint was asked; '' where the server does not say.

        A HEAD tells it in a header, also when it is refused or answered by another region's endpoint.
        """
        from botocore.exceptions import ClientError

        with _translated("head_bucket", bucket):
            try:
                answer = self._client.head_bucket(Bucket=bucket)
            except ClientError as error:
                if told := _told(error.response):
                    return told
                raise
        # AWS always tells. Of others an empty location proves nothing, though with AWS it would mean us-east-1.
        return _told(answer) or (self._call("get_bucket_location", bucket).get("LocationConstraint") or "").strip()

    def versioned(self, bucket: str) -> bool:
        return bool(self._call("get_bucket_versioning", bucket).get("Status") == "Enabled")

    def object_lock(self, bucket: str) -> str:
        """'' without object lock; else its mode and default period, or 'no default period'."""
        answer = self._call("get_object_lock_configuration", bucket, unset={})
        configuration = answer.get("ObjectLockConfiguration") or {}
        if configuration.get("ObjectLockEnabled") != "Enabled":
            return ""
        default = (configuration.get("Rule") or {}).get("DefaultRetention") or {}
        period = (
            f"{default['Days']} days"
            if "Days" in default
            else f"{default['Years']} years"
            if "Years" in default
            else ""
        )
        return f"{default['Mode'].lower()}, {period}" if period else "no default period"

    def encryption(self, bucket: str) -> str:
        """The algorithm of server-side encryption by default; '' where none is set."""
        answer = self._call("get_bucket_encryption", bucket, unset={})
        rules = (answer.get("ServerSideEncryptionConfiguration") or {}).get("Rules") or []
        by_default = [rule.get("ApplyServerSideEncryptionByDefault") or {} for rule in rules]
        return ", ".join(rule["SSEAlgorithm"] for rule in by_default if "SSEAlgorithm" in rule)

    def blocks_public_access(self, bucket: str) -> bool:
        """Whether the bucket's own settings block all four ways of making it public; the account's may do so besides."""
        answer = self._call("get_public_access_block", bucket, unset={})
        blocks = answer.get("PublicAccessBlockConfiguration") or {}
        return all(
            blocks.get(name)
            for name in ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
        )

    def policy(self, bucket: str) -> dict[str, Any]:
        """The bucket's policy; {} where it has none, or one that is no JSON object."""
        try:
            found = json.loads(self._call("get_bucket_policy", bucket, unset={}).get("Policy") or "{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def lifecycle(self, bucket: str) -> list[dict[str, Any]]:
        """The bucket's lifecycle rules, as S3 gives them."""
        return list(self._call("get_bucket_lifecycle_configuration", bucket, unset={}).get("Rules") or [])

    def _call(self, verb: str, bucket: str, unset: dict[str, Any] | None = None) -> dict[str, Any]:
        from botocore.exceptions import ClientError

        with _translated(verb, bucket):
            try:
                answer: dict[str, Any] = getattr(self._client, verb)(Bucket=bucket)
            except ClientError as error:
                if unset is not None and error.response.get("Error", {}).get("Code") in _UNSET:
                    return unset
                raise
            return answer


def _told(answer: Mapping[str, Any]) -> str:
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    found: str = answer.get("BucketRegion") or headers.get("x-amz-bucket-region") or ""
    return found


@contextmanager
def _translated(verb: str, bucket: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError

    place, readable = f"s3://{bucket}", verb.replace("_", " ")
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in _MISSING:
            raise ObjectMissing("No such bucket", on=place, why=code, remedy=f"aws s3 mb {place}") from None
        if code in _DENIED or status == 403:
            raise StoreDenied(
                f"The store refused to {readable}",
                on=place,
                why=code,
                remedy="grant it to the role, or correct the credentials",
            ) from None
        kind = StoreUnavailable if status >= 500 else StoreError
        raise kind(
            f"The store failed to {readable}", on=place, why=code, remedy="try again; see the store's status"
        ) from None
    except (BotoCoreError, ValueError, RecursionError) as error:  # the last: redirected without an end
        raise StoreUnavailable(
            "Cannot reach the store",
            on=place,
            why=type(error).__name__,
            remedy="check storage.endpoint_url, credentials, network",
        ) from None
