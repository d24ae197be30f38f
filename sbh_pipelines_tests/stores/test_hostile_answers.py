"""A server that answers wrongly: cut short, too long, contradictory, an error under a good status. Never taken for success."""

from collections.abc import Iterator

import pytest

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import ObjectMissing, StoreError, StoreUnavailable
from sbh_pipelines.stores.object_store import Store
from sbh_pipelines.stores.s3 import open_s3
from sbh_pipelines_tests.support.fix_moto import ACCESS, make_buckets
from sbh_pipelines_tests.support.recording_proxy import Answer, Proxy, Seen, recording

EU = "eu-west-1"
BODY = bytes(range(200))
DENIED = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
XML = {"Content-Type": "application/xml"}


@pytest.fixture
def proxy(embedded_stack: Stack) -> Iterator[Proxy]:
    with recording(embedded_stack.kms_endpoint) as running:
        yield running


@pytest.fixture
def store(embedded_stack: Stack, proxy: Proxy) -> Store:
    bucket = make_buckets(embedded_stack, eu_west_1=EU).replace("{region}", EU)
    made = open_s3(bucket, EU, endpoint_url=proxy.url, retries=0, timeout_s=3, **ACCESS)
    made.put("a/b", BODY)
    return made


def is_get(seen: Seen) -> bool:
    return seen.method == "GET" and seen.path.endswith("/a/b")


@pytest.mark.parametrize("kept", [0, 1, 199])
def test_a_body_cut_short_is_an_error(store: Store, proxy: Proxy, kept: int) -> None:
    """The header says 200 bytes; the connection ends before."""

    def cut(seen: Seen, answer: Answer) -> Answer:
        if not is_get(seen):
            return answer
        return Answer(answer.status, {**answer.headers, "Content-Length": "200", "Connection": "close"}, BODY[:kept])

    proxy.after = cut
    with pytest.raises(StoreError):
        store.get("a/b")
    with pytest.raises(StoreError):
        b"".join(bytes(piece) for piece in store.stream("a/b")[1])
    with pytest.raises(StoreError):
        b"".join(bytes(piece) for piece in store._odd.stream("a/b", None, None)[1])


def test_a_range_of_another_length_is_an_error_or_short(store: Store, proxy: Proxy) -> None:
    """Never more bytes than were asked for, never others without a word: readers check lengths and hashes besides."""

    def other(seen: Seen, answer: Answer) -> Answer:
        return Answer(200, {n: v for n, v in answer.headers.items() if n.lower() != "content-range"}, BODY)

    proxy.after = lambda seen, answer: other(seen, answer) if is_get(seen) else answer
    with pytest.raises(StoreError):
        store.get_range("a/b", 10, 5)
    with pytest.raises(StoreError):
        store.get_ranges("a/b", [(10, 5), (100, 5)])


@pytest.mark.parametrize("kept", [0, 3, 20])
def test_ranges_that_are_shorter_than_they_say_are_an_error_of_ours(store: Store, proxy: Proxy, kept: int) -> None:
    """The driver panics over them, which is no Exception: nothing that handles errors would stop it."""

    def cut(seen: Seen, answer: Answer) -> Answer:
        return Answer(answer.status, answer.headers, answer.body[:kept]) if is_get(seen) else answer

    proxy.after = cut
    with pytest.raises(StoreUnavailable):
        store.get_ranges("a/b", [(10, 5), (100, 50)])


def test_deletes_that_are_refused_one_by_one_are_told(store: Store, proxy: Proxy) -> None:
    """S3 answers 200 to a delete of many, and names those that it refused in the body."""
    refused = (
        b"<DeleteResult><Error><Key>a/b</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>"
    )
    proxy.before = lambda seen: Answer(200, XML, refused) if "delete" in seen.query else None
    with pytest.raises(StoreError):
        store.delete(["a/b", "a/c"])


def test_an_upload_in_parts_that_fails_under_a_good_status_is_told(store: Store, proxy: Proxy) -> None:
    """S3 begins its answer to the completion before it knows how it ends."""
    proxy.before = lambda seen: (
        Answer(200, XML, b"<Error><Code>InternalError</Code><Message>sorry</Message></Error>")
        if seen.method == "POST" and "uploadId" in seen.query
        else None
    )
    with pytest.raises(StoreError):
        store.put("a/large", b"x" * (17 << 20))
    with pytest.raises(StoreError):
        store.put_stream("a/large", iter([b"x" * (9 << 20), b"y" * (9 << 20)]), {})
    proxy.before = lambda _: None
    with pytest.raises(ObjectMissing):
        store.head("a/large")


@pytest.mark.parametrize("body", [b"not XML", b"<ListBucketResult><Contents><Key>a/b</Key>", b""])
def test_a_listing_cut_short_is_an_error(store: Store, proxy: Proxy, body: bytes) -> None:
    """Not an empty one: what is not listed would be taken for gone."""
    proxy.before = lambda seen: Answer(200, XML, body) if "list-type" in seen.query else None
    with pytest.raises(StoreError):
        list(store.list("a/"))
    with pytest.raises(StoreError):
        list(store.list_exactly("a/"))


@pytest.mark.parametrize(
    "page",
    [
        b"<ListBucketResult></ListBucketResult>",
        b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
        b"<ListBucketResult><IsTruncated>true</IsTruncated><Contents><Key>a/b</Key><Size>200</Size><ETag>e</ETag>"
        b"<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents></ListBucketResult>",
        b"<Error><Code>SlowDown</Code></Error>",
    ],
)
def test_an_exact_listing_knows_that_it_is_complete(store: Store, proxy: Proxy, page: bytes) -> None:
    """obstore takes these for the end; nothing can be done about that from outside of it."""
    proxy.before = lambda seen: Answer(200, XML, page) if "list-type" in seen.query else None
    with pytest.raises(StoreError):
        list(store.list_exactly("a/"))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_leads_no_write_elsewhere(store: Store, proxy: Proxy, embedded_stack: Stack, status: int) -> None:
    """Nobody proved where the other server is. obstore follows requests without content: those take no credentials along."""
    with recording(embedded_stack.kms_endpoint) as elsewhere:
        proxy.before = lambda seen: Answer(status, {"Location": f"{elsewhere.url}{seen.path}"}, b"")
        with pytest.raises(StoreError):
            store.put("a/b", b"secret")
        with pytest.raises(StoreError):
            store.create("a/c", b"secret")
        with pytest.raises(StoreError):
            store.put_stream("a/long", iter([b"s" * (9 << 20), b"s" * (9 << 20)]), {})
        with pytest.raises(StoreError):
            store.put_stream("a//b", iter([b"secret"]), {})
        with pytest.raises(StoreError):
            store.get("a/b")
        assert all(not seen.body and "authorization" not in seen.headers for seen in elsewhere.seen)


@pytest.mark.parametrize("key", ["", "/", "a/../b", "a\x00b", "a/" + "x" * 1100, "\ud800", "a\nb", "..", "/a"])
def test_hostile_keys_end_in_our_errors(store: Store, key: str) -> None:
    """Whatever happens, it is not a driver's error, and never another object."""
    for call in (
        lambda: store.put(key, b"x"),
        lambda: store.create(key, b"x"),
        lambda: store.get(key),
        lambda: store.head(key),
        lambda: store.stream(key),
        lambda: store.put_stream(key, iter([b"x"]), {}),
        lambda: store.delete([key]),
    ):
        try:
            call()
        except StoreError:
            continue
    assert store.get("a/b") == BODY
