"""docs/settings.md says what settings.py does."""

import os
from pathlib import Path

import pytest

from sbh_pipelines.cli.files import rewrite
from sbh_pipelines.cli.settings_docs import fields, page
from sbh_pipelines.errors import RequestError
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.cli.conftest import Sbh

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date() -> None:
    committed = (ROOT / "docs" / "settings.md").read_text("utf-8")
    assert committed == page(), "run: sbh settings docs --write docs/settings.md"


def test_every_field_has_a_meaning_and_a_type() -> None:
    rows = fields()
    assert {row.section for row in rows} == set(Settings.model_fields)
    assert [row.name for row in rows if not row.meaning or row.type == "value"] == []


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("SBH_DATABASE__CONNECTIONS", "7", lambda s: s.database.connections == 7),
        ("SBH_RETENTION__FULL_BACKUPS__KEEP_DAILY", "9", lambda s: s.retention.full_backups.keep_daily == 9),
        ("SBH_DATABASE__SHARED", '["plans"]', lambda s: s.database.shared == ["plans"]),
    ],
)
def test_the_environment_names_are_real(monkeypatch: pytest.MonkeyPatch, name: str, value: str, read: object) -> None:
    assert name in page()
    monkeypatch.setenv(name, value)
    assert read(Settings())  # type: ignore[operator]


def test_it_is_printed_and_written(sbh: Sbh, tmp_path: Path) -> None:
    assert sbh("settings", "docs").out == page()
    assert {row["name"] for row in sbh("settings", "docs", "--json").document} == {row.name for row in fields()}
    assert sbh("settings", "docs", "--write", str(tmp_path / "page.md")).status == 0
    assert (tmp_path / "page.md").read_text("utf-8") == page()


def test_a_file_that_is_written_anew_stays_whose_it_was(tmp_path: Path) -> None:
    """Mode, owner, and a link to it; and nothing is left beside one that cannot be written."""
    file, link = tmp_path / "sbh.toml", tmp_path / "link.toml"
    file.write_text("old", "utf-8")
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, 65534, 65534)
    link.symlink_to(file)
    before = file.stat()
    rewrite(link, "new")
    after = file.stat()
    assert (file.read_text("utf-8"), link.is_symlink()) == ("new", True)
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    with pytest.raises(RequestError, match="Cannot write"):
        rewrite(tmp_path / "missing.toml", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.toml", "sbh.toml"]
