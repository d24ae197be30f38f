"""What is whole at a copy is found by who has the copy alone; what is not is named, and not counted."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from sbh_pipelines.backup.copies.place import CopyPlace, open_copy
from sbh_pipelines.backup.copies.state import CopyState, CopyStates
from sbh_pipelines.backup.copies.verification import verify_copy, verify_tenant
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import CopyUnverified, KeyServiceError, StoreDenied, StoreUnavailable
from sbh_pipelines.model import Tenant, parse_timestamp, utc_now
from sbh_pipelines_tests.backup.create.test_crash import struck
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.copied import COPY, REGION, Copied

TENANT = Application.tenant()
PREFIX = f"files/{ACME}/backups/"


@pytest.fixture
def copied(application: Application, embedded_stack: Stack) -> Copied:
    return Copied(application, embedded_stack)


@pytest.fixture
def service(copied: Copied) -> BackupService:
    return copied.service()


def below(copied: Copied, folder: str) -> list[str]:
    return sorted(key for key in copied.objects(copied.copy_bucket, PREFIX + folder))


def without_source(copied: Copied) -> CopyPlace:
    """A place whose source does not answer, and whose key file is not there."""
    settings = copied.settings()
    storage = settings.storage.model_copy(update={"endpoint_url": "http://127.0.0.1:9"})
    copies = [copy.model_copy(update={"endpoint_url": settings.storage.endpoint_url}) for copy in settings.copies]
    gone = settings.keys.model_copy(update={"key_file": copied.application.directory / "no such key"})
    given = settings.model_copy(update={"storage": storage, "copies": copies, "keys": gone})
    return open_copy(Site(given, utc_now), COPY)


def test_what_was_copied_is_whole_by_the_copy_alone(copied: Copied, service: BackupService) -> None:
    made = service.create_backup(ACME, ADMIN)
    copied.bring_both()
    place = without_source(copied)
    found = verify_tenant(place, TENANT)
    assert (found.valid, found.backup_id, found.bytes) == (True, made["id"], 0)
    assert found.recovery_point == parse_timestamp(made["recovery_point"]["time"])
    deep = verify_tenant(place, TENANT, deep=True)
    assert deep.valid
    assert deep.bytes > 0
    with pytest.raises((StoreUnavailable, KeyServiceError)):
        place.source.repository(TENANT)


def remove(client: Any, bucket: str, key: str) -> None:
    client.delete_object(Bucket=bucket, Key=key)


def shorten(client: Any, bucket: str, key: str) -> None:
    body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    client.put_object(Bucket=bucket, Key=key, Body=body[: len(body) // 2])


def other(client: Any, bucket: str, key: str) -> None:
    """A manifest or a document of the tenant's that is another's, under its name."""
    document = json.loads(client.get_object(Bucket=bucket, Key=key)["Body"].read())
    document["checksum" if "checksum" in document else "tenant"] = "another"
    client.put_object(Bucket=bucket, Key=key, Body=json.dumps(document).encode())


@pytest.mark.parametrize("harm", [remove, shorten, other])
@pytest.mark.parametrize("folder", ["packs/", "database/", "config/", "manifests/", "keys/"])
def test_what_is_not_whole_is_named_with_what_to_do(
    copied: Copied, service: BackupService, folder: str, harm: Callable[[Any, str, str], None]
) -> None:
    service.create_backup(ACME, ADMIN)
    copied.bring_both()
    keys = below(copied, folder)
    if harm is other and folder == "packs/":
        body = copied.client.get_object(Bucket=copied.copy_bucket, Key=keys[0])["Body"].read()
        copied.client.put_object(Bucket=copied.copy_bucket, Key=keys[0], Body=bytes(len(body)))
    elif harm is other and folder == "keys/":
        theirs = keys[0].replace(ACME, BOLT)
        service.create_backup(BOLT, ADMIN)
        copied.bring_both()
        source = {"Bucket": copied.copy_bucket, "Key": theirs}
        copied.client.copy_object(Bucket=copied.copy_bucket, Key=keys[0], CopySource=source)
    else:
        for key in keys if folder == "keys/" else keys[:1]:
            harm(copied.client, copied.copy_bucket, key)
    with pytest.raises(CopyUnverified) as raised:
        verify_tenant(copied.place(), TENANT, deep=harm is other)
    error = raised.value
    assert error.code == "SBH-642"
    assert error.remedy == f"sbh copies run {COPY}"
    if folder != "manifests/" or harm is not remove:
        assert folder in error.on


def test_an_older_backup_counts_where_the_newest_is_not_whole(copied: Copied, service: BackupService) -> None:
    first = service.create_backup(ACME, ADMIN)
    copied.bring_both()
    packs = set(below(copied, "packs/"))
    copied.application.database.run("UPDATE projects SET body = 'other' || id WHERE tenant_id = 1")
    service.create_backup(ACME, ADMIN)
    copied.bring_both()
    new = [key for key in below(copied, "packs/") if key not in packs]
    assert new
    remove(copied.client, copied.copy_bucket, new[0])
    found = verify_tenant(copied.place(), TENANT)
    assert found.backup_id == first["id"]
    assert isinstance(found.error, CopyUnverified)
    assert new[0] in found.error.on
    assert found.recovery_point == parse_timestamp(first["recovery_point"]["time"])


def test_a_tick_that_found_the_tenant_unchanged_counts(copied: Copied) -> None:
    service = copied.service()
    made = service.create_backup(ACME, ADMIN)
    later = datetime.fromisoformat("2099-01-01T00:00:00+00:00")
    site, home = copied.site(), TENANT.id
    record = site.catalog(REGION).read([home])[home]
    point = replace(record.point, time="2099-01-01T00:00:00Z")
    site.catalog(REGION).record([], {home: record.backup_id}, point)
    copied.bring_both()
    found = verify_tenant(without_source(copied), TENANT)
    assert (found.backup_id, found.recovery_point) == (made["id"], later)


def test_what_a_later_tick_says_of_a_backup_that_is_not_there_does_not_count(
    copied: Copied, service: BackupService
) -> None:
    first = service.create_backup(ACME, ADMIN)
    copied.bring_both()
    copied.application.database.run("UPDATE projects SET body = 'other' || id WHERE tenant_id = 1")
    second = service.create_backup(ACME, ADMIN)
    # The catalog has come, and the backup has not.
    for key, body in copied.objects(copied.bucket).items():
        if "/records/" in key or key.startswith("records/"):
            copied.client.put_object(Bucket=copied.copy_bucket, Key=key, Body=body)
    found = verify_tenant(copied.place(), TENANT)
    assert found.backup_id == first["id"] != second["id"]
    assert found.recovery_point == parse_timestamp(first["recovery_point"]["time"])


def test_nothing_of_a_tenant_is_nothing_wrong(copied: Copied, service: BackupService) -> None:
    service.create_backup(BOLT, ADMIN)
    copied.bring_both()
    found = verify_tenant(copied.place(), TENANT)
    assert (found.backup_id, found.recovery_point, found.error) == (None, None, None)


def test_a_copy_without_its_keys_is_not_whole(copied: Copied, service: BackupService) -> None:
    service.create_backup(ACME, ADMIN)
    copied.bring_both()
    other_key = copied.new_key_file("another")
    place = Copied(
        copied.application, copied.stack, copy={"bucket": copied.settings().copies[0].bucket, "key_file": other_key}
    ).place()
    result = verify_copy(place.source, COPY, [TENANT])
    assert not result.valid
    assert result.tenants[0].backup_id is None


def test_what_was_found_is_recorded_and_what_went_away_is_told(copied: Copied, service: BackupService) -> None:
    first = service.create_backup(ACME, ADMIN)
    copied.application.database.run("UPDATE projects SET body = 'other' || id WHERE tenant_id = 1")
    second = service.create_backup(ACME, ADMIN)
    copied.bring_both()
    notices: list[Any] = []
    bolt = Application.tenant(BOLT)
    result = verify_copy(copied.site(), COPY, [TENANT, bolt], progress=notices.append)
    assert result.valid
    assert [one.backup_id for one in result.tenants] == [second["id"], None]
    assert [(n.done, n.total) for n in notices] == [(1, 2), (2, 2)]
    states = CopyStates(copied.place()).read(REGION)
    assert states[ACME].backup_id == second["id"]
    assert states[BOLT].verified_at is None

    remove(copied.client, copied.copy_bucket, below(copied, "manifests/")[-1])
    gone = verify_copy(copied.site(), COPY, [TENANT])
    assert not gone.valid
    assert second["id"] in str(gone.tenants[0].error)
    known = CopyStates(copied.place()).read(REGION)[ACME]
    assert (known.backup_id, type(known.error)) == (first["id"], CopyUnverified)


def test_a_copy_that_does_not_answer_keeps_what_was_known(copied: Copied, service: BackupService) -> None:
    made = service.create_backup(ACME, ADMIN)
    copied.bring_both()
    verify_copy(copied.site(), COPY, [TENANT])
    result = verify_copy(copied.silent(), COPY, [TENANT])
    assert not result.valid
    assert isinstance(result.tenants[0].error, StoreUnavailable)
    known = CopyStates(copied.place()).read(REGION)[ACME]
    assert (known.backup_id, known.recovery_point is not None) == (made["id"], True)
    assert isinstance(known.error, StoreUnavailable)


def test_what_only_reading_everything_found_is_not_forgotten(copied: Copied, service: BackupService) -> None:
    """A byte was changed; a look that does not read it finds nothing, and is no proof."""
    service.create_backup(ACME, ADMIN)
    copied.bring_both()
    for key in below(copied, "packs/"):
        body = copied.objects(copied.copy_bucket, key)[key]
        copied.client.put_object(Bucket=copied.copy_bucket, Key=key, Body=bytes([body[0] ^ 1]) + body[1:])
    assert not verify_copy(copied.site(), COPY, [TENANT], deep=True).valid
    for key in copied.objects(
        copied.copy_bucket, f"{PREFIX}index/damaged-"
    ):  # where the verifier may not write there are none
        copied.client.delete_object(Bucket=copied.copy_bucket, Key=key)
    assert not verify_copy(copied.site(), COPY, [TENANT]).valid
    assert verify_copy(copied.silent(), COPY, [TENANT]).tenants[0].error is not None
    assert not verify_copy(copied.site(), COPY, [TENANT]).valid
    copied.bring_both()
    assert verify_copy(copied.site(), COPY, [TENANT], deep=True).valid
    assert verify_copy(copied.site(), COPY, [TENANT]).valid


def test_who_is_not_copied_is_left_out(copied: Copied, service: BackupService) -> None:
    service.create_backup(ACME, ADMIN)
    copied.bring_both()
    far = Tenant(TENANT.id, TENANT.key, "us-east-1", "critical")
    result = verify_copy(copied.site(), COPY, [far])
    assert (result.valid, result.tenants) == (True, [])
    assert "us-east-1" in result.left_out[TENANT.id]


def test_nothing_is_written_to_the_copy(copied: Copied, service: BackupService) -> None:
    service.create_backup(ACME, ADMIN)
    copied.bring_both()
    before = copied.versions(copied.copy_bucket)
    assert verify_copy(copied.site(), COPY, [TENANT], deep=True).valid
    assert copied.versions(copied.copy_bucket) == before


def state(home: str, at: datetime, backup: str | None = "backup_20240115_120000_0a1b2c") -> CopyState:
    return CopyState(home, "1", backup, at, at, None, False, at)


@pytest.fixture
def states(copied: Copied) -> CopyStates:
    return CopyStates(copied.place())


def test_the_most_recent_look_is_believed_whenever_it_was_stored(states: CopyStates) -> None:
    now = utc_now()
    states.record(REGION, [state("a", now)])
    states.record(REGION, [state("a", now - timedelta(hours=1), None), state("b", now)])
    found = states.read(REGION)
    assert found == {"a": state("a", now), "b": state("b", now)}
    wrong = CopyUnverified("what", on="on", why="why", remedy="remedy")
    failed = CopyState("a", "1", None, None, None, wrong, False, now + timedelta(seconds=1))
    states.record(REGION, [failed])
    error = states.read(REGION)["a"].error
    assert error is not None
    assert error.as_dict() == wrong.as_dict()


def test_many_objects_become_one_by_who_may_delete_them(copied: Copied, states: CopyStates) -> None:
    """Who records only adds, each time what is new alone; where nothing may be deleted, nothing is written once more."""

    def stored() -> dict[str, bytes]:
        return {key: body for key, body in copied.objects(copied.bucket).items() if "copies/dr/" in key}

    now, denied = utc_now(), StoreDenied("The store refused", on="s3://source", why="AccessDenied", remedy="none")
    with struck(lambda *_: (denied, "before"), ("delete",)):
        for n in range(40):
            states.record(REGION, [state(f"t{n}", now + timedelta(seconds=n))])
        assert len(stored()) == 40
        assert max(map(len, stored().values())) < 1000
        with pytest.raises(StoreDenied):
            copied.service().retention.compact_catalogs(ADMIN)
        states.keep_at_copy(REGION, deletes=False)
        assert len(stored()) == 40
    known = states.read(REGION)
    assert copied.service().retention.compact_catalogs(ADMIN)[REGION]["states"] == 40
    (merged,) = stored()
    assert copied.service().retention.compact_catalogs(ADMIN)[REGION]["states"] == 0
    assert list(stored()) == [merged]
    assert states.read(REGION) == known
    assert len(known) == 40


def test_how_many_objects_wait_is_relative_to_what_a_merge_leaves(
    copied: Copied, states: CopyStates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a copy of many tenants would be written anew at each prune."""
    monkeypatch.setattr("sbh_pipelines.backup.copies.state._OBJECT_BYTES", 1)
    now = utc_now()
    states.record(REGION, [state(f"t{n}", now) for n in range(30)])
    assert states.keep_at_source(REGION) == 0
    for n in range(16):
        states.record(REGION, [state("t0", now + timedelta(seconds=n))])
    assert states.keep_at_source(REGION) == 46
    assert states.keep_at_source(REGION) == 0


