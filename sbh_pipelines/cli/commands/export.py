"""`sbh export`: a backup's data in a folder, for whoever asked for it."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sbh_pipelines.cli.command import FromCopyOption, Invocation, command
from sbh_pipelines.cli.commands.backup import BackupArgument, TenantOption
from sbh_pipelines.cli.commands.tenants import FormerKeyOption
from sbh_pipelines.cli.output import Answer, count, facts, table, utc
from sbh_pipelines.model import size_text

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import Export


class Format(StrEnum):
    SQL = "sql"
    JSONL = "jsonl"
    CSV = "csv"
    SPREADSHEET = "spreadsheet"
    PARQUET = "parquet"


def export(
    invocation: Invocation,
    backup: BackupArgument,
    tenant: TenantOption,
    to: Annotated[
        Path, typer.Option("--to", help="The folder to write: one that does not exist, or is empty.", metavar="FOLDER")
    ],
    kind: Annotated[
        Format,
        typer.Option(
            "--format",
            help="sql: for psql. jsonl: a JSON object a row. csv: for COPY, exact. spreadsheet: CSV without formulas."
            " parquet: typed columns.",
        ),
    ] = Format.JSONL,
    tables: Annotated[
        str | None, typer.Option("--tables", help="Only these, separated by commas.", metavar="A,B", show_default=False)
    ] = None,
    no_files: Annotated[bool, typer.Option("--no-files", help="Only the tables.")] = False,
    former_key: FormerKeyOption = None,
    from_copy: FromCopyOption = None,
) -> Answer:
    """Write a backup's tables and files to a folder, readable without this program: portability requests, a look at old data.

    Works without the database. The folder appears when all of it was written, for its owner's eyes only.
    """
    names = [name.strip() for name in tables.split(",") if name.strip()] if tables is not None else []
    service, user = invocation.service(from_copy), invocation.user()
    with invocation.progress() as progress:
        report = service.exports.export(
            backup,
            tenant,
            user,
            to,
            format=kind,
            tables=names,
            files=not no_files,
            former_key=former_key,
            progress=progress,
        )
    return Answer(report, lambda out: _show(out, report), [report.folder])


def add_to(app: typer.Typer) -> None:
    command(app, "export", permission="backup.export")(export)


def _show(out: Any, report: "Export") -> None:
    files, tables = report.files, report.tables
    written = sum(t.bytes for t in tables) + (files.bytes if files else 0)
    out.print(
        facts(
            {
                "folder": report.folder,
                "backup": report.backup_id,
                "tenant": report.tenant_id,
                "recovery point": utc(str((report.recovery_point or {}).get("time", ""))),
                "format": report.format,
                "rows": count(sum(t.rows for t in tables)),
                "files": f"{count(files.count)}, {size_text(files.bytes)}" if files else "left out",
                "renamed": f"{count(files.renamed)}, see files.jsonl" if files and files.renamed else None,
                "written": size_text(written),
            }
        )
    )
    rows = [(t.table, t.file, count(t.rows), size_text(t.bytes)) for t in tables]
    if rows:
        out.print(table("Tables", ("table", "file", ">rows", ">size"), rows))
