"""One table, many tenants, what the change journal told of it: from the parent's state of the table to the next one.

Rows come from the journal. The server is asked for what it alone can say: the hashes of keys that came or went, which a later
backup compares with those of its scan, and rows with values that the journal does not have, at the backup's own snapshot. The
result is the state that a scan gives.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from sbh_pipelines.backup.contents.stored_table import (
    LayerWriter,
    State,
    StoredTable,
    read_sums,
    store_sums,
    summary_of,
)
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.backup.create.journaled.tenant_journal import CONTRADICTS
from sbh_pipelines.backup.create.table_delta import KEY_WEIGHT, MAX_CHANGED, SMALL, weight
from sbh_pipelines.backup.journal.fold import KeyResult
from sbh_pipelines.database.capture.deleted_rows import Sums
from sbh_pipelines.database.capture.keyed_rows import WantedKey, hash_keys, rows_by_keys
from sbh_pipelines.database.schema.key_hash import KeyCode, bucket_of
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection, savepoint
from sbh_pipelines.errors import SbhError, SourceError
from sbh_pipelines.repository.chunking import ROW_GROUPS
from sbh_pipelines.repository.pack import PackWriter
from sbh_pipelines.repository.repository import Repository

MUCH_CHANGED = "more than a third of it changed since it was last read whole"
OTHER_KEY = "the tenant had another key"
_KEYS = 2_000  # sent to the server at once
_BYTES = 4 << 20  # of rows that wait for that


@dataclass
class TenantFold:
    """One tenant's side. At the snapshot `made_at` the table was what `state` says; `results` is what became of its keys since,
    or since its base was read."""

    key: str
    repository: Repository
    writer: PackWriter
    stored: StoredTable
    made_at: str
    seed: int
    definition: str
    results: Callable[[], Iterator[KeyResult]]
    from_base: bool
    summary: TableSummary | None = None  # the result
    rows: int = 0  # in its new layer
    again: str | None = None  # why the table is to be read again instead
    error: SbhError | None = None

    def anew(self) -> "TenantFold":
        """The same, with nothing found yet."""
        return replace(self, summary=None, rows=0, again=None, error=None)

    @property
    def state(self) -> State:
        assert self.stored.state is not None
        return self.stored.state


def capture_folds(connection: Connection, table: MappedTable, code: KeyCode, folds: Sequence[TenantFold]) -> None:
    """Work out the next state of the table for each tenant: sets `summary`, `again` or `error` of each."""
    batch: list[_Waiting] = []
    size = 0
    begun: list[_Layering] = []
    for fold in folds:
        layering = _Layering(fold, table)
        if layering.ended:
            continue
        begun.append(layering)
        for result in fold.results():
            batch.append(_Waiting(layering, result))
            size += len(result.row) + len(result.key)
            if len(batch) >= _KEYS or size >= _BYTES:
                _settle(connection, table, code, batch)
                batch, size, begun = [], 0, _finished(begun[:-1], begun[-1:])
    _settle(connection, table, code, batch)
    _finished(begun, [])


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A key whose result is complete when the server was asked."""

    layering: "_Layering"
    result: KeyResult

    @property
    def wanted(self) -> WantedKey:
        return WantedKey(self.layering.fold.key, self.result.key)


def _finished(ended: "Sequence[_Layering]", going_on: "list[_Layering]") -> "list[_Layering]":
    for layering in ended:
        layering.finish()
    return going_on


def _settle(connection: Connection, table: MappedTable, code: KeyCode, batch: Sequence[_Waiting]) -> None:
    """Ask the server what these keys need, and write them down."""
    counted = [one for one in batch if one.result.existed != one.result.exists]
    seeds = {one.layering.fold.key: one.layering.fold.seed for one in counted}
    is_open = [one for one in batch if one.result.exists and one.result.is_open]
    found: set[int] = set()

    def take(nth: int, row: bytes) -> None:
        one = is_open[nth]
        if one.layering.key_of(row) == one.result.key:
            found.add(nth)
            one.layering.row(row)

    try:
        with savepoint(connection):
            hashes = hash_keys(connection, table, code, [one.wanted for one in counted], seeds)
            rows_by_keys(connection, table, [one.wanted for one in is_open], take)
    except SourceError as error:
        if connection.closed:
            raise
        for one in batch:
            one.layering.read_again(f"the server does not take keys of the journal: {error.why}"[:200])
        return
    for nth, one in enumerate(is_open):
        if nth not in found:  # the journal says that it is there
            one.layering.read_again(CONTRADICTS)
    for one, value in zip(counted, hashes, strict=True):
        one.layering.count(code.kind, one.result, value)
    for one in batch:
        if one.result.exists and not one.result.is_open:
            one.layering.row(one.result.row)
        elif one.result.existed and not one.result.exists:
            one.layering.deleted(one.result.key)


