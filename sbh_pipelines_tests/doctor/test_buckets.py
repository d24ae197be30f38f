"""What the doctor says of buckets, against moto's S3: where they are and how they are protected, each with its remedy."""

import json
from typing import Any

import pytest

from sbh_pipelines.doctor.buckets import protection, residency
from sbh_pipelines.doctor.findings import Finding, Level, Report
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.placement import Place
from sbh_pipelines.settings import Settings
from sbh_pipelines.stores.s3_control import S3Control
from sbh_pipelines_tests.support.fix_moto import ACCESS, make_buckets, s3_client
from sbh_pipelines_tests.support.recording_proxy import Answer, recording

EU = "eu-west-1"
PREFIXES = ["files/{tenant}/backups/", "_sbh-catalog/"]


def settings(**sections: Any) -> Settings:
    return Settings(keys={"provider": "local", "key_file": "key"}, **sections)  # type: ignore[arg-type]


@pytest.fixture
def control(embedded_stack: Stack) -> S3Control:
    return S3Control(EU, endpoint_url=embedded_stack.kms_endpoint, **ACCESS)


@pytest.mark.parametrize(
    ("real", "endpoint", "prove", "level", "words"),
    [
        (EU, None, "aws", Level.OK, "is in its region"),
        ("eu-central-1", None, "aws", Level.ERROR, "The bucket is in another region"),
        ("eu-central-1", "https://s3.eu-west-1.amazonaws.com", "aws", Level.ERROR, "is in another region"),
        ("eu-central-1", None, "never", Level.WARNING, "residency.prove = never lets it be"),
        ("eu-central-1", "https://minio.example.com", "always", Level.ERROR, "is in another region"),
        ("eu-central-1", "https://minio.example.com", "aws", Level.WARNING, "Nothing proves"),
        ("eu-central-1", "http://127.0.0.1:9000", "aws", Level.OK, "is on this machine"),
        ("eu-central-1", "http://127.0.0.1:9000", "always", Level.ERROR, "is in another region"),
    ],
)
def test_where_a_bucket_is(
    embedded_stack: Stack, control: S3Control, real: str, endpoint: str | None, prove: str, level: Level, words: str
) -> None:
    """The answer is moto's; the address in the settings decides what it means."""
    bucket = make_buckets(embedded_stack, eu_west_1=real).replace("{region}", EU)
    report, wanted = Report(), settings(storage={"endpoint_url": endpoint}, residency={"prove": prove})
    residency.check_bucket(report, wanted, control, Place(bucket, "", EU))
    (finding,) = report.findings
    assert (finding.level, words in finding.what) == (level, True), finding
    assert finding.remedy or level is Level.OK


def test_a_bucket_that_cannot_be_asked_is_not_called_misplaced(embedded_stack: Stack, control: S3Control) -> None:
    report = Report()
    residency.check_bucket(report, settings(), control, Place("nobodys-bucket", "", EU))
    (finding,) = report.findings
    assert (finding.level, "region" in finding.what) == (Level.ERROR, False)
    dead = S3Control(EU, endpoint_url="http://127.0.0.1:1", timeout_s=1, **ACCESS)
    report = Report()
    residency.check_bucket(report, settings(), dead, Place("bucket", "", EU))
    assert "SBH-401" in report.findings[0].detail


def protect(s3: Any, bucket: str) -> None:
    """As deploy/policies has it."""
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    names = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=dict.fromkeys(names, True))
    deny = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    ours = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": ["s3:PutObject"],
        "Resource": [f"arn:aws:s3:::{bucket}/{prefix.replace('{tenant}', '*')}*" for prefix in PREFIXES],
        "Condition": {"ArnNotLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/sbh-*"}},
    }
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [deny, ours]}))


def rule(s3: Any, bucket: str, **fields: Any) -> None:
    rules = [{"ID": "r", "Status": "Enabled", "Filter": {"Prefix": ""}, **fields}]
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules})


def look(control: S3Control, bucket: str, *, strict: bool = True, prefixes: list[str] = PREFIXES) -> list[Finding]:
    report = Report()
    protection.check(report, settings(), control, bucket, prefixes, strict=strict)
    return report.findings


def test_a_bucket_without_protection_gets_a_command_for_each(embedded_stack: Stack, control: S3Control) -> None:
    bucket = make_buckets(embedded_stack, eu_west_1=EU).replace("{region}", EU)
    warnings = [finding for finding in look(control, bucket) if finding.level is Level.WARNING]
    commands = ("put-bucket-versioning", "put-public-access-block", "put-bucket-policy", "put-bucket-policy")
    assert [finding.remedy.split()[2] for finding in warnings] == list(commands)
    assert all(f"--bucket {bucket} " in finding.remedy for finding in warnings)
    # Of a server that may lack the notion only versions are asked.
    (only,) = [finding for finding in look(control, bucket, strict=False) if finding.level is Level.WARNING]
    assert "versions" in only.what


