"""Writers that die or lose their store at any write: what is committed stays whole, and the next run goes on.

A death is an exception that nothing catches, after which no write of the dead writer arrives; in a handful of cases it is
a real SIGKILL of a real process.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.backup.create import publish
from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.errors import StoreUnavailable
from sbh_pipelines.model import Progress, no_progress
from sbh_pipelines.settings import Settings
from sbh_pipelines.stores.object_store import Store
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.effort import either

WRITES = ("put", "create", "replace", "put_stream", "delete")
READS = ("get_with_etag", "get_range", "head")
STEPS = ("snapshot_tables", "enumerate_files", "write_manifest", "verify_checksums", "apply_retention")
# verb, key, content -> None, or an error and whether it comes before or after the request took effect
Strike = Callable[[str, str, bytes], "tuple[BaseException, str] | None"]


class Killed(BaseException):
    """The writer is dead: nothing catches this, and none of its later writes arrive."""


class Death:
    """A Strike that kills at the nth write; `done` are the writes that took effect."""

    def __init__(self, nth: int, when: str) -> None:
        self._nth, self._when = nth, when
        self._lock = threading.Lock()
        self._count = 0
        self.dead = False
        self.done: list[tuple[str, bytes]] = []

    def __call__(self, verb: str, key: str, body: bytes) -> tuple[BaseException, str] | None:
        with self._lock:
            when = "before" if self.dead else self._when
            if self._when != "at a notice":
                self._count += 1
                self.dead = self.dead or self._count == self._nth
            if not self.dead or when == "after":
                self.done.append((key, body))
            return (Killed(), when) if self.dead else None

    def progress(self, _: Progress) -> None:
        """A progress sink for `at a notice`: dies at the nth notice instead of the nth write."""
        self._count += 1
        if self._count == self._nth:
            self.dead = True
            raise Killed

    def wrote(self, part: str) -> bool:
        return any(part in key for key, _ in self.done)


class Broken:
    """A Strike: below one prefix every write from the nth on fails; `hit` are the keys."""

    def __init__(self, prefix: str, nth: int) -> None:
        self._prefix, self._nth = prefix, nth
        self._lock = threading.Lock()
        self.count = 0
        self.hit: set[str] = set()

    def __call__(self, verb: str, key: str, body: bytes) -> tuple[BaseException, str] | None:
        if not key.startswith(self._prefix):
            return None
        with self._lock:
            self.count += 1
            if self.count < self._nth:
                return None
            self.hit.add(key)
            return StoreUnavailable("broken", on=key), "before"


@contextmanager
def struck(strike: Strike, verbs: tuple[str, ...] = WRITES) -> Iterator[None]:
    """Every store's requests go through `strike`."""
    with pytest.MonkeyPatch.context() as patch:
        for verb in verbs:
            patch.setattr(Store, verb, _through(strike, verb, getattr(Store, verb)))
        yield


def _through(strike: Strike, verb: str, request: Callable[..., Any]) -> Callable[..., Any]:
    def struck_request(store: Store, key: Any, *rest: Any, **named: Any) -> Any:
        keys = [key] if isinstance(key, str) else list(key)
        body = rest[0] if rest and isinstance(rest[0], bytes) else b""
        hit = strike(verb, keys[0] if keys else "", body)
        if hit and hit[1] == "before":
            raise hit[0]
        result = request(store, key if isinstance(key, str) else keys, *rest, **named)
        if hit:
            raise hit[0]
        return result

    return struck_request


