"""Tenants that move between sites: `moves/{home}.json` in the catalog of the tenant's region says how far one is.

A mark is overwritten by the next and never deleted: whoever makes backups may do that, and a copy, to which no deletion is brought,
has it as it is. It carries the tag of its tenant's key, as a repository does, so that the slug's next tenant is not meant by it.
One that is not genuine is not believed: its tenant is then backed up.
"""

import hmac
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from sbh_pipelines.errors import CorruptObject, ObjectMissing, ObjectTooLarge
from sbh_pipelines.repository.bounds import SMALL_BYTES, all_below
from sbh_pipelines.repository.catalog.owners import OwnerKey
from sbh_pipelines.repository.format import canonical, parse_document, pretty

if TYPE_CHECKING:
    from sbh_pipelines.repository.catalog.catalog import Catalog

MOVES = "moves/"
_OWNER, _MARK = b"owner", b"move"


class MoveState(StrEnum):
    """Where a tenant is that moves, as one of the two sites says."""

    ON_ITS_WAY = "on_its_way"  # it comes from another site, and its backups are made there
    WENT = "went"  # to another site
    HERE = "here"  # it arrived, or its move was given up


@dataclass(frozen=True, slots=True)
class Move:
    """What a site says of a tenant that moves.

    Attributes:
        state: Where the tenant is.
        site: The other site: its name, else its database.
        place: Where the tenant's repository is there: which move it is.
        backup_id: The last backup before the move.
        at: When this was said, UTC, ISO 8601.
    """

    state: MoveState
    site: str
    place: str
    backup_id: str
    at: str


@dataclass(frozen=True, slots=True)
class MoveMark:
    """What is stored.

    Attributes:
        home: The name under which the tenant's repository lies.
        owner: The tag of the tenant's key.
        move: What is said of it.
    """

    home: str
    owner: str
    move: Move

    @classmethod
    def of(cls, key: OwnerKey, home: str, tenant_key: str, move: Move) -> "MoveMark":
        return cls(home, key.tag(_OWNER, home, tenant_key.encode()), move)

    def is_of(self, key: OwnerKey, tenant_key: str) -> bool:
        return hmac.compare_digest(self.owner, key.tag(_OWNER, self.home, tenant_key.encode()))


class MoveMarks:
    """The marks of a region as they were read a moment ago. Thread-safe."""

    def __init__(self) -> None:
        self._read_at = float("-inf")
        self._known: Mapping[str, tuple[str, MoveMark | None]] = {}

    def all(self, catalog: "Catalog", max_age_s: float) -> Mapping[str, MoveMark]:
        """By home; read again where they are older. Raises the store's and the key provider's errors."""
        now = time.monotonic()
        if now - self._read_at > max_age_s:
            known, found = self._known, dict[str, tuple[str, MoveMark | None]]()
            for info in all_below(catalog.store, catalog.prefix + MOVES):
                home = info.key[len(catalog.prefix + MOVES) :].removesuffix(".json")
                before = known.get(home)
                same = before is not None and before[0] == info.etag and before[1] is not None
                found[home] = before if before is not None and same else (info.etag, read_move(catalog, home))
            self._read_at, self._known = now, found
        return {home: mark for home, (_, mark) in self._known.items() if mark is not None}

    def forget(self) -> None:
        """Have them read anew."""
        self._read_at = float("-inf")


def move_key(home: str) -> str:
    """Key of a mark, below the catalog's prefix."""
    return f"{MOVES}{home}.json"


def read_move(catalog: "Catalog", home: str) -> MoveMark | None:
    """The mark of this home; None where there is none that is genuine. Raises the store's and the key provider's errors."""
    name = catalog.prefix + move_key(home)
    try:
        document = dict(parse_document(catalog.store.get(name, SMALL_BYTES), catalog.store.url(name)))
    except (ObjectMissing, ObjectTooLarge, CorruptObject):
        return None
    key, mac = catalog.known_owner_key(), document.pop("mac", None)
    if key is None or not isinstance(mac, str):
        return None
    if not hmac.compare_digest(key.tag(_MARK, home, canonical(document)).encode(), mac.encode("utf-8", "replace")):
        return None
    try:
        move = Move(**{**document["move"], "state": MoveState(document["move"]["state"])})
        return MoveMark(home, document["owner"], move)
    except (KeyError, TypeError, ValueError):  # of a later release
        return None


def write_move(catalog: "Catalog", mark: MoveMark, by: str) -> None:
    """Store the mark in place of what was there. Raises the store's and the key provider's errors."""
    key = catalog.owner_key
    document = {"home": mark.home, "key": key.id, "owner": mark.owner, "by": by, "move": asdict(mark.move)}
    body = pretty({**document, "mac": key.tag(_MARK, mark.home, canonical(document))})
    catalog.store.put(catalog.prefix + move_key(mark.home), body)
    catalog.moves.forget()
