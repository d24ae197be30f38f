"""Restores that a second person has to approve: what is bound, who may, once, and what a crash in between leaves."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sbh_pipelines.backup import approvals
from sbh_pipelines.backup.restore.records import Undo
from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.backup.service.approvals import undo_subject
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.document import as_document
from sbh_pipelines.errors import (
    AccessDenied,
    ApprovalNeeded,
    CorruptObject,
    InvalidId,
    RequestError,
    StoreUnavailable,
    UnknownRestore,
)
from sbh_pipelines.model import BackupId, MergeMode, RestoreId
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.settings import ApprovalSettings
from sbh_pipelines_tests.support.application import ACME, BOLT, Application
from sbh_pipelines_tests.support.site import site_of

ANN, BOB, CAT = (UserContext(name, "*", Role.ADMIN) for name in ("ann", "bob", "cat"))
OPERATOR = UserContext("olga", ACME, Role.OPERATOR)
PART = RestoreRequest(tables=("notes",), mode=MergeMode.MISSING_ONLY)


class Clock:
    now: datetime

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    made = Clock()
    made.now = datetime.now(UTC)
    return made


@pytest.fixture
def service(application: Application, clock: Clock) -> BackupService:
    """Restores need two persons; acme has one backup."""
    rules = ApprovalSettings(restore="two-person", lifetime_s=3600)
    made = BackupService(application.settings.model_copy(update={"approval": rules}), clock=clock)
    made.create_backup(ACME, ANN)
    return made


def asked(service: BackupService, request: RestoreRequest = PART, **more: Any) -> str:
    made = as_document(service.approvals.request_restore("latest", ACME, ANN, request, reason="rows were lost", **more))
    return str(made["approval_id"])


def restore(
    service: BackupService, approval_id: str | None, request: RestoreRequest = PART, **more: Any
) -> dict[str, Any]:
    return service.restore_backup(
        "latest", ACME, more.pop("user", ANN), request=request, approval_id=approval_id, **more
    )


def events(service: BackupService, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Any]]:
    """What is put on record from here on."""
    told: list[tuple[str, str, Any]] = []
    track = Site.track

    def track_too(site: Site, tenant: Any, event: str, user_id: str, props: Any, *more: Any) -> None:
        told.append((event, user_id, props))
        track(site, tenant, event, user_id, props, *more)

    monkeypatch.setattr(Site, "track", track_too)
    return told


def test_two_persons_restore(service: BackupService, monkeypatch: pytest.MonkeyPatch) -> None:
    """One asks, another approves, the restore goes through once; each step is on record, and shown."""
    told = events(service, monkeypatch)
    with pytest.raises(ApprovalNeeded, match="Another person"):
        restore(service, None)
    approval = asked(service)
    with pytest.raises(ApprovalNeeded, match="nobody has approved"):
        restore(service, approval)
    assert as_document(service.approvals.approve(approval, ACME, BOB, "seen"))["status"] == "approved"
    assert restore(service, approval)["tenant_id"] == ACME
    shown = as_document(service.approvals.get(approval, ACME, OPERATOR))
    assert (shown["status"], shown["requested_by"], shown["decided_by"], shown["used_by"]) == (
        "used",
        "ann",
        "bob",
        "ann",
    )
    with pytest.raises(ApprovalNeeded, match="it is used"):
        restore(service, approval)
    found, errors = service.approvals.of(ACME, OPERATOR)
    assert [one.approval_id for one in found] == [approval]
    assert errors == []
    service.retention.prune(ACME, ANN)  # which knows what it may meet
    assert as_document(service.approvals.get(approval, ACME, ANN))["status"] == "used"
    mine = [(event, user) for event, user, _ in told if event in ("restore.requested", "restore.approved")]
    assert mine == [("restore.requested", "ann"), ("restore.approved", "bob")]


def test_plans_other_tenants_and_sites_without_the_rule_need_none(
    service: BackupService, application: Application
) -> None:
    """Only what overwrites something is held up."""
    assert service.restore_backup("latest", ACME, ANN, request=PART, validate_only=True)["tenant_id"] == ACME
    assert restore(BackupService(application.settings), None)["tenant_id"] == ACME


def test_an_approval_is_for_exactly_what_was_asked(service: BackupService) -> None:
    """Another scope, mode, or a restore that cannot be undone: refused, and the approval is not used up by it."""
    approval = asked(service)
    service.approvals.approve(approval, ACME, BOB)
    for other in (
        RestoreRequest(),
        replace(PART, tables=("notes", "items")),
        replace(PART, mode=MergeMode.EXACT),
        replace(PART, accept_schema_changes=True),
        replace(PART, keep_extra_files=True),
        replace(PART, safety_backup=False),
        RestoreRequest(rows="notes where body = 'x'", mode=MergeMode.MISSING_ONLY),
    ):
        with pytest.raises(ApprovalNeeded, match="another backup, scope or mode"):
            restore(service, approval, other)
    assert as_document(service.approvals.get(approval, ACME, ANN))["status"] == "approved"
    assert restore(service, approval, replace(PART, samples=5))["tenant_id"] == ACME  # only shows more


def test_it_is_for_one_backup_one_tenant_one_database(service: BackupService, clock: Clock) -> None:
    """`latest` is what it was when it was asked for; neither another tenant nor another database will do."""
    approval = asked(service)
    service.approvals.approve(approval, ACME, BOB)
    with pytest.raises(ApprovalNeeded, match="another backup"):
        restore(service, approval, into_database="host=127.0.0.1 dbname=x")
    clock.now += timedelta(minutes=5)
    service.create_backup(ACME, ANN)
    service.create_backup(BOLT, ANN)
    with pytest.raises(ApprovalNeeded, match="another backup"):
        restore(service, approval)
    with pytest.raises(RequestError, match="No such approval"):
        service.restore_backup("latest", BOLT, ANN, request=PART, approval_id=approval)


def test_nobody_approves_their_own_request(service: BackupService) -> None:
    """Nor under the same name in capitals; taking it back is allowed. Operators ask, and do not approve."""
    approval = asked(service)
    for user in (ANN, *(UserContext(name, "*", Role.ADMIN) for name in (" ANN ", "\uff41nn"))):
        with pytest.raises(ApprovalNeeded, match="their own"):
            service.approvals.approve(approval, ACME, user)
    with pytest.raises(AccessDenied):
        service.approvals.approve(approval, ACME, OPERATOR)
    with pytest.raises(AccessDenied):
        service.approvals.approve(approval, ACME, UserContext("eve", BOLT, Role.ADMIN))
    assert as_document(service.approvals.reject(approval, ACME, ANN))["status"] == "rejected"
    theirs = as_document(service.approvals.request_restore("latest", ACME, OPERATOR, PART, reason="please"))[
        "approval_id"
    ]
    service.approvals.approve(theirs, ACME, ANN)
    assert restore(service, theirs)["tenant_id"] == ACME
    with pytest.raises(AccessDenied):
        service.approvals.request_restore("latest", ACME, UserContext("vic", ACME, Role.VIEWER), PART, reason="please")


def test_a_decision_is_final_and_all_of_it_expires(service: BackupService, clock: Clock) -> None:
    """Rejected stays rejected; a request that is too old is not approved, an approval that is too old not used."""
    refused, late, old = asked(service), asked(service), asked(service)
    service.approvals.reject(refused, ACME, BOB, "not this one")
    for decide in (service.approvals.approve, service.approvals.reject):
        with pytest.raises(RequestError, match="Nothing is left"):
            decide(refused, ACME, CAT)
    with pytest.raises(ApprovalNeeded, match="rejected"):
        restore(service, refused)
    service.approvals.approve(old, ACME, BOB)
    clock.now += timedelta(seconds=3600)
    with pytest.raises(RequestError, match="expired"):
        service.approvals.approve(late, ACME, BOB)
    with pytest.raises(ApprovalNeeded, match="expired"):
        restore(service, old)


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """The calls side by side; what each gave, or raised."""
    gate, ended = threading.Barrier(len(calls)), list[Any]()

    def run(call: Callable[[], Any]) -> None:
        gate.wait()
        try:
            ended.append(call())
        except Exception as error:
            ended.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ended


def test_of_two_who_decide_at_once_one_wins(service: BackupService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have read that nothing was decided; what the second says is refused, and not stored."""
    met = threading.Barrier(2)
    create = approvals._create_once

    def create_together(*arguments: Any) -> None:
        met.wait(120)
        create(*arguments)

    monkeypatch.setattr(approvals, "_create_once", create_together)
    approval = asked(service)
    ended = at_once(
        lambda: service.approvals.approve(approval, ACME, BOB), lambda: service.approvals.reject(approval, ACME, CAT)
    )
    (won,) = [one for one in ended if isinstance(one, approvals.Approval)]
    (lost,) = [one for one in ended if isinstance(one, ApprovalNeeded)]
    assert "at the same moment" in lost.why
    assert service.approvals.get(approval, ACME, ANN).decided_by == won.decided_by


