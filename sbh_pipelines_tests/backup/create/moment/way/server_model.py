"""A server in memory: transactions that overlap, whose commits show in another order than the log has them; its journal; snapshots."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import strategies as st

from sbh_pipelines.backup.create.moment.way.base import Base
from sbh_pipelines.backup.journal.window.snapshot import Snapshot
from sbh_pipelines.repository.journal.journal import Journal
from sbh_pipelines.repository.journal.segments.block import BlockBuffer
from sbh_pipelines.repository.journal.segments.changes import UNCHANGED, Change, Op
from sbh_pipelines.repository.journal.segments.directory import Coverage, Event, FencePoint, SegmentFacts
from sbh_pipelines.repository.journal.segments.segment import SegmentWriter
from sbh_pipelines_tests.repository.journal.journals import INCARNATION, LAYOUT, TenantKeys

TABLE = LAYOUT.table
STEP = 100  # of the log, a transaction
HOUR = 3_600_000_000
Rows = dict[bytes, bytes]  # key -> row


@dataclass(frozen=True)
class Done:
    """A transaction, or a fence. Its commit record ends at `lsn`; it shows from `shows` on, in the order of these numbers."""

    lsn: int
    xid: int
    time: int
    shows: float
    writes: tuple[tuple[bytes, bytes | None], ...] = ()  # key -> title; None: goes
    fence: bool = False
    before: int = 0  # how far the log was flushed when it began


@dataclass
class Server:
    """What was done, in the order of the log."""

    done: list[Done]
    first_xid: int
    lag: int
    events: list[Event] = field(default_factory=list)

    @property
    def own(self) -> list[Done]:
        """Transactions that did something: of the others the stream says nothing."""
        found, rows = [], dict[bytes, bytes]()
        for one in self.done:
            if self.changes(one, rows, partial=True):
                found.append(one)
            rows = self.rows([*found])
        return found

    def rows(self, which: Sequence[Done]) -> Rows:
        found: Rows = {}
        for one in which:
            for key, title in one.writes:
                if title is None:
                    found.pop(key, None)
                else:
                    found[key] = key + b"\t" + title
        return found

    def snapshot(self, at: float) -> tuple[Snapshot, list[Done]]:
        """What shows at a moment between two commits, and the transactions that do, in the order of the log."""
        shown = [one for one in self.done if one.shows <= at]
        xmax = max((one.xid for one in shown), default=self.first_xid - 1) + 1
        running = frozenset(one.xid for one in self.done if one.shows > at and one.xid < xmax)
        return Snapshot(min(running, default=xmax), xmax, running), shown

    def changes(self, one: Done, before: Rows, *, partial: bool) -> list[Change]:
        """As the stream gives them; `partial`: an UPDATE that leaves the title alone says so."""
        found, now = [], dict(before)
        for key, title in one.writes:
            if title is None:
                if key in now:
                    found.append(Change(0, Op.DELETE, key, b""))
                    del now[key]
                continue
            row = key + b"\t" + title
            if key not in now:
                found.append(Change(0, Op.INSERT, b"", row))
            elif partial and now[key] == row:
                found.append(Change(0, Op.UPDATE, b"", key + b"\t" + UNCHANGED))
            else:
                found.append(Change(0, Op.UPDATE, b"", row))
            now[key] = row
        return found

    def journal_into(self, journal: Journal, tenant: TenantKeys) -> None:
        """A segment for each fence. What is behind the last one is not journaled yet."""
        start, rows, buffer = 0, dict[bytes, bytes](), BlockBuffer()
        for one in self.done:
            if not one.fence:
                for change in self.changes(one, rows, partial=True):
                    buffer.add(one.lsn, one.time, one.xid, change)
                rows = self.rows([*[d for d in self.done if d.lsn <= one.lsn]])
                continue
            facts = SegmentFacts(
                (FencePoint(one.xid, one.before, one.lsn + 5, one.time),),
                (LAYOUT,),
                {TABLE: (Coverage(start, one.lsn, "d1"),)},
                tuple(event for event in self.events if start < event.position <= one.lsn),
            )
            with SegmentWriter(journal.region, INCARNATION, start, one.lsn) as writer:
                if (taken := buffer.take()) is not None:
                    writer.add_block(tenant.public(), *taken)
                journal.write(writer, facts)
            start = one.lsn

    def base(self, at: float) -> tuple[Base, list[Done]]:
        """A backup of that moment, as far as laying asks of it."""
        snapshot, shown = self.snapshot(at)
        fake = SimpleNamespace(snapshot=snapshot, definitions={TABLE: "d1"}, lsn=flushed(at, self.lag))
        return cast(Base, fake), shown


@st.composite
def servers(draw: Any) -> Server:
    """Keys are few, so that transactions meet. Who writes a key that another wrote shows after it; times may go back.

    The n-th commit record is written at the time n. A transaction got its id before, and shows some time after.
    """
    count = draw(st.integers(4, 24))
    first_xid = draw(st.sampled_from([1000, (1 << 32) - 8]))
    lag = draw(st.integers(0, 1))  # commits that are not flushed at once
    title = st.none() | st.sampled_from([b"a", b"b", b"c"])
    last_shown: dict[bytes, float] = {}
    time, fenced = 1_768_487_527_000_000, -1.0
    begun: list[float] = []
    parts: list[tuple[int, float, Any, bool]] = []
    for number in range(count):
        time += draw(st.sampled_from([1_000_000, 60_000_000, HOUR, -30_000_000, -2 * HOUR]))
        shows = number + draw(st.sampled_from([0.1, 1.2, 2.3])) + number / 1000
        begin = number - draw(st.sampled_from([0.3, 1.4, 2.5])) + number / 1000
        if number in (0, count - 1) or draw(st.integers(0, 3)) == 0:
            begin = max(begin, fenced + 0.0001)
            if begin < number:  # drains come one after the other
                fenced = shows
                parts.append((time, shows, (), True))
                begun.append(begin)
                continue
        writes = tuple(draw(st.lists(st.tuples(st.sampled_from([b"1", b"2", b"3"]), title), min_size=1, max_size=3)))
        shows = max([shows, *(last_shown.get(key, 0) + 0.001 for key, _ in writes)])
        last_shown |= {key: shows for key, _ in writes}
        parts.append((time, shows, writes, False))
        begun.append(begin)
    order = sorted(range(count), key=lambda number: begun[number])
    xids = {number: first_xid + at for at, number in enumerate(order)}
    done = [
        Done((n + 1) * STEP, xids[n], part[0], part[1], part[2], part[3], flushed(begun[n], lag))
        for n, part in enumerate(parts)
    ]
    return Server(done, first_xid, lag)


def flushed(at: float, lag: int) -> int:
    """How far the log is flushed at a time."""
    return STEP * max(0, math.ceil(at) - lag)
