"""A draft whose files are those of a moment, over a real bucket with versions; and over what keeps none."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sbh_pipelines.backup.contents.file_list import list_lines
from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.backup.create.drafts import OpenDrafts, abandon, begin
from sbh_pipelines.backup.create.moment.file_source import FilesWindow, files_window
from sbh_pipelines.backup.create.moment.files import files_at_moment
from sbh_pipelines.backup.create.publish import verify_checksums, write_manifest
from sbh_pipelines.backup.create.snapshot_step import snapshot_tables
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.errors import MomentOutOfReach
from sbh_pipelines.files.moment import FileSource, MomentFiles
from sbh_pipelines.model import RECOVERED, BackupId, BackupType, TenantId, no_progress, parse_timestamp
from sbh_pipelines.repository.format import FILES
from sbh_pipelines.repository.pack import pipeline
from sbh_pipelines.stores.bound_store import BoundStore
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application
from sbh_pipelines_tests.support.site import site_of
from sbh_pipelines_tests.support.versioned import apart, versioned_bucket

__all__ = ["apart"]  # a fixture, made elsewhere

PREFIX = f"files/{ACME}/"


class Files:
    """The tenant's files in a bucket, and backups of moments of them."""

    def __init__(self, application: Application) -> None:
        database = application.database
        self.application, self.bucket = application, database.beside.enter_context(versioned_bucket(database.stack))
        self.service: BackupService = application.service(
            storage={"kind": "s3", "bucket": self.bucket.name, **self.bucket.access},
            files={"bucket": self.bucket.name},
        )

    def put(self, **files: str) -> None:
        for name, body in files.items():
            self.bucket.put(PREFIX + name, body.encode())

    def delete(self, name: str) -> None:
        self.bucket.delete(PREFIX + name)

    def backup(self) -> BackupId:
        return BackupId(self.service.create_backup(ACME, ADMIN)["id"])

    def read(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for page in self.bucket.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket.name, Prefix=PREFIX
        ):
            for entry in page.get("Contents", []):
                if "/backups/" not in entry["Key"]:
                    body = self.bucket.client.get_object(Bucket=self.bucket.name, Key=entry["Key"])["Body"].read()
                    found[entry["Key"][len(PREFIX) :]] = body.decode()
        return found

    def of(self, base: BackupId, moment: datetime) -> tuple[Draft, MomentFiles]:
        """The moment as a committed backup."""
        return of(self.service, base, moment)


def of(service: BackupService, base: BackupId, moment: datetime) -> tuple[Draft, MomentFiles]:
    open_drafts = OpenDrafts(site_of(service))
    (draft,) = begin(open_drafts, [TenantId(ACME)], "tester", BackupType.FULL, None)
    (draft,) = snapshot_tables(open_drafts, [replace(draft, purpose=RECOVERED)], no_progress)
    settings = open_drafts.site.settings
    try:
        with pipeline(settings.backup) as packs, ThreadPoolExecutor(4) as readers:
            draft, facts = files_at_moment(open_drafts, draft, base, moment, packs, readers)
    except BaseException:
        abandon(open_drafts, [draft])
        raise
    (draft,) = verify_checksums(open_drafts, write_manifest(open_drafts, [draft]))
    open_drafts.end(draft)
    assert (draft.status, draft.error) == (DraftStatus.RUNNING, None)
    return draft, facts


@pytest.fixture
def kept(application: Application) -> Files:
    files = Files(application)
    files.bucket.keep_versions()
    return files


def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """(path, version) of every file that is read from now on."""
    seen: list[tuple[str, str | None]] = []
    real: Callable[..., Any] = BoundStore.stream

    def stream(store: BoundStore, key: str, **asked: Any) -> Any:
        seen.append((key[len(PREFIX) :], asked.get("version")))
        return real(store, key, **asked)

    monkeypatch.setattr(BoundStore, "stream", stream)
    return seen


def test_the_files_of_a_moment_are_restored(
    kept: Files, monkeypatch: pytest.MonkeyPatch, apart: Callable[[], datetime]
) -> None:
    """Changed, new, deleted since; what the base has is taken over, without a request."""
    kept.put(same="same", changed="first", deleted="still there", later_deleted="x")
    base = kept.backup()
    kept.put(changed="second", new="new")
    kept.delete("later_deleted")
    moment = apart()
    wanted = kept.read()
    kept.put(changed="ruined", newer="newer")
    kept.delete("deleted")
    seen = reads(monkeypatch)
    draft, facts = kept.of(base, moment)
    assert sorted(path for path, _ in seen) == ["changed", "new"]
    assert all(version for _, version in seen)
    assert (draft.counters["files_read"], draft.counters["files_reused"]) == (2, 2)
    assert (facts.source, facts.as_of, facts.doubt_count, facts.backup) == (FileSource.VERSIONS, moment, 0, None)
    kept.service.restore_backup(draft.backup_id, ACME, ADMIN)
    assert kept.read() == wanted == {"same": "same", "changed": "second", "deleted": "still there", "new": "new"}
    assert kept.service.validate_backup(draft.backup_id, ACME, ADMIN, deep=True)["issues"] == []


