"""Restore in place: check, compare, plan, make a safety backup, merge, prove, put the files back, commit.

Until the staged rows are merged nothing has been written; until the commit nothing of the rows is visible. Everything
this restore will need from the repository is downloaded and authenticated before the first write.

    before   the hooks that put the tenant into maintenance
    check    the backup verifies, everything it names is there
    compare  what differs is found and staged; the plan is made, and with it every reason to refuse
    safety   a backup of the tenant at the very snapshot that was compared, so that the restore can be undone
    files    every slice that will be written is read and authenticated once
    merge    delete and insert the differing rows
    prove    what was written is read back; keys and foreign keys must hold; nobody else may have written meanwhile
    files    missing and different files are put back
    commit   then files that were not in the backup are removed
    after    the hooks that end the maintenance
"""

import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from sbh_pipelines.backup.contents.manifest import Component, Manifest
from sbh_pipelines.backup.contents.manifests import read_manifest
from sbh_pipelines.backup.contents.verification import verify_backup
from sbh_pipelines.backup.create.moment.reading import Staged
from sbh_pipelines.backup.create.parent import incomparable
from sbh_pipelines.backup.restore.context import RestoreContext
from sbh_pipelines.backup.restore.events import RestoreEvents
from sbh_pipelines.backup.restore.files import FileRestore
from sbh_pipelines.backup.restore.hooks import run_hooks
from sbh_pipelines.backup.restore.left_rows import LeftRows, keep_left_rows, read_left_rows
from sbh_pipelines.backup.restore.plan import (
    Estimate,
    FilePlan,
    LeftBehind,
    RestorePlan,
    Work,
    conflict_problem,
    nothing_to_do,
)
from sbh_pipelines.backup.restore.records import Undo
from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.restore.result import Proof, RestoreResult, RowsProven
from sbh_pipelines.backup.restore.rows.cascades import left_behind, not_coming_back
from sbh_pipelines.backup.restore.rows.row_restore import RowRestore
from sbh_pipelines.backup.restore.safety_backup import SafetyBackup, is_wanted, refusal_at_copy, safety_backup
from sbh_pipelines.backup.restore.status import RestoreStatus
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.merge.kept import NOTHING, Kept, find_kept
from sbh_pipelines.database.merge.transaction import commit, restore_database, restore_session, restore_transaction
from sbh_pipelines.database.schema.tenancy import TenancyMap, load_map
from sbh_pipelines.database.session.connection import Connection, describe_dsn
from sbh_pipelines.database.session.snapshot import describe_snapshot, export_snapshot
from sbh_pipelines.database.session.targets import check_dsn, named
from sbh_pipelines.errors import RequestError, RestoreRefused, SbhError
from sbh_pipelines.model import BackupId, Progress, ProgressSink, RecoveryPoint, RestoreId, Tenant, timestamp
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.format import FILES
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.settings import DatabaseSettings

STEPS = ("check", "compare", "safety", "merge", "prove", "files", "commit")
_MANY_ROWS = 100_000
_DETAILS = 64  # chunks kept in memory: each is read when the backup is checked, compared and proven


@dataclass(frozen=True, slots=True)
class Target:
    """Whose rows are changed: those of the application's database, or of another one with its schema."""

    database: DatabaseSettings
    in_place: bool = True

    @property
    def name(self) -> str:
        return "in place" if self.in_place else describe_dsn(self.database.dsn)


def target_of(
    site: Site, into_database: str | None, request: RestoreRequest, into_password: str | None = None
) -> Target:
    """The application's database, or the one at a DSN, with a password of its own where it is on another server.

    Raises RequestError as `check_target` does.
    """
    if into_database is None:
        return Target(restore_database(site.settings))
    check_target(into_database, request)
    return Target(named(site.settings.database, into_database, into_password), in_place=False)


def check_target(into_database: str, request: RestoreRequest) -> None:
    """Raises RequestError for a DSN with a password in it, or that is none, and where files are asked for."""
    check_dsn(into_database)
    if request.files or request.keep_extra_files:
        raise RequestError(
            "Files are not restored into another database",
            on="--files" if request.files else "--keep-extra-files",
            why="those in the bucket are the application's",
            remedy="leave it out; restore files in place, or `sbh export` them",
        )


