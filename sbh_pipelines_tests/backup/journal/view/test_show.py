"""What people are shown of the journal: the right transactions, counts and rows, nothing masked, and never all of it in memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from sbh_pipelines.backup.journal.view.chains import read_chains
from sbh_pipelines.backup.journal.view.show import ShowRequest, TableCounts, show
from sbh_pipelines.errors import InvalidId
from sbh_pipelines.model import Tenant, TenantId
from sbh_pipelines.repository.journal.journal import Journal
from sbh_pipelines.repository.journal.segments.block import BlockBuffer
from sbh_pipelines.repository.journal.segments.changes import Change, Layout, Op, commit_time
from sbh_pipelines.repository.journal.segments.directory import Coverage, Event, FencePoint, SegmentFacts
from sbh_pipelines.repository.journal.segments.names import SegmentName
from sbh_pipelines.repository.journal.segments.segment import SegmentWriter
from sbh_pipelines.settings import RestoreSettings
from sbh_pipelines_tests.repository.journal.journals import (
    BASE,
    INCARNATION,
    LATER,
    REGION,
    CatalogKeyInMemory,
    TenantKeys,
    journal_on,
)
from sbh_pipelines_tests.support.memory_store import MemoryStore

ACME = Tenant(TenantId("acme"), "1", REGION, "important")
LAYOUTS = (
    Layout("public.tasks", ("id", "title", "secret"), ("id",), "d1", "UTF8"),
    Layout("public.notes", ("id", "body"), ("id",), "d1", "LATIN1"),
)
Made = tuple[int, Sequence[Change]]


class World:
    """A journal of which segments are written one after the other, a second between two commits."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.keys, self.other = TenantKeys("acme", "1"), TenantKeys("bolt", "2")
        self.journal: Journal = journal_on(self.store, CatalogKeyInMemory())
        self.opened: list[str] = []
        self.names: list[SegmentName] = []

    def write(
        self,
        start: int,
        end: int,
        *transactions: Made,
        events: Sequence[Event] = (),
        incarnation: str = INCARNATION,
        level: int = 0,
    ) -> None:
        """Transactions by their commits; the time of one is its commit in seconds, its id ten times as much."""
        facts = SegmentFacts(
            [FencePoint(end * 10, end - 1, end + 1, at(end))],
            LAYOUTS,
            {"public.tasks": [Coverage(start, end, "d1")]},
            events,
        )
        with SegmentWriter(REGION, incarnation, start, end, level=level) as writer:
            for keys in (self.keys, self.other):
                buffer = BlockBuffer()
                for commit, changes in transactions if keys is self.keys else [(start + 1, [insert(1)])]:
                    for change in changes:
                        buffer.add(commit, at(commit), commit * 10, change)
                if found := buffer.take():
                    writer.add_block(keys.public(), *found)
            self.names.append(self.journal.write(writer, facts))

    @property
    def site(self) -> Any:
        """What `show` asks of a site."""

        @contextmanager
        def opened(tenant: Tenant, home: str) -> Iterator[Any]:
            self.opened.append(home)
            yield SimpleNamespace(sealer={"acme": self.keys, "bolt": self.other}[home].sealer)

        settings = SimpleNamespace(restore=RestoreSettings(sensitive=["tasks.secret"]))
        return SimpleNamespace(journal=lambda region: self.journal, settings=settings, opened=opened)

    def show(self, **asked: Any) -> Any:
        return show(self.site, ACME, ShowRequest(**asked))


def at(commit: int) -> int:
    return BASE + commit * 1_000_000


def insert(number: int, title: bytes = b"buy milk") -> Change:
    return Change(0, Op.INSERT, b"", b"%d\t%s\thush" % (number, title))


def delete(number: int) -> Change:
    return Change(0, Op.DELETE, b"%d" % number, b"")


@pytest.fixture
def world() -> World:
    return World()


def test_transactions_are_counted_by_table_and_kind_in_the_order_of_their_commits(world: World) -> None:
    note = Change(1, Op.UPDATE, b"", b"5\tTsch\xfc\xdf")
    world.write(0, 10, (3, [insert(1), insert(2)]), (7, [delete(1), note, note]))
    world.write(10, 20, (12, [delete(2)]))
    found = world.show()
    assert [one.xid for one in found.transactions] == [30, 70, 120]
    assert found.transactions[1].tables == {
        "public.notes": TableCounts(updated=2),
        "public.tasks": TableCounts(deleted=1),
    }
    assert found.transactions[1].time == "2026-01-15T14:32:14.000000Z"
    assert found.transactions[1].before == "2026-01-15T14:32:13.999999Z"
    assert (found.told_from, found.told_until) == ("2026-01-15T14:32:17.000000Z", "2026-01-15T14:32:27.000000Z")
    assert (found.more, found.gaps, found.issues) == (False, [], [])


def test_a_time_and_tables_choose(world: World) -> None:
    note = Change(1, Op.UPDATE, b"", b"5\ta")
    world.write(0, 10, (3, [insert(1)]), (5, [note]), (7, [delete(1), note]))
    assert [one.xid for one in world.show(tables=["notes"]).transactions] == [50, 70]
    assert list(world.show(tables=["public.notes"]).transactions[1].tables) == ["public.notes"]
    since, until = commit_time(at(4)), commit_time(at(6))
    assert [one.xid for one in world.show(since=since).transactions] == [50, 70]
    assert [one.xid for one in world.show(until=until).transactions] == [30, 50]
    assert [one.xid for one in world.show(since=since, until=until).transactions] == [50]
    with pytest.raises(InvalidId, match="empty"):
        world.show(since=until, until=since)


