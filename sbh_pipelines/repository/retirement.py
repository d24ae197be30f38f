"""What a prune took out of use: packs, and index objects whose content is in others now.

They stay for a while, for those who read the index before; from its opening on nobody reads them, nor stores anything
for their sake. One object, `index/retired-…`, makes all of a prune's changes visible at once.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sbh_pipelines.errors import CorruptObject
from sbh_pipelines.repository.format import Keys, pack_id_of, parse_document, pretty


@dataclass(frozen=True, slots=True)
class Retirement:
    """One such object."""

    key: str  # below the prefix
    at: datetime  # when it was written, by the store's clock
    packs: frozenset[bytes]
    index: frozenset[str]  # keys of index objects, below the prefix


def retirement_object(prune_id: str, packs: Collection[bytes], index: Collection[str]) -> tuple[str, bytes]:
    """(key below the prefix, content)."""
    body = pretty({"retired_by": prune_id, "packs": sorted(p.hex() for p in packs), "index": sorted(index)})
    return Keys.retired(prune_id, hashlib.sha256(body).hexdigest()[:16]), body


def read_retirement(key: str, body: bytes, at: datetime, place: str) -> Retirement:
    """Raises CorruptObject: what a damaged one took out of use is in use again, which harms nobody."""
    if key.endswith(hashlib.sha256(body).hexdigest()[:16]):
        document = parse_document(body, place)
        names, index = document.get("packs"), document.get("index")
        if isinstance(names, list) and isinstance(index, list):
            packs = [pack_id for name in names if (pack_id := pack_id_of(str(name))) is not None]
            if len(packs) == len(names) and all(_is_index(str(name)) for name in index):
                return Retirement(key, at, frozenset(packs), frozenset(map(str, index)))
    raise CorruptObject(
        "A record of what was retired is damaged", on=place, remedy="none is needed: the next prune writes another"
    )


def _is_index(name: str) -> bool:
    return name.startswith(Keys.INDEX) and not name.startswith((Keys.DAMAGED, Keys.RETIRED))