def plan_restore(
    site: Site,
    repository: Repository,
    tenant: Tenant,
    backup_id: BackupId,
    request: RestoreRequest,
    target: Target,
    progress: ProgressSink,
    *,
    names_others: bool = False,
    undo: Undo | None = None,
    staged: Staged | None = None,
) -> RestorePlan:
    """What a restore would do; nothing is written. `names_others`: also which other tenants hold keys of its rows. `undo`: what
    of which restore the backup undoes. `staged`: of a backup that is nowhere but in `repository`.

    Raises CorruptObject, RequestError, RestoreRefused and the source's errors.
    """
    job = _Restore(
        site,
        repository,
        tenant,
        backup_id,
        request,
        target,
        progress,
        names_others=names_others,
        undo=undo,
        staged=staged,
    )
    manifest = job.check()
    with restore_transaction(target.database) as connection:
        return job.compare(connection, manifest, foresee=True)


def restore_in_place(
    site: Site,
    repository: Repository,
    tenant: Tenant,
    backup_id: BackupId,
    requested_by: str,
    request: RestoreRequest,
    target: Target,
    progress: ProgressSink,
    *,
    undo: Undo | None = None,
    names_others: bool = False,
    staged: Staged | None = None,
) -> RestoreResult:
    """Make the chosen part of the tenant what it was at the backup. `staged`: where that is nowhere but in `repository`.

    Raises RestoreRefused, RestoreConflict, SchemaMismatch and CorruptObject before anything is written, ProofFailed and
    SourceConflict with the rows rolled back, LeaseHeld while the tenant is being backed up or restored, from wherever, HookFailed.
    """
    site.fence.check(tenant.region)
    restore_id = RestoreId.at(site.clock(), os.urandom(3).hex())
    store, prefix = site.backup_store(tenant)
    undoes = undo.restore_id if undo is not None else None
    owner = leases.new_owner("restore")
    with ExitStack() as stack:
        seconds, wait = site.settings.backup.lease_s, site.settings.restore.lease_wait_s
        held = leases.acquire_within(wait, store, prefix, owner, "restore", seconds, site.clock, orphans=True)
        stack.enter_context(leases.kept(held, seconds))
        named = str(backup_id) if staged is None else staged.named
        records = repository if staged is None else staged.records
        status = RestoreStatus(site, records, restore_id, named, tenant, requested_by, owner, request, undoes)
        job = _Restore(
            site,
            repository,
            tenant,
            backup_id,
            request,
            target,
            progress,
            status,
            held,
            requested_by,
            names_others=names_others,
            undo=undo,
            staged=staged,
        )
        status.step("check", 0)
        events = RestoreEvents(site, records, tenant, requested_by, restore_id, named, request, target.name, undoes)
        try:
            events.started()
            result = job.run()
        except BaseException as error:
            if not status.ended:  # else it is done, and a hook after it failed
                status.failed(error)
            events.failed(error, written=status.ended)
            raise
        return events.completed(result)


