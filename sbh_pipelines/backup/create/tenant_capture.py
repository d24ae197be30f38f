"""One tenant's side of a pass over the tables.

Basis       what its tables are compared with
TablePlan   how each of them is read
Capture     takes in what the pass reads; what fails for one tenant stays with it
Captured    what came of it
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from sbh_pipelines.backup.contents.json_lines import LineWriter
from sbh_pipelines.backup.contents.manifest import TableSummary
from sbh_pipelines.backup.contents.stored_table import TableWriter, read_table
from sbh_pipelines.backup.create.draft import Draft
from sbh_pipelines.backup.create.parent import Parent, find_parent, incomparable
from sbh_pipelines.backup.create.snapshot_view import TenantTotals, View
from sbh_pipelines.backup.create.table_delta import MAX_CHANGED, SMALL, TenantDelta, too_old
from sbh_pipelines.backup.create.unchanged import Compared
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.capture.changes import Sums
from sbh_pipelines.database.schema.definition import VOLATILE
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import BackupType, RecoveryPoint
from sbh_pipelines.repository.catalog.records import TenantRecord
from sbh_pipelines.repository.pack import PackWriter
from sbh_pipelines.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class Basis:
    """What the tables of one tenant are compared with.

    Attributes:
        draft: The draft, with the parent it builds on, or as a full one with the reason.
        repository: The tenant's, open for writing.
        seed: Of the hashes of keys.
        seed_id: Which seed that is.
        record: What the catalog has of the tenant.
        parent: The backup it builds on; None for a full one.
        since: The snapshot after which a row counts as new.
        incomparable: Why rows written since cannot be told; None where they can.
        totals: Of each table, since that snapshot; empty until they are known.
    """

    draft: Draft
    repository: Repository
    seed: int
    seed_id: str
    record: TenantRecord | None
    parent: Parent | None = None
    since: str = ""
    incomparable: str | None = None
    totals: TenantTotals = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The tenant's key in the database."""
        return self.draft.tenant.key

    @property
    def lacks_totals(self) -> bool:
        return self.parent is not None and not self.totals and not self.incomparable

    def rows_before(self, name: str) -> int | None:
        """About how many rows the table has: as many as now or at the last backup, where that is known."""
        if name in self.totals:
            return self.totals[name].rows
        record = self.record.state["tables"].get(name) if self.record and self.record.state else None
        return int(record[0]) if record else None


def find_basis(
    site: Site,
    draft: Draft,
    repository: Repository,
    point: RecoveryPoint,
    record: TenantRecord | None,
    compared: Compared | None,
) -> Basis:
    """What the draft builds on at this recovery point; a full one builds on nothing. `compared`: as `find_unchanged` gave it."""
    catalog = site.catalog(draft.tenant.region)
    basis = Basis(draft, repository, catalog.hash_seed, catalog.seed_id, record)
    if draft.type is BackupType.FULL:
        return basis
    parent, reason = find_parent(repository, draft.type, point)
    if parent is None:
        return replace(basis, draft=replace(draft, type=BackupType.FULL, reason=reason))
    since, totals = parent.point.snapshot, basis.totals
    if compared is not None and compared.record.backup_id == parent.id:
        # At the record's recovery point the tenant still was what the parent says.
        since, totals = compared.record.point.snapshot, compared.totals
    return replace(
        basis,
        draft=replace(draft, parent=parent.id),
        parent=parent,
        since=since,
        incomparable=incomparable(parent.point, point),
        totals=totals,
    )


@dataclass(frozen=True, slots=True)
class TablePlan:
    """How the tables of one tenant are read, by their full names.

    Attributes:
        whole: Those of which all rows are read.
        taken_over: Those that are as the parent has them, with what it says of them.
        deltas: Those of which what changed is read.
        reread: Why all of a table is read that the parent has as well.
    """

    whole: frozenset[str]
    taken_over: Mapping[str, TableSummary]
    deltas: Mapping[str, TenantDelta]
    reread: Mapping[str, str]


class _Approach(Enum):
    WHOLE = auto()
    AS_BEFORE = auto()
    DELTA = auto()


def plan_tables(basis: Basis, view: View, writer: PackWriter) -> TablePlan:
    """Decide how each table is read. Raises CorruptObject."""
    parents: Mapping[str, TableSummary] = basis.parent.tables if basis.parent else {}
    chosen = {table.full_name: _approach(basis, view, table.full_name) for table in view.tenancy.tables}
    reread = {name: why for name, (_, why) in chosen.items() if why}
    changed = [name for name, (approach, _) in chosen.items() if approach is _Approach.DELTA]
    deltas: dict[str, TenantDelta] = {}
    sums: list[str] = []
    # What is needed of the parent's tables comes in two requests per pack, not per table.
    if changed:
        basis.repository.read_ahead(bytes.fromhex(parents[name].detail[0]) for name in changed)
    for name in changed:
        stored = read_table(basis.repository, parents[name])
        if stored.state is None:
            reread[name] = "the backup it builds on does not say enough"
        elif reason := too_old(stored.state, view.point.snapshot):
            reread[name] = reason
        else:
            assert basis.parent is not None
            sums += stored.state.sums
            deltas[name] = TenantDelta(
                basis.key,
                basis.repository,
                writer,
                stored,
                basis.since,
                basis.parent.point.snapshot,
                basis.seed,
                view.definitions[name],
            )
    if changed:
        basis.repository.read_ahead(map(bytes.fromhex, sums))
    taken_over = {name: parents[name] for name, (approach, _) in chosen.items() if approach is _Approach.AS_BEFORE}
    return TablePlan(frozenset(chosen.keys() - taken_over.keys() - deltas.keys()), taken_over, deltas, reread)


