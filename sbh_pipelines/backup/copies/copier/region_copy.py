"""What belongs to a region and to no tenant, brought to a copy: catalog, the platform's trail and repository, the journal.

    catalog    its key; then whose repositories are, and who moved (`former/`, `moves/`), certificates, readmissions before
               tombstones, records
    audit      events of the platform's trail, then its head
    platform   as a tenant's repository
    journal    segments are listed; then gaps, public keys, marks of slots; then segments, oldest first

A gap is stored before what follows it, so the gaps of every segment that was listed are at the copy before the segment is. Marks
of key epochs come with the keys of their tenants: one that came first would say that the copy's own key is out of date. Marks of
epochs that ended are not copied: the copy keeps such a key until nothing there needs it.

A tombstone is copied where the source's catalog signed it; any other would keep a tenant from the copy for good, before it has a
key there. Objects that were merged or removed at the source stay at the copy until its own upkeep.
"""

from collections.abc import Callable, Mapping, Sequence

from sbh_pipelines.backup.copies.copier.folder_copy import FolderCopy
from sbh_pipelines.backup.copies.copier.inventory import Inventory
from sbh_pipelines.backup.copies.copier.kinds import RegionKind, catalog_kind, journal_kind, trail_kind
from sbh_pipelines.backup.copies.copier.tenant_copy import copy_tenant
from sbh_pipelines.backup.copies.copier.transfer import SourceVanished, Transfers
from sbh_pipelines.backup.copies.place import CopyPlace
from sbh_pipelines.backup.copies.wrapping import bring_catalog_key
from sbh_pipelines.errors import CopyError, ObjectMissing, ResidencyError
from sbh_pipelines.placement import catalog_place, journal_place, platform_tenant
from sbh_pipelines.repository.bounds import HEAD_BYTES, all_below
from sbh_pipelines.repository.catalog.erased import erased_slug, is_erased

_PLANS = 4  # how often a folder is listed anew while objects of it are merged
_BESIDE = (RegionKind.GAP, RegionKind.PUBLIC_KEY, RegionKind.SLOT)

Stored = tuple[int, int]  # objects, bytes


def copy_region(place: CopyPlace, region: str, transfers: Transfers) -> Mapping[str, Stored]:
    """(objects, bytes) that were stored, by kind: `catalog`, `audit`, `platform`, `journal`, as far as there are such.

    Raises what `copy_tenant` raises. What is asked for by itself can be had by `region_steps`.
    """
    return {name: step() for name, step in region_steps(place, region, transfers).items()}


def region_steps(place: CopyPlace, region: str, transfers: Transfers) -> Mapping[str, Callable[[], Stored]]:
    """The steps of `copy_region`, by kind, in their order; the first has to succeed before the others begin."""
    steps: dict[str, Callable[[], Stored]] = {
        "catalog": lambda: _catalog(place, region, transfers),
        "audit": lambda: _platform_trail(place, region, transfers),
    }
    platform = platform_tenant(place.source.settings)
    if platform.region == region:
        steps["platform"] = lambda: copy_tenant(place, place.source.owners.housed(platform), transfers)
    if place.settings.journal:
        steps["journal"] = lambda: _journal(place, region, transfers)
    return steps


def _catalog(place: CopyPlace, region: str, transfers: Transfers) -> Stored:
    written = bring_catalog_key(place, region)
    source = place.source.catalog(region)
    here, there = (site.region_store(catalog_place(site.settings, region)) for site in (place.source, place.target))
    folder = FolderCopy(here, there, source.prefix, transfers)

    def bring() -> None:
        with Inventory(source.prefix, catalog_kind) as inventory:
            inventory.add_source(all_below(here, source.prefix))
            inventory.add_target(all_below(there, source.prefix))
            folder.bring(inventory, [RegionKind.FORMER, RegionKind.MOVE], immutable=False, if_vanished="skip")
            folder.bring(inventory, [RegionKind.CERTIFICATE, RegionKind.READMITTED])
            for one in list(inventory.wanted(RegionKind.ERASED, immutable=False)):
                home = erased_slug(one.name)
                if home is None or not is_erased(source, home, lambda: True):
                    inventory.leave_out(one.name)
            folder.bring(inventory, [RegionKind.ERASED], immutable=False, if_vanished="skip")
            folder.bring(inventory, [RegionKind.RECORD])

    _planned_again(bring, here.url(source.prefix))
    return folder.objects + written, folder.bytes


