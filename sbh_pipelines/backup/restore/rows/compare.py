"""Comparing a table of a backup with the live one: only what may differ is read from the repository and staged.

by changes   rows written or deleted since the backup tell by their transaction ids and the sums of their keys; where
             the server is the one that was backed up and the table is still the same
by content   the live rows are read as a backup reads them; groups with the backup's chunk ids are equal
by buckets   of a layered table, where the backup's rows lie among each other is not known: sums of the rows in each bucket
             of keys are compared
all of it    the table's columns are others now, or rows are to be chosen
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from sbh_pipelines.backup.contents.layers import table_rows
from sbh_pipelines.backup.contents.stored_table import Group, State, StoredTable, read_sums, read_table
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.backup.create.parent import incomparable
from sbh_pipelines.backup.restore.context import RestoreContext
from sbh_pipelines.backup.restore.left_rows import LeftRows
from sbh_pipelines.backup.restore.rows.buckets import BucketSums, LostRows, RowBuckets
from sbh_pipelines.backup.restore.rows.groups import ChunkSet, LiveGroups
from sbh_pipelines.database.capture.capture import copy_table
from sbh_pipelines.database.merge.fit.columns import SchemaDifference
from sbh_pipelines.database.merge.fit.mapping import TableMapping
from sbh_pipelines.database.merge.fit.partitions import hanging_on_homeless, leave_out_homeless, without_partition
from sbh_pipelines.database.merge.kept import keep_live
from sbh_pipelines.database.merge.merge import TableMerge
from sbh_pipelines.database.merge.modes import RULES
from sbh_pipelines.database.merge.read_back import check_staged, sum_live, sum_staged
from sbh_pipelines.database.merge.relationships.adoption import NONE_HELD, Held, adopt_rows, leave_rows
from sbh_pipelines.database.merge.relationships.links import links_of
from sbh_pipelines.database.merge.staging import Staging
from sbh_pipelines.database.merge.untouched import Census, census, find_touched, untouched_rows, written_since
from sbh_pipelines.database.schema.definition import VOLATILE, read_definitions
from sbh_pipelines.database.schema.key_hash import KeyCode, key_code, unescape
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import savepoint
from sbh_pipelines.errors import RestoreRefused, UnreadableRow

_ALMOST = 0.99  # of a table, as long as it is not compared
_TELL_EVERY = 1 << 20  # bytes of a table
_FEW = 5  # up to a fifth of a table's rows are looked at one by one; of more, live ones are found in one scan


@dataclass(slots=True)
class TableComparison:
    """What is known of a table before anything is decided. Without a staging the live table is equal."""

    mapping: TableMapping
    summary: TableSummary
    staging: Staging | None
    census: Census  # before anything was written
    matching: int = 0  # row groups found equal without being read
    downloaded: int = 0  # bytes, as they are stored
    by_groups: bool = False  # the table can be proven group by group
    keys: "LiveKeys | None" = None  # where compared by changes
    held: Held = NONE_HELD  # keys of rows of the backup that other tenants have now
    differences: list[SchemaDifference] = field(default_factory=list)  # of rows that have no place any more
    partial: bool = (
        False  # some rows of the table are left out, whatever the mode: it will not be the backup's as a whole
    )

    @property
    def table(self) -> MappedTable:
        return self.mapping.table

    def rows_after(self, merge: TableMerge) -> int:
        """The tenant's rows when this was written: what was there or was adopted, less what went, plus what came."""
        return self.census.rows + merge.staging.adopted + merge.changes.inserted - merge.changes.deleted


@dataclass(frozen=True, slots=True)
class LiveKeys:
    """All keys of a table as one number: the XOR of their hashes, live before the restore and in the backup."""

    code: KeyCode
    seed: int
    live: int
    backup: int


