"""moto's S3, which knows regions: buckets of a test's own in any of them."""

import uuid
from functools import lru_cache
from typing import Any

import boto3

from sbh_pipelines.embedded.servers.stack import Stack

ACCESS = {"access_key_id": "moto", "secret_access_key": "moto"}


def s3_client(stack: Stack, region: str) -> Any:
    return _s3_client(stack.kms_endpoint, region)


@lru_cache(maxsize=16)
def _s3_client(endpoint_url: str, region: str) -> Any:
    return boto3.client(
        "s3",
        region_name=region,
        endpoint_url=endpoint_url,
        aws_access_key_id="moto",
        aws_secret_access_key="moto",
    )


def make_buckets(stack: Stack, **regions: str) -> str:
    """A name template with `{region}`; for each region that it is asked for (`_` for `-`), the region its bucket really is in."""
    template = f"b{uuid.uuid4().hex[:10]}-{{region}}"
    for stands_for, real in regions.items():
        name = template.replace("{region}", stands_for.replace("_", "-"))
        where = {} if real == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": real}}
        s3_client(stack, real).create_bucket(Bucket=name, **where)
    return template
