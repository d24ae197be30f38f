"""Objects on their way to a copy: each stored once, whole, and proved to be what the source has.

What arrived is proved without reading it back where the server's ETag is the MD5 of what was sent; the request carried a SHA-256
besides, which S3 checks. Where it is not (SSE-KMS, other servers), the object is read back. Packs and index objects are held
against their own names before they are stored, so that damage at the source does not spread.

Nothing is deleted here. Other content under an immutable name is CopyDiverged, but of a pack or an index object, whose name proves
which of the two is right: that is put over what is there.
"""

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from sbh_pipelines.backup.copies.locks import Locks, open_locks
from sbh_pipelines.backup.copies.place import CopyPlace
from sbh_pipelines.errors import CopyDiverged, CopyError, CorruptObject, ObjectExists, ObjectMissing, StoreUnavailable
from sbh_pipelines.model import Progress, ProgressSink
from sbh_pipelines.repository.format import checksum, parse_document
from sbh_pipelines.stores.base import FileStore, ObjectStore

WHOLE_BYTES = 8 << 20  # an object that is larger is not in memory as a whole
CHANGING_BYTES = 16 << 20  # of an object that changes: a manifest has no more
SETTLED_S = 3600.0  # what was stored so long after the source's was written is of that content; clocks differ by less
_PART = 8 << 20  # bytes of a part of an upload: what an ETag of several parts is made of
_WHOLE_AT_ONCE = 16  # objects that are in memory as a whole, of all tenants
_LARGE_AT_ONCE = 2  # uploads of several parts, each of which has some parts in memory
_PACK = re.compile(r"(?:^|/)packs/([0-9a-f]{64})$")
_INDEX = re.compile(r"(?:^|/)index/[^/]+-([0-9a-f]{16})$")
_DOCUMENT = re.compile(r"(?:^|/)[a-z][a-z-]*/backup_[0-9_]+\.json$")  # a component's: its checksum is in it
_MD5 = re.compile(r"[0-9a-f]{32}")
_READS = 4  # of an object that is read otherwise than the store says it is


class SourceVanished(ObjectMissing):
    """What was listed at the source is gone: it was pruned, merged or forgotten since."""


class PartlyCopied(CorruptObject):
    """Something of the source is damaged; all that does not need it was brought: `objects`, and their `bytes`."""

    objects: int = 0
    bytes: int = 0


