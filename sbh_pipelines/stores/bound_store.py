"""A store bound to a place: before anything is written, `guard` has proved that it may lie there.

Writes outside the place's prefix are refused as well: the store of one tenant cannot write to another's.
Reading and deleting go straight through.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from sbh_pipelines.errors import ResidencyError
from sbh_pipelines.placement import Place
from sbh_pipelines.stores.base import MOST_BYTES, FileStore, ObjectInfo, Page


class BoundStore:
    """A FileStore. `guard` is called before every write; it raises ResidencyError, or the store's errors."""

    def __init__(
        self, inner: FileStore, place: Place, guard: Callable[[], None], kept_as: tuple[str, str] | None = None
    ) -> None:
        """`kept_as`: (prefix, S3 storage class) of what is not put into the bucket's default class."""
        self._inner, self._place, self._guard, self._kept_as = inner, place, guard, kept_as

    def __repr__(self) -> str:
        return f"BoundStore({self._inner!r}, {self._place.prefix}, {self._place.region})"

    def _allow(self, key: str) -> None:
        if not key.startswith(self._place.prefix):
            raise ResidencyError(
                "A write outside of its place was refused",
                on=f"s3://{self._place.bucket}/{ascii(key)[1:-1][:200]}",
                why=f"only what begins with {self._place.prefix} may be written here",
                remedy="report it: a key was not made from the tenant's prefix",
            )
        self._guard()

    def put(self, key: str, data: bytes | bytearray | memoryview, storage_class: str | None = None) -> str:
        self._allow(key)
        if self._kept_as is not None and key.startswith(self._kept_as[0]):
            storage_class = self._kept_as[1]
        return self._inner.put(key, data) if storage_class is None else self._inner.put(key, data, storage_class)

    def create(self, key: str, data: bytes) -> str:
        self._allow(key)
        return self._inner.create(key, data)

    def replace(self, key: str, data: bytes, etag: str) -> str:
        self._allow(key)
        return self._inner.replace(key, data, etag)

    def put_stream(
        self, key: str, pieces: Iterable[bytes], attributes: Mapping[str, str], *, size: int | None = None
    ) -> None:
        self._allow(key)
        self._inner.put_stream(key, pieces, attributes, size=size)

    def get(self, key: str, most: int = MOST_BYTES) -> bytes:
        return self._inner.get(key, most)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._inner.get_range(key, start, length)

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        return self._inner.get_ranges(key, ranges)

    def get_with_etag(self, key: str, most: int = MOST_BYTES) -> tuple[bytes, str]:
        return self._inner.get_with_etag(key, most)

    def head(self, key: str) -> ObjectInfo:
        return self._inner.head(key)

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        return self._inner.list(prefix, after)

    @property
    def lists_all(self) -> bool:
        return self._inner.lists_all

    def list_exactly(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._inner.list_exactly(prefix)

    def page(self, prefix: str, after: str) -> Page | None:
        return self._inner.page(prefix, after)

    def stream(
        self, key: str, *, version: str | None = None, if_match: str | None = None
    ) -> tuple[Mapping[str, str], Iterator[memoryview]]:
        return self._inner.stream(key, version=version, if_match=if_match)

    def delete(self, keys: Iterable[str]) -> None:
        self._inner.delete(keys)

    def url(self, key: str) -> str:
        return self._inner.url(key)