def test_of_two_restores_with_one_approval_one_goes_through(
    service: BackupService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have read that it was not used yet."""
    approval = asked(service)
    service.approvals.approve(approval, ACME, BOB)
    met = threading.Barrier(2)
    create = approvals._create_once

    def create_together(*arguments: Any) -> None:
        met.wait(120)
        create(*arguments)

    monkeypatch.setattr(approvals, "_create_once", create_together)
    ended = at_once(lambda: restore(service, approval), lambda: restore(service, approval))
    assert sum(isinstance(one, dict) for one in ended) == 1
    assert sum(isinstance(one, ApprovalNeeded) for one in ended) == 1


def test_a_process_that_dies_between_two_writes(service: BackupService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a write nothing has happened, and it can be done again; after it, it counts, though nobody was told."""

    class Killed(BaseException):
        pass

    real = site_of(service).backup_store(service.tenants.find(ACME))[0]
    kind = type(real)
    create = kind.create
    armed: list[tuple[str, str]] = []

    def dying(self: Any, key: str, data: bytes) -> Any:
        part, when = armed[0] if armed else ("-", "")
        if "approvals/" in key and (key.endswith(f"{part}.json") if part else "-" not in key.split("/")[-1]):
            armed.clear()
            if when == "after":
                create(self, key, data)
            raise Killed
        return create(self, key, data)

    monkeypatch.setattr(kind, "create", dying)
    left = {
        ("", "before"): None,
        ("", "after"): "requested",
        ("-decision", "before"): "requested",
        ("-decision", "after"): "approved",
        ("-use", "before"): "approved",
        ("-use", "after"): "used",
    }

    def all_of_it() -> None:
        approval = asked(service)
        service.approvals.approve(approval, ACME, BOB)
        restore(service, approval)

    seen: set[str] = set()
    for moment, status in left.items():
        armed.append(moment)
        with pytest.raises(Killed):
            all_of_it()
        found, errors = service.approvals.of(ACME, ANN)
        new = {one.approval_id: one.status for one in found if one.approval_id not in seen}
        assert (list(new.values()), errors) == ([status] if status else [], [])
        seen |= set(new)
        for approval in new:
            if status == "requested":
                service.approvals.approve(approval, ACME, BOB)
            if status == "used":
                with pytest.raises(ApprovalNeeded):
                    restore(service, approval)
            else:
                assert restore(service, approval)["tenant_id"] == ACME


def test_objects_that_were_tampered_with_allow_nothing(service: BackupService, application: Application) -> None:
    """A decision copied from another approval, changed, or of another tenant is damage, and is listed as such."""
    good, bad = asked(service), asked(service, RestoreRequest())
    service.approvals.approve(good, ACME, BOB)
    folder = next(application.directory.glob(f"objects/*/files/{ACME}/backups/approvals"))
    (folder / f"{bad}-decision.json").write_bytes((folder / f"{good}-decision.json").read_bytes())
    with pytest.raises(CorruptObject):
        restore(service, bad, RestoreRequest())
    changed = (folder / f"{good}.json").read_bytes().replace(b"rows were lost", b"rows were l0st")
    (folder / f"{good}.json").write_bytes(changed)
    with pytest.raises(CorruptObject):
        restore(service, good)
    found, errors = service.approvals.of(ACME, ANN)
    assert (found, len(errors)) == ([], 2)


def test_breaking_the_glass(service: BackupService, application: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a reason it goes on, and is on record before anything is overwritten; where the settings forbid it, not."""
    told = events(service, monkeypatch)
    with pytest.raises(RequestError, match="needs a reason"):
        restore(service, None, break_glass=" ")
    with pytest.raises(ApprovalNeeded, match="exclude"):
        restore(service, "approval_20260301_120000_000000", break_glass="fire")
    assert restore(service, None, break_glass="fire")["tenant_id"] == ACME
    names = [event for event, *_ in told]
    assert names.index("restore.break_glass") < names.index("restore.started")
    strict = application.settings.model_copy(
        update={"approval": ApprovalSettings(restore="two-person", break_glass=False)}
    )
    with pytest.raises(ApprovalNeeded, match="break_glass is off"):
        restore(BackupService(strict), None, break_glass="fire")

    def unwritable(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("no trail")

    monkeypatch.setattr(Site, "track", unwritable)
    with pytest.raises(StoreUnavailable):
        restore(service, None, break_glass="fire")


def test_undoing_needs_one_as_well(service: BackupService, application: Application, clock: Clock) -> None:
    """An approval to undo one restore is for that one, and for no restore."""
    done = []
    for _ in range(2):
        application.wreck(ACME)
        clock.now += timedelta(minutes=2)
        undoable = RestoreRequest(tables=("notes",), safety_backup=True)
        done.append(restore(service, None, undoable, break_glass="test")["restore_id"])
    with pytest.raises(ApprovalNeeded, match="Another person"):
        service.restores.undo(done[1], ACME, ANN)
    approval = as_document(service.approvals.request_undo(done[1], ACME, ANN, reason="wrong backup"))["approval_id"]
    service.approvals.approve(approval, ACME, BOB)
    with pytest.raises(ApprovalNeeded, match="another backup"):
        restore(service, approval)
    with pytest.raises(ApprovalNeeded, match="another backup"):
        service.restores.undo(done[0], ACME, ANN, approval_id=approval)
    store, prefix = site_of(service).backup_store(service.tenants.find(ACME))
    key = prefix + Keys.restore(RestoreId(done[1]))
    true = store.get(key)
    for changed in (
        {"safety_backup_id": service.get_backup("latest", ACME, ANN)["id"]},
        {"touches": {"tables": ["public.notes", "public.projects"], "files": []}},
    ):
        store.put(key, json.dumps({**json.loads(true), **changed}).encode())
        with pytest.raises(CorruptObject):
            service.restores.undo(done[1], ACME, ANN, approval_id=approval)
    store.put(key, true)
    assert as_document(service.restores.undo(done[1], ACME, ANN, approval_id=approval))["tenant_id"] == ACME
    with pytest.raises(UnknownRestore):
        service.approvals.request_undo("restore_20240115_120000_0a1b2c", ACME, ANN, reason="no such restore")


def test_ids_that_are_none(service: BackupService) -> None:
    """A clear error, before any object is asked for."""
    for text in ("", "../x", "approval_1", "approval_20260301_120000_00000g", "x" * 10_000, "a\0b", "é"):
        for call in (service.approvals.get, service.approvals.approve, service.approvals.reject):
            with pytest.raises(InvalidId):
                call(text, ACME, BOB)
        with pytest.raises(InvalidId):
            restore(service, text)


def test_a_password_in_a_target_is_not_put_on_record(service: BackupService, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the restore would refuse cannot be asked for: the request and the audit trail would hold it for good."""
    told = events(service, monkeypatch)
    for dsn in ("postgresql://u:hunter2@127.0.0.1/x", "host=127.0.0.1 dbname=x password=hunter2"):
        with pytest.raises(RequestError) as refused:
            asked(service, into_database=dsn)
        assert "hunter2" not in str(refused.value)
    with pytest.raises(RequestError, match="another database"):
        asked(service, RestoreRequest(files=("**",)), into_database="host=127.0.0.1 dbname=x")
    assert (service.approvals.of(ACME, ANN), told) == (([], []), [])


def test_reasons_have_bounds(service: BackupService) -> None:
    """None, blanks, or a novel: refused."""
    for reason in ("", "  ", "x" * 501):
        with pytest.raises(RequestError):
            service.approvals.request_restore("latest", ACME, ANN, PART, reason=reason)
    with pytest.raises(RequestError):
        service.approvals.approve(asked(service), ACME, BOB, "x" * 501)


def test_an_undo_is_approved_where_its_backup_lies() -> None:
    """As a restore is: what something else replicated to a copy is no approval there."""
    undo = Undo(BackupId("backup_20240115_1200"), ("tasks",), (), RestoreId("restore_20240115_1200"))
    here, there = (undo_subject(undo.restore_id, undo, from_copy=name) for name in (None, "dr"))
    assert here != there
    assert "from_copy" not in here  # so that an approval from before there was this goes on being one
