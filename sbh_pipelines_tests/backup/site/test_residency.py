"""Residency at the write, through the service: against moto's S3, which knows regions, and against directories."""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.backup.site.store_binding import is_provable
from sbh_pipelines.doctor.buckets import residency
from sbh_pipelines.doctor.findings import Report
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import ResidencyError, SettingsError, StoreUnavailable
from sbh_pipelines.model import Tenant, TenantId, utc_now
from sbh_pipelines.placement import PLATFORM, Place, allowed_regions, check_tenant, platform_tenant
from sbh_pipelines.residency import ResidencyManager
from sbh_pipelines.settings.places.copies import CopySettings, at_copy
from sbh_pipelines_tests.stores.test_server_side_encryption import asked, begins_an_object
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.fix_moto import ACCESS, make_buckets, s3_client
from sbh_pipelines_tests.support.recording_proxy import Answer, recording
from sbh_pipelines_tests.support.site import site_of, with_stores

EU, US = "eu-west-1", "us-east-1"
ZONES = {"zones": {"eu": [EU, "eu-central-1"], "us": [US]}, "platform_lists_all": True}


def on_moto(application: Application, url: str, template: str, **residency: Any) -> BackupService:
    """The service with backups in buckets of moto, whose regions it is to prove."""
    storage = {"kind": "s3", "endpoint_url": url, "bucket": template, "retries": 0, "timeout_s": 60, **ACCESS}
    files = {"enabled": True, "bucket": template, "connections": 2}
    return application.service(storage=storage, files=files, residency={"prove": "always", **residency})


def move(application: Application, tenant: str, region: str) -> None:
    application.database.run(f"UPDATE tenants SET region = '{region}' WHERE slug = '{tenant}'")


def everything_in(stack: Stack, template: str, region: str) -> list[str]:
    listed = s3_client(stack, region).list_objects_v2(Bucket=template.replace("{region}", region))
    return [entry["Key"] for entry in listed.get("Contents", [])]


def test_a_bucket_in_its_region_takes_backups_and_gives_files_back(
    application: Application, embedded_stack: Stack
) -> None:
    template = make_buckets(embedded_stack, eu_west_1=EU, us_east_1=US)
    service = on_moto(application, embedded_stack.kms_endpoint, template)
    s3_client(embedded_stack, EU).put_object(
        Bucket=template.replace("{region}", EU), Key=f"files/{ACME}/a.txt", Body=b"old"
    )
    backup = service.create_backup(ACME, ADMIN)
    s3_client(embedded_stack, EU).delete_object(Bucket=template.replace("{region}", EU), Key=f"files/{ACME}/a.txt")
    service.restore_backup(backup["id"], ACME, ADMIN)
    assert f"files/{ACME}/a.txt" in everything_in(embedded_stack, template, EU)


def test_a_bucket_elsewhere_takes_nothing(application: Application, embedded_stack: Stack) -> None:
    """It was deleted and made anew in another region, or the wrong one was named: a backup, and what belongs to a region."""
    template = make_buckets(embedded_stack, eu_west_1="eu-central-1", us_east_1=US)
    service = on_moto(application, embedded_stack.kms_endpoint, template)
    with pytest.raises(ResidencyError, match="stands for eu-west-1 and is in eu-central-1"):
        service.create_backup(ACME, ADMIN)
    with pytest.raises(ResidencyError):
        service.platform.create(ADMIN)
    with pytest.raises(ResidencyError):
        site_of(service).catalog(EU).seed_id  # noqa: B018  makes the catalog's key
    for store, prefix in (
        site_of(service).backup_store(application.tenant()),
        site_of(service).files_store(application.tenant()),
        site_of(service).backup_store(platform_tenant(service.settings)),
    ):
        with pytest.raises(ResidencyError):
            store.put_stream(prefix + "x", iter([b"x"]), {})
    assert everything_in(embedded_stack, template, EU) == []


