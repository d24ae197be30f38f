"""A backup's data taken out of the repository into a folder: for portability requests, and to look at old data.

Needs no database. The folder has a file for each table, the tenant's files, `manifest.json` and a `README.txt` for whoever receives
it; it appears under its name when all of it was written. Everything is streamed: memory does not grow with tables or files.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from itertools import count
from pathlib import Path

from sbh_pipelines.backup.contents.manifests import read_manifest
from sbh_pipelines.backup.contents.reader import BackupTable, OpenBackup, open_backup
from sbh_pipelines.backup.export.folder import ExportFolder, WrittenFile, new_folder, table_file
from sbh_pipelines.backup.export.manifest import (
    Export,
    ExportManifest,
    WrittenColumn,
    WrittenFiles,
    WrittenOther,
    WrittenTable,
)
from sbh_pipelines.backup.export.readme import FORMATS, ROW_ORDER, readme
from sbh_pipelines.backup.export.text_formats import csv_lines, jsonl_lines, load_script, spreadsheet_lines, sql_lines
from sbh_pipelines.database.schema.table_header import TableHeader
from sbh_pipelines.database.session.sql import UTF8
from sbh_pipelines.document import as_document
from sbh_pipelines.errors import RequestError
from sbh_pipelines.files.file import FileEntry
from sbh_pipelines.model import BackupId, Progress, ProgressSink, no_progress, timestamp, unparsed
from sbh_pipelines.repository.repository import Repository

VERSION = 1
_ENDINGS = {"spreadsheet": "csv"}  # of files, where it is not the format's name
STEP = "export"
_NOTICE_ROWS = 50_000
_TOGETHER_BYTES, _TOGETHER_FILES = 2 << 20, 200  # small files fetched in one go

_TEXTS: Mapping[str, Callable[[TableHeader, Iterator[bytes]], Iterator[bytes]]] = {
    "sql": sql_lines,
    "jsonl": jsonl_lines,
    "csv": csv_lines,
    "spreadsheet": spreadsheet_lines,
}


def export_backup(
    repository: Repository,
    backup_id: BackupId,
    folder: Path,
    format: str,
    now: datetime,
    *,
    tables: Sequence[str] = (),
    files: bool = True,
    named: str = "",
    progress: ProgressSink = no_progress,
) -> Export:
    """Write a backup's data to a folder that is empty or does not exist. Takes the repository over and closes it.

    `named`: what the export calls the backup, where that is not its id. `format`: sql, jsonl, csv, spreadsheet or parquet.
    `tables`: only these; all without. Raises RequestError (format, table, folder), UnknownBackup, CorruptObject, ExportFailed;
    nothing is at `folder` then.
    """
    if format not in FORMATS:
        raise RequestError("Not a format of exports", on=unparsed(format), remedy="use one of: " + ", ".join(FORMATS))
    with open_backup(repository, read_manifest(repository, backup_id)) as backup:
        wanted = {backup.table(name).name for name in tables}
        chosen = [table for table in backup.tables if not tables or table.name in wanted]
        with new_folder(folder) as target:
            manifest = _write(
                _Writer(backup, target, format, progress), named or str(backup_id), chosen, files, timestamp(now)
            )
    return Export(**{f.name: getattr(manifest, f.name) for f in fields(manifest)}, folder=str(Path(folder)))


class _Writer:
    """Writes the parts of one export."""

    def __init__(self, backup: OpenBackup, target: ExportFolder, format: str, progress: ProgressSink) -> None:
        self.backup, self.target, self.format, self._progress = backup, target, format, progress

    def table(self, table: BackupTable) -> WrittenTable:
        """Write one table; its entry in the manifest."""
        header = self.backup.header(table.name)
        name = table_file(header.schema, header.name, _ENDINGS.get(self.format, self.format))
        text_columns: list[str] = []
        stray: Counter[str] = Counter()
        if self.format == "parquet":
            written, text_columns = self._parquet(table, header, name, stray)
        else:
            with self.target.create(name) as written:
                for piece in _TEXTS[self.format](header, self._rows(table, stray)):
                    written.write(piece)
        return WrittenTable(
            table.name,
            name,
            table.rows,
            written.size,
            written.sha256,
            tuple(WrittenColumn(c.name, c.type.name, c.not_null) for c in header.columns),
            header.key,
            tuple(text_columns) if self.format == "parquet" else None,
            header.encoding if header.encoding != UTF8 else None,
            dict(stray) or None,
        )

    def _parquet(
        self, table: BackupTable, header: TableHeader, name: str, stray: Counter[str]
    ) -> tuple[WrittenFile, list[str]]:
        """Begins again when a column turns out to have values that its Parquet type cannot hold."""
        from sbh_pipelines.backup.contents.columnar.arrow import Unfit, write_parquet  # pyarrow takes a while to import

        texts: frozenset[str] = frozenset()
        while True:
            try:
                with self.target.replace(name) as written:
                    stray.clear()
                    write_parquet(written, header, self._rows(table, stray), texts)
                return written, sorted(texts)
            except Unfit as unfit:
                if unfit.columns <= texts:
                    raise
                texts |= unfit.columns

    def _rows(self, table: BackupTable, stray: Counter[str]) -> Iterator[bytes]:
        """The table's pieces, with notices of progress: in UTF-8, but for SQL, which says what they are in."""
        done = noticed = 0
        self._progress(Progress(STEP, table.name, 0, table.rows, "rows"))
        as_it_is = self.format == "sql"
        for piece in self.backup.copy_text(table.name) if as_it_is else self.backup.utf8_text(table.name, stray):
            yield piece
            done += piece.count(b"\n")
            if done - noticed >= _NOTICE_ROWS:
                self._progress(Progress(STEP, table.name, done, table.rows, "rows"))
                noticed = done
        self._progress(Progress(STEP, table.name, done, table.rows, "rows"))

    def files(self) -> WrittenFiles:
        """Write the tenant's files and `files.jsonl`; what the manifest says of them."""
        done = size = renamed = 0
        numbers = count(1)
        total = self.backup.file_count
        self._progress(Progress(STEP, "files", 0, total, "files"))
        with self.target.create("files.jsonl") as listing:
            for entries in _batches(self.backup.files()):
                self.backup.fetch_ahead(entries)
                lines = []
                for entry in entries:
                    name = self._file(entry, next(numbers))
                    renamed += name.startswith("files-renamed/")
                    size += entry.size
                    lines.append(_line(entry, name))
                listing.write("".join(lines).encode())
                done += len(entries)
                self._progress(Progress(STEP, "files", done, total, "files"))
        missing = self.backup.missing_files
        return WrittenFiles("files.jsonl", listing.size, listing.sha256, done, size, renamed, missing)

    def _file(self, entry: FileEntry, number: int) -> str:
        written, name = self.target.create_tenant_file(entry.path, number)
        with written:
            for piece in self.backup.slices(entry):
                written.write(piece)
        return name

    def write(self, name: str, body: bytes) -> WrittenOther:
        """A small file of ours."""
        with self.target.create(name) as written:
            written.write(body)
        return WrittenOther(name, written.size, written.sha256)


