"""Objects on their way: within the limit of the copy, and never as a whole in memory."""

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sbh_pipelines.backup.copies.copier.inventory import Inventory
from sbh_pipelines.backup.copies.copier.kinds import Kind, RegionKind, catalog_kind, journal_kind, repository_kind
from sbh_pipelines.backup.copies.copier.transfer import Limiter, SourceVanished, Transfers
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import CopyDiverged, CorruptObject
from sbh_pipelines.model import no_progress, utc_now
from sbh_pipelines.stores.base import ObjectInfo
from sbh_pipelines_tests.support.application import Application
from sbh_pipelines_tests.support.copied import Copied

PREFIX = "files/acme/backups/"


@pytest.fixture
def copied(application: Application, embedded_stack: Stack) -> Copied:
    return Copied(application, embedded_stack)


class Waits:
    """A clock that only sleep moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("size", [1 << 10, 1 << 20, 7 << 20])
def test_so_many_mib_pass_in_a_second(size: int) -> None:
    waits = Waits()
    limiter = Limiter(2.0, lambda: waits.now, waits.sleep)
    total = 0
    while total < 64 << 20:
        limiter.take(size)
        total += size
    took = waits.now - 100.0
    assert took == pytest.approx((total - size) / (2 << 20))


def test_threads_share_the_limit_and_a_pause_saves_nothing_up() -> None:
    waits, sleeping = Waits(), threading.Lock()

    def sleep(seconds: float) -> None:
        with sleeping:
            waits.now = max(waits.now, asked + seconds)

    asked = waits.now
    limiter = Limiter(1.0, lambda: asked, sleep)
    threads = [threading.Thread(target=limiter.take, args=(1 << 20,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert waits.now == pytest.approx(107.0)
    calm = Waits()
    limiter = Limiter(1.0, lambda: calm.now, calm.sleep)
    limiter.take(1 << 20)
    calm.now += 3600
    limiter.take(1 << 20)
    limiter.take(1 << 20)
    assert calm.now == pytest.approx(3701.0)


def test_no_limit_waits_for_nothing() -> None:
    Limiter(None, sleep=lambda _: pytest.fail("it waited")).take(1 << 40)


def ends(copied: Copied) -> tuple[Transfers, object, object]:
    place = copied.place()
    tenant = Application.tenant()
    here, _ = place.source.backup_store(tenant)
    there, _ = place.target.backup_store(tenant)
    return Transfers(place, no_progress, Limiter(None)), here, there


@pytest.mark.parametrize("size", [0, 1, (8 << 20) - 1, 8 << 20, (8 << 20) + 1, 16 << 20, (33 << 20) + 5])
def test_every_size_arrives_as_it_is(copied: Copied, size: int) -> None:
    body = os.urandom(size)
    key = f"{PREFIX}packs/{hashlib.sha256(body).hexdigest()}"
    copied.client.put_object(Bucket=copied.bucket, Key=key, Body=body)
    transfers, here, there = ends(copied)
    assert transfers.copy(here, there, key, size=size)  # type: ignore[arg-type]
    assert copied.objects(copied.copy_bucket)[key] == body
    assert not transfers.copy(here, there, key, size=size)  # type: ignore[arg-type]
    assert (transfers.objects, transfers.bytes) == (1, size)


@pytest.mark.parametrize("size", [1000, 20 << 20])
def test_a_pack_that_is_not_its_name_s_leaves_no_object(copied: Copied, size: int) -> None:
    key = f"{PREFIX}packs/{'0' * 64}"
    copied.client.put_object(Bucket=copied.bucket, Key=key, Body=os.urandom(size))
    transfers, here, there = ends(copied)
    with pytest.raises(CorruptObject):
        transfers.copy(here, there, key, size=size, absent=True)  # type: ignore[arg-type]
    assert copied.objects(copied.copy_bucket) == {}


@pytest.mark.parametrize("size", [1000, 20 << 20])
def test_what_is_gone_or_shorter_at_the_source_is_said(copied: Copied, size: int) -> None:
    transfers, here, there = ends(copied)
    with pytest.raises(SourceVanished):
        transfers.copy(here, there, f"{PREFIX}packs/{'0' * 64}", size=size, absent=True)  # type: ignore[arg-type]
    assert copied.objects(copied.copy_bucket) == {}


def test_another_object_of_the_same_name_and_size_is_not_overwritten(copied: Copied) -> None:
    """A listing that did not show it: the put itself finds out."""
    key = f"{PREFIX}audit/000000000001.jsonl"
    copied.client.put_object(Bucket=copied.bucket, Key=key, Body=b"here")
    copied.client.put_object(Bucket=copied.copy_bucket, Key=key, Body=b"there")
    transfers, here, there = ends(copied)
    with pytest.raises(CopyDiverged):
        transfers.copy(here, there, key, size=4, absent=True)  # type: ignore[arg-type]
    assert copied.objects(copied.copy_bucket)[key] == b"there"


_SCRIPT = """
import resource, sys
from pathlib import Path
from sbh_pipelines.backup.copies.place import open_copy
from sbh_pipelines.backup.copies.copier.transfer import Limiter, Transfers
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.model import Tenant, TenantId, no_progress, utc_now
from sbh_pipelines.settings import Settings
import pickle
settings = pickle.loads(Path(sys.argv[1]).read_bytes())
place = open_copy(Site(settings, utc_now), "dr")
tenant = Tenant(TenantId("acme"), "1", "eu-west-1", "critical")
here, _ = place.source.backup_store(tenant)
there, _ = place.target.backup_store(tenant)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
Transfers(place, no_progress, Limiter(None)).copy(here, there, sys.argv[2], size=int(sys.argv[3]), absent=True)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_an_object_of_300_mib_takes_no_300_mib_of_memory(copied: Copied, tmp_path: Path) -> None:
    size = 300 << 20
    body = os.urandom(1 << 20) * 300
    key = f"{PREFIX}packs/{hashlib.sha256(body).hexdigest()}"
    copied.client.put_object(Bucket=copied.bucket, Key=key, Body=body)
    import pickle

    kept = tmp_path / "settings"
    kept.write_bytes(pickle.dumps(copied.settings()))
    answer = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(kept), key, str(size)], capture_output=True, text=True, check=True
    )
    assert int(answer.stdout) < 160, "MiB"


