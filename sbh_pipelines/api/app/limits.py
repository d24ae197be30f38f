"""What one process takes on: how often somebody may ask for what is expensive, and how much is at work at once."""

import asyncio
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from sbh_pipelines.errors import TookTooLong, TooManyRequests

_MOST = 50_000  # buckets kept; one that is dropped starts full again


class Rates:
    """`per_minute` on average, `burst` after a pause. Thread-safe. Holds for this process."""

    def __init__(self, per_minute: int, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._burst, self._clock = per_minute / 60, float(burst), clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def retry_after_s(self) -> int:
        """After so long there is room for one more."""
        return max(1, math.ceil(1 / self._per_s))

    def take(self, *names: str) -> None:
        """One call by all of these. Raises TooManyRequests where one of them has none left; then none pays."""
        with self._lock:
            now = self._clock()
            left = {name: self._left(name, now) for name in names}
            if short := [name for name, tokens in left.items() if tokens < 1]:
                raise TooManyRequests(
                    "Too many expensive calls",
                    on=short[0].partition(":")[0],
                    why=f"{self._per_s * 60:g} a minute are allowed, {self._burst:g} at once",
                    remedy=f"try again in {self.retry_after_s} s",
                )
            for name, tokens in left.items():
                self._buckets[name] = (tokens - 1, now)
                self._buckets.move_to_end(name)
            while len(self._buckets) > _MOST:
                self._buckets.popitem(last=False)

    def _left(self, name: str, now: float) -> float:
        tokens, at = self._buckets.get(name, (self._burst, now))
        return min(self._burst, tokens + (now - at) * self._per_s)


T = TypeVar("T")


class Workers:
    """`threads` calls are at work, `waiting` more may wait; a call that is given up keeps its thread until it ends."""

    def __init__(self, name: str, threads: int, waiting: int, timeout_s: float) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._most, self._timeout_s = threads + waiting, timeout_s
        self._here = 0  # at work or waiting; touched by the event loop only

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` gives, or raises. Raises TooManyRequests, TookTooLong."""
        if self._here >= self._most:
            raise TooManyRequests("The server has too much to do", remedy="try again in some seconds")
        loop = asyncio.get_running_loop()
        self._here += 1
        future = self._pool.submit(work)

        def left(_: "Future[Any]") -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._leave)

        future.add_done_callback(left)
        waiting = asyncio.wrap_future(future)
        done, _ = await asyncio.wait([waiting], timeout=self._timeout_s)
        if not done:
            waiting.cancel()  # begun or not: no caller waits for it any more
            raise TookTooLong(
                "The answer took too long",
                why=f"it was not there after {self._timeout_s:g} s",
                remedy="ask for less at once, or try again later",
            )
        return waiting.result()

    def _leave(self) -> None:
        self._here -= 1

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
