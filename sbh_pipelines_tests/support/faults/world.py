"""A tenant's application behind faulty lines, and what its backups must be whatever happens on them.

Rows, files and what the bucket holds are read beside the engine, and beside the proxies. A step either ends well or raises an
error of a kind that says what was wrong, in bounded time. After it, every manifest that was ever committed and not forgotten
is there, and at a check, with the faults off, each of them validates deep; the newest restores what it was made of.
"""

import faulthandler
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from psycopg2.extensions import make_dsn

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.servers import object_server
from sbh_pipelines.embedded.servers.layout import Layout
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import (
    BatchError,
    KeyServiceError,
    RepositoryError,
    RestoreError,
    SbhError,
    SourceError,
    StoreError,
)
from sbh_pipelines.model import utc_now
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application, State
from sbh_pipelines_tests.support.buckets import fresh_bucket
from sbh_pipelines_tests.support.databases import Database
from sbh_pipelines_tests.support.faults.copy_end import COPY, CopyEnd, errors_of
from sbh_pipelines_tests.support.faults.line_proxy import FaultyLine, faulty_line
from sbh_pipelines_tests.support.faults.s3_proxy import S3Proxy, faulty_s3
from sbh_pipelines_tests.support.faults.schedule import HONEST, LYING, Fault, Schedule
from sbh_pipelines_tests.support.store_time import store_time

PATIENCE_S = 300.0  # for one step, on a machine that has other work as well
SENSIBLE = (StoreError, RepositoryError, SourceError, KeyServiceError, RestoreError, BatchError)
_KEPT = 4
_HARMLESS = "An index object is missing"  # told, and nothing is lost by it: packs say themselves what is in them


class Clock:
    """The test's time, from now on ahead of the real one."""

    def __init__(self) -> None:
        self.now = utc_now()

    def __call__(self) -> datetime:
        return self.now

    def move(self, hours: float) -> None:
        self.now += timedelta(hours=hours)


