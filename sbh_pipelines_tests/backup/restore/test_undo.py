"""Safety backups and what is undone with them: after every kind of restore, after more work, after a crash, and when they end."""

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.document import as_document
from sbh_pipelines.errors import RestoreRefused, SbhError, UnknownRestore
from sbh_pipelines.model import Progress
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.store_time import store_time

SAFE = {"safety_backup": True}


@pytest.fixture
def backed_up(application: Application) -> tuple[Application, BackupService, str]:
    """The application, a service that makes safety backups, and a backup of `acme` before it was wrecked."""
    service = application.service(restore=SAFE)
    made = service.create_backup(ACME, ADMIN)["id"]
    application.wreck(ACME)
    return application, service, made


def restored(service: BackupService, backup_id: str, **request: Any) -> dict[str, Any]:
    return service.restore_backup(backup_id, ACME, ADMIN, request=RestoreRequest.of(**request))


@pytest.mark.parametrize(
    "request_fields",
    [
        {},
        {"mode": "missing-only"},
        {"rows": "projects where code = 'code-12'"},
        {"files": ("docs/*", "empty")},
    ],
    ids=str,
)
def test_after_a_restore(backed_up: tuple[Application, BackupService, str], request_fields: dict[str, Any]) -> None:
    """What was there before is there again, rows and files; and undoing that brings the restore back."""
    application, service, backup_id = backed_up
    before, others = application.state(ACME), application.state(BOLT)
    done = restored(service, backup_id, **request_fields)
    after = application.state(ACME)
    assert after != before
    undone = as_document(service.restores.undo(done["restore_id"], ACME, ADMIN))
    assert application.state(ACME) == before
    assert service.get_restore_status(undone["restore_id"], ACME)["undoes"] == done["restore_id"]
    again = as_document(service.restores.undo(undone["restore_id"], ACME, ADMIN))
    assert application.state(ACME) == after
    assert len({done["safety_backup_id"], undone["safety_backup_id"], again["safety_backup_id"], backup_id}) == 4
    assert application.state(BOLT) == others


def test_newer_work_is_shown(backed_up: tuple[Application, BackupService, str]) -> None:
    """What was written after the restore would go as well: the plan of the undo counts it, and writes nothing."""
    application, service, backup_id = backed_up
    before = application.state(ACME)
    done = restored(service, backup_id)
    application.database.run(
        "INSERT INTO notes VALUES (1, 'after the restore'); UPDATE tenants SET tier = 'later' WHERE id = 1"
    )
    application.write_file(ACME, "docs/later", b"later")
    now = application.state(ACME)
    plan = as_document(service.restores.plan_undo(done["restore_id"], ACME, ADMIN))
    assert application.state(ACME) == now
    assert plan["backup_id"] == done["safety_backup_id"]
    (notes,) = [t for t in plan["tables"] if t["table"] == "public.notes"]
    (theirs,) = [t for t in done["tables"] if t["table"] == "public.notes"]
    assert (notes["insert"], notes["delete"]) == (theirs["deleted"], theirs["inserted"] + 1)
    assert plan["files"]["extra"] == done["files_restored"]  # `empty` was changed and not extra, docs/later is
    service.restores.undo(done["restore_id"], ACME, ADMIN)
    assert application.state(ACME) == before


def test_tables_that_a_restore_did_not_write_keep_newer_work(backed_up: tuple[Application, BackupService, str]) -> None:
    application, service, backup_id = backed_up
    before = application.state(ACME)
    done = restored(service, backup_id, tables=("notes",))
    application.database.run("UPDATE items SET score = 77 WHERE id = 1; UPDATE tenants SET tier = 'later' WHERE id = 1")
    application.write_file(ACME, "docs/later", b"later")
    now = application.state(ACME)
    service.restores.undo(done["restore_id"], ACME, ADMIN)
    after = application.state(ACME)
    assert after.rows == {**now.rows, "notes": before.rows["notes"]}
    assert after.files == now.files


def test_a_restore_that_changed_nothing(application: Application) -> None:
    """It takes no safety backup, and there is nothing to undo."""
    service = application.service(restore=SAFE)
    made = service.create_backup(ACME, ADMIN)["id"]
    done = restored(service, made)
    assert done["safety_backup_id"] is None
    assert [b["id"] for b in service.list_backups(ACME, ADMIN)] == [made]
    with pytest.raises(RestoreRefused, match="changed nothing"):
        service.restores.undo(done["restore_id"], ACME, ADMIN)


