"""A small application whose backups are in SeaweedFS, and a copy of them in a bucket of its own there."""

import base64
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from sbh_pipelines.backup.copies.copier.tenant_copy import copy_tenant
from sbh_pipelines.backup.copies.copier.transfer import Limiter, Transfers
from sbh_pipelines.backup.copies.place import CopyPlace, open_copy
from sbh_pipelines.backup.copies.retention import CopyKept, enforce
from sbh_pipelines.backup.copies.wrapping import bring_catalog_key, bring_keys
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.embedded.servers import object_server
from sbh_pipelines.embedded.servers.layout import Layout
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.model import BackupId, Clock, Tenant, no_progress, utc_now
from sbh_pipelines.placement import Place
from sbh_pipelines.repository.documents import list_manifest_ids
from sbh_pipelines.settings import CopySettings, Settings, StorageSettings
from sbh_pipelines.settings.places.copies import check_copies
from sbh_pipelines.stores.base import FileStore
from sbh_pipelines.stores.object_store import Store
from sbh_pipelines.stores.open_store import open_store
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.buckets import fresh_bucket

REGION, THERE = "eu-west-1", "eu-central-1"
COPY = "dr"
DAY = timedelta(days=1)


@dataclass
class Copied:
    """Both ends have buckets of this test's own, and a key file each; the buckets go with the application's database.

    Attributes:
        application: Its rows are backed up, its files are not.
        stack: Whose S3 server has both buckets.
        clock: Of services, sites and places that are given no other.
        keys: Fields of the settings for keys at the source.
        copy: Fields of the copy's settings.
        sections: More settings, of every service and site.
        locks: Whether the copy's bucket can lock objects; it can where `copy` has `lock_days`.
        beside: More regions, whose source lies in the same bucket; each has a bucket of its own at the copy.
        mark: In the buckets' names.
    """

    application: Application
    stack: Stack
    clock: Clock = utc_now
    keys: Mapping[str, Any] = field(default_factory=dict)
    copy: Mapping[str, Any] = field(default_factory=dict)
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    locks: bool = False
    beside: Sequence[str] = ()
    mark: str = field(default_factory=lambda: os.urandom(5).hex())

    def __post_init__(self) -> None:
        self.client = self.stack.s3_client()
        self.key_file, self.copy_key_file = self.new_key_file("source"), self.new_key_file("copy")
        there = [
            (self.bucket_there(region), self.locks or "lock_days" in self.copy) for region in (REGION, *self.beside)
        ]
        for name, locks in ((self.bucket, False), *there):
            made = fresh_bucket(self.stack, name, versions=True, locks=locks)
            self.application.database.beside.enter_context(made)

    @property
    def tenant(self) -> Tenant:
        return self.application.tenant()

    @property
    def bucket(self) -> str:
        return f"source-{self.mark}"

    @property
    def copy_bucket(self) -> str:
        return self.bucket_there(REGION)

    def bucket_there(self, region: str) -> str:
        return f"copy-{self.mark}-{region}"

    def new_key_file(self, name: str) -> Path:
        path = self.application.directory / f"{name}-{self.mark}.key"
        path.write_bytes(base64.b64encode(os.urandom(32)))
        return path

    def settings(self, *, copies: bool = True, **sections: Mapping[str, Any]) -> Settings:
        copy = {
            "name": COPY,
            "to": THERE,
            "bucket": f"copy-{self.mark}-{{region}}",
            "key_file": None if self.keys.get("provider") == "aws-kms" else self.copy_key_file,
            **self.copy,
        }
        storage = {
            "kind": "s3",
            "path": None,
            "bucket": self.bucket,
            "prefix": "files/{tenant}/backups/",
            "regions": [REGION, *self.beside],
            "endpoint_url": self.stack.s3_endpoint,
            "access_key_id": object_server.ACCESS_KEY,
            "secret_access_key": object_server.secret_file(Layout(self.stack.dir)).read_text().strip(),
        }
        made = self.application.configured(
            **{
                "storage": storage,
                "keys": {"key_file": self.key_file, **self.keys},
                "files": {"enabled": False},
                **self.sections,
                **sections,
            }
        )
        configured = made.model_copy(update={"copies": [CopySettings(**copy)] if copies else []})
        check_copies(configured)
        return configured

    def service(self, clock: Clock | None = None, **sections: Any) -> BackupService:
        return BackupService(self.settings(**sections), clock=clock or self.clock)

    def site(self, clock: Clock | None = None, wrap: Callable[[Store, Any], Any] | None = None) -> Site:
        if wrap is None:
            return Site(self.settings(), clock or self.clock)
        return Site(
            self.settings(),
            clock or self.clock,
            opener=lambda storage, place: wrap(open_store(storage, place), place),
        )

    def silent(self, clock: Clock | None = None) -> Site:
        """The site while nothing answers where the copy is."""

        def opened(storage: StorageSettings, place: Place) -> Store:
            nowhere = storage.model_copy(update={"endpoint_url": "http://127.0.0.1:9"})
            return open_store(nowhere if place.bucket == self.copy_bucket else storage, place)

        return Site(self.settings(), clock or self.clock, opener=opened)

    def place(self, clock: Clock | None = None, wrap: Callable[[Store, Any], Any] | None = None) -> CopyPlace:
        return open_copy(self.site(clock, wrap), COPY)

    def objects(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        keys = self.etags(bucket, prefix)
        return {key: self.client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    def etags(self, bucket: str, prefix: str = "") -> dict[str, str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {entry["Key"]: entry["ETag"] for page in pages for entry in page.get("Contents", ())}

    def versions(self, bucket: str, prefix: str = "") -> list[str]:
        page = self.client.list_object_versions(Bucket=bucket, Prefix=prefix)
        return [version["Key"] for version in page.get("Versions", ())]

    def transfer(self, prefix: str = "", *, again: bool = False) -> None:
        """What a copier does besides the keys: everything else byte for byte, unless it is there. `again`: that too."""
        there = {} if again else self.etags(self.copy_bucket, prefix)
        for key, _ in sorted(self.etags(self.bucket, prefix).items() - there.items()):
            if "/keys/" not in key and not key.endswith(("lease.json", "-ended.json")):
                self.client.copy_object(
                    Bucket=self.copy_bucket, Key=key, CopySource={"Bucket": self.bucket, "Key": key}
                )

    def back_up(self, kind: str = "full") -> str:
        made: str = self.service().create_backup(ACME, ADMIN, backup_type=kind)["id"]
        return made

    def change(self, seed: int) -> None:
        """A third of the tenant's projects."""
        self.application.database.run(
            f"UPDATE projects SET body = repeat(md5((id * {seed + 7})::text), 40) WHERE tenant_id = 1 AND id % 3 = {seed % 3}"
        )

    def bring(self) -> None:
        """Bring over what is not there: what belongs to the region, then the tenant by the copier."""
        place = self.place()
        bring_catalog_key(place, REGION)
        self.transfer(f"_sbh-catalog/{REGION}/records/")
        copy_tenant(place, place.source.owners.housed(self.tenant), Transfers(place, no_progress, Limiter(None)))

    def bring_both(self) -> None:
        """Bring over both tenants without the copier: the keys, and all else."""
        place = self.place()
        bring_catalog_key(place, REGION)
        for name in (ACME, BOLT):
            bring_keys(place, self.application.tenant(name))
        self.transfer()

    def ends(self) -> tuple[FileStore, FileStore, str]:
        """The tenant's repository here and there, and its prefix, which is the same."""
        place = self.place()
        here, prefix = place.source.backup_store(self.tenant)
        there, _ = place.target.backup_store(self.tenant)
        return here, there, prefix

    def there(self) -> list[str]:
        """The backups at the copy."""
        _, store, prefix = self.ends()
        return [str(backup_id) for backup_id in list_manifest_ids(store, prefix)]

    def stored(self) -> int:
        """Bytes of packs at the copy."""
        _, store, prefix = self.ends()
        return sum(info.size for info in store.list(f"{prefix}packs/"))

    def check(self, backup_id: str) -> None:
        """The backup is whole at the copy, to the last byte, by a reader that has only that."""
        alone = BackupService(self.place().target.settings, clock=self.clock)
        found = alone.validate_backup(backup_id, ACME, ADMIN, deep=True)["issues"]
        assert found == []

    def enforce(self, verified: str | None = "newest", place: CopyPlace | None = None) -> CopyKept:
        """Let the copy's policy act where this backup was the last one verified."""
        if verified == "newest":
            verified = max(self.there(), default=None)
        return enforce(place or self.place(), self.tenant, self.clock(), BackupId(verified) if verified else None)
