"""Forgetting: dropping the manifests that the policy no longer keeps, or one that an admin names.

A plan is read and decided first, and shown as it is by a dry run; carrying it out needs the tenant's lease. Only manifests
go: every manifest is complete by itself, so no other backup is touched, and data is removed by prune later. A manifest
that cannot be read is never dropped by the policy, nor does it count as a backup that stays.

Killed anywhere in between, some of the doomed manifests are gone and `listing.json` still names them. The next decision
goes by `manifests/` and drops the rest.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sbh_pipelines.backup.contents.backup_list import Backups, LatestBackup, read_backups, write_listing
from sbh_pipelines.backup.contents.manifest import Manifest
from sbh_pipelines.backup.contents.ownership import KeyReader, refuse_anothers
from sbh_pipelines.backup.contents.summary import BackupSummary, Figures
from sbh_pipelines.backup.create.draft import MADE_NOW, AppliedRetention, Draft, DraftStatus
from sbh_pipelines.backup.create.drafts import OpenDrafts
from sbh_pipelines.backup.retain.holds import Hold, drop_expired, list_holds, protected, read_holds
from sbh_pipelines.backup.retain.policy import Verdict, decide, policy_of
from sbh_pipelines.backup.retain.prune import lease_for
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.document import optional
from sbh_pipelines.errors import CorruptObject, ForgetRefused, ObjectMissing, SbhError, UnknownBackup, unforeseen
from sbh_pipelines.model import BackupId, BackupType, Tenant, TenantId, parse_timestamp, timestamp
from sbh_pipelines.repository.bounds import listed, most_bytes
from sbh_pipelines.repository.catalog import owners
from sbh_pipelines.repository.format import Keys, parse_document
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.repository.trail.end import HeadSeen
from sbh_pipelines.settings import RetentionSettings

# The bucket's clock, which dates the finding of damage, may differ by this much from the one that dates backups.
CLOCK_MARGIN = timedelta(minutes=10)
ANOTHERS = "another tenant's, who had the slug before"
OF_ORPHAN = "the lease was taken from a process that was killed: the next backup forgets"
_DAMAGED = "its manifest is damaged"


@dataclass(frozen=True, slots=True)
class ForgetPlan:
    """What is to become of each backup.

    Attributes:
        verdicts: One for each backup that the plan is about, the newest first.
        backups: The backups as they were read.
        holds: The tenant's pins and holds.
        counted_from: The time of the backup that the rules are relative to, UTC; None: that of the newest.
    """

    verdicts: tuple[Verdict, ...]
    backups: Backups
    holds: tuple[Hold, ...] = ()
    counted_from: datetime | None = None

    @property
    def newest(self) -> datetime:
        """The time that terms are compared with."""
        return self.counted_from or self.backups.newest

    @property
    def doomed(self) -> list[BackupId]:
        return [v.backup_id for v in self.verdicts if not v.keep]

    @property
    def errors(self) -> tuple[SbhError, ...]:
        """Of manifests and holds that cannot be read."""
        return (*self.backups.damaged.values(), *(h.damage for h in self.holds if h.damage))


@dataclass(frozen=True, slots=True)
class Uncounted:
    """Which backups the rules of the policy are not applied to, as if they were not there; they stay.

    Attributes:
        newest: The time that terms of holds are compared with, UTC.
        backups: Why each of them is left out.
        kept: Backups that are counted, and stay whatever the rules say, with why.
    """

    newest: datetime
    backups: Mapping[BackupId, str]
    kept: Mapping[BackupId, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionLine:
    """What becomes of one backup, and why.

    Attributes:
        id: The backup.
        type: Its type.
        created_at: Time at which it was made, ISO 8601 in UTC.
        purpose: `safety` where it was made before a restore, `recovered` where it was put together for a moment of the past.
        keep: Whether it stays.
        reasons: The rules that keep it, or why it goes.
    """

    id: BackupId
    type: BackupType
    created_at: str
    purpose: str | None = optional()
    keep: bool
    reasons: Sequence[str]


@dataclass(frozen=True, slots=True)
class RetentionOutcome:
    """What the policy, or a request to forget one backup, did to a tenant's backups; of a dry run, what it would do.

    Attributes:
        tenant_id: The tenant.
        dry_run: Whether nothing was changed.
        backups: What becomes of each backup, the newest first.
        forgotten: The backups that are gone.
        errors: Manifests and holds that cannot be read.
    """

    tenant_id: TenantId
    dry_run: bool
    backups: Sequence[RetentionLine]
    forgotten: Sequence[BackupId]
    errors: Sequence[SbhError]


def policy_plan(
    repository: Repository,
    policy: RetentionSettings,
    own: BackupSummary | None = None,
    *,
    explain: bool = False,
    seen: bool = False,
    holds_anew: bool = False,
    uncounted: Callable[[Backups], Uncounted] | None = None,
) -> ForgetPlan:
    """Decide for all backups; nothing is written. `own` was made just now and stays; `explain` also reads why holds are.

    The backups that stay because they are the newest must be readable, else another one is the newest. `uncounted` says which
    of those that were read the policy is not applied to. `seen`: go by what was listed when the repository was opened;
    `holds_anew`: but for the holds, which come at any time, where backups come and go under the lease only.
    """
    backups = read_backups(repository, own, repository.seen_ids() if seen else None)
    holds = tuple(read_holds(repository) if explain else list_holds(repository, seen=seen and not holds_anew))
    proved = {own.id} if own else set()
    doubted: frozenset[BackupId] | None = None
    while True:
        apart = uncounted(backups) if uncounted else Uncounted(backups.newest, {}, {})
        safe: dict[BackupId, list[str]] = protected(holds, backups.sound, apart.newest)
        if own is not None:
            safe.setdefault(own.id, []).append(MADE_NOW)
        for backup_id, why in apart.kept.items():
            safe.setdefault(backup_id, []).append(why)
        counted = [summary for summary in backups.sound.values() if summary.id not in apart.backups]
        verdicts = decide(policy, counted, protected=safe, doubted=doubted or ())
        others = [Verdict(s, (apart.backups[s.id],)) for s in backups.sound.values() if s.id in apart.backups]
        shown = sorted([*verdicts, *others], key=lambda v: (v.backup.created_at, v.backup_id), reverse=True)
        plan = ForgetPlan(tuple(shown), backups, holds, apart.newest)
        if not plan.doomed:
            return plan
        if doubted is None and any(v.backup.full for v in verdicts if not v.keep):
            doubted = _doubted(repository, backups)
            if doubted:
                continue
        backups = _proved(repository, backups, _relied_on(verdicts, doubted or ()), proved)
        if backups is plan.backups:
            return plan


def _relied_on(verdicts: Sequence[Verdict], doubted: Collection[BackupId]) -> list[BackupId]:
    """The newest backup, and the newest full one that is not doubted: what must not be an illusion."""
    read = [v for v in verdicts if not v.backup.recovered]
    fulls = [v.backup_id for v in read if v.backup.full and v.backup_id not in doubted]
    return list(dict.fromkeys([*(v.backup_id for v in read[:1]), *fulls[:1]]))


def _proved(repository: Repository, backups: Backups, wanted: list[BackupId], proved: set[BackupId]) -> Backups:
    """The same object if the manifests of `wanted` are readable, else without those that are not."""
    gone: list[BackupId] = []
    damaged: dict[BackupId, CorruptObject] = {}
    for backup_id in wanted:
        if backup_id not in proved:
            try:
                repository.manifest(backup_id)
                proved.add(backup_id)
            except UnknownBackup:
                gone.append(backup_id)
            except CorruptObject as damage:
                damaged[backup_id] = damage
    return backups.without(gone, damaged) if gone or damaged else backups


def _doubted(repository: Repository, backups: Backups) -> frozenset[BackupId]:
    """Backups begun before a pack was last found to be damaged: they may need it. Later ones stored its chunks anew."""
    objects = listed(repository.store, repository.prefix, Keys.INDEX)
    found = [o.modified for o in objects if o.key.startswith(repository.prefix + Keys.DAMAGED)]
    if not found:
        return frozenset()
    since = max(found) + CLOCK_MARGIN
    return frozenset(backup.id for backup in backups.sound.values() if backup.created_at <= since)


def named_plan(repository: Repository, backup_id: BackupId, asked_by: str) -> ForgetPlan:
    """Forget one backup, whatever the policy says of it; one whose manifest is damaged may go.

    Raises UnknownBackup, and ForgetRefused for one that is pinned or held, the newest, or the last good full one.
    """
    backups, holds = read_backups(repository), tuple(read_holds(repository))
    place = f"{backup_id} of {repository.tenant}"
    if reasons := protected(holds, [backup_id], backups.newest).get(backup_id):
        remedy = f"see `sbh backup holds {repository.tenant}`; unpin or release it first"
        raise ForgetRefused("The backup is pinned or held", on=place, why=", ".join(reasons), remedy=remedy)
    if backup_id in backups.damaged:
        return ForgetPlan((), backups, holds)
    if backup_id not in backups.sound:
        raise UnknownBackup("No such backup", on=place, remedy=f"see `sbh backup list {repository.tenant}`")
    doomed = backups.sound[backup_id]
    if doomed.id == backups.newest_id:
        raise ForgetRefused(
            "The newest backup cannot be forgotten",
            on=place,
            why="it describes the tenant where nothing changed since",
            remedy="take another backup first: `sbh backup create --type full`",
        )
    if doomed.full and not _another_full(repository, backups, backup_id):
        raise ForgetRefused(
            "The last good full backup cannot be forgotten",
            on=place,
            why="no other full backup is known to be whole",
            remedy="take another one first: `sbh backup create --type full`",
        )
    return ForgetPlan((Verdict(doomed, (), f"{asked_by} asked to forget it"),), backups, holds)


def _another_full(repository: Repository, backups: Backups, but: BackupId) -> bool:
    doubted = _doubted(repository, backups)
    others = (b.id for b in backups.sound.values() if b.full and b.id not in {but, *doubted})
    for backup_id in sorted(others, reverse=True):
        with suppress(CorruptObject, UnknownBackup):
            repository.manifest(backup_id)
            return True
    return False


Record = Callable[[Sequence[tuple[str, BackupId, Sequence[str]]]], None]


def execute(
    repository: Repository,
    plan: ForgetPlan,
    doomed: Sequence[BackupId],
    still_ours: Callable[[], None],
    record: Record,
    tenant_key: str,
    head: Callable[[], HeadSeen | None] = lambda: None,
    latest: LatestBackup | None = None,
) -> ForgetPlan:
    """Drop the manifests, prove before that the lease is held (`still_ours` raises), and bring `listing.json` up to date.

    `record` puts (event, backup, reasons) into the audit trail, before anything is deleted: where it raises nothing is. A hold
    may be placed at any time, without the lease. One that came while the manifests were being deleted counts: its backup is
    put back. Nor is anything dropped that is another tenant's, who had the slug before, whatever the repository says. `head`: what
    is known of that trail's head, once it is recorded. `latest` is a backup that was made just now.
    """
    bodies = _bodies(repository, doomed)
    spared = _of_others(repository, bodies, tenant_key)
    doomed = [backup_id for backup_id in doomed if backup_id not in spared]
    verdicts, gone = plan.verdicts, set(doomed)
    verdicts = tuple(replace(v, rules=(ANOTHERS,)) if v.backup_id in spared else v for v in verdicts)
    if doomed:
        reasons = {v.backup_id: v.reasons for v in verdicts}
        still_ours()
        record([("backup.deleted", i, reasons.get(i, [_DAMAGED])) for i in doomed])
        repository.store.delete([repository.prefix + Keys.manifest(backup_id) for backup_id in doomed])
        late = protected(list_holds(repository), doomed, plan.newest)
        for backup_id in late.keys() & bodies.keys():
            repository.store.create(repository.prefix + Keys.manifest(backup_id), bodies[backup_id])
            record([("backup.kept", backup_id, late[backup_id])])
        gone -= late.keys()
        verdicts = tuple(replace(v, rules=tuple(late.get(v.backup_id, v.rules))) for v in verdicts)
        drop_expired(repository, plan.holds, plan.newest)
    left = plan.backups.without(gone, {})
    write_listing(repository, left, latest, head())
    return ForgetPlan(verdicts, left, plan.holds, plan.counted_from)


def recorder(site: Site, tenant: Tenant, user_id: str, via: str = "") -> Record:
    """Puts what becomes of backups into the tenant's audit trail, several at the cost of one."""

    def record(events: Sequence[tuple[str, BackupId, Sequence[str]]]) -> None:
        entries = [
            site.trails.entry(event, user_id, {"backup_id": backup_id, "reasons": list(reasons)}, via)
            for event, backup_id, reasons in events
        ]
        site.trails.record_all(tenant, entries, always=True)

    return record


