"""Files of incremental and differential backups: what is read and what is not, and that each backup restores what was there."""

import os
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import boto3
import pytest
from botocore.config import Config
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sbh_pipelines.backup.contents.manifest import Component, Manifest
from sbh_pipelines.backup.contents.manifests import read_component
from sbh_pipelines.backup.create import drafts
from sbh_pipelines.backup.create.draft import Draft
from sbh_pipelines.backup.create.files.files_step import files_unchanged
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import StoreUnavailable
from sbh_pipelines.files.listing import is_settled
from sbh_pipelines.model import BackupId, BackupType
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application
from sbh_pipelines_tests.support.databases import Database, fresh_database
from sbh_pipelines_tests.support.effort import examples
from sbh_pipelines_tests.support.fault_stores import nothing, wrap
from sbh_pipelines_tests.support.site import site_of

Change = Callable[["TenantFiles"], Any]


class TenantFiles:
    """The tenant's files, wherever they are, and a service whose reads of them are noted."""

    def __init__(self, application: Application, **sections: Mapping[str, Any]) -> None:
        self.application = application
        self.read: list[str] = []
        kept = {f"{kind}_backups": {"keep_last": 100} for kind in BackupType}
        self.service: BackupService = wrap(application.service(retention=kept, **sections), self._note, nothing)
        self.prefix = f"files/{ACME}/"

    def _note(self, verb: str, key: str) -> None:
        if verb in ("stream", "head") and key.startswith(self.prefix) and "/backups/" not in key:
            self.read.append(key[len(self.prefix) :])

    def backup(self, kind: str = "incremental") -> dict[str, Any]:
        """A row changes as well, so that there is always something to back up."""
        self.application.database.run("UPDATE projects SET body = gen_random_uuid()::text WHERE id = 1 OR id = 2")
        self.read.clear()
        return self.service.create_backup(ACME, ADMIN, kind)

    def listed(self, manifest: Mapping[str, Any]) -> Component:
        return read_component(self.repository(), Manifest(manifest), "files")

    def repository(self) -> Repository:
        opened = site_of(self.service).repository(self.service.tenants.find(ACME))
        opened.load_index()
        return opened

    def unchanged_since(self, manifest: Mapping[str, Any]) -> bool:
        site = site_of(self.service)
        return files_unchanged(site, self.service.tenants.find(ACME), manifest["components"]["files"]["listing"])

    def check(self, manifest: Mapping[str, Any], wanted: Mapping[str, bytes]) -> None:
        assert self.service.validate_backup(manifest["id"], ACME, ADMIN, deep=True)["issues"] == []
        self.service.restore_backup(manifest["id"], ACME, ADMIN)
        assert self.files() == wanted

    def put(self, name: str, body: bytes) -> None:
        raise NotImplementedError

    def copy(self, name: str, to: str) -> None:
        self.put(to, self.files()[name])

    def delete(self, name: str) -> None:
        raise NotImplementedError

    def files(self) -> dict[str, bytes]:
        raise NotImplementedError

    def settle(self) -> None:
        """Let the files' times be long ago, where that matters."""


class FilesInDirectory(TenantFiles):
    """Files and backups in a directory."""

    def put(self, name: str, body: bytes) -> None:
        self.application.write_file(ACME, name, body)

    def delete(self, name: str) -> None:
        self._file(name).unlink()

    def files(self) -> dict[str, bytes]:
        root = self.application.bucket / "files" / ACME
        found = {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}
        return {name: body for name, body in found.items() if not name.startswith("backups/")}

    def settle(self) -> None:
        for name in self.files():
            found = self._file(name).stat().st_mtime_ns
            os.utime(self._file(name), ns=(found - 3_600_000_000_000, found - 3_600_000_000_000))

    def _file(self, name: str) -> Path:
        return self.application.bucket / self.prefix / name


