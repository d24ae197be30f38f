"""What calls of the service leave in the audit trail, and what happens when it cannot be written."""

import inspect
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.document import as_document
from sbh_pipelines.embedded.servers import object_server
from sbh_pipelines.errors import (
    AccessDenied,
    ForgetRefused,
    NotConfirmed,
    RequestError,
    SbhError,
    StoreDenied,
    StoreUnavailable,
    UnknownHold,
    UnknownTenant,
)
from sbh_pipelines.model import Tenant, TenantId
from sbh_pipelines.repository.trail.event import PLATFORM
from sbh_pipelines.repository.trail.trail import Trail
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.stores.test_stores import secret as s3_secret
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.fault_stores import WRITES, Killed, nothing, wrap
from sbh_pipelines_tests.support.site import site_of

# Every public call: the events that it leaves (in the tenant's trail, or the platform's), or why it leaves none.
BATCH = "a step of a batch: backup.created at the commit, backup.failed, backup.checked are recorded by what it does"
NO_DATA = "tells nothing of any backup"
AGGREGATE = "figures over all tenants that monitoring asks for every few seconds; no backup can be read from them"
EVENTS: dict[str, tuple[str, ...] | str] = {
    "approvals.approve": ("restore.approved",),
    "approvals.get": "what somebody asked to have approved, which is recorded itself; nothing of a backup",
    "approvals.of": "as get_approval",
    "approvals.reject": ("restore.rejected",),
    "approvals.request_restore": ("restore.requested",),
    "approvals.request_undo": ("restore.requested",),
    "approvals.require": ("restore.break_glass",),
    "audit.check_file": NO_DATA,
    "audit.compliance_report": ("audit.accessed",),
    "audit.events": ("audit.accessed",),
    "audit.end_repeats": "records what was counted",
    "audit.export": ("audit.exported",),
    "audit.fold_repeats": "from then on a repeat of a look or a denial is counted; the count is recorded",
    "audit.track": "it is the event",
    "audit.verify": ("audit.verified",),
    "audit.verify_all": ("audit.verified",),
    "backups.abandon": NO_DATA,
    "backups.apply_retention": ("backup.deleted", "backup.kept"),
    "backups.begin": BATCH,
    "backups.create": ("backup.created", "backup.failed", "backup.checked", "policy.changed"),
    "backups.create_at": ("backup.created", "backup.failed", "backup.accessed"),
    "backups.create_all": ("backup.created", "backup.failed", "backup.checked", "policy.changed"),
    "backups.damaged": "goes with list_backups, which is recorded; it names what cannot be read",
    "backups.enumerate_files": BATCH,
    "backups.former_keys": "goes with backups.of, which is recorded: keys of tenants, for callers of the platform",
    "backups.get": ("backup.accessed",),
    "backups.missing_files": ("backup.accessed",),
    "backups.latest_recovery_point": ("backup.accessed",),
    "backups.of": ("backup.accessed",),
    "backups.overview": ("backup.accessed",),
    "backups.recovery_points": AGGREGATE,
    "backups.snapshot_tables": BATCH,
    "backups.status": ("backup.accessed",),
    "backups.unfinished": "what of backups is not there: failures and what runs now, for faces that list backups too",
    "backups.validate": ("backup.validated",),
    "backups.verify_checksums": BATCH,
    "backups.write_manifest": BATCH,
    "copies.forget": ("copy.forgotten",),
    "copies.promote": ("copy.fenced", "copy.promoted"),
    "copies.prune": ("copy.pruned",),
    "copies.run": ("copy.completed", "copy.failed"),
    "copies.status": AGGREGATE,
    "copies.verify": ("copy.verified",),
    "drills.candidates": NO_DATA,
    "drills.of": ("backup.accessed",),
    "drills.report": AGGREGATE,
    "drills.run": ("drill.started", "drill.completed"),
    "exports.export": ("backup.exported",),
    "exports.file": ("backup.exported",),
    "exports.open": ("backup.accessed",),
    "exports.view": ("backup.accessed", "backup.exported"),
    "drills.drop_leftovers": "removes databases that killed drills left; nothing of a backup is read or changed",
    "health.check": AGGREGATE,
    "health.examine": AGGREGATE,
    "health.metrics": AGGREGATE,
    "health.prometheus_text": AGGREGATE,
    "health.storage": AGGREGATE,
    "journal.drain": "the journal's own work; nobody is shown anything",
    "journal.drop": ("journal.dropped",),
    "journal.gaps": "when the journal told nothing; no row of anybody",
    "journal.recovery_windows": AGGREGATE,
    "journal.setup": ("journal.set_up",),
    "journal.show": ("backup.accessed",),
    "journal.status": "how the journal stands; no row of anybody",
    "keys.adopt": ("tenant.adopted",),
    "keys.certificate": "a public statement that there is nothing left to read",
    "keys.erase": ("tenant.erased",),
    "keys.public": "public keys",
    "keys.readmit": ("tenant.readmitted",),
    "keys.retire": ("tenant.retired",),
    "keys.rotate": ("key.rotated",),
    "keys.status": "tells which key wraps what, not what is wrapped",
    "keys.verify_certificate": NO_DATA,
    "moves.arrived": ("tenant.arrived", "backup.created"),
    "moves.give_up": ("tenant.move_given_up",),
    "moves.plan": ("backup.accessed",),
    "moves.run": ("tenant.move_started", "tenant.moved", "tenant.arrived"),
    "launches.claim": NO_DATA,
    "launches.digest": NO_DATA,
    "launches.permit": NO_DATA,
    "launches.permit_platform": NO_DATA,
    "launches.writer_at_work": NO_DATA,
    "platform.backups": ("platform.backup_accessed",),
    "platform.create": ("platform.backup_created", "platform.backup_failed", "platform.backup_deleted"),
    "platform.damaged": "goes with list_platform_backups, which is recorded",
    "platform.recover": ("platform.restore_started", "platform.restore_completed", "platform.restore_failed"),
    "platform.validate": ("platform.backup_validated",),
    "request_counts": NO_DATA,
    "restores.into_schema": ("restore.started", "restore.completed", "restore.failed"),
    "restores.drop_expired_looks": "removes copies whose time is over; nothing of a backup is read or changed",
    "restores.drop_look": ("restore.look_dropped",),
    "restores.looks": "names of schemas; nothing of a backup is read or changed",
    "restores.check_place": "whether a restore may begin; nothing of a backup",
    "restores.check_undo": "whether a restore can be undone, which is recorded when it is; nothing of a backup",
    "restores.is_staged": "looks at the name of a backup, and at nothing else",
    "restores.of": ("backup.accessed",),
    "restores.opened": "gives a process back what a person asked for, who is known; nothing of a backup",
    "restores.plan": ("restore.planned",),
    "restores.plan_undo": ("restore.planned",),
    "restores.resolve": ("backup.created", "backup.failed"),
    "restores.run": ("restore.started", "restore.completed", "restore.failed"),
    "restores.sealed": "what a person asks for, on its way to the restore, which is recorded; nothing of a backup",
    "restores.status": ("backup.accessed",),
    "restores.undo": ("restore.started", "restore.undone", "restore.failed"),
    "retention.compact_catalogs": "merges a cache; no backup is read or changed",
    "retention.forget": ("backup.deleted", "backup.kept"),
    "retention.hold": ("hold.placed",),
    "retention.holds": ("backup.accessed",),
    "retention.keep_journals": ("journal.pruned",),
    "retention.pin": ("backup.pinned",),
    "retention.prune": ("repository.pruned",),
    "retention.release": ("hold.released",),
    "retention.unpin": ("backup.unpinned",),
    "tenants.all": NO_DATA,
    "tenants.check_residency": "asks where a backup may lie; nothing of one is read or changed",
    "tenants.find": NO_DATA,
    "tenants.housed": NO_DATA,
    "tenants.moved": NO_DATA,
    "tenants.remember": NO_DATA,
    "tenants.unusable": NO_DATA,
    "tenants.visible_to": NO_DATA,
    "tokens.issue": ("token.issued",),
    "tokens.sign_in_denied": ("access.denied",),
    "tokens.signed_in": ("ui.signed_in",),
    "tokens.revoke": ("token.revoked",),
}


