"""The component in another team's project: scaffolded, loaded and listed by `dg`, beside assets of theirs."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import cast

import pytest
from dagster import ComponentLoadContext

from sbh_pipelines.components import SbhBackups
from sbh_pipelines.errors import SettingsError
from sbh_pipelines.orchestration.common import names
from sbh_pipelines.settings import SiteSettings

PROJECT = """
[project]
name = "team"
version = "0.1.0"
[tool.dg]
directory_type = "project"
[tool.dg.project]
root_module = "team"
[tool.dg.cli]
suppress_warnings = ["project_and_activated_venv_mismatch"]
"""
DEFINITIONS = """
from pathlib import Path
import dagster as dg

@dg.definitions
def defs():
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
"""
OWN = """
import dagster as dg

class Pickles(dg.IOManager):
    def handle_output(self, context, obj): ...
    def load_input(self, context): ...

@dg.asset
def orders():
    return 1

@dg.definitions
def more():
    return dg.Definitions(assets=[orders], resources={"io_manager": Pickles()}, executor=dg.multiprocess_executor)
"""
ATTRIBUTES = """type: sbh_pipelines.components.SbhBackups
attributes:
  settings: {settings}
  site: team_a
  schedules:
    daily_full: "15 1 * * *"
"""


def dg(project: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SBH_", "DAGSTER_"))}
    return subprocess.run(
        [Path(sys.executable).with_name("dg"), *arguments],
        cwd=project, env={**kept, "PYTHONPATH": str(project / "src")}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_team_drops_it_into_its_own_code_location(tmp_path: Path) -> None:
    source = tmp_path / "src" / "team"
    (source / "defs").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text(PROJECT, "utf-8")
    (source / "__init__.py").touch()
    (source / "definitions.py").write_text(DEFINITIONS, "utf-8")
    (source / "defs" / "own.py").write_text(OWN, "utf-8")

    made = dg(tmp_path, "scaffold", "defs", "sbh_pipelines.components.SbhBackups", "backups")
    assert made.returncode == 0, made.stderr
    file = source / "defs" / "backups" / "defs.yaml"
    assert "settings: sbh.toml" in file.read_text("utf-8")

    settings = tmp_path / "sbh.toml"
    settings.write_text('[database]\ndsn = "host=nowhere dbname=app"\n', "utf-8")
    file.write_text(ATTRIBUTES.format(settings=settings), "utf-8")
    listed = dg(tmp_path, "list", "defs", "--json")
    assert listed.returncode == 0, listed.stderr
    found = json.loads(listed.stdout)
    assets = {one["asset_key"] for one in found["assets"]}
    assert {"orders", "team_a/tenant_backup/full", "team_a/recovery_report"} <= assets
    crons = {one["name"]: one["cron_schedule"] for one in found["schedules"]}
    assert crons["team_a__daily_full"] == "15 1 * * *"
    assert "team_a__restore_job" in {one["name"] for one in found["jobs"]}
    assert "team_a__tenants_sync" in {one["name"] for one in found["sensors"]}


def test_what_cannot_be_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings; and a second component in a process that has loaded the definitions of another site."""
    importlib.import_module("sbh_pipelines.definitions")
    monkeypatch.delitem(
        sys.modules, "sbh_pipelines.orchestration.hosts.celery_worker", raising=False
    )  # of another test
    for name in ("SBH_SETTINGS", "SBH_SITE__NAME", "SBH_SCHEDULES__DAILY_FULL"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(names, "_FILE", Path("/etc/sbh/other.toml"))
    context = cast(ComponentLoadContext, SimpleNamespace(path=tmp_path))  # all that is asked of it
    with pytest.raises(SettingsError, match=r"sbh settings init --settings .*/sbh\.toml"):
        SbhBackups().build_defs(context)
    (tmp_path / "sbh.toml").touch()
    with pytest.raises(SettingsError, match="A second component in one code location"):
        SbhBackups().build_defs(context)
    monkeypatch.setattr(names, "_FILE", tmp_path / "sbh.toml")
    assert SbhBackups().build_defs(context).executor is None
    for other in (SbhBackups(site="b"), SbhBackups(schedules={"daily_full": "15 1 * * *"})):
        with pytest.raises(SettingsError, match="A second component"):
            other.build_defs(context)


def test_a_worker_that_has_loaded_the_definitions_runs_those_of_its_component(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the same file otherwise, has the site's name from there, and no schedules. One of another site says what it lacks."""
    importlib.import_module("sbh_pipelines.definitions")
    monkeypatch.setitem(sys.modules, "sbh_pipelines.orchestration.hosts.celery_worker", ModuleType("worker"))
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "sbh.toml").touch()
    (tmp_path / "link").symlink_to("real")
    for name in ("SBH_SETTINGS", "SBH_SITE__NAME", "SBH_SCHEDULES__DAILY_FULL"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(names, "_FILE", tmp_path / "real" / "sbh.toml")
    monkeypatch.setattr(names, "_SITE", SiteSettings(name="a"))
    context = cast(ComponentLoadContext, SimpleNamespace(path=tmp_path / "link"))
    assert SbhBackups(site="a", schedules={"daily_full": "15 1 * * *"}).build_defs(context).jobs
    with pytest.raises(
        SettingsError, match=r"start the worker with SBH_SETTINGS=.*/real/sbh.toml and SBH_SITE__NAME=b"
    ):
        SbhBackups(site="b").build_defs(context)
