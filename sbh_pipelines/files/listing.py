"""Which files a tenant has: listed completely and in one order, and summed up in a fingerprint.

A quick listing (`list`) serves unless its keys cannot be trusted; an exact one (`list_exactly`) always does.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, MutableSet
from datetime import datetime, timedelta

from sbh_pipelines.errors import ObjectMissing, StoreDenied, StoreError
from sbh_pipelines.stores.base import FileStore, ObjectInfo

_PRINT_MASK = (1 << 128) - 1
_EXACTLY = "-exact"
_TICK, _COARSE_TICK = timedelta(milliseconds=50), timedelta(seconds=2)


class ListingPrint:
    """A fingerprint of files: their number and the sum of a hash of each, so that their order does not matter."""

    def __init__(self) -> None:
        self._count = self._sum = 0

    def add(self, path: str, size: int, etag: str, modified: datetime) -> None:
        """`path` is below the tenant's prefix; of `modified` the second counts, as in a file list."""
        text = f"{path}\0{size}\0{etag}\0{int(modified.timestamp() // 1)}".encode("utf-8", "surrogatepass")
        self._sum += int.from_bytes(hashlib.blake2b(text, digest_size=16).digest())
        self._count += 1

    def text(self, exactly: bool) -> str:
        """`exactly` says that only `list_exactly` gives these files, so that a comparison lists in that way."""
        return f"{self._count}-{self._sum & _PRINT_MASK:032x}" + (_EXACTLY if exactly else "")


def made_exactly(fingerprint: str) -> bool:
    """Whether the fingerprint is of an exact listing."""
    return fingerprint.endswith(_EXACTLY)


class Listing:
    """The files below `prefix` as they were when this was made, without those below the `exclude`d prefixes.

    Stores differ in the order of their listings, and comparing two lists that are sorted differently would take files
    that are there for files that are gone. So the listing is sorted here, in a temporary database that spills to disk.
    A context manager; iterates in order of the keys' UTF-8 bytes.
    """

    def __init__(self, store: FileStore, prefix: str, exclude: Iterable[str], *, exactly: bool = False) -> None:
        self._db = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._prefix, self._skipped = prefix, tuple(prefix + e for e in exclude)
        self._print = ListingPrint()
        self._db.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-8192")
        self._db.execute(
            "CREATE TABLE file (key BLOB PRIMARY KEY, size INT, etag TEXT, modified TEXT, version TEXT) WITHOUT ROWID"
        )
        try:
            self.exact = exactly or not (store.lists_all and self._trusted(store.list(prefix)))
            if self.exact:
                self._db.execute("DELETE FROM file")
                self._fill(store.list_exactly(prefix), "INSERT OR REPLACE")
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> "Listing":
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def __iter__(self) -> Iterator[ObjectInfo]:
        for key, size, etag, modified, version in self._db.execute("SELECT * FROM file ORDER BY key"):
            yield ObjectInfo(
                key.decode("utf-8", "surrogatepass"), size, etag, datetime.fromisoformat(modified), version
            )

    @property
    def fingerprint(self) -> str:
        return self._print.text(self.exact)

    def _trusted(self, listing: Iterator[ObjectInfo]) -> bool:
        """Take in the listing; False when it fails on a key, or when keys in it are not what they are in the store."""
        try:
            self._fill(listing, "INSERT")
        except sqlite3.IntegrityError:
            return False  # two keys look the same in it
        except StoreError as error:
            if about_the_store(error):
                raise
            return False
        # U+FFFD stands for a character that XML does not have.
        return not self._db.execute("SELECT 1 FROM file WHERE instr(key, x'EFBFBD') LIMIT 1").fetchone()

    def _fill(self, listing: Iterator[ObjectInfo], insert: str) -> None:
        self._print = found = ListingPrint()
        start = len(self._prefix)

        def rows() -> Iterator[tuple[bytes, int, str, str, str | None]]:
            for info in files_of(listing, self._skipped):
                found.add(info.key[start:], info.size, info.etag, info.modified)
                key = info.key.encode("utf-8", "surrogatepass")
                yield key, info.size, info.etag, info.modified.isoformat(), info.version

        self._db.execute("BEGIN")
        try:
            self._db.executemany(f"{insert} INTO file VALUES (?, ?, ?, ?, ?)", rows())
        finally:
            self._db.execute("COMMIT")


def files_of(listing: Iterator[ObjectInfo], skipped: tuple[str, ...]) -> Iterator[ObjectInfo]:
    """Those of the listed objects that are files, and lie below none of the skipped prefixes."""
    return (info for info in listing if is_file(info, skipped))


def is_file(info: ObjectInfo, skipped: tuple[str, ...]) -> bool:
    """Whether a listed object is a file, and lies below none of the skipped prefixes."""
    # An empty object whose key ends in "/" is a folder marker of some console, not a file.
    return not info.key.startswith(skipped) and not (info.key.endswith("/") and not info.size)


def about_the_store(error: StoreError) -> bool:
    """Whether the store is what failed, and not a key that obstore cannot name."""
    return error.transient or isinstance(error, (StoreDenied, ObjectMissing))


def list_files(store: FileStore, prefix: str, exclude: Iterable[str], *, exactly: bool = False) -> Iterator[ObjectInfo]:
    """The files of a `Listing`, which is made when the first is asked for."""
    with Listing(store, prefix, exclude, exactly=exactly) as listing:
        yield from listing


def listing_fingerprint(
    store: FileStore,
    prefix: str,
    exclude: Iterable[str],
    *,
    exactly: bool = False,
    missing: MutableSet[str] | None = None,
) -> str:
    """The fingerprint of the files as they are now, in a few microseconds of CPU for each and next to no memory.

    It does not see when two keys look the same in a quick listing; the fingerprint of such files is `made_exactly`:
    to compare with it, pass `exactly`. Keys that the listing shows, files or not, leave `missing`.
    """
    skipped = tuple(prefix + e for e in exclude)
    if store.lists_all and not exactly:
        try:
            found = _fingerprint(_seen(store.list(prefix), missing), len(prefix), skipped, trusting=False)
        except StoreError as error:
            if about_the_store(error):
                raise
            found = None
        if found is not None:
            return found.text(False)
    exact = _fingerprint(_seen(store.list_exactly(prefix), missing), len(prefix), skipped, trusting=True)
    assert exact is not None
    return exact.text(True)


def _seen(listing: Iterator[ObjectInfo], missing: MutableSet[str] | None) -> Iterator[ObjectInfo]:
    if missing is None:
        return listing

    def noting(keys: MutableSet[str]) -> Iterator[ObjectInfo]:
        for info in listing:
            keys.discard(info.key)
            yield info

    return noting(missing)


def _fingerprint(
    listing: Iterator[ObjectInfo], start: int, skipped: tuple[str, ...], *, trusting: bool
) -> ListingPrint | None:
    """None when a key holds U+FFFD, unless the listing is to be trusted."""
    found = ListingPrint()
    for info in files_of(listing, skipped):
        path = info.key[start:]
        if not trusting and "\ufffd" in path:
            return None
        found.add(path, info.size, info.etag, info.modified)
    return found


def is_settled(modified: datetime, listed_at: datetime) -> bool:
    """Whether a later change of a directory's file would show in its ETag, which is made of inode, time and size.

    The system's clock for files ticks every 10 ms at the slowest; where times are whole seconds, the file system may keep
    no more of them. A file that was written just before the listing may change again and keep its ETag.
    """
    return modified < listed_at - (_COARSE_TICK if modified.microsecond == 0 else _TICK)
