"""What a copy keeps: its own policy, its own deletes. Nothing that is deleted at the source is deleted here because of that.

Which backups are forgotten here:

1. The rules of the copy's policy are relative to the newest backup that was *verified* here. What is newer counts for nothing.
2. Whatever came here within the last 14 days (`keep_new_days`) stays, and counts for nothing: however many backups come at once,
   and whatever times they claim, for 14 days they take no other's place. With `lock_days` longer than that, so long.
3. So does whatever was made within that time before the verified one, as where nothing was copied for a while.
4. Holds of both ends keep what they cover. One that was released at the source is released here once the source no longer has it
   *and* its audit trail says who released it; where either cannot be read, it holds.

When something came is told by the store's clock, and nothing is done where this machine's is another.

What is removed: what no kept backup needs and the source does not have any more. A pack or a document that the source still has
stays, for the copier would bring it again. Of a chunk that lies in a pack of the source and in one that the source gave up, the
former counts, so that repacking at the source does not double the copy. The copier never deletes.

Ids of backups that were forgotten here while the source has them are kept in `copy.json`, so that they are not copied again.
Those that are to go are named there before they do, and the audit trail tells of those that went, afterwards: what a store refused
to delete is no event, and what a killed run deleted is told by the next.
Where the source cannot be read, nothing is forgotten or removed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from sbh_pipelines.backup.contents.backup_list import Backups
from sbh_pipelines.backup.contents.summary import BackupSummary
from sbh_pipelines.backup.copies.copier.kinds import DOCUMENTS
from sbh_pipelines.backup.copies.locks import Locks, open_locks
from sbh_pipelines.backup.copies.place import CopyPlace, refuse_primary
from sbh_pipelines.backup.retain.forget import Record, Uncounted, execute, policy_plan
from sbh_pipelines.backup.retain.holds import list_holds, protected
from sbh_pipelines.backup.retain.policy import policy_of
from sbh_pipelines.backup.retain.prune import NothingToPrune, lease_for, prune, store_time
from sbh_pipelines.errors import CopyUnverified, CorruptObject, ObjectMissing, SbhError
from sbh_pipelines.model import BackupId, HousedTenant, ProgressSink, Tenant, TenantId, no_progress, timestamp
from sbh_pipelines.model import parse_timestamp as parsed
from sbh_pipelines.placement import PLATFORM
from sbh_pipelines.repository.bounds import all_below, listed, most_bytes
from sbh_pipelines.repository.documents import manifest_id, read_signed, signed
from sbh_pipelines.repository.format import COMPONENTS, Keys, parse_document
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.repository.retirement import is_component, read_retirement
from sbh_pipelines.repository.trail.reader import EventFilter, page
from sbh_pipelines.stores.base import ObjectStore

_KIND = "copy"
_RELEASES = {"hold.released", "backup.unpinned"}
_EVENTS = 200  # of the audit trail at once


@dataclass(frozen=True, slots=True)
class CopyKept:
    """What a copy's own retention did for one tenant.

    Attributes:
        tenant_id: Its slug.
        kept: The backups that stay.
        forgotten: The backups whose manifests were dropped here.
        released: Ids of holds and pins that were taken away, because they were released at the source.
        objects: Objects that were removed.
        bytes: Their bytes.
        locked: Objects whose lock was renewed.
        issues: Why something was not done. What was not is done by a later run.
        all_stays: Why nothing is forgotten of it at all; empty where the policy decides.
    """

    tenant_id: TenantId
    kept: Sequence[BackupId] = ()
    forgotten: Sequence[BackupId] = ()
    released: Sequence[str] = ()
    objects: int = 0
    bytes: int = 0
    locked: int = 0
    issues: Sequence[SbhError] = ()
    all_stays: str = ""


@dataclass(frozen=True, slots=True)
class _Memory:
    """What `copy.json` says: when locks were renewed last, which backups were forgotten here, which are about to be, and why."""

    renewed_at: datetime | None = None
    forgotten: frozenset[BackupId] = frozenset()
    going: Mapping[BackupId, Sequence[str]] = field(default_factory=dict)


@dataclass(slots=True)
class _Done:
    kept: list[BackupId] = field(default_factory=list)
    forgotten: list[BackupId] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    objects: int = 0
    bytes: int = 0
    locked: int = 0
    issues: list[SbhError] = field(default_factory=list)


def forgotten_here(store: ObjectStore, prefix: str) -> frozenset[BackupId]:
    """The backups that the copy forgot and that need not be copied again; `store` and `prefix` are of the repository there.

    Needs no key. The newest backup of the source is never among those that may be left out, whatever this says.
    """
    try:
        document = parse_document(store.get(prefix + Keys.COPY, most_bytes(Keys.COPY)), store.url(prefix + Keys.COPY))
    except (ObjectMissing, CorruptObject):
        return frozenset()
    return _ids(document.get("forgotten"))


def enforce(
    place: CopyPlace,
    tenant: Tenant,
    now: datetime,
    verified: BackupId | None,
    progress: ProgressSink = no_progress,
    *,
    deletes: bool = True,
    aside: bool = False,
) -> CopyKept:
    """Apply the copy's policy to a tenant's backups there, renew their locks, and remove what none of them needs.

    `verified` is the newest backup that was verified there; without one nothing is forgotten. `now` is this machine's time, UTC.
    `deletes`: whether anything may be deleted there; otherwise holds are brought and locks renewed. `aside`: whether another
    tenant has the slug now, so that what the policy says of the slug is of that one.
    Raises nothing of what one end or the other refuses: it is among the `issues`, and left to the next run.
    """
    done = _Done()
    housed = HousedTenant(tenant.id, tenant.key, tenant.region, tenant.tier, place.source.owners.home_of(tenant))
    try:
        refuse_primary(place, tenant.region, strict=True)
    except SbhError as error:
        return CopyKept(tenant.id, issues=(error,))
    try:
        _keep(place, housed, now, verified, deletes, done, aside)
    except SbhError as error:
        done.issues.append(error)
    try:
        if deletes and verified is not None:
            _prune(place, housed, progress, done)
    except SbhError as error:
        done.issues.append(error)
    return CopyKept(
        tenant.id,
        tuple(done.kept),
        tuple(done.forgotten),
        tuple(done.released),
        done.objects,
        done.bytes,
        done.locked,
        tuple(done.issues),
    )


def _keep(
    place: CopyPlace,
    tenant: HousedTenant,
    now: datetime,
    verified: BackupId | None,
    deletes: bool,
    done: _Done,
    aside: bool,
) -> None:
    """Holds, forgetting and locks, under the tenant's lease at the copy."""
    site = place.target
    with ExitStack() as stack:
        repository = stack.enter_context(site.repository(tenant))
        lease = lease_for(site, tenant, "copy retention", stack)
        time = store_time(repository, lambda: now, site.settings)
        memory = _remembered(repository)
        there = repository.manifest_ids()
        done.kept[:] = there
        try:
            if memory.going:  # of a run that did not come to its end
                memory = _tell(place, tenant, repository, memory)
            if verified is None:
                raise CopyUnverified(
                    "Nothing was forgotten at the copy",
                    on=f"{tenant.id} in {place.name}",
                    why="no backup of the tenant was verified there yet",
                    remedy="none is needed where the copy was begun just now; else see `sbh copies status`",
                )
            source = frozenset(_source_names(place, tenant, (Keys.MANIFESTS,)))
            _bring_holds(place, tenant, repository)
            if deletes:
                done.released[:] = _release(place, tenant, repository)
                try:
                    errors = _forget(place, tenant, repository, verified, time, lease.renew, aside)
                finally:
                    memory = _tell(place, tenant, repository, _remembered(repository))
                left = set(repository.manifest_ids())
                done.forgotten[:] = [backup_id for backup_id in there if backup_id not in left]
                done.kept[:] = sorted(left)
                gone = {i for i in (*memory.forgotten, *done.forgotten) if i not in left and Keys.manifest(i) in source}
                memory = _store(repository, memory, replace(memory, forgotten=frozenset(gone)))
                done.issues.extend(errors)
        except SbhError as error:
            done.issues.append(error)
        # Also where nothing may be forgotten: a lock that ends is what somebody who deletes is waiting for.
        if (locks := open_locks(place, tenant.region)) is not None and _is_due(locks, memory, time):
            done.locked = locks.extend(_needed(repository, set(done.kept)), time + locks.period)
            memory = _remembered(repository)  # what is going was noted since, and may not have been told yet
            _store(repository, memory, replace(memory, renewed_at=time))


