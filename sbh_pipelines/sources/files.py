"""A tenant's files: objects below its prefix, read as they were listed, cut into slices.

A file is pinned by the ETag of the listing: the read is conditional, so it gives exactly the listed content or fails.
Where it fails because the file changed or went away in between, a versioned bucket still has the listed version, which
is found by its ETag and read; in an unversioned bucket the file is listed again and the new content is read whole.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Protocol

from fastcdc.fastcdc_cy import fastcdc_cy

from sbh_pipelines.errors import CorruptObject, ObjectChanged, ObjectMissing, SourceChanged, StoreDenied, StoreError
from sbh_pipelines.stores.base import FileStore, ObjectInfo

# Slices of large files; files up to FILE_MIN are one slice.
FILE_MIN, FILE_AVERAGE, FILE_MAX = 256 << 10, 1 << 20, 4 << 20
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

    def to_line(self) -> bytes:
        fields = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"

    @classmethod
    def from_dict(cls, fields: dict[str, Any], on: str) -> "FileEntry":
        """Raises CorruptObject."""
        try:
            return cls(**{**fields, "chunks": tuple(fields["chunks"])})
        except (TypeError, KeyError):
            raise CorruptObject("A file list has a malformed line", on=on, remedy="take another backup") from None


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file being read: what was really opened, and its content in slices of at most FILE_MAX bytes."""

    info: ObjectInfo
    version: str | None
    attributes: Mapping[str, str]
    pieces: Iterator[memoryview]


class InexactListing(SourceChanged):
    """The listing does not show a key as it is, which came out when the file was read: list again, exactly."""


def list_files(
    store: FileStore, prefix: str, exclude: Iterable[str], *, exactly: bool = False
) -> Iterator[ObjectInfo]:
    """The files below `prefix` in order of their keys' UTF-8 bytes, without those below the `exclude`d prefixes.

    Stores differ in the order of their listings, and comparing two lists that are sorted differently would take files
    that are there for files that are gone. So the listing is sorted here, in a temporary database that spills to disk.
    """
    skipped = tuple(prefix + e for e in exclude)
    with closing(sqlite3.connect("", check_same_thread=False, isolation_level=None)) as db:
        db.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-8192")
        db.execute(
            "CREATE TABLE file (key BLOB PRIMARY KEY, size INT, etag TEXT, modified TEXT, version TEXT) WITHOUT ROWID"
        )
        if exactly or not (store.lists_all and _trusted(db, store.list(prefix), skipped)):
            db.execute("DELETE FROM file")
            _fill(db, store.list_exactly(prefix), skipped, "INSERT OR REPLACE")
        for key, size, etag, modified, version in db.execute("SELECT * FROM file ORDER BY key"):
            yield ObjectInfo(
                key.decode("utf-8", "surrogatepass"), size, etag, datetime.fromisoformat(modified), version
            )


def _trusted(db: sqlite3.Connection, listing: Iterator[ObjectInfo], skipped: tuple[str, ...]) -> bool:
    """Insert the listing; False when it fails on a key, or when keys in it are not what they are in the store."""
    try:
        _fill(db, listing, skipped, "INSERT")
    except sqlite3.IntegrityError:
        return False  # two keys look the same in it
    except StoreError as error:
        if error.transient or isinstance(error, (StoreDenied, ObjectMissing)):
            raise
        return False
    # U+FFFD stands for a character that XML does not have.
    return not db.execute("SELECT 1 FROM file WHERE instr(key, x'EFBFBD') LIMIT 1").fetchone()


def _fill(db: sqlite3.Connection, listing: Iterator[ObjectInfo], skipped: tuple[str, ...], insert: str) -> None:
    found = (
        (info.key.encode("utf-8", "surrogatepass"), info.size, info.etag, info.modified.isoformat(), info.version)
        for info in listing
        # An empty object whose key ends in "/" is a folder marker of some console, not a file.
        if not info.key.startswith(skipped) and not (info.key.endswith("/") and not info.size)
    )
    db.execute("BEGIN")
    try:
        db.executemany(f"{insert} INTO file VALUES (?, ?, ?, ?, ?)", found)
    finally:
        db.execute("COMMIT")


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


def slices(pieces: Iterator[memoryview], digest: "hashlib._Hash") -> Iterator[bytes]:
    """Cut content into content-defined slices; `digest` is fed all of it."""
    buffer = bytearray()
    for piece in pieces:
        digest.update(piece)
        buffer += piece
        while len(buffer) >= FILE_MAX:
            yield _slice(buffer)
    while buffer:
        yield _slice(buffer)


def _slice(buffer: bytearray) -> bytes:
    with memoryview(buffer) as whole, whole[:FILE_MAX] as view:
        size = next(fastcdc_cy(view, FILE_MIN, FILE_AVERAGE, FILE_MAX)).length
    taken = bytes(buffer[:size])
    del buffer[:size]
    return taken
