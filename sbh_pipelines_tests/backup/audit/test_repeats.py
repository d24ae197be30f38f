"""Repeats that are folded: what is recorded at once, what is counted, and that nothing is lost of it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from sbh_pipelines.backup.site.repeats import Repeats
from sbh_pipelines.model import Tenant, TenantId
from sbh_pipelines.repository.trail.event import Entry, entry_of

ACME = Tenant(TenantId("acme"), "1", "eu", "gold")
BOLT = Tenant(TenantId("bolt"), "2", "eu", "gold")
NOON = datetime(2024, 1, 15, 12, tzinfo=UTC)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def repeats(clock: Clock) -> Repeats:
    return Repeats(60, lambda: NOON, clock)


def look(user: str = "ann", event: str = "backup.accessed", **props: Any) -> Entry:
    return entry_of(event, user, "backup", "api", {"what": "list", **props})


def test_the_first_is_recorded_and_the_others_are_counted(repeats: Repeats, clock: Clock) -> None:
    assert [repeats.counted(ACME, look()) for _ in range(4)] == [False, True, True, True]
    assert repeats.take() == []
    clock.now = 60
    ((tenant, entry),) = repeats.take()
    assert (tenant, entry.user_id, entry.via, entry.event) == (ACME, "ann", "api", "backup.accessed")
    assert entry.props == {"what": "list", "times": 3, "since": "2024-01-15T12:00:00Z"}
    assert repeats.counted(ACME, look()) is False  # a window begins anew
    clock.now = 120
    assert repeats.take() == []


def test_what_differs_in_more_than_a_name_is_no_repeat(repeats: Repeats) -> None:
    entries = [
        (ACME, look()),
        (BOLT, look()),
        (ACME, look("bob")),
        (ACME, look(what="get")),
        (ACME, look(event="restore.planned")),
    ]
    assert [repeats.counted(tenant, entry) for tenant, entry in entries] == [False] * 5
    assert repeats.counted(ACME, look(event="restore.planned")) is False  # never folded


def test_many_backups_are_named_all_the_same(repeats: Repeats) -> None:
    found = [repeats.counted(ACME, look(backup_id=f"b{number}")) for number in range(60)]
    assert (found.count(False), found[:20]) == (20, [False] * 20)
    ((_, entry),) = repeats.take(all_of_them=True)
    assert (entry.props["times"], len(entry.props["named"])) == (40, 40)


def test_ever_new_kinds_of_looks_are_one_in_the_end(repeats: Repeats) -> None:
    found = [repeats.counted(ACME, look(event="audit.accessed", wanted=str(number))) for number in range(100)]
    taken = repeats.take(all_of_them=True)
    assert found.count(False) + sum(entry.props["times"] for _, entry in taken) == 100  # type: ignore[misc]
    assert found.count(False) + len(taken) <= 25


def test_what_could_not_be_recorded_comes_again(repeats: Repeats) -> None:
    for _ in range(3):
        repeats.counted(ACME, look())
    ((tenant, entry),) = repeats.take(all_of_them=True)
    repeats.put_back(tenant, [entry])
    assert repeats.take() == [(tenant, entry)]
