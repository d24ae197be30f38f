"""A tenant's files as they were at a moment, from the versions that the bucket keeps: of each key the newest put until then.

S3 tells times to the second and by its own clock, and of an upload in parts (on AWS) when that was begun. So what was put or
deleted close to the moment is named as a doubt, and files may be on either side of it.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Any, Protocol

from sbh_pipelines.document import optional
from sbh_pipelines.errors import StoreError
from sbh_pipelines.files.listing import about_the_store, files_of
from sbh_pipelines.model import parse_timestamp
from sbh_pipelines.stores.base import FileStore, ObjectInfo
from sbh_pipelines.stores.versions import NULL, IncompleteVersions, ObjectVersion, OpenUpload

CLOSE = timedelta(seconds=2)  # clocks of two servers, and times without parts of a second
_UPLOAD = timedelta(hours=1)  # an upload in parts that was begun earlier is taken to have ended before the moment
_NAMED = 1000
_MOST_ASKED = 1000  # objects that came while versions were listed
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TABLE = """
PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-8192;
CREATE TABLE file (key BLOB PRIMARY KEY, put INT, size INT, etag TEXT, version TEXT, current INT,
    deleted INT, deleted_current INT, near INT) WITHOUT ROWID;
CREATE TABLE doubt (key BLOB PRIMARY KEY, why TEXT) WITHOUT ROWID;
"""
_KNOWN = "INSERT OR IGNORE INTO file (key) VALUES (?)"
# Of two in one second the current one is the newer, else the one that is listed first.
_PUT = """
INSERT INTO file (key, put, current, size, etag, version) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET put = excluded.put, current = excluded.current, size = excluded.size, etag = excluded.etag,
    version = excluded.version
WHERE put IS NULL OR (excluded.put, excluded.current) > (put, current)
"""
_DELETED = """
INSERT INTO file (key, deleted, deleted_current) VALUES (?, ?, ?)
ON CONFLICT (key) DO UPDATE SET deleted = excluded.deleted, deleted_current = excluded.deleted_current
WHERE deleted IS NULL OR (excluded.deleted, excluded.deleted_current) > (deleted, deleted_current)
"""
_THERE = "put IS NOT NULL AND (deleted IS NULL OR put > deleted OR (put = deleted AND NOT deleted_current))"
_NEAR = "it was put or deleted within 2 s of the moment"
_TIED = "it was put and deleted in the same second, in an order that the store does not tell: taken as there"
_PARTS = "it was uploaded in parts, begun before the moment, and may have been completed after it"
_DOUBTS = f"""
INSERT INTO doubt SELECT key, CASE
    WHEN near THEN '{_NEAR}'
    WHEN put = deleted AND NOT current AND NOT deleted_current THEN '{_TIED}'
    ELSE '{_PARTS}' END
FROM file WHERE near OR (put = deleted AND NOT current AND NOT deleted_current)
    OR (instr(etag, '-') AND put >= ? AND {_THERE})
"""


class FileSource(StrEnum):
    VERSIONS = "versions"
    BACKUP = "backup"
    NONE = "none"  # files are not backed up


@dataclass(frozen=True, slots=True)
class Doubt:
    """A file of which it is not sure whether, or how, it was there at the moment."""

    key: str
    why: str


@dataclass(frozen=True, slots=True)
class MomentFiles:
    """Where the files of a moment come from, and what is not sure about them.

    Attributes:
        source: From where.
        as_of: The time that they are of: the moment, or an earlier one, at which a backup listed them.
        why: What to know of the source, in words.
        doubts: Files of which it is not sure that they were so, in order of their keys; a thousand at the most.
        doubt_count: How many there are.
        uploads: Keys of uploads in parts that were begun before the moment and are not completed; a thousand at the most.
        backup: The backup that they are of, where the source is one.
        window_from: From when on the bucket surely has all versions; None where that is not known.
    """

    source: FileSource
    as_of: datetime
    why: str = ""
    doubts: Sequence[Doubt] = ()
    doubt_count: int = 0
    uploads: Sequence[str] = ()
    backup: str | None = optional()
    window_from: datetime | None = optional()

    def explained(self, why: str) -> "MomentFiles":
        """With something more to know of the source."""
        return replace(self, why="; ".join(filter(None, (self.why, why))))

    def doubted(self, more: Iterable[Doubt], count: int) -> "MomentFiles":
        """With `count` further doubts, of which `more` are named."""
        named = sorted((*self.doubts, *more), key=lambda doubt: doubt.key.encode("utf-8", "surrogatepass"))
        return replace(self, doubts=tuple(named[:_NAMED]), doubt_count=self.doubt_count + count)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "MomentFiles":
        """What `as_document` made a document of."""
        window = document.get("window_from")
        return cls(
            source=FileSource(document["source"]),
            as_of=parse_timestamp(document["as_of"]),
            why=document["why"],
            doubts=tuple(Doubt(**doubt) for doubt in document["doubts"]),
            doubt_count=document["doubt_count"],
            uploads=tuple(document["uploads"]),
            backup=document.get("backup"),
            window_from=parse_timestamp(window) if window else None,
        )


class History(Protocol):
    """What a bucket keeps of the past. Raises the store's errors, IncompleteVersions among them."""

    def versions(self, prefix: str, skip: Sequence[str] = ()) -> Iterator[ObjectVersion]: ...

    def open_uploads(self, prefix: str) -> Iterator[OpenUpload]: ...


