"""A drill: one tenant restored into a throw-away place, proved, measured, thrown away.

    database    a database of the drill's own: schema, shared rows, the tenant's rows, sequences, constraints. Each row group
                read back must be the backup's, rows be as many, foreign keys hold, and the user's assertions be true
    files       every file to this machine's disk and back, compared by SHA-256
    config      the tables of the config component alone, into a database that has the schema and what tenants share

Scenarios are made of these parts; each part is done once, and a scenario takes as long as its parts one after the other. The
clock of a part stops when the last proof is given; throwing the database away does not count.

Nothing of the live tenant is written, no lease is taken: backups, restores and other drills go on meanwhile. What a drill
finds wrong is recorded and returned. A drill that cannot begin (nothing to restore, no platform backup, no right to create a
database), or that is cut short by something that may pass by itself, raises and is recorded nowhere.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sbh_pipelines import __version__
from sbh_pipelines.backup.contents.manifest import LATEST, PARENTS_FIRST, Component
from sbh_pipelines.backup.contents.manifests import read_component, read_manifest, resolve_backup
from sbh_pipelines.backup.contents.ownership import is_own
from sbh_pipelines.backup.create.recovery_points import recovery_points
from sbh_pipelines.backup.drill.config_part import loaded_schema, restore_config
from sbh_pipelines.backup.drill.files_part import restore_files
from sbh_pipelines.backup.drill.proof import prove_rows, raise_unless_restored
from sbh_pipelines.backup.drill.records import FAILED, PASSED, DrillRecord, ScenarioResult, keep_record
from sbh_pipelines.backup.drill.scenarios import PARTS, Part, parts_of
from sbh_pipelines.backup.recover.recovery import RecoveryReport, rebuild
from sbh_pipelines.backup.recover.tenant import TenantChoice
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.merge.fit.columns import SchemaDifference
from sbh_pipelines.database.rebuild.left_out import LeftOut
from sbh_pipelines.database.rebuild.throwaway import ThrowawayDatabase, drill_server, drop_leftovers
from sbh_pipelines.errors import SbhError, UnknownBackup
from sbh_pipelines.model import BackupId, DrillId, Progress, ProgressSink, Tenant, parse_timestamp, timestamp
from sbh_pipelines.placement import platform_tenant
from sbh_pipelines.repository.documents import list_manifest_ids
from sbh_pipelines.repository.format import CONFIG, FILES, FORMAT_VERSION
from sbh_pipelines.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class PartResult:
    """What one part restored and proved, or why it failed.

    Attributes:
        seconds: How long it took, until the last proof or the failure.
        rows: Rows restored.
        bytes: Bytes restored, before compression.
        files: Files restored.
        proof: What was proved, by kind, and how many of it.
        error: Why it failed.
    """

    seconds: float = 0.0
    rows: int = 0
    bytes: int = 0
    files: int = 0
    proof: Mapping[str, int] = field(default_factory=dict)
    error: SbhError | None = None


def run_drill(
    site: Site,
    tenant: Tenant,
    backup: str,
    scenarios: Sequence[str],
    drilled_by: str,
    progress: ProgressSink,
) -> DrillRecord:
    """Drill with a backup, an id or `latest`; the record, which is stored in the tenant's repository.

    Raises UnknownBackup, PrivilegeMissing and what else keeps a drill from beginning.
    """
    begun = site.clock()
    drill_id = DrillId.at(begun, os.urandom(3).hex())
    parts = parts_of(scenarios)
    with site.repository(tenant) as repository:
        wanted = _existing(repository, tenant, backup)
        if Part.DATABASE in parts or Part.CONFIG in parts:
            _require_platform_backup(site)
            drop_leftovers(drill_server(site.settings))
        (point,) = recovery_points(site, [tenant]).recovery_points
        drill = _Drill(site, tenant, repository, drill_id, wanted, progress)
        parts_done = {part: drill.part(part) for part in parts}
        results = [_scenario(site, scenario, parts_done) for scenario in scenarios]
        failed = [result for result in results if result.status == FAILED]
        record = DrillRecord(
            drill_id=drill_id,
            tenant_id=tenant.id,
            backup_id=wanted,
            status=FAILED if failed else PASSED,
            error=failed[0].error if failed else None,
            scenarios=tuple(results),
            issues=tuple(drill.issues),
            left_out=tuple(dict.fromkeys(drill.left_out)),
            tier=tenant.tier,
            recovery_point_age_s=point.age_s,
            recovery_point_objective_s=site.settings.recovery_point_objective_s(tenant.tier),
            drilled_by=drilled_by,
            started_at=timestamp(begun),
            finished_at=timestamp(site.clock()),
            versions={"sbh": __version__, "format": FORMAT_VERSION, "server": drill.server_version},
            from_copy=site.copy_name,
        )
        keep_record(repository, record)
    return record


def _require_platform_backup(site: Site) -> None:
    """That it is whole, and fits the tenant's backup, is for the drill to find out. Raises UnknownBackup."""
    platform = platform_tenant(site.settings)
    if not list_manifest_ids(*site.backup_store(platform)):
        raise UnknownBackup(
            "There is no platform backup, without which no database can be rebuilt",
            remedy="make one: `sbh platform backup`; then drill again",
        )


def _existing(repository: Repository, tenant: Tenant, backup: str) -> BackupId:
    wanted = resolve_backup(repository, backup, lambda manifest: is_own(repository, manifest, tenant.key, live=True))
    others = repository.owner.others if repository.owner is not None else ()
    if wanted not in repository.manifest_ids() or wanted in others:
        raise UnknownBackup(
            "No such backup",
            on=f"{wanted} of {repository.tenant}",
            remedy=f"see `sbh backup list {repository.tenant}`",
        )
    return wanted