@dataclass
class World:
    """One tenant, its bucket, everything that was committed, and a copy of it.

    Attributes:
        application: The rows.
        stack: The servers.
        schedule: Faults of the store.
        proxy: In front of the store.
        line: In front of the database.
        clock: Time of the program and of the store.
        bucket: Where files and backups are.
        copy: The other end.
        committed: What the tenant had when a backup was made that is still there.
        ever: The same of all that were made.
        history: What the tenant had, from when on.
        outcomes: How steps ended, by step and code.
        steps: How many there were.
    """

    application: Application
    stack: Stack
    schedule: Schedule
    proxy: S3Proxy
    line: FaultyLine
    clock: Clock
    bucket: str
    copy: CopyEnd
    committed: dict[str, State] = field(default_factory=dict)
    ever: dict[str, State] = field(default_factory=dict)
    history: list[tuple[datetime, State]] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    longest_s: float = 0.0

    @property
    def client(self) -> Any:
        return self.stack.s3_client()

    def settings(self, *, faulty: bool, **more: Mapping[str, Any]) -> Settings:
        access = {
            "access_key_id": object_server.ACCESS_KEY,
            "secret_access_key": object_server.secret_file(Layout(self.stack.dir)).read_text().strip(),
        }
        dsn = self.application.database.dsn
        made = self.application.configured(
            database={
                "dsn": make_dsn(dsn, host="127.0.0.1", port=self.line.port) if faulty else dsn,
                "connect_timeout_s": 5 if faulty else 60,
            },
            storage={
                "kind": "s3",
                "bucket": self.bucket,
                "endpoint_url": self.proxy.url if faulty else self.stack.s3_endpoint,
                "retries": 3,
                "timeout_s": 1 if faulty else 60,
                **access,
            },
            files={"bucket": self.bucket},
            retention={name: {"keep_last": _KEPT, **_NONE} for name in ("full_backups", "incremental_backups")},
            **more,
        )
        return self.copy.added(made, faulty=faulty)

    def service(self, *, faulty: bool) -> BackupService:
        return BackupService(self.settings(faulty=faulty), clock=self.clock)

    # what there is, read beside the engine

    def state(self) -> State:
        prefix = f"files/{ACME}/"
        found = self._keys(prefix)
        files = {
            key[len(prefix) :]: self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            for key in found
            if not key.startswith(f"{prefix}backups/")
        }
        return State(self.application.state(ACME).rows, files)

    def manifests(self) -> set[str]:
        prefix = f"files/{ACME}/backups/manifests/"
        return {key[len(prefix) :].removesuffix(".json") for key in self._keys(prefix)}

    def key_object(self) -> bytes:
        """The tenant's wrapped data key, as it is stored."""
        key = f"files/{ACME}/backups/keys/0001.json"
        body: bytes = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return body

    def _keys(self, prefix: str) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]

    def put(self, name: str, body: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"files/{ACME}/{name}", Body=body)

    # what is done

    def change(self, chance: random.Random) -> None:
        """New rows, changed rows, deleted rows, a new file, a changed one, a deleted one."""
        self.application.database.run(
            f"UPDATE projects SET body = md5(random()::text) WHERE tenant_id = 1 AND id % 7 = {chance.randrange(7)};"
            f" DELETE FROM items WHERE project_id IN (SELECT id FROM projects WHERE tenant_id = 1) AND id % 11 = {chance.randrange(11)};"
            f" INSERT INTO items (project_id, title) SELECT id, '{uuid.uuid4()}' FROM projects WHERE tenant_id = 1 AND id % 5 = 1"
        )
        self.put(f"docs/{chance.randrange(6)}.bin", chance.randbytes(chance.choice([10, 3_000, 200_000])))
        if chance.random() < 0.3:
            self.client.delete_object(Bucket=self.bucket, Key=f"files/{ACME}/docs/{chance.randrange(6)}.bin")
        self._remember()

    def _remember(self) -> None:
        self.history.append((utc_now(), self.state()))  # recovery points are by the database's clock

    def had(self, at: datetime) -> State:
        """What the tenant had at a time."""
        return next(state for since, state in reversed(self.history) if since <= at)

    def do(self, name: str, work: Callable[[BackupService], Any], *, also: tuple[type[SbhError], ...] = ()) -> Any:
        """One step with faults: what it gave, or the error that it ended with. Fails where it ends otherwise, or not at all.

        `also`: further kinds of errors that are an answer to this step.
        """
        self.steps += 1
        for schedule in (self.schedule, self.copy.proxy.schedule):
            schedule.begin(f"{self.steps} {name}")
        before, now = self.manifests(), self.state() if name.startswith("backup") else None
        with self._faults():
            answer = self._bounded(name, lambda: work(self.service(faulty=True)))
        after = self.manifests()
        for made in after - before:
            assert now is not None, f"{name} made {made}"
            self.committed[made] = self.ever[made] = now
        for gone in before - after:
            assert name.startswith(("backup", "forget")), f"{name} dropped {gone}"
            self.committed.pop(gone)
        assert len(after) >= min(len(before), _KEPT - 1) or name == "forget", f"{name} left {after} of {before}"
        self.copy.told(name, self.ever)
        if isinstance(answer, BaseException):
            self.outcomes[f"{name}: {getattr(answer, 'code', type(answer).__name__)}"] += 1
            if type(answer) is SbhError or not isinstance(answer, (*SENSIBLE, *also)):
                raise AssertionError(f"step {self.steps}, {name}: {answer!r}") from answer
        else:
            self.outcomes[f"{name}: ok"] += 1
        return answer

    @contextmanager
    def _faults(self) -> Iterator[None]:
        self.schedule.on = self.line.on = self.copy.proxy.schedule.on = True
        try:
            yield
        finally:
            self.schedule.on = self.line.on = self.copy.proxy.schedule.on = False

    def _bounded(self, name: str, work: Callable[[], Any]) -> Any:
        box: list[Any] = []

        def run() -> None:
            try:
                box.append(work())
            except BaseException as error:
                box.append(error)

        begun = time.monotonic()
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        thread.join(PATIENCE_S)
        self.longest_s = max(self.longest_s, time.monotonic() - begun)
        if thread.is_alive():
            faulthandler.dump_traceback()
            raise AssertionError(f"step {self.steps}, {name}, does not end")
        return box[0]

    def backup(self, kind: str = "full", *, also: tuple[type[SbhError], ...] = ()) -> Any:
        """A backup that was said to be made is there."""
        made = self.do(f"backup {kind}", lambda service: service.create_backup(ACME, ADMIN, kind), also=also)
        if not isinstance(made, BaseException):
            assert made["id"] in self.committed, f"{made['id']} was reported as made and is not there"
        return made

    def restore(self, backup_id: str, *, from_copy: bool = False, also: tuple[type[SbhError], ...] = ()) -> Any:
        """All of it, and nothing else; or rows as they were."""
        wrecked, wanted = self.application.state(ACME).rows, self.ever[backup_id]

        def work(service: BackupService) -> Any:
            service = service.at_copy(COPY) if from_copy else service
            return service.restore_backup(backup_id, ACME, ADMIN)

        done = self.do("restore from copy" if from_copy else "restore", work, also=also)
        self._remember()
        rows = self.application.state(ACME).rows
        if isinstance(done, BaseException):
            assert rows in (wrecked, wanted.rows), f"half a restore of {backup_id}"
        else:
            assert self.state() == wanted, f"{backup_id} was restored as something else"
        return done

    def copied(self, name: str, work: Callable[[BackupService], Any], *, also: tuple[type[SbhError], ...] = ()) -> Any:
        """A step of the copy, whose errors are in its result."""
        done = self.do(name, work, also=also)
        for error in () if isinstance(done, BaseException) else errors_of(done):
            self.outcomes[f"{name}: in the result {error.code}"] += 1
            if not isinstance(error, (*SENSIBLE, *also)):
                raise AssertionError(f"step {self.steps}, {name}: {error!r}") from error
        return done

    def check(self, only: Collection[str] | None = None) -> None:
        """With the faults off: everything that was committed is whole."""
        service = self.service(faulty=False)
        assert self.manifests() == set(self.committed)
        for backup_id in sorted(self.committed if only is None else only):
            found = service.validate_backup(backup_id, ACME, ADMIN, deep=True)
            issues = [issue for issue in found["issues"] if issue["what"] != _HARMLESS]
            assert issues == [], f"after step {self.steps}: {backup_id}: {issues[:3]}"
        self.copy.check(self.copy.alone(self.settings(faulty=False), self.clock), service, self.had)

    def prove(self, backup_id: str, *, from_copy: bool = False) -> None:
        """With the faults off: a backup restores what it was made of, where nothing of it is left."""
        self.application.database.run(
            "DELETE FROM items WHERE project_id IN (SELECT id FROM projects WHERE tenant_id = 1);"
            " UPDATE projects SET body = 'ruined' WHERE tenant_id = 1"
        )
        for key in self._keys(f"files/{ACME}/docs/"):
            self.client.put_object(Bucket=self.bucket, Key=key, Body=b"ruined")
        service = self.service(faulty=False)
        if from_copy:
            service = self.copy.alone(self.settings(faulty=False), self.clock)
        service.restore_backup(backup_id, ACME, ADMIN)
        self._remember()
        assert self.state() == self.ever[backup_id]

    def prove_copy(self) -> None:
        """With the faults off: the next run brings everything there, and its newest backup restores what it was made of."""
        self.clock.move(2)  # a lease that a fault kept from being released has ended
        self.copy.check_quiet_run(self.service(faulty=False), self.committed)
        self.copy.told("copy run", self.ever)
        self.check()
        self.prove(max(self.copy.brought), from_copy=True)

    def told(self) -> Mapping[str, Any]:
        """For people: what went on."""
        return {
            "seed": self.schedule.seed,
            "steps": self.steps,
            "requests": self.proxy.requests + self.copy.proxy.requests,
            "faults": {
                str(fault): count for fault, count in (self.schedule.seen + self.copy.proxy.schedule.seen).items()
            },
            "connections cut": self.line.cut,
            "longest step, s": round(self.longest_s, 1),
            "outcomes": dict(sorted(self.outcomes.items())),
        }


