"""The service's calls about a tenant that moves to another site: what it would do, and the move. Each site asks for its own
right.
"""

from sbh_pipelines.backup.move.end import end_here, give_up_here
from sbh_pipelines.backup.move.move import Brought, Moved, Mover
from sbh_pipelines.backup.move.plan import Ends, MovePlan, Stage, open_ends, plan_move
from sbh_pipelines.backup.service.backups import Backups
from sbh_pipelines.backup.service.gate import Gate
from sbh_pipelines.database.schema.tenants import find_tenant
from sbh_pipelines.errors import NotConfirmed
from sbh_pipelines.model import BackupType, ProgressSink, TenantId, no_progress
from sbh_pipelines.security.policy import UserContext

_ACTION = "tenant.move"
_FINAL, _ARRIVAL = "final backup before a move", "first backup after a move"


class Moves:
    """Tenants that move from this site to another one, or from another one to this."""

    def __init__(self, gate: Gate, backups: Backups) -> None:
        self._gate, self._site, self._backups = gate, gate.site, backups

    def plan(
        self,
        tenant_id: str,
        user_ctx: UserContext,
        to: "Moves",
        to_user: UserContext,
        *,
        overwrite: bool = False,
        progress: ProgressSink = no_progress,
    ) -> MovePlan:
        """What moving a tenant from this site to another would do; nothing is written. `to_user`: who asks, as that site has them.

        `problems` are the reasons for which the move would be refused once both sites are known to be fit for one. Raises
        AccessDenied, UnknownTenant, UnknownBackup where the tenant has no backup yet, MoveRefused, TenantMoved where it went
        elsewhere, SlugTaken, TenantErased, ResidencyError, and what else a restore's plan raises.
        """
        plan = plan_move(self._ends(tenant_id, user_ctx, to, to_user), progress, overwrite=overwrite)
        self._gate.accessed(self._gate.allowed(tenant_id, user_ctx, _ACTION), user_ctx, "plan of a move")
        return plan

    def run(
        self,
        tenant_id: str,
        user_ctx: UserContext,
        to: "Moves",
        to_user: UserContext,
        *,
        confirm: bool = True,
        overwrite: bool = False,
        progress: ProgressSink = no_progress,
    ) -> Moved:
        """Move a tenant from this site to another: its history, its rows and its files. Called from Python it is confirmed.

        The application must have stopped writing for the tenant. Killed anywhere, the same call goes on; for a tenant that went
        it says so again. What is at this site stays there, and is not backed up any more. `overwrite`: of a move that was cut
        short, also what was changed at the other site since; no backup of that is made.

        Raises what `plan` raises and the first of its problems, with nothing written; NotConfirmed; MoveUnproven where something
        wrote meanwhile, after which backups go on here; LeaseHeld, and what a backup, a copy or a restore raises.
        """
        ends = self._ends(tenant_id, user_ctx, to, to_user)
        mover = Mover(ends, user_ctx.user_id, to_user.user_id, progress)
        tenant, brought, proof = ends.tenant.id, Brought(), None
        if ends.left is not None:
            final = ends.left.backup_id
        else:
            plan = plan_move(ends, progress, overwrite=overwrite)
            if plan.problems:
                raise plan.problems[0]
            if not confirm:
                raise _not_confirmed(plan)
            backup_id = self._backups.create(tenant, user_ctx, BackupType.INCREMENTAL, _FINAL, progress).id
            mover.begin(backup_id)
            brought = mover.bring(backup_id)
            mover.restore(backup_id)
            proof = mover.leave(backup_id, brought)
            final = str(backup_id)
        if ends.stage is not Stage.DONE:
            mover.arrive(final, proof)
        arrival = to._backups.create(tenant, to_user, BackupType.INCREMENTAL, _ARRIVAL, progress).id
        return mover.result(final, arrival, brought, proof)

    def arrived(self, tenant_id: str, user_ctx: UserContext, *, progress: ProgressSink = no_progress) -> str:
        """Say that a tenant is at this site as it is, and back it up; the id of that backup. The other site of its move is not
        asked, and nothing is compared with it. A tenant that went is back by this.

        Raises AccessDenied, UnknownTenant, MoveRefused where it does not move or its final backup has not come, and what a backup
        raises.
        """
        slug = TenantId.parse(tenant_id)
        self._gate.authorize(user_ctx, _ACTION, slug)
        end_here(self._site, find_tenant(self._site.settings, slug), user_ctx.user_id)
        return self._backups.create(slug, user_ctx, BackupType.INCREMENTAL, _ARRIVAL, progress).id

    def give_up(self, tenant_id: str, user_ctx: UserContext) -> None:
        """Say that a tenant does not come to this site any more. What came of its repository stays, until an erasure.

        Raises AccessDenied, MoveRefused where it is not on its way, or has rows here.
        """
        slug = TenantId.parse(tenant_id)
        self._gate.authorize(user_ctx, _ACTION, slug)
        give_up_here(self._site, slug, user_ctx.user_id)

    def _ends(self, tenant_id: str, user_ctx: UserContext, to: "Moves", to_user: UserContext) -> Ends:
        slug = TenantId.parse(tenant_id)
        self._gate.authorize(user_ctx, _ACTION, slug)
        to._gate.authorize(to_user, _ACTION, slug)
        return open_ends(self._site, to._site, find_tenant(self._site.settings, slug))


def _not_confirmed(plan: MovePlan) -> NotConfirmed:
    return NotConfirmed(
        "A move was not confirmed",
        on=f"{plan.tenant_id} from {plan.from_site} to {plan.to_site}",
        why=f"it writes {plan.rows:,} rows and {plan.files:,} files there, and ends the tenant's backups here",
        remedy="confirm it: --confirm; --dry-run shows what it would do",
    )
