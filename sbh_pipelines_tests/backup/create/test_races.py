"""Two at once on one tenant: whoever is slower is told, and nothing of the faster one is overwritten."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sbh_pipelines.backup.create.conditional_puts import ConditionalPuts
from sbh_pipelines.backup.create.drafts import OpenDrafts, new_draft
from sbh_pipelines.errors import LeaseHeld, LeaseLost, SourceUnavailable
from sbh_pipelines.model import BackupType, Progress, utc_now
from sbh_pipelines.placement import Place
from sbh_pipelines.repository import lease
from sbh_pipelines.settings import StorageSettings
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application
from sbh_pipelines_tests.support.fault_stores import Wrapped, nothing, wrap
from sbh_pipelines_tests.support.site import site_of, site_with_stores

MINUTE = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


def test_ids_of_one_minute_are_never_used_twice(application: Application) -> None:
    """Not even that of a backup that was forgotten since: ties in time are broken by the id."""
    service = application.service(
        clock=lambda: MINUTE,
        retention={"full_backups": {}, "keep_within_hours": 0},
    )
    made = [service.create_backup(ACME, ADMIN)["id"] for _ in range(4)]
    assert made == [f"backup_20260501_1200{nth}" for nth in ("", "_02", "_03", "_04")]
    assert [m["id"] for m in service.list_backups(ACME, ADMIN)] == [made[-1]]


def test_a_backup_that_begins_while_another_ends_overwrites_nothing(application: Application) -> None:
    """The faster one takes place between the slower one's first look and its lease, in the same minute."""
    other = application.service(clock=lambda: MINUTE)
    made: list[str] = []

    def meanwhile(verb: str, key: str) -> None:
        if key.endswith("lease.json") and not made:
            made.append("")
            made[0] = other.create_backup(ACME, ADMIN)["id"]

    slower = wrap(other, meanwhile, nothing, clock=lambda: MINUTE)
    made.append(slower.create_backup(ACME, ADMIN)["id"])
    assert made == ["backup_20260501_1200", "backup_20260501_1200_02"]
    for backup in made:
        assert other.validate_backup(backup, ACME, ADMIN, deep=True)["issues"] == []


def test_a_restore_keeps_backups_and_restores_out(application: Application) -> None:
    """And a backup keeps restores out."""
    service = application.service()
    backup = service.create_backup(ACME, ADMIN)["id"]
    refused: list[str] = []

    def intrude(notice: Progress) -> None:
        if notice.step in ("restore: merge", "snapshot_tables"):
            for call in (
                lambda: application.service().create_backup(ACME, ADMIN),
                lambda: application.service().restore_backup(backup, ACME, ADMIN),
            ):
                with pytest.raises(LeaseHeld):
                    call()
                refused.append(notice.step)

    application.wreck(ACME)
    service.restore_backup(backup, ACME, ADMIN, progress=intrude)
    service.create_backup(ACME, ADMIN, progress=intrude)
    assert {"restore: merge", "snapshot_tables"} <= set(refused)
    service.create_backup(ACME, ADMIN)


@pytest.mark.parametrize("step", ["restore: compare", "restore: merge", "restore: prove"])
def test_a_restore_that_was_asleep_does_not_write(application: Application, step: str) -> None:
    """Its lease expired and another writer has it: neither rows nor files change."""
    service = application.service()
    backup = service.create_backup(ACME, ADMIN)["id"]
    application.wreck(ACME)
    wrecked = application.state(ACME)
    store, prefix = site_of(service).backup_store(service.tenants.find(ACME))
    taken: list[lease.Lease] = []

    def sleep(notice: Progress) -> None:
        if notice.step == step and not taken:
            tomorrow = lambda: utc_now() + timedelta(days=1)  # noqa: E731
            taken.append(lease.acquire(store, prefix, "another", "backup", 60, tomorrow))

    with pytest.raises(LeaseLost):
        service.restore_backup(backup, ACME, ADMIN, progress=sleep)
    assert application.state(ACME) == wrecked
    taken[0].renew()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a bug"), SourceUnavailable("gone")])
def test_a_step_that_breaks_off_leaves_no_lease_behind(application: Application, error: BaseException) -> None:
    """An incremental backup takes its lease inside the step: nobody outside could release it."""
    service = application.service()
    service.create_backup(ACME, ADMIN)
    application.wreck(ACME)

    def break_off(notice: Progress) -> None:
        raise error

    with pytest.raises(type(error)):
        service.create_backup(ACME, ADMIN, "incremental", progress=break_off)
    assert application.service().create_backup(ACME, ADMIN, "incremental")["type"] == "incremental"


