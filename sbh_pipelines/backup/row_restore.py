"""The rows of a restore: which tables, compared, decided, written, proven; all in the restore's one transaction."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from sbh_pipelines.backup.compare import Compared, Comparer
from sbh_pipelines.backup.plan import Conflict, TablePlan
from sbh_pipelines.backup.request import MergeMode, RestoreRequest
from sbh_pipelines.backup.restore_tables import Prover
from sbh_pipelines.backup.samples import row_samples
from sbh_pipelines.backup.site import Site
from sbh_pipelines.backup.tables import Group, read_table
from sbh_pipelines.backup.verify import read_component
from sbh_pipelines.errors import (
    ProofFailed,
    RequestError,
    RestoreConflict,
    RestoreRefused,
    SbhError,
    SchemaMismatch,
    SourceConflict,
)
from sbh_pipelines.model import RecoveryPoint, Tenant
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.settings import DatabaseSettings
from sbh_pipelines.sources.database import conflicts
from sbh_pipelines.sources.database.capture import copy_table
from sbh_pipelines.sources.database.checks import foreseen_violations
from sbh_pipelines.sources.database.closure import Closure, involved, named_root, no_such_table
from sbh_pipelines.sources.database.connection import Connection, connect
from sbh_pipelines.sources.database.foreign_keys import (
    BrokenForeignKey,
    check_foreign_keys,
    foreseen_breaks,
    keep_parents,
    late_children,
)
from sbh_pipelines.sources.database.mapping import SchemaDifference, TableMapping, map_tables
from sbh_pipelines.sources.database.merge import TableMerge, hold_tenant, written_by
from sbh_pipelines.sources.database.predicate import parse_rows
from sbh_pipelines.sources.database.tenancy import TenancyMap
from sbh_pipelines.sources.database.untouched import hash_of_keys, nobody_else_ended, others_wrote

_TRIGGER = "a trigger, rule or constraint changed what was written"
_LOOK_FOR_TRIGGERS = "look for ENABLE ALWAYS or REPLICA triggers on the table; nothing was changed"

Notice = Callable[[str, float, float], None]  # (step, done, of)


@dataclass(frozen=True, slots=True)
class TableResult:
    """What happened to one table."""

    table: str
    rows: int
    groups: int
    groups_matching: int
    inserted: int
    updated: int
    deleted: int
    kept: int


class RowRestore:
    """One restore's rows. `compare`, then `plan`, which writes nothing; then `write` and `prove`."""

    def __init__(
        self,
        site: Site,
        repository: Repository,
        database: DatabaseSettings,
        connection: Connection,
        tenant: Tenant,
        manifest: Mapping[str, Any],
        tenancy: TenancyMap,
        point: RecoveryPoint,
        request: RestoreRequest,
        notice: Notice,
        *,
        looking: bool,
    ) -> None:
        self._looking = looking
        self._site, self._repository, self._database, self._connection = site, repository, database, connection
        self._tenant, self._manifest, self._tenancy, self._point = tenant, manifest, tenancy, point
        self._request, self._notice = request, notice
        self._summaries = {
            summary["table"]: summary
            for name in ("database", "config")
            for summary in read_component(repository, manifest, name)["table_details"]
        }
        self.differences: list[SchemaDifference] = []
        self.compared: list[Compared] = []
        self.merges: dict[str, TableMerge] = {}
        self.seconds_comparing = 0.0

    @property
    def downloaded(self) -> int:
        return sum(c.downloaded for c in self.compared)

    # comparing

    def compare(self) -> None:
        """Find out what differs. Raises SchemaMismatch, RequestError, RestoreRefused; nothing is written."""
        begun = time.monotonic()
        mappings = self._chosen_tables()
        if self.blocked:
            return
        choose = self._request.rows is not None
        comparer = Comparer(
            self._site,
            self._repository,
            self._connection,
            self._tenant,
            self._point,
            self._manifest,
            self._tenancy,
            self._looking,
        )
        for number, mapping in enumerate(mappings, 1):
            self._notice("compare", number - 1, len(mappings))
            self.compared.append(comparer.compare(mapping, self._summary(mapping), number, everything=choose))
        if choose:
            self._choose_rows()
        for compared in self.compared:
            if compared.staging is not None:
                restore = self._site.settings.restore
                merge = TableMerge(compared.staging, self._request.mode, self._newest(compared), restore)
                merge.decide()
                self.merges[compared.table.full_name] = merge
        self.seconds_comparing = time.monotonic() - begun

    def _summary(self, mapping: TableMapping) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._summaries[f"{mapping.header['schema']}.{mapping.header['name']}"]
        return found

    def _chosen_tables(self) -> list[TableMapping]:
        """The mapped tables of the request, parents first; all schema differences that concern them."""
        request, settings = self._request, self._site.settings
        if not request.with_rows:
            return []
        headers = {name: read_table(self._repository, summary).header for name, summary in self._summaries.items()}
        rows = {name: summary["rows"] for name, summary in self._summaries.items()}
        mappings, differences = map_tables(headers, self._tenancy, settings.restore, settings.database.schemas, rows)
        if request.tables:
            wanted = {named_root(self._tenancy, name, settings.database.schemas).full_name for name in request.tables}
        elif request.config_only:
            # By the backup's names, which may be others by now.
            stored = {s["table"] for s in read_component(self._repository, self._manifest, "config")["table_details"]}
            wanted = {
                m.table.full_name for m in mappings if f"{m.header['schema']}.{m.header['name']}" in stored
            } | stored
        elif request.rows is not None:
            root = named_root(self._tenancy, parse_rows(request.rows).table, settings.database.schemas)
            wanted = {t.full_name for t in involved(self._tenancy, root)}
        else:
            self.differences = differences
            return mappings
        chosen = [m for m in mappings if m.table.full_name in wanted]
        if request.tables and (lost := wanted - {m.table.full_name for m in chosen}):
            raise RequestError(
                "A table was not in the backup", on=", ".join(sorted(lost)), remedy="choose another backup"
            )
        names = wanted | {f"{m.header['schema']}.{m.header['name']}" for m in chosen}
        self.differences = [d for d in differences if d.table in names]
        return chosen

    @property
    def blocked(self) -> bool:
        return any(d.blocking for d in self.differences)

    def _choose_rows(self) -> None:
        assert self._request.rows is not None
        choice = parse_rows(self._request.rows)
        root = named_root(self._tenancy, choice.table, self._site.settings.database.schemas)
        stagings = {c.table.table.oid: c.staging for c in self.compared if c.staging is not None}
        if root.table.oid not in stagings:
            raise no_such_table(choice.table, self._tenancy)
        Closure(self._connection, stagings).choose(root, choice)

    def _newest(self, compared: Compared) -> str | None:
        """The declared column with the time of a row's last change. Raises RequestError where it does not exist."""
        if self._request.mode is not MergeMode.NEWEST_WINS:
            return None
        table = compared.table.table
        for name, column in self._site.settings.restore.newest.items():
            if name in (table.full_name, table.name):
                if column not in compared.table.captured_columns:
                    raise RequestError(
                        "restore.newest names no column of the table", on=f"{name}.{column}", remedy="correct it"
                    )
                return column
        return None

    # planning

    def plan(self, *, foresee: bool) -> tuple[TablePlan, ...]:
        """What is to happen to each table. The numbers are those that `write` will give.

        `foresee` looks for rows that conflict with others; without it the server finds those when they are written.
        """
        return tuple(self._plan(compared, foresee) for compared in self.compared)

    def _plan(self, compared: Compared, foresee: bool) -> TablePlan:
        merge, summary = self.merges.get(compared.table.full_name), compared.summary
        facts = (compared.table.full_name, summary["rows"], summary["groups"], compared.matching)
        if merge is None:
            return TablePlan(*facts, 0, 0, 0)
        known = conflicts.foreseen(self._connection, merge) if foresee else []
        found = [Conflict(f"unique key {name}", rows) for name, rows in known]
        samples = row_samples(self._connection, merge, self._request, self._site.settings.restore)
        changes = merge.changes
        return TablePlan(
            *facts, changes.inserted, changes.updated, changes.deleted, changes.kept, tuple(found), samples
        )

    def problems(self, *, foresee: bool) -> list[SbhError]:
        """Why the restore would refuse, apart from conflicts of keys."""
        found: list[SbhError] = []
        lossy = not self._request.accept_schema_changes
        bad = [d for d in self.differences if d.blocking or (d.lossy and lossy)]
        if bad:
            needs = (
                "accept what is lost with --accept-schema-changes"
                if not self.blocked
                else "see restore.renamed, restore.fill"
            )
            found.append(
                SchemaMismatch(
                    "The schema changed since the backup",
                    on=", ".join(dict.fromkeys(f"{d.table}{'.' + d.column if d.column else ''}" for d in bad[:10])),
                    why="; ".join(f"{d.change}: {d.decision}" for d in bad[:5]),
                    remedy=needs,
                )
            )
        undecided = [m for m in self.merges.values() if m.undecided]
        if undecided:
            found.append(
                RestoreConflict(
                    "Rows differ, and nothing says which of the two is the later one",
                    on=", ".join(m.table.full_name for m in undecided),
                    why=f"{sum(m.undecided for m in undecided)} rows; the tables have no column in restore.newest",
                    remedy="declare it, or use another mode",
                )
            )
        violated = (
            [v for m in self.merges.values() for v in foreseen_violations(self._connection, m)] if foresee else []
        )
        if violated:
            found.append(
                RestoreRefused(
                    "Rows of the backup break constraints that the tables have now",
                    on=", ".join(dict.fromkeys(v.table for v in violated)),
                    why="; ".join(f"{v.rows} rows of {v.table} break {v.constraint}" for v in violated[:5]),
                    remedy="relax the constraint for the restore, declare restore.fill, or leave these tables or rows out",
                )
            )
        broken = foreseen_breaks(self._connection, self._tenancy, list(self.merges.values())) if foresee else []
        if broken:
            found.append(
                RestoreRefused(
                    "Foreign keys would not hold after the restore",
                    on=self._tenant.id,
                    why=_broken(broken),
                    remedy=self._both_ends,
                )
            )
        return found

    @property
    def to_write(self) -> int:
        return sum(m.changes.inserted + m.changes.updated for m in self.merges.values())

    @property
    def _both_ends(self) -> str:
        if self._request.whole:
            return "rows that the tenant's rows refer to were removed since the backup: restore them first"
        return "choose the tables at both ends of these keys as well, or the mode missing-only"

    # writing and proving

    @property
    def changes_anything(self) -> bool:
        return any(m.changes.any for m in self.merges.values())

    def write(self) -> None:
        """Delete and insert the differences. Raises SourceConflict, RestoreRefused: roll back."""
        if not self.changes_anything:
            return
        hold_tenant(self._connection, self._tenancy, self._tenant.key)
        merges = list(self.merges.values())
        self._notice("merge", 0, len(merges))
        for merge in reversed(merges):  # children first: an inherited row is found by its parent
            merge.delete()
        try:
            for number, merge in enumerate(merges):
                merge.insert(partial(self._inserted, number, len(merges)))
        except RestoreConflict:
            # A key that somebody took a moment ago: the next plan will know of it.
            with closing(connect(self._database, "restore check")) as connection:
                self._undisturbed(connection)
            raise

    def _inserted(self, number: int, of: int, part: float) -> None:
        self._notice("merge", number + part, of)

    def prove(self) -> dict[str, int]:
        """Read back what was written. Raises ProofFailed, RestoreRefused, SourceConflict: roll back."""
        groups = rows = 0
        self._prove_nothing_else()
        for number, compared in enumerate(self.compared):
            self._notice("prove", number, len(self.compared))
            merge = self.merges.get(compared.table.full_name)
            if compared.by_groups and self._exactly(compared):
                # A table found equal was compared just so.
                groups += self._prove_groups(compared) if merge is not None else compared.summary["groups"]
            elif merge is not None:
                rows += self._prove_rows(compared, merge)
        for merge in self.merges.values():
            if not merge.changes.any:
                continue
            for constraint, count in conflicts.deferred(self._connection, merge.table, self._tenant.key):
                raise RestoreRefused(
                    "Rows of the backup are in conflict with other rows; rolled back",
                    on=merge.table.full_name,
                    why=f"{count} rows break the constraint {constraint}",
                    remedy="a row outside the tenant holds the same key: resolve it, then try again",
                )
        checked, broken = check_foreign_keys(self._connection, self._tenancy, list(self.merges.values()))
        if broken:
            raise ProofFailed(
                "Foreign keys would not hold after the restore; rolled back",
                on=self._tenant.id,
                why=_broken(broken),
                remedy=self._both_ends,
            )
        self._alone()
        return {"groups": groups, "rows": rows, "foreign_keys": checked}

    def _exactly(self, compared: Compared) -> bool:
        """The whole table is to be what it was."""
        return self._request.mode is MergeMode.EXACT and self._request.rows is None and compared.mapping.same

    def _prove_groups(self, compared: Compared) -> int:
        """Read the merged table back, cut as the backup was, and compare every chunk id. Returns groups compared."""

        def expected() -> Iterator[Group]:
            stored = compared.groups
            return iter(stored) if stored is not None else read_table(self._repository, compared.summary).groups

        reader = Prover(self._repository, expected(), compared.table.full_name)
        plan = (group.rows for group in expected())
        copy_table(self._connection, compared.table, [self._tenant.key], lambda *_: reader, plan=lambda _: plan)
        return reader.finish()

    def _prove_rows(self, compared: Compared, merge: TableMerge) -> int:
        """Read back the rows written; for a whole table, that its keys are the backup's. Returns rows compared."""
        if (wrong := merge.unproven()) or (self._exactly(compared) and not self._all_keys(compared, merge)):
            raise ProofFailed(
                "The rows read back are not the backup's; rolled back",
                on=f"{compared.table.full_name}, {f'{wrong} rows' if wrong else 'its keys'}",
                why=_TRIGGER,
                remedy=_LOOK_FOR_TRIGGERS,
            )
        return merge.changes.inserted + merge.changes.updated

    def _all_keys(self, compared: Compared, merge: TableMerge) -> bool:
        """Whether what was there, less what went, plus what came, has the backup's number of rows, and its keys.

        That just this went and came is what the server counted (`_prove_nothing_else`).
        """
        changes, keys = merge.changes, compared.keys
        if compared.census.rows + changes.inserted - changes.deleted != compared.summary["rows"]:
            return False
        if keys is None:
            return True
        came, went = (
            hash_of_keys(self._connection, merge.staging, rows, keys.code, keys.seed) if merge.changes.any else 0
            for rows in (merge.todo, merge.gone)
        )
        return keys.live ^ came ^ went == keys.backup

    def _prove_nothing_else(self) -> None:
        """The server's own counts of what this transaction wrote must be what was decided, and of no other table."""
        counted = written_by(self._connection)
        decided = {
            m.table.table.oid: (m.changes.inserted + m.changes.updated, 0, m.changes.deleted + m.changes.updated)
            for m in self.merges.values()
            if m.changes.any
        }
        if counted and counted != decided:
            other = sorted(oid for oid in counted.keys() | decided.keys() if counted.get(oid) != decided.get(oid))
            tables = self._tenancy.catalog.tables
            raise ProofFailed(
                "Other rows were written than was decided; rolled back",
                on=", ".join(tables[oid].full_name if oid in tables else f"the relation {oid}" for oid in other),
                why=_TRIGGER,
                remedy=_LOOK_FOR_TRIGGERS,
            )

    def _alone(self) -> None:
        """Nobody else may have written rows of the tenant since the restore's snapshot. Raises SourceConflict."""
        if not self.changes_anything:
            return
        compared = {c.table.table.oid for c in self.compared}
        keep_parents(self._connection, self._tenancy, list(self.merges.values()), compared)
        with closing(connect(self._database, "restore check")) as connection:
            if not nobody_else_ended(connection, self._connection, self._point.snapshot):
                self._late_references(connection)
                self._undisturbed(connection)

    def _undisturbed(self, connection: Connection) -> None:
        tables = {c.table.full_name: c.table for c in self.compared}
        before = {c.table.full_name: c.census for c in self.compared}
        written = others_wrote(connection, before, tables, self._tenant.key, self._point.snapshot)
        if written:
            raise SourceConflict(
                "Rows of the tenant were written while it was being restored; rolled back",
                on=f"{self._tenant.id}: {', '.join(written)}",
                why="the result would be neither the backup nor what the tenant is doing now",
                remedy="try again; put the tenant into maintenance with the hooks restore.before and restore.after",
            )

    def _late_references(self, connection: Connection) -> None:
        """Rows that others committed since the snapshot may refer to what this restore deletes, in tables that are not
        compared, too. Raises SourceConflict.
        """
        merges = list(self.merges.values())
        late = late_children(connection, self._connection, self._tenancy, merges, self._point.snapshot)
        if late:
            raise SourceConflict(
                "Rows were written that refer to some which the restore deletes; rolled back",
                on=", ".join(late),
                why="another session committed them while the restore ran",
                remedy="try again; put the tenant into maintenance with the hooks restore.before and restore.after",
            )

    def results(self) -> list[dict[str, Any]]:
        """What happened to each table."""
        found = []
        for compared in self.compared:
            merge, summary = self.merges.get(compared.table.full_name), compared.summary
            numbers = asdict(merge.changes) if merge else {"inserted": 0, "updated": 0, "deleted": 0, "kept": 0}
            found.append(
                asdict(
                    TableResult(
                        compared.table.full_name, summary["rows"], summary["groups"], compared.matching, **numbers
                    )
                )
            )
        return found


def _broken(keys: list[BrokenForeignKey]) -> str:
    return "; ".join(f"{b.constraint}: {b.rows} rows of {b.table} without {b.parent}" for b in keys[:5])
