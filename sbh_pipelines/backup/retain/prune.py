"""Give back the space of what no backup of a tenant needs: mark what all of them need, plan, carry out, report.

It refuses where it cannot know what is needed: a backup that cannot be read to its last detail may need anything. And it
refuses where clocks differ: who holds the lease and how old an object is are told by clocks.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

from sbh_pipelines.backup.contents.manifest import Manifest
from sbh_pipelines.backup.contents.manifests import read_manifest
from sbh_pipelines.backup.contents.verification import chunks_of
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.document import optional
from sbh_pipelines.errors import RepositoryError, SbhError, StoreError, UnknownBackup
from sbh_pipelines.model import BackupId, Clock, Progress, ProgressSink, Tenant, TenantId, timestamp
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.bounds import listed
from sbh_pipelines.repository.format import FIRST_EPOCH, Keys, pack_id_of
from sbh_pipelines.repository.index import Marks
from sbh_pipelines.repository.keys.data_key import KeyPlace, read_key_object
from sbh_pipelines.repository.prune import Report, execute
from sbh_pipelines.repository.prune_plan import (
    DAMAGED_REMEDY,
    Decision,
    Plan,
    Safety,
    Shape,
    find_missing,
    make_plan,
    refused,
)
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.settings import Settings

_NAMED = 10  # damaged backups in an error
_DETAILS = 64  # kept in memory: backups share the details of what did not change between them


@dataclass(frozen=True, slots=True)
class NothingToPrune:
    """A tenant in whose repository nothing can be told to be needless.

    Attributes:
        tenant_id: The tenant.
        dry_run: Whether nothing was to be changed.
        backups: How many backups there are.
        note: Why nothing was done.
        requests: Requests made to the object store, by verb; absent where there is no repository.
        seconds: How long it took, s; absent where there is no repository.
    """

    tenant_id: TenantId
    dry_run: bool
    backups: int
    note: str
    requests: Mapping[str, int] | None = optional()
    seconds: float | None = optional()


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What a prune decided, and what it did about it; of a dry run the second part is zeros. Bytes are of stored objects.

    Attributes:
        tenant_id: The tenant.
        dry_run: Whether nothing was changed.
        backups: How many backups were read to the last detail.
        chunks_needed: Different chunks that they need.
        prune_id: The prune's id.
        packs_before: Packs in use before.
        bytes_before: Their bytes.
        index_objects_before: Index objects in use before.
        packs_to_retire: Packs of which nothing is needed.
        packs_to_rewrite: Packs of which so little is needed that it is copied elsewhere.
        bytes_to_rewrite: Bytes that are copied.
        packs_to_remove: Packs that an earlier prune retired long enough ago.
        objects_to_remove: Those, and other objects of that kind.
        bytes_to_remove: Their bytes.
        bytes_to_retire: Bytes of the packs that are retired or rewritten.
        index_objects_to_replace: Index objects that are merged.
        kept_because_young: Needless objects that are too young to be touched.
        bytes_kept_because_young: Their bytes.
        decisions: The first decisions, one by one.
        packs_retired: Packs retired as they are.
        bytes_retired: Bytes of all packs given up.
        packs_rewritten: Packs retired after what is needed of them was copied.
        packs_written: Packs that were written for that.
        bytes_rewritten: Bytes of these.
        packs_deleted: Packs removed.
        objects_deleted: Objects removed, packs among them.
        bytes_freed: Bytes of these.
        index_objects_replaced: Index objects that were merged.
        index_objects_written: Index objects that were written.
        packs_after: Packs there after.
        index_objects_after: Index objects in use after.
        requests: Requests made to the object store, by verb.
        seconds: How long it took, s.
    """

    tenant_id: TenantId
    dry_run: bool
    backups: int
    chunks_needed: int
    prune_id: str
    packs_before: int
    bytes_before: int
    index_objects_before: int
    packs_to_retire: int
    packs_to_rewrite: int
    bytes_to_rewrite: int
    packs_to_remove: int
    objects_to_remove: int
    bytes_to_remove: int
    bytes_to_retire: int
    index_objects_to_replace: int
    kept_because_young: int
    bytes_kept_because_young: int
    decisions: Sequence[Decision]
    packs_retired: int
    bytes_retired: int
    packs_rewritten: int
    packs_written: int
    bytes_rewritten: int
    packs_deleted: int
    objects_deleted: int
    bytes_freed: int
    index_objects_replaced: int
    index_objects_written: int
    packs_after: int
    index_objects_after: int
    requests: Mapping[str, int]
    seconds: float


