"""Somebody who reads the bucket wants to know whom people look for: predicates and patterns of files can be a person's.

What stops them: in records of restores and in approvals they are sealed with the tenant's key, and digests of them are keyed.
"""

import hashlib
from dataclasses import replace

import pytest

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.errors import RequestError, SbhError
from sbh_pipelines.repository.format import canonical
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application

_PERSON, _FILE = "code-ann-example", "docs/medical-ann*"
_ROWS = f"projects where code = '{_PERSON}'"


def test_records_and_approvals(application: Application) -> None:
    """Failed, completed or asked for; and those who may see them are shown all of it."""
    service = application.service(restore={"safety_backup": True})
    service.create_backup(ACME, ADMIN)
    application.database.run(f"UPDATE projects SET code = '{_PERSON}' WHERE id = 2")
    application.write_file(ACME, "docs/medical-ann.txt", b"x")
    latest = service.create_backup(ACME, ADMIN)["id"]
    application.database.run("UPDATE projects SET body = 'x' WHERE id = 2")
    request = RestoreRequest(rows=_ROWS, files=(_FILE,))
    asked = service.approvals.request_restore("latest", ACME, ADMIN, request, reason="ticket 1")
    done = service.restores.run(latest, ACME, ADMIN, request)
    undo = service.approvals.request_undo(done.restore_id, ACME, ADMIN, reason="ticket 2")
    with pytest.raises(RequestError):
        service.restores.run(latest, ACME, ADMIN, RestoreRequest(rows=f"projects where nocolumn = '{_PERSON}'"))
    listed = {record.status: record for record in service.restores.of(ACME, ADMIN)}
    assert (listed.keys(), "nocolumn" in str(listed["failed"].error)) == ({"failed", "completed"}, True)
    scope = listed["completed"].scope
    assert scope is not None
    assert (scope.rows, list(scope.files or ())) == (_ROWS, [_FILE])
    shown = {one.approval_id: one.subject for one in service.approvals.of(ACME, ADMIN)[0]}
    assert shown[asked.approval_id] == asked.subject
    assert shown[undo.approval_id] == undo.subject
    service.restores.plan(latest, ACME, ADMIN, request)
    stored = b"".join(
        file.read_bytes()
        for name in ("restores", "approvals", "audit")
        for file in (application.repository(ACME) / name).rglob("*")
        if file.is_file()
    )
    assert b"ticket 1" in stored
    for text in (_PERSON, _FILE, "nocolumn = "):
        assert text.encode() not in stored
    guesses = ({"rows": _ROWS}, {"rows": _ROWS, "files": [_FILE]}, {"tenant_id": ACME, "subject": dict(asked.subject)})
    for guess in [_ROWS.encode(), _FILE.encode(), *map(canonical, guesses)]:
        assert hashlib.sha256(guess).hexdigest().encode() not in stored


def test_after_a_rotation(application: Application) -> None:
    """What is sealed is sealed anew with the documents, so that an undo and an approval live longer than a key does."""
    service = application.service(restore={"safety_backup": True}, prune={"min_age_hours": 0})
    service.create_backup(ACME, ADMIN)
    application.wreck(ACME)
    request = RestoreRequest(rows="projects where id in (2, 4)", files=("docs/*",))
    done = service.restores.run("latest", ACME, ADMIN, request)
    asked = service.approvals.request_restore("latest", ACME, ADMIN, request, reason="ticket 1")
    before = service.restores.of(ACME, ADMIN)
    service.keys.rotate([ACME], ADMIN, new_data_key=True)
    for _ in range(3):
        service.keys.rotate([ACME], ADMIN, re_encrypt=True)
    fresh = application.service(restore={"safety_backup": True})
    assert fresh.restores.of(ACME, ADMIN) == before
    assert fresh.approvals.get(asked.approval_id, ACME, ADMIN).digest == asked.digest
    fresh.restores.undo(done.restore_id, ACME, ADMIN)


def test_an_approval_of_an_earlier_release(application: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is neither sealed nor has a keyed digest: it is approved and used as any."""
    service = application.service(approval={"restore": "two-person"})
    backup = service.create_backup(ACME, ADMIN)["id"]
    request = RestoreRequest(rows="projects where id = 2")

    def digest_of(repository: object, subject: dict[str, object], like: str = "") -> str:
        return "sha256:" + hashlib.sha256(canonical({"tenant_id": ACME, "subject": dict(subject)})).hexdigest()

    with monkeypatch.context() as earlier:
        earlier.setattr("sbh_pipelines.backup.approvals.digest_of", digest_of)
        earlier.setattr("sbh_pipelines.backup.approvals._split", lambda subject: (dict(subject), {}))
        asked = service.approvals.request_restore(backup, ACME, ADMIN, request, reason="ticket 1")
    bob = replace(ADMIN, user_id="bob")
    service.approvals.approve(asked.approval_id, ACME, bob)
    with pytest.raises(SbhError):
        service.restores.run(
            backup, ACME, ADMIN, RestoreRequest(rows="projects where id = 4"), approval_id=asked.approval_id
        )
    assert service.restores.run(backup, ACME, ADMIN, request, approval_id=asked.approval_id).status == "completed"
