"""Long work through HTTP alone: launched, watched, repeated, refused, canceled; with a real Dagster."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import pairwise

import httpx
import psycopg2
import pytest

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.sample import fingerprint
from sbh_pipelines.embedded.sample.changes import wreck
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.servers import Server, until, watched


def test_a_ruined_tenant_comes_back_over_http(server: Server, api_stack: Stack) -> None:
    """Backed up, listed, ruined, compared, restored: byte for byte what it was; then the restore is undone."""
    with server.client("tenant-4") as client:
        of_others = {backup["id"] for backup in client.get("/api/backup/").json()["backups"]}
        made = watched(client, client.post("/api/backup", json={"type": "full", "description": "Weekly backup"}))
        assert (made["status"], made["progress"], made["error"]) == ("completed", 100, None)
        backup = made["backup_id"]
        listed = [b for b in client.get("/api/backup/").json()["backups"] if b["id"] not in of_others]
        assert [(b["id"], b["type"], b["description"], b["created_by"]) for b in listed] == [
            (backup, "full", "Weekly backup", "alice")
        ]
        manifest = client.get(made["links"]["backup"])
        assert manifest.json()["id"] == backup
        again = client.get(made["links"]["backup"], headers={"If-None-Match": manifest.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")

        before = fingerprint.take(api_stack)
        wreck(api_stack, "tenant-4")
        ruined = fingerprint.take(api_stack)
        assert set(before.differences(ruined)) == {"tenant-4"}
        assert client.post(f"/api/backup/{backup}/diff").json()["nothing_to_do"] is False

        refused = client.post(f"/api/backup/{backup}/restore", json={"confirm": False})
        assert (refused.status_code, refused.json()["code"]) == (409, "SBH-205")
        body = {"confirm": True, "validate_only": False}
        done = watched(client, client.post(f"/api/backup/{backup}/restore/", json=body))
        assert (done["status"], done["backup_id"]) == ("completed", backup), done["error"]
        left = before.differences(
            fingerprint.take(api_stack)
        )  # a tenant's own user brings no row of the tenants table back
        assert left == {"tenant-4": ["table tenants: changed"]}

        record = client.get(done["links"]["restore"]).json()
        assert (record["status"], record["progress"], record["requested_by"]) == ("completed", 100, "alice")
        assert [r["restore_id"] for r in client.get("/api/restore").json()["restores"]] == [done["restore_id"]]
        lines = client.get("/api/operations").json()["operations"]
        assert [(line["backup_id"], line["restore_id"]) for line in lines] == [
            (backup, done["restore_id"]),
            (backup, None),
        ]
        assert client.get("/api/backup/latest/status").json()["backup_id"] == backup
        undone = watched(client, client.post(f"/api/restore/{done['restore_id']}/undo", json={"confirm": True}))
        assert undone["status"] == "completed", undone["error"]
        assert ruined.differences(fingerprint.take(api_stack)) == {}


def test_a_repeated_request_launches_nothing_anew(server: Server, second_server: Server) -> None:
    """Also at another process of the API; another body with the key is refused, another user's key is another key."""
    key = {"Idempotency-Key": "the-same"}
    body = {"type": "incremental", "description": None}
    with (
        server.client("tenant-1") as client,
        second_server.client("tenant-1") as elsewhere,
        server.client("tenant-1", user="bob") as bob,
    ):
        earlier = len(client.get("/api/operations").json()["operations"])  # of other tests
        first = client.post("/api/backup", json=body, headers=key)
        assert first.status_code == 202
        repeated = elsewhere.post("/api/backup", json=body, headers=key)
        assert (repeated.status_code, repeated.content) == (202, first.content)
        assert repeated.headers["Idempotency-Replayed"] == "true"
        assert repeated.headers["Location"] == first.headers["Location"]
        conflict = elsewhere.post("/api/backup", json={"type": "full"}, headers=key)
        assert (conflict.status_code, conflict.json()["code"]) == (422, "SBH-211")
        busy = bob.post("/api/backup", json=body, headers=key)
        assert (busy.status_code, busy.json()["operation_id"]) == (409, first.json()["operation_id"])
        assert watched(client, first)["status"] == "completed"
        assert client.post("/api/backup", json=body, headers=key).content == first.content
        assert len(client.get("/api/operations").json()["operations"]) == earlier + 1


