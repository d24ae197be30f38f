"""That a run's worker lives: it says so in Dagster's own storage, which every host of an instance reaches.

Launchers that hand runs to other hosts know little of their workers: of one whose host died Celery says STARTED for ever. A lease
is no sign either, for it is renewed after minutes, and not every run holds one. So a worker says it every ten seconds.

The clocks of workers and of the daemon are compared: they may differ by some seconds, as for leases.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import dagster as dg

BEAT_S = 10.0
SILENT_S = 45.0
"""A worker that has not been heard of for so long is taken for gone, s."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The last sign of life of a run's worker.

    Attributes:
        worker: Host and process.
        at: When, seconds of the epoch by the worker's clock.
    """

    worker: str
    at: float

    def silence_s(self, now: float) -> float:
        return now - self.at


@contextmanager
def beating(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Says that the worker of this run lives, from here to the end of the block."""
    stop, worker = threading.Event(), f"{socket.gethostname()}:{os.getpid()}"

    def beat() -> None:
        document = {"run": run_id, "worker": worker, "at": time.time()}
        with suppress(Exception):  # of any kind of storage; silence is what says it
            instance.run_storage.set_cursor_values({_key(run_id): json.dumps(document)})

    def beat_on() -> None:
        while not stop.wait(BEAT_S):
            beat()

    beat()
    thread = threading.Thread(target=beat_on, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()


def last_heartbeat(instance: dg.DagsterInstance, run_id: str) -> Heartbeat | None:
    """The newest; None where there is none, or another run's took its place."""
    key = _key(run_id)
    try:
        document = json.loads(instance.run_storage.get_cursor_values({key})[key])
        return Heartbeat(str(document["worker"]), float(document["at"])) if document["run"] == run_id else None
    except (KeyError, TypeError, ValueError):
        return None


def _key(run_id: str) -> str:
    """One of 65,536, as Dagster never removes any: of two runs at once with the same one, none is heard reliably."""
    return f"sbh/heartbeat/{run_id[:4]}"
