"""Deleting for good: every version of every object below a prefix, delete markers and unfinished uploads included.

A listing of versions is not trusted to be complete at once: SeaweedFS leaves out keys where a page ends. So it is listed and
deleted again and again, from the beginning, until a listing is empty, and what the ordinary listing still shows is then asked
for key by key. Versions under object lock stay; they are counted and named.
"""

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Protocol

from sbh_pipelines.concurrency import streamed
from sbh_pipelines.errors import ObjectMissing, StoreDenied
from sbh_pipelines.stores.base import ObjectStore
from sbh_pipelines.stores.s3_client import error_code, translated, url_of

_AT_ONCE = 500
_NAMED = 20
_LOCKS_AT_ONCE = 8
_NOT_LOCKED = {"NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError", "InvalidRequest"}
_NOT_ABOUT_THE_FORM = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestTimeout", "NoSuchBucket"}


@dataclass(slots=True)
class PurgeResult:
    """What was deleted, and what could not be. Bytes are of stored versions."""

    objects: int = 0  # versions that were the current ones
    versions: int = 0  # all, those included; without delete markers
    bytes: int = 0
    left: int = 0  # versions that are still there
    left_keys: list[str] = field(default_factory=list)  # some of them, with why

    def count(self, size: int | None, current: bool) -> None:
        """One more version, of `size` bytes; a delete marker has no size and is not counted."""
        if size is not None:
            self.versions += 1
            self.bytes += size
            self.objects += current

    def add(self, other: "PurgeResult") -> None:
        self.objects += other.objects
        self.versions += other.versions
        self.bytes += other.bytes
        self.left += other.left
        self.left_keys = (self.left_keys + other.left_keys)[:_NAMED]


Chosen = Callable[[str, bool], bool]  # (key, whether it is the current version): is it to go?


def every(_: str, __: bool) -> bool:
    return True


class Purger(Protocol):
    def purge(self, prefix: str, chosen: Chosen = every) -> PurgeResult:
        """Delete all versions of the chosen objects below `prefix`. Raises StoreUnavailable, StoreDenied."""
        ...

    def count(self, prefix: str, chosen: Chosen = every) -> PurgeResult:
        """Count all versions of the chosen objects below `prefix`."""
        ...

    def older_versions(self, prefix: str, most: int) -> Iterator[tuple[str, bytes]]:
        """(key, content) of all versions below `prefix` but the current ones, of at most `most` bytes each. Raises StoreDenied."""
        ...

    def locked_until(self, prefix: str, chosen: Chosen = every) -> datetime | None:
        """When the last object lock on versions of the chosen objects ends; None where there is none. Raises StoreDenied."""
        ...


