"""Keys and the change journal: what has to be known before a key is made, destroyed, or its tenant erased.

A drain seals a tenant's changes to the public key that it finds registered. So a new epoch's key is registered as soon as there is
one, and an old epoch's data key, which alone opens what was sealed to it, stays until no segment has a block of it any more.
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sbh_pipelines.backup.journal.compaction.retired import RETIRED_FOR
from sbh_pipelines.backup.keys.certificate import JournalRemains
from sbh_pipelines.backup.retain.journal_retention import has_journal
from sbh_pipelines.backup.site.owners import is_bound
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import CorruptObject, ObjectMissing
from sbh_pipelines.model import Tenant, timestamp
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.journal.segments.public_key import PublicKey

_DAILY = timedelta(
    days=1
)  # what is of a day is merged when that is over; `schedules.daily_prune` runs once for each step
ERASED_AFTER = 3 * _DAILY + RETIRED_FOR
# At a copy what was written anew comes with the next run; what it stands in for goes a day later, once it is gone here.
ERASED_AT_COPIES_AFTER = ERASED_AFTER + _DAILY + RETIRED_FOR
_WAIT_S = 60.0  # for a drain that is under way to end


@dataclass(frozen=True, slots=True)
class _Sealed:
    """Of one region.

    Attributes:
        registered: The epoch of each repository's public key, read before the blocks.
        blocks: (home, epoch) of all blocks there are.
        doubt: Why that may not be all.
    """

    registered: Mapping[str, int]
    blocks: Collection[tuple[str, int]] = ()
    doubt: str | None = None


class SealedEpochs:
    """Which epochs of which repositories the journals have blocks of; each region's directories are read once."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._found: dict[str, _Sealed] = {}

    def why_needed(self, tenant: Tenant, epoch: int, newest: int) -> str | None:
        """Why the key of an epoch before the `newest` is not to be destroyed yet; None where nothing stands against it.

        The newest epoch's public key must be registered by now. Raises the store's errors.
        """
        site, region = self._site, tenant.region
        if not is_bound(tenant) or not has_journal(site, region):
            return None
        home = site.owners.home_of(tenant)
        known = self._found.get(region)
        if known is None or known.registered.get(home, newest) < newest:
            known = self._found[region] = self._look(region)
        if known.doubt is not None:
            return known.doubt
        if known.registered.get(home, newest) < newest:
            return f"the change journal does not know the key of epoch {newest}: see `sbh journal setup`"
        if (home, epoch) not in known.blocks:
            return None
        return (
            f"the change journal has changes that only the key of epoch {epoch} opens: run it again when they are older than"
            f" journal.keep_days ({site.settings.journal.keep_days:g}) and pruned"
        )

    def _look(self, region: str) -> "_Sealed":
        journal = self._site.journal(region)
        registered = {key.home: key.epoch for key in journal.public_keys.read().values()}
        # One that is under way may have read the public keys before the newest was registered.
        if not _no_drain_from_before(self._site):
            return _Sealed(registered, doubt="the change journal is being drained: run it again")
        found = set[tuple[str, int]]()
        for name in journal.listing().segments:
            try:
                found |= journal.directory(name).sealed_to()
            except ObjectMissing:
                continue  # removed a moment ago: it was not needed, or a listed one stands in for it
            except CorruptObject as error:
                why = f"a segment of the change journal cannot be read, and may need the key: {error.on}"
                return _Sealed(registered, doubt=why)
        return _Sealed(registered, found)


def register_newest(site: Site, tenant: Tenant) -> None:
    """Have what is journaled from now on sealed to the newest epoch's key. Only where the tenant is journaled already."""
    if not is_bound(tenant) or not has_journal(site, tenant.region):
        return
    public_keys, home = site.journal(tenant.region).public_keys, site.owners.home_of(tenant)
    known = [key for key in public_keys.read().values() if key.home == home]
    if known:
        with site.repository(tenant) as repository:
            epoch, public = repository.sealer.epoch, repository.sealer.journal_public()
        public_keys.register([PublicKey(home, key.tenant_key, epoch, public) for key in known])


def withdraw_erased(site: Site, home: str) -> list[str]:
    """Take a repository's public keys out of all journals; the regions that have one."""
    regions = [region for region in site.settings.storage.regions if has_journal(site, region)]
    for region in regions:
        site.journal(region).public_keys.compact([home])
    return regions


def journal_remains(site: Site, finished: datetime) -> JournalRemains | None:
    """What of an erased tenant may still lie in the journals, and until when; None where there are none."""
    regions = [region for region in site.settings.storage.regions if has_journal(site, region)]
    return JournalRemains(regions, timestamp(finished + ERASED_AFTER)) if regions else None


def _no_drain_from_before(site: Site) -> bool:
    """Wait until every drain that is under way now has ended; False where one goes on for too long."""
    deadline = time.monotonic() + _WAIT_S
    for region in site.settings.storage.regions:
        journal = site.journal(region)
        first = leases.running(journal.store, journal.prefix, site.clock)
        while first is not None:
            now = leases.running(journal.store, journal.prefix, site.clock)
            if now is None or now.owner != first.owner:
                break
            if time.monotonic() > deadline:
                return False
            time.sleep(0.5)
    return True
