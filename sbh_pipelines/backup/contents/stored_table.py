"""A table as a backup holds it: row groups from when all of it was read, and layers of what changed since.

The detail of a table is one chunk with its *state* and then lines, one for each row group. A backup that finds little changed
takes over the lines by their chunk ids, adds a *layer* to the state, and so is complete by itself.

    base    the row groups, and the snapshot and the sums they were read at
    layer   rows that came or changed up to a later snapshot, and which keys went: by name where the change journal told of
            them, else which keys were left in the buckets that lost some
    sums    rows and XOR of key hashes in each bucket, now: what the next backup compares with
"""

import struct
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from sbh_pipelines.backup.contents.json_lines import LineWriter, json_line, read_lines
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.database.capture.deleted_rows import Sums
from sbh_pipelines.database.schema.table_header import TableHeader
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.sql import UTF8
from sbh_pipelines.errors import CorruptObject
from sbh_pipelines.repository.pack import PackWriter
from sbh_pipelines.repository.repository import Repository

_AHEAD = 32  # groups whose chunk ids are still being computed
_FIRST_LINE = 4 << 10  # bytes in which the first line of a group mostly ends
_SUM = struct.Struct(">IQ")
_SUMS_IN_CHUNK = 65536


@dataclass(frozen=True, slots=True)
class Group:
    """One row group of a backup."""

    chunk: bytes
    rows: int
    bytes: int
    low: tuple[str, ...]  # key of the first row, as COPY text; empty without a primary key


@dataclass(frozen=True, slots=True)
class Layer:
    """What changed between two snapshots.

    Attributes:
        rows: Rows that came or changed.
        bytes: Of their text.
        chunks: Of their text, COPY's.
        survivors: Chunks of COPY text as well: `bucket` and the key's fields for each row left in a bucket that lost rows, and a
            line with the bucket alone where nothing was left. Older rows of such a bucket that are not among them are gone.
        surviving: Lines of the survivors.
        deleted: Chunks of COPY text: the key's fields of each row that went. Older rows with such a key are gone.
        deleting: Lines of the deleted.
    """

    rows: int
    bytes: int
    chunks: tuple[str, ...]
    survivors: tuple[str, ...]
    surviving: int
    deleted: tuple[str, ...] = ()
    deleting: int = 0

    @property
    def all_chunks(self) -> tuple[str, ...]:
        """Everything that is stored of it."""
        return (*self.chunks, *self.survivors, *self.deleted)

    def as_dict(self) -> dict[str, object]:
        """As it is stored. Releases without a change journal read one without deleted keys, and refuse one that has some."""
        document = asdict(self)
        return document if self.deleted else {k: v for k, v in document.items() if k not in ("deleted", "deleting")}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Layer":
        """Raises TypeError for one that says more than is known here: it would be misread."""
        lists = {name: tuple(fields[name]) for name in ("chunks", "survivors", "deleted") if name in fields}
        return cls(**{**fields, **lists})


@dataclass(frozen=True, slots=True)
class Base:
    """When and how the groups were read."""

    # Empty where that was at the recovery point of the backup itself: so the state of a table that did not change is the
    # same chunk in every full backup, and one that was lost comes back with the next.
    snapshot: str
    rows: int
    bytes: int
    groups: int
    key_hash: str
    sums: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class State:
    """How the table can be compared with a later snapshot. `rows`, `key_hash` and `sums` are of the backup itself."""

    kind: str  # of key; see database/schema/key_hash.py
    seed: str  # which seed the hashes were made with
    bits: int  # of the bucket, in all sums and layers
    rows: int
    key_hash: str
    sums: tuple[str, ...]  # chunks; none where one bucket holds all rows
    base: Base
    layers: tuple[Layer, ...]  # oldest first
    tenant: str  # the tenant's key: its slug may be given to another

    def chunks(self) -> Iterator[str]:
        """All chunks that the state names."""
        yield from self.sums
        yield from self.base.sums
        for layer in self.layers:
            yield from layer.all_chunks

    def as_dict(self) -> dict[str, object]:
        """As it is stored."""
        return {**asdict(self), "layers": [layer.as_dict() for layer in self.layers]}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "State":
        layers = tuple(map(Layer.from_dict, fields["layers"]))
        base = Base(**{**fields["base"], "sums": tuple(fields["base"]["sums"])})
        return cls(**{**fields, "sums": tuple(fields["sums"]), "base": base, "layers": layers})


