"""The obligations of `stores/base.py`, held against every implementation: S3 (SeaweedFS) and a local directory."""

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sbh_pipelines.embedded.servers import object_server
from sbh_pipelines.embedded.servers.layout import Layout
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import (
    ObjectChanged,
    ObjectExists,
    ObjectMissing,
    SbhError,
    StoreDenied,
    StoreError,
    StoreUnavailable,
)
from sbh_pipelines.stores.local import open_local
from sbh_pipelines.stores.object_store import Store
from sbh_pipelines.stores.s3 import open_s3

BUCKET, REGION = "sbh-files-eu-west-1", "eu-west-1"


def secret(stack: Stack) -> str:
    return object_server.secret_file(Layout(stack.dir)).read_text().strip()


def s3(stack: Stack, **changes: object) -> Store:
    arguments = {
        "endpoint_url": stack.s3_endpoint,
        "access_key_id": object_server.ACCESS_KEY,
        "secret_access_key": secret(stack),
        **changes,
    }
    return open_s3(arguments.pop("bucket", BUCKET), REGION, **arguments)  # type: ignore[arg-type]


@pytest.fixture(params=["s3", "local"])
def store(request: pytest.FixtureRequest, embedded_stack: Stack, tmp_path: Path) -> Store:
    return s3(embedded_stack) if request.param == "s3" else open_local(tmp_path / "bucket")


@pytest.fixture
def prefix() -> str:
    return f"suite/{uuid.uuid4().hex}/"


def test_what_was_put_is_read_listed_and_ranged(store: Store, prefix: str) -> None:
    store.put(prefix + "a", b"0123456789")
    assert store.get(prefix + "a") == b"0123456789"
    assert store.get_range(prefix + "a", 3, 4) == b"3456"
    assert store.head(prefix + "a").size == 10
    assert [(o.key, o.size) for o in store.list(prefix)] == [(prefix + "a", 10)]
    store.put(prefix + "a", b"new")
    assert store.get(prefix + "a") == b"new"


def test_an_empty_object_is_an_object(store: Store, prefix: str) -> None:
    store.put(prefix + "empty", b"")
    assert store.get(prefix + "empty") == b""
    assert store.head(prefix + "empty").size == 0


def test_missing_objects_are_missing(store: Store, prefix: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.get(prefix + "no"),
        lambda: store.get_range(prefix + "no", 0, 1),
        lambda: store.head(prefix + "no"),
        lambda: store.stream(prefix + "no"),
        lambda: list(store.list("no such folder/")) or store.get(prefix + "no"),
    ]
    for call in calls:
        with pytest.raises(ObjectMissing, match=r"SBH-402"):
            call()
    store.delete([prefix + "no", prefix + "neither"])


def test_a_range_beyond_the_end_is_an_error_or_short(store: Store, prefix: str) -> None:
    """Never other bytes, never an error of the driver."""
    store.put(prefix + "a", b"0123")
    assert store.get_range(prefix + "a", 2, 100) == b"23"
    with pytest.raises(StoreError):
        store.get_range(prefix + "a", 100, 2)


def test_create_only_keeps_what_is_there(store: Store, prefix: str) -> None:
    store.create(prefix + "a", b"first")
    with pytest.raises(ObjectExists):
        store.create(prefix + "a", b"second")
    assert store.get(prefix + "a") == b"first"


def test_of_simultaneous_creates_exactly_one_wins(store: Store, prefix: str) -> None:
    assert race(8, lambda n: store.create(prefix + "a", b"%d" % n), ObjectExists) == 1


def test_replace_needs_the_etag_it_was_given(store: Store, prefix: str) -> None:
    etag = store.create(prefix + "a", b"one")
    newer = store.replace(prefix + "a", b"two", etag)
    with pytest.raises(ObjectChanged):
        store.replace(prefix + "a", b"three", etag)
    assert store.get_with_etag(prefix + "a") == (b"two", newer)


def test_of_simultaneous_replaces_exactly_one_wins(store: Store, prefix: str) -> None:
    etag = store.create(prefix + "a", b"start")
    assert race(8, lambda n: store.replace(prefix + "a", b"writer %d" % n, etag), ObjectChanged) == 1


def test_replacing_what_is_gone_fails(store: Store, prefix: str) -> None:
    etag = store.create(prefix + "a", b"x")
    store.delete([prefix + "a"])
    with pytest.raises((ObjectChanged, ObjectMissing)):
        store.replace(prefix + "a", b"y", etag)


