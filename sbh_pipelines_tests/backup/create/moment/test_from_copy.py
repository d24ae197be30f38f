"""Moments out of a copy's journal, when the place where backups were made is gone: put together beside the copy, never in it."""

import base64
import json
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.backup.contents.layers import table_rows
from sbh_pipelines.backup.contents.manifests import read_manifest, read_tables
from sbh_pipelines.backup.contents.stored_table import read_table
from sbh_pipelines.backup.copies.promotion import handover
from sbh_pipelines.backup.create.moment.way.target import Target
from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.servers import object_server
from sbh_pipelines.embedded.servers.layout import Layout
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import AccessDenied, ApprovalNeeded, MomentOutOfReach, NotPrimary, SlotTrouble
from sbh_pipelines.model import TenantId
from sbh_pipelines.repository.journal.segments.changes import commit_time
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.settings import CopySettings, Settings
from sbh_pipelines.settings.places.copies import with_primary
from sbh_pipelines_tests.backup.create.moment.recovered import ADMIN, SLUGS, Kept, Recovered, backed_up
from sbh_pipelines_tests.backup.create.moment.test_random_moments import Worker
from sbh_pipelines_tests.support.effort import examples
from sbh_pipelines_tests.support.journal import Rows, logical_server
from sbh_pipelines_tests.support.own_server import OwnServer

COPY, THERE = "dr", "eu-central-1"
BARE = RestoreRequest(safety_backup=False)
TENANTS = (1, 3)  # those of the region that is copied
WORK = ("/restores/", "/lease.json", "/approvals/", "/at-copies/dr/")


@dataclass
class CopiedMoments(Recovered):
    """With its backups and its journal in SeaweedFS, and a copy of them in a bucket of its own there."""

    stack: Stack | None = None
    mark: str = field(default_factory=lambda: os.urandom(5).hex())

    def configured(self) -> Settings:
        assert self.stack is not None
        for bucket in (f"source-{self.mark}", f"copy-{self.mark}"):
            self.stack.s3_client().create_bucket(Bucket=bucket)
        key_file = self.directory / "copy.key"
        key_file.write_bytes(base64.b64encode(os.urandom(32)))
        storage = {
            "kind": "s3",
            "path": None,
            "bucket": f"source-{self.mark}",
            "prefix": "files/{tenant}/backups/",
            "endpoint_url": self.stack.s3_endpoint,
            "access_key_id": object_server.ACCESS_KEY,
            "secret_access_key": object_server.secret_file(Layout(self.stack.dir)).read_text().strip(),
        }
        self.sections = {**self.sections, "storage": {**storage, "regions": ["eu-west-1", "us-east-1"]}}
        copy = CopySettings(
            **{"name": COPY, "from": ["eu-west-1"], "to": THERE, "bucket": f"copy-{self.mark}", "key_file": key_file}
        )
        return super().configured().model_copy(update={"copies": [copy]})

    @property
    def there(self) -> BackupService:
        return self.service.at_copy(COPY)

    def bring_over(self) -> None:
        done = self.service.copies.run(ADMIN, COPY)
        assert [str(one.error) for one in done.tenants if one.error is not None] == []
        assert not done.issues

    def lose_the_first(self) -> None:
        """The bucket with all that was made is emptied and gone, and so is the key."""
        client, bucket = self._client(), f"source-{self.mark}"
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": one["Key"]} for one in page["Contents"]]})
        client.delete_bucket(Bucket=bucket)
        (self.directory / "backup.key").unlink()
        self.__dict__.pop("service")  # as another process

    def objects(self) -> dict[str, str]:
        """Key -> ETag of all at the copy."""
        pages = self._client().get_paginator("list_objects_v2").paginate(Bucket=f"copy-{self.mark}")
        return {one["Key"]: one["ETag"] for page in pages for one in page.get("Contents", ())}

    def at(self, moment: datetime | Target, tenant: int) -> Rows:
        """The rows of the moment, out of the copy."""
        target = moment if isinstance(moment, Target) else Target(time=moment)
        found: Rows = {}
        whose = self.there.tenants.find(TenantId(SLUGS[tenant]))
        with self.there.backups.moments.opened(f"@{target.text}", whose, ADMIN, "restore.plan", live=True) as backup:
            assert backup.named == f"@{target.text}"
            backup.repository.load_index()
            manifest = read_manifest(backup.repository, backup.backup_id)
            for name, summary in read_tables(backup.repository, manifest).items():
                text = b"".join(table_rows(backup.repository, read_table(backup.repository, summary)))
                found[name] = {line.split(b"\t", 1)[0]: line for line in text.split(b"\n")[:-1]}
        return found

    def _client(self) -> Any:
        assert self.stack is not None
        return self.stack.s3_client()


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with logical_server() as running:
        yield running


@contextmanager
def copied_application(server: OwnServer, directory: Path, stack: Stack, **sections: Any) -> Iterator[CopiedMoments]:
    kind = partial(CopiedMoments, stack=stack)
    with backed_up(kind, server, directory, **{"files": {"enabled": False}, **sections}) as made:
        yield made


