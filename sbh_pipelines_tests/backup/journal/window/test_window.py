"""Between two snapshots lies what the later one shows and the earlier one does not; and where the journal cannot tell, it says so."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbh_pipelines.backup.journal.window import window
from sbh_pipelines.backup.journal.window.snapshot import Snapshot
from sbh_pipelines.backup.journal.window.window import Answer, Reader, Window
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import RecoveryPoint
from sbh_pipelines.repository.journal.gaps import Gap
from sbh_pipelines.repository.journal.journal import Journal
from sbh_pipelines.repository.journal.segments.block import BlockBuffer
from sbh_pipelines.repository.journal.segments.directory import Coverage, Event, FencePoint, SegmentFacts
from sbh_pipelines.repository.journal.segments.names import SegmentName
from sbh_pipelines.repository.journal.segments.segment import SegmentWriter
from sbh_pipelines_tests.repository.journal.journals import (
    BASE,
    INCARNATION,
    LATER,
    LAYOUT,
    CatalogKeyInMemory,
    TenantKeys,
    insert,
    journal_on,
)
from sbh_pipelines_tests.support.memory_store import MemoryStore

TABLE = LAYOUT.table
DEFINITIONS = {TABLE: LAYOUT.definition}
BOTH = ("17", "18")


@dataclass
class Server:
    """A server's transactions: each gets an id, then a place in the log, and shows some time after that."""

    next_xid: int = 1000
    lsn: int = 1
    running: list[int] = field(default_factory=list)  # without a place in the log
    hidden: list[int] = field(default_factory=list)  # in the log, and not shown yet
    log: list[tuple[int, int]] = field(default_factory=list)  # (position, xid)
    fences: list[int] = field(default_factory=list)
    taken: dict[str, int] = field(default_factory=dict)  # snapshot -> fences that had begun

    def begin(self) -> int:
        self.running.append(self.next_xid)
        self.next_xid += 1
        return self.running[-1]

    def commit(self, xid: int) -> None:
        self.running.remove(xid)
        self.hidden.append(xid)
        self.lsn += 1
        self.log.append((self.lsn, xid))

    def snapshot(self) -> str:
        unseen = sorted(self.running + self.hidden)
        xmin = unseen[0] if unseen else self.next_xid
        text = f"{xmin}:{self.next_xid}:{','.join(map(str, unseen))}"
        self.taken.setdefault(text, len(self.fences))
        return text

    def behind(self, snapshot: str) -> int:
        """The first fence that began after a snapshot; the next transaction where none did."""
        later = self.fences[self.taken.get(snapshot, 0) :]
        return later[0] if later else self.next_xid

    def fence(self) -> FencePoint:
        before, xid = self.lsn, self.next_xid
        self.next_xid += 1
        self.lsn += 1
        self.fences.append(xid)
        return FencePoint(xid, before, self.lsn, BASE)


