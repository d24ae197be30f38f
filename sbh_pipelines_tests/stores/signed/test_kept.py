"""What S3 keeps with a file comes back as it was, byte for byte: against two servers, and a bucket that demands encryption."""

import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl

import pytest

from sbh_pipelines.embedded.servers import object_server
from sbh_pipelines.embedded.servers.layout import Layout
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import StoreDenied, StoreError
from sbh_pipelines.stores.object_store import Store
from sbh_pipelines.stores.s3 import Encryption, open_s3
from sbh_pipelines.stores.signed import upload
from sbh_pipelines_tests.support.fix_moto import ACCESS, make_buckets, s3_client
from sbh_pipelines_tests.support.recording_proxy import Answer, Proxy, Seen, recording

EU = "eu-west-1"
LATIN = 'attachment; filename="Gr\u00f6\u00dfe.pdf"'  # its bytes are ISO 8859-1
UTF8 = LATIN.encode().decode("latin-1")  # its bytes are UTF-8
FORMS = {
    "nothing": {},
    "all of obstore's": {
        "Content-Type": "text/x",
        "Content-Language": "de",
        "Content-Encoding": "gzip",
        "Content-Disposition": "inline",
        "Cache-Control": "max-age=1",
        "own": "value",
    },
    "raw UTF-8": {"Content-Disposition": UTF8, "Content-Type": UTF8, "Cache-Control": UTF8, "filename": UTF8},
    "raw Latin-1": {"Content-Disposition": LATIN},  # SeaweedFS takes no metadata in it
    "Expires": {"Expires": "Thu, 01 Dec 1994 16:00:00 GMT", "Content-Type": "text/x"},
    "inner blanks": {"own": "a  b   c", "Content-Disposition": "inline;  x"},
    "tags": {"Tagging": "kind=invoice&a+b=%C3%A4%26%3D", "Content-Type": "text/x"},
    "a storage class": {"Storage-Class": "STANDARD_IA", "Content-Type": "text/x"},
}


@pytest.fixture
def real(embedded_stack: Stack) -> Store:
    """SeaweedFS."""
    secret = object_server.secret_file(Layout(embedded_stack.dir)).read_text().strip()
    return open_s3(
        "sbh-files-eu-west-1",
        EU,
        endpoint_url=embedded_stack.s3_endpoint,
        access_key_id=object_server.ACCESS_KEY,
        secret_access_key=secret,
    )


@pytest.fixture
def proxy(embedded_stack: Stack) -> Iterator[Proxy]:
    with recording(embedded_stack.kms_endpoint) as running:
        yield running


def moto(stack: Stack, endpoint: str, **more: Any) -> tuple[Store, str]:
    bucket = make_buckets(stack, eu_west_1=EU).replace("{region}", EU)
    return open_s3(bucket, EU, endpoint_url=endpoint, retries=0, **ACCESS, **more), bucket


def kept(store: Store, key: str) -> dict[str, str]:
    attributes, pieces = store.stream(key)
    assert b"".join(bytes(piece) for piece in pieces).startswith(b"abc")
    return dict(attributes)


@pytest.mark.parametrize("key", ["plain", "odd//one", "\u00fcml#1 a+b%2F?"])
@pytest.mark.parametrize("form", FORMS)
def test_a_real_server_gives_it_back_after_a_restore(real: Store, form: str, key: str) -> None:
    """Put, read as a backup does, put as a restore does, read again."""
    if key == "odd//one" and "own" not in FORMS[form]:
        return  # SeaweedFS makes it one "/"; once is enough
    first, second = (f"kept/{uuid.uuid4().hex}/{key}" for _ in range(2))
    real.put_stream(first, [b"abc"], FORMS[form])
    found = kept(real, first)
    assert {n: found[n] for n in FORMS[form] if n != "Tagging"} == {
        n: v for n, v in FORMS[form].items() if n != "Tagging"
    }
    assert sorted(parse_qsl(found.get("Tagging", ""))) == sorted(parse_qsl(FORMS[form].get("Tagging", "")))
    real.put_stream(second, [b"abc"], found)
    assert kept(real, second) == found


