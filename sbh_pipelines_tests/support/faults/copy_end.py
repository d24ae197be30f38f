"""The copy of a tenant's backups behind a proxy of its own, and what it must be whatever happens on the way there.

At any time every manifest at the copy is one that was committed at the source, and goes only by the copy's own prune. At a check,
with the faults off, each validates deep by a reader that has the copy alone; what the state of copies says is verified is there,
and until when it is said to reach the tenant had what that backup has. After a run without faults nothing is behind.
"""

import base64
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sbh_pipelines.backup.copies.results import CopyLine, CopyRun
from sbh_pipelines.backup.copies.upkeep import CopyUpkeep
from sbh_pipelines.backup.copies.verification import CopyVerification
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import SbhError
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.settings import CopySettings, RetentionSettings, Settings
from sbh_pipelines.settings.places.copies import at_copy, check_copies, copy_named
from sbh_pipelines_tests.support.application import ACME, ADMIN, State
from sbh_pipelines_tests.support.faults.s3_proxy import S3Proxy

COPY = "dr"
PREFIX = f"files/{ACME}/backups/"
_FEW = {"keep_last": 3, "keep_daily": 0, "keep_weekly": 0, "keep_monthly": 0, "keep_hourly": 0}


@dataclass
class CopyEnd:
    """Where the copy is.

    Attributes:
        proxy: In front of its store; its schedule is the copy's own.
        direct: The address of the server behind it.
        client: Reads and writes there, beside the engine and the proxy.
        bucket: The copy's.
        directory: Where its key file is.
        brought: What the tenant had when a backup was made that is at the copy.
    """

    proxy: S3Proxy
    direct: str
    client: Any
    bucket: str
    directory: Path
    brought: dict[str, State] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.key_file = self.directory / f"{self.bucket}.key"
        self.key_file.write_bytes(base64.b64encode(os.urandom(32)))

    def added(self, settings: Settings, *, faulty: bool) -> Settings:
        """The settings with the copy in them."""
        copy = CopySettings(
            name=COPY,
            to="eu-central-1",
            bucket=self.bucket,
            **{"from": ["eu-west-1"]},
            endpoint_url=self.proxy.url if faulty else self.direct,
            key_file=self.key_file,
            retention=RetentionSettings(full_backups=_FEW, incremental_backups=_FEW, keep_within_hours=0),
        )
        made = settings.model_copy(update={"copies": [copy]})
        check_copies(made)
        return made

    def alone(self, settings: Settings, clock: Callable[[], datetime]) -> BackupService:
        """A service that has the copy and its key file, and nothing of the source."""
        made = self.added(settings, faulty=False)
        there = at_copy(made, COPY)
        keys = there.keys.model_copy(update={"previous_key_files": []})
        there = there.model_copy(update={"keys": keys})
        return BackupService(there, site=Site(there, clock, copy_of=copy_named(made, COPY)))

    def manifests(self) -> set[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=PREFIX + Keys.MANIFESTS
        )
        keys = (entry["Key"] for page in pages for entry in page.get("Contents", ()))
        return {key.rsplit("/", 1)[1].removesuffix(".json") for key in keys}

    def told(self, name: str, ever: dict[str, State]) -> None:
        """What a step did there: `ever` is all that was committed."""
        there = self.manifests()
        for made in there - set(self.brought):
            assert name == "copy run", f"{name} brought {made}"
            self.brought[made] = ever[made]
        for gone in set(self.brought) - there:
            assert name == "copy prune", f"{name} dropped {gone} at the copy"
            self.brought.pop(gone)

    def check(self, alone: BackupService, service: BackupService, had: Callable[[datetime], State]) -> None:
        """With the faults off: all that is there is whole, and what is said of it is so. `had`: what the tenant had at a time."""
        assert self.manifests() == set(self.brought)
        for backup_id in sorted(self.brought):
            found = alone.validate_backup(backup_id, ACME, ADMIN, deep=True)
            assert found["issues"] == [], f"{backup_id} at the copy: {found['issues'][:3]}"
        line = self.line(service)
        if line.backup_id is not None:
            assert line.backup_id in self.brought, f"{line.backup_id} is said to be verified, and is not there"
            assert line.recovery_point is not None
            assert self.brought[line.backup_id] == had(line.recovery_point), f"{line} reaches too far"

    @staticmethod
    def line(service: BackupService) -> CopyLine:
        """How the tenant stands."""
        (status,) = service.copies.status(ADMIN)
        assert list(status.issues) == []
        return next(line for line in status.tenants if line.tenant_id == ACME)

    def check_quiet_run(self, service: BackupService, committed: Iterable[str]) -> None:
        """A run without faults has everything there that the copy's policy has not dropped, and says so."""
        done = service.copies.run(ADMIN, COPY, [ACME])
        assert not errors_of(done), f"a run without faults: {errors_of(done)!r}"
        left = set(committed) - self.manifests()
        assert left <= self.forgotten(), f"{left} did not come"
        line = self.line(service)
        assert line.standing in ("current", "behind"), line  # the world's clock runs ahead of the database's
        assert line.backup_id == max(self.manifests()), f"{line}, of {sorted(self.manifests())}"

    def forgotten(self) -> set[str]:
        """What the copy's own policy dropped, and is not to come again, as it is written there."""
        try:
            body = self.client.get_object(Bucket=self.bucket, Key=PREFIX + Keys.COPY)["Body"].read()
        except self.client.exceptions.NoSuchKey:
            return set()
        return set(json.loads(body)["forgotten"])


def errors_of(done: CopyRun | CopyVerification | CopyUpkeep) -> Sequence[SbhError]:
    """What a run, a verification or the upkeep of a copy tells of in its result."""
    if isinstance(done, CopyUpkeep):
        return [*(issue for one in done.tenants for issue in one.issues), *done.issues]
    return [*(one.error for one in done.tenants if one.error is not None), *done.issues]
