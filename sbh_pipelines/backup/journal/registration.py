"""Tells the journal the public keys of tenants: what a tenant's changes are sealed to. Without one they are dropped.

The keys are derived from the data keys of the tenants' repositories, so whoever registers them needs the right to unwrap those;
whoever drains does not.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.errors import SbhError, UnknownBackup
from sbh_pipelines.model import Tenant
from sbh_pipelines.repository.journal.segments.public_key import PublicKey
from sbh_pipelines.repository.seal import Sealer


@dataclass(frozen=True, slots=True)
class Registered:
    """What was registered.

    Attributes:
        new: Tenants whose key was not known yet.
        known: Tenants whose key was.
        without_backup: Tenants that have no repository yet: their first backup begins one.
        issues: Tenants whose key could not be read.
    """

    new: int
    known: int
    without_backup: Sequence[str]
    issues: Sequence[SbhError]


def register_tenants(site: Site, tenants: Sequence[Tenant]) -> Registered:
    """Register the newest key of each tenant that is not registered. The tenants lie in regions that backups may be written to."""

    def look(tenant: Tenant) -> PublicKey | SbhError | None:
        try:
            with site.repository(tenant) as repository:
                return _key(site, tenant, repository.sealer)
        except UnknownBackup:
            return None
        except SbhError as error:
            return error

    new = known = 0
    without: list[str] = []
    issues: list[SbhError] = []
    for region in site.settings.storage.regions:
        here = [tenant for tenant in tenants if tenant.region == region]
        found = side_by_side(look, here, name="keys")
        keys = [one for one in found if isinstance(one, PublicKey)]
        added = site.journal(region).public_keys.register(keys)
        new, known = new + added, known + len(keys) - added
        without += [tenant.id for tenant, one in zip(here, found, strict=True) if one is None]
        issues += [one for one in found if isinstance(one, SbhError)]
    return Registered(new, known, without, issues)


def register_backed_up(site: Site, opened: Iterable[tuple[Tenant, Sealer]]) -> None:
    """Register tenants that are about to be backed up, before the snapshot, so that what follows on it is kept.

    No reason not to back up: a tenant without a key is looked through at its next backup, and registered then.
    """
    if not site.settings.journal.enabled:
        return
    by_region: dict[str, list[PublicKey]] = {}
    for tenant, sealer in opened:
        by_region.setdefault(tenant.region, []).append(_key(site, tenant, sealer))
    for region, keys in by_region.items():
        with suppress(SbhError):
            site.journal(region).public_keys.register(keys)


def _key(site: Site, tenant: Tenant, sealer: Sealer) -> PublicKey:
    return PublicKey(site.owners.home_of(tenant), tenant.key, sealer.epoch, sealer.journal_public())
