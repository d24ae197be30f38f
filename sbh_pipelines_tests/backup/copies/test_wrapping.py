"""Keys of a copy: wrapped for the copy alone, brought whole or not at all, and never back to an earlier state."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sbh_pipelines.backup.contents.manifests import read_manifest
from sbh_pipelines.backup.contents.verification import verify_backup
from sbh_pipelines.backup.copies.place import CopyPlace
from sbh_pipelines.backup.copies.wrapping import (
    bring_catalog_key,
    bring_keys,
    bring_platform_keys,
    key_ends,
)
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import (
    CopyDiverged,
    CorruptObject,
    KeyEpochRolledBack,
    KeyServiceError,
    SettingsError,
    StoreDenied,
    TenantErased,
)
from sbh_pipelines.model import BackupId
from sbh_pipelines.placement import platform_tenant
from sbh_pipelines.repository.catalog.erased import ERASING, ErasureCounts, ErasureRecord, write_erased
from sbh_pipelines.repository.keys.data_key import read_epoch, read_key_object
from sbh_pipelines.repository.keys.epochs import begin_epoch, destroy_epoch, rewrap
from sbh_pipelines.settings.places.copies import at_copy
from sbh_pipelines_tests.backup.create.test_crash import Death, Killed, struck
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.copied import COPY, REGION, THERE, Copied
from sbh_pipelines_tests.support.kms_proxy import KmsProxy, kms_proxy

FIRST, SECOND = (f"files/{ACME}/backups/keys/000{epoch}.json" for epoch in (1, 2))
TENANT = Application.tenant()


@pytest.fixture
def copied(application: Application, embedded_stack: Stack) -> Copied:
    return Copied(application, embedded_stack)


def bring(copied: Copied, place: CopyPlace | None = None) -> int:
    """As a run of the copy does: another process each time."""
    place = place or copied.place()
    return bring_catalog_key(place, REGION) + bring_keys(place, TENANT)


def key_object(copied: Copied, key: str = FIRST, *, there: bool = False) -> dict[str, Any]:
    bucket = copied.copy_bucket if there else copied.bucket
    found: dict[str, Any] = json.loads(copied.client.get_object(Bucket=bucket, Key=key)["Body"].read())
    return found


def put(copied: Copied, document: dict[str, Any], key: str = FIRST, *, there: bool = False) -> None:
    bucket = copied.copy_bucket if there else copied.bucket
    copied.client.put_object(Bucket=bucket, Key=key, Body=json.dumps(document).encode())


def alone(copied: Copied) -> Site:
    """A site that has the settings of the copy, and nothing of the source."""
    settings = at_copy(copied.settings(), COPY)
    keys = settings.keys.model_copy(update={"previous_key_files": []})
    return Site(settings.model_copy(update={"keys": keys}), copied.site().clock)


def opens(copied: Copied, backup: str) -> None:
    """Every chunk of a backup, read at the copy."""
    with alone(copied).repository(TENANT) as repository:
        repository.load_index()
        found = verify_backup(repository, read_manifest(repository, BackupId(backup)), deep=True)
    assert found.issues == []
    assert found.chunks > 0


def new_epoch(copied: Copied) -> int:
    return begin_epoch(key_ends(copied.place(), copied.place().source.owners.housed(TENANT)).source)


# what is brought


def test_a_copy_opens_when_everything_of_the_source_is_gone(copied: Copied) -> None:
    """The source's key file, and its bucket: all objects."""
    backup = copied.service().create_backup(ACME, ADMIN)["id"]
    assert bring(copied) == 2
    copied.transfer()
    copied.key_file.unlink()
    for key in copied.objects(copied.bucket):
        copied.client.delete_object(Bucket=copied.bucket, Key=key)
    opens(copied, backup)
    assert alone(copied).catalog(REGION).read()
    assert alone(copied).catalog(REGION).damages == []


def test_a_key_object_there_says_what_the_source_s_does(copied: Copied) -> None:
    """Region and owner are the source's; how its key is wrapped, and where it came from, are its own."""
    copied.service().create_backup(ACME, ADMIN)
    new_epoch(copied)
    bring(copied)
    for key in (FIRST, SECOND):
        here, there = key_object(copied, key), key_object(copied, key, there=True)
        own = {"wrapped", "key_id", "copied_from"}
        assert {name: there[name] for name in there.keys() - own} == {name: here[name] for name in here.keys() - own}
        assert there["copied_from"] == hashlib.sha256(here["wrapped"].encode()).hexdigest()
        assert (here["region"], here["key_id"] == there["key_id"]) == (REGION, False)
    assert "owner" in key_object(copied, there=True)
    assert (key_object(copied, there=True)["newest"], key_object(copied, there=True)["binds"]) == (
        2,
        ["epoch", "newest"],
    )


