"""Dagster on two hosts by Celery, as `deploy/celery` has it, with everything real: what becomes of the tenants when parts fail.

One test, for the parts fail one after the other in one world.
"""

import shutil
from collections.abc import Iterator

import pytest

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.support.fleet import ADMIN, REGIONS, Fleet, fleet
from sbh_pipelines_tests.support.servers import until

TENANTS = 60
NAMES = [f"f{n}" for n in range(1, TENANTS + 1)]


@pytest.fixture
def world(sample_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(sample_stack, tmp_path_factory.mktemp("fleet"), TENANTS, ("north", "south")) as made:
        for worker in made.workers.values():
            worker.begin()
        for worker in made.workers.values():
            worker.is_ready()
        yield made


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")
def test_the_tenants_of_two_hosts(world: Fleet) -> None:
    every_tenant_is_backed_up_once(world)
    a_terminated_run_lets_go_and_another_writer_has_waited(world)
    what_redis_took_survives_it(world)
    dead = a_host_that_died_is_told_and_its_tenants_are_taken_over(world)
    a_host_that_was_cut_off_finds_its_leases_taken(world, dead)


def every_tenant_is_backed_up_once(world: Fleet) -> None:
    """Runs of a region wait in its queue, which both workers serve; the logs of both are read through the instance."""
    runs = []
    for region in REGIONS:
        names = [name for name in NAMES if world.region(name) == region]
        for half in (names[: len(names) // 2], names[len(names) // 2 :]):
            runs.append(world.launch(half, **{"sbh/region": region, "dagster-celery/queue": region}))
    assert [world.end_of(run) for run in runs] == ["SUCCESS"] * 4
    assert {world.worker_of(run) for run in runs} == {"north", "south"}
    assert {name: len(world.backups(name)) for name in NAMES} == dict.fromkeys(NAMES, 1)
    for run in runs:
        assert "Tenants to back up: 15" in world.log_of(run)


def a_terminated_run_lets_go_and_another_writer_has_waited(world: Fleet) -> None:
    """It is cancelled, and not repeated: by Dagster's own launcher it would count as one that broke off."""
    with world.locked() as let_go:
        run = world.launch(["f1", "f2"])
        until(world.waits_for_lock)
        assert not world.lease_is_free("f1")
        other = world.launch(["f1"])
        until(lambda: world.said(other, "Another writer works on this tenant"))
        world.terminate(run)
        let_go()
        assert world.end_of(run) == "CANCELED"
    until(lambda: world.lease_is_free("f2"), 15)
    assert "dagster/will_retry" not in world.run(run).tags
    assert world.end_of(other) == "SUCCESS"
    assert {world.worker_of(run), world.worker_of(other)} == {"north", "south"}
    assert [len(world.backups(name)) for name in ("f1", "f2")] == [2, 1]


def what_redis_took_survives_it(world: Fleet) -> None:
    """Redis is killed while two runs are at work and one is on its way; one that it cannot take waits in Dagster's queue."""
    with world.locked() as let_go:
        at_work = [world.launch([name]) for name in ("f3", "f4")]
        until(lambda: all(world.is_at_work(run) for run in at_work))
        waiting = world.launch(["f5"])
        until(lambda: "dagster-celery/task_id" in world.run(waiting).tags)
        world.redis.kill()
        refused = world.launch(["f6"])
        until(lambda: world.said(refused, "re-submitting the run"))
        world.redis.start()
        let_go()
        assert [world.end_of(run) for run in (*at_work, waiting, refused)] == ["SUCCESS"] * 4
    assert [len(world.backups(name)) for name in ("f3", "f4", "f5", "f6")] == [2] * 4


def a_host_that_died_is_told_and_its_tenants_are_taken_over(world: Fleet) -> str:
    """The name of the host, which stays dead."""
    with world.locked():
        run = world.launch(["f8", "f9"])
        until(world.waits_for_lock)
        dead = world.worker_of(run)
        world.workers[dead].kill()
        until(lambda: told(world, run, "worker is gone"), 120)
        assert world.end_of(run) == "FAILURE"
    repeat = world.repeat_of(run)
    assert world.end_of(repeat) == "SUCCESS"
    assert world.worker_of(repeat) != dead
    assert [len(world.backups(name)) for name in ("f8", "f9")] == [2, 2]
    assert_whole(world, "f8", "f9")
    return dead


def a_host_that_was_cut_off_finds_its_leases_taken(world: Fleet, dead: str) -> None:
    """Its network falls silent in the midst of a run. Another host takes over; when it comes back it writes no backup."""
    other, (cut,) = world.workers[dead], [worker for name, worker in world.workers.items() if name != dead]
    with world.locked() as let_go:
        run = world.launch(["f10", "f11"])
        until(world.waits_for_lock)
        cut.cut()
        other.begin()
        let_go()
        assert world.end_of(run) == "FAILURE"
    repeat = world.repeat_of(run)
    assert world.end_of(repeat) == "SUCCESS"
    assert world.worker_of(repeat) == other.name
    after = {name: world.backups(name) for name in ("f10", "f11")}
    assert [len(backups) for backups in after.values()] == [2, 2]
    cut.mend()
    until(lambda: f"[{world.run(run).tags['dagster-celery/task_id']}] succeeded" in cut.log)
    assert "SBH-604" in world.log_of(run)
    assert {name: world.backups(name) for name in after} == after
    assert_whole(world, *after)


def told(world: Fleet, run_id: str, word: str) -> bool:
    return any(body["run_id"] == run_id and word in body["subject"] + body["message"] for body in world.alerts.bodies)


def assert_whole(world: Fleet, *tenants: str) -> None:
    """Every backup of these tenants that there is can be restored to the last byte."""
    for tenant in tenants:
        for backup in world.backups(tenant):
            assert world.service.backups.validate(backup, tenant, ADMIN, deep=True).valid, (tenant, backup)
