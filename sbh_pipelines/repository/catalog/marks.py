"""Marks: small documents beside the catalog that say what must not be undone, signed with a key that no bucket holds.

Each is created once, under a name of its own, and never changed: whoever may put objects and not delete them can neither
take one back nor put an earlier state in its place. One that is there and not genuine is an error and not nothing: it may
stand where a genuine one stood. Where a name carries the id of the key that signs, marks of a key that is lost are in nobody's
way: they lie under other names.
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, Protocol

from sbh_pipelines.errors import CorruptObject, ObjectExists, ObjectMissing
from sbh_pipelines.repository.bounds import SMALL_BYTES
from sbh_pipelines.repository.format import canonical, parse_document, pretty
from sbh_pipelines.repository.seal import derive
from sbh_pipelines.stores.base import ObjectStore


class MarkPlace(Protocol):
    """A region's catalog."""

    @property
    def store(self) -> ObjectStore: ...

    @property
    def prefix(self) -> str: ...

    @property
    def has_key(self) -> bool: ...

    @property
    def mark_key(self) -> bytes: ...


def mark_key_id(place: MarkPlace) -> str:
    """8 hex digits that name the key which signs, and reveal nothing of it."""
    return derive(place.mark_key, b"sbh mark id")[:4].hex()


def sign_mark(place: MarkPlace, document: Mapping[str, object]) -> dict[str, object]:
    """The document with its signature."""
    return {**document, "signature": _signature(place, document)}


def is_genuine_mark(place: MarkPlace, document: Mapping[str, Any]) -> bool:
    """Whether the catalog's key signed the document."""
    signature = document.get("signature")
    return isinstance(signature, str) and hmac.compare_digest(
        signature.encode("utf-8", "replace"), _signature(place, document).encode()
    )


def make_mark(place: MarkPlace, name: str, fields: Mapping[str, object]) -> None:
    """Store a mark, unless it is there. `name` is below the catalog's prefix, and part of what is signed."""
    key = place.prefix + name
    try:
        place.store.create(key, pretty(sign_mark(place, {"mark": name, **fields})))
    except ObjectExists:
        read_mark(place, name)


def read_mark(place: MarkPlace, name: str) -> dict[str, Any] | None:
    """The mark of this name; None where there is none. Raises CorruptObject for one that is not genuine."""
    key = place.prefix + name
    try:
        document = parse_document(place.store.get(key, SMALL_BYTES), place.store.url(key))
    except ObjectMissing:
        return None
    if document.get("mark") != name or not is_genuine_mark(place, document):
        raise CorruptObject(
            "A mark beside the catalog is not genuine",
            on=place.store.url(key),
            why="its name is that of a mark under the catalog's present key, which did not sign it: overwritten, or forged",
            remedy="see who can write to the bucket, and restore the object's older version; delete it only if there is none,"
            " and the audit trail does not tell of it",
        )
    return document


def _signature(place: MarkPlace, document: Mapping[str, object]) -> str:
    bare = {name: value for name, value in document.items() if name != "signature"}
    return hmac.new(place.mark_key, canonical(bare), hashlib.sha256).hexdigest()
