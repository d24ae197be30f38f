"""Buckets of the tests' own, on the shared S3 server: made empty, removed afterwards with all that is in them."""

import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from sbh_pipelines.embedded.servers.stack import Stack


@contextmanager
def fresh_bucket(stack: Stack, name: str = "", *, versions: bool = False, locks: bool = False) -> Iterator[str]:
    """The name of a bucket of its own; one that locks objects keeps versions too.

    The server takes volumes for each bucket, and has so many. Its filer removes a bucket with what is locked in it, which S3
    refuses to do.
    """
    name, client = name or f"test-{uuid.uuid4().hex[:12]}", stack.s3_client()
    client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=locks)
    try:
        if versions:
            client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        yield name
    finally:
        folder = f"http://127.0.0.1:{stack.ports['filer']}/buckets/{name}?recursive=true"
        with urllib.request.urlopen(urllib.request.Request(folder, method="DELETE"), timeout=240) as answer:
            assert answer.status == 204
