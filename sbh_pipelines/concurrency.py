"""Work on many items in threads: on all of them at once, or on a stream of which few are ahead.

Both keep the order of the items and raise the first error in that order; what has not begun by then is left.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_THREADS = 8  # what an object store answers at once without asking for patience


def side_by_side(
    work: Callable[[_Item], _Result], items: Iterable[_Item], *, name: str, threads: int = _THREADS
) -> list[_Result]:
    """What `work` gives for each item, `threads` at a time; `name` is that of the threads."""
    with ThreadPoolExecutor(threads, thread_name_prefix=name) as pool:
        return list(pool.map(work, items))


def streamed(
    work: Callable[[_Item], _Result], items: Iterable[_Item], *, name: str, threads: int = _THREADS, ahead: int
) -> Iterator[_Result]:
    """What `work` gives for each item, where there may be too many for memory: `ahead` are begun and not yet taken.

    The next item is asked for when a result is taken, by the thread that takes it.
    """
    begun: deque[Future[_Result]] = deque()
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
