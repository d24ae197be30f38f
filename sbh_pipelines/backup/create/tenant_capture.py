"""One tenant's side of a pass over the tables: what it builds on, how each table is read, and what came of it."""

from collections.abc import Callable
from enum import Enum

from sbh_pipelines.backup.contents.stored_table import TableWriter, read_table
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.backup.create.draft import Draft
from sbh_pipelines.backup.create.parent import Parent
from sbh_pipelines.backup.create.snapshot_view import TenantTotals, View
from sbh_pipelines.backup.create.table_delta import MAX_CHANGED, SMALL, TenantDelta, too_old
from sbh_pipelines.database.capture.deleted_rows import Sums
from sbh_pipelines.database.schema.definition import VOLATILE
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.errors import SbhError
from sbh_pipelines.repository.catalog.records import TenantRecord
from sbh_pipelines.repository.pack import PackPipeline
from sbh_pipelines.repository.repository import Repository


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
        self.record: TenantRecord | None = None  # what the catalog has of the tenant
        self.approach: dict[str, Whole | TenantDelta | None] = {}  # how each table is read
        self.tables: dict[str, TableSummary] = {}
        self.taken_over: set[str] = set()  # tables that are as the parent has them
        self.reread: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        self.changed_rows = 0
        self.references: list[str] = []
        self.error: SbhError | None = None

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

    def _decide(self, view: View, name: str) -> "Whole | TenantDelta | None":
        """None: from what the parent has."""
        if self.parent is None:
            return Whole.YES
        then = self.parent.tables.get(name)
        why = self._why_whole(view, name, then)
        if why is None:
            assert then is not None
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
        """Open the tables that deltas are taken of; what is needed of them comes in two requests per pack, not per table."""
        changed = [name for name, approach in self.approach.items() if approach is None]
        if self.parent is None or not changed:
            return
        summaries = self.parent.tables
        self.repository.read_ahead(bytes.fromhex(summaries[name].detail[0]) for name in changed)
        sums_chunks: list[str] = []
        for name in changed:
            stored = read_table(self.repository, summaries[name])
            if stored.state is None:
                self.reread[name], self.approach[name] = "the backup it builds on does not say enough", Whole.YES
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

    def rows_before(self, name: str) -> int | None:
        """About how many rows the table has: as many as now or at the last backup, where that is known."""
        if name in self.totals:
            return self.totals[name].rows
        state = self.record.state if self.record else None
        return int(state.tables[name][0] or 0) if state and name in state.tables else None

    def _why_whole(self, view: View, name: str, then: TableSummary | None) -> str | None:
        if self.incomparable:
            return self.incomparable
        if then is None:
            return "it was not in the backup it builds on"
        if then.key_hash is None:
            return "the backup it builds on was made by an older release"
        if then.seed != self.seed_id:
            return "the catalog of the region is a new one: hashes of keys do not compare"
        if VOLATILE in (view.definitions[name], then.definition):
            return (
                "changes in it do not show: a column's text depends on the catalogue, or rows have no transaction ids"
            )
        if view.definitions[name] != then.definition:
            return "its definition changed"
        return None

    def took(self, table: MappedTable, delta: TenantDelta) -> list[str]:
        """Take over what came of a delta; this tenant's key, in a list, if the table is to be read whole after all."""
        self.error = self.error or delta.error
        if delta.summary is not None:
            self.tables[table.full_name] = delta.summary
            self.changed_rows += delta.rows
        if delta.again is None or self.error is not None:
            return []
        self.reread[table.full_name] = delta.again
        return [self.draft.tenant.key]


class GuardedTable:
    """A TableSink that keeps one tenant's failure from the others: after it, the tenant's rows are skipped."""

    def __init__(self, rows: TenantRows, table: MappedTable) -> None:
        self._rows, self._sink = rows, TableWriter(rows.writer, table)

    def group(self, text: bytes, rows: int) -> None:
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
