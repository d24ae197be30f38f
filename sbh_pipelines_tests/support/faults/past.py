"""What a server had before: the version before the last of each object, and when each was written."""

import re
import threading
import time
from dataclasses import dataclass, field

_KEPT = 256 << 10  # bytes of an object that is remembered
_LATE_S = 30.0  # what was written since is late for a stale listing
_ENTRY = re.compile(rb"<Contents>.*?</Contents>", re.S)
_KEY = re.compile(rb"<Key>(.*?)</Key>", re.S)


@dataclass(frozen=True, slots=True)
class Version:
    """A body and the ETag that the server gave it."""

    body: bytes = field(repr=False)
    etag: str


@dataclass
class Past:
    """Told of every write that the server took."""

    _versions: dict[str, list[Version | None]] = field(default_factory=dict, repr=False)
    _born: dict[str, float] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def put(self, path: str, body: bytes, etag: str) -> None:
        with self._lock:
            known = self._versions.setdefault(path, [None])
            known.append(Version(body, etag) if len(body) <= _KEPT else None)
            del known[:-2]
            self._born.setdefault(path, time.monotonic())

    def deleted(self, path: str) -> None:
        with self._lock:
            self._versions.pop(path, None)
            self._born.pop(path, None)

    def before(self, path: str) -> Version | bool | None:
        """The version before the last; None: there was none; False: it is not known."""
        with self._lock:
            known = self._versions.get(path)
            return known[0] if known else False

    def without_late(self, bucket: str, page: bytes) -> bytes:
        """A page of a listing as it was a while ago."""
        now, dropped = time.monotonic(), 0

        def kept(entry: re.Match[bytes]) -> bytes:
            nonlocal dropped
            key = _KEY.search(entry[0])
            born = self._born.get(f"/{bucket}/{key[1].decode()}" if key else "")
            if born is not None and now - born < _LATE_S:
                dropped += 1
                return b""
            return entry[0]

        with self._lock:
            left = _ENTRY.sub(kept, page)
        count = len(_ENTRY.findall(left))
        return re.sub(rb"<KeyCount>\d+</KeyCount>", b"<KeyCount>%d</KeyCount>" % count, left) if dropped else page


def reordered(page: bytes, order: "list[int]") -> bytes:
    """The same page, its entries in this order."""
    entries = _ENTRY.findall(page)
    coming = iter([entries[at] for at in order])
    return _ENTRY.sub(lambda _: next(coming), page)


def entries(page: bytes) -> int:
    return len(_ENTRY.findall(page))