class _Restore:
    def __init__(
        self,
        site: Site,
        repository: Repository,
        tenant: Tenant,
        backup_id: BackupId,
        request: RestoreRequest,
        target: Target,
        progress: ProgressSink,
        status: RestoreStatus | None = None,
        held: leases.Lease | None = None,
        requested_by: str = "",
        *,
        names_others: bool,
        undo: Undo | None,
        staged: Staged | None,
    ) -> None:
        self.names_others, self.undo = names_others, undo
        self.named = str(backup_id) if staged is None else staged.named
        self.site, self.repository, self.tenant, self.backup_id = site, repository, tenant, backup_id
        self.request, self.target = request, target
        self.status, self.held, self.progress, self.requested_by = status, held, progress, requested_by
        self.components: Mapping[str, Component]
        self.checking_s = 0.0
        self.left_behind: tuple[LeftBehind, ...] = ()
        self.rows: RowRestore
        self.files: FileRestore

    def run(self) -> RestoreResult:
        assert self.held is not None
        assert self.status is not None
        begun = time.monotonic()
        database, wait = self.target.database, self.site.settings.restore.lease_wait_s
        with (
            restore_session(database, self.tenant, wait) as session,
            run_hooks(self.site, self.tenant, self.named, database),
        ):
            manifest = self.check()
            with restore_transaction(database, session) as connection:
                snapshot = export_snapshot(connection)
                plan = self.compare(connection, manifest, foresee=False)
                if plan.problems:
                    raise _refusal(plan)
                safety = self._safety(connection, snapshot)
                self._step("files", 0, 1)
                self.files.authenticate()
                self.rows.write()
                if safety is not None and self.rows.returned:
                    self._secure(safety)
                proof = self.rows.prove()
                # Whoever lost the lease, because the process was asleep, must not write: renewing tells.
                self.held.renew()
                self.files.put_back(lambda done, total: self._step("files", done, total))
                self._step("commit", 0, 1)
                self.held.renew()
                commit(connection)
            self.files.remove_extra()
            result = self._result(manifest, safety, proof, begun)
            self.status.completed(result)
        return result

    def _result(
        self, manifest: Manifest, safety: SafetyBackup | None, proof: RowsProven, begun: float
    ) -> RestoreResult:
        assert self.status is not None
        tables, files = self.rows.results(), self.files
        return RestoreResult(
            restore_id=self.status.restore_id,
            backup_id=self.named,
            tenant_id=self.tenant.id,
            status="completed",
            mode=str(self.request.mode),
            scope=self.request.scope(),
            target=self.target.name,
            safety_backup_id=safety.id if safety else None,
            tables=tables,
            rows_inserted=sum(t.inserted for t in tables),
            rows_updated=sum(t.updated for t in tables),
            rows_deleted=sum(t.deleted for t in tables),
            rows_kept=sum(t.kept for t in tables),
            files_restored=files.restored,
            files_removed=files.removed,
            files_unchanged=files.plan.unchanged,
            files_kept=files.plan.kept,
            files_kept_extra=files.kept_extra,
            bytes_downloaded=self.rows.downloaded + files.downloaded,
            recovery_point=manifest.document["recovery_point"],
            schema=tuple(self.rows.differences),
            proof=Proof(proof.groups, proof.rows, proof.foreign_keys, files.proven),
            finished_at=timestamp(self.site.clock()),
            seconds=round(time.monotonic() - begun, 3),
            backup_type=manifest.type,
            safety_backup_type=safety.type if safety else None,
            kept=self.rows.kept,
            moment=manifest.moment,
            from_copy=self.site.copy_name,
            left_behind=self.left_behind,
        )

    def check(self) -> Manifest:
        begun = time.monotonic()
        self._step("check", 0, 1)
        manifest = read_manifest(self.repository, self.backup_id)
        self.repository.load_index()
        self.repository.remembered = _DETAILS
        verification = verify_backup(self.repository, manifest, deep=False, own_only=True)
        if verification.issues:
            raise RestoreRefused(
                "The backup is damaged; nothing was written",
                on=f"{self.named} of {self.tenant.id}",
                why="; ".join(str(e) for e in verification.issues[:3]),
                remedy="restore another backup: `sbh backup list`, `sbh backup validate --deep`",
            )
        self.components = verification.components
        self.checking_s = time.monotonic() - begun
        return manifest

    def compare(self, connection: Connection, manifest: Manifest, *, foresee: bool) -> RestorePlan:
        """Stage what differs and decide everything; nothing is written.

        Without `foresee` rows that conflict with others are looked for only where that costs little beside writing them:
        the server and the proof find them all.
        """
        begun = time.monotonic()
        point: RecoveryPoint = describe_snapshot(connection)
        tenancy = load_map(connection, self.site.settings)
        context = RestoreContext(
            self.site,
            self.repository,
            self.target.database,
            connection,
            self.tenant,
            manifest,
            self.components,
            tenancy,
            point,
            self.request,
            self._step,
            dry_run=self.status is None,
            names_others=self.names_others,
            undo_since=manifest.recovery_point.snapshot if self.undo and _tells(manifest, point) else "",
            left_rows=self._left_rows(),
            kept=self._kept(tenancy),
            undoing=self.undo is not None,
        )
        self.rows = RowRestore(context)
        # Another database has no files of its own: those in the bucket are the application's.
        with_files = self.request.with_files and self.target.in_place
        component = self.components[FILES] if with_files else None
        self.files = FileRestore(self.site, self.repository, self.tenant, component, self.request)
        self.rows.compare()
        compared_s = time.monotonic() - begun
        foresee = foresee or self.rows.to_write < _MANY_ROWS
        self.rows.settle_references(foresee=foresee)
        tables = self.rows.plan(foresee=foresee)
        compared = time.monotonic()
        files: FilePlan = self.files.compare()
        listing_s = time.monotonic() - compared
        problems = self.rows.problems(foresee=foresee)
        if at_copy := refusal_at_copy(self.site, self.tenant, self.request, in_place=self.target.in_place):
            problems.insert(0, at_copy)
        if conflict := conflict_problem(tables):
            problems.append(conflict)
        seconds = time.monotonic() - begun
        work = Work(
            self.checking_s + compared_s,
            sum(merge.staging.wanted + merge.staging.had for merge in self.rows.merges.values()),
            self.rows.downloaded,
            sum(t.insert + t.update + t.delete for t in tables),
            files.bytes_to_write,
            listing_s,
        )
        if self.request.tables or self.request.all_but or self.request.config_only:
            self.left_behind = left_behind(context, tables)
        doing_nothing = nothing_to_do(tables, files)
        safety = is_wanted(self.site, self.request) and self.target.in_place and not doing_nothing
        return RestorePlan(
            self.tenant.id,
            self.named,
            str(self.request.mode),
            self.request.scope(),
            self.target.name,
            manifest.document["recovery_point"],
            point.time,
            tables,
            files,
            tuple(self.rows.differences),
            self.rows.references_shown(),
            tuple(problems),
            Estimate.of(work, self.site.settings.restore, safety_backup=safety),
            doing_nothing,
            round(seconds, 3),
            {**manifest.left_out, **not_coming_back(tenancy, tables)},
            self.rows.kept,
            manifest.moment,
            self.site.copy_name,
            self.left_behind,
        )

    def _kept(self, tenancy: TenancyMap) -> Kept:
        settings = self.site.settings
        return (
            find_kept(tenancy, settings.restore.kept, settings.database.schemas) if self.request.as_tenant else NOTHING
        )

    def _left_rows(self) -> Mapping[str, LeftRows]:
        if self.undo is None or not self.undo.left_rows:
            return {}
        return read_left_rows(self.repository, self.undo.restore_id, self.undo.left_rows)

    def _safety(self, connection: Connection, snapshot: str) -> SafetyBackup | None:
        """The backup that undoes this restore. None where there is nothing to undo, or it is not wanted."""
        changes = self.rows.changes_anything or self.files.changes_anything
        if not (is_wanted(self.site, self.request) and changes and self.target.in_place):
            return None
        assert self.status is not None
        assert self.held is not None
        self._step("safety", 0, 1)
        point = describe_snapshot(connection)
        restore_id = self.status.restore_id
        made = safety_backup(
            self.site,
            self.repository,
            self.tenant,
            self.requested_by,
            self.held,
            snapshot,
            point,
            restore_id,
            self.progress,
        )
        self._secure(made)
        return made

    def _secure(self, safety: SafetyBackup) -> None:
        """Put on record what an undo needs: the backup, what of it, and rows of nobody as they were."""
        assert self.status is not None
        touched = tuple(name for name, merge in self.rows.merges.items() if merge.changes.any)
        touched += tuple(name for name in self.rows.references.consequences.own_tables if name not in touched)
        left = keep_left_rows(self.repository, RestoreId(self.status.restore_id), self.rows.left_rows())
        files = (self.request.files or ("**",)) if self.files.changes_anything else ()
        self.status.secured(safety.id, touched, files, left)

    def _step(self, step: str, done: float, of: float) -> None:
        at = STEPS.index(step)
        if self.status is not None:
            self.status.step(step, int(100 * (at + done / max(of, 1)) / len(STEPS)))
        unit = {"files": "files", "compare": "tables", "merge": "tables", "prove": "tables"}.get(step, "steps")
        share = done / of if done != int(done) else 0.0
        self.progress(Progress(f"restore: {step}", self.tenant.id, int(done), int(of), unit, share=share))


def _refusal(plan: RestorePlan) -> SbhError:
    """The first problem, with the others in its words."""
    first, *others = plan.problems
    if not others:
        return first
    more = "; ".join(f"{p.what} ({p.on})" for p in others)
    made, kept = (
        type(one)(one.what, on=one.on, why=f"{one.why}; and: {more}", remedy=one.remedy)
        for one in (first, first.to_keep)
    )
    made.kept_as = kept
    return made


def _tells(manifest: Manifest, point: RecoveryPoint) -> bool:
    """Whether rows written since the backup can be told from older ones: the server is the same."""
    return incomparable(manifest.recovery_point, point) is None