def test_a_bucket_that_moves_away_is_noticed_at_run_time(application: Application, embedded_stack: Stack) -> None:
    template = make_buckets(embedded_stack, eu_west_1=EU)
    name, real = template.replace("{region}", EU), {"region": EU}
    with recording(embedded_stack.kms_endpoint) as proxy:
        proxy.after = lambda seen, answer: (
            Answer(answer.status, {**answer.headers, "x-amz-bucket-region": real["region"]}, answer.body)
            if seen.method == "HEAD" and seen.path == f"/{name}"
            else answer
        )
        service = on_moto(application, proxy.url, template, recheck_s=0.001)
        service.create_backup(ACME, ADMIN)
        before = everything_in(embedded_stack, template, EU)
        real["region"] = "ap-south-1"
        with pytest.raises(ResidencyError, match="is in ap-south-1"):
            service.create_backup(ACME, ADMIN)
        assert everything_in(embedded_stack, template, EU) == before
        store, prefix = site_of(service).backup_store(application.tenant())
        assert {entry.key for entry in store.list(prefix)}  # the store itself may be read, to bring things in order


def test_trouble_while_asking_is_transient_and_nothing_is_written(
    application: Application, embedded_stack: Stack
) -> None:
    template = make_buckets(embedded_stack, eu_west_1=EU)
    name = template.replace("{region}", EU)
    with recording(embedded_stack.kms_endpoint) as proxy:
        proxy.before = lambda seen: Answer(503, {}, b"") if seen.method == "HEAD" and seen.path == f"/{name}" else None
        service = on_moto(application, proxy.url, template)
        with pytest.raises(StoreUnavailable) as caught:
            service.create_backup(ACME, ADMIN)
        assert caught.value.transient
        assert everything_in(embedded_stack, template, EU) == []
        proxy.before = lambda _: None
        assert service.create_backup(ACME, ADMIN)["region"] == EU


def test_the_server_is_asked_once_for_all_tenants(application: Application, embedded_stack: Stack) -> None:
    template = make_buckets(embedded_stack, eu_west_1=EU)
    with recording(embedded_stack.kms_endpoint) as proxy:
        service = on_moto(application, proxy.url, template)
        for draft in service.backups.create_all([ACME, BOLT], ADMIN):
            assert draft.error is None
        asked = [s for s in proxy.seen if s.path.count("/") == 1 and (s.method == "HEAD" or "location" in s.query)]
        assert 1 <= len(asked) <= 2


@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        ({}, [EU, US]),
        ({"default": ["eu"]}, [EU]),
        ({"default": [US]}, [US]),
        ({"tiers": {"critical": ["eu"]}, "default": ["us"]}, [EU]),
        ({"tiers": {"archive": ["eu"]}, "default": ["us"]}, [US]),
        ({"tenants": {ACME: ["us"]}, "tiers": {"critical": ["eu"]}}, [US]),
        ({"tenants": {BOLT: ["us"]}}, [EU, US]),
    ],
)
def test_a_tenants_own_rule_counts_before_its_tiers(
    application: Application, rules: Mapping[str, Any], allowed: list[str]
) -> None:
    settings = application.configured(residency={**ZONES, **rules})
    assert list(allowed_regions(settings, application.tenant())) == allowed
    for region in (EU, US):
        tenant = replace(application.tenant(), region=region)
        if region in allowed:
            check_tenant(settings, tenant)
        else:
            with pytest.raises(ResidencyError, match="may not lie in its region"):
                check_tenant(settings, tenant)


def test_of_an_unknown_tier_only_what_no_tier_allows_is_refused(application: Application) -> None:
    """A tenant whose row is gone has none; its files must come back all the same."""
    settings = application.configured(residency={**ZONES, "default": ["us"], "tiers": {"critical": ["eu"]}})
    for region in (EU, US):
        check_tenant(settings, Tenant(TenantId(ACME), "", region, ""))
    strict = application.configured(residency={**ZONES, "tenants": {ACME: ["eu"]}})
    with pytest.raises(ResidencyError):
        check_tenant(strict, Tenant(TenantId(ACME), "", US, ""))
    check_tenant(strict, Tenant(PLATFORM, PLATFORM, US, "critical"))


