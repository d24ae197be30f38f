"""What a prune took out of use: packs, index objects whose content is in others now, documents of forgotten backups.

They stay for a while, for those who read the index before, and for an operator who puts a forgotten manifest back.
A repository that is opened from then on neither reads them nor builds on them. One object, `index/retired-…`, makes all
changes of a prune visible at once.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sbh_pipelines.errors import CorruptObject
from sbh_pipelines.repository.format import COMPONENTS, Keys, pack_id_of, parse_document, pretty


@dataclass(frozen=True, slots=True)
class Retirement:
    """What one prune took out of use."""

    key: str  # below the prefix
    at: datetime  # when it was written, by the store's clock
    packs: frozenset[bytes]
    index: frozenset[str]  # keys of index objects, below the prefix
    documents: frozenset[str]  # keys of component documents


def retirement_object(
    prune_id: str, packs: Collection[bytes], index: Collection[str], documents: Collection[str]
) -> tuple[str, bytes]:
    """(key below the prefix, content) of the object that takes all of this out of use."""
    names = {"packs": sorted(p.hex() for p in packs), "index": sorted(index), "documents": sorted(documents)}
    body = pretty({"retired_by": prune_id, **names})
    return Keys.retired(prune_id, hashlib.sha256(body).hexdigest()[:16]), body


def read_retirement(key: str, body: bytes, at: datetime, on: str) -> Retirement:
    """The retirement that an object says. Raises CorruptObject.

    What a damaged one took out of use is in use again, which does no harm.
    """
    if key.endswith(hashlib.sha256(body).hexdigest()[:16]):
        document = parse_document(body, on)
        lists = [document.get(name) for name in ("packs", "index", "documents")]
        if all(isinstance(names, list) for names in lists):
            names, index, documents = (frozenset(map(str, names or ())) for names in lists)
            packs = frozenset(pack_id for name in names if (pack_id := pack_id_of(name)) is not None)
            if len(packs) == len(names) and all(map(_is_index, index)) and all(map(is_component, documents)):
                return Retirement(key, at, packs, index, documents)
    raise CorruptObject(
        "A record of what was retired is damaged", on=on, remedy="none is needed: the next prune writes another"
    )


def is_component(name: str) -> bool:
    """Whether a key is that of a component document of a backup."""
    kind, _, rest = name.partition("/")
    return kind in COMPONENTS and rest.startswith("backup_") and rest.endswith(".json") and "/" not in rest


def _is_index(name: str) -> bool:
    return name.startswith(Keys.INDEX) and not name.startswith((Keys.DAMAGED, Keys.RETIRED))
