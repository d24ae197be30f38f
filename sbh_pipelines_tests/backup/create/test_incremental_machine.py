"""Random histories of an application and its backups, on a real server: every remaining backup restores byte for byte.

A few histories in `make test`, the same at every run. `make soak` looks for new ones on each server (`TEST_MACHINE_SEED` is the
first seed), and leaves the seed of one that fails in the message.
"""

import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from hypothesis import Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.errors import ForgetRefused
from sbh_pipelines_tests.support.application import ADMIN
from sbh_pipelines_tests.support.effort import SECONDS
from sbh_pipelines_tests.support.incremental.machine import (
    ALTERATIONS,
    CHANGES,
    SCHEMA,
    TENANTS,
    UPHEAVALS,
    ChangingApplication,
    Session,
)
from sbh_pipelines_tests.support.own_server import OwnServer, own_server

FIRST_SEED = int(os.environ.get("TEST_MACHINE_SEED", "1"))
EXAMPLES, STEPS = {18: 8, 15: 3}, 30
TEMPLATE = "machine_template"
EXPECTED = (
    "full",
    "incremental",
    "differential",
    "unchanged",
    "backups while transactions were open",
    "backups while transactions were prepared",
    "tables read again",
    "tables with layers",
    "forgotten",
    "bytes freed",
    "restores",
)

NUMBER = st.integers(0, 36)
TENANT = st.sampled_from([1, 2])
CHANGE = st.sampled_from(sorted(CHANGES))
ALTERED = st.sampled_from(["docs", "tokens", "labels", "tasks", "likes", "events", "logs"])
_REFUSED = (psycopg2.errors.LockNotAvailable, psycopg2.errors.UniqueViolation, psycopg2.errors.ForeignKeyViolation)


@dataclass(frozen=True)
class Made:
    """A backup, and what its tenant had at its recovery point."""

    tenant: int
    id: str
    version: int
    state: dict[str, bytes]


