"""S3: a bucket as a store. Data go through obstore; keys that it cannot name go through boto3."""

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, timedelta
from functools import cached_property
from typing import Any

from obstore.store import S3Store

from sbh_pipelines.errors import StoreError
from sbh_pipelines.settings import StorageSettings
from sbh_pipelines.stores.base import ObjectInfo
from sbh_pipelines.stores.object_store import ODD_KEY, PIECE_BYTES, Store
from sbh_pipelines.stores.s3_client import connect, translated, url_of


@dataclass(frozen=True, slots=True)
class Encryption:
    """What the server is asked to encrypt new objects with: `AES256` (its own keys) or `aws:kms`."""

    algorithm: str
    kms_key_id: str | None = None
    bucket_key: bool = False

    @classmethod
    def of(cls, storage: StorageSettings, region: str) -> "Encryption | None":
        """What the settings ask for in a region; None where they leave it to the bucket's default."""
        if storage.sse == "none":
            return None
        if storage.sse != "aws:kms":
            return cls(storage.sse)
        key_id = storage.sse_kms_key_id
        return cls(storage.sse, key_id.replace("{region}", region) if key_id else None, storage.sse_bucket_key)

    def driver_options(self) -> dict[str, str | bool]:
        """obstore's names."""
        options: dict[str, str | bool] = {"server_side_encryption": self.algorithm}
        if self.kms_key_id:
            options["sse_kms_key_id"] = self.kms_key_id
        return options | ({"sse_bucket_key_enabled": True} if self.bucket_key else {})

    def call_arguments(self) -> dict[str, str | bool]:
        """boto3's names."""
        arguments: dict[str, str | bool] = {"ServerSideEncryption": self.algorithm}
        if self.kms_key_id:
            arguments["SSEKMSKeyId"] = self.kms_key_id
        return arguments | ({"BucketKeyEnabled": True} if self.bucket_key else {})


def open_s3(
    bucket: str,
    region: str,
    *,
    endpoint_url: str | None = None,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    timeout_s: float = 60.0,
    retries: int = 5,
    encryption: Encryption | None = None,
) -> Store:
    """A bucket in a region. Uploads carry SHA-256 checksums that the server verifies. No request is made yet.

    With `encryption` every upload asks the server for it; without, the bucket's default counts.
    """
    config: dict[str, str | bool] = {"bucket": bucket, "region": region, "checksum_algorithm": "sha256"}
    if endpoint_url:
        config |= {"endpoint": endpoint_url, "virtual_hosted_style_request": False}
    if access_key_id:
        config |= {"access_key_id": access_key_id, "secret_access_key": secret_access_key or ""}

    if encryption:
        config |= encryption.driver_options()

    def client() -> Any:
        return connect(
            region,
            endpoint_url=endpoint_url,
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
            timeout_s=timeout_s,
            retries=retries,
        )

    return Store(
        S3Store(
            config=config,  # type: ignore[arg-type]
            client_options={
                "timeout": timedelta(seconds=timeout_s),
                "allow_http": bool(endpoint_url and endpoint_url.startswith("http://")),
            },
            retry_config={
                "max_retries": retries,
                "retry_timeout": timedelta(seconds=timeout_s * 3),
                "backoff": {
                    "init_backoff": timedelta(milliseconds=100),
                    "max_backoff": timedelta(seconds=5),
                    "base": 2,
                },
            },
        ),
        f"s3://{bucket}",
        S3OddKeys(client, bucket, encryption.call_arguments() if encryption else {}),
    )


# obstore's names of attributes, and boto3's.
_ATTRIBUTES = {
    "Content-Type": "ContentType",
    "Content-Encoding": "ContentEncoding",
    "Content-Language": "ContentLanguage",
    "Content-Disposition": "ContentDisposition",
    "Cache-Control": "CacheControl",
}


class S3OddKeys:
    """Odd keys of a bucket, through boto3.

    `client` makes the boto3 client when the first odd key comes; `with_puts` are arguments of every upload.
    """

    def __init__(
        self, client: Callable[[], Any], bucket: str, with_puts: Mapping[str, str | bool] | None = None
    ) -> None:
        self._make_client, self._bucket = client, bucket
        # boto3's uploads in parts do not know bucket keys. Without one KMS is asked for every object, of which there are few.
        self._with_puts = {name: value for name, value in (with_puts or {}).items() if name != "BucketKeyEnabled"}

    @cached_property
    def _client(self) -> Any:
        return self._make_client()

    def is_odd(self, key: str) -> bool:
        return ODD_KEY.search(key) is not None

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
                    on=url_of(self._bucket, prefix),
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
                    piece = body.read(PIECE_BYTES)
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

    def _translated(self, verb: str, key: str) -> AbstractContextManager[None]:
        return translated(f"{verb} an object", url_of(self._bucket, key))


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
