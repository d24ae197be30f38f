"""Who writes to the bucket wants to end the process that works for all tenants, by objects larger, more, or odder than any of ours.

Every read has a bound by its kind, looked at before the bytes are; what is past it is damage of that tenant alone, and nothing of it is held in memory.
"""

import io
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, ParamValidationError

from sbh_pipelines.backup.health.observation import Observation, observe
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.errors import CorruptObject, ObjectTooLarge, SbhError, TooManyObjects
from sbh_pipelines.model import utc_now
from sbh_pipelines.repository.format import PACK_MAGIC, parse_document
from sbh_pipelines.stores.base import ObjectInfo
from sbh_pipelines_tests.security.attacks.bucket.conftest import Hands, measured
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, BUCKET, Application
from sbh_pipelines_tests.support.fault_stores import Wrapped, nothing
from sbh_pipelines_tests.support.site import site_of, site_with_stores, with_stores

MIB = 1 << 20
LARGE = 100 * MIB  # this process could hold it; ten of them, or one of 30 GB, it could not
ALLOWED = 70 * MIB
PACK = "ab" * 32
NONE = {ACME: None, BOLT: None}

# What lies in a tenant's repository, each by a name that is read for what it is.
NAMES = (
    "manifests/backup_20991231_2359.json",
    "index/backup_20240115_1200-snapshot-0123456789abcdef",
    "index/retired-prune_20240115_120000-0123456789abcdef",
    "failures/backup_20991231_2359.json",
    "restores/restore_20991231_235959_abcdef.json",
    "approvals/approval_20991231_235959_abcdef.json",
    "drills/drill_20991231_235959_abcdef.json",
    "holds/pin-backup_20240115_1200.json",
    "listing.json",
    f"packs/{PACK}",
    "audit/000000000099.jsonl",
)
READS: dict[str, Callable[[BackupService], object]] = {
    "list": lambda service: service.backups.overview(ACME, ADMIN),
    "failed": lambda service: service.backups.unfinished(ACME, ADMIN, "failed"),
    "status": lambda service: service.backups.status("backup_20991231_2359", ACME, ADMIN),
    "latest": lambda service: service.restores.plan("latest", ACME, ADMIN),
    "restores": lambda service: service.restores.of(ACME, ADMIN),
    "approvals": lambda service: service.approvals.of(ACME, ADMIN),
    "holds": lambda service: service.retention.holds(ACME, ADMIN),
    "drills": lambda service: service.drills.of(ACME, ADMIN),
    "audit": lambda service: service.audit.events(ADMIN, ACME),
    "health": lambda service: service.check_backup_health(ADMIN),
    "keys": lambda service: service.keys.status(ADMIN),
    "validate": lambda service: service.backups.validate("latest", ACME, ADMIN, deep=True),
    "trail": lambda service: service.audit.verify(ADMIN, ACME),
    "prune": lambda service: service.retention.prune(ACME, ADMIN),
}


def batch(service: BackupService) -> dict[str, SbhError | None]:
    """A backup of both tenants in one batch, in a process that starts for it: the error of each."""
    return {str(one.tenant.id): one.error for one in service.backups.create_all([ACME, BOLT], ADMIN)}


def asked(service: BackupService, reads: Iterable[str] = READS) -> dict[str, str]:
    """The codes of what was refused, by what was asked."""
    codes = {}
    for name in reads:
        try:
            READS[name](service)
        except SbhError as error:
            codes[name] = error.code
    return codes


