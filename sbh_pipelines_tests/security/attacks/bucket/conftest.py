"""The small application with its backups in SeaweedFS, and somebody who may write there whatever they like."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.servers import object_server
from sbh_pipelines.embedded.servers.layout import Layout
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.model import Clock, utc_now
from sbh_pipelines_tests.backup.conftest import application, database
from sbh_pipelines_tests.support.application import ACME, BUCKET, Application

__all__ = ["application", "database"]


@dataclass
class Hands:
    """On the bucket: the program's, by `service`, and the attacker's."""

    application: Application
    stack: Stack
    mark: str

    def service(self, *, clock: Clock = utc_now, **sections: Any) -> BackupService:
        sections["storage"] = {
            "kind": "s3",
            "path": None,
            "bucket": "sbh-files-{region}",
            "prefix": f"{self.mark}/{{tenant}}/backups/",
            "catalog_prefix": f"{self.mark}-catalog/",
            "regions": ["eu-west-1"],
            "endpoint_url": self.stack.s3_endpoint,
            "access_key_id": object_server.ACCESS_KEY,
            "secret_access_key": object_server.secret_file(Layout(self.stack.dir)).read_text().strip(),
            **sections.get("storage", {}),
        }
        sections.setdefault("files", {"enabled": False})
        sections.setdefault("platform", {"prefix": f"{self.mark}-platform/"})
        return self.application.service(clock=clock, **sections)

    def key(self, name: str, tenant: str = ACME) -> str:
        return f"{self.mark}/{tenant}/backups/{name}"

    @property
    def catalog(self) -> str:
        return f"{self.mark}-catalog/eu-west-1/"

    def put(self, key: str, body: bytes) -> None:
        self.stack.s3_client().put_object(Bucket=BUCKET, Key=key, Body=body)

    def get(self, key: str) -> bytes:
        body: bytes = self.stack.s3_client().get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return body

    def delete(self, key: str) -> None:
        self.stack.s3_client().delete_object(Bucket=BUCKET, Key=key)

    def keys(self, prefix: str) -> list[str]:
        pages = self.stack.s3_client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]

    def copy(self, prefix: str) -> dict[str, bytes]:
        """All that lies there now, as somebody keeps it who read the bucket."""
        return {key: self.get(key) for key in self.keys(prefix)}


@pytest.fixture
def hands(application: Application, embedded_stack: Stack) -> Iterator[Hands]:
    made = Hands(application, embedded_stack, f"hostile-{uuid4().hex[:8]}")
    yield made
    for prefix in (made.mark,):
        for key in made.keys(prefix):
            made.delete(key)


class Memory:
    """Of this process: how far it grew, in bytes."""

    grown = 0


@contextmanager
def measured() -> Iterator[Memory]:
    """The kernel's own high-water mark, so that what drivers hold outside of Python counts."""
    Path("/proc/self/clear_refs").write_text("5")
    found, before = Memory(), _kib("VmRSS")
    yield found
    found.grown = (_kib("VmHWM") - before) << 10


def _kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
