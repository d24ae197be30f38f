"""What rows hold: large objects, which no backup has, rows that no backup can have, text without an encoding."""

from sbh_pipelines.database.schema.large_objects import large_object_columns, large_objects
from sbh_pipelines.database.schema.large_rows import LIMIT, large_rows
from sbh_pipelines.database.schema.tenancy import TenancyMap
from sbh_pipelines.database.session.connection import Connection, database_encoding
from sbh_pipelines.database.session.sql import SQL_ASCII
from sbh_pipelines.doctor.findings import Report
from sbh_pipelines.errors import SourceConflict

AREA = "contents"
TIMEOUT_S = 20.0
_COPY = (
    "copy the contents into columns of type bytea, and unlink the objects; or back them up by other means, as with"
    " `pg_dump --large-objects`"
)


def check(report: Report, connection: Connection, tenancy: TenancyMap) -> None:
    """Names what a backup leaves out, and what will fail it."""
    with report.trying(AREA):
        _encoding(report, connection)
        _large_objects(report, connection, tenancy)
        try:
            for table, rows in large_rows(connection, tenancy.tables, TIMEOUT_S):
                report.fail(
                    AREA,
                    f"Rows of {table.full_name} are too large: {rows}; backups of their tenants fail",
                    f"PostgreSQL's COPY carries {LIMIT:,} bytes of text a row at most, and bytea counts twice",
                    "keep the value in several rows (500 MB each at most, of bytea), or in a file among the tenant's files",
                )
        except SourceConflict as error:
            report.warn(
                AREA, "Not looked for rows that are too large", f"{error.on}: it takes longer than {TIMEOUT_S:g} s"
            )


def _encoding(report: Report, connection: Connection) -> None:
    encoding = database_encoding(connection)
    if encoding == SQL_ASCII:
        report.ok(
            AREA,
            "The database has the encoding SQL_ASCII: text is bytes",
            "they are backed up and restored as they are; exports as csv, jsonl and parquet name columns whose bytes are not UTF-8",
        )


def _large_objects(report: Report, connection: Connection, tenancy: TenancyMap) -> None:
    columns, there = large_object_columns(connection, tenancy), large_objects(connection)
    if columns:
        report.warn(
            AREA,
            f"Columns that refer to large objects: {len(columns)}; their contents are in no backup",
            ", ".join(column.named for column in columns),
            _COPY,
        )
    elif there:
        report.warn(
            AREA,
            f"The database has {there:,} large objects; their contents are in no backup",
            "no column of type oid or lo of a tenants' table refers to one; a column of another type may",
            _COPY,
        )