def _bodies(repository: Repository, doomed: Sequence[BackupId]) -> dict[BackupId, bytes]:
    bodies = {}
    for backup_id in doomed:
        with suppress(ObjectMissing):
            bodies[backup_id] = repository.store.get(
                repository.prefix + Keys.manifest(backup_id), most_bytes(Keys.MANIFESTS)
            )
    return bodies


def _of_others(repository: Repository, bodies: Mapping[BackupId, bytes], tenant_key: str) -> set[BackupId]:
    """Those of another tenant: a repository names a bounded number of them. What is damaged says nothing of whose it is.

    A manifest of an earlier release says it in its configuration, which is looked at only where there may be more than were named.
    """
    if not tenant_key:
        return set()
    more = repository.owner is None or len(repository.owner.others) >= owners.MOST_OTHERS
    found: set[BackupId] = set()
    with KeyReader(repository) as reader:
        for backup_id, body in bodies.items():
            with suppress(CorruptObject, UnknownBackup):
                document = parse_document(body, str(backup_id))
                repository.check_signature(document, backup_id)
                manifest = Manifest(document)
                key = manifest.tenant_key if manifest.tenant_key or not more else reader.key_of(manifest)
                if key is not None and key != tenant_key and not repository.adopts(key):
                    found.add(backup_id)
    return found


