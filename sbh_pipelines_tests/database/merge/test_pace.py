"""How long a restore rests: in proportion to what it did, never before there was a second of it, never less than is asked for."""

from types import SimpleNamespace

import pytest

from sbh_pipelines.database.merge import pace
from sbh_pipelines.database.merge.pace import Pace, rest_of
from sbh_pipelines.settings import RestoreSettings


def _rests(
    monkeypatch: pytest.MonkeyPatch, settings: RestoreSettings, batches: list[float]
) -> tuple[list[float], Pace]:
    """What is slept before each batch but the first, of batches that take so long, s."""
    slept: list[float] = []
    monkeypatch.setattr(pace, "time", SimpleNamespace(sleep=slept.append))
    made = Pace(settings)
    for seconds in batches:
        made.rest()
        made.worked(seconds, full=True)
    return slept, made


def test_the_first_second_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    slept, _ = _rests(monkeypatch, RestoreSettings(pace=2.0), [0.5, 0.5, 0.25, 0.5, 0.5])
    assert slept == [0.5, 1.0]
    assert _rests(monkeypatch, RestoreSettings(pace=2.0), [0.1] * 10)[0] == []


def test_a_batch_is_cut_to_a_tenth_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the server's speed; `batch_rows` is the most."""
    _, made = _rests(monkeypatch, RestoreSettings(pace=1.0), [0.05, 0.4])
    assert made.rows == 2_500
    _, made = _rests(monkeypatch, RestoreSettings(pace=1.0), [0.001] * 20)
    assert made.rows == RestoreSettings().batch_rows


def test_what_does_not_get_less_with_the_rows_makes_no_batch_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A far server, a statement over hundreds of partitions: each batch takes at least as long."""
    slept, made = _rests(monkeypatch, RestoreSettings(pace=1.0), [0.15] * 500)
    assert made.rows == 2_000
    assert max(slept) == 0.15
    made.begin_table()
    assert made.rows == 2_000


def test_a_batch_that_stalled_is_not_followed_by_as_long_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    slept, made = _rests(monkeypatch, RestoreSettings(pace=2.0), [0.001] * 20 + [120.0, 0.1])
    assert slept == [5.0]
    made.rows = 50_000
    made.begin_table()
    assert made.rows == 5_000


def test_without_a_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """As settings of earlier releases have it: full batches, and the pause that they name, or none."""
    slept, made = _rests(monkeypatch, RestoreSettings(pace=0), [0.9] * 5)
    assert (slept, made.rows) == ([], 50_000)
    slept, made = _rests(monkeypatch, RestoreSettings(pace=0, batch_rows=200, pause_ms=20), [0.9] * 3)
    assert (slept, made.rows) == ([0.02] * 2, 200)


def test_a_pause_is_the_least_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    slept, _ = _rests(monkeypatch, RestoreSettings(pace=1.0, pause_ms=50), [0.5, 0.5, 0.5, 0.01, 0.5])
    assert slept == [0.05, 0.05, 0.5, 0.05]


def test_what_a_plan_says_of_it() -> None:
    assert rest_of(RestoreSettings(pace=2.0), 4.0) == 6.0
    assert rest_of(RestoreSettings(pace=2.0), 0.5) == 0.0
    assert rest_of(RestoreSettings(pace=0), 100.0) == 0.0