def test_a_tenant_outside_of_its_zone_gets_no_backup_and_is_still_restored(application: Application) -> None:
    """What lies in the wrong place must be readable: how else would it be brought to the right one?"""
    service = application.service()
    backup = service.create_backup(ACME, ADMIN)
    strict = application.service(residency={**ZONES, "tenants": {ACME: ["us"]}})
    before = sorted(application.repository(ACME).rglob("*"))
    with pytest.raises(ResidencyError, match="may not lie in its region") as caught:
        strict.create_backup(ACME, ADMIN)
    assert (caught.value.code, caught.value.transient) == ("SBH-120", False)
    assert sorted(application.repository(ACME).rglob("*")) == before
    assert strict.list_backups(ACME, ADMIN)[0]["id"] == backup["id"]
    assert strict.validate_backup(backup["id"], ACME, ADMIN, deep=True)["valid"]
    (failed,) = [d for d in strict.backups.create_all([ACME, BOLT], ADMIN) if d.error]
    assert failed.tenant.id == ACME
    assert failed.error is not None
    assert failed.error.code == "SBH-120"


def test_a_tenant_that_moved_does_not_begin_anew_unnoticed(application: Application) -> None:
    service = application.service()
    service.create_backup(ACME, ADMIN)
    move(application, ACME, US)
    there = application.directory / "objects" / "sbh-files-us-east-1"
    for moved in (service, application.service()):  # the same process, and a new one
        with pytest.raises(ResidencyError, match="was moved to another region") as caught:
            moved.create_backup(ACME, ADMIN)
        assert "residency.moved" in caught.value.remedy
    assert not list(there.rglob("lease.json"))
    assert service.create_backup(BOLT, ADMIN)
    report = Report()
    residency.check_moved(report, application.settings, {ACME: US, BOLT: EU})
    (stuck,) = report.errors
    assert "acme (now us-east-1, backups in eu-west-1)" in stuck.detail
    assert "residency.moved" in stuck.remedy
    meant = application.service(residency={"moved": [ACME]})
    assert meant.create_backup(ACME, ADMIN)["region"] == US
    report = Report()
    residency.check_moved(report, application.settings, {ACME: US, BOLT: EU, "never-seen": EU})
    (left,) = report.findings
    assert "acme (eu-west-1)" in left.detail
    assert list(there.rglob("lease.json"))
    # From now on its repository is there: the setting is no longer needed.
    assert application.service().create_backup(ACME, ADMIN)["region"] == US
    move(application, ACME, EU)
    assert application.service().create_backup(ACME, ADMIN)["region"] == EU


def test_a_region_out_of_reach_keeps_a_new_tenant_waiting(application: Application) -> None:
    """Whether the tenant was there before cannot be told; one that has a repository here is not kept."""
    application.service().create_backup(BOLT, ADMIN)

    class Down:
        def list(self, prefix: str, after: str = "") -> Any:
            raise StoreUnavailable("Cannot list an object")

    service = with_stores(application.service(), lambda store, place: Down() if place.region == US else store)
    assert service.create_backup(BOLT, ADMIN)
    with pytest.raises(StoreUnavailable):
        service.create_backup(ACME, ADMIN)


@pytest.mark.parametrize("real", [EU, US])
def test_at_a_copy_the_files_bucket_is_proved_on_its_own_server(
    application: Application, embedded_stack: Stack, real: str
) -> None:
    """A copy lies with another provider, under other credentials, where the application's bucket is not known."""
    files, copies = make_buckets(embedded_stack, eu_west_1=real), make_buckets(embedded_stack, eu_west_1="eu-central-1")
    bucket, key = files.replace("{region}", EU), f"files/{ACME}/a.txt"
    with recording(embedded_stack.kms_endpoint) as first, recording(embedded_stack.kms_endpoint) as second:
        settings = application.configured(
            storage={"kind": "s3", "endpoint_url": first.url, "bucket": files, "retries": 0, "regions": [EU], **ACCESS},
            files={"enabled": True, "bucket": files},
            residency={"prove": "always", "tenants": {ACME: [EU]}},
        )
        copy = CopySettings(
            name="dr",
            to="eu-central-1",
            bucket=copies,
            endpoint_url=second.url,
            access_key_id="copy",
            secret_access_key=SecretStr("copy"),
        )
        site = Site(at_copy(settings.model_copy(update={"copies": [copy]}), "dr"), utc_now)
        store, prefix = site.files_store(application.tenant())
        if real == EU:
            store.put_stream(prefix + "a.txt", iter([b"old"]), {})
            assert key in everything_in(embedded_stack, files, EU)
        else:
            with pytest.raises(ResidencyError, match="stands for eu-west-1 and is in us-east-1"):
                store.put_stream(prefix + "a.txt", iter([b"old"]), {})
        asked_there = [seen for seen in first.seen if bucket in seen.path]
        assert asked_there
        assert all("Credential=moto/" in seen.headers["authorization"] for seen in asked_there)
        backups, where = site.backup_store(application.tenant())
        with pytest.raises(ResidencyError, match="region of the copy"):
            backups.put(where + "x", b"x")  # which its residency allows to the files, and not to the copy
        assert not any(bucket in seen.path for seen in second.seen)


