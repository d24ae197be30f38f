"""What a process remembers of the tenants of a region that move: which marks it reads, when, and what stands where none answers."""

import threading
from pathlib import Path

import pytest

from sbh_pipelines.errors import StoreUnavailable
from sbh_pipelines.repository.catalog.catalog import Catalog, open_catalog
from sbh_pipelines.repository.catalog.moves import Move, MoveMark, MoveState, move_key, write_move
from sbh_pipelines_tests.repository.catalog.test_catalog import PREFIX, REGION, key_file
from sbh_pipelines_tests.support.fault_stores import Wrapped
from sbh_pipelines_tests.support.memory_store import MemoryStore

_LONG = 1e6  # s


class Asked:
    """A catalog, and which requests about moves it made; `trouble` is raised by each."""

    def __init__(self, directory: Path) -> None:
        self.memory, self.calls, self.trouble = MemoryStore(), list[tuple[str, str]](), list[StoreUnavailable]()
        self.catalog = self._opened(directory)

    def _opened(self, directory: Path) -> Catalog:
        store = Wrapped(self.memory, self.before, lambda verb, key: None)
        return open_catalog(store, PREFIX, REGION, key_file(directory / "backup.key", bytes(range(32))))

    def before(self, verb: str, key: str) -> None:
        if "/moves/" in key and verb != "put":
            self.calls.append((verb, key.removeprefix(PREFIX)))
            for error in self.trouble:
                raise error

    def say(self, home: str, state: MoveState = MoveState.WENT) -> None:
        move = Move(state, "eu_2", "place", "backup_20260101_0000", "2026-01-01T00:00:00Z")
        write_move(self.catalog, MoveMark.of(self.catalog.owner_key, home, "1", move), "ada")

    def of(self, *slugs: str, max_age_s: float = 0.0) -> set[str]:
        return set(self.catalog.moves.of(self.catalog, slugs, max_age_s))

    def spent(self) -> list[tuple[str, str]]:
        calls, self.calls[:] = sorted(self.calls), []
        return calls


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path)


def test_only_marks_of_who_is_asked_for_are_read_and_each_once(asked: Asked) -> None:
    """Marks stay for ever, and whoever may put one may put many: what is no repository's name, or is not genuine."""
    for number in range(50):
        asked.say(f"tenant-{number}")
    for home in ("acme", "acme~2"):
        asked.say(home)
    for home in ("bolt", "a/b", "No Slug"):
        asked.memory.put(PREFIX + move_key(home), b"{}")
    assert asked.of("acme", "bolt") == {"acme", "acme~2"}
    read = [("get", move_key(home)) for home in ("acme", "acme~2", "bolt")]
    assert asked.spent() == [*read, ("list", "moves/")]
    assert asked.of("acme", "bolt") == {"acme", "acme~2"}
    assert asked.spent() == [("list", "moves/")]
    asked.say("bolt")
    assert asked.of("acme", "bolt", "a/b", max_age_s=_LONG) == {"acme", "acme~2", "bolt"}
    assert asked.spent() == [("get", move_key("bolt")), ("list", "moves/")]
    assert asked.of("tenant-7", max_age_s=_LONG) == {"tenant-7"}
    assert asked.spent() == [("get", move_key("tenant-7"))]


def test_a_region_that_is_silent_is_asked_once_and_what_it_said_stands(asked: Asked) -> None:
    asked.say("acme")
    assert asked.of("acme") == {"acme"}
    asked.spent()
    asked.trouble.append(StoreUnavailable("no answer"))
    assert asked.of("acme", max_age_s=_LONG) == {"acme"}
    assert asked.spent() == [], "it was listed a moment ago"
    asked.catalog.moves.forget()
    for _ in range(3):
        assert asked.of("acme", max_age_s=_LONG) == {"acme"}
    assert asked.spent() == [("list", "moves/")]
    asked.trouble.clear()
    asked.say("bolt")
    assert asked.of("acme", "bolt", max_age_s=_LONG) == {"acme", "bolt"}


def test_what_is_said_while_the_marks_are_listed_is_not_missed(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    asked.say("acme")
    listing = asked.memory.list

    def late(prefix: str, after: str = "") -> object:
        found = list(listing(prefix, after))
        other = threading.Thread(target=asked.say, args=("bolt",))
        other.start()
        other.join()
        return iter(found)

    with monkeypatch.context() as patch:
        patch.setattr(asked.memory, "list", late)
        assert asked.of("acme", "bolt", max_age_s=_LONG) == {"acme"}
    assert asked.of("acme", "bolt", max_age_s=_LONG) == {"acme", "bolt"}
