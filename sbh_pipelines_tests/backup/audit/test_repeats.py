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


def counted(repeats: Repeats, tenant: Tenant, entry: Entry) -> bool:
    """As a trail asks: what is not counted is recorded, which succeeds."""
    if repeats.counted(tenant, entry):
        return True
    repeats.began(tenant, entry)
    return False


def test_the_first_is_recorded_and_the_others_are_counted(repeats: Repeats, clock: Clock) -> None:
    assert [counted(repeats, ACME, look()) for _ in range(4)] == [False, True, True, True]
    assert repeats.take() == []
    clock.now = 60
    ((tenant, entry),) = repeats.take()
    assert (tenant, entry.user_id, entry.via, entry.event) == (ACME, "ann", "api", "backup.accessed")
    assert entry.props == {"what": "list", "times": 3, "since": "2024-01-15T12:00:00Z"}
    assert counted(repeats, ACME, look()) is False  # a window begins anew
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
    assert [counted(repeats, tenant, entry) for tenant, entry in entries] == [False] * 5
    assert counted(repeats, ACME, look(event="restore.planned")) is False  # never folded


def test_many_backups_are_named_all_the_same(repeats: Repeats) -> None:
    found = [counted(repeats, ACME, look(backup_id=f"b{number}")) for number in range(60)]
    assert (found.count(False), found[:20]) == (20, [False] * 20)
    ((_, entry),) = repeats.take(all_of_them=True)
    assert (entry.props["times"], len(entry.props["named"])) == (40, 40)


def test_ever_new_kinds_of_looks_are_one_in_the_end(repeats: Repeats) -> None:
    found = [counted(repeats, ACME, look(event="audit.accessed", wanted=str(number))) for number in range(100)]
    taken = repeats.take(all_of_them=True)
    assert found.count(False) + sum(entry.props["times"] for _, entry in taken) == 100  # type: ignore[misc]
    assert found.count(False) + len(taken) <= 25


def test_what_could_not_be_recorded_comes_again(repeats: Repeats) -> None:
    for _ in range(3):
        counted(repeats, ACME, look())
    ((tenant, entry),) = repeats.take(all_of_them=True)
    repeats.put_back(tenant, [entry])
    assert repeats.take() == [(tenant, entry)]


def test_nothing_is_a_repeat_of_what_was_not_recorded(repeats: Repeats) -> None:
    """Whoever comes while the first is being written, or after that failed; the same of a further name."""
    assert [repeats.counted(ACME, look()) for _ in range(3)] == [False] * 3
    repeats.began(ACME, look())
    repeats.began(ACME, look())  # who came meanwhile
    assert repeats.counted(ACME, look()) is True
    assert [repeats.counted(ACME, look(backup_id="b1")) for _ in range(3)] == [False] * 3
    repeats.began(ACME, look(backup_id="b1"))
    assert repeats.counted(ACME, look(backup_id="b1")) is True
    ((_, entry),) = repeats.take(all_of_them=True)
    assert entry.props["times"] == 2


def test_ever_new_kinds_that_are_not_recorded_are_no_repeats(repeats: Repeats) -> None:
    found = [repeats.counted(ACME, look(event="audit.accessed", wanted=str(number % 40))) for number in range(120)]
    assert not any(found)
    assert repeats.take(all_of_them=True) == []
