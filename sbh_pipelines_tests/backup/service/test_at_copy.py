"""The service over a copy: what it reads, what it writes there and what it leaves, and what only the first place does."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg
import obstore
import psycopg2
import pytest

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.backup.service.gate import PRIMARY_ONLY
from sbh_pipelines.embedded.sample import data as sample
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import running
from sbh_pipelines.errors import (
    ApprovalNeeded,
    CorruptObject,
    LeaseHeld,
    NotPrimary,
    RestoreRefused,
    SettingsError,
    UnknownRestore,
)
from sbh_pipelines.model import Progress, utc_now
from sbh_pipelines.orchestration.common.resources import BackupServiceResource
from sbh_pipelines.orchestration.restores.jobs import restore_job
from sbh_pipelines.security.policy import PERMISSIONS, Role, UserContext
from sbh_pipelines.settings import load_settings
from sbh_pipelines_tests.support.copy_server import NAME, CopyServer, copy_server
from sbh_pipelines_tests.support.site import site_of

TENANTS = ["tenant-1", "tenant-2"]
VICTIM = TENANTS[0]
ADMIN = UserContext("alice", "*", Role.ADMIN)
BOB = UserContext("bob", "*", Role.ADMIN)
WORK = "_sbh-catalog/audit/eu-west-1/at-copies/dr/"
PAID = "SELECT sum(amount) FROM payments WHERE tenant_id = 1"
_WHOLE = RestoreRequest()


@dataclass(frozen=True)
class Copied:
    place: CopyServer
    service: BackupService

    @property
    def there(self) -> BackupService:
        return self.service.at_copy(NAME)

    def run(self, statement: str) -> None:
        with closing(psycopg2.connect(self.place.stack.dsn(postgres.ADMIN))) as connection, connection:
            connection.cursor().execute(statement)

    def ask(self, query: str) -> object:
        with (
            closing(psycopg2.connect(self.place.stack.dsn(postgres.ADMIN))) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(query)
            return cursor.fetchone()[0]


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copied]:
    with running(tmp_path_factory.mktemp("first"), fsync=False, kms=False) as stack:
        sample.generate(stack, tenants=len(TENANTS), rows=700, files=12, seed=5)
        with copy_server(stack, tmp_path_factory.mktemp("second")) as place:
            service = BackupService(load_settings(place.settings))
            for kind in ("full", "incremental"):
                drafts = service.backups.create_all(TENANTS, ADMIN, kind)
                assert [draft.error for draft in drafts] == [None] * len(TENANTS)
            service.platform.create(ADMIN)
            place.bring_over()
            yield Copied(place, service)


def changed(before: Mapping[str, str | None], after: Mapping[str, str | None]) -> set[str]:
    return {key for key in before | after if before.get(key) != after.get(key)}


def test_it_is_made_once(copied: Copied) -> None:
    """And there is no copy of a copy, nor one that the settings do not name."""
    assert copied.service.at_copy(NAME) is copied.there
    with pytest.raises(SettingsError, match="no copy of this name"):
        copied.service.at_copy("nowhere")
    with pytest.raises(SettingsError):
        copied.there.at_copy(NAME)


def test_what_is_read_is_the_copy(copied: Copied, tmp_path: Path) -> None:
    """The first place's store is not asked for anything, and of the copy only the trail of work there is written."""
    before, asked = copied.place.objects(), dict(copied.service.request_counts())
    there = copied.there
    found = there.backups.of(VICTIM, ADMIN)
    assert [manifest.id for manifest in found]
    assert there.backups.validate("latest", VICTIM, ADMIN, deep=True).valid
    assert there.platform.validate(ADMIN, deep=True).valid
    assert there.backups.get("latest", VICTIM, ADMIN).id == found[0].id
    plan = there.restores.plan("latest", VICTIM, ADMIN)
    assert plan.from_copy == NAME
    there.exports.export("latest", VICTIM, ADMIN, tmp_path / "out")
    assert list((tmp_path / "out").iterdir())
    assert all(trail.valid for trail in there.audit.verify_all(ADMIN))
    there.restores.of(VICTIM, ADMIN)
    assert copied.service.request_counts() == asked
    written = changed(before, copied.place.objects())
    assert written
    assert all(key.split("/", 1)[1].startswith("_sbh-catalog/audit/") and "/at-copies/dr/" in key for key in written)


