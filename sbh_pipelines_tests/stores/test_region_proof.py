"""Where a bucket is, asked of a server that knows: right, wrong, silent, refusing, gone, changed while we watch."""

import threading
from typing import Any

import pytest

from sbh_pipelines.embedded.servers import object_server
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import ObjectMissing, ResidencyError, SettingsError, StoreDenied, StoreUnavailable
from sbh_pipelines.placement import Place
from sbh_pipelines.settings import StorageSettings
from sbh_pipelines.stores.bound_store import BoundStore
from sbh_pipelines.stores.open_store import endpoint
from sbh_pipelines.stores.region_proof import RegionProof
from sbh_pipelines.stores.s3_control import S3Control
from sbh_pipelines_tests.stores.test_stores import secret
from sbh_pipelines_tests.support.fix_moto import ACCESS, make_buckets
from sbh_pipelines_tests.support.recording_proxy import Answer, recording

EU, US = "eu-west-1", "us-east-1"


def control(url: str, region: str = EU) -> S3Control:
    return S3Control(region, endpoint_url=url, timeout_s=60, **ACCESS)


def test_the_server_says_where_a_bucket_is(embedded_stack: Stack) -> None:
    template = make_buckets(embedded_stack, eu_west_1=EU, us_east_1="eu-central-1")
    here = control(embedded_stack.kms_endpoint)
    assert here.real_region(template.replace("{region}", EU)) == EU
    assert here.real_region(template.replace("{region}", US)) == "eu-central-1"
    with pytest.raises(ObjectMissing):
        here.real_region("nobodys-bucket")


@pytest.mark.parametrize(
    ("status", "headers", "body", "expected"),
    [
        (403, {"x-amz-bucket-region": "eu-central-1"}, b"", "eu-central-1"),
        (301, {"x-amz-bucket-region": "ap-south-1"}, b"", "ap-south-1"),
        (400, {"x-amz-bucket-region": US}, b"", US),
        (403, {}, b"", StoreDenied),
        (500, {}, b"", StoreUnavailable),
        (503, {}, b"", StoreUnavailable),
        (404, {}, b"", ObjectMissing),
    ],
)
def test_a_refusal_may_tell_and_trouble_is_not_taken_for_an_answer(
    embedded_stack: Stack, status: int, headers: dict[str, str], body: bytes, expected: Any
) -> None:
    """AWS names the region also where it refuses, and where the endpoint is another region's."""
    with recording(embedded_stack.kms_endpoint) as proxy:
        proxy.before = lambda _: Answer(status, headers, body)
        asking = control(proxy.url)
        if isinstance(expected, str):
            assert asking.real_region("bucket") == expected
        else:
            with pytest.raises(expected):
                asking.real_region("bucket")


def test_a_server_that_knows_no_regions_proves_nothing(embedded_stack: Stack) -> None:
    """SeaweedFS answers an empty location, which from AWS would mean us-east-1."""
    key, secret_key = object_server.ACCESS_KEY, secret(embedded_stack)
    asking = S3Control(US, endpoint_url=embedded_stack.s3_endpoint, access_key_id=key, secret_access_key=secret_key)
    proof = RegionProof(lambda place: asking.real_region(place.bucket), 60)
    with pytest.raises(ResidencyError, match="Nothing proves"):
        proof.check(Place("sbh-files-us-east-1", "p/", US))


class Asked:
    """Answers in turn; an error is raised."""

    def __init__(self, *answers: str | Exception) -> None:
        self.answers, self.times, self.now = list(answers), 0, 0.0

    def __call__(self, place: Place) -> str:
        self.times += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_an_answer_holds_for_a_time_and_a_refusal_for_none() -> None:
    asked = Asked(EU, EU, US, EU)
    proof = RegionProof(asked, 100, lambda: asked.now)
    place = Place("b", "p/", EU)
    for _ in range(5):
        proof.check(place)
    assert asked.times == 1
    asked.now = 100
    proof.check(place)
    assert asked.times == 2
    asked.now = 200  # the bucket was deleted and made anew elsewhere
    with pytest.raises(ResidencyError, match="is in us-east-1; nothing was written"):
        proof.check(place)
    proof.check(place)
    assert asked.times == 4


def test_trouble_passes_and_is_asked_about_again() -> None:
    asked = Asked(StoreUnavailable("no"), EU)
    proof = RegionProof(asked, 100)
    with pytest.raises(StoreUnavailable):
        proof.check(Place("b", "p/", EU))
    proof.check(Place("b", "p/", EU))
    proof.check(Place("b", "other/", EU))
    assert asked.times == 2


def test_one_bucket_cannot_stand_for_two_regions() -> None:
    proof = RegionProof(Asked(EU), 100)
    proof.check(Place("b", "p/", EU))
    with pytest.raises(ResidencyError):
        proof.check(Place("b", "p/", US))


def test_of_many_threads_one_asks() -> None:
    asked, barrier = Asked(EU), threading.Barrier(8)
    proof = RegionProof(asked, 100)

    def run() -> None:
        barrier.wait()
        proof.check(Place("b", "p/", EU))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked.times == 1


class Writes:
    """Stands for a store: what reached it."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def call(key: Any, *_: Any, **__: Any) -> str:
            self.keys.append(key)
            return ""

        return call


def every_write(store: BoundStore, key: str) -> Any:
    yield lambda: store.put(key, b"x")
    yield lambda: store.create(key, b"x")
    yield lambda: store.replace(key, b"x", "etag")
    yield lambda: store.put_stream(key, iter([b"x"]), {})


def test_no_write_passes_its_guard() -> None:
    def refuse() -> None:
        raise ResidencyError("no")

    inner = Writes()
    for write in every_write(BoundStore(inner, Place("b", "t/acme/", EU), refuse), "t/acme/x"):  # type: ignore[arg-type]
        with pytest.raises(ResidencyError):
            write()
    assert inner.keys == []


@pytest.mark.parametrize("key", ["t/bolt/x", "t/acme", "x", "", "/t/acme/x", "t/acme\x00/x"])
def test_no_write_leaves_its_prefix(key: str) -> None:
    inner = Writes()
    for write in every_write(BoundStore(inner, Place("b", "t/acme/", EU), lambda: None), key):  # type: ignore[arg-type]
        with pytest.raises(ResidencyError, match="outside of its place"):
            write()
    assert inner.keys == []


def test_every_method_that_writes_is_guarded() -> None:
    """Whoever adds a method to the stores must decide here whether it writes."""
    known = {"put", "create", "replace", "put_stream"} | {
        *(
            "get",
            "get_range",
            "get_ranges",
            "get_with_etag",
            "head",
            "list",
            "lists_all",
            "list_exactly",
            "page",
            "stream",
        ),
        *("delete", "url"),
    }
    assert {name for name in vars(BoundStore) if not name.startswith("_")} == known


def test_an_address_without_tls_is_refused_at_its_first_use() -> None:
    storage = StorageSettings(endpoint_url="http://s3.example.com")
    with pytest.raises(SettingsError, match="is not encrypted"):
        endpoint(storage, EU)
    assert endpoint(storage.model_copy(update={"allow_http": True}), EU) == "http://s3.example.com"
