"""A tenant's files: objects below its prefix, read as they were listed (`listing.py`), cut into slices.

A file is pinned by the ETag of the listing: the read is conditional, so it gives exactly the listed content or fails.
Where it fails because the file changed or went away in between, a versioned bucket still has the listed version, which
is found by its ETag and read; in an unversioned bucket the file is listed again and the new content is read whole.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from sbh_pipelines.errors import CorruptObject, ObjectChanged, ObjectMissing, SourceChanged
from sbh_pipelines.stores.base import FileStore, ObjectInfo
from sbh_pipelines.stores.signed.headers import STORAGE_CLASS

_ATTEMPTS = 5


class Versions(Protocol):
    """Finds the version of an object by its ETag; None where the bucket keeps no versions or has none such."""

    def version_with_etag(self, key: str, etag: str) -> str | None: ...


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a backup's list. `path` is relative to the tenant's prefix; `sha256` is of the whole content."""

    path: str
    size: int
    etag: str
    version: str | None
    modified: str
    sha256: str
    attributes: Mapping[str, str]
    chunks: tuple[str, ...]  # hex chunk ids of the slices, in order

    def to_keep(self, *, storage_class: bool) -> Mapping[str, str]:
        """What a restored file gets of what was kept with it: all, but the storage class where it is not wanted."""
        return {name: value for name, value in self.attributes.items() if storage_class or name != STORAGE_CLASS}

    def to_line(self) -> bytes:
        fields = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], on: str) -> "FileEntry":
        """Raises CorruptObject."""
        try:
            return cls(**{**fields, "chunks": tuple(fields["chunks"])})
        except (TypeError, KeyError):
            raise CorruptObject("A file list has a malformed line", on=on, remedy="take another backup") from None


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file being read: what was really opened, and its content in slices of at most `FILE_SLICES.most` bytes."""

    info: ObjectInfo
    version: str | None
    attributes: Mapping[str, str]
    pieces: Iterator[memoryview]


class InexactListing(SourceChanged):
    """The listing does not show a key as it is, which came out when the file was read: list again, exactly."""


def open_file(store: FileStore, listed: ObjectInfo, versions: Versions | None) -> OpenFile | None:
    """Open exactly the listed content, or what came after it; None when the file is gone and no version is left.

    Raises SourceChanged when the file keeps changing, InexactListing when there is no such key.
    """
    info = listed
    for _ in range(_ATTEMPTS):
        try:
            attributes, pieces = store.stream(info.key, if_match=info.etag)
            return OpenFile(info, None, attributes, pieces)
        except (ObjectChanged, ObjectMissing):
            if versions and (version := versions.version_with_etag(listed.key, listed.etag)):
                attributes, pieces = store.stream(listed.key, version=version)
                return OpenFile(listed, version, attributes, pieces)
            try:
                info = store.head(info.key)
            except ObjectMissing:
                # Gone, or its key ends in a "/" that the listing did not show.
                folder = info.key + "/"
                if info.size and any(found.key == folder for found in islice(store.list_exactly(folder), 1)):
                    raise InexactListing("A file is listed under another key", on=folder) from None
                return None
    raise kept_changing(listed.key, _ATTEMPTS)


def kept_changing(key: str, attempts: int) -> SourceChanged:
    return SourceChanged(
        "A file kept changing while it was read",
        on=key,
        why=f"{attempts} attempts",
        remedy="try again, or turn on bucket versioning",
    )
