"""A store in memory whose clock is set, which dies at a write that is told."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

from sbh_pipelines.stores.base import ObjectInfo
from sbh_pipelines_tests.support.fault_stores import Killed
from sbh_pipelines_tests.support.memory_store import MemoryStore


class TimedStore(MemoryStore):
    """`now`: its clock. `lives`: so many more writes take effect, each object that is deleted being one; None: all."""

    def __init__(self) -> None:
        super().__init__()
        self.now = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
        self.lives: int | None = None
        self.writes = 0
        self._stored: dict[str, datetime] = {}

    def put(self, key: str, data: bytes | bytearray | memoryview) -> str:
        self._written()
        self._stored[key] = self.now
        return super().put(key, data)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._written()
            super().delete([key])

    def head(self, key: str) -> ObjectInfo:
        return replace(super().head(key), modified=self._stored[key])

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        return (replace(info, modified=self._stored[info.key]) for info in super().list(prefix, after))

    def _written(self) -> None:
        if self.lives == 0:
            raise Killed
        if self.lives is not None:
            self.lives -= 1
        self.writes += 1
