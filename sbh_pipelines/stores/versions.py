"""The versions of a bucket's objects: what it had at an earlier time, which only a versioned bucket can tell. Through boto3.

A listing goes on behind a key and one of its versions (`KeyMarker`, `VersionIdMarker`), so that no page is in the way of a key
with more versions than a page holds: only behind one that the server itself named, for some servers skip one more behind any
other. A listing that is cut short is an error: what it leaves out would be taken for absent.

SeaweedFS walks its folders, sorts what it found, and goes on behind the last of a page: what its walk meets later but sorts
before is left out. It keeps the versions of `q` in a folder `q.versions`, and walks a folder `q` before `q-1` and `q.pdf`. So
where one page does not hold all, its folders are listed one by one, and at every end of a page it is asked for what can have
been passed over there (`_FolderByFolder`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sbh_pipelines.errors import StoreDenied, StoreError
from sbh_pipelines.stores.bucket_rules import LifecycleRule
from sbh_pipelines.stores.s3_client import error_code, translated, url_of

NULL = "null"  # the id of what was put while the bucket was not versioned
_PAGE = 1000
_BEFORE_SLASH = "".join(map(chr, range(0x20, 0x2F)))
_NO_RULES = {"NoSuchLifecycleConfiguration", "NotImplemented", "MethodNotAllowed"}


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """One version of an object, or a delete marker: from then on there was none.

    Attributes:
        key: The object's.
        version: Its id; `null` where the bucket was not versioned.
        modified: When it was put, to the second; of an upload in parts, on AWS, when that was begun.
        current: Whether it is the newest.
        size: Bytes; None: a delete marker.
        etag: As a listing of objects has it; '' of a delete marker.
    """

    key: str
    version: str
    modified: datetime
    current: bool
    size: int | None
    etag: str = ""


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """An upload in parts that was not completed yet."""

    key: str
    begun: datetime


class IncompleteVersions(StoreError):
    """The server does not list all versions."""


class BucketVersions:
    """Versions of the objects of one bucket, which obstore does not list. `page` is how many are asked for at once."""

    def __init__(self, client: Any, bucket: str, *, page: int = _PAGE) -> None:
        self._client, self._bucket, self._page = client, bucket, page

    def version_with_etag(self, key: str, etag: str) -> str | None:
        """The newest version of `key` that has `etag`, or None."""
        pages = self._client.get_paginator("list_object_versions").paginate(Bucket=self._bucket, Prefix=key)
        for page in pages:
            for version in page.get("Versions", []):
                if version["Key"] > key:
                    return None
                if version["Key"] == key and version["ETag"].strip('"') == etag.strip('"'):
                    found: str = version["VersionId"]
                    return None if found == NULL else found
        return None

    def status(self) -> str:
        """Whether the bucket keeps versions now: `Enabled`, `Suspended`, or '' where it never did."""
        with self._translated("ask for the versioning of a bucket", ""):
            answer = self._client.get_bucket_versioning(Bucket=self._bucket)
        return str(answer.get("Status") or "")

    def kept_days(self, prefix: str) -> int | None:
        """After how many days the bucket's rules may remove an older version below `prefix`; None: never. Raises StoreDenied."""
        from botocore.exceptions import ClientError

        with self._translated("ask for the lifecycle rules of a bucket", ""):
            try:
                answer = self._client.get_bucket_lifecycle_configuration(Bucket=self._bucket)
            except ClientError as error:
                if error_code(error)[0] not in _NO_RULES:
                    raise
                return None
        return kept_days([LifecycleRule.parse(rule) for rule in answer.get("Rules") or []], prefix)

    def versions(self, prefix: str, skip: Sequence[str] = ()) -> Iterator[ObjectVersion]:
        """All versions and delete markers below `prefix`, and of a key the newer before the older; a page in memory at most.

        What begins with one of `skip` may be left out. Some may come twice, also with others between, and keys in any order.
        Raises IncompleteVersions where the server cuts its listing short.
        """
        first = self._answer(Prefix=prefix)
        if first.get("IsTruncated") and self._walks_folders(first):
            yield from _FolderByFolder(self._answer, skip).below(prefix)
            return
        page = first
        while True:
            yield from _entries(page)
            markers = _markers(page, url_of(self._bucket, prefix))
            if not markers:
                return
            page = self._answer(Prefix=prefix, **markers)

    def open_uploads(self, prefix: str) -> Iterator[OpenUpload]:
        """The uploads in parts below `prefix` that were not completed."""
        with self._translated("list uploads", prefix):
            pages = iter(
                self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=prefix)
            )
        while True:
            with self._translated("list uploads", prefix):
                page = next(pages, None)
            if page is None:
                return
            for found in page.get("Uploads", ()):
                yield OpenUpload(found["Key"], found["Initiated"].astimezone(UTC))

    def _answer(self, **asked: Any) -> Any:
        with self._translated("list versions of objects", asked["Prefix"]):
            page = self._client.list_object_versions(**{"Bucket": self._bucket, "MaxKeys": self._page, **asked})
        on = url_of(self._bucket, asked["Prefix"])
        following = _markers(page, on)
        if following and following == {name: asked[name] for name in following if name in asked}:
            raise _cut_short(on, "a page ends where the one before it ended")
        return page

    @staticmethod
    def _walks_folders(page: Any) -> bool:
        headers = page.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return str(headers.get("server", "")).startswith("SeaweedFS")

    def _translated(self, action: str, key: str) -> AbstractContextManager[None]:
        grant = (
            "grant s3:ListBucketVersions, s3:GetBucketVersioning, s3:GetLifecycleConfiguration and"
            " s3:ListBucketMultipartUploads on the application's bucket to the role (deploy/policies)"
        )
        return translated(action, url_of(self._bucket, key), grant=grant)


