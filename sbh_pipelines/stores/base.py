"""What an object store must guarantee. One test suite holds every implementation to it.

1. Durable: when `put`, `create` or `replace` returns, the object survives a crash of either side.
2. Atomic: a reader sees the whole object or none; a failed or killed write leaves no object.
3. Read-after-write, in `get` and in `list`.
4. `create` fails with ObjectExists when the key is taken, also against a simultaneous `create`: exactly one wins.
5. `replace` fails with ObjectChanged unless the object still has the given ETag; exactly one of two simultaneous ones wins.
6. `list` is complete and holds at most a page in memory. Its order means nothing: S3 lists in order of UTF-8 bytes, other
   servers and directories do not, so nothing may rely on it.
7. No object is read whole that is larger than the caller allows: its size is looked at before its bytes are.
8. Transient errors are retried inside, with backoff; what comes out is an error of `errors/`, never the driver's.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

MOST_BYTES = 64 << 20  # of an object that is read whole, unless the caller says otherwise

ODD_KEY = re.compile(r"(^|/)\.{0,2}(/|$)|[\x00-\x1f\x7f\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    key: str
    size: int  # bytes
    etag: str
    modified: datetime
    version: str | None = None  # where the bucket is versioned and the listing tells


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of a listing.

    Attributes:
        objects: In the order of the server; keys are exact.
        more: Whether there are others behind the last.
    """

    objects: Sequence[ObjectInfo]
    more: bool


class ObjectStore(Protocol):
    """All methods may raise StoreUnavailable and StoreDenied; those that read also ObjectMissing."""

    def get(self, key: str, most: int = MOST_BYTES) -> bytes:
        """Raises ObjectTooLarge, before it is read, where it has more than `most` bytes."""
        ...

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Exactly `length` bytes from `start`; ObjectMissing or a shorter answer where the object is too small."""
        ...

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        """`get_range` for several (start, length) of one object; near ones in one request."""
        ...

    def get_with_etag(self, key: str, most: int = MOST_BYTES) -> tuple[bytes, str]: ...

    def put(self, key: str, data: bytes | bytearray | memoryview, storage_class: str | None = None) -> str:
        """Store or overwrite; the ETag. Large data goes up in parts. `storage_class`: of S3; None: the bucket's default."""
        ...

    def create(self, key: str, data: bytes) -> str: ...

    def replace(self, key: str, data: bytes, etag: str) -> str: ...

    def head(self, key: str) -> ObjectInfo: ...

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """`after`: only keys greater than this one, by their UTF-8 bytes."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Missing keys are no error."""
        ...

    def url(self, key: str) -> str:
        """For people: where the object is."""
        ...


class FileStore(ObjectStore, Protocol):
    """What reading and writing tenants' files needs besides.

    `head`, `delete` and the methods here take every key that a bucket may have.
    """

    @property
    def lists_all(self) -> bool:
        """Whether `list` fails rather than leave out an object whose key it cannot name."""
        ...

    def list_exactly(self, prefix: str) -> Iterator[ObjectInfo]:
        """List every object, each key exactly as it is; slower than `list`."""
        ...

    def page(self, prefix: str, after: str) -> Page | None:
        """One request: what follows `after`, which need not be there, of what is below `prefix`. None where there are no pages.

        What is behind one folder is behind all of it; of the order no more is sure.
        """
        ...

    def stream(
        self, key: str, *, version: str | None = None, if_match: str | None = None
    ) -> tuple[Mapping[str, str], Iterator[memoryview]]:
        """All that is kept with the object, and the content in pieces; ObjectChanged when `if_match` fails.

        Names and values are those of `stores/signed/headers.py`.
        """
        ...

    def put_stream(
        self, key: str, pieces: Iterable[bytes], attributes: Mapping[str, str], *, size: int | None = None
    ) -> None:
        """Put an object with what is kept with it. A large one needs its `size`, about: parts grow with it."""
        ...