class TableComparer:
    """Compares tables in the restore's transaction, at its snapshot."""

    def __init__(self, context: RestoreContext) -> None:
        self._context, self._repository, self._connection = context, context.repository, context.connection
        self._tenant_key = context.tenant.key
        then = context.manifest.recovery_point
        self._comparable = not context.manifest.is_recovered and incomparable(then, context.point) is None
        self._links = links_of(context.tenancy)
        self._homeless: dict[int, Staging] = {}
        self._read, self._at = 0, (0, 1)  # bytes read of the table at hand; how many come before it, of how many
        self._definitions = read_definitions(self._connection, context.tenancy.tables) if self._comparable else {}

    def compare(
        self, mapping: TableMapping, summary: TableSummary, number: int, *, everything: bool, of: int
    ) -> TableComparison:
        """The table `number` of so many. `everything` stages all rows of both sides, equal or not: for those who choose among them.

        Live rows of nobody that have the key of a row of the backup are staged as the tenant's.
        """
        self._read, self._at = 0, (number - 1, of)
        compared = self._compared(mapping, summary, number, everything=everything)
        left = self._context.left_rows.get(mapping.table.full_name)
        if compared.staging is not None and left is not None:
            self._leave(compared.staging, left)
            compared.partial = True
        if compared.staging is not None:
            if not everything:
                self.find_homes(compared)
            compared.held = adopt_rows(compared.staging)
            kept = self._context.kept.columns.get(mapping.table.full_name, ())
            if columns := [column for column in kept if column in compared.staging.columns]:
                keep_live(compared.staging, columns)
                compared.by_groups = False  # the rows will not be the backup's to the last byte
        return compared

    def find_homes(self, compared: TableComparison) -> None:
        """Rows without a partition, and rows that hang on these, have no place; where that is accepted, they are left out.

        Parents first. Done by `compare`, but where rows are chosen.
        """
        staging = compared.staging
        if staging is None:
            return
        found = without_partition(staging) or hanging_on_homeless(staging, self._links, self._homeless)
        if found is None:
            return
        compared.differences.append(found)
        self._homeless[staging.table.table.oid] = staging
        if self._context.request.accept_schema_changes:
            leave_out_homeless(staging)
            compared.partial = True

    def _leave(self, staging: Staging, left: LeftRows) -> None:
        """Rows that the restore which is undone took from nobody are wanted as they were."""
        if left.columns != tuple(staging.columns):
            raise RestoreRefused(
                "The columns of a table are others now than before the restore",
                on=staging.table.full_name,
                why="rows that were nobody's then cannot be put back as they were",
                remedy="restore the tables from the safety backup: `sbh restore status` names it",
            )
        check_staged(staging)
        leave_rows(staging, left.texts())
        sum_staged(staging)

    def _compared(
        self, mapping: TableMapping, summary: TableSummary, number: int, *, everything: bool
    ) -> TableComparison:
        stored = read_table(self._repository, summary)
        if everything or not mapping.same:
            return self._all(mapping, summary, stored, number)
        if (found := self._by_changes(mapping, summary, stored, number)) is not None:
            return found
        if stored.state is not None and stored.layers:
            if stored.state.kind != key_code(mapping.table).kind:  # the key is another one now
                return self._all(mapping, summary, stored, number)
            return self._by_buckets(mapping, summary, stored, stored.state, number)
        return self._by_content(mapping, summary, stored, number)

    # by changes

    def _by_changes(
        self, mapping: TableMapping, summary: TableSummary, stored: StoredTable, number: int
    ) -> TableComparison | None:
        state, name = stored.state, mapping.table.full_name
        definition = self._definitions.get(name, VOLATILE)
        catalog = self._context.site.catalog(self._context.tenant.region)
        code = key_code(mapping.table)
        if (
            not self._comparable
            or state is None
            or not code.keyed
            or state.kind != code.kind
            or state.tenant != self._tenant_key
            or state.seed != catalog.seed_id
            or definition in (VOLATILE, "")
            or definition != summary.definition
            or any(hop.join is not None for hop in mapping.table.hops)
        ):
            return None
        then = read_sums(self._repository, state.bits, state.sums, state.rows, state.key_hash)
        since, seed = self._context.manifest.recovery_point.snapshot, catalog.hash_seed
        touched = find_touched(
            self._connection, mapping.table, code, self._tenant_key, since, seed, then, self._context.point.snapshot
        )
        keys = LiveKeys(code, seed, touched.key_hash, int(state.key_hash, 16))
        compared = TableComparison(mapping, summary, None, touched.census, keys=keys)
        if not touched.buckets:
            compared.matching = summary.groups
            return compared
        compared.staging = staging = self._staging(mapping, number)
        rows = RowBuckets(code.kind, stored.key_fields, state.bits)
        lost = LostRows(rows, touched.lost, seed)
        looked_at = touched.fresh + len(touched.lost) + lost.whole * state.rows // (rows.mask + 1)
        alone = mapping.table.table.kind == "r" and not mapping.table.hops  # places say which rows they are
        if alone and looked_at * _FEW < state.rows:
            if touched.lost:
                staging.fill_want(lost.chosen(self._touched_rows(compared, stored, len(touched.lost), since)))
            if lost.unfound:
                staging.fill_want(
                    rows.chosen(self._rows(compared, read_table(self._repository, summary)), lost.unfound)
                )
            staging.fill_have_fresh(touched.places, written_since(self._connection, since))
        else:
            staging.fill_want(rows.chosen(self._rows(compared, stored), touched.buckets))
            staging.fill_have_buckets(code, rows.mask, touched.buckets)
        staging.finish()
        return compared

    def _touched_rows(
        self, compared: TableComparison, stored: StoredTable, buckets: int, since: str
    ) -> Iterator[bytes]:
        """The backup's rows; where few buckets lost some, only of the row groups that were touched."""
        table = compared.table
        key = [table.table.column(name) for name in table.table.primary_key]
        alone = (
            len(key) == 1 and key[0] is not None and not key[0].type.endswith("]")
        )  # arrays of arrays there are none
        if stored.layers or not alone or buckets * 2 > compared.summary.groups:
            return self._rows(compared, stored)
        groups = list(stored.groups)  # some 100 bytes for about a MiB of rows
        if not all(group.low for group in groups):  # a key whose bytes a backup's documents cannot hold
            return self._groups(compared, iter(groups))
        lows = [unescape(group.low[0].encode()).decode() for group in groups]
        left = untouched_rows(self._connection, table, self._tenant_key, since, lows)
        hurt = [group for group, rows in zip(groups, left, strict=True) if rows != group.rows]
        compared.matching = len(groups) - len(hurt)
        return self._groups(compared, iter(hurt))

    # by content

    def _by_content(
        self, mapping: TableMapping, summary: TableSummary, stored: StoredTable, number: int
    ) -> TableComparison:
        wanted = ChunkSet()
        for group in stored.groups:
            wanted.add(group.chunk)
        live = LiveGroups(self._repository, wanted)
        copy_table(self._connection, mapping.table, self._tenant_key, live)
        compared = TableComparison(mapping, summary, None, self._census(mapping), live.matching, by_groups=True)
        try:
            if live.differ or live.matching < summary.groups:
                compared.staging = self._staging(mapping, number, by_groups=True)
                missing = (g for g in read_table(self._repository, summary).groups if not live.has(g.chunk))
                compared.staging.fill_want(self._groups(compared, missing))
                compared.staging.fill_have(live.spool)
                compared.staging.finish()
        finally:
            live.spool.close()
        return compared

    def _by_buckets(
        self, mapping: TableMapping, summary: TableSummary, stored: StoredTable, state: State, number: int
    ) -> TableComparison:
        """A layered table's rows come in no order: what is in each bucket is compared, on both sides."""
        compared = TableComparison(mapping, summary, None, self._census(mapping))
        rows = RowBuckets(state.kind, stored.key_fields, state.bits)
        buckets: Sequence[int] = range(rows.mask + 1)
        if compared.census.rows:  # else there is nothing to compare with, and the backup is read once
            live = BucketSums(rows)
            try:
                with savepoint(self._connection):
                    sum_live(self._connection, mapping.table, self._tenant_key, live)
            except UnreadableRow:  # too large for a COPY: a reason to restore, and none not to
                return self._all(mapping, summary, stored, number)
            backup = live.fresh()
            for text in self._rows(compared, stored):
                backup.add(text)
            buckets, stored = backup.differing(live), read_table(self._repository, summary)
        if not buckets:
            compared.matching = summary.groups
            return compared
        compared.staging = self._staging(mapping, number)
        compared.staging.fill_want(rows.chosen(self._rows(compared, stored), buckets))
        compared.staging.fill_have_buckets(key_code(mapping.table), rows.mask, buckets)
        compared.staging.finish()
        return compared

    # all of it

    def _all(self, mapping: TableMapping, summary: TableSummary, stored: StoredTable, number: int) -> TableComparison:
        staging = self._staging(mapping, number)
        compared = TableComparison(mapping, summary, staging, self._census(mapping))
        staging.fill_want(self._rows(compared, stored))
        staging.fill_have_all()
        staging.finish()
        return compared

    def staged(self, compared: TableComparison, number: int) -> Staging:
        """What is staged of the table; nothing of either side, where it was found equal."""
        if compared.staging is None:
            compared.staging = self._staging(compared.mapping, number, by_groups=compared.by_groups)
            compared.staging.finish()
        return compared.staging

    def _staging(self, mapping: TableMapping, number: int, *, by_groups: bool = False) -> Staging:
        staging = Staging(self._connection, mapping, self._tenant_key, number, dry_run=self._context.dry_run)
        by_groups = by_groups and mapping.table.full_name not in self._context.kept.columns
        if by_groups and RULES[self._context.request.mode].exact:
            staging.lines = None  # all rows are read back: proof.py
        return staging

    def _census(self, mapping: TableMapping) -> Census:
        return census(self._connection, mapping.table, self._tenant_key, self._context.point.snapshot)

    def _rows(self, compared: TableComparison, stored: StoredTable) -> Iterator[bytes]:
        size, (before, of), told = max(1, compared.summary.bytes), self._at, self._read
        for text in self._stored_rows(compared, stored):
            self._read += len(text)
            if self._read - told >= _TELL_EVERY:
                told = self._read
                self._context.notice("compare", before + min(self._read / size, _ALMOST), of)
            yield text

    def _stored_rows(self, compared: TableComparison, stored: StoredTable) -> Iterator[bytes]:
        if stored.state is None or not stored.layers:
            yield from self._groups(compared, stored.groups)
            return
        chunks = [bytes.fromhex(c) for layer in stored.layers for c in layer.all_chunks]
        groups = read_table(self._repository, compared.summary).groups
        stored_in = chain(chunks, (group.chunk for group in groups))
        compared.downloaded += sum(self._repository.locate(chunk).length for chunk in stored_in)
        yield from table_rows(self._repository, stored)

    def _groups(self, compared: TableComparison, groups: Iterator[Group]) -> Iterator[bytes]:
        def chunks() -> Iterator[bytes]:
            for group in groups:
                compared.downloaded += self._repository.locate(group.chunk).length
                yield group.chunk

        return self._repository.read_chunks(chunks())
