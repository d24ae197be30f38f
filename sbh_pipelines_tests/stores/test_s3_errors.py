"""S3's error codes: each has a meaning, whether it may pass, and what to do; whichever half of the data path meets it."""

from collections.abc import Callable, Iterator

import pytest

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import ObjectChanged, ObjectMissing, StoreDenied, StoreError, StoreUnavailable
from sbh_pipelines.stores.object_store import Store
from sbh_pipelines.stores.s3 import open_s3
from sbh_pipelines.stores.s3_errors import MEANINGS, Told, s3_error
from sbh_pipelines_tests.support.fix_moto import ACCESS, make_buckets
from sbh_pipelines_tests.support.recording_proxy import Answer, Proxy, recording

EU = "eu-west-1"
# (code, HTTP status): what it becomes, and a word of the remedy.
KNOWN = {
    ("AccessDenied", 403): (StoreDenied, "grant"),
    ("InvalidAccessKeyId", 403): (StoreDenied, "storage.access_key_id"),
    ("SignatureDoesNotMatch", 403): (StoreDenied, "secret_access_key"),
    ("RequestTimeTooSkewed", 403): (StoreDenied, "timedatectl"),
    ("ExpiredToken", 400): (StoreDenied, "aws sso login"),
    ("NoSuchBucket", 404): (ObjectMissing, "create the bucket"),
    ("NoSuchKey", 404): (ObjectMissing, "validate"),
    ("PermanentRedirect", 301): (StoreError, "region"),
    ("AuthorizationHeaderMalformed", 400): (StoreError, "region"),
    ("SlowDown", 503): (StoreUnavailable, "files.connections"),
    ("TooManyRequests", 429): (StoreUnavailable, "files.connections"),
    ("InternalError", 500): (StoreUnavailable, "try again"),
    ("RequestTimeout", 400): (StoreUnavailable, "try again"),
    ("OperationAborted", 409): (StoreUnavailable, "try again"),
    ("BadDigest", 400): (StoreUnavailable, "try again"),
    ("PreconditionFailed", 412): (ObjectChanged, ""),
    ("InvalidObjectState", 403): (StoreError, "aws s3api restore-object --bucket b --key a/b"),
    ("InvalidRange", 416): (StoreError, "validate"),
    ("EntityTooLarge", 400): (StoreError, "limit"),
    ("QuotaExceeded", 403): (StoreError, "quota"),
    ("XMinioStorageFull", 507): (StoreError, "disks"),
    ("InvalidStorageClass", 400): (StoreError, "keep_storage_class = false"),
    ("KMS.DisabledException", 400): (StoreError, "enable-key"),
    ("KMS.NotFoundException", 400): (StoreError, "ARN"),
    ("KMS.ThrottlingException", 400): (StoreUnavailable, "later"),
    ("KMS.SomethingNew", 400): (StoreError, "KMS key"),
    ("SomethingNew", 503): (StoreUnavailable, "later"),
    ("SomethingNew", 500): (StoreUnavailable, "try again"),
    ("SomethingNew", 403): (StoreDenied, "grant"),
    ("SomethingNew", 418): (StoreError, "what the server says"),
    ("", 403): (StoreDenied, "grant"),
    ("", 404): (ObjectMissing, "validate"),
    ("404", 404): (ObjectMissing, "validate"),
}  # fmt: skip


@pytest.mark.parametrize(("code", "status"), KNOWN, ids=str)
def test_a_code_has_its_meaning(code: str, status: int) -> None:
    kind, remedy = KNOWN[code, status]
    error = s3_error("get an object", "s3://b/a/b", Told(code, status), bucket="b", key="a/b")
    assert (type(error), error.transient) == (kind, kind is StoreUnavailable)
    assert remedy in error.remedy
    assert (code or str(status)) in error.why


@pytest.mark.parametrize("code", MEANINGS)
def test_every_code_has_a_remedy_and_no_placeholder_is_left(code: str) -> None:
    error = s3_error("put an object", "s3://b/k", Told(code, 400))
    assert len(error.remedy) > 5
    assert not {"{", "}"} & set(error.what + error.remedy)


CALLS: dict[str, Callable[[Store], object]] = {
    "the driver's get": lambda store: store.get("a/b"),
    "the driver's put": lambda store: store.put("a/c", b"x"),
    "the driver's list": lambda store: list(store.list("a/")),
    "a file's get": lambda store: store.stream("a/b"),
    "a file's put": lambda store: store.put_stream("a/c", [b"x"], {"Expires": "0"}),
    "boto3's list": lambda store: list(store.list_exactly("a/")),
}


@pytest.fixture
def proxy(embedded_stack: Stack) -> Iterator[Proxy]:
    with recording(embedded_stack.kms_endpoint) as running:
        yield running


@pytest.mark.parametrize("call", CALLS)
def test_all_halves_say_the_same(embedded_stack: Stack, proxy: Proxy, call: str) -> None:
    bucket = make_buckets(embedded_stack, eu_west_1=EU).replace("{region}", EU)
    store = open_s3(bucket, EU, endpoint_url=proxy.url, retries=0, timeout_s=60, **ACCESS)
    store.put("a/b", b"x")
    wrong = {}
    for (code, status), (kind, _) in KNOWN.items():
        if not code or status in (301, 404, 412):
            continue
        body = f"<Error><Code>{code}</Code><Message>words</Message><SecretWord>hidden</SecretWord></Error>".encode()
        proxy.before = lambda _, s=status, b=body: Answer(s, {"Content-Type": "application/xml"}, b)  # type: ignore[misc]
        try:
            CALLS[call](store)
        except StoreError as error:
            if type(error) is not kind or code not in error.why or "hidden" in str(error):
                wrong[code, status] = repr(error)
        else:
            wrong[code, status] = "nothing raised"
    assert wrong == {}


def test_an_archived_file_is_named_with_its_class(embedded_stack: Stack, proxy: Proxy) -> None:
    """moto gives archived objects away as AWS does not, so the answer is AWS's own, word by word."""
    bucket = make_buckets(embedded_stack, eu_west_1=EU).replace("{region}", EU)
    store = open_s3(bucket, EU, endpoint_url=proxy.url, retries=0, **ACCESS)
    body = b"<Error><Code>InvalidObjectState</Code><Message>not valid for the object's storage class</Message>"
    proxy.before = lambda _: Answer(403, {}, body + b"<StorageClass>DEEP_ARCHIVE</StorageClass></Error>")
    with pytest.raises(StoreError) as raised:
        store.stream("files/acme/Größe old.bin")
    assert not isinstance(raised.value, StoreDenied)
    assert "old.bin" in raised.value.on
    assert raised.value.why == "InvalidObjectState: StorageClass DEEP_ARCHIVE"
    assert f"--bucket {bucket} --key 'files/acme/Größe old.bin'" in raised.value.remedy
