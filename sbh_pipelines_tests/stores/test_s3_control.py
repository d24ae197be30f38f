"""What the doctor reads from S3's control calls, against a server that knows regions, locks and encryption (moto)."""

from typing import Any

import boto3
import pytest

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import ObjectMissing, StoreUnavailable
from sbh_pipelines.stores.s3_control import S3Control

REGION = "eu-west-1"


@pytest.fixture(scope="module")
def control(embedded_stack: Stack) -> S3Control:
    """The stack's KMS server is moto's, which plays S3 as well."""

    def client(region: str) -> Any:
        endpoint, key = embedded_stack.kms_endpoint, "test"
        return boto3.client(
            "s3", region_name=region, endpoint_url=endpoint, aws_access_key_id=key, aws_secret_access_key=key
        )

    s3 = client(REGION)
    here = {"LocationConstraint": REGION}
    s3.create_bucket(Bucket="plain", CreateBucketConfiguration=here)
    s3.create_bucket(Bucket="kept", CreateBucketConfiguration=here, ObjectLockEnabledForBucket=True)
    retention = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 30}}
    s3.put_object_lock_configuration(
        Bucket="kept", ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": retention}
    )
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}}
    s3.put_bucket_encryption(Bucket="kept", ServerSideEncryptionConfiguration={"Rules": [rule]})
    there = {"LocationConstraint": "eu-central-1"}
    client("eu-central-1").create_bucket(Bucket="elsewhere", CreateBucketConfiguration=there)
    return S3Control(REGION, endpoint_url=embedded_stack.kms_endpoint, access_key_id="test", secret_access_key="test")


def test_a_bucket_tells_how_it_is_set_up(control: S3Control) -> None:
    assert (control.location("plain"), control.versioned("plain"), control.object_lock("plain")) == (REGION, False, "")
    assert control.encryption("plain") in ("", "AES256")  # AWS encrypts by default since 2023
    assert control.versioned("kept")
    assert control.object_lock("kept") == "compliance, 30 days"
    assert control.encryption("kept") == "aws:kms"
    assert abs(control.check_bucket("plain").offset_s) < 5


def test_a_missing_bucket_and_a_dead_server_are_our_errors(control: S3Control) -> None:
    with pytest.raises(ObjectMissing):
        control.check_bucket("nobodys")
    with pytest.raises(ObjectMissing):
        control.location("nobodys")
    dead = S3Control(REGION, endpoint_url="http://127.0.0.1:1", access_key_id="x", secret_access_key="x", timeout_s=1)
    with pytest.raises(StoreUnavailable):
        dead.check_bucket("plain")
