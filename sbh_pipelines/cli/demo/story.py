"""What the demo does, step by step, on a running stack. Anything that is not as it should be ends it with an error."""

import json
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from sbh_pipelines.cli.command import operating_user
from sbh_pipelines.cli.demo.dagster_runs import DagsterRuns
from sbh_pipelines.cli.demo.moment import BackToAMoment
from sbh_pipelines.cli.demo.recovery import Recovery
from sbh_pipelines.cli.demo.region import RegionLost
from sbh_pipelines.cli.demo.steps import Steps
from sbh_pipelines.cli.output import console, count, table
from sbh_pipelines.cli.show.backups import show_manifest
from sbh_pipelines.errors import EmbeddedError
from sbh_pipelines.model import size_text

if TYPE_CHECKING:
    from sbh_pipelines.backup.contents.manifest import Manifest
    from sbh_pipelines.backup.service import BackupService
    from sbh_pipelines.embedded.sample.fingerprint import Fingerprint
    from sbh_pipelines.embedded.servers.stack import Stack


class DemoStory:
    """The story, on a running stack; `again`: an earlier demo ended there with the loss of its store."""

    def __init__(self, stack: "Stack", steps: Steps, out: Any, *, again: bool = False) -> None:
        self.stack, self.steps, self.out, self._again = stack, steps, out, again
        self.dagster = DagsterRuns(stack.dir / "dagster", stack.settings, stack.dir / "log")
        self.damaged = self.ruined = self.lost = ""

    def run(self, *, tenants: int, rows: int, files: int, seed: int) -> None:
        """Raises SbhError at whatever goes wrong: ProofFailed where the data is not as it was."""
        self._sample(tenants, rows, files, seed)
        service = self._service()
        slugs = [str(tenant.id) for tenant in service.tenants.all()]
        self.damaged, self.lost, self.ruined = slugs[0], slugs[len(slugs) // 2], slugs[-1]
        self._doctor()
        self._journal(service, anew=self._again)
        self._backup(service, slugs)
        self._work()
        self._incremental(service, slugs)
        original = self._fingerprint("fingerprint every tenant's rows and files")
        backup_id = self._repository(service, slugs)
        self._damage(original)
        recovery = Recovery(self.stack, self.steps, self.out, self.dagster, service, self.damaged, backup_id)
        recovery.validate()
        recovery.preview()
        recovery.restore()
        recovery.prove(original, others=len(slugs) - 1)
        others = [slug for slug in slugs if slug != self.ruined]
        BackToAMoment(self.stack, self.steps, self.out, service, self.ruined, others).tell()
        others = [slug for slug in slugs if slug != self.lost]
        RegionLost(self.stack, self.steps, self.out, self.dagster, service, self.lost, others).tell()

    def begin_anew(self) -> None:
        """What follows the loss of a store: a journal, full backups and a copy of their own; `dr` is kept, to be read."""
        from sbh_pipelines.embedded.servers.stack import begin_next_copy

        begin_next_copy(self.stack.dir)
        service = self._service()
        self._journal(service, anew=True)
        slugs = [str(tenant.id) for tenant in service.tenants.all()]
        with self.steps.step("back up all tenants anew through Dagster, and copy them") as step:
            config = {
                "ops": {"snapshot_tables": {"config": {"tenants": slugs, "description": "sbh demo, after the loss"}}}
            }
            self.dagster.launch("fleet_backup_job", config, self.steps.say)
            self.dagster.launch("copy_run_job", {}, self.steps.say)
            step.note(
                f"{len(slugs)} backups in the new store, and in the new copy dr-2; dr is as it was", backups=len(slugs)
            )

    def leave_ui(self, port: int | None) -> None:
        """Dagster's web UI and daemon on what the demo made, until Ctrl-C."""
        with ExitStack() as running:
            with self.steps.step("start Dagster's web UI") as step:
                address, process = running.enter_context(self.dagster.web_ui(self.steps.say, port))
                step.note(address, address=address)
            text = f"Dagster's web UI: {address}  Settings: {self.stack.settings}  Ctrl-C ends it and the servers."
            console(stderr=True).print(text, style="bold", soft_wrap=True)
            with suppress(KeyboardInterrupt):
                process.wait()
                raise EmbeddedError(
                    "Dagster's web UI ended by itself", on=address, remedy="see the log in the directory"
                )

    def _sample(self, tenants: int, rows: int, files: int, seed: int) -> None:
        from sbh_pipelines.embedded.sample import data as sample
        from sbh_pipelines.embedded.sample import fingerprint

        with self.steps.step("make sample data") as step:
            if fingerprint.has_data(self.stack):
                if not fingerprint.take(self.stack).total_files and files:
                    raise EmbeddedError(
                        "The sample's rows are there, and none of its files",
                        on=str(self.stack.dir),
                        why="an earlier demo was ended between the loss of the store and its return",
                        remedy=f"rm -r {self.stack.dir}, or give another --dir",
                    )
                step.note("already there")
                return
            made = sample.generate(
                self.stack, tenants=tenants, rows=rows, files=files, seed=seed, progress=self.steps.say
            )
            total = sum(made.rows.values())
            step.note(
                f"{len(made.tenants)} tenants, {count(total)} rows in {len(made.rows)} tables, {made.files} files of"
                f" {size_text(made.file_bytes)}",
                tenants=len(made.tenants),
                rows=total,
                files=made.files,
                file_bytes=made.file_bytes,
            )

    def _service(self) -> "BackupService":
        from sbh_pipelines.backup.service import BackupService
        from sbh_pipelines.settings import load_settings

        return BackupService(load_settings(self.stack.settings))

    def _doctor(self) -> None:
        from sbh_pipelines.doctor import examine
        from sbh_pipelines.settings import load_settings

        with self.steps.step("sbh doctor") as step:
            report = examine(
                load_settings(self.stack.settings), settings_file=self.stack.settings, write=True, say=self.steps.say
            )
            if report.errors:
                first = report.errors[0]
                raise EmbeddedError(first.what, on=first.area, why=first.detail, remedy=first.remedy)
            step.note(f"{len(report.findings)} findings, no error", findings=len(report.findings))

    def _journal(self, service: "BackupService", *, anew: bool) -> None:
        """With `anew` the server has a slot of which the store knows nothing: it was lost."""
        with self.steps.step("sbh journal drop, and setup" if anew else "sbh journal setup") as step:
            if anew:
                service.journal.drop(operating_user(), confirm=service.settings.journal.slot)
            done = service.journal.setup(operating_user(), progress=self.steps.progress)
            covered = len(done.drained.covered)
            step.note(f"from now on changes of {covered} tables are journaled", tables=covered)

    def _fingerprint(self, name: str) -> "Fingerprint":
        from sbh_pipelines.embedded.sample import fingerprint

        with self.steps.step(name) as step:
            taken = fingerprint.take(self.stack)
            step.note(
                f"{count(taken.total_rows)} rows, {count(taken.total_files)} files",
                rows=taken.total_rows,
                files=taken.total_files,
            )
        return taken

    def _backup(self, service: "BackupService", slugs: list[str]) -> None:
        with self.steps.step("make every tenant a partition in Dagster") as step:
            self.dagster.add_partitions(slugs, self.steps.say)
            step.note(f"{len(slugs)} partitions", partitions=len(slugs))
        with self.steps.step("back up all tenants through Dagster") as step:
            config = {"ops": {"snapshot_tables": {"config": {"tenants": slugs, "description": "sbh demo"}}}}
            self.dagster.launch("fleet_backup_job", config, self.steps.say)
            newest = [_newest(service, slug) for slug in slugs]
            parts = [part for manifest in newest for part in manifest.components.values()]
            size = sum(part.size if part.total_size is None else part.total_size for part in parts)
            stored = sum(manifest.stats.get("bytes_stored", 0) for manifest in newest)
            step.note(
                f"{len(newest)} backups, {size_text(size)} read, {size_text(stored)} stored",
                backups=len(newest),
                size=size,
                bytes_stored=stored,
            )

    def _work(self) -> None:
        from sbh_pipelines.embedded.sample.changes import work

        with self.steps.step(f"let {self.damaged} work for an hour") as step:
            done = work(self.stack, self.damaged)
            step.note(
                f"rows: {done.rows_changed} changed, {done.rows_deleted} deleted, {done.rows_added} added; a file uploaded",
                **done.as_dict(),
            )

    def _incremental(self, service: "BackupService", slugs: list[str]) -> None:
        with self.steps.step("incremental backup of all tenants through Dagster") as step:
            config = {"tenants": slugs, "backup_type": "incremental", "description": "sbh demo"}
            self.dagster.launch("fleet_backup_job", {"ops": {"snapshot_tables": {"config": config}}}, self.steps.say)
            newest = [_newest(service, slug) for slug in slugs]
            made = [manifest for manifest in newest if manifest.type == "incremental"]
            if [manifest.tenant_id for manifest in made] != [self.damaged]:
                raise EmbeddedError("Another tenant than the one that worked was backed up", on=str(len(made)))
            stats = made[0].stats
            step.note(
                f"1 backed up: {count(int(stats['rows_changed']))} rows read of {count(int(stats['rows']))},"
                f" {size_text(stats['bytes_stored'])} stored; {len(slugs) - 1} unchanged",
                rows_read=stats["rows_changed"],
                rows=stats["rows"],
                bytes_stored=stats["bytes_stored"],
                unchanged=len(slugs) - 1,
            )

    def _repository(self, service: "BackupService", slugs: list[str]) -> str:
        """Show what was stored; the id of the backup to restore."""
        from sbh_pipelines.embedded.sample.fingerprint import repository

        manifest = _newest(service, self.damaged)
        with self.steps.step("look into the repository") as step:
            listing = repository(self.stack, self.damaged)
            objects, size = sum(folder.objects for folder in listing), sum(folder.bytes for folder in listing)
            step.note(f"{objects} objects, {size_text(size)} for {self.damaged}", objects=objects, bytes=size)
        if self.out:
            rows = [(folder.name, folder.objects, size_text(folder.bytes), folder.example) for folder in listing]
            self.out.print(table(f"Repository of {self.damaged}", ("folder", ">objects", ">size", "for example"), rows))
            self.out.print(f"manifests/{manifest.id}.json, shortened:")
            self.out.print(json.dumps(shortened(manifest.document), indent=2), soft_wrap=True)
            show_manifest(self.out, manifest)
        return manifest.id

    def _damage(self, original: "Fingerprint") -> None:
        from sbh_pipelines.embedded.sample import changes as damage
        from sbh_pipelines.embedded.sample import fingerprint

        with self.steps.step(f"damage {self.damaged}") as step:
            done = damage.wreck(self.stack, self.damaged)
            differences = original.differences(fingerprint.take(self.stack))
            if set(differences) != {self.damaged}:
                raise EmbeddedError("The damage is not where it should be", on=", ".join(differences) or "nowhere")
            step.note(
                f"rows: {done.rows_deleted} deleted, {done.rows_changed} changed, {done.rows_added} made up; files:"
                f" {done.files_deleted} deleted, {done.files_altered} altered, {done.files_added} made up",
                **done.as_dict(),
            )


def shortened(value: Any) -> Any:
    """A document for reading: long lists and texts cut."""
    if isinstance(value, Mapping):
        return {name: shortened(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [shortened(part) for part in value[:2]] + ([f"... {len(value) - 2} more"] if len(value) > 2 else [])
    return value if not isinstance(value, str) or len(value) <= 80 else value[:77] + "..."


def _newest(service: "BackupService", slug: str) -> "Manifest":
    return service.backups.of(slug, operating_user())[0]