def test_work_is_recorded_beside_the_trails_that_were_brought(copied: Copied) -> None:
    """Both are whole; the events say whose tenant it was; an event of the one is none of the other."""
    copied.there.backups.of(VICTIM, ADMIN)
    trails = list(copied.there.audit.verify_all(ADMIN))
    names = [trail.tenant_id for trail in trails]
    assert names == ["*@dr", "*", *TENANTS]  # of the other region there is nothing
    assert all(trail.valid for trail in trails)
    (seen, *_) = copied.there.audit.events(ADMIN, "*@dr", event="backup.accessed", region="eu-west-1").events
    assert (seen.tenant_id, seen.props["tenant"], seen.props["what"]) == ("*@dr", VICTIM, "list")
    here = copied.service.audit.events(ADMIN, VICTIM, event="backup.created")
    brought = copied.there.audit.events(ADMIN, VICTIM, event="backup.created")
    assert [event.hash for event in brought.events] == [event.hash for event in here.events]
    store = copied.place.store("sbh-copy-eu-west-1")
    link = f"{WORK}events/{1:012d}.jsonl"
    body = bytes(obstore.get(store, link).bytes())
    forged = f"_sbh-catalog/audit/eu-west-1/events/{999:012d}.jsonl"
    obstore.put(store, forged, body, use_multipart=False)
    try:
        assert not copied.there.audit.verify(ADMIN, "*", region="eu-west-1").valid
    finally:
        obstore.delete(store, forged)
    obstore.put(store, link, body.replace(b'"user_id":"', b'"user_id":"not-'), use_multipart=False)
    assert not copied.there.audit.verify(ADMIN, "*@dr", region="eu-west-1").valid
    obstore.put(store, link, body, use_multipart=False)
    assert copied.there.audit.verify(ADMIN, "*@dr", region="eu-west-1").valid


REFUSED: dict[str, Callable[[BackupService], object]] = {
    "backup.create": lambda s: s.create_backup(VICTIM, ADMIN),
    "backup.forget": lambda s: s.retention.forget(VICTIM, ADMIN),
    "repository.prune": lambda s: s.retention.prune(VICTIM, ADMIN),
    "backup.hold": lambda s: s.retention.pin("backup_20260115_1200", VICTIM, ADMIN, reason="x"),
    "hold.legal": lambda s: s.retention.hold(VICTIM, ADMIN, reason="x"),
    "journal.manage": lambda s: s.journal.drain(ADMIN),
    "keys.rotate": lambda s: s.keys.rotate([VICTIM], ADMIN),
    "tenant.erase": lambda s: s.keys.erase(VICTIM, ADMIN, confirm=VICTIM, reason="asked"),
    "tenant.rehome": lambda s: s.keys.retire(VICTIM, ADMIN, confirm=VICTIM),
    "tenant.move": lambda s: s.moves.plan(VICTIM, ADMIN, s.moves, ADMIN),
    "platform.backup": lambda s: s.platform.create(ADMIN),
}


@pytest.mark.parametrize("action", REFUSED)
def test_what_only_the_first_place_does(copied: Copied, action: str) -> None:
    before = copied.place.objects()
    with pytest.raises(NotPrimary, match=action) as refused:
        REFUSED[action](copied.there)
    assert refused.value.code == "SBH-643"
    assert changed(before, copied.place.objects()) == set()


def test_each_permission_was_thought_about() -> None:
    """A new one is added to one of the two lists: what changes backups or keys is refused at a copy."""
    may = {
        "backup.list", "backup.status", "backup.validate", "backup.restore", "backup.export", "restore.into_schema",
        "restore.elsewhere", "restore.plan", "restore.request", "restore.approve", "former_tenant.read", "platform.backup",
        "platform.restore", "drill.run", "report.read", "health.read", "run.cancel", "journal.read", "journal.status",
        "audit.read", "audit.export", "keys.read", "token.issue", "token.revoke", "token.inspect", "host.manage",
        "dagster.view", "dagster.launch", "dagster.manage",
    }  # fmt: skip
    assert may | PRIMARY_ONLY == {name for name in PERMISSIONS if not name.startswith("copies.")}
    assert not may & PRIMARY_ONLY