def _forget(
    place: CopyPlace,
    tenant: HousedTenant,
    repository: Repository,
    verified: BackupId,
    now: datetime,
    still_ours: Callable[[], None],
    aside: bool,
) -> Sequence[SbhError]:
    """Forget by the policy, the platform's backups by how many are kept where they are made; what cannot be read."""
    settings, record = place.target.settings, _recorder(place, tenant, repository)
    if tenant.id == PLATFORM:
        came, floor = _arrivals(repository), floor_of(place)
        counted = [i for i in repository.manifest_ids() if i <= verified and came.get(i, now) <= now - floor]
        held = protected(list_holds(repository), counted, now)
        doomed = [backup_id for backup_id in counted[: -settings.platform.keep_last] if backup_id not in held]
        if doomed:
            still_ours()
            record([("backup.deleted", backup_id, ["platform.keep_last"]) for backup_id in doomed])
            repository.store.delete([repository.prefix + Keys.manifest(backup_id) for backup_id in doomed])
        return ()
    policy = settings.retention.model_copy(update={"tenants": {}}) if aside else settings.retention
    plan = policy_plan(
        repository,
        policy_of(policy, tenant),
        uncounted=lambda backups: _uncounted(place, repository, backups, verified, now),
    )
    execute(repository, plan, plan.doomed, still_ours, record, tenant.key)
    return plan.errors


