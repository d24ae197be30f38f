"""A local directory as a store. Data go through obstore; keys that it cannot name go through the operating system."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from obstore.store import LocalStore

from sbh_pipelines.errors import ObjectChanged, ObjectExists, ObjectMissing, StoreDenied, StoreError, StoreUnavailable
from sbh_pipelines.stores.base import MOST_BYTES, ODD_KEY, ObjectInfo
from sbh_pipelines.stores.object_store import PIECE_BYTES, Store


def open_local(directory: Path) -> Store:
    """A directory as a bucket; created if missing."""
    directory.mkdir(parents=True, exist_ok=True)
    lock_file = directory.parent / f".{directory.name}.lock"
    return Store(LocalStore(str(directory), mkdir=True), f"file://{directory}", LocalExactHalf(directory), lock_file)


def open_staged(below: Store, directory: Path) -> Store:
    """What is below, with a directory over it that takes all that is written. The directory is created if missing."""
    directory.mkdir(parents=True, exist_ok=True)
    return StagedStore(below, directory)


_ODD_FILE = re.compile(r"#[0-9]+(/|$)")


class LocalExactHalf:
    """Odd keys of a directory, through the operating system."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._start = os.path.join(root, "")  # what comes before each key in a path

    def is_odd(self, key: str) -> bool:
        return ODD_KEY.search(key) is not None or _ODD_FILE.search(key) is not None

    def streams(self, key: str) -> bool:
        return self.is_odd(key)

    def puts(self, key: str, attributes: Mapping[str, str], size: int | None) -> bool:
        return self.is_odd(key)

    def page(self, prefix: str, after: str) -> None:
        """None: a directory has no order in which to go on."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._translated("list", prefix):
            below = prefix.rstrip("/")
            self._file(below)  # raises where this is no name
            yield from self._walk(self._start + below)

    def _walk(self, folder: str) -> Iterator[ObjectInfo]:
        start = len(self._start)
        for parent, _, names in os.walk(folder):
            beside = os.path.join(parent, "")
            for name in names:
                path = beside + name
                key = path[start:]
                try:
                    key.encode()
                except UnicodeEncodeError:
                    raise StoreError(
                        "A file's name is not UTF-8",
                        on=ascii(path),
                        why="it cannot be the key of an object",
                        remedy="rename the file",
                    ) from None
                with contextlib.suppress(FileNotFoundError):  # removed since
                    yield _describe(key, os.stat(path))

    def head(self, key: str) -> ObjectInfo:
        with self._translated("head", key):
            return _describe(key, self._file(key).stat())

    def stream(
        self, key: str, version: str | None, if_match: str | None
    ) -> tuple[Mapping[str, str], Iterator[memoryview]]:
        with self._translated("get", key):
            file = self._file(key).open("rb")
        if if_match and _describe(key, os.fstat(file.fileno())).etag != if_match:
            file.close()
            raise ObjectChanged("The object is no longer the version expected", on=ascii(key))
        return {}, self._pieces(key, file)

    def _pieces(self, key: str, file: Any) -> Iterator[memoryview]:
        with file, self._translated("get", key):
            while piece := file.read(PIECE_BYTES):
                yield memoryview(piece)

    def put_stream(self, key: str, pieces: Iterable[bytes], attributes: Mapping[str, str], size: int | None) -> None:
        with self._translated("put", key):
            path = self._file(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            # Named as obstore's unfinished files are: should we be killed, listings leave it out.
            with tempfile.NamedTemporaryFile(dir=path.parent, suffix="#1", delete=False) as file:
                try:
                    for piece in pieces:
                        file.write(piece)
                    file.flush()
                    os.replace(file.name, path)
                except BaseException:
                    os.unlink(file.name)
                    raise

    def delete(self, key: str) -> None:
        with self._translated("delete", key):
            self._file(key).unlink(missing_ok=True)

    def sync(self, key: str) -> None:
        with self._translated("put", key):
            path = self._file(key)
            for place in (path, *path.parents):  # the folders too: they may be new
                descriptor = os.open(place, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                if place == self._root:
                    break

    def _file(self, key: str) -> Path:
        # A bucket may hold `a/../b` or `a//b`; in a directory these would be other files, even outside of it.
        if (key and any(segment in ("", ".", "..") for segment in key.split("/"))) or "\0" in key:
            raise StoreError("No file can have this name", on=ascii(key), remedy="restore it to a bucket")
        return self._root / key

    @contextmanager
    def _translated(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise ObjectMissing("No such object", on=ascii(key)) from None
        except PermissionError as error:
            raise StoreDenied(f"The directory refused to {verb} an object", on=ascii(key), why=str(error)) from None
        except OSError as error:
            raise StoreUnavailable(f"Cannot {verb} an object", on=ascii(key), why=str(error)) from None


def _describe(key: str, found: os.stat_result) -> ObjectInfo:
    # object_store's LocalFileSystem makes this mark too.
    etag = f'"{found.st_ino:x}-{found.st_mtime_ns // 1000:x}-{found.st_size:x}"'
    return ObjectInfo(key, found.st_size, etag, datetime.fromtimestamp(found.st_mtime, UTC))


class StagedStore(Store):
    """A store that is never written to, and a directory of this machine over it: for what lives no longer than a call.

    What was written here is read here; all else is read below. What is deleted is what was written here.
    """

    def __init__(self, below: Store, directory: Path) -> None:
        lock_file = directory.parent / f".{directory.name}.lock"
        super().__init__(
            LocalStore(str(directory), mkdir=True), f"file://{directory}", LocalExactHalf(directory), lock_file
        )
        self._below = below

    def get_with_etag(self, key: str, most: int = MOST_BYTES) -> tuple[bytes, str]:
        try:
            return super().get_with_etag(key, most)
        except ObjectMissing:
            return self._below.get_with_etag(key, most)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        try:
            return super().get_range(key, start, length)
        except ObjectMissing:
            return self._below.get_range(key, start, length)

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        try:
            return super().get_ranges(key, ranges)
        except ObjectMissing:
            return self._below.get_ranges(key, ranges)

    def head(self, key: str) -> ObjectInfo:
        try:
            return super().head(key)
        except ObjectMissing:
            return self._below.head(key)

    def stream(
        self, key: str, *, version: str | None = None, if_match: str | None = None
    ) -> tuple[Mapping[str, str], Iterator[memoryview]]:
        try:
            return super().stream(key, version=version, if_match=if_match)
        except ObjectMissing:
            return self._below.stream(key, version=version, if_match=if_match)

    def create(self, key: str, data: bytes) -> str:
        try:
            self._below.head(key)
        except ObjectMissing:
            return super().create(key, data)
        raise ObjectExists("The object exists already", on=self._below.url(key))

    def replace(self, key: str, data: bytes, etag: str) -> str:
        try:
            return super().replace(key, data, etag)
        except ObjectMissing:
            if self._below.head(key).etag != etag:
                raise ObjectChanged("The object is no longer the version expected", on=self._below.url(key)) from None
            return super().create(key, data)

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        yield from _over(super().list(prefix, after), self._below.list(prefix, after))

    def list_exactly(self, prefix: str) -> Iterator[ObjectInfo]:
        yield from _over(super().list_exactly(prefix), self._below.list_exactly(prefix))

    def page(self, prefix: str, after: str) -> None:
        """None: what was written here and what is below come in orders of their own."""

    @property
    def lists_all(self) -> bool:
        return self._below.lists_all


def _over(here: Iterator[ObjectInfo], below: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
    written = {info.key: info for info in here}
    yield from written.values()
    yield from (info for info in below if info.key not in written)
