"""Who makes the application write a key of their choice, or has the application's credentials, wants to overwrite backups that lie in its bucket.

The bucket's policy of deploy/policies lets the program's roles alone write below the backups' prefixes, and nobody overwrite what is written once; a site without it is told so by the doctor.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from botocore.exceptions import ClientError

from sbh_pipelines.doctor.buckets import protection
from sbh_pipelines.doctor.findings import Level, Report
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.settings import Settings
from sbh_pipelines.stores.s3_control import S3Control
from sbh_pipelines_tests.support.fix_moto import ACCESS, make_buckets, s3_client
from sbh_pipelines_tests.support.iam import Policy
from sbh_pipelines_tests.support.recording_proxy import recording

EU = "eu-west-1"
BACKUPS = "files/acme/backups/"
ONCE = (
    f"{BACKUPS}manifests/backup_20240115_1200.json",
    f"{BACKUPS}audit/000000000001.jsonl",
    f"{BACKUPS}approvals/approval_20240115_120000_abcdef.json",
    "_sbh-catalog/eu-west-1/records/20240115T120000000000Z-0123456789abcdef",
    "_sbh-catalog/eu-west-1/epochs/0123/0002-begun.json",
    "_sbh-platform/manifests/backup_20240115_1200.json",
)


@dataclass
class Site:
    """A bucket behind a proxy that enforces the policies. `own` is a client past it."""

    bucket: str
    proxy: Any
    client: Any
    own: Any

    def acting_as(self, policy: str, role: str) -> None:
        filled = {"sbh-files-REGION": self.bucket, "REGION": EU, "ACCOUNT_ID": "123456789012", "key/KEY_ID": "key/*"}
        self.proxy.before = Policy(policy, role, **filled).judge

    def refuses(self, key: str, **more: str) -> bool:
        try:
            self.client.put_object(Bucket=self.bucket, Key=key, Body=b"hostile", **more)
        except ClientError as error:
            return error.response["ResponseMetadata"]["HTTPStatusCode"] in (403, 412)
        return False


@pytest.fixture
def site(embedded_stack: Stack) -> Iterator[Site]:
    bucket = make_buckets(embedded_stack, eu_west_1=EU).replace("{region}", EU)
    own = s3_client(embedded_stack, EU)
    with recording(embedded_stack.kms_endpoint) as proxy:
        client = _client(proxy.url)
        yield Site(bucket, proxy, client, own)


def _client(url: str) -> Any:
    import boto3

    names = {"aws_access_key_id": ACCESS["access_key_id"], "aws_secret_access_key": ACCESS["secret_access_key"]}
    return boto3.client("s3", region_name=EU, endpoint_url=url, **names)


def test_the_applications_role_writes_its_files_and_no_backup(site: Site) -> None:
    """Its own policy lets it write below files/, where backups lie by default."""
    site.acting_as("restorer", "application")
    assert not site.refuses("files/acme/uploads/a.pdf")
    for name in (
        "keys/0001.json",
        "packs/" + "ab" * 32,
        "manifests/backup_20991231_2359.json",
        "lease.json",
        "anything",
    ):
        assert site.refuses(BACKUPS + name)
        assert site.refuses(BACKUPS + name, IfNoneMatch="*")
    for name in ("_sbh-catalog/eu-west-1/erased/acme.json", "_sbh-platform/keys/0001.json"):
        assert site.refuses(name)


@pytest.mark.parametrize("role", ["writer", "restorer"])
@pytest.mark.parametrize("key", ONCE)
def test_a_role_of_ours_creates_and_does_not_overwrite(site: Site, role: str, key: str) -> None:
    """Whoever has its key can add, and take nothing away by a put."""
    site.own.put_object(Bucket=site.bucket, Key=key, Body=b"genuine")
    site.acting_as(role, f"sbh-{role}")
    assert site.refuses(key)
    assert site.refuses(key, IfNoneMatch="*")
    assert site.own.get_object(Bucket=site.bucket, Key=key)["Body"].read() == b"genuine"


def test_the_doctor_finds_a_bucket_whose_backups_others_may_overwrite(site: Site) -> None:
    control, settings = S3Control(EU, endpoint_url=site.proxy.url, **ACCESS), Settings(database={"dsn": "dbname=x"})  # type: ignore[arg-type]
    prefixes = ["files/{tenant}/backups/"]

    def warnings() -> list[str]:
        report = Report()
        protection.check(report, settings, control, site.bucket, prefixes, files="files/{tenant}/", strict=True)
        found = [finding for finding in report.findings if finding.level is Level.WARNING]
        assert all(finding.remedy for finding in found)
        return [finding.what for finding in found]

    assert [what for what in warnings() if "may overwrite backups" in what]
    statement = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:PutObject",
        "Resource": f"arn:aws:s3:::{site.bucket}/files/*/backups/*",
        "Condition": {"ArnNotEquals": {"aws:PrincipalArn": "arn:aws:iam::123456789012:role/sbh-writer"}},
    }
    for changed, closed in (
        ({}, True),
        ({"Effect": "Allow"}, False),
        ({"Principal": {"AWS": "arn:aws:iam::1:role/a"}}, False),
        ({"Resource": f"arn:aws:s3:::{site.bucket}/files/*/backups/audit/*"}, False),
        ({"Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}, False),
        ({"Action": "s3:DeleteObject"}, False),
    ):
        policy = {"Version": "2012-10-17", "Statement": [{**statement, **changed}]}
        site.own.put_bucket_policy(Bucket=site.bucket, Policy=json.dumps(policy))
        assert (not [what for what in warnings() if "may overwrite backups" in what]) is closed, changed
