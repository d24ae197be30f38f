"""A tenant's viewer, or anybody with any token, wants the audit trails full: objects for ever, noise, and a queue for their next number.

Each user has a rate, and what repeats itself leaves one event at once and one count a minute. Nothing is lost by it: the counts
of all events are the calls that were made, also where the process ends in between.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.security.tokens import Tokens
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.servers import Server, serving, until

ADMIN = UserContext("reader", "*", Role.ADMIN)
CALLS = 120


@contextmanager
def api(stack: Stack, tokens: Tokens, tmp_path: Path, **bounds: object) -> Iterator[Server]:
    with serving(stack, tokens, tmp_path / "log", dagster_url="http://127.0.0.1:9", **bounds) as server:
        yield server


@pytest.fixture
def one_count_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the calls take on a machine that has other work."""
    monkeypatch.setenv("SBH_AUDIT__REPEATS_S", "3600")


WIDE = {"calls_per_minute": 1_000_000, "calls_burst": 1_000_000}


def events_of(settings: Settings, tenant: str, user: str) -> list[dict[str, Any]]:
    found = BackupService(settings).audit.events(ADMIN, tenant, user=user, limit=1000).events
    return [{"event": event.event, **event.props} for event in found]


def calls(events: list[dict[str, Any]]) -> int:
    return sum(event.get("times", 1) for event in events)


@pytest.mark.usefixtures("one_count_at_the_end")
def test_looking_again_and_again(
    api_stack: Stack, api_settings: Settings, tokens: Tokens, backed_up: str, tmp_path: Path
) -> None:
    """Also with an id of its own each time, of backups and restores that never were."""
    with (
        api(api_stack, tokens, tmp_path, **WIDE) as server,
        server.client("tenant-1", Role.VIEWER, user="vic") as client,
    ):
        for _ in range(CALLS):
            assert client.get("/api/backup").status_code == 200
        for number in range(CALLS):
            assert client.get(f"/api/backup/backup_20240101_{number:04}/status").status_code == 404  # which leaves none
        for number in range(CALLS):
            client.get("/api/audit", params={"user": f"somebody-{number}"})  # a viewer may not
    events = events_of(api_settings, "tenant-1", "vic")
    assert calls(events) == 2 * CALLS
    assert len(events) <= 40
    assert {event["event"] for event in events} == {"backup.accessed", "access.denied"}


@pytest.mark.usefixtures("one_count_at_the_end")
def test_denied_again_and_again(api_stack: Stack, api_settings: Settings, tokens: Tokens, tmp_path: Path) -> None:
    """With other tenants' names, however long, in the platform's trail; with what the role may not, in the tenant's."""
    with (
        api(api_stack, tokens, tmp_path, **WIDE) as server,
        server.client("tenant-2", Role.VIEWER, user="eve") as client,
    ):
        for number in range(CALLS):
            foreign = client.get("/api/backup", headers={"X-Tenant-Slug": f"{number}-" + "x" * 3000})
            assert foreign.status_code == 403
        for _ in range(CALLS):
            assert client.post("/api/backup", json={}).status_code == 403
    platform, own = events_of(api_settings, "*", "eve"), events_of(api_settings, "tenant-2", "eve")
    assert (calls(platform), calls(own)) == (CALLS, CALLS)
    assert len(platform) + len(own) <= 12
    assert max(len(str(event)) for event in platform) < 40_000
    named = next(event["named"] for event in platform if "named" in event)
    assert len(named) >= 100
    assert max(map(len, named)) <= 64


def test_more_calls_than_anybody_makes(api_stack: Stack, tokens: Tokens, tmp_path: Path) -> None:
    """The rate is the user's, for reads as well; another user of the tenant has their own."""
    with api(api_stack, tokens, tmp_path, calls_per_minute=1, calls_burst=20) as server:
        with server.client("tenant-1", Role.VIEWER, user="mel") as client:
            answers = [client.get("/api/health/live" if n < 5 else "/api/tenants") for n in range(40)]
        assert [answer.status_code for answer in answers].count(429) >= 5
        limited = answers[-1]
        assert (limited.status_code, limited.json()["code"]) == (429, "SBH-210")
        assert int(limited.headers["Retry-After"]) >= 1
        with server.client("tenant-1", Role.VIEWER, user="ann") as other:
            assert other.get("/api/tenants").status_code == 200


def test_counts_are_recorded_while_the_server_runs(
    backed_up: str,
    api_stack: Stack,
    api_settings: Settings,
    tokens: Tokens,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SBH_AUDIT__REPEATS_S", "5")
    with (
        api(api_stack, tokens, tmp_path, **WIDE) as server,
        server.client("tenant-2", Role.VIEWER, user="pat") as client,
    ):
        for _ in range(30):
            client.get("/api/backup")
        until(lambda: calls(events_of(api_settings, "tenant-2", "pat")) >= 30)
        found = events_of(api_settings, "tenant-2", "pat")
    assert len(found) <= 10
