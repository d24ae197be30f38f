"""What one process takes on: how often somebody may ask for what is expensive, and how much is at work at once."""

import asyncio
import math
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from sbh_pipelines.concurrency import Awaited
from sbh_pipelines.errors import TookTooLong, TooManyRequests

_END_AGAIN_S = 1.0
_MOST = 50_000  # buckets kept; one that is dropped starts full again


class Rates:
    """`per_minute` on average, `burst` after a pause. Thread-safe. Holds for this process."""

    def __init__(
        self, per_minute: int, burst: int, clock: Callable[[], float] = time.monotonic, what: str = "expensive calls"
    ) -> None:
        self._per_s, self._burst, self._clock, self._what = per_minute / 60, float(burst), clock, what
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def retry_after_s(self) -> int:
        """After so long there is room for one more, also of what has half."""
        return max(1, math.ceil(2 / self._per_s))

    def take(self, *names: str, halved: Set[str] = frozenset()) -> None:
        """One call by all of these; those in `halved` may do half as much. Raises TooManyRequests where one of them has none
        left; then none pays.
        """
        with self._lock:
            now = self._clock()
            left = {name: self._left(name, now) for name in names}
            costs = {name: min(2.0, self._burst) if name in halved else 1.0 for name in names}
            if short := next((name for name, tokens in left.items() if tokens < costs[name]), None):
                cost = costs[short]
                raise TooManyRequests(
                    f"Too many {self._what}",
                    on=short.partition(":")[0],
                    why=f"{self._per_s * 60 / cost:g} a minute are allowed, {self._burst // cost:g} at once",
                    remedy=f"try again in {max(1, math.ceil(cost / self._per_s))} s",
                )
            for name, tokens in left.items():
                self._buckets[name] = (tokens - costs[name], now)
                self._buckets.move_to_end(name)
            while len(self._buckets) > _MOST:
                self._buckets.popitem(last=False)

    def _left(self, name: str, now: float) -> float:
        tokens, at = self._buckets.get(name, (self._burst, now))
        return min(self._burst, tokens + (now - at) * self._per_s)


class Streams:
    """Answers that are sent piece by piece: at most `most` under way in this process, `each` of one and the same caller's.

    For the event loop alone.
    """

    def __init__(self, most: int, each: int) -> None:
        self._most, self._each = most, each
        self._begun: Counter[str] = Counter()

    def begin(self, whose: str) -> None:
        """To be ended, whatever becomes of it. Raises TooManyRequests."""
        if self._begun[whose] >= self._each:
            raise TooManyRequests(
                "Too much is downloaded at once",
                on="tenant",
                why=f"{self._each} downloads are under way already",
                remedy="wait until they have ended",
            )
        if self._begun.total() >= self._most:
            raise TooManyRequests("The server sends too much at once", remedy="try again in some seconds")
        self._begun[whose] += 1

    def end(self, whose: str) -> None:
        self._begun[whose] -= 1
        if not self._begun[whose]:
            del self._begun[whose]


T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Turn:
    """A call that waits or is at work; `answer` is of the event loop, and takes what comes of it."""

    work: Callable[[], Any]
    whose: str
    answer: "asyncio.Future[Any]"
    awaited: Awaited
    ended: bool = False


class Workers:
    """`threads` calls are at work, `waiting` more may wait; of one and the same caller's at most `share` and a quarter.

    Callers take turns: who has many in line waits behind who has one. A call that is given up is ended at the servers that
    work for it, and keeps its thread until it has noticed. All but the work itself is done in the event loop.
    """

    def __init__(self, name: str, threads: int, waiting: int, timeout_s: float, share: int | None = None) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._enders = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-end")
        self._threads, self._share, self._timeout_s = threads, share or threads, timeout_s
        self._waiting, self._waiting_each = waiting, max(1, waiting // 4) if share else waiting
        self._lines: OrderedDict[str, deque[_Turn]] = OrderedDict()
        self._busy: Counter[str] = Counter()

    async def run(self, work: Callable[[], T], whose: str = "") -> T:
        """What `work` gives, or raises. Raises TooManyRequests, TookTooLong."""
        in_line, at_work = sum(map(len, self._lines.values())), self._busy.total()
        full = at_work >= self._threads or in_line > 0
        if full and in_line >= self._waiting:
            raise TooManyRequests("The server has too much to do", remedy="try again in some seconds")
        if len(self._lines.get(whose, ())) >= self._waiting_each:
            raise TooManyRequests(
                "Too much is asked for at once",
                on="tenant",
                why=f"{self._waiting_each} of these calls wait already",
                remedy="wait for their answers",
            )
        loop = asyncio.get_running_loop()
        turn = _Turn(work, whose, loop.create_future(), Awaited())
        self._lines.setdefault(whose, deque()).append(turn)
        self._next(loop)
        done, _ = await asyncio.wait([turn.answer], timeout=self._timeout_s)
        if not done:
            self._give_up(turn, loop)
            raise TookTooLong(
                "The answer took too long",
                why=f"it was not there after {self._timeout_s:g} s",
                remedy="ask for less at once, or try again later",
            )
        answer: T = turn.answer.result()
        return answer

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin what there are threads for: of the callers within their share, the one who has waited longest for a turn."""
        while self._busy.total() < self._threads:
            whose = next((name for name in self._lines if self._busy[name] < self._share), None)
            if whose is None:
                return
            line = self._lines.pop(whose)
            turn = line.popleft()
            if line:
                self._lines[whose] = line  # behind all others
            self._busy[whose] += 1
            future = self._pool.submit(turn.awaited.run, turn.work)

            def ended(future: "Future[Any]", turn: _Turn = turn) -> None:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(self._ended, turn, future, loop)

            future.add_done_callback(ended)

    def _ended(self, turn: _Turn, future: "Future[Any]", loop: asyncio.AbstractEventLoop) -> None:
        turn.ended = True
        self._busy[turn.whose] -= 1
        if not self._busy[turn.whose]:
            del self._busy[turn.whose]
        if not turn.answer.done() and not turn.awaited.given_up and not future.cancelled():
            if (error := future.exception()) is not None:
                turn.answer.set_exception(error)
            else:
                turn.answer.set_result(future.result())
        self._next(loop)

    def _give_up(self, turn: _Turn, loop: asyncio.AbstractEventLoop) -> None:
        """Nobody waits for it: out of the line, or ended wherever it works, again until it has ended itself."""
        turn.awaited.given_up = True
        turn.answer.cancel()
        line = self._lines.get(turn.whose)
        if line is not None and turn in line:
            line.remove(turn)
            if not line:
                del self._lines[turn.whose]
        elif not turn.ended and not loop.is_closed():
            self._enders.submit(turn.awaited.give_up)
            loop.call_later(_END_AGAIN_S, self._give_up, turn, loop)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._enders.shutdown(wait=False, cancel_futures=True)