SERVICE = "sbh_pipelines.backup.service"


def test_every_public_call_has_its_events_or_a_reason_for_none(application: Application) -> None:
    """A call that is added to a facet is added here, with what it leaves behind."""
    service = application.service()
    facets = {name: facet for name, facet in vars(service).items() if type(facet).__module__.startswith(SERVICE)}
    public = {
        f"{name}.{call}"
        for name, facet in facets.items()
        for call, _ in inspect.getmembers(facet, callable)
        if not call.startswith("_")
    }
    assert len(facets) == 16
    assert public - set(EVENTS) == set()
    assert set(EVENTS) - public == {"request_counts"}
    assert all(EVENTS.values())


def trail(service: BackupService, tenant: str = ACME) -> Trail:
    chain = Tenant(TenantId(PLATFORM), "", "eu-west-1", "") if tenant == PLATFORM else service.tenants.find(tenant)
    return site_of(service).trails.of(chain)


def events(service: BackupService, tenant: str = ACME) -> list[dict[str, Any]]:
    """All of a trail, oldest first, read without the service's own listing."""
    of = trail(service, tenant)
    return [event.document() for number in range(1, of.last_link() + 1) for event in of.read_link(number)]


def names(service: BackupService, tenant: str = ACME) -> list[str]:
    return [event["event"] for event in events(service, tenant)]


