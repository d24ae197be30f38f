"""How often somebody may ask for what is expensive: a bucket of tokens for each user and each tenant."""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from sbh_pipelines.errors import TooManyRequests

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