def test_the_last_backup_is_the_safety_backup(application: Application) -> None:
    """Restoring an older backup, nothing written since the newest: that one undoes it."""
    service = application.service(restore=SAFE)
    old = service.create_backup(ACME, ADMIN)["id"]
    application.wreck(ACME)
    new = service.create_backup(ACME, ADMIN)["id"]
    wrecked = application.state(ACME)
    done = service.restores.run(old, ACME, ADMIN)
    assert (done.backup_type, done.safety_backup_id, done.safety_backup_type) == ("full", new, "full")
    assert service.restore_backup("latest", ACME, ADMIN)["backup_id"] == new
    restored(service, old)
    service.restores.undo(done.restore_id, ACME, ADMIN)
    assert application.state(ACME) == wrecked


def test_latest_is_never_a_safety_backup(backed_up: tuple[Application, BackupService, str]) -> None:
    """Whoever restores `latest` twice does not get back what he wanted to be rid of."""
    application, service, backup_id = backed_up
    for _ in range(2):
        assert service.restore_backup("latest", ACME, ADMIN)["backup_id"] == backup_id
        application.wreck(ACME)
    assert len(service.list_backups(ACME, ADMIN)) == 3


def test_an_unknown_restore(backed_up: tuple[Application, BackupService, str]) -> None:
    _, service, backup_id = backed_up
    done = restored(service, backup_id)
    for restore_id, tenant in (("restore_20200101_000000_abcdef", ACME), (done["restore_id"], BOLT)):
        with pytest.raises(UnknownRestore):
            service.restores.undo(restore_id, tenant, ADMIN)


_ONE = {"keep_last": 1, "keep_hourly": 0, "keep_daily": 0, "keep_weekly": 0, "keep_monthly": 0}
NOTHING: dict[str, Any] = {"full_backups": _ONE, "incremental_backups": _ONE, "keep_within_hours": 0}


def test_how_long_a_safety_backup_is_kept(application: Application) -> None:
    """Whatever the policy says, for the days that the settings name; then it goes with the others, and cannot undo any more."""
    now = [datetime.now(UTC)]
    restore = {**SAFE, "keep_safety_days": 7}
    service = application.service(clock=lambda: now[0], restore=restore, retention=NOTHING)
    with store_time(lambda: now[0]):
        made = service.create_backup(ACME, ADMIN)["id"]
        application.wreck(ACME)
        before = application.state(ACME)
        done = restored(service, made)
        for days, there in ((6.8, True), (0.3, False)):
            now[0] += timedelta(days=days)
            application.database.run("UPDATE notes SET body = 'x' || coalesce(body, '') WHERE tenant_id = 1")
            for kind in ("full", "incremental"):
                service.backups.create_all([ACME], ADMIN, kind)
                application.database.run("INSERT INTO notes VALUES (1, 'more')")
                now[0] += timedelta(minutes=5)
            service.retention.forget(ACME, ADMIN)
            ids = {b["id"] for b in service.list_backups(ACME, ADMIN)}
            assert (done["safety_backup_id"] in ids) == there
            if there:
                undone = as_document(service.restores.plan_undo(done["restore_id"], ACME, ADMIN))
                assert undone["problems"] == []
        with pytest.raises(SbhError) as caught:
            service.restores.undo(done["restore_id"], ACME, ADMIN)
        assert done["safety_backup_id"] in str(caught.value)
    assert before != application.state(ACME)


def test_a_safety_backup_takes_no_others_place(application: Application) -> None:
    """The policy keeps one incremental backup: that is the one that was restored, not the state it replaced."""
    now = [datetime.now(UTC)]
    service = application.service(clock=lambda: now[0], restore=SAFE, retention=NOTHING)
    with store_time(lambda: now[0]):
        service.create_backup(ACME, ADMIN)
        application.database.run("INSERT INTO notes VALUES (1, 'good work')")
        now[0] += timedelta(minutes=5)
        (good,) = service.backups.create_all([ACME], ADMIN, "incremental")
        application.wreck(ACME)
        now[0] += timedelta(minutes=5)
        done = restored(service, good.backup_id)
        service.retention.forget(ACME, ADMIN)
        ids = {b["id"] for b in service.list_backups(ACME, ADMIN)}
    assert {good.backup_id, done["safety_backup_id"]} <= ids


DYING = """
import json, os, signal, sys
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.application import ADMIN
def die(progress):
    if progress.step == "restore: commit": os.kill(os.getpid(), signal.SIGKILL)
BackupService(Settings(**json.loads(sys.argv[1]))).restore_backup(sys.argv[2], "acme", ADMIN, progress=die)
"""