class DirectoryPurge:
    """Deletes in a store that keeps no versions."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def purge(self, prefix: str, chosen: Chosen = every) -> PurgeResult:
        done = PurgeResult()
        while True:
            batch = []
            for info in self._store.list(prefix):
                if chosen(info.key, True):
                    batch.append(info.key)
                    done.count(info.size, current=True)
                if len(batch) == _AT_ONCE:
                    break
            if not batch:
                return done
            self._store.delete(batch)

    def count(self, prefix: str, chosen: Chosen = every) -> PurgeResult:
        done = PurgeResult()
        for info in self._store.list(prefix):
            if chosen(info.key, True):
                done.count(info.size, current=True)
        return done

    def older_versions(self, prefix: str, most: int) -> Iterator[tuple[str, bytes]]:
        return iter(())

    def locked_until(self, prefix: str, chosen: Chosen = every) -> datetime | None:
        return None


@dataclass(frozen=True, slots=True)
class _Version:
    """One version of an object, or a delete marker, which has no size."""

    key: str
    id: str
    current: bool
    size: int | None


class VersionPurge:
    """Deletes in a bucket, which may be versioned. `connect` makes the boto3 client at the first use."""

    def __init__(self, connect: Callable[[], Any], bucket: str, store: ObjectStore) -> None:
        self._connect, self._bucket, self._store = connect, bucket, store
        self._one_by_one = False  # where the server has no delete of many

    @cached_property
    def _client(self) -> Any:
        return self._connect()

    def purge(self, prefix: str, chosen: Chosen = every) -> PurgeResult:
        done = self._until_nothing_goes(prefix, chosen)
        # What the listing of versions does not show, the ordinary one may.
        for key in [info.key for info in self._store.list(prefix) if chosen(info.key, True)] if not done.left else ():
            done.add(self._until_nothing_goes(key, keys_of([key])))
        self._abort_uploads(prefix, chosen)
        return done

    def count(self, prefix: str, chosen: Chosen = every) -> PurgeResult:
        done = PurgeResult()
        for version in self._versions(prefix):
            if chosen(version.key, version.current):
                done.count(version.size, version.current)
        return done

    def older_versions(self, prefix: str, most: int) -> Iterator[tuple[str, bytes]]:
        for version in self._versions(prefix):
            if version.current or version.size is None or version.size > most:
                continue
            try:
                with self._translated("get an older version of an object", version.key):
                    found = self._client.get_object(Bucket=self._bucket, Key=version.key, VersionId=version.id)
                    body: bytes = found["Body"].read(most)
            except ObjectMissing:  # removed meanwhile
                continue
            yield version.key, body

    def locked_until(self, prefix: str, chosen: Chosen = every) -> datetime | None:
        kept = (version for version in self._versions(prefix) if version.size is not None)
        asked = (version for version in kept if chosen(version.key, version.current))
        times = streamed(self._lock_of, asked, name="locks", threads=_LOCKS_AT_ONCE, ahead=4 * _LOCKS_AT_ONCE)
        return max(filter(None, times), default=None)

    def _lock_of(self, version: _Version) -> datetime | None:
        from botocore.exceptions import ClientError

        with self._translated("ask for an object's lock", version.key, "s3:GetObjectRetention"):
            try:
                found = self._client.get_object_retention(Bucket=self._bucket, Key=version.key, VersionId=version.id)
            except ClientError as error:
                code, status = error_code(error)
                if code in _NOT_LOCKED or status in (404, 405, 501):
                    return None
                raise
        until: datetime | None = found.get("Retention", {}).get("RetainUntilDate")
        return until

    def _until_nothing_goes(self, prefix: str, chosen: Chosen) -> PurgeResult:
        done = PurgeResult()
        while True:
            one, gone = self._pass(prefix, chosen)
            left, left_keys = one.left, one.left_keys
            one.left, one.left_keys = 0, []
            done.add(one)
            if not gone:
                done.left, done.left_keys = left, left_keys
                return done

    def _pass(self, prefix: str, chosen: Chosen) -> tuple[PurgeResult, int]:
        """List once from the beginning to the end, and delete on the way; also how many versions and markers went."""
        done, gone = PurgeResult(), 0
        batch: list[_Version] = []
        for version in self._versions(prefix):
            if chosen(version.key, version.current):
                batch.append(version)
            if len(batch) == _AT_ONCE:
                gone += self._delete(batch, done)
                batch = []
        if batch:
            gone += self._delete(batch, done)
        return done, gone

    def _versions(self, prefix: str) -> Iterator[_Version]:
        markers: dict[str, str] = {}
        while True:
            with self._translated("list versions of objects", prefix):
                page = self._client.list_object_versions(Bucket=self._bucket, Prefix=prefix, **markers)
            for found in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                yield _Version(found["Key"], found["VersionId"], bool(found.get("IsLatest")), found.get("Size"))
            before = dict(markers)
            markers = {
                name: page[f"Next{name}"] for name in ("KeyMarker", "VersionIdMarker") if page.get(f"Next{name}")
            }
            if not page.get("IsTruncated") or not markers or markers == before:
                return

    def _delete(self, batch: list[_Version], done: PurgeResult) -> int:
        refused = {
            (e.get("Key"), e.get("VersionId")): str(e.get("Code", "")) for e in self._deleted(batch).get("Errors", ())
        }
        gone = 0
        for version in batch:
            why = refused.get((version.key, version.id)) or refused.get((version.key, None))
            if why:
                done.left += 1
                if len(done.left_keys) < _NAMED:
                    done.left_keys.append(f"{version.key}: {why}")
                continue
            gone += 1
            done.count(version.size, version.current)
        return gone

    def _deleted(self, batch: list[_Version]) -> Any:
        """S3's answer to a delete of many. Servers that want Content-MD5, or have no such request, are asked as they want it."""
        from botocore.exceptions import ClientError

        wanted = [{"Key": version.key, "VersionId": version.id} for version in batch]
        with self._translated("delete versions of objects", batch[0].key):
            if not self._one_by_one:
                for _ in range(2):
                    try:
                        return self._client.delete_objects(
                            Bucket=self._bucket, Delete={"Objects": wanted, "Quiet": True}
                        )
                    except ClientError as error:
                        code, status = error_code(error)
                        if status not in (400, 405, 501) or code in _NOT_ABOUT_THE_FORM:
                            raise
                        # boto3 sends a CRC32 only; older Ceph and MinIO, PowerScale and others want an MD5.
                        self._client.meta.events.register_first(
                            "before-sign.s3.DeleteObjects", _with_md5, unique_id="sbh"
                        )
                self._one_by_one = True
            errors = []
            for one in wanted:
                try:
                    self._client.delete_object(Bucket=self._bucket, **one)
                except ClientError as error:
                    code, status = error_code(error)
                    if status in (401, 404) or status >= 500:
                        raise
                    errors.append({**one, "Code": code})
        return {"Errors": errors}

    def _abort_uploads(self, prefix: str, chosen: Chosen) -> None:
        """Parts of uploads that were never completed lie in the bucket as well, where no listing of objects shows them."""
        try:
            for key, upload_id in list(self._uploads(prefix)):
                if chosen(key, False):
                    with self._translated("abort an upload", key):
                        self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id)
        except (ObjectMissing, StoreDenied):  # gone meanwhile; or a role that may not, where a lifecycle rule does it
            return

    def _uploads(self, prefix: str) -> Iterator[tuple[str, str]]:
        """(key, upload id) of each upload that was not completed; years of killed writers may have left pages of them."""
        with self._translated("list uploads", prefix):
            pages = self._client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self._bucket, Prefix=prefix):
                yield from ((upload["Key"], upload["UploadId"]) for upload in page.get("Uploads", ()))

    def _translated(
        self, action: str, key: str, needed: str = "s3:ListBucketVersions and s3:DeleteObjectVersion"
    ) -> AbstractContextManager[None]:
        grant = f"grant {needed} to the role that erases"
        return translated(action, url_of(self._bucket, key), grant=grant)


def _with_md5(request: Any, **_: Any) -> None:
    """Give a request the digest of its body. Called by boto3 before it signs."""
    digest = hashlib.md5(bytes(request.body), usedforsecurity=False).digest()
    request.headers["Content-MD5"] = base64.b64encode(digest).decode()


def chosen_but(*folders: str) -> Chosen:
    """All but what lies in these folders."""
    return lambda key, _: not key.startswith(folders)


def keys_of(entries: Iterable[str]) -> Chosen:
    """These keys, and no other."""
    wanted = frozenset(entries)
    return lambda key, _: key in wanted
