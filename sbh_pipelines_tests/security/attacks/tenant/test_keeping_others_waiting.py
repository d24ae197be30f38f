"""A tenant's operator, with plans that do not end, wants nobody else of the platform to restore, cancel or approve; a viewer,
with posts that are denied, wants the tenant's own admin not to; so does an operator, with requests for approval.

What is permitted is asked before what is left of a rate; launches and requests have rates of their own; each tenant has its share of the threads; launches, cancels and
approvals have threads of their own; and what nobody waits for any more is cancelled on the server.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import psycopg2
import pytest

from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.security.policy import Role
from sbh_pipelines.security.tokens import Tokens
from sbh_pipelines_tests.support.endpoints import APPROVAL, OPERATION
from sbh_pipelines_tests.support.servers import Server, serving, until

PLANS, GIVEN_UP_S = 20, 6.0


@pytest.fixture(scope="module")
def strict(
    api_stack: Stack, tokens: Tokens, backed_up: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Few threads, and answers that are given up soon."""
    log = tmp_path_factory.mktemp("strict") / "log"
    bounds = {
        "request_timeout_s": GIVEN_UP_S,
        "expensive_per_minute": 1,
        "expensive_burst": 30,
        "expensive_threads": 3,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SBH_DATABASE__LOCK_TIMEOUT_S", "3600")
        with serving(api_stack, tokens, log, dagster_url="http://127.0.0.1:9", **bounds) as made:
            yield made


@contextmanager
def endless_plans(server: Server, stack: Stack, count: int = PLANS) -> Iterator[list["Future[httpx.Response]"]]:
    """Of tenant-1, which meet a lock that nobody gives back."""
    with closing(psycopg2.connect(stack.dsn())) as connection, ThreadPoolExecutor(count) as threads:
        connection.cursor().execute("LOCK TABLE projects IN ACCESS EXCLUSIVE MODE")
        client = server.client("tenant-1", Role.OPERATOR, user="mallory")
        yield [threads.submit(client.post, "/api/backup/latest/diff", json={}) for _ in range(count)]
        connection.rollback()
        client.close()


def sessions(stack: Stack) -> int:
    """Of ours at the server that wait for a lock."""
    with closing(psycopg2.connect(stack.dsn(postgres.ADMIN))) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'sbh %' AND wait_event_type = 'Lock'"
        )
        return int(cursor.fetchone()[0])


def test_others_restore_cancel_and_approve_while_a_tenant_plans_without_end(
    api_stack: Stack, tokens: Tokens, backed_up: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody gives the plans up meanwhile: what is answered did not wait for them."""
    monkeypatch.setenv("SBH_DATABASE__LOCK_TIMEOUT_S", "3600")
    bounds = {"request_timeout_s": 3600, "expensive_burst": 30, "expensive_threads": 3}
    with (
        serving(api_stack, tokens, tmp_path / "log", dagster_url="http://127.0.0.1:9", **bounds) as server,
        endless_plans(server, api_stack, 6) as plans,
        server.client("tenant-2", user="bob") as bob,
    ):
        until(lambda: sessions(api_stack) > 0)
        asked = {
            "restore": bob.post("/api/backup/latest/restore", json={"confirm": True}),
            "cancel": bob.post(f"/api/operation/{OPERATION}/cancel"),
            "approve": bob.post(f"/api/approvals/{APPROVAL}/approve"),
            "list": bob.get("/api/backup"),
            "validate": bob.post("/api/backup/latest/validate"),
        }
        assert not all(plan.done() for plan in plans)
        assert sessions(api_stack) > 0
    assert {what: answer.status_code for what, answer in asked.items()} == {
        "restore": 503, "cancel": 503,  # there is no Dagster here, which is what they say
        "approve": 400, "list": 200, "validate": 200,
    }  # fmt: skip


def test_a_plan_that_nobody_waits_for_ends_on_the_server(strict: Server, api_stack: Stack) -> None:
    with endless_plans(strict, api_stack) as plans:
        until(lambda: sessions(api_stack) > 0)
        until(lambda: all(plan.done() for plan in plans))
        assert {plan.result().status_code for plan in plans} <= {429, 503}
        until(lambda: sessions(api_stack) == 0)  # the lock is still held: they were cancelled
        with strict.client("tenant-1", Role.OPERATOR, user="ann") as ann:
            # Its thread came back; on a busy machine an answer may be given up, as the plans were.
            answers = (ann.post("/api/backup/latest/validate").status_code for _ in range(5))
            assert 200 in answers


def test_denied_posts_use_up_nobodys_rate(strict: Server) -> None:
    with strict.client("tenant-3", Role.VIEWER, user="vic") as viewer:
        answers = [viewer.post("/api/backup/latest/restore", json={"confirm": True}).status_code for _ in range(60)]
    assert set(answers) == {403}
    with strict.client("tenant-3", Role.ADMIN, user="ada") as admin:
        assert admin.post(f"/api/operation/{OPERATION}/cancel").json()["code"] == "SBH-921"


def test_requests_for_approval_use_up_no_launch_and_not_the_others(strict: Server) -> None:
    """An operator's, of whom the tenant's admin needs a restore in an emergency, and another operator an approval."""
    ask = {"backup_id": "latest", "reason": "again and again"}
    with strict.client("tenant-2", Role.OPERATOR, user="mallory") as mallory:
        answers = [mallory.post("/api/approvals", json=ask) for _ in range(36)]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["Retry-After"]) >= 1
    with strict.client("tenant-2", Role.ADMIN, user="ada") as ada:
        assert ada.post("/api/backup/latest/restore", json={"confirm": True}).json()["code"] == "SBH-921"
    with strict.client("tenant-2", Role.OPERATOR, user="otto") as otto:
        assert otto.post("/api/approvals", json=ask).status_code != 429


def test_a_statement_ends_also_where_the_process_that_sent_it_is_gone(
    api_stack: Stack, tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is told how long somebody waits, so that it ends the statement also where the API's process is gone."""
    monkeypatch.setenv("SBH_DATABASE__LOCK_TIMEOUT_S", "3600")
    bounds = {"request_timeout_s": GIVEN_UP_S}
    log = tmp_path / "log"
    with (
        serving(api_stack, tokens, log, dagster_url="http://127.0.0.1:9", **bounds) as server,
        endless_plans(server, api_stack),
    ):
        until(lambda: sessions(api_stack) > 0)
        server.process.kill()
        until(lambda: sessions(api_stack) == 0)
