"""One table, many tenants, only what changed: from the parent's state of the table to the next one.

The server gives, for each bucket of keys, how many rows there are and the XOR of their keys' hashes, and the hashes of the new
rows' keys. Where new rows alone explain the difference to the parent's sums, nothing else happened in the bucket. Where
they do not, rows were deleted (or came in without being written): of such a bucket the keys that are left are stored, and
rows that may have come in.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from sbh_pipelines.backup.contents.stored_table import (
    LayerWriter,
    State,
    StoredTable,
    read_sums,
    store_sums,
    summary_of,
)
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.database.capture.capture import copy_tenants
from sbh_pipelines.database.capture.changes import MAX_WINDOW, Window, ages, new_rows, snapshot_xmin
from sbh_pipelines.database.capture.deleted_rows import Sums, arrivals, explained_by, sums, survivors
from sbh_pipelines.database.schema.key_hash import KeyCode
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection
from sbh_pipelines.errors import SbhError
from sbh_pipelines.repository.pack import PackWriter
from sbh_pipelines.repository.repository import Repository

# Layers cost a restore time, and every one of them a few requests: then all are made anew as one.
MAX_LAYERS = 24
# When the layers hold more than this part of the base, reading the table again costs less than carrying them on.
MAX_CHANGED = 1 / 3
# A surviving key takes this part of a row's room, roughly.
KEY_WEIGHT = 1 / 8
# A table that fits a bucket is read again: smaller than what would say what changed in it.
SMALL = 64


@dataclass
class TenantDelta:
    """One tenant's side. `since` is the snapshot from which rows count as new; at it, as at the parent's own snapshot
    `made_at`, the table was what `state` says."""

    key: str
    repository: Repository
    writer: PackWriter
    stored: StoredTable
    since: str
    made_at: str
    seed: int
    definition: str
    summary: TableSummary | None = None  # the result
    rows: int = 0  # in its new layer
    again: str | None = None  # why the table is to be read again instead
    error: SbhError | None = None

    def anew(self) -> "TenantDelta":
        """The same, with nothing found yet."""
        return replace(self, summary=None, rows=0, again=None, error=None)

    @property
    def state(self) -> State:
        assert self.stored.state is not None
        return self.stored.state


def too_old(state: State, now: str) -> str | None:
    """Why no delta can be taken at the snapshot `now`: it would count from the base, which is not in sight any more.

    The parent is, but each backup is compared with its own parent only, and layers go on for as long as little changes.
    """
    if len(state.layers) < MAX_LAYERS or not state.base.snapshot:
        return None
    distance = snapshot_xmin(now) - snapshot_xmin(state.base.snapshot)
    return f"{distance:,} transactions have gone by since it was last read whole" if distance > MAX_WINDOW else None


def capture_delta(
    connection: Connection, table: MappedTable, code: KeyCode, deltas: list[TenantDelta], held_bytes: int
) -> None:
    """Work out the next state of the table for each tenant: sets `summary`, `again` or `error` of each."""
    mine = {delta.key: _Start(delta) for delta in deltas}
    known = ages(connection, (snapshot_xmin(start.since) for start in mine.values()))
    windows = {
        key: Window(known[snapshot_xmin(start.since)], start.delta.seed, start.delta.state.bits)
        for key, start in mine.items()
    }
    now, new = sums(connection, table, code, windows)
    lacking: dict[str, list[int]] = {}
    for key, start in mine.items():
        try:
            lacking[key] = start.compare(now[key], new[key])
        except SbhError as error:
            start.delta.error = error
    live = {key: start for key, start in mine.items() if not (start.delta.error or start.delta.again)}
    if not live:
        return
    chosen = {key: windows[key] for key in live}
    writers = {key: _Guarded(start.delta) for key, start in live.items()}
    copy_tenants(connection, table, code, new_rows(table, chosen), writers, held_bytes)
    buckets = {key: lacking[key] for key in live if lacking[key]}
    if buckets:
        _left_over(connection, table, code, chosen, buckets, writers)
        came = arrivals(table, code, chosen, buckets)
        if came is not None:
            copy_tenants(connection, table, code, came, {key: writers[key] for key in buckets}, held_bytes)
    for key, start in live.items():
        if start.delta.error is None:
            try:
                start.finish(table, writers[key].writer, now[key])
            except SbhError as error:
                start.delta.error = error


def _left_over(
    connection: Connection,
    table: MappedTable,
    code: KeyCode,
    windows: Mapping[str, Window],
    buckets: Mapping[str, list[int]],
    writers: "Mapping[str, _Guarded]",
) -> None:
    seen: dict[str, set[int]] = {key: set() for key in buckets}

    def take(key: str, bucket: int, fields: bytes) -> None:
        seen[key].add(bucket)
        writers[key].survivor(bucket, fields)

    survivors(connection, table, code, windows, buckets, take)
    for key, listed in buckets.items():
        for bucket in listed:
            if bucket not in seen[key]:
                writers[key].emptied(bucket)


def weight(state: State) -> float:
    """What the layers hold, in rows."""
    return sum(layer.rows + (layer.surviving + layer.deleting) * KEY_WEIGHT for layer in state.layers)


class _Start:
    """From which snapshot and sums one tenant's delta is counted."""

    def __init__(self, delta: TenantDelta) -> None:
        self.delta, state = delta, delta.state
        self.from_base = len(state.layers) >= MAX_LAYERS
        self.base = replace(state.base, snapshot=state.base.snapshot or delta.made_at)
        self.since = self.base.snapshot if self.from_base else delta.since
        self.layers = () if self.from_base else state.layers
        self._carried = 0 if self.from_base else weight(state)

    def compare(self, now: Sums, new: Mapping[int, list[int]]) -> list[int]:
        """The buckets that new rows alone do not explain. Sets `again` when too much has changed."""
        state = self.delta.state
        if state.tenant != self.delta.key:
            # The slug was given to another tenant, whose rows are older than the window.
            self.delta.again = "the tenant had another key"
            return []
        reference = state.base if self.from_base else state
        before = read_sums(self.delta.repository, state.bits, reference.sums, reference.rows, reference.key_hash)
        lacking = []
        changed = float(self._carried)
        for bucket in range(1 << state.bits):
            fresh = new.get(bucket, ())
            changed += len(fresh)
            then = before.counts[bucket], before.hashes[bucket]
            current = now.counts[bucket], now.hashes[bucket]
            if not explained_by(then, current, fresh):
                lacking.append(bucket)
                changed += current[0] * KEY_WEIGHT
        if changed > MAX_CHANGED * max(state.base.rows, 1):
            self.delta.again = "more than a third of it changed since it was last read whole"
        return lacking

    def finish(self, table: MappedTable, writer: LayerWriter, now: Sums) -> None:
        delta = self.delta
        layer = writer.finish()
        delta.rows = layer.rows
        state = replace(
            delta.state,
            rows=now.rows,
            key_hash=now.key_hash,
            sums=store_sums(delta.writer, now),
            base=self.base,
            layers=(*self.layers, layer),
        )
        delta.summary = summary_of(delta.writer, table, delta.definition, state, delta.stored.lines)


class _Guarded:
    """A LayerWriter that keeps one tenant's failure from the others."""

    def __init__(self, delta: TenantDelta) -> None:
        self._delta = delta
        self.writer = LayerWriter(delta.writer)

    def group(self, text: "bytes | memoryview", rows: int) -> None:
        self._try(lambda: self.writer.group(text, rows))

    def close(self) -> None:
        self.writer.close()

    def survivor(self, bucket: int, key: bytes) -> None:
        self._try(lambda: self.writer.survivor(bucket, key))

    def emptied(self, bucket: int) -> None:
        self._try(lambda: self.writer.emptied(bucket))

    def _try(self, write: Callable[[], None]) -> None:
        if self._delta.error is None:
            try:
                write()
            except SbhError as error:
                self._delta.error = error
