"""What the doctor says of a copy, against moto, which knows regions, object lock and KMS keys: each with its remedy."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.doctor.buckets import copies
from sbh_pipelines.doctor.findings import Finding, Level, Report
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.application import Application
from sbh_pipelines_tests.support.databases import fresh_database
from sbh_pipelines_tests.support.fix_moto import ACCESS, make_buckets, s3_client
from sbh_pipelines_tests.support.recording_proxy import Answer, recording

EU, CENTRAL = "eu-west-1", "eu-central-1"
Look = Callable[..., list[Finding]]


@pytest.fixture
def application(embedded_stack: Stack, application_template: str, tmp_path: Path) -> Iterator[Application]:
    """Tenants `acme` and `bolt`, both in eu-west-1."""
    with fresh_database(embedded_stack, application_template) as database:
        yield Application(database, tmp_path)


@pytest.fixture
def look(application: Application, embedded_stack: Stack) -> Look:
    """The findings on a copy `dr` with these fields; its bucket is in `real`."""

    def examined(
        real: str = CENTRAL,
        *,
        write: bool = False,
        lock: bool = False,
        sections: dict[str, Any] | None = None,
        **fields: Any,
    ) -> list[Finding]:
        bucket = make_buckets(embedded_stack).replace("{region}", "copy")
        s3 = s3_client(embedded_stack, real)
        where = {"LocationConstraint": real}
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration=where, ObjectLockEnabledForBucket=lock)
        copy = {"name": "dr", "to": CENTRAL, "bucket": bucket, **fields}
        storage = {"kind": "s3", "path": None, "regions": [EU], "endpoint_url": embedded_stack.kms_endpoint, **ACCESS}
        plain = application.configured(**{"storage": storage, "residency": {"prove": "always"}, **(sections or {})})
        kept = {name: getattr(plain, name) for name in Settings.model_fields if name != "copies"}
        report = Report()
        copies.check(report, Settings(**kept, copies=[copy]), write=write)
        assert all(finding.remedy for finding in report.findings if finding.level is not Level.OK)
        return report.findings

    return examined


def one(findings: list[Finding], words: str, level: Level) -> Finding:
    (found,) = [finding for finding in findings if words in finding.what]
    assert found.level is level, found
    return found


def key_file(application: Application) -> Path:
    file = application.directory / "copy.key"
    file.write_bytes((application.directory / "backup.key").read_bytes())
    return file


def test_a_copy_that_is_in_order(look: Look, application: Application) -> None:
    findings = look(lock=True, lock_days=14, write=True, key_file=key_file(application))
    assert [finding for finding in findings if finding.level is Level.ERROR] == []
    one(findings, "answers", Level.OK)
    assert one(findings, "is in its region", Level.OK).detail == CENTRAL
    one(findings, "can lock objects", Level.OK)
    one(findings, "can be written and read", Level.OK)
    one(findings, "may also delete there", Level.OK)
    one(findings, "wraps and unwraps", Level.OK)
    one(findings, "takes: 2 of 2", Level.OK)


def test_a_bucket_that_is_elsewhere_or_nowhere(look: Look) -> None:
    assert "SBH" in one(look(real="eu-north-1"), "is in another region", Level.ERROR).detail
    missing = [finding for finding in look(bucket=f"none-{uuid.uuid4().hex[:8]}") if finding.level is Level.ERROR]
    assert len(missing) == 1


def test_a_bucket_that_cannot_lock_or_keeps_no_versions(look: Look) -> None:
    findings = look(lock_days=14)
    assert "put-object-lock-configuration" in one(findings, "has no object lock", Level.ERROR).remedy
    one(findings, "keeps no versions", Level.WARNING)


def test_one_region_on_one_server_is_no_second_one(look: Look) -> None:
    one(look(real=EU, to=EU), "is in no second region", Level.WARNING)
    assert [finding for finding in look() if "no second region" in finding.what] == []


def test_one_key_file_for_both_places(look: Look, application: Application) -> None:
    one(look(), "wrapped by the same key file", Level.WARNING)
    assert [f for f in look(key_file=key_file(application)) if "same key file" in f.what] == []


def test_the_kms_key_is_that_of_the_copys_region(look: Look, embedded_stack: Stack) -> None:
    name = f"alias/copy-{uuid.uuid4().hex[:8]}"
    keys = {"provider": "aws-kms", "key_file": None, "kms_endpoint_url": embedded_stack.kms_endpoint}
    wanted = {"sections": {"keys": keys}, "kms_key_id": name}
    here, there = embedded_stack.kms_client(EU), embedded_stack.kms_client(CENTRAL)
    here.create_alias(AliasName=name, TargetKeyId=here.create_key()["KeyMetadata"]["KeyId"])
    assert [f.level for f in look(**wanted) if "SBH-5" in f.detail] == [
        Level.ERROR
    ]  # there is none in the copy's region
    there.create_alias(AliasName=name, TargetKeyId=there.create_key()["KeyMetadata"]["KeyId"])
    one(look(**wanted), "wraps and unwraps", Level.OK)


def test_those_left_out_are_counted_and_named(look: Look) -> None:
    tiers = one(look(tiers=["nothing"]), "leaves out by their tier: 2", Level.OK)
    assert "acme" in tiers.detail
    findings = look(
        sections={"residency": {"zones": {"eu": [EU, CENTRAL]}, "default": [EU], "tenants": {"acme": [EU, CENTRAL]}}}
    )
    assert one(findings, "may not lie in eu-central-1", Level.WARNING).detail == "bolt"
    one(findings, "takes: 1 of 2", Level.OK)
    one(look(tiers=["nothing"]), "takes no tenant at all", Level.ERROR)


def test_a_copy_that_leaves_its_zone(look: Look) -> None:
    zones = {"zones": {"a": [EU], "b": [CENTRAL]}, "platform_lists_all": True}
    one(look(sections={"residency": zones}), "leaves the zone", Level.WARNING)


def test_a_writer_that_may_not_delete_is_told_as_such(look: Look, embedded_stack: Stack) -> None:
    denied = b"<Error><Code>AccessDenied</Code></Error>"
    with recording(embedded_stack.kms_endpoint) as proxy:
        proxy.before = lambda request: (
            Answer(403, {"Content-Type": "application/xml"}, denied)
            if request.method == "DELETE" or "delete" in request.query
            else None
        )
        findings = look(write=True, endpoint_url=proxy.url)
    one(findings, "may not delete there", Level.OK)


def test_no_copies_no_findings(application: Application) -> None:
    report = Report()
    copies.check(report, application.configured(), write=True)
    assert report.findings == []
