"""Backups, forgets, prunes, validations, restores, rotations and copies on lines and stores that break by a seeded schedule."""

import os
import time
from pathlib import Path

import pytest

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.support.databases import fresh_database
from sbh_pipelines_tests.support.effort import SECONDS, either
from sbh_pipelines_tests.support.faults.steps import Life
from sbh_pipelines_tests.support.faults.world import world

_SEED = int(os.environ.get("TEST_FAULTS_SEED", "1"))
_STEPS = int(os.environ.get("TEST_FAULTS_STEPS", "12"))  # in all, of each kind of store
_A_LIFE = 50  # steps; then another begins, with the next seed


def _live(stack: Stack, template: str, directory: Path, seed: int, steps: int, *, lying: bool) -> int:
    with (
        fresh_database(stack, template) as database,
        world(database, directory, seed, rate=0.06, lying=lying) as made,
    ):
        life = Life(made, lying=lying)
        try:
            while made.steps < steps:
                life.step()
                if made.steps % either(6, 25) == 0:
                    made.check()
            made.schedule.storm = made.copy.proxy.schedule.storm = None
            made.check()
            made.prove(max(made.committed))
            made.prove_copy()
        except BaseException as error:
            error.add_note(f"TEST_FAULTS_SEED={seed} lying={lying} {made.told()}")
            raise
        print(f"\n{made.told()}", flush=True)
        assert sum(made.schedule.seen.values()) > steps / 4
        return made.steps


@pytest.mark.soak
@pytest.mark.parametrize("lying", [False, True], ids=["honest", "lying"])
def test_nothing_committed_is_lost(
    embedded_stack: Stack, application_template: str, tmp_path: Path, lying: bool
) -> None:
    """Each step ends well, or with an error that says what was wrong; what was committed is whole whatever happens."""
    seed, done, deadline = _SEED, 0, time.monotonic() + SECONDS
    while done < _STEPS or time.monotonic() < deadline:
        directory = tmp_path / str(seed)
        directory.mkdir()
        left = _A_LIFE if time.monotonic() < deadline else min(_A_LIFE, max(_STEPS - done, 1))
        done += _live(embedded_stack, application_template, directory, seed, left, lying=lying)
        seed += 1
