"""A bound on how much a process sends to or receives from its stores, so that others who share the line keep theirs."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import TypeVar

_Piece = TypeVar("_Piece", bytes, memoryview)
_SMALL = 64 << 10  # bytes; what is smaller waits for nothing: a lease must be renewed in time


class Bandwidth:
    """So many bytes a second, on average, of all who take from it. Thread-safe."""

    def __init__(
        self, rate: float, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._rate, self._clock, self._sleep = rate, clock, sleep
        self._free = 0.0  # from when on nothing that was taken is still on its way
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Wait until what was taken before has had its time, and take this much more. Small amounts count, and do not wait."""
        with self._lock:
            now = self._clock()
            begin = max(now, self._free)
            self._free = begin + size / self._rate
        if size >= _SMALL and begin > now:
            self._sleep(begin - now)

    def paced(self, pieces: Iterable[_Piece]) -> Iterator[_Piece]:
        for piece in pieces:
            self.take(len(piece))
            yield piece


@cache
def bandwidth(direction: str, mib_s: float) -> Bandwidth:
    """The one that all stores of a process share. `direction`: a word, for each an amount of its own."""
    return Bandwidth(mib_s * (1 << 20))