def _platform_trail(place: CopyPlace, region: str, transfers: Transfers) -> Stored:
    (here, prefix), (there, _) = place.source.audit_store(region), place.target.audit_store(region)
    locks = transfers.locks(region)

    def attributes(name: str) -> Mapping[str, str] | None:
        return locks.attributes() if locks is not None and trail_kind(name) is RegionKind.EVENT else None

    folder = FolderCopy(here, there, prefix, transfers, attributes=attributes)
    head = _read(lambda: here.get(f"{prefix}head.json", HEAD_BYTES))  # before the events: it must not be ahead of them
    with Inventory(prefix, trail_kind) as inventory:
        inventory.add_source(all_below(here, f"{prefix}events/"))
        inventory.add_target(all_below(there, f"{prefix}events/"))
        folder.bring(inventory, [RegionKind.EVENT])
    if head is not None and transfers.put(there, f"{prefix}head.json", head):
        folder.counted(len(head))
    return folder.objects, folder.bytes


def _journal(place: CopyPlace, region: str, transfers: Transfers) -> Stored:
    at = journal_place(place.source.settings, region)
    here, there = (site.region_store(journal_place(site.settings, region)) for site in (place.source, place.target))
    why = journal_stays(place)
    if why and next(all_below(here, at.prefix), None) is not None:
        raise ResidencyError(
            "The change journal is not copied",
            on=f"{place.name}, {region}",
            why=why,
            remedy="set copies.journal = false for this copy, or allow its region to all tenants",
        )
    folder = FolderCopy(here, there, at.prefix, transfers)

    def bring() -> None:
        with Inventory(at.prefix, journal_kind) as inventory:
            inventory.add_source(all_below(here, at.prefix))
            if inventory.is_empty:
                return
            for name in ("gaps/", "keys/", "slots/"):  # once more, after the segments
                inventory.add_source(all_below(here, at.prefix + name))
            inventory.add_target(all_below(there, at.prefix))
            folder.bring(inventory, _BESIDE, if_vanished="skip")
            folder.bring(inventory, [RegionKind.SEGMENT])

    _planned_again(bring, here.url(at.prefix))
    return folder.objects, folder.bytes


def journal_stays(place: CopyPlace) -> str:
    """Why no segment may be copied: they hold rows of all tenants, and not all may lie where the copy is. '' where they may."""
    residency, to = place.source.settings.residency, place.settings.to
    lists: Sequence[list[str]] = [residency.default, *residency.tiers.values(), *residency.tenants.values()]
    if any(names and to not in residency.regions_of(names) for names in lists):
        return f"its segments hold rows of all tenants, and some may not lie in {to}"
    if strange := [region for region in place.regions if not residency.is_one_zone([region, to])]:
        return f"its segments hold rows of all tenants, and {to} is in no zone of {', '.join(strange)}"
    return ""


def _planned_again(bring: Callable[[], None], on: str) -> None:
    """List anew where something was merged or removed at the source since. Raises CopyError."""
    for attempt in range(1, _PLANS + 1):
        try:
            return bring()
        except SourceVanished as error:
            if attempt == _PLANS:
                raise CopyError(
                    "The source changes faster than it is copied",
                    on=on,
                    why=f"{_PLANS} times something that was listed was gone: {error.on}",
                    remedy="run the copy again",
                ) from None
    return None


def _read(get: Callable[[], bytes]) -> bytes | None:
    try:
        return get()
    except ObjectMissing:
        return None
