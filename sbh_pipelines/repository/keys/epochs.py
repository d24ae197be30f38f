"""Key objects, changed: wrapped anew, a new epoch begun, an old one destroyed.

Every change is one conditional write that takes effect whole, after what it relies on was proved: a new wrapping is
unwrapped before it replaces the old one, and a new epoch's key is read back from the store before anything is sealed with
it. Killed between any two writes, the same call, given again, goes on.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from sbh_pipelines.errors import CorruptObject, KeyServiceError, ObjectChanged, ObjectExists, ObjectMissing
from sbh_pipelines.repository.bounds import listed
from sbh_pipelines.repository.catalog.owners import OwnerDocument
from sbh_pipelines.repository.documents import prove_stored
from sbh_pipelines.repository.format import LAST_EPOCH, Keys, pretty
from sbh_pipelines.repository.keys.data_key import (
    EPOCH,
    KeyObject,
    KeyPlace,
    key_document,
    payload_of,
    read_epoch,
    read_key_object,
    split_payload,
    unwrap,
)
from sbh_pipelines.security.key_provider import DATA_KEY_BYTES

_TRIES = 8  # of a conditional write that somebody else's overtook


def epochs(place: KeyPlace) -> list[int]:
    """Numbers of the key objects there are."""
    found = (epoch_of(info.key[len(place.prefix) :]) for info in listed(place.store, place.prefix, Keys.KEYS))
    return sorted(epoch for epoch in found if epoch is not None)


def epoch_of(name: str) -> int | None:
    """The epoch of a key object, by its key below the prefix; None for what is none."""
    number = name.removeprefix(Keys.KEYS).removesuffix(".json")
    return int(number) if len(number) == 4 and number.isdecimal() and name == Keys.data_key(int(number)) else None


@dataclass(frozen=True, slots=True)
class RewrappedKey:
    """A data key that was wrapped anew.

    Attributes:
        epoch: Its key epoch.
        from_key: Name of the key that wrapped it before.
        to_key: Name of the key that wraps it now.
        provider: The provider of that key.
    """

    epoch: int
    from_key: str
    to_key: str
    provider: str


def rewrap(place: KeyPlace) -> list[RewrappedKey]:
    """Wrap the data key of every epoch with the key that is current now.

    Needs no lease: a process that has a key unwrapped does not notice. Raises ObjectMissing where there is no key at all.
    """
    read_key_object(place, EPOCH)
    done = []
    for epoch in epochs(place):
        before, after = _replaced(place, epoch, _rewrapped)
        if not before.destroyed:
            done.append(RewrappedKey(epoch, before.key_id, str(after["key_id"]), str(after["provider"])))
    return done


def put_right(place: KeyPlace, at: str) -> int | None:
    """Name the newest epoch again where an older copy of the first key object was put back, and end again what was ended.

    The epoch; None where nothing was wrong. Raises ObjectMissing where there is no key at all, CorruptObject where the newest
    epoch's key is not there.
    """
    first, name_key = read_key_object(place, EPOCH), _name_key(place)
    if place.marks is None or name_key is None:
        return None
    newest = first.newest
    while newest < LAST_EPOCH and place.marks.begun(name_key, newest + 1):
        newest += 1
    place.marks.begin(name_key, newest)
    ended = [epoch for epoch in epochs(place) if epoch < newest and place.marks.ended(name_key, epoch)]
    if newest == first.newest and (first.destroyed or EPOCH not in ended):
        for epoch in ended:
            if epoch > EPOCH:
                destroy_epoch(place, epoch, at)
        return None
    try:
        found = split_payload(unwrap(place, read_key_object(place, newest)), newest, place.url(newest))[1]
    except ObjectMissing:
        found = b""
    if found != name_key:
        raise CorruptObject(
            "The tenant's newest data key is gone",
            on=place.url(newest),
            why=f"epoch {newest} was begun, and an earlier copy of the repository's keys was put in place of its own",
            remedy="restore the key objects from the bucket's newer versions; if the whole repository was put back from an"
            f" older copy on purpose, delete {place.marks.url(name_key)}",
        )

    def pointed(_: KeyPlace, found: KeyObject) -> dict[str, object]:
        return _emptied(place, found, at, newest) if EPOCH in ended else _pointing(place, found, newest)

    _replaced(place, EPOCH, pointed)
    for epoch in ended:
        if epoch > EPOCH:
            destroy_epoch(place, epoch, at)
    return newest


def _name_key(place: KeyPlace) -> bytes | None:
    """The key of names, from whichever epoch has its key; None where none has."""
    for epoch in reversed(epochs(place)):
        with suppress(CorruptObject, ObjectMissing):
            return read_epoch(place, epoch)[1]
    return None


def _pointing(place: KeyPlace, found: KeyObject, newest: int) -> dict[str, object]:
    """The first epoch's object, naming a later epoch as the newest. What it wraps is bound to that."""
    if found.destroyed:
        return {**found.document, "newest": newest}
    if found.newest == newest:
        return dict(found.document)
    payload = unwrap(place, found)
    document = {**found.document, **key_document(place, EPOCH, payload, newest)}
    if place.keys.unwrap(document, place.owner, place.region) != payload:
        raise _another(place, EPOCH)
    return document


