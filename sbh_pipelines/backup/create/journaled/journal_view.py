"""The change journal at a batch's snapshot: drained when somebody first asks, then asked for each tenant of the batch.

Nothing here fails a backup. Where the journal cannot be drained or read, tables are looked through as without one, and it is said
why.
"""

import threading
from collections.abc import Collection, Mapping

from sbh_pipelines.backup.create.journaled.tenant_journal import TenantJournal
from sbh_pipelines.backup.journal.drain import drain_until
from sbh_pipelines.backup.journal.fold import Merge
from sbh_pipelines.backup.journal.window.snapshot import Snapshot
from sbh_pipelines.backup.journal.window.window import DAMAGED, Answer, Reader, Window
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import RecoveryPoint, Tenant
from sbh_pipelines.repository.journal.gaps import PREDICTION_FAILED
from sbh_pipelines.repository.journal.segments.changes import microseconds_of
from sbh_pipelines.repository.journal.segments.directory import Directory
from sbh_pipelines.repository.journal.segments.names import SegmentName
from sbh_pipelines.repository.seal import Sealer

TOO_MUCH = "more was changed than it is worth to go through one by one"
_FEW = 10_000  # changes that are always worth it
_DIRECTORIES = 64  # kept in memory
_WAIT_S = 120.0  # for the drain of another: meanwhile the batch's snapshot is held


class Directories:
    """Directories of segments that were read lately: they never change, and the next batch needs nearly the same. Thread-safe."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._lock = threading.Lock()
        self._known: dict[SegmentName, Directory] = {}

    def of(self, name: SegmentName) -> Directory:
        with self._lock:
            known = self._known.pop(name, None)
            if known is not None:
                self._known[name] = known  # the latest last
        if known is None:
            known = self._site.journal(name.region).directory(name)
            with self._lock:
                self._known[name] = known
                while len(self._known) > _DIRECTORIES:
                    self._known.pop(next(iter(self._known)))
        return known


class JournalView:
    """One batch's. Thread-safe; `close` it."""

    def __init__(
        self,
        site: Site,
        point: RecoveryPoint,
        definitions: Mapping[str, str],
        directories: Directories | None = None,
        wait_s: float = _WAIT_S,
    ) -> None:
        """`definitions`: fingerprints of all tables at `point`, by full name; `wait_s`: for the drain of another."""
        self.enabled = site.settings.journal.enabled
        self._site, self._point, self._definitions = site, point, definitions
        self._directories, self._wait_s = directories or Directories(site), wait_s
        self._lock = threading.Lock()
        self._behind, self._why_not = 0, ""
        self._windows: dict[str, Window | str] = {}
        self.merge = Merge()

    def close(self) -> None:
        self.merge.close()

    def ask(self, tenant: Tenant, since: str, tables: Collection[str]) -> Answer:
        """What happened to the tenant since a snapshot, in tables whose definitions were then what they are now."""
        definitions = {name: self._definitions[name] for name in tables}
        window = self._window(tenant.region)
        if isinstance(window, str):
            return Answer(dict.fromkeys(definitions, window))
        try:
            return window.ask(tenant.key, since, definitions)
        except SbhError as error:
            return Answer(dict.fromkeys(definitions, f"{DAMAGED}: {error.what}"))

    def open(self, tenant: Tenant, since: str, older: Mapping[str, str], tables: Mapping[str, int]) -> TenantJournal:
        """The tenant's, with nothing merged yet. `tables`: those to ask for, and their rows then.

        `older`: tables whose changes are to be merged since another, older snapshot.
        """
        answer = self.ask(tenant, since, [name for name in tables if name not in older])
        reasons = dict(answer.reasons)
        known = {name: answer.since for name in tables if name not in older and name not in reasons}
        for name, snapshot in older.items():
            one = self.ask(tenant, snapshot, [name])
            reasons |= one.reasons
            if not one.reasons:
                known[name] = one.since
        parent = answer.since or Snapshot.parse(since)
        covered = {name: parent if name not in older else found for name, found in known.items() if found is not None}
        told = TenantJournal(tenant.key, parent, covered, reasons, self.merge)
        window = self._window(tenant.region)
        if covered and isinstance(window, Window):
            oldest = min(covered.values(), key=lambda snapshot: snapshot.xmin)
            if window.changes(tenant.key, oldest) > max(_FEW, sum(tables.values())):
                told.lose_all(TOO_MUCH)
        return told

    def collect(self, told: Mapping[Tenant, TenantJournal], sealers: Mapping[Tenant, Sealer]) -> None:
        """Read what happened to these tenants, and merge it."""
        by_region: dict[str, dict[str, Tenant]] = {}
        for tenant, journal in told.items():
            if journal.since:
                by_region.setdefault(tenant.region, {})[tenant.key] = tenant
        for region, tenants in by_region.items():
            window = self._window(region)
            if not isinstance(window, Window):
                continue
            mine = {key: told[tenant] for key, tenant in tenants.items()}
            readers = {key: self._reader(window, tenant, mine[key], sealers[tenant]) for key, tenant in tenants.items()}

            def failed(key: str, error: SbhError, mine: Mapping[str, TenantJournal] = mine) -> None:
                mine[key].lose_all(f"{DAMAGED}: {error.what}")

            try:
                for key, layouts, transaction in window.read(readers, failed):
                    mine[key].take(layouts, transaction, self._definitions)
            except SbhError as error:
                for journal in mine.values():
                    journal.lose_all(f"{DAMAGED}: {error.what}")
            for journal in mine.values():
                journal.settle()

    def record_wrong(self, tenant: Tenant, since: Snapshot, table: str, read: Snapshot, why: str) -> None:
        """What it told of the table since the snapshot is not what happened: nothing builds on it. `read`: as of `Window.gap`."""
        window = self._window(tenant.region)
        if isinstance(window, Window):
            now = microseconds_of(self._site.clock())
            gap = window.gap(PREDICTION_FAILED, tenant.key, table, since, read, now, why)
            self._site.journal(tenant.region).record_gap(gap)

    def _reader(self, window: Window, tenant: Tenant, journal: TenantJournal, sealer: Sealer) -> Reader:
        oldest = min(journal.since.values(), key=lambda snapshot: snapshot.xmin)
        return Reader(oldest, window.start(oldest), self._site.owners.home_of(tenant), sealer)

    def _window(self, region: str) -> Window | str:
        """The region's, or why there is none."""
        with self._lock:
            if not self._behind and not self._why_not:
                try:
                    self._behind = drain_until(self._site, self._point, timeout_s=self._wait_s)
                except SbhError as error:
                    self._why_not = f"the journal could not be drained: {error.what}"
            if self._why_not:
                return self._why_not
            if region not in self._windows:
                try:
                    journal = self._site.journal(region)
                    self._windows[region] = Window(journal, self._point, self._behind, self._directories.of)
                except SbhError as error:
                    self._windows[region] = f"{DAMAGED}: {error.what}"
            return self._windows[region]
