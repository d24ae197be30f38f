"""Tenants' files: listed completely whatever their names, read as listed or told apart, cut the same way every time."""

import hashlib
import random
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbh_pipelines.embedded.servers import object_server
from sbh_pipelines.embedded.servers.layout import Layout
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import ObjectMissing, SourceChanged, StoreError
from sbh_pipelines.files.file import FileEntry, InexactListing, open_file
from sbh_pipelines.files.listing import list_files
from sbh_pipelines.repository.chunking import FILE_SLICES, slices
from sbh_pipelines.stores.base import ObjectInfo
from sbh_pipelines.stores.local import open_local
from sbh_pipelines.stores.object_store import Store
from sbh_pipelines.stores.s3 import open_s3
from sbh_pipelines.stores.versions import BucketVersions
from sbh_pipelines_tests.support.buckets import fresh_bucket
from sbh_pipelines_tests.support.effort import examples

REGION = "eu-west-1"
ODD_NAMES = (
    "tab\there", "line\nbreak", "cr\rx", "del\x7f", "ends with space ", " begins", "100%", "%2F", "%", "a+b", "q?a=b&c", "#1", "x#12",
    "quote\"'", "<x>&amp;", "back`tick", "semi;colon", "~", "*", "[]{}|^", "ünï", "e\u0301", "é", "😀", "👩\u200d👩", "\u2028", "\ufeff",
    "\u00a0", "ﬀ", "...", "..a", "a..b", ".hidden", "n" * 250, "deep/" * 20 + "x", "\ufffd",
)  # fmt: skip
# What S3 allows and SeaweedFS does not, or not exactly.
STRICT_NAMES = (
    *(name for name in ODD_NAMES if name != "line\nbreak"),  # which moto does not take
    "a//b", "/begins with a slash", "ends with one/", "both", "both/", "a/./b", "a/../b", "./x", "back\\slash", "m" * 900,
)  # fmt: skip
SERVER_NAMES = (*ODD_NAMES, "control\x01", "non\ufffecharacter")


class Bucket:
    """A bucket of a server, and the store over it."""

    def __init__(self, client: Any, name: str, store: Store) -> None:
        self.client, self.name, self.store = client, name, store

    def put(self, key: str, body: bytes, **more: Any) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=body, **more)


def on_server(stack: Stack, endpoint: str, client: Any, name: str) -> Bucket:
    secret = object_server.secret_file(Layout(stack.dir)).read_text().strip()
    store = open_s3(
        name, REGION, endpoint_url=endpoint, access_key_id=object_server.ACCESS_KEY, secret_access_key=secret, retries=1
    )
    return Bucket(client, name, store)


@pytest.fixture
def plain(embedded_stack: Stack) -> Iterator[Bucket]:
    """A bucket without versions."""
    with fresh_bucket(embedded_stack) as name:
        yield on_server(embedded_stack, embedded_stack.s3_endpoint, embedded_stack.s3_client(), name)


@pytest.fixture
def versioned(embedded_stack: Stack) -> Bucket:
    return on_server(embedded_stack, embedded_stack.s3_endpoint, embedded_stack.s3_client(), "sbh-files-eu-west-1")


@pytest.fixture
def strict(embedded_stack: Stack) -> Bucket:
    """A bucket of a server that takes every key as S3 does: moto's."""
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3",
        region_name=REGION,
        endpoint_url=embedded_stack.kms_endpoint,
        aws_access_key_id="moto",
        aws_secret_access_key="moto",
        config=Config(s3={"addressing_style": "path"}),
    )
    name = f"strict-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    return on_server(embedded_stack, embedded_stack.kms_endpoint, client, name)


def read(store: Store, info: ObjectInfo, versions: Any = None) -> bytes | None:
    opened = open_file(store, info, versions)
    return None if opened is None else b"".join(bytes(piece) for piece in opened.pieces)


def everything(store: Store, prefix: str, exclude: tuple[str, ...] = ()) -> dict[str, bytes | None]:
    """Name and content of all files, as a backup reads them."""
    try:
        listing = list(list_files(store, prefix, exclude))
        return {info.key[len(prefix) :]: read(store, info) for info in listing}
    except InexactListing:
        listing = list(list_files(store, prefix, exclude, exactly=True))
        return {info.key[len(prefix) :]: read(store, info) for info in listing}


