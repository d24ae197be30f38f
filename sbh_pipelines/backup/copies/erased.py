"""What an erasure says of a copy: believed only where it is signed, before anything there is destroyed for it.

A tombstone that nobody signed keeps a copier away, which costs nothing. It destroys nothing: whoever may put and delete at the
source alone could make one, and would so reach the copy that is there for that very day.
"""

from contextlib import ExitStack

from sbh_pipelines.backup.copies.place import CopyPlace
from sbh_pipelines.backup.retain.holds import legal_holds
from sbh_pipelines.errors import CopyError
from sbh_pipelines.model import HousedTenant
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.catalog.erased import is_readmitted, proven_erasure
from sbh_pipelines.repository.catalog.owners import slug_of
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.stores.purge import chosen_but


def is_proven_erased(place: CopyPlace, region: str, home: str) -> bool:
    """Whether either end has the signed record of an erasure after which neither end says that the tenant was readmitted.

    Raises the stores' errors.
    """
    ends = [site.catalog(region) for site in (place.source, place.target)]
    proofs = [erasure for end in ends if (erasure := proven_erasure(end, home)) is not None]
    return bool(proofs) and not any(is_readmitted(end, home, erasure) for end in ends for erasure in proofs)


def destroy_erased(place: CopyPlace, region: str, home: str) -> bool:
    """Destroy what came of an erased tenant's repository at the copy, its keys first; whether there was anything.

    Nothing is done where no erasure is proven. The audit trail stays. Raises CopyError where the tenant is under a legal hold
    there, LeaseHeld while anything else is at it, and the stores' errors.
    """
    slug = slug_of(home)
    if slug is None or not is_proven_erased(place, region, home):
        return False
    target = place.target
    where = target.backup_place(HousedTenant(slug, "", region, "", home))
    prefix, store, purger = where.prefix, target.raw_store(where), target.purger(where)
    chosen = chosen_but(prefix + Keys.AUDIT, prefix + Keys.COPYING)
    if not any(chosen(info.key, True) for info in store.list(prefix)):
        return False
    with ExitStack() as stack:
        for lease in (prefix, prefix + Keys.COPYING):
            seconds, owner = target.settings.backup.lease_s, leases.new_owner(leases.ERASE)
            held = leases.acquire(store, lease, owner, leases.ERASE, seconds, target.clock)
            stack.enter_context(leases.kept(held, seconds))
        if holds := legal_holds(store, prefix):
            raise CopyError(
                "What came of an erased tenant was not removed at the copy",
                on=f"{slug} at {place.name}",
                why=f"it is under a legal hold there: {', '.join(hold.id for hold in holds[:10])}",
                remedy=f"where the hold is over: `sbh tenants erase {slug} --confirm {slug} --reason ...` once more",
            )
        if not is_proven_erased(place, region, home):  # readmitted since
            return False
        purger.purge(prefix + Keys.KEYS)
        purger.purge(prefix, chosen_but(prefix + Keys.AUDIT, prefix + Keys.COPYING, prefix + Keys.LEASE))
    purger.purge(prefix, chosen)
    return True
