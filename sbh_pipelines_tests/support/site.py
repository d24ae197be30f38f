"""The stores, repositories and trails of a service, opened by a test itself: beside the service, never out of it."""

from collections.abc import Callable
from typing import Any

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.model import Clock, utc_now
from sbh_pipelines.settings import Settings
from sbh_pipelines.stores.open_store import open_store

Wrap = Callable[[Any, Any], Any]  # (store, place): the store that is used


def site_of(service: BackupService, clock: Clock = utc_now) -> Site:
    """Another site over the settings of the service: it leads to the same buckets and keys."""
    return Site(service.settings, clock)


def site_with_stores(settings: Settings, clock: Clock, wrap: Wrap) -> Site:
    """A site each of whose stores passes through `wrap` when it is opened."""
    return Site(settings, clock, opener=lambda storage, place: wrap(open_store(storage, place), place))


def with_stores(service: BackupService, wrap: Wrap, clock: Clock = utc_now) -> BackupService:
    """A service over the settings of this one, its stores wrapped."""
    return BackupService(service.settings, site=site_with_stores(service.settings, clock, wrap))