@pytest.mark.parametrize("name", ["garbage", "20240115T120000000000Z-0123456789abcdef"])
def test_what_nobody_with_the_catalogs_key_wrote_goes_with_the_next_prune(
    copied: Copied, states: CopyStates, name: str
) -> None:
    now = utc_now()
    states.record(REGION, [state("a", now)])
    below = f"_sbh-catalog/{REGION}/copies/{COPY}/states/"
    copied.client.put_object(Bucket=copied.bucket, Key=below + name, Body=b"x")
    assert states.read(REGION) == {"a": state("a", now)}
    assert len(states.damages) == 1
    assert copied.service().retention.compact_catalogs(ADMIN)[REGION]["states"] == 1
    assert states.read(REGION) == {"a": state("a", now)}
    assert states.damages == []


def test_a_state_that_was_moved_or_forged_is_not_believed(copied: Copied, states: CopyStates) -> None:
    now = utc_now()
    states.record(REGION, [state("a", now)])
    (key, body), *_ = [item for item in copied.objects(copied.bucket).items() if "copies/dr/" in item[0]]
    copied.client.put_object(Bucket=copied.bucket, Key=key[:-1] + ("0" if key[-1] != "0" else "1"), Body=body)
    copied.client.put_object(Bucket=copied.bucket, Key=key.replace("copies/dr/", "copies/other/"), Body=body)
    assert states.read(REGION) == {"a": state("a", now)}
    assert [damage.what for damage in states.damages] == ["An object of the state of copies is not believed"]


def test_what_something_else_copies_is_verified_the_same_way(application: Application, embedded_stack: Stack) -> None:
    copied = Copied(application, embedded_stack, copy={"kind": "external"})
    made = copied.service().create_backup(ACME, ADMIN)
    copied.bring_both()
    assert verify_tenant(copied.place(), TENANT).backup_id == made["id"]
    remove(copied.client, copied.copy_bucket, below(copied, "packs/")[0])
    with pytest.raises(CopyUnverified) as raised:
        verify_tenant(copied.place(), TENANT)
    assert "sbh copies run" not in raised.value.remedy
    assert f"sbh copies verify {COPY}" in raised.value.remedy