@dataclass
class _Layering:
    """The layer of one tenant that is being written, and the sums it leads to. Its failures are its own tenant's."""

    fold: TenantFold
    table: MappedTable
    _text: bytearray = field(default_factory=bytearray)
    _rows: int = 0
    _sums: Sums = field(init=False)

    def __post_init__(self) -> None:
        state = self.fold.state
        self._layers = () if self.fold.from_base else state.layers
        self._base = replace(state.base, snapshot=state.base.snapshot or self.fold.made_at)
        self._writer = LayerWriter(self.fold.writer)
        if state.tenant != self.fold.key:
            # The slug was given to another tenant, whose rows are older than the window.
            self.read_again(OTHER_KEY)
        elif self._weight() > max(MAX_CHANGED * state.base.rows, SMALL):
            self.read_again(MUCH_CHANGED)
        else:
            self._try(self._read_sums)

    @property
    def ended(self) -> bool:
        return self.fold.error is not None or self.fold.again is not None

    def read_again(self, why: str) -> None:
        self.fold.again = self.fold.again or why

    def key_of(self, row: bytes) -> bytes:
        fields = row.split(b"\t")
        return b"\t".join([fields[at] for at in self.fold.stored.key_fields])

    def row(self, row: bytes) -> None:
        """A row that came or changed."""
        self._text += row
        self._text += b"\n"
        self._rows += 1
        if len(self._text) >= ROW_GROUPS.average:
            self._flush()

    def deleted(self, key: bytes) -> None:
        self._try(lambda: self._writer.deleted(key))

    def count(self, kind: str, result: KeyResult, value: int) -> None:
        """A key came or went."""
        if self.ended:
            return
        bucket = bucket_of(kind, result.key.split(b"\t")) & ((1 << self._sums.bits) - 1)
        self._sums.hashes[bucket] ^= value
        if result.exists:
            self._sums.counts[bucket] += 1
        elif self._sums.counts[bucket]:
            self._sums.counts[bucket] -= 1
        else:
            self.read_again(CONTRADICTS)

    def finish(self) -> None:
        """Store the state. Frees what is in memory."""
        self._flush()
        self._try(self._finish)
        del self._sums

    def _weight(self) -> float:
        """What the layers will hold, in rows."""
        held = 0.0 if self.fold.from_base else weight(self.fold.state)
        return held + sum(1 if result.exists else KEY_WEIGHT for result in self.fold.results())

    def _read_sums(self) -> None:
        state = self.fold.state
        then = state.base if self.fold.from_base else state
        self._sums = read_sums(self.fold.repository, state.bits, then.sums, then.rows, then.key_hash)

    def _flush(self) -> None:
        if self._text:
            text, rows = bytes(self._text), self._rows
            self._text, self._rows = bytearray(), 0
            self._try(lambda: self._writer.group(text, rows))

    def _finish(self) -> None:
        fold, layer = self.fold, self._writer.finish()
        fold.rows = layer.rows
        state = replace(
            fold.state,
            rows=self._sums.rows,
            key_hash=self._sums.key_hash,
            sums=store_sums(fold.writer, self._sums),
            base=self._base,
            layers=(*self._layers, layer) if layer.all_chunks else self._layers,
        )
        fold.summary = summary_of(fold.writer, self.table, fold.definition, state, fold.stored.lines)

    def _try(self, write: Callable[[], None]) -> None:
        if not self.ended:
            try:
                write()
            except SbhError as error:
                self.fold.error = error
