"""After complete failure: an empty database, and the buckets, from backups alone.

    roles → schema → shared rows → every tenant's rows → rows of no tenant → indexes, constraints, triggers → sequences
    → settings → proof of every tenant → files

Rows come before constraints, so that the server validates every one of them, and no trigger fires. What is done is noted in the
target itself (`database/rebuild/run.py`): the same command, given again, goes on where a killed run stopped. A tenant
that cannot be recovered does not keep the others; it is reported, and a later run completes it.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import TypeVar

from sbh_pipelines.backup.contents.manifest import LATEST
from sbh_pipelines.backup.recover.files import FilesPutBack, put_files_back
from sbh_pipelines.backup.recover.fit import new_schema
from sbh_pipelines.backup.recover.platform_backup import OpenPlatformBackup, open_platform
from sbh_pipelines.backup.recover.references import References, error_of, validate
from sbh_pipelines.backup.recover.schema import Schema, differences_of
from sbh_pipelines.backup.recover.tenant import LoadTarget, PassedOver, TenantChoice, load_tenant, prove_tenant
from sbh_pipelines.backup.recover.unowned import UnownedSteps
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.database.merge.fit.columns import SchemaDifference
from sbh_pipelines.database.rebuild.after_rows import analyze, refresh_views
from sbh_pipelines.database.rebuild.left_out import LeftOut, of_phases
from sbh_pipelines.database.rebuild.roles import search_path
from sbh_pipelines.database.rebuild.run import Loaded, Run, note_files, open_run, run
from sbh_pipelines.database.session.connection import Connection, connect
from sbh_pipelines.database.session.programs import POST_DATA, PRE_DATA
from sbh_pipelines.database.session.search_path import application_path
from sbh_pipelines.document import as_document, optional
from sbh_pipelines.errors import RestoreRefused, SbhError, SourceError, UnknownBackup
from sbh_pipelines.model import Progress, ProgressSink, RestoreId, Tenant, TenantId, parse_timestamp, timestamp
from sbh_pipelines.repository.catalog.owners import slug_of
from sbh_pipelines.repository.documents import signed
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.settings import DatabaseSettings

COMPLETED, INCOMPLETE, BROKEN = "completed", "incomplete", "references broken"
RESTORED, FAILED = "restored", "failed"
STEP = "recovery"
_KIND = "recovery"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantRecovery:
    """What a recovery did for one tenant.

    Attributes:
        tenant_id: The tenant.
        backup_id: The backup that was loaded; null where none was.
        rows: Rows loaded.
        bytes: Their bytes before compression.
        seconds: How long loading took, s.
        point: Recovery point of the backup, ISO 8601 in UTC.
        passed_over: Newer backups that are damaged.
        schema_changes: How its tables differ from those of the new database, and what became of that.
        files: What was done about its files; null where nothing was yet.
        status: `restored` where its rows are proved, else `failed`.
        error: What kept it.
    """

    tenant_id: str
    backup_id: str | None
    rows: int
    bytes: int
    seconds: float
    point: str | None
    passed_over: Sequence[PassedOver]
    schema_changes: Sequence[SchemaDifference]
    files: FilesPutBack | None
    status: str
    error: SbhError | None = optional()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryReport:
    """What a recovery did, over all its runs.

    Attributes:
        restore_id: The recovery's id.
        platform_backup: The platform backup that it began with.
        requested_by: Who asked for it.
        ended_at: Time at which this run ended, ISO 8601 in UTC.
        status: `completed` where all that was asked for, and all that is there, is proved; `incomplete` where tenants are missing;
            `references broken` where none is, and foreign keys do not hold.
        tenants: A line for each tenant.
        rows: Rows loaded, those of no tenant among them.
        rows_of_no_tenant: Rows of tenants' tables that have no tenant, by table.
        bytes: Bytes of the tenants' rows before compression.
        files: Files put back.
        roles_made: Roles that were made, without their passwords.
        skipped_statements: Statements of the schema that could not be run, the first ones of each section.
        left_out: What is not there, or not as it was, though rows need none of it, and why: settings that the server does not take.
        ddl_only: Tables whose rows are in no backup.
        phases: How long each step took, s.
        foreign_keys_not_valid: Foreign keys whose rows are not all there, and should be.
        error: Why they are not.
        differences: How the target differs from the database that was backed up.
        issues: What the recovery got over, such as a damaged platform backup.
        seconds: How long this run took, s.
        from_copy: The copy whose backups they were; None for those of the place where backups are made.
    """

    restore_id: str
    platform_backup: str
    requested_by: str
    ended_at: str
    status: str
    tenants: Sequence[TenantRecovery]
    rows: int
    rows_of_no_tenant: Mapping[str, int]
    bytes: int
    files: int
    roles_made: Sequence[str]
    skipped_statements: Mapping[str, Sequence[str]]
    left_out: Sequence[LeftOut]
    ddl_only: Sequence[str]
    phases: Mapping[str, float]
    foreign_keys_not_valid: Sequence[str]
    differences: Sequence[str]
    issues: Sequence[SbhError]
    seconds: float
    error: SbhError | None = optional()
    from_copy: str | None = optional()


def rebuild(
    site: Site,
    target: DatabaseSettings,
    tenants: Sequence[TenantChoice | Tenant] | None,
    *,
    platform: str = "latest",
    files: bool = True,
    owners: bool = True,
    accept: bool = False,
    until: datetime | None = None,
    requested_by: str,
    progress: ProgressSink,
) -> RecoveryReport:
    """Build the empty database that `target` names, and the tenants' files; goes on with a run that was cut short.

    `tenants` None: all that the platform backup or, for those that came later, a catalog knows. `until`: each tenant's newest
    backup at or before it. `owners` False leaves out roles, and owners and grants that the target's role may not give: for
    throw-away databases. Where no tenants at all are asked for, rows of no tenant do not come either. `accept`: what a tenant's
    backup has that is newer than the schema is left out; what an older one has, and was dropped since, always is.

    The report is kept below `restores/` of the platform's repository.

    Raises RestoreRefused (the database is not empty), UnknownBackup, PrivilegeMissing, SourceError, and CorruptObject where no
    platform backup can be read. What fails for one tenant is in the report.
    """
    begun, issues = time.monotonic(), list[SbhError]()
    with ExitStack() as stack:
        control = stack.enter_context(open_run(target))
        known = control.begun()
        if known is not None and platform not in ("latest", known[1]):
            raise RestoreRefused(
                "The target belongs to an unfinished recovery from another platform backup",
                on=known[1],
                remedy="go on with that one, or drop the database and create an empty one",
            )
        wanted = known[1] if known else platform
        opened = stack.enter_context(open_platform(site, wanted, until, issues.append))
        differences = differences_of(control, opened)
        if not target.search_path:
            # Functions of indexes and constraints find names as they did; the database's own settings come last.
            target = target.model_copy(update={"search_path": search_path(opened.of)})
        control.find_names(application_path(target, None, [str(fact["schema"]) for fact in opened.of("extension")]))
        if known is None:
            restore_id = RestoreId.at(site.clock(), secrets.token_hex(3))
            control.begin(restore_id, opened.id, requested_by, target.dsn)
            known = restore_id, opened.id
        recovery = _Recovery(site, target, control, opened, owners, accept, until, progress, issues)
        choices, references = recovery.run(tenants, files)
        lines, phases = recovery.lines(choices), control.phases()
        complete = all(line.status == RESTORED for line in lines)
        broken = error_of(references.broken, opened, stays=owners)
        of_nobody = phases.get("no_tenant", {})
        scripts = [name for name in ("pre_data", "post_data") if phases[name]["skipped"]]
        report = RecoveryReport(
            restore_id=known[0],
            platform_backup=opened.id,
            requested_by=requested_by,
            ended_at=timestamp(site.clock()),
            status=INCOMPLETE if not complete else BROKEN if broken else COMPLETED,
            tenants=lines,
            rows=sum(line.rows for line in lines) + phases["shared"]["rows"] + of_nobody.get("rows", 0),
            rows_of_no_tenant={name: rows for name, rows in of_nobody.get("tables", {}).items() if rows},
            bytes=sum(line.bytes for line in lines),
            files=sum(line.files.restored for line in lines if line.files),
            roles_made=phases.get("roles", {}).get("made", []),
            skipped_statements={name: phases[name]["first"] for name in scripts},
            left_out=[*of_phases(phases), *recovery.left_out, *references.left_out],
            ddl_only=[f"{fact['schema']}.{fact['name']}" for fact in opened.of("ddl_only")],
            phases=recovery.seconds,
            foreign_keys_not_valid=[one.name for one in references.broken],
            error=broken if complete else None,
            differences=differences,
            issues=[*issues, *references.issues],
            seconds=round(time.monotonic() - begun, 3),
            from_copy=site.copy_name,
        )
        key = opened.repository.prefix + Keys.restore(known[0])
        opened.repository.store.put(key, signed(opened.repository, _KIND, as_document(report)))
        if report.status == COMPLETED:
            control.end()
        return report


@dataclass
class _Recovery:
    """One call. Every step looks first whether it is done."""

    site: Site
    target: DatabaseSettings
    control: Run
    platform: OpenPlatformBackup
    owners: bool
    accept: bool
    until: datetime | None
    progress: ProgressSink
    issues: list[SbhError]
    left_out: list[LeftOut] = field(default_factory=list)
    failed: dict[str, SbhError] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def run(
        self, tenants: Sequence[TenantChoice | Tenant] | None, files: bool
    ) -> tuple[list[TenantChoice], References]:
        """The tenants that were asked for, and the foreign keys that do not hold."""
        everybody = tenants is None
        if tenants is None:
            tenants = known_tenants(self.site, self.platform, self.issues.append)
        choices = [one if isinstance(one, TenantChoice) else TenantChoice(one) for one in tenants]
        schema = Schema(self.target, self.control, self.platform, self.owners)
        unowned = UnownedSteps(self.target, self.platform, self.owners)
        if self.owners:
            self._step("roles", schema.make_roles)
        self._step("pre_data", lambda: schema.script(PRE_DATA, "pre_data"))
        if "shared" not in self.control.phases():
            self._step("set_aside", schema.set_aside)
        self._step("shared", unowned.load_shared)
        self._timed("tenants", lambda: self._load_tenants(choices))
        if choices or everybody:
            self._step("no_tenant", lambda: unowned.load_of_nobody("post_data" in self.control.phases()))
        self._step("post_data", lambda: schema.script(POST_DATA, "post_data"))
        self._step("checks", schema.checks)
        references = self._timed(
            "foreign_keys", lambda: validate(self.control, self.platform, all_tenants=everybody, owners=self.owners)
        )
        self._timed("sequences", schema.set_sequences)
        if self.owners:
            self._step("settings", schema.set_up)
        self._timed("analyze", lambda: self._after_rows(analyze))
        self._timed("proof", self._prove)
        if files:
            self._timed("files", self._put_files_back)
        return choices, references

    def _after_rows(self, work: Callable[[Connection], list[LeftOut]]) -> None:
        """In a session of its own: functions find their names as rows' do."""
        with closing(connect(self.target, "recovery")) as connection:
            run(connection, "SET statement_timeout = 0", "prepare the session")
            self.left_out += work(connection)

    def lines(self, choices: Sequence[TenantChoice]) -> list[TenantRecovery]:
        """Of the tenants that were asked for, and of those that an earlier run loaded."""
        loaded = {tenant.tenant_id: tenant for tenant in self.control.tenants()}
        names = dict.fromkeys((*(str(choice.tenant.id) for choice in choices), *loaded))
        return [_line(name, loaded.get(name), self.failed.get(name)) for name in names]

    # steps

    def _step(self, name: str, work: Callable[[], None]) -> None:
        """A step that notes itself in the transaction that does it."""
        if name not in self.control.phases():
            self._timed(name, work)
        self.seconds[name] = self.control.phases()[name]["seconds"]

    def _timed(self, name: str, work: Callable[[], _T]) -> _T:
        begun = time.monotonic()
        self.progress(Progress(STEP, name, 0, 1, "steps"))
        result = work()
        self.progress(Progress(STEP, name, 1, 1, "steps"))
        self.seconds[name] = round(time.monotonic() - begun, 3)
        return result

    # tenants

    def _load_target(self) -> LoadTarget:
        constrained = "post_data" in self.control.phases()
        schema = new_schema(self.platform, self.site.settings.restore)
        return LoadTarget(self.site, self.target, schema, self.platform.point, constrained, self.accept)

    def _load_tenants(self, choices: list[TenantChoice]) -> None:
        done = {tenant.tenant_id for tenant in self.control.tenants()}
        waiting = [c for c in choices if c.tenant.id not in done]
        target = self._load_target()
        listed = {fact["id"] for fact in self.platform.of("tenant")}

        def load(one: TenantChoice) -> None:
            try:
                load_tenant(target, one, self.until)
            except UnknownBackup:
                if self.until is None or one.tenant.id in listed or one.backup_id != LATEST:
                    raise
                choices.remove(one)  # it came after that time: the platform backup does not know it

        # Past the constraints one by one: triggers that fire whatever the session says are turned off meanwhile.
        self._each("load", [(c.tenant.id, c) for c in waiting], load, 1 if target.constrained else None)
        if waiting and target.constrained:
            self._after_rows(refresh_views)
        if self.failed and not self.control.tenants():
            # What kept the first keeps all of them: nothing is built without rows.
            raise next(iter(self.failed.values()))

    def _prove(self) -> None:
        target = self._load_target()
        waiting = [t for t in self.control.tenants() if not t.proved]
        self._each("prove", [(t.tenant_id, t) for t in waiting], lambda loaded: prove_tenant(target, loaded))

    def _put_files_back(self) -> None:
        waiting = [t for t in self.control.tenants() if t.files is None]
        for number, loaded in enumerate(waiting, 1):
            try:
                tenant = Tenant(TenantId(loaded.tenant_id), "", loaded.region, "")
                done = put_files_back(self.site, tenant, loaded.backup_id)
                run(self.control.connection, note_files(loaded.tenant_id, asdict(done)), "note a tenant's files")
            except SbhError as error:
                self._failed(loaded.tenant_id, error)
            self.progress(Progress("files", loaded.tenant_id, number, len(waiting), "tenants"))

    def _each(
        self, step: str, items: Sequence[tuple[str, _T]], work: Callable[[_T], None], at_once: int | None = None
    ) -> None:
        """`work` on each, several at once. What fails for one is noted; where the target is gone, all ends."""
        ended = 0

        def one(named: tuple[str, _T]) -> None:
            nonlocal ended
            name, item = named
            try:
                work(item)
            except SbhError as error:
                if isinstance(error, SourceError) and error.transient:
                    raise
                self._failed(name, error)
            ended += 1
            self.progress(Progress(step, name, ended, len(items), "tenants"))

        side_by_side(one, items, name=step, threads=at_once or self.target.connections)

    def _failed(self, tenant_id: str, error: SbhError) -> None:
        self.failed.setdefault(tenant_id, error)


