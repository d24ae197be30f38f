"""Random histories of an application whose changes are journaled: each backup holds exactly what the server showed at its snapshot.

A few histories in `make test`, the same at every run. `make soak` looks for new ones on each server (`TEST_MACHINE_SEED` is the
first seed), and leaves the seed of one that fails in the message.
"""

import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from hypothesis import Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from sbh_pipelines.backup.create import drafts, snapshot_step
from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.backup.create.moment.way.target import Target
from sbh_pipelines.backup.journal import drain as drain_module
from sbh_pipelines.backup.journal.compaction.compact import Compaction, Erased
from sbh_pipelines.backup.journal.compaction.retired import RETIRED_FOR, retired
from sbh_pipelines.backup.journal.drain import drain
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import NotJournaled, SbhError
from sbh_pipelines.model import utc_now
from sbh_pipelines.repository.journal.journal import Journal
from sbh_pipelines.repository.journal.segments.changes import parse_lsn
from sbh_pipelines.repository.journal.segments.names import SegmentName
from sbh_pipelines_tests.backup.create.test_crash import Death, Killed, struck
from sbh_pipelines_tests.support.application import ADMIN
from sbh_pipelines_tests.support.effort import SECONDS
from sbh_pipelines_tests.support.incremental.journaled import (
    CHANGES,
    REGIONS,
    SCHEMA,
    TENANTS,
    UPHEAVALS,
    JournaledApplication,
    State,
    check_backup,
    state_of,
    stored_state,
)
from sbh_pipelines_tests.support.own_server import OwnServer, own_server

FIRST_SEED = int(os.environ.get("TEST_MACHINE_SEED", "1"))
EXAMPLES, STEPS = {18: 6, 15: 2}, 25
TEMPLATE = "journaled_template"
PLACES = ("place_fence", "take_survey", "read_stream", "still_running", "find_rows", "advance_slot")
"""Functions of a drain before which somebody else may do something."""

# A slot waits for open transactions; the log is not the one that was journaled.
_OUT_OF_REACH = {"SBH-203", "SBH-621", "SBH-622", "SBH-624"}
_MAY_FAIL = {"SBH-303", "SBH-621"}

NUMBER = st.integers(0, 36)
TENANT = st.sampled_from(sorted(TENANTS))
CHANGE = st.sampled_from(sorted(CHANGES))
ONE = st.tuples(CHANGE, TENANT, NUMBER)
HOW = st.sampled_from(["COMMIT", "COMMIT", "COMMIT", "ROLLBACK", "PREPARE"])
SOME = st.sampled_from([[1], [2], [3], [1, 2], [1, 2, 3], [1, 2, 3], [1, 2, 3]])
KIND = st.sampled_from(["incremental"] * 5 + ["differential"])
MEANWHILE = st.lists(st.tuples(st.sampled_from(PLACES), ONE, st.booleans()), max_size=4)


Moment = tuple[datetime, int, Mapping[int, State]]
"""Its time, its position in the log, and what each tenant had."""


@dataclass
class Hooks:
    """What happens at places of the engine, once each."""

    waiting: dict[str, list[Callable[[], object]]] = field(default_factory=dict)

    def at(self, place: str, action: Callable[[], object]) -> None:
        self.waiting.setdefault(place, []).append(action)

    def reached(self, place: str) -> None:
        for action in self.waiting.pop(place, ()):
            action()