def test_of_requests_at_the_same_time_one_wins(server: Server, second_server: Server) -> None:
    """Eight at once to two processes: one backup; the others are told which operation is in their way.

    On a slow machine the last may have its turn when the first backup is made already: then there are two, one after the other.
    Who has waited for its turn for eight seconds, without an operation to be told of, is refused all the same.
    """
    answers: list[httpx.Response] = []
    clients = [each.client("tenant-3") for each in (server, second_server) * 4]
    start = threading.Barrier(len(clients))
    earlier = len(clients[0].get("/api/backup").json()["backups"])  # of other tests

    def create(client: httpx.Client) -> None:
        start.wait()
        answers.append(client.post("/api/backup", json={"type": "full"}))

    threads = [threading.Thread(target=create, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [answer for answer in answers if answer.status_code == 202]
    losers = [answer for answer in answers if answer.status_code == 409]
    assert (len(winners) + len(losers), bool(winners), len(losers) > 3) == (8, True, True)
    for loser in losers:
        said = loser.json()
        assert (said["code"], said["transient"]) == ("SBH-603", True)
        if "operation_id" in said or loser.elapsed.total_seconds() < 8:
            assert said["operation_id"] in {winner.json()["operation_id"] for winner in winners}
        assert loser.headers["Retry-After"]
    ran = sorted((watched(clients[0], winner) for winner in winners), key=lambda operation: operation["created_at"])
    assert all(one["finished_at"] <= next_one["created_at"] for one, next_one in pairwise(ran))
    assert len(clients[0].get("/api/backup").json()["backups"]) == earlier + len(winners)
    for client in clients:
        client.close()


def test_an_operation_is_canceled_once_and_seen_by_its_tenant_only(server: Server) -> None:
    """To others it is as one that never was."""
    with server.client("tenant-2") as client, server.client("tenant-3") as stranger, server.client() as platform:
        launched = client.post("/api/backup", json={"type": "full"})
        link = launched.headers["Location"]
        for method, url in (("GET", link), ("POST", launched.json()["links"]["cancel"])):
            unknown = stranger.request(method, url)
            assert (unknown.status_code, unknown.json()["what"]) == (404, "No such operation")
        assert platform.get(link).json()["tenant_id"] == "tenant-2"
        for _ in range(8):
            canceled = until(partial(_cancel, client, launched))
            ended = watched(client, launched)
            if ended["status"] == "canceled":
                break
            launched = client.post("/api/backup", json={"type": "full"})  # it was faster: once more
        assert canceled.status_code == 202, canceled.text
        assert (ended["status"], ended["error"]["code"]) == ("canceled", "SBH-920")
        again = client.post(launched.json()["links"]["cancel"])
        assert again.status_code == 409


def _cancel(client: httpx.Client, launched: httpx.Response) -> httpx.Response | None:
    """None while the run is on its way to its worker, when Dagster cannot cancel it: the API says to try again."""
    answer = client.post(launched.json()["links"]["cancel"])
    if answer.status_code == 409 and answer.json()["transient"]:
        time.sleep(1)  # cancels are counted by the rate limit
        return None
    return answer


def pack_of(settings: Settings, backup_id: str) -> str:
    """One that a backup of tenant-1 needs: others may be of other tests' backups."""
    with BackupService(settings).open_backup(backup_id, "tenant-1", UserContext("fixture", "*", Role.ADMIN)) as backup:
        chunk = bytes.fromhex(backup._summaries["public.users"].detail[0])
        place = backup._repository.index.find(chunk)
        assert place is not None
        return place.pack.hex()


def test_a_deep_validation_that_finds_damage_says_what(
    server: Server, api_stack: Stack, api_settings: Settings, backed_up: str
) -> None:
    """As a failed operation with the code of what was found, and without the address of the store for a tenant's user."""
    s3 = api_stack.s3_client()
    with server.client("tenant-1", Role.OPERATOR) as client:
        manifest = client.get(f"/api/backup/{backed_up}").json()
        region = manifest["region"]
        bucket, folder = f"sbh-files-{region}", "files/tenant-1/backups/packs/"
        pack = folder + pack_of(api_settings, backed_up)
        sound = s3.get_object(Bucket=bucket, Key=pack)["Body"].read()
        s3.put_object(Bucket=bucket, Key=pack, Body=bytes([sound[0], sound[1] ^ 1, *sound[2:]]))
        try:
            accepted = client.post(f"/api/backup/@{manifest['recovery_point']['time']}/validate", json={"deep": True})
            # From now on: what a time or `latest` means may have changed when the run leaves the queue.
            assert client.get(accepted.headers["Location"]).json()["backup_id"] == backed_up
            ended = watched(client, accepted)
        finally:  # other tests use this backup: the pack as it was, and nothing that calls it damaged
            s3.put_object(Bucket=bucket, Key=pack, Body=sound)
            marks = s3.list_objects_v2(Bucket=bucket, Prefix="files/tenant-1/backups/index/damaged-").get(
                "Contents", []
            )
            for mark in marks:
                s3.delete_object(Bucket=bucket, Key=mark["Key"])
        assert (ended["kind"], ended["status"], ended["result"]["valid"]) == ("backup.validate", "failed", False)
        assert ended["error"]["code"] == "SBH-601"
        assert "://" not in str(ended)
        assert len(marks) == 1


@pytest.fixture
def failing(server: Server, api_stack: Stack) -> Iterator[None]:
    """tenant-2's region allows no backups; other tests meet a server that knows the tenant as it is again."""

    def region(value: str | None) -> str:
        with closing(psycopg2.connect(api_stack.dsn())) as connection, connection, connection.cursor() as cursor:
            cursor.execute("SELECT region FROM tenants WHERE slug = 'tenant-2'")
            (before,) = cursor.fetchone()
            if value is not None:
                cursor.execute("UPDATE tenants SET region = %s WHERE slug = 'tenant-2'", (value,))
            return str(before)

    was = region("mars-1")
    yield
    region(was)
    with server.client("tenant-2") as client:
        until(lambda: [line["region"] for line in client.get("/api/tenants").json()["tenants"]] == [was])


def test_what_cannot_be_backed_up_is_refused_before_it_is_launched(server: Server, failing: None) -> None:
    with server.client("tenant-2") as client:

        def refused() -> bool:  # the server may know the tenant as it was some seconds ago
            answer = client.post("/api/backup", json={"type": "full"})
            if answer.status_code == 202:
                watched(client, answer)
                return False
            return (answer.status_code, answer.json()["code"]) == (403, "SBH-120")

        assert until(refused)
