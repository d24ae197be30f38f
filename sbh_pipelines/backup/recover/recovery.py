"""After complete failure: an empty database, and the buckets, from backups alone.

    roles → schema → shared rows → every tenant's rows → indexes, constraints, triggers → sequences → settings
    → proof of every tenant → files

Rows come before constraints, so that the server validates every one of them, and no trigger fires. What is done is noted in the
target itself (`database/rebuild/run.py`): the same command, given again, goes on where a killed run stopped. A tenant
that cannot be recovered keeps nobody else; it is reported, and a later run completes it.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from sbh_pipelines.backup.contents.manifest import LATEST
from sbh_pipelines.backup.recover.files import put_files_back
from sbh_pipelines.backup.recover.platform_backup import Platform, open_platform
from sbh_pipelines.backup.recover.recovery_line import COMPLETED, recovery_report
from sbh_pipelines.backup.recover.schema import Schema, differences_of
from sbh_pipelines.backup.recover.tenant import Chosen, Place, load_tenant, prove_tenant
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.database.rebuild.load import refresh_views
from sbh_pipelines.database.rebuild.run import Run, note_files, open_run, run
from sbh_pipelines.database.session.programs import POST_DATA, PRE_DATA
from sbh_pipelines.errors import RestoreRefused, SbhError, SourceError, UnknownBackup
from sbh_pipelines.model import Progress, ProgressSink, RestoreId, Tenant, TenantId, parse_timestamp, timestamp
from sbh_pipelines.repository.documents import signed
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.settings import DatabaseSettings

__all__ = ["Chosen", "rebuild"]

STEP = "recovery"
_KIND = "recovery"
_T = TypeVar("_T")


def rebuild(
    site: Site,
    target: DatabaseSettings,
    tenants: Sequence[Chosen | Tenant] | None,
    *,
    platform: str = "latest",
    files: bool = True,
    owners: bool = True,
    until: datetime | None = None,
    requested_by: str,
    progress: ProgressSink,
) -> dict[str, Any]:
    """Build the empty database that `target` names, and the tenants' files; goes on with a run that was cut short.

    `tenants` None: all that the platform backup or, for those that came later, a catalog knows. `until`: each tenant's newest
    backup at or before it. `owners` False leaves out roles, and owners and grants that the target's role may not give: for
    throw-away databases.

    The report: {restore_id, status: completed | incomplete, platform_backup, tenants: [{tenant_id, backup_id, status: restored |
    failed, rows, bytes, seconds, point, passed_over, files, error?}], phases: {name: seconds}, rows, bytes, files, seconds,
    foreign_keys_not_valid, skipped_statements, ddl_only, differences, issues}. It is kept below `restores/` of the platform's
    repository.

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
        if known is None:
            restore_id = RestoreId.at(site.clock(), secrets.token_hex(3))
            control.begin(restore_id, opened.id, requested_by, target.dsn)
            known = restore_id, opened.id
        recovery = _Recovery(site, target, control, opened, owners, until, progress, issues)
        report = recovery.run(tenants, files)
        report = {
            "restore_id": known[0],
            "platform_backup": opened.id,
            "requested_by": requested_by,
            "ended_at": timestamp(site.clock()),
            **report,
            "differences": differences,
            "issues": [error.as_dict() for error in issues],
            "seconds": round(time.monotonic() - begun, 3),
        }
        key = opened.repository.prefix + Keys.restore(known[0])
        opened.repository.store.put(key, signed(opened.repository, _KIND, report))
        if report["status"] == COMPLETED:
            control.end()
        return report