class Limiter:
    """Lets so many MiB pass in a second, over all threads; `mib_s` None: any number."""

    def __init__(
        self,
        mib_s: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = None if mib_s is None else mib_s * (1 << 20)
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._free_at = 0.0

    def take(self, size: int) -> None:
        """Wait until `size` more bytes may go."""
        if self._rate is None:
            return
        with self._lock:
            now = self._clock()
            begins = max(now, self._free_at)
            self._free_at = begins + size / self._rate
        if begins > now:
            self._sleep(begins - now)


class Transfers:
    """Stores objects at a copy and counts them. Thread-safe.

    Attributes:
        objects: Objects stored so far.
        bytes: Their bytes.
    """

    def __init__(self, place: CopyPlace, progress: ProgressSink, limiter: Limiter) -> None:
        self._place, self._progress, self._limiter = place, progress, limiter
        self._lock, self._asking = threading.Lock(), threading.Lock()
        self._locks: dict[str, Locks | None] = {}
        self._whole, self._large = threading.Semaphore(_WHOLE_AT_ONCE), threading.Semaphore(_LARGE_AT_ONCE)
        self.objects, self.bytes = 0, 0

    def locks(self, region: str) -> Locks | None:
        """The object locks of a region's copies; the bucket is asked once. Raises CopyError where they cannot be had."""
        with self._asking:
            if region not in self._locks:
                self._locks[region] = open_locks(self._place, region)
            return self._locks[region]

    def copy(
        self,
        store_from: FileStore,
        store_to: FileStore,
        key: str,
        *,
        size: int,
        key_there: str | None = None,
        etag: str = "",
        immutable: bool = True,
        absent: bool = False,
        anew: bool = False,
        attributes: Mapping[str, str] | None = None,
    ) -> bool:
        """Store one object of `size` bytes, under the same key unless `key_there` names another; False where it was there already.

        `etag`: what a listing of the source says of it. `immutable`: its name has one content for ever, so that one of the same
        size is the same; otherwise the bytes are compared, and it is overwritten where they differ. `absent`: a listing says
        that it is not there. `anew`: what is there is not believed; it is read, and overwritten where it is another.
        `attributes`: what is stored with it, such as its object lock.

        Raises SourceVanished, CopyDiverged where an immutable name has another content there, CorruptObject where the content
        is not its name's, CopyError where the copy's store does not have what it acknowledged, and the stores' errors.
        """
        key_there = key if key_there is None else key_there
        if not absent and immutable and not anew and self._is_there(store_to, key_there, size):
            return False
        if anew and is_proved(key) and is_whole(store_to, key_there, size):
            return False
        if size <= WHOLE_BYTES or (not immutable and size <= CHANGING_BYTES):
            self._limiter.take(size)
            with self._whole:
                body = read_source(store_from, key, size, etag)
                _check_document(key, body, store_from.url(key))
                return self._store(store_to, key_there, body, immutable and not anew, attributes, absent)
        if not immutable:
            raise CopyError(
                "An object that changes is too large to be copied",
                on=store_from.url(key),
                why=f"it has {size:,} bytes, and at most {CHANGING_BYTES:,} are compared",
                remedy="see who can write to the bucket: none of this program's is so large",
            )
        with self._large:
            self._stream(store_from, store_to, key, key_there, size, attributes or {})
        self._count(size)
        return True

    def put(
        self,
        store: FileStore,
        key: str,
        body: bytes,
        attributes: Mapping[str, str] | None = None,
        *,
        absent: bool = False,
    ) -> bool:
        """Store a small object that changes, read before; False where the same is there. Raises CopyError and the store's.

        `absent`: a listing says that it is not there.
        """
        return self._store(store, key, body, False, attributes, absent)

    def _is_there(self, store: FileStore, key: str, size: int) -> bool:
        try:
            found = store.head(key)
        except ObjectMissing:
            return False
        if found.size != size:
            raise diverged(store.url(key), f"it has {found.size:,} bytes there, {size:,} here")
        return True

    def _store(
        self,
        store: FileStore,
        key: str,
        body: bytes,
        immutable: bool,
        attributes: Mapping[str, str] | None,
        absent: bool,
    ) -> bool:
        content = _Content(key, store.url(key))
        content.add(body)
        content.check()
        try:
            known = _known(store, key) if attributes or not (immutable or absent) else None
            if known is not None and known[0] == body:
                return False
            if known is not None and immutable:
                raise diverged(store.url(key), "its content is another")
            if attributes:  # no condition goes with them: what is locked stays beside what is put over it
                store.put_stream(key, [body], attributes, size=len(body))
                etag = store.head(key).etag
            else:
                etag = store.create(key, body) if known is None else store.replace(key, body, known[1])
        except ObjectExists:
            if absent and not immutable:  # it was stored since the listing
                return self._store(store, key, body, immutable, attributes, False)
            # The answer to our own put was lost and it was repeated, or another run of the same copy was faster.
            if store.head(key).size == len(body) and store.get(key, len(body)) == body:
                return False
            raise diverged(store.url(key), "its content is another") from None
        except ObjectMissing as error:
            raise lost(store.url(key), error.what) from None
        if not content.is_proved_by(etag) and store.get(key, len(body)) != body:
            raise lost(store.url(key), "what it has is not what was sent")
        self._count(len(body))
        return True

    def _stream(
        self,
        store_from: FileStore,
        store_to: FileStore,
        key: str,
        key_there: str,
        size: int,
        attributes: Mapping[str, str],
    ) -> None:
        content = _Content(key, store_from.url(key), parts=True)
        try:
            _, pieces = store_from.stream(key)
        except ObjectMissing as error:
            raise vanished(error) from None
        store_to.put_stream(key_there, self._passed(pieces, content, size), attributes, size=size)
        found = store_to.head(key_there)
        if found.size != size:
            raise lost(store_to.url(key_there), f"it has {found.size:,} bytes of {size:,}")
        if not content.is_proved_by(found.etag):
            there = _Content(key_there, store_to.url(key_there))
            for at in range(0, size, _PART):
                there.add(store_to.get_range(key_there, at, min(_PART, size - at)))
            if there.sha256 != content.sha256:
                raise lost(store_to.url(key_there), "what it has is not what was sent")

    def _passed(self, pieces: Iterable[memoryview], content: "_Content", size: int) -> Iterator[bytes]:
        """The pieces. An error before the last one leaves no object, so the last one is kept until all is checked."""
        last = b""
        for piece in pieces:
            if last:
                yield last
            last = bytes(piece)
            self._limiter.take(len(last))
            content.add(last)
        if content.size != size:
            raise SourceVanished("The object changed while it was copied", on=content.on)
        content.check()
        yield last

    def _count(self, size: int) -> None:
        with self._lock:
            self.objects += 1
            self.bytes += size
            objects = self.objects
        self._progress(Progress("copy", self._place.name, objects, objects, "objects"))


class _Content:
    """What an object's bytes say, as they pass. `parts`: it goes up in several."""

    def __init__(self, key: str, on: str, *, parts: bool = False) -> None:
        self._key, self.on = key, on
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)  # of the whole, or of the part: servers make ETags of it
        self._parts: bytearray | None = bytearray() if parts else None
        self._in_part = 0

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def add(self, piece: bytes) -> None:
        self._sha256.update(piece)
        self.size += len(piece)
        if self._parts is None:
            self._md5.update(piece)
            return
        view = memoryview(piece)
        while len(view):
            taken = view[: _PART - self._in_part]
            self._md5.update(taken)
            self._in_part += len(taken)
            view = view[len(taken) :]
            if self._in_part == _PART:
                self._end_part()

    def _end_part(self) -> None:
        if self._parts is not None:
            self._parts += self._md5.digest()
        self._md5, self._in_part = hashlib.md5(usedforsecurity=False), 0

    @property
    def is_its_names(self) -> bool:
        """Whether the name is of no other content."""
        pack, index = _PACK.search(self._key), _INDEX.search(self._key)
        return self.sha256.startswith(pack[1] if pack else index[1] if index else "")

    def check(self) -> None:
        """Raises CorruptObject where the name is of another content."""
        if not self.is_its_names:
            raise CorruptObject(
                "An object at the source is damaged, and was not copied",
                on=self.on,
                why="its content is not its name's",
                remedy="run `sbh backup validate --deep` at the source and take another backup of the tenant",
            )

    def is_proved_by(self, etag: str) -> bool:
        """Whether the server made its ETag of the very same bytes."""
        said = plain_etag(etag)
        if self._parts is None:
            return said == self._md5.hexdigest()
        if self._in_part:
            self._end_part()
        whole = hashlib.md5(bytes(self._parts), usedforsecurity=False).hexdigest()
        return said == f"{whole}-{len(self._parts) // 16}"