class FilesInBucket(TenantFiles):
    """Files and backups in a bucket."""

    def __init__(self, application: Application, endpoint: str, client: Any, access: Mapping[str, str]) -> None:
        self.client, self.bucket = client, f"files-{uuid.uuid4().hex[:12]}"
        client.create_bucket(Bucket=self.bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        storage = {"kind": "s3", "bucket": self.bucket, "endpoint_url": endpoint, "retries": 1, **access}
        super().__init__(application, storage=storage, files={"bucket": self.bucket})

    def put(self, name: str, body: bytes, **more: Any) -> None:
        self.client.put_object(Bucket=self.bucket, Key=self.prefix + name, Body=body, **more)

    def copy(self, name: str, to: str) -> None:
        source = {"Bucket": self.bucket, "Key": self.prefix + name}
        self.client.copy_object(Bucket=self.bucket, Key=self.prefix + to, CopySource=source)

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=self.prefix + name)

    def files(self) -> dict[str, bytes]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
        keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
        return {
            key[len(self.prefix) :]: self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            for key in keys
            if not key.startswith(f"{self.prefix}backups/")
        }


def on_stack(application: Application, stack: Stack, *, versioned: bool) -> FilesInBucket:
    from sbh_pipelines.embedded.servers import object_server
    from sbh_pipelines.embedded.servers.layout import Layout

    secret = object_server.secret_file(Layout(stack.dir)).read_text().strip()
    access = {"access_key_id": object_server.ACCESS_KEY, "secret_access_key": secret}
    made = FilesInBucket(application, stack.s3_endpoint, stack.s3_client(), access)
    if versioned:
        made.client.put_bucket_versioning(Bucket=made.bucket, VersioningConfiguration={"Status": "Enabled"})
    return made


def strict(application: Application) -> FilesInBucket:
    """In a bucket of a server that takes every key, as S3 does."""
    endpoint = application.database.stack.kms_endpoint
    access = {"aws_access_key_id": "moto", "aws_secret_access_key": "moto"}
    path_style = Config(s3={"addressing_style": "path"})
    client = boto3.client("s3", region_name="eu-west-1", endpoint_url=endpoint, config=path_style, **access)
    return FilesInBucket(application, endpoint, client, {"access_key_id": "moto", "secret_access_key": "moto"})


@pytest.fixture(params=["directory", "bucket", "versioned"])
def tenant_files(request: pytest.FixtureRequest, application: Application, embedded_stack: Stack) -> TenantFiles:
    if request.param == "directory":
        made: TenantFiles = FilesInDirectory(application)
        for name in made.files():
            made.delete(name)
        return made
    return on_stack(application, embedded_stack, versioned=request.param == "versioned")


@pytest.fixture
def directory(application: Application) -> FilesInDirectory:
    return FilesInDirectory(application)


def test_only_new_and_changed_files_are_read(tenant_files: TenantFiles) -> None:
    """And each of the backups restores its own state, also when the one before is gone."""
    for n in range(8):
        tenant_files.put(f"docs/{n}", b"content %d" % n * 100)
    tenant_files.put("empty", b"")
    tenant_files.settle()
    states = {"full": tenant_files.files()}
    backups = {"full": tenant_files.backup("full")}
    assert sorted(tenant_files.read) == sorted(states["full"])

    tenant_files.put("docs/3", b"c0ntent 3" * 100)  # as long as before
    tenant_files.put("new", b"new")
    tenant_files.delete("docs/5")
    states["second"] = tenant_files.files()
    backups["second"] = tenant_files.backup()
    assert set(tenant_files.read) == {"docs/3", "new"}
    stats = backups["second"]["stats"]
    assert (stats["files"], stats["files_read"], stats["files_reused"]) == (9, 2, 7)

    tenant_files.put("docs/5", b"back again")
    states["differential"] = tenant_files.files()
    backups["differential"] = tenant_files.backup("differential")
    assert set(tenant_files.read) == {"docs/3", "docs/5", "new"}
    tenant_files.put("empty", b"no longer")
    states["third"] = tenant_files.files()
    backups["third"] = tenant_files.backup()
    assert set(tenant_files.read) == {"empty"}

    for name in ("third", "full", "differential", "second"):
        tenant_files.check(backups[name], states[name])


