"""A trail as one file that can be checked years later without the store, the keys or this program."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sbh_pipelines.backup.audit.verify import ChainReport
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import CorruptObject, ExportFailed, RequestError
from sbh_pipelines.model import Tenant, unparsed
from sbh_pipelines.repository.trail.check import check_lines, check_trail
from sbh_pipelines.repository.trail.event import AuditEvent, line

FORMATS = ("jsonl", "csv")
_COLUMNS = (
    "seq",
    "at",
    "event",
    "tenant_id",
    "region",
    "user_id",
    "source",
    "via",
    "props",
    "v",
    "id",
    "key",
    "prev",
    "hash",
    "signature",
)
_NUMBERS = ("seq", "v")


# Without slots, which forbid two bases: those come first that stand before the chain in the document.
@dataclass(frozen=True)
class _File:
    file: str


@dataclass(frozen=True)
class _ExportedFile(_File):
    format: str


@dataclass(frozen=True)
class FileReport(ChainReport, _File):
    """Whether the chain of an exported trail is whole.

    Attributes:
        file: The file.
    """


@dataclass(frozen=True)
class ExportReport(ChainReport, _ExportedFile):
    """A trail that was written to a file, and whether it is whole.

    Attributes:
        file: The file.
        format: jsonl or csv.
    """


def export_trail(site: Site, tenant: Tenant, file: Path, format: str) -> ExportReport:
    """Write a trail to a new file, oldest event first; it appears when all of it is written. Raises RequestError, ExportFailed."""
    if format not in FORMATS:
        raise RequestError("Not a format of audit exports", on=unparsed(format), remedy=f"one of {', '.join(FORMATS)}")
    if file.exists():
        raise RequestError("The file exists", on=str(file), remedy="choose another name")
    partial = file.with_name(f".{file.name}.part")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # of a run that was killed; a link goes, not what it leads to
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as out:
            write = _csv_writer(out) if format == "csv" else lambda event: _write_line(out, event)
            checked = check_trail(site.trails.of(tenant), write)
            out.flush()
            os.fsync(out.fileno())
        os.link(partial, file)  # not rename: another's file of this name stays
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)[:200]
        raise ExportFailed(
            "Cannot write the audit trail to a file", on=ascii(str(file)), why=why, remedy="check its folder"
        ) from None
    finally:
        with suppress(OSError, ValueError):
            partial.unlink(missing_ok=True)
    return ExportReport.of(checked, file=str(file), format=format)


def check_file(file: Path) -> FileReport:
    """Whether the chain of an exported file is whole; without keys, signatures are not looked at. Raises RequestError."""
    try:
        with file.open("rb") as content:
            lines = _csv_lines(content) if file.suffix == ".csv" else (text.rstrip(b"\n") for text in content)
            return FileReport.of(check_lines(lines, lambda _: None), file=str(file))
    except OSError as error:
        raise RequestError("Cannot read the file", on=str(file), why=error.strerror or "") from None


def _write_line(out: BinaryIO, event: AuditEvent) -> None:
    out.write(line(event.document()) + b"\n")


def _csv_writer(out: BinaryIO) -> Callable[[AuditEvent], None]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")

    def write(values: Sequence[object]) -> None:
        writer.writerow(values)
        out.write(text.getvalue().encode())
        text.seek(0)
        text.truncate()

    def row(event: AuditEvent) -> list[object]:
        return [line(event.props).decode() if name == "props" else getattr(event, name) for name in _COLUMNS]

    write(_COLUMNS)
    return lambda event: write(row(event))


def _csv_lines(content: BinaryIO) -> Iterator[bytes]:
    csv.field_size_limit(1 << 20)
    for row in csv.DictReader(io.TextIOWrapper(content, "utf-8", newline="")):
        try:
            event: dict[str, object] = {**row, "props": json.loads(row["props"]), **{n: int(row[n]) for n in _NUMBERS}}
        except (KeyError, ValueError, TypeError):
            raise CorruptObject("Not an audit event", on="the file", why="a column is missing or damaged") from None
        yield line(event)
