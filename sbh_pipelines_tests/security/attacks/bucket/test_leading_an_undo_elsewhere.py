"""Somebody with the bucket's writer key wants an undo, which an admin runs in good faith, to bring an old state of their choice back.

What stops them: the record of a restore, which an undo follows, is signed; one that is not has to be vouched for by the audit trail.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.errors import CorruptObject, RecordUnsigned
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application

_OF_SIGNED = ("signature", "checksum", "kind", "sealed", "searched")


@pytest.fixture
def service(application: Application) -> BackupService:
    return application.service(restore={"safety_backup": True})


def _restored(application: Application, service: BackupService, **request: Any) -> tuple[str, str]:
    """(id of a restore, id of an old backup that no restore made)."""
    old = service.create_backup(ACME, ADMIN)["id"]
    application.wreck(ACME)
    done = service.restores.run(old, ACME, ADMIN, RestoreRequest.of(tables=["notes"], **request))
    return done.restore_id, old


def _record(application: Application, restore_id: str) -> Path:
    return application.repository(ACME) / "restores" / f"{restore_id}.json"


def _change(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(file.read_bytes())
    change(document)
    file.write_text(json.dumps(document))


def _unsigned(document: dict[str, Any], **more: Any) -> None:
    for name in _OF_SIGNED:
        document.pop(name, None)
    document.update(more)


@pytest.mark.parametrize("stripped", [False, True])
@pytest.mark.parametrize(
    "told",
    [{"safety_backup_id": "OLD"}, {"touches": {"tables": ["public.notes", "public.projects"], "files": ["**"]}}],
    ids=str,
)
def test_a_record_that_was_changed(
    told: Mapping[str, Any], stripped: bool, application: Application, service: BackupService
) -> None:
    """Nor one whose signature was taken away, as if it were an earlier release's."""
    restore_id, old = _restored(application, service)
    told = {"touches": {"tables": ["public.notes"], "files": []}, **told}
    told = {name: old if value == "OLD" else value for name, value in told.items()}
    before = application.state(ACME)
    _change(_record(application, restore_id), lambda d: _unsigned(d, **told) if stripped else d.update(told))
    for call in (service.restores.plan_undo, service.restores.undo):
        with pytest.raises((RecordUnsigned, CorruptObject)):
            call(restore_id, ACME, ADMIN)
    with pytest.raises((RecordUnsigned, CorruptObject)):
        service.approvals.request_undo(restore_id, ACME, ADMIN, reason="x")
    assert application.state(ACME) == before


def test_a_record_that_was_copied(application: Application, service: BackupService) -> None:
    """From another restore of the tenant, whose undo would bring an older state back."""
    first, _ = _restored(application, service)
    second, _ = _restored(application, service)
    true = _record(application, first).read_bytes()
    _record(application, second).write_bytes(true)
    with pytest.raises(CorruptObject):
        service.restores.undo(second, ACME, ADMIN)
    _record(application, second).write_bytes(true.replace(first.encode(), second.encode()))
    with pytest.raises(CorruptObject):
        service.restores.undo(second, ACME, ADMIN)


def test_a_record_of_an_earlier_release(
    application: Application, service: BackupService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is undone where the trail says the same of it, and no other is."""
    monkeypatch.setattr("sbh_pipelines.backup.restore.events.SIGNED", "not signed")
    old = service.create_backup(ACME, ADMIN)["id"]
    application.wreck(ACME)
    before = application.state(ACME)
    done = service.restores.run(old, ACME, ADMIN, RestoreRequest.of(tables=["notes"]))
    file = _record(application, done.restore_id)
    true = {"touches": {"tables": ["public.notes"], "files": []}, "safety_backup_id": done.safety_backup_id}
    other_tables = {"tables": ["public.projects"], "files": []}
    for more in ({"safety_backup_id": old}, {"touches": other_tables}, {"left_rows": 1}):
        _change(file, lambda d, more=more: _unsigned(d, **{**true, **more}))  # type: ignore[misc]
        with pytest.raises(RecordUnsigned):
            service.restores.undo(done.restore_id, ACME, ADMIN)
    _change(file, lambda d: (d.pop("left_rows"), _unsigned(d, **true)))
    service.restores.undo(done.restore_id, ACME, ADMIN)
    assert application.state(ACME) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("touches"),
        lambda d: d.update(touches={}),
        lambda d: d.update(touches={"tables": 5, "files": [1]}),
        lambda d: d.update(touches=["x"]),
        lambda d: d.update(scope={"what": 1}),
        lambda d: d.update(safety_backup_id={"a": 1}),
        lambda d: d.update(status=[]),
        lambda d: d.update(left_rows="many"),
    ],
)
def test_a_record_with_fields_missing(
    change: Callable[[dict[str, Any]], object], application: Application, service: BackupService
) -> None:
    """Is damage, or nothing to undo, and never an error of ours."""
    restore_id, _ = _restored(application, service)

    def damage(document: dict[str, Any]) -> None:
        _unsigned(document)
        document.setdefault("touches", {})["files"] = []
        change(document)

    _change(_record(application, restore_id), damage)
    for call in (
        lambda: service.restores.undo(restore_id, ACME, ADMIN),
        lambda: service.approvals.request_undo(restore_id, ACME, ADMIN, reason="x"),
    ):
        with pytest.raises(Exception, match=r"SBH-(601|701|709)"):
            call()
    service.restores.of(ACME, ADMIN)
