"""Runs that are stuck by the books of an instance. `test_daemon.py` kills real workers."""

import json
import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster import build_resources

from sbh_pipelines.definitions import defs
from sbh_pipelines.orchestration.alerting import stuck_runs as stuck
from sbh_pipelines.orchestration.alerting.stuck_runs import end_lost_runs, stuck_runs, worker_is_gone
from sbh_pipelines.orchestration.common import runs
from sbh_pipelines.orchestration.common.dagster_internals import GRPC_INFO_TAG, CodeServer
from sbh_pipelines.orchestration.common.resources import backup_service
from sbh_pipelines.orchestration.hosts import celery_worker, heartbeat
from sbh_pipelines.orchestration.hosts.heartbeat import (
    Heartbeat,
    Silences,
    beating,
    beats_already,
    last_heartbeats,
    look,
)
from sbh_pipelines.settings import AlertSettings
from sbh_pipelines_tests.support.dagster_internals import task_of_run

SETTINGS = AlertSettings()


@dg.job
def none() -> None: ...


def started(instance: dg.DagsterInstance, **tags: str) -> dg.DagsterRun:
    """A run that is at work by Dagster's books."""
    run = instance.create_run_for_job(
        defs.resolve_job_def("full_backup_job"), tags={"sbh/operation": "backup", "dagster/partition": "acme", **tags}
    )
    instance.report_dagster_event(
        dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, run.job_name),
        run.run_id,  # type: ignore[call-arg]
    )
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    assert found.status is dg.DagsterRunStatus.STARTED
    return found


def test_a_run_over_its_time_or_silent_is_told_and_a_young_one_is_not(instance: dg.DagsterInstance) -> None:
    """One that was started from the command line: nobody can be asked about its worker."""
    run = started(instance)
    assert stuck_runs(instance, SETTINGS) == []
    (silent,) = stuck_runs(instance, SETTINGS, now=time.time() + 3700)
    assert silent.key == f"run_silent/{run.run_id}"
    assert "acme" in silent.message
    (long,) = stuck_runs(instance, SETTINGS, now=time.time() + 4 * 3600 + 60)
    assert (long.key, long.severity) == (f"run_over_time/{run.run_id}", "warning")
    instance.report_run_failed(run)
    assert stuck_runs(instance, SETTINGS, now=time.time() + 4 * 3600 + 60) == []


def test_runs_of_others_are_left_alone_and_hide_none(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dg.job
    def theirs() -> None: ...

    def begun() -> None:
        other = instance.create_run_for_job(theirs)
        instance.report_dagster_event(
            dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, other.job_name),
            other.run_id,  # type: ignore[call-arg]
        )

    monkeypatch.setattr(runs, "_PAGE", 2)
    begun()
    assert stuck_runs(instance, SETTINGS, now=time.time() + 10**6) == []
    for _ in range(3):
        begun()
    first, second = started(instance), started(instance)
    begun()
    found = [condition.run_id for condition in stuck_runs(instance, SETTINGS, now=time.time() + 10**6)]
    assert found == [first.run_id, second.run_id]
    monkeypatch.setattr(stuck, "_MOST", 1)
    assert [c.run_id for c in stuck_runs(instance, SETTINGS, now=time.time() + 10**6)] == [first.run_id]


