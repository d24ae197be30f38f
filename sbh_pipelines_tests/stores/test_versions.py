"""All versions of all keys, whatever ends a page, from a real server; and refusals of listings that are cut short."""

import random
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.stores.versions import BucketVersions, IncompleteVersions, ObjectVersion
from sbh_pipelines_tests.support.fix_moto import make_buckets, s3_client
from sbh_pipelines_tests.support.versioned import VersionedBucket, versioned_bucket


@pytest.fixture(scope="module")
def bucket(embedded_stack: Stack) -> Iterator[VersionedBucket]:
    with versioned_bucket(embedded_stack) as bucket:
        for name in ("kept", "over", "deleted"):
            bucket.put(f"null/{name}")
        yield bucket.keep_versions()


def found(bucket: VersionedBucket, prefix: str, page: int = 1000) -> set[tuple[str, str]]:
    return {(version.key, version.version) for version in bucket.versions(page).versions(prefix)}


def test_more_versions_than_a_page_holds_also_of_one_key(bucket: VersionedBucket) -> None:
    """2,500 of several keys, with the end of a page inside one of them, and a key of which there are only delete markers."""
    many: list[tuple[Callable[[str], tuple[str, str]], str]] = [
        *((bucket.put, f"many/a{n:03}") for n in range(700)),
        *((bucket.put, "many/one") for _ in range(1400)),
        *((bucket.delete, "many/one-gone") for _ in range(30)),
        *((bucket.put, f"many/z/{n:03}") for n in range(400)),
    ]
    with ThreadPoolExecutor(16) as threads:
        wanted = set(threads.map(lambda call: call[0](call[1]), many))
    wanted.add(newest := bucket.put("many/one"))  # of several at once it is not said which is the newest
    assert len(wanted) == 2531
    assert found(bucket, "many/") == wanted
    of_one = [v for v in dict.fromkeys(bucket.versions().versions("many/one")) if v.key == "many/one"]
    assert len(of_one) == 1401
    assert [v.version for v in of_one if v.current] == [of_one[0].version] == [newest[1]]
    assert {v.size for v in bucket.versions().versions("many/one-gone")} == {None}


def test_what_was_put_before_versions_were_kept(bucket: VersionedBucket) -> None:
    """The newest of it stays, as `null`, and is read by that name."""
    over, deleted = bucket.put("null/over", b"newer"), bucket.delete("null/deleted")
    wanted = {("null/kept", "null"), ("null/over", "null"), ("null/deleted", "null"), over, deleted}
    assert found(bucket, "null/") == wanted
    _, pieces = bucket.store().stream("null/over", version="null")
    assert b"".join(bytes(piece) for piece in pieces) == b"x"


@pytest.mark.parametrize("seed", range(6))
def test_names_that_the_server_sorts_otherwise_than_it_walks(bucket: VersionedBucket, seed: int) -> None:
    """A file beside a folder of its name, or of a name that goes on with `-` or `.`: nothing is lost where a page ends."""
    chance, prefix = random.Random(seed), f"walk{seed}/"
    names = ["q", "q-1", "q.pdf", "q0", "a b", "a", "a,x", "é", "z"]
    keys = [prefix + "/".join(chance.choices(names, k=chance.choice((1, 1, 2, 3)))) for _ in range(20)]
    wanted = {(bucket.delete if chance.random() < 0.3 else bucket.put)(chance.choice(keys)) for _ in range(40)}
    for page in (1, 2, 3, 7, 19, 1000):
        assert found(bucket, prefix, page) == wanted


def test_what_is_skipped_is_not_asked_for(bucket: VersionedBucket) -> None:
    """Folder by folder, the tenant's own backups among the files cost no request."""
    wanted = {bucket.put(f"skip/{name}") for name in ("a", "b/c", "d")}
    for n in range(9):
        bucket.put(f"skip/backups/{n}")
    seen = list(bucket.versions(page=3).versions("skip/", ["skip/backups/"]))
    assert {(v.key, v.version) for v in seen} == wanted


