"""What an export consists of: its `manifest.json`, and the result of writing one. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass

from sbh_pipelines.document import optional


@dataclass(frozen=True, slots=True)
class WrittenColumn:
    """A column of a table.

    Attributes:
        name: its name.
        type: as PostgreSQL writes it, such as `timestamp with time zone`.
        not_null: whether it is declared NOT NULL.
    """

    name: str
    type: str
    not_null: bool


@dataclass(frozen=True, slots=True)
class WrittenTable:
    """A table's file.

    Attributes:
        table: `schema.table`.
        file: its name in the folder.
        rows: how many it has.
        bytes: its size.
        sha256: hash of the file, hex.
        columns: in the order of the table.
        primary_key: names of its columns.
        text_columns: of Parquet, the columns that are text because a value does not fit their type.
        encoding: of the database, where it is not UTF8.
        not_text: column -> how many of its values have bytes that mean nothing in that encoding.
    """

    table: str
    file: str
    rows: int
    bytes: int
    sha256: str
    columns: tuple[WrittenColumn, ...]
    primary_key: tuple[str, ...]
    text_columns: tuple[str, ...] | None = optional()
    encoding: str | None = optional()
    not_text: Mapping[str, int] | None = optional()


@dataclass(frozen=True, slots=True)
class WrittenFiles:
    """The tenant's files.

    Attributes:
        file: the list of them, a JSON object a line.
        bytes_of_list: size of the list.
        sha256: hash of the list, hex.
        count: files.
        bytes: their size.
        renamed: of those, how many could not keep their names.
        missing_references: files that rows refer to and that did not exist.
    """

    file: str
    bytes_of_list: int
    sha256: str
    count: int
    bytes: int
    renamed: int
    missing_references: int


@dataclass(frozen=True, slots=True)
class WrittenOther:
    """A file that explains the others.

    Attributes:
        file: its name in the folder.
        bytes: its size.
        sha256: its hash, hex.
    """

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ExportManifest:
    """The `manifest.json` of an export.

    Attributes:
        export_version: of this document's form.
        backup_id: what was exported.
        tenant_id: whose data it is.
        created_at: time of the backup, UTC.
        recovery_point: the instant that the backup describes, as `time`.
        exported_at: time of the export, UTC.
        format: sql, jsonl, csv, spreadsheet or parquet.
        format_notes: how to read the tables' files.
        tables: their files.
        files: the tenant's files; None where they were left out.
        others: files that explain the rest.
    """

    export_version: int
    backup_id: str
    tenant_id: str
    created_at: str
    recovery_point: Mapping[str, object] | None
    exported_at: str
    format: str
    format_notes: tuple[str, ...]
    tables: tuple[WrittenTable, ...]
    files: WrittenFiles | None
    others: tuple[WrittenOther, ...]


@dataclass(frozen=True, slots=True)
class Export(ExportManifest):
    """An export that was written.

    Attributes:
        folder: where it is.
    """

    folder: str
