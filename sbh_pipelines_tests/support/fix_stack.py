"""A real stack with six sample tenants, and what tests do to it behind the system's back."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import dagster as dg
import psycopg2
import pytest

from sbh_pipelines.embedded.sample import data as sample
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.orchestration.common.assets import TENANTS
from sbh_pipelines.orchestration.common.resources import BackupServiceResource
from sbh_pipelines_tests.support.job_runs import execute

NAMES = [f"tenant-{n}" for n in range(1, 7)]

RealRun = Callable[..., dg.ExecuteInProcessResult]


@dataclass(frozen=True)
class Site:
    """The stack, and hands to touch it with."""

    stack: Stack

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(self.stack.dsn())) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement, values)
            return list(cursor.fetchall()) if cursor.description else []

    def bucket(self, tenant: str) -> str:
        return f"sbh-files-{sample.region(NAMES.index(tenant) + 1)}"

    def keys(self, tenant: str, below: str) -> list[str]:
        """Keys of the tenant's objects, e.g. below `backups/packs/` or `uploads/`."""
        prefix = f"files/{tenant}/{below}"
        pages = (
            self.stack.s3_client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket(tenant), Prefix=prefix)
        )
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def get(self, tenant: str, key: str) -> bytes:
        body: bytes = self.stack.s3_client().get_object(Bucket=self.bucket(tenant), Key=key)["Body"].read()
        return body

    def put(self, tenant: str, key: str, body: bytes) -> None:
        self.stack.s3_client().put_object(Bucket=self.bucket(tenant), Key=key, Body=body)

    def delete(self, tenant: str, key: str) -> None:
        self.stack.s3_client().delete_object(Bucket=self.bucket(tenant), Key=key)

    def fingerprint(self, tenant: str) -> str:
        """Of every row of some owned and inherited tables, and of every file of the tenant."""
        digest = hashlib.sha256()
        mine = "tenant_id = (SELECT id FROM tenants WHERE slug = %s)"
        for query in (
            *(f"SELECT md5(string_agg(t::text, '|' ORDER BY id)) FROM {t} t WHERE {mine}" for t in ("users", "tasks", "files")),
            f"SELECT md5(string_agg(c::text, '|' ORDER BY c.id)) FROM comments c JOIN tasks t ON t.id = c.task_id WHERE t.{mine}",
        ):  # fmt: skip
            digest.update(str(self.sql(query, tenant)).encode())
        for key in sorted(self.keys(tenant, "uploads/")):
            digest.update(key.encode() + self.get(tenant, key))
        return digest.hexdigest()


@pytest.fixture(scope="session")
def site(sample_stack: Stack) -> Site:
    return Site(sample_stack)


@pytest.fixture
def real_resource(site: Site) -> BackupServiceResource:
    return BackupServiceResource(settings_path=str(site.stack.settings), step_retry_wait_s=0.0)


@pytest.fixture
def real_run(instance: dg.DagsterInstance, real_resource: BackupServiceResource) -> RealRun:
    """Runs a job in this process against the real servers."""
    instance.add_dynamic_partitions(TENANTS, NAMES)

    def run(job: str, **arguments: Any) -> dg.ExecuteInProcessResult:
        return execute(job, real_resource, instance, **arguments)

    return run


@pytest.fixture
def elsewhere(site: Site) -> Iterator[str]:
    """A tenant whose region allows no backups, for the length of a test."""
    (before,) = site.sql("SELECT region FROM tenants WHERE slug = 'tenant-5'")
    site.sql("UPDATE tenants SET region = 'mars-1' WHERE slug = 'tenant-5'")
    yield "tenant-5"
    site.sql("UPDATE tenants SET region = %s WHERE slug = 'tenant-5'", *before)
