"""Which requests a backup makes for its tenant, in order: each is here with its reason, so that none comes back unnoticed.

What belongs to the batch is left out (the catalog, the fence), and so is the reading of files: one request for each that is new.
The server is taken for AWS's but where it says otherwise.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import count

import pytest

from sbh_pipelines.backup.create import conditional_puts, drafts
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.database.schema.tenants import find_tenant
from sbh_pipelines.embedded.servers.object_server import REGIONS
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.model import TenantId, utc_now
from sbh_pipelines.settings import RetentionClass, Settings, load_settings
from sbh_pipelines.stores import s3
from sbh_pipelines.stores.open_store import is_aws
from sbh_pipelines_tests.cli.conftest import sql
from sbh_pipelines_tests.support.application import ADMIN
from sbh_pipelines_tests.support.fault_stores import nothing, wrap
from sbh_pipelines_tests.support.site import site_of

TENANT = "tenant-5"
_NTH = count()
MINE = f"tenant_id = (SELECT id FROM tenants WHERE slug = '{TENANT}')"

TAKEN = [
    "get_with_etag keys/0001.json",  # whose the repository is, and its data key, as good as read under the lease
    "replace lease.json",  # if it still is as the backup released it of which the catalog speaks
    "page files of the tenant",  # packs, index objects, manifests, holds and the files beside them in one, after the snapshot
    "get listing.json",  # the newest backup, small index objects, details of tables, what retention must know
]
PROVED = [
    "put database",
    "put files",
    "put config",
    "list ",  # all that was put is there, as it was sent; the lease is held
    "create manifests",  # the commit
    "get manifests",  # and it is there
    "create audit",  # behind the end that `listing.json` tells of: where somebody was faster, the head is read
    "replace heads",  # if it still is the one that `listing.json` tells of
    "put listing.json",
    "replace lease.json",  # released
]
READ = [
    "get_ranges packs",
    "get_ranges packs",
]  # details of tables and of the list of files, which only a full backup reads again
FREE = "get_with_etag lease.json"  # whether it is free
FULL = [
    FREE,
    *TAKEN[:2],
    "list ",  # packs, index objects, manifests and holds: the snapshot is yet to be taken
    "get listing.json",
    "list files of the tenant",
    *PROVED[:4],
    *READ,
    *PROVED[4:],
]
WRITTEN = ["put packs", "put index"]
DETAILS = (
    "get_ranges packs"  # of tables that changed, and their sums, where the backup before did not change the same ones
)
COMPARED = "list files of the tenant"  # no row changed, so the files tell whether anything did
CHANGED_FILES = [
    "get_range packs",  # the list of the backup before
    "get_ranges packs",
]
OVERTAKEN = [  # where an event came to the trail since, in place of two
    "create audit",  # the number is taken
    "get audit",  # by another writer, and not by this one, whose answer was lost
    "get_with_etag heads",  # where the trail ends now
    "create audit",
    "replace heads",
]
FORGOTTEN = [  # where the policy drops backups, in place of the last two; two of them here
    "get manifests",  # the newest full one is no illusion
    "list holds",  # a hold may have come since the commit, a backup may not
    "get manifests",  # what is dropped, to be put back
    "get manifests",
    "replace lease.json",  # it is held: it names a process, so that another writer that takes this one for dead may have taken it
    "create audit",
    "replace heads",
    "delete manifests",
    "list holds",  # a hold that came meanwhile counts
]


class Requests:
    """What is asked of the stores for the tenant, in order."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._service, self._later = settings, BackupService(settings), timedelta()
        self.made: list[str] = []
        # Of the batch: before the leases are taken where there is something to compare with, and after.
        self.catalog_listings = 0

    def keep_one_incremental(self) -> None:
        """From now on each drops those before."""
        retention = self._settings.retention.model_copy(update={"incremental_backups": RetentionClass(keep_last=1)})
        self._service = BackupService(self._settings.model_copy(update={"retention": retention}))

    def tell(self) -> None:
        """Another process adds an event to the tenant's trail."""
        site = site_of(self._service)
        site.track(find_tenant(site.settings, TenantId(TENANT)), "backup.accessed", "ann", {})

    def of(self, kind: str) -> list[str]:
        """Make a backup, an hour after the one before, in a process of its own; its requests."""
        self._later += timedelta(hours=1)
        self.made.clear()
        self.catalog_listings = 0
        clock = lambda: utc_now() + self._later  # noqa: E731
        assert wrap(self._service, self._asked, nothing, clock).create_backup(TENANT, ADMIN, kind)["type"] == kind
        return list(self.made)

    def _asked(self, verb: str, key: str) -> None:
        if verb in ("stream", "lists_all"):
            return
        if key == f"files/{TENANT}/":
            self.made.append(f"{verb} files of the tenant")
        elif (found := re.search(rf"/{TENANT}/backups/apart-\d+/(.*)", key)) is not None:
            name = found[1]
            self.made.append(
                f"{verb} {name if name in ('lease.json', 'listing.json', 'keys/0001.json') else name.split('/')[0]}"
            )
        elif f"heads/{TENANT}" in key:
            self.made.append(f"{verb} heads")
        elif "epochs/" in key:  # whether the key is older than its newest epoch: the listings of the catalog tell
            self.made.append(f"{verb} epochs")
        elif verb == "list" and key == self._settings.storage.catalog_prefix + f"{REGIONS[0]}/":
            self.catalog_listings += 1


