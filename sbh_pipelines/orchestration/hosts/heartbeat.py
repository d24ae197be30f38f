"""That a run's worker lives: it says so in Dagster's own storage, which every host of an instance reaches.

Launchers that hand runs to other hosts know little of their workers: of one whose host died Celery says STARTED for ever. A lease
is no sign either, for it is renewed after minutes, and not every run holds one. So a worker says it every ten seconds.

No two clocks are compared. Whoever watches keeps each run's last heartbeat, and counts for how long it has found the same one. Time
in which nobody looked is not counted, for then the storage may have been away, and no worker could say anything.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import dagster as dg

BEAT_S = 10.0
SILENT_S = 45.0
"""A worker that has not been heard of for so long is taken for gone, s."""

_COUNTED_S = 40.0  # of the time between two looks: less than SILENT_S, so that one pause makes no silence
_LAST_WORD_S = 5.0
_BY_THE_PROCESS = "_SBH_HEARTBEAT_OF"  # inherited by the processes of steps; not SBH_..., which are settings


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The last sign of life of a run's worker.

    Attributes:
        worker: Host and process.
        at: When, seconds of the epoch by the worker's clock: told apart from others by it, and never held against a clock.
        over: Whether it was the last word: that worker does no more, and nobody may be at work until another one begins, as
            between two steps that have a process each.
    """

    worker: str
    at: float
    over: bool = False


@dataclass(frozen=True, slots=True)
class Silence:
    """For how long a heartbeat has been a run's last one.

    Attributes:
        heard: The heartbeat.
        lasted_s: Time in which it was looked for and no newer one was there, s.
    """

    heard: Heartbeat
    lasted_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Silences:
    """What one host has seen of the workers of all runs that it watches.

    Attributes:
        looked_at: When it looked last, seconds of the epoch by its own clock.
        by_run: The silence of each run that has been heard of.
    """

    looked_at: float = 0.0
    by_run: Mapping[str, Silence] = field(default_factory=dict)

    def after(self, heard: Mapping[str, Heartbeat], now: float) -> Self:
        """With another look. Runs that are not heard of are forgotten."""
        passed = min(max(now - self.looked_at, 0.0), _COUNTED_S)
        known = self.by_run
        return type(self)(
            now,
            {
                run_id: Silence(beat, known[run_id].lasted_s + passed)
                if run_id in known and known[run_id].heard == beat
                else Silence(beat)
                for run_id, beat in heard.items()
            },
        )

    def as_text(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str | None) -> Self:
        """Of `as_text`; what cannot be read was never seen."""
        try:
            document: Any = json.loads(text or "{}")
            by_run = {
                str(run_id): Silence(Heartbeat(**one["heard"]), float(one["lasted_s"]))
                for run_id, one in document["by_run"].items()
            }
            return cls(float(document["looked_at"]), by_run)
        except (KeyError, TypeError, ValueError, AttributeError):
            return cls()


@contextmanager
def beating(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Says that the worker of this run lives, from here to the end of the block, and there that it does no more."""
    stop, worker = threading.Event(), f"{socket.gethostname()}:{os.getpid()}"

    def beat(over: bool = False) -> None:
        document = {"run": run_id, "worker": worker, "at": time.time(), "over": over}
        with suppress(Exception):  # of any kind of storage; silence is what says it
            instance.run_storage.set_cursor_values({_key(run_id): json.dumps(document)})

    def beat_on() -> None:
        while not stop.wait(BEAT_S):
            beat()
        beat(over=True)

    beat()
    thread = threading.Thread(target=beat_on, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_LAST_WORD_S)


@contextmanager
def beating_process(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """`beating` of the process of a whole run, which is there also while no step is at work: those of steps have no need to."""
    os.environ[_BY_THE_PROCESS] = run_id
    try:
        with beating(instance, run_id):
            yield
    finally:
        del os.environ[_BY_THE_PROCESS]


def beats_already(run_id: str) -> bool:
    """Whether the process of the run, this one or one above it, says that it lives."""
    return os.environ.get(_BY_THE_PROCESS) == run_id


def look(instance: dg.DagsterInstance, run_ids: Collection[str], name: str, now: float) -> Silences:
    """Look at these runs once more, and keep in the instance's storage, under `name`, what was seen."""
    key = f"sbh/silences/{name}"
    known = Silences.from_text(instance.run_storage.get_cursor_values({key}).get(key))
    seen = known.after(last_heartbeats(instance, run_ids), now)
    instance.run_storage.set_cursor_values({key: seen.as_text()})
    return seen


def last_heartbeats(instance: dg.DagsterInstance, run_ids: Collection[str]) -> dict[str, Heartbeat]:
    """The newest of each run; none where there is none, or another run's took its place."""
    if not run_ids:
        return {}
    kept = instance.run_storage.get_cursor_values({_key(run_id) for run_id in run_ids})
    found = {}
    for run_id in run_ids:
        with suppress(KeyError, TypeError, ValueError):
            document = json.loads(kept[_key(run_id)])
            if document["run"] == run_id:
                found[run_id] = Heartbeat(str(document["worker"]), float(document["at"]), bool(document["over"]))
    return found


def _key(run_id: str) -> str:
    """One of 65,536, as Dagster never removes any: of two runs at once with the same one, none is heard reliably."""
    return f"sbh/heartbeat/{run_id[:4]}"
