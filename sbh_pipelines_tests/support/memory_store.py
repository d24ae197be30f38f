"""An object store in memory, for tests of what stands on stores; the stores themselves have a suite of their own."""

import hashlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from sbh_pipelines.errors import ObjectChanged, ObjectExists, ObjectMissing, StoreError
from sbh_pipelines.stores.base import MOST_BYTES, ObjectInfo
from sbh_pipelines.stores.object_store import too_large


class MemoryStore:
    """`objects` is what it holds. Thread-safe."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._lock = threading.RLock()

    def get(self, key: str, most: int = MOST_BYTES) -> bytes:
        return self.get_with_etag(key, most)[0]

    def get_with_etag(self, key: str, most: int = MOST_BYTES) -> tuple[bytes, str]:
        with self._lock:
            if key not in self.objects:
                raise ObjectMissing("No such object", on=self.url(key))
            if len(self.objects[key]) > most:
                raise too_large(self.url(key), len(self.objects[key]), most)
            return self.objects[key], etag(self.objects[key])

    def get_range(self, key: str, start: int, length: int) -> bytes:
        body = self.get(key)
        if start >= len(body):
            raise StoreError("Cannot get the range asked for", on=self.url(key))
        return body[start : start + length]

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        return [self.get_range(key, start, length) for start, length in ranges]

    def put(self, key: str, data: bytes | bytearray | memoryview) -> str:
        with self._lock:
            self.objects[key] = bytes(data)
            return etag(self.objects[key])

    def create(self, key: str, data: bytes) -> str:
        with self._lock:
            if key in self.objects:
                raise ObjectExists("The object exists already", on=self.url(key))
            return self.put(key, data)

    def replace(self, key: str, data: bytes, expected: str) -> str:
        with self._lock:
            if self.get_with_etag(key)[1] != expected:
                raise ObjectChanged("The object is no longer the version expected", on=self.url(key))
            return self.put(key, data)

    def head(self, key: str) -> ObjectInfo:
        body, mark = self.get_with_etag(key)
        return ObjectInfo(key, len(body), mark, datetime.now(UTC))

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        with self._lock:
            keys = [key for key in self.objects if key.startswith(prefix) and key > after]
        return (self.head(key) for key in keys)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with self._lock:
                self.objects.pop(key, None)

    def url(self, key: str) -> str:
        return f"memory://{key}"


def etag(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()