def prune(
    site: Site,
    tenant: Tenant,
    dry_run: bool,
    progress: ProgressSink,
    *,
    re_encrypt: bool = False,
    elsewhere: frozenset[str] | None = None,
) -> PruneReport | NothingToPrune:
    """Plan, and unless `dry_run` carry out.

    `re_encrypt`: besides, whatever is sealed in an earlier key epoch is sealed anew in the newest. `elsewhere`: the repository is
    a copy, and these are the keys, below the prefix, that its source has: they are left alone, and of a chunk that lies in
    several packs the one in a pack of these is read. A dry run takes no lease and writes nothing. Raises LeaseHeld, LeaseLost,
    PruneRefused and the store's errors.
    """
    begun, before = time.monotonic(), site.request_counts()
    with ExitStack() as stack:
        try:
            repository = stack.enter_context(site.repository(tenant))
        except UnknownBackup:
            return NothingToPrune(tenant.id, dry_run, 0, "the tenant has no backups")
        held = None if dry_run else lease_for(site, tenant, "prune", stack)
        if held is not None and not _is_of_newest_epoch(site, tenant, repository):
            # The lease's former holder began a key epoch.
            repository = stack.enter_context(site.repository(tenant))
        now = site.clock() if held is None else store_time(repository, site.clock, site.settings)
        shape = replace(_shape(site.settings), re_encrypt=re_encrypt, stays=elsewhere or frozenset())
        if elsewhere is not None:
            # Read where nothing else has what they hold: so what the source put into other packs is needed of those only.
            repository.left_behind |= _not_among(repository, elsewhere)
        pruned = _prune(site.settings, repository, held, now, shape, progress)
    after = site.request_counts()
    requests = {verb: count - before.get(verb, 0) for verb, count in after.items() if count > before.get(verb, 0)}
    seconds = round(time.monotonic() - begun, 3)
    if pruned is None:
        # The last backup is never forgotten, so this is a first one under way, or a loss that must not become worse.
        note = "there is no backup, so nothing can be told from what is needed; nothing was done"
        return NothingToPrune(tenant.id, dry_run, 0, note, requests, seconds)
    plan, done = pruned.plan, pruned.done
    return PruneReport(
        tenant_id=tenant.id,
        dry_run=dry_run,
        backups=pruned.backups,
        chunks_needed=pruned.chunks_needed,
        prune_id=plan.prune_id,
        **plan.counts(),
        decisions=plan.shown(),
        **asdict(done),
        packs_after=plan.packs + done.packs_written - done.packs_deleted,
        index_objects_after=plan.index_objects + done.index_objects_written - done.index_objects_replaced,
        requests=requests,
        seconds=seconds,
    )


@dataclass(frozen=True, slots=True)
class _Pruned:
    backups: int
    chunks_needed: int
    plan: Plan
    done: Report


def _is_of_newest_epoch(site: Site, tenant: Tenant, repository: Repository) -> bool:
    """Asked under the lease. What was sealed in an epoch that ended before would be lost with its key."""
    home = site.owners.home_of(tenant)
    place = KeyPlace(repository.store, repository.prefix, tenant.id, tenant.region, site.keys, home=home)
    return read_key_object(place, FIRST_EPOCH).newest == repository.sealer.epoch


def _prune(
    settings: Settings,
    repository: Repository,
    held: leases.Lease | None,
    now: datetime,
    shape: Shape,
    progress: ProgressSink,
) -> _Pruned | None:
    """What was decided and done; None where there is no backup."""
    manifests = _manifests(repository)
    if not manifests:
        return None
    repository.load_index()
    with repository.index.marks() as marks:
        _mark(repository, marks, manifests, progress)
        missing = find_missing(repository, marks)
        if missing is not None:
            raise _damaged(repository, manifests, repository.missing(missing))
        needed = marks.count()
        ids = [str(manifest.id) for manifest in manifests]
        plan = make_plan(repository, marks, ids, now, _safety(settings), shape)
        done = Report() if held is None else execute(repository, marks, plan, held.renew, progress)
    return _Pruned(len(manifests), needed, plan, done)