def test_a_restore_needs_to_be_asked_for_without_a_safety_backup(copied: Copied) -> None:
    """The plan says why; nothing is written before. Then it is done, on record at the copy alone, and cannot be undone."""
    there, before = copied.there, copied.ask(PAID)
    copied.run("UPDATE payments SET amount = amount + 1 WHERE tenant_id = 1")
    whole = there.restores.plan("latest", VICTIM, ADMIN)
    assert [problem.code for problem in whole.problems] == ["SBH-643"]
    assert "--no-safety-backup" in whole.problems[0].remedy
    at_rest = copied.place.objects()
    with pytest.raises(NotPrimary):
        there.restores.run("latest", VICTIM, ADMIN)
    assert changed(at_rest, copied.place.objects()) == set()
    request = replace(_WHOLE, safety_backup=False)
    assert there.restores.plan("latest", VICTIM, ADMIN, request).problems == ()
    done = there.restores.run("latest", VICTIM, ADMIN, request)
    assert (done.from_copy, done.safety_backup_id) == (NAME, None)
    assert copied.ask(PAID) == before
    record = there.restores.status(done.restore_id, VICTIM, ADMIN)
    assert (record.status, record.from_copy) == ("completed", NAME)
    with pytest.raises(UnknownRestore):
        copied.service.restores.status(done.restore_id, VICTIM, ADMIN)
    with pytest.raises(RestoreRefused, match="made no safety backup"):
        there.restores.undo(done.restore_id, VICTIM, ADMIN)
    left = {key.split("/", 1)[1] for key in changed(at_rest, copied.place.objects())}
    own = f"files/{VICTIM}/backups/"
    assert all(key.startswith((WORK, f"{own}restores/", f"{own}lease")) for key in left), left
    events = there.audit.events(ADMIN, "*@dr", event="restore.*", region="eu-west-1").events
    assert [event.event for event in events][:2] == ["restore.completed", "restore.started"]


def test_a_restore_from_the_copy_and_one_from_here_exclude_each_other(copied: Copied) -> None:
    """Their leases lie in two places; what they have in common is the database. Another tenant is not kept waiting."""
    settings = copied.service.settings
    hasty = settings.restore.model_copy(update={"lease_wait_s": 0.3})
    here = BackupService(settings.model_copy(update={"restore": hasty}))
    there, request = here.at_copy(NAME), replace(_WHOLE, safety_backup=False)
    copied.run("UPDATE payments SET amount = amount + 1 WHERE tenant_id = 1")
    told: list[str] = []

    def beside(first: BackupService, second: BackupService) -> None:
        def other(progress: Progress) -> None:
            if progress.step == "restore: commit" and not told:
                with pytest.raises(LeaseHeld, match="Another restore of the tenant is under way") as refused:
                    second.restores.run("latest", VICTIM, ADMIN, request)
                told.append(refused.value.on)
                assert second.restores.run("latest", TENANTS[1], ADMIN, request).status == "completed"

        told.clear()
        assert first.restores.run("latest", VICTIM, ADMIN, request, progress=other).status == "completed"
        assert told[0].startswith(f"{VICTIM} in ")

    beside(there, here)
    beside(here, there)
    assert there.restores.run("latest", VICTIM, ADMIN, request).status == "completed"


def test_a_job_restores_from_the_copy(copied: Copied) -> None:
    """Its configuration names the copy; without `safety_backup: false` it ends as the command does."""
    before = copied.ask(PAID)
    copied.run("UPDATE payments SET amount = amount + 1 WHERE tenant_id = 1")
    resource = BackupServiceResource(settings_path=str(copied.place.settings), step_retry_wait_s=0.0)
    bound = dg.Definitions(
        jobs=[restore_job],
        resources={"backups": resource, "io_manager": dg.mem_io_manager},
        executor=dg.in_process_executor,
    ).resolve_job_def("restore_job")

    def run(**config: object) -> dg.ExecuteInProcessResult:
        whole = {"tenant": VICTIM, "from_copy": NAME, "confirm": True, "tables": ["payments"], **config}
        return bound.execute_in_process(run_config={"ops": {"restore_tenant": {"config": whole}}}, raise_on_error=False)

    refused = run()
    assert not refused.success
    assert "SBH-643" in str(refused.failure_data_for_node("restore_tenant"))
    done = run(safety_backup=False)
    assert done.success
    assert copied.ask(PAID) == before
    (observed,) = done.asset_materializations_for_node("restore_tenant")
    assert "from the copy dr" in str(observed.description)
    assert observed.metadata["from_copy"].value == NAME