@dataclass
class Drained:
    """A journal that is drained from a server. Odd transactions are of tenant 17, the others of tenant 18; each inserts its id."""

    server: Server = field(default_factory=Server)
    store: MemoryStore = field(default_factory=MemoryStore)
    catalog: CatalogKeyInMemory = field(default_factory=CatalogKeyInMemory)
    tenants: dict[str, TenantKeys] = field(default_factory=lambda: {key: TenantKeys(f"t{key}", key) for key in BOTH})
    end: int = 1
    written: list[SegmentName] = field(default_factory=list)
    incarnation: str = INCARNATION

    @property
    def journal(self) -> Journal:
        return journal_on(self.store, self.catalog)

    def drain(
        self, *, advance: bool = True, change: Callable[[SegmentFacts], SegmentFacts] = lambda facts: facts
    ) -> SegmentName:
        fence = self.server.fence()
        covered = {TABLE: (Coverage(self.end, fence.after, LAYOUT.definition),)}
        with SegmentWriter(self.journal.region, self.incarnation, self.end, fence.after) as writer:
            for key, tenant in self.tenants.items():
                buffer = BlockBuffer()
                for position, xid in self.server.log:
                    if self.end < position <= fence.after and BOTH[xid % 2 == 0] == key:
                        buffer.add(position, BASE, xid, insert(xid))
                        if xid % 3 == 0 and (part := buffer.take()):  # more than one block
                            writer.add_block(tenant.public(), *part)
                if part := buffer.take():
                    writer.add_block(tenant.public(), *part)
            name = self.journal.write(writer, change(SegmentFacts((fence,), (LAYOUT,), covered)))
        if advance:
            self.end = fence.after
        self.written.append(name)
        return name

    def window(self, snapshot: str) -> Window:
        point = RecoveryPoint("2026-01-15T14:32:07Z", snapshot, "0/0", str(0xDEADBEEF), 1, 180000, "app", "")
        return Window(self.journal, point, self.server.behind(snapshot))

    def read(self, asked: Window, answers: dict[str, Answer], failed: list[str] | None = None) -> dict[str, list[int]]:
        readers = {
            key: Reader(answer.since, answer.start, f"t{key}", self.tenants[key].sealer)
            for key, answer in answers.items()
            if answer.since
        }
        found: dict[str, list[int]] = {key: [] for key in readers}

        def fail(key: str, error: SbhError) -> None:
            if failed is None:
                raise error
            failed.append(key)

        for key, layouts, transaction in asked.read(readers, fail):
            assert list(layouts) == [LAYOUT]
            found[key].append(transaction.xid)
        return found

    def between(self, since: str, upto: str) -> dict[str, list[int]]:
        shown = [xid for _, xid in self.server.log if _shows(upto, xid) and not _shows(since, xid)]
        return {key: [xid for xid in shown if BOTH[xid % 2 == 0] == key] for key in BOTH}


def _shows(snapshot: str, xid: int) -> bool:
    _, xmax, running = snapshot.split(":")
    return xid < int(xmax) and str(xid) not in running.split(",")


STEPS = st.lists(
    st.sampled_from(["begin", "begin", "commit", "commit", "show", "snapshot", "drain", "drain again"]),
    min_size=5,
    max_size=60,
)


@given(STEPS, st.randoms(use_true_random=False))
def test_every_transaction_between_two_snapshots_comes_once_and_no_other(steps: list[str], random: object) -> None:
    """Whatever the order in which transactions got their ids, came into the log and showed; drains killed before they advanced."""
    drained, choose = Drained(), random.choice  # type: ignore[attr-defined]
    server, taken = drained.server, [drained.server.snapshot()]
    drained.drain()
    for step in steps:
        if step == "begin":
            server.begin()
        elif step == "commit" and server.running:
            server.commit(choose(server.running))
        elif step == "show" and server.hidden:
            server.hidden.remove(choose(server.hidden))
        elif step == "snapshot":
            taken.append(server.snapshot())
        elif step.startswith("drain"):
            drained.drain(advance=step == "drain")
    for upto in taken[-3:]:
        asked = None
        for since in [one for one in taken if taken.index(one) < taken.index(upto)]:
            asked = asked or _drained_window(drained, upto)
            answers = {key: asked.ask(key, since, DEFINITIONS) for key in BOTH}
            if since != taken[0]:  # before it there was no fence
                assert not any(answer.reasons for answer in answers.values()) or int(since.split(":")[0]) <= 1000
            covered = {key: answer for key, answer in answers.items() if not answer.reasons}
            truth = drained.between(since, upto)
            assert drained.read(asked, covered) == {key: truth[key] for key in covered}
            for key, answer in covered.items():
                assert answer.changed or not truth[key]
                assert asked.changes(key, Snapshot.parse(since)) >= len(truth[key])


def _drained_window(drained: Drained, upto: str) -> Window:
    drained.drain()
    return drained.window(upto)


