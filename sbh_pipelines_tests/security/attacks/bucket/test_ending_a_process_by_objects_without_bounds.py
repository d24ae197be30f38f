"""Who writes to the bucket wants to end the process that works for all tenants, by objects larger, more, or odder than any of ours.

Every read has a bound by its kind, looked at before the bytes are; what is past it is damage of that tenant alone, and nothing of it is held in memory.
"""

import io
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress

import pytest
from botocore.exceptions import ClientError, ParamValidationError

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.errors import CorruptObject, ObjectTooLarge, SbhError
from sbh_pipelines.repository.format import PACK_MAGIC, parse_document
from sbh_pipelines_tests.security.attacks.bucket.conftest import Hands, measured
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, BUCKET
from sbh_pipelines_tests.support.site import site_of

MIB = 1 << 20
LARGE = 100 * MIB  # one process could hold it; ten of them, or one of 30 GB, it could not
ALLOWED = 70 * MIB
PACK = "ab" * 32

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
    f"index/damaged-{PACK}",
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


def batch(hands: Hands) -> dict[str, SbhError | None]:
    """A backup of both tenants in one batch, in a process that starts for it: the error of each."""
    return {str(one.tenant.id): one.error for one in hands.service().backups.create_all([ACME, BOLT], ADMIN)}


def spread(hands: Hands, names: Iterable[str]) -> None:
    """The same 100 MiB under each key: sent once, and copied by the server."""
    client, source = hands.stack.s3_client(), f"{hands.mark}/large"
    if source not in hands.keys(source):
        client.upload_fileobj(io.BytesIO(bytes(LARGE)), BUCKET, source)
    for name in names:
        client.copy({"Bucket": BUCKET, "Key": source}, BUCKET, name)


def test_objects_that_are_far_too_large_are_not_read(hands: Hands) -> None:
    """Whatever is asked about the tenant, it is answered or refused, and what was refused is named."""
    assert batch(hands) == {ACME: None, BOLT: None}
    spread(hands, [hands.key(name) for name in NAMES])
    codes = {}
    with measured() as memory:
        for name, read in READS.items():
            try:
                read(hands.service())
            except SbhError as error:
                codes[name] = error.code
    assert memory.grown < ALLOWED, f"{memory.grown >> 20} MiB; {codes}"
    assert codes == {"latest": "SBH-607", "prune": "SBH-605"}  # the newest manifest cannot be read


@pytest.mark.parametrize("name", ["keys/0001.json", "lease.json"])
def test_one_tenants_damage_is_its_own(hands: Hands, name: str) -> None:
    """The batch goes on with the others."""
    assert batch(hands) == {ACME: None, BOLT: None}
    spread(hands, [hands.key(name)])
    with measured() as memory:
        errors = batch(hands)
    assert memory.grown < ALLOWED, f"{memory.grown >> 20} MiB"
    assert isinstance(errors[ACME], ObjectTooLarge)
    assert errors[BOLT] is None


def test_a_head_of_a_trail_that_is_far_too_large_is_as_good_as_none(hands: Hands) -> None:
    """Events are recorded all the same: the links tell where the trail ends."""
    assert batch(hands) == {ACME: None, BOLT: None}
    spread(hands, [f"{hands.mark}-catalog/audit/eu-west-1/heads/{ACME}.json"])
    with measured() as memory:
        assert batch(hands) == {ACME: None, BOLT: None}
    assert memory.grown < ALLOWED, f"{memory.grown >> 20} MiB"
    assert not hands.service().audit.verify(ADMIN, ACME).issues  # and the head was put right


def test_a_pack_that_claims_to_be_all_directory_is_not_read(hands: Hands) -> None:
    """Its trailer is nobody's word: the directory that it tells of would be the whole object."""
    assert batch(hands) == {ACME: None, BOLT: None}
    body = bytes(LARGE - 20) + struct.pack(">QI8s", 0, LARGE - 20, PACK_MAGIC)
    hands.stack.s3_client().upload_fileobj(io.BytesIO(body), BUCKET, hands.key(f"packs/{PACK}"))
    del body
    with measured() as memory:
        assert batch(hands) == {ACME: None, BOLT: None}
    assert memory.grown < ALLOWED, f"{memory.grown >> 20} MiB"
    site = site_of(hands.service())
    with site.repository(hands.application.tenant()) as repository:
        repository.load_index()
        (damage,) = repository.damages
    assert "says that its directory has" in damage.error.why


ODD = ("../../bolt/backups/x", "backup_\n\x01.json", "x" * 700, "backup_\u202eü.json", "a//b", "backup_'; --<b>.json")
FOLDERS = (
    *("manifests/", "packs/", "index/", "holds/", "restores/", "approvals/", "failures/", "drills/", "audit/", "keys/"),
    "",
)


def test_keys_with_odd_names_are_nobodys(hands: Hands) -> None:
    """They are passed over or named as damage, and keep no work from being done."""
    assert batch(hands) == {ACME: None, BOLT: None}
    for folder in FOLDERS:
        for name in ODD:
            with suppress(ClientError, ParamValidationError):  # not every server takes every name
                hands.put(hands.key(folder + name), b"{}")
    assert batch(hands) == {ACME: None, BOLT: None}
    codes = {}
    for name, read in READS.items():
        try:
            read(hands.service())
        except SbhError as error:
            codes[name] = error.code
    assert codes == {"status": "SBH-203"}  # which is right


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
