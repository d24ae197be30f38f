"""The keys of files that the rows of a moment refer to, found in the rows themselves: the server has other rows by now."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType

from sbh_pipelines.backup.contents.json_lines import LineWriter, json_line
from sbh_pipelines.backup.contents.stored_table import read_table
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.backup.create.moment.tables import RowSink, remade_header
from sbh_pipelines.backup.create.moment.way.told import Remake
from sbh_pipelines.database.schema.key_hash import unescape
from sbh_pipelines.database.schema.table_header import TableHeader
from sbh_pipelines.database.session.encodings import to_utf8
from sbh_pipelines.repository.journal.segments.room import room
from sbh_pipelines.repository.pack import PackWriter
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.settings import Settings

_NULL = rb"\N"
_AT_ONCE = 1000
_TABLE = (
    "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-8192;"
    " CREATE TABLE reference (key BLOB PRIMARY KEY) WITHOUT ROWID"
)


def referring_columns(settings: Settings, tables: Iterable[str]) -> dict[str, list[str]]:
    """The columns that `files.references` names, by full name of their table; of tables that the backup has."""
    there, found = set(tables), dict[str, list[str]]()
    for reference in settings.files.references if settings.files.enabled else ():
        names = [reference.table, *(f"{schema}.{reference.table}" for schema in settings.database.schemas)]
        if table := next((name for name in names if name in there), None):
            found.setdefault(table, []).append(reference.column)
    return found


class References:
    """Distinct keys, in the order of their UTF-8 bytes; a database that spills to a private folder. A context manager.

    Keys of files say what a tenant has, so they lie where nobody else may look. Raises NoRoom.
    """

    def __init__(self, folder: Path) -> None:
        self._db = sqlite3.connect(folder / "references", isolation_level=None)
        self._db.executescript(_TABLE)
        self._db.execute("BEGIN")
        self._waiting: list[tuple[bytes]] = []
        self._bytes = 0  # of keys that came by

    def __enter__(self) -> "References":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._db.close()

    def sink(self, header: TableHeader, columns: Sequence[str]) -> RowSink:
        """Takes the rows of a table."""
        names = header.column_names
        return partial(self._take, header, [names.index(name) for name in columns if name in names])

    def write(self, writer: PackWriter) -> list[str]:
        """The chunks of the component's list."""
        self._flush()
        lines = LineWriter(writer)
        for (key,) in self._db.execute("SELECT key FROM reference ORDER BY key"):
            lines.add(json_line({"key": key.decode(errors="replace")}))
        return lines.finish()

    def _take(self, header: TableHeader, at: Sequence[int], line: bytes) -> None:
        fields = line.split(b"\t")
        for one in at:
            if fields[one] != _NULL:
                self._waiting.append((unescape(to_utf8(fields[one], header.encoding)),))
        if len(self._waiting) >= _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        self._bytes += sum(len(key) for (key,) in self._waiting)
        with room(self._bytes):
            self._db.executemany("INSERT INTO reference VALUES (?) ON CONFLICT DO NOTHING", self._waiting)
        self._waiting.clear()


def sinks_of(
    found: References,
    repository: Repository,
    summaries: Mapping[str, TableSummary],
    columns: Mapping[str, Sequence[str]],
    remade: Mapping[str, Remake],
) -> dict[str, RowSink]:
    """What takes the rows of each table that refers to files; `remade`: those that had another definition at the moment."""
    sinks = {}
    for table, names in columns.items():
        header = read_table(repository, summaries[table]).header
        sinks[table] = found.sink(remade_header(header, remade[table]) if table in remade else header, names)
    return sinks
