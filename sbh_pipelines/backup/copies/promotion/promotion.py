"""A copy becomes the place where backups are made: of a source that answers without losing anything, of one that is gone with what
the copy has.

With a source that answers, in this order; killed between any two steps, the same command goes on:

    1  fence        each region of the source is marked as superseded: from a minute later on nothing begins there
    2  wait         for that minute, and for the leases that are held still
    3  last run     everything that the source has and the copy has not, verified there
    4  marks        each region of the copy is marked as the primary, while nobody keeps it as a copy

Where a region is marked already, as after a kill, the first three are done again for those whose fence is of no such promotion.
First of all every other copy of these regions is asked whether it was promoted: there is one primary.

Of a source that is gone only the fourth step is done, and nothing is asked of it. It may come back: a process with the former
settings sees the copy's mark, and fences its own place.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sbh_pipelines.backup.copies.place import CopyPlace, open_copy, source_asked
from sbh_pipelines.backup.copies.promotion import handover
from sbh_pipelines.backup.copies.promotion.handover import brought, new_promotion, switch
from sbh_pipelines.backup.copies.promotion.readiness import TenantReady, lines_of, lines_of_run
from sbh_pipelines.backup.copies.results import CopyRun
from sbh_pipelines.backup.copies.run import upkeep_lease
from sbh_pipelines.backup.site.fence import (
    PROMOTED,
    Promoted,
    fenced,
    leave_mark,
    place_name,
    read_marks,
)
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import CopyError, SbhError
from sbh_pipelines.model import (
    ProgressSink,
    Tenant,
    no_progress,
)
from sbh_pipelines.placement import platform_tenant
from sbh_pipelines.settings import CopySettings


@dataclass(frozen=True, slots=True)
class Promotion:
    """What a promotion did, or would do.

    Attributes:
        name: The copy's name.
        to: The region in which it lies.
        place: Where each region's backups are then, by region.
        source_lost: Whether nothing is asked of the source.
        promoted: Whether it is the primary now.
        since: Since when, UTC; None where it is not yet.
        setting: The line for the top of sbh.toml, on every machine.
        tenants: Each tenant of its regions, those first of which something would be lost. Empty where it was promoted before.
        copied: The last run of the copy; None where there was none.
        issues: What could not be asked.
        changes: What is not as before from then on, and how to have it so.
    """

    name: str
    to: str
    place: Mapping[str, str]
    source_lost: bool
    promoted: bool
    since: datetime | None
    setting: str
    tenants: Sequence[TenantReady]
    copied: CopyRun | None
    issues: Sequence[SbhError]
    changes: Sequence[str] = ()


def plan_promotion(
    site: Site,
    name: str,
    tenants: Sequence[Tenant],
    *,
    source_lost: bool,
    without_asking: Collection[str] = (),
    progress: ProgressSink = no_progress,
) -> Promotion:
    """What `promote` would do; nothing is written. `tenants`: of the application, as far as that is known.

    Raises SettingsError where there is no copy of this name, PrimaryFenced where another copy took over, CopyError where the source
    does not answer and is not said to be lost, and the errors of a copy that cannot be read.
    """
    place = open_copy(site, name)
    known = _promoted(place)
    if all(known.values()):
        return _result(place, source_lost, known, [], None, [])
    unasked = _ask_others(place, source_lost, without_asking)
    lines, issues = lines_of(place, tenants, source_lost, progress)
    return _result(place, source_lost, {}, lines, None, [*unasked, *issues])


def promote(
    site: Site,
    name: str,
    tenants: Sequence[Tenant],
    user_id: str,
    *,
    source_lost: bool = False,
    without_asking: Collection[str] = (),
    unlisted: SbhError | None = None,
    progress: ProgressSink = no_progress,
) -> Promotion:
    """Make a copy the primary. Nothing of a call that failed has to be undone: the same call goes on.

    `unlisted`: why the application could not say who its tenants are. `without_asking`: copies that are not asked whether they were
    promoted already.

    Raises SettingsError where there is no copy of this name; PrimaryFenced where another copy took over; LeaseHeld while work at
    the source is under way for longer than `handover.LEASES_S`, or the copy is being made or kept; CopyError where the source does
    not answer and is not said to be lost, where another copy does not, or where not all that the source has is whole at the copy;
    and the errors of a copy that cannot be written to.
    """
    place, copied = open_copy(site, name), None
    known = _promoted(place)
    if all(known.values()):
        return _result(place, source_lost, known, [], None, [])
    if unasked := _ask_others(place, source_lost, without_asking):
        raise unasked[0]
    waiting = [region for region, mark in known.items() if mark is None]
    marks = dict[str, Promoted]()
    if not source_lost:
        marks = brought(place, waiting, {mark.id for mark in known.values() if mark is not None})
        if behind := [region for region in waiting if region not in marks]:
            fences, copied = switch(place, behind, tenants, unlisted, user_id, progress)
            marks |= fences
    begun = next(filter(None, [*known.values(), *marks.values()]), None) or new_promotion(place, user_id)
    lines, issues = lines_of(place, tenants, True, progress) if copied is None else (lines_of_run(copied), [])
    since = site.clock()
    with upkeep_lease(place, *waiting, wait_s=handover.LEASES_S):
        props = {"copy": name, "promotion": begun.id, "source_lost": source_lost, "regions": place.regions}
        place.target.track(platform_tenant(place.target.settings), "copy.promoted", user_id, props)
        for region in waiting:
            there, mark = place_name(place.target, region), marks.get(region, begun)
            mark = replace(mark, place=there, former=place_name(site, region), since=since, copy=name)
            catalog = place.target.catalog(region)
            catalog.begin_where_empty()  # the source had nothing in this region yet
            known[region] = leave_mark(catalog, PROMOTED, there, mark)
    return _result(place, source_lost, known, lines, copied, issues)


def _result(
    place: CopyPlace,
    source_lost: bool,
    known: Mapping[str, Promoted | None],
    lines: Sequence[TenantReady],
    copied: CopyRun | None,
    issues: Sequence[SbhError],
) -> Promotion:
    since = [mark.since for mark in known.values() if mark is not None]
    return Promotion(
        place.name,
        place.settings.to,
        {region: place_name(place.target, region) for region in place.regions},
        source_lost,
        len(since) == len(place.regions),
        max(since, default=None),
        f'primary = "{place.name}"',
        lines,
        copied,
        issues,
        [] if (told := unlocked_events(place.source, place.settings)) is None else [told],
    )


def unlocked_events(site: Site, copy: CopySettings) -> str | None:
    """That audit events are under no object lock where this copy is the primary, though the settings ask for it; None where not."""
    days = site.settings.audit.object_lock_days
    if days is None or copy.lock_days is not None:
        return None
    return (
        f"audit events are under no object lock there, though audit.object_lock_days = {days}: nothing says that the bucket can;"
        f" give it object lock, and the copy {copy.name} lock_days under [[copies]]"
    )


def _promoted(place: CopyPlace) -> dict[str, Promoted | None]:
    """The copy's own marks, by region. Raises PrimaryFenced where it was superseded itself: it is no copy any more."""
    found = dict[str, Promoted | None]()
    for region in place.regions:
        here = place_name(place.target, region)
        marks = read_marks(place.target.catalog(region), here)
        if marks.superseded is not None:
            raise fenced(marks.superseded, here)
        found[region] = marks.promoted
    return found