# names


@pytest.mark.parametrize("name", SERVER_NAMES)
def test_an_odd_name_on_the_embedded_server(plain: Bucket, name: str) -> None:
    """It is listed by its name, read, written, and removed; a plain neighbour does not suffer."""
    check_name(plain, name)


@pytest.mark.parametrize("name", STRICT_NAMES)
def test_an_odd_name_on_a_strict_server(strict: Bucket, name: str) -> None:
    check_name(strict, name)


def check_name(bucket: Bucket, name: str) -> None:
    prefix = "files/acme/"
    bucket.put(prefix + name, b"odd", ContentType="text/x-odd", Metadata={"own": "value"})
    bucket.put(prefix + "neighbour", b"plain")
    assert everything(bucket.store, prefix) == {name: b"odd", "neighbour": b"plain"}
    info = next(i for i in list_files(bucket.store, prefix, (), exactly=True) if i.key == prefix + name)
    opened = open_file(bucket.store, info, None)
    assert opened is not None
    assert (opened.attributes["Content-Type"], opened.attributes["own"]) == ("text/x-odd", "value")
    bucket.store.delete([prefix + name, prefix + "neighbour"])
    assert everything(bucket.store, prefix) == {}
    bucket.store.put_stream(prefix + name, iter([b"put ", b"back"]), opened.attributes)
    answer = bucket.client.get_object(Bucket=bucket.name, Key=prefix + name)
    assert (answer["Body"].read(), answer["ContentType"], answer["Metadata"]) == (
        b"put back",
        "text/x-odd",
        {"own": "value"},
    )
    bucket.store.delete([prefix + name])


def test_all_names_at_once(strict: Bucket) -> None:
    """In order of their bytes, each with its own content; none stands for another."""
    wanted = {name: name.encode() for name in STRICT_NAMES}
    for name, body in wanted.items():
        strict.put("p/" + name, body)
    assert everything(strict.store, "p/") == wanted
    keys = [info.key for info in list_files(strict.store, "p/", ())]
    assert keys == sorted(keys, key=str.encode)


def test_a_large_file_with_an_odd_name(strict: Bucket) -> None:
    body = random.Random(1).randbytes(9_000_000)
    strict.store.put_stream("p/tab\t//x", (body[n : n + 999_999] for n in range(0, len(body), 999_999)), {})
    assert everything(strict.store, "p/") == {"tab\t//x": body}


@pytest.mark.parametrize("name", [n for n in ODD_NAMES if len(n) < 200])
def test_an_odd_name_in_a_directory(tmp_path: Path, name: str) -> None:
    store = open_local(tmp_path / "bucket")
    file = tmp_path / "bucket" / "files" / "acme" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"odd")
    (tmp_path / "bucket" / "files" / "acme" / "neighbour").write_bytes(b"plain")
    assert everything(store, "files/acme/") == {name: b"odd", "neighbour": b"plain"}
    store.delete([f"files/acme/{name}"])
    assert not file.exists()
    store.put_stream(f"files/acme/{name}", iter([b"back"]), {})
    assert file.read_bytes() == b"back"
    assert everything(store, "files/acme/") == {name: b"back", "neighbour": b"plain"}


def test_a_file_name_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    """It cannot be the key of an object; it is not passed over."""
    store = open_local(tmp_path / "bucket")
    (tmp_path / "bucket" / "p").mkdir()
    (tmp_path / "bucket" / "p" / "bad\udcff").write_bytes(b"x")
    with pytest.raises(StoreError, match="dcff") as caught:
        list(list_files(store, "p/", ()))
    assert not caught.value.transient


