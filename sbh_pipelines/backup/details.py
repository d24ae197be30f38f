"""Sealed details: the long part of a component, as lines of JSON in chunks.

A table's detail is one header line and one line per row group; the file list is one line per file. They are written and
read as streams, so neither a table of a million groups nor a list of a million files is ever in memory.
"""

import json
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from sbh_pipelines.errors import CorruptObject
from sbh_pipelines.repository.pack import PackWriter
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.sources.database.tenancy import MappedTable

_DETAIL_BYTES = 1 << 20
_AHEAD = 32  # groups whose chunk ids are still being computed
# A file list is cut after the entries that satisfy this, on average every 1024, so that a change moves one cut only.
_LIST_MASK, _LIST_MAX = 1023, 4096


class LineWriter:
    """Collects lines into chunks; `finish` gives the chunks' ids in order."""

    def __init__(self, writer: PackWriter) -> None:
        self._writer = writer
        self._buffer = bytearray()
        self._chunks: list[Future[bytes]] = []

    def add(self, line: bytes) -> None:
        self._buffer += line
        if len(self._buffer) >= _DETAIL_BYTES:
            self.cut()

    def cut(self) -> None:
        if self._buffer:
            self._chunks.append(self._writer.put(bytes(self._buffer)))
            self._buffer.clear()

    def finish(self) -> list[str]:
        self.cut()
        return [future.result().hex() for future in self._chunks]


class FileListWriter:
    """The lines of a file list, cut at entries chosen by their path."""

    def __init__(self, writer: PackWriter) -> None:
        self._lines = LineWriter(writer)
        self._entries = 0

    def add(self, path: str, line: bytes) -> None:
        self._lines.add(line)
        self._entries += 1
        if zlib.crc32(path.encode("utf-8", "surrogatepass")) & _LIST_MASK == 0 or self._entries >= _LIST_MAX:
            self._lines.cut()
            self._entries = 0

    def finish(self) -> list[str]:
        return self._lines.finish()


class TableWriter:
    """A TableSink that stores one tenant's groups of one table and their detail."""

    def __init__(self, writer: PackWriter, table: MappedTable) -> None:
        self._writer, self.table = writer, table
        self._lines = LineWriter(writer)
        self._pending: deque[tuple[Future[bytes], dict[str, Any]]] = deque()
        names = table.captured_columns
        self._key_fields = [names.index(k) for k in table.table.primary_key if k in names]
        self.rows = self.bytes = self.groups = 0
        self._lines.add(json_line({"header": table_header(table)}))

    def group(self, text: bytes, rows: int) -> None:
        first = text[: text.find(b"\n")].split(b"\t")
        low = [first[at].decode() for at in self._key_fields]
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

    def summary(self) -> dict[str, Any]:
        """The table's entry in its component's document."""
        return {
            "table": self.table.full_name,
            "status": self.table.status,
            "rows": self.rows,
            "bytes": self.bytes,
            "groups": self.groups,
            "detail": self._lines.finish(),
        }


def table_header(table: MappedTable) -> dict[str, Any]:
    """What a restore must know of the table: columns in the order of the rows' fields, their types, and the key."""
    columns = [c for c in table.table.columns if not c.generated]
    return {
        "schema": table.table.schema,
        "name": table.table.name,
        "columns": [[c.name, c.type, c.not_null, c.identity] for c in columns],
        "key": list(table.table.primary_key),
    }


@dataclass(frozen=True, slots=True)
class Group:
    """One row group of a backup."""

    chunk: bytes
    rows: int
    bytes: int
    low: tuple[str, ...]  # key of the first row, as COPY text; empty without a primary key


def read_lines(repository: Repository, chunks: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The JSON lines of a detail. Raises CorruptObject."""
    for chunk in chunks:
        for line in repository.read_chunk(bytes.fromhex(chunk)).splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                raise CorruptObject("A detail has a malformed line", on=f"chunk {chunk[:16]}") from None


def read_table(repository: Repository, summary: Mapping[str, Any]) -> tuple[dict[str, Any], Iterator[Group]]:
    """(header, groups in order) of a table's entry in a component's document. Raises CorruptObject."""
    lines = read_lines(repository, summary["detail"])
    first = next(lines, {})
    if "header" not in first:
        raise CorruptObject("A table's detail has no header", on=str(summary.get("table")))
    return first["header"], (_group(fields, summary) for fields in lines)


def _group(fields: dict[str, Any], summary: Mapping[str, Any]) -> Group:
    try:
        return Group(bytes.fromhex(fields["chunk"]), fields["rows"], fields["bytes"], tuple(fields["low"]))
    except (KeyError, ValueError, TypeError):
        raise CorruptObject("A table's detail has a malformed line", on=str(summary.get("table"))) from None


def json_line(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