def _history() -> tuple[Drained, str, str]:
    """A snapshot, a drain, a change of each tenant, a drain, another snapshot, and the drain after that."""
    drained = Drained()
    drained.drain()
    since = drained.server.snapshot()
    for part in range(2):
        if part:
            for _ in BOTH:
                xid = drained.server.begin()
                drained.server.commit(xid)
                drained.server.hidden.remove(xid)
        drained.drain()
    upto = drained.server.snapshot()
    drained.drain()
    return drained, since, upto


def test_what_happened_is_told_and_a_tenant_to_which_nothing_happened_is_unchanged() -> None:
    drained, since, upto = _history()
    asked = drained.window(upto)
    answer = asked.ask("17", since, DEFINITIONS)
    assert (answer.reasons, answer.changed) == ({}, True)
    assert not asked.ask("99", since, DEFINITIONS).changed
    assert not asked.ask("17", upto, DEFINITIONS).changed


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"coverage": {}}, "coverage of it ended"),
        ({"coverage": {TABLE: (Coverage(0, 1 << 40, "other"),)}}, window.DEFINITION),
        ({"skipped": {"17": (1, 1 << 40)}}, window.NOT_KEPT),
        ({"events": (Event(1 << 40, "truncate", TABLE, None, "it was truncated"),)}, "truncate: it was truncated"),
        ({"events": (Event(1 << 40, "moved", TABLE, ("17", "18"), "a parent moved"),)}, "moved: a parent moved"),
    ],
)  # fmt: skip
def test_what_ends_the_coverage_of_a_table(facts: dict[str, object], reason: str) -> None:
    """It is told to the tenants that it concerns, of the tables that it concerns, and with nothing of it to those after it."""
    drained, since, _ = _history()

    def changed(known: SegmentFacts) -> SegmentFacts:
        fields = {name: getattr(known, name) for name in SegmentFacts.__slots__}
        return SegmentFacts(**{**fields, **facts})

    drained.drain(change=changed)
    drained.drain()
    middle = drained.server.snapshot()
    drained.drain()
    told = drained.window(middle).ask("17", since, DEFINITIONS).reasons
    assert reason in told[TABLE]
    later = drained.server.snapshot()
    drained.drain()
    assert drained.window(later).ask("17", middle, DEFINITIONS).reasons == {}
    if "events" in facts or "skipped" in facts:
        concerns_all = facts.get("events") and facts["events"][0].tenants is None  # type: ignore[index]
        assert bool(drained.window(middle).ask("99", since, DEFINITIONS).reasons) == bool(concerns_all)


def test_an_event_of_a_transaction_that_the_earlier_snapshot_shows_is_over() -> None:
    drained = Drained()
    drained.drain()
    before = drained.server.snapshot()
    xid = drained.server.begin()
    drained.server.commit(xid)
    drained.server.hidden.remove(xid)
    after = drained.server.snapshot()
    event = Event(drained.server.lsn, "truncate", TABLE, None, "it was truncated", xid, BASE)
    drained.drain(change=lambda facts: SegmentFacts(facts.fences, facts.layouts, facts.coverage, (event,)))
    upto = drained.server.snapshot()
    drained.drain()
    asked = drained.window(upto)
    assert TABLE in asked.ask("17", before, DEFINITIONS).reasons
    assert asked.ask("17", after, DEFINITIONS).reasons == {}


def test_a_table_that_is_not_journaled() -> None:
    drained, since, upto = _history()
    answer = drained.window(upto).ask("17", since, {**DEFINITIONS, "public.notes": "d"})
    assert answer.reasons == {"public.notes": window.NOT_JOURNALED}


def test_a_hole_and_a_lost_beginning() -> None:
    """A chain is what there is without a hole up to its end."""
    drained, since, upto = _history()
    drained.journal.delete([drained.written[1]])
    assert drained.window(upto).ask("17", since, DEFINITIONS).reasons == {TABLE: window.TOO_SHORT}


def test_a_journal_that_is_not_drained_as_far() -> None:
    drained, since, _ = _history()
    drained.server.begin()
    assert drained.window(drained.server.snapshot()).ask("17", since, DEFINITIONS).reasons == {
        TABLE: window.NOT_DRAINED
    }


