"""The factory of stores: which kinds there are, and how the settings open each. A new kind gets a file and a branch here."""

import os
import ssl
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sbh_pipelines.errors import SettingsError
from sbh_pipelines.placement import Place
from sbh_pipelines.settings import Settings, StorageSettings
from sbh_pipelines.settings.audit import AuditSettings
from sbh_pipelines.settings.places.locality import require_tls
from sbh_pipelines.settings.secrets import resolve
from sbh_pipelines.stores.local import open_local
from sbh_pipelines.stores.object_lock import LockedBucket, LockMode
from sbh_pipelines.stores.object_store import Store
from sbh_pipelines.stores.purge import DirectoryPurge, Purger, VersionPurge
from sbh_pipelines.stores.s3 import Encryption, open_s3
from sbh_pipelines.stores.s3_client import connect
from sbh_pipelines.stores.s3_control import S3Control
from sbh_pipelines.stores.versions import BucketVersions

_AWS = (".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu")


def storage_of(settings: Settings, place: Place) -> StorageSettings:
    """The settings that count in a place: the application's bucket has an encryption of its own."""
    if not place.application:
        return settings.storage
    files = settings.files
    return settings.storage.of_files.model_copy(
        update={
            "sse": files.encryption,
            "sse_kms_key_id": files.encryption_kms_key_id,
            "sse_bucket_key": files.encryption_bucket_key,
        }
    )


def open_store(storage: StorageSettings, place: Place) -> Store:
    """The store of a place: a bucket, or the directory that stands for it. No request is made yet.

    `storage` is that of `storage_of`. Raises SettingsError.
    """
    if storage.kind == "local":
        if storage.path is None:
            raise SettingsError("storage.path is missing")
        return open_local(storage.path / place.bucket)
    return open_s3(
        place.bucket,
        storage.real_region(place.region),
        endpoint_url=endpoint(storage, place.region),
        access_key_id=storage.access_key_id,
        secret_access_key=_secret(storage, place.region),
        ca_file=ca_file(storage),
        timeout_s=storage.timeout_s,
        retries=storage.retries,
        encryption=Encryption.of(storage, place.region),
        upload_mib_s=storage.upload_mib_s,
        download_mib_s=storage.download_mib_s,
    )


def open_purger(storage: StorageSettings, place: Place, store: Store) -> Purger:
    """Deletes for good what lies in the place's bucket, in all versions."""
    if storage.kind == "local":
        return DirectoryPurge(store)
    return VersionPurge(_connector(storage, place), place.bucket, store)


def open_versions(storage: StorageSettings, place: Place) -> BucketVersions | None:
    """Looks up old versions of objects; None where the store can have none."""
    if storage.kind != "s3":
        return None
    return BucketVersions(_connector(storage, place)(), place.bucket)


def open_object_lock(storage: StorageSettings, audit: AuditSettings, place: Place) -> LockedBucket | None:
    """Puts objects under object lock; None where the settings do not want it or the store has none."""
    if audit.object_lock_days is None or storage.kind != "s3":
        return None
    return open_locked(storage, place, audit.object_lock_mode)


def open_locked(storage: StorageSettings, place: Place, mode: LockMode) -> LockedBucket:
    """Puts objects under object lock in the bucket of a place. No request is made yet."""
    encryption = Encryption.of(storage, place.region)
    more = encryption.call_arguments() if encryption else {}
    return LockedBucket(_connector(storage, place), place.bucket, mode, more)


def open_control(storage: StorageSettings, region: str) -> S3Control:
    """Control calls to the S3 server of a region."""
    return S3Control(
        storage.real_region(region),
        endpoint_url=endpoint(storage, region),
        access_key_id=storage.access_key_id,
        secret_access_key=_secret(storage, region),
        ca_file=ca_file(storage),
        timeout_s=min(storage.timeout_s, 15),
    )


def endpoint(storage: StorageSettings, region: str) -> str | None:
    """The address of the S3 server of a region; None: AWS's. Raises SettingsError where it may not be spoken to."""
    url = storage.endpoint_url.replace("{region}", region) if storage.endpoint_url else None
    require_tls(url, "storage.endpoint_url", allow_http=storage.allow_http)
    return url


def ca_file(storage: StorageSettings) -> Path | None:
    """The file with the certificates of a private CA; None where there is none. Raises SettingsError where it holds none."""
    named = storage.ca_file or os.environ.get("AWS_CA_BUNDLE")
    if not named:
        return None
    file, name = Path(named), "storage.ca_file" if storage.ca_file else "AWS_CA_BUNDLE"
    try:
        written = file.stat()
        _check_certificates(file, written.st_mtime_ns, written.st_size)
    except (OSError, ssl.SSLError) as error:  # the second is one of the first, too
        raise SettingsError(
            "There are no certificates in the file of the CA",
            on=f"{name} = {file}",
            why=str(error)[:300],
            remedy="it must hold certificates in PEM (-----BEGIN CERTIFICATE-----), and this user must be able to read it",
        ) from None
    return file


@lru_cache(maxsize=8)
def _check_certificates(file: Path, written_ns: int, size: int) -> None:
    """Raises OSError, SSLError. A bundle takes some 50 ms, and each store of a process asks for the same one."""
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)


def _secret(storage: StorageSettings, region: str) -> str | None:
    return resolve(storage, "secret_access_key", storage.real_region(region)) if storage.access_key_id else None


def is_aws(storage: StorageSettings, region: str) -> bool:
    """Whether the server is one of AWS's."""
    host = urlsplit(endpoint(storage, region) or "").hostname
    return storage.kind == "s3" and (host is None or host.endswith(_AWS))


def _connector(storage: StorageSettings, place: Place) -> Callable[[], Any]:
    """Makes the boto3 client of a place at its first use."""
    return lambda: connect(
        storage.real_region(place.region),
        endpoint_url=endpoint(storage, place.region),
        access_key_id=storage.access_key_id,
        secret_access_key=_secret(storage, place.region),
        ca_file=ca_file(storage),
        timeout_s=storage.timeout_s,
        retries=storage.retries,
    )
