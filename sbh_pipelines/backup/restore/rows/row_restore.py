"""The rows of a restore: which tables, compared, decided, written, proven; all in the restore's one transaction."""

from collections.abc import Mapping
from contextlib import closing
from functools import partial
from itertools import chain

from sbh_pipelines.backup.contents.manifest import WITH_TABLES
from sbh_pipelines.backup.contents.stored_table import StoredTable, read_table
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.backup.restore.context import RestoreContext
from sbh_pipelines.backup.restore.plan import ReferenceRows, TablePlan, schema_problem
from sbh_pipelines.backup.restore.result import RowsProven, TableResult
from sbh_pipelines.backup.restore.rows.compare import TableComparer, TableComparison
from sbh_pipelines.backup.restore.rows.conflicts import find_conflicts
from sbh_pipelines.backup.restore.rows.problems import row_problems
from sbh_pipelines.backup.restore.rows.proof import RowProof
from sbh_pipelines.backup.restore.rows.references import references_problem, shown_reference
from sbh_pipelines.backup.restore.rows.samples import row_samples
from sbh_pipelines.database.merge.fit.mapping import SchemaDifference, TableMapping, map_tables
from sbh_pipelines.database.merge.merge import TableChanges, TableMerge
from sbh_pipelines.database.merge.modes import RULES
from sbh_pipelines.database.merge.pace import Pace
from sbh_pipelines.database.merge.read_back import check_staged, sum_staged
from sbh_pipelines.database.merge.relationships.adoption import NONE_HELD
from sbh_pipelines.database.merge.relationships.closure import Closure, involved, named_root, no_such_table
from sbh_pipelines.database.merge.relationships.followers import Followers
from sbh_pipelines.database.merge.relationships.links import links_of
from sbh_pipelines.database.merge.relationships.parents import LostParents
from sbh_pipelines.database.merge.relationships.references import References
from sbh_pipelines.database.merge.relationships.returning import LateRows, any_returning, stage_returning
from sbh_pipelines.database.merge.row_choice import parse_rows
from sbh_pipelines.database.merge.staging import Staging
from sbh_pipelines.database.merge.transaction import hold_tenant
from sbh_pipelines.database.schema.mapping.mapped_table import MappedTable
from sbh_pipelines.database.session.connection import look
from sbh_pipelines.errors import (
    KeptAsItIs,
    RequestError,
    RestoreConflict,
    SbhError,
)
from sbh_pipelines.model import ReferencePolicy
from sbh_pipelines.repository.format import CONFIG


