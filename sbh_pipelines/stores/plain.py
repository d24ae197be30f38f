"""Keys that the data path cannot name: in S3 through boto3, in a directory through the operating system.

obstore's paths have no empty, `.` or `..` segment and no character that XML has not, and its directories no name that
ends in `#1`. Its listings fail on some such keys, change others (`a/` becomes `a`), and leave out the rest. S3 allows them all,
and a backup must not pass over a file because of its name. Slower than obstore: only for the keys that need it.
"""

import contextlib
import io
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from sbh_pipelines.errors import ObjectChanged, ObjectMissing, StoreDenied, StoreError, StoreUnavailable
from sbh_pipelines.stores.base import ObjectInfo

_PIECE = 4 << 20
_ODD = re.compile(r"(^|/)\.{0,2}(/|$)|[\x00-\x1f\x7f\ufffe\uffff]")
_ODD_FILE = re.compile(r"#[0-9]+(/|$)")
# obstore's names of attributes, and boto3's.
_ATTRIBUTES = {
    "Content-Type": "ContentType",
    "Content-Encoding": "ContentEncoding",
    "Content-Language": "ContentLanguage",
    "Content-Disposition": "ContentDisposition",
    "Cache-Control": "CacheControl",
}


class Plain(Protocol):
    """What can be done with an odd key. Raises the errors of `ObjectStore`."""

    def is_odd(self, key: str) -> bool:
        """Whether obstore cannot name this key."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object below `prefix`, by its exact key; ETags are obstore's."""
        ...

    def head(self, key: str) -> ObjectInfo: ...

    def stream(
        self, key: str, version: str | None, if_match: str | None
    ) -> tuple[Mapping[str, str], Iterator[memoryview]]: ...

    def put_stream(self, key: str, pieces: Iterable[bytes], attributes: Mapping[str, str]) -> None: ...

    def delete(self, key: str) -> None: ...

    def sync(self, key: str) -> None:
        """Make sure that an object just written, by whatever means, survives a crash."""
        ...


class PlainBucket:
    """An S3 bucket. `connect` gives a boto3 client; it is called when the first odd key comes.

    `with_puts`: arguments of every upload.
    """

    def __init__(self, connect: Callable[[], Any], bucket: str, with_puts: Mapping[str, Any] | None = None) -> None:
        self._connect, self._bucket = connect, bucket
        # boto3's uploads in parts do not know bucket keys. Without one KMS is asked for every object, of which there are few.
        self._with_puts = {name: value for name, value in (with_puts or {}).items() if name != "BucketKeyEnabled"}

    @cached_property
    def _client(self) -> Any:
        return self._connect()

    def is_odd(self, key: str) -> bool:
        return _ODD.search(key) is not None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._translated("list", prefix):
            pages = iter(self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix))
        while True:
            with self._translated("list", prefix):
                page = next(pages, None)
            if page is None:
                return
            if "IsTruncated" not in page or (page["IsTruncated"] and not page.get("NextContinuationToken")):
                # boto3 takes both for the end; what is not listed would be taken for gone.
                raise StoreError(
                    "The store's listing is cut short",
                    on=f"s3://{self._bucket}/{ascii(prefix)[1:-1]}",
                    why="it does not say whether there is more, or not where",
                    remedy="try again; if it stays so, do not use this store",
                )
            for found in page.get("Contents", ()):
                yield ObjectInfo(found["Key"], found["Size"], found["ETag"], found["LastModified"].astimezone(UTC))

    def head(self, key: str) -> ObjectInfo:
        with self._translated("head", key):
            found = self._client.head_object(Bucket=self._bucket, Key=key)
        modified = found["LastModified"].astimezone(UTC)
        return ObjectInfo(key, found["ContentLength"], found["ETag"], modified, found.get("VersionId"))

    def stream(
        self, key: str, version: str | None, if_match: str | None
    ) -> tuple[Mapping[str, str], Iterator[memoryview]]:
        asked = {"VersionId": version, "IfMatch": if_match}
        with self._translated("get", key):
            answer = self._client.get_object(
                Bucket=self._bucket, Key=key, **{name: value for name, value in asked.items() if value}
            )
        attributes = {name: str(answer[theirs]) for name, theirs in _ATTRIBUTES.items() if answer.get(theirs)}
        return {**attributes, **answer.get("Metadata", {})}, self._pieces(key, answer["Body"])

    def _pieces(self, key: str, body: Any) -> Iterator[memoryview]:
        with contextlib.closing(body):
            while True:
                with self._translated("get", key):
                    piece = body.read(_PIECE)
                if not piece:
                    return
                yield memoryview(piece)

    def put_stream(self, key: str, pieces: Iterable[bytes], attributes: Mapping[str, str]) -> None:
        extra: dict[str, Any] = {**self._with_puts}
        extra |= {_ATTRIBUTES[n]: v for n, v in attributes.items() if n in _ATTRIBUTES}
        extra["Metadata"] = {n: v for n, v in attributes.items() if n not in _ATTRIBUTES}
        with self._translated("put", key):
            self._client.upload_fileobj(_Pieces(pieces), self._bucket, key, ExtraArgs=extra)

    def delete(self, key: str) -> None:
        with self._translated("delete", key):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def sync(self, key: str) -> None:
        """Nothing: a server answers when it has it."""

    @contextmanager
    def _translated(self, verb: str, key: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        place = f"s3://{self._bucket}/{ascii(key)[1:-1]}"
        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if status == 404:
                raise ObjectMissing("No such object", on=place, why=code) from None
            if status == 412:
                raise ObjectChanged("The object is no longer the version expected", on=place) from None
            if status in (401, 403):
                raise StoreDenied(
                    f"The store refused to {verb} an object", on=place, why=code, remedy="grant it; run `sbh doctor`"
                ) from None
            kind = StoreUnavailable if status >= 500 else StoreError
            raise kind(f"The store failed to {verb} an object", on=place, why=code) from None
        except (BotoCoreError, Boto3Error, RecursionError) as error:  # the last: redirected without an end
            raise StoreUnavailable(f"Cannot {verb} an object", on=place, why=type(error).__name__) from None


class _Pieces(io.RawIOBase):
    """A file to read over an iterator of pieces."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        super().__init__()
        self._pieces, self._rest = iter(pieces), memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        taken = bytearray()
        while size < 0 or len(taken) < size:
            if not self._rest:
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._rest = memoryview(piece)
                continue
            part = self._rest[: size - len(taken)] if size >= 0 else self._rest
            taken += part
            self._rest = self._rest[len(part) :]
        return bytes(taken)


class PlainDirectory:
    """A directory in place of a bucket."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def is_odd(self, key: str) -> bool:
        return _ODD.search(key) is not None or _ODD_FILE.search(key) is not None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._translated("list", prefix):
            yield from self._walk(str(self._file(prefix.rstrip("/"))))

    def _walk(self, folder: str) -> Iterator[ObjectInfo]:
        for parent, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(parent, name)
                key = os.path.relpath(path, self._root)
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
            while piece := file.read(_PIECE):
                yield memoryview(piece)

    def put_stream(self, key: str, pieces: Iterable[bytes], attributes: Mapping[str, str]) -> None:
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
    # The same mark as object_store's LocalFileSystem makes.
    etag = f'"{found.st_ino:x}-{found.st_mtime_ns // 1000:x}-{found.st_size:x}"'
    return ObjectInfo(key, found.st_size, etag, datetime.fromtimestamp(found.st_mtime, UTC))