def _emptied(place: KeyPlace, found: KeyObject, at: str, newest: int) -> dict[str, object]:
    """The first epoch's object without its key."""
    said = {name: found.document[name] for name in ("owner", "home") if name in found.document}
    kept = {"epoch": EPOCH, "tenant_id": place.owner, "newest": newest, **said}
    return {**kept, "region": place.region, "destroyed": str(found.document.get("destroyed", at))}


def _another(place: KeyPlace, epoch: int) -> KeyServiceError:
    return KeyServiceError(
        "A data key that was wrapped anew comes back as another",
        on=place.url(epoch),
        remedy="nothing was changed; do not use this key service",
    )


def _rewrapped(place: KeyPlace, found: KeyObject) -> dict[str, object]:
    if found.destroyed:
        return dict(found.document)
    payload = unwrap(place, found)
    newest = found.newest if "newest" in found.document else None
    document = {**found.document, **key_document(place, found.epoch, payload, newest)}
    if place.keys.unwrap(document, place.owner, place.region) != payload:
        raise _another(place, found.epoch)
    return document


def begin_epoch(place: KeyPlace) -> int:
    """Make a data key for the next epoch, in which everything is sealed from then on; its number. Needs the tenant's lease.

    An object that a killed predecessor left is taken: nothing is sealed with its key yet.
    """
    first = read_key_object(place, EPOCH)
    epoch = first.newest + 1
    if epoch > LAST_EPOCH:
        raise KeyServiceError(
            "The repository has no further key epochs",
            on=place.url(first.newest),
            why=f"it has had {LAST_EPOCH}",
            remedy="re-wrapping is still possible: `sbh keys rotate`",
        )
    _, name_key = read_epoch(place, first.newest)
    payload = payload_of(epoch, os.urandom(DATA_KEY_BYTES), name_key)
    with suppress(ObjectExists):
        place.store.create(place.key(epoch), pretty(key_document(place, epoch, payload)))
    _, kept_name_key = read_epoch(place, epoch)
    if kept_name_key != name_key:
        raise CorruptObject(
            "A key object belongs to another repository",
            on=place.url(epoch),
            why="nothing is sealed with its key yet",
            remedy="delete the object, and run it again",
        )

    def pointed(_: KeyPlace, found: KeyObject) -> dict[str, object]:
        return _pointing(place, found, max(epoch, found.newest))

    _replaced(place, EPOCH, pointed)
    if (
        place.marks is not None
    ):  # last: until then the object itself tells, and `put_right` makes up for a mark that is missing
        place.marks.begin(name_key, epoch)
    return epoch


def destroy_epoch(place: KeyPlace, epoch: int, at: str) -> None:
    """Destroy the key of an epoch in which nothing is sealed or signed any more. Needs the tenant's lease.

    The first epoch's object stays, without its key: it says which epoch is the newest. The mark comes first: from then on the
    key is refused by its number, wherever a copy of it comes from.
    """
    newest = read_key_object(place, EPOCH).newest
    if epoch >= newest:
        raise ValueError("the newest epoch is in use")
    if place.marks is not None:
        place.marks.end(read_epoch(place, newest)[1], epoch)
    if epoch > EPOCH:
        place.store.delete([place.key(epoch)])
        return

    def emptied(_: KeyPlace, found: KeyObject) -> dict[str, object]:
        return _emptied(place, found, at, found.newest)

    _replaced(place, EPOCH, emptied)


def set_owner(place: KeyPlace, choose: Callable[[OwnerDocument | None], OwnerDocument]) -> OwnerDocument:
    """Say whose the repository is; `choose` is given what it says now, and may raise. Raises ObjectMissing where there is none."""

    def owned(_: KeyPlace, found: KeyObject) -> dict[str, object]:
        return {**found.document, "owner": choose(found.owner).as_dict()}

    _, document = _replaced(place, EPOCH, owned)
    said = OwnerDocument.read(document["owner"])
    assert said is not None
    return said


def _replaced(
    place: KeyPlace, epoch: int, change: Callable[[KeyPlace, KeyObject], dict[str, object]]
) -> tuple[KeyObject, dict[str, object]]:
    """Change a key object unless somebody else changes it meanwhile: then look again. (before, after)."""
    for _ in range(_TRIES):
        found = read_key_object(place, epoch)
        # Only the key in it is authenticated, and what a line or a cache made of the rest would be written back.
        if read_key_object(place, epoch).document != found.document:
            continue
        document = change(place, found)
        if document == found.document:
            return found, document
        try:
            body = pretty(document)
            place.store.replace(place.key(epoch), body, found.etag)
            prove_stored(place.store, place.key(epoch), body)  # the former key may be destroyed on the strength of this
            return found, document
        except ObjectChanged:  # or the answer to our own write was lost: then there is nothing left to change
            continue
    raise KeyServiceError(
        "A key object keeps changing while it is written",
        on=place.url(epoch),
        remedy="see who else rotates this tenant's keys, and run it again",
    )
