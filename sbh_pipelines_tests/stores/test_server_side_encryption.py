"""Server-side encryption: what really goes over the wire with every kind of write, recorded before a real server."""

from collections.abc import Iterator

import pytest

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.settings import StorageSettings
from sbh_pipelines.stores.s3 import Encryption, open_s3
from sbh_pipelines_tests.support.fix_moto import ACCESS, make_buckets, s3_client
from sbh_pipelines_tests.support.recording_proxy import Proxy, Seen, recording

EU = "eu-west-1"
ALGORITHM = "x-amz-server-side-encryption"
KMS = {ALGORITHM: "aws:kms", f"{ALGORITHM}-aws-kms-key-id": "alias/sbh", f"{ALGORITHM}-bucket-key-enabled": "true"}


def begins_an_object(seen: Seen) -> bool:
    """A put of a whole object, or the beginning of one in parts: there S3 wants the headers, and nowhere else."""
    return (seen.method == "PUT" and "partNumber" not in seen.query) or (
        seen.method == "POST" and seen.query.startswith("uploads")
    )


def asked(seen: Seen) -> dict[str, str]:
    """The encryption headers of a request; boto3 writes True where obstore writes true."""
    return {name: value.lower() for name, value in seen.headers.items() if name.startswith(ALGORITHM)}


@pytest.fixture
def proxy(embedded_stack: Stack) -> Iterator[Proxy]:
    with recording(embedded_stack.kms_endpoint) as running:
        yield running


@pytest.mark.parametrize(
    ("encryption", "headers"),
    [
        (None, {}),
        (Encryption("AES256"), {ALGORITHM: "aes256"}),
        (Encryption("aws:kms"), {ALGORITHM: "aws:kms"}),
        (Encryption("aws:kms", "alias/sbh", True), KMS),
    ],
)
def test_every_write_asks_for_it(
    embedded_stack: Stack, proxy: Proxy, encryption: Encryption | None, headers: dict[str, str]
) -> None:
    bucket = make_buckets(embedded_stack, eu_west_1=EU).replace("{region}", EU)
    store = open_s3(bucket, EU, endpoint_url=proxy.url, retries=0, encryption=encryption, **ACCESS)
    etag = store.create("a/created", b"1")
    store.replace("a/created", b"2", etag)
    store.put("a/put", b"3")
    store.put("a/parts", b"x" * (17 << 20))
    store.put_stream("a/stream", iter([b"4"]), {"Content-Type": "text/plain"})
    store.put_stream("a/long", iter([b"5" * (9 << 20), b"6" * (9 << 20)]), {})
    store.put_stream("a//odd", iter([b"7"]), {"owner": "ann"})
    store.put_stream("a/./odd in parts", iter([b"8" * (9 << 20)]), {})
    writes = [seen for seen in proxy.seen if begins_an_object(seen)]
    assert len(writes) == 8
    for seen in writes:
        assert asked(seen) == headers
    assert all(asked(seen) == {} for seen in proxy.seen if not begins_an_object(seen))
    if encryption:  # and the server took it
        for key in ("a/created", "a/parts", "a/long", "a//odd"):
            head = s3_client(embedded_stack, EU).head_object(Bucket=bucket, Key=key)
            assert head["ServerSideEncryption"] == encryption.algorithm


def test_the_settings_say_it_for_a_region() -> None:
    key = "arn:aws:kms:{region}:111122223333:alias/sbh"
    storage = StorageSettings(sse="aws:kms", sse_kms_key_id=key)
    assert Encryption.of(storage, EU) == Encryption("aws:kms", "arn:aws:kms:eu-west-1:111122223333:alias/sbh", True)
    assert Encryption.of(StorageSettings(sse="aws:kms", sse_bucket_key=False), EU) == Encryption("aws:kms")
    assert Encryption.of(StorageSettings(sse="AES256"), EU) == Encryption("AES256")
    assert Encryption.of(StorageSettings(), EU) is None