@dataclass
class _Recovery:
    """One call. Every step looks first whether it is done."""

    site: Site
    target: DatabaseSettings
    control: Run
    platform: Platform
    owners: bool
    until: datetime | None
    progress: ProgressSink
    issues: list[SbhError]
    failed: dict[str, SbhError] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, tenants: Sequence[Chosen | Tenant] | None, files: bool) -> dict[str, Any]:
        if tenants is None:
            tenants = known_tenants(self.site, self.platform, self.issues.append)
        chosen = [_chosen(one) for one in tenants]
        schema = Schema(
            self.site.settings.platform.psql, self.target, self.control, self.platform, self.owners, self.issues
        )
        if self.owners:
            self._step("roles", schema.make_roles)
        self._step("pre_data", lambda: schema.script(PRE_DATA, "pre_data"))
        self._step("shared", schema.load_shared)
        self._timed("tenants", lambda: self._load_tenants(chosen))
        self._step("post_data", lambda: schema.script(POST_DATA, "post_data"))
        not_valid = self._timed("foreign_keys", schema.foreign_keys)
        self._timed("sequences", schema.set_sequences)
        if self.owners:
            self._step("settings", schema.set_up)
        self._timed("analyze", lambda: run(self.control.connection, "ANALYZE", "gather statistics"))
        self._timed("proof", self._prove)
        if files:
            self._timed("files", self._put_files_back)
        return {
            **recovery_report(
                [str(one.tenant.id) for one in chosen], self.control, self.failed, self.platform.of("ddl_only")
            ),
            "phases": self.seconds,
            "foreign_keys_not_valid": not_valid,
        }

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

    def _place(self) -> Place:
        return Place(
            self.site,
            self.target,
            {f"{fact['schema']}.{fact['name']}": fact for fact in self.platform.of("table")},
            self.platform.manifest.schemas,
            "post_data" in self.control.phases(),
        )

    def _load_tenants(self, chosen: list[Chosen]) -> None:
        done = {tenant.tenant_id for tenant in self.control.tenants()}
        waiting = [c for c in chosen if c.tenant.id not in done]
        place = self._place()
        listed = {fact["id"] for fact in self.platform.of("tenant")}

        def load(one: Chosen) -> None:
            try:
                load_tenant(place, one, self.until)
            except UnknownBackup:
                if self.until is None or one.tenant.id in listed or one.backup_id != LATEST:
                    raise
                chosen.remove(one)  # it came after that time: the platform backup does not know it

        # Past the constraints one by one: triggers that fire whatever the session says are turned off meanwhile.
        self._each("load", [(c.tenant.id, c) for c in waiting], load, 1 if place.constrained else None)
        if waiting and place.constrained:
            refresh_views(self.control.connection)
        if self.failed and not self.control.tenants():
            # What kept the first keeps all of them: nothing is built without rows.
            raise next(iter(self.failed.values()))

    def _prove(self) -> None:
        place = self._place()
        waiting = [t for t in self.control.tenants() if not t.proved]
        self._each("prove", [(t.tenant_id, t) for t in waiting], lambda loaded: prove_tenant(place, loaded))

    def _put_files_back(self) -> None:
        waiting = [t for t in self.control.tenants() if t.files is None]
        for number, loaded in enumerate(waiting, 1):
            try:
                tenant = Tenant(TenantId(loaded.tenant_id), "", loaded.region, "")
                facts = put_files_back(self.site, tenant, loaded.backup_id)
                run(self.control.connection, note_files(loaded.tenant_id, facts), "note a tenant's files")
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


def _chosen(one: Chosen | Tenant) -> Chosen:
    return one if isinstance(one, Chosen) else Chosen(one)


def known_tenants(site: Site, platform: Platform, notice: Callable[[SbhError], None]) -> list[Tenant]:
    """The tenants of the platform backup, and those that a region's catalog has seen since; by slug.

    One that the platform backup lacks and of which nothing was recorded since had been deleted before.
    """
    tenants = {
        fact["id"]: Tenant(TenantId(fact["id"]), fact["key"], fact["region"], fact["tier"])
        for fact in platform.of("tenant")
    }
    for region in site.settings.storage.regions:
        catalog = site.catalog(region)
        for slug, record in catalog.read().items():
            if slug not in tenants and parse_timestamp(record.point.time) > platform.point:
                tenants[slug] = Tenant(slug, "", region, "")
        for erased in catalog.erased:
            tenants.pop(erased, None)
        for damage in catalog.damages:
            notice(damage.error)
    return [tenants[slug] for slug in sorted(tenants)]