def test_a_restore_whose_process_was_killed(application: Application) -> None:
    """Rows are as before, files are put back: told to be interrupted. It can be run again, and be undone all the same."""
    service = application.service(restore={**SAFE, "lease_wait_s": 20}, backup={"lease_s": 1})
    made = service.create_backup(ACME, ADMIN)["id"]
    backed_up = application.state(ACME)
    application.wreck(ACME)
    before = application.state(ACME)
    settings = json.dumps(service.settings.model_dump(mode="json", exclude_unset=True))
    ended = subprocess.run([sys.executable, "-c", DYING, settings, made], check=False)
    assert ended.returncode == -signal.SIGKILL
    half = application.state(ACME)
    assert half.rows == before.rows
    assert half.files != before.files
    again = restored(service, made)
    assert application.state(ACME) == backed_up
    (killed,) = [s for s in as_document(service.restores.of(ACME, ADMIN)) if s["restore_id"] != again["restore_id"]]
    assert killed["status"] == "interrupted"
    service.restores.undo(killed["restore_id"], ACME, ADMIN)
    assert application.state(ACME) == before


def test_a_restore_that_somebody_interrupts(application: Application) -> None:
    """It is told as one, not as a failure, and can be run again."""
    service = application.service(restore=SAFE)
    made = service.create_backup(ACME, ADMIN)["id"]
    application.wreck(ACME)
    before = application.state(ACME)

    def interrupt(notice: Progress) -> None:
        if notice.step == "restore: merge":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        service.restores.run(made, ACME, ADMIN, progress=interrupt)
    assert application.state(ACME).rows == before.rows
    (record,) = service.restores.of(ACME, ADMIN)
    assert record.status == "interrupted"
    assert record.error is not None
    assert "SBH-000" not in str(record.error)
    assert "run the restore again" in str(record.error["remedy"])
    event = next(e for e in service.audit.events(ADMIN, ACME).events if e.event == "restore.failed")
    assert event.props["what"] == "interrupted"
    assert restored(service, made)["status"] == "completed"


def damage_packs(application: Application, but: set[Path]) -> int:
    packs = [p for p in (application.repository(ACME) / "packs").rglob("*") if p.is_file() and p not in but]
    for pack in packs:
        body = pack.read_bytes()
        pack.write_bytes(body[: len(body) // 2] + bytes(len(body) - len(body) // 2))
    return len(packs)


def test_a_damaged_repository(application: Application) -> None:
    """No safety backup can be made on lost packs' account, nothing is written; without one the sound backup restores."""
    service = application.service(restore=SAFE)
    made = service.create_backup(ACME, ADMIN)["id"]
    backed_up = application.state(ACME)
    sound = {p for p in (application.repository(ACME) / "packs").rglob("*") if p.is_file()}
    application.wreck(ACME)
    service.backups.create_all([ACME], ADMIN, "incremental")
    assert damage_packs(application, sound)
    application.database.run("UPDATE notes SET body = 'later' WHERE tenant_id = 1")
    before = application.state(ACME)
    with pytest.raises(SbhError, match="validate --deep"):
        restored(service, made)
    assert application.state(ACME) == before
    done = restored(service, made, safety_backup=False)
    assert done["safety_backup_id"] is None
    assert application.state(ACME) == backed_up


@pytest.mark.parametrize("kind", ["incremental", "untouched config"])
def test_a_tenant_that_is_gone_from_the_list(application: Application, kind: str) -> None:
    """The tenant's own row was deleted, with everything else: exactly restored, and that can be undone."""
    service = application.service(restore=SAFE)
    service.create_backup(ACME, ADMIN)
    change = "UPDATE tenants SET settings = '[1]' WHERE id = 1" if kind == "incremental" else "DELETE FROM notes"
    application.database.run(change)
    service.backups.create_all([ACME], ADMIN, "incremental")
    backed_up, others = application.state(ACME), application.state(BOLT)
    application.wipe(ACME)
    application.database.run("DELETE FROM tenants WHERE id = 1")
    gone = application.state(ACME)
    plan = as_document(service.restores.plan("latest", ACME, ADMIN))
    assert plan["problems"] == []
    done = service.restore_backup("latest", ACME, ADMIN)
    assert application.state(ACME) == backed_up
    assert application.state(BOLT) == others
    service.restores.undo(done["restore_id"], ACME, ADMIN)
    assert application.state(ACME) == gone
    service.restore_backup("latest", ACME, ADMIN)
    assert application.state(ACME) == backed_up