def _line(name: str, loaded: Loaded | None, error: SbhError | None) -> TenantRecovery:
    sound = error is None and loaded is not None and loaded.proved
    facts = loaded.facts if loaded else None
    return TenantRecovery(
        tenant_id=name,
        backup_id=loaded.backup_id if loaded else None,
        rows=facts.rows if facts else 0,
        bytes=facts.bytes if facts else 0,
        seconds=facts.seconds if facts else 0.0,
        point=facts.point if facts else None,
        passed_over=[PassedOver(**backup) for backup in (facts.passed_over if facts else ())],
        schema_changes=[SchemaDifference(**change) for change in (facts.schema_changes if facts else ())],
        files=FilesPutBack(**loaded.files) if loaded and loaded.files else None,
        status=RESTORED if sound else FAILED,
        error=error,
    )


def known_tenants(site: Site, platform: OpenPlatformBackup, notice: Callable[[SbhError], None]) -> list[Tenant]:
    """The tenants of the platform backup, and those that a region's catalog has seen since; by slug.

    One that the platform backup lacks and of which nothing was recorded since had been deleted before.
    """
    tenants = {
        fact["id"]: Tenant(TenantId(fact["id"]), fact["key"], fact["region"], fact["tier"])
        for fact in platform.of("tenant")
    }
    for region in site.settings.storage.regions:
        catalog = site.catalog(region)
        former = {mark.home for mark in site.owners.all_former(region)}
        for home, record in catalog.read().items():
            slug = slug_of(home)
            late = parse_timestamp(record.point.time) > platform.point
            if slug is not None and slug not in tenants and late and home not in former:
                tenants[slug] = Tenant(slug, "", region, "")
        erased = catalog.erased
        marked = [slug for slug, tenant in tenants.items() if erased and site.owners.home_of(tenant) in erased]
        for slug in marked:  # a mark alone must not keep a tenant from being recovered
            if site.is_erased(replace(tenants[slug], region=region)):
                del tenants[slug]
        for damage in catalog.damages:
            notice(damage.error)
    return [tenants[slug] for slug in sorted(tenants)]
