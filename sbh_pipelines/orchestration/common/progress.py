"""Progress of the engine in the run's log, at a bounded rate: an event of Dagster costs milliseconds and disk."""

import logging
import threading
import time
from collections.abc import Callable

from sbh_pipelines.model import Progress

LINE_EVERY_S = 5.0


class ProgressLog:
    """A ProgressSink that writes at most one line every `every_s`; called from any thread."""

    def __init__(
        self, log: logging.Logger, every_s: float = LINE_EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log, self._every_s, self._clock = log, every_s, clock
        self._lock = threading.Lock()
        self._last = clock()

    def __call__(self, progress: Progress) -> None:
        with self._lock:
            now = self._clock()
            if now - self._last < self._every_s:
                return
            self._last = now
        of = f" of {progress.total:,}" if progress.total else ""
        self._log.info(f"{progress.step}: {progress.subject}: {progress.done:,}{of} {progress.unit}")