def forget(site: Site, tenant: Tenant, user_id: str, backup_id: BackupId | None, dry_run: bool) -> RetentionOutcome:
    """Apply the policy to a tenant's backups, or forget one of them.

    Raises LeaseHeld while a backup, a restore or a prune is at work on the tenant.
    """
    try:
        repository = site.repository(tenant, bind=not dry_run)
    except UnknownBackup:
        if backup_id is not None:
            raise
        return RetentionOutcome(tenant.id, dry_run, (), (), ())
    with repository, ExitStack() as stack:
        still_ours = None if dry_run else lease_for(site, tenant, "forget", stack).renew
        if backup_id is None:
            plan = policy_plan(repository, policy_of(site.settings.retention, tenant), explain=True)
            doomed = plan.doomed
        else:
            plan, doomed = named_plan(repository, backup_id, user_id), [backup_id]
            if tenant.key:
                refuse_anothers(repository, backup_id, tenant.key)
        if still_ours:
            record, head = recorder(site, tenant, user_id), site.trails.of(tenant).seen
            plan = execute(repository, plan, doomed, still_ours, record, tenant.key, head)
    lines = [_line(verdict) for verdict in plan.verdicts]
    kept = {line.id for line in lines if line.keep}
    return RetentionOutcome(tenant.id, dry_run, lines, [i for i in doomed if i not in kept], plan.errors)


