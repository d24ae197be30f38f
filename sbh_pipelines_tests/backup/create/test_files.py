"""Files through a whole backup and restore: names out of the ordinary, and files that change while they are read."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.errors import SourceChanged
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application
from sbh_pipelines_tests.support.fault_stores import nothing, wrap
from sbh_pipelines_tests.support.site import with_stores

# In the order of bytes `end-1` comes before `end/`: a list sorted by the names that a listing makes up would be wrong.
STRICT_NAMES = ("end-1", "end/", "end0", "a//b", "a/./b", "tab\there", "both", "both/", "plain", "%2F", "é", "e\u0301")


class Remote:
    """The application with its files and backups in buckets of a server that takes every key, as S3 does."""

    def __init__(self, application: Application) -> None:
        endpoint = application.database.stack.kms_endpoint
        self.bucket, self.prefix = f"strict-{uuid.uuid4().hex[:12]}", f"files/{ACME}/"
        access = {"aws_access_key_id": "moto", "aws_secret_access_key": "moto"}
        path_style = Config(s3={"addressing_style": "path"})
        self.client = boto3.client("s3", region_name="eu-west-1", endpoint_url=endpoint, config=path_style, **access)
        self.client.create_bucket(Bucket=self.bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        self.service: BackupService = application.service(
            storage={
                "kind": "s3",
                "bucket": self.bucket,
                "endpoint_url": endpoint,
                "access_key_id": "moto",
                "secret_access_key": "moto",
                "retries": 1,
            },
            files={"bucket": self.bucket},
        )

    def put(self, name: str, body: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=self.prefix + name, Body=body, Metadata={"of": "acme"})

    def files(self) -> dict[str, tuple[bytes, dict[str, str]]]:
        found: dict[str, tuple[bytes, dict[str, str]]] = {}
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
        for key in (entry["Key"] for page in pages for entry in page.get("Contents", [])):
            if not key.startswith(f"{self.prefix}backups/"):
                answer = self.client.get_object(Bucket=self.bucket, Key=key)
                found[key[len(self.prefix) :]] = answer["Body"].read(), answer["Metadata"]
        return found


@pytest.fixture
def remote(application: Application) -> Remote:
    return Remote(application)


@pytest.mark.parametrize("names", [STRICT_NAMES, ("end/", "end-1", "end0"), ("plain", "a/b")])
def test_names_out_of_the_ordinary_come_back(remote: Remote, names: tuple[str, ...]) -> None:
    """With content and attributes; after ruin of all of them, and again when nothing is to be done."""
    for name in names:
        remote.put(name, name.encode())
    before = remote.files()
    assert set(before) == set(names)
    manifest = remote.service.create_backup(ACME, ADMIN)
    assert manifest["components"]["files"]["file_count"] == len(names)
    assert remote.service.validate_backup(manifest["id"], ACME, ADMIN, deep=True)["issues"] == []
    for name in names[::2]:
        remote.client.delete_object(Bucket=remote.bucket, Key=remote.prefix + name)
    for name in (*names[1::2], "stranger", "stranger//odd"):
        remote.put(name, b"ruined")
    for _ in range(2):
        remote.service.restore_backup(manifest["id"], ACME, ADMIN)
        assert remote.files() == before


def changing(application: Application, change: Callable[[Path], Any], name: str, times: int = 1) -> BackupService:
    """The service; the file `name` is changed just before each of its first `times` reads."""
    done = [0]

    def before(verb: str, key: str) -> None:
        if verb == "stream" and key.endswith(name) and done[0] < times:
            done[0] += 1
            change(application.bucket / key)

    return wrap(application.service(), before, nothing)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.write_bytes(b"written in place, and longer than before" * 9),
        lambda file: file.open("ab").write(b"appended"),
        lambda file: file.write_bytes(b""),
        lambda file: (file.rename(file.with_name("moved")), file.write_bytes(b"another")),
    ],
)
def test_a_file_that_changes_between_listing_and_reading(
    application: Application, change: Callable[[Path], Any]
) -> None:
    """The backup has it as it is afterwards, whole, with its own size and hash."""
    application.write_file(ACME, "log", b"first\n" * 100)
    backup = changing(application, change, "/log").create_backup(ACME, ADMIN)["id"]
    service = application.service()
    assert service.validate_backup(backup, ACME, ADMIN, deep=True)["issues"] == []
    wanted = (application.bucket / "files" / ACME / "log").read_bytes()
    application.write_file(ACME, "log", b"ruined")
    service.restore_backup(backup, ACME, ADMIN)
    assert (application.bucket / "files" / ACME / "log").read_bytes() == wanted


def test_a_file_that_is_written_while_it_is_read(application: Application) -> None:
    """In a directory the same file may be written in place under the reader: what was read is then read again."""
    old, new = b"old " * 4_000_000, b"new " * 4_000_000
    application.write_file(ACME, "big", old)
    file = application.bucket / "files" / ACME / "big"
    written = [False]

    def slow(store: Any, _: Any) -> Any:
        stream = store._open

        def interrupted(key: str, version: Any, if_match: Any) -> Any:
            attributes, pieces = stream(key, version, if_match)

            def torn() -> Any:
                for nth, piece in enumerate(pieces):
                    yield piece
                    if key.endswith("/big") and nth == 0 and not written[0]:
                        written[0] = True
                        file.write_bytes(new)

            return attributes, torn()

        store._open = interrupted
        return store

    backup = with_stores(application.service(), slow).create_backup(ACME, ADMIN)["id"]
    assert written[0]
    file.unlink()
    application.service().restore_backup(backup, ACME, ADMIN)
    assert file.read_bytes() == new


def test_a_file_that_is_gone_when_it_is_to_be_read(application: Application) -> None:
    """It is not in the backup; rows that refer to it are counted as without a file."""
    application.write_file(ACME, "gone", b"x")
    service = changing(application, lambda file: file.unlink(), "/gone")
    manifest = service.create_backup(ACME, ADMIN)
    before = len(list(application.state(ACME).files))
    assert manifest["components"]["files"]["file_count"] == before
    assert application.service().validate_backup(manifest["id"], ACME, ADMIN, deep=True)["issues"] == []


def test_a_file_that_never_holds_still(application: Application) -> None:
    """A transient error that names it; the lease is free again."""
    application.write_file(ACME, "restless", b"x")
    count = iter(range(1000))
    service = changing(application, lambda f: f.write_bytes(b"x" * (50 + next(count))), "/restless", times=1000)
    with pytest.raises(SourceChanged, match="restless") as caught:
        service.create_backup(ACME, ADMIN)
    assert caught.value.transient
    application.service().create_backup(ACME, ADMIN)


def test_references_without_a_file_are_counted_and_named(application: Application) -> None:
    """Whatever characters are in them, and once, however often rows refer to them; those that exist are not."""
    prefix = f"files/{ACME}/"
    names = ["docs/0 of acme.txt", "missing %s", "missing\ttab", "zz 😀", "empty", "a/../b"]
    application.database.run("CREATE TABLE attached (tenant_id int, place text)")
    for name in [*names, "missing %s", "docs/0 of acme.txt"]:
        application.database.run(f"INSERT INTO attached VALUES (1, '{prefix}{name}'), (2, 'files/bolt/nothing')")
    application.database.run("INSERT INTO attached VALUES (1, NULL)")
    service = application.service(files={"references": [{"table": "attached", "column": "place"}]})
    manifest = service.create_backup(ACME, ADMIN)
    assert manifest["components"]["files"]["missing_references"] == 4
    found = service.validate_backup(manifest["id"], ACME, ADMIN, deep=True)
    assert (found["valid"], found["issues"], found["missing_references"]) == (True, [], 4)
    gone = sorted(f"{prefix}{name}" for name in ("missing %s", "missing\ttab", "zz 😀", "a/../b"))
    assert found["missing_files"] == service.backups.missing_files("latest", ACME, ADMIN) == gone
    health = service.check_backup_health(ADMIN, ACME)
    assert (health["source_files_present"], health["last_backup_successful"]) == (False, True)
    (issue,) = health["issues"]
    assert (issue["code"], issue["severity"]) == ("SBH-941", "warning")
    assert "4 were missing" in issue["why"]
    assert service.health.metrics(ADMIN, ACME).files_missing == 4
    assert f'sbh_last_backup_files_missing{{tenant="{ACME}"}} 4.0' in service.health.prometheus_text(ADMIN)


def test_of_many_missing_files_the_first_are_named(application: Application) -> None:
    """More than the list has names of, behind many that are there: the count is exact."""
    for number in range(40):
        application.write_file(ACME, f"there {number}", b"x")
    application.database.run(
        "CREATE TABLE attached (tenant_id int, place text)",
        f"INSERT INTO attached SELECT 1, 'files/{ACME}/lost ' || to_char(n, 'FM0000') FROM generate_series(1, 1500) n",
    )
    service = application.service(files={"references": [{"table": "attached", "column": "place"}]})
    manifest = service.create_backup(ACME, ADMIN)
    assert manifest["components"]["files"]["missing_references"] == 1500
    assert service.backups.missing_files(manifest["id"], ACME, ADMIN) == [
        f"files/{ACME}/lost 000{number}" for number in range(1, 6)
    ]


def test_all_that_is_kept_with_a_file_comes_back(remote: Remote) -> None:
    """Headers, tags and the storage class; whether the file was lost or written over."""
    kept = {
        "ContentType": "text/x", "ContentEncoding": "gzip", "ContentLanguage": "de", "ContentDisposition": "inline", "CacheControl": "no-store",
        "Expires": "Thu, 01 Dec 1994 16:00:00 GMT", "WebsiteRedirectLocation": "/else", "StorageClass": "STANDARD_IA", "Metadata": {"a": "b"},
    }  # fmt: skip
    for name in ("lost", "changed"):
        remote.client.put_object(
            Bucket=remote.bucket, Key=remote.prefix + name, Body=b"no gzip", Tagging="kind=invoice&x=1", **kept
        )
    before = {name: described(remote, name) for name in ("lost", "changed")}
    assert {"Expires", "StorageClass", "tags"} <= set(before["lost"])
    taken = remote.service.create_backup(ACME, ADMIN)
    remote.client.delete_object(Bucket=remote.bucket, Key=remote.prefix + "lost")
    remote.put("changed", b"other")
    remote.service.restore_backup(taken["id"], ACME, ADMIN)
    assert {name: described(remote, name) for name in ("lost", "changed")} == before


def described(remote: Remote, name: str) -> dict[str, Any]:
    at = {"Bucket": remote.bucket, "Key": remote.prefix + name}
    answer = remote.client.get_object(**at)
    moving = {"LastModified", "ResponseMetadata", "Body", "VersionId"}
    tags = remote.client.get_object_tagging(**at)["TagSet"]
    fixed = {n: v for n, v in answer.items() if n not in moving and not n.startswith("Checksum")}
    return fixed | {"tags": tags, "content": answer["Body"].read()}


def test_an_archived_file_is_named_and_other_tenants_go_on(remote: Remote) -> None:
    remote.client.put_object(Bucket=remote.bucket, Key=f"{remote.prefix}old", Body=b"x", StorageClass="DEEP_ARCHIVE")
    done = {draft.tenant.id: draft for draft in remote.service.backups.create_all([ACME, "bolt"], ADMIN, "full")}
    assert done["bolt"].error is None
    error = str(done[ACME].error)
    assert "archived" in error
    assert f"{remote.prefix}old" in error
    assert "DEEP_ARCHIVE" in error
    assert "restore-object" in error
