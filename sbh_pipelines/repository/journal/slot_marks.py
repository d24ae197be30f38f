"""Marks of slots that we are about to make: until the first segment is stored, only they tell our slot from another's."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from sbh_pipelines.errors import SbhError
from sbh_pipelines.repository.journal.sealed_objects import SealedObjects


@dataclass(frozen=True, slots=True)
class SlotMark:
    """A slot that was made, or was about to be.

    Attributes:
        slot: Its name.
        system_id: System identifier of its server's cluster.
        database: Its database.
        incarnation: Name of the incarnation that begins with it.
    """

    slot: str
    system_id: int
    database: str
    incarnation: str

    def is_of(self, slot: str, system_id: int, database: str) -> bool:
        """Whether it is of this slot, in whatever incarnation."""
        return (self.slot, self.system_id, self.database) == (slot, system_id, database)


class SlotMarks:
    """Of the region in which the drains' lease lies. Only who holds that changes them."""

    def __init__(self, objects: SealedObjects) -> None:
        self._objects = objects

    def set(self, mark: SlotMark) -> None:
        """In the place of those that there are; killed in between, there are more of them."""
        before = self._objects.names([])
        self._objects.add(json.dumps(asdict(mark), separators=(",", ":")).encode())
        self._objects.delete(before)

    def read(self) -> list[SlotMark]:
        """Those that can be believed."""
        return list(self._read())

    def clear(self) -> None:
        self._objects.delete(self._objects.names([]))

    def _read(self) -> Iterator[SlotMark]:
        for _, plain in self._objects.read(self._objects.names([])):
            if isinstance(plain, SbhError):
                continue
            try:
                fields = json.loads(plain)
                yield SlotMark(*(fields[name] for name in ("slot", "system_id", "database", "incarnation")))
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
