"""Copies over HTTP: brought up to date, verified, and worked from when the first place is gone; with a real Dagster."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg2
import pytest

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.sample import data as sample
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import running
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.security.tokens import open_tokens
from sbh_pipelines.settings import load_settings
from sbh_pipelines_tests.support.copy_server import NAME, CopyServer, copy_server
from sbh_pipelines_tests.support.servers import Server, code_server, guarded_dagster, serving, until, watched

TENANTS = ["tenant-1", "tenant-2"]
VICTIM = TENANTS[0]
ADMIN = UserContext("alice", "*", Role.ADMIN)
PAID = "SELECT md5(string_agg(p::text, '' ORDER BY p.id)) FROM payments p WHERE tenant_id = 1"
NOW = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
THERE = {"from_copy": NAME}


@dataclass(frozen=True)
class Copied:
    place: CopyServer
    service: BackupService
    server: Server

    def ask(self, query: str) -> object:
        with (
            closing(psycopg2.connect(self.place.stack.dsn(postgres.ADMIN))) as connection,
            connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(query)
            return cursor.fetchone()[0] if cursor.description else None


@pytest.fixture
def copied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copied]:
    with running(tmp_path_factory.mktemp("first"), fsync=False, kms=False) as stack:
        sample.generate(stack, tenants=len(TENANTS), rows=400, files=8, seed=5)
        with copy_server(stack, tmp_path_factory.mktemp("second")) as place:
            settings = load_settings(place.settings)
            service = BackupService(settings)
            service.journal.setup(ADMIN)
            assert [draft.error for draft in service.backups.create_all(TENANTS, ADMIN, "full")] == [None, None]
            home = tmp_path_factory.mktemp("dagster") / "home"
            wide = {"expensive_per_minute": 10_000, "expensive_burst": 1_000}
            with (
                code_server(place, home.with_name("code")) as workspace,
                guarded_dagster(place, home, workspace) as dagster_url,
                serving(place, open_tokens(settings), home / "api.log", dagster_url=dagster_url, **wide) as server,
            ):
                yield Copied(place, service, server)


def test_a_copy_over_http(copied: Copied) -> None:
    """Run and verified by who may; then the first place is lost, and what is asked of the copy goes on."""
    with copied.server.client() as platform, copied.server.client(VICTIM) as own:
        paid = copied.ask(PAID)
        copied.ask("UPDATE payments SET amount = amount + 1 WHERE tenant_id = 1")
        moment, then = str(copied.ask(NOW)), copied.ask(PAID)
        copied.ask("UPDATE payments SET amount = amount + 1 WHERE tenant_id = 1")
        for _ in range(2):
            copied.service.journal.drain(ADMIN)
        _refused(copied.server, platform, own)
        _brought_over(platform, own)
        _read_from(own)
        copied.place.lose_the_first()
        assert own.get("/api/backup").status_code in (502, 503)
        _verified_alone(platform)
        copied.ask("UPDATE payments SET amount = 0 WHERE tenant_id = 1")
        assert copied.ask(PAID) != paid
        _restored_from(own)
        assert copied.ask(PAID) == paid
        _back_to(own, moment)
        assert copied.ask(PAID) == then != paid
        _on_record_there(platform, own)


def _posted(client: httpx.Client, path: str, **more: Any) -> httpx.Response:
    """The answer, once Dagster is up and on this busy machine answers in time: until then it is 503, and nothing was launched."""

    def answered() -> httpx.Response | None:
        answer = client.post(path, **more)
        return None if answer.status_code == 503 else answer

    found: httpx.Response = until(answered)
    return found


def _refused(server: Server, platform: httpx.Client, own: httpx.Client) -> None:
    assert own.post(f"/api/copies/{NAME}/run").status_code == 403
    assert own.post(f"/api/copies/{NAME}/verify").status_code == 403
    with server.client(role=Role.OPERATOR) as operator:
        assert operator.post(f"/api/copies/{NAME}/run").status_code == 403
    unknown = platform.post("/api/copies/nowhere/run")
    assert (unknown.status_code, unknown.json()["code"]) == (400, "SBH-200")
    assert unknown.json()["why"] == f"the settings name {NAME}"
    assert platform.post(f"/api/copies/{NAME}/run", json={"tenants": ["ghost"]}).status_code == 404
    two = platform.post(f"/api/copies/{NAME}/run", json={"tenants": TENANTS}, headers={"X-Tenant-Slug": VICTIM})
    assert (two.status_code, two.json()["what"]) == (400, "Two different tenants are named")

    elsewhere = own.get("/api/backup", params={"from_copy": "nowhere"})
    assert (elsewhere.status_code, elsewhere.json()["what"]) == (400, "There is no copy of this name")
    assert NAME not in elsewhere.json()["why"]
    for hostile in ("", "..", "../dr", "DR", "dr\n", "dr\x00", "dr/../x", "*@dr", "d" * 1000):
        assert own.get("/api/backup", params={"from_copy": hostile}).status_code == 422, hostile
        assert own.post("/api/backup/latest/diff", json={"from_copy": hostile}).status_code == 422, hostile
    assert own.post("/api/backup/latest/diff", json={"from_copy": ["dr"]}).status_code == 422
    foreign = own.get("/api/backup", params=THERE, headers={"X-Tenant-Slug": TENANTS[1]})
    assert (foreign.status_code, foreign.json()["code"]) == (403, "SBH-206")


def _brought_over(platform: httpx.Client, own: httpx.Client) -> None:
    key = {"Idempotency-Key": "tonight"}
    assert own.get("/api/backup", params=THERE).json()["backups"] == []
    first = _posted(platform, f"/api/copies/{NAME}/run", headers=key)
    assert first.status_code == 202, first.text
    repeated = _posted(platform, f"/api/copies/{NAME}/run", headers=key)
    assert repeated.status_code == 202, repeated.text
    assert (repeated.content, repeated.headers["Idempotency-Replayed"]) == (first.content, "true")
    beside = _posted(platform, f"/api/copies/{NAME}/run")
    assert (beside.status_code, beside.json()["operation_id"]) == (409, first.json()["operation_id"])
    done = watched(platform, first)
    assert (done["status"], done["kind"], done["error"]) == ("completed", "copies.run", None)
    assert (done["result"]["tenants"], done["result"]["left_out"]) == (2, 0)
    assert done["result"]["objects"] > 10
    (copy,) = platform.get("/api/copies").json()["copies"]
    assert {line["tenant_id"]: line["standing"] for line in copy["tenants"]} == dict.fromkeys(TENANTS, "current")
    again = watched(platform, _posted(platform, f"/api/copies/{NAME}/run", headers={"X-Tenant-Slug": VICTIM}))
    assert (again["status"], again["result"]["tenants"]) == ("completed", 1)
    assert own.get(first.headers["Location"]).status_code == 404  # it is no tenant's


def _read_from(own: httpx.Client) -> None:
    here, there = own.get("/api/backup").json(), own.get("/api/backup", params=THERE).json()
    assert here["backups"]
    assert here == there
    backup = here["backups"][0]["id"]
    assert own.get(f"/api/backup/{backup}", params=THERE).json()["id"] == backup
    plan = own.get("/api/backup/latest/diff", params=THERE).json()
    assert (plan["from_copy"], plan["nothing_to_do"]) == (NAME, False)
    assert own.post("/api/backup/latest/validate", json=THERE).json()["valid"] is True


def _verified_alone(platform: httpx.Client) -> None:
    """The first place is dead: so nothing can be recorded there, which is not what makes a verification fail."""
    for body in ({"deep": True}, {"tenants": [VICTIM]}):
        done = watched(platform, _posted(platform, f"/api/copies/{NAME}/verify", json=body))
        assert (done["status"], done["error"]) == ("completed", None)
        assert done["result"]["valid"] is True
        assert done["result"]["tenants"] == len(body.get("tenants", TENANTS))


def _restored_from(own: httpx.Client) -> None:
    body = {"tables": ["payments"], "confirm": True, **THERE}
    assert own.post("/api/backup/latest/diff", json={"tables": ["payments"], **THERE}).json()["from_copy"] == NAME
    refused = own.post("/api/backup/latest/restore", json=body)
    assert (refused.status_code, refused.json()["code"]) == (409, "SBH-643")
    done = watched(own, _posted(own, "/api/backup/latest/restore", json={**body, "safety_backup": False}))
    assert (done["status"], done["error"]) == ("completed", None)
    assert done["links"]["restore"] == f"/api/restore/{done['restore_id']}?from_copy={NAME}"
    ended = own.post(f"/api/operation/{done['operation_id']}/cancel")
    assert (ended.status_code, ended.json()["what"]) == (409, "The operation has ended")
    record = own.get(done["links"]["restore"]).json()
    assert (record["status"], record["from_copy"], record["requested_by"]) == ("completed", NAME, "alice")
    assert [one["restore_id"] for one in own.get("/api/restore", params=THERE).json()["restores"]] == [
        done["restore_id"]
    ]
    undone = own.post(f"/api/restore/{done['restore_id']}/undo", json={"confirm": True, **THERE})
    assert undone.json()["code"] == "SBH-701"


def _back_to(own: httpx.Client, moment: str) -> None:
    """A moment out of the copy's journal; the application's bucket is gone as well."""
    (found,) = own.get("/api/journal/windows", params=THERE).json()["tenants"]
    assert any(window["start"] <= moment <= window["end"] for window in found["windows"])
    body = {"tables": ["payments"], "safety_backup": False, "confirm": True, **THERE}
    done = watched(own, _posted(own, f"/api/backup/@{moment}/restore", json=body))
    assert (done["status"], done["error"]) == ("completed", None)
    assert own.get(done["links"]["restore"]).json()["backup_id"] == f"@{moment}"


def _on_record_there(platform: httpx.Client, own: httpx.Client) -> None:
    deep = watched(own, _posted(own, "/api/backup/latest/validate", json={"deep": True, **THERE}))
    assert (deep["status"], deep["result"]["valid"]) == ("completed", True)
    asked = own.post(
        "/api/approvals", json={"backup_id": "latest", "reason": "a test", "safety_backup": False, **THERE}
    ).json()
    assert asked["subject"]["from_copy"] == NAME
    approval = asked["approval_id"]
    assert own.get(f"/api/approvals/{approval}", params=THERE).json()["approval_id"] == approval
    rejected = own.post(f"/api/approvals/{approval}/reject", json={"comment": "no", **THERE})
    assert rejected.json()["status"] == "rejected"
    assert [one["approval_id"] for one in own.get("/api/approvals", params=THERE).json()["approvals"]] == [approval]
    work = platform.get("/api/audit", params={**THERE, "work": True, "event": "restore.*"}).json()
    assert work["tenant_id"] == f"*@{NAME}"
    assert "restore.completed" in [event["event"] for event in work["events"]]
    assert own.get("/api/audit", params=THERE).json()["events"]
    assert platform.get("/api/audit", params={"work": True}).status_code == 400