@dataclass(frozen=True, slots=True)
class StoredTable:
    """A table of a backup, opened. `groups` can be gone through once."""

    header: TableHeader
    state: State | None  # None in backups of releases that made full ones only
    groups: Iterator[Group]
    lines: tuple[str, ...]  # chunks of the groups' lines

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.state.layers if self.state else ()

    @property
    def key_fields(self) -> list[int]:
        """Where the key's columns are among the fields of a row."""
        names = self.header.column_names
        return [names.index(name) for name in self.header.key if name in names]


class TableWriter:
    """A BatchSink that stores all groups of one tenant and table. `summary` ends it."""

    def __init__(self, writer: PackWriter, table: MappedTable) -> None:
        self._writer, self.table = writer, table
        self._lines = LineWriter(writer)
        self._pending: deque[tuple[Future[bytes], dict[str, object]]] = deque()
        names = table.captured_columns
        self._key_fields = [names.index(k) for k in table.table.primary_key if k in names]
        self.rows = self.bytes = self.groups = 0

    def group(self, text: "bytes | memoryview", rows: int) -> None:
        first = _first_line(text).split(b"\t")
        low = _texts(self.table, [first[at] for at in self._key_fields])
        self._pending.append((self._writer.put(text), {"rows": rows, "bytes": len(text), "low": low}))
        self.rows += rows
        self.bytes += len(text)
        self.groups += 1
        while len(self._pending) > _AHEAD:
            self._resolve()

    def _resolve(self) -> None:
        future, fields = self._pending.popleft()
        self._lines.add(json_line({"chunk": future.result().hex(), **fields}))

    def close(self) -> None:
        while self._pending:
            self._resolve()
        self._lines.cut()

    def summary(self, definition: str, kind: str, seed: str, sums: Sums, key_hash: str, tenant: str) -> TableSummary:
        """The table's entry in its component's document. `sums` are those at the snapshot that was read."""
        stored = store_sums(self._writer, sums)
        base = Base("", self.rows, self.bytes, self.groups, key_hash, stored)
        state = State(kind, seed, sums.bits, self.rows, key_hash, stored, base, (), tenant)
        return summary_of(self._writer, self.table, definition, state, self._lines.finish())


def _first_line(text: "bytes | memoryview") -> bytes:
    """Of some lines, without its newline."""
    looked_at = _FIRST_LINE
    while (end := (begin := bytes(text[:looked_at])).find(b"\n")) < 0 and looked_at < len(text):
        looked_at *= 8
    return begin[:end]


def _texts(table: MappedTable, key: Sequence[bytes]) -> list[str]:
    """A key as JSON can hold it; none where its bytes are not UTF-8."""
    if table.encoding == UTF8:
        return [field.decode() for field in key]
    return [field.decode() for field in key] if all(field.isascii() for field in key) else []


