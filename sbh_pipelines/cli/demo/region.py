"""The demo's last part: the region with all backups, all files and the key is lost, and everything comes back from the copy.

What the copy holds was brought there and verified before. From then on nothing of the first region is asked: its S3 server is
killed, and its directory and its key file are deleted. Where it was there is an empty store, for the application's files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.cli.command import operating_user
from sbh_pipelines.cli.demo.dagster_runs import DagsterRuns
from sbh_pipelines.cli.demo.steps import Steps
from sbh_pipelines.cli.options import run_command
from sbh_pipelines.cli.output import count, plural
from sbh_pipelines.cli.show.copies import show_status
from sbh_pipelines.cli.show.plan import show_plan
from sbh_pipelines.cli.show.spans import span
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.errors import EmbeddedError, ProofFailed
from sbh_pipelines.model import size_text

if TYPE_CHECKING:
    from sbh_pipelines.backup.service import BackupService
    from sbh_pipelines.backup.service.results import RestoreResult
    from sbh_pipelines.embedded.sample.fingerprint import Fingerprint
    from sbh_pipelines.embedded.servers.stack import Stack
    from sbh_pipelines.security.policy import UserContext

_COPY = "dr"
_AT_ONCE = 3  # tenants that are brought back side by side
_REQUEST = RestoreRequest(safety_backup=False)


@dataclass(frozen=True)
class RegionLost:
    """The loss of the first region. Each step raises SbhError at whatever goes wrong.

    Attributes:
        tenant: the one that loses rows, too, and is brought back first.
        others: all others, whose files are lost.
    """

    stack: "Stack"
    steps: Steps
    out: Any
    dagster: DagsterRuns
    service: "BackupService"
    tenant: str
    others: Sequence[str]

    @property
    def user(self) -> "UserContext":
        return operating_user()

    def tell(self) -> None:
        self._back_up()
        self._copy()
        self._verify()
        was = self._lose()
        self._preview()
        self._bring_back()
        self.prove(was)

    def _back_up(self) -> None:
        with self.steps.step("sbh backup create --all --type incremental") as step:
            everybody = [self.tenant, *self.others]
            drafts = self.service.backups.create_all(everybody, self.user, "incremental", progress=self.steps.progress)
            for draft in drafts:
                if draft.error is not None:
                    raise draft.error
            made = sum(draft.manifest is not None for draft in drafts)
            step.note(f"{made} backed up, {len(drafts) - made} unchanged", backed_up=made)

    def _copy(self) -> None:
        with self.steps.step(f"copy everything to {_COPY} through Dagster") as step:
            self.dagster.launch("copy_run_job", {}, self.steps.say)
            (copy,) = self.service.copies.status(self.user, _COPY)
            late = [line.tenant_id for line in copy.tenants if line.standing != "current"]
            if late or copy.issues:
                why = str(copy.issues[0]) if copy.issues else next(line.why for line in copy.tenants if line.why)
                raise EmbeddedError("The copy has not everything", on=", ".join(late) or _COPY, why=why)
            oldest = min(line.recovery_point for line in copy.tenants if line.recovery_point is not None)
            step.note(
                f"{plural(len(copy.tenants), 'tenant')} verified there; lag at most {span(copy.worst_lag_s)}",
                tenants=len(copy.tenants),
                worst_lag_s=copy.worst_lag_s,
                oldest_recovery_point=oldest.isoformat(),
            )
        if self.out:
            show_status(self.out, [copy])

    def _verify(self) -> None:
        with self.steps.step(f"sbh copies verify {_COPY} --deep") as step:
            found = self.service.copies.verify(self.user, _COPY, deep=True, progress=self.steps.progress)
            wrong = [*(one.error for one in found.tenants if one.error is not None), *found.issues]
            if wrong:
                raise wrong[0]
            objects, size = (sum(getattr(one, name) for one in found.tenants) for name in ("objects", "bytes"))
            step.note(f"valid: {count(objects)} objects, {size_text(size)} downloaded", objects=objects, bytes=size)

    def _lose(self) -> "Fingerprint":
        """What was there just before."""
        from sbh_pipelines.embedded.sample import changes, fingerprint
        from sbh_pipelines.embedded.servers import stack as servers

        with self.steps.step("lose the region: S3 server, its directory, the key") as step:
            was = fingerprint.take(self.stack)
            done = changes.wreck(self.stack, self.tenant)
            gone = servers.lose_store(self.stack.dir)
            step.note(
                f"{size_text(gone)}: all backups, {count(was.total_files)} files; of {self.tenant} {count(done.rows_deleted)} rows"
                f" deleted, {count(done.rows_changed)} changed",
                bytes_lost=gone,
                files_lost=was.total_files,
                rows_deleted=done.rows_deleted,
                rows_changed=done.rows_changed,
            )
        with self.steps.step("start an S3 server with empty buckets in its place") as step:
            if servers.up(self.stack.dir, fsync=False, progress=self.steps.say) != self.stack:
                raise EmbeddedError("The empty store is not where the lost one was", on=self.stack.s3_endpoint)
            if left := fingerprint.take(self.stack).total_files:
                raise EmbeddedError("The store was not lost: files are there", on=str(left))
            step.note("no file, no backup, another key")
        return was

    def _preview(self) -> None:
        service = self.service.at_copy(_COPY)
        with self.steps.step(f"sbh restore diff latest --from-copy {_COPY}") as step:
            plan = service.restores.plan("latest", self.tenant, self.user, _REQUEST, progress=self.steps.progress)
            if plan.problems:
                raise plan.problems[0]
            rows = {change: plan.rows(change) for change in ("insert", "update", "delete")}
            words = ", ".join(f"{count(number)} to {change}" for change, number in rows.items())
            step.note(
                f"rows: {words}; files: {count(plan.files.missing)} to put back", **rows, files=plan.files.missing
            )
        if self.out:
            show_plan(self.out, plan, run_command("latest", self.tenant, _REQUEST, from_copy=_COPY))

    def _bring_back(self) -> None:
        service = self.service.at_copy(_COPY)

        def restored(tenant: str) -> "RestoreResult":
            return service.restores.run("latest", tenant, self.user, _REQUEST, progress=self.steps.progress)

        with self.steps.step(f"sbh restore run latest -t {self.tenant} --from-copy {_COPY}") as step:
            done = restored(self.tenant)
            rows = done.rows_inserted + done.rows_updated + done.rows_deleted
            step.note(
                f"{count(rows)} rows and {count(done.files_restored)} files, from {done.backup_id}",
                backup_id=done.backup_id,
                from_copy=done.from_copy,
                rows=rows,
                files=done.files_restored,
            )
        if not self.others:
            return
        with self.steps.step(f"and so {plural(len(self.others), 'other tenant')}, whose files were lost") as step:
            side_by_side(restored, self.others, name="restore", threads=_AT_ONCE)
            step.note(f"{plural(len(self.others), 'tenant')} brought back", tenants=len(self.others))

    def prove(self, was: "Fingerprint") -> None:
        """Everything is what it was before the loss."""
        from sbh_pipelines.embedded.sample import fingerprint

        with self.steps.step("compare everything with what it was before the loss") as step:
            now = fingerprint.take(self.stack)
            if differences := was.differences(now):
                shown = "; ".join(
                    f"{tenant or 'platform'}: {', '.join(told[:5])}" for tenant, told in differences.items()
                )
                raise ProofFailed(
                    "What came back from the copy is not what was lost",
                    on=", ".join(tenant or "platform" for tenant in differences),
                    why=shown[:1000],
                    remedy=f"the servers' state is in {self.stack.dir}",
                )
            step.note(
                f"{count(now.total_rows)} rows and {count(now.total_files)} files as they were",
                identical=True,
                rows=now.total_rows,
                files=now.total_files,
            )