class Watch:
    """The events that a call leaves, in the tenant's trail and then in the platform's."""

    def __init__(self, service: BackupService) -> None:
        self.service = service

    def __call__(self, call: Callable[[], Any], *, fails: type[SbhError] | None = None) -> list[dict[str, Any]]:
        before = [len(events(self.service, t)) for t in (ACME, PLATFORM)]
        if fails is None:
            call()
        else:
            with pytest.raises(fails):
                call()
        return [e for t, n in zip((ACME, PLATFORM), before, strict=True) for e in events(self.service, t)[n:]]


def test_what_threads_do_is_of_the_face_that_the_call_came_through(application: Application) -> None:
    """Keys of several tenants are made, and rotated, side by side."""
    service, user = application.service(), replace(ADMIN, via="cli")
    assert not any(draft.error for draft in service.backups.create_all([ACME, BOLT], user))
    service.keys.rotate([ACME, BOLT], user, new_data_key=True)
    for tenant in (ACME, BOLT):
        found = {(event["event"], event["via"]) for event in events(service, tenant)}
        assert {("key.created", "cli"), ("key.rotated", "cli")} <= found
        assert {via for _, via in found} == {"cli"}


def test_each_call_leaves_the_events_it_is_said_to(application: Application) -> None:
    """With the props of the specification, the caller and the face the call came through."""
    application.database.run(
        "DO $$BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO sbh_backup', current_database()); END$$"
    )
    service = application.service(restore={"safety_backup": True, "looks_by_tenants": True})
    left = Watch(service)
    user = UserContext("ann", ACME, Role.ADMIN, "api")
    made: dict[str, Any] = {}

    def create(kind: str = "full") -> None:
        made["last"] = service.create_backup(ACME, user, kind)

    key, created, policy = left(create)
    assert (key["event"], key["props"]["epoch"]) == ("key.created", 1)
    assert policy["event"] == "policy.changed"
    assert policy["props"]["values"]["retention"]["full_backups"]["keep_daily"] == 7
    full = made["last"]
    assert (created["event"], created["tenant_id"], created["user_id"], created["source"], created["via"]) == (
        "backup.created",
        ACME,
        "ann",
        "backup",
        "api",
    )
    expected = {"backup_id": full["id"], "type": "full", "size": full["size"], "region": "eu-west-1", "parent": None}
    assert {name: created["props"][name] for name in expected} == expected

    (checked,) = left(lambda: create("incremental"))
    assert (checked["event"], checked["tenant_id"], checked["via"]) == ("backup.checked", PLATFORM, "api")
    assert (checked["props"]["unchanged"], checked["props"]["type"]) == (1, "incremental")
    application.wreck(ACME)
    (created,) = left(lambda: create("incremental"))
    assert (created["props"]["type"], created["props"]["parent"]) == ("incremental", full["id"])

    calls: list[tuple[Callable[[], Any], list[str]]] = [
        (lambda: service.list_backups(ACME, user), ["backup.accessed"]),
        (lambda: service.backups.overview(ACME, user), ["backup.accessed"]),
        (lambda: service.backups.damaged(ACME, user), []),
        (lambda: service.get_backup("latest", ACME, user), ["backup.accessed"]),
        (lambda: service.get_backup_status(full["id"], ACME, user), ["backup.accessed"]),
        (lambda: service.backups.latest_recovery_point(ACME, user), ["backup.accessed"]),
        (lambda: service.validate_backup("latest", ACME, user), ["backup.validated"]),
        (lambda: service.open_backup("latest", ACME, user).close(), ["backup.accessed"]),
        (lambda: service.exports.view("latest", ACME, user, "public.projects").close(), ["backup.accessed"]),
        (
            lambda: service.exports.view("latest", ACME, user, "public.projects", show_sensitive=True).close(),
            ["backup.exported"],
        ),
        (
            lambda: service.exports.export(full["id"], ACME, user, application.directory / "out", tables=["projects"]),
            ["backup.exported"],
        ),
        (lambda: service.restores.plan(full["id"], ACME, user), ["restore.planned"]),
        (lambda: service.restore_backup(full["id"], ACME, user, validate_only=True), ["restore.planned"]),
        (
            lambda: made.update(restored=service.restore_backup(full["id"], ACME, user)),
            ["restore.started", "restore.completed"],
        ),
        (lambda: service.restores.of(ACME, user), ["backup.accessed"]),
        (lambda: service.get_restore_status(made["restored"]["restore_id"], ACME, user), ["backup.accessed"]),
        (
            lambda: service.restores.plan_undo(made["restored"]["restore_id"], ACME, user),
            ["restore.planned"],
        ),
        (
            lambda: service.restores.undo(made["restored"]["restore_id"], ACME, user),
            ["restore.started", "backup.created", "restore.undone"],
        ),
        (
            lambda: service.restores.into_schema(full["id"], ACME, user, "look", tables=("projects",)),
            ["restore.started", "restore.completed"],
        ),
        (
            lambda: service.restores.drop_look(service.restores.looks(ACME, user)[0].schema, ACME, user),
            ["restore.look_dropped"],
        ),
        (lambda: service.retention.pin(full["id"], ACME, user, "quarter"), ["backup.pinned"]),
        (lambda: made.update(hold=service.retention.hold(ACME, ADMIN, reason="case 7")), ["hold.placed"]),
        (lambda: service.retention.holds(ACME, user), ["backup.accessed"]),
        (lambda: service.retention.release(made["hold"].id, ACME, ADMIN), ["hold.released"]),
        (lambda: service.retention.unpin(full["id"], ACME, user), ["backup.unpinned"]),
        (lambda: service.drills.of(ACME, user), ["backup.accessed"]),
        (create, ["backup.created"]),
        (lambda: service.retention.forget(ACME, user, dry_run=True), ["backup.accessed"]),
        (lambda: service.retention.forget(ACME, user, backup_id=full["id"]), ["backup.deleted"]),
        (lambda: service.retention.prune(ACME, user, dry_run=True), []),
        (lambda: service.audit.events(user, ACME), ["audit.accessed"]),
        (lambda: service.audit.verify(user, ACME), ["audit.verified"]),
        (lambda: service.audit.export(user, application.directory / "trail.jsonl", ACME), ["audit.exported"]),
        (lambda: service.platform.backups(ADMIN), ["platform.backup_accessed"]),
    ]
    for call, expected_names in calls:
        found = left(call)
        assert [event["event"] for event in found] == expected_names
        own = [e for e in found if e["tenant_id"] == ACME]
        whose = {("tester", "python")} if set(expected_names) & {"hold.placed", "hold.released"} else {("ann", "api")}
        assert {(e["user_id"], e["via"]) for e in own} <= whose
    undone = next(e for e in events(service) if e["event"] == "restore.undone")
    assert undone["props"]["undoes"] == made["restored"]["restore_id"]
    deleted = next(e for e in events(service) if e["event"] == "backup.deleted")
    assert deleted["props"]["reasons"] == ["ann asked to forget it"]
    assert service.audit.verify(user, ACME).issues == []