def test_a_machine_that_is_gone_is_waited_for_once(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes connections, or swallows them, and never says a word: a tick has a minute for all of its runs."""
    monkeypatch.setattr(stuck, "_ASK_S", 1)
    asked = list[str]()
    for name in ("has_worker", "answers"):
        ask = getattr(CodeServer, name)
        monkeypatch.setattr(CodeServer, name, lambda *given, name=name, ask=ask: (asked.append(name), ask(*given))[1])
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        place = json.dumps({"host": "127.0.0.1", "port": silent.getsockname()[1]})
        for _ in range(4):
            started(instance, **{GRPC_INFO_TAG: place})
        found = stuck_runs(instance, SETTINGS, now=time.time() + 60)
        assert [condition.kind for condition in found] == ["run_worker_gone"] * 4
        assert asked == ["has_worker", "answers"]


@pytest.mark.parametrize(
    "place", ["no json", "{}", "[]", '{"host": "127.0.0.1", "port": 9}', '{"host": "localhost", "socket": "/nowhere"}']
)
def test_a_code_server_that_is_gone_has_no_worker(instance: dg.DagsterInstance, place: str) -> None:
    """An address that cannot be read says nothing; one where nobody answers says that the worker is gone."""
    run = started(instance, **{GRPC_INFO_TAG: place})
    assert worker_is_gone(instance, run) == ("host" in place)


@pytest.fixture
def silent(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterRun]:
    """A run whose worker has said once that it lives, and was killed."""
    run = started(instance)
    monkeypatch.setattr(heartbeat, "BEAT_S", 10**6)
    with beating(instance, run.run_id):
        yield run


def test_a_worker_that_has_stopped_saying_that_it_lives_is_gone(
    instance: dg.DagsterInstance, silent: dg.DagsterRun
) -> None:
    """As under Celery, whose launcher knows nothing: told after 45 s of silence, ended when its leases have run out."""
    other = started(instance)
    began = time.time() + 60
    for passed in (0, 30):
        seen = look(instance, [silent.run_id], "", began + passed)
    assert stuck_runs(instance, SETTINGS, seen, began + 30) == []
    seen = look(instance, [silent.run_id], "", began + 60)
    (found,) = stuck_runs(instance, SETTINGS, seen, began + 60)
    assert (found.key, found.severity) == (f"run_worker_gone/{silent.run_id}", "critical")
    assert f"{seen.by_run[silent.run_id].heard.worker} has not been heard of for 0:01:00" in found.message
    assert "acme" in found.message
    for passed in range(90, 310, 30):
        seen = look(instance, [silent.run_id], "", began + passed)
    assert end_lost_runs(instance, 300.0, seen) == []
    seen = look(instance, [silent.run_id], "", began + 330)
    assert end_lost_runs(instance, 300.0, seen) == [silent.run_id]
    ended = instance.get_run_by_id(silent.run_id)
    assert ended is not None
    assert ended.status is dg.DagsterRunStatus.FAILURE
    assert end_lost_runs(instance, 300.0, seen) == []
    assert instance.get_run_by_id(other.run_id).status is dg.DagsterRunStatus.STARTED  # type: ignore[union-attr]


def test_no_clock_and_no_storage_that_was_away_ends_a_run(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker whose clock is an hour behind; nobody could look or write for ten minutes; a daemon's clock that is set back."""
    run, now = started(instance), time.time() + 60
    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(time=lambda: now - 3600))
    with beating(instance, run.run_id):
        for passed, counted_s in ((0, 0), (630, 40), (20, 40)):
            seen = look(instance, [run.run_id], "", now + passed)
            assert seen.by_run[run.run_id].lasted_s == counted_s
            assert stuck_runs(instance, SETTINGS, seen, now + passed) == []
            assert end_lost_runs(instance, 30.0, seen) == []
        assert Silences.from_text(seen.as_text()) == seen
    assert Silences.from_text("no json") == Silences.from_text('{"by_run": []}') == Silences()


def test_a_worker_that_said_its_last_word_is_missed_by_nobody(
    dagster_home: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run with a process for each step: between two of them it waits for a pool. A new word comes from the next step."""
    run, now = started(dagster_home), time.time() + 60
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.02)
    with beating(dagster_home, run.run_id):
        first = last_heartbeats(dagster_home, [run.run_id])[run.run_id]
        deadline = time.monotonic() + 20
        while last_heartbeats(dagster_home, [run.run_id])[run.run_id] == first:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    for passed in range(0, 400, 30):
        seen = look(dagster_home, [run.run_id], "", now + passed)
    assert seen.by_run[run.run_id].lasted_s > 305
    assert stuck_runs(dagster_home, SETTINGS, seen, now + 400) == []
    assert end_lost_runs(dagster_home, 300.0, seen) == []
    with beating(dagster_home, run.run_id):
        assert look(dagster_home, [run.run_id], "", now + 430).by_run[run.run_id].lasted_s == 0


def test_the_process_of_a_run_speaks_for_those_of_its_steps(
    dagster_home: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery's task: it says that it lives while no step is at work, and no step's last word is taken for the run's."""
    said = list[Heartbeat]()
    run = started(dagster_home)

    def work(**_: Any) -> None:
        with build_resources({"backups": backup_service}, dagster_home, dagster_run=run):
            assert beats_already(run.run_id)
        said.append(last_heartbeats(dagster_home, [run.run_id])[run.run_id])

    monkeypatch.setattr(celery_worker.execute_job, "run", work)
    celery_worker.execute_job(execute_job_args_packed=task_of_run(dagster_home, run.run_id, none))
    assert [one.over for one in said] == [False]
    assert last_heartbeats(dagster_home, [run.run_id])[run.run_id].over
    assert not beats_already(run.run_id)


def test_the_heartbeat_of_another_run_is_none_of_ours(instance: dg.DagsterInstance) -> None:
    with beating(instance, "abcd-1"):
        assert set(last_heartbeats(instance, ["abcd-1", "abcd-2", "abce-1"])) == {"abcd-1"}