class LayerWriter:
    """A BatchSink that stores the rows of a layer."""

    def __init__(self, writer: PackWriter) -> None:
        self._writer = writer
        self._chunks: list[Future[bytes]] = []
        self._survivors, self._deleted = LineWriter(writer), LineWriter(writer)
        self.rows = self.bytes = self.surviving = self.deleting = 0

    def group(self, text: "bytes | memoryview", rows: int) -> None:
        self._chunks.append(self._writer.put(text))
        self.rows += rows
        self.bytes += len(text)

    def close(self) -> None:
        """More rows may follow, of another pass."""

    def survivor(self, bucket: int, key: bytes) -> None:
        self._survivors.add(b"%d\t%s\n" % (bucket, key))
        self.surviving += 1

    def emptied(self, bucket: int) -> None:
        """Nothing is left in this bucket."""
        self._survivors.add(b"%d\n" % bucket)
        self.surviving += 1

    def deleted(self, key: bytes) -> None:
        """The row of this key is gone."""
        self._deleted.add(key + b"\n")
        self.deleting += 1

    def finish(self) -> Layer:
        chunks = tuple(future.result().hex() for future in self._chunks)
        survivors, deleted = tuple(self._survivors.finish()), tuple(self._deleted.finish())
        return Layer(self.rows, self.bytes, chunks, survivors, self.surviving, deleted, self.deleting)


def summary_of(
    writer: PackWriter, table: MappedTable, definition: str, state: State, lines: Sequence[str]
) -> TableSummary:
    """The table's entry in its component's document; stores the state's chunk."""
    # Alone in its chunk: the lines stay as they are while the state changes with every backup.
    opening = LineWriter(writer)
    opening.add(json_line({"header": TableHeader.of_table(table).as_dict(), "state": state.as_dict()}))
    return TableSummary.build(
        table=table.full_name,
        status=table.status,
        rows=state.rows,
        size=state.base.bytes + sum(layer.bytes for layer in state.layers),
        groups=state.base.groups,
        layers=len(state.layers),
        definition=definition,
        key_hash=state.key_hash,
        seed=state.seed,
        detail=[*opening.finish(), *lines],
        sums=state.sums,
    )


def store_sums(writer: PackWriter, sums: Sums) -> tuple[str, ...]:
    """Chunk ids of the sums; none for a single bucket, whose sums are the state's `rows` and `key_hash`."""
    if not sums.bits:
        return ()
    packed = (_SUM.pack(*pair) for pair in zip(sums.counts, sums.hashes, strict=True))
    stored = []
    while body := b"".join(islice(packed, _SUMS_IN_CHUNK)):
        stored.append(writer.put(body).result().hex())
    return tuple(stored)


def read_sums(repository: Repository, bits: int, chunks: Sequence[str], rows: int, key_hash: str) -> Sums:
    """Raises CorruptObject."""
    sums = Sums(bits)
    if not bits:
        sums.counts[0], sums.hashes[0] = rows, int(key_hash, 16)
        return sums
    at = 0
    for chunk in chunks:
        body = repository.read_chunk(bytes.fromhex(chunk))
        if len(body) % _SUM.size or at + len(body) // _SUM.size > 1 << bits:
            break
        for count, value in _SUM.iter_unpack(body):
            sums.counts[at], sums.hashes[at] = count, value
            at += 1
    if at != 1 << bits:
        raise CorruptObject("The sums of a table have a wrong length", on=f"{at} buckets", why=f"{1 << bits} expected")
    return sums


def read_table(repository: Repository, summary: TableSummary) -> StoredTable:
    """A table's entry in a component's document, opened. Raises CorruptObject."""
    chunks = tuple(summary.detail)
    lines = read_lines(repository, chunks)
    first = next(lines, {})
    if "header" not in first:
        raise CorruptObject("A table's detail has no header", on=summary.table)
    try:
        header = TableHeader.from_dict(first["header"])
        state = State.from_dict(first["state"]) if "state" in first else None
    except (KeyError, TypeError, ValueError):
        raise _malformed(summary) from None
    return StoredTable(header, state, (_group(fields, summary) for fields in lines), chunks[1:])


def _group(fields: dict[str, Any], summary: TableSummary) -> Group:
    try:
        return Group(bytes.fromhex(fields["chunk"]), fields["rows"], fields["bytes"], tuple(fields["low"]))
    except (KeyError, ValueError, TypeError):
        raise _malformed(summary) from None


def _malformed(summary: TableSummary) -> CorruptObject:
    return CorruptObject("A table's detail has a malformed line", on=summary.table)