def kept_days(rules: Sequence[LifecycleRule], prefix: str) -> int | None:
    """After how many days the first of these rules removes an older version below `prefix`; None: none does."""
    days = [found for rule in rules if (found := rule.versions_kept(prefix)) is not None]
    return min(days, default=None)


class _FolderByFolder:
    """A listing for a server that walks its folders and sorts afterwards.

    A page's last key K hides L where one of both names goes on where the other ends: a file `q` behind a folder `q/`, or behind
    `q-1` and `q.pdf`; `q-1` behind `q/`. And a folder `q/` that no longer fits a page is not come back to.
    """

    def __init__(self, answer: Callable[..., Any], skip: Sequence[str]) -> None:
        self._answer, self._skip = answer, tuple(skip)

    def below(self, prefix: str) -> Iterator[ObjectVersion]:
        """All versions below `prefix`, which may end within a name."""
        if self._skip and prefix.startswith(self._skip):
            return
        page = self._answer(Prefix=prefix, Delimiter="/")
        while True:
            yield from _entries(page)
            for folder in page.get("CommonPrefixes", ()):
                yield from self.below(folder["Prefix"])
            markers = _markers(page, prefix)
            if not markers:
                return
            yield from self._passed_over(prefix, markers["KeyMarker"])
            page = self._answer(Prefix=prefix, Delimiter="/", **markers)

    def _passed_over(self, prefix: str, last: str) -> Iterator[ObjectVersion]:
        """What a page that ends with `last` may hide."""
        folder = last[: last.rstrip("/").rfind("/") + 1]
        name = last[len(folder) :]
        shortest = max(len(prefix) - len(folder), 1)
        if name.endswith("/"):
            for character in _BEFORE_SLASH:
                yield from self.below(f"{folder}{name[:-1]}{character}")
        for at in range(shortest, len(name)):
            if name[at] <= "/":
                yield from self._file(f"{folder}{name[:at]}")
                if name[at] != "/":
                    yield from self.below(f"{folder}{name[:at]}/")

    def _file(self, key: str) -> Iterator[ObjectVersion]:
        """The versions of one file: the server compares the prefix with the folder that it keeps them in."""
        page = self._answer(Prefix=f"{key}.versions", Delimiter="/", MaxKeys=_PAGE)
        while True:
            its = [version for version in _entries(page) if version.key == key]
            yield from its
            if not _markers(page, key):
                return
            if not its:
                raise _cut_short(ascii(key), "its versions are behind more others than a page holds")
            # Of the last put and the last delete marker the newer: what is between them comes once more, and nothing is lost.
            lasts = [[v for v in its if (v.size is None) is deleted][-1:] for deleted in (False, True)]
            at = max((last[0] for last in lasts if last), key=lambda version: version.modified)
            page = self._answer(Prefix=key, Delimiter="/", MaxKeys=_PAGE, KeyMarker=key, VersionIdMarker=at.version)


def _entries(page: Any) -> Iterator[ObjectVersion]:
    for found in page.get("Versions", ()):
        yield ObjectVersion(
            found["Key"],
            found["VersionId"],
            found["LastModified"].astimezone(UTC),
            bool(found.get("IsLatest")),
            found["Size"],
            found["ETag"],
        )
    for found in page.get("DeleteMarkers", ()):
        modified = found["LastModified"].astimezone(UTC)
        yield ObjectVersion(found["Key"], found["VersionId"], modified, bool(found.get("IsLatest")), None)


def _markers(page: Any, on: str) -> dict[str, str]:
    """Where the next page begins; none where this is the last. Raises IncompleteVersions where the server does not say."""
    if "IsTruncated" not in page:
        raise _cut_short(on, "it does not say whether there is more")
    if not page["IsTruncated"]:
        return {}
    if not page.get("NextKeyMarker"):
        raise _cut_short(on, "it does not say where it goes on")
    return {name: page[f"Next{name}"] for name in ("KeyMarker", "VersionIdMarker") if page.get(f"Next{name}")}


def _cut_short(on: str, why: str) -> IncompleteVersions:
    return IncompleteVersions(
        "The store's listing of versions is cut short",
        on=on,
        why=why,
        remedy="try again; if it stays so, take files from a backup, or update the store",
    )


def may_not_list(error: StoreError) -> bool:
    """Whether the versions cannot be told for a reason that trying again does not mend."""
    return isinstance(error, (StoreDenied, IncompleteVersions))