def test_the_newest_are_read_and_no_segment_before_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(40):
        world.write(n * 10, n * 10 + 10, (n * 10 + 3, [insert(n)]), (n * 10 + 7, [insert(n)]))
    read: list[SegmentName] = []
    directory = world.journal.directory
    monkeypatch.setattr(world.journal, "directory", lambda name: (read.append(name), directory(name))[1])
    found = world.show(limit=3)
    assert [one.xid for one in found.transactions] == [3870, 3930, 3970]
    assert found.more
    assert len(read) == 2
    assert world.opened == ["acme"]
    assert [one.xid for one in world.show(since=commit_time(at(391))).transactions] == [3930, 3970]


def test_rows_are_shown_without_what_is_masked_or_was_not_sent(world: World) -> None:
    moved = Change(0, Op.UPDATE, b"8", b"9\t\\u\t\\N")
    world.write(0, 10, (3, [insert(1, b"a\\tb"), insert(2), moved, delete(3)]))
    (one,) = world.show(samples=1).transactions
    assert [(row.change, dict(row.key), dict(row.columns)) for row in one.samples] == [
        ("inserted", {"id": "1"}, {"id": "1", "title": "a\tb", "secret": "***"}),
        ("updated", {"id": "8"}, {"id": "9", "secret": None}),
        ("deleted", {"id": "3"}, {}),
    ]
    (one,) = world.show(samples=1, show_sensitive=True).transactions
    assert one.samples[0].columns["secret"] == "hush"
    assert world.show().transactions[0].samples == ()


def test_long_values_are_cut_and_other_encodings_read(world: World) -> None:
    note = Change(1, Op.INSERT, b"", b"5\tTsch\xfc\xdf" + b"x" * 500)
    world.write(0, 10, (3, [note]))
    (row,) = world.show(samples=1).transactions[0].samples
    assert row.columns["body"] == "Tschüß" + "x" * 194 + "…"


def test_events_of_the_tenant_are_shown_with_the_moment_before_them(world: World) -> None:
    emptied = Event(5, "truncated", "public.tasks", None, "all its rows went", xid=50, time=at(5))
    others = Event(6, "moved", "public.tasks", ("2",), "", xid=60, time=at(6))
    world.write(0, 10, (3, [insert(1)]), events=[emptied, others])
    (event,) = world.show().events
    assert (event.kind, event.xid, event.before) == ("truncated", 50, "2026-01-15T14:32:11.999999Z")
    assert world.show(tables=["notes"]).events == []


def test_holes_and_new_beginnings_are_told(world: World) -> None:
    world.write(0, 10, (3, [insert(1)]))
    world.write(20, 30, (23, [insert(1)]))
    world.write(100, 110, (103, [insert(1)]), incarnation=LATER)
    found = world.show()
    assert [one.xid for one in found.transactions] == [30, 230, 1030]
    assert found.gaps == [
        "between 2026-01-15T14:32:17.000000Z and 2026-01-15T14:32:37.000000Z: no segment covers all of it",
        "before 2026-01-16T08:00:00Z: the slot or the server began anew",
    ]


def test_a_damaged_segment_is_a_hole_that_is_told_where_no_other_covers_it(world: World) -> None:
    for n in range(3):
        world.write(n * 10, n * 10 + 10, (n * 10 + 3, [insert(n)]))
    key = world.journal.prefix + world.names[1].below
    body = bytearray(world.store.get(key, 1 << 20))
    body[-40] ^= 1
    world.store.put(key, bytes(body))
    found = world.show()
    assert [one.xid for one in found.transactions] == [30, 230]
    assert [error.code for error in found.issues] == ["SBH-601"]
    (gap,) = found.gaps
    assert "no segment covers" in gap
    chains = read_chains(world.journal)
    assert [(one.start, one.end) for one in chains.chains] == [(0, 10), (20, 30)]
    assert [error.code for error in chains.issues] == ["SBH-601"]
    world.write(5, 20, (13, [insert(1)]), level=1)
    found = world.show()
    assert [one.xid for one in found.transactions] == [30, 130, 230]
    assert found.gaps == []
    assert [(one.start, one.end) for one in read_chains(world.journal).chains] == [(0, 30)]


def test_an_empty_journal_tells_nothing(world: World) -> None:
    found = world.show()
    assert (found.transactions, found.told_from, found.told_until) == ([], None, None)


def test_a_chain_is_read_back_to_the_time_asked_for_and_a_segment_further(world: World) -> None:
    for n in range(60):
        world.write(n * 10, n * 10 + 10)
    (chain,) = read_chains(world.journal, at(505)).chains
    assert (chain.start, chain.end) == (490, 600)
    assert chain.coverage == {"public.tasks": [(490, 600)]}
    assert len(chain.fences) == 11
    assert timedelta(microseconds=chain.fences[-1].time - at(600)) == timedelta(0)


def test_a_tenants_user_is_not_told_how_much_others_do(world: World) -> None:
    event = Event(5, "truncated", "public.tasks", None, "all its rows went", xid=50, time=at(5))
    world.write(0, 10, (3, [insert(1)]), events=[event])
    world.write(20, 30, (23, [insert(1)]))
    text = str(world.show().without_server())
    assert "0/" not in text
    assert "xid=None" in text
    assert not {"xid=30", "xid=50", "xid=230"} & {*text.replace(",", " ").split()}