def test_no_request_is_made_for_files_that_did_not_change(tenant_files: TenantFiles) -> None:
    """A listing says it; the list of the parent is taken over as it is, and nothing is stored for it."""
    for n in range(20):
        tenant_files.put(f"{n}", b"%d" % n)
    tenant_files.settle()
    full = tenant_files.backup("full")
    assert tenant_files.unchanged_since(full)
    again = tenant_files.backup()
    assert tenant_files.read == []
    assert (again["type"], again["stats"]["files_read"], again["stats"]["files_reused"]) == ("incremental", 0, 20)
    assert tenant_files.listed(again).detail == tenant_files.listed(full).detail
    assert tenant_files.unchanged_since(again)
    for change in (
        lambda: tenant_files.put("7", b"8"),
        lambda: tenant_files.delete("7"),
        lambda: tenant_files.put("another", b""),
    ):
        change()
        assert not tenant_files.unchanged_since(full)
    tenant_files.settle()
    last = tenant_files.backup()
    assert tenant_files.unchanged_since(last)  # whichever listing the list was made from
    tenant_files.check(last, tenant_files.files())


def test_a_renamed_or_copied_file_is_stored_once(tenant_files: TenantFiles) -> None:
    """It is read, since its name is new, and all of its content is there already."""
    body = os.urandom(3_000_000)
    tenant_files.put("video", body)
    tenant_files.settle()
    tenant_files.backup("full")
    tenant_files.copy("video", "copies/video")
    tenant_files.copy("video", "renamed")
    tenant_files.delete("video")
    wanted = tenant_files.files()
    manifest = tenant_files.backup()
    assert set(tenant_files.read) == {"copies/video", "renamed"}
    assert manifest["stats"]["bytes_stored"] < 20_000
    tenant_files.check(manifest, wanted)


def test_files_uploaded_in_parts(application: Application, embedded_stack: Stack) -> None:
    """Their ETags are not a hash of the content, and tell a change all the same."""
    tenant_files = on_stack(application, embedded_stack, versioned=False)

    def upload(last: bytes) -> None:
        where = {"Bucket": tenant_files.bucket, "Key": tenant_files.prefix + "large"}
        upload_id = tenant_files.client.create_multipart_upload(**where)["UploadId"]
        parts = []
        for number, body in enumerate((b"a" * (5 << 20), last), 1):
            tag = tenant_files.client.upload_part(**where, UploadId=upload_id, PartNumber=number, Body=body)["ETag"]
            parts.append({"ETag": tag, "PartNumber": number})
        tenant_files.client.complete_multipart_upload(**where, UploadId=upload_id, MultipartUpload={"Parts": parts})

    upload(b"b" * 1000)
    full = tenant_files.backup("full")
    assert tenant_files.client.head_object(Bucket=tenant_files.bucket, Key=tenant_files.prefix + "large")[
        "ETag"
    ].endswith('-2"')
    tenant_files.put("another", b"x")
    tenant_files.backup()
    assert tenant_files.read == ["another"]
    assert not tenant_files.unchanged_since(full)
    upload(b"c" * 1000)
    wanted = tenant_files.files()
    manifest = tenant_files.backup()
    assert tenant_files.read == ["large"]
    tenant_files.check(manifest, wanted)


def test_attributes_that_change_alone(application: Application, embedded_stack: Stack) -> None:
    """The same content put again a second later, with another type: the time tells, and the type is backed up."""
    tenant_files = on_stack(application, embedded_stack, versioned=False)
    tenant_files.put("page", b"x", ContentType="text/plain")
    full = tenant_files.backup("full")
    before = tenant_files.client.head_object(Bucket=tenant_files.bucket, Key=tenant_files.prefix + "page")[
        "LastModified"
    ]
    while True:
        tenant_files.put("page", b"x", ContentType="text/html")
        if (
            tenant_files.client.head_object(Bucket=tenant_files.bucket, Key=tenant_files.prefix + "page")[
                "LastModified"
            ]
            > before
        ):
            break
    assert not tenant_files.unchanged_since(full)
    manifest = tenant_files.backup()
    tenant_files.delete("page")
    tenant_files.service.restore_backup(manifest["id"], ACME, ADMIN)
    assert (
        tenant_files.client.head_object(Bucket=tenant_files.bucket, Key=tenant_files.prefix + "page")["ContentType"]
        == "text/html"
    )


# keys that a quick listing does not show as they are