class Machine(RuleBasedStateMachine):
    """`server` is set by the test."""

    server: OwnServer
    seen: Counter[str] = Counter()  # what the histories had in them
    why: Counter[str] = Counter()  # why tables were looked through
    hooks = Hooks()
    witnesses: dict[str, Any] = {}  # by recovery point
    witness: Callable[[str, str], None] = staticmethod(lambda *_: None)

    def __init__(self) -> None:
        super().__init__()
        self.name = f"machine_{time.monotonic_ns()}"
        self.directory = Path(tempfile.mkdtemp(prefix="sbh-machine-"))
        database = self.server.create_database(self.name, TEMPLATE)
        self.app = JournaledApplication(database, self.directory)
        self.kept: dict[tuple[int, str], State] = {}
        self.moments: list[Moment] = []
        self.kills = 0
        self.hooks.waiting.clear()
        self.connections: dict[tuple[str, str], tuple[Any, str]] = {}
        Machine.current = self  # type: ignore[attr-defined]

    def clock(self) -> datetime:
        return utc_now() + timedelta(seconds=self.app.ahead)

    @property
    def service(self) -> BackupService:
        return BackupService(self.app.settings, clock=self.clock)

    def site(self) -> Site:
        return Site(self.app.settings, self.clock)

    @initialize(late=st.booleans())
    def first(self, late: bool) -> None:
        """Full backups, of all or of all but one, whose key the journal does not know then; and a backup that the journal reaches
        back to."""
        first = [1, 2] if late else [1, 2, 3]
        self._back_up(first, "full")
        self._drain()
        self.change([("settings", tenant, 0) for tenant in first])
        self._back_up(first, "incremental")

    # changes

    @rule(changes=st.lists(ONE, min_size=1, max_size=5))
    def change(self, changes: list[tuple[str, int, int]]) -> None:
        for one in changes:
            self.app.change(*one)

    @rule(changes=st.lists(ONE, min_size=1, max_size=6), tenants=SOME, kind=KIND, drained=st.booleans())
    def hour(self, changes: list[tuple[str, int, int]], tenants: list[int], kind: str, drained: bool) -> None:
        self.remember(changes)
        if drained:
            self._drain()
            self.app.change(*changes[0])
        self._back_up(tenants, kind)

    @rule(tenant=TENANT, number=NUMBER)
    def copy_in(self, tenant: int, number: int) -> None:
        self.app.copy_in(tenant, number)

    @precondition(lambda self: len(self.app.sessions) < 3)
    @rule(changes=st.lists(st.tuples(ONE, st.booleans()), min_size=1, max_size=4))
    def begin(self, changes: list[tuple[tuple[str, int, int], bool]]) -> None:
        session = self.app.begin()
        self._go_on(session, changes)

    @precondition(lambda self: self.app.sessions)
    @rule(nth=st.integers(0, 2), changes=st.lists(st.tuples(ONE, st.booleans()), min_size=1, max_size=3))
    def go_on(self, nth: int, changes: list[tuple[tuple[str, int, int], bool]]) -> None:
        self._go_on(self.app.sessions[nth % len(self.app.sessions)], changes)

    def _go_on(self, session: Any, changes: list[tuple[tuple[str, int, int], bool]]) -> None:
        for one, undone in changes:
            if self.app.change(*one, session) and undone:
                session.run(f"ROLLBACK TO s{session.savepoints}")

    @precondition(lambda self: self.app.sessions)
    @rule(nth=st.integers(0, 2), how=HOW)
    def end(self, nth: int, how: str) -> None:
        self.app.end(nth, how)

    @precondition(lambda self: self.app.prepared)
    @rule(how=st.sampled_from(["COMMIT", "COMMIT", "ROLLBACK"]))
    def end_prepared(self, how: str) -> None:
        self.app.end_prepared(how)

    @rule(changes=st.lists(st.tuples(ONE, st.booleans()), min_size=1, max_size=3), tenants=SOME, how=HOW, kind=KIND)
    def backup_in_the_middle(
        self, changes: list[tuple[tuple[str, int, int], bool]], tenants: list[int], how: str, kind: str
    ) -> None:
        """A transaction that is open or prepared while a backup is made, and ends before the next one."""
        session = self.app.begin()
        self._go_on(session, changes)
        if how == "PREPARE":
            self.app.end(-1, how)
        self._back_up(tenants, kind)
        if how == "PREPARE":
            self.app.end_prepared("COMMIT")
        else:
            self.app.end(-1, how)
        self._back_up(tenants, kind)

    @rule(
        name=st.sampled_from(sorted(UPHEAVALS)),
        tenant=TENANT,
        number=NUMBER,
        before=st.lists(ONE, max_size=2),
        after=st.lists(ONE, max_size=2),
        drained=st.booleans(),
    )
    def upheaval(
        self,
        name: str,
        tenant: int,
        number: int,
        before: list[tuple[str, int, int]],
        after: list[tuple[str, int, int]],
        drained: bool,
    ) -> None:
        self.app.settle()
        self.change(before)
        self.app.upheaval(name, tenant, number)
        self.seen[name] += 1
        self.change(after)
        if drained:
            self._drain()
        self._back_up([1, 2, 3], "incremental")

    @rule(
        names=st.lists(st.sampled_from(sorted(UPHEAVALS)), min_size=1, max_size=2),
        tenant=TENANT,
        number=NUMBER,
        one=ONE,
    )
    def upheavals(self, names: list[str], tenant: int, number: int, one: tuple[str, int, int]) -> None:
        self.app.settle()
        self.change([one])
        for name in names:
            self.app.upheaval(name, tenant, number)
            self.seen[name] += 1
            self.change([one])

    # drains and backups

    def _act(self, one: tuple[str, int, int], ends: bool) -> Callable[[], object]:
        def act() -> None:
            self.app.change(*one)
            if ends:
                self.app.end(one[2], "COMMIT")

        return act

    @rule(
        meanwhile=MEANWHILE,
        upheaval=st.one_of(st.none(), st.tuples(st.sampled_from(PLACES), st.sampled_from(sorted(UPHEAVALS)))),
    )
    def drained(
        self, meanwhile: list[tuple[str, tuple[str, int, int], bool]], upheaval: tuple[str, str] | None
    ) -> None:
        for place, one, ends in meanwhile:
            self.hooks.at(place, self._act(one, ends))
        if upheaval is not None:
            self.app.settle()
            place, name = upheaval
            self.hooks.at(place, lambda: self.app.upheaval(name, 1, 7))
        self._drain()
        self.hooks.waiting.clear()

    def _drain(self) -> None:
        try:
            result = drain(self.site())
        except SbhError as error:
            if error.code not in _MAY_FAIL:
                raise
            self.why[f"drain {error.code}: {error.what}: {error.why}"[:150]] += 1
            return
        self.seen["drains"] += 1
        self.seen["gaps"] += result.gap is not None

    @rule(meanwhile=MEANWHILE, more=st.lists(ONE, max_size=2), tenants=SOME, kind=KIND)
    def backup_of_the_busy(
        self,
        meanwhile: list[tuple[str, tuple[str, int, int], bool]],
        more: list[tuple[str, int, int]],
        tenants: list[int],
        kind: str,
    ) -> None:
        for one in more:
            self.hooks.at("snapshot", self._act(one, False))
        for place, one, ends in meanwhile:
            self.hooks.at(place, self._act(one, ends))
        self._back_up(tenants, kind)

    def _back_up(self, tenants: list[int], kind: str) -> list[Draft]:
        try:
            made = self.service.backups.create_all([TENANTS[t] for t in tenants], ADMIN, kind)
            for tenant, draft in zip(tenants, made, strict=True):
                assert draft.error is None, draft.error
                self._check(tenant, draft)
            return made
        finally:
            self.hooks.waiting.clear()
            for connection, _ in self.connections.values():
                connection.close()
            self.connections.clear()

    def _check(self, tenant: int, draft: Draft) -> None:
        assert draft.recovery_point is not None
        connection, snapshot_id = self.connections[draft.recovery_point.time, draft.recovery_point.snapshot]
        truth = state_of(connection, tenant)
        unchanged = draft.status is DraftStatus.UNCHANGED
        backup_id = str(draft.unchanged_since if unchanged else draft.backup_id)
        check_backup(self.app, tenant, backup_id, truth, snapshot_id)
        if unchanged:
            assert self.kept[tenant, backup_id] == truth
        self.kept[tenant, backup_id] = truth
        self.seen["unchanged" if unchanged else draft.type] += 1
        if draft.type != "full":
            self.seen["tables"] += len(truth)
            self.seen["tables looked through"] += len(draft.reread)
            self.why.update(why[:110] for why in draft.reread.values())

    # what is done to the journal

    @rule(nth=st.integers(1, 9), after=st.booleans(), backed_up=st.booleans(), one=ONE)
    def killed(self, nth: int, after: bool, backed_up: bool, one: tuple[str, int, int]) -> None:
        """At one of its writes."""
        self.app.change(*one)
        death = Death(nth, "after" if after else "before")
        try:
            with struck(death):
                if backed_up:
                    self.service.backups.create_all(list(TENANTS.values()), ADMIN, "incremental")
                else:
                    drain(self.site())
        except (Killed, RuntimeError):
            assert death.dead
        finally:
            self.app.ahead += 400
            for connection, _ in self.connections.values():
                connection.close()
            self.connections.clear()
        self.seen["killed"] += death.dead

    @rule(what=st.sampled_from(["dropped", "made anew", "advanced", "server", *[""] * 8]), one=ONE)
    def slot(self, what: str, one: tuple[str, int, int]) -> None:
        self.app.change(*one)
        if not what:
            return
        run = self.app.database.run
        slots = self.app.database.ask(
            "SELECT slot_name FROM pg_replication_slots WHERE database = current_database() AND slot_name = 'sbh_journal'"
        )
        if not slots:
            return
        if what in ("dropped", "made anew"):
            run("SELECT pg_drop_replication_slot('sbh_journal')")
        if what == "made anew":
            self.app.settle()
            run("SELECT pg_create_logical_replication_slot('sbh_journal', 'pgoutput')")
        if what == "advanced":
            run("SELECT pg_replication_slot_advance('sbh_journal', pg_current_wal_flush_lsn())")
        if what == "server":
            self.kill_server()
        self.seen["slot " + what] += 1
        self.app.change(*one)
        self._back_up([1, 2, 3], "incremental")

    def kill_server(self) -> None:
        self.kills += 1
        if self.kills > 2:
            return
        self.server.stop("immediate")
        self.server.start()
        self.app.server_was_killed()
        self.seen["server killed"] += 1

    @rule(hours=st.sampled_from([2, 30]), remove=st.booleans())
    def compact(self, hours: int, remove: bool) -> None:
        for region in sorted(set(REGIONS.values())):
            journal = self.site().journal(region)
            now = self.clock() + timedelta(hours=hours)
            compaction = Compaction(journal, Erased([], lambda _: False), now, lambda: None)
            steps = compaction.run(dry_run=False)
            self.seen["merged"] += sum(step.merged is not None for step in steps)
            self.seen["not merged"] += len(compaction.issues)
            if not remove:
                continue
            listing = journal.listing()
            for incarnation in listing.incarnations:
                of = listing.of(incarnation)
                found = retired(of, now + RETIRED_FOR + RETIRED_FOR, partial(_opens, journal))
                journal.delete([name for name, _ in found])
                self.seen["segments removed"] += len(found)

    @rule(nth=NUMBER, how=st.sampled_from(["removed", "swapped", "cut", "bit", *[""] * 6]), region=st.sampled_from(sorted(set(REGIONS.values()))),
          back=st.booleans(), one=ONE)  # fmt: skip
    def segment(self, nth: int, how: str, region: str, back: bool, one: tuple[str, int, int]) -> None:
        """Damage: the backup after it is right all the same."""
        files = sorted(
            file
            for file in (self.directory / "objects").rglob("*")
            if file.is_file()
            and "_sbh-journal" in str(file)
            and file.name.count("-") == 2
            and f"/{region}/" in str(file)
        )
        if not files or not how:
            return
        file = files[-1 - nth % min(len(files), 6)]
        body = file.read_bytes()
        if how == "removed":
            file.unlink()
        elif how == "swapped":
            file.write_bytes(files[nth % len(files)].read_bytes())
        elif how == "cut":
            file.write_bytes(body[: len(body) * nth // 37])
        else:
            at = len(body) * nth // 37
            file.write_bytes(body[:at] + bytes([body[at] ^ 4]) + body[at + 1 :])
        self.app.change(*one)
        self._back_up([1, 2, 3], "incremental")
        self.seen["segment " + how] += 1
        if back:
            file.write_bytes(body)

    # moments of the past

    @rule(changes=st.lists(ONE, min_size=1, max_size=3))
    def moment(self, changes: list[tuple[str, int, int]]) -> None:
        self.remember(changes)

    def remember(self, changes: list[tuple[str, int, int]]) -> None:
        """What the tenants have between some commits and the next ones."""
        self.change(changes)
        time.sleep(0.002)
        cursor = self.app.main.cursor()
        cursor.execute("SELECT clock_timestamp(), pg_current_wal_flush_lsn()::text")
        at, lsn = cursor.fetchone()
        states = {tenant: state_of(self.app.main, tenant) for tenant in TENANTS}
        time.sleep(0.002)
        self.moments.append((at.astimezone(UTC), parse_lsn(lsn), states))

    @precondition(lambda self: self.moments)
    @rule(nth=NUMBER, tenant=TENANT, by_lsn=st.booleans())
    def recover(self, nth: int, tenant: int, by_lsn: bool) -> None:
        self._recover(self.moments[nth % len(self.moments)], tenant, by_lsn)

    def _recover(self, moment: Moment, tenant: int, by_lsn: bool) -> None:
        """It is what the tenant had, or it is refused."""
        at, lsn, states = moment
        target = Target(lsn=lsn) if by_lsn else Target(time=at)
        create = partial(self.service.backups.create_at, TENANTS[tenant], ADMIN, target)
        try:
            manifest = create()
        except SbhError as error:
            if error.code not in _OUT_OF_REACH:
                raise
            self.why[f"moment {error.code}: {error.what}: {error.why}"[:200]] += 1
            if not isinstance(error, NotJournaled):
                self.seen["moments out of reach"] += 1
                return
            manifest = create(as_of_backup=["all"])
        assert manifest.moment is not None
        behind = {name.removeprefix("public.") for name in manifest.moment.as_of_backup}
        stored, _ = stored_state(self.app, tenant, manifest.id)
        for name, lines in states[tenant].items():
            if name in behind or name not in stored:
                continue
            lost, alien = set(lines) - set(stored[name]), set(stored[name]) - set(lines)
            assert stored[name] == lines, (
                f"{name} of {tenant} at {target.text}: lost {sorted(lost)[:5]}, too many {sorted(alien)[:5]};"
                f" {manifest.moment}"
            )
            self.seen["tables of moments"] += 1
        self.seen["moments"] += not behind

    def teardown(self) -> None:
        try:
            self.app.settle()
            self._back_up([1, 2, 3], "incremental")
            for nth, moment in enumerate(random.Random(1).sample(self.moments, min(4, len(self.moments)))):
                self._recover(moment, 1 + nth % 3, by_lsn=nth == 2)
        finally:
            self.close()

    def close(self) -> None:
        self.app.close()
        with suppress(psycopg2.Error):
            self.app.database.run(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()"
            )
        self.server.drop_database(self.name)
        shutil.rmtree(self.directory)


def _opens(journal: Journal, name: SegmentName) -> bool:
    return bool(journal.directory(name))


def _patched(patch: pytest.MonkeyPatch) -> None:
    """The engine tells where it is; and what it sees is seen by a witness under the same snapshot."""
    exported, folds = drafts.exported_snapshot, snapshot_step.capture_folds

    @contextmanager
    def witnessed(found: Any) -> Iterator[Any]:
        machine: Machine = Machine.current  # type: ignore[attr-defined]
        with exported(found) as taken:
            snapshot_id, point, _ = taken
            connection = machine.app.database.connect()
            cursor = connection.cursor()
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            cursor.execute("SET TRANSACTION SNAPSHOT %s", (snapshot_id,))
            cursor.execute("SELECT pg_export_snapshot()")
            machine.connections[point.time, point.snapshot] = connection, cursor.fetchone()[0]
            machine.hooks.reached("snapshot")
            yield taken

    def counted(connection: Any, table: Any, code: Any, given: Any) -> None:
        folds(connection, table, code, given)
        Machine.seen["folds"] += sum(one.summary is not None and one.again is None for one in given)
        Machine.seen["rows by folds"] += sum(one.rows for one in given if one.summary is not None)
        for one in given:
            if one.again:
                Machine.why[f"after a fold: {one.again}"] += 1

    def told(name: str) -> Any:
        real = getattr(drain_module, name)

        def passed(*arguments: Any, **named: Any) -> Any:
            Machine.hooks.reached(name)
            return real(*arguments, **named)

        return passed

    patch.setattr(drain_module, "create_slot", partial(drain_module.create_slot, wait_s=0.3, attempts=1))
    patch.setattr(drafts, "exported_snapshot", witnessed)
    patch.setattr(snapshot_step, "capture_folds", counted)
    for name in PLACES:
        patch.setattr(drain_module, name, told(name))


@pytest.fixture(scope="module", params=[18, 15], ids=["PostgreSQL 18", "PostgreSQL 15"])
def server(request: pytest.FixtureRequest) -> Iterator[OwnServer]:
    """A server whose transaction ids have more than 32 bits, with the application in a template."""
    with own_server(
        request.param, wal_level="logical", max_replication_slots="10", wal_sender_timeout="0", max_connections="60"
    ) as made:
        made.stop()
        made.tool("pg_resetwal", "-e", "1", "-D", str(made.data))
        made.start()
        made.create_database(TEMPLATE).run(SCHEMA)
        yield made


def _run(server: OwnServer, examples: int, steps: int, **more: Any) -> None:
    machine = type("Machine", (Machine,), {"server": server})
    if "seed" in more:
        machine = seed(more.pop("seed"))(machine)
    with pytest.MonkeyPatch.context() as patch:
        _patched(patch)
        run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=steps, **more))