@pytest.fixture
def application(server: OwnServer, tmp_path: Path, embedded_stack: Stack) -> Iterator[CopiedMoments]:
    with copied_application(server, tmp_path, embedded_stack) as made:
        yield made


@pytest.mark.parametrize("seed", range(examples(1)))
def test_random_moments_come_back_out_of_the_copy_alone(
    server: OwnServer, tmp_path: Path, embedded_stack: Stack, seed: int
) -> None:
    """To the byte; and what was written at the copy is what belongs to work there."""
    chance = random.Random(seed)
    with copied_application(server, tmp_path, embedded_stack) as application, ExitStack() as stack:
        workers = [Worker(application.database.dsn, chance, n) for n in (1, 2, 3)]
        for worker in workers:
            stack.callback(worker.connection.close)
        for step in range(60):
            if chance.choice(workers).step() or step % 10 == 0:
                application.keep()
            if step % 20 == 7:
                application.back_up(chance.choice(["incremental", "full"]), *TENANTS)
            if step % 11 == 5:
                application.drain()
            if step == 30:
                application.bring_over()
        for worker in workers:
            worker.connection.commit()
        application.keep()
        application.drain()
        application.drain()
        application.bring_over()
        application.lose_the_first()
        before = application.objects()
        sample = chance.sample(application.kept, min(6, len(application.kept)))
        for kept in sample:
            for tenant in TENANTS:
                assert application.at(kept.at, tenant) == kept.rows[tenant], (seed, tenant, kept.at)
        for kept in sample[:2]:
            done = application.there.restores.run(f"@{Target(time=kept.at).text}", SLUGS[1], ADMIN, BARE)
            assert application.rows(1) == kept.rows[1]
            assert (done.backup_id, done.from_copy) == (f"@{Target(time=kept.at).text}", COPY)
        written = {key for key, etag in application.objects().items() if before.get(key) != etag}
        assert written
        assert [key for key in written if not any(part in f"/{key}" for part in WORK)] == []
        assert before.keys() <= application.objects().keys()


def test_before_a_transaction_and_at_a_position(application: CopiedMoments) -> None:
    before = application.keep()
    application.do("UPDATE items SET title = 'gone'")
    application.drain()
    application.drain()
    application.bring_over()
    application.lose_the_first()
    (change,) = application.there.journal.show(SLUGS[1], ADMIN).transactions[:1]
    assert change.xid is not None
    assert application.at(Target(before=change.xid), 1) == before.rows[1]
    (found,) = application.there.journal.recovery_windows([SLUGS[1]], ADMIN).tenants
    assert any(window.start <= Target(time=before.at).text <= window.end for window in found.windows)


def test_a_moment_behind_what_was_brought_over_says_how_far_it_goes(application: CopiedMoments) -> None:
    """Also after the source drained on; what the error names can be run."""
    kept = application.do("UPDATE items SET title = 'brought'")
    application.drain()
    application.drain()
    application.bring_over()
    later = application.do("UPDATE items SET title = 'left'")
    application.drain()
    application.drain()
    with pytest.raises(MomentOutOfReach) as refused:
        application.at(later.at, 1)
    assert f"the journal at the copy {COPY} tells up to" in refused.value.why
    assert f"`sbh copies run {COPY}`" in refused.value.remedy
    assert "backup create" not in refused.value.remedy
    assert "journal drain" not in refused.value.remedy
    command = refused.value.remedy.split("`")[1].split()
    assert command[:3] == ["sbh", "restore", "diff"]
    assert command[-2:] == ["--from-copy", COPY]
    assert application.at(Target.parse(command[3]), 1) == kept.rows[1]
    application.bring_over()
    assert application.at(later.at, 1) == later.rows[1]


def test_a_hole_in_the_copied_journal_is_said_and_not_bridged(application: CopiedMoments) -> None:
    states: list[Kept] = []
    for n in range(3):
        states.append(application.do(f"UPDATE items SET title = 'state {n}'"))
        application.drain()
        application.drain()
    application.bring_over()
    application.lose_the_first()
    journal = application.there._site.journal("eu-west-1")  # type: ignore[attr-defined]
    listing = journal.listing()
    segments = sorted(listing.of(listing.incarnations[-1]), key=lambda one: one.start)
    holes = [
        one for one in segments if any(fence.time for fence in journal.directory(one).facts.fences) and
        commit_time(journal.directory(one).facts.fences[-1].time) > states[0].at
    ]  # fmt: skip
    hole = holes[1]
    client, bucket = application._client(), f"copy-{application.mark}"
    (key,) = [key for key in application.objects() if key.endswith(hole.below)]
    client.delete_object(Bucket=bucket, Key=key)
    application.__dict__.pop("service")
    assert application.at(states[0].at, 1) == states[0].rows[1]
    with pytest.raises(MomentOutOfReach) as refused:
        application.at(states[2].at, 1)
    assert "gap" in f"{refused.value.why}"
    assert f"--from-copy {COPY}" in refused.value.remedy