def test_what_fails_is_recorded_with_its_code(application: Application) -> None:
    """A backup, a restore, a hold that is not there: that one leaves nothing, for nothing was released."""
    service = application.service()
    left = Watch(service)
    made = service.create_backup(ACME, ADMIN)["id"]
    application.database.run("ALTER TABLE notes RENAME TO elsewhere")
    (failed,) = [
        e for e in left(lambda: service.restore_backup(made, ACME, ADMIN), fails=SbhError) if "failed" in e["event"]
    ]
    assert failed["event"] == "restore.failed"
    assert failed["props"]["code"].startswith("SBH-")
    assert failed["props"]["restored"] is False
    assert left(lambda: service.retention.release("legal-tenant-00000000", ACME, ADMIN), fails=UnknownHold) == []
    assert left(lambda: service.restore_backup(made, ACME, ADMIN, confirm=False), fails=NotConfirmed) == []
    assert left(lambda: service.retention.forget(ACME, ADMIN, backup_id=made), fails=ForgetRefused) == []
    lease_less = wrap(application.service(), _failing(lambda verb, key: verb == "put" and "/packs/" in key), nothing)
    found = left(lambda: lease_less.create_backup(ACME, ADMIN), fails=StoreUnavailable)
    assert [(e["event"], e["props"]["code"]) for e in found] == [("backup.failed", "SBH-401")]


def _failing(which: Callable[[str, str], bool]) -> Callable[[str, str], None]:
    def before(verb: str, key: str) -> None:
        if which(verb, key):
            raise StoreUnavailable("Cannot do that", on=key)

    return before


def _audit(verb: str, key: str) -> bool:
    return verb in WRITES and "/audit/" in key