class Machine(RuleBasedStateMachine):
    """`server` is set by the test."""

    server: OwnServer
    seen: Counter[str] = Counter()  # what the histories had in them

    def __init__(self) -> None:
        super().__init__()
        self.name = f"machine_{time.monotonic_ns()}"
        self.directory = Path(tempfile.mkdtemp(prefix="sbh-machine-"))
        self.changing = ChangingApplication(self.server.create_database(self.name, TEMPLATE), self.directory)
        self.backups: list[Made] = []

    @property
    def service(self) -> BackupService:
        return self.changing.service()

    @initialize()
    def first(self) -> None:
        self._back_up([1, 2], "full")

    # changes

    @rule(changes=st.lists(st.tuples(CHANGE, TENANT, NUMBER), min_size=1, max_size=4))
    def change(self, changes: list[tuple[str, int, int]]) -> None:
        for one in changes:
            with suppress(*_REFUSED):
                self.changing.main.cursor().execute(self.changing.statement(*one))

    @rule(
        changes=st.lists(st.tuples(CHANGE, TENANT, NUMBER), min_size=1, max_size=6),
        tenants=st.sampled_from([[1], [2], [1, 2]]),
        kind=st.sampled_from(["incremental", "incremental", "differential"]),
    )
    def hour(self, changes: list[tuple[str, int, int]], tenants: list[int], kind: str) -> None:
        """Changes, then a backup."""
        self.change(changes)
        self._back_up(tenants, kind)

    @precondition(lambda self: len(self.changing.sessions) < 3)
    @rule(
        changes=st.lists(
            st.tuples(CHANGE, TENANT, NUMBER, st.sampled_from(["", "save", "undo", "release"])), min_size=1, max_size=4
        )
    )
    def begin(self, changes: list[tuple[str, int, int, str]]) -> None:
        """A transaction that stays open, in it savepoints."""
        session = Session(self.changing.connect())
        session.run("BEGIN")
        self.changing.sessions.append(session)
        self._go_on(session, changes)

    @precondition(lambda self: self.changing.sessions)
    @rule(
        nth=st.integers(0, 2),
        changes=st.lists(
            st.tuples(CHANGE, TENANT, NUMBER, st.sampled_from(["", "save", "undo", "release"])), min_size=1, max_size=3
        ),
    )
    def go_on(self, nth: int, changes: list[tuple[str, int, int, str]]) -> None:
        self._go_on(self.changing.sessions[nth % len(self.changing.sessions)], changes)

    def _go_on(self, session: Session, changes: list[tuple[str, int, int, str]]) -> None:
        for change, tenant, number, then in changes:
            session.savepoints += 1
            session.run(f"SAVEPOINT s{session.savepoints}")
            try:
                session.run(self.changing.statement(change, tenant, number))
            except _REFUSED:
                session.run(f"ROLLBACK TO s{session.savepoints}")
            if then == "undo":
                session.run(f"ROLLBACK TO s{session.savepoints}")
            if then == "release":
                session.run(f"RELEASE s{session.savepoints}")

    @precondition(lambda self: self.changing.sessions)
    @rule(nth=st.integers(0, 2), how=st.sampled_from(["COMMIT", "COMMIT", "ROLLBACK", "PREPARE"]))
    def end(self, nth: int, how: str) -> None:
        self._end(self.changing.sessions[nth % len(self.changing.sessions)], how)

    def _end(self, session: Session, how: str) -> None:
        self.changing.sessions.remove(session)
        if how == "PREPARE":
            name = f"{self.name} {self.changing.stamp} {len(self.changing.prepared)}"
            session.run(f"PREPARE TRANSACTION '{name}'")
            self.changing.prepared.append(name)
        else:
            session.run(how)
        session.connection.close()

    @precondition(lambda self: len(self.changing.prepared) < 3)
    @rule(change=CHANGE, tenant=TENANT, number=NUMBER)
    def prepare_and_back_up(self, change: str, tenant: int, number: int) -> None:
        """A backup in the middle of a two-phase commit."""
        self.begin([(change, tenant, number, "save")])
        self._end(self.changing.sessions[-1], "PREPARE")
        self._back_up([tenant], "incremental")

    @precondition(lambda self: self.changing.prepared)
    @rule(how=st.sampled_from(["COMMIT", "COMMIT", "ROLLBACK"]))
    def end_prepared(self, how: str) -> None:
        self.changing.main.cursor().execute(f"{how} PREPARED '{self.changing.prepared.pop(0)}'")

    def _settle(self) -> None:
        """End all transactions."""
        for nth, session in enumerate(list(self.changing.sessions)):
            self._end(session, ("COMMIT", "ROLLBACK")[nth % 2])
        while self.changing.prepared:
            self.end_prepared("COMMIT")

    @rule(name=st.sampled_from(sorted(UPHEAVALS)), number=NUMBER)
    def upheaval(self, name: str, number: int) -> None:
        self._settle()
        self.seen[name] += 1
        for statement in self.changing.upheaval(name, number):
            self.changing.main.cursor().execute(statement)

    @rule(name=st.sampled_from(sorted(ALTERATIONS)), table=ALTERED)
    def alter(self, name: str, table: str) -> None:
        self._settle()
        self.seen[name] += 1
        self.changing.alter(name, table)

    # backups

    @rule(
        tenants=st.sampled_from([[1], [2], [1, 2]]),
        kind=st.sampled_from(["incremental"] * 4 + ["differential", "full"]),
    )
    def back_up(self, tenants: list[int], kind: str) -> None:
        self._back_up(tenants, kind)

    def _back_up(self, tenants: list[int], kind: str) -> None:
        states = {tenant: self.changing.state(tenant) for tenant in tenants}
        drafts = self.service.backups.create_all([TENANTS[t] for t in tenants], ADMIN, kind)
        for tenant, draft in zip(tenants, drafts, strict=True):
            assert draft.error is None, draft.error
            assert self.changing.state(tenant) == states[tenant]
            made = Made(tenant, draft.backup_id, self.changing.version, states[tenant])
            if draft.status is DraftStatus.UNCHANGED:
                (described,) = [b for b in self.backups if (b.tenant, b.id) == (tenant, draft.unchanged_since)]
                assert described.state == made.state
                assert described.version == made.version
            else:
                self.backups.append(made)
            self._count(draft)

    def _count(self, draft: Draft) -> None:
        self.seen[str(draft.status if draft.status is DraftStatus.UNCHANGED else draft.type)] += 1
        self.seen["backups while transactions were open"] += bool(self.changing.sessions)
        self.seen["backups while transactions were prepared"] += bool(self.changing.prepared)
        self.seen["tables read again"] += len(draft.reread)
        if draft.manifest is not None:
            tables = draft.manifest.components["database"].tables
            self.seen["tables with layers"] += sum(table.layers > 0 for table in tables)

    @precondition(lambda self: len(self.backups) > 3)
    @rule(nth=NUMBER)
    def forget(self, nth: int) -> None:
        backup = self.backups[nth % len(self.backups)]
        with suppress(ForgetRefused):
            self.service.retention.forget(TENANTS[backup.tenant], ADMIN, backup_id=backup.id)
            self.backups.remove(backup)
            self.seen["forgotten"] += 1

    @rule(tenant=TENANT)
    def prune(self, tenant: int) -> None:
        self.seen["bytes freed"] += getattr(self.service.retention.prune(TENANTS[tenant], ADMIN), "bytes_freed", 0)

    @precondition(lambda self: any(b.version == self.changing.version for b in self.backups))
    @rule(nth=NUMBER)
    def restore(self, nth: int) -> None:
        self._settle()
        possible = [b for b in self.backups if b.version == self.changing.version]
        self._restore(possible[nth % len(possible)])

    def _restore(self, backup: Made) -> None:
        self.changing.make_way(backup.tenant, backup.state)
        self.service.restore_backup(backup.id, TENANTS[backup.tenant], ADMIN)
        self.seen["restores"] += 1
        assert self.changing.state(backup.tenant) == backup.state

    def teardown(self) -> None:
        try:
            self._settle()
            for backup in self.backups:
                found = self.service.validate_backup(backup.id, TENANTS[backup.tenant], ADMIN, deep=True)
                assert found["issues"] == []
            for backup in random.Random(1).sample(self.backups, len(self.backups)):
                if backup.version == self.changing.version:
                    self._restore(backup)
        finally:
            self.changing.close()
            self.server.drop_database(self.name)
            shutil.rmtree(self.directory)