@pytest.fixture
def requests(sample_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Requests:
    """In a repository of its own: what other tests stored is not asked for."""
    nth = next(_NTH)
    monkeypatch.setenv("SBH_STORAGE__PREFIX", f"files/{{tenant}}/backups/apart-{nth}/")
    monkeypatch.setenv("SBH_STORAGE__CATALOG_PREFIX", f"_requests/catalog-{nth}/")
    monkeypatch.setenv("SBH_JOURNAL__ENABLED", "false")
    monkeypatch.setattr(conditional_puts, "is_aws", lambda *_: True)
    return Requests(load_settings(sample_stack.settings))


@contextmanager
def _changed(stack: Stack) -> Iterator[None]:
    with sql(stack, f"UPDATE tasks SET title = title WHERE {MINE} AND id % 9 = 0"):
        yield


@contextmanager
def _new_file(stack: Stack) -> Iterator[None]:
    bucket, key = f"sbh-files-{REGIONS[0]}", f"files/{TENANT}/new.txt"
    stack.s3_client().put_object(Bucket=bucket, Key=key, Body=b"new")
    yield
    stack.s3_client().delete_object(Bucket=bucket, Key=key)


def test_each_request_has_its_reason(requests: Requests, sample_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the first backup some more, once in a tenant's life; a second full one, an incremental one, and one that builds on that."""
    assert len(requests.of("full")) <= 30
    assert requests.of("full") == FULL
    assert requests.catalog_listings == 1
    with _changed(sample_stack):
        assert requests.of("incremental") == [*TAKEN, DETAILS, *WRITTEN, *PROVED]
    assert requests.catalog_listings == 2
    with _changed(sample_stack):  # no key came or went, so the sums lie in another pack than the details
        assert requests.of("incremental") == (last := [*TAKEN, *WRITTEN, *PROVED])
    requests.keep_one_incremental()
    with _changed(sample_stack):
        assert requests.of("incremental") == [*TAKEN, *WRITTEN, *PROVED[:-2], *FORGOTTEN, *PROVED[-2:]]
    monkeypatch.setattr(conditional_puts, "is_aws", is_aws)  # at another server the first lease of a process is read
    with _new_file(sample_stack):
        begun = [COMPARED, FREE, *TAKEN, *CHANGED_FILES, *WRITTEN]
        assert requests.of("incremental")[: len(begun)] == begun
    assert (len(FULL), len(last), len(FORGOTTEN)) == (18, 16, 9)


def test_an_event_that_came_since_the_last_backup_costs_three_requests_more(requests: Requests) -> None:
    """The next backup knows again where the trail ends."""
    for _ in range(2):
        requests.of("full")
    requests.tell()
    told = FULL.index("create audit")
    assert requests.of("full") == [*FULL[:told], *OVERTAKEN, *PROVED[-2:]]
    assert requests.of("full") == FULL


def test_a_page_that_does_not_hold_all_is_not_asked_for_each_time(
    requests: Requests, sample_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not until the next full backup: then there may be room."""
    full_page = s3.list_page
    monkeypatch.setattr(s3, "list_page", lambda *asked: replace(full_page(*asked), more=True))
    opened = [*TAKEN[:2], "list ", *TAKEN[3:]]
    page = TAKEN[2]
    requests.of("full")
    for expected in ([*TAKEN[:3], *opened[2:]], opened, opened):
        with _changed(sample_stack):
            assert requests.of("incremental")[: len(expected)] == expected
    requests.of("full")
    with _changed(sample_stack):
        assert page in requests.of("incremental")


def test_files_that_there_is_no_memory_for_are_listed_again(
    requests: Requests, sample_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a run's tenants have more than are kept until they are read."""
    requests.of("full")
    monkeypatch.setattr(drafts, "MOST_FILES", 0)
    with _changed(sample_stack), _new_file(sample_stack):
        made = requests.of("incremental")
    assert made.count(COMPARED) == 1
