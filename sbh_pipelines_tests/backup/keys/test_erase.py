"""Erasing a tenant: nothing of it is left in any version, nothing brings it back, and the certificate says what was done."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.backup.create.draft import DraftStatus
from sbh_pipelines.backup.keys.certificate import (
    DestroyedKmsKey,
    ErasureCertificate,
    KeptTrail,
    verify_certificate,
    what_copies_open,
)
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.document import as_document
from sbh_pipelines.embedded.servers import object_server
from sbh_pipelines.embedded.servers.layout import Layout
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import (
    AccessDenied,
    CorruptObject,
    EraseRefused,
    KeyServiceError,
    LeaseHeld,
    RequestError,
    TenantErased,
    UnknownTenant,
)
from sbh_pipelines.repository.catalog.erased import ErasedKey
from sbh_pipelines.repository.seal import CHUNK, Sealer
from sbh_pipelines.security.keys import AwsKms
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.backup.create.test_crash import Clock, Death, Killed, struck
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.kms_proxy import KmsProxy, kms_proxy
from sbh_pipelines_tests.support.site import site_of
from sbh_pipelines_tests.support.store_time import store_time

REGION = "eu-west-1"
REASON = "Article 17: the customer left"


@pytest.fixture
def clock() -> Iterator[Clock]:
    """Everybody's clock, the store's too."""
    made = Clock()
    with store_time(made):
        yield made


def erase(made: BackupService, tenant: str = ACME, user: UserContext = ADMIN, **other: Any) -> ErasureCertificate:
    return made.keys.erase(tenant, user, **{"confirm": tenant, "reason": REASON, **other})


def left(application: Application, tenant: str = ACME) -> list[str]:
    """What is there of a tenant's backups besides the audit trail."""
    root = application.repository(tenant)
    return [
        str(f.relative_to(root)) for f in root.rglob("*") if f.is_file() and f.relative_to(root).parts[0] != "audit"
    ]


def records(application: Application) -> str:
    """What the catalogs say, opened."""
    made = application.service()
    return repr([site_of(made).catalog(region).read() for region in made.settings.storage.regions])


# in a directory


def test_nothing_is_left_but_the_audit_trail_and_the_live_data(application: Application, clock: Clock) -> None:
    made = application.service(clock=clock)
    public = made.keys.public(ADMIN)
    for tenant in (ACME, BOLT):
        made.create_backup(tenant, ADMIN)
    live, other = application.state(ACME), left(application, BOLT)
    held = len(left(application))
    certificate = erase(made)
    assert left(application) == []
    assert left(application, BOLT) == other
    assert application.state(ACME) == live
    assert ACME not in records(application)
    assert BOLT in records(application)
    assert certificate.destroyed.objects >= held
    assert certificate.not_destroyed.versions == 0
    assert [key.epoch for key in certificate.destroyed.keys] == [1]
    assert "the key file" in certificate.copies_made_before
    assert (certificate.requested_by, certificate.reason) == ("tester", REASON)
    events = list((application.repository(ACME) / "audit").rglob("*.jsonl"))
    last = json.loads(max(events).read_text().splitlines()[-1])
    assert last["event"] == "tenant.erased"
    assert certificate.audit_trail == KeptTrail(last["seq"], last["hash"])
    document = as_document(certificate)
    verify_certificate(document, public[REGION])
    for changed in ({"reason": "none"}, {"destroyed": {}}, {"kind": "x"}, {"signature": None}):
        with pytest.raises(CorruptObject, match="not genuine"):
            verify_certificate({**document, **changed}, public[REGION])
    with pytest.raises(CorruptObject, match="not genuine"):
        verify_certificate(document, public["us-east-1"])
    assert made.keys.certificate(ACME, ADMIN) == certificate
    assert erase(application.service(clock=clock)) == certificate  # asked for again


