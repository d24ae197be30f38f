"""Binds every store that can write to its place: who may lie there, where the bucket really is, no repository begun twice.

What is proved is remembered: the tenants' own rules cost nothing, a bucket's region one request an hour, and that a repository
does not begin anew in another region one `head` for each tenant and process.
"""

import threading
from collections.abc import Callable

from sbh_pipelines.errors import ObjectMissing, ResidencyError, StoreDenied
from sbh_pipelines.model import Tenant
from sbh_pipelines.placement import Place, check_tenant, former_places
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.settings import Settings
from sbh_pipelines.stores.base import FileStore
from sbh_pipelines.stores.bound_store import BoundStore
from sbh_pipelines.stores.open_store import is_aws, open_control, storage_of
from sbh_pipelines.stores.region_proof import RegionProof
from sbh_pipelines.stores.s3_control import S3Control


class StoreBinding:
    """Binds stores to their places. Thread-safe. `opened` gives the store of a place, not yet bound."""

    def __init__(self, settings: Settings, opened: Callable[[Place], FileStore]) -> None:
        self._settings, self._opened = settings, opened
        self._proof = RegionProof(self._ask, settings.residency.recheck_s)
        # By region, and whether the application's server is meant: at a copy it is another one.
        self._controls: dict[tuple[str, bool], S3Control] = {}
        self._provable: dict[tuple[str, bool], bool] = {}
        self._settled: set[tuple[str, str]] = set()  # tenants whose repository is where it was, with the region
        self._lock = threading.Lock()

    def bind(self, place: Place, tenant: Tenant | None = None) -> BoundStore:
        """The store of a place; of a tenant's files or backups, or (without a tenant) of what belongs to a region."""
        chosen = None
        if tenant is not None and not place.application:
            chosen = self._settings.storage.pack_class(tenant.tier)
        kept_as = (place.prefix + Keys.PACKS, chosen) if chosen else None
        return BoundStore(self._opened(place), place, lambda: self.check(place, tenant), kept_as)

    def check(self, place: Place, tenant: Tenant | None) -> None:
        """Whether something may be written there. Raises ResidencyError, and the store's errors."""
        if tenant is not None:
            check_tenant(self._settings, tenant, application=place.application)
        if self._is_provable(place):
            self._proof.check(place)
        if tenant is not None and not place.application:
            self._check_unmoved(place, tenant)

    def _is_provable(self, place: Place) -> bool:
        server = (place.region, place.application)
        found = self._provable.get(server)
        if found is None:
            found = self._provable[server] = is_provable(self._settings, place)
        return found

    def _check_unmoved(self, place: Place, tenant: Tenant) -> None:
        if (tenant.id, place.region) in self._settled:
            return
        former = former_places(self._settings, tenant)
        if former and not self._has_key(place):
            for other in former:
                if self._has_backups(other):
                    raise ResidencyError(
                        "The tenant was moved to another region, where its backups would begin anew",
                        on=f"{tenant.id}: now {place.region}, its backups are in {other.region}",
                        why="no backup before the move could be restored, and the old ones would be kept there",
                        remedy=f"correct the tenant's region; or, where the move is meant, add {tenant.id} to residency.moved,"
                        " and erase the old repository when it is no longer needed",
                    )
        with self._lock:
            self._settled.add((tenant.id, place.region))

    def saw_key(self, tenant: Tenant) -> None:
        """Somebody has read the tenant's key in its place, so that need not be asked."""
        with self._lock:
            self._settled.add((tenant.id, tenant.region))

    def _has_key(self, place: Place) -> bool:
        try:
            self._opened(place).head(place.prefix + Keys.data_key(1))
        except ObjectMissing:
            return False
        return True

    def _has_backups(self, place: Place) -> bool:
        try:
            return next(self._opened(place).list(place.prefix + Keys.MANIFESTS), None) is not None
        except (ObjectMissing, StoreDenied):  # no bucket there, or one that a writer of this region may not see
            return False

    def _ask(self, place: Place) -> str:
        storage, server = storage_of(self._settings, place), (place.region, place.application)
        with self._lock:
            control = self._controls.get(server)
            if control is None:
                control = self._controls[server] = open_control(storage, place.region)
        found = control.real_region(place.bucket)
        # Of a copy: a bucket of this region, which lies where the copy does.
        return place.region if found == storage.real_region(place.region) else found


def is_provable(settings: Settings, place: Place) -> bool:
    """Whether the settings want the server of the place to be asked where its buckets are."""
    prove, storage = settings.residency.prove, storage_of(settings, place)
    return storage.kind == "s3" and (prove == "always" or (prove == "aws" and is_aws(storage, place.region)))
