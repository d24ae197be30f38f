"""docs/settings.md says what settings.py does."""

from pathlib import Path

import pytest

from sbh_pipelines.cli.settings_docs import fields, page
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