@pytest.mark.parametrize(
    "names",
    [
        ("plain", "a/b"),
        ("end/", "end-1", "end0"),
        ("both", "both/", "both-1"),
        ("a//b", "a/./b", "tab\there"),
        ("a\ufffd",),
    ],
)
def test_names_out_of_the_ordinary(application: Application, names: tuple[str, ...]) -> None:
    """They are not read again, and a fingerprint tells that nothing changed, and that something did."""
    tenant_files = strict(application)
    for name in names:
        tenant_files.put(name, name.encode())
    tenant_files.put("folder/", b"")
    wanted = {**tenant_files.files()}
    full = tenant_files.backup("full")
    assert tenant_files.unchanged_since(full)
    again = tenant_files.backup()
    assert tenant_files.read == []
    tenant_files.put("new", b"new")
    assert not tenant_files.unchanged_since(again)
    wanted = tenant_files.files()
    third = tenant_files.backup()
    assert tenant_files.read == ["new"]
    for name in names[::2]:
        tenant_files.delete(name)
    del wanted["folder/"]  # a marker of consoles, no file
    tenant_files.delete("folder/")
    tenant_files.check(third, wanted)


# the page that opened the repository


def _rename(files: FilesInBucket) -> None:
    files.copy("new", "renamed")
    files.delete("new")


def test_files_are_taken_from_the_page_in_order(application: Application, embedded_stack: Stack) -> None:
    """A server may list them in another, and what did not change is not read."""
    tenant_files = on_stack(application, embedded_stack, versioned=False)
    for name in ("a/b", "a-b", "a.b", "a0"):
        tenant_files.put(name, name.encode())
    tenant_files.backup("full")
    tenant_files.put("a/new", b"new")
    wanted = tenant_files.files()
    manifest = tenant_files.backup()
    assert tenant_files.read == ["a/new"]
    tenant_files.check(manifest, wanted)


def _attached(application: Application, stack: Stack) -> FilesInBucket:
    """Rows of a table name files."""
    application.database.run("CREATE TABLE attached (id int PRIMARY KEY, tenant_id int, place text)")
    tenant_files = on_stack(application, stack, versioned=False)
    references = {"bucket": tenant_files.bucket, "references": [{"table": "attached", "column": "place"}]}
    settings = tenant_files.service.settings
    settings = settings.model_copy(update={"files": settings.files.model_validate(references)})
    tenant_files.service = wrap(BackupService(settings), tenant_files._note, nothing)
    return tenant_files


@pytest.mark.parametrize("change", [lambda files: files.put("late", b"late"), _rename], ids=["come", "are renamed"])
def test_files_that_move_between_the_page_and_their_reading(
    application: Application, embedded_stack: Stack, change: Callable[[FilesInBucket], None]
) -> None:
    """One that a row names comes soon after the row, and one that is there all the time has another name: neither is missing."""
    tenant_files = _attached(application, embedded_stack)
    left = [change]

    def paged(verb: str, key: str) -> None:
        if verb == "page" and left:
            left.pop()(tenant_files)

    tenant_files.service = wrap(tenant_files.service, tenant_files._note, paged)
    tenant_files.put("old", b"old")
    tenant_files.backup("full")
    place = "late" if change is not _rename else "old"
    application.database.run(f"INSERT INTO attached VALUES (1, 1, 'files/{ACME}/{place}')")
    tenant_files.put("new", b"new")
    manifest = tenant_files.backup()
    assert not left
    assert tenant_files.listed(manifest).missing_references == 0
    tenant_files.check(manifest, tenant_files.files())


def test_files_are_read_once_where_one_that_a_row_names_is_missing(
    application: Application, embedded_stack: Stack
) -> None:
    """As long ago deleted ones are: in every backup."""
    tenant_files = _attached(application, embedded_stack)
    application.database.run(f"INSERT INTO attached VALUES (1, 1, 'files/{ACME}/nowhere')")
    tenant_files.put("old", b"old")
    tenant_files.backup("full")
    tenant_files.put("new", b"new")
    manifest = tenant_files.backup()
    assert tenant_files.read == ["new"]
    assert tenant_files.listed(manifest).missing_references == 1
    tenant_files.check(manifest, tenant_files.files())


