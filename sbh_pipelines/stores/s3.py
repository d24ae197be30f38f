"""S3: a bucket as a store. Data go through obstore; keys that it cannot name go through boto3."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from obstore.store import S3Store

from sbh_pipelines.errors import StoreError
from sbh_pipelines.settings import StorageSettings
from sbh_pipelines.stores.bandwidth import bandwidth
from sbh_pipelines.stores.base import ODD_KEY, ObjectInfo, Page
from sbh_pipelines.stores.object_store import Store
from sbh_pipelines.stores.s3_client import connect, translated, url_of
from sbh_pipelines.stores.signed.client import SLOWEST, Endpoint, SignedClient
from sbh_pipelines.stores.signed.credentials import Credentials
from sbh_pipelines.stores.signed.headers import fit_for_obstore, headers_of
from sbh_pipelines.stores.signed.page import list_page
from sbh_pipelines.stores.signed.upload import PART, part_size, put


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

    def headers(self) -> dict[str, str]:
        """Headers of an upload."""
        headers = {"x-amz-server-side-encryption": self.algorithm}
        if self.kms_key_id:
            headers["x-amz-server-side-encryption-aws-kms-key-id"] = self.kms_key_id
        return headers | ({"x-amz-server-side-encryption-bucket-key-enabled": "true"} if self.bucket_key else {})

    def call_arguments(self) -> dict[str, str | bool]:
        """boto3's names."""
        arguments: dict[str, str | bool] = {"ServerSideEncryption": self.algorithm}
        if self.kms_key_id:
            arguments["SSEKMSKeyId"] = self.kms_key_id
        return arguments | ({"BucketKeyEnabled": True} if self.bucket_key else {})


_EVER = timedelta(days=7)


def open_s3(
    bucket: str,
    region: str,
    *,
    endpoint_url: str | None = None,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    ca_file: Path | None = None,
    timeout_s: float = 60.0,
    retries: int = 5,
    encryption: Encryption | None = None,
    upload_mib_s: float | None = None,
    download_mib_s: float | None = None,
) -> Store:
    """A bucket in a region. Uploads carry SHA-256 checksums that the server verifies. No request is made yet.

    With `encryption` every upload asks the server for it; without, the bucket's default counts. `ca_file` holds certificates
    that are trusted besides the system's. `timeout_s` bounds a silence: no transfer is given up while data flow. All stores of a
    process share the MiB a second.
    """
    credentials = Credentials(access_key_id, secret_access_key)
    plain = bool(endpoint_url and endpoint_url.startswith("http://"))

    def driver(silence_s: float) -> S3Store:
        config: dict[str, Any] = {"bucket": bucket, "region": region, "checksum_algorithm": "sha256"}
        if endpoint_url:
            config |= {"endpoint": endpoint_url, "virtual_hosted_style_request": False}
        if encryption:
            config |= encryption.driver_options()
        options: dict[str, Any] = {
            "timeout": _EVER,  # of a whole request; without, it is 30 s
            "read_timeout": timedelta(seconds=silence_s),
            "connect_timeout": timedelta(seconds=timeout_s),
            "allow_http": plain,
            # Plain HTTP has none to verify; the system's, with which others are verified, take 17 ms to load.
            "allow_invalid_certificates": plain,
        }
        if ca_file:
            options["root_certificate"] = ca_file.read_bytes()
        return S3Store(
            config=config,  # type: ignore[arg-type]
            client_options=options,  # type: ignore[arg-type]
            retry_config={
                "max_retries": retries,
                "retry_timeout": _EVER,  # counts from the beginning of a download, however long it is
                "backoff": {
                    "init_backoff": timedelta(milliseconds=100),
                    "max_backoff": timedelta(seconds=5),
                    "base": 2,
                },
            },
            credential_provider=credentials.provided,  # type: ignore[arg-type]
        )

    def client() -> Any:
        return connect(
            region,
            endpoint_url=endpoint_url,
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
            ca_file=ca_file,
            timeout_s=timeout_s,
            retries=retries,
        )

    signed = SignedClient(Endpoint(bucket, region, endpoint_url, ca_file, timeout_s, retries), credentials)
    return Store(
        driver(timeout_s),
        f"s3://{bucket}",
        S3ExactHalf(client, signed, bucket, encryption.headers() if encryption else {}),
        # It waits for an answer from the beginning of the request on.
        sender=lambda: driver(timeout_s + PART / SLOWEST),
        sending=bandwidth("up", upload_mib_s) if upload_mib_s else None,
        receiving=bandwidth("down", download_mib_s) if download_mib_s else None,
    )


class S3ExactHalf:
    """Files of a bucket with all that is kept with them, by requests of our own; and odd keys, in listings through boto3.

    `client` makes the boto3 client when the first odd key comes; `with_puts` are headers of every upload.
    """

    def __init__(
        self, client: Callable[[], Any], signed: SignedClient, bucket: str, with_puts: Mapping[str, str]
    ) -> None:
        self._make_client, self._signed, self._bucket, self._with_puts = client, signed, bucket, with_puts

    @cached_property
    def _client(self) -> Any:
        return self._make_client()

    def is_odd(self, key: str) -> bool:
        return ODD_KEY.search(key) is not None

    def streams(self, key: str) -> bool:
        return True

    def puts(self, key: str, attributes: Mapping[str, str], size: int | None) -> bool:
        return self.is_odd(key) or not fit_for_obstore(attributes) or part_size(size) > PART

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

    def page(self, prefix: str, after: str) -> Page:
        return list_page(self._signed, prefix, after)

    def head(self, key: str) -> ObjectInfo:
        with self._translated("head", key):
            found = self._client.head_object(Bucket=self._bucket, Key=key)
        modified = found["LastModified"].astimezone(UTC)
        return ObjectInfo(key, found["ContentLength"], found["ETag"], modified, found.get("VersionId"))

    def stream(
        self, key: str, version: str | None, if_match: str | None
    ) -> tuple[Mapping[str, str], Iterator[memoryview]]:
        return self._signed.stream(key, version=version, if_match=if_match)

    def put_stream(self, key: str, pieces: Iterable[bytes], attributes: Mapping[str, str], size: int | None) -> None:
        put(self._signed, key, pieces, {**headers_of(attributes), **self._with_puts}, size)

    def delete(self, key: str) -> None:
        with self._translated("delete", key):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def sync(self, key: str) -> None:
        """Nothing: a server answers when it has it."""

    def _translated(self, verb: str, key: str) -> AbstractContextManager[None]:
        return translated(f"{verb} an object", url_of(self._bucket, key))
