"""The demo's third part: a script ruins a tenant between two backups, and the tenant is brought back to the moment before it.

What the tenant did between its last backup and the ruin is in no backup: it comes out of the change journal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.cli.command import operating_user
from sbh_pipelines.cli.demo.steps import Steps
from sbh_pipelines.cli.options import run_command
from sbh_pipelines.cli.output import count, plural
from sbh_pipelines.cli.show.journal import show_listing, suspect_of
from sbh_pipelines.cli.show.plan import show_plan
from sbh_pipelines.errors import ProofFailed

if TYPE_CHECKING:
    from sbh_pipelines.backup.service import BackupService
    from sbh_pipelines.embedded.sample.changes import Ruin
    from sbh_pipelines.embedded.sample.fingerprint import Fingerprint
    from sbh_pipelines.embedded.servers.stack import Stack
    from sbh_pipelines.security.policy import UserContext


@dataclass(frozen=True)
class BackToAMoment:
    """A tenant ruined amid good work, and brought back. Each step raises SbhError at whatever goes wrong."""

    stack: "Stack"
    steps: Steps
    out: Any
    service: "BackupService"
    tenant: str
    others: Sequence[str]

    @property
    def user(self) -> "UserContext":
        return operating_user()

    def tell(self) -> None:
        begun = datetime.now(UTC)
        before, ruin, after = self._work_and_ruin()
        moment = self._find(begun, ruin)
        self._preview(moment)
        self._restore(moment)
        self.prove(before, after)

    def _work_and_ruin(self) -> "tuple[Fingerprint, Ruin, Fingerprint]":
        """What every tenant was just before the ruin, and is once the others worked on."""
        from sbh_pipelines.embedded.sample import changes, fingerprint

        with self.steps.step(f"all work on; amid it a script ruins {self.tenant}") as step:
            for tenant in (self.tenant, *self.others):
                changes.work(self.stack, tenant)
            drained = self.service.journal.drain(self.user)
            before = fingerprint.take(self.stack)
            ruin = changes.ruin(self.stack, self.tenant)
            for tenant in (*self.others, self.tenant):
                changes.work(self.stack, tenant)
            after = fingerprint.take(self.stack)
            step.note(
                f"rows: {count(ruin.rows_changed)} changed, {count(ruin.rows_deleted)} deleted;"
                f" {plural(drained.changes, 'change')} journaled before it",
                rows_changed=ruin.rows_changed,
                rows_deleted=ruin.rows_deleted,
                journaled=drained.changes,
            )
        return before, ruin, after

    def _find(self, begun: datetime, ruin: "Ruin") -> str:
        """The moment before the transaction that the journal takes for the bad one."""
        from sbh_pipelines.backup.service.results import ShowRequest

        with self.steps.step(f"sbh journal show {self.tenant}: which was it?") as step:
            self.service.journal.drain(self.user)
            found = self.service.journal.show(self.tenant, self.user, ShowRequest(since=begun))
            suspect = suspect_of(found)
            if suspect is None or suspect.xid != ruin.xid:
                raise ProofFailed(
                    "The change journal does not name the transaction that did it",
                    on=self.tenant,
                    why=f"it was {ruin.xid}, named is {suspect.xid if suspect else 'none'}",
                    remedy=f"the servers' state is in {self.stack.dir}",
                )
            step.note(
                f"{suspect.xid}, of {plural(len(found.transactions), 'transaction')}; the moment before it is"
                f" {suspect.before}",
                xid=suspect.xid,
                transactions=len(found.transactions),
                moment=suspect.before,
            )
        if self.out:
            show_listing(self.out, found, suspect)
        return f"@{suspect.before}"

    def _preview(self, moment: str) -> None:
        with self.steps.step("sbh restore diff @MOMENT") as step:
            plan = self.service.restores.plan(moment, self.tenant, self.user, progress=self.steps.progress)
            if plan.problems:
                raise plan.problems[0]
            rows = {change: plan.rows(change) for change in ("insert", "update", "delete")}
            words = ", ".join(f"{count(number)} to {change}" for change, number in rows.items())
            step.note(f"a backup of that moment put together; rows: {words}", backup_id=plan.backup_id, **rows)
        if self.out:
            show_plan(self.out, plan, run_command(moment, self.tenant, RestoreRequest()))

    def _restore(self, moment: str) -> None:
        with self.steps.step("sbh restore run @MOMENT") as step:
            done = self.service.restores.run(moment, self.tenant, self.user, progress=self.steps.progress)
            step.note(
                f"from {done.backup_id}; {done.safety_backup_id}, made before it, would undo it",
                restore_id=done.restore_id,
                safety_backup_id=done.safety_backup_id,
            )

    def prove(self, before: "Fingerprint", after: "Fingerprint") -> None:
        """The tenant is what it was just before the ruin; each other one is what its own work made of it."""
        from sbh_pipelines.embedded.sample import fingerprint

        with self.steps.step("compare with the fingerprints of just before") as step:
            now = fingerprint.take(self.stack)
            own = before.differences(now).get(self.tenant, [])
            strange = [name for name in after.differences(now) if name != self.tenant]
            if own or strange:
                raise ProofFailed(
                    "The tenant is not what it was before the ruin" if own else "Another tenant was touched",
                    on=self.tenant if own else ", ".join(name or "platform" for name in strange),
                    why="; ".join(own[:5])[:1000],
                    remedy=f"the servers' state is in {self.stack.dir}",
                )
            if not after.differences(before).get(self.tenant):
                raise ProofFailed("The script ruined nothing", on=self.tenant, remedy="give --rows a larger number")
            files = len(before.files.get(self.tenant, {}))
            step.note(
                f"{self.tenant}: {count(before.row_count(self.tenant))} rows and {files} files as they were then;"
                f" {plural(len(self.others), 'other tenant')} untouched",
                identical=True,
                others_untouched=len(self.others),
            )
