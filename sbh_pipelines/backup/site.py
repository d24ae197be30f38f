"""What every verb works with: settings, clock, keys, and the stores and repositories they lead to."""

import threading
from collections.abc import Mapping
from typing import Any

from sbh_pipelines.errors import SettingsError
from sbh_pipelines.model import Clock, Tenant
from sbh_pipelines.repository.catalog import Catalog, open_catalog
from sbh_pipelines.repository.repository import Repository, open_repository
from sbh_pipelines.residency import Place, backup_place, catalog_place, files_place
from sbh_pipelines.security.keys import KeyProvider, open_key_provider
from sbh_pipelines.security.secrets import resolve
from sbh_pipelines.settings import Settings
from sbh_pipelines.stores.object_store import Store, open_local, open_s3
from sbh_pipelines.stores.versions import BucketVersions


class Site:
    """Opens stores and repositories by tenant; stores are shared. Thread-safe."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings, self.clock = settings, clock
        self._lock = threading.Lock()
        self._stores: dict[tuple[str, str], Store] = {}
        self._catalogs: dict[str, Catalog] = {}
        self._secret: str | None = None
        self._keys: KeyProvider | None = None

    @property
    def keys(self) -> KeyProvider:
        if self._keys is None:
            self._keys = open_key_provider(self.settings, self._aws_access())
        return self._keys

    def _aws_access(self) -> Mapping[str, str]:
        storage = self.settings.storage
        if not storage.access_key_id:
            return {}
        return {
            "aws_access_key_id": storage.access_key_id,
            "aws_secret_access_key": resolve(storage, "secret_access_key") or "",
        }

    def _store(self, place: Place) -> Store:
        with self._lock:
            known = self._stores.get((place.bucket, place.region))
            if known is None:
                known = self._stores[place.bucket, place.region] = self._open(place)
        return known

    def _open(self, place: Place) -> Store:
        storage = self.settings.storage
        if storage.kind == "local":
            if storage.path is None:
                raise SettingsError("storage.path is missing")
            return open_local(storage.path / place.bucket)
        return open_s3(
            place.bucket,
            place.region,
            endpoint_url=self._endpoint(place.region),
            access_key_id=storage.access_key_id,
            secret_access_key=resolve(storage, "secret_access_key", place.region),
            timeout_s=storage.timeout_s,
            retries=storage.retries,
        )

    def _endpoint(self, region: str) -> str | None:
        template = self.settings.storage.endpoint_url
        return template.replace("{region}", region) if template else None

    def backup_store(self, tenant: Tenant) -> tuple[Store, str]:
        """(store, prefix) of the tenant's repository. Raises ResidencyError."""
        place = backup_place(self.settings, tenant)
        return self._store(place), place.prefix

    def files_store(self, tenant: Tenant) -> tuple[Store, str]:
        """(store, prefix) of the tenant's own files."""
        place = files_place(self.settings, tenant)
        return self._store(place), place.prefix

    def file_versions(self, tenant: Tenant) -> BucketVersions | None:
        """Looks up old versions of the tenant's files, where the store can have any."""
        if self.settings.storage.kind != "s3":
            return None
        import boto3  # a slow import that only a file changing under a backup needs

        place = files_place(self.settings, tenant)
        access: dict[str, Any] = dict(self._aws_access())
        client = boto3.client("s3", region_name=place.region, endpoint_url=self._endpoint(place.region), **access)
        return BucketVersions(client, place.bucket)

    def repository(self, tenant: Tenant, *, create: bool = False) -> Repository:
        """The tenant's repository; its index is not read yet. Raises UnknownBackup unless `create`."""
        store, prefix = self.backup_store(tenant)
        return open_repository(
            store,
            prefix,
            tenant.id,
            tenant.region,
            self.keys,
            create=create,
            compression_level=self.settings.backup.compression_level,
        )

    def catalog(self, region: str) -> Catalog:
        """The catalog of a region; no I/O until it is used, and its key is unwrapped once. Raises ResidencyError."""
        place = catalog_place(self.settings, region)
        store = self._store(place)
        with self._lock:
            if region not in self._catalogs:
                self._catalogs[region] = open_catalog(store, place.prefix, region, self.keys, self.clock)
            return self._catalogs[region]

    def track(self, tenant: Tenant, event: str, user_id: str, props: Mapping[str, Any], source: str = "backup") -> None:
        """Add an event to the tenant's audit trail; durable when it returns."""

    def request_counts(self) -> dict[str, int]:
        """Calls made to all stores so far, by verb."""
        total: dict[str, int] = {}
        for store in self._stores.values():
            for verb, count in store.requests.items():
                total[verb] = total.get(verb, 0) + count
        return total
