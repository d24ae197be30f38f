"""What S3 and local directories share: the data path through `obstore` (Rust's object_store).

It costs about a seventh of boto3's CPU per request and releases the GIL while it waits. obstore cannot name every key that S3
allows: its paths have no empty, `.` or `..` segment and no character that XML has not, and its directories no name that ends
in `#1`. Its listings fail on some such keys, change others (`a/` becomes `a`), and leave out the rest. Of an object's headers it
tells some, and none that is not ASCII. A backup must not pass over a file because of its name, nor lose what is kept with it, so
each kind of store has an `ExactHalf` besides.
"""

import fcntl
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import obstore
from obstore import exceptions as driver
from obstore.store import LocalStore, S3Store

from sbh_pipelines.errors import (
    ObjectChanged,
    ObjectExists,
    ObjectMissing,
    ObjectTooLarge,
    StoreDenied,
    StoreError,
    StoreUnavailable,
)
from sbh_pipelines.stores.bandwidth import Bandwidth
from sbh_pipelines.stores.base import MOST_BYTES, ObjectInfo, Page
from sbh_pipelines.stores.s3_errors import MEANINGS, Told, s3_error
from sbh_pipelines.stores.signed.headers import STORAGE_CLASS

_PART = 8 << 20  # bytes of one part of a multipart upload
_DELETE_BATCH = 500


class ExactHalf(Protocol):
    """What obstore cannot do, or not exactly. Raises the errors of `ObjectStore`."""

    def is_odd(self, key: str) -> bool:
        """Whether obstore cannot name this key."""
        ...

    def streams(self, key: str) -> bool:
        """Whether files are read by `stream` here, so that nothing kept with them is lost."""
        ...

    def puts(self, key: str, attributes: Mapping[str, str], size: int | None) -> bool:
        """Whether a file is put by `put_stream` here: for its key, what is kept with it, or its size."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object below `prefix`, by its exact key; ETags are obstore's."""
        ...

    def page(self, prefix: str, after: str) -> Page | None: ...

    def head(self, key: str) -> ObjectInfo: ...

    def stream(
        self, key: str, version: str | None, if_match: str | None
    ) -> tuple[Mapping[str, str], Iterator[memoryview]]: ...

    def put_stream(
        self, key: str, pieces: Iterable[bytes], attributes: Mapping[str, str], size: int | None
    ) -> None: ...

    def delete(self, key: str) -> None: ...

    def sync(self, key: str) -> None:
        """Make sure that an object just written, by whatever means, survives a crash."""
        ...


