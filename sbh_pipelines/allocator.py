"""What the C library keeps of memory that was freed: glibc's allocator has arenas for many threads, and each keeps what it had.

A backup has some thirty threads. Left alone, each ends up with an arena of a few MiB that nothing is in, and blocks of a MiB,
once freed, raise the size from which memory goes back to the system at all.
"""

import ctypes
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of malloc.h
_ARENAS = 2
_LARGE = 512 << 10  # bytes of a block that is mapped for itself, and goes back when it is freed


@cache
def bound_arenas() -> None:
    """Have this process keep little of what it freed. Nothing happens where the C library is another."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_ARENA_MAX, _ARENAS)
    mallopt(_M_MMAP_THRESHOLD, _LARGE)
    mallopt(_M_TRIM_THRESHOLD, 2 * _LARGE)
