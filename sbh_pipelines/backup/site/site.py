"""What every verb works with: settings, clock, keys, and the stores and repositories they lead to."""

import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path

from sbh_pipelines.backup.site.audit_trails import Trails
from sbh_pipelines.backup.site.fence import Fence
from sbh_pipelines.backup.site.owners import KeySeen, Owners, is_bound
from sbh_pipelines.backup.site.store_binding import StoreBinding
from sbh_pipelines.errors import NotPrimary
from sbh_pipelines.model import Clock, HousedTenant, Tenant, TenantId
from sbh_pipelines.placement import Place, audit_place, backup_place, catalog_place, files_place, journal_place
from sbh_pipelines.repository.bounds import all_below
from sbh_pipelines.repository.catalog.catalog import Catalog, open_catalog
from sbh_pipelines.repository.catalog.erased import is_erased, refuse_erased
from sbh_pipelines.repository.catalog.records import TenantRecord
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.repository.journal.journal import Journal, open_journal
from sbh_pipelines.repository.keys.epoch_marks import EpochMarks
from sbh_pipelines.repository.open_repository import open_repository
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.security.keys import KeyProvider, open_key_provider
from sbh_pipelines.settings import CopySettings, Settings, StorageSettings
from sbh_pipelines.settings.places.copies import at_copy, copy_named, primary_copy
from sbh_pipelines.settings.places.locality import require_tls
from sbh_pipelines.stores.base import FileStore
from sbh_pipelines.stores.local import open_staged
from sbh_pipelines.stores.object_store import Store
from sbh_pipelines.stores.open_store import open_object_lock, open_purger, open_store, open_versions, storage_of
from sbh_pipelines.stores.purge import Purger
from sbh_pipelines.stores.versions import BucketVersions

StoreOpener = Callable[[StorageSettings, Place], Store]


