"""One listing opens a repository, and proves what was put; where it cannot, what was put is read back."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from sbh_pipelines.errors import LeaseHeld, RepositoryError
from sbh_pipelines.model import TenantId
from sbh_pipelines.repository import inventory as inventories
from sbh_pipelines.repository import lease
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.repository.pack import PackPipeline
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.repository.seal import Sealer
from sbh_pipelines.stores.base import MOST_BYTES, ObjectInfo
from sbh_pipelines_tests.support.memory_store import MemoryStore

PREFIX, TENANT = "files/acme/backups/", TenantId("acme")
DOCUMENT = "database/backup_20260101_1200.json"


class Counting(MemoryStore):
    """Counts reads by verb."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()

    def get_with_etag(self, key: str, most: int = MOST_BYTES) -> tuple[bytes, str]:
        self.reads["get"] += 1
        return super().get_with_etag(key, most)

    def head(self, key: str) -> ObjectInfo:
        body, etag = MemoryStore.get_with_etag(self, key)
        return ObjectInfo(key, len(body), etag, datetime.now(UTC))

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        self.reads["list"] += 1
        return super().list(prefix, after)


@pytest.fixture
def store() -> Counting:
    return Counting()


@pytest.fixture
def written(store: Counting) -> tuple[Repository, bytes]:
    """A repository with a pack, its index and a document, put just now; and the chunk of a detail."""
    repository = Repository(store, PREFIX, TENANT, Sealer(bytes(range(32)), TENANT))
    repository.load_index()
    with PackPipeline(8 << 20, 1 << 20, 1, 1) as packs:
        writer = repository.writer(packs)
        chunk = writer.put(b"a detail", keep=True).result()
        writer.finish()
    repository.write_index("backup_20260101_1200", "database", writer)
    repository.put_document(DOCUMENT, {"says": "it"})
    store.reads.clear()
    return repository, chunk


def _read(view: Repository, chunk: bytes) -> tuple[object, bytes]:
    return view.get_document(DOCUMENT), view.read_chunk(chunk)


def test_what_was_put_is_proved_by_one_listing(store: Counting, written: tuple[Repository, bytes]) -> None:
    repository, chunk = written
    view = repository.again()
    view.load_index()
    assert _read(view, chunk) == ({"says": "it"}, b"a detail")
    assert store.reads == {"list": 1}


@pytest.mark.parametrize("folder", ["packs/", "database/"])
def test_what_is_another_than_was_put_is_read(store: Counting, written: tuple[Repository, bytes], folder: str) -> None:
    """Of the same size: the listing shows another ETag, so what is there is read, and found to be damaged."""
    repository, chunk = written
    key = next(key for key in store.objects if key.startswith(PREFIX + folder))
    store.objects[key] = bytes(byte ^ 1 for byte in store.objects[key])
    view = repository.again()
    view.load_index()
    with pytest.raises(RepositoryError):
        _read(view, chunk)


def test_where_etags_say_nothing_all_is_read(store: Counting, written: tuple[Repository, bytes]) -> None:
    """As with keys of KMS, whose ETags look like digests and are none."""
    fresh = Repository(store, PREFIX, TENANT, written[0].sealer)
    for name in (DOCUMENT, next(iter(store.objects))[len(PREFIX) :]):
        fresh.written.put(name, b"other bytes", hashlib.md5(b"some", usedforsecurity=False).hexdigest())
    view = fresh.again()
    view.load_index()
    assert _read(view, written[1]) == ({"says": "it"}, b"a detail")
    assert store.reads["get"] >= 3


def test_a_crowd_of_other_objects_does_not_keep_from_opening(
    store: Counting, written: tuple[Repository, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folders are listed apart, and what was put is read back."""
    monkeypatch.setattr(inventories, "_MOST_BESIDE", 5)
    for number in range(10):
        store.put(f"{PREFIX}restores/{number}", b"x")
    repository, chunk = written
    view = repository.again()
    view.load_index()
    assert view.inventory.beside is None
    assert _read(view, chunk) == ({"says": "it"}, b"a detail")
    assert view.seen_ids() == view.manifest_ids() == []
    assert store.reads["get"] >= 2


def test_the_audit_trail_is_not_listed(store: Counting) -> None:
    """It grows for ever; everything behind it in the order of keys is told."""
    names = ["audit/000000000001.jsonl", "config/a.json", Keys.LEASE, "manifests/backup_20260101_1200.json", "index/a"]
    for name in names:
        store.put(PREFIX + name, b"{}")
    found = inventories.take_inventory(store, PREFIX, names)
    assert sorted({*(found.beside or ()), *found.index}) == sorted(names[1:])
    assert found.manifest_ids == ["backup_20260101_1200"]


def test_a_lease_is_proved_by_its_etag_and_its_time(store: Counting) -> None:
    """Not once another writer had it, nor when so much time has gone by that another may have it."""
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    held = lease.acquire(store, PREFIX, "one", "backup", 300, lambda: now[0])
    etag = inventories.take_inventory(store, PREFIX).lease_etag
    assert held.is_proved(etag)
    assert not held.is_proved(None)
    now[0] += timedelta(seconds=101)
    assert not held.is_proved(etag)
    held.renew()
    assert not held.is_proved(etag)
    assert held.is_proved(inventories.take_inventory(store, PREFIX).lease_etag)


def test_what_is_read_before_the_lease_is_taken_is_read_under_it(store: Counting) -> None:
    """Somebody who held it in between has changed the object: then it is not taken."""
    first = lease.acquire(store, PREFIX, "one", "backup", 300, _now)
    first.release()

    def meanwhile() -> None:
        lease.acquire(store, PREFIX, "two", "rotation", 300, _now).release()

    with pytest.raises(LeaseHeld):
        lease.acquire(store, PREFIX, "three", "backup", 300, _now, look=meanwhile)


def _now() -> datetime:
    return datetime.now(UTC)