def _uncounted(
    place: CopyPlace, repository: Repository, backups: Backups, verified: BackupId, now: datetime
) -> Uncounted:
    """Which backups take no other's place, and which stay whatever the counts say. Raises UnknownBackup, CorruptObject."""
    anchor = BackupSummary.from_dict(repository.manifest(verified))
    newest = min(anchor.created_at, now)  # one from the future pushes nothing out
    floor = floor_of(place)
    came = _arrivals(repository)
    apart: dict[BackupId, str] = {}
    kept: dict[BackupId, str] = {}
    for summary in backups.sound.values():
        if summary.created_at > newest:
            apart[summary.id] = "newer than what was verified here"
        elif came.get(summary.id, now) > now - floor:
            apart[summary.id] = f"came here within {floor.days} days"
        elif summary.created_at > newest - floor:
            kept[summary.id] = f"made within {floor.days} days before the newest verified one"
    return Uncounted(newest, apart, kept)


def floor_of(place: CopyPlace) -> timedelta:
    """For how long whatever comes to the copy stays, whatever its policy says."""
    return timedelta(days=max(place.settings.keep_new_days, place.settings.lock_days or 0))


def _arrivals(repository: Repository) -> dict[BackupId, datetime]:
    """When each manifest was put at the copy, by the store's clock."""
    skip = len(repository.prefix)
    objects = listed(repository.store, repository.prefix, Keys.MANIFESTS)
    return {i: info.modified for info in objects if (i := manifest_id(info.key[skip:])) is not None}