def test_an_erased_tenant_is_refused_until_it_is_readmitted(application: Application, clock: Clock) -> None:
    """By processes that knew it before, and by new ones; whether the application still has it or not."""
    old = application.service(clock=clock)
    backup = old.create_backup(ACME, ADMIN)["id"]
    erase(application.service(clock=clock))
    calls: list[Callable[[BackupService], Any]] = [
        lambda made: made.restore_backup(backup, ACME, ADMIN),
        lambda made: made.restore_backup("latest", ACME, ADMIN),
        lambda made: made.validate_backup(backup, ACME, ADMIN),
        lambda made: made.get_backup("latest", ACME, ADMIN),
        lambda made: made.list_backups(ACME, ADMIN),
        lambda made: made.retention.hold(ACME, ADMIN, reason="too late"),
        lambda made: made.retention.prune(ACME, ADMIN),
    ]
    for made in (old, application.service(clock=clock)):
        for kind in ("full", "incremental"):
            (draft,) = made.backups.create_all([ACME], ADMIN, kind)
            assert draft.status is DraftStatus.FAILED
            assert draft.error
            assert draft.error.code == "SBH-214", draft.error
        for call in calls:
            with pytest.raises(TenantErased):
                call(made)
        assert made.keys.rotate([ACME], ADMIN).skipped == [ACME]
    assert left(application) == []
    assert ACME not in records(application)
    application.service(clock=clock).retention.compact_catalogs(ADMIN)
    assert ACME not in records(application)
    application.database.run(
        "DELETE FROM items; DELETE FROM notes; UPDATE projects SET lead = NULL; DELETE FROM projects;"
        " DELETE FROM tenants WHERE slug = 'acme'"
    )
    with pytest.raises(TenantErased):
        application.service(clock=clock).list_backups(ACME, ADMIN)
    application.database.run("INSERT INTO tenants VALUES (1, 'acme', 'eu-west-1', 'critical', '{}')")
    made = application.service(clock=clock)
    first = made.keys.certificate(ACME, ADMIN)
    assert made.keys.readmit(ACME, ADMIN).erasure_id == first.erasure_id
    with pytest.raises(RequestError, match="not erased"):
        made.keys.readmit(ACME, ADMIN)
    clock.move()
    fresh = made.create_backup(ACME, ADMIN)
    assert made.validate_backup(fresh["id"], ACME, ADMIN, deep=True)["issues"] == []
    assert made.keys.certificate(ACME, ADMIN) == first
    clock.move()
    second = erase(made)
    assert second.erasure_id > first.erasure_id
    assert made.keys.certificate(ACME, ADMIN) == second


def test_who_may_erase_and_what_must_be_said(application: Application, clock: Clock) -> None:
    made = application.service(clock=clock)
    made.create_backup(ACME, ADMIN)
    before = left(application)
    for user in (UserContext("own", ACME, Role.ADMIN), UserContext("op", "*", Role.OPERATOR)):
        with pytest.raises(AccessDenied):
            erase(made, user=user)
        with pytest.raises(AccessDenied):
            made.keys.readmit(ACME, user)
    for confirm in ("", BOLT, "ACME", "acme "):
        with pytest.raises(EraseRefused, match="--confirm acme"):
            erase(made, confirm=confirm)
    for reason in ("", "  ", "x" * 501):
        with pytest.raises(RequestError):
            erase(made, reason=reason)
    for hostile in ("../acme", "a\x00b", "_platform", "_catalog", "x" * 10_000, "acme/../bolt"):
        with pytest.raises(RequestError):
            erase(made, hostile)
    with pytest.raises(UnknownTenant):
        erase(made, "nobody")
    assert left(application) == before
    made.create_backup(ACME, ADMIN, "incremental")


@pytest.mark.parametrize("whole", [True, False])
def test_a_legal_hold_stops_it(application: Application, clock: Clock, whole: bool) -> None:
    """On a backup or on all; a pin does not. Released, it may go on."""
    made = application.service(clock=clock)
    backup = made.create_backup(ACME, ADMIN)["id"]
    made.retention.pin(backup, ACME, ADMIN, "dear to us")
    hold = made.retention.hold(ACME, ADMIN, reason="a court", backup_id=None if whole else backup)
    for _ in range(2):
        with pytest.raises(EraseRefused, match=hold.id):
            erase(application.service(clock=clock))
    assert made.validate_backup(backup, ACME, ADMIN, deep=True)["issues"] == []
    made.retention.release(hold.id, ACME, ADMIN)
    erase(made)
    assert left(application) == []