@pytest.mark.parametrize("key", ["p/../../outside", "p/../x", "p//x", "p/./x", "/etc/x", "p/a\0b", "p/"])
def test_a_directory_takes_no_key_that_leads_elsewhere(tmp_path: Path, key: str) -> None:
    """A bucket may hold `a/../b`; put back into a directory it must not become another file."""
    store = open_local(tmp_path / "bucket")
    (tmp_path / "bucket" / "p").mkdir()
    for call in (
        lambda: store.put_stream(key, [b"x"], {}),
        lambda: store.stream(key),
        lambda: store.head(key),
        lambda: store.delete([key]),
    ):
        with pytest.raises(StoreError, match="No file can have this name"):
            call()
    assert sorted(p.name for p in tmp_path.rglob("*")) == [".bucket.lock", "bucket", "p"] or sorted(
        p.name for p in tmp_path.rglob("*")
    ) == ["bucket", "p"]


def test_folder_markers_are_no_files(strict: Bucket) -> None:
    """An empty object whose key ends in a slash is what consoles make of a folder; with content it is a file."""
    strict.put("p/", b"")
    strict.put("p/folder/", b"")
    strict.put("p/folder/file", b"x")
    strict.put("p/content/", b"content")
    assert {k: v for k, v in everything(strict.store, "p/").items() if v is not None} == {
        "folder/file": b"x",
        "content/": b"content",
    }


def test_other_tenants_and_excluded_prefixes_are_left_out(plain: Bucket) -> None:
    for key in (
        "t/a",
        "t/backups/x",
        "t/backups/packs/1",
        "t/backups-old",
        "t/backup",
        "t/tmp/1",
        "t/z",
        "t2/b",
        "t",
        "ta",
    ):
        plain.put(key, b"x")
    assert set(everything(plain.store, "t/", ("backups/", "tmp/"))) == {"a", "backups-old", "backup", "z"}


def test_a_listing_of_several_pages_is_complete_and_sorted(plain: Bucket) -> None:
    names = [f"{n % 13}{sep}{n:04d}" for n in range(1100) for sep in ("/", "-")[: 1 + (n % 5 == 0)]]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: plain.store.put("p/" + name, b""), names))
    listed = [info.key[2:] for info in list_files(plain.store, "p/", ())]
    assert listed == sorted(names, key=str.encode)


def test_etags_are_the_same_however_a_bucket_is_listed(plain: Bucket, tmp_path: Path) -> None:
    """Else one odd name would make every file look changed."""
    local = open_local(tmp_path / "bucket")
    for store in (plain.store, local):
        store.put("p/a", b"abc")
        (quick,), (exact,) = list(store.list("p/")), list(store.list_exactly("p/"))
        assert (quick.key, quick.size, quick.etag) == (exact.key, exact.size, exact.etag)
        assert abs((quick.modified - exact.modified).total_seconds()) < 0.001


def test_a_listing_that_cannot_be_made_is_an_error(embedded_stack: Stack) -> None:
    missing = on_server(embedded_stack, embedded_stack.s3_endpoint, None, "no-such-bucket-at-all")
    with pytest.raises(ObjectMissing, match="no-such-bucket"):
        list(list_files(missing.store, "p/", ()))


# files that change


def listed(bucket: Bucket, key: str) -> ObjectInfo:
    return bucket.store.head(key)


def test_a_file_is_read_as_it_was_listed(plain: Bucket) -> None:
    plain.put("p/a", b"as listed")
    assert read(plain.store, listed(plain, "p/a")) == b"as listed"


def test_a_changed_file_in_a_bucket_with_versions_is_read_as_it_was_listed(versioned: Bucket) -> None:
    """Also after several changes, and when it was deleted."""
    key = f"changed/{uuid.uuid4().hex}"
    versions = BucketVersions(versioned.client, versioned.name)
    versioned.put(key, b"as listed")
    info = listed(versioned, key)
    for body in (b"newer", b"newest of all"):
        versioned.put(key, body)
    opened = open_file(versioned.store, info, versions)
    assert opened is not None
    assert (opened.info, opened.version is not None) == (info, True)
    assert b"".join(bytes(p) for p in opened.pieces) == b"as listed"
    versioned.client.delete_object(Bucket=versioned.name, Key=key)
    assert read(versioned.store, info, versions) == b"as listed"