def _line(verdict: Verdict) -> RetentionLine:
    backup = verdict.backup
    return RetentionLine(
        id=backup.id,
        type=backup.type,
        created_at=timestamp(backup.created_at),
        purpose=backup.purpose or None,
        keep=verdict.keep,
        reasons=verdict.reasons,
    )


def apply_retention(open_drafts: OpenDrafts, drafts: Sequence[Draft], dry_run: bool) -> list[Draft]:
    """The step after the commit: forget what the policy no longer keeps, and release the leases.

    The backup exists by now, so whatever goes wrong here leaves its draft COMPLETED and is told in `draft.retention`.
    """

    def work(draft: Draft) -> Draft:
        try:
            applied = _applied(_retained(open_drafts, draft, dry_run), dry_run)
        except SbhError as error:
            applied = AppliedRetention(kept=(), forgotten=(), reasons={}, errors=(), error=error, dry_run=dry_run)
        except Exception as error:
            told = unforeseen(error, draft.tenant.id)
            applied = AppliedRetention(kept=(), forgotten=(), reasons={}, errors=(), error=told, dry_run=dry_run)
        open_drafts.end(draft)
        return replace(draft, step="apply_retention", status=DraftStatus.COMPLETED, retention=applied)

    with open_drafts.kept(drafts):
        return open_drafts.each(drafts, "apply_retention", work)


def _retained(open_drafts: OpenDrafts, draft: Draft, dry_run: bool) -> ForgetPlan:
    figures = Figures.of_manifest(draft.manifest or Manifest({}))
    own = BackupSummary(draft.backup_id, draft.type, parse_timestamp(draft.created_at), draft.purpose, figures=figures)
    with open_drafts.reopened(draft) as repository:
        policy = policy_of(open_drafts.site.settings.retention, draft.tenant)
        seen = repository.inventory.beside is not None
        plan = policy_plan(repository, policy, own, seen=seen)
        if seen and plan.doomed:  # a hold may have been placed since the commit
            plan = policy_plan(repository, policy, own, seen=True, holds_anew=True)
        if dry_run:
            return plan
        record = recorder(open_drafts.site, draft.tenant, draft.created_by, draft.via)
        made = open_drafts.made(draft)
        if open_drafts.lease(draft).of_orphan:  # who seemed dead may be at work on another machine
            plan = replace(plan, verdicts=tuple(v if v.keep else replace(v, rules=(OF_ORPHAN,)) for v in plan.verdicts))

        def still_ours() -> None:
            held = open_drafts.lease(draft)
            # The listing for the commit tells, see there; but not of a lease that may be taken before a third of its time is over.
            if held.names_process or not held.is_proved(repository.inventory.lease_etag):
                held.renew()

        head = open_drafts.site.trails.of(draft.tenant).seen
        return execute(repository, plan, plan.doomed, still_ours, record, draft.tenant.key, head, made)


def _applied(plan: ForgetPlan, dry_run: bool) -> AppliedRetention:
    return AppliedRetention(
        kept=tuple(v.backup_id for v in plan.verdicts if v.keep),
        forgotten=tuple(v.backup_id for v in plan.verdicts if not v.keep),
        reasons={v.backup_id: tuple(v.reasons) for v in plan.verdicts},
        errors=plan.errors,
        dry_run=dry_run,
    )
