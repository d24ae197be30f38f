"""Objects that nobody can delete or overwrite for a time: S3 object lock.

The lock comes with the put itself, so there is no moment at which the object is there without it. obstore does not know the
headers, so this is boto3's; a put costs about 3 ms of CPU more.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Literal

from sbh_pipelines.errors import ObjectExists, StoreDenied, StoreError, StoreUnavailable

LockMode = Literal["governance", "compliance"]
_TAKEN = {"PreconditionFailed", "ConditionalRequestConflict", "412"}
_NO_LOCK = {"InvalidRequest", "NotImplemented", "ObjectLockConfigurationNotFoundError"}


class LockedBucket:
    """Creates objects under a lock. `connect` makes the boto3 client at the first use; `more` goes with each put. Thread-safe."""

    def __init__(
        self, connect: Callable[[], Any], bucket: str, mode: LockMode, more: Mapping[str, Any] | None = None
    ) -> None:
        self._connect, self._bucket, self._mode, self._more = connect, bucket, mode, dict(more or {})
        self._client: Any = None

    def create(self, key: str, data: bytes, until: datetime) -> None:
        """A create-only put. Raises ObjectExists, StoreDenied, StoreUnavailable; StoreError where the bucket has no lock."""
        from botocore.exceptions import BotoCoreError, ClientError

        place = f"s3://{self._bucket}/{key}"
        if self._client is None:
            self._client = self._connect()
        try:
            self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=data,
                IfNoneMatch="*",
                ChecksumAlgorithm="SHA256",
                ObjectLockMode=self._mode.upper(),
                ObjectLockRetainUntilDate=until,
                **self._more,
            )
        except ClientError as error:
            raise _translated(error, place) from None
        except (BotoCoreError, ValueError) as error:
            raise StoreUnavailable(
                "Cannot put an object",
                on=place,
                why=type(error).__name__,
                remedy="check the store and its credentials; run `sbh doctor`",
            ) from None


def _translated(error: Any, place: str) -> StoreError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _TAKEN or status == 412:
        return ObjectExists("The object exists already", on=place)
    if code in _NO_LOCK:
        return StoreError(
            "The bucket does not lock objects",
            on=place,
            why=code,
            remedy="enable object lock on the bucket, or leave audit.object_lock_days empty",
        )
    if status == 403:
        return StoreDenied(
            "The store refused to put an object under a lock",
            on=place,
            why=code,
            remedy="grant s3:PutObject and s3:PutObjectRetention on the audit folders",
        )
    kind = StoreUnavailable if status >= 500 else StoreError
    return kind("Cannot put an object under a lock", on=place, why=code, remedy="check the store; run `sbh doctor`")