@pytest.mark.parametrize("name", ["replica", "lost identity", "come and go"])
def test_what_no_change_tells_is_noticed(server: OwnServer, name: str) -> None:
    """Rows that lose the one they follow by no doing of their own, and changes that do not say whose they are: before, after."""
    with pytest.MonkeyPatch.context() as patch:
        _patched(patch)
        machine = type("Machine", (Machine,), {"server": server})()
        try:
            machine.first(late=False)
            machine.remember([("update notes", 1, 3), ("all in one", 2, 4)])
            machine.app.upheaval(name, 1, 7)
            machine.remember([("update events", 1, 3), ("large notes", 2, 4)])
            machine._back_up([1, 2, 3], "incremental")
            machine.remember([("all in one", 1, 3), ("large notes", 2, 4)])
            machine._back_up([1, 2, 3], "incremental")
            for moment in machine.moments:
                for tenant in TENANTS:
                    machine._recover(moment, tenant, by_lsn=False)
        finally:
            machine.close()


@pytest.mark.soak
def test_backups_by_the_journal_are_what_their_snapshots_show(server: OwnServer) -> None:
    """Whatever happens to the application, the server, the journal and the one who drains it."""
    Machine.seen.clear()
    Machine.why.clear()
    if not SECONDS:
        _run(server, EXAMPLES[server.version], STEPS, seed=FIRST_SEED, phases=[Phase.generate])
    deadline, current = time.monotonic() + SECONDS, FIRST_SEED
    while time.monotonic() < deadline:
        try:
            _run(server, 5, 40, seed=current, phases=[Phase.generate])
        except BaseException as error:
            error.add_note(f"TEST_MACHINE_SEED={current}")
            raise
        current += 1
    print(f"seeds {FIRST_SEED} to {current}: {dict(Machine.seen)} {dict(Machine.why.most_common())}")
    # A history that always looks through the tables would prove nothing.
    assert Machine.seen["folds"] > 20, Machine.seen
    assert Machine.seen["tables looked through"] < 0.7 * Machine.seen["tables"], Machine.why