def test_files_of_backups_that_ended_take_no_room(
    application: Application, embedded_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many a service has seen, and however the backups ended: none is listed a second time."""
    monkeypatch.setattr(drafts, "MOST_FILES", 3)
    tenant_files, listings, fails = on_stack(application, embedded_stack, versioned=False), list[str](), list[str]()

    def asked(verb: str, key: str) -> None:
        if verb == "list" and key == tenant_files.prefix:
            listings.append(key)
        if verb == "put" and "/packs/" in key and fails:
            raise StoreUnavailable(fails.pop(), on=key)

    tenant_files.service = wrap(tenant_files.service, asked, nothing)
    tenant_files.put("a", b"a")
    tenant_files.put("b", b"b")
    tenant_files.backup("full")
    listings.clear()
    fails.append("no answer")
    tenant_files.put("a", b"1")
    with pytest.raises(StoreUnavailable):
        tenant_files.backup()
    for body in (b"2", b"3"):
        tenant_files.put("a", body)
        tenant_files.backup()
    assert not fails
    assert not listings


# a directory's ETags


def test_a_file_written_again_at_once_is_noticed(directory: FilesInDirectory) -> None:
    """With the same length and time, so with the same ETag: the clock of the files may not have ticked in between."""
    directory.put("log", b"first")
    file = directory._file("log")
    soon = file.stat().st_mtime_ns + 3_600_000_000_000  # no later than the listing: as good as the same tick
    os.utime(file, ns=(soon, soon))
    full = directory.backup("full")
    etag = (
        site_of(directory.service).files_store(directory.service.tenants.find(ACME))[0].head(f"files/{ACME}/log").etag
    )
    assert full["components"]["files"]["listing"] is None
    file.write_bytes(b"later")
    os.utime(file, ns=(soon, soon))
    assert (
        site_of(directory.service).files_store(directory.service.tenants.find(ACME))[0].head(f"files/{ACME}/log").etag
        == etag
    )
    assert not directory.unchanged_since(full)
    manifest = directory.backup()
    wanted = directory.files()
    directory.put("log", b"ruined")
    directory.check(manifest, wanted)


@pytest.mark.parametrize(
    ("ago", "settled"),
    [
        ("0:00:00.010001", False),
        ("0:00:01.010001", True),
        ("-0:00:01.000001", False),
        ("0:00:01", False),
        ("0:00:03", True),
    ],
)
def test_when_a_file_is_settled(ago: str, settled: bool) -> None:
    """A tick of the clock before the listing; two seconds where the time is a whole second."""
    listed_at = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
    seconds = float(ago.rsplit(":", 1)[1]) * (-1 if ago.startswith("-") else 1)
    assert is_settled(listed_at - timedelta(seconds=seconds), listed_at) is settled


# what the repository lost


def made_by_hand(service: BackupService, parent: BackupId, kind: BackupType = BackupType.INCREMENTAL) -> Draft:
    """A draft that reads all rows, and of the files what changed since `parent`: the service would make a full one."""
    (draft,) = service.backups.snapshot_tables(service.backups.begin([ACME], ADMIN))
    draft = replace(draft, type=kind, parent=parent)
    (draft,) = service.backups.write_manifest(service.backups.enumerate_files([draft]))
    (draft,) = service.backups.apply_retention(service.backups.verify_checksums([draft]))
    assert draft.error is None, draft.error
    return draft


def test_what_was_lost_of_a_file_is_read_again(directory: FilesInDirectory) -> None:
    """And so is a file whose entry was lost, with the pack that held the list."""
    for n in range(6):
        directory.put(f"{n}", os.urandom(300_000))
    directory.settle()
    wanted = directory.files()
    full = directory.backup("full")
    packs = sorted(directory.application.repository(ACME).glob("packs/*"), key=lambda p: p.stat().st_size)
    assert len(packs) > 2
    packs[-1].unlink()
    directory.read.clear()
    draft = made_by_hand(directory.service, full["id"])
    assert 0 < len(set(directory.read)) < len(wanted)
    assert draft.manifest is not None
    directory.check(draft.manifest.document, wanted)

    listed = directory.listed(full).detail
    location = directory.repository().index.find(bytes.fromhex(listed[0]))
    assert location is not None
    (directory.application.repository(ACME) / "packs" / location.pack.hex()).unlink()
    directory.read.clear()
    draft = made_by_hand(directory.service, full["id"])
    assert set(directory.read) == set(wanted)
    assert draft.manifest is not None
    directory.check(draft.manifest.document, wanted)


def test_a_parent_whose_document_is_gone(directory: FilesInDirectory) -> None:
    """All files are read, and the draft says why; where `listing.json` has what it said, that does."""
    full = directory.backup("full")
    (directory.application.repository(ACME) / "files" / f"{full['id']}.json").unlink()
    assert "files" not in made_by_hand(directory.service, full["id"]).reread
    (directory.application.repository(ACME) / "listing.json").unlink()
    draft = made_by_hand(directory.service, full["id"])
    assert "cannot be read" in draft.reread["files"]
    assert draft.counters["files_read"] == len(directory.files())


# references


def test_references_without_a_file_are_counted_in_every_backup(application: Application) -> None:
    """Whether a reference came, its file went, or nothing happened to either."""
    application.database.run("CREATE TABLE attached (id int PRIMARY KEY, tenant_id int, place text)")
    prefix = f"files/{ACME}/"
    application.database.run(f"INSERT INTO attached VALUES (1, 1, '{prefix}empty'), (2, 1, '{prefix}nowhere')")
    tenant_files = FilesInDirectory(application, files={"references": [{"table": "attached", "column": "place"}]})
    tenant_files.settle()

    def missing(kind: str = "incremental") -> int:
        manifest = tenant_files.backup(kind)
        assert tenant_files.service.validate_backup(manifest["id"], ACME, ADMIN, deep=True)["issues"] == []
        count: int = manifest["components"]["files"]["missing_references"]
        return count

    assert (missing("full"), missing(), missing()) == (1, 1, 1)
    application.database.run(f"INSERT INTO attached VALUES (3, 1, '{prefix}also nowhere')")
    assert (missing(), missing()) == (2, 2)
    tenant_files.delete("empty")
    assert (missing(), missing()) == (3, 3)
    application.database.run("DELETE FROM attached WHERE id > 1")
    assert missing() == 1
    tenant_files.put("empty", b"")
    assert missing() == 0


# anything at all

NAMES = st.sampled_from(["a", "a/b", "a-b", "b", "b/c/d", "é", "z 1", "A"])
STEPS = st.one_of(
    st.tuples(st.just("put"), NAMES, st.sampled_from([b"", b"x", b"y", b"z" * 3000])),
    st.tuples(st.just("delete"), NAMES, st.none()),
    st.tuples(st.just("rename"), NAMES, NAMES),
    st.tuples(st.just("backup"), st.sampled_from(["incremental", "incremental", "differential", "full"]), st.none()),
)


@pytest.fixture(scope="module")
def server(embedded_stack: Stack) -> Any:
    with fresh_database(embedded_stack) as made:
        with TemporaryDirectory() as directory:
            Application(made, Path(directory)).create()
        yield made


@settings(
    max_examples=examples(6),
    phases=[Phase.explicit, Phase.generate],
)
@given(steps=st.lists(STEPS, min_size=4, max_size=12))
def test_every_backup_restores_what_was_there(server: Database, steps: list[tuple[str, str, Any]]) -> None:
    """Files come, go, change and move between backups of all kinds."""
    with TemporaryDirectory() as directory:
        tenant_files = FilesInDirectory(Application(server, Path(directory)))
        kept: list[tuple[dict[str, Any], dict[str, bytes]]] = []
        for verb, name, more in [*steps, ("backup", "incremental", None)]:
            with suppress(OSError, KeyError):  # no such file, or a folder of that name
                if verb == "put":
                    tenant_files.put(name, more)
                elif verb == "delete":
                    tenant_files.delete(name)
                elif verb == "rename":
                    tenant_files.copy(name, more)
                    tenant_files.delete(name)
            if verb == "backup":
                kept.append((tenant_files.backup(name), tenant_files.files()))
        for manifest, files in kept:
            tenant_files.check(manifest, files)