_INVENTORY = """
import resource
from sbh_pipelines.backup.copies.copier.inventory import Inventory
from sbh_pipelines.backup.copies.copier.kinds import Kind, repository_kind
from sbh_pipelines.model import utc_now
from sbh_pipelines.stores.base import ObjectInfo
now = utc_now()

def listing(count):
    return (ObjectInfo(f"p/packs/{n:064x}", 1, '"e"', now) for n in range(count))

def compared(count):
    with Inventory("p/", repository_kind) as inventory:
        inventory.add_source(listing(count))
        inventory.add_target(listing(count // 2))
        assert sum(1 for _ in inventory.wanted(Kind.PACK, immutable=True)) == count - count // 2
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

few = compared(2_000)
print((compared(200_000) - few) // 1024)
"""


def test_two_hundred_thousand_names_take_no_more_memory_than_a_few() -> None:
    answer = subprocess.run([sys.executable, "-c", _INVENTORY], capture_output=True, text=True, check=True)
    assert int(answer.stdout) < 24, "MiB"


# names and listings


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (f"packs/{'a' * 64}", Kind.PACK),
        (f"packs/{'A' * 64}", None),
        ("index/backup_20260101_0000-snapshot_tables-0123456789abcdef", Kind.INDEX),
        ("index/backup_20260101_0000_02-merged-0123456789abcdef", Kind.INDEX),
        ("index/prune_20260101_000000_ab12cd-index-0123456789abcdef", Kind.INDEX),
        ("index/retired-prune_20260101_000000_ab12cd-0123456789abcdef", None),
        (f"index/damaged-{'a' * 64}", None),
        ("database/backup_20260101_0000.json", Kind.DOCUMENT),
        ("post-data/backup_20260101_0000.json", Kind.DOCUMENT),
        ("restores/backup_20260101_0000.json", None),
        ("failures/backup_20260101_0000.json", None),
        ("manifests/backup_20260101_0000_02.json", Kind.MANIFEST),
        ("manifests/../backup_20260101_0000.json", None),
        ("manifests/backup_20260101_0000.json\n", None),
        ("audit/000000000001.jsonl", Kind.EVENT),
        ("holds/legal-tenant-0123abcd.json", Kind.HOLD),
        ("holds/until-2026010112-backup_20260101_0000.json", Kind.HOLD),
        ("holds/everything.json", None),
        ("keys/0001.json", None),
        ("lease.json", None),
        ("listing.json", None),
        ("copy.json", None),
    ],
)
def test_what_is_copied_of_a_repository_has_a_name_of_the_format(name: str, kind: Kind | None) -> None:
    assert repository_kind(name) is kind


def test_what_is_copied_of_a_region_has_a_name_of_the_format() -> None:
    assert catalog_kind("records/20260101T000000000000Z-0123456789abcdef") is RegionKind.RECORD
    assert catalog_kind("former/acme~2.json") is RegionKind.FORMER
    assert catalog_kind("moves/acme.json") is RegionKind.MOVE
    assert catalog_kind("copies/dr/states/20260101T000000000000Z-0123456789abcdef") is None
    assert catalog_kind("keys/0001.json") is None
    assert catalog_kind("epochs/00/00/0001-ended.json") is None
    assert journal_kind("lease.json") is None
    assert journal_kind("gaps/20260101T000000000000Z-0123456789abcdef") is RegionKind.GAP


def test_listings_in_any_order_compare(tmp_path: Path) -> None:
    del tmp_path
    names = [f"packs/{hashlib.sha256(bytes([n])).hexdigest()}" for n in range(250)]
    now = utc_now()

    def info(name: str, size: int = 1) -> ObjectInfo:
        return ObjectInfo(PREFIX + name, size, '"e"', now)

    with Inventory(PREFIX, repository_kind) as inventory:
        inventory.add_source(info(name) for name in reversed(names))
        inventory.add_target([*(info(name) for name in names[1::2]), info(names[0], 2)])
        wanted = [(one.name, one.absent, one.size_there) for one in inventory.wanted(Kind.PACK, immutable=True)]
    assert wanted == sorted([(names[0], False, 2), *((name, True, None) for name in names[2::2])])
