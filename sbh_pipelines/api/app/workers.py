"""Threads for what blocks: so many at once, so many that wait, and nobody waits for an answer for ever."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from sbh_pipelines.errors import TookTooLong, TooManyRequests

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
            waiting.cancel()  # begun or not: nobody waits for it any more
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
