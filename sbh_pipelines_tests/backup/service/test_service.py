"""The calls that the specification shows, with its keys; who may call them; batches in which one tenant fails."""

import threading
from pathlib import Path

import psycopg2
import pytest

from sbh_pipelines.backup.create.draft import DraftStatus
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import (
    AccessDenied,
    InvalidId,
    LeaseHeld,
    NotConfirmed,
    RequestError,
    SbhError,
    UnknownBackup,
    UnknownRestore,
    UnknownTenant,
)
from sbh_pipelines.security.policy import Role, UserContext, require_role
from sbh_pipelines.settings import Settings, load_settings

HOSTILE = [
    "../etc",
    "a/../b",
    "",
    ".",
    "..",
    "a b",
    "ä",
    "'; DROP TABLE tenants; --",
    "x" * 1000,
    "a\0b",
    "a\nb",
    "%2e%2e",
]


def test_the_specifications_python_calls_work_as_it_shows_them(settings_file: Path) -> None:
    """create, validate, restore, both statuses and the storage configuration, under the package's own name."""
    from sbh_pipelines.backup.service import backup_service, load_service
    from sbh_pipelines.residency import residency_manager

    load_service.cache_clear()
    user_ctx = UserContext(user_id="admin", tenant_id="tenant-1", role=Role.ADMIN)
    result = backup_service.create_backup("tenant-1", user_ctx, "full")
    assert {"id", "tenant_id", "type", "region", "created_by", "created_at", "components", "checksum", "size"} <= set(
        result
    )
    assert set(result["components"]["database"]) >= {"type", "key", "size", "checksum", "tables"}
    assert set(result["components"]["files"]) >= {"type", "key", "size", "checksum", "file_count", "total_size"}
    assert (result["type"], result["created_by"], result["tenant_id"]) == ("full", "admin", "tenant-1")
    assert {"users", "projects", "tasks", "files", "payments", "analytics"} <= set(
        result["components"]["database"]["tables"]
    )
    assert result["components"]["database"]["key"] == f"files/tenant-1/backups/database/{result['id']}.json"
    valid = backup_service.validate_backup(result["id"], "tenant-1", user_ctx)
    assert (valid["valid"], valid["issues"]) == (True, [])
    assert backup_service.get_backup_status(result["id"], "tenant-1")["status"] == "completed"
    restored = backup_service.restore_backup(result["id"], "tenant-1", user_ctx)
    assert restored["backup_id"] == result["id"]
    status = backup_service.get_restore_status(restored["restore_id"])
    assert (status["status"], status["progress"]) == ("completed", 100)
    assert residency_manager.get_backup_storage_config("tenant-1") == {
        "bucket": "sbh-files-eu-west-1",
        "prefix": "files/tenant-1/backups/",
        "region": "eu-west-1",
    }


def test_the_storage_structure_is_the_specifications(
    sample_service: BackupService, sample_stack: Stack, admin: UserContext
) -> None:
    """manifests/, database/ and files/ hold a document named after the backup."""
    backup = sample_service.create_backup("tenant-2", admin)
    client = sample_stack.s3_client()
    for folder in ("manifests", "database", "files"):
        client.head_object(Bucket="sbh-files-eu-west-1", Key=f"files/tenant-2/backups/{folder}/{backup['id']}.json")


@pytest.mark.parametrize("slug", HOSTILE)
def test_hostile_tenant_ids_are_refused_before_anything_is_asked(
    slug: str, sample_service: BackupService, admin: UserContext
) -> None:
    for call in (sample_service.create_backup, sample_service.list_backups):
        with pytest.raises(InvalidId) as caught:
            call(slug, admin)
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "backup_id", [*HOSTILE, "backup_2024", "backup_20240115_1200/../../x", "backup_20240115_1200 "]
)
def test_hostile_backup_ids_are_refused(backup_id: str, sample_service: BackupService, admin: UserContext) -> None:
    for call in (sample_service.get_backup, sample_service.restore_backup):
        with pytest.raises((InvalidId, UnknownBackup)):
            call(backup_id, "tenant-1", admin)


def test_what_does_not_exist_is_said_to_be_unknown(sample_service: BackupService, admin: UserContext) -> None:
    with pytest.raises(UnknownTenant):
        sample_service.create_backup("nobody", admin)
    sample_service.create_backup("tenant-3", admin)
    with pytest.raises(UnknownBackup):
        sample_service.restore_backup("backup_19990101_0000", "tenant-3", admin)
    with pytest.raises(UnknownBackup):
        sample_service.get_backup_status("backup_19990101_0000")
    with pytest.raises(UnknownRestore):
        sample_service.get_restore_status("restore_19990101_000000_abcdef", "tenant-3")
    with pytest.raises(RequestError, match="full, incremental"):
        sample_service.create_backup("tenant-3", admin, "weekly")


def test_roles_and_tenants_are_kept_apart(sample_service: BackupService) -> None:
    """Creating and restoring need an admin; nobody reaches another tenant, not even to learn that it exists."""
    operator = UserContext("o", "tenant-1", Role.OPERATOR)
    stranger = UserContext("s", "tenant-2", Role.ADMIN)
    with pytest.raises(AccessDenied):
        sample_service.create_backup("tenant-1", operator)
    with pytest.raises(AccessDenied):
        sample_service.restore_backup("latest", "tenant-1", operator)
    for tenant in ("tenant-1", "nobody"):
        with pytest.raises(AccessDenied):
            sample_service.list_backups(tenant, stranger)

    @require_role(Role.ADMIN)
    def guarded(user_ctx: UserContext) -> str:
        return user_ctx.user_id

    assert guarded(stranger) == "s"
    with pytest.raises(AccessDenied):
        guarded(operator)