class Site:
    """Opens stores and repositories by tenant; stores are shared. Thread-safe.

    Attributes:
        settings: of the site.
        clock: gives the time, UTC.
        copy_of: the copy whose backups these are; None where they are made here.
        fence: asked before writing begins whether backups are still made here.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        *,
        opener: StoreOpener = open_store,
        copy_of: CopySettings | None = None,
        scratch: bool = False,
    ) -> None:
        """`opener` opens a store at the first use of its place. `scratch`: what is written stays on this machine."""
        self.settings, self.clock, self.copy_of, self._scratch = settings, clock, copy_of, scratch
        self._opener = opener
        self._lock = threading.Lock()
        self._stores: dict[tuple[str, str, bool], Store] = {}
        self._binding = StoreBinding(settings, self.raw_store)
        self._catalogs: dict[str, Catalog] = {}
        self._journals: dict[str, Journal] = {}
        self._copies: dict[tuple[str, bool], Site] = {}
        self._keys: KeyProvider | None = None
        self.trails = Trails(self)
        self.fence = Fence(self)
        self.owners = Owners(self)

    def copy(self, name: str, *, every_region: bool = False) -> "Site":
        """The site whose backups are those of a copy: all that reads a repository reads the copy's there. `every_region`: also of
        regions that are not copied any more. Raises SettingsError.
        """
        with self._lock:
            if (name, every_region) not in self._copies:
                there, settings = copy_named(self.settings, name), at_copy(self.settings, name, every_region)
                self._copies[name, every_region] = Site(settings, self.clock, opener=self._opener, copy_of=there)
            return self._copies[name, every_region]

    def staged(self, directory: Path) -> "Site":
        """A site that reads what this one reads, and writes to a directory of this machine alone: for what lives as long as a call.

        What is written there is sealed as it is anywhere.
        """

        def opener(_: StorageSettings, place: Place) -> Store:
            kind = "files" if place.application else "backups"
            return open_staged(self.raw_store(place), directory / place.region / kind / place.bucket)

        return Site(self.settings, self.clock, opener=opener, copy_of=self.copy_of, scratch=True)

    @property
    def copy_name(self) -> str | None:
        """The name of the copy whose backups these are; None where they are made here."""
        return None if self.copy_of is None else self.copy_of.name

    @property
    def work_name(self) -> str | None:
        """Under which name of a copy a trail of work done here goes: of a copy, also of one that became the primary."""
        return self.copy_name or self.settings.primary

    def primary_only(self, what: str) -> None:
        """Raises NotPrimary at a copy: `what` is for the place where the backups are made."""
        if self.copy_name is not None:
            raise NotPrimary(
                f"{what} is only for the place where backups are made",
                on=f"the copy {self.copy_name}",
                why="what lies there is brought from there, and goes by a retention of its own",
                remedy="do it without `--from-copy`; from a copy one restores, exports, validates and drills",
            )

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

    def opened_with(self, storage: StorageSettings, place: Place) -> Store:
        """A store of its own, of other patience than the site's: for what is only asked."""
        return self._opener(storage, place)

    def backup_store(self, tenant: Tenant) -> tuple[FileStore, str]:
        """(store, prefix) of the tenant's repository. Raises ResidencyError, also when it is written to."""
        housed = self.owners.housed(tenant)
        place = backup_place(self.settings, housed)
        return self._binding.bind(place, housed), place.prefix

    def backup_place(self, tenant: Tenant) -> Place:
        """Where the tenant's repository is. Raises ResidencyError."""
        return backup_place(self.settings, self.owners.housed(tenant))

    def region_store(self, place: Place) -> FileStore:
        """The store of what belongs to a region and to no tenant: its catalog, its journal. A write raises ResidencyError."""
        return self._binding.bind(place)

    def files_store(self, tenant: Tenant) -> tuple[FileStore, str]:
        """(store, prefix) of the tenant's own files."""
        place = files_place(self.settings, tenant)
        return self._binding.bind(place, tenant), place.prefix

    def saw_key(self, tenant: Tenant) -> None:
        """The tenant's repository has a key where it is to be: nothing begins there, and nothing is looked for elsewhere."""
        self._binding.saw_key(tenant)

    def check_place(self, tenant: Tenant) -> None:
        """What a write of the tenant's backup checks first. Raises ResidencyError, and the store's errors."""
        housed = self.owners.housed(tenant)
        self._binding.check(backup_place(self.settings, housed), housed)

    def file_versions(self, tenant: Tenant) -> BucketVersions | None:
        """Looks up old versions of the tenant's files; None where the store can have none."""
        place = files_place(self.settings, tenant)
        return open_versions(storage_of(self.settings, place), place)

    def repository(
        self,
        tenant: Tenant,
        *,
        create: bool = False,
        bind: bool = False,
        seen: KeySeen | None = None,
        since: float | None = None,
    ) -> Repository:
        """The tenant's repository; its index is not read yet. Raises UnknownBackup unless `create`, SlugTaken for another's.

        `bind`: have it say whose it is, as `create` does, so that what is another's in it is known. `seen`: its first key
        object, if that was read while the lease was taken, which the caller holds. `since`: from when on it is held, by the
        monotonic clock.
        """
        while True:
            home = self.owners.home_of(tenant)
            repository = self.opened(tenant, home, create=create, seen=seen, since=since)
            try:
                if self.owners.admits(repository, tenant, home, bind=create or bind):
                    return repository
            except BaseException:
                repository.close()
                raise
            repository.close()  # it was put aside a moment ago: the tenant has another one

    def opened(
        self,
        tenant: Tenant,
        home: str,
        *,
        create: bool = False,
        seen: KeySeen | None = None,
        since: float | None = None,
    ) -> Repository:
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
            marks=self.epoch_marks(tenant.region, since),
            home=home,
            first=seen.found if seen is not None and seen.home == home else None,
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
        return open_purger(storage_of(self.settings, place), place, self.raw_store(place))

    def catalog(self, region: str) -> Catalog:
        """The catalog of a region; no I/O until it is used, and its key is unwrapped once. Raises ResidencyError."""
        place = catalog_place(self.settings, region)
        store = self._binding.bind(place)
        with self._lock:
            if region not in self._catalogs:
                self._catalogs[region] = open_catalog(
                    store, place.prefix, region, self.keys, self.clock, create=self.copy_of is None
                )
            return self._catalogs[region]

    def journal(self, region: str) -> Journal:
        """The change journal of a region; no I/O until it is used. Raises ResidencyError."""
        place, catalog = journal_place(self.settings, region), self.catalog(region)
        store = self._binding.bind(place)
        with self._lock:
            if region not in self._journals:
                self._journals[region] = open_journal(store, place.prefix, region, catalog, self.clock)
            return self._journals[region]

    def epoch_marks(self, region: str, since: float | None = None) -> EpochMarks:
        """Which key epochs the repositories of a region have begun and ended; no I/O until it is asked.

        `since`: from when on the lease of the repository is held, so that no mark of it comes, by the monotonic clock: then what
        the catalog listed after that tells.
        """
        catalog = self.catalog(region)
        return EpochMarks(catalog, self.clock, catalog.epoch_marks, since)

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

    @property
    def audit_lock_days(self) -> int | None:
        """For how long audit events are put under object lock here, days; None where they are not."""
        copy = self.copy_of or primary_copy(self.settings)
        if copy is not None and copy.lock_days is None:  # nothing says that its bucket can
            return None
        return self.settings.audit.object_lock_days

    def locked_creates(self, tenant: Tenant | None, region: str) -> Callable[[str, bytes], object] | None:
        """What puts audit events of a tenant, or of the platform, under object lock; None where that is not wanted."""
        audit = self.settings.audit
        place = audit_place(self.settings, region) if tenant is None else self.backup_place(tenant)
        bucket = open_object_lock(self.settings.storage, audit, place)
        if bucket is None or self.audit_lock_days is None or self._scratch:
            return None
        days = timedelta(days=self.audit_lock_days)

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
