"""S3 through boto3: the client, and its errors as ours. For control calls, and for what obstore cannot do (`s3.py`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sbh_pipelines.errors import ObjectChanged, ObjectMissing, StoreDenied, StoreError, StoreUnavailable

_DENIED = {"AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AllAccessDisabled", "ExpiredToken"}


def connect(
    region: str,
    *,
    endpoint_url: str | None = None,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    timeout_s: float = 60.0,
    connect_timeout_s: float = 60.0,
    retries: int = 5,
) -> Any:
    """A boto3 client of S3. No request is made yet."""
    import boto3  # imported late: it takes a quarter of a second, and few calls need it
    from botocore.config import Config

    return boto3.client(
        "s3",
        region_name=region,
        endpoint_url=endpoint_url,
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret_access_key,
        config=Config(
            s3={"addressing_style": "path" if endpoint_url else "auto"},
            connect_timeout=min(timeout_s, connect_timeout_s),
            read_timeout=timeout_s,
            retries={"max_attempts": retries},
        ),
    )


def url_of(bucket: str, key: str = "") -> str:
    """The address of an object for people; characters that are not printable are escaped."""
    return f"s3://{bucket}/{ascii(key)[1:-1]}" if key else f"s3://{bucket}"


@contextmanager
def translated(
    action: str,
    on: str,
    *,
    missing: str = "No such object",
    create: str = "",
    grant: str = "grant it; run `sbh doctor`",
) -> Iterator[None]:
    """Raises boto3's errors as errors of `errors.py`.

    `action` says in words what is tried, `on` to what. `missing`, with the remedy `create`, is said of what is not there;
    `grant` is the remedy where it is not allowed.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code, status = error_code(error)
        if status == 404:
            raise ObjectMissing(missing, on=on, why=code, remedy=create) from None
        if status == 412:
            raise ObjectChanged("The object is no longer the version expected", on=on) from None
        if status in (401, 403) or code in _DENIED:
            raise StoreDenied(f"The store refused to {action}", on=on, why=code, remedy=grant) from None
        kind = StoreUnavailable if status >= 500 else StoreError
        raise kind(f"The store failed to {action}", on=on, why=code, remedy="try again; run `sbh doctor`") from None
    except (BotoCoreError, Boto3Error, ValueError, RecursionError) as error:  # the last: redirected without an end
        raise StoreUnavailable(
            f"Cannot reach the store to {action}",
            on=on,
            why=type(error).__name__,
            remedy="check storage.endpoint_url, credentials, network; run `sbh doctor`",
        ) from None


def error_code(error: Any) -> tuple[str, int]:
    """The code of a `ClientError` and its HTTP status; '' and 0 where the answer has none."""
    response = error.response
    return str(response.get("Error", {}).get("Code", "")), response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


class BucketVersions:
    """Versions of the objects of one bucket, which obstore does not list. For files that change while they are backed up."""

    def __init__(self, client: Any, bucket: str) -> None:
        self._client, self._bucket = client, bucket

    def version_with_etag(self, key: str, etag: str) -> str | None:
        """The newest version of `key` that has `etag`, or None."""
        pages = self._client.get_paginator("list_object_versions").paginate(Bucket=self._bucket, Prefix=key)
        for page in pages:
            for version in page.get("Versions", []):
                if version["Key"] > key:
                    return None
                if version["Key"] == key and version["ETag"].strip('"') == etag.strip('"'):
                    found: str = version["VersionId"]
                    return None if found == "null" else found
        return None
