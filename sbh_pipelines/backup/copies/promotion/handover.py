"""A source that answers hands over: it is fenced, what was begun there ends, and the rest is brought to the copy."""

import secrets
import time
from collections.abc import Collection, Sequence
from dataclasses import replace

from sbh_pipelines.backup.copies.place import CopyPlace, source_asked
from sbh_pipelines.backup.copies.promotion.readiness import gone
from sbh_pipelines.backup.copies.results import CopyRun
from sbh_pipelines.backup.copies.run import run_copy
from sbh_pipelines.backup.journal.guard import home_region
from sbh_pipelines.backup.retain.journal_retention import LEASE as UPKEEP
from sbh_pipelines.backup.site.erased_homes import was_erased
from sbh_pipelines.backup.site.fence import (
    ASKED_ANEW_S,
    SUPERSEDED,
    Promoted,
    fenced,
    leave_mark,
    mark_name,
    place_name,
    read_marks,
)
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import streamed
from sbh_pipelines.errors import CopyError, LeaseHeld, SbhError
from sbh_pipelines.model import (
    Progress,
    ProgressSink,
    Tenant,
    parse_timestamp,
)
from sbh_pipelines.placement import platform_tenant
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.stores.base import ObjectStore

SETTLE_S = ASKED_ANEW_S + 2.0  # after which no process goes by what it saw before the fence
LEASES_S = 600.0  # how long work that is under way is waited for
_LOOK_S = 2.0
_AT_ONCE = 8


def new_promotion(place: CopyPlace, user_id: str) -> Promoted:
    return Promoted(secrets.token_hex(8), place.name, "", "", place.source.clock(), user_id)


def brought(place: CopyPlace, regions: Sequence[str], promoted: Collection[str]) -> dict[str, Promoted]:
    """The fences of regions whose last run was done: under the same promotion another region is marked as the primary already."""
    found = dict[str, Promoted]()
    for region in regions if promoted else ():
        with source_asked(place):
            mark = read_marks(place.source.catalog(region), place_name(place.source, region)).superseded
        if mark is not None and mark.id in promoted and mark.place == place_name(place.target, region):
            found[region] = mark
    return found


def switch(
    place: CopyPlace,
    regions: Sequence[str],
    tenants: Sequence[Tenant],
    unlisted: SbhError | None,
    user_id: str,
    progress: ProgressSink,
) -> tuple[dict[str, Promoted], CopyRun]:
    """Fence these regions, wait, and bring the rest over; their fences."""
    theirs = [tenant for tenant in tenants if tenant.region in regions]
    with source_asked(place):
        everyone = [*theirs, *gone(place.source, regions, theirs)]
        fences = _fence(place, regions, user_id)
        _settle(place, regions, everyone, progress)
    copied = run_copy(
        place.source,
        place.name,
        theirs,
        everyone=True,
        unlisted=unlisted,
        progress=progress,
        closing=regions,
    )
    _refuse_incomplete(place, regions, copied)
    return fences, copied


def _fence(place: CopyPlace, regions: Sequence[str], user_id: str) -> dict[str, Promoted]:
    """Mark these regions of the source; what was begun before goes on. Raises PrimaryFenced where another copy took over."""
    site, known = place.source, dict[str, Promoted]()
    for region in regions:
        here = place_name(site, region)
        if (mark := read_marks(site.catalog(region), here).fenced_by) is not None:
            if mark.place != place_name(place.target, region):
                raise fenced(mark, here)
            known[region] = mark
    promoted = next(iter(known.values()), None) or new_promotion(place, user_id)
    for region in regions:
        if region not in known:
            here, there = place_name(site, region), place_name(place.target, region)
            known[region] = leave_mark(
                site.catalog(region), SUPERSEDED, here, replace(promoted, place=there, former=here)
            )
            if known[region].place != there:  # another promotion was first
                raise fenced(known[region], here)
            props = {"copy": place.name, "promotion": promoted.id, "place": there, "region": region}
            site.track(platform_tenant(site.settings), "copy.fenced", user_id, props)
    return known


def _settle(place: CopyPlace, regions: Sequence[str], tenants: Sequence[Tenant], progress: ProgressSink) -> None:
    """Wait until nobody writes at the source: none begins a minute after the last fence, and what was begun holds a lease.

    The whole minute, also after fences that an earlier call left: when that was is told by another machine's clock.
    """
    time.sleep(SETTLE_S)
    until = time.monotonic() + LEASES_S
    while held := _held(place.source, regions, tenants):
        if time.monotonic() > until:
            raise LeaseHeld(
                "Work at the place of the backups is under way",
                on=", ".join(list(held)[:5]) + (f" and {len(held) - 5} more" if len(held) > 5 else ""),
                why="; ".join(f"{lease.purpose} by {lease.owner}" for lease in list(held.values())[:5]),
                remedy="nothing new begins there; when that has ended, give the same command again",
            )
        progress(Progress("wait", ", ".join(list(held)[:3]), 0, len(held), "writers at work"))
        time.sleep(_LOOK_S)


def _held(site: Site, regions: Sequence[str], tenants: Sequence[Tenant]) -> dict[str, leases.LeaseDocument]:
    """The leases that are held, by whose they are."""
    places: list[tuple[str, ObjectStore, str]]
    places = [(str(tenant.id), *site.backup_store(tenant)) for tenant in tenants if tenant.region in regions]
    platform = platform_tenant(site.settings)
    if platform.region in regions:
        places.append(("platform backup", *site.backup_store(platform)))
    for region in regions:
        journal = site.journal(region)
        places.append((f"journal of {region}, upkeep", journal.store, journal.prefix + UPKEEP))
        if region == home_region(site):
            places.append(("journal", journal.store, journal.prefix))
    found = streamed(
        lambda one: (one[0], leases.running(one[1], one[2], site.clock)),
        places,
        name="leases",
        threads=_AT_ONCE,
        ahead=_AT_ONCE,
    )
    return {name: lease for name, lease in found if lease is not None}


def _refuse_incomplete(place: CopyPlace, regions: Sequence[str], copied: CopyRun) -> None:
    """Raises CopyError unless everything that is copied of these regions is whole at the copy: of each repository in a catalog."""
    site = place.source
    errors = [one.error for one in copied.tenants if one.error is not None] + list(copied.issues)
    done = {(one.region, one.home): one for one in copied.tenants if one.home}
    late = list[str]()
    for region in regions:
        for home, record in site.catalog(region).read().items():
            one = done.get((region, str(home)))
            if one is None and was_erased(site, region, home):
                continue
            if one is not None and (one.error is not None or one.left_out is not None or one.ended):
                continue
            until = None if one is None else one.recovery_point
            if until is None or until < parse_timestamp(record.point.time):
                late.append(str(home))
    if not errors and not late:
        return
    why = f"{errors[0].what} ({errors[0].on}): {errors[0].why}" if errors else f"not there yet: {', '.join(late[:5])}"
    marks = [
        site.catalog(region).store.url(site.catalog(region).prefix + mark_name(SUPERSEDED, place_name(site, region)))
        for region in regions
    ]
    raise CopyError(
        "Not all that the source has is whole at the copy, which was not promoted",
        on=f"{place.name}: {len(errors)} errors, {len(late)} tenants behind",
        why=why,
        remedy=f"mend that, and give the same command again; to take the copy as it is, add `--source-lost`; to go back to before,"
        f" delete {' and '.join(marks)}, and backups go on within a minute",
    )