@pytest.fixture(scope="module", params=[18, 15], ids=["PostgreSQL 18", "PostgreSQL 15"])
def server(request: pytest.FixtureRequest) -> Iterator[OwnServer]:
    """A server of this module's own, that allows prepared transactions, with the application in a template."""
    with own_server(request.param) as made:
        made.create_database(TEMPLATE).run(SCHEMA)
        yield made


def _run(server: OwnServer, examples: int, steps: int, **more: Any) -> None:
    machine = type("Machine", (Machine,), {"server": server})
    if "seed" in more:
        machine = seed(more.pop("seed"))(machine)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            **more,
        ),
    )


@pytest.mark.soak
def test_every_remaining_backup_restores_the_state_of_its_recovery_point(server: OwnServer) -> None:
    """Whatever happened in between: changes, open and prepared transactions, upheavals, forgetting, prune, restores."""
    if not SECONDS:
        Machine.seen.clear()
        _run(server, EXAMPLES[server.version], STEPS, seed=FIRST_SEED, phases=[Phase.generate])
        assert server.version == 15 or all(Machine.seen[one] for one in EXPECTED), Machine.seen
        return
    deadline, current = time.monotonic() + SECONDS, FIRST_SEED
    while time.monotonic() < deadline:
        try:
            _run(server, 5, 40, seed=current, phases=[Phase.generate])
        except BaseException as error:
            error.add_note(f"TEST_MACHINE_SEED={current}")
            raise
        current += 1
    print(f"seeds {FIRST_SEED} to {current - 1}: {dict(Machine.seen)}")