class Store:
    """One bucket, or a directory in its place. Thread-safe.

    `sender` makes the driver for writes where it is another, when something is written first: the wait for an answer is longer by
    the time that sending takes.
    """

    def __init__(
        self,
        inner: S3Store | LocalStore,
        base_url: str,
        odd: ExactHalf,
        lock_file: Path | None = None,
        sender: Callable[[], S3Store] | None = None,
        sending: Bandwidth | None = None,
        receiving: Bandwidth | None = None,
    ) -> None:
        self._sending, self._receiving = sending, receiving
        self._inner, self._base_url, self._odd, self._lock_file = inner, base_url, odd, lock_file
        self._make_sender = sender
        self._counting = threading.Lock()
        self.requests: Counter[str] = Counter()  # calls by verb since the store was opened, for reports

    def __repr__(self) -> str:
        return f"Store({self._base_url})"

    @cached_property
    def _sender(self) -> S3Store | LocalStore:
        return self._make_sender() if self._make_sender else self._inner

    def get(self, key: str, most: int = MOST_BYTES) -> bytes:
        return self.get_with_etag(key, most)[0]

    def get_with_etag(self, key: str, most: int = MOST_BYTES) -> tuple[bytes, str]:
        with self._translated("get", key):
            answer = obstore.get(self._inner, key)  # the answer's head: the driver reads no more than the size it tells
            if answer.meta["size"] > most:
                raise too_large(self.url(key), answer.meta["size"], most)
            body = bytes(answer.bytes())
        self._receive(len(body))
        return body, answer.meta["e_tag"] or ""

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self._receive(length)
        with self._translated("get", key):
            return bytes(obstore.get_range(self._inner, key, start=start, length=length))

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        self._receive(sum(length for _, length in ranges))
        with self._translated("get", key):
            starts, lengths = [start for start, _ in ranges], [length for _, length in ranges]
            return [bytes(part) for part in obstore.get_ranges(self._inner, key, starts=starts, lengths=lengths)]

    def put(self, key: str, data: bytes | bytearray | memoryview, storage_class: str | None = None) -> str:
        kept: Any = {STORAGE_CLASS: storage_class} if storage_class else None
        if self._sending is not None:
            self._sending.take(len(data))
        with self._translated("put", key, makes=True):
            answer = obstore.put(
                self._sender, key, data, attributes=kept, use_multipart=len(data) > _PART, chunk_size=_PART
            )
            self._odd.sync(key)
            return answer["e_tag"] or ""

    def create(self, key: str, data: bytes) -> str:
        with self._translated("put", key, makes=True):
            answer = obstore.put(self._sender, key, data, mode="create")
            self._odd.sync(key)
            return answer["e_tag"] or ""

    def replace(self, key: str, data: bytes, etag: str) -> str:
        with self._translated("put", key):
            if self._lock_file is None:
                return obstore.put(self._sender, key, data, mode={"e_tag": etag})["e_tag"] or ""
            # A directory has no conditional write; a lock file gives the same guarantee on one machine.
            with self._lock_file.open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if obstore.head(self._inner, key)["e_tag"] != etag:
                    raise ObjectChanged("The object is no longer the version expected", on=self.url(key))
                answer = obstore.put(self._inner, key, data)
                self._odd.sync(key)
                return answer["e_tag"] or ""

    def head(self, key: str) -> ObjectInfo:
        if self._odd.is_odd(key):
            self._count("head")
            return self._odd.head(key)
        with self._translated("head", key):
            return _info(obstore.head(self._inner, key))

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        # object_store matches whole path segments; every prefix here ends with "/".
        with self._translated("list", prefix):
            pages = iter(obstore.list(self._inner, prefix, offset=after or None, chunk_size=1000))
        while True:
            with self._translated("list", prefix, counted=False):
                page = next(pages, None)
            if page is None:
                return
            for meta in page:
                yield _info(meta)

    @property
    def lists_all(self) -> bool:
        return self._lock_file is None

    def list_exactly(self, prefix: str) -> Iterator[ObjectInfo]:
        self._count("list")
        yield from self._odd.list(prefix)

    def page(self, prefix: str, after: str) -> Page | None:
        self._count("list")
        return self._odd.page(prefix, after)

    def delete(self, keys: Iterable[str]) -> None:
        batch: list[str] = []
        for key in keys:
            if self._odd.is_odd(key):
                self._count("delete")
                self._odd.delete(key)
                continue
            batch.append(key)
            if len(batch) == _DELETE_BATCH:
                self._delete(batch)
                batch = []
        if batch:
            self._delete(batch)

    def _delete(self, keys: Sequence[str]) -> None:
        try:
            with self._translated("delete", keys[0]):
                "".join(keys).encode()  # a ValueError, where the driver has a TypeError
                obstore.delete(self._inner, keys)
        except ObjectMissing:
            for key in keys:  # a directory says so, and stops there
                try:
                    with self._translated("delete", key):
                        obstore.delete(self._inner, key)
                except ObjectMissing:
                    continue

    def url(self, key: str) -> str:
        return f"{self._base_url}/{key}"

    def stream(
        self, key: str, *, version: str | None = None, if_match: str | None = None
    ) -> tuple[Mapping[str, str], Iterator[memoryview]]:
        attributes, pieces = self._open(key, version, if_match)
        if self._receiving is not None:
            pieces = self._receiving.paced(pieces)
        if if_match and self._lock_file is not None:
            pieces = self._unchanged(key, if_match, pieces)
        return attributes, pieces

    def _unchanged(self, key: str, etag: str, pieces: Iterator[memoryview]) -> Iterator[memoryview]:
        """The pieces, then ObjectChanged if the file was written in place meanwhile: a directory allows it."""
        yield from pieces
        try:
            changed = self.head(key).etag != etag
        except ObjectMissing:  # removed, but read whole before
            return
        if changed:
            raise ObjectChanged("The object changed while it was read", on=self.url(key))

    def _open(
        self, key: str, version: str | None, if_match: str | None
    ) -> tuple[Mapping[str, str], Iterator[memoryview]]:
        if self._odd.streams(key):
            self._count("get")
            return self._odd.stream(key, version, if_match)
        asked = {"version": version, "if_match": if_match}
        options: Any = {name: value for name, value in asked.items() if value}
        with self._translated("get", key):
            answer = obstore.get(self._inner, key, options=options or None)
        return _text_attributes(answer.attributes), self._pieces(key, answer)

    def _pieces(self, key: str, answer: Any) -> Iterator[memoryview]:
        stream = iter(answer.stream(min_chunk_size=4 << 20))
        while True:
            with self._translated("get", key, counted=False):
                piece = next(stream, None)
            if piece is None:
                return
            yield memoryview(piece)

    def put_stream(
        self, key: str, pieces: Iterable[bytes], attributes: Mapping[str, str], *, size: int | None = None
    ) -> None:
        if self._sending is not None:
            pieces = self._sending.paced(pieces)
        if self._odd.puts(key, attributes, size):
            self._count("put")
            self._odd.put_stream(key, pieces, attributes, size)
            self._odd.sync(key)
            return
        # Not obstore.put(iterator): it would run the iterator inside the driver's event loop, where reading from a store
        # is not possible. An unfinished writer leaves no object.
        kept: Any = dict(attributes) if self._lock_file is None else None  # a directory has no attributes
        coming = iter(pieces)
        first, second = next(coming, b""), next(coming, None)
        if second is None:
            with self._translated("put", key):
                obstore.put(self._sender, key, first, attributes=kept or None)
                self._odd.sync(key)
            return
        with self._translated("put", key):
            writer = obstore.open_writer(
                self._sender, key, attributes=kept or None, buffer_size=_PART, max_concurrency=4
            )
            writer.write(first)
            writer.write(second)
        for piece in coming:
            with self._translated("put", key, counted=False):
                writer.write(piece)
        with self._translated("put", key, counted=False):
            writer.close()
            self._odd.sync(key)

    def _receive(self, size: int) -> None:
        if self._receiving is not None:
            self._receiving.take(size)

    def _count(self, verb: str) -> None:
        with self._counting:
            self.requests[verb] += 1

    @contextmanager
    def _translated(self, verb: str, key: str, counted: bool = True, makes: bool = False) -> Iterator[None]:
        """`makes`: what is called writes an object, whether or not there is one."""
        if counted:
            self._count(verb)
        place = self.url(key)
        try:
            yield
        except (driver.NotFoundError, FileNotFoundError) as error:
            told = Told.read(str(error), 404)
            if makes and told.code in (
                "",
                "NoSuchKey",
            ):  # an object need not be there to be written: what is missing is the bucket
                told = replace(told, code="NoSuchBucket")
            missing = "" if told.code == "NoSuchBucket" else "No such object"
            raise s3_error(f"{verb} an object", place, told, missing=missing) from None
        except driver.AlreadyExistsError as error:
            told = Told.read(str(error), 409)
            if told.code in MEANINGS and told.code not in ("PreconditionFailed", "ConditionalRequestConflict"):
                raise s3_error(f"{verb} an object", place, told) from None
            raise ObjectExists("The object exists already", on=place) from None
        except driver.PreconditionError:
            raise ObjectChanged("The object is no longer the version expected", on=place) from None
        except (driver.PermissionDeniedError, driver.UnauthenticatedError) as error:
            raise _denied(verb, place, str(error), self._lock_file is not None) from None
        except driver.BaseError as error:
            raise _translate_other(verb, place, str(error)) from None
        except ValueError as error:  # a key that is no path
            raise StoreError(
                f"Cannot {verb} an object with this key", on=ascii(place), why=_words(str(error))
            ) from None
        except (OSError, TimeoutError) as error:
            raise StoreUnavailable(
                f"Cannot {verb} an object",
                on=place,
                why=_words(str(error)),
                remedy="check the store and its disk; `sbh doctor`",
            ) from None
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of the driver's runtime; not an Exception, and in no module
                raise
            raise StoreUnavailable(
                f"Cannot {verb} an object",
                on=place,
                why=f"the answer is not what was asked for: {_words(str(error))[:200]}",
                remedy="try again; if it stays so, the object is too short (`sbh backup validate`), or a proxy changes answers",
            ) from None


