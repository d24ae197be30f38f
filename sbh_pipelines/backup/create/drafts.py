"""Drafts on their way through the steps: begun, held by a lease, failed, ended.

A step takes drafts and returns drafts, in the same order. What fails for one tenant ends that tenant's draft, writes a
failure record, and releases the lease; the others of the batch go on.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from functools import partial

from sbh_pipelines.backup.contents.backup_list import LatestBackup, read_head_seen, read_latest
from sbh_pipelines.backup.create.conditional_puts import ConditionalPuts
from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.backup.create.files.files_beside import FilesBeside, list_beside
from sbh_pipelines.backup.site.moves import known_moves, moved_error, refuse_elsewhere
from sbh_pipelines.backup.site.owners import KeySeen
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.database.schema.tenants import find_tenants, unknown
from sbh_pipelines.database.session.connection import Connection
from sbh_pipelines.database.session.snapshot import exported_snapshot
from sbh_pipelines.errors import LeaseLost, ObjectMissing, SbhError, unforeseen
from sbh_pipelines.model import BackupId, BackupType, RecoveryPoint, Tenant, TenantId, timestamp
from sbh_pipelines.placement import audit_place
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.format import Keys, pretty
from sbh_pipelines.repository.inventory import Inventory
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.stores.base import ObjectStore

_ID_MINUTE = len("backup_20240115_1200")
SIDE_BY_SIDE = 8  # tenants whose small requests go out at once
MOST_FILES = 50_000  # listed ones that are kept from the snapshot on: some 20 MB


class OpenDrafts:
    """What this process has open for drafts under way: leases and repositories. Another process opens its own."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._leases: dict[str, leases.Lease] = {}
        self._repositories: dict[str, Repository] = {}
        self._inventories: dict[str, Inventory] = {}  # what was listed for commits
        self._made: dict[str, LatestBackup] = {}  # by this process
        self._seen: dict[str, KeySeen] = {}  # key objects that were read while leases were taken, until they are used
        self._since: dict[str, float] = {}  # when leases had been taken, by the monotonic clock
        self._conditional = ConditionalPuts(site.settings.storage)
        self._files: dict[str, FilesBeside] = {}  # what the listings of repositories showed of files beside them
        self._listed, self._lock = 0, threading.Lock()  # how many files are kept there
        self._crowded = set[str]()  # owners of leases of those that such a listing does not show in one page

    def lease(self, draft: Draft) -> leases.Lease:
        """The draft's lease, still ours. Raises LeaseLost, and PrimaryFenced where a copy took over since."""
        self.site.fence.check(draft.tenant.region)
        held = self._leases.get(draft.lease_owner)
        if held is not None:
            held.renew_if_due()
            return held
        # Another process took it. Had anybody else held it since, a prune may have removed what the draft relies on.
        return self._hold(draft, leases.resume)

    def take(self, draft: Draft, released: leases.ReleasedLease | None = None) -> leases.Lease:
        """Acquire the tenant's lease for the draft. Raises LeaseHeld, SlugTaken, PrimaryFenced.

        `released`: how the last backup left it.
        """
        self.site.fence.check(draft.tenant.region)

        def look() -> None:
            # Before the lease is touched, for it may be another tenant's; and what the key object says is as good as read under it.
            if (seen := self.site.owners.check(draft.tenant)) is not None:
                self._seen[draft.lease_owner] = seen

        def admit() -> None:
            self.site.admit(draft.tenant)

        place, alone = self.site.backup_place(draft.tenant), draft.in_one_process
        unread = released if self._conditional.are_sure(place) else None
        acquire = partial(leases.acquire, admit=admit, look=look, in_one_process=alone, orphans=True, released=unread)
        try:
            held = self._hold(draft, acquire)
        except BaseException:
            self._seen.pop(draft.lease_owner, None)
            raise
        if released is not None:
            self._conditional.try_under(held, place)
        return held

    def refuse_elsewhere(self, draft: Draft) -> Draft:
        """The draft, whose lease is held, or a failed one where its tenant is backed up at another site: asked only now, the
        answer stays true until the lease is released.
        """
        try:
            refuse_elsewhere(self.site, draft.tenant, self._since[draft.lease_owner])
        except SbhError as error:
            self.end(draft)  # and no failure record: the id may be that of a backup which is on its way
            return replace(draft, lease_owner="").failed("begin", error)
        return draft

    def rename(self, draft: Draft) -> None:
        """The draft, whose lease is held, has another id: the lease says which backup it is for. Raises LeaseLost."""
        self._leases[draft.lease_owner].rename(str(draft.backup_id))

    def begins(self, draft: Draft) -> bool:
        """Whether nobody has written anything of the tenant before: there was no lease, and no key, when the draft's was taken."""
        held, seen = self._leases.get(draft.lease_owner), self._seen.get(draft.lease_owner)
        return held is not None and held.first and seen is not None and seen.found is None

    def _hold(self, draft: Draft, get: Callable[..., leases.Lease]) -> leases.Lease:
        store, prefix = self.site.backup_store(draft.tenant)
        seconds = self.site.settings.backup.lease_s
        held = get(store, prefix, draft.lease_owner, str(draft.backup_id), seconds, self.site.clock)
        self._leases[draft.lease_owner] = held
        self._since[draft.lease_owner] = time.monotonic()
        return held

    def released(self, draft: Draft) -> str | None:
        """ETag that the draft's lease will have once it is released; None where that cannot be told."""
        held = self._leases.get(draft.lease_owner)
        will_be = held.released if held is not None else None
        return will_be.etag if will_be is not None else None

    def snapshot(self) -> AbstractContextManager[tuple[str, RecoveryPoint, Connection]]:
        """The instant that a batch describes: (snapshot id, recovery point, the connection that holds it)."""
        return exported_snapshot(self.site.settings.database)

    def all_leases(self) -> "list[leases.Lease]":
        return list(self._leases.values())

    def repository(self, draft: Draft, *, files: str | None = None) -> Repository:
        """The tenant's repository, open for writing, its index read.

        `files`: a fingerprint of the tenant's files, if they may be listed as well, the snapshot being taken.
        """
        known = self._repositories.get(draft.lease_owner)
        if known is None:
            seen, since = self._seen.pop(draft.lease_owner, None), self._since.get(draft.lease_owner)
            known = self.site.repository(draft.tenant, create=True, seen=seen, since=since)
            self._check_place(draft, known)
            if known.new:
                created = {"region": draft.tenant.region, "epoch": known.sealer.epoch}
                with suppress(SbhError):  # no reason not to back up: the key object itself tells of the key
                    self.site.track(draft.tenant, "key.created", draft.created_by, created)
            beside = None
            if files and not known.new:
                beside, crowded = list_beside(self.site, draft.tenant, known, files)
                if crowded:
                    self._crowded.add(draft.lease_owner)
            if beside is not None:
                self._keep_files(draft, beside)
            known.take_inventory(beside.objects if beside is not None else None)
            latest = None if known.new else read_latest(known)
            known.load_index(latest.index if latest is not None else {})
            chunks = latest.chunks if latest is not None else {}
            known.at_hand = {chunk: plain for chunk, plain in chunks.items() if known.sealer.name(plain) == chunk}
            self._repositories[draft.lease_owner] = known
        return known

    def _keep_files(self, draft: Draft, beside: FilesBeside) -> None:
        """Until the files step; not the repository's objects, which are in the inventory, and no more files than memory is for."""
        with self._lock:
            fits = self._listed + len(beside.files or ()) <= MOST_FILES
            kept = replace(beside, objects=(), files=beside.files if fits else None)
            self._listed += len(kept.files or ())
        self._files[draft.lease_owner] = kept

    def _check_place(self, draft: Draft, repository: Repository) -> None:
        """Raises LeaseLost where the lease is that of another place: the slug changed hands between the two."""
        held = self._leases.get(draft.lease_owner)
        if held is not None and held.key != repository.prefix + Keys.LEASE:
            raise LeaseLost(
                "The slug changed hands while a lease on its repository was taken",
                on=str(draft.tenant.id),
                why="the lease is on the former tenant's repository",
                remedy="run again",
            )

    def reopened(self, draft: Draft) -> Repository:
        """The tenant's repository once more, to see what the store has; the caller closes it."""
        known = self._repositories.get(draft.lease_owner)
        again = self.site.repository(draft.tenant) if known is None else known.again()
        if (seen := self._inventories.get(draft.lease_owner)) is not None:
            again.inventory = seen
        return again

    def files_beside(self, draft: Draft) -> FilesBeside | None:
        """The tenant's files, where the listing that opened the repository showed them; after the snapshot. Told once."""
        beside = self._files.pop(draft.lease_owner, None)
        with self._lock:
            self._listed -= len((beside and beside.files) or ())
        return beside

    def is_crowded(self, draft: Draft) -> bool:
        """Whether that listing was tried, and one page did not hold them."""
        return draft.lease_owner in self._crowded

    def latest(self, draft: Draft) -> LatestBackup | None:
        """The backup that was the newest when the tenant's repository was opened; None where that is not known."""
        known = self._repositories.get(draft.lease_owner)
        return None if known is None or known.new else read_latest(known)

    def expect_trail_end(self, draft: Draft) -> None:
        """Have the tenant's audit trail begin where the last backup left it, so that its head need not be read."""
        known = self._repositories.get(draft.lease_owner)
        # Where its links lie, and where its head lies.
        places = self.site.backup_place(draft.tenant), audit_place(self.site.settings, draft.tenant.region)
        if known is None or not all(map(self._conditional.are_sure, places)):
            return
        if (head := read_head_seen(known)) is not None:
            self.site.trails.of(draft.tenant).expect(head)

    def committed(self, draft: Draft, repository: Repository, etag: str) -> None:
        """Keep what was listed for the commit: until the lease is released nobody else adds a backup, or takes one away.

        And what the next backup needs of this one, whose manifest has this ETag.
        """
        assert draft.manifest is not None
        self._inventories[draft.lease_owner] = repository.inventory
        known = self._repositories.get(draft.lease_owner)
        at_hand = known.small_chunks() if known is not None else {}
        if (made := LatestBackup.of(draft.manifest, draft.components, etag, repository, at_hand)) is not None:
            self._made[draft.lease_owner] = made

    def made(self, draft: Draft) -> LatestBackup | None:
        """The draft's backup, as the next one needs it; None where this process did not commit it."""
        return self._made.get(draft.lease_owner)

    def end(self, draft: Draft) -> None:
        """Release the lease and close what is open for the draft."""
        for kept in (self._seen, self._since):
            kept.pop(draft.lease_owner, None)
        self.files_beside(draft)
        self._crowded.discard(draft.lease_owner)
        self._inventories.pop(draft.lease_owner, None)
        self._made.pop(draft.lease_owner, None)
        if repository := self._repositories.pop(draft.lease_owner, None):
            repository.close()
        if draft.lease_owner:
            held = self._leases.get(draft.lease_owner)
            with suppress(SbhError):  # lost already: there is nothing to release
                (held or self._hold(draft, leases.resume)).release()
            self._leases.pop(draft.lease_owner, None)  # a keeper that has it in hand leaves it as it is

    def fail(self, draft: Draft, step: str, error: SbhError) -> Draft:
        """End the draft as failed and leave a record that `backup status` finds."""
        failed = draft.failed(step, error)
        if not draft.lease_owner:
            return failed  # it was never started: its id is nobody's, or another backup's
        with suppress(SbhError):  # the store may be what failed; the draft itself carries the error
            if isinstance(error, LeaseLost):
                self.site.admit(draft.tenant)  # an erasure may have taken it: then nothing is left behind
            store, prefix = self.site.backup_store(draft.tenant)
            record = {
                "id": draft.backup_id,
                "tenant_id": draft.tenant.id,
                "type": draft.type,
                "status": "failed",
                "step": step,
                "failed_at": timestamp(self.site.clock()),
                "error": error.as_dict(),
            }
            store.put(prefix + Keys.failure(draft.backup_id), pretty(record))
        self.end(draft)
        return failed

    def each(self, drafts: Sequence[Draft], step: str, work: Callable[[Draft], Draft]) -> list[Draft]:
        """`work` on every running draft, several at once; what raises fails its own draft only."""

        def one(draft: Draft) -> Draft:
            if draft.status is not DraftStatus.RUNNING:
                return draft
            try:
                return work(draft)
            except SbhError as error:
                return self.fail(draft, step, error)
            except Exception as error:
                return self.fail(draft, step, unforeseen(error, draft.tenant.id))

        live = running(drafts)  # of a large tick few are, and the others need no thread
        if len(live) < 2:
            return [one(draft) for draft in drafts]
        results = side_by_side(one, live, name=step, threads=SIDE_BY_SIDE)
        done = {draft.tenant.id: result for draft, result in zip(live, results, strict=True)}
        return [done.get(draft.tenant.id, draft) for draft in drafts]

    @contextmanager
    def kept(self, drafts: Sequence[Draft]) -> Iterator[None]:
        """Renew all leases in the background while a step works."""
        with leases.LeaseKeeper(self.all_leases, self.site.settings.backup.lease_s / 6):
            yield