def test_how_long_older_versions_are_kept(embedded_stack: Stack) -> None:
    with versioned_bucket(embedded_stack) as bucket:
        assert bucket.versions().status() == ""
        bucket.keep_versions()
        assert (bucket.versions().status(), bucket.versions().kept_days("files/a/")) == ("Enabled", None)
        rules = [
            {
                "ID": str(days),
                "Status": status,
                "Filter": {"Prefix": prefix},
                "NoncurrentVersionExpiration": {"NoncurrentDays": days},
            }
            for days, prefix, status in ((9, "", "Enabled"), (3, "files/b/", "Enabled"), (1, "files/", "Disabled"))
        ]
        bucket.client.put_bucket_lifecycle_configuration(Bucket=bucket.name, LifecycleConfiguration={"Rules": rules})
        assert (bucket.versions().kept_days("files/a/"), bucket.versions().kept_days("files/b/")) == (9, 3)


def test_uploads_that_were_not_completed(bucket: VersionedBucket) -> None:
    bucket.client.create_multipart_upload(Bucket=bucket.name, Key="uploads/big")
    (upload,) = bucket.versions().open_uploads("uploads/")
    assert upload.key == "uploads/big"
    assert abs((datetime.now(UTC) - upload.begun).total_seconds()) < 60


@pytest.mark.parametrize("page", [1, 2, 5, 1000])
def test_a_server_that_sorts_as_s3_does_is_listed_page_by_page(embedded_stack: Stack, page: int) -> None:
    """Behind a key and a version of it."""
    name = make_buckets(embedded_stack, eu_west_1="eu-west-1").replace("{region}", "eu-west-1")
    client = s3_client(embedded_stack, "eu-west-1")
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    wanted = set()
    for nth in range(24):
        key = f"p/{('a', 'a-b', 'a/b', 'z')[nth % 4]}"
        change = client.delete_object if nth % 5 == 4 else client.put_object
        wanted.add((key, change(Bucket=name, Key=key)["VersionId"]))
    seen = [(v.key, v.version) for v in BucketVersions(client, name, page=page).versions("p/")]
    assert sorted(seen) == sorted(wanted)


class Answers:
    """A client that gives the same answers in turn, and then the last again."""

    def __init__(self, *pages: Mapping[str, Any]) -> None:
        self._pages = list(pages)

    def list_object_versions(self, **_: Any) -> Mapping[str, Any]:
        return self._pages.pop(0) if len(self._pages) > 1 else self._pages[0]


@pytest.mark.parametrize(
    "pages",
    [
        [{}],
        [{"IsTruncated": True}],
        [{"IsTruncated": True, "NextVersionIdMarker": "1"}],
        [{"IsTruncated": True, "NextKeyMarker": "a", "NextVersionIdMarker": "1"}],
        [{"IsTruncated": True, "NextKeyMarker": "a"}],
    ],
)
def test_a_listing_that_is_cut_short_is_refused(pages: list[Mapping[str, Any]]) -> None:
    """It does not say whether, or where, it goes on; or goes round in a circle."""
    with pytest.raises(IncompleteVersions):
        list(BucketVersions(Answers(*pages), "bucket").versions("p/"))


def test_the_parts_of_a_page_are_told_as_they_are() -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    put = {"Key": "p/a", "VersionId": "2", "LastModified": noon, "IsLatest": True, "Size": 3, "ETag": '"e"'}
    marker = {"Key": "p/a", "VersionId": "1", "LastModified": noon, "IsLatest": False}
    page = {"IsTruncated": False, "Versions": [put], "DeleteMarkers": [marker]}
    assert list(BucketVersions(Answers(page), "bucket").versions("p/")) == [
        ObjectVersion("p/a", "2", noon, True, 3, '"e"'),
        ObjectVersion("p/a", "1", noon, False, None),
    ]