def _scenario(site: Site, scenario: str, parts_done: Mapping[Part, PartResult]) -> ScenarioResult:
    parts = [parts_done[part] for part in PARTS[scenario]]
    error = next((part.error for part in parts if part.error), None)
    seconds = round(sum(part.seconds for part in parts), 3)
    objective = site.settings.drill.objectives_s.get(scenario)
    margin = None if objective is None or error else round(objective - seconds, 3)
    return ScenarioResult(
        scenario=scenario,
        status=FAILED if error else PASSED,
        error=error,
        seconds=seconds,
        objective_s=objective,
        margin_s=margin,
        met=False if error else None if margin is None else margin >= 0,
        rows=sum(part.rows for part in parts),
        bytes=sum(part.bytes for part in parts),
        files=sum(part.files for part in parts),
        proof={name: value for part in parts for name, value in part.proof.items()},
    )


class _Drill:
    """The parts of one drill."""

    def __init__(
        self,
        site: Site,
        tenant: Tenant,
        repository: Repository,
        drill_id: DrillId,
        backup_id: BackupId,
        progress: ProgressSink,
    ) -> None:
        self._site, self._tenant, self._repository = site, tenant, repository
        self._drill_id, self._backup_id, self._progress = drill_id, backup_id, progress
        self._components: dict[str, Component] = {}
        self.server_version: int | None = None
        self.issues: list[SbhError] = []  # what a recovery got over, such as a damaged platform backup
        self.left_out: list[LeftOut] = []

    def part(self, part: Part) -> PartResult:
        """Do one part, in a place that is gone afterwards. Raises what keeps it from beginning."""
        work: Callable[[float, ThrowawayDatabase], PartResult] = (
            self._database if part is Part.DATABASE else self._config
        )
        begun = time.monotonic()
        if part is Part.FILES:
            return self._result_of(begun, lambda: self._files(begun))
        database = ThrowawayDatabase.create(self._site.settings, self._drill_id)

        def inside() -> PartResult:
            with database:
                return work(begun, database)

        return self._result_of(begun, inside)

    def _result_of(self, begun: float, work: Callable[[], PartResult]) -> PartResult:
        """What went wrong is the outcome, unless it may pass by itself: that says nothing of the backup, and is raised."""
        try:
            return work()
        except SbhError as error:
            if error.transient:
                raise
            return PartResult(time.monotonic() - begun, error=error)

    def _parts(self) -> Mapping[str, Component]:
        """The backup's components; one of an application without files has no list of them."""
        if not self._components:
            manifest = read_manifest(self._repository, self._backup_id)
            self._repository.load_index()
            self._components = {n: read_component(self._repository, manifest, n) for n in manifest.component_names}
        return self._components

    def _recover(self, database: ThrowawayDatabase, tenants: Sequence[TenantChoice]) -> RecoveryReport:
        """What a recovery of these tenants into the drill's database reports.

        An older backup is restored into the schema of its time, the newest one into the newest. A safety backup is what a
        restore found, and nobody's newest.
        """
        until = None
        if self._backup_id < self._newest():
            until = parse_timestamp(read_manifest(self._repository, self._backup_id).recovery_point.time)
        report = rebuild(
            self._site,
            database.settings,
            tenants,
            files=False,
            owners=False,
            until=until,
            requested_by=f"drill {self._drill_id}",
            progress=self._progress,
        )
        known = set(map(str, self.issues))
        self.issues += [issue for issue in report.issues if str(issue) not in known]
        self.left_out += report.left_out
        return report

    def _note(self, changes: Sequence[SchemaDifference]) -> None:
        """What the schema has no place for any more, as after a restore in place that accepts it."""
        self.left_out += [
            LeftOut(f"{c.table}.{c.column}: {c.change}" if c.column else f"{c.table}: {c.change}", c.decision)
            for c in changes
        ]

    def _newest(self) -> BackupId:
        try:
            return resolve_backup(self._repository, LATEST)
        except UnknownBackup:  # there are only such as were made for restores, and one was named
            return self._repository.manifest_ids()[-1]

    def _database(self, begun: float, database: ThrowawayDatabase) -> PartResult:
        tables = [summary for name in PARENTS_FIRST for summary in self._parts()[name].tables]
        report = self._recover(database, [TenantChoice(self._tenant, self._backup_id)])
        raise_unless_restored(report)
        changes = [change for line in report.tenants for change in line.schema_changes]
        self._note(changes)
        self._progress(Progress("drill: prove", self._tenant.id, 0, len(tables), "tables"))
        self.server_version, proof = prove_rows(
            self._repository, tables, self._site.settings, database.settings, self._tenant.key, report
        )
        seconds = time.monotonic() - begun
        return PartResult(seconds, sum(t.rows for t in tables), sum(t.bytes for t in tables), 0, proof)

    def _config(self, _: float, database: ThrowawayDatabase) -> PartResult:
        """Timed from when the schema is there: after a configuration error the live database has it."""
        config = self._parts()[CONFIG]
        schema = loaded_schema(self._site, self._recover(database, []).platform_backup)
        begun = time.monotonic()
        proof, changes = restore_config(self._repository, config, schema, database.settings)
        self._note(changes)
        rows, size = sum(t.rows for t in config.tables), sum(t.bytes for t in config.tables)
        return PartResult(time.monotonic() - begun, rows, size, 0, proof)

    def _files(self, begun: float) -> PartResult:
        listed = self._parts().get(FILES)
        if listed is None:  # files are not backed up here
            return PartResult(time.monotonic() - begun, proof={"files": 0})
        connections = self._site.settings.files.connections
        proven = restore_files(self._repository, listed, connections, self._progress)
        return PartResult(time.monotonic() - begun, 0, proven.bytes, proven.files, {"files": proven.files})
