"""Work on many items in threads: on all of them at once, or on a stream of which few are ahead. And work that is waited for.

The first two keep the order of the items and raise the first error in that order; what has not begun by then is left. Where one
item may take as long as all others, `as_done` does not let these wait for it.
"""

import contextvars
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

from sbh_pipelines.model import Progress, ProgressSink

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_TELL_EVERY_S = 0.5
_ALMOST = 0.99  # of a step: what was expected is not what there is
_THREADS = 8  # what an object store answers at once without asking for patience


class Allowance:
    """So many bytes of memory for what several threads do at once; what needs more than all of it is done alone. Thread-safe."""

    def __init__(self, size: int) -> None:
        self._size, self._used, self._changed = size, 0, threading.Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Waits until `size` bytes are left. Not to be asked for by who has some."""
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + size <= self._size)
            self._used += size
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()


class Meter:
    """A step that several threads work at, told to a sink: units as they are done, bytes twice a second. Thread-safe."""

    def __init__(
        self, sink: ProgressSink, step: str, subject: str, unit: str, total: int = 0, expected: int = 0
    ) -> None:
        """`expected` bytes; 0 where nothing tells how many there will be."""
        self._sink, self._step, self._subject, self._unit = sink, step, subject, unit
        self._total, self._expected = total, expected
        self._lock = threading.Lock()
        self._done = self._moved = 0
        self._told = time.monotonic()

    def moved(self, size: int) -> None:
        """So many bytes more, of a unit under way."""
        with self._lock:
            self._moved += size
            if time.monotonic() - self._told >= _TELL_EVERY_S:
                self._tell()

    def done(self, units: int) -> None:
        """So many units in all."""
        with self._lock:
            self._done = units
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        share = min(self._moved / self._expected, _ALMOST) if self._expected else 0.0
        self._sink(Progress(self._step, self._subject, self._done, self._total, self._unit, self._moved, share))


class Awaited:
    """Work that somebody waits for: what it has open at servers, which is told when nobody does any more. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, Callable[[], None]] = {}
        self.given_up = False

    def holds(self, thing: object, end: Callable[[], None]) -> Callable[[], None]:
        """`end` ends what is going on in `thing`; what this gives is to be called when the thing is closed."""
        with self._lock:
            self._open[id(thing)] = end

        def closed() -> None:
            with self._lock:
                self._open.pop(id(thing), None)

        return closed

    def give_up(self) -> None:
        """End what is going on. What goes on after it needs another call: the work itself is not stopped."""
        self.given_up = True
        with self._lock:
            ends = list(self._open.values())
        for end in ends:
            end()

    def run(self, work: Callable[[], _Result]) -> _Result:
        """What `work` gives; within it, and the threads that it makes by this module, `awaited` is this."""
        context = contextvars.copy_context()
        context.run(_AWAITED.set, self)
        return context.run(work)


_AWAITED: contextvars.ContextVar[Awaited | None] = contextvars.ContextVar("awaited", default=None)


def awaited() -> Awaited | None:
    """What the work of this thread belongs to, where somebody waits for it."""
    return _AWAITED.get()


def _here(work: Callable[[_Item], _Result]) -> Callable[[_Item], _Result]:
    """The same, in another thread: for whom it is done stays known."""
    context = contextvars.copy_context()
    return lambda item: context.copy().run(work, item)


def side_by_side(
    work: Callable[[_Item], _Result], items: Iterable[_Item], *, name: str, threads: int = _THREADS
) -> list[_Result]:
    """What `work` gives for each item, `threads` at a time; `name` is that of the threads."""
    with ThreadPoolExecutor(threads, thread_name_prefix=name) as pool:
        return list(pool.map(_here(work), items))


def streamed(
    work: Callable[[_Item], _Result], items: Iterable[_Item], *, name: str, threads: int = _THREADS, ahead: int
) -> Iterator[_Result]:
    """What `work` gives for each item, where there may be too many for memory: `ahead` are begun and not yet taken.

    The next item is asked for when a result is taken, by the thread that takes it.
    """
    begun: deque[Future[_Result]] = deque()
    work = _here(work)
    with ThreadPoolExecutor(threads, thread_name_prefix=name) as pool:
        try:
            for item in items:
                begun.append(pool.submit(work, item))
                if len(begun) >= ahead:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()


def as_done(
    work: Callable[[_Item], _Result], items: Iterable[_Item], *, name: str, threads: int = _THREADS
) -> Iterator[tuple[_Item, _Result]]:
    """Each item with what `work` gives for it, the first that is done first; `threads` are at work, and none waits its turn.

    The next item is asked for when one is done. Raises the first error; what has not begun by then is left.
    """
    begun = dict[Future[_Result], _Item]()
    work = _here(work)
    with ThreadPoolExecutor(threads, thread_name_prefix=name) as pool:
        try:
            for item in items:
                begun[pool.submit(work, item)] = item
                if len(begun) >= threads:
                    yield from _done(begun)
            while begun:
                yield from _done(begun)
        finally:
            for future in begun:
                future.cancel()


def _done(begun: dict[Future[_Result], _Item]) -> Iterator[tuple[_Item, _Result]]:
    for future in wait(begun, return_when=FIRST_COMPLETED).done:
        yield begun.pop(future), future.result()
