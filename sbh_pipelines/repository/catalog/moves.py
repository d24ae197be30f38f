"""Tenants that move between sites: `moves/{home}.json` in the catalog of the tenant's region says how far one is.

A mark is overwritten by the next and never deleted: whoever makes backups may do that, and a copy, to which no deletion is brought,
has it as it is. It carries the tag of its tenant's key, as a repository does, so that the slug's next tenant is not meant by it.
One that is not genuine is not believed: its tenant is then backed up.
"""

import hmac
import time
from collections.abc import Container, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING

from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.errors import CorruptObject, ObjectMissing, ObjectTooLarge, SbhError
from sbh_pipelines.repository.bounds import SMALL_BYTES, all_below
from sbh_pipelines.repository.catalog.owners import OwnerKey, slug_of, split_home
from sbh_pipelines.repository.format import canonical, parse_document, pretty
from sbh_pipelines.repository.keys.epoch_marks import MOST_LISTED

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
        self._listed: tuple[float, Mapping[str, str]] = float("-inf"), {}  # when that began, ETags by home
        self._read: Mapping[str, tuple[tuple[str, str], MoveMark | None]] = {}  # of which ETag, by which key
        self._forgotten = self._silent_until = float("-inf")

    def of(self, catalog: "Catalog", slugs: Container[str], max_age_s: float) -> Mapping[str, MoveMark]:
        """Those of these slugs, by home. They are listed again where that is older, and each is read once, as marks stay for ever.

        A region that does not answer is asked again after `max_age_s`. Until then what it said last stands.
        """
        now = time.monotonic()
        if now >= self._silent_until:
            try:
                began, listed = self._listed
                if began <= self._forgotten or now - began > max_age_s:
                    listed = dict(islice(list_moves(catalog), MOST_LISTED))
                    self._listed = now, listed
                if listed and (key := catalog.known_owner_key()) is not None:
                    seen = {home: (etag, key.id) for home, etag in listed.items()}
                    read = {home: found for home, found in self._read.items() if seen.get(home) == found[0]}
                    new = [home for home in seen if home not in read and slug_of(home) in slugs]
                    marks = side_by_side(lambda home: (seen[home], read_move(catalog, home)), new, name="moves")
                    self._read = read | dict(zip(new, marks, strict=True))
                else:
                    self._read = {}
            except SbhError:
                self._silent_until = time.monotonic() + max_age_s
        return {home: mark for home, (_, mark) in self._read.items() if mark is not None and slug_of(home) in slugs}

    def forget(self) -> None:
        """Have them listed anew, also where that is being done."""
        self._silent_until, self._forgotten = float("-inf"), time.monotonic()


def list_moves(catalog: "Catalog") -> Iterator[tuple[str, str]]:
    """(home, ETag) of the marks of a region. Raises the store's errors."""
    for info in all_below(catalog.store, catalog.prefix + MOVES):
        home = info.key[len(catalog.prefix + MOVES) :].removesuffix(".json")
        if split_home(home) is not None:
            yield home, info.etag


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