def enlarge(path: Path) -> None:
    """4 GiB that take no room on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(4 << 30)


def test_objects_that_are_far_too_large_are_not_read(hands: Hands) -> None:
    """Whatever is asked about the tenant is answered or refused; and a pack's trailer that claims all of it as directory is nobody's word."""
    service = hands.service()
    assert batch(service) == NONE
    client, first, *others = hands.stack.s3_client(), *(hands.key(name) for name in NAMES)
    body = bytes(LARGE - 20) + struct.pack(">QI8s", 0, LARGE - 20, PACK_MAGIC)
    client.upload_fileobj(io.BytesIO(body), BUCKET, first)
    for name in others:
        client.copy({"Bucket": BUCKET, "Key": first}, BUCKET, name)
    del body
    with measured() as memory:
        codes = asked(hands.service())
        errors = batch(hands.service())
    assert memory.grown < ALLOWED, f"{memory.grown >> 20} MiB; {codes}"
    assert codes == {"latest": "SBH-607", "prune": "SBH-605"}  # the newest manifest cannot be read
    assert errors == NONE
    with site_of(hands.service()).repository(hands.application.tenant()) as repository:
        repository.load_index()
        damages = {damage.key: damage.error for damage in repository.damages}
    assert "says that its directory has" in damages[f"packs/{PACK}"].why


@pytest.mark.parametrize("name", ["keys/0001.json", "lease.json"])
def test_one_tenants_damage_is_its_own(application: Application, name: str) -> None:
    """The batch goes on with the others."""
    assert batch(application.service()) == NONE
    enlarge(application.repository(ACME) / name)
    with measured() as memory:
        errors = batch(application.service())
    assert memory.grown < ALLOWED, f"{memory.grown >> 20} MiB"
    assert isinstance(errors[ACME], ObjectTooLarge)
    assert errors[BOLT] is None


def test_a_head_of_a_trail_that_is_far_too_large_is_as_good_as_none(application: Application) -> None:
    """Events are recorded all the same: the links tell where the trail ends."""
    assert batch(application.service()) == NONE
    enlarge(application.bucket / "_sbh-catalog" / "audit" / "eu-west-1" / "heads" / f"{ACME}.json")
    with measured() as memory:
        assert batch(application.service()) == NONE
    assert memory.grown < ALLOWED, f"{memory.grown >> 20} MiB"
    assert not application.service().audit.verify(ADMIN, ACME).issues  # and the head was put right


def test_a_few_objects_in_an_audit_trail_are_no_endless_row(application: Application) -> None:
    """Put where a search by doubling looks, forty of them pretend to be a million million, each to be read before anything is recorded."""
    assert batch(application.service()) == NONE
    folder = application.repository(ACME) / "audit"
    last, step = max(int(file.stem) for file in folder.iterdir()), 1
    number = last + 1
    while number < 10**12:
        (folder / f"{number:012d}.jsonl").write_bytes(b"{}\n")
        number, step = number + step, step * 2
    begun = time.monotonic()
    assert batch(application.service()) == NONE
    assert time.monotonic() - begun < 600
    events = application.service().audit.events(ADMIN, ACME).events
    assert [event.event for event in events if event.event == "audit.damaged"]
    assert [event.seq for event in reversed(events)] == list(range(events[-1].seq, events[0].seq + 1))


ODD = ("../../bolt/backups/x", "backup_\n\x01.json", "x" * 700, "backup_\u202eü.json", "a//b", "backup_'; --<b>.json")
FOLDERS = (
    *("manifests/", "packs/", "index/", "holds/", "restores/", "approvals/", "failures/", "drills/", "audit/", "keys/"),
    "",
)


def test_keys_with_odd_names_are_nobodys(hands: Hands) -> None:
    """They are passed over or named as damage, and keep no work from being done."""
    assert batch(hands.service()) == NONE
    for folder in FOLDERS:
        for name in ODD:
            with suppress(ClientError, ParamValidationError):  # not every server takes every name
                hands.put(hands.key(folder + name), b"{}")
    assert batch(hands.service()) == NONE
    assert asked(hands.service(), ("list", "holds", "restores", "audit", "trail", "keys", "prune")) == {}


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"[" + b"[]," * (5 * MIB) + b"1]",
        b'{"a":"' + b"9" * 100_000 + b'"}',
        b"9" * 100_000,
        b"\xff\xfe",
        b"",
        b"null",
        b'{"expires_at": 1e999}',
    ],
    ids=["lists", "objects", "wide", "text", "number", "bytes", "empty", "null", "infinite"],
)
def test_json_of_any_shape_is_damage(body: bytes) -> None:
    """Nested a hundred thousand deep, or five million lists of two bytes each."""
    with measured() as memory, suppress(CorruptObject):
        document = parse_document(body, "a document")
        assert set(document) <= {"a", "expires_at"}
    assert memory.grown < ALLOWED, f"{memory.grown >> 20} MiB"


def test_a_million_keys_under_a_prefix_are_counted_and_not_kept(application: Application) -> None:
    """Small objects are cheap to put: the tenant's listing is refused at its bound, and memory does not grow with it."""
    assert batch(application.service()) == NONE
    now = datetime.now(UTC)

    class Crowded(Wrapped):
        def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
            yield from self._inner.list(prefix, after)
            if prefix.endswith(f"{ACME}/backups/"):  # folders are listed apart then
                for number in range(1_000_000):
                    yield ObjectInfo(f"{prefix}restores/{number}.json", 2, "e", now)
            if prefix.endswith(f"{ACME}/backups/manifests/"):
                for number in range(1_000_000):
                    yield ObjectInfo(f"{prefix}backup_20240115_{number:04d}.json", 2, "e", now)
            if prefix.endswith((f"{ACME}/backups/holds/", f"{ACME}/backups/failures/")):
                for number in range(1_000_000):
                    yield ObjectInfo(f"{prefix}{number}.json", 2, "e", now)

    def crowd(store: Any, _: Any) -> Any:
        return Crowded(store, nothing, nothing)

    crowded = with_stores(application.service(), crowd)
    with measured() as memory:
        for read in (READS["list"], READS["holds"], READS["failed"]):
            with pytest.raises(TooManyObjects, match="see who can write to the bucket"):
                read(crowded)
        observed = {
            str(one.tenant.id): one.error for one in (observed_by(application, crowd, name) for name in (ACME, BOLT))
        }
    assert memory.grown < 3 * ALLOWED, f"{memory.grown >> 20} MiB"
    assert isinstance(observed[ACME], TooManyObjects)
    assert observed[BOLT] is None


def test_an_error_that_nobody_foresaw_is_its_tenants_own(application: Application) -> None:
    """Whatever a driver or a parser raises on what it was given: the others of the batch are backed up, and its text is kept nowhere."""

    def hostile(verb: str, key: str) -> None:
        if verb == "list" and key.endswith(f"/{ACME}/backups/"):
            raise KeyError("customer's row")

    def breaking(store: Any, _: Any) -> Any:
        return Wrapped(store, hostile, nothing)

    broken = with_stores(application.service(), breaking)
    errors = batch(broken)
    assert errors[BOLT] is None
    assert errors[ACME] is not None
    assert "KeyError at" in errors[ACME].why
    assert "customer" not in str(errors[ACME])
    assert observed_by(application, breaking, BOLT).error is None


def observed_by(application: Application, wrap: Callable[[Any, Any], Any], name: str) -> Observation:
    site = site_with_stores(application.service().settings, utc_now, wrap)
    return observe(site, Application.tenant(name))
