"""Small sealed objects in a folder of a journal or of a catalog: only ever added, each under a name that nobody else uses.

Its name is part of what an object's seal is bound to: one that was renamed, copied into another folder or taken from another
region does not open.
"""

import re
import secrets
from collections.abc import Iterator
from datetime import UTC
from typing import Protocol

from sbh_pipelines.concurrency import streamed
from sbh_pipelines.errors import CorruptObject, ObjectExists, ObjectMissing, RepositoryError, SbhError
from sbh_pipelines.model import Clock
from sbh_pipelines.repository.bounds import JOURNAL_OBJECT_BYTES, MOST_JOURNAL_OBJECTS, all_below, too_many
from sbh_pipelines.repository.seal import JOURNAL, Sealer
from sbh_pipelines.stores.base import ObjectStore

_NAME = re.compile(r"\d{8}T\d{12}Z-[0-9a-f]{16}")
_AHEAD = 9  # objects asked for and not yet taken
_DISCARD = "delete the object, after a look at who can write to the bucket"


class CatalogKey(Protocol):
    """What the journal needs of the region's catalog."""

    @property
    def has_key(self) -> bool:
        """Whether there is a key already; none is made."""
        ...

    @property
    def sealer(self) -> Sealer:
        """Seals and opens with the catalog's key; where there is none yet, one is made."""
        ...


class SealedObjects:
    """One folder of the journal of a region. Thread-safe."""

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        region: str,
        folder: str,
        catalog: CatalogKey,
        clock: Clock,
        *,
        whole: str = "the journal",
    ) -> None:
        """`whole`: what they are objects of, as errors say it."""
        self._whole = whole
        self._store, self._prefix, self._region, self._folder = store, prefix, region, folder
        self._catalog, self._clock = catalog, clock

    def add(self, plain: bytes) -> str:
        """Store it, by one create-only put; its name. Names sort by time."""
        stamp = self._clock().astimezone(UTC).strftime("%Y%m%dT%H%M%S%fZ")
        name = f"{stamp}-{secrets.token_hex(8)}"
        sealed = self._catalog.sealer.seal(plain, self._bound(name), JOURNAL)
        try:
            self._store.create(self._key(name), sealed)
        except ObjectExists:  # the answer to our own put was lost, and it was repeated
            if self._store.get(self._key(name), JOURNAL_OBJECT_BYTES) != sealed:
                raise
        return name

    def names(self, damages: list[SbhError], strange: list[str] | None = None) -> list[str]:
        """What is there, oldest first; what has another name goes to the damages, its name to `strange`. Raises TooManyObjects."""
        found = []
        for info in all_below(self._store, self._prefix + self._folder):
            name = info.key[len(self._prefix + self._folder) :]
            if not _NAME.fullmatch(name):
                damages.append(self._damage(name, "its name is not that of one"))
                if strange is not None:
                    strange.append(name)
                continue
            found.append(name)
            if len(found) > MOST_JOURNAL_OBJECTS:
                raise too_many(self._store.url(self._prefix + self._folder), MOST_JOURNAL_OBJECTS)
        return sorted(found)

    def read(self, names: list[str]) -> Iterator[tuple[str, bytes | RepositoryError | ObjectMissing]]:
        """(name, plaintext, or why there is none) of each, in that order."""
        if not names:
            return
        if not self._catalog.has_key:
            yield from ((name, self._damage(name, "the catalog's key is gone")) for name in names)
            return
        sealer = self._catalog.sealer

        def one(name: str) -> bytes | RepositoryError | ObjectMissing:
            try:
                sealed = self._store.get(self._key(name), JOURNAL_OBJECT_BYTES)
                return sealer.open(sealed, self._bound(name), JOURNAL, on=self.url(name))
            except CorruptObject as error:
                return self._damage(name, error.why)
            except (RepositoryError, ObjectMissing) as error:
                return error

        yield from zip(names, streamed(one, names, name="journal", ahead=_AHEAD), strict=True)

    def delete(self, names: list[str]) -> None:
        self._store.delete([self._key(name) for name in names])

    def url(self, name: str) -> str:
        return self._store.url(self._key(name))

    def _damage(self, name: str, why: str) -> CorruptObject:
        return CorruptObject(f"An object of {self._whole} is not believed", on=self.url(name), why=why, remedy=_DISCARD)

    def _key(self, name: str) -> str:
        return self._prefix + self._folder + name

    def _bound(self, name: str) -> bytes:
        return f"{self._region}/{self._folder}{name}".encode()
