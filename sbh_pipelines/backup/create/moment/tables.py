"""A table as it was at a moment: what the base stores of it, and one layer more. No server is asked.

So there are no hashes of keys, and nothing can be compared with it later. That the changes fit the base is proved here: each key
that they say was there is, and none that they say was new.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

from sbh_pipelines.backup.contents.json_lines import LineWriter, json_line
from sbh_pipelines.backup.contents.layers import table_rows
from sbh_pipelines.backup.contents.stored_table import Layer, LayerWriter, State, StoredTable, read_table
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.backup.create.moment.way.told import Remake, conversion_of
from sbh_pipelines.backup.journal.fold import KeyResult, Merge, converted, filled
from sbh_pipelines.backup.journal.key_states import KeyState, KeyStates
from sbh_pipelines.database.schema.table_header import ColumnType, StoredColumn, TableHeader
from sbh_pipelines.errors import JournalGap
from sbh_pipelines.repository.pack import PackWriter
from sbh_pipelines.repository.repository import Repository

RowSink = Callable[[bytes], None]
"""Takes a row, a line of COPY text without the newline."""

_LAYER_BYTES = 1 << 20
_BEFORE, _OPEN = "key", "row"  # groups of what is known of the base's rows


@dataclass(frozen=True, slots=True)
class LaidTable:
    """A table with its layer.

    Attributes:
        summary: Its entry in the component's document.
        changed: Rows that came, changed or went.
    """

    summary: TableSummary
    changed: int


def lay_table(
    repository: Repository,
    writer: PackWriter,
    merge: Merge,
    summary: TableSummary,
    snapshot: str,
    each_row: RowSink | None = None,
    remake: Remake | None = None,
) -> LaidTable:
    """The table of the base with what was merged of it; the base's own where nothing was.

    `snapshot`: of the base's recovery point. `each_row` is given every row as it was at the moment, if anything was merged.
    `remake`: where it had another definition then; all its rows are in one layer, and none are in groups.
    Raises JournalGap where the changes do not fit, CorruptObject.
    """
    layout = merge.layout(summary.table)
    if remake is None and (layout is None or next(merge.results(summary.table), None) is None):
        return LaidTable(summary, 0)
    stored = read_table(repository, summary)
    header, state = stored.header, stored.state
    if state is None:
        raise JournalGap("The base does not say enough of a table", on=summary.table, why="an older release made it")
    convert: Callable[[bytes], bytes] | None = None
    if remake is not None:
        conversion = conversion_of(remake.then, remake.now)
        if conversion is None or header.column_names != tuple(column.name for column in remake.then.stored):
            raise JournalGap("The journal knows other columns of a table than the base has", on=summary.table)
        convert, header = partial(converted, conversion), remade_header(header, remake)
    if layout and (layout.columns, layout.key, layout.encoding) != (header.column_names, header.key, header.encoding):
        raise JournalGap("The journal's rows have other columns than the base's", on=summary.table)
    with closing(KeyStates()) as known:
        rows = _Rows(LayerWriter(writer), each_row)
        expected = _expect(known, merge, summary.table)
        _compare(known, repository, stored, expected, summary.table, rows, convert)
        layer, came, went, changed = _write(known, rows, merge, summary.table)
    base, lines, layers, definition = state.base, stored.lines, state.layers, summary.definition
    if remake is not None:
        base = replace(base, rows=0, bytes=0, groups=0, key_hash="", sums=())
        layer, lines, layers = replace(layer, deleted=(), deleting=0), (), ()
        definition = remake.definition
    next_state = replace(
        state,
        seed="",
        rows=state.rows + came - went,
        key_hash="",
        sums=(),
        base=replace(base, snapshot=base.snapshot or snapshot),
        layers=(*layers, layer),
    )
    return LaidTable(_summary(writer, summary, header, lines, definition, next_state), changed)


def remade_header(header: TableHeader, remake: Remake) -> TableHeader:
    """What the table was at the moment."""
    columns = tuple(
        StoredColumn(column.name, ColumnType.parse(column.type_name), column.not_null, column.identity)
        for column in remake.now.stored
    )
    return replace(header, columns=columns)


class _Rows:
    """Rows on their way into a layer."""

    def __init__(self, layer: LayerWriter, each_row: RowSink | None) -> None:
        self.layer, self._each_row = layer, each_row
        self._piece, self._rows = bytearray(), 0

    def see(self, row: bytes) -> None:
        """One that the base has, and keeps."""
        if self._each_row is not None:
            self._each_row(row)

    def add(self, row: bytes) -> None:
        self.see(row)
        self._piece += row + b"\n"
        self._rows += 1
        if len(self._piece) >= _LAYER_BYTES:
            self._cut()

    def finish(self) -> Layer:
        if self._rows:
            self._cut()
        return self.layer.finish()

    def _cut(self) -> None:
        self.layer.group(bytes(self._piece), self._rows)
        self._piece, self._rows = bytearray(), 0


def _expect(known: KeyStates, merge: Merge, table: str) -> int:
    """Note which keys are to be looked for in the base; how many of them must be there."""
    expected = 0
    for result in merge.results(table):
        known.put(_BEFORE, result.key, KeyState(result.existed, result.exists, b"", b""))
        expected += result.existed
        if result.exists and result.is_open:
            known.put(_OPEN, result.origin, KeyState(True, True, b"", b""))
    return expected


def _compare(
    known: KeyStates,
    repository: Repository,
    stored: StoredTable,
    expected: int,
    table: str,
    rows: _Rows,
    convert: Callable[[bytes], bytes] | None,
) -> None:
    """Go through the base's rows: keep those that values are needed of, and see that the changes fit.

    `convert`: where the table had another definition at the moment; then the other rows are written, too.
    """
    fields, found = stored.key_fields, 0
    for text in table_rows(repository, stored):
        for line in text.split(b"\n")[:-1]:
            split = line.split(b"\t")
            key = b"\t".join([split[at] for at in fields])
            state = known.get(_BEFORE, key)
            if state is None:
                if convert is None:
                    rows.see(line)
                else:
                    rows.add(convert(line))
                continue
            if not state.existed:
                raise _misfit(table, "a row came whose key the base has")
            found += 1
            if known.get(_OPEN, key) is not None:
                known.put(_OPEN, key, KeyState(True, True, line if convert is None else convert(line), b""))
    if found != expected:
        raise _misfit(table, f"{expected - found} rows changed or went that the base does not have")


def _write(known: KeyStates, rows: _Rows, merge: Merge, table: str) -> tuple[Layer, int, int, int]:
    """(the layer; how many rows came, went, and were changed in any way)."""
    came, went, changed = 0, 0, 0
    for result in merge.results(table):
        changed += 1
        if not result.exists:
            rows.layer.deleted(result.key)
            went += result.existed
            continue
        came += not result.existed
        rows.add(_whole_row(known, result, table))
    return rows.finish(), came, went, changed


def _whole_row(known: KeyStates, result: KeyResult, table: str) -> bytes:
    if not result.is_open:
        return result.row
    before = known.get(_OPEN, result.origin)
    if before is None or not before.row:
        raise _misfit(table, "a value is as it was before, and there was no row")
    return filled(result.row, before.row)


def _summary(
    writer: PackWriter,
    summary: TableSummary,
    header: TableHeader,
    lines: Sequence[str],
    definition: str | None,
    state: State,
) -> TableSummary:
    opening = LineWriter(writer)
    opening.add(json_line({"header": header.as_dict(), "state": state.as_dict()}))
    return TableSummary.build(
        table=summary.table,
        status=str(summary.document["status"]),
        rows=state.rows,
        size=state.base.bytes + sum(layer.bytes for layer in state.layers),
        groups=state.base.groups,
        layers=len(state.layers),
        definition=definition,
        key_hash=None,
        seed=None,
        detail=[*opening.finish(), *lines],
    )


def rows_of(repository: Repository, summary: TableSummary) -> Iterator[bytes]:
    """The rows of a table that is as the base has it, lines without the newline."""
    for text in table_rows(repository, read_table(repository, summary)):
        yield from text.split(b"\n")[:-1]


def _misfit(table: str, why: str) -> JournalGap:
    return JournalGap(
        "The journal does not fit the backup",
        on=table,
        why=why,
        remedy="take another moment, or leave the table out: --tables; and see `sbh journal status`: something was changed past"
        " the journal",
    )