def test_nothing_changed_asks_no_key(copied: Copied) -> None:
    """Neither key file is there: whoever read one would fail."""
    made = copied.service()
    made.create_backup(ACME, ADMIN)
    new_epoch(copied)
    assert bring(copied) == 3
    place = copied.place()
    copied.key_file.unlink()
    copied.copy_key_file.unlink()
    assert bring_keys(place, TENANT) == 0


def test_a_tenant_without_backups_has_no_keys_to_bring(copied: Copied) -> None:
    copied.service().create_backup(BOLT, ADMIN)
    assert bring_keys(copied.place(), TENANT) == 0


def test_the_platform_s_keys_come_as_well(copied: Copied) -> None:
    copied.service().create_backup(ACME, ADMIN)
    with copied.site().repository(platform_tenant(copied.settings()), create=True):
        pass
    place = copied.place()
    assert (bring_catalog_key(place, REGION), bring_platform_keys(place), bring_platform_keys(place)) == (1, 1, 0)
    copied.transfer()
    copied.key_file.unlink()
    with alone(copied).repository(platform_tenant(copied.settings())) as repository:
        assert repository.tenant == "_platform"


def test_a_wrapping_anew_at_the_source_comes_with_the_next_run(copied: Copied, application: Application) -> None:
    """And the copy's object stays as it is but for the wrapping: its old one is needed for nothing."""
    backup = copied.service().create_backup(ACME, ADMIN)["id"]
    bring(copied)
    before = key_object(copied, there=True)
    place = copied.place()
    rewrap(key_ends(place, place.source.owners.housed(TENANT)).source)
    assert bring_keys(copied.place(), TENANT) == 1
    after = key_object(copied, there=True)
    assert after["copied_from"] != before["copied_from"]
    copied.transfer()
    opens(copied, backup)


def test_a_new_epoch_comes_before_what_names_it(copied: Copied) -> None:
    made = copied.service()
    first = made.create_backup(ACME, ADMIN)["id"]
    bring(copied)
    new_epoch(copied)
    second = copied.service().create_backup(ACME, ADMIN, "full")["id"]
    written: list[str] = []

    def noted(verb: str, key: str, body: bytes) -> None:
        if verb in ("create", "replace", "put") and "/keys/" in key:
            written.append(key)

    with struck(noted):
        assert bring_keys(copied.place(), TENANT) == 2
    assert written == [SECOND, FIRST]
    copied.transfer()
    for backup in (first, second):
        opens(copied, backup)


def test_an_epoch_that_ended_before_there_was_a_copy_has_no_key_there(copied: Copied) -> None:
    copied.service().create_backup(ACME, ADMIN)
    new_epoch(copied)
    place = copied.place()
    destroy_epoch(key_ends(place, place.source.owners.housed(TENANT)).source, 1, "2026-01-01T00:00:00Z")
    assert bring(copied) == 3
    there = key_object(copied, there=True)
    assert (there["newest"], "wrapped" in there, "destroyed" in there) == (2, False, True)
    assert bring(copied) == 0
    new_epoch(copied)
    assert bring(copied) == 2  # the third, and what names it
    assert key_object(copied, there=True)["newest"] == 3


def test_an_epoch_that_ends_at_the_source_keeps_its_key_at_the_copy_for_now(copied: Copied) -> None:
    """What is there of it would not open any more: its end is another step's."""
    backup = copied.service().create_backup(ACME, ADMIN)["id"]
    bring(copied)
    copied.transfer()
    new_epoch(copied)
    place = copied.place()
    destroy_epoch(key_ends(place, place.source.owners.housed(TENANT)).source, 1, "2026-01-01T00:00:00Z")
    assert bring_keys(copied.place(), TENANT) == 2
    there = key_object(copied, there=True)
    assert (there["newest"], "wrapped" in there) == (2, True)
    assert bring_keys(copied.place(), TENANT) == 0
    opens(copied, backup)


# what is refused