def test_rights_records_and_what_a_copy_does_not_make(server: OwnServer, tmp_path: Path, embedded_stack: Stack) -> None:
    """What putting a moment together needs is needed at a copy as well; approvals and records name the moment."""
    rules = {"approval": {"restore": "two-person"}}
    with copied_application(server, tmp_path, embedded_stack, **rules) as application:
        kept = application.do("UPDATE items SET title = 'kept'")
        application.do("DELETE FROM comments")
        application.drain()
        application.drain()
        application.bring_over()
        there, moment = application.there, f"@{Target(time=kept.at).text}"
        operator = UserContext("olga", SLUGS[1], Role.OPERATOR)
        with pytest.raises(AccessDenied):
            there.restores.plan(moment, SLUGS[1], operator)
        with pytest.raises(NotPrimary):
            there.backups.create_at(SLUGS[1], ADMIN, Target(time=kept.at))
        plan = there.restores.plan(moment, SLUGS[1], ADMIN)
        assert (plan.backup_id, plan.from_copy, plan.nothing_to_do) == (moment, COPY, False)
        assert plan.moment is not None
        with pytest.raises(ApprovalNeeded):
            there.restores.run(moment, SLUGS[1], ADMIN, BARE)
        asked = there.approvals.request_restore(moment, SLUGS[1], ADMIN, BARE, reason="a test")
        assert (asked.subject["backup_id"], asked.subject["from_copy"]) == (moment, COPY)
        there.approvals.approve(asked.approval_id, SLUGS[1], UserContext("bob", "*", Role.ADMIN))
        done = there.restores.run(moment, SLUGS[1], ADMIN, BARE, approval_id=asked.approval_id)
        assert application.rows(1) == kept.rows[1]
        record = there.restores.status(done.restore_id, SLUGS[1], ADMIN)
        assert (record.backup_id, record.from_copy, record.status) == (moment, COPY, "completed")
        request = RestoreRequest(rows="items where id > 3", safety_backup=False)
        sealed = there.restores.sealed(moment, SLUGS[1], ADMIN, request)
        assert sealed is not None
        assert there.restores.opened(sealed, moment, SLUGS[1], ADMIN).rows == request.rows
        there.exports.export(moment, SLUGS[1], ADMIN, tmp_path / "out", files=False)
        told = json.loads((tmp_path / "out" / "manifest.json").read_text())
        assert told["backup_id"] == moment
        comments = next(one["file"] for one in told["tables"] if one["table"] == "public.comments")
        lines = (tmp_path / "out" / comments).read_text().splitlines()
        assert len(lines) == len(kept.rows[1]["public.comments"])
        assert [one.id for one in there.backups.of(SLUGS[1], ADMIN) if one.is_recovered] == []


@pytest.mark.parametrize("how", ["planned", "lost", "lost after a drain", "lost without the journal"])
def test_the_journal_after_a_promotion(application: CopiedMoments, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """It goes on where it was copied to its end. Else the next drain records a gap; where nothing of it was, the slot is unknown."""
    monkeypatch.setattr(handover, "SETTLE_S", 0.0)
    assert application.stack is not None
    bucket = f"all-{application.mark}-{{region}}"
    settings = application.settings
    changed = {"from_": [], "bucket": bucket, "journal": how != "lost without the journal"}
    settings = settings.model_copy(update={"copies": [settings.copies[0].model_copy(update=changed)]})
    for region in settings.storage.regions:
        application.stack.s3_client().create_bucket(Bucket=bucket.format(region=region))
    before = BackupService(settings)
    if how == "planned":
        application.drain()
    assert not before.copies.run(ADMIN, COPY).issues
    application.do("UPDATE items SET title = 'before the promotion'")
    if how == "lost after a drain":
        application.drain()
    assert before.copies.promote(ADMIN, COPY, source_lost=how != "planned", confirm=True).promoted
    kept = application.keep()
    application.do("UPDATE items SET title = 'after it'")
    there = BackupService(with_primary(settings.model_copy(update={"primary": COPY})))
    slot = settings.journal.slot
    if how == "lost without the journal":
        with pytest.raises(SlotTrouble, match="not known") as unknown:
            there.journal.drain(ADMIN)
        assert f"sbh journal drop --confirm {slot}" in unknown.value.remedy
        there.journal.drop(ADMIN, confirm=slot)
        assert there.journal.drain(ADMIN).gap is None  # a new one begins
        return
    done = there.journal.drain(ADMIN)
    there.journal.drain(ADMIN)
    assert (done.gap is None) == (how != "lost after a drain"), done.gap
    if done.gap is None:
        target = f"@{Target(time=kept.at).text}"
        there.restores.run(target, SLUGS[1], ADMIN, BARE)
        assert application.rows(1) == kept.rows[1]