class RowRestore:
    """One restore's rows. `compare`, then `plan`, which writes nothing; then `write` and `prove`."""

    def __init__(self, context: RestoreContext) -> None:
        self._context = context
        components = [context.components[name] for name in WITH_TABLES]
        self._summaries = {summary.table: summary for component in components for summary in component.tables}
        self._pace = Pace(context.site.settings.restore)
        self.differences: list[SchemaDifference] = []
        self.compared: list[TableComparison] = []
        self.merges: dict[str, TableMerge] = {}
        self.references = References(
            context.connection,
            context.tenancy,
            [],
            context.tenant.key,
            context.request.references,
            context.undo_since,
            context.kept,
        )
        self.followers: Followers | None = None
        self.kept: tuple[str, ...] = ()
        self._mappings: dict[int, TableMapping] = {}  # of all tables of the backup
        self._links = links_of(context.tenancy)
        self._late: set[str] = set()  # tables with rows of which no plan can tell whether they will be the tenant's
        self.returned = 0  # rows found when everything was written, and removed

    @property
    def downloaded(self) -> int:
        return sum(c.downloaded for c in self.compared)

    # comparing

    def compare(self) -> None:
        """Find out what differs. Raises SchemaMismatch, RequestError, RestoreRefused; nothing is written."""
        mappings = self._chosen_tables()
        if self.blocked:
            return
        choose = self._context.request.rows is not None
        comparer = TableComparer(self._context)
        for number, mapping in enumerate(mappings, 1):
            self._context.notice("compare", number - 1, len(mappings))
            of = len(mappings)
            self.compared.append(comparer.compare(mapping, self._summary(mapping), number, everything=choose, of=of))
        if choose:
            self._choose_rows()
            for compared in self.compared:
                comparer.find_homes(compared)
        elif RULES[self._context.request.mode].exact:
            self._take_returning(comparer)
        for compared in self.compared:
            self._decide(compared)
        if self._context.request.tables or self._context.request.config_only:
            self._bring_parents(comparer)
        self._find_followers()
        self.differences += [difference for compared in self.compared for difference in compared.differences]

    def _decide(self, compared: TableComparison) -> None:
        if compared.staging is not None:
            merge = TableMerge(compared.staging, self._context.request.mode, self._newest(compared), self._pace)
            merge.decide()
            self.merges[compared.table.full_name] = merge

    def _take_returning(self, comparer: TableComparer) -> None:
        """Rows written since, that will be the tenant's again because a parent comes back, go as all that was written since."""
        by_table = {compared.table.table.oid: compared for compared in self.compared}
        for number, compared in enumerate(self.compared, 1):  # parents first
            for link in self._links:
                parent = by_table.get(link.parent.table.oid)
                if link.child.table.oid == compared.table.table.oid and link.decides and not link.foreseeable:
                    comparer.staged(compared, number)
                    self._late.add(compared.table.full_name)
                if link.child.table.oid != compared.table.table.oid or not (
                    link.decides and link.foreseeable and parent
                ):
                    continue
                if parent.staging is not None and any_returning(self._context.connection, link, parent.staging):
                    stage_returning(link, comparer.staged(compared, number), parent.staging)

    def _bring_parents(self, comparer: TableComparer) -> None:
        """Parents that rows of the chosen tables hang on and that are gone, or nobody's, come back with them."""
        lost = LostParents(self._context.connection, self._links, self._by_oid())
        added: list[TableComparison] = []
        while (link := lost.lacking()) is not None:
            mapping = self._mappings.get(link.parent.table.oid)
            number = len(self.compared) + len(added) + 1
            if mapping is not None and not mapping.blocked and mapping.table.table.primary_key:
                found = comparer.compare(mapping, self._summary(mapping), number, everything=False, of=number)
                if found.staging is not None:
                    found.partial, found.held = True, NONE_HELD
                    added.append(found)
                    lost.add(found.staging)
                    continue
            lost.give_up(
                link
            )  # the backup has no such rows, or they have no place: the checks of what would break tell
        lost.finish()
        for found in added:
            self._decide(found)
            self.differences += found.mapping.differences
        order = [table.full_name for table in self._context.tenancy.tables]
        self.compared = sorted([*self.compared, *added], key=lambda c: order.index(c.table.full_name))
        self.merges = {name: self.merges[name] for name in order if name in self.merges}

    def _find_followers(self) -> None:
        """Rows of nobody that hang on what comes back: where all is to be as it was, they go."""
        if not any(m.todo_rows or m.staging.adopted for m in self.merges.values()):
            return
        merges = self._by_oid()
        self.followers = Followers(self._context.connection, self._context.tenancy, self._links, merges)
        compared = {c.table.table.oid: c for c in self.compared}
        for number, table in enumerate(self._context.tenancy.tables, len(self.compared) + 1):
            rows, found = self.followers.find(table), compared.get(table.table.oid)
            if not rows or found is None or found.partial or self._context.request.rows is not None:
                continue
            if not RULES[self._context.request.mode].exact:
                continue
            if found.staging is None:
                found.staging = Staging(
                    self._context.connection,
                    found.mapping,
                    self._context.tenant.key,
                    number,
                    dry_run=self._context.dry_run,
                )
                found.staging.finish()
                self._decide(found)
                merges[table.table.oid] = self.merges[table.full_name]
            merges[table.table.oid].remove(self.followers.rows(table), rows)
        order = [table.full_name for table in self._context.tenancy.tables]
        self.merges = {name: self.merges[name] for name in order if name in self.merges}

    def left_rows(self) -> list[tuple[Staging, str | None]]:
        """Of the tables that are written: rows of nobody that are to be the tenant's, staged or, in a temporary table, not."""
        return [
            (merge.staging, self.followers.of(merge.table) if self.followers else None)
            for merge in self.merges.values()
            if merge.changes.any
        ]

    def _by_oid(self) -> dict[int, TableMerge]:
        return {merge.table.table.oid: merge for merge in self.merges.values()}

    def _summary(self, mapping: TableMapping) -> TableSummary:
        return self._summaries[mapping.header.full_name]

    def _chosen_tables(self) -> list[TableMapping]:
        """The mapped tables of the request but for those that are kept, parents first; all differences that concern them."""
        chosen, kept = self._asked_for(), self._context.kept
        self.kept = kept.of(mapping.table.full_name for mapping in chosen)
        self._mappings = {oid: m for oid, m in self._mappings.items() if m.table.full_name not in kept.tables}
        self.differences = [d for d in self.differences if d.table not in kept.tables]
        return [mapping for mapping in chosen if mapping.table.full_name not in kept.tables]

    def _by_name(self, name: str) -> MappedTable:
        """A table that is asked for by its name. Raises RequestError, and KeptAsItIs where it is kept."""
        found = named_root(self._context.tenancy, name, self._context.site.settings.database.schemas)
        if found.full_name in self._context.kept.tables and not self._context.undoing:
            raise KeptAsItIs(
                "The table is not restored for the tenant's own users",
                on=found.full_name,
                why="it decides who gets in, or what is paid for, and restore.kept names it",
                remedy="leave it out; or let an administrator of the platform restore it",
            )
        return found

    def _asked_for(self) -> list[TableMapping]:
        request, settings = self._context.request, self._context.site.settings
        if not request.with_rows:
            return []
        opened = {name: read_table(self._context.repository, summary) for name, summary in self._summaries.items()}
        headers = {name: table.header for name, table in opened.items()}
        self._fetch_sums(opened)
        rows = {name: summary.rows for name, summary in self._summaries.items()}
        mappings, differences = map_tables(
            headers, self._context.tenancy, settings.restore, settings.database.schemas, rows
        )
        self._mappings = {mapping.table.table.oid: mapping for mapping in mappings}
        if request.tables:
            wanted = {self._by_name(name).full_name for name in request.tables}
        elif request.all_but:
            spared = {
                named_root(self._context.tenancy, name, settings.database.schemas).full_name for name in request.all_but
            }
            wanted = {m.table.full_name for m in mappings} - spared
            self.differences = [d for d in differences if d.table not in spared]
            return [m for m in mappings if m.table.full_name in wanted]
        elif request.config_only:
            # By the backup's names, which may be others by now.
            stored = {summary.table for summary in self._context.components[CONFIG].tables}
            wanted = {m.table.full_name for m in mappings if m.header.full_name in stored} | stored
        elif request.rows is not None:
            root = self._by_name(parse_rows(request.rows).table)
            wanted = {t.full_name for t in involved(self._context.tenancy, root)}
        else:
            self.differences = differences
            return mappings
        chosen = [m for m in mappings if m.table.full_name in wanted]
        if request.tables and (lost := wanted - {m.table.full_name for m in chosen}):
            raise RequestError(
                "A table was not in the backup", on=", ".join(sorted(lost)), remedy="choose another backup"
            )
        names = wanted | {m.header.full_name for m in chosen}
        self.differences = [d for d in differences if d.table in names]
        return chosen

    def _fetch_sums(self, opened: Mapping[str, StoredTable]) -> None:
        """What nearly every table is compared with, with a request for each pack and not for each table."""
        details = (chunk for summary in self._summaries.values() for chunk in summary.detail)
        sums = (chunk for table in opened.values() if table.state for chunk in table.state.sums)
        self._context.repository.read_ahead(map(bytes.fromhex, chain(details, sums)))

    @property
    def blocked(self) -> bool:
        return any(d.blocking for d in self.differences)

    def _choose_rows(self) -> None:
        assert self._context.request.rows is not None
        choice = parse_rows(self._context.request.rows)
        root = named_root(self._context.tenancy, choice.table, self._context.site.settings.database.schemas)
        stagings = {c.table.table.oid: c.staging for c in self.compared if c.staging is not None}
        if root.table.oid not in stagings:
            raise no_such_table(choice.table, self._context.tenancy)
        for staging in stagings.values():
            check_staged(staging)
        Closure(self._context.connection, self._context.tenancy, stagings).choose(root, choice)
        for staging in stagings.values():
            sum_staged(staging)

    def _newest(self, compared: TableComparison) -> str | None:
        """The declared column with the time of a row's last change. Raises RequestError where it does not exist."""
        if not RULES[self._context.request.mode].by_time:
            return None
        table = compared.table.table
        for name, column in self._context.site.settings.restore.newest.items():
            if name in (table.full_name, table.name):
                if column not in compared.table.captured_columns:
                    raise RequestError(
                        "restore.newest names no column of the table", on=f"{name}.{column}", remedy="correct it"
                    )
                return column
        return None

    # planning

    def settle_references(self, *, foresee: bool) -> None:
        """Decide what becomes of rows outside the restore that refer to rows which go. Before `plan`."""
        if foresee or self.references.policy is not ReferencePolicy.REFUSE:
            self.references.merges = list(self.merges.values())
            self.references.resolve()

    def references_shown(self) -> tuple[ReferenceRows, ...]:
        """Those rows, as a plan shows them."""
        return tuple(shown_reference(reference, self._context) for reference in self.references.found)

    def plan(self, *, foresee: bool) -> tuple[TablePlan, ...]:
        """What is to happen to each table. The numbers are those that `write` will give.

        `foresee` looks for rows that conflict with others; without it the server finds those when they are written.
        """
        return tuple(self._plan(compared, foresee) for compared in self.compared)

    def _plan(self, compared: TableComparison, foresee: bool) -> TablePlan:
        merge, summary = self.merges.get(compared.table.full_name), compared.summary
        facts = (compared.table.full_name, summary.rows, summary.groups, self._matching(compared))
        if merge is None:
            return TablePlan(*facts, 0, 0, 0)
        found = find_conflicts(self._context, compared, merge, foresee=foresee)
        samples = row_samples(
            self._context.connection, merge, self._context.request, self._context.site.settings.restore
        )
        changes = merge.changes
        return TablePlan(
            *facts,
            changes.inserted,
            changes.updated,
            changes.deleted,
            changes.kept,
            merge.staging.adopted,
            found,
            samples,
        )

    def _matching(self, compared: TableComparison) -> int:
        """Row groups that are as they were: all of them where the rows that were looked at turned out to be equal."""
        merge = self.merges.get(compared.table.full_name)
        same = merge is not None and not (merge.changes.any or merge.changes.kept or compared.partial)
        return compared.summary.groups if same else compared.matching

    def problems(self, *, foresee: bool) -> list[SbhError]:
        """Why the restore would refuse, apart from conflicts of keys."""
        found: list[SbhError] = []
        lossy = not self._context.request.accept_schema_changes
        if bad := [d for d in self.differences if d.blocking or (d.lossy and lossy)]:
            found.append(schema_problem(bad, blocked=self.blocked))
        found += row_problems(self._context, list(self.merges.values()), self._links, foresee=foresee)
        if refused := self.references.refused:
            found.append(references_problem(refused, self._context))
        return found

    @property
    def to_write(self) -> int:
        return sum(m.changes.inserted + m.changes.updated for m in self.merges.values())

    # writing and proving

    @property
    def changes_anything(self) -> bool:
        return any(m.changes.any for m in self.merges.values())

    def write(self) -> None:
        """Delete and insert the differences. Raises SourceConflict, RestoreRefused: roll back."""
        if not self.changes_anything:
            return
        hold_tenant(self._context.connection, self._context.tenancy, self._context.tenant.key)
        merges = list(self.merges.values())
        self._context.notice("merge", 0, len(merges))
        self.references.consequences.apply()
        for merge in merges:
            merge.hold_adopted()
        late = LateRows([merge for merge in merges if merge.table.full_name in self._late])
        late.remember()
        for merge in reversed(merges):  # children first: an inherited row is found by its parent
            merge.delete()
        try:
            for number, merge in enumerate(merges):
                merge.insert(partial(self._inserted, number, len(merges)))
        except RestoreConflict:
            # A key that somebody took a moment ago: the next plan will know of it.
            with closing(look(self._context.database, "restore check")) as connection:
                self._proof.undisturbed(connection)
            raise
        self.returned = late.remove()

    def _inserted(self, number: int, of: int, part: float) -> None:
        self._context.notice("merge", number + part, of)

    def prove(self) -> RowsProven:
        """Read back what was written. Raises ProofFailed, RestoreRefused, SourceConflict: roll back."""
        return self._proof.prove()

    @property
    def _proof(self) -> RowProof:
        return RowProof(self._context, self.compared, self.merges, self.references)

    def results(self) -> tuple[TableResult, ...]:
        """What happened to each table."""
        return tuple(self._result(compared) for compared in self.compared)

    def _result(self, compared: TableComparison) -> TableResult:
        merge, summary = self.merges.get(compared.table.full_name), compared.summary
        changes = merge.changes if merge else TableChanges(0, 0, 0)
        facts = (compared.table.full_name, summary.rows, summary.groups, self._matching(compared))
        return TableResult(*facts, changes.inserted, changes.updated, changes.deleted, changes.kept)
