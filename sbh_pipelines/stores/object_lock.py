"""Objects that cannot be deleted or overwritten for a time: S3 object lock.

The lock comes with the put itself, so there is no moment at which the object is there without it. obstore does not know the
headers, so this is boto3's; a put costs about 3 ms of CPU more.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

from sbh_pipelines.errors import ObjectExists, StoreError
from sbh_pipelines.stores.s3_client import error_code, translated, url_of

LockMode = Literal["governance", "compliance"]
_TAKEN = {"PreconditionFailed", "ConditionalRequestConflict", "412"}
_NO_LOCK = {"InvalidRequest", "NotImplemented", "ObjectLockConfigurationNotFoundError"}


class LockedBucket:
    """Creates objects under a lock. `connect` makes the boto3 client at the first use; `more` goes with each put. Thread-safe."""

    def __init__(
        self, connect: Callable[[], Any], bucket: str, mode: LockMode, more: Mapping[str, str | bool] | None = None
    ) -> None:
        self._connect, self._bucket, self._mode, self._more = connect, bucket, mode, dict(more or {})

    @cached_property
    def _client(self) -> Any:
        return self._connect()

    def create(self, key: str, data: bytes, until: datetime) -> None:
        """A create-only put. Raises ObjectExists, StoreDenied, StoreUnavailable; StoreError where the bucket has no lock."""
        from botocore.exceptions import ClientError

        on = url_of(self._bucket, key)
        grant = "grant s3:PutObject and s3:PutObjectRetention on the audit folders"
        with translated("put an object under a lock", on, grant=grant):
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
                code, status = error_code(error)
                if code in _TAKEN or status == 412:
                    raise ObjectExists("The object exists already", on=on) from None
                if code in _NO_LOCK:
                    raise StoreError(
                        "The bucket does not lock objects",
                        on=on,
                        why=code,
                        remedy="enable object lock on the bucket, or leave audit.object_lock_days empty",
                    ) from None
                raise
