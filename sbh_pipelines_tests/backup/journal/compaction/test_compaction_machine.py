"""Drains, compaction, retention, erasure, in any order and killed after any write: what readers are told stays the same."""

from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sbh_pipelines.backup.journal.compaction.compact import Compaction, Erased
from sbh_pipelines.backup.journal.compaction.retired import RETIRED_FOR, retired
from sbh_pipelines.backup.retain.journal_floor import LONGEST_WAIT, Need, Needs, outdated
from sbh_pipelines.repository.journal.segments.changes import Layout
from sbh_pipelines.repository.journal.segments.directory import Coverage, Event, FencePoint, SegmentFacts
from sbh_pipelines.repository.journal.segments.names import Incarnation
from sbh_pipelines_tests.backup.journal.compaction.timed_store import TimedStore
from sbh_pipelines_tests.repository.journal.journals import (
    CatalogKeyInMemory,
    TenantKeys,
    journal_on,
    transactions,
    written,
)
from sbh_pipelines_tests.support.effort import examples
from sbh_pipelines_tests.support.fault_stores import Killed

TENANTS = [TenantKeys("acme", "17"), TenantKeys("bolt", "18"), TenantKeys("cord", "19")]
TASKS = Layout("public.tasks", ("id", "title"), ("id",), "d1", "UTF8")
NOTES = Layout("public.notes", ("id", "body"), ("id",), "d2", "UTF8")
KEEP = timedelta(days=1)


def microseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)


