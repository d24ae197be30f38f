"""Dagster on two hosts by Celery, as `deploy/celery` has it, with everything real: what becomes of the tenants when parts fail.

One test, for the parts fail one after the other in one world.
"""

import shutil
from collections import Counter
from collections.abc import Iterator

import pytest

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.orchestration.common.assets import asset_key
from sbh_pipelines_tests.support.fleet import ADMIN, REGIONS, Fleet, fleet
from sbh_pipelines_tests.support.own_instance import BUCKET
from sbh_pipelines_tests.support.servers import until

TENANTS = 200
NAMES = [f"f{n}" for n in range(1, TENANTS + 1)]
OF_A_RUN = 50


@pytest.fixture
def world(sample_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(sample_stack, tmp_path_factory.mktemp("fleet"), TENANTS, ("north", "south", "east")) as made:
        for name in ("north", "south"):
            made.workers[name].begin()
        for name in ("north", "south"):
            made.workers[name].is_ready()
        yield made


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")
def test_the_tenants_of_two_hosts(world: Fleet) -> None:
    every_tenant_is_backed_up_by_one_writer_at_a_time(world)
    a_terminated_run_lets_go(world)
    what_redis_took_survives_it(world)
    the_tenants_of_hosts_that_are_gone_are_taken_over(world)
    assert {write.worker for write in world.writes} == {"north", "south", "east"}
    assert world.interleaved() == []


def every_tenant_is_backed_up_by_one_writer_at_a_time(world: Fleet) -> None:
    """Runs of a region wait in its queue, which both workers serve. Tenants of a run that two workers are to back up at once."""
    batches = [
        (region, names[start : start + OF_A_RUN])
        for region in REGIONS
        for names in [[name for name in NAMES if world.region(name) == region]]
        for start in range(0, len(names), OF_A_RUN)
    ]

    def launch(region: str, names: list[str]) -> str:
        return world.launch(names, **{"sbh/region": region, "dagster-celery/queue": region})

    region, names = batches[0]
    twice = names[:10]
    with world.locked() as let_go:
        first = launch(region, names)
        until(world.waits_for_lock)
        other = launch(region, twice)
        until(lambda: world.said(other, "Another writer works on this tenant"))
        let_go()
    runs = [first, *(launch(*batch) for batch in batches[1:])]
    assert [world.end_of(run) for run in (*runs, other)] == ["SUCCESS"] * (len(batches) + 1)
    assert {world.worker_of(first), world.worker_of(other)} == {"north", "south"}
    assert world.commits() == Counter(NAMES) + Counter(twice)
    assert world.instance.get_materialized_partitions(asset_key("full")) == set(NAMES)
    for run, (_, names) in zip(runs, batches, strict=True):  # of both workers, and the web pages are on neither
        log = world.log_of(run)
        assert f"Tenants to back up: {len(names)}" in log.text
        assert [place.startswith(f"s3://{BUCKET}/logs/storage/{run}/") for place in log.places] == [True, True]


def a_terminated_run_lets_go(world: Fleet) -> None:
    """It is cancelled, and not repeated: by Dagster's own launcher it would count as one that broke off."""
    with world.locked() as let_go:
        run = world.launch(["f1", "f2"])
        until(world.waits_for_lock)
        assert not world.lease_is_released("f1")
        world.terminate(run)
        let_go()  # the driver hears no signal while the server answers
        until(lambda: world.lease_is_released("f1") and world.lease_is_released("f2"))
        assert world.end_of(run) == "CANCELED"
    assert "dagster/will_retry" not in world.run(run).tags


def what_redis_took_survives_it(world: Fleet) -> None:
    """Redis is killed while two runs are at work and one is on its way; one that it cannot take waits in Dagster's queue."""
    names = ["f3", "f4", "f5", "f6"]
    before = world.commits()
    with world.locked() as let_go:
        at_work = [world.launch([name]) for name in names[:2]]
        until(lambda: all(world.is_at_work(run) for run in at_work))
        waiting = world.launch(names[2:3])
        until(lambda: "dagster-celery/task_id" in world.run(waiting).tags)
        world.redis.kill()
        refused = world.launch(names[3:])
        until(lambda: world.said(refused, "re-submitting the run"))
        world.redis.start()
        let_go()
        assert [world.end_of(run) for run in (*at_work, waiting, refused)] == ["SUCCESS"] * 4
    assert world.commits() - before == Counter(names)


def the_tenants_of_hosts_that_are_gone_are_taken_over(world: Fleet) -> None:
    """One dies and one's network falls silent, both in the midst of a run. Both are told, and a third host takes over.

    The one that was cut off comes back, finds its leases taken, and makes no backup.
    """
    whose = ["f8", "f9"], ["f10", "f11"]
    before = world.commits()
    with world.locked() as let_go:
        runs = [world.launch(names) for names in whose]
        until(lambda: world.waits_for_lock(2))
        dead, cut = (world.workers[world.worker_of(run)] for run in runs)
        dead.kill()
        cut.cut()
        world.workers["east"].begin()
        let_go()
    for run in runs:
        until(lambda run=run: told(world, run, "worker is gone"))  # type: ignore[misc]
        assert world.end_of(run) == "FAILURE"
    repeats = [world.repeat_of(run) for run in runs]
    assert [world.end_of(run) for run in repeats] == ["SUCCESS", "SUCCESS"]
    assert {world.worker_of(run) for run in repeats} == {"east"}
    of_all = [name for names in whose for name in names]
    after = world.commits()
    assert after - before == Counter(of_all)
    cut.mend()
    until(lambda: f"[{world.run(runs[1]).tags['dagster-celery/task_id']}] succeeded" in cut.log)
    assert "SBH-604" in world.log_of(runs[1]).text
    assert world.commits() == after
    for name in of_all:  # every backup that there is can be restored to the last byte
        for backup in world.service.backups.of(name, ADMIN):
            assert world.service.backups.validate(str(backup.id), name, ADMIN, deep=True).valid, (name, backup)


def told(world: Fleet, run_id: str, word: str) -> bool:
    return any(body["run_id"] == run_id and word in body["subject"] + body["message"] for body in world.alerts.bodies)
