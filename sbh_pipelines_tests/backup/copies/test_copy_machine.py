"""Whatever goes on at either end of a copy, and wherever its processes are killed: what counts there is whole, and no more."""

import random

import pytest

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.backup.copies.copy_world import POLICY, CopyWorld, told
from sbh_pipelines_tests.support.application import Application
from sbh_pipelines_tests.support.copied import Copied
from sbh_pipelines_tests.support.effort import either
from sbh_pipelines_tests.support.store_time import store_time

_STEPS = (
    "backup", "backup", "backup", "forget", "prune", "rotate", "rotate", "hold", "hold", "erase", "leave_out", "kill", "kill_prune",
    "keep", "verify", "fail", "meanwhile", "meanwhile", "damage", "damage",
)  # fmt: skip
_SHORT = 2  # walks that have each step once between them


def _walk(seed: int) -> list[tuple[str, int]]:
    if seed < _SHORT:
        names = random.Random(3).sample(_STEPS, len(_STEPS))[seed::_SHORT]
    else:
        names = random.Random(seed).choices(_STEPS, k=25)
    chance = random.Random(seed)
    return [(name, chance.randint(1, 45)) for name in names]


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(either(_SHORT, 40)))
def test_what_counts_at_the_copy_is_whole_at_any_time(
    application: Application, embedded_stack: Stack, seed: int
) -> None:
    """Each backup that is there opens to the last byte with the copy's keys alone, and nothing of an erased tenant does."""
    steps = [("backup", 3), ("run", 0), *_walk(seed)]
    world = CopyWorld(Copied(application, embedded_stack, copy={"retention": POLICY}), random.Random(seed))
    with store_time(world.clock), told(world, steps):
        for name, number in steps:
            world.step(name, number)
        world.settle()