class Window:
    """From when on a bucket kept versions, as those that it has show.

    It does when something other than `null` was put, and ceased to before anything `null` was. Of each hour the earliest is
    kept in memory.
    """

    def __init__(self) -> None:
        self._last_null = _EPOCH
        self._first: dict[int, datetime] = {}

    def saw(self, version: ObjectVersion) -> None:
        if version.version == NULL:
            self._last_null = max(self._last_null, version.modified)
            return
        hour = int(version.modified.timestamp()) // 3600
        self._first[hour] = min(self._first.get(hour, version.modified), version.modified)

    @property
    def since(self) -> datetime | None:
        """From then on all versions were kept; None where nothing shows it."""
        return min((first for first in self._first.values() if first > self._last_null), default=None)

    def begin(self, kept_days: int | None, now: datetime) -> datetime | None:
        """From when on they are still there, where rules remove older versions after so many days."""
        since = self.since
        if since is None or kept_days is None:
            return since
        return max(since, now - timedelta(days=kept_days))


class MomentListing:
    """The files below `prefix` as they were at `moment`, without those below the `exclude`d prefixes.

    A context manager; iterates in order of the keys' UTF-8 bytes, each file with its version. What was found is in a temporary
    database that spills to disk. Raises IncompleteVersions where the server does not list all versions, or none of a file that
    is there; and the store's errors.
    """

    def __init__(
        self, history: History, store: FileStore, prefix: str, moment: datetime, exclude: Iterable[str]
    ) -> None:
        self.window = Window()
        self._history, self._prefix, self._moment = history, prefix, moment.astimezone(UTC)
        self._skipped = tuple(prefix + e for e in exclude)
        self._db = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        try:
            self._db.executescript(_TABLE)
            self._db.execute("BEGIN")
            for version in history.versions(prefix, self._skipped):
                if not version.key.startswith(self._skipped):
                    self._take(version)
            self._db.execute(_DOUBTS, [_micros(self._moment - _UPLOAD)])
            self._check(store)
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> "MomentListing":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def __iter__(self) -> Iterator[ObjectInfo]:
        return files_of(self._infos(), self._skipped)

    def _infos(self) -> Iterator[ObjectInfo]:
        wanted = f"SELECT key, size, etag, put, version FROM file WHERE {_THERE} ORDER BY key"
        for key, size, etag, put, version in self._db.execute(wanted):
            yield ObjectInfo(_text(key), size, etag, _EPOCH + timedelta(microseconds=put), version)

    def knows(self, key: str) -> bool:
        """Whether the bucket has any version of a key, or a delete marker."""
        return self._db.execute("SELECT 1 FROM file WHERE key = ?", [_bytes(key)]).fetchone() is not None

    def facts(self, kept_days: int | None, now: datetime) -> MomentFiles:
        """What is to be known of these files. `kept_days`: after how many days rules remove older versions; None: never."""
        named = self._db.execute("SELECT key, why FROM doubt ORDER BY key LIMIT ?", [_NAMED])
        uploads: list[str] = []
        why = ""
        try:
            for upload in islice(self._uploads(), _NAMED):
                uploads.append(upload.key)
        except StoreError as error:
            if error.transient:
                raise
            why = f"uploads that were not completed cannot be listed: {error.why or error.what}"
        return MomentFiles(
            source=FileSource.VERSIONS,
            as_of=self._moment,
            why=why,
            doubts=tuple(Doubt(_text(key), why) for key, why in named),
            doubt_count=self._db.execute("SELECT count(*) FROM doubt").fetchone()[0],
            uploads=tuple(uploads),
            window_from=self.window.begin(kept_days, now),
        )

    def _uploads(self) -> Iterator[OpenUpload]:
        for upload in self._history.open_uploads(self._prefix):
            if upload.begun <= self._moment + CLOSE and not upload.key.startswith(self._skipped):
                yield upload

    def _take(self, version: ObjectVersion) -> None:
        self.window.saw(version)
        key, at = _bytes(version.key), _micros(version.modified)
        if version.modified > self._moment:
            self._db.execute(_KNOWN, [key])
        elif version.size is None:
            self._db.execute(_DELETED, [key, at, version.current])
        else:
            self._db.execute(_PUT, [key, at, version.current, version.size, version.etag, version.version])
        if abs(version.modified - self._moment) <= CLOSE:
            self._db.execute("UPDATE file SET near = 1 WHERE key = ?", [key])

    def _knows_all(self, listing: Iterator[ObjectInfo]) -> bool:
        """Whether the bucket has a version of all that a quick listing shows, which may show some keys otherwise than they are."""
        try:
            return all(self.knows(info.key) for info in files_of(listing, self._skipped))
        except StoreError as error:
            if about_the_store(error):
                raise
            return False

    def _check(self, store: FileStore) -> None:
        """What is there now has a version, unless it came only while they were listed: then that is asked for by itself."""
        if store.lists_all and self._knows_all(store.list(self._prefix)):
            return
        asked = 0
        for info in files_of(store.list_exactly(self._prefix), self._skipped):
            if self.knows(info.key):
                continue
            asked += 1
            its = [v.modified for v in self._history.versions(info.key) if v.key == info.key] or [info.modified]
            if min(its) <= self._moment or asked > _MOST_ASKED:
                raise IncompleteVersions(
                    "The store does not list all versions",
                    on=store.url(ascii(info.key)[1:-1]),
                    why="it lists the object, and no version of it",
                    remedy="take files from a backup, or update the store",
                )
            self._db.execute(_KNOWN, [_bytes(info.key)])


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