def test_another_tenant_s_key_object_at_the_source_brings_nothing(copied: Copied) -> None:
    made = copied.service()
    for tenant in (ACME, BOLT):
        made.create_backup(tenant, ADMIN)
    theirs = key_object(copied, FIRST.replace(ACME, BOLT))
    put(copied, {**theirs, "tenant_id": ACME})
    with pytest.raises(KeyServiceError, match="does not unwrap"):
        bring_keys(copied.place(), TENANT)
    put(copied, theirs)
    with pytest.raises(CorruptObject, match="does not belong here"):
        bring_keys(copied.place(), TENANT)
    assert copied.objects(copied.copy_bucket, f"files/{ACME}/") == {}


def test_an_older_key_object_that_was_put_back_does_not_roll_the_copy_back(copied: Copied) -> None:
    copied.service().create_backup(ACME, ADMIN)
    old = key_object(copied)
    new_epoch(copied)
    bring(copied)
    there = copied.objects(copied.copy_bucket)
    put(copied, old)
    with pytest.raises(KeyEpochRolledBack, match="earlier copy was put back"):
        bring_keys(copied.place(), TENANT)
    assert copied.objects(copied.copy_bucket) == there


def test_an_older_key_object_that_was_put_back_does_not_begin_a_copy_either(copied: Copied) -> None:
    """The catalog's mark says that a later epoch was begun."""
    copied.service().create_backup(ACME, ADMIN)
    old = key_object(copied)
    new_epoch(copied)
    put(copied, old)
    with pytest.raises(KeyEpochRolledBack, match="earlier copy was put back"):
        bring_keys(copied.place(), TENANT)
    assert copied.objects(copied.copy_bucket, f"files/{ACME}/") == {}


def test_a_key_object_that_claims_its_key_was_destroyed_destroys_none_there(copied: Copied) -> None:
    """Nothing but the bucket is needed to write such a one: no key, and no signature."""
    backup = copied.service().create_backup(ACME, ADMIN)["id"]
    new_epoch(copied)
    bring(copied)
    copied.transfer()
    forged = {name: value for name, value in key_object(copied).items() if name not in ("wrapped", "binds", "key_id")}
    put(copied, {**forged, "destroyed": "2026-01-01T00:00:00Z"})
    assert bring_keys(copied.place(), TENANT) == 0
    opens(copied, backup)


def test_a_key_of_an_ended_epoch_that_was_put_back_is_not_brought(copied: Copied) -> None:
    copied.service().create_backup(ACME, ADMIN)
    new_epoch(copied)
    second = key_object(copied, SECOND)
    new_epoch(copied)
    place = copied.place()
    for epoch in (1, 2):
        destroy_epoch(key_ends(place, place.source.owners.housed(TENANT)).source, epoch, "2026-01-01T00:00:00Z")
    put(copied, second, SECOND)
    bring(copied)
    keys = copied.objects(copied.copy_bucket, f"files/{ACME}/backups/keys/")
    assert sorted(key[-9:] for key in keys) == ["0001.json", "0003.json"]


def test_a_copy_with_another_data_key_is_not_overwritten(copied: Copied) -> None:
    """A key that the copy made by itself, or of another site's tenant of the same name."""
    made = copied.service()
    made.create_backup(ACME, ADMIN)
    with alone(copied).repository(TENANT, create=True):
        pass
    own = copied.objects(copied.copy_bucket)
    with pytest.raises(CopyDiverged, match="another data key") as refused:
        bring_keys(copied.place(), TENANT)
    assert copied.objects(copied.copy_bucket) == own
    assert "delete" not in refused.value.remedy  # the source may be the new one, and the copy all that is left
    assert "--source-lost" in refused.value.remedy


@pytest.mark.parametrize("said", [{"wrapped": "AAAA"}, {"wrapped": "?"}, {"tenant_id": BOLT}])
def test_a_damaged_key_object_there_is_written_again(copied: Copied, said: dict[str, str]) -> None:
    """Of one whose wrapped key alone is damaged only opening it tells."""
    copied.service().create_backup(ACME, ADMIN)
    new_epoch(copied)
    bring(copied)
    whole = key_object(copied, SECOND, there=True)
    put(copied, {**whole, **said}, SECOND, there=True)
    denied = StoreDenied("refused", why="AccessDenied")
    with (
        struck(lambda verb, key, _: (denied, "before") if "/keys/" in key else None),
        pytest.raises(StoreDenied, match="may not overwrite it, or the bucket locks it"),
    ):
        bring_keys(copied.place(), TENANT, anew=True)
    assert bring_keys(copied.place(), TENANT, anew=True) == 1
    assert bring_keys(copied.place(), TENANT, anew=True) == 0
    assert {**key_object(copied, SECOND, there=True), "wrapped": ""} == {**whole, "wrapped": ""}
    ends = key_ends(copied.place(), copied.place().source.owners.housed(TENANT))
    assert read_epoch(ends.target, 2) == read_epoch(ends.source, 2)