def test_a_tick_that_finds_tenants_unchanged_leaves_one_event(application: Application) -> None:
    """However many they are: an hourly fleet must not cost an event each."""
    service = application.service(backup={"batch_tenants": 1})
    service.backups.create_all([ACME, BOLT], ADMIN)
    before = {tenant: len(events(service, tenant)) for tenant in (ACME, BOLT, PLATFORM)}
    for _ in range(2):
        service.backups.create_all([ACME, BOLT], ADMIN, "incremental")
    after = {tenant: len(events(service, tenant)) for tenant in (ACME, BOLT, PLATFORM)}
    assert {t: after[t] - before[t] for t in after} == {ACME: 0, BOLT: 0, PLATFORM: 2}
    assert events(service, PLATFORM)[-1]["props"]["unchanged"] == 2


def test_the_policy_is_recorded_when_it_is_another_than_before(application: Application) -> None:
    """Once, not by every backup; also by another process."""
    for keep in (3, 3, 5):
        for _ in range(2):
            service = application.service(retention={"keep_within_hours": keep})
            service.create_backup(ACME, ADMIN)
            service.create_backup(ACME, ADMIN)
    changed = [e["props"] for e in events(service, PLATFORM) if e["event"] == "policy.changed"]
    assert [p["values"]["retention"]["keep_within_hours"] for p in changed] == [3, 5]
    assert [p["previous"] for p in changed] == [None, changed[0]["digest"]]


# who may not


@pytest.mark.parametrize(
    ("user", "where"),
    [
        (UserContext("eve", BOLT, Role.ADMIN, "api"), PLATFORM),
        (UserContext("eve", ACME, Role.VIEWER, "api"), ACME),
        (UserContext("eve", "*", Role.VIEWER, "cli"), PLATFORM),
    ],
    ids=["of another tenant", "with too small a role", "a platform viewer"],
)
def test_a_denied_call_is_recorded(application: Application, user: UserContext, where: str) -> None:
    """Where the caller belongs; what is told to the caller stays the same, whether the tenant exists or not."""
    service = application.service()
    with pytest.raises(AccessDenied) as denied:
        service.restore_backup("latest", ACME, user)
    assert [name for name in names(service, where) if name == "access.denied"] == ["access.denied"]
    event = events(service, where)[-1]
    assert (event["user_id"], event["via"]) == ("eve", user.via)
    assert event["props"]["action"] == "backup.restore"
    assert event["props"]["tenant"] == ACME
    if user.tenant_id == BOLT:
        with pytest.raises(AccessDenied) as unknown:
            service.restore_backup("latest", "nobody", user)
        assert str(unknown.value) == str(denied.value).replace(ACME, "nobody")
        assert BOLT not in (e["tenant_id"] for e in events(service, PLATFORM))
        assert events(service, ACME) == []


def test_a_denial_stays_a_denial_where_it_cannot_be_recorded(application: Application) -> None:
    """The caller learns nothing more, an operator sees it beside the error."""
    service = wrap(application.service(), _failing(_audit), nothing)
    with pytest.raises(AccessDenied) as denied:
        service.list_backups(ACME, UserContext("eve", BOLT, Role.ADMIN))
    assert "SBH-401" in denied.value.__notes__[0]


# when an event cannot be written


def test_nobody_reads_plans_or_restores_unrecorded(application: Application) -> None:
    """Refused before anything is shown or written; and nothing is forgotten or released."""
    sound = application.service()
    made = sound.create_backup(ACME, ADMIN)["id"]
    sound.create_backup(ACME, ADMIN)
    held = sound.retention.hold(ACME, ADMIN, reason="case 7").id
    sound.retention.release(sound.retention.hold(ACME, ADMIN, reason="case 8").id, ACME, ADMIN)
    sound.retention.pin(made, ACME, ADMIN)
    application.wreck(ACME)
    before = application.state(ACME)
    service = wrap(application.service(), _failing(_audit), nothing)
    folder = application.directory / "out"
    refused: list[Callable[[], Any]] = [
        lambda: service.list_backups(ACME, ADMIN),
        lambda: service.get_backup(made, ACME, ADMIN),
        lambda: service.get_backup_status(made, ACME, ADMIN),
        lambda: service.open_backup(made, ACME, ADMIN),
        lambda: service.exports.export(made, ACME, ADMIN, folder),
        lambda: service.restores.plan(made, ACME, ADMIN),
        lambda: service.restore_backup(made, ACME, ADMIN),
        lambda: service.restores.into_schema(made, ACME, ADMIN, "look"),
        lambda: service.retention.release(held, ACME, ADMIN),
        lambda: service.retention.unpin(made, ACME, ADMIN),
        lambda: service.audit.events(ADMIN, ACME),
        lambda: service.audit.export(ADMIN, folder / "trail", ACME),
        lambda: service.drills.run(ACME, ADMIN),
    ]
    for call in refused:
        with pytest.raises(StoreUnavailable):
            call()
    assert application.state(ACME) == before
    assert not folder.exists()
    ids = {hold.id for hold in sound.retention.holds(ACME, ADMIN)}
    assert ids == {held, f"pin-{made}"}
    sound.retention.unpin(made, ACME, ADMIN)
    sound.retention.release(held, ACME, ADMIN)
    with pytest.raises(StoreUnavailable):
        service.retention.forget(ACME, ADMIN, backup_id=made)
    assert made in {m["id"] for m in sound.list_backups(ACME, ADMIN)}


