"""Which request has which fault. The same seed, step and requests give the same faults, in whatever order threads ask."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import StrEnum


class Fault(StrEnum):
    """What goes wrong with one request."""

    DELAY = "delay"
    STALL = "stall"  # no answer for longer than the client waits
    CUT_BEFORE = "cut before"  # the connection ends before the server is asked
    CUT_REQUEST = "cut request"  # and in the middle of what is sent
    CUT_ANSWER = "cut answer"  # the server did it; the connection ends in the middle of its answer
    CUT_AFTER = "cut after"  # the server did it; no byte of the answer comes
    SHORT_ANSWER = "short answer"  # fewer bytes, and a length that says so
    FLIP_ANSWER = "flip answer"
    FLIP_REQUEST = "flip request"
    BUSY = "busy"  # 500, 503 or 429 with Retry-After
    FULL = "full"  # no room: 507 or 500
    LATE_ERROR = "late error"  # the server did it, and an error is answered
    REORDER = "reorder"  # a page of a listing in another order
    LOST_WRITE = "lost write"  # 200, and nothing was done
    STALE_READ = "stale read"  # the object before its last write, or none
    STALE_LISTING = "stale listing"  # without what was written of late


LYING = frozenset({Fault.LOST_WRITE, Fault.STALE_READ, Fault.STALE_LISTING})
HONEST = frozenset(Fault) - LYING

WRITING = frozenset({Fault.CUT_REQUEST, Fault.FLIP_REQUEST, Fault.FULL, Fault.LOST_WRITE})
READING = frozenset({Fault.SHORT_ANSWER, Fault.FLIP_ANSWER, Fault.STALE_READ})
LISTING = frozenset({Fault.REORDER, Fault.STALE_LISTING})


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, as far as faults depend on it.

    Attributes:
        method: The HTTP method.
        path: Decoded, with the bucket.
        query: As it came.
        whole: Whether all of an object is asked for, and not a range.
    """

    method: str
    path: str
    query: str = ""
    whole: bool = True

    @property
    def lists(self) -> bool:
        return self.method == "GET" and ("list-type" in self.query or "prefix=" in self.query)

    @property
    def writes(self) -> bool:
        return self.method in ("PUT", "POST", "DELETE")

    @property
    def folder(self) -> str:
        """What kind of object it is about, without the names that are random."""
        if self.lists:
            return "list"
        parts = self.path.strip("/").split("/")
        return "/".join(parts[:-1]) + ("/?" if len(parts) > 1 else "")


Wanted = Callable[[Asked], bool]


@dataclass
class Schedule:
    """Faults by chance.

    Attributes:
        seed: Of all chance.
        rate: Of requests that have a fault, 0 to 1.
        faults: Those that may come.
        only: Which requests may have one.
        on: Whether there are any at all.
        step: A new step begins the counting of requests anew.
        storm: As long as it lasts every request has this fault.
        seen: How often each came.
    """

    seed: int
    rate: float = 0.05
    faults: Collection[Fault] = HONEST
    only: Wanted = lambda _: True
    on: bool = False
    step: str = ""
    storm: Fault | None = None
    seen: Counter[Fault] = field(default_factory=Counter)
    _counts: Counter[str] = field(default_factory=Counter, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def begin(self, step: str) -> None:
        with self._lock:
            self.step = step
            self._counts.clear()

    def draw(self, asked: Asked) -> tuple[Fault | None, random.Random]:
        """The fault of this request, if it has one, and the chance that says how bad."""
        with self._lock:
            name = f"{asked.method} {asked.folder}"
            self._counts[name] += 1
            chance = random.Random(f"{self.seed} {self.step} {name} {self._counts[name]}")
            if not self.on or not self.only(asked):
                return None, chance
            fault = self.storm
            if fault is None and chance.random() < self.rate:
                possible = sorted(fault for fault in self.faults if self._fits(fault, asked))
                fault = chance.choice(possible) if possible else None
            if fault is not None:
                self.seen[fault] += 1
            return fault, chance

    @staticmethod
    def _fits(fault: Fault, asked: Asked) -> bool:
        if fault in LISTING:
            return asked.lists
        if fault in WRITING:
            return asked.writes
        if fault in READING:
            return asked.method == "GET" and not (asked.lists and fault is Fault.STALE_READ)
        return True