_STATUS = re.compile(r"\b(301|307|[45]\d\d) [A-Z][a-z]+")
# A driver's text that quotes what our own credentials said.
_OURS = re.compile(r"\[SBH-(?:405|100)\] (?P<told>[^\n]*)")


def _denied(verb: str, place: str, text: str, directory: bool) -> StoreError:
    if directory:
        return StoreDenied(
            f"The store refused to {verb} an object",
            on=place,
            why="the system does not allow it",
            remedy=f"let this user read and write there, e.g. chown -R $(id -un) {place.removeprefix('file://')}",
        )
    return _of_credentials(place, text) or s3_error(f"{verb} an object", place, Told.read(text, 403))


def _of_credentials(place: str, text: str) -> StoreError | None:
    """What our own credentials said when the driver asked them, where it was that."""
    ours = _OURS.search(text)
    if ours is None:
        return None
    told = ours["told"].replace("\\n", " ")
    what, _, remedy = told.partition(". To mend it: ")
    return StoreDenied(what[:300], on=place, remedy=remedy[:300] or "run `sbh doctor`")


def _words(text: str) -> str:
    """A driver's text in one line, without what it prints for those who write drivers."""
    return " ".join(text.partition("Debug source:")[0].split())[:300]


def _translate_other(verb: str, place: str, text: str) -> StoreError:
    short = _words(text)
    if ours := _of_credentials(place, text):
        return ours
    status = _STATUS.search(text)
    told = Told.read(text, int(status[1]) if status else 0)
    if told.code or told.status:
        return s3_error(f"{verb} an object", place, told)
    if "invalid path" in text or "InvalidMetadata" in text:
        return StoreError(
            f"Cannot {verb}: the store has a key or an attribute that is out of the ordinary", on=place, why=short
        )
    if "out of bounds" in text.lower():
        return StoreError(
            f"Cannot {verb} the range asked for", on=place, why=short, remedy="the object is too short: validate"
        )
    return StoreUnavailable(f"Cannot {verb} an object", on=place, why=short, remedy="check the store; run `sbh doctor`")


def too_large(place: str, size: int, most: int) -> ObjectTooLarge:
    return ObjectTooLarge(
        "An object is larger than any of its kind",
        on=ascii(place)[1:-1][:300],
        why=f"it has {size:,} bytes, at most {most:,} are read: overwritten, or never one of ours",
        remedy="see who can write to the bucket; delete the object, or restore its older version",
    )


def _info(meta: Any) -> ObjectInfo:
    return ObjectInfo(meta["path"], meta["size"], meta["e_tag"] or "", meta["last_modified"], meta.get("version"))


def _text_attributes(attributes: Mapping[Any, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in attributes.items()}


PIECE_BYTES = 4 << 20
