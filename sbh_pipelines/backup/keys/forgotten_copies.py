"""What lies at a copy of a tenant that is not copied any more, removed from there: keys first, then everything, in every version.

It is not an erasure: the tenant's backups stay where they are made, and no tombstone is left. So it is refused for who is copied
still, for the next run would bring it again; that is for a change of the settings. A run of the copy is waited for by whoever
asks: it may have begun by earlier settings. Killed anywhere, the same call goes on.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from sbh_pipelines.backup.copies.place import CopyPlace, open_copy, refuse_primary
from sbh_pipelines.backup.copies.run import run_lease, upkeep_lease
from sbh_pipelines.backup.copies.state import CopyState, CopyStates
from sbh_pipelines.backup.copies.worklist import Home, left_homes, work_of
from sbh_pipelines.backup.keys.erasure_places import ErasurePlace, is_there
from sbh_pipelines.backup.retain.holds import legal_holds
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.document import optional
from sbh_pipelines.errors import CopyError
from sbh_pipelines.model import Tenant, timestamp
from sbh_pipelines.placement import audit_place
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.stores.purge import PurgeResult, chosen_but, every, keys_of


@dataclass(frozen=True, slots=True)
class ForgottenAtCopy:
    """What was removed from a copy.

    Attributes:
        name: The copy's name.
        tenant_id: The tenant.
        repositories: Names of its repositories that were removed; none where nothing of it was there.
        objects: Objects that were deleted.
        versions: Versions of objects that were deleted, those included.
        bytes: Their bytes.
        left: Versions that could not be deleted: without their keys nothing opens them.
        examples: Some of them, with why.
        locked_until: When the last object lock on them ends, UTC; absent where none holds them.
    """

    name: str
    tenant_id: str
    repositories: Sequence[str]
    objects: int
    versions: int
    bytes: int
    left: int
    examples: Sequence[str]
    locked_until: str | None = optional()


@dataclass(frozen=True, slots=True)
class Forgettable:
    """Of one region, what is to go.

    Attributes:
        place: The copy, which knows of the region.
        home: The repository.
        state: What is known of it there.
        found: Where it lies.
    """

    place: CopyPlace
    home: Home
    state: CopyState | None
    found: ErasurePlace


def forgettable(site: Site, name: str, tenant: Tenant) -> list[Forgettable]:
    """What lies at a copy of a tenant, in every region. Deletes nothing.

    Raises CopyError where the tenant is copied, or under a legal hold there, or backups were made in the copy; the stores' errors,
    also where the copy does not say that; and SettingsError.
    """
    place, found = open_copy(site, name), list[Forgettable]()
    if place.settings.kind != "managed":
        raise _refused(place, tenant, "something else makes this copy, and would bring it again", "remove it by that")
    for region in site.settings.storage.regions:
        found += _in_region(place if region in place.regions else place.with_left_regions(), region, tenant)
    for one in found:
        if holds := legal_holds(one.found.store, one.found.prefix):
            names = ", ".join(hold.id for hold in holds[:10])
            raise _refused(
                place, tenant, f"it is under a legal hold there: {names}", "whoever placed it releases it first"
            )
    return found


def _in_region(place: CopyPlace, region: str, tenant: Tenant) -> list[Forgettable]:
    refuse_primary(place, region, strict=True)
    states = CopyStates(place).read(region)
    work = work_of(place, region, [tenant] if tenant.region == region else [], states, everyone=False)
    if work.failed:
        raise work.failed[0][1]
    homes = {home.tenant.home: home for home in left_homes(place, region, states) if home.tenant.id == tenant.id}
    homes |= {home.tenant.home: home for home in work.homes}
    found = list[Forgettable]()
    for home in homes.values():
        at = place.target.backup_place(home.tenant)
        store = place.target.raw_store(at)
        if not is_there(store, at.prefix) or next(store.list(at.prefix), None) is None:
            continue
        if home.left_out is None:
            raise _refused(
                place,
                tenant,
                "it is copied, and the next run would bring it again",
                "leave it out first, by tiers, from or the rules of residency; to destroy all of its backups: `sbh tenants erase`",
            )
        found.append(
            Forgettable(place, home, states.get(home.tenant.home), ErasurePlace(at, store, place.target.purger(at)))
        )
    return found


def forget_at_copy(site: Site, name: str, tenant: Tenant, chosen: Sequence[Forgettable]) -> ForgottenAtCopy:
    """Remove it. What is under object lock stays until that ends, unreadable; the same call takes it then.

    Raises LeaseHeld while the copy is made, kept or promoted, CopyError where it was promoted, and the stores' errors.
    """
    done, left, locks = PurgeResult(), PurgeResult(), []
    with ExitStack() as stack:
        for region, place in {one.home.tenant.region: one.place for one in chosen}.items():
            stack.enter_context(run_lease(place, region))
            stack.enter_context(upkeep_lease(place, region))
        for one in chosen:
            refuse_primary(one.place, one.home.tenant.region, strict=True)
            _purge(one, done)
            last = one.found.purger.purge(one.found.prefix)
            left.add(last)
            if last.left:
                locks.append(one.found.purger.locked_until(one.found.prefix, every))
            _remember(one)
    until = max(filter(None, locks), default=None)
    return ForgottenAtCopy(
        name,
        tenant.id,
        [one.home.tenant.home for one in chosen],
        done.objects,
        done.versions,
        done.bytes,
        left.left,
        left.left_keys,
        None if until is None else timestamp(until),
    )


def _purge(one: Forgettable, done: PurgeResult) -> None:
    target, found = one.place.target, one.found
    seconds = target.settings.backup.lease_s
    with ExitStack() as stack:
        for prefix in (found.prefix, found.prefix + Keys.COPYING):
            owner = leases.new_owner(leases.ERASE)
            held = leases.acquire(found.store, prefix, owner, leases.ERASE, seconds, target.clock)
            stack.enter_context(leases.kept(held, seconds))
        for prefix, chosen in (
            (found.prefix + Keys.KEYS, every),
            (found.prefix, chosen_but(found.prefix + Keys.LEASE, found.prefix + Keys.COPYING)),
        ):
            purged = found.purger.purge(prefix, chosen)
            purged.left, purged.left_keys = 0, []  # counted at the end
            done.add(purged)
    region, home = one.home.tenant.region, one.home.tenant.home
    at = audit_place(target.settings, region)
    head = f"{at.prefix}heads/{home}.json"  # it would say of a trail that is gone that it was cut
    target.purger(at).purge(head, keys_of([head]))


def _remember(one: Forgettable) -> None:
    now, tenant = one.place.source.clock(), one.home.tenant
    blank = CopyState(tenant.home, tenant.key, None, None, None, None, False, now, tenant.tier)
    known = one.state or blank
    since = known.left_out_since or now
    after = replace(blank, left_out=one.home.left_out or "", left_out_since=since, backups=0)
    CopyStates(one.place).record(tenant.region, [after], at_copy=tenant.region in one.place.regions)


def _refused(place: CopyPlace, tenant: Tenant, why: str, remedy: str) -> CopyError:
    return CopyError("What lies at the copy was not removed", on=f"{tenant.id} at {place.name}", why=why, remedy=remedy)