@pytest.mark.parametrize("large", [False, True])
def test_another_server_and_uploads_in_parts(embedded_stack: Stack, large: bool) -> None:
    store, bucket = moto(embedded_stack, embedded_stack.kms_endpoint)
    everything = {
        **FORMS["all of obstore's"],
        "Expires": "Thu, 01 Dec 1994 16:00:00 GMT",
        "Tagging": "a=b&c=d",
        "Storage-Class": "ONEZONE_IA",
        "Website-Redirect-Location": "/else",
    }
    store.put_stream("f", [b"abc", b"d" * ((9 << 20) if large else 1)], everything)
    head = s3_client(embedded_stack, EU).head_object(Bucket=bucket, Key="f")
    assert (head["StorageClass"], head["WebsiteRedirectLocation"], head["ExpiresString"]) == (
        "ONEZONE_IA",
        "/else",
        everything["Expires"],
    )
    tags = s3_client(embedded_stack, EU).get_object_tagging(Bucket=bucket, Key="f")["TagSet"]
    assert tags == [{"Key": "a", "Value": "b"}, {"Key": "c", "Value": "d"}]
    assert kept(store, "f") == everything


def test_what_was_archived_becomes_a_standard_file(embedded_stack: Stack) -> None:
    """It could not be read back otherwise. moto refuses to give an archived object away, as AWS does."""
    store, bucket = moto(embedded_stack, embedded_stack.kms_endpoint)
    s3_client(embedded_stack, EU).put_object(Bucket=bucket, Key="old", Body=b"abc", StorageClass="GLACIER")
    with pytest.raises(StoreError, match=r"archived.*GLACIER.*restore-object"):
        store.stream("old")
    store.put_stream("back", [b"abc"], {"Storage-Class": "GLACIER"})
    assert kept(store, "back").get("Storage-Class") is None


def test_an_upload_in_parts_that_fails_leaves_nothing(embedded_stack: Stack, proxy: Proxy) -> None:
    store, bucket = moto(embedded_stack, proxy.url)
    odd = {"Expires": "0"}
    proxy.before = lambda seen: (
        Answer(400, {}, b"<Error><Code>QuotaExceeded</Code></Error>") if "partNumber=2" in seen.query else None
    )
    with pytest.raises(StoreError, match="QuotaExceeded"):
        store.put_stream("f", [bytes(20 << 20)], odd)
    client = s3_client(embedded_stack, EU)
    assert not client.list_multipart_uploads(Bucket=bucket).get("Uploads")
    assert not client.list_objects_v2(Bucket=bucket).get("Contents")


def test_parts_grow_so_that_there_are_not_too_many(
    embedded_stack: Stack, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    mib, tib = 1 << 20, 1 << 40
    for size in (None, 0, 1, 78 << 30, 79 << 30, 5 * tib):
        part = upload.part_size(size)
        assert part >= 8 * mib
        assert part % mib == 0
        assert part * 10_000 >= (size or 0)
    assert upload.part_size(5 * tib) <= 600 * mib
    monkeypatch.setattr(upload, "_MOST_PARTS", 2)
    store, _ = moto(embedded_stack, proxy.url)
    body = [bytes([n]) * mib for n in range(25)]
    store.put_stream("f", body, {}, size=25 * mib)
    parts = [seen for seen in proxy.seen if "partNumber" in seen.query]
    assert len(parts) == 2
    assert b"".join(bytes(piece) for piece in store.stream("f")[1]) == b"".join(body)


def demands(algorithm: str) -> Any:
    """A bucket's policy that no server here has: a put without the header is refused."""

    def refused(seen: Seen) -> Answer | None:
        begins = (seen.method == "PUT" and "partNumber" not in seen.query) or "uploads" in seen.query
        if begins and seen.headers.get("x-amz-server-side-encryption") != algorithm:
            return Answer(403, {}, b"<Error><Code>AccessDenied</Code><Message>explicit deny</Message></Error>")
        return None

    return refused


@pytest.mark.parametrize("attributes", [{}, {"Expires": "0"}])
def test_a_bucket_that_demands_encryption_gets_it(
    embedded_stack: Stack, proxy: Proxy, attributes: dict[str, str]
) -> None:
    proxy.before = demands("aws:kms")
    bare, _ = moto(embedded_stack, proxy.url)
    with pytest.raises(StoreDenied, match=r"set under \[files\]: encryption"):
        bare.put_stream("f", [b"abc"], attributes)
    store, _ = moto(embedded_stack, proxy.url, encryption=Encryption("aws:kms", "alias/files", True))
    store.put_stream("f", [b"abc"], attributes)
    assert kept(store, "f") == {**attributes, "Content-Type": "binary/octet-stream"}
