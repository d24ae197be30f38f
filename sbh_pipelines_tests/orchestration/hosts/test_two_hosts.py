"""Dagster on two hosts by Celery, as `deploy/celery` has it, with everything real: what becomes of the tenants when parts fail.

One world for all tests, in the order of the file: each leaves both workers at work.
"""

import shutil
from collections.abc import Iterator

import pytest

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.support.fleet import ADMIN, REGIONS, Fleet, fleet
from sbh_pipelines_tests.support.servers import until

TENANTS = 60
NAMES = [f"f{n}" for n in range(1, TENANTS + 1)]

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")


@pytest.fixture(scope="module")
def world(sample_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(sample_stack, tmp_path_factory.mktemp("fleet"), TENANTS, ("north", "south")) as made:
        for worker in made.workers.values():
            worker.start()
        yield made


def told(world: Fleet, run_id: str, word: str) -> bool:
    return any(body["run_id"] == run_id and word in body["subject"] + body["message"] for body in world.alerts.bodies)


def assert_whole(world: Fleet, *tenants: str) -> None:
    """Every backup of these tenants that there is can be restored to the last byte."""
    for tenant in tenants:
        for backup in world.backups(tenant):
            assert world.service.backups.validate(backup, tenant, ADMIN, deep=True).valid, (tenant, backup)


def test_every_tenant_is_backed_up_once_by_both_workers(world: Fleet) -> None:
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


def test_a_run_that_is_terminated_is_cancelled_and_lets_go_of_its_tenants(world: Fleet) -> None:
    """And is not repeated: by Dagster's own launcher it would count as one that broke off."""
    with world.locked() as let_go:
        run = world.launch(["f1", "f2"])
        until(world.waits_for_lock)
        assert not world.lease_is_free("f1")
        world.terminate(run)
        let_go()
        assert world.end_of(run) == "CANCELED"
    until(lambda: world.lease_is_free("f1") and world.lease_is_free("f2"), 15)
    assert "dagster/will_retry" not in world.run(run).tags
    assert len(world.backups("f1")) == 1


def test_what_redis_took_survives_it(world: Fleet) -> None:
    """Redis is killed while two runs are at work and two are on their way; one that it cannot take waits in Dagster's queue."""
    with world.locked() as let_go:
        at_work = [world.launch([name]) for name in ("f3", "f4")]
        until(lambda: all(world.is_at_work(run) for run in at_work))
        waiting = [world.launch([name]) for name in ("f5", "f6")]
        until(lambda: all("dagster-celery/task_id" in world.run(run).tags for run in waiting))
        world.redis.kill()
        refused = world.launch(["f7"])
        until(lambda: world.said(refused, "re-submitting the run"))
        world.redis.start()
        let_go()
        runs = [*at_work, *waiting, refused]
        assert [world.end_of(run) for run in runs] == ["SUCCESS"] * 5
    assert [len(world.backups(name)) for name in ("f3", "f4", "f5", "f6", "f7")] == [2] * 5


def test_the_tenants_of_a_host_that_died_are_told_and_taken_over(world: Fleet) -> None:
    with world.locked():
        run = world.launch(["f8", "f9"])
        until(world.waits_for_lock)
        dead = world.workers[world.worker_of(run)]
        dead.kill()
        until(lambda: told(world, run, "worker is gone"), 120)
        assert world.end_of(run) == "FAILURE"
    repeat = world.repeat_of(run)
    assert world.end_of(repeat) == "SUCCESS"
    assert world.worker_of(repeat) != dead.name
    assert [len(world.backups(name)) for name in ("f8", "f9")] == [2, 2]
    assert_whole(world, "f8", "f9")
    until(lambda: told(world, run, "without a word"))
    dead.start()


def test_a_host_that_was_cut_off_finds_its_leases_taken(world: Fleet) -> None:
    """Its network falls silent in the midst of a run. Another host takes over; when it comes back it writes no backup."""
    (other, cut) = world.workers.values()
    other.kill()
    with world.locked() as let_go:
        run = world.launch(["f10", "f11"])
        until(world.waits_for_lock)
        assert world.worker_of(run) == cut.name
        cut.cut()
        other.start()
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