def test_no_journal_another_server_and_standbys() -> None:
    drained, since, upto = _history()
    point = RecoveryPoint("2026-01-15T14:32:07Z", upto, "0/0", str(0xDEADBEEF), 2, 180000, "app", "")
    promoted = Window(drained.journal, point, drained.server.behind(upto))
    assert promoted.ask("17", since, DEFINITIONS).reasons == {TABLE: window.OTHER_SERVER}
    assert Drained().window(upto).ask("17", since, DEFINITIONS).reasons == {TABLE: window.NO_JOURNAL}
    asked = drained.window(upto)
    assert asked.ask("17", "1000:1003:", DEFINITIONS).reasons == {TABLE: window.STANDBY}
    assert drained.window("1000:1003:").ask("17", since, DEFINITIONS).reasons == {TABLE: window.STANDBY}


def test_a_new_incarnation_is_a_gap() -> None:
    drained, since, _ = _history()
    drained.incarnation = LATER.replace("-2-", "-1-")
    drained.drain()
    upto = drained.server.snapshot()
    drained.drain()
    assert drained.window(upto).ask("17", since, DEFINITIONS).reasons == {TABLE: window.BEGAN_ANEW}


@pytest.mark.parametrize(("tenant", "table"), [(None, None), ("17", None), (None, TABLE), ("17", TABLE)])
def test_a_gap_that_was_recorded(tenant: str | None, table: str | None) -> None:
    drained, since, upto = _history()
    drained.journal.record_gap(Gap(INCARNATION, "lost", table, tenant, 1 << 40, BASE, "somebody said so"))
    asked = drained.window(upto)
    assert "somebody said so" in asked.ask("17", since, DEFINITIONS).reasons[TABLE]
    assert bool(asked.ask("18", since, DEFINITIONS).reasons) == (tenant is None)


def test_a_gap_between_two_snapshots_ends_what_is_told_across_it() -> None:
    """Not what is told since the later one, if a fence came between; nor of other tables and tenants."""
    drained, since, upto = _history()
    asked = drained.window(upto)
    asked.ask("17", since, DEFINITIONS)
    gap = asked.gap("wrong", "17", TABLE, Snapshot.parse(since), Snapshot.parse(since), BASE, "somebody saw it")
    assert gap.begin is not None
    assert gap.begin < gap.position
    drained.journal.record_gap(gap)
    drained.drain()
    later = drained.server.snapshot()
    drained.drain()
    assert "somebody saw it" in drained.window(upto).ask("17", since, DEFINITIONS).reasons[TABLE]
    assert drained.window(upto).ask("18", since, DEFINITIONS).reasons == {}
    assert drained.window(later).ask("17", upto, DEFINITIONS).reasons == {}


def test_a_damaged_block_is_its_tenants_alone() -> None:
    drained, since, upto = _history()
    (key,) = [
        info.key for info in drained.store.list("") if info.key.endswith(drained.written[2].below.rpartition("/")[2])
    ]
    asked = drained.window(upto)
    answers = {tenant: asked.ask(tenant, since, DEFINITIONS) for tenant in BOTH}
    (ref,) = drained.journal.directory(drained.written[2]).tenants["17"].blocks
    body = bytearray(drained.store.get(key, 1 << 20))
    body[ref.offset + 40] ^= 1
    drained.store.put(key, bytes(body))
    failed: list[str] = []
    found = drained.read(asked, answers, failed)
    assert failed == ["17"]
    assert found == {"17": [], "18": drained.between(since, upto)["18"]}


def test_a_block_of_another_repository_of_the_tenant_does_not_count() -> None:
    drained, since, upto = _history()
    asked = drained.window(upto)
    answer = asked.ask("17", since, DEFINITIONS)
    assert answer.since is not None
    failed: list[str] = []
    reader = Reader(answer.since, answer.start, "other", drained.tenants["17"].sealer)
    assert list(asked.read({"17": reader}, lambda key, _: failed.append(key))) == []
    assert failed == ["17"]
