"""Slow and breaking lines, between us and a real server: a transfer goes on as long as bytes flow, and only then."""

import hashlib
import time
import uuid
from collections.abc import Iterator

import pytest

from sbh_pipelines.embedded.servers import object_server
from sbh_pipelines.embedded.servers.layout import Layout
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import ObjectChanged, StoreUnavailable
from sbh_pipelines.stores.object_store import Store
from sbh_pipelines.stores.s3 import open_s3
from sbh_pipelines_tests.support.slow_proxy import Line, slow_line

BUCKET, REGION = "sbh-files-eu-west-1", "eu-west-1"
TIMEOUT_S = 2.0
BODY = bytes(range(256)) * 4096 * 10  # 10 MiB
RATE = 2 << 20  # bytes a second: three times as long as the timeout


@pytest.fixture
def line(embedded_stack: Stack) -> Iterator[tuple[str, Line]]:
    with slow_line(embedded_stack.s3_endpoint) as slow:
        yield slow


@pytest.fixture
def store(embedded_stack: Stack, line: tuple[str, Line]) -> Store:
    return opened(embedded_stack, line[0])


@pytest.fixture
def key() -> str:
    return f"lines/{uuid.uuid4().hex}"


def opened(stack: Stack, endpoint: str, retries: int = 2) -> Store:
    secret = object_server.secret_file(Layout(stack.dir)).read_text().strip()
    return open_s3(
        BUCKET,
        REGION,
        endpoint_url=endpoint,
        access_key_id=object_server.ACCESS_KEY,
        secret_access_key=secret,
        timeout_s=TIMEOUT_S,
        retries=retries,
    )


def read(store: Store, key: str) -> str:
    digest = hashlib.sha256()
    for piece in store.stream(key)[1]:
        digest.update(piece)
    return digest.hexdigest()


@pytest.mark.parametrize(
    "attributes", [{}, {"Expires": "Thu, 01 Dec 1994 16:00:00 GMT"}], ids=["obstore's way", "our own way"]
)
def test_a_file_that_takes_longer_than_the_timeout_goes_up_and_comes_down(
    store: Store, line: tuple[str, Line], key: str, attributes: dict[str, str]
) -> None:
    line[1].rate = RATE
    begun = time.monotonic()
    store.put_stream(key, [BODY[n : n + 999_999] for n in range(0, len(BODY), 999_999)], attributes)
    up = time.monotonic()
    assert read(store, key) == hashlib.sha256(BODY).hexdigest()
    assert min(up - begun, time.monotonic() - up) > 2 * TIMEOUT_S


def test_objects_of_backups_too(store: Store, line: tuple[str, Line], key: str) -> None:
    line[1].rate = RATE
    store.put(key, BODY)
    assert store.get(key) == BODY


@pytest.mark.parametrize("end", [True, False])
def test_a_silent_line_is_given_up(embedded_stack: Stack, line: tuple[str, Line], key: str, end: bool) -> None:
    store = opened(embedded_stack, line[0], retries=0)
    store.put(key, BODY)
    _, pieces = store.stream(key)
    if end:
        next(pieces)
    line[1].silent = True
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable):
        list(pieces)
    assert time.monotonic() - begun < 10 * TIMEOUT_S
    line[1].silent = False


def test_a_download_goes_on_where_it_broke(store: Store, line: tuple[str, Line], key: str) -> None:
    """More often than a request is repeated: what counts is that something came since."""
    store.put(key, BODY)
    fresh = line[1]
    fresh.cuts = [5 << 20] + [2 << 20] * 3
    _, pieces = store.stream(key)
    fresh.cuts = fresh.cuts or []
    content = b"".join(bytes(piece) for piece in pieces)
    assert (content == BODY, fresh.broken >= 2) == (True, True)


def test_a_file_that_changed_meanwhile_is_not_gone_on_with(store: Store, line: tuple[str, Line], key: str) -> None:
    store.put(key, BODY)
    line[1].cuts = [6 << 20]
    _, pieces = store.stream(key)
    next(pieces)
    store.put(key, b"other")
    with pytest.raises(ObjectChanged):
        list(pieces)