def is_proved(key: str) -> bool:
    """Whether the name says what the content is: packs and index objects."""
    return _PACK.search(key) is not None or _INDEX.search(key) is not None


def is_whole(store: FileStore, key: str, size: int | None = None) -> bool:
    """Whether the copy has the content that the name says, and of this size. Reads it, in parts."""
    content = _Content(key, store.url(key))
    try:
        found = store.head(key).size
        if size is None:
            size = found
        if found != size:
            return False
        for at in range(0, size, _PART):
            content.add(store.get_range(key, at, min(_PART, size - at)))
    except ObjectMissing:
        return False
    return content.is_its_names


def _check_document(key: str, body: bytes, on: str) -> None:
    """A component's document must be whole: its name proves nothing. Raises CorruptObject."""
    if _DOCUMENT.search(key):
        document = parse_document(body, on)
        if checksum(document) != document.get("checksum"):
            raise CorruptObject(
                "A document of the source is damaged, and was not copied",
                on=on,
                why="its checksum is not its content's",
                remedy="restore its older version from the bucket, or forget the backup",
            )


def plain_etag(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')


# Nobody is told to delete at a copy: the source may be new, in the place of one that is lost, and the copy all there is.
WHICH_IS_RIGHT = (
    "nothing was overwritten. Where the source is new, or was emptied, the copy is right: change nothing there, and make it the"
    " primary (docs/operations/region-lost.md; `sbh copies promote NAME --source-lost` shows what it has). Else see who can write"
    " to either bucket, put the older version of the object that was replaced back in its place, and run the copy again"
)


def diverged(on: str, why: str) -> CopyDiverged:
    return CopyDiverged(
        "The copy has another object of this name than the source",
        on=on,
        why=why,
        remedy=WHICH_IS_RIGHT,
    )


def lost(on: str, why: str) -> CopyError:
    return CopyError(
        "The copy's store does not have what it acknowledged",
        on=on,
        why=why,
        remedy="run the copy again; if it stays so, do not use this store",
    )


def vanished(error: ObjectMissing) -> SourceVanished:
    return SourceVanished("An object of the source is gone", on=error.on, why="pruned, merged or forgotten meanwhile")


def read_source(store: ObjectStore, key: str, most: int = WHOLE_BYTES, etag: str = "") -> bytes:
    """A small object of the source. `etag`: what a listing says of it.

    Where that is an MD5 of something else the object is read until it comes the same twice: a bit may have flipped on its way,
    the ETag be none of the content (SSE-KMS), or the object have changed since. Raises SourceVanished, StoreUnavailable.
    """
    said, before = plain_etag(etag), None
    try:
        for _ in range(_READS):
            body = store.get(key, most)
            as_said = not _MD5.fullmatch(said) or hashlib.md5(body, usedforsecurity=False).hexdigest() == said
            if as_said or body == before:
                return body
            before = body
    except ObjectMissing as error:
        raise vanished(error) from None
    raise StoreUnavailable(
        "An object is read otherwise each time",
        on=store.url(key),
        why=f"{_READS} reads gave as many contents",
        remedy="see what lies between this machine and the store: TLS finds bits that flip on their way",
    )


def _known(store: ObjectStore, key: str) -> tuple[bytes, str] | None:
    try:
        return store.get_with_etag(key, CHANGING_BYTES)
    except ObjectMissing:
        return None
