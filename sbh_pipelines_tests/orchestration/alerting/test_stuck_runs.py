"""Runs that are stuck by the books of an instance. `test_daemon.py` kills real workers."""

import json
import socket
import time

import dagster as dg
import pytest

from sbh_pipelines.definitions import defs
from sbh_pipelines.orchestration.alerting import stuck_runs as stuck
from sbh_pipelines.orchestration.alerting.stuck_runs import end_lost_runs, stuck_runs, worker_is_gone
from sbh_pipelines.orchestration.common.dagster_internals import GRPC_INFO_TAG, CodeServer
from sbh_pipelines.orchestration.hosts import heartbeat
from sbh_pipelines.orchestration.hosts.heartbeat import beating, last_heartbeat
from sbh_pipelines.settings import AlertSettings

SETTINGS = AlertSettings()


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
    (silent,) = stuck_runs(instance, SETTINGS, time.time() + 3700)
    assert silent.key == f"run_silent/{run.run_id}"
    assert "acme" in silent.message
    (long,) = stuck_runs(instance, SETTINGS, time.time() + 4 * 3600 + 60)
    assert (long.key, long.severity) == (f"run_over_time/{run.run_id}", "warning")
    instance.report_run_failed(run)
    assert stuck_runs(instance, SETTINGS, time.time() + 4 * 3600 + 60) == []


def test_runs_of_others_are_left_alone(instance: dg.DagsterInstance) -> None:
    @dg.job
    def theirs() -> None: ...

    run = instance.create_run_for_job(theirs)
    instance.report_dagster_event(
        dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, run.job_name),
        run.run_id,  # type: ignore[call-arg]
    )
    assert stuck_runs(instance, SETTINGS, time.time() + 10**6) == []


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
        found = stuck_runs(instance, SETTINGS, time.time() + 60)
        assert [condition.kind for condition in found] == ["run_worker_gone"] * 4
        assert asked == ["has_worker", "answers"]


@pytest.mark.parametrize(
    "place", ["no json", "{}", "[]", '{"host": "127.0.0.1", "port": 9}', '{"host": "localhost", "socket": "/nowhere"}']
)
def test_a_code_server_that_is_gone_has_no_worker(instance: dg.DagsterInstance, place: str) -> None:
    """An address that cannot be read says nothing; one where nobody answers says that the worker is gone."""
    run = started(instance, **{GRPC_INFO_TAG: place})
    assert worker_is_gone(instance, run) == ("host" in place)


def test_a_worker_that_has_stopped_saying_that_it_lives_is_gone(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under Celery, whose launcher knows nothing: told after 45 s of silence, ended when its leases have run out."""
    run, other = started(instance), started(instance)
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.02)
    with beating(instance, run.run_id):
        first = last_heartbeat(instance, run.run_id)
        assert first is not None
        deadline = time.monotonic() + 20
        while last_heartbeat(instance, run.run_id) == first:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    heard = last_heartbeat(instance, run.run_id)
    assert heard is not None
    assert stuck_runs(instance, SETTINGS, heard.at + 40) == []
    (found,) = stuck_runs(instance, SETTINGS, heard.at + 50)
    assert (found.key, found.severity) == (f"run_worker_gone/{run.run_id}", "critical")
    assert f"{heard.worker} was heard of 0:00:50 ago for the last time" in found.message
    assert "acme" in found.message
    assert end_lost_runs(instance, 300.0, heard.at + 300) == []
    assert end_lost_runs(instance, 300.0, heard.at + 310) == [run.run_id]
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status is dg.DagsterRunStatus.FAILURE
    assert end_lost_runs(instance, 300.0, heard.at + 10**6) == []
    assert instance.get_run_by_id(other.run_id).status is dg.DagsterRunStatus.STARTED  # type: ignore[union-attr]


def test_the_heartbeat_of_another_run_is_none_of_ours(instance: dg.DagsterInstance) -> None:
    with beating(instance, "abcd-1"):
        assert last_heartbeat(instance, "abcd-1") is not None
        assert last_heartbeat(instance, "abcd-2") is None
        assert last_heartbeat(instance, "abce-1") is None
