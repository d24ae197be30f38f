"""One listing for many tenants tells of each what a listing of its own does, or nothing."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import StoreDenied
from sbh_pipelines.files.common_listing import Known, list_together
from sbh_pipelines.files.listing import ListingPrint, listing_fingerprint
from sbh_pipelines.stores.base import ObjectInfo, Page
from sbh_pipelines.stores.s3 import open_s3
from sbh_pipelines_tests.support.effort import examples

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
EXCLUDE = ("backups/",)
Order = Callable[[str], Any]


def by_bytes(key: str) -> Any:
    return key.encode()


def by_folders(key: str) -> Any:
    """As a server sorts that walks its directories."""
    return key.split("/")


class Paged:
    """A bucket of which pages are asked; `order` is the server's."""

    def __init__(self, keys: set[str], order: Order, size: int) -> None:
        self._keys, self._order, self._size = sorted(keys, key=order), order, size
        self.asked: list[str] = []

    def page(self, prefix: str, after: str) -> Page | None:
        self.asked.append(after)
        behind = [
            key for key in self._keys if key.startswith(prefix) and (not after or self._order(key) > self._order(after))
        ]
        some = behind[: self._size]
        return Page([ObjectInfo(key, len(key), f'"{key}"', NOON) for key in some], len(behind) > len(some))


def own(keys: set[str], prefix: str) -> str:
    found = ListingPrint()
    for key in keys:
        if key.startswith(prefix) and not key.startswith(f"{prefix}backups/"):
            found.add(key[len(prefix) :], len(key), f'"{key}"', NOON)
    return found.text(exactly=True)


slugs = st.sampled_from(["acme", "acme-2", "acme.b", "acme0", "acme~", "a", "b", "B", "zeta", "zeta-backups"])
names = st.sampled_from(
    ["x", "x/y", "backups", "backups-old/x", "backups/a", "backups/m/1", "backups/m/2", "backups/z/1", "backups0/x", "é", "\U0010ffff", "\U0010fffe/x", "~", ".", "-"]
)  # fmt: skip
anything = st.one_of(
    st.builds("files/{}/{}".format, slugs, names),
    st.builds("files/{}/{}/{}".format, slugs, names, st.integers(0, 30)),
    st.sampled_from(["files/loose", "files/acme", "_sbh-catalog/x", "filesystem/x"]),
)


@settings(max_examples=examples(300))
@given(
    st.sets(anything, max_size=120),
    st.sets(slugs, min_size=1),
    st.sampled_from([by_bytes, by_folders]),
    st.integers(1, 12),
)
def test_what_is_told_is_true(keys: set[str], wanted: set[str], order: Order, size: int) -> None:
    """Whatever the names, the order, and where pages end: never other files than a listing of the tenant's own has."""
    tenants = [Known(f"files/{slug}/", [f"files/{slug}/backups/m/1"]) for slug in wanted]
    store: Any = Paged(keys, order, size)
    told = list_together(store, "files/", tenants, EXCLUDE)
    assert len(store.asked) <= 2 * len(keys) + 2
    for prefix, seen in told.items():
        assert seen.found.text(exactly=True) == own(keys, prefix)
        assert seen.missing == {f"{prefix}backups/m/1"} - keys


def test_small_tenants_are_all_told_of_in_few_requests() -> None:
    """Their backups are passed over, whose every object the tenant's own listing would go through."""
    slugs = [f"tenant-{n}" for n in range(90)]
    files = {f"files/{slug}/{n}" for slug in slugs for n in range(3)}
    backups = {f"files/{slug}/backups/{kind}/{n:04}" for slug in slugs for kind in "amz" for n in range(50)}
    store: Any = Paged(files | backups, by_bytes, 1000)
    tenants = [Known(f"files/{slug}/", [f"files/{slug}/backups/m/0049"]) for slug in slugs]
    told = list_together(store, "files/", tenants, EXCLUDE)
    assert len(told) == 90
    assert not any(seen.missing for seen in told.values())
    assert len(store.asked) <= 15


def test_a_tenant_of_many_files_is_left_to_itself() -> None:
    keys = {f"files/{slug}/{n:05}" for slug, count in {"a": 3, "b": 5000, "c": 3}.items() for n in range(count)}
    store: Any = Paged(keys, by_bytes, 100)
    told = list_together(store, "files/", [Known(f"files/{slug}/") for slug in "abc"], EXCLUDE)
    assert set(told) == {"files/a/", "files/c/"}
    assert len(store.asked) <= 4


def test_where_most_are_others_it_is_given_up() -> None:
    """A page that tells of nobody costs more than a listing of one tenant."""
    keys = {f"files/{n:05}/{name}" for n in range(5000) for name in "abc"}
    store: Any = Paged(keys, by_folders, 100)
    assert list_together(store, "files/", [Known("files/00001/"), Known("files/04999/")], EXCLUDE) == {}
    assert len(store.asked) <= 4


def test_where_it_is_denied_nobody_is_told_of() -> None:
    class Denied:
        def page(self, prefix: str, after: str) -> Page:
            raise StoreDenied("The store refused to list objects")

    store: Any = Denied()
    assert list_together(store, "files/", [Known("files/a/")], EXCLUDE) == {}


@pytest.mark.parametrize("versioned", [False, True])
def test_a_real_server_tells_what_its_own_listings_tell(embedded_stack: Stack, versioned: bool) -> None:
    """More than a page of objects, names that sort around folders, a folder of backups that is passed over, former versions."""
    bucket = f"common-listing-{versioned}".lower()
    client = embedded_stack.s3_client()
    with suppress(ClientError):
        client.create_bucket(Bucket=bucket)
    if versioned:
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    credentials = client._request_signer._credentials
    store = open_s3(
        bucket,
        "eu-west-1",
        endpoint_url=embedded_stack.s3_endpoint,
        access_key_id=credentials.access_key,
        secret_access_key=credentials.secret_key,
    )
    slugs = ["acme", "acme-2", "acme.b", *(f"t{n:02}" for n in range(20))]
    names = ["x", "x/y z", "x-1", "é+%&<", "backups-old/x", "backups/keys/1", "backups/manifests/1.json"]
    for slug in slugs:
        for name in names:
            store.put(f"files/{slug}/{name}", name.encode())
    for n in range(1200):
        store.put(f"files/acme/backups/audit/{n:05}", b"x")
    for n in range(30):
        store.put(f"files/t05/{n}", b"x")
    store.put("files/t05/7", b"changed")
    store.delete(["files/t05/8"])
    tenants = [Known(f"files/{slug}/", [f"files/{slug}/backups/manifests/1.json"]) for slug in slugs]
    told = list_together(store, "files/", tenants, EXCLUDE)
    assert len(told) >= len(slugs) - 2
    for prefix, seen in told.items():
        assert seen.found.text(exactly=False) == listing_fingerprint(store, prefix, EXCLUDE)
        assert not seen.missing