def test_the_manager_gives_the_specifications_three_keys_and_checks(application: Application) -> None:
    service = application.service(residency={**ZONES, "tenants": {ACME: ["eu"]}})

    def manager(of: BackupService) -> ResidencyManager:
        return ResidencyManager(lambda: of.settings, of.tenants.find, site_of(of).check_place)

    config = manager(service).get_backup_storage_config(ACME)
    assert config == {"bucket": "sbh-files-eu-west-1", "prefix": f"files/{ACME}/backups/", "region": EU}
    assert manager(service).allowed_regions(ACME) == (EU,)
    manager(service).check(ACME)
    service.create_backup(ACME, ADMIN)
    move(application, ACME, US)
    calls: list[Callable[[str], object]] = [manager(service).get_backup_storage_config, manager(service).check]
    for call in calls:
        with pytest.raises(ResidencyError, match="may not lie in its region"):
            call(ACME)
    with pytest.raises(ResidencyError, match="was moved"):
        manager(application.service()).check(ACME)
    move(application, ACME, "mars-1")
    with pytest.raises(ResidencyError, match="not an allowed backup region"):
        manager(service).check(ACME)


def test_concurrent_first_writes_of_a_moved_tenant_are_all_refused(application: Application) -> None:
    application.service().create_backup(ACME, ADMIN)
    service, refused, barrier = application.service(), [], threading.Barrier(8)
    store, prefix = site_of(service).backup_store(replace(application.tenant(), region=US))

    def write(n: int) -> None:
        barrier.wait()
        try:
            store.put(f"{prefix}{n}", b"x")
        except ResidencyError as error:
            refused.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 8


@pytest.mark.parametrize(
    ("url", "prove", "asked"),
    [
        (None, "aws", True),
        (None, "always", True),
        (None, "never", False),
        ("https://s3.eu-west-1.amazonaws.com", "aws", True),
        ("https://bucket.vpce-1a2b.s3.eu-west-1.vpce.amazonaws.com", "aws", True),
        ("https://s3.cn-north-1.amazonaws.com.cn", "aws", True),
        ("https://s3.notamazonaws.com", "aws", False),
        ("https://amazonaws.com.example.com", "aws", False),
        ("http://127.0.0.1:9000", "aws", False),
        ("http://127.0.0.1:9000", "always", True),
        ("https://minio.example.com", "aws", False),
        ("https://minio.example.com", "never", False),
    ],
)
def test_whose_servers_are_asked(application: Application, url: str | None, prove: str, asked: bool) -> None:
    settings = application.configured(storage={"kind": "s3", "endpoint_url": url}, residency={"prove": prove})
    assert is_provable(settings, Place("b", "", EU)) is asked
    assert not is_provable(application.configured(residency={"prove": prove}), Place("b", "", EU))  # a directory