def test_the_catalog_s_key_is_looked_at_by_every_run(copied: Copied) -> None:
    copied.service().create_backup(ACME, ADMIN)
    bring(copied)
    key = f"_sbh-catalog/{REGION}/keys/0001.json"
    put(copied, {**key_object(copied, key, there=True), "wrapped": "AAAA"}, key, there=True)
    assert bring_catalog_key(copied.place(), REGION) == 1
    assert alone(copied).catalog(REGION).has_key


def test_a_copy_without_its_key_file_is_refused_before_anything_is_written(copied: Copied) -> None:
    copied.service().create_backup(ACME, ADMIN)
    copied.copy_key_file.unlink()
    with pytest.raises(SettingsError, match="Cannot read the key file"):
        bring(copied)
    assert copied.objects(copied.copy_bucket) == {}


# interrupted, and at the same time


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_write_the_next_run_goes_on(copied: Copied, when: str) -> None:
    """And at no moment does the copy name an epoch whose key is not there."""
    first = copied.service().create_backup(ACME, ADMIN)["id"]
    new_epoch(copied)
    second = copied.service().create_backup(ACME, ADMIN, "full")["id"]
    new_epoch(copied)
    nth = 0
    while True:
        nth += 1
        for key in copied.objects(copied.copy_bucket):
            copied.client.delete_object(Bucket=copied.copy_bucket, Key=key)
        death = Death(nth, when)
        try:
            with struck(death):
                bring(copied)
        except Killed:
            ends = key_ends(copied.place(), copied.place().source.owners.housed(TENANT))
            if FIRST in copied.objects(copied.copy_bucket):
                assert read_key_object(ends.target, read_key_object(ends.target, 1).newest)
            bring(copied)
        else:
            break
        copied.transfer()
        for backup in (first, second):
            opens(copied, backup)
        assert bring(copied) == 0
    assert nth == 5  # four writes: the catalog's key and three epochs


def test_another_run_that_is_first_wins(copied: Copied) -> None:
    """Its wrapping is another, of the same key: it stays, and none is lost."""
    backup = copied.service().create_backup(ACME, ADMIN)["id"]
    bring_catalog_key(copied.place(), REGION)
    other, done = copied.place(), list[int]()

    class Overtaken:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def create(self, key: str, data: bytes) -> str:
            if not done:
                done.append(0)
                done[0] = bring_keys(other, TENANT)
            return str(self._inner.create(key, data))

    assert bring_keys(copied.place(wrap=lambda store, _: Overtaken(store)), TENANT) == 0
    assert done == [1]
    copied.transfer()
    opens(copied, backup)


# erased


def record() -> ErasureRecord:
    counts = ErasureCounts(1, 1, 1)
    return ErasureRecord(ACME, ERASING, "erase_20260101_000000_abcdef", REGION, "me", "why", "2026", counts, [])


def test_nothing_is_brought_for_a_tenant_that_the_copy_knows_as_erased(copied: Copied) -> None:
    copied.service().create_backup(ACME, ADMIN)
    bring_catalog_key(copied.place(), REGION)
    write_erased(copied.place().target.catalog(REGION), ACME, record())
    with pytest.raises(TenantErased):
        bring_keys(copied.place(), TENANT)
    assert copied.objects(copied.copy_bucket, f"files/{ACME}/") == {}


def test_keys_that_were_brought_while_the_tenant_was_erased_go_again(copied: Copied) -> None:
    """In all versions: the erasure has looked into the copy already."""
    copied.service().create_backup(ACME, ADMIN)
    bring_catalog_key(copied.place(), REGION)

    class Erasing:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def create(self, key: str, data: bytes) -> str:
            write_erased(copied.place().target.catalog(REGION), ACME, record())
            return str(self._inner.create(key, data))

    with pytest.raises(TenantErased):
        bring_keys(copied.place(wrap=lambda store, _: Erasing(store)), TENANT)
    assert copied.versions(copied.copy_bucket, f"files/{ACME}/") == []


