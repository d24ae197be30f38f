"""The demo's second half: the damaged tenant is brought back, and what is there is compared with what was."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.cli.command import operating_user
from sbh_pipelines.cli.demo.dagster_runs import DagsterRuns
from sbh_pipelines.cli.demo.steps import Steps
from sbh_pipelines.cli.options import run_command
from sbh_pipelines.cli.output import count
from sbh_pipelines.cli.show.plan import show_plan
from sbh_pipelines.errors import ProofFailed
from sbh_pipelines.model import size_text

if TYPE_CHECKING:
    from sbh_pipelines.backup.service import BackupService
    from sbh_pipelines.embedded.sample.fingerprint import Fingerprint
    from sbh_pipelines.embedded.servers.stack import Stack
    from sbh_pipelines.security.policy import UserContext


@dataclass(frozen=True)
class Recovery:
    """The recovery of one tenant from one backup. Each step raises SbhError at whatever goes wrong."""

    stack: "Stack"
    steps: Steps
    out: Any
    dagster: DagsterRuns
    service: "BackupService"
    tenant: str
    backup_id: str

    @property
    def user(self) -> "UserContext":
        return operating_user()

    def validate(self) -> None:
        with self.steps.step("validate the backup, every byte") as step:
            found = self.service.backups.validate(
                self.backup_id, self.tenant, self.user, deep=True, progress=self.steps.progress
            )
            if found.issues:
                first = found.issues[0]
                raise ProofFailed(first.what, on=first.on, why=first.why, remedy=first.remedy)
            step.note(
                f"valid: {found.objects_checked} objects, {found.chunks_checked} chunks, {size_text(found.bytes_checked)}",
                chunks=found.chunks_checked,
                bytes=found.bytes_checked,
            )

    def preview(self) -> None:
        with self.steps.step("sbh restore diff: what a restore would do") as step:
            plan = self.service.restores.plan(self.backup_id, self.tenant, self.user, progress=self.steps.progress)
            if plan.problems:
                raise plan.problems[0]
            rows = {change: plan.rows(change) for change in ("insert", "update", "delete")}
            files = plan.files.missing + plan.files.different
            words = ", ".join(f"{count(number)} to {change}" for change, number in rows.items())
            step.note(f"rows: {words}; files: {count(files)} to put back", **rows, files=files)
        if self.out:
            show_plan(self.out, plan, run_command(self.backup_id, self.tenant, RestoreRequest()))

    def restore(self) -> None:
        with self.steps.step(f"restore {self.tenant} through Dagster") as step:
            config = {"tenant": self.tenant, "backup_id": self.backup_id, "confirm": True}
            self.dagster.launch("restore_job", {"ops": {"restore_tenant": {"config": config}}}, self.steps.say)
            done = self.service.restores.of(self.tenant, self.user)[0]
            step.note(
                f"from {self.backup_id}; {done.safety_backup_id}, made before it, would undo it",
                backup_id=self.backup_id,
                restore_id=done.restore_id,
                safety_backup_id=done.safety_backup_id,
            )

    def prove(self, original: "Fingerprint", *, others: int) -> None:
        from sbh_pipelines.embedded.sample import fingerprint

        with self.steps.step("compare every tenant with its fingerprint") as step:
            differences = original.differences(fingerprint.take(self.stack))
            if differences:
                shown = "; ".join(
                    f"{tenant or 'platform'}: {', '.join(lines[:5])}" for tenant, lines in differences.items()
                )
                raise ProofFailed(
                    "The data is not as it was before the damage",
                    on=", ".join(differences),
                    why=shown[:1000],
                    remedy=f"the servers' state is in {self.stack.dir}",
                )
            files = len(original.files.get(self.tenant, {}))
            step.note(
                f"{self.tenant}: {count(original.row_count(self.tenant))} rows and {files} files as they were;"
                f" {others} other tenants unchanged",
                identical=True,
                others_unchanged=others,
            )