def test_keys_are_wrapped_in_the_tenants_region(application: Application, embedded_stack: Stack) -> None:
    """Every call to KMS is signed for the region of its tenant, and answered by a key of that region."""
    with recording(embedded_stack.kms_endpoint) as proxy:
        keys = {"provider": "aws-kms", "kms_endpoint_url": proxy.url}
        storage = {"access_key_id": "moto", "secret_access_key": "moto"}
        service = application.service(keys=keys, storage=storage)
        move(application, BOLT, US)
        backups = {slug: service.create_backup(slug, ADMIN) for slug in (ACME, BOLT)}
        calls = {seen.headers["authorization"].split("/")[2] for seen in proxy.seen}
        assert calls == {EU, US}
        for slug, region in ((ACME, EU), (BOLT, US)):
            seen_before = len(proxy.seen)
            fresh = application.service(keys=keys, storage=storage)
            store, prefix = site_of(fresh).backup_store(fresh.tenants.find(slug))
            document = json.loads(store.get(f"{prefix}keys/0001.json"))
            assert document["key_id"].startswith(f"arn:aws:kms:{region}:")
            repository = site_of(fresh).repository(fresh.tenants.find(slug))
            assert backups[slug]["id"] in repository.manifest_ids()
            repository.close()
            assert {seen.headers["authorization"].split("/")[2] for seen in proxy.seen[seen_before:]} == {region}


@pytest.mark.parametrize(
    ("encryption", "wanted"),
    [
        ({}, {}),
        ({"encryption": "AES256"}, {"x-amz-server-side-encryption": "aes256"}),
    ],
)
def test_backups_and_files_that_come_back_ask_for_encryption_each_as_its_settings_say(
    application: Application, embedded_stack: Stack, encryption: dict[str, str], wanted: dict[str, str]
) -> None:
    """How the application's files are encrypted is for its bucket to say, unless the settings do."""
    template = make_buckets(embedded_stack, eu_west_1=EU)
    with recording(embedded_stack.kms_endpoint) as proxy:
        storage = {"kind": "s3", "endpoint_url": proxy.url, "bucket": template, "retries": 0, **ACCESS}
        storage |= {"sse": "aws:kms", "sse_kms_key_id": "arn:aws:kms:{region}:1:alias/sbh"}
        platform = {"pg_dump": str(postgres.binaries() / "pg_dump")}
        files = {"bucket": template, "connections": 2, **encryption}
        service = application.service(storage=storage, files=files, platform=platform)
        bucket, s3 = template.replace("{region}", EU), s3_client(embedded_stack, EU)
        for name in ("plain", "odd//name"):
            s3.put_object(Bucket=bucket, Key=f"files/{ACME}/{name}", Body=b"old")
        backup = service.create_backup(ACME, ADMIN)
        for name in ("plain", "odd//name"):
            s3.delete_object(Bucket=bucket, Key=f"files/{ACME}/{name}")
        service.restore_backup(backup["id"], ACME, ADMIN)
        service.platform.create(ADMIN)
        writes = [seen for seen in proxy.seen if begins_an_object(seen)]
        theirs = [s for s in writes if s.path.startswith(f"/{bucket}/files/") and "/backups/" not in s.path]
        assert {seen.path.rpartition(f"/{ACME}/")[2] for seen in theirs} == {"plain", "odd//name"}
        assert all(asked(seen) == wanted for seen in theirs)
        ours = [seen for seen in writes if seen not in theirs]
        assert {seen.path.split("/")[2] for seen in ours} == {"files", "_sbh-catalog", "_sbh-platform"}
        for seen in ours:
            assert asked(seen)["x-amz-server-side-encryption"] == "aws:kms"
            assert asked(seen)["x-amz-server-side-encryption-aws-kms-key-id"].startswith(f"arn:aws:kms:{EU}:")


def test_an_endpoint_without_tls_is_refused_before_anything_is_sent(application: Application, tmp_path: Path) -> None:
    storage = {"kind": "s3", "endpoint_url": "http://s3.{region}.example.com", **ACCESS}
    with pytest.raises(SettingsError, match=r"storage\.endpoint_url is not encrypted"):
        application.service(storage=storage).list_backups(ACME, ADMIN)
    keys = {"provider": "aws-kms", "kms_endpoint_url": "http://kms.example.com"}
    with pytest.raises(SettingsError, match=r"keys\.kms_endpoint_url is not encrypted"):
        application.service(keys=keys).create_backup(ACME, ADMIN)