def test_a_refused_look_is_refused_again_where_repeats_are_counted(application: Application) -> None:
    """Each way twice, as a face that serves many asks: nothing is a repeat of a look that was not recorded."""
    sound = application.service()
    made = sound.create_backup(ACME, ADMIN)["id"]
    service = wrap(application.service(), _failing(_audit), nothing)
    service.audit.fold_repeats()
    looks: list[Callable[[], Any]] = [
        lambda: service.list_backups(ACME, ADMIN),
        lambda: service.get_backup(made, ACME, ADMIN),
        lambda: service.get_backup_status(made, ACME, ADMIN),
        lambda: service.open_backup(made, ACME, ADMIN),
        lambda: service.restores.plan(made, ACME, ADMIN),
        lambda: service.audit.events(ADMIN, ACME),
    ]
    for call in [look for look in looks for _ in range(3)]:
        with pytest.raises(StoreUnavailable):
            call()
    service.audit.end_repeats()  # and nothing was counted, which would be raised here


def test_a_backup_is_made_all_the_same_and_its_event_comes_later(application: Application) -> None:
    """The backup is there; until the tenant's next one verification says which has no event."""
    service = wrap(application.service(), _failing(_audit), nothing)
    made = service.create_backup(ACME, ADMIN)["id"]
    sound = application.service()
    found = sound.audit.verify(ADMIN, ACME)
    assert found.unrecorded == [made]
    assert found.issues[0].on.endswith(made)
    application.wreck(ACME)
    second = sound.create_backup(ACME, ADMIN, "incremental")["id"]
    created = [e["props"] for e in events(sound) if e["event"] == "backup.created"]
    assert [(p["backup_id"], p.get("late", False)) for p in created] == [(made, True), (second, False)]
    found = sound.audit.verify(ADMIN, ACME)
    assert (found.valid, found.late) == (True, 1)


def test_a_process_killed_between_the_commit_and_its_event(application: Application) -> None:
    """The same: at each write from the manifest's on, a run that follows records it once."""
    now = [datetime(2026, 3, 1, tzinfo=UTC)]
    sound = application.service(clock=lambda: now[0])
    sound.create_backup(ACME, ADMIN)
    for nth in range(4):  # the event, the end of the trail, the catalog, the lease
        application.database.run(f"UPDATE projects SET body = 'v{nth}' WHERE tenant_id = 1")
        begun: list[int] = []

        def die(verb: str, key: str, begun: list[int] = begun, nth: int = nth) -> None:
            if begun and verb in WRITES and "lease" not in key:
                begun.append(1)
                if len(begun) > nth + 1:
                    raise Killed
            if "/manifests/" in key and verb == "create":
                begun.append(1)

        with pytest.raises(Killed):
            wrap(application.service(), die, nothing, clock=lambda: now[0]).create_backup(ACME, ADMIN, "incremental")
        now[0] += timedelta(minutes=5)  # its lease is over
        found = sound.audit.verify(ADMIN, ACME)
        assert len(found.unrecorded) == (1 if nth == 0 else 0)
        application.database.run(f"UPDATE projects SET body = 'w{nth}' WHERE tenant_id = 1")
        sound.create_backup(ACME, ADMIN, "incremental")
        now[0] += timedelta(minutes=5)
        created = [e["props"]["backup_id"] for e in events(sound) if e["event"] == "backup.created"]
        there = sorted(p.stem for p in (application.repository(ACME) / "manifests").glob("*.json"))
        assert sorted(created) == sorted(set(created))
        assert set(there) <= set(created)
        assert sound.audit.verify(ADMIN, ACME).valid


def test_backups_of_an_earlier_release_are_recorded_as_late(application: Application) -> None:
    """They have no trail at all; the first backup of this one records them."""
    service = application.service()
    old = [service.create_backup(ACME, ADMIN)["id"] for _ in range(2)]
    for file in (application.repository(ACME) / "audit").iterdir():
        file.unlink()
    for head in application.bucket.rglob("heads/*.json"):
        head.unlink()
    assert application.service().audit.verify(ADMIN, ACME).unrecorded == old
    later = application.service()
    later.create_backup(ACME, ADMIN)
    assert [e["props"].get("late", False) for e in events(later) if e["event"] == "backup.created"] == [
        True,
        True,
        False,
    ]