_NONE = {"keep_daily": 0, "keep_weekly": 0, "keep_monthly": 0, "keep_hourly": 0}


@contextmanager
def world(
    database: Database, directory: Path, seed: int, *, rate: float = 0.05, lying: bool = False
) -> Iterator[World]:
    """A tenant with rows and files and no backup yet. `lying`: the store also breaks its obligations."""
    stack, clock = database.stack, Clock()
    faults: frozenset[Fault] = HONEST | LYING if lying else HONEST
    with ExitStack() as opened:
        schedule = Schedule(seed, rate, faults)
        proxy = opened.enter_context(faulty_s3(stack.s3_endpoint, schedule, stall_s=1.5))
        line = opened.enter_context(faulty_line("127.0.0.1", stack.ports["postgres"], seed))
        opened.enter_context(store_time(clock))
        bucket, there = (opened.enter_context(fresh_bucket(stack)) for _ in range(2))
        other = opened.enter_context(
            faulty_s3(stack.s3_endpoint, Schedule(seed + 1_000_000, rate, faults), stall_s=1.5)
        )
        copy = CopyEnd(other, stack.s3_endpoint, stack.s3_client(), there, directory)
        made = World(Application(database, directory), stack, schedule, proxy, line, clock, bucket, copy)
        for n in range(3):
            made.put(f"docs/{n}.bin", random.Random(n).randbytes(20_000))
        made.put("empty", b"")
        made._remember()
        yield made