def test_a_hold_that_comes_while_the_intent_is_written_counts(
    application: Application, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sbh_pipelines.backup.keys import erasure as erasing

    made = application.service(clock=clock)
    backup = made.create_backup(ACME, ADMIN)["id"]
    write, other = erasing.write_erased, application.service(clock=clock)
    repository = site_of(other).repository(application.tenant())
    placed = []

    def late(*arguments: Any) -> None:
        if not placed:
            from sbh_pipelines.backup.retain.holds import place_hold

            placed.append(place_hold(repository, None, "a court", "judge", clock))
        write(*arguments)

    monkeypatch.setattr(erasing, "write_erased", late)
    with pytest.raises(EraseRefused, match="legal hold"):
        erase(made)
    repository.close()
    assert made.validate_backup(backup, ACME, ADMIN, deep=True)["issues"] == []
    clock.move()
    made.create_backup(ACME, ADMIN)


def test_a_hold_that_stops_a_second_erasure_readmits_nobody(
    application: Application, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something of an erased tenant came back; erasing it again is refused: the first erasure still stands."""
    from sbh_pipelines.backup.keys import erasure as erasing

    made = application.service(clock=clock)
    made.create_backup(ACME, ADMIN)
    certificate = erase(made)
    holds = application.repository(ACME) / "holds"
    (application.repository(ACME) / "packs").mkdir(parents=True, exist_ok=True)
    (application.repository(ACME) / "packs" / "came back").write_bytes(b"from somewhere")
    write = erasing.write_erased

    def late(*arguments: Any) -> None:
        holds.mkdir(parents=True, exist_ok=True)
        (holds / "legal-tenant-0123abcd.json").write_text("{}")
        write(*arguments)

    monkeypatch.setattr(erasing, "write_erased", late)
    with pytest.raises(EraseRefused, match="legal hold"):
        erase(made)
    clock.move()
    (draft,) = made.backups.begin([ACME], ADMIN)
    assert draft.error is not None
    assert draft.error.code == TenantErased.code
    assert made.keys.certificate(ACME, ADMIN) == certificate


def test_a_bucket_s_name_that_two_servers_have_is_two_places(application: Application) -> None:
    """Regions may have a server each and name their buckets alike: an erasure looks into both, a move is noticed."""
    from sbh_pipelines.placement import former_places, place_identity

    storage = {"kind": "s3", "bucket": "backups", "endpoint_url": "https://s3.{region}.example"}
    files = {"bucket": "files"}
    settings = application.service(storage=storage, files=files).settings
    tenant = application.tenant()
    (former,) = former_places(settings, tenant)
    assert former.region != tenant.region
    shared = application.service(storage={**storage, "endpoint_url": "https://s3.example"}, files=files).settings
    assert former_places(shared, tenant) == []
    assert place_identity(settings, former)[0] == f"https://s3.{former.region}.example"


@pytest.mark.parametrize(
    ("wrapped_with", "said"),
    [
        ("arn:aws:kms:eu-west-1:1:key/own", "Nothing"),
        ("own", "Nothing"),
        (
            "arn:aws:kms:eu-west-1:1:key/earlier",
            "can open that copy. It is not the tenant's key that the settings name",
        ),
    ],
)
def test_a_copy_whose_key_was_not_destroyed_is_told_of(wrapped_with: str, said: str) -> None:
    """The alias was pointed to another key, or keys came from a key file, and were never wrapped anew."""
    own = "arn:aws:kms:eu-west-1:1:key/own"
    keys = [ErasedKey("", 1, REGION, "aws-kms", key_id) for key_id in (own, wrapped_with)]
    assert said in what_copies_open(keys, [DestroyedKmsKey(own, "2026-01-01T00:00:00Z")], ACME)


def test_it_waits_for_nobody_and_disturbs_nobody(application: Application, clock: Clock) -> None:
    """While a backup is under way it is refused; a backup that slept through an erasure commits nothing."""
    made = application.service(clock=clock)
    made.create_backup(ACME, ADMIN)
    clock.move()
    drafts = made.backups.snapshot_tables(made.backups.begin([ACME], ADMIN))
    with pytest.raises(LeaseHeld):
        erase(application.service(clock=clock))
    clock.move()
    erase(application.service(clock=clock))
    for step in ("enumerate_files", "write_manifest", "verify_checksums", "apply_retention"):
        drafts = getattr(made.backups, step)(drafts)
    assert drafts[0].status is DraftStatus.FAILED
    assert not [name for name in left(application) if name.startswith(("keys/", "manifests/", "lease", "failures/"))]


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_erasure_killed_at_any_write(application: Application, clock: Clock, when: str) -> None:
    """Until the intent is there nothing is lost; from then on the tenant is refused, and the same command finishes."""
    backup = application.service(clock=clock).create_backup(ACME, ADMIN)["id"]
    kept = application.directory / "kept"
    shutil.copytree(application.bucket, kept)
    begun, outcomes = clock.now, set()
    for nth in range(1 if when == "after" else 2, 100, 2):
        shutil.rmtree(application.bucket)
        shutil.copytree(kept, application.bucket)
        shutil.rmtree(application.directory / "objects" / "sbh-files-us-east-1", ignore_errors=True)
        clock.now = begun
        death = Death(nth, when)
        try:
            with struck(death):
                erase(application.service(clock=clock))
        except Killed:
            assert death.dead
        if not death.dead:
            break
        clock.move()
        made = application.service(clock=clock)
        intended = (application.bucket / "_sbh-catalog" / REGION / "erased" / f"{ACME}.json").exists()
        outcomes.add(intended)
        if not intended:
            assert made.validate_backup(backup, ACME, ADMIN, deep=True)["issues"] == []
        else:
            (draft,) = made.backups.create_all([ACME], ADMIN)
            assert draft.status is DraftStatus.FAILED
            if not (application.repository(ACME) / "keys" / "0001.json").exists():
                with pytest.raises(TenantErased):
                    made.list_backups(ACME, ADMIN)
        clock.move()
        certificate = erase(application.service(clock=clock))
        assert left(application) == []
        assert ACME not in records(application)
        assert certificate.destroyed.keys
        verify_certificate(as_document(certificate), made.keys.public(ADMIN)[REGION])
    assert nth > 8
    assert outcomes == {True, False}


# in versioned buckets, under KMS


@dataclass
class Bucket:
    """A tenant's backups in SeaweedFS, versioned, below prefixes of this test's own."""

    application: Application
    stack: Stack
    proxy: KmsProxy
    name: str
    mark: str

    def service(self, kms_key_id: str, **storage: Any) -> BackupService:
        return self.application.service(
            storage={
                "kind": "s3",
                "path": None,
                "bucket": self.name,
                "prefix": f"{self.mark}/{{tenant}}/backups/",
                "catalog_prefix": f"{self.mark}-catalog/",
                "regions": [REGION],
                "endpoint_url": self.stack.s3_endpoint,
                "access_key_id": object_server.ACCESS_KEY,
                "secret_access_key": object_server.secret_file(Layout(self.stack.dir)).read_text().strip(),
                **storage,
            },
            keys={
                "provider": "aws-kms",
                "key_file": None,
                "kms_key_id": kms_key_id,
                "kms_endpoint_url": self.proxy.url,
            },
            files={"enabled": False},
            platform={"prefix": f"{self.mark}-platform/"},
        )

    @property
    def prefix(self) -> str:
        return f"{self.mark}/{ACME}/backups/"

    def versions(self, prefix: str = "") -> dict[tuple[str, str], bytes]:
        """Every version of every object, as somebody who copied the whole bucket has it."""
        client, found = self.stack.s3_client(), {}
        listed = {
            k["Key"] for k in client.list_objects_v2(Bucket=self.name, Prefix=prefix or self.prefix).get("Contents", ())
        }
        page = client.list_object_versions(Bucket=self.name, Prefix=prefix or self.prefix)
        for version in page.get("Versions", ()):
            body = client.get_object(Bucket=self.name, Key=version["Key"], VersionId=version["VersionId"])[
                "Body"
            ].read()
            found[version["Key"], version["VersionId"]] = body
        assert listed <= {key for key, _ in found}
        return found


@pytest.fixture
def versioned(application: Application, embedded_stack: Stack) -> Iterator[Bucket]:
    client = embedded_stack.kms_client(REGION)
    with kms_proxy(embedded_stack.kms_endpoint, client) as proxy:
        yield Bucket(application, embedded_stack, proxy, f"sbh-files-{REGION}", f"erase-{os.urandom(4).hex()}")


def new_key(versioned: Bucket, alias: str) -> str:
    key_id: str = versioned.proxy.client.create_key(Description="of a test")["KeyMetadata"]["KeyId"]
    versioned.proxy.client.create_alias(AliasName=alias, TargetKeyId=key_id)
    return key_id


def opened(versioned: Bucket, copy: dict[tuple[str, str], bytes]) -> int:
    """How many chunks somebody opens who has this copy of the bucket and may use every KMS key there still is."""
    wrapped = [json.loads(body) for (key, _), body in copy.items() if "/keys/" in key]
    data_keys, provider = [], AwsKms("", versioned.proxy.url, {"aws_access_key_id": "x", "aws_secret_access_key": "y"})
    for document in wrapped:
        try:
            data_keys.append(provider.unwrap(document, ACME, REGION))
        except KeyServiceError:
            continue
    found = 0
    for (key, _), body in copy.items():
        if "/packs/" not in key:
            continue
        for data_key in data_keys:
            sealer = Sealer(data_key, ACME)
            directory = body[int.from_bytes(body[-20:-12], "big") : -20]
            entries = sealer.open(directory, b"", b"D", on=key)
            for at in range(0, len(entries), 48):
                name, offset, length = entries[at : at + 32], entries[at + 32 : at + 40], entries[at + 40 : at + 44]
                start = int.from_bytes(offset, "big")
                sealer.open(body[start : start + int.from_bytes(length, "big")], name, CHUNK, on=key)
                found += 1
    return found


@pytest.mark.parametrize("own_key", [True, False], ids=["a key of its own", "a shared key"])
def test_no_version_of_anything_opens(versioned: Bucket, own_key: bool) -> None:
    """All versions are gone; a full copy made before opens nothing with a key of its own, and does with a shared one: so says
    the certificate.
    """
    alias = f"alias/{versioned.mark}"
    template = f"{alias}-{{tenant}}" if own_key else alias
    for name in [f"{alias}-{ACME}", f"{alias}-_catalog"] if own_key else [alias]:
        new_key(versioned, name)
    made = versioned.service(template)
    for seed in range(3):
        versioned.application.database.run(f"UPDATE projects SET body = 'version {seed} ' || id")
        made.create_backup(ACME, ADMIN, "full")
    made.keys.rotate([ACME], ADMIN)  # an older version of the key object
    before = versioned.versions()
    assert len(before) > len({key for key, _ in before})
    assert opened(versioned, before) > 0
    certificate = erase(made)
    after = versioned.versions()
    assert {key for key, _ in after if "/audit/" not in key} == set()
    assert certificate.not_destroyed.versions == 0
    assert certificate.destroyed.versions >= len([key for key, _ in before if "/audit/" not in key])
    assert certificate.destroyed.versions > certificate.destroyed.objects > 0
    catalog = versioned.versions(f"{versioned.mark}-catalog/{REGION}/records/")
    assert ACME not in repr(site_of(versioned.service(template)).catalog(REGION).read())
    assert len(catalog) <= 1
    if own_key:
        assert opened(versioned, before) == 0
        assert [key.deletion_date != "" for key in certificate.destroyed.kms_keys] == [True]
        assert certificate.copies_made_before.startswith("Nothing")
    else:
        assert opened(versioned, before) > 0
        assert certificate.destroyed.kms_keys == []
        assert "sbh:tenant=acme" in certificate.copies_made_before
        assert "can open that copy" in certificate.copies_made_before


def test_versions_under_object_lock_are_told_of(versioned: Bucket) -> None:
    """They stay, are counted, and the erasure is complete all the same: their key is gone."""
    from datetime import UTC, datetime, timedelta

    versioned.name = object_server.LOCKED_BUCKET
    alias = f"alias/{versioned.mark}"
    new_key(versioned, alias)
    made = versioned.service(alias)
    made.create_backup(ACME, ADMIN)
    client = versioned.stack.s3_client()
    pack = next(key for key, _ in versioned.versions() if "/packs/" in key)
    until = datetime.now(UTC) + timedelta(minutes=10)
    client.put_object_retention(
        Bucket=versioned.name, Key=pack, Retention={"Mode": "GOVERNANCE", "RetainUntilDate": until}
    )
    certificate = erase(made)
    assert {key for key, _ in versioned.versions() if "/audit/" not in key} == {pack}
    assert certificate.not_destroyed.versions == 1
    assert pack in certificate.not_destroyed.examples[0]
    with pytest.raises(TenantErased):
        versioned.service(alias).list_backups(ACME, ADMIN)


def test_a_directory_of_many_versions_is_emptied(versioned: Bucket) -> None:
    """More than a page of them: the server's listing of versions leaves out some where a page ends."""
    alias = f"alias/{versioned.mark}"
    new_key(versioned, alias)
    made = versioned.service(alias)
    made.create_backup(ACME, ADMIN)
    store, prefix = site_of(made).backup_store(versioned.application.tenant())
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: store.put(f"{prefix}failures/{n % 700:04d}.json", b"%d" % n), range(1100)))
    certificate = erase(made)
    assert {key for key, _ in versioned.versions() if "/audit/" not in key} == set()
    assert certificate.destroyed.versions > 1100