def _approach(basis: Basis, view: View, name: str) -> tuple[_Approach, str]:
    """How a table is read, and why all of it where the parent has it as well."""
    if basis.parent is None:
        return _Approach.WHOLE, ""
    then = basis.parent.tables.get(name)
    if why := _why_whole(basis, view.definitions[name], then):
        return _Approach.WHOLE, why
    assert then is not None
    now = basis.totals[name]
    if not now.new and (now.rows, now.key_hash) == (then.rows, then.key_hash):
        return _Approach.AS_BEFORE, ""
    if now.rows <= SMALL:
        return _Approach.WHOLE, ""
    if not view.codes[name].keyed:
        return _Approach.WHOLE, "it changed and has no primary key"
    if now.new > MAX_CHANGED * now.rows:
        return _Approach.WHOLE, "more than a third of it changed"
    return _Approach.DELTA, ""


def _why_whole(basis: Basis, definition: str, then: TableSummary | None) -> str | None:
    if basis.incomparable:
        return basis.incomparable
    if then is None:
        return "it was not in the backup it builds on"
    if then.key_hash is None:
        return "the backup it builds on was made by an older release"
    if then.seed != basis.seed_id:
        return "the catalog of the region is a new one: hashes of keys do not compare"
    if VOLATILE in (definition, then.definition):
        return "changes in it do not show: a column's text depends on the catalogue, or rows have no transaction ids"
    if definition != then.definition:
        return "its definition changed"
    return None


@dataclass(frozen=True, slots=True)
class Captured:
    """What a pass over the tables stored of one tenant.

    Attributes:
        tables: What the components' documents say of each table, by full name.
        references: Chunks of the keys of files that rows refer to.
        reread: Why all of a table was read that the parent has as well.
        changed_rows: Rows that were stored anew.
    """

    tables: Mapping[str, TableSummary]
    references: Sequence[str]
    reread: Mapping[str, str]
    changed_rows: int


class Capture:
    """Takes in what the pass reads of one tenant. After its first failure nothing more is taken in; `captured` raises it."""

    def __init__(self, basis: Basis, plan: TablePlan, writer: PackWriter) -> None:
        self.basis, self.plan, self.writer = basis, plan, writer
        self._error: SbhError | None = None
        self._tables = dict(plan.taken_over)
        self._reread = dict(plan.reread)
        self._references: Sequence[str] = ()
        self._changed_rows = 0

    @property
    def failed(self) -> bool:
        return self._error is not None

    def attempt(self, work: Callable[[], None]) -> None:
        """Do it unless the tenant has failed; an error of it is the tenant's."""
        if self._error is None:
            try:
                work()
            except SbhError as error:
                self._error = error

    def add_table(self, summary: TableSummary, rows: int) -> None:
        """A table that was stored, `rows` of it anew."""
        self._tables[summary.table] = summary
        self._changed_rows += rows

    def add_delta(self, name: str, delta: TenantDelta) -> bool:
        """What came of a delta; whether the table is to be read whole after all."""
        self._error = self._error or delta.error
        if delta.summary is not None:
            self.add_table(delta.summary, delta.rows)
        if delta.again is None or self.failed:
            return False
        self._reread[name] = delta.again
        return True

    def add_references(self, lines: LineWriter | None) -> None:
        """The keys of files that rows refer to; None where they are the parent's."""

        def keep() -> None:
            if lines is not None:
                self._references = lines.finish()
            elif self.basis.parent is not None:
                self._references = self.basis.parent.reference_keys

        self.attempt(keep)

    def captured(self) -> Captured:
        """Call after the pass. Raises the tenant's error."""
        if self._error is not None:
            raise self._error
        return Captured(self._tables, self._references, self._reread, self._changed_rows)


class TableCapture:
    """A TableSink of all rows of one tenant and table."""

    def __init__(self, capture: Capture, table: MappedTable) -> None:
        self._capture, self._sink = capture, TableWriter(capture.writer, table)

    def group(self, text: bytes, rows: int) -> None:
        self._capture.attempt(lambda: self._sink.group(text, rows))

    def close(self) -> None:
        self._capture.attempt(self._sink.close)

    def finish(self, definition: str, kind: str, found: Sums, key_hash: str) -> None:
        """`found` and `key_hash` are what the next backup compares with."""
        basis = self._capture.basis

        def keep() -> None:
            summary = self._sink.summary(definition, kind, basis.seed_id, found, key_hash, basis.key)
            self._capture.add_table(summary, self._sink.rows)

        self._capture.attempt(keep)
