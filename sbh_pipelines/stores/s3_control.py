"""S3's control calls, through boto3: where a bucket is and how it is set up. Data go through `s3.py`."""

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from sbh_pipelines.stores.base import ObjectInfo
from sbh_pipelines.stores.bucket_rules import LifecycleRule
from sbh_pipelines.stores.s3_client import connect, error_code, translated, url_of

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
        ca_file: Path | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        self._client = connect(
            region,
            endpoint_url=endpoint_url,
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
            ca_file=ca_file,
            timeout_s=timeout_s,
            connect_timeout_s=5,
            retries=2,
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
                if told := _region_named(error.response):
                    return told
                raise
        # AWS always tells. Of others an empty location proves nothing, though with AWS it would mean us-east-1.
        return (
            _region_named(answer) or (self._call("get_bucket_location", bucket).get("LocationConstraint") or "").strip()
        )

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

    def policy(self, bucket: str) -> Mapping[str, object]:
        """The bucket's policy; {} where it has none, or one that is no JSON object."""
        try:
            found = json.loads(self._call("get_bucket_policy", bucket, unset={}).get("Policy") or "{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def lifecycle(self, bucket: str) -> list[LifecycleRule]:
        """The bucket's lifecycle rules."""
        answer = self._call("get_bucket_lifecycle_configuration", bucket, unset={})
        return [LifecycleRule.parse(rule) for rule in answer.get("Rules") or []]

    def first_objects(self, bucket: str, prefix: str) -> list[tuple[str, str]]:
        """(key, storage class) of up to a thousand objects below a prefix."""
        with _translated("list_objects_v2", bucket):
            answer = self._client.list_objects_v2(Bucket=bucket, Prefix=prefix)
        return [(found["Key"], found.get("StorageClass", "STANDARD")) for found in answer.get("Contents", ())]

    def objects(self, bucket: str, prefix: str) -> Iterator[tuple[ObjectInfo, str]]:
        """Every object below a prefix, with its storage class."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        with translated("list objects", url_of(bucket, prefix), grant="grant s3:ListBucket on the bucket"):
            for page in pages:
                for found in page.get("Contents", ()):
                    info = ObjectInfo(found["Key"], found["Size"], found["ETag"], found["LastModified"])
                    yield info, found.get("StorageClass") or "STANDARD"

    def reads_tags(self, bucket: str, key: str) -> bool:
        """Whether we may read the tags of an object; also where the server has no tags. S3 does not tell us of tags otherwise."""
        from botocore.exceptions import ClientError

        with _translated("get_object_tagging", bucket):
            try:
                self._client.get_object_tagging(Bucket=bucket, Key=key)
            except ClientError as error:
                return error_code(error)[1] != 403
        return True

    def _call(self, verb: str, bucket: str, unset: dict[str, Any] | None = None) -> Any:
        """The server's answer; `unset` where the bucket has no such setting."""
        from botocore.exceptions import ClientError

        with _translated(verb, bucket):
            try:
                answer = getattr(self._client, verb)(Bucket=bucket)
            except ClientError as error:
                if unset is not None and error_code(error)[0] in _UNSET:
                    return unset
                raise
            return answer


def _region_named(answer: Mapping[str, Any]) -> str:
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    found: str = answer.get("BucketRegion") or headers.get("x-amz-bucket-region") or ""
    return found


def _translated(verb: str, bucket: str) -> AbstractContextManager[None]:
    on = url_of(bucket)
    grant = "grant it to the role, or correct the credentials"
    return translated(verb.replace("_", " "), on, missing="No such bucket", create=f"aws s3 mb {on}", grant=grant)