def _safety(settings: Settings) -> Safety:
    given = settings.prune
    return Safety(
        min_age=timedelta(hours=given.min_age_hours),
        keep_records=timedelta(days=given.keep_records_days),
        max_clock_skew=timedelta(seconds=given.max_clock_skew_s),
    )


def _shape(settings: Settings) -> Shape:
    given = settings.prune
    return Shape(settings.backup.pack_mib << 20, given.repack_below, given.small_packs, given.index_objects)


def lease_for(site: Site, tenant: Tenant, purpose: str, stack: ExitStack) -> leases.Lease:
    """The tenant's lease, renewed until the stack is closed, and then released. Raises LeaseHeld, PrimaryFenced."""
    site.fence.check(tenant.region)
    store, prefix = site.backup_store(tenant)
    seconds = site.settings.backup.lease_s
    held = leases.acquire(store, prefix, leases.new_owner(purpose), purpose, seconds, site.clock)
    return stack.enter_context(leases.kept(held, seconds))


def _not_among(repository: Repository, keys: frozenset[str]) -> set[bytes]:
    """The packs that are none of these."""
    skip = len(repository.prefix)
    names = (info.key[skip:] for info in listed(repository.store, repository.prefix, Keys.PACKS))
    found = (pack_id_of(name.removeprefix(Keys.PACKS)) for name in names if name not in keys)
    return {pack_id for pack_id in found if pack_id is not None}


def store_time(repository: Repository, clock: Clock, settings: Settings) -> datetime:
    """The store's time, told by the lease that was written a moment ago. Raises PruneRefused when ours is another."""
    safety = _safety(settings)
    theirs = repository.store.head(repository.prefix + Keys.LEASE).modified
    ours = clock()
    if abs(theirs - ours) > safety.max_clock_skew:
        raise refused(
            repository,
            f"it is {timestamp(ours)} here and {timestamp(theirs)} at the store: leases and ages cannot be trusted",
            "correct the clock of this machine, or of the store",
        )
    return theirs


def _manifests(repository: Repository) -> list[Manifest]:
    """All of them, oldest first. Raises PruneRefused when one cannot be read."""

    def read(backup_id: BackupId) -> Manifest:
        try:
            return read_manifest(repository, backup_id)
        except RepositoryError as error:
            remedy = f"restore its older version from the bucket, or delete the object of {backup_id}; {DAMAGED_REMEDY}"
            raise refused(repository, f"{backup_id} cannot be read: {error.what} ({error.on})", remedy) from None
        except UnknownBackup:
            raise refused(repository, f"{backup_id} was forgotten just now", "run it again") from None

    return side_by_side(read, repository.manifest_ids(), name="manifests")


def _mark(repository: Repository, marks: Marks, manifests: Sequence[Manifest], progress: ProgressSink) -> None:
    """Mark what every backup needs. Raises PruneRefused when that of one cannot be told."""
    repository.remembered = _DETAILS
    for number, manifest in enumerate(manifests, 1):
        try:
            marks.add_all(chunks_of(repository, manifest))
        except (RepositoryError, StoreError) as error:
            if error.transient:
                raise
            raise _damaged(repository, manifests, error) from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise refused(repository, f"a document of {manifest.id} is malformed: {error!r}", DAMAGED_REMEDY) from None
        progress(Progress("prune: read backups", repository.tenant, number, len(manifests), "backups"))


def _damaged(repository: Repository, manifests: Sequence[Manifest], first: SbhError) -> SbhError:
    """The refusal that names the backups which lack something."""
    damaged = []
    for manifest in manifests:
        try:
            whole = all(repository.index.find(chunk) for chunk in chunks_of(repository, manifest))
        except (RepositoryError, StoreError):
            whole = False
        if not whole:
            damaged.append(manifest.id)
    names = ", ".join(damaged[:_NAMED]) + (f" and {len(damaged) - _NAMED} more" if len(damaged) > _NAMED else "")
    return refused(repository, f"damaged: {names or 'a backup'}; {first.what} ({first.on})", DAMAGED_REMEDY)