def test_the_commands(application: Application, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`sbh keys` and `sbh tenants erase`, with a settings file, as an operator types them."""
    from sbh_pipelines.cli.app import run

    file = tmp_path / "sbh.toml"
    file.write_text(
        f'[database]\ndsn = "{application.database.dsn}"\n[storage]\nkind = "local"\npath = "{application.directory}/objects"\n'
        f'[keys]\nprovider = "local"\nkey_file = "{application.directory}/backup.key"\n'
    )

    def sbh(*arguments: str, status: int = 0) -> Any:
        assert run([*arguments, "--settings", str(file), "--json"]) == status, capsys.readouterr()
        shown = capsys.readouterr().out
        return json.loads(shown)

    application.service().create_backup(ACME, ADMIN)
    assert sbh("keys", "rotate", "--all", "--new-data-key")["rotated"]
    assert {key["newest"] for key in sbh("keys", "status", ACME)["keys"]} == {2}
    sbh("keys", "rotate", status=2)
    sbh("tenants", "erase", ACME, "--reason", "left", status=2)
    (application.directory / "certificate.json").write_text(
        json.dumps(sbh("tenants", "erase", ACME, "--reason", "left", "--confirm", ACME))
    )
    public = sbh("keys", "public")["public_keys"][REGION]
    path = str(application.directory / "certificate.json")
    assert sbh("keys", "verify", path, "--public-key", public)["genuine"]
    sbh("keys", "verify", path, "--public-key", "x", status=2)
    sbh("backup", "list", ACME, status=2)
    assert sbh("tenants", "certificate", ACME)["tenant_id"] == ACME
    for command in (
        ["keys", "status"],
        ["keys", "public"],
        ["tenants", "certificate", ACME],
        ["keys", "rotate", "--all"],
    ):
        assert run([*command, "--settings", str(file)]) == 0
    assert "Certificate of erasure" in capsys.readouterr().out
    assert sbh("tenants", "readmit", ACME)["tenant_id"] == ACME
