"""`sbh export` on real servers."""

import csv
import json
from pathlib import Path

import pytest

from sbh_pipelines_tests.cli.conftest import Sbh


@pytest.mark.parametrize("kind", ["sql", "jsonl", "csv", "spreadsheet", "parquet"])
def test_a_backup_is_exported(sbh: Sbh, settings_file: Path, backed_up: str, tmp_path: Path, kind: str) -> None:
    """Every table and every file; the document is the folder's manifest."""
    ended = sbh("export", backed_up, "--tenant", "tenant-6", "--to", str(tmp_path / "out"), "--format", kind, "--json")
    assert ended.status == 0, ended.out
    document = ended.document
    assert document.pop("folder") == str(tmp_path / "out")
    assert document == json.loads((tmp_path / "out" / "manifest.json").read_bytes())
    shown = sbh("backup", "show", backed_up, "-t", "tenant-6", "--json").document["components"]
    tables = {t["table"]: t["rows"] for name in ("config", "database") for t in shown[name]["table_details"]}
    assert {t["table"]: t["rows"] for t in document["tables"]} == tables
    files = [json.loads(line) for line in (tmp_path / "out" / "files.jsonl").read_text().splitlines()]
    assert len(files) == shown["files"]["file_count"]
    assert sum((tmp_path / "out" / f["file"]).stat().st_size for f in files) == shown["files"]["total_size"]


def test_the_summary_names_tables_and_sizes(sbh: Sbh, settings_file: Path, backed_up: str, tmp_path: Path) -> None:
    folder = str(tmp_path / "out")
    ended = sbh("export", "latest", "-t", "tenant-6", "--to", folder, "--tables", "users, tenants", "--no-files")
    assert ended.status == 0
    for word in ("public.users.jsonl", "public.tenants.jsonl", "left out", folder, "KiB", "recovery point"):
        assert word in ended.out.replace("\n", "")
    assert "payments" not in ended.out
    quiet = sbh("export", "latest", "-t", "tenant-6", "--to", f"{folder}2", "--format", "csv", "--quiet")
    assert quiet.out == f"{folder}2\n"
    with open(f"{folder}2/public.users.csv", newline="") as lines:
        assert "email" in next(csv.reader(lines))


def test_what_cannot_be_is_refused(sbh: Sbh, settings_file: Path, backed_up: str, tmp_path: Path) -> None:
    """A folder with something in it, an unknown table, format, backup or tenant; nothing is written."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    to = ("--to", str(tmp_path / "out"), "--json")
    ended = sbh("export", "latest", "-t", "tenant-6", "--to", str(tmp_path / "mine"), "--json")
    assert (ended.status, ended.code) == (2, "SBH-200")
    ended = sbh("export", "latest", "-t", "tenant-6", "--tables", "nothing", *to)
    assert (ended.status, ended.code) == (2, "SBH-200")
    assert "public.users" in ended.document["error"]["why"]
    assert sbh("export", "latest", "-t", "tenant-6", "--format", "xml", *to).status == 2
    assert sbh("export", "backup_20010101_0000", "-t", "tenant-6", *to).code == "SBH-203"
    assert sbh("export", "latest", "-t", "nobody", *to).code == "SBH-202"
    assert sbh("export", "latest", "-t", "../tenant-1", *to).code == "SBH-201"
    ended = sbh("export", "latest", "-t", "tenant-6", "--to", str(tmp_path / "mine" / "file" / "out"), "--json")
    assert (ended.status, ended.code) == (9, "SBH-706")
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["mine", "mine/file"]