def test_a_changed_file_in_a_bucket_without_versions_is_read_anew_and_whole(plain: Bucket) -> None:
    """With the size and ETag of what was really read."""
    plain.put("p/a", b"as listed")
    info = listed(plain, "p/a")
    plain.put("p/a", b"newer")
    opened = open_file(plain.store, info, BucketVersions(plain.client, plain.name))
    assert opened is not None
    assert (opened.info.size, opened.info.etag) == (5, listed(plain, "p/a").etag)
    assert b"".join(bytes(p) for p in opened.pieces) == b"newer"


def test_a_file_deleted_since_it_was_listed(plain: Bucket) -> None:
    plain.put("p/a", b"x")
    info = listed(plain, "p/a")
    plain.store.delete(["p/a"])
    assert open_file(plain.store, info, BucketVersions(plain.client, plain.name)) is None


class Restless:
    """A store in which the file changes between every two calls."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket, self._turn = bucket, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bucket.store, name)

    def stream(self, key: str, **options: Any) -> Any:
        self._turn += 1
        self._bucket.put(key, b"turn %d" % self._turn)
        return self._bucket.store.stream(key, **options)


def test_a_file_that_keeps_changing_is_told(plain: Bucket) -> None:
    plain.put("p/a", b"x")
    with pytest.raises(SourceChanged, match="p/a") as caught:
        open_file(Restless(plain), listed(plain, "p/a"), None)  # type: ignore[arg-type]
    assert caught.value.transient


def test_content_encodings_are_left_alone(plain: Bucket) -> None:
    """An object stored as gzip comes as its bytes, not unpacked."""
    import gzip

    body = gzip.compress(b"hello" * 100)
    plain.put("p/a", body, ContentEncoding="gzip", ContentType="text/plain")
    assert read(plain.store, listed(plain, "p/a")) == body


# slices


def cut(body: bytes, sizes: Iterator[int]) -> tuple[list[bytes], str]:
    digest = hashlib.sha256()

    def pieces() -> Iterator[memoryview]:
        at = 0
        while at < len(body):
            size = next(sizes)
            yield memoryview(body)[at : at + size]
            at += size

    return list(slices(pieces(), digest)), digest.hexdigest()


@settings(max_examples=examples(12))
@given(
    st.integers(0, 2**32),
    st.sampled_from(
        [
            0,
            1,
            FILE_SLICES.least - 1,
            FILE_SLICES.least,
            FILE_SLICES.least + 1,
            1 << 20,
            FILE_SLICES.most,
            FILE_SLICES.most + 1,
            9_000_000,
        ]
    ),
    st.lists(st.integers(1, 5 << 20), min_size=1, max_size=5),
    st.booleans(),
)
def test_slices_are_the_content_however_it_arrives(seed: int, size: int, sizes: list[int], same: bool) -> None:
    """Joined they are the file; their ends do not depend on how the content came."""
    body = b"\0" * size if same else random.Random(seed).randbytes(size)
    whole, digest = cut(body, iter([max(size, 1)] * 2))
    parts, again = cut(body, iter(lambda: random.Random(seed).choice(sizes), None))
    assert b"".join(parts) == body
    assert parts == whole
    assert digest == again == hashlib.sha256(body).hexdigest()
    assert all(0 < len(part) <= FILE_SLICES.most for part in parts)
    assert all(len(part) >= FILE_SLICES.least for part in parts[:-1])


def test_an_insertion_changes_few_slices() -> None:
    body = random.Random(7).randbytes(20 << 20)
    before = set(cut(body, iter([len(body)]))[0])
    after = set(cut(body[: 5 << 20] + b"inserted" + body[5 << 20 :], iter([len(body) + 8]))[0])
    assert len(after - before) <= 2


texts = st.text(max_size=20)


@given(
    st.builds(
        FileEntry,
        path=texts,
        size=st.integers(0),
        etag=texts,
        version=st.none() | texts,
        modified=texts,
        sha256=texts,
        attributes=st.dictionaries(texts, texts, max_size=3),
        chunks=st.lists(texts, max_size=3).map(tuple),
    )
)
def test_an_entry_comes_back_from_its_line(entry: FileEntry) -> None:
    import json

    line = entry.to_line()
    assert line.count(b"\n") == 1
    assert FileEntry.from_dict(json.loads(line), "here") == entry
