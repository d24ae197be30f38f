"""Sealed details: the long part of a component, as lines of JSON in chunks.

What a table is made of is in `stored_table.py`, what a list of files in `file_list.py`. Details are written and read as streams, so
neither a table of a million groups nor a list of a million files is ever in memory.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from sbh_pipelines.errors import CorruptObject
from sbh_pipelines.repository.pack import PackWriter
from sbh_pipelines.repository.repository import Repository

_DETAIL_BYTES = 1 << 20


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
            self._chunks.append(self._writer.put(bytes(self._buffer), keep=True))
            self._buffer.clear()

    def finish(self) -> list[str]:
        self.cut()
        return [future.result().hex() for future in self._chunks]


def read_lines(repository: Repository, chunks: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The JSON lines of a detail. Raises CorruptObject."""
    for chunk in chunks:
        for line in repository.read_chunk(bytes.fromhex(chunk)).splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                raise CorruptObject("A detail has a malformed line", on=f"chunk {chunk[:16]}") from None


def json_line(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
