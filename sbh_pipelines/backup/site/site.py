"""What every verb works with: settings, clock, keys, and the stores and repositories they lead to."""

import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta

from sbh_pipelines.backup.site.audit_trails import Trails
from sbh_pipelines.backup.site.owners import Owners, is_bound
from sbh_pipelines.backup.site.store_binding import StoreBinding
from sbh_pipelines.model import Clock, HousedTenant, Tenant, TenantId
from sbh_pipelines.placement import Place, audit_place, backup_place, catalog_place, files_place
from sbh_pipelines.repository.bounds import all_below
from sbh_pipelines.repository.catalog.catalog import Catalog, open_catalog
from sbh_pipelines.repository.catalog.erased import is_erased, refuse_erased
from sbh_pipelines.repository.catalog.records import TenantRecord
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.repository.keys.epoch_marks import EpochMarks
from sbh_pipelines.repository.open_repository import open_repository
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.security.keys import KeyProvider, open_key_provider
from sbh_pipelines.settings import Settings, StorageSettings
from sbh_pipelines.settings.locality import require_tls
from sbh_pipelines.stores.base import FileStore
from sbh_pipelines.stores.object_store import Store
from sbh_pipelines.stores.open_store import open_object_lock, open_purger, open_store, open_versions, storage_of
from sbh_pipelines.stores.purge import Purger
from sbh_pipelines.stores.s3_client import BucketVersions

StoreOpener = Callable[[StorageSettings, Place], Store]


