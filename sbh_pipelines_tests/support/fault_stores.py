"""Stores that break on a schedule: a process that dies at its nth write, a network that fails now and then."""

import os
import random
import signal
import threading
from collections.abc import Callable
from typing import Any

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.errors import StoreUnavailable
from sbh_pipelines.model import Clock, utc_now
from sbh_pipelines_tests.support.site import with_stores

WRITES = frozenset({"put", "create", "replace", "put_stream", "delete"})
READS = frozenset({"get", "get_range", "get_ranges", "get_with_etag", "head", "list", "page", "stream"})


class Killed(BaseException):
    """The process is dead: nothing that handles errors may stop it, and nothing it does from now on has an effect."""


class Wrapped:
    """A store that calls `before(verb, key)` ahead of every call to the real one, and `after` behind it."""

    def __init__(self, inner: Any, before: Callable[[str, str], None], after: Callable[[str, str], None]) -> None:
        self._inner, self._before, self._after = inner, before, after

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._inner, name)
        if name not in WRITES | READS:
            return real

        def call(key: Any, *arguments: Any, **named: Any) -> Any:
            self._before(name, str(key))
            answer = real(key, *arguments, **named)
            self._after(name, str(key))
            return answer

        return call


def wrap(
    service: BackupService,
    before: Callable[[str, str], None],
    after: Callable[[str, str], None],
    clock: Clock = utc_now,
) -> BackupService:
    """A service over the settings of this one, every store of it wrapped."""
    return with_stores(service, lambda store, _: Wrapped(store, before, after), clock)


def nothing(verb: str, key: str) -> None:
    """For `wrap`: no fault here."""


class DiesAtWrite:
    """Dead from the nth write on (1-based), that one included; `keys` are those of the writes that took place."""

    def __init__(self, nth: int, *, really: bool = False) -> None:
        self._nth, self._really = nth, really
        self._lock = threading.Lock()
        self._begun = 0
        self.keys: list[str] = []

    def before(self, verb: str, key: str) -> None:
        with self._lock:
            if verb in WRITES:
                self._begun += 1
            dead = self._begun >= self._nth
        if dead:
            if self._really:
                os.kill(os.getpid(), signal.SIGKILL)
            raise Killed

    def after(self, verb: str, key: str) -> None:
        if verb in WRITES:
            with self._lock:
                self.keys.append(key)


class FailsNowAndThen:
    """Each call fails with a transient error with some probability: half of them before, half after it took effect."""

    def __init__(self, seed: int, probability: float) -> None:
        self._random, self._probability = random.Random(seed), probability / 2
        self._lock = threading.Lock()
        self.failures = 0

    def fail(self, verb: str, key: str) -> None:
        with self._lock:
            failing = self._random.random() < self._probability
            self.failures += failing
        if failing:
            raise StoreUnavailable(f"Cannot {verb} an object", on=key, why="it was to be")
