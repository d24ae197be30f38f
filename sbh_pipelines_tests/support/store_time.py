"""A store whose clock is the test's: what is written gets the time that the test's clock shows."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from sbh_pipelines.errors import StoreUnavailable
from sbh_pipelines.model import Clock
from sbh_pipelines.stores.base import ObjectInfo
from sbh_pipelines.stores.object_store import Store

_WRITES = ("put", "create", "replace")


@contextmanager
def store_time(clock: Clock) -> Iterator[None]:
    """`modified` of objects is the clock's time at which this process wrote them; of others the real one."""
    written: dict[str, datetime] = {}
    lock = threading.Lock()

    def told(store: Store, info: ObjectInfo) -> ObjectInfo:
        with lock:
            return replace(info, modified=written.get(store.url(info.key), info.modified).astimezone(UTC))

    with pytest.MonkeyPatch.context() as patch:
        for verb in _WRITES:
            real = getattr(Store, verb)

            def write(store: Store, key: str, *rest: Any, _real: Any = real) -> Any:
                try:
                    answer = _real(store, key, *rest)
                except StoreUnavailable:  # it may have been written all the same
                    with lock:
                        written[store.url(key)] = clock()
                    raise
                with lock:
                    written[store.url(key)] = clock()
                return answer

            patch.setattr(Store, verb, write)
        listing, head = Store.list, Store.head
        patch.setattr(Store, "list", lambda store, *what: (told(store, info) for info in listing(store, *what)))
        patch.setattr(Store, "head", lambda store, key: told(store, head(store, key)))
        yield