def running(drafts: Sequence[Draft]) -> list[Draft]:
    return [d for d in drafts if d.status is DraftStatus.RUNNING]


def begin(
    open_drafts: OpenDrafts,
    slugs: Sequence[TenantId],
    created_by: str,
    kind: BackupType,
    description: str | None,
    *,
    in_one_process: bool = False,
) -> list[Draft]:
    """One draft per slug. Unknown tenants, and those that went to another site, are failed drafts.
    `in_one_process`: this process goes through all of the steps.

    A full backup is started at once: lease taken, id chosen. Any other starts when the first step finds that there is
    something to store: most tenants of a tick have not changed, and cost nothing.
    """
    tenants = find_tenants(open_drafts.site.settings, list(slugs))
    moves, now = known_moves(open_drafts.site, tenants.values()), open_drafts.site.clock()

    def fresh(slug: TenantId) -> Draft:
        draft = new_draft(tenants.get(slug) or Tenant(slug, "", "", ""), created_by, kind, description, now)
        draft = replace(draft, in_one_process=in_one_process)
        if slug not in tenants:
            return draft.failed("begin", unknown(slug))
        move = moves.get(draft.tenant)
        return draft if move is None else draft.failed("begin", moved_error(draft.tenant, move))

    drafts = [fresh(slug) for slug in dict.fromkeys(slugs)]
    return open_drafts.each(drafts, "begin", lambda d: start(open_drafts, d)) if kind is BackupType.FULL else drafts