def test_a_restore_needs_its_confirmation(sample_service: BackupService, admin: UserContext) -> None:
    with pytest.raises(NotConfirmed):
        sample_service.restore_backup("latest", "tenant-1", admin, confirm=False)


def test_a_tenant_that_fails_in_a_batch_fails_alone(
    sample_service: BackupService, sample_stack: Stack, admin: UserContext
) -> None:
    """One tenant's region is not allowed, one does not exist: the third is backed up, and each error says why."""
    base = load_settings(sample_stack.settings)
    storage = base.storage.model_copy(update={"regions": ["eu-west-1"]})
    service = BackupService(base.model_copy(update={"storage": storage}))
    american = next(t.id for t in service.tenants.all() if t.region == "us-east-1")
    drafts = service.backups.create_all(["tenant-1", american, "nobody"], admin)
    assert [d.status for d in drafts] == [DraftStatus.COMPLETED, DraftStatus.FAILED, DraftStatus.FAILED]
    assert [d.error and d.error.code for d in drafts] == [None, "SBH-120", "SBH-202"]


def test_two_backups_of_one_tenant_at_once_keep_apart(
    sample_service: BackupService, sample_stack: Stack, admin: UserContext
) -> None:
    """One wins, the others are told who works on the tenant; all that committed are valid."""
    services = [BackupService(load_settings(sample_stack.settings)) for _ in range(3)]
    outcomes: list[str] = []

    def run(service: BackupService) -> None:
        try:
            service.create_backup("tenant-4", admin)
            outcomes.append("made")
        except LeaseHeld:
            outcomes.append("told")

    threads = [threading.Thread(target=run, args=(s,)) for s in services]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 3
    assert "made" in outcomes
    for manifest in sample_service.list_backups("tenant-4", admin):
        assert sample_service.validate_backup(manifest["id"], "tenant-4", admin, deep=True)["issues"] == []


def test_an_unmapped_table_stops_every_backup_and_is_named(
    sample_service: BackupService, sample_stack: Stack, admin: UserContext
) -> None:
    connection = psycopg2.connect(sample_stack.dsn("app"))
    connection.autocommit = True
    connection.cursor().execute("CREATE TABLE forgotten_by_everybody (id int)")
    try:
        with pytest.raises(SbhError, match="forgotten_by_everybody") as caught:
            sample_service.create_backup("tenant-1", admin)
        assert caught.value.code == "SBH-110"
        status = sample_service.list_backups("tenant-1", admin)
        assert all(m["components"] for m in status)
    finally:
        connection.cursor().execute("DROP TABLE forgotten_by_everybody")
        connection.close()


def test_malformed_and_doubled_slugs_keep_no_other_tenant_from_its_backup(
    sample_service: BackupService, sample_stack: Stack
) -> None:
    connection = psycopg2.connect(sample_stack.dsn("app"))
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute(
        "INSERT INTO tenants (slug, name, region, tier, plan_id)"
        " SELECT '../x', 'x', region, tier, plan_id FROM tenants LIMIT 1"
    )
    try:
        assert "tenant-1" in {t.id for t in sample_service.tenants.all()}
        (error,) = sample_service.tenants.unusable()
        assert "../x" in str(error)
    finally:
        cursor.execute("DELETE FROM tenants WHERE slug = '../x'")
        connection.close()


def test_secrets_are_in_no_repr_and_no_error(sample_stack: Stack, sample_service: BackupService) -> None:
    """The password, the S3 secret and the backup key, wherever text is made of what holds them."""
    base = load_settings(sample_stack.settings)
    secrets = {
        p.read_text().strip() for p in (sample_stack.dir / "secrets").iterdir() if p.is_file() and p.name != "pgpass"
    }
    assert len(secrets) >= 3
    shown = [repr(base), str(base), repr(sample_service), repr(vars(sample_service))]
    wrong = Settings(
        **{**base.model_dump(), "database": {**base.database.model_dump(), "password": "hunter2-database"}}
    )
    shown.append(repr(wrong))
    with pytest.raises(SbhError) as caught:
        BackupService(wrong).tenants.all()
    shown += [str(caught.value), repr(caught.value)]
    for text in shown:
        assert "hunter2" not in text
        assert not any(secret in text for secret in secrets)


def test_nothing_is_published_before_it_was_read_back(
    sample_service: BackupService, sample_stack: Stack, admin: UserContext
) -> None:
    """A pack that vanishes between writing and verifying: the backup fails, names it, and is not listed."""
    before = sample_service.list_backups("tenant-5", admin)
    drafts = sample_service.backups.begin(["tenant-5"], admin)
    for step in (
        sample_service.backups.snapshot_tables,
        sample_service.backups.enumerate_files,
        sample_service.backups.write_manifest,
    ):
        drafts = step(drafts)
    assert sample_service.list_backups("tenant-5", admin) == before
    client = sample_stack.s3_client()
    listed = client.list_objects_v2(Bucket="sbh-files-eu-west-1", Prefix="files/tenant-5/backups/packs/")["Contents"]
    for item in listed:
        client.delete_object(Bucket="sbh-files-eu-west-1", Key=item["Key"])
    (draft,) = sample_service.backups.verify_checksums(drafts)
    assert draft.status is DraftStatus.FAILED
    assert draft.error is not None
    assert draft.error.code == "SBH-601"
    assert draft.error.on.rsplit("/", 1)[1] in {item["Key"].rsplit("/", 1)[1] for item in listed}
    assert sample_service.list_backups("tenant-5", admin) == before
    assert sample_service.get_backup_status(draft.backup_id, "tenant-5")["status"] == "failed"
    again = sample_service.create_backup("tenant-5", admin)
    assert sample_service.validate_backup(again["id"], "tenant-5", admin, deep=True)["issues"] == []
