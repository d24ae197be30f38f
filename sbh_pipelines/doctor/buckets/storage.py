"""The buckets: reachable, in the region they stand for, protected; and, if asked, writable."""

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sbh_pipelines.doctor.buckets import protection, residency
from sbh_pipelines.doctor.findings import Report
from sbh_pipelines.doctor.machine import check_clock
from sbh_pipelines.errors import ObjectChanged, ObjectExists, SbhError, StoreError
from sbh_pipelines.placement import Place
from sbh_pipelines.settings import Settings, StorageSettings
from sbh_pipelines.stores.object_store import Store
from sbh_pipelines.stores.open_store import endpoint, is_aws, open_control, open_store, storage_of
from sbh_pipelines.stores.s3_control import S3Control
from sbh_pipelines.stores.s3_errors import in_shell
from sbh_pipelines.stores.signed.headers import ARCHIVES

AREA = "storage"
TEST_PREFIX = "_doctor/"  # a tenant's slug begins with a letter or digit, so this is no tenant's
_TENANTS_LOOKED_AT = 5  # at up to a thousand files of each
_BUCKETS_LOOKED_AT = 50  # where every tenant has a bucket of its own


@dataclass(frozen=True, slots=True, order=True)
class _Bucket:
    name: str
    region: str
    use: str
    prefixes: tuple[str, ...]  # of what this system writes there

    @property
    def place(self) -> Place:
        return Place(self.name, "", self.region, application=not self.prefixes)


def check(report: Report, settings: Settings, slugs: list[str], *, write: bool) -> None:
    with report.trying(AREA):
        if settings.storage.kind == "local":
            _directory(report, settings.storage, write=write)
            return
        residency.check_rules(report, settings)
        told: set[str] = set()
        for bucket in _buckets(settings, slugs):
            with report.trying(AREA):
                storage = storage_of(settings, bucket.place)
                control = open_control(storage, bucket.region)
                time = control.check_bucket(bucket.name)
                report.ok(AREA, f"The bucket {bucket.name} answers", f"{bucket.use}, {bucket.region}")
                server = endpoint(storage, bucket.region) or f"S3 in {bucket.region}"
                if server not in told:
                    told.add(server)
                    check_clock(report, f"the object store ({server})", time.offset_s, time.error_s)
                residency.check_bucket(report, settings, control, bucket.place)
                strict = is_aws(storage, bucket.region)
                files = settings.files.prefix if "files" in bucket.use else ""
                protection.check(
                    report, settings, control, bucket.name, list(bucket.prefixes), files=files, strict=strict
                )
                store = _store(settings, bucket)
                next(store.list(TEST_PREFIX), None)
                if files:
                    _files(report, control, settings, bucket, slugs)
                if write:
                    _write(report, store, bucket.name)


def _buckets(settings: Settings, slugs: list[str]) -> list[_Bucket]:
    storage = settings.storage
    catalog = storage.catalog_bucket or storage.bucket
    wanted = [
        ("backups", storage.bucket, storage.prefix, storage.regions),
        ("catalog", catalog, storage.catalog_prefix, storage.regions),
        ("platform", catalog, settings.platform.prefix, [settings.platform.region or storage.regions[0]]),
    ]
    if settings.journal.enabled:
        wanted.append(("journal", catalog, settings.journal.prefix, storage.regions))
    if settings.files.enabled:
        wanted.append(("files", settings.files.bucket, "", storage.regions))
    found: dict[tuple[str, str], tuple[set[str], set[str]]] = {}
    for use, template, prefix, regions in wanted:
        for region in regions:
            for slug in slugs if "{tenant}" in template else [""]:
                name = template.replace("{region}", region).replace("{tenant}", slug)
                uses, prefixes = found.setdefault((name, region), (set(), set()))
                uses.add(use)
                prefixes |= {prefix.replace("{region}", region)} - {""}
    buckets = [
        _Bucket(name, region, _and(sorted(uses)), tuple(sorted(prefixes)))
        for (name, region), (uses, prefixes) in found.items()
    ]
    return sorted(buckets)[:_BUCKETS_LOOKED_AT]


def _and(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _store(settings: Settings, bucket: _Bucket) -> Store:
    storage = storage_of(settings, bucket.place)
    hasty = {"timeout_s": min(storage.timeout_s, 15), "retries": min(storage.retries, 1)}
    return open_store(storage.model_copy(update=hasty), bucket.place)


def _files(report: Report, control: S3Control, settings: Settings, bucket: _Bucket, slugs: list[str]) -> None:
    """What of the files of some tenants will not be backed up."""
    seen: list[tuple[str, str]] = []
    for slug in slugs[:_TENANTS_LOOKED_AT]:
        prefix = settings.files.prefix.replace("{tenant}", slug).replace("{region}", bucket.region)
        skipped = tuple(prefix + excluded for excluded in settings.files.exclude)
        seen += [found for found in control.first_objects(bucket.name, prefix) if not found[0].startswith(skipped)]
    if archived := [found for found in seen if found[1] in ARCHIVES]:
        key, storage_class = archived[0]
        report.fail(
            AREA,
            f"Files in the bucket {bucket.name} are archived, and cannot be read",
            f"{len(archived)} of the {len(seen)} looked at, e.g. {ascii(key)[1:-1]} ({storage_class}): their tenants' backups fail",
            f"aws s3api restore-object --bucket {bucket.name} --key {in_shell(key)} --restore-request Days=7, or exclude their"
            " folder: under [files] exclude",
        )
    # To a role that may not read tags, S3 does not say that there are any.
    if seen and not control.reads_tags(bucket.name, seen[0][0]):
        report.warn(
            AREA,
            f"The tags of files in the bucket {bucket.name} are not backed up",
            "the role may not read them, and S3 then keeps quiet about them",
            "grant s3:GetObjectTagging and s3:GetObjectVersionTagging, and s3:PutObjectTagging to the role that restores"
            f" (deploy/policies), on arn:aws:s3:::{bucket.name}/*",
        )


def _write(report: Report, store: Store, name: str) -> None:
    """What a backup does to a bucket: put, read back, two conditional writes, delete."""
    key, body = f"{TEST_PREFIX}{secrets.token_hex(8)}", secrets.token_bytes(64)
    try:
        etag = store.create(key, body)
        if store.get(key, len(body)) != body:
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
            _write(report, open_store(storage, Place(name, "", region)), name)
