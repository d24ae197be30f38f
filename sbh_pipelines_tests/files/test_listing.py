"""A listing's fingerprint: the same for the same files in any order, another for any difference that a backup would store."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sbh_pipelines.errors import StoreDenied, StoreError, StoreUnavailable
from sbh_pipelines.files.listing import Listing, listing_fingerprint, made_exactly
from sbh_pipelines.stores.base import ObjectInfo

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
FILES = [ObjectInfo(f"p/{name}", len(name), f'"{name}"', NOON) for name in ("a", "b/c", "b-c", "é", "z" * 200)]


class Listed:
    """A store of which only listings are asked."""

    def __init__(self, quick: Sequence[ObjectInfo], exact: Sequence[ObjectInfo] | None = None, lists_all: bool = True):
        self.quick, self.exact, self.lists_all = quick, exact, lists_all
        self.error: StoreError | None = None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        yield from self.quick
        if self.error is not None:
            raise self.error

    def list_exactly(self, prefix: str) -> Iterator[ObjectInfo]:
        assert self.exact is not None
        yield from self.exact


def both(store: Any, *exclude: str, exactly: bool = False) -> str:
    """The fingerprint, which a sorted listing gives as well."""
    quick = listing_fingerprint(store, "p/", exclude, exactly=exactly)
    with Listing(store, "p/", exclude, exactly=exactly) as listing:
        assert listing.fingerprint == quick
    return quick


def test_order_does_not_matter() -> None:
    shuffled = random.Random(1).sample(FILES, len(FILES))
    assert shuffled != FILES
    assert both(Listed(FILES)) == both(Listed(shuffled))


@pytest.mark.parametrize(
    "change",
    [
        {"key": "p/A"},
        {"size": 2},
        {"etag": '"b"'},
        {"modified": NOON + timedelta(seconds=1)},
        {"key": "p/a\0", "size": 1},
    ],
)
def test_every_difference_shows(change: dict[str, Any]) -> None:
    """Also a file more, a file less, and two files that swapped their content."""
    prints = {both(Listed(FILES)), both(Listed([replace(FILES[0], **change), *FILES[1:]]))}
    prints |= {both(Listed(FILES[1:])), both(Listed([*FILES, ObjectInfo("p/more", 0, '""', NOON)])), both(Listed([]))}
    swapped = [replace(FILES[0], etag=FILES[1].etag), replace(FILES[1], etag=FILES[0].etag), *FILES[2:]]
    assert len(prints | {both(Listed(swapped))}) == 6


def test_what_a_backup_does_not_store_does_not_matter() -> None:
    """Parts of a second, folders' markers, excluded prefixes."""
    later = [replace(info, modified=info.modified + timedelta(microseconds=999_999)) for info in FILES]
    more = [ObjectInfo("p/folder/", 0, '""', NOON), ObjectInfo("p/backups/x", 1, '""', NOON)]
    assert both(Listed([*later, *more]), "backups/") == both(Listed(FILES))


@pytest.mark.parametrize("lists_all", [True, False])
def test_a_listing_that_is_not_to_be_trusted(lists_all: bool) -> None:
    """An exact one takes its place, and the fingerprint says so."""
    odd = [*FILES, ObjectInfo("p/\ufffd", 1, '""', NOON)]
    exact = [*FILES, ObjectInfo("p/\ufffe", 1, '""', NOON)]
    found = both(Listed(odd, exact, lists_all))
    assert made_exactly(found)
    assert found == both(Listed([], exact), exactly=True)


def test_two_keys_that_look_the_same() -> None:
    """A quick fingerprint does not see it, but is another one; asked for exactly, it is that of the listing."""
    exact = [*FILES, ObjectInfo("p/a/", 1, '"x"', NOON)]
    store: Any = Listed([*FILES, replace(FILES[0], etag='"x"')], exact)
    with Listing(store, "p/", ()) as listing:
        stored = listing.fingerprint
        assert [info.key for info in listing] == sorted((info.key for info in exact), key=str.encode)
    assert made_exactly(stored)
    assert listing_fingerprint(store, "p/", ()) != stored
    assert listing_fingerprint(store, "p/", (), exactly=True) == stored


def test_errors_of_listings() -> None:
    """Those about a key lead to an exact listing, those about the store are told."""
    store = Listed(FILES[:2], FILES)
    store.error = StoreError("a key that is no path", on="p/a//b")
    assert both(store) == both(Listed([], FILES), exactly=True)
    for error in (StoreUnavailable("away", on="p/"), StoreDenied("no", on="p/")):
        store.error = error
        with pytest.raises(type(error)):
            both(store)