def test_a_protected_bucket_is_fine(embedded_stack: Stack, control: S3Control) -> None:
    bucket = make_buckets(embedded_stack, eu_west_1=EU).replace("{region}", EU)
    protect(s3_client(embedded_stack, EU), bucket)
    (finding,) = look(control, bucket)
    assert finding.level is Level.OK
    for words in (
        "versioned",
        "no object lock",
        "public access blocked",
        "TLS only",
        "only some roles write backups",
        "lifecycle rules: 0",
    ):
        assert words in finding.detail


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"Expiration": {"Days": 30}}, "deletes objects of backups"),
        ({"Expiration": {"Days": 9999}, "Filter": {"Prefix": "files/"}}, "deletes objects of backups"),
        ({"Expiration": {"Days": 9}, "Filter": {"Prefix": "_sbh-cat"}}, "deletes objects of backups"),
        ({"Transitions": [{"Days": 1, "StorageClass": "DEEP_ARCHIVE"}]}, "cannot be read at once"),
        ({"Expiration": {"Days": 9}, "Filter": {"Prefix": "logs/"}}, ""),
        ({"Expiration": {"Days": 9}, "Status": "Disabled"}, ""),
        ({"NoncurrentVersionExpiration": {"NoncurrentDays": 30}}, ""),
        ({"Transitions": [{"Days": 1, "StorageClass": "GLACIER_IR"}]}, ""),
    ],
)
def test_a_lifecycle_rule_that_takes_backups_away_is_an_error(
    embedded_stack: Stack, control: S3Control, fields: dict[str, Any], words: str
) -> None:
    bucket, s3 = make_buckets(embedded_stack, eu_west_1=EU).replace("{region}", EU), s3_client(embedded_stack, EU)
    protect(s3, bucket)
    rule(s3, bucket, **fields)
    errors = [finding for finding in look(control, bucket) if finding.level is Level.ERROR]
    assert bool(errors) is bool(words)
    assert all(words in error.what and error.remedy for error in errors)
    # What the application's files are kept for is not for this system to say.
    assert not [f for f in look(control, bucket, prefixes=[]) if f.level is Level.ERROR]


def test_a_default_period_of_object_lock_locks_keys_as_well(embedded_stack: Stack, control: S3Control) -> None:
    bucket, s3 = make_buckets(embedded_stack).replace("{region}", "locked"), s3_client(embedded_stack, EU)
    here = {"LocationConstraint": EU}
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration=here, ObjectLockEnabledForBucket=True)
    protect(s3, bucket)
    assert [finding.level for finding in look(control, bucket)] == [Level.OK]
    retention = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 30}}
    s3.put_object_lock_configuration(
        Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": retention}
    )
    (warning,) = [finding for finding in look(control, bucket) if finding.level is Level.WARNING]
    assert "data keys among them" in warning.what
    assert "compliance, 30 days" in warning.detail
    assert not [f for f in look(control, bucket, prefixes=[]) if f.level is Level.WARNING]


def test_what_may_not_be_read_is_shown_as_such(embedded_stack: Stack, control: S3Control) -> None:
    """A writer's role need not see how a bucket is set up."""
    bucket = make_buckets(embedded_stack, eu_west_1=EU).replace("{region}", EU)
    denied = b"<Error><Code>AccessDenied</Code></Error>"
    with recording(embedded_stack.kms_endpoint) as proxy:
        proxy.before = lambda _: Answer(403, {"Content-Type": "application/xml"}, denied)
        found = look(S3Control(EU, endpoint_url=proxy.url, **ACCESS), bucket)
    assert {finding.level for finding in found} == {Level.OK, Level.WARNING}
    assert "public access: not readable" in found[-1].detail
    assert not [finding for finding in found if "does not block" in finding.what]


@pytest.mark.parametrize(
    ("days", "prefix", "enabled", "warned"),
    [(3, "files/", True, True), (7, "", True, False), (3, "logs/", True, False), (3, "files/", False, False)],
)
def test_versions_of_files_that_go_before_the_journal(
    embedded_stack: Stack, control: S3Control, days: int, prefix: str, enabled: bool, warned: bool
) -> None:
    bucket = make_buckets(embedded_stack, eu_west_1=EU).replace("{region}", EU)
    s3 = s3_client(embedded_stack, EU)
    protect(s3, bucket)
    rule(s3, bucket, Filter={"Prefix": prefix}, NoncurrentVersionExpiration={"NoncurrentDays": days})
    report, wanted = Report(), settings(journal={"enabled": enabled, "keep_days": 7})
    protection.check(report, wanted, control, bucket, [], files="files/{tenant}/", strict=True)
    warnings = [finding for finding in report.findings if finding.level is Level.WARNING]
    assert ["before the journal" in finding.what for finding in warnings] == [True] * warned
    assert all("raise NoncurrentDays to 7" in finding.remedy for finding in warnings)


def test_a_bucket_without_versions_says_what_a_recovery_gets(embedded_stack: Stack, control: S3Control) -> None:
    bucket = make_buckets(embedded_stack, eu_west_1=EU).replace("{region}", EU)
    report = Report()
    files = {"files": "files/{tenant}/", "strict": False}
    protection.check(report, settings(journal={"enabled": True}), control, bucket, [], **files)
    assert "newest backup before" in report.findings[0].detail