def test_a_restore_that_ended_is_a_success_whatever_becomes_of_its_lease(application: Application) -> None:
    """After the commit nothing can be taken back; that the lease could not be released is nobody's concern."""
    service = application.service()
    backup = service.create_backup(ACME, ADMIN)["id"]
    wanted = application.state(ACME)
    application.wreck(ACME)
    damaged: list[str] = []

    def spoil(verb: str, key: str) -> None:
        if "/restores/" in key and verb == "put":
            damaged.append(key)
            if application.state(ACME).rows == wanted.rows:
                (application.repository(ACME) / "lease.json").write_bytes(b"{}")

    result = wrap(application.service(), spoil, nothing).restore_backup(backup, ACME, ADMIN)
    assert result["status"] == "completed"
    assert application.state(ACME) == wanted
    assert service.get_restore_status(result["restore_id"], ACME)["status"] == "completed"
    service.create_backup(ACME, ADMIN)


def test_a_backup_that_goes_after_it_was_listed_is_not_built_on(application: Application) -> None:
    """Who may delete in the bucket did. The next one is a full backup and does not fail."""
    service = application.service()
    service.backups.create(ACME, ADMIN)
    application.database.run("UPDATE notes SET body = 'changed' WHERE tenant_id = 1")
    repository = application.repository(ACME)
    (repository / "listing.json").unlink()  # else it tells of the newest backup what its manifest would

    gone: list[None] = []

    def goes(verb: str, key: str) -> None:
        if verb == "get" and "/manifests/" in key and (manifest := application.bucket / key).exists() and not gone:
            gone.append(manifest.unlink())

    (draft,) = wrap(service, goes, nothing).backups.create_all([ACME], ADMIN, "incremental")
    assert (draft.error, draft.type, draft.reason) == (None, "full", "the tenant has no backup to build on")


def test_a_lease_that_was_taken_after_the_commit_deletes_nothing(application: Application) -> None:
    """The listing for the commit shows that it is held, and that of a process may be taken at any time."""
    service = application.service(retention={"keep_within_hours": 0, "full_backups": {"keep_last": 1}})
    service.backups.create(ACME, ADMIN)
    repository = application.repository(ACME)

    def taken(verb: str, key: str) -> None:
        if verb == "create" and "/manifests/" in key:
            text = (repository / "lease.json").read_text()
            (repository / "lease.json").write_text(text.replace(":backup:", ":another:"))

    (draft,) = wrap(service, nothing, taken).backups.create_all([ACME], ADMIN, "full")
    assert draft.retention is not None
    assert draft.retention.error is not None
    assert draft.retention.error.code == LeaseLost.code
    assert len(list((repository / "manifests").iterdir())) == 2


@pytest.mark.parametrize("ignores", ["", "replace", "create"])
def test_a_lease_is_taken_unread_only_where_a_write_was_refused(
    application: Application, caplog: pytest.LogCaptureFixture, ignores: str
) -> None:
    """A store that does not look at conditions would give it to anybody: there it is read, and the log says so once."""
    asked: list[str] = []

    def before(verb: str, key: str) -> None:
        if key.endswith("/lease.json"):
            asked.append(verb)

    def wrapped(store: Any, _: Place) -> Any:
        made = Wrapped(store, before, nothing)
        if ignores:
            setattr(made, ignores, lambda key, data, *_: (before(ignores, key), store.put(key, data))[1])
        return made

    site = site_with_stores(application.settings, utc_now, wrapped)
    store, prefix = site.backup_store(application.tenant())
    first, shop = lease.acquire(store, prefix, "first", "backup_1", 60, utc_now), OpenDrafts(site)
    first.release()

    def take(left: lease.ReleasedLease | None = None) -> list[str]:
        left = left or lease.ReleasedLease("backup_1", store.head(prefix + "lease.json").etag)
        asked.clear()
        draft = new_draft(application.tenant(), "tester", BackupType.FULL, None, utc_now())
        draft = replace(draft, lease_owner=lease.new_owner("backup"))
        shop.take(draft, left)
        requests = list(asked)
        shop.end(draft)
        return requests

    read = ["get_with_etag", "replace"]
    assert [take() for _ in range(4)] == [
        read,
        [*read, "replace", *(["create"] if ignores != "replace" else [])],
        *[read if ignores else ["replace"]] * 2,
    ]
    lease.acquire(store, prefix, "another", "backup_2", 60, utc_now)
    with pytest.raises(LeaseHeld, match="another"):
        take(lease.ReleasedLease("backup_1", "of long ago"))
    assert [record.levelname for record in caplog.records if "If-Match" in record.message] == ["WARNING"] * bool(
        ignores
    )


def test_at_aws_it_is_known() -> None:
    place = Place("bucket", "files/", "eu-west-1")
    assert ConditionalPuts(StorageSettings()).are_sure(place)
    assert not ConditionalPuts(StorageSettings(endpoint_url="https://s3.example.com")).are_sure(place)
