"""A life of a tenant's backups, step by step by chance: the same seed walks the same way."""

import random
from collections.abc import Callable

from sbh_pipelines.errors import ForgetRefused, SbhError, UnknownBackup
from sbh_pipelines_tests.support.application import ACME, ADMIN
from sbh_pipelines_tests.support.faults.copy_end import COPY
from sbh_pipelines_tests.support.faults.schedule import Fault
from sbh_pipelines_tests.support.faults.world import World

# A store that lies about what is there makes a backup unknown; that is an answer, and is found out by the next one.
_LIED_TO: tuple[type[SbhError], ...] = (UnknownBackup, ForgetRefused)
_STORMS = (Fault.BUSY, Fault.CUT_BEFORE, Fault.FULL)


class Life:
    """Steps of one world."""

    def __init__(self, world: World, *, lying: bool) -> None:
        self.world, self._lied_to = world, _LIED_TO if lying else ()
        self._chance = random.Random(world.schedule.seed)

    def step(self) -> None:
        """Time passes, something changes, something is done."""
        world, chance = self.world, self._chance
        world.clock.move(chance.choice([0.1, 1, 5, 26, 26]))
        for schedule in (world.schedule, world.copy.proxy.schedule):
            schedule.storm = chance.choice(_STORMS) if chance.random() < 0.03 else None
        if chance.random() < 0.6:
            world.change(chance)
        if not world.committed:
            world.backup("full", also=self._lied_to)
            return
        work: list[tuple[int, Callable[[], object]]] = [
            (4, lambda: world.backup("full", also=self._lied_to)),
            (6, lambda: world.backup("incremental", also=self._lied_to)),
            (2, self._forget),
            (4, self._prune),
            (2, self._validate),
            (3, self._restore),
            (1, self._rotate),
            (6, self._copy),
            (2, self._verify_copy),
            (2, self._prune_copy),
            (2, self._restore_from_copy),
        ]
        chance.choices([each for _, each in work], [weight for weight, _ in work])[0]()

    def _any(self) -> str:
        return self._chance.choice(sorted(self.world.committed))

    def _forget(self) -> None:
        named = self._any() if self._chance.random() < 0.7 else None
        self.world.do("forget", lambda service: service.retention.forget(ACME, ADMIN, backup_id=named), also=_LIED_TO)

    def _prune(self) -> None:
        self.world.do("prune", lambda service: service.retention.prune(ACME, ADMIN), also=self._lied_to)

    def _validate(self) -> None:
        named, deep = self._any(), self._chance.random() < 0.7
        self.world.do(
            "validate", lambda service: service.validate_backup(named, ACME, ADMIN, deep=deep), also=self._lied_to
        )

    def _restore(self) -> None:
        self.world.restore(self._any(), also=self._lied_to)

    def _rotate(self) -> None:
        new, anew = self._chance.random() < 0.4, self._chance.random() < 0.5
        self.world.do(
            "rotate",
            lambda service: service.keys.rotate([ACME], ADMIN, new_data_key=new, re_encrypt=anew),
            also=self._lied_to,
        )

    def _copy(self) -> None:
        self.world.copied("copy run", lambda service: service.copies.run(ADMIN, COPY, [ACME]), also=self._lied_to)

    def _verify_copy(self) -> None:
        deep = self._chance.random() < 0.5
        self.world.copied(
            "copy verify", lambda service: service.copies.verify(ADMIN, COPY, [ACME], deep), also=self._lied_to
        )

    def _prune_copy(self) -> None:
        self.world.copied("copy prune", lambda service: service.copies.prune(ADMIN, COPY, [ACME]), also=self._lied_to)

    def _restore_from_copy(self) -> None:
        if self.world.copy.brought:
            named = self._chance.choice(sorted(self.world.copy.brought))
            self.world.restore(named, from_copy=True, also=self._lied_to)
