"""One drain: the server's stream up to a fence of our own becomes a segment for each region, and then the server may forget it.

The order of the steps is what makes it exact, and killed after any of them the next drain heals:

     1  lease                     expires by itself
     2  chain's end, slot         a gap is recorded before the slot is dropped and made anew
     3  publication
     4  lookup snapshot, survey
     5  fence                     one more transaction of ours in the log
     6  survey, tenants' keys
     7  first pass: the stream into a sealed temporary file, up to the fence, which must come by
        the slot must be where it was by then: nobody else drains, and the log is the one that was told before
     8  wait until every transaction of the window is seen by snapshots: the next drain's lookups are taken after that
     9  second pass: whose each change is, into sealed blocks
    10  segments of all regions, each read back whole: those of some regions are written once more, with a later end
    11  the slot advances         from here on nothing of the window is needed again
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from sbh_pipelines.backup.journal.chain import PUBLICATION, ChainEnd, read_chain
from sbh_pipelines.backup.journal.coverage import find_steps
from sbh_pipelines.backup.journal.drain_result import DrainResult
from sbh_pipelines.backup.journal.guard import guard_slot, home_region, most_held
from sbh_pipelines.backup.journal.routing.arrivals import Arrivals
from sbh_pipelines.backup.journal.routing.decoding import Decoder
from sbh_pipelines.backup.journal.routing.departures import find_orphans
from sbh_pipelines.backup.journal.routing.events import UNSAID, EventKind, Happenings
from sbh_pipelines.backup.journal.routing.followers import CountRows, Followers
from sbh_pipelines.backup.journal.routing.places import Places
from sbh_pipelines.backup.journal.routing.records import ROW
from sbh_pipelines.backup.journal.routing.router import Router, note_first
from sbh_pipelines.backup.journal.routing.routes import Index, Key, Link, Plan, Route
from sbh_pipelines.backup.journal.routing.spool import Spool
from sbh_pipelines.backup.journal.routing.states import MOST_IN_MEMORY, States
from sbh_pipelines.backup.journal.routing.tenant_blocks import TenantBlocks
from sbh_pipelines.backup.journal.slot_life import Break, check_known, check_own, find_break, record_break
from sbh_pipelines.backup.journal.survey import Publishing, check_publication, publish, take_survey
from sbh_pipelines.backup.journal.window.horizon import Horizon
from sbh_pipelines.backup.journal.window.snapshot import Snapshot
from sbh_pipelines.backup.journal.window_segments import DrainWindow, StoredSegments, store_segments
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.journal.fence import place_fence, up_to
from sbh_pipelines.database.journal.lookup import count_rows, find_rows, lookup_snapshot, snapshot_of
from sbh_pipelines.database.journal.publication import drop_publication
from sbh_pipelines.database.journal.server import (
    ServerLife,
    journal_session,
    publication_oid,
    read_life,
    still_running,
    stream_timeout,
)
from sbh_pipelines.database.journal.slot import advance_slot, create_slot, drop_slot, read_slot
from sbh_pipelines.database.journal.stream import read_stream
from sbh_pipelines.database.session.connection import Connection, database_encoding
from sbh_pipelines.database.session.targets import journal_database
from sbh_pipelines.errors import JournalError, JournalGap, LeaseHeld, LeaseLost, SbhError, SourceConflict, TookTooLong
from sbh_pipelines.model import Progress, ProgressSink, RecoveryPoint, no_progress
from sbh_pipelines.repository.journal.journal import Journal
from sbh_pipelines.repository.journal.segments.changes import lsn_text
from sbh_pipelines.repository.journal.segments.names import Incarnation
from sbh_pipelines.repository.journal.segments.segment import SegmentWriter
from sbh_pipelines.repository.journal.slot_marks import SlotMark
from sbh_pipelines.repository.lease import Lease, acquire, kept, new_owner

_LEASE_S = 120.0
_SETTLE_S = 30.0  # how long a transaction may be in the log and not be seen: it waits for a standby
_NOTICE = 50_000  # records between two notices of progress


def drain(
    site: Site,
    *,
    progress: ProgressSink = no_progress,
    spool_directory: Path | None = None,
    most_states: int = MOST_IN_MEMORY,
    begins: bool = True,
) -> DrainResult:
    """One drain. `most_states`: how many rows that others follow are kept in memory.

    `begins`: whether a journal is begun where there is none that goes on. That waits for every transaction of the server that
    writes: who has one open, or has no time, leaves it to others, and gets a JournalError.

    Raises JournalError, SlotTrouble, LeaseHeld while another one runs, and errors of source and stores.
    """
    settings = site.settings
    if not settings.journal.enabled:
        raise JournalError(
            "The change journal is not turned on", remedy="set enabled = true under [journal], then `sbh journal setup`"
        )
    site.fence.check()
    journals = {region: site.journal(region) for region in settings.storage.regions}
    home = journals[home_region(site)]
    try:
        lease = acquire(home.store, home.prefix, new_owner("drain"), "drain", _LEASE_S, site.clock)
        with kept(lease, _LEASE_S):
            return _Drain(site, journals, lease, progress, spool_directory, most_states, begins).run()
    except LeaseHeld:
        raise
    except SbhError:
        with suppress(SbhError):  # what the drain failed of is what is said
            guard_slot(site)
        raise


def drain_until(
    site: Site, point: RecoveryPoint, *, timeout_s: float = 600.0, progress: ProgressSink = no_progress
) -> int:
    """Drain, or wait for drains of others, until the chain has a fence behind all that `point` shows, which has been taken.

    The fence's 64-bit id. No journal is begun: one that began now would tell nothing of `point`. Raises TookTooLong, and what
    `drain` raises.
    """
    deadline = time.monotonic() + timeout_s
    journals = {region: site.journal(region) for region in site.settings.storage.regions}
    horizon, known = Horizon.of(point), -1
    while True:
        try:
            return drain(site, progress=progress, begins=False).fence  # placed after the point was taken
        except LeaseHeld:
            chain = read_chain(journals)
            last = chain.fence if chain is not None else None
            # One that was there before may be of a history that the server lost; who drains now finds it out.
            if known >= 0 and last is not None and last.xid != known and horizon.is_before(last):
                return last.xid
            known = last.xid if last is not None else 0
            if time.monotonic() > deadline:
                raise TookTooLong(
                    "The change journal did not come as far as the backup needs it",
                    why="another drain works on it",
                    remedy="see `sbh journal status`",
                ) from None
            time.sleep(1.0)


@dataclass
class _Drain:
    site: Site
    journals: Mapping[str, Journal]
    lease: Lease
    progress: ProgressSink
    directory: Path | None
    most_states: int
    begins: bool
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.settings = self.site.settings
        self.database = journal_database(self.settings)
        self.slot = self.settings.journal.slot
        self.marks = self.journals[home_region(self.site)].slot_marks

    def run(self) -> DrainResult:
        with journal_session(self.database, "journal") as connection:
            life = read_life(connection)
            chain, broken = self._chain(connection, life)
            if chain is None:
                self._check_begins(broken.why if broken else "none was begun yet")
            published = publish(connection, self.settings)
            publication = str(publication_oid(connection, self.settings.journal.publication))
            another = chain is not None and chain.readings.get(PUBLICATION, publication) != publication
            if published.change is None and (published.made or another):
                raise JournalError(
                    f"There is {'no' if published.made else 'another'} publication, and it cannot be"
                    f" {'made' if published.made else 'altered'} now",
                    on=self.settings.journal.publication,
                    why=published.trouble,
                    remedy="run `sbh journal setup` as a role that owns the tables and the publication",
                )
            if chain is not None and (published.made or another):
                # What was changed while there was none is not decoded, or not even what was changed before.
                broken = Break("publication_missing", "the publication was gone")
                self._break(connection, chain, broken)
                chain = None
            if chain is None:
                incarnation, start = self._begin(connection, life, published.made)
            else:
                incarnation, start = chain.incarnation, chain.end
            with lookup_snapshot(self.database) as seen:
                window = self._window(connection, incarnation, chain, start, publication)
                return self._write(connection, seen, window, broken, published)

    # steps 2 and 3

    def _chain(self, connection: Connection, life: ServerLife) -> tuple[ChainEnd | None, Break | None]:
        """The chain that goes on, or why none does; a slot that cannot go on is gone then."""
        marks = self.marks.read()
        chain = read_chain(self.journals, {one.incarnation for one in marks if one.slot == self.slot})
        slot = read_slot(connection, self.slot)
        if slot is not None:
            check_own(slot, life, self.slot)
            check_known(chain, slot, life, self.slot, marks)
        check_publication(connection, self.settings, chain.publication if chain is not None else 0)
        broken = find_break(chain, slot, life, most_held(self.settings))
        if broken is None:
            return chain, None
        self._break(connection, chain, broken)
        return None, broken if chain is not None else None

    def _check_begins(self, why: str) -> None:
        if not self.begins:
            raise JournalError(
                "There is no change journal that goes on",
                on=self.slot,
                why=why,
                remedy="`sbh journal setup` begins one, and so does the next drain of the schedule",
            )

    def _break(self, connection: Connection, chain: ChainEnd | None, broken: Break) -> None:
        """What went on so far has ended: another is begun after this."""
        self._check_begins(broken.why)
        self.lease.renew()
        if chain is not None:
            record_break(self.journals, chain, broken, self.site.clock)
        drop_slot(connection, self.slot)

    def _begin(self, connection: Connection, life: ServerLife, made: bool) -> tuple[Incarnation, int]:
        """A new slot. The publication is older than it: what the slot gives is judged by the catalogue of its time.

        The mark is older than both: killed from here on, the next drain knows the slot for ours. `made`: the publication was made
        for it, and is taken away again where the slot cannot be made.
        """
        names = [name for journal in self.journals.values() for name in journal.incarnations()]
        names += [mark.incarnation for mark in self.marks.read()]
        incarnation = Incarnation.new(self.site.clock(), life.system_id, life.timeline, after=names)
        self.marks.set(SlotMark(self.slot, incarnation.system_id, life.database, incarnation.text))
        try:
            return incarnation, create_slot(connection, self.slot)
        except SbhError as error:
            if made:
                with suppress(SbhError):  # the slot's trouble is what is said
                    drop_publication(connection, self.settings.journal.publication)
                    error.why += "; the publication that was made for it is taken away again"
            raise

    # steps 4 to 6

    def _window(
        self, connection: Connection, incarnation: Incarnation, chain: ChainEnd | None, start: int, publication: str
    ) -> DrainWindow:
        before = take_survey(connection, self.settings)
        fence = place_fence(connection, f"drain of {self.slot}")
        after = take_survey(connection, self.settings)
        places = Places(self.site, self.journals, database_encoding(connection))
        return DrainWindow(
            incarnation, chain, start, before, after, fence, places, publication, find_steps(chain, before, after)
        )

    # steps 7 to 11

    def _write(
        self, connection: Connection, seen: Connection, window: DrainWindow, broken: Break | None, published: Publishing
    ) -> DrainResult:
        plan, happenings = window.before.plan, Happenings()
        decoder = Decoder(
            plan,
            window.after.identities,
            window.before.definitions,
            happenings,
            start=window.start,
            widen=window.fence.widen,
            left_out=window.before.left_out,
            steps={name: (step.before, step.then, step.now) for name, step in window.steps.items()},
        )
        with ExitStack() as stack:
            spool = stack.enter_context(Spool(self.directory))
            firsts = stack.enter_context(States(self.most_states, self.directory))
            lasts = stack.enter_context(States(self.most_states, self.directory))
            arrivals = Arrivals(plan, firsts)
            bound = stream_timeout(window.fence.after - window.start)
            with journal_session(self.database, "journal stream", statement_s=bound) as streaming:
                messages = up_to(
                    read_stream(streaming, self.slot, self.settings.journal.publication, window.fence.after),
                    window.fence,
                )
                for record in decoder.decode(messages):
                    note_first(plan, firsts, record)
                    arrivals.note(record)
                    spool.append(record, len(record[ROW]))
                    if not spool.records % _NOTICE:
                        self._notice("stream", spool.records, 0)
            self._check_alone(connection, window, decoder)
            self._settle(connection, decoder)

            def lookup(index: Index, keys: Sequence[Key]) -> Mapping[Key, Link]:
                return _find(seen, plan, index, keys)

            afterwards: list[tuple[Connection, Followers]] = []

            def orphans(index: Index, keys: Sequence[Key]) -> set[Key]:
                if not afterwards:
                    later = stack.enter_context(lookup_snapshot(self.database))
                    afterwards.append((later, Followers(plan, _count(later, plan))))
                later, followers = afterwards[0]
                return find_orphans(index, keys, lambda index, keys: _find(later, plan, index, keys), followers)

            router = Router(plan, firsts, lasts, lookup, happenings, orphans)
            writers = {
                region: stack.enter_context(SegmentWriter(region, window.incarnation.text, window.start, decoder.end))
                for region in self.journals
            }
            blocks = TenantBlocks(window.places.of, writers)
            at = decoder.transactions
            transaction, last = (0, 0, 0), -1
            for done, (number, tenant, layout, op, key, row) in enumerate(router.route(spool)):
                if number != last:
                    transaction, last = (at.commits[number], at.times[number], at.xids[number]), number
                blocks.add(tenant, transaction, layout, op, key, row)
                if not done % _NOTICE:
                    self._notice("route", done, spool.records)
            blocks.finish()
            self._notice("waiting rows", spool.records, spool.records)
            snapshot = Snapshot.parse(snapshot_of(seen))
            for arrival in arrivals.waited_for(
                spool,
                Followers(plan, _count(seen, plan), quick_only=True),
                lambda number: snapshot.shows(at.xids[number]),
                lookup,
                {one.table for one in happenings if one.kind in UNSAID},
            ):
                why = f"a row of {plan.routes[arrival.table].name} came, and rows that refer to it were there before it"
                for follower in plan.followers[arrival.table]:
                    happenings.add(arrival.transaction, EventKind.MOVED, follower, arrival.owners, why)
            self.site.fence.check()
            self.lease.renew()  # what a drain whose lease was taken stores would contradict what the other one does
            stored = store_segments(
                self.journals, window, decoder, happenings, blocks, writers, between=self.lease.renew_if_due
            )
            return self._end(connection, window, decoder, stored, broken, published)

    def _notice(self, step: str, done: int, total: int) -> None:
        self.lease.renew_if_due()
        self.progress(Progress(step, "journal", done, total, "changes"))

    def _check_alone(self, connection: Connection, window: DrainWindow, decoder: Decoder) -> None:
        """A slot that somebody advanced meanwhile may not have given all that lies behind the window's start."""
        slot = read_slot(connection, self.slot)
        if slot is None or slot.confirmed_flush > window.start:
            raise LeaseLost(
                "Another drain went on with the slot meanwhile",
                on=self.slot,
                why=f"it is at {lsn_text(slot.confirmed_flush)}, beyond {lsn_text(window.start)}"
                if slot
                else "it is gone",
                remedy="drain again; if it stays so, somebody else uses the slot, or the clocks of two machines differ",
            )
        self._check_joined(connection, window, decoder, slot.confirmed_flush)

    def _check_joined(self, connection: Connection, window: DrainWindow, decoder: Decoder, confirmed: int) -> None:
        """A slot that is behind the chain gives the last fence again; where it does not, the log is not that which was told.

        `confirmed`: where the slot was, also if another history of the server has nothing to tell up to the chain's end.
        """
        chain = window.chain
        if chain is None or chain.fence is None:
            return
        if window.fence.xid <= chain.fence.xid:
            self._lost_thread(connection, chain, "ids of transactions went back")
        again = decoder.last_passed == (chain.end, chain.fence.xid & 0xFFFF_FFFF)
        if (decoder.passed_over or confirmed < chain.end) and not again:
            self._lost_thread(connection, chain, "the last fence is not where it was")

    def _lost_thread(self, connection: Connection, chain: ChainEnd, why: str) -> None:
        broken = Break("server_back", f"{why}: the server was put back to an earlier state")
        self._break(connection, chain, broken)
        raise JournalGap(
            "The server's log is not the one that was journaled",
            on=self.slot,
            why=broken.why,
            remedy="drain again: a new chain begins, and the next backup of each tenant is read by itself",
        )

    def _settle(self, connection: Connection, decoder: Decoder) -> None:
        """A commit may be in the log for a while before snapshots see it: it waits for a standby."""
        deadline = time.monotonic() + _SETTLE_S
        while running := still_running(connection, decoder.transactions.xids):
            if time.monotonic() > deadline:
                raise SourceConflict(
                    "Transactions are in the server's log, and nobody sees them yet",
                    on=", ".join(map(str, sorted(running)[:5])),
                    why="their commits wait for a standby",
                    remedy="see pg_stat_replication; the next drain reads them again",
                )
            time.sleep(0.2)

    def _end(
        self,
        connection: Connection,
        window: DrainWindow,
        decoder: Decoder,
        stored: StoredSegments,
        broken: Break | None,
        published: Publishing,
    ) -> DrainResult:
        self.lease.renew()
        advance_slot(connection, self.slot, decoder.end)
        slot = read_slot(connection, self.slot)
        change = published.change
        return DrainResult(
            window.incarnation.text,
            window.start,
            decoder.end,
            window.fence.xid,
            window.fence.time,
            window.chain.fence.time if window.chain and window.chain.fence else None,
            len(decoder.transactions),
            sum(region.changes for region in stored.regions),
            stored.events,
            stored.covered,
            tuple(sorted(window.before.readings.keys() - set(stored.covered))),
            {**window.before.left_out, **published.refused},
            stored.regions,
            broken.why if broken else None,
            (published.trouble,) if change is None else change.statements,
            slot.held_bytes if slot else 0,
            time.monotonic() - self.began,
        )


def _find(connection: Connection, plan: Plan, index: Index, keys: Sequence[Key]) -> Mapping[Key, Link]:
    route = plan.routes[index.route]
    return find_rows(connection, route.table.table, index.columns, route.link, keys)


def _count(connection: Connection, plan: Plan) -> CountRows:
    def count(route: Route, index: Index, keys: Sequence[Key], within_s: float) -> Mapping[Key, int] | None:
        followed = plan.routes[index.route].table.table
        return count_rows(connection, route.table.table, route.link, (followed, index.columns), keys, within_s)

    return count
