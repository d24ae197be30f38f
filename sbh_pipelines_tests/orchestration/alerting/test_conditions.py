"""The engine of alerts: it tells once, tells the recovery, and forgets nothing over restarts."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sbh_pipelines.orchestration.alerting.conditions import SEVERITIES, Condition, Kind, Memory, Notice, step
from sbh_pipelines_tests.support.effort import examples

HOUR = 3600.0
TOGETHER = 3
TENANTS = [f"t{n}" for n in range(8)]
_KEYS = st.tuples(st.sampled_from(["rpo_missed", "damaged"]), st.sampled_from(TENANTS)).map("/".join)
_CONDITIONS = st.builds(
    lambda key, severity: Condition(key, f"about {key}", "why", severity, key.partition("/")[2]),
    _KEYS,
    st.sampled_from(SEVERITIES),
)


def told(active: list[Condition], memory: Memory, now: float = 0.0, **more: object) -> tuple[list[Notice], Memory]:
    return step(active, memory, now, remind_after_s=24 * HOUR, together=TOGETHER, **more)  # type: ignore[arg-type]


def condition(key: str, **more: object) -> Condition:
    return Condition(key, f"about {key}", "why", **more)  # type: ignore[arg-type]


class Watched(RuleBasedStateMachine):
    """Conditions come and go, time passes, the process restarts; what people know is kept beside it, by keys."""

    @initialize()
    def begin(self) -> None:
        self.memory, self.now = Memory(), 1_000_000.0
        self.active: dict[str, Condition] = {}
        self.incidents: set[str] = set()  # open with whoever was told
        self.counts: Counter[tuple[str, str]] = Counter()

    @rule(found=st.lists(_CONDITIONS, unique_by=lambda c: c.key), minutes=st.integers(1, 3000))
    def look(self, found: list[Condition], minutes: int) -> None:
        self.now += minutes * 60.0
        self.active = {c.key: c for c in found}
        notices, self.memory = told(found, self.memory, self.now)
        for notice in notices:
            if notice.kind is Kind.NEW:
                assert notice.key not in self.incidents, "told as new although it is open"
                self.incidents.add(notice.key)
            else:
                assert notice.key in self.incidents, f"{notice.kind} of what nobody was told"
            if notice.kind is Kind.RECOVERED:
                self.incidents.remove(notice.key)

    @rule()
    def look_again(self) -> None:
        """With nothing changed nothing is told."""
        notices, self.memory = told(list(self.active.values()), self.memory, self.now)
        assert notices == []

    @rule()
    def restart(self) -> None:
        self.memory = Memory.from_dict(json.loads(json.dumps(self.memory.as_dict())))

    @rule()
    def all_is_well(self) -> None:
        """Every incident is closed, and nothing is left in the memory."""
        self.look([], 1)
        assert self.incidents == set()
        assert self.memory == Memory()

    @invariant()
    def what_is_wrong_is_known(self) -> None:
        if hasattr(self, "memory"):
            assert set(self.memory.open) == set(self.active)
            assert {told for _, told in self.memory.open.values()} == self.incidents


TestWatched = Watched.TestCase
TestWatched.settings = settings(max_examples=examples(60), stateful_step_count=25)


@given(st.lists(_CONDITIONS, unique_by=lambda c: c.key), st.sampled_from(["", "null", "[]", "{}", '{"open": 1}', "7"]))
def test_of_a_lost_memory_everything_is_told_anew_under_the_same_keys(found: list[Condition], text: str) -> None:
    before, _ = told(found, Memory())
    lost = Memory.from_dict(json.loads(text) if text else None)
    again, anew = told(found, lost)
    assert {n.key for n in again} == {n.key for n in before}
    over, _ = told([], anew)
    assert {n.key for n in over} == {n.key for n in before}


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["open", "topics", "a/b"]), inner)))  # fmt: skip
def test_any_memory_at_all_can_be_read(document: object) -> None:
    notices, _ = told([condition("damaged/a")], Memory.from_dict(document))
    assert [n.kind for n in notices] in ([Kind.NEW], [])


def test_many_at_once_are_one_alert_and_one_recovery() -> None:
    found = [condition(f"rpo_missed/{tenant}", tenant=tenant) for tenant in TENANTS]
    (notice,), memory = told(found, Memory())
    assert (notice.kind, notice.key, notice.count) == (Kind.NEW, "rpo_missed/*", len(TENANTS))
    nothing, memory = told(found[:1], memory, HOUR)  # nearly all have recovered, and one has not
    assert nothing == []
    (over,), _ = told([], memory, 2 * HOUR)
    assert (over.kind, over.key) == (Kind.RECOVERED, "rpo_missed/*")


def test_those_that_follow_are_told_when_they_are_twice_as_many() -> None:
    """An outage in which a few more tenants are late at each tick is told a few times, not at each tick."""
    memory, notices = Memory(), []
    for size in range(4, 4001, 40):
        found = [condition(f"rpo_missed/{n}") for n in range(size)]
        some, memory = told(found, memory, float(size))
        notices += some
    assert [n.kind for n in notices] == [Kind.NEW] + [Kind.WORSE] * (len(notices) - 1)
    assert len(notices) <= 10


def test_a_few_are_told_by_themselves() -> None:
    found = [condition(f"rpo_missed/{tenant}") for tenant in TENANTS[:TOGETHER]]
    notices, memory = told(found, Memory())
    assert [n.key for n in notices] == [c.key for c in found]
    (over,), _ = told(found[1:], memory, 1.0)
    assert (over.kind, over.key, over.subject) == (Kind.RECOVERED, found[0].key, found[0].subject)


def test_a_reminder_comes_after_its_time_and_once() -> None:
    found = [condition("damaged/a")]
    _, memory = told(found, Memory())
    early, memory = told(found, memory, 23 * HOUR)
    (still,), memory = told(found, memory, 24 * HOUR)
    again, _ = told(found, memory, 25 * HOUR)
    assert (early, still.kind, still.since, again) == ([], Kind.STILL, 0.0, [])


def test_what_becomes_more_severe_is_told() -> None:
    _, memory = told([condition("damaged/a", severity="warning")], Memory())
    (worse,), memory = told([condition("damaged/a", severity="critical")], memory, 1.0)
    assert (worse.kind, worse.severity) == (Kind.WORSE, "critical")
    milder, memory = told([condition("damaged/a", severity="warning")], memory, 2.0)
    assert milder == []
    (over,), _ = told([], memory, 3.0)
    assert over.severity == "critical"  # it goes where the worst of it went


def test_what_is_unknown_stands() -> None:
    """A tenant that cannot be looked at has not recovered."""
    found = [condition("damaged/a"), condition("damaged/b")]
    _, memory = told(found, Memory())
    (over,), memory = told([], memory, 1.0, unknown=lambda key: key.endswith("/a"))
    assert over.key == "damaged/b"
    (late,), _ = told([], memory, 2.0)
    assert late.key == "damaged/a"


def test_a_delay_keeps_what_passes_from_being_told() -> None:
    slow = condition("no_backup/a", delay_s=100.0)
    notices, memory = told([slow], Memory(), 0.0)
    gone, _ = told([], memory, 50.0)
    assert notices == gone == []
    later, memory = told([slow], memory, 99.0)
    (now,), _ = told([slow], memory, 100.0)
    assert (later, now.kind, now.since) == ([], Kind.NEW, 0.0)


def test_a_group_takes_no_later_one_in() -> None:
    """The tenants of a failed run are one alert; the tenants of the next failed run are another."""
    first = [condition(f"backup_failed.full/{t}", group="run-1") for t in "ab"]
    (one,), memory = told(first, Memory())
    assert one.key == "backup_failed.full/run-1"
    second = [condition("backup_failed.full/c", group="run-2")]
    (two,), memory = told([*first, *second], memory, 1.0)
    assert two.key == "backup_failed.full/c"
    over, _ = told(second, memory, 2.0)
    assert [n.key for n in over] == ["backup_failed.full/run-1"]


@pytest.mark.parametrize("bad", [{"open": {"a": [1, "gone"]}, "topics": {}}, {"open": {}, "topics": {"a": {"x": 1}}}])
def test_a_memory_that_contradicts_itself_is_empty(bad: object) -> None:
    assert Memory.from_dict(bad) == Memory()
