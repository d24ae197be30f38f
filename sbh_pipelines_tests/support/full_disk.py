"""A disk that has no room for more."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

_MOST = 64 << 10


@contextmanager
def full_disk() -> Iterator[None]:
    """No file grows beyond `_MOST`: the error is another one than that of a full disk, and comes at the same places."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