def _ask_others(place: CopyPlace, source_lost: bool, without: Collection[str]) -> list[SbhError]:
    """Whether another copy took over from this source; the errors of those that do not say. Raises PrimaryFenced.

    One that was superseded is none, where that was by this source, or the settings name the primary that came of it.
    """
    site, unasked = place.source, list[SbhError]()
    for copy in site.settings.copies:
        for region in copy.regions(site.settings):
            if copy.name == place.name or copy.name in without or region not in place.regions:
                continue
            here = place_name(site, region)
            try:
                there = site.fence.at_copy(copy.name, region, own_answers=not source_lost)
            except SbhError as error:
                unasked.append(_unasked(place, copy.name, region, error, source_lost))
                break
            found = there.promoted or there.alike.get(PROMOTED)
            if found is None:
                continue
            if (later := there.superseded) and (site.settings.primary is not None or later.place == here):
                continue
            if not source_lost:
                with source_asked(place):
                    mine = read_marks(site.catalog(region), here).promoted
                if mine is not None and not found.is_after(mine):
                    continue
            raise fenced(found, here)
    return unasked


def _unasked(place: CopyPlace, name: str, region: str, error: SbhError, source_lost: bool) -> CopyError:
    lost = " --source-lost" if source_lost else ""
    return CopyError(
        "Another copy does not say whether it was promoted already",
        on=f"{name}, backups of {region}",
        why=f"{error.what} ({error.on}): {error.why}",
        remedy="two primaries would each have backups that the other has not: wait for it; or, where you know that it was not"
        f" promoted, `sbh copies promote {place.name}{lost} --without-asking {name}`",
    )