def test_a_manifest_that_somebody_removed_is_found(application: Application) -> None:
    """No event says that it was forgotten."""
    service = application.service()
    made = service.create_backup(ACME, ADMIN)["id"]
    service.create_backup(ACME, ADMIN)
    (application.repository(ACME) / "manifests" / f"{made}.json").unlink()
    found = service.audit.verify(ADMIN, ACME)
    assert found.unexplained == [made]
    assert not found.valid


def test_reading_a_copy_where_nothing_can_be_written_can_be_allowed(application: Application) -> None:
    """By a setting, and only that: forgetting still needs its event."""
    application.service().create_backup(ACME, ADMIN)

    def read_only(verb: str, key: str) -> None:
        if verb in WRITES:
            raise StoreDenied("The store refused to put an object", on=key)

    with pytest.raises(StoreDenied):
        wrap(application.service(), read_only, nothing).list_backups(ACME, ADMIN)
    allowed = wrap(application.service(audit={"required": False}), read_only, nothing)
    assert len(allowed.list_backups(ACME, ADMIN)) == 1
    assert allowed.restores.plan("latest", ACME, ADMIN).tenant_id == ACME


# whose trail, and what is in it


def test_the_trail_of_a_tenant_that_is_gone_is_still_read(application: Application) -> None:
    """Its row and its backups are gone; the heads beside the catalog tell where it lies. A name that never was is unknown."""
    service = application.service()
    service.create_backup(ACME, ADMIN)
    site_of(service).track(service.tenants.find(ACME), "tenant.erased", "ann", {})
    for table in ("items", "projects", "notes", "tenants"):
        application.database.run(f"TRUNCATE {table} CASCADE")
    for file in (application.repository(ACME) / "manifests").iterdir():
        file.unlink()
    found = application.service().audit.verify(ADMIN, ACME)
    assert (found.valid, found.events) == (True, 3)
    assert application.service().audit.events(ADMIN, ACME).events[0].event == "audit.accessed"
    with pytest.raises(UnknownTenant):
        application.service().audit.events(ADMIN, "nobody")
    trails = {(t.tenant_id, t.region): t.valid for t in application.service().audit.verify_all(ADMIN)}
    assert trails[ACME, "eu-west-1"] is True
    assert trails[PLATFORM, "eu-west-1"] is True


def test_a_tenant_s_operator_reads_its_own_trail_and_no_other(application: Application) -> None:
    """Nor the platform's; a viewer reads none."""
    service = application.service()
    service.create_backup(ACME, ADMIN)
    operator = UserContext("olga", ACME, Role.OPERATOR)
    assert service.audit.events(operator, ACME).events
    for user, tenant in ((operator, PLATFORM), (operator, BOLT), (UserContext("vi", ACME, Role.VIEWER), ACME)):
        with pytest.raises(AccessDenied):
            service.audit.events(user, tenant)
    with pytest.raises(AccessDenied):
        service.audit.export(operator, application.directory / "x", ACME)
    with pytest.raises(AccessDenied):
        list(service.audit.verify_all(operator))


@pytest.mark.parametrize("cursor", ["", "x", "1", "1.x", "-1.2", "٣.1", "1" * 50 + ".1", "1.1\0"])
def test_a_cursor_that_is_none_is_refused(application: Application, cursor: str) -> None:
    """And limits out of bounds, and times without a zone."""
    service = application.service()
    with pytest.raises(RequestError):
        service.audit.events(ADMIN, ACME, cursor=cursor)
    with pytest.raises(RequestError):
        service.audit.events(ADMIN, ACME, limit=0)
    with pytest.raises(RequestError):
        service.audit.events(ADMIN, ACME, since=datetime(2026, 1, 1))


def test_neither_secrets_nor_a_person_s_data_are_in_events(application: Application) -> None:
    """Predicates and patterns are kept as digests; errors as their code and what, without why."""
    service = application.service(storage={"access_key_id": "hunter2-id", "secret_access_key": "hunter2-storage"})
    made = service.create_backup(ACME, ADMIN)["id"]
    request = RestoreRequest(rows="projects where code = 'code-18'")
    with pytest.raises(SbhError):
        service.restore_backup(made, ACME, ADMIN, request=RestoreRequest(rows="projects where nope = 'x-personal'"))
    with pytest.raises(SbhError):
        service.restore_backup(made, ACME, ADMIN, request=RestoreRequest(rows="name='a-personal' or 1=1"))
    service.restores.plan(made, ACME, ADMIN, request)
    service.restore_backup(made, ACME, ADMIN, request=request)
    asked = as_document(service.approvals.request_restore(made, ACME, ADMIN, request, reason="ticket 7"))
    service.approvals.approve(asked["approval_id"], ACME, UserContext("bob", "*", Role.ADMIN))
    assert events(service)[-1]["props"]["subject"]["scope"]["rows_of"] == "projects"
    service.restores.plan(made, ACME, ADMIN, RestoreRequest(files=("docs/0 of acme.txt",)))
    service.exports.export(made, ACME, ADMIN, application.directory / "out")
    service.validate_backup(made, ACME, ADMIN, deep=True)
    text = b"".join(
        file.read_bytes() for file in application.bucket.rglob("*") if "/audit/" in str(file) and file.is_file()
    )
    assert b"restore.planned" in text
    assert b"projects" in text
    for secret in (b"hunter2", b"personal", b"code-18", b"docs/", b"of acme.txt", bytes(range(32))):
        assert secret not in text