def _bring_holds(place: CopyPlace, tenant: HousedTenant, repository: Repository) -> None:
    """One that was placed since the last run of the copy binds it already."""
    store, prefix = place.source.backup_store(tenant)
    known = {hold.key for hold in list_holds(repository)}
    with place.source.repository(tenant) as source:
        missing = [hold.key for hold in list_holds(source) if hold.key not in known]
    for key in missing:
        with suppress(ObjectMissing):  # released since it was listed
            repository.store.put(repository.prefix + key, store.get(prefix + key, most_bytes(Keys.HOLDS)))


def _release(place: CopyPlace, tenant: HousedTenant, repository: Repository) -> list[str]:
    """Take away the holds that the source no longer has and of whose release its audit trail tells.

    The objects alone say nothing: who may delete one at the source would so have lifted the hold at the copy.
    """
    ours = {hold.id: hold for hold in list_holds(repository) if hold.until is None}
    if not ours:
        return []
    with place.source.repository(tenant) as source:
        gone = ours.keys() - {hold.id for hold in list_holds(source)}
    released = _released(place, tenant, gone) if gone else set()
    if released:
        repository.store.delete([repository.prefix + ours[hold_id].key for hold_id in sorted(released)])
    return sorted(released)


def _released(place: CopyPlace, tenant: HousedTenant, wanted: set[str]) -> set[str]:
    """Those of these holds whose last event in the source's trail is a release. A damaged part of the trail proves nothing."""
    trail = place.source.trails.of(tenant)
    undecided, found = set(wanted), set()
    cursor = None
    while undecided:
        events = page(trail, EventFilter(), _EVENTS, cursor)
        if events.damages:
            break
        for event in events.events:  # the newest first
            hold_id = event.props.get("hold_id")
            if hold_id in undecided and event.event in _RELEASES:
                found.add(str(hold_id))
            if hold_id in undecided:
                undecided.discard(str(hold_id))
        cursor = events.following
        if cursor is None:
            break
    return found


def _recorder(place: CopyPlace, tenant: HousedTenant, repository: Repository) -> Record:
    """Keeps in `copy.json` what is about to be forgotten; what was kept after all is an event at once."""

    def record(events: Sequence[tuple[str, BackupId, Sequence[str]]]) -> None:
        going = {backup_id: list(reasons) for event, backup_id, reasons in events if event == "backup.deleted"}
        if going:
            memory = _remembered(repository)
            _store(repository, memory, replace(memory, going=going))
        _record(place, tenant, [one for one in events if one[0] != "backup.deleted"])

    return record


def _tell(place: CopyPlace, tenant: HousedTenant, repository: Repository, memory: _Memory) -> _Memory:
    """Record which of those that were about to go are gone. Killed before it ends it is done again: an event may come twice."""
    if not memory.going:
        return memory
    left = set(repository.manifest_ids())
    _record(place, tenant, [("backup.deleted", i, why) for i, why in sorted(memory.going.items()) if i not in left])
    gone = {backup_id for backup_id in memory.going if backup_id not in left}
    return _store(repository, memory, replace(memory, going={}, forgotten=memory.forgotten | gone))


def _record(place: CopyPlace, tenant: HousedTenant, events: Sequence[tuple[str, BackupId, Sequence[str]]]) -> None:
    """Into the *source's* trail: the copy's is a copy of it, and nothing is appended there."""
    trails = place.source.trails
    entries = [
        trails.entry(
            event.replace("backup.", "copy.backup_"),
            "copies",
            {"copy": place.name, "backup_id": backup_id, "reasons": list(reasons)},
        )
        for event, backup_id, reasons in events
    ]
    if entries:
        trails.record_all(tenant, entries, always=True)


# what is needed


def _is_due(locks: Locks, memory: _Memory, now: datetime) -> bool:
    return memory.renewed_at is None or now - memory.renewed_at >= locks.period / 2