def new_draft(tenant: Tenant, created_by: str, kind: BackupType, description: str | None, now: datetime) -> Draft:
    """A draft that is not started yet: without a lease, its id not chosen for good."""
    began = now.isoformat()
    return Draft(
        tenant, BackupId.at(now), kind, created_by, timestamp(now), "", description, requested=kind, begun=began
    )


def start(open_drafts: OpenDrafts, fresh: Draft, released: leases.ReleasedLease | None = None) -> Draft:
    """Take the tenant's lease and choose the backup's id; a draft that cannot be started is failed.

    `released`: how the last backup left the lease, where the catalog knows it.
    """
    fresh = replace(fresh, lease_owner=leases.new_owner("backup"))
    try:
        held = open_drafts.take(fresh, released)
    except SbhError as error:
        # No failure record: the id may be that of the backup whose lease is in the way.
        return replace(fresh, lease_owner="").failed("begin", error)
    try:
        # Only under the lease: the writer that held it before may have used the id a moment ago.
        named = fresh if open_drafts.begins(fresh) else _with_free_id(open_drafts.site, fresh, held.last_purpose)
        if named.backup_id != fresh.backup_id:
            open_drafts.rename(named)
        return named
    except SbhError as error:
        open_drafts.end(fresh)
        return fresh.failed("begin", error)


def _with_free_id(site: Site, draft: Draft, last_purpose: str) -> Draft:
    """The draft with an id that no backup of the tenant has or had: committed, failed, forgotten or cut short."""
    if last_purpose.startswith("backup_") and last_purpose[:_ID_MINUTE] < draft.backup_id:
        return draft  # whoever held the lease last worked on an earlier minute's backup: none of this minute was begun
    store, prefix = site.backup_store(draft.tenant)
    moment = site.clock()
    for nth in range(1, 10_000):
        backup_id = BackupId.at(moment, nth)
        used = (Keys.manifest(backup_id), Keys.failure(backup_id), Keys.component("database", backup_id))
        if not any(_exists(store, prefix + key) for key in used):
            return replace(draft, backup_id=backup_id)
    raise AssertionError("ten thousand backups of one tenant in one minute")


def _exists(store: ObjectStore, key: str) -> bool:
    try:
        store.head(key)
    except ObjectMissing:
        return False
    return True


def abandon(open_drafts: OpenDrafts, drafts: Sequence[Draft]) -> None:
    """Release the leases of drafts whose run will not go on."""
    for draft in running(drafts):
        open_drafts.end(draft)
