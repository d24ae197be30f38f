"""A backup opened for reading, without a database: its tables, its rows, its files.

    with backup_service.open_backup("latest", "tenant-1", admin) as backup:
        tasks = backup.read_table("tasks")

Nothing is written anywhere, and no lease is taken. Reading takes what the backup's chunks say, each authenticated when it is
opened; a table is known to be whole only when its last row was read.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sbh_pipelines.backup.contents.copy_text import decoder, fields_by_column, in_utf8, row_lines, value_of
from sbh_pipelines.backup.contents.file_list import read_files
from sbh_pipelines.backup.contents.layers import table_rows
from sbh_pipelines.backup.contents.manifest import PARENTS_FIRST, Manifest
from sbh_pipelines.backup.contents.manifests import read_component, read_tables
from sbh_pipelines.backup.contents.stored_table import read_table
from sbh_pipelines.database.schema.table_header import TableHeader
from sbh_pipelines.errors import CorruptObject, RequestError
from sbh_pipelines.files.file import FileEntry
from sbh_pipelines.repository.format import FILES, VALIDATE
from sbh_pipelines.repository.repository import Repository

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class BackupTable:
    """A table of a backup. `name` is `schema.table`, `bytes` the size of what is stored of it as COPY text."""

    name: str
    rows: int
    bytes: int


class OpenFile:
    """A file of a backup that was opened for it alone. Use it as a context manager, or `close` it. To be read once.

    Attributes:
        size: Of its content, bytes.
    """

    def __init__(self, backup: "OpenBackup", entry: FileEntry) -> None:
        self.size = entry.size
        self._backup, self._slices = backup, backup.slices(entry)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[bytes]:
        """Its content, as `OpenBackup.slices` gives it. Raises CorruptObject."""
        return self._slices

    def close(self) -> None:
        """Not while another thread takes a piece. Waits for pieces that are read ahead."""
        self._slices.close()
        self._backup.close()


class OpenBackup:
    """Use it as a context manager, or `close` it. Not for several threads at once."""

    def __init__(self, repository: Repository, manifest: Manifest) -> None:
        self.manifest = manifest
        self.backup_id, self.tenant_id = str(manifest.id), manifest.tenant_id
        self._repository = repository
        self._headers: dict[str, TableHeader] = {}
        present = manifest.component_names
        self._summaries = read_tables(repository, manifest, [name for name in PARENTS_FIRST if name in present])
        self._files = read_component(repository, manifest, FILES) if FILES in present else None

    def __repr__(self) -> str:
        return f"<{self.backup_id} of {self.tenant_id}: {len(self._summaries)} tables, {self.file_count} files>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._repository.close()

    # tables

    @property
    def tables(self) -> tuple[BackupTable, ...]:
        """Parents before their children."""
        return tuple(BackupTable(name, s.rows, s.bytes) for name, s in self._summaries.items())

    def table(self, name: str) -> BackupTable:
        """By `schema.table`, or by the table's name where only one schema has it. Raises RequestError."""
        found = [t for t in self.tables if t.name == name] or [
            t for t in self.tables if t.name.partition(".")[2] == name or self._named(t, name)
        ]
        if len(found) == 1:
            return found[0]
        known = ", ".join(self._summaries) or "none"
        raise RequestError(
            "Several tables have this name" if found else "The backup has no such table",
            on=ascii(name)[:128],
            why=f"its tables: {known}",
            remedy="use one of these names, with the schema",
        )

    def _named(self, table: BackupTable, name: str) -> bool:
        """Where the schema's own name has a dot, only the header says where the table's begins."""
        return table.name.endswith("." + name) and self.header(table.name).name == name

    def header(self, name: str) -> TableHeader:
        """What the backup says of a table's columns and key."""
        full = name if name in self._summaries else self.table(name).name
        if full not in self._headers:
            self._headers[full] = read_table(self._repository, self._summaries[full]).header
        return self._headers[full]

    def columns(self, name: str) -> dict[str, str]:
        """A table's columns and their types, in order."""
        return {column.name: column.type.name for column in self.header(name).columns}

    def copy_text(self, name: str) -> Iterator[bytes]:
        """The table's rows as PostgreSQL's COPY text, in pieces of whole rows; in no particular order. Raises CorruptObject.

        In the encoding of the database that was backed up: `header` has it.
        """
        table = self.table(name)
        rows = 0
        for piece in table_rows(self._repository, read_table(self._repository, self._summaries[table.name])):
            rows += piece.count(b"\n")
            yield piece
        if rows != table.rows:
            raise CorruptObject(
                "A table has another number of rows than the backup says",
                on=table.name,
                why=f"{rows} instead of {table.rows}",
                remedy=VALIDATE,
            )

    def utf8_text(self, name: str, stray: Counter[str] | None = None) -> Iterator[bytes]:
        """The same in UTF-8; see `copy_text.in_utf8`."""
        return in_utf8(self.copy_text(name), self.header(name), stray)

    def read_rows(
        self, name: str, batch: int = 10_000, columns: Sequence[str] | None = None
    ) -> Iterator[list[dict[str, Any]]]:
        """The rows as dictionaries, at most `batch` at a time, for tables that do not fit into memory.

        Values are Python's where it has them: int, float, Decimal, bool, date, datetime, bytes, UUID, lists for arrays, what
        json.loads gives; else PostgreSQL's text. Raises RequestError, CorruptObject.
        """
        table = self.table(name).name
        wanted = self._wanted(table, columns)
        header = self.header(table)
        decoders = [decoder(column.type) for column in header.columns]
        for lines in row_lines(self.utf8_text(table), max(1, batch)):
            fields = fields_by_column(lines, header)
            values = [
                [value_of(field, decoders[at]) for field in fields[at]]
                for at, column in enumerate(header.columns)
                if column.name in wanted
            ]
            names = [column.name for column in header.columns if column.name in wanted]
            yield [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]

    def read_table(self, name: str, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """The whole table in memory.

        Nullable Int16 to Int64, Float32, Float64 and boolean; string; datetime64[us] and datetime64[us, UTC]; objects for the
        rest: Decimal, date, time, bytes, lists, what json.loads gives. Types that Python lacks are strings. A column of
        timestamps with one that datetime64 cannot hold (infinity, years before Christ or after 9999) is strings. pandas does
        not tell NaN from NULL; `read_rows` does. Raises RequestError, CorruptObject.
        """
        # pandas and pyarrow take a second to import
        from sbh_pipelines.backup.contents.columnar.data_frames import data_frame

        table = self.table(name).name
        wanted = self._wanted(table, columns)
        return data_frame(self.header(table), lambda: self.utf8_text(table), wanted)

    def sql(self, query: str) -> "pd.DataFrame":
        """One SELECT over the backup's tables, in DuckDB's dialect: `SELECT status, count(*) FROM tasks GROUP BY 1`.

        A table is `schema.table`, or its name alone. Only tables that the query names are read. Types are those of Parquet exports:
        `numeric(10, 2)` is a decimal; `numeric` without a precision, JSON and what DuckDB has no type for are text. Nothing outside
        the backup can be read, and nothing is written. Needs the extra `sql`. Raises RequestError, CorruptObject.
        """
        from sbh_pipelines.backup.contents.columnar.queries import QueryTable, run_query

        def pieces(name: str) -> Callable[[], Iterator[bytes]]:
            return lambda: self.utf8_text(name)

        return run_query({name: QueryTable(self.header(name), pieces(name)) for name in self._summaries}, query)

    def _wanted(self, table: str, columns: Sequence[str] | None) -> list[str]:
        known = self.columns(table)
        if unknown := [name for name in columns or () if name not in known]:
            raise RequestError(
                "The table has no such column",
                on=f"{table}: {', '.join(map(ascii, unknown))}"[:200],
                why=f"its columns: {', '.join(known)}",
                remedy="use one of these names",
            )
        return list(known if columns is None else dict.fromkeys(columns))

    # files

    @property
    def file_count(self) -> int:
        return self._files.file_count or 0 if self._files else 0

    @property
    def missing_files(self) -> int:
        """Files that rows referred to and that were not there when the backup was made."""
        return self._files.missing_references if self._files else 0

    def files(self) -> Iterator[FileEntry]:
        """The tenant's files in byte order of their paths. Raises CorruptObject."""
        return read_files(self._repository, self._files) if self._files else iter(())

    def read_file(self, path: str) -> Iterator[bytes]:
        """A file's content in slices of at most 4 MiB; that it is what was backed up is known after the last one.

        Looks through the list of files: for many of them go through `files` with `slices`. Raises RequestError, CorruptObject.
        """
        return self.slices(self._entry(path))

    def file(self, path: str) -> OpenFile:
        """The same with its size, for who opened this backup for one file: closing the file closes the backup.

        Raises RequestError, CorruptObject.
        """
        return OpenFile(self, self._entry(path))

    def _entry(self, path: str) -> FileEntry:
        entry = next((entry for entry in self.files() if entry.path == path), None)
        if entry is None:
            raise RequestError(
                "The backup has no such file", on=ascii(path)[1:-1][:128], remedy="see `files()` for the paths it has"
            )
        return entry

    def slices(self, entry: FileEntry) -> Generator[bytes, None, None]:
        """The content of one of `files`, checked against its SHA-256. Raises CorruptObject."""
        digest = hashlib.sha256()
        for piece in self._pieces(entry):
            digest.update(piece)
            yield piece
        if digest.hexdigest() != entry.sha256:
            raise CorruptObject(
                "A file's content is not what was backed up", on=ascii(entry.path)[:128], remedy=VALIDATE
            )

    def _pieces(self, entry: FileEntry) -> Iterator[bytes]:
        if len(entry.chunks) > 1:
            return self._repository.read_chunks(map(bytes.fromhex, entry.chunks))
        return map(self._repository.read_chunk, map(bytes.fromhex, entry.chunks))

    def fetch_ahead(self, entries: Sequence[FileEntry]) -> None:
        """Fetch small files that `slices` will read next, with a request for each pack and not for each file."""
        self._repository.read_ahead(bytes.fromhex(chunk) for entry in entries for chunk in entry.chunks)


def open_backup(repository: Repository, manifest: Manifest) -> OpenBackup:
    """The backup takes the repository over and closes it. Raises CorruptObject."""
    try:
        repository.load_index()
        return OpenBackup(repository, manifest)
    except BaseException:
        repository.close()
        raise