def _needed(repository: Repository, kept: set[BackupId]) -> Iterator[str]:
    """Keys of what kept backups need: all packs and index objects that are in use, and their manifests and documents."""
    skip = len(repository.prefix)
    retired: set[str] = set()
    for info in listed(repository.store, repository.prefix, Keys.INDEX):
        name = info.key[skip:]
        if not name.startswith(Keys.RETIRED):
            continue
        try:
            body = repository.store.get(info.key, most_bytes(name))
            found = read_retirement(name, body, info.modified, repository.url(name))
        except (CorruptObject, ObjectMissing):
            continue  # what a damaged one retired is in use again
        retired |= {Keys.pack(pack_id) for pack_id in found.packs} | found.index
    for folder in (Keys.PACKS, Keys.INDEX):
        for info in listed(repository.store, repository.prefix, folder):
            if Locks.wants(info.key[skip:]) and info.key[skip:] not in retired:
                yield info.key
    for backup_id in sorted(kept):
        yield repository.prefix + Keys.manifest(backup_id)
    for name in sorted(DOCUMENTS):
        for info in all_below(repository.store, f"{repository.prefix}{name}/"):
            if Locks.wants(info.key[skip:]) and info.key.rsplit("/", 1)[1].removesuffix(".json") in kept:
                yield info.key


def _prune(
    place: CopyPlace,
    tenant: HousedTenant,
    progress: ProgressSink,
    done: _Done,
) -> None:
    """Remove what no kept backup needs and the source does not have."""
    report = prune(place.target, tenant, False, progress, elsewhere=at_source(place, tenant))
    if not isinstance(report, NothingToPrune):
        done.objects, done.bytes = report.objects_deleted, report.bytes_freed


def at_source(place: CopyPlace, tenant: HousedTenant) -> frozenset[str]:
    """Names of packs, index objects and component documents that the source has: prunes at the copy leave them alone."""
    folders = (Keys.PACKS, Keys.INDEX, *(f"{name}/" for name in COMPONENTS))
    return frozenset(_source_names(place, tenant, folders))


def _source_names(place: CopyPlace, tenant: HousedTenant, folders: Sequence[str]) -> Iterator[str]:
    """Names below the prefix of what the source has in these folders, without what only its own prunes need."""
    store, prefix = place.source.backup_store(tenant)
    for folder in folders:
        for info in all_below(store, prefix + folder):
            name = info.key[len(prefix) :]
            if Locks.wants(name) and (folder in (Keys.PACKS, Keys.INDEX, Keys.MANIFESTS) or is_component(name)):
                yield name


# copy.json


def _remembered(repository: Repository) -> _Memory:
    """What was remembered; nothing where it is damaged or forged: then locks are renewed, and forgotten backups come again."""
    try:
        fields = read_signed(repository, Keys.COPY, _KIND)
        renewed = fields.get("renewed_at")
        said = fields.get("going")
        going = {BackupId(i): list(map(str, why)) for i, why in said.items()} if isinstance(said, dict) else {}
        return _Memory(parsed(str(renewed)).astimezone(UTC) if renewed else None, _ids(fields.get("forgotten")), going)
    except (ObjectMissing, CorruptObject, TypeError, ValueError, OverflowError):
        return _Memory()


def _store(repository: Repository, before: _Memory, after: _Memory) -> _Memory:
    if after != before:
        fields = {
            "renewed_at": timestamp(after.renewed_at) if after.renewed_at else None,
            "forgotten": sorted(after.forgotten),
            **({"going": dict(after.going)} if after.going else {}),
        }
        repository.store.put(repository.prefix + Keys.COPY, signed(repository, _KIND, fields))
    return after


def _ids(names: object) -> frozenset[BackupId]:
    found = names if isinstance(names, list) else []
    return frozenset(BackupId(name) for name in found if isinstance(name, str) and BackupId.valid(name))


__all__ = ["CopyKept", "at_source", "enforce", "floor_of", "forgotten_here"]
