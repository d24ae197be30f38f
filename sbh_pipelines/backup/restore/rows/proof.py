"""The proof of a restore's rows, before it commits: what was written is read back, nothing else was written, nobody else was at
work, and all keys hold.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

from sbh_pipelines.backup.contents.stored_table import Group, read_table
from sbh_pipelines.backup.restore.context import RestoreContext, describe_broken_keys, remedy_for_broken_keys
from sbh_pipelines.backup.restore.result import RowsProven
from sbh_pipelines.backup.restore.rows.compare import TableComparison
from sbh_pipelines.backup.restore.rows.groups import GroupProof
from sbh_pipelines.database.capture.capture import copy_table
from sbh_pipelines.database.merge import conflicts
from sbh_pipelines.database.merge.foreign_keys import check_foreign_keys, keep_parents, late_children
from sbh_pipelines.database.merge.merge import TableMerge
from sbh_pipelines.database.merge.modes import RULES
from sbh_pipelines.database.merge.read_back import rows_differ
from sbh_pipelines.database.merge.relationships.references import References
from sbh_pipelines.database.merge.schema_changes import changed_catalogs
from sbh_pipelines.database.merge.transaction import fire_deferred, written_by
from sbh_pipelines.database.merge.untouched import hash_of_keys, no_other_transaction_ended, others_wrote
from sbh_pipelines.database.session.connection import Connection, look
from sbh_pipelines.errors import ProofFailed, RestoreRefused, SourceConflict

_TRIGGER = "a trigger, rule or constraint changed what was written"
_LOOK_FOR_TRIGGERS = "look for ENABLE ALWAYS or REPLICA triggers on the table; nothing was changed"


class RowProof:
    """Proves what was compared and merged. `prove` after everything was written, in the same transaction."""

    def __init__(
        self,
        context: RestoreContext,
        compared: Sequence[TableComparison],
        merges: Mapping[str, TableMerge],
        references: References,
    ) -> None:
        self._context, self._compared, self._merges, self._references = context, compared, merges, references

    def prove(self) -> RowsProven:
        """Read back what was written. Raises ProofFailed, RestoreRefused, SourceConflict: roll back."""
        groups = rows = 0
        fire_deferred(self._context.connection)
        self._prove_nothing_else()
        for number, compared in enumerate(self._compared):
            self._context.notice("prove", number, len(self._compared))
            merge = self._merges.get(compared.table.full_name)
            if compared.by_groups and self._exactly(compared):
                # A table found equal was compared just so.
                groups += self._prove_groups(compared) if merge is not None else compared.summary.groups
            elif merge is not None:
                rows += self._prove_rows(compared, merge)
        for merge in self._merges.values():
            if not merge.changes.any:
                continue
            for constraint, count in conflicts.deferred(
                self._context.connection, merge.table, self._context.tenant.key
            ):
                raise RestoreRefused(
                    "Rows of the backup are in conflict with other rows; rolled back",
                    on=merge.table.full_name,
                    why=f"{count} rows break the constraint {constraint}",
                    remedy="a row outside the tenant holds the same key: resolve it, then try again",
                )
        checked, broken = check_foreign_keys(
            self._context.connection,
            self._context.tenancy,
            list(self._merges.values()),
            self._context.undo_since,
        )
        if broken:
            raise ProofFailed(
                "Foreign keys would not hold after the restore; rolled back",
                on=self._context.tenant.id,
                why=describe_broken_keys(broken),
                remedy=remedy_for_broken_keys(self._context.request, broken),
            )
        self._alone()
        # Reading back calls code of the application as well: what it wrote meanwhile is found by the last look of all.
        self._prove_nothing_else()
        self._prove_schema()
        return RowsProven(groups, rows, checked)

    def _exactly(self, compared: TableComparison) -> bool:
        """The whole table is to be what it was."""
        exact = RULES[self._context.request.mode].exact and self._context.request.rows is None
        merge = self._merges.get(compared.table.full_name)
        partial = compared.partial or (merge is not None and merge.spared > 0)
        return exact and compared.mapping.same and not partial

    def _prove_groups(self, compared: TableComparison) -> int:
        """Read the merged table back, cut as the backup was, and compare every chunk id. Returns groups compared."""

        def expected() -> Iterator[Group]:
            return read_table(self._context.repository, compared.summary).groups

        reader = GroupProof(self._context.repository, expected(), compared.table.full_name)
        plan = (group.rows for group in expected())
        copy_table(self._context.connection, compared.table, self._context.tenant.key, reader, plan)
        return reader.finish()

    def _prove_rows(self, compared: TableComparison, merge: TableMerge) -> int:
        """Read back the rows written, as text; for a whole table, that its keys are the backup's. Returns rows compared."""
        if rows := merge.strangers():
            raise RestoreRefused(
                "Rows would not be this tenant's after the restore; rolled back",
                on=f"{compared.table.full_name}, {rows} rows",
                why="what they hang on is another tenant's, or gone",
                remedy="restore the tables that they hang on as well",
            )
        differ, staging = rows_differ(merge), merge.staging
        every_value = staging.keyed and staging.whole and not differ
        wrong = 0 if every_value else merge.unproven()
        if differ and not wrong:  # what is there is what was staged, and that is not what the backup has
            raise ProofFailed(
                "The rows read back are not the backup's; rolled back",
                on=compared.table.full_name,
                why="the server made something else of a value's text",
                remedy="compare the server's version, and the settings of the role and of the database, with those of the"
                " backup's time; nothing was changed",
            )
        if wrong or (self._exactly(compared) and not self._all_keys(compared, merge)):
            raise ProofFailed(
                "The rows read back are not the backup's; rolled back",
                on=f"{compared.table.full_name}, {f'{wrong} rows' if wrong else 'its keys'}",
                why=_TRIGGER,
                remedy=_LOOK_FOR_TRIGGERS,
            )
        return merge.changes.inserted + merge.changes.updated

    def _all_keys(self, compared: TableComparison, merge: TableMerge) -> bool:
        """Whether what was there or was adopted, less what went, plus what came, has the backup's number of rows, and its keys.

        That just this went and came is what the server counted (`_prove_nothing_else`).
        """
        keys = compared.keys
        if compared.rows_after(merge) != compared.summary.rows:
            return False
        if keys is None:
            return True
        changed = (merge.todo, merge.gone) if merge.changes.any else ()
        hashes = keys.live
        for rows in (*changed, *((merge.staging.adopted_rows,) if merge.staging.adopted else ())):
            hashes ^= hash_of_keys(self._context.connection, merge.staging, rows, keys.code, keys.seed)
        return hashes == keys.backup

    def _prove_nothing_else(self) -> None:
        """The server's own counts of what this transaction wrote must be what was decided, and of no other table."""
        counted = written_by(self._context.connection)
        decided = {
            m.table.table.oid: (m.changes.inserted + m.changes.updated, 0, m.changes.deleted + m.changes.updated)
            for m in self._merges.values()
            if m.changes.any
        }
        for oid, beside in self._references.consequences.written.items():
            inserted, updated, deleted = decided.get(oid, (0, 0, 0))
            decided[oid] = (inserted + beside[0], updated + beside[1], deleted + beside[2])
        if counted and counted != decided:
            other = sorted(oid for oid in counted.keys() | decided.keys() if counted.get(oid) != decided.get(oid))
            tables = self._context.tenancy.catalog.tables
            raise ProofFailed(
                "Other rows were written than was decided; rolled back",
                on=", ".join(tables[oid].full_name if oid in tables else f"the relation {oid}" for oid in other),
                why=_TRIGGER,
                remedy=_LOOK_FOR_TRIGGERS,
            )

    def _prove_schema(self) -> None:
        """Nothing but rows was changed: no schema, role, grant, function, trigger or setting."""
        if changed := changed_catalogs(self._context.connection):
            raise ProofFailed(
                "More than rows was changed during the restore; rolled back",
                on=", ".join(changed),
                why="code of the application (a trigger, a CHECK, a function of an index) created or granted something as the"
                " restore's role",
                remedy="`sbh doctor` lists such code and whose it is; nothing was changed",
            )

    def _alone(self) -> None:
        """Nobody else may have written rows of the tenant since the restore's snapshot. Raises SourceConflict."""
        if not any(m.changes.any for m in self._merges.values()):
            return
        compared = {c.table.table.oid for c in self._compared}
        keep_parents(self._context.connection, self._context.tenancy, list(self._merges.values()), compared)
        with closing(look(self._context.database, "restore check")) as connection:
            if not no_other_transaction_ended(connection, self._context.connection, self._context.point.snapshot):
                self._late_references(connection)
                self.undisturbed(connection)

    def undisturbed(self, connection: Connection) -> None:
        """Raises SourceConflict where somebody committed rows of the tenant since the snapshot."""
        tables = {c.table.full_name: c.table for c in self._compared}
        before = {c.table.full_name: c.census for c in self._compared}
        written = others_wrote(connection, before, tables, self._context.tenant.key, self._context.point.snapshot)
        if written:
            raise SourceConflict(
                "Rows of the tenant were written while it was being restored; rolled back",
                on=f"{self._context.tenant.id}: {', '.join(written)}",
                why="the result would be neither the backup nor what the tenant is doing now",
                remedy="try again; put the tenant into maintenance with the hooks restore.before and restore.after",
            )

    def _late_references(self, connection: Connection) -> None:
        """Rows that others committed since the snapshot may refer to what this restore deletes, in tables that are not
        compared, too. Raises SourceConflict.
        """
        merges = list(self._merges.values())
        late = late_children(
            connection, self._context.connection, self._context.tenancy, merges, self._context.point.snapshot
        )
        late = sorted({*late, *self._references.consequences.late(connection, self._context.point.snapshot)})
        if late:
            raise SourceConflict(
                "Rows were written that refer to some which the restore deletes; rolled back",
                on=", ".join(late),
                why="another session committed them while the restore ran",
                remedy="try again; put the tenant into maintenance with the hooks restore.before and restore.after",
            )