def test_a_copy_goes_on_being_one_after_work_there(copied: Copied) -> None:
    """What is brought next does not collide with records of restores and drills there, and leaves the trail of work as it is."""
    there, request = copied.there, replace(_WHOLE, safety_backup=False)
    done = there.restores.run("latest", VICTIM, ADMIN, request)
    own = {key: tag for key, tag in copied.place.objects().items() if "/at-copies/" in key or "/restores/" in key}
    assert any("/restores/" in key for key in own)
    made = copied.service.create_backup(VICTIM, ADMIN, "full")
    copied.place.bring_over()
    after = copied.place.objects()
    assert {key: after.get(key) for key in own} == own
    assert there.backups.get("latest", VICTIM, ADMIN).id == made["id"]
    assert there.restores.status(done.restore_id, VICTIM, ADMIN).status == "completed"
    assert all(trail.valid for trail in there.audit.verify_all(ADMIN))
    assert all(trail.valid for trail in copied.service.audit.verify_all(ADMIN))


def test_an_approval_is_of_a_restore_from_the_copy(copied: Copied) -> None:
    """It lies there, and is none where the backups are made, also where somebody puts it there."""
    settings = copied.service.settings
    approval = settings.approval.model_copy(update={"restore": "two-person"})
    service = BackupService(settings.model_copy(update={"approval": approval}))
    there, request = service.at_copy(NAME), replace(_WHOLE, safety_backup=False)
    with pytest.raises(ApprovalNeeded):
        there.restores.run("latest", VICTIM, ADMIN, request)
    with pytest.raises(NotPrimary):
        there.approvals.request_restore("latest", VICTIM, ADMIN, reason="the region is gone")
    asked = there.approvals.request_restore("latest", VICTIM, ADMIN, request, reason="the region is gone")
    there.approvals.approve(asked.approval_id, VICTIM, BOB)
    at_copy, here = copied.place.store("sbh-copy-eu-west-1"), site_of(service, utc_now)
    tenant = service.tenants.find(VICTIM)
    store, prefix = here.backup_store(tenant)
    for key in [key for key in copied.place.objects() if f"/approvals/{asked.approval_id}" in key]:
        name = key.split("/", 1)[1]
        assert name.startswith(prefix)
        store.put(name, bytes(obstore.get(at_copy, name).bytes()))
    with pytest.raises((ApprovalNeeded, CorruptObject)):
        service.restores.run("latest", VICTIM, ADMIN, request, approval_id=asked.approval_id)
    done = there.restores.run("latest", VICTIM, ADMIN, request, approval_id=asked.approval_id)
    assert done.from_copy == NAME
    with pytest.raises(ApprovalNeeded):  # it was used up
        there.restores.run("latest", VICTIM, ADMIN, request, approval_id=asked.approval_id)


def test_a_drill_from_the_copy(copied: Copied) -> None:
    """Its record lies there, and says so."""
    record = copied.there.drills.run(VICTIM, ADMIN)
    assert (record.status, record.from_copy) == ("passed", NAME)
    assert [one.drill_id for one in copied.there.drills.of(VICTIM, ADMIN)] == [record.drill_id]
    assert record in copied.there.drills.of(VICTIM, ADMIN)
    assert copied.service.drills.of(VICTIM, ADMIN) == []


def test_no_catalog_key_is_made_at_a_copy(copied: Copied) -> None:
    """One that was not brought is missed: another's key there would be one that the source's never fits."""
    store = copied.place.store("sbh-copy-eu-west-1")
    key = "_sbh-catalog/eu-west-1/keys/0001.json"
    body = bytes(obstore.get(store, key).bytes())
    obstore.delete(store, key)
    fresh = BackupService(copied.service.settings)
    try:
        with pytest.raises(CorruptObject, match="no data key"):
            fresh.at_copy(NAME).backups.of(VICTIM, ADMIN)
        assert "eu-west-1/" + key not in copied.place.objects()
    finally:
        obstore.put(store, key, body, use_multipart=False)
    assert json.loads(body)["tenant_id"] == "_catalog"