class Site:
    """Opens stores and repositories by tenant; stores are shared. Thread-safe."""

    def __init__(self, settings: Settings, clock: Clock, *, opener: StoreOpener = open_store) -> None:
        """`opener` opens a store at the first use of its place."""
        self.settings, self.clock = settings, clock
        self._opener = opener
        self._lock = threading.Lock()
        self._stores: dict[tuple[str, str, bool], Store] = {}
        self._binding = StoreBinding(settings, self.raw_store)
        self._catalogs: dict[str, Catalog] = {}
        self._keys: KeyProvider | None = None
        self.trails = Trails(self)
        self.owners = Owners(self)

    @property
    def keys(self) -> KeyProvider:
        if self._keys is None:
            allow_http = self.settings.storage.allow_http
            require_tls(self.settings.keys.kms_endpoint_url, "keys.kms_endpoint_url", allow_http=allow_http)
            self._keys = open_key_provider(self.settings)
        return self._keys

    def raw_store(self, place: Place) -> Store:
        """The store of a place that is not asked where it is: for `StoreBinding`, and for erasing what lies where it may not."""
        name = (place.bucket, place.region, place.application)
        with self._lock:
            known = self._stores.get(name)
            if known is None:
                known = self._stores[name] = self._opener(storage_of(self.settings, place), place)
        return known

    def backup_store(self, tenant: Tenant) -> tuple[FileStore, str]:
        """(store, prefix) of the tenant's repository. Raises ResidencyError, also when it is written to."""
        housed = self.owners.housed(tenant)
        place = backup_place(self.settings, housed)
        return self._binding.bind(place, housed), place.prefix

    def backup_place(self, tenant: Tenant) -> Place:
        """Where the tenant's repository is. Raises ResidencyError."""
        return backup_place(self.settings, self.owners.housed(tenant))

    def files_store(self, tenant: Tenant) -> tuple[FileStore, str]:
        """(store, prefix) of the tenant's own files."""
        place = files_place(self.settings, tenant)
        return self._binding.bind(place, tenant), place.prefix

    def check_place(self, tenant: Tenant) -> None:
        """What a write of the tenant's backup checks first. Raises ResidencyError, and the store's errors."""
        housed = self.owners.housed(tenant)
        self._binding.check(backup_place(self.settings, housed), housed)

    def file_versions(self, tenant: Tenant) -> BucketVersions | None:
        """Looks up old versions of the tenant's files; None where the store can have none."""
        return open_versions(self.settings.storage, files_place(self.settings, tenant))

    def repository(self, tenant: Tenant, *, create: bool = False, bind: bool = False) -> Repository:
        """The tenant's repository; its index is not read yet. Raises UnknownBackup unless `create`, SlugTaken for another's.

        `bind`: have it say whose it is, as `create` does, so that what is another's in it is known.
        """
        while True:
            home = self.owners.home_of(tenant)
            repository = self.opened(tenant, home, create=create)
            try:
                if self.owners.admits(repository, tenant, home, bind=create or bind):
                    return repository
            except BaseException:
                repository.close()
                raise
            repository.close()  # it was put aside a moment ago: the tenant has another one

    def opened(self, tenant: Tenant, home: str, *, create: bool = False) -> Repository:
        """The repository of this name, whosever it is: for what decides that."""
        housed = HousedTenant(tenant.id, tenant.key, tenant.region, tenant.tier, home)
        store, prefix = self.backup_store(housed)
        return open_repository(
            store,
            prefix,
            tenant.id,
            tenant.region,
            self.keys,
            create=create,
            compression_level=self.settings.backup.compression_level,
            admit=lambda: self.admit(housed),
            belongs_to=lambda: self.owners.document(tenant, home),
            marks=self.epoch_marks(tenant.region),
            home=home,
        )

    def admit(self, tenant: Tenant) -> None:
        """Asked where a repository is about to begin, or has no key. Raises TenantErased."""
        if is_bound(tenant):
            refuse_erased(self.catalog(tenant.region), self.owners.home_of(tenant), lambda: self._keys_left(tenant))

    def is_erased(self, tenant: Tenant) -> bool:
        """Whether the tenant was erased, or is being erased."""
        home = self.owners.home_of(tenant)
        return is_erased(self.catalog(tenant.region), home, lambda: self._keys_left(tenant))

    def _keys_left(self, tenant: Tenant) -> bool:
        store, prefix = self.backup_store(tenant)
        return next(all_below(store, prefix + Keys.KEYS), None) is not None

    def purger(self, place: Place) -> Purger:
        """Deletes for good what lies in a place's bucket, in all versions."""
        return open_purger(self.settings.storage, place, self.raw_store(place))

    def catalog(self, region: str) -> Catalog:
        """The catalog of a region; no I/O until it is used, and its key is unwrapped once. Raises ResidencyError."""
        place = catalog_place(self.settings, region)
        store = self._binding.bind(place)
        with self._lock:
            if region not in self._catalogs:
                self._catalogs[region] = open_catalog(store, place.prefix, region, self.keys, self.clock)
            return self._catalogs[region]

    def epoch_marks(self, region: str) -> EpochMarks:
        """Which key epochs the repositories of a region have begun and ended; no I/O until it is asked."""
        return EpochMarks(self.catalog(region), self.clock)

    def records(self, region: str, tenants: Iterable[Tenant]) -> dict[TenantId, TenantRecord]:
        """What the catalog of a region says of these tenants, by slug, and not of others who had the slug before."""
        homes = {tenant: TenantId(self.owners.home_of(tenant)) for tenant in tenants}
        known = self.catalog(region).read(list(homes.values()))
        found = {tenant: known[home] for tenant, home in homes.items() if home in known}
        return {tenant.id: record for tenant, record in found.items() if record.may_be_of(tenant.key)}

    def track(
        self, tenant: Tenant, event: str, user_id: str, props: Mapping[str, object], source: str = "backup"
    ) -> None:
        """Add an event to the tenant's audit trail (of `platform_tenant(settings)`: the platform's); durable when it returns.

        Raises the store's and the key provider's errors; nothing was recorded then.
        """
        self.trails.record(tenant, event, user_id, props, source)

    def audit_store(self, region: str) -> tuple[FileStore, str]:
        """(store, prefix) of the platform's audit trail in a region. Raises ResidencyError."""
        place = audit_place(self.settings, region)
        return self._binding.bind(place), place.prefix

    def locked_creates(self, tenant: Tenant | None, region: str) -> Callable[[str, bytes], object] | None:
        """What puts audit events of a tenant, or of the platform, under object lock; None where that is not wanted."""
        audit = self.settings.audit
        place = audit_place(self.settings, region) if tenant is None else self.backup_place(tenant)
        bucket = open_object_lock(self.settings.storage, audit, place)
        if bucket is None or audit.object_lock_days is None:
            return None
        days = timedelta(days=audit.object_lock_days)

        def create(key: str, body: bytes) -> None:
            self._binding.check(place, tenant)
            bucket.create(key, body, self.clock() + days)

        return create

    def request_counts(self) -> dict[str, int]:
        """Calls made to all stores so far, by verb."""
        total: dict[str, int] = {}
        for store in self._stores.values():
            for verb, count in store.requests.items():
                total[verb] = total.get(verb, 0) + count
        return total
