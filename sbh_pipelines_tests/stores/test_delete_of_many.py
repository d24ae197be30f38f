"""Servers that do not take boto3's delete of many as it is: older Ceph, MinIO and others want Content-MD5, some have none."""

import base64
import hashlib
from collections.abc import Callable, Iterator

import pytest

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import StoreDenied
from sbh_pipelines.stores.purge import VersionPurge
from sbh_pipelines.stores.s3 import open_s3
from sbh_pipelines.stores.s3_client import connect
from sbh_pipelines_tests.support.fix_moto import ACCESS, make_buckets, s3_client
from sbh_pipelines_tests.support.recording_proxy import Answer, Proxy, Seen, recording

EU = "eu-west-1"


@pytest.fixture
def proxy(embedded_stack: Stack) -> Iterator[Proxy]:
    with recording(embedded_stack.kms_endpoint) as running:
        yield running


def error(status: int, code: str) -> Answer:
    return Answer(status, {}, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())


def wants_md5(seen: Seen) -> Answer | None:
    if seen.method != "POST" or "delete" not in seen.query:
        return None
    digest = base64.b64encode(hashlib.md5(seen.body, usedforsecurity=False).digest()).decode()
    return None if seen.headers.get("content-md5") == digest else error(400, "MissingContentMD5")


def has_none(seen: Seen) -> Answer | None:
    return error(501, "NotImplemented") if seen.method == "POST" and "delete" in seen.query else None


@pytest.mark.parametrize("server", [wants_md5, has_none, lambda _: None], ids=["wants MD5", "has none", "control"])
def test_all_is_deleted(embedded_stack: Stack, proxy: Proxy, server: Callable[[Seen], Answer | None]) -> None:
    bucket = make_buckets(embedded_stack, eu_west_1=EU).replace("{region}", EU)
    store = open_s3(bucket, EU, endpoint_url=proxy.url, retries=0, **ACCESS)
    for n in range(5):
        store.put(f"a/{n}", b"x")
    proxy.before = server
    purge = VersionPurge(lambda: connect(EU, endpoint_url=proxy.url, retries=0, **ACCESS), bucket, store)
    done = purge.purge("a/")
    assert (done.versions, done.left) == (5, 0)
    assert not s3_client(embedded_stack, EU).list_objects_v2(Bucket=bucket).get("Contents")
    store.put("b/1", b"x")
    assert purge.purge("b/").versions == 1


def test_what_is_refused_is_counted_and_who_may_not_is_told(embedded_stack: Stack, proxy: Proxy) -> None:
    bucket = make_buckets(embedded_stack, eu_west_1=EU).replace("{region}", EU)
    store = open_s3(bucket, EU, endpoint_url=proxy.url, retries=0, **ACCESS)
    for n in range(3):
        store.put(f"a/{n}", b"x")
    purge = VersionPurge(lambda: connect(EU, endpoint_url=proxy.url, retries=0, **ACCESS), bucket, store)
    proxy.before = lambda seen: error(403, "AccessDenied") if "delete" in seen.query else None
    with pytest.raises(StoreDenied):
        purge.purge("a/")
    locked = lambda seen: error(403, "AccessDenied") if seen.method == "DELETE" and seen.path.endswith("/1") else None  # noqa: E731
    proxy.before = lambda seen: has_none(seen) or locked(seen)
    done = purge.purge("a/")
    assert (done.versions, done.left, done.left_keys) == (2, 1, ["a/1: AccessDenied"])
