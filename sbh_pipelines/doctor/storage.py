"""The buckets: reachable, in the region they stand for, versioned, locked, encrypted; and, if asked, writable."""

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sbh_pipelines.doctor import clocks
from sbh_pipelines.doctor.findings import Level, Report
from sbh_pipelines.errors import ObjectChanged, ObjectExists, SbhError, StoreDenied, StoreError
from sbh_pipelines.security.secrets import resolve
from sbh_pipelines.settings import Settings, StorageSettings
from sbh_pipelines.stores.object_store import Store, open_local, open_s3
from sbh_pipelines.stores.s3_control import S3Control

AREA = "storage"
TEST_PREFIX = "_doctor/"  # a tenant's slug begins with a letter or digit, so this is nobody's
_BUCKETS_LOOKED_AT = 50  # where every tenant has a bucket of its own


@dataclass(frozen=True, slots=True, order=True)
class _Bucket:
    name: str
    region: str
    use: str


def check(report: Report, settings: Settings, slugs: list[str], *, write: bool) -> None:
    with report.trying(AREA):
        if settings.storage.kind == "local":
            _directory(report, settings.storage, write=write)
            return
        secret = resolve(settings.storage, "secret_access_key")
        told: set[str] = set()
        for bucket in _buckets(settings, slugs):
            with report.trying(AREA):
                control = _control(settings.storage, bucket.region, secret)
                time = control.check_bucket(bucket.name)
                report.ok(AREA, f"The bucket {bucket.name} answers", f"{bucket.use}, {bucket.region}")
                server = _endpoint(settings.storage, bucket.region) or f"S3 in {bucket.region}"
                if server not in told:
                    told.add(server)
                    clocks.check(report, f"the object store ({server})", time.offset_s, time.error_s)
                _region(report, settings.storage, control, bucket)
                _protection(report, control, bucket)
                store = _store(settings.storage, bucket, secret)
                next(store.list(TEST_PREFIX), None)
                if write:
                    _write(report, store, bucket.name)


def _buckets(settings: Settings, slugs: list[str]) -> list[_Bucket]:
    found: dict[tuple[str, str], set[str]] = {}
    for use, template, on in (
        ("backups", settings.storage.bucket, True),
        ("files", settings.files.bucket, settings.files.enabled),
    ):
        if on:
            for region in settings.storage.regions:
                for slug in slugs if "{tenant}" in template else [""]:
                    name = template.replace("{region}", region).replace("{tenant}", slug)
                    found.setdefault((name, region), set()).add(use)
    all_of_them = sorted(_Bucket(name, region, " and ".join(sorted(uses))) for (name, region), uses in found.items())
    return all_of_them[:_BUCKETS_LOOKED_AT]


def _endpoint(storage: StorageSettings, region: str) -> str | None:
    return storage.endpoint_url.replace("{region}", region) if storage.endpoint_url else None


def _control(storage: StorageSettings, region: str, secret: str | None) -> S3Control:
    return S3Control(
        region,
        endpoint_url=_endpoint(storage, region),
        access_key_id=storage.access_key_id,
        secret_access_key=secret,
        timeout_s=min(storage.timeout_s, 15),
    )


def _store(storage: StorageSettings, bucket: _Bucket, secret: str | None) -> Store:
    return open_s3(
        bucket.name,
        bucket.region,
        endpoint_url=_endpoint(storage, bucket.region),
        access_key_id=storage.access_key_id,
        secret_access_key=secret,
        timeout_s=min(storage.timeout_s, 15),
        retries=min(storage.retries, 1),
    )


def _region(report: Report, storage: StorageSettings, control: S3Control, bucket: _Bucket) -> None:
    with report.trying(AREA, level=Level.WARNING):
        found = control.location(bucket.name)
        endpoint = _endpoint(storage, bucket.region)
        if found == bucket.region:
            report.ok(AREA, f"The bucket {bucket.name} is in its region", found)
        elif endpoint is None:
            report.fail(
                AREA,
                f"The bucket {bucket.name} is in another region",
                f"it stands for {bucket.region} and is in {found}",
                f"make the bucket in {bucket.region}, or correct storage.bucket and files.bucket",
            )
        elif urlsplit(endpoint).hostname in ("127.0.0.1", "localhost", "::1"):
            report.ok(AREA, f"The bucket {bucket.name} is on this machine", f"{endpoint}, which knows no regions")
        else:
            report.warn(
                AREA,
                f"Nothing proves in which region the bucket {bucket.name} is",
                f"{endpoint} says {found or 'nothing'}, the settings say {bucket.region}",
                "make sure by other means that this server is where the tenants' data may be",
            )


def _protection(report: Report, control: S3Control, bucket: _Bucket) -> None:
    facts = []
    with report.trying(AREA, level=Level.WARNING):
        if control.versioned(bucket.name):
            facts.append("versioned")
        else:
            report.warn(
                AREA,
                f"The bucket {bucket.name} keeps no versions",
                "what is overwritten or deleted there is gone, and files that change during a backup are read by ETag",
                f"aws s3api put-bucket-versioning --bucket {bucket.name} --versioning-configuration Status=Enabled",
            )
    for name, question in (("object lock", control.object_lock), ("encrypted by the server", control.encryption)):
        try:
            answer = question(bucket.name)
            facts.append(f"{name}: {answer}" if answer else f"no {name}" if name == "object lock" else f"not {name}")
        except StoreDenied:
            facts.append(f"{name}: not readable")
        except StoreError as error:
            facts.append(f"{name}: {error.why or 'unknown'}")
    report.ok(AREA, f"The bucket {bucket.name} is set up", ", ".join(facts))


def _write(report: Report, store: Store, name: str) -> None:
    """What a backup does to a bucket: put, read back, two conditional writes, delete."""
    key, body = f"{TEST_PREFIX}{secrets.token_hex(8)}", secrets.token_bytes(64)
    try:
        etag = store.create(key, body)
        if store.get(key) != body:
            raise StoreError("What was read is not what was written", on=store.url(key), remedy="do not use this store")
        _refused(
            lambda: store.create(key, b"x"),
            ObjectExists,
            "overwrites an object that a create-only put found",
            store.url(key),
        )
        store.replace(key, body + b"2", etag)
        _refused(lambda: store.replace(key, b"x", etag), ObjectChanged, "ignores If-Match on a put", store.url(key))
        report.ok(AREA, f"Objects can be written and read in {name}", "with create-only and conditional puts")
    finally:
        try:
            store.delete([key])
        except SbhError as error:
            report.warn(
                AREA,
                f"A test object cannot be deleted in {name}",
                f"{store.url(key)}: {error.why}",
                "backups work without; for `sbh` to remove expired ones grant s3:DeleteObject",
            )


def _refused(attempt: Callable[[], object], expected: type[SbhError], what: str, place: str) -> None:
    try:
        attempt()
    except expected:
        return
    raise StoreError(
        f"The store {what}",
        on=place,
        why="two writers could destroy each other's work",
        remedy="use a store with conditional writes",
    )


def _directory(report: Report, storage: StorageSettings, *, write: bool) -> None:
    path = storage.path or Path()
    if not path.is_dir():
        report.warn(AREA, "The directory for backups does not exist yet", str(path), f"mkdir -p {path}")
        return
    if not os.access(path, os.W_OK):
        report.fail(
            AREA,
            "The directory for backups cannot be written",
            str(path),
            f"chown it to this user, or chmod u+w {path}",
        )
        return
    report.ok(AREA, "The directory for backups can be written", str(path))
    if write:
        for region in storage.regions:
            name = storage.bucket.replace("{region}", region)
            _write(report, open_local(path / name), name)
