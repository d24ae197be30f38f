"""The service's calls about what is kept: retention, pins and legal holds, prune, the catalogs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from sbh_pipelines.backup.contents.manifests import is_relative
from sbh_pipelines.backup.contents.ownership import is_anothers, refuse_anothers, resolve_named
from sbh_pipelines.backup.copies.place import open_copy
from sbh_pipelines.backup.copies.state import CopyStates
from sbh_pipelines.backup.retain import forget as forgetting
from sbh_pipelines.backup.retain import holds
from sbh_pipelines.backup.retain.forget import RetentionOutcome
from sbh_pipelines.backup.retain.holds import HoldLine
from sbh_pipelines.backup.retain.journal_retention import JournalUpkeep, has_journal, keep_journal
from sbh_pipelines.backup.retain.prune import NothingToPrune, PruneReport, prune
from sbh_pipelines.backup.service.gate import FENCED, Gate
from sbh_pipelines.errors import LeaseHeld, SbhError
from sbh_pipelines.model import BackupId, ProgressSink, Tenant, no_progress
from sbh_pipelines.placement import platform_tenant
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.security.policy import ALL_TENANTS, UserContext

_PRUNED = ("packs_retired", "packs_rewritten", "packs_deleted", "bytes_freed")


class Retention:
    """What is kept: forgetting by policy, pins and legal holds, prune, the catalogs."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self._site = gate, gate.site

    # forgetting, and what may not be forgotten

    def forget(
        self, tenant_id: str, user_ctx: UserContext, *, backup_id: str | None = None, dry_run: bool = False
    ) -> RetentionOutcome:
        """Apply the policy, or forget one backup.

        Raises UnknownBackup, ForgetRefused (pinned, held, the newest, the last full one), LeaseHeld.
        """
        tenant = self._gate.allowed(tenant_id, user_ctx, "backup.forget")
        wanted = None if backup_id is None else self._named(tenant, backup_id)
        if dry_run:
            self._gate.accessed(tenant, user_ctx, "retention")
        return forgetting.forget(self._site, tenant, user_ctx.user_id, wanted, dry_run)

    def pin(self, backup_id: str, tenant_id: str, user_ctx: UserContext, reason: str | None = None) -> HoldLine:
        """Keep a backup until it is unpinned; the pin as `list_holds` gives it. Raises UnknownBackup, AccessDenied over a pin of
        the platform's.
        """
        _check(backup_id)
        by_platform = user_ctx.tenant_id == ALL_TENANTS
        with self._held_in(tenant_id, user_ctx, "backup.hold") as (tenant, repository):
            wanted = resolve_named(repository, backup_id, tenant.key)
            self._refuse_anothers(repository, wanted, tenant, user_ctx)
            self._may_release(repository, f"pin-{wanted}", user_ctx)
            placed = holds.place_pin(
                repository,
                wanted,
                reason or "",
                user_ctx.user_id,
                self._site.clock,
                by_platform,
                lambda: self._may_release(repository, f"pin-{wanted}", user_ctx),
            ).line()
            self._site.track(tenant, "backup.pinned", user_ctx.user_id, _props(placed))
            return placed

    def unpin(self, backup_id: str, tenant_id: str, user_ctx: UserContext) -> HoldLine:
        """The pin that was taken away. Raises UnknownHold, AccessDenied where it is the platform's."""
        _check(backup_id)
        with self._held_in(tenant_id, user_ctx, "backup.hold") as (tenant, repository):
            wanted = resolve_named(repository, backup_id, tenant.key)
            self._refuse_anothers(repository, wanted, tenant, user_ctx)
            self._may_release(repository, f"pin-{wanted}", user_ctx)
            record = self._releasing(tenant, user_ctx, "backup.unpinned")
            return holds.release(repository, f"pin-{wanted}", record).line()

    def hold(self, tenant_id: str, user_ctx: UserContext, *, reason: str, backup_id: str | None = None) -> HoldLine:
        """Place a legal hold on a backup, or on all of the tenant's, present and future: the platform's. Raises UnknownBackup."""
        if backup_id is not None:
            _check(backup_id)
        with self._held_in(tenant_id, user_ctx, "hold.legal", create=backup_id is None) as (tenant, repository):
            wanted = None if backup_id is None else resolve_named(repository, backup_id, tenant.key)
            placed = holds.place_hold(repository, wanted, reason, user_ctx.user_id, self._site.clock).line()
            self._site.admit(tenant)  # an erasure that began meanwhile either saw the hold, or is seen now
            self._site.track(tenant, "hold.placed", user_ctx.user_id, _props(placed))
            return placed

    def release(
        self, hold_id: str, tenant_id: str, user_ctx: UserContext, *, former_key: str | None = None
    ) -> HoldLine:
        """Take away a legal hold, also a damaged one; what it was. `former_key`: of a tenant that had the slug before. Raises
        UnknownHold.
        """
        with self._held_in(tenant_id, user_ctx, "hold.legal", former_key=former_key) as (tenant, repository):
            record = self._releasing(tenant, user_ctx, "hold.released")
            return holds.release(repository, hold_id, record).line()

    def _may_release(self, repository: Repository, pin_id: str, user_ctx: UserContext) -> None:
        """A pin is its placer's: the platform's, or one of which it cannot be read whose it is, is not for the tenant's users."""
        placed = holds.find_hold(repository, pin_id)
        if placed is not None and (placed.by_platform or placed.damage is not None):
            self._gate.authorize(user_ctx, "hold.legal", repository.tenant)

    def _refuse_anothers(
        self, repository: Repository, backup_id: BackupId, tenant: Tenant, user_ctx: UserContext
    ) -> None:
        """A repository may hold backups of a tenant that had the slug before: they are not for the tenant's users."""
        if user_ctx.tenant_id != ALL_TENANTS:
            refuse_anothers(repository, backup_id, tenant.key)

    def _releasing(self, tenant: Tenant, user_ctx: UserContext, event: str) -> Callable[[holds.Hold], None]:
        """First the event: protection is not taken away unless it is recorded who did."""
        return lambda hold: self._site.track(
            tenant, event, user_ctx.user_id, {"hold_id": hold.id, "backup_id": hold.backup_id}
        )

    def holds(self, tenant_id: str, user_ctx: UserContext, *, former_key: str | None = None) -> list[HoldLine]:
        """Pins and legal holds; with `former_key` of a tenant that had the slug before, for platform administrators.

        Raises UnknownBackup where the tenant has no repository.
        """
        with self._held_in(tenant_id, user_ctx, "backup.list", former_key=former_key) as (tenant, repository):
            self._gate.accessed(tenant, user_ctx, "holds")
            found = holds.read_holds(repository)
            if user_ctx.tenant_id != ALL_TENANTS:
                held = {hold.backup_id for hold in found if hold.backup_id is not None}
                others = {backup_id for backup_id in held if is_anothers(repository, backup_id, tenant.key)}
                found = [hold for hold in found if hold.backup_id not in others]
            return [hold.line() for hold in found]

    def _named(self, tenant: Tenant, backup_id: str) -> BackupId:
        if not is_relative(backup_id):
            return BackupId.parse(backup_id)
        with self._site.repository(tenant) as repository:
            return resolve_named(repository, backup_id, tenant.key)

    @contextmanager
    def _held_in(
        self,
        tenant_id: str,
        user_ctx: UserContext,
        action: str,
        *,
        create: bool = False,
        former_key: str | None = None,
    ) -> Iterator[tuple[Tenant, Repository]]:
        tenant = self._gate.allowed(tenant_id, user_ctx, action, former_key=former_key)
        with self._site.repository(tenant, create=create) as repository:
            yield tenant, repository
        if action in FENCED:  # no lease is held: a promotion waited for nobody, and may have seen nothing of it
            self._site.fence.check_anew(tenant.region)

    # the repository

    def prune(
        self,
        tenant_id: str,
        user_ctx: UserContext,
        *,
        dry_run: bool = False,
        progress: ProgressSink = no_progress,
    ) -> PruneReport | NothingToPrune:
        """Give back the space of what no backup needs.

        What is retired now is deleted by a prune after `prune.min_age_hours`. Raises PruneRefused when a backup is damaged
        or clocks differ, LeaseHeld while the tenant is backed up or restored; nothing was removed then.
        """
        tenant = self._gate.allowed(tenant_id, user_ctx, "repository.prune")
        done = prune(self._site, tenant, dry_run, progress)
        if isinstance(done, PruneReport) and not dry_run:
            figures = {name: getattr(done, name) for name in _PRUNED}
            if any(figures.values()):
                self._site.track(tenant, "repository.pruned", user_ctx.user_id, figures)
        return done

    def compact_catalogs(self, user_ctx: UserContext) -> dict[str, dict[str, int]]:
        """Merge the objects of each region's catalog, and those of the state of copies: {region: {merged, written, states}},
        `states` being the objects of the latter that went. Raises AccessDenied, and the stores' errors.
        """
        self._gate.authorize(user_ctx, "repository.prune", ALL_TENANTS)
        done, copies = (
            dict[str, dict[str, int]](),
            [open_copy(self._site, one.name) for one in self._site.settings.copies],
        )
        for region in self._site.settings.storage.regions:
            done[region] = asdict(self._site.catalog(region).compact())
            states = [CopyStates(copy.with_left_regions()).keep_at_source(region) for copy in copies]
            done[region]["states"] = sum(states)
        return done

    def keep_journals(self, user_ctx: UserContext, *, dry_run: bool = False) -> list[JournalUpkeep]:
        """Merge the change journal of each region that has one, and remove what no promised moment needs.

        A region that somebody else sees to just now is left out. Raises AccessDenied, and, when all others are done, why a region
        failed: PruneRefused where clocks differ, the store's errors.
        """
        self._gate.authorize(user_ctx, "repository.prune", ALL_TENANTS)
        done, failed = list[JournalUpkeep](), list[SbhError]()
        for region in self._site.settings.storage.regions:
            try:
                if has_journal(self._site, region):
                    done.append(keep_journal(self._site, region, dry_run=dry_run))
            except LeaseHeld:
                continue
            except SbhError as error:
                failed.append(error)
        for one in done:
            if one.changed and not dry_run:
                figures = {"region": one.region, "removed": len(one.removed), "bytes_freed": one.bytes_freed}
                figures |= {"merged": len(one.merged), "gaps_removed": one.gaps_removed}
                self._site.track(platform_tenant(self._site.settings), "journal.pruned", user_ctx.user_id, figures)
        if failed:
            raise failed[0]
        return done


def _check(backup_id: str) -> None:
    """Raises InvalidId before anything is opened."""
    if not is_relative(backup_id):
        BackupId.parse(backup_id)


def _props(placed: HoldLine) -> dict[str, str | None]:
    """What the audit trail keeps of a hold, its reason cut."""
    return {"hold_id": placed.id, "backup_id": placed.backup_id, "reason": placed.reason[:256]}