class Journals(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.store = TimedStore()
        self.journal = journal_on(self.store, CatalogKeyInMemory())
        self.commits: dict[str, list[tuple[str, int]]] = {tenant.tenant_key: [] for tenant in TENANTS}
        self.events: list[tuple[str, Event]] = []
        self.fences: list[tuple[str, FencePoint]] = []
        self.ends: list[tuple[str, int, int]] = []  # incarnation, start, end
        self.erased: set[str] = set()
        self.floor: dict[str, int] = {}
        self.gone: set[str] = set()
        self.seen: dict[Any, list[str]] = {}
        self.xid = 1000
        self.planned: list[Any] = []
        self.new_incarnation()

    def new_incarnation(self) -> None:
        before = [self.incarnation.text] if hasattr(self, "incarnation") else []
        self.incarnation = Incarnation.new(self.store.now, 0xDEADBEEF, 1, after=before)
        self.start = self.end = 100
        self.floor[self.incarnation.text] = 100

    @rule(minutes=st.integers(1, 2500))
    def later(self, minutes: int) -> None:
        self.store.now += timedelta(minutes=minutes)

    @rule(
        ticks=st.lists(
            st.tuples(st.integers(1, 50), st.lists(st.integers(0, 2), max_size=3), st.integers(0, 2), st.booleans()),
            min_size=1,
            max_size=14,
        )
    )
    def drains(self, ticks: list[tuple[int, list[int], int, bool]]) -> None:
        """Some minutes apart. One that overlaps says all of its forerunner once more, or a part of it."""
        for minutes, whose, overlaps, noted in ticks:
            self.store.now += timedelta(minutes=min(minutes, 20) / 2)
            self.drain(whose, overlaps, noted)

    def drain(self, whose: list[int], overlaps: int, noted: bool) -> None:
        incarnation = self.incarnation.text
        before = self.end
        start = before
        if overlaps and self.ends and self.ends[-1][0] == incarnation:
            start = self.ends[-1][1] + (15 if overlaps == 2 else 0)
        new: list[int] = [before + 10 + 10 * at for at in range(len(whose))]
        end = before + 10 * len(whose) + 20
        self.xid += 10
        fence = FencePoint(self.xid, before, end, microseconds(self.store.now))
        for at, tenant in zip(new, whose, strict=True):
            self.commits[TENANTS[tenant].tenant_key].append((incarnation, at))
        if noted:
            event = Event(end - 5, "truncate", "public.tasks", None, "it was emptied")
            self.events.append((incarnation, event))
        self.fences.append((incarnation, fence))
        own = {
            tenant.public(): found
            for tenant in TENANTS
            if tenant.tenant_key not in self.erased
            if (
                found := [at for inc, at in self.commits[tenant.tenant_key] if inc == incarnation and start < at <= end]
            )
        }
        layouts = (TASKS, NOTES) if len(whose) % 2 else (TASKS,)
        facts = SegmentFacts(
            tuple(one for inc, one in self.fences if inc == incarnation and start <= one.before < end),
            layouts,
            {"public.tasks": (Coverage(start, end, "d1"),)},
            tuple(one for inc, one in self.events if inc == incarnation and start < one.position <= end),
            {"99": (1, self.xid)},
        )
        written(self.journal, start, end, own, incarnation=incarnation, facts=facts)
        self.ends.append((incarnation, start, end))
        self.end = end

    @rule()
    def slot_is_lost(self) -> None:
        self.store.now += timedelta(minutes=1)
        self.new_incarnation()
        self.drain([0, 1], 0, False)

    @rule(tenant=st.integers(0, 2))
    def erase(self, tenant: int) -> None:
        self.erased.add(TENANTS[tenant].tenant_key)

    @rule(lives=st.one_of(st.none(), st.integers(0, 12)))
    def compact(self, lives: int | None) -> None:
        homes = [tenant.home for tenant in TENANTS if tenant.tenant_key in self.erased]
        compaction = Compaction(self.journal, Erased(homes, lambda _: True), self.store.now, lambda: None)
        with self.killed_after(lives):
            compaction.run(dry_run=False)
        assert compaction.issues == []

    @rule(lives=st.one_of(st.none(), st.integers(0, 12)))
    def remove_sources(self, lives: int | None) -> None:
        listing = self.journal.listing()
        for incarnation in listing.incarnations:
            found = retired(listing.of(incarnation), self.store.now, lambda name: bool(self.journal.directory(name)))
            with self.killed_after(lives):
                self.journal.delete([name for name, _ in found])

    @rule(lives=st.one_of(st.none(), st.integers(0, 12)), needed=st.integers(0, 400))
    def forget(self, lives: int | None, needed: int) -> None:
        """`needed`: how many transaction ids ago the oldest backup was made that somebody needs."""
        horizon = self.store.now - KEEP
        xmin = self.xid - needed
        needs = Needs(horizon, [Need("acme", "backup_20260115_1200", xmin, 0xDEADBEEF, 1)], [])
        issues: list[Any] = []
        found = outdated(self.journal, self.journal.listing(), needs, issues)
        assert issues == []
        since = microseconds(horizon)
        for incarnation in {incarnation for incarnation, _ in self.fences}:
            fences = [fence for inc, fence in self.fences if inc == incarnation]
            is_former = incarnation != self.incarnation.text
            if is_former and fences[-1].time < since:
                self.gone.add(incarnation)
            long_ago = microseconds(horizon - LONGEST_WAIT)
            told = [one for one in fences if one.time <= since and (one.xid < xmin or one.time <= long_ago)]
            if told:
                self.floor[incarnation] = max(self.floor[incarnation], told[-1].before)
        with self.killed_after(lives):
            self.journal.delete([one.name for one in found])
        if lives is None and self.ends:
            assert not {one.name for one in found} & set(self.journal.listing().segments)

    @rule()
    def plan_a_reading(self) -> None:
        """Somebody plans now, and reads within a day."""
        incarnation = self.incarnation.text
        if self.end > self.floor[incarnation]:
            cover = self.journal.cover(incarnation, self.floor[incarnation], self.end)
            self.planned.append((self.store.now + RETIRED_FOR, incarnation, cover))

    @invariant()
    def plans_hold_for_a_day(self) -> None:
        self.planned = [one for one in self.planned if one[0] > self.store.now]
        for _, incarnation, cover in self.planned:
            for stretch in cover.stretches:
                if stretch.end <= self.floor[incarnation] or incarnation in self.gone:
                    continue
                self.journal.directory(stretch.segment)

    @invariant()
    def everybody_is_told_the_same(self) -> None:
        for incarnation in {incarnation for incarnation, _, _ in self.ends} - self.gone:
            start, end = self.floor[incarnation], max(end for inc, _, end in self.ends if inc == incarnation)
            if start >= end:
                continue
            for tenant in TENANTS:
                if tenant.tenant_key in self.erased:
                    continue
                found, holes = transactions(self.journal, tenant, incarnation, start, end)
                assert holes == ()
                wanted = [at for inc, at in self.commits[tenant.tenant_key] if inc == incarnation and at > start]
                assert [one.commit for one in found] == wanted
            self.facts_are_the_same(incarnation, start, end)

    def facts_are_the_same(self, incarnation: str, start: int, end: int) -> None:
        fences: list[FencePoint] = []
        events: list[Event] = []
        covered: list[tuple[int, int]] = []
        for stretch in self.journal.cover(incarnation, start, end).stretches:
            facts = self.journal.directory(stretch.segment).facts
            known = fences[-1].xid if fences else 0
            fences += [one for one in facts.fences if one.xid > known and start <= one.before < stretch.end]
            events += [one for one in facts.events if stretch.start < one.position <= stretch.end]
            covered += [
                (max(one.start, stretch.start), min(one.end, stretch.end)) for one in facts.coverage["public.tasks"]
            ]
        assert fences == [one for inc, one in self.fences if inc == incarnation and one.before >= start]
        assert events == [one for inc, one in self.events if inc == incarnation and one.position > start]
        assert covered[0][0] == start
        assert covered[-1][1] == end
        assert all(one[1] == other[0] for one, other in pairwise(covered))

    def killed_after(self, lives: int | None) -> Any:
        store = self.store

        class _Killed:
            def __enter__(self) -> None:
                store.lives = lives

            def __exit__(self, kind: Any, *_: object) -> bool:
                store.lives = None
                return kind is Killed

        return _Killed()


TestJournals = Journals.TestCase
TestJournals.settings = settings(max_examples=examples(15), stateful_step_count=20, deadline=None, print_blob=True)