def test_analytics_tracks_as_the_specification_shows(
    application: Application, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From the package, for the service of SBH_SETTINGS; marked, so that it cannot pass for one of the program's own."""
    import sbh_pipelines.backup.service as module
    from sbh_pipelines import analytics as package
    from sbh_pipelines.analytics import analytics

    service = application.service()
    monkeypatch.setattr(module, "load_service", lambda: service)
    props = {"backup_id": "backup_20240115_1200", "type": "full", "size": 1, "region": "eu-west-1"}
    analytics.track(tenant_id=ACME, event="backup.created", user_id="ann", source="backup", props=props)
    package.track(tenant_id=ACME, event="invoice.paid", user_id="ann", source="billing", props={"n": 1})
    first, second = events(service)
    assert (first["event"], first["source"], first["via"], first["props"]) == (
        "backup.created",
        "backup",
        "analytics",
        props,
    )
    assert (second["event"], second["source"]) == ("invoice.paid", "billing")
    with pytest.raises(UnknownTenant):
        analytics.track(tenant_id="nobody", event="a.b", user_id="ann")
    made = service.create_backup(ACME, ADMIN)["id"]
    found = service.audit.verify(ADMIN, ACME)
    assert (found.issues, found.late) == ([], 0), made


def test_an_exported_trail_is_checked_by_a_few_lines_of_any_language(application: Application) -> None:
    """As docs/format.md shows it: with nothing of this program."""
    import hashlib

    service = application.service()
    service.create_backup(ACME, ADMIN)
    report = service.audit.export(ADMIN, application.directory / "trail.jsonl", ACME)
    prev = "0" * 64
    for text in (application.directory / "trail.jsonl").read_text("ascii").splitlines():
        event = json.loads(text)
        bare = {k: v for k, v in event.items() if k not in ("hash", "signature")}
        digest = hashlib.sha256(json.dumps(bare, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        assert (event["prev"], event["hash"]) == (prev, digest)
        prev = digest
    assert prev == report.hash
    with pytest.raises(RequestError):
        service.audit.export(ADMIN, application.directory / "trail.jsonl", ACME)


def test_events_are_put_under_object_lock_when_the_settings_say_so(
    application: Application, embedded_stack: Any
) -> None:
    """A tenant's and the platform's, each until its time."""
    import boto3

    access = {"access_key_id": object_server.ACCESS_KEY, "secret_access_key": s3_secret(embedded_stack)}
    bucket = object_server.LOCKED_BUCKET
    storage = {"kind": "s3", "bucket": bucket, "endpoint_url": embedded_stack.s3_endpoint, **access}
    own = f"t{datetime.now(UTC):%H%M%S%f}/"
    storage |= {"prefix": own + "{tenant}/", "catalog_prefix": own + "_catalog/", "allow_http": True}
    service = application.service(storage=storage, audit={"object_lock_days": 2, "object_lock_mode": "governance"})
    site_of(service).track(service.tenants.find(ACME), "thing.done", "ann", {})
    site_of(service).track(Tenant(TenantId(PLATFORM), "", "eu-west-1", ""), "thing.done", "ann", {})
    client = boto3.client(
        "s3",
        region_name="eu-west-1",
        endpoint_url=embedded_stack.s3_endpoint,
        aws_access_key_id=access["access_key_id"],
        aws_secret_access_key=access["secret_access_key"],
    )
    keys: Iterable[str] = [o["Key"] for o in client.list_objects_v2(Bucket=bucket, Prefix=own)["Contents"]]
    links = [key for key in keys if key.endswith(".jsonl")]
    assert len(links) == 2
    for key in links:
        head = client.head_object(Bucket=bucket, Key=key)
        left = head["ObjectLockRetainUntilDate"] - datetime.now(UTC)
        assert head["ObjectLockMode"] == "GOVERNANCE"
        assert timedelta(days=1, hours=23) < left < timedelta(days=2, minutes=1)
    assert service.audit.verify(ADMIN, ACME).valid