def _write(export: _Writer, named: str, chosen: Sequence[BackupTable], files: bool, exported_at: str) -> ExportManifest:
    backup = export.backup
    tables = tuple(export.table(table) for table in chosen)
    others: list[WrittenOther] = []
    if export.format == "sql":
        about = f"{named} of {backup.tenant_id}"
        others.append(export.write("load.sql", load_script([table.file for table in tables], about)))
    manifest = ExportManifest(
        export_version=VERSION,
        backup_id=named,
        tenant_id=backup.tenant_id,
        created_at=backup.manifest.created_at,
        recovery_point={"time": backup.manifest.point_time},  # it leaves the house: nothing of the server
        exported_at=exported_at,
        format=export.format,
        format_notes=(*FORMATS[export.format], ROW_ORDER),
        tables=tables,
        files=export.files() if files else None,
        others=(),
    )
    others.append(export.write("README.txt", readme(manifest).encode("utf-8", "backslashreplace")))
    manifest = replace(manifest, others=tuple(others))
    export.write("manifest.json", json.dumps(as_document(manifest), indent=2).encode() + b"\n")
    return manifest


def _batches(entries: Iterator[FileEntry]) -> Iterator[list[FileEntry]]:
    """Small files together."""
    batch: list[FileEntry] = []
    size = 0
    for entry in entries:
        batch.append(entry)
        size += entry.size
        if size >= _TOGETHER_BYTES or len(batch) >= _TOGETHER_FILES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _line(entry: FileEntry, name: str) -> str:
    """Keys that are no Unicode stay what they are: JSON has escapes for their halves."""
    fields = {
        "path": entry.path,
        "file": name,
        "size": entry.size,
        "sha256": entry.sha256,
        "modified": entry.modified,
        "attributes": dict(entry.attributes),
    }
    return json.dumps(fields) + "\n"
