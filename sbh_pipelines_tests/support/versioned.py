"""Buckets of the stack's S3 server that keep versions, and what they had at any time by a witness of its own."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sbh_pipelines.embedded.servers import object_server
from sbh_pipelines.embedded.servers.layout import Layout
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.files import moment as moments
from sbh_pipelines.stores.object_store import Store
from sbh_pipelines.stores.s3 import open_s3
from sbh_pipelines.stores.versions import BucketVersions
from sbh_pipelines_tests.support.buckets import fresh_bucket

REGION = "eu-west-1"


@dataclass
class VersionedBucket:
    """A bucket in which versions are kept from `keep_versions` on."""

    stack: Stack
    name: str
    client: Any = field(init=False)

    def __post_init__(self) -> None:
        self.client = self.stack.s3_client()

    def keep_versions(self, status: str = "Enabled") -> "VersionedBucket":
        self.client.put_bucket_versioning(Bucket=self.name, VersioningConfiguration={"Status": status})
        return self

    @property
    def access(self) -> dict[str, str]:
        """How the bucket is reached, as `open_s3` and the settings name it."""
        secret = object_server.secret_file(Layout(self.stack.dir)).read_text().strip()
        return {
            "endpoint_url": self.stack.s3_endpoint,
            "access_key_id": object_server.ACCESS_KEY,
            "secret_access_key": secret,
        }

    def store(self) -> Store:
        return open_s3(self.name, REGION, **self.access)  # type: ignore[arg-type]

    def versions(self, page: int = 1000) -> BucketVersions:
        return BucketVersions(self.client, self.name, page=page)

    def put(self, key: str, body: bytes = b"x") -> tuple[str, str]:
        answer = self.client.put_object(Bucket=self.name, Key=key, Body=body)
        return key, answer.get("VersionId", "null")

    def delete(self, key: str) -> tuple[str, str]:
        return key, self.client.delete_object(Bucket=self.name, Key=key)["VersionId"]


@contextmanager
def versioned_bucket(stack: Stack) -> Iterator[VersionedBucket]:
    """A fresh one, in which no versions are kept yet."""
    with fresh_bucket(stack) as name:
        yield VersionedBucket(stack, name)


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> Callable[[], datetime]:
    """Gives the present moment, and waits until what is changed next is of another second than it, as the store tells times.

    For the length of the test nothing else is close to a moment: what was changed two seconds before it need not be waited for.
    """
    monkeypatch.setattr(moments, "CLOSE", timedelta(0))

    def moment() -> datetime:
        now = datetime.now(UTC)
        time.sleep(1.01 - now.microsecond / 1e6)
        return now

    return moment