def race(threads: int, work: Callable[[int], object], loses: type[SbhError]) -> int:
    """How many of `threads` simultaneous calls succeed; the others must fail with `loses`."""
    barrier, won = threading.Barrier(threads), []

    def run(n: int) -> None:
        barrier.wait()
        try:
            work(n)
            won.append(n)
        except loses:
            pass

    running = [threading.Thread(target=run, args=(n,)) for n in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return len(won)


def test_long_listings_are_complete_and_deletes_come_in_batches(store: Store, prefix: str) -> None:
    keys = {f"{prefix}{n % 7}/{n:04d}" for n in range(1203)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b"x"), keys))
    assert {o.key for o in store.list(prefix)} == keys
    assert {o.key for o in store.list(prefix + "3/")} == {k for k in keys if k.startswith(prefix + "3/")}
    store.delete(iter(sorted(keys)))
    assert list(store.list(prefix)) == []


@pytest.mark.parametrize(
    "name", ["with space", "ünï©ode 🗂", "quote\"'s", "100%", "%2e%2e", "a+b&c=d?e#f", "semi;colon", "~tilde", "{brace}"]
)
def test_unusual_names_come_back_as_they_are(name: str, store: Store, prefix: str) -> None:
    store.put(prefix + name, name.encode())
    assert store.get(prefix + name) == name.encode()
    assert [o.key for o in store.list(prefix)] == [prefix + name]


def test_large_objects_go_up_in_parts_and_come_back_whole(store: Store, prefix: str) -> None:
    data = bytes(range(256)) * (20 << 12)  # 20 MiB
    store.put(prefix + "large", data)
    assert store.get(prefix + "large") == data
    store.put_stream(prefix + "streamed", (data[n : n + 777_777] for n in range(0, len(data), 777_777)), {})
    _, pieces = store.stream(prefix + "streamed")
    assert b"".join(bytes(p) for p in pieces) == data


def test_a_stream_that_breaks_off_leaves_no_object(store: Store, prefix: str) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x" * 9_000_000
        yield b"y" * 9_000_000
        raise RuntimeError("the source broke off")

    with pytest.raises(RuntimeError, match="broke off"):
        store.put_stream(prefix + "half", broken(), {})
    with pytest.raises(ObjectMissing):
        store.get(prefix + "half")


def test_reading_from_a_store_while_writing_to_it_works(store: Store, prefix: str) -> None:
    """A restore streams slices out of packs into files of the same bucket."""
    store.put(prefix + "source", b"abc" * 1000)
    store.put_stream(prefix + "target", (store.get_range(prefix + "source", n, 3) for n in range(0, 3000, 3)), {})
    assert store.get(prefix + "target") == b"abc" * 1000


def test_conditional_streams_tell_a_changed_object(store: Store, prefix: str) -> None:
    store.put(prefix + "a", b"old")
    etag = store.head(prefix + "a").etag
    store.put(prefix + "a", b"newer")
    with pytest.raises(ObjectChanged):
        store.stream(prefix + "a", if_match=etag)


def test_attributes_survive_in_s3(embedded_stack: Stack, prefix: str) -> None:
    store = s3(embedded_stack)
    store.put_stream(prefix + "a", [b"x"], {"Content-Type": "application/pdf", "owner": "ann"})
    attributes, _ = store.stream(prefix + "a")
    assert attributes["Content-Type"] == "application/pdf"
    assert attributes["owner"] == "ann"


def test_wrong_credentials_are_denied_and_not_shown(embedded_stack: Stack, prefix: str) -> None:
    store = s3(embedded_stack, secret_access_key="not-the-secret-at-all", retries=0)
    with pytest.raises(StoreDenied) as caught:
        store.get(prefix + "a")
    assert "not-the-secret" not in str(caught.value) + repr(store)


def test_a_missing_bucket_is_an_error_with_its_name(embedded_stack: Stack, prefix: str) -> None:
    store = s3(embedded_stack, bucket="sbh-no-such-bucket", retries=0)
    for call in (lambda: store.put(prefix + "a", b"x"), lambda: store.get(prefix + "a")):
        with pytest.raises(StoreError, match="sbh-no-such-bucket"):
            call()
    for write in (
        store.put,
        store.create,
    ):  # an object need not be there to be written: it is the bucket that is missing
        with pytest.raises(ObjectMissing) as caught:
            write(prefix + "a", b"x")
        assert caught.value.what == "No such bucket"
        assert "aws s3 mb" in caught.value.remedy


def test_a_server_that_is_down_is_unavailable(prefix: str) -> None:
    """A transient error: the same call may succeed later."""
    store = open_s3(
        BUCKET,
        REGION,
        endpoint_url="http://127.0.0.1:9",
        access_key_id="a",
        secret_access_key="b",
        retries=0,
        timeout_s=2,
    )
    with pytest.raises(StoreUnavailable) as caught:
        store.get(prefix + "a")
    assert caught.value.transient
    assert "Debug source" not in str(caught.value)
    assert "RetryError" not in str(caught.value)
