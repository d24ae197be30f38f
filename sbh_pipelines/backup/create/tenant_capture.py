"""One tenant's side of a pass over the tables: what it builds on, how each table is read, and what came of it."""

from collections.abc import Callable
from enum import Enum
from functools import partial

from sbh_pipelines.backup.contents.stored_table import StoredTable, TableWriter, read_table
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.backup.create.draft import Draft
from sbh_pipelines.backup.create.journaled.journal_view import JournalView
from sbh_pipelines.backup.create.journaled.table_fold import OTHER_KEY, TenantFold
from sbh_pipelines.backup.create.journaled.tenant_journal import TenantJournal
from sbh_pipelines.backup.create.parent import Parent, incomparable_table
from sbh_pipelines.backup.create.snapshot_view import TenantTotals, View
from sbh_pipelines.backup.create.table_delta import MAX_CHANGED, MAX_LAYERS, SMALL, TenantDelta, too_old
from sbh_pipelines.concurrency import Meter
from sbh_pipelines.database.capture.deleted_rows import Sums
from sbh_pipelines.database.schema.tenancy import TENANTS, MappedTable
from sbh_pipelines.errors import SbhError
from sbh_pipelines.repository.catalog.records import TenantRecord
from sbh_pipelines.repository.pack import PackPipeline
from sbh_pipelines.repository.repository import Repository

LOOKED_THROUGH = "looked through for changes"
"""Before the reason why the change journal could not tell what changed in a table."""
NO_KEY = "it has no primary key"


class Whole(Enum):
    """What is to be done with a table of which no delta is taken."""

    YES = "read all of it"
    NO = "it is as the parent has it"


