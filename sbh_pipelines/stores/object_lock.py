"""Objects that cannot be deleted or overwritten for a time: S3 object lock.

The lock comes with the put itself, so there is no moment at which the object is there without it. obstore does not know the
headers, so this is boto3's; a put costs about 3 ms of CPU more. A large object is put by `stores/signed`, with `lock_attributes`.

What is locked is a version of an object. A delete without a version puts a delete marker before it, and another put a newer
version: the locked one stays, and is found by its version.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal

from sbh_pipelines.errors import ObjectExists, ObjectMissing, StoreDenied, StoreError
from sbh_pipelines.stores.s3_client import error_code, translated, url_of
from sbh_pipelines.stores.signed.headers import LOCK_MODE, LOCK_UNTIL

LockMode = Literal["governance", "compliance"]
_TAKEN = {"PreconditionFailed", "ConditionalRequestConflict", "412"}
_NO_LOCK = {"InvalidRequest", "NotImplemented", "ObjectLockConfigurationNotFoundError"}
_UNLOCKED = {"NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError"}
_GRANT = "grant s3:PutObjectRetention and s3:GetObjectRetention on the copy's bucket to the role"


def lock_attributes(mode: LockMode, until: datetime) -> dict[str, str]:
    """What `put_stream` is given, so that the object is locked from its put on."""
    return {LOCK_MODE: mode.upper(), LOCK_UNTIL: f"{until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"}


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

    def extend(self, key: str, until: datetime) -> bool:
        """Lock the newest version of an object until then, where it is not locked for longer. False where it is not there.

        Raises StoreDenied, StoreUnavailable.
        """
        try:
            with translated("lock an object", url_of(self._bucket, key), grant=_GRANT):
                self._client.put_object_retention(
                    Bucket=self._bucket, Key=key, Retention={"Mode": self._mode.upper(), "RetainUntilDate": until}
                )
        except ObjectMissing:
            return False
        except StoreDenied:
            locked = self.until(key)  # a lock that ends later is not made shorter, and that is what the server refuses
            if locked is None or locked < until:
                raise
        return True

    def until(self, key: str) -> datetime | None:
        """Until when the newest version of an object is locked; None where it is not. Raises ObjectMissing."""
        from botocore.exceptions import ClientError

        with translated("ask for the lock of an object", url_of(self._bucket, key), grant=_GRANT):
            try:
                found = self._client.get_object_retention(Bucket=self._bucket, Key=key)
            except ClientError as error:
                if error_code(error)[0] in _UNLOCKED:
                    return None
                raise
        ends: datetime = found["Retention"]["RetainUntilDate"]
        return ends.astimezone(UTC)