class Clock:
    """A clock that stands still unless moved: nobody sleeps until a lease expires."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self) -> None:
        """Beyond any lease, and into another minute."""
        self.now += timedelta(minutes=10)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _valid(service: BackupService, backup: str, tenant: str = ACME) -> None:
    assert service.validate_backup(backup, tenant, ADMIN, deep=True)["issues"] == []


def _listed(service: BackupService, tenant: str = ACME) -> list[str]:
    assert service.backups.damaged(tenant, ADMIN) == []
    return sorted(manifest["id"] for manifest in service.list_backups(tenant, ADMIN))


def _change(application: Application) -> None:
    """New rows and a new file, so that the next backup has something to store."""
    application.database.run("UPDATE projects SET body = 'changed ' || id WHERE id % 2 = 0")
    application.write_file(ACME, "docs/changed.bin", random.Random(5).randbytes(30_000))


def _put_back(application: Application, kept: Path) -> None:
    root = application.repository(ACME)
    shutil.rmtree(root, ignore_errors=True)
    if kept.exists():
        shutil.copytree(kept, root)


@pytest.mark.parametrize(("history", "when"), [(0, "before"), (1, "after")])
def test_a_backup_killed_at_any_write(application: Application, clock: Clock, history: int, when: str) -> None:
    """What was committed stays valid, no half backup is listed, and the next backup reuses what was stored."""
    kept = application.directory / "kept"
    if history:
        application.service(clock=clock).create_backup(ACME, ADMIN)
        shutil.copytree(application.repository(ACME), kept)
        _change(application)
    original = application.state(ACME)
    for nth in range(1, 100):
        _put_back(application, kept)
        before = _listed(application.service(clock=clock))
        clock.move()
        death = Death(nth, when)
        try:
            with struck(death):
                application.service(clock=clock).create_backup(ACME, ADMIN)
        except (Killed, RuntimeError):
            assert death.dead
        if not death.dead:
            break
        clock.move()
        service = application.service(clock=clock)
        left = _listed(service)
        assert len(left) == len(before) + death.wrote("/manifests/")
        for backup in left:
            _valid(service, backup)
        made = service.create_backup(ACME, ADMIN)
        assert made["id"] not in left
        _valid(service, made["id"])
        if death.wrote("-files-"):  # written after the last pack
            assert made["stats"]["bytes_stored"] == 0
        elif death.wrote("-database-"):
            assert made["stats"]["rows"]
            assert made["stats"]["chunks_new"] <= 5  # files and their list
        application.wipe(ACME)
        service.restore_backup(made["id"], ACME, ADMIN)
        assert application.state(ACME) == original
    assert nth > 10


@pytest.mark.parametrize("how", ["before", "after", "at a notice"])
def test_a_restore_killed_anywhere(application: Application, clock: Clock, how: str) -> None:
    """Rows are as they were until the commit, the status tells, and running it again restores byte for byte."""
    backup = application.service(clock=clock).create_backup(ACME, ADMIN)["id"]
    original = application.state(ACME)
    outcomes = set()
    for nth in range(1, 100, either(5, 2) if how == "after" else 1):
        application.wreck(ACME)
        wrecked = application.state(ACME)
        seen = set((application.repository(ACME) / "restores").glob("*"))
        death = Death(nth, how)
        sink = death.progress if how == "at a notice" else no_progress
        clock.move()
        try:
            with struck(death):
                application.service(clock=clock).restore_backup(backup, ACME, ADMIN, progress=sink)
        except Killed:
            assert death.dead
        if not death.dead:
            break
        steps = [json.loads(body) for key, body in death.done if "/restores/" in key]
        committing = bool(steps) and steps[-1]["step"] == "commit"
        live = application.state(ACME)
        assert live.rows in (wrecked.rows, original.rows)
        if not committing:
            assert live.rows == wrecked.rows
        if how == "before" and death.wrote("/stranger"):  # files that were not in the backup go after the commit
            assert live.rows == original.rows
        clock.move()
        service = application.service(clock=clock)
        (made,) = set((application.repository(ACME) / "restores").glob("*")) - seen or {None}
        if made is not None:
            status = service.get_restore_status(made.stem, ACME)["status"]
            assert status == ("completed" if steps[-1]["status"] == "completed" else "interrupted")
            assert status != "completed" or live == original
            outcomes.add(status)
        again = service.restore_backup(backup, ACME, ADMIN)
        assert application.state(ACME) == original
        assert service.get_restore_status(again["restore_id"], ACME)["status"] == "completed"
    assert nth > 8
    assert "interrupted" in outcomes
    assert how == "at a notice" or "completed" in outcomes


_CHILD = """
import json, os, signal, sys
from sbh_pipelines_tests.backup.create import test_crash
test_crash.child(*sys.argv[1:])
"""


def child(settings: str, nth: str, call: str, *arguments: str) -> None:
    """In the process that is to die: the call, with a SIGKILL at the nth write."""
    count = [0]

    def strike(verb: str, key: str, body: bytes) -> None:
        count[0] += 1
        if count[0] == int(nth):
            os.kill(os.getpid(), signal.SIGKILL)

    service = BackupService(Settings(**json.loads(Path(settings).read_text())))
    with struck(strike):
        attrgetter(call)(service)(*arguments, ADMIN)


def _killed_process(application: Application, nth: int, call: str, *arguments: str) -> None:
    settings = application.directory / "settings.json"
    chosen = application.configured(backup={"memory_mib": 64, "pack_mib": 1, "lease_s": 60})
    settings.write_text(json.dumps(chosen.model_dump(mode="json", exclude_unset=True)))
    command = [sys.executable, "-c", _CHILD, str(settings), str(nth), call, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


@pytest.mark.parametrize("nth", [2, 5, 9])
def test_a_backup_process_killed_for_real(application: Application, clock: Clock, nth: int) -> None:
    """SIGKILL at a write: nothing half is listed, and the next backup is whole."""
    clock.now = datetime.now(UTC) + timedelta(minutes=10)
    _killed_process(application, nth, "create_backup", ACME)
    service = application.service(clock=clock)
    assert _listed(service) == []
    original = application.state(ACME)
    made = service.create_backup(ACME, ADMIN)["id"]
    _valid(service, made)
    application.wreck(ACME)
    service.restore_backup(made, ACME, ADMIN)
    assert application.state(ACME) == original


@pytest.mark.parametrize("nth", [5, 9])
def test_a_restore_process_killed_for_real(application: Application, clock: Clock, nth: int) -> None:
    """SIGKILL of a restore: its transaction is rolled back, the status says so, and a second run finishes."""
    made = application.service().create_backup(ACME, ADMIN)["id"]
    original = application.state(ACME)
    application.wreck(ACME)
    wrecked = application.state(ACME)
    _killed_process(application, nth, "restore_backup", made, ACME)
    assert application.state(ACME).rows == wrecked.rows
    clock.now = datetime.now(UTC) + timedelta(minutes=10)
    service = application.service(clock=clock)
    (status,) = (application.repository(ACME) / "restores").iterdir()
    assert service.get_restore_status(status.stem, ACME)["status"] == "interrupted"
    service.restore_backup(made, ACME, ADMIN)
    assert application.state(ACME) == original


@pytest.mark.parametrize("seed", range(8))
def test_a_store_that_fails_now_and_then(application: Application, clock: Clock, seed: int) -> None:
    """A backup fails cleanly or is valid; what was there before stays valid; the next one succeeds."""
    service = application.service(clock=clock)
    old = service.create_backup(ACME, ADMIN)["id"]
    _change(application)
    chance, lock = random.Random(seed), threading.Lock()
    hits: list[str] = []

    def strike(verb: str, key: str, body: bytes) -> tuple[BaseException, str] | None:
        with lock:
            if "/backups/" not in key or chance.random() > 0.06:
                return None
            hits.append(key)
            return StoreUnavailable("now and then", on=key), chance.choice(["before", "after"])

    clock.move()
    with struck(strike, WRITES + READS):
        (draft,) = application.service(clock=clock).backups.create_all([ACME], ADMIN)
    repository = application.repository(ACME)
    listed = _listed(service)
    if draft.status is DraftStatus.COMPLETED:
        assert listed == [old, draft.backup_id]
    else:
        assert draft.status is DraftStatus.FAILED
        assert draft.error
        assert draft.error.transient or draft.error.code == "SBH-604"
        assert hits
        if draft.step not in ("apply_retention", "verify_checksums"):
            assert listed == [old]
        if draft.step != "begin" and not any("/failures/" in key for key in hits):
            assert (repository / "failures" / f"{draft.backup_id}.json").exists()
    if sum("lease.json" in key for key in hits) == 0:
        service.create_backup(ACME, ADMIN)  # at once: the lease was released
    for backup in listed:
        _valid(service, backup)
    clock.move()
    _valid(service, service.create_backup(ACME, ADMIN)["id"])


def test_a_tenant_whose_store_breaks_fails_alone(application: Application, clock: Clock) -> None:
    """In a batch of two, one tenant's writes fail from the nth on, for every n: the other's backup is whole."""
    for nth in range(1, 100):
        shutil.rmtree(application.repository(BOLT), ignore_errors=True)
        clock.move()
        broken = Broken(f"files/{BOLT}/", nth)
        service = application.service(clock=clock)
        with struck(broken):
            acme, bolt = service.backups.create_all([ACME, BOLT], ADMIN)
        assert acme.status is DraftStatus.COMPLETED, acme.error
        _valid(service, acme.backup_id)
        if broken.count < nth:
            break
        # Once published it exists: what retention could not do is told. Only the release of the lease may fail unnoticed.
        told = bool(bolt.retention and bolt.retention.error)
        assert bolt.status is DraftStatus.FAILED or told or broken.hit == {f"files/{BOLT}/backups/lease.json"}
    assert bolt.status is DraftStatus.COMPLETED
    assert nth > 10


def _handed_on(draft: Draft) -> Draft:
    return Draft.from_dict(json.loads(json.dumps(draft.as_dict())))


def test_every_step_may_run_in_another_process(application: Application, clock: Clock) -> None:
    """Each step by a worker of its own that knows nothing but the draft as JSON."""
    original = application.state(ACME)
    drafts = application.service(clock=clock).backups.begin([ACME, BOLT], ADMIN)
    for step in STEPS:
        drafts = getattr(application.service(clock=clock).backups, step)([_handed_on(draft) for draft in drafts])
        assert [draft.error for draft in drafts] == [None, None]
    service = application.service(clock=clock)
    for draft in drafts:
        assert draft.status is DraftStatus.COMPLETED
        _valid(service, draft.backup_id, draft.tenant.id)
    application.wipe(ACME)
    service.restore_backup(drafts[0].backup_id, ACME, ADMIN)
    assert application.state(ACME) == original
    service.create_backup(ACME, ADMIN)  # at once: the lease was released


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("after", range(4))
def test_a_writer_whose_lease_was_taken_does_not_commit(
    application: Application, clock: Clock, after: int, restarted: bool
) -> None:
    """After any step the lease expires and another writer takes it: the first fails, and says why; the other completes."""
    slow, swift = application.service(clock=clock), application.service(clock=clock)
    drafts = slow.backups.begin([ACME], ADMIN)
    for number, step in enumerate(STEPS[:4]):
        if number == after:
            clock.move()
            taken = swift.backups.begin([ACME], ADMIN)
        if restarted:
            slow, drafts = application.service(clock=clock), [_handed_on(draft) for draft in drafts]
        drafts = getattr(slow.backups, step)(drafts)
        if number == after:
            assert drafts[0].error
            assert drafts[0].error.code == "SBH-604"
    assert drafts[0].status is DraftStatus.FAILED
    for step in STEPS:
        taken = getattr(swift.backups, step)(taken)
    assert taken[0].status is DraftStatus.COMPLETED
    assert _listed(swift) == [taken[0].backup_id]
    _valid(swift, taken[0].backup_id)


def test_a_lease_taken_during_the_verification_prevents_the_commit(
    application: Application, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last moment: all is verified, and the lease is another's when the manifest would be written."""
    slow, swift = application.service(clock=clock), application.service(clock=clock)
    verify = publish.verify_backup
    won = []

    def overtaken(*arguments: Any, **named: Any) -> Any:
        monkeypatch.setattr(publish, "verify_backup", verify)
        clock.move()
        won.append(swift.create_backup(ACME, ADMIN)["id"])
        return verify(*arguments, **named)

    monkeypatch.setattr(publish, "verify_backup", overtaken)
    (draft,) = slow.backups.create_all([ACME], ADMIN)
    assert draft.error
    assert draft.error.code == "SBH-604"
    assert _listed(swift) == won


def test_an_answer_that_is_lost_does_not_make_a_commit_a_failure(application: Application, clock: Clock) -> None:
    """Each conditional write takes effect and is reported as failed, once: the backup is complete all the same."""
    hit: set[tuple[str, bytes]] = set()

    def strike(verb: str, key: str, body: bytes) -> tuple[BaseException, str] | None:
        if verb not in ("create", "replace") or "/keys/" in key or (key, body) in hit:
            return None
        hit.add((key, body))
        return StoreUnavailable("the answer was lost", on=key), "after"

    service = application.service(clock=clock)
    with struck(strike):
        made = service.create_backup(ACME, ADMIN)["id"]
    assert len(hit) >= 3
    _valid(service, made)
    service.create_backup(ACME, ADMIN)