class TenantRows:
    """One tenant's side of the pass: its writer, what it builds on, its tables so far, the error that took it out, if any."""

    def __init__(self, draft: Draft, repository: Repository, packs: PackPipeline) -> None:
        self.draft, self.repository = draft, repository
        self.writer = repository.writer(packs)
        self.seed, self.seed_id = 0, ""
        self.parent: Parent | None = None
        self.since = ""  # rows written after this snapshot are new
        self.incomparable: str | None = None
        self.totals: TenantTotals = {}
        self.journal: TenantJournal | None = None  # what the change journal tells since then
        self.record: TenantRecord | None = None  # what the catalog has of the tenant
        self.approach: dict[str, Whole | TenantDelta | TenantFold | None] = {}  # how each table is read
        self.tables: dict[str, TableSummary] = {}
        self.taken_over: set[str] = set()  # tables that are as the parent has them
        self.reread: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        self.changed_rows = 0
        self.references: list[str] = []
        self.error: SbhError | None = None

    def ask(self, view: View, journal: JournalView) -> None:
        """Ask the journal what happened since: sets `journal`, unless something has failed already."""
        if not journal.enabled or self.parent is None or self.error is not None:
            return
        try:
            then = self.parent.tables
            same = {name: then[name] for name in view.definitions if not self._why_whole(view, name, then.get(name))}
            full = [name for name, summary in same.items() if summary.layers >= MAX_LAYERS]
            self.repository.read_ahead(bytes.fromhex(same[name].detail[0]) for name in full)
            older: dict[str, str] = {}
            for name in full:  # all its layers are made anew as one
                state = read_table(self.repository, same[name]).state
                if state is not None:
                    older[name] = state.base.snapshot or self.parent.point.snapshot
            if not self._builds_on_own(view):
                self.journal = TenantJournal(
                    self.draft.tenant.key, None, {}, dict.fromkeys(same, OTHER_KEY), journal.merge
                )
                return
            rows = {name: summary.rows for name, summary in same.items() if view.codes[name].keyed}
            self.journal = journal.open(self.draft.tenant, self.since, older, rows)
            self.journal.reasons.update({name: NO_KEY for name in same if name not in rows})
        except SbhError as error:
            self.error = error

    def _builds_on_own(self, view: View) -> bool:
        """Whether the parent is this tenant's, and not of another that had the slug before: of that the journal tells nothing."""
        assert self.parent is not None
        key, record = self.draft.tenant.key, self.record
        if record is not None and record.backup_id == self.parent.id and record.is_surely_of(key):
            return True
        listing = next((table.full_name for table in view.tenancy.tables if table.status == TENANTS), None)
        then = self.parent.tables.get(listing) if listing else None
        if then is None or not then.rows:
            return False
        state = read_table(self.repository, then).state
        return state is not None and state.tenant == key

    def uncertain(self, view: View) -> list[str]:
        """The tables that are to be looked through, as nothing else tells what changed in them."""
        if self.parent is None or self.incomparable or self.error is not None:
            return []
        told = self.journal.since if self.journal else ()
        return [name for name in view.definitions if name not in self.totals and name not in told]

    def plan(self, view: View) -> None:
        """Decide how each table is read: sets `approach`, unless something has failed already."""
        if self.error is not None:
            return
        try:
            for table in view.tenancy.tables:
                self.approach[table.full_name] = self._decide(view, table.full_name)
            self._open_changed(view)
        except SbhError as error:
            self.error = error

    def _decide(self, view: View, name: str) -> "Whole | TenantDelta | TenantFold | None":
        """None: from what the parent has."""
        if self.parent is None:
            return Whole.YES
        then = self.parent.tables.get(name)
        why = self._why_whole(view, name, then)
        if why is None:
            assert then is not None
            if self.journal is not None and self.journal.covers(name):
                if name in self.journal.changed:
                    return None
                self.tables[name] = then
                self.taken_over.add(name)
                return Whole.NO
            if self.journal is not None and name in self.journal.reasons:
                self.reread[name] = f"{LOOKED_THROUGH}: {self.journal.reasons[name]}"
            now = self.totals[name]
            if not now.new and (now.rows, now.key_hash) == (then.rows, then.key_hash):
                self.tables[name] = then
                self.taken_over.add(name)
                return Whole.NO
            if now.rows <= SMALL:
                return Whole.YES
            if not view.codes[name].keyed:
                why = "it changed and has no primary key"
            elif now.new > MAX_CHANGED * now.rows:
                why = "more than a third of it changed"
        if why is None:
            return None
        self.reread[name] = why
        return Whole.YES

    def _open_changed(self, view: View) -> None:
        """Open the tables that deltas are taken of; what is needed of them comes in a request per pack, not per table."""
        changed = [name for name, approach in self.approach.items() if approach is None]
        if self.parent is None or not changed:
            return
        summaries = self.parent.tables
        wanted = [chunk for name in changed for chunk in (summaries[name].detail[0], *summaries[name].sums)]
        self.repository.read_ahead(map(bytes.fromhex, wanted))
        sums_chunks: list[str] = []
        for name in changed:
            stored = read_table(self.repository, summaries[name])
            if stored.state is None:
                self.reread[name], self.approach[name] = "the backup it builds on does not say enough", Whole.YES
                continue
            if self.journal is not None and self.journal.covers(name):
                sums_chunks += stored.state.sums
                self.approach[name] = self._fold(view, name, stored, self.journal)
                continue
            if reason := too_old(stored.state, view.point.snapshot):
                self.reread[name], self.approach[name] = reason, Whole.YES
                continue
            sums_chunks += stored.state.sums
            self.approach[name] = TenantDelta(
                self.draft.tenant.key,
                self.repository,
                self.writer,
                stored,
                self.since,
                self.parent.point.snapshot,
                self.seed,
                view.definitions[name],
            )
        self.repository.read_ahead(map(bytes.fromhex, sums_chunks))

    def _fold(self, view: View, name: str, stored: StoredTable, journal: TenantJournal) -> TenantFold:
        assert self.parent is not None
        return TenantFold(
            self.draft.tenant.key,
            self.repository,
            self.writer,
            stored,
            self.parent.point.snapshot,
            self.seed,
            view.definitions[name],
            partial(journal.results, name),
            journal.since[name] is not journal.parent,
        )

    def _why_whole(self, view: View, name: str, then: TableSummary | None) -> str | None:
        return self.incomparable or incomparable_table(then, view.definitions[name], self.seed_id)

    def took(self, table: MappedTable, delta: TenantDelta | TenantFold) -> list[str]:
        """Take over what came of a delta or a fold; this tenant's key, in a list, if the table is to be read whole after all."""
        self.error = self.error or delta.error
        if delta.summary is not None:
            self.tables[table.full_name] = delta.summary
            self.changed_rows += delta.rows
        if delta.again is None or self.error is not None:
            return []
        self.reread[table.full_name] = delta.again
        return [self.draft.tenant.key]


class GuardedTable:
    """A BatchSink that keeps one tenant's failure from the others: after it, the tenant's rows are skipped."""

    def __init__(self, rows: TenantRows, table: MappedTable, meter: Meter) -> None:
        self._rows, self._sink, self._meter = rows, TableWriter(rows.writer, table), meter

    def group(self, text: "bytes | memoryview", rows: int) -> None:
        self._meter.moved(len(text))
        self._try(lambda: self._sink.group(text, rows))

    def close(self) -> None:
        self._try(self._sink.close)

    def finish(self, definition: str, kind: str, found: Sums, key_hash: str) -> None:
        def keep() -> None:
            tenant = self._rows.draft.tenant.key
            summary = self._sink.summary(definition, kind, self._rows.seed_id, found, key_hash, tenant)
            self._rows.tables[self._sink.table.full_name] = summary
            self._rows.changed_rows += self._sink.rows

        self._try(keep)

    def _try(self, write: Callable[[], None]) -> None:
        if self._rows.error is None:
            try:
                write()
            except SbhError as error:
                self._rows.error = error