# under KMS, in two regions


@pytest.fixture
def vaults(embedded_stack: Stack) -> Iterator[dict[str, KmsProxy]]:
    """A KMS in either region; the alias is the same, the keys are not."""
    there, here = embedded_stack.kms_client(THERE), embedded_stack.kms_client(REGION)
    with kms_proxy(embedded_stack.kms_endpoint, here) as one, kms_proxy(embedded_stack.kms_endpoint, there) as other:
        yield {REGION: one, THERE: other}


@pytest.fixture
def under_kms(application: Application, embedded_stack: Stack, vaults: dict[str, KmsProxy]) -> Copied:
    made = Copied(
        application,
        embedded_stack,
        keys={"provider": "aws-kms", "key_file": None, "kms_endpoint_url": vaults[REGION].url, "kms_timeout_s": 30},
        copy={"kms_endpoint_url": vaults[THERE].url},
    )
    alias = f"alias/copied-{made.mark}"
    made.keys = {**made.keys, "kms_key_id": alias}
    for vault in vaults.values():
        key_id = vault.client.create_key(Description="of a test")["KeyMetadata"]["KeyId"]
        vault.client.create_alias(AliasName=alias, TargetKeyId=key_id)
    return made


def test_under_kms_the_copy_needs_the_key_of_its_own_region_only(
    under_kms: Copied, vaults: dict[str, KmsProxy]
) -> None:
    backup = under_kms.service().create_backup(ACME, ADMIN)["id"]
    place = under_kms.place()
    assert bring(under_kms, place) == 2
    calls = {region: len(vault.calls) for region, vault in vaults.items()}
    assert bring_keys(place, TENANT) == 0
    assert {region: len(vault.calls) for region, vault in vaults.items()} == calls
    there = key_object(under_kms, there=True)
    assert (there["region"], there["key_id"].split(":")[3], key_object(under_kms)["key_id"].split(":")[3]) == (
        REGION,
        THERE,
        REGION,
    )
    under_kms.transfer()
    vaults[REGION].gone = True
    opens(under_kms, backup)


@pytest.mark.parametrize(
    ("region", "action"), [(REGION, "Decrypt"), (THERE, "Encrypt"), (THERE, "Decrypt")], ids=lambda value: str(value)
)
def test_a_key_service_that_denies_leaves_no_key_object(
    under_kms: Copied, vaults: dict[str, KmsProxy], region: str, action: str
) -> None:
    """What a wrapping cannot be proved by is not stored."""
    under_kms.service().create_backup(ACME, ADMIN)
    vaults[region].denied = {action}
    with pytest.raises(KeyServiceError, match=f"denied: kms:{action}"):
        bring(under_kms)
    assert under_kms.objects(under_kms.copy_bucket) == {}
    vaults[region].denied = set()
    assert bring(under_kms) == 2


def test_another_tenant_s_key_does_not_unwrap_under_kms_either(under_kms: Copied) -> None:
    made = under_kms.service()
    for tenant in (ACME, BOLT):
        made.create_backup(tenant, ADMIN)
    put(under_kms, {**key_object(under_kms, FIRST.replace(ACME, BOLT)), "tenant_id": ACME})
    with pytest.raises(KeyServiceError):
        bring(under_kms)
    assert under_kms.objects(under_kms.copy_bucket, f"files/{ACME}/") == {}


# secrets


def test_no_secret_is_said(copied: Copied, caplog: pytest.LogCaptureFixture) -> None:
    """Neither in a log, nor in what describes the values, nor in the copy's bucket."""
    copied.service().create_backup(ACME, ADMIN)
    new_epoch(copied)
    place = copied.place()
    ends = key_ends(place, place.source.owners.housed(TENANT))
    secrets: Callable[[], Iterator[bytes]] = lambda: (  # noqa: E731
        place.source.keys.unwrap(read_key_object(ends.source, epoch).document, ACME, REGION) for epoch in (1, 2)
    )
    with caplog.at_level(logging.DEBUG):
        bring(copied, place)
    everything = caplog.text.encode() + repr(ends).encode() + b"".join(copied.objects(copied.copy_bucket).values())
    for secret in secrets():
        for piece in (secret, secret[-32:]):
            assert piece not in everything
            assert piece.hex().encode() not in everything