def test_before_versions_were_kept_the_newest_backup_before_counts(
    application: Application, apart: Callable[[], datetime]
) -> None:
    """And between, what was put before and not touched since comes by its `null` version."""
    files = Files(application)
    files.put(old="as it was", null="never touched")
    older, moment = files.backup(), apart()
    files.bucket.keep_versions()
    files.put(old="newer")
    between = apart()
    files.put(old="newest")
    draft, facts = files.of(older, moment)
    assert (facts.source, facts.backup) == (FileSource.BACKUP, older)
    assert facts.why.startswith(f"source: {older}, listed at 20")
    assert "only from" in facts.why
    files.service.restore_backup(draft.backup_id, ACME, ADMIN)
    assert files.read() == {"old": "as it was", "null": "never touched"}
    draft, facts = files.of(older, between)
    assert facts.source is FileSource.VERSIONS
    files.service.restore_backup(draft.backup_id, ACME, ADMIN)
    assert files.read() == {"old": "newer", "null": "never touched"}
    with pytest.raises(MomentOutOfReach, match="no backup's files"):
        files.of(older, moment - timedelta(days=1))


@pytest.mark.parametrize("status", ["", "Suspended"])
def test_a_bucket_that_keeps_no_versions(application: Application, status: str) -> None:
    files = Files(application)
    if status:
        files.bucket.keep_versions().keep_versions(status)
    files.put(a="one")
    base = files.backup()
    files.put(a="two")
    _, facts = files.of(base, datetime.now(UTC))
    assert (facts.source, facts.backup) == (FileSource.BACKUP, base)
    assert ("suspended" if status else "no versions") in facts.why
    assert files_window(site_of(files.service), Application.tenant()).source is FileSource.BACKUP


def test_a_directory_has_the_files_of_the_newest_backup_before(application: Application) -> None:
    """Not of one that is younger than the moment, nor of one that was recovered."""
    service = application.service()
    first = BackupId(service.create_backup(ACME, ADMIN)["id"])
    moment = datetime.now(UTC)
    wanted = application.state(ACME).files
    application.wreck(ACME)
    second = BackupId(service.create_backup(ACME, ADMIN)["id"])
    draft, facts = of(service, second, moment)
    assert (facts.source, facts.backup) == (FileSource.BACKUP, first)
    listed_at = draft.components[FILES].listed_at
    assert listed_at is not None
    assert parse_timestamp(listed_at) == facts.as_of < moment
    service.restore_backup(draft.backup_id, ACME, ADMIN)
    assert application.state(ACME).files == wanted
    assert of(service, second, datetime.now(UTC))[1].backup == second
    with pytest.raises(MomentOutOfReach):
        of(service, first, moment - timedelta(days=1))


def test_a_file_that_was_removed_for_good_is_named(kept: Files, apart: Callable[[], datetime]) -> None:
    """All its versions went, though a backup has it."""
    kept.put(a="a", b="b")
    base = kept.backup()
    moment = apart()
    key = f"{PREFIX}a"
    for version in list(kept.bucket.versions().versions(key)):
        kept.bucket.client.delete_object(Bucket=kept.bucket.name, Key=key, VersionId=version.version)
    _, facts = kept.of(base, moment)
    assert [(doubt.key, doubt.why.partition(":")[0]) for doubt in facts.doubts] == [
        (key, "the base backup has it, and the bucket no version of it")
    ]


def test_a_version_that_goes_while_files_are_read(
    kept: Files, monkeypatch: pytest.MonkeyPatch, apart: Callable[[], datetime]
) -> None:
    kept.put(a="a")
    base = kept.backup()
    kept.put(a="newer", b="b")
    moment = apart()
    real: Callable[..., Any] = BoundStore.stream

    def stream(store: BoundStore, key: str, **asked: Any) -> Any:
        if key.endswith("/a") and asked.get("version"):
            kept.bucket.client.delete_object(Bucket=kept.bucket.name, Key=key, VersionId=asked["version"])
        return real(store, key, **asked)

    monkeypatch.setattr(BoundStore, "stream", stream)
    draft, facts = kept.of(base, moment)
    assert draft.components[FILES].file_count == 1
    assert [(doubt.key, "while the files were read" in doubt.why) for doubt in facts.doubts] == [(f"{PREFIX}a", True)]


def test_references_of_the_rows_without_a_file(application: Application) -> None:
    """The list names them, whichever source the files have."""
    files = Files(application)
    files.service = application.service(
        storage={"kind": "s3", "bucket": files.bucket.name, **files.bucket.access},
        files={"bucket": files.bucket.name, "references": [{"table": "projects", "column": "body"}]},
    )
    files.put(a="a")
    base = files.backup()
    application.database.run(f"UPDATE projects SET body = '{PREFIX}gone' WHERE tenant_id = 1 AND id % 3 = 0")

    def named(draft: Draft) -> Mapping[str, Any]:
        repository = site_of(files.service).repository(Application.tenant())
        with repository:
            repository.load_index()
            lines = (fields for fields, _ in list_lines(repository, draft.components[FILES]))
            return {str(fields.get("missing") or fields.get("path")): fields for fields in lines}

    draft, facts = files.of(base, datetime.now(UTC))
    assert facts.source is FileSource.BACKUP
    assert f"{PREFIX}gone" in named(draft)
    assert "a" in named(draft)


def test_no_files_where_they_are_not_backed_up(application: Application) -> None:
    service = application.service(files={"enabled": False})
    base = BackupId(service.create_backup(ACME, ADMIN)["id"])
    draft, facts = of(service, base, datetime.now(UTC))
    assert (facts.source, draft.components[FILES].file_count) == (FileSource.NONE, 0)
    assert files_window(site_of(service), Application.tenant()).source is FileSource.NONE


def test_the_window_begins_with_the_first_version_or_the_rules(kept: Files) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    assert files_window(site_of(kept.service), Application.tenant()) == FilesWindow(
        FileSource.BACKUP, "nothing shows since when the bucket keeps versions"
    )
    kept.put(a="a")
    window = files_window(site_of(kept.service), Application.tenant())
    assert window.source is FileSource.VERSIONS
    assert window.since is not None
    assert before <= window.since <= datetime.now(UTC)
