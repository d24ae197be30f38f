"""Loading the definitions."""

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from sbh_pipelines.definitions import defs
from sbh_pipelines.orchestration.backups.schedules import backup_timetable
from sbh_pipelines.orchestration.common.timetable import Timetable
from sbh_pipelines.orchestration.upkeep.retention import prune_timetable

ROOT = Path(__file__).parents[2]

_LOAD = """
import os, sys
touched = []
def watch(event, arguments):
    reads = event == "open" and str(arguments[0]).endswith((".toml", ".key"))
    if reads or event in ("socket.connect", "socket.getaddrinfo"):
        touched.append((event, arguments))
sys.addaudithook(watch)
from sbh_pipelines.definitions import defs
dg = sys.modules["dagster"]
dg.Definitions.validate_loadable(defs)
assert not touched, touched
loaded = {"boto3", "psycopg2", "obstore", "sbh_pipelines.backup.service"} & set(sys.modules)
assert not loaded, loaded
"""


def _run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own, in a place where nothing is set."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SBH_", "DAGSTER_"))}
    environment |= {"PYTHONPATH": str(ROOT), "SBH_SETTINGS": "/nowhere/sbh.toml", "DAGSTER_HOME": str(cwd)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


def test_loading_needs_no_settings_and_opens_no_connection(tmp_path: Path) -> None:
    """A code server must come up while the database is down and before the settings are mounted."""
    done = _run(sys.executable, "-c", _LOAD, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_command_line_validates_them(tmp_path: Path) -> None:
    dg = str(Path(sys.executable).with_name("dg"))
    done = _run(dg, "check", "defs", "--target-path", str(ROOT), "--use-active-venv", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_everything_a_user_sees_says_what_it_is() -> None:
    """Every asset, op, job, schedule, sensor, check and config field has a description."""
    repository = defs.get_repository_def()
    silent = [job.name for job in repository.get_all_jobs() if not job.name.startswith("__") and not job.description]
    for job in repository.get_all_jobs():
        for node in job.all_node_defs:
            silent += [f"op {node.name}"] if not node.description else []
            if isinstance(node, dg.OpDefinition):
                silent += _silent_fields(node.name, node.config_schema.config_type)
    silent += [s.name for s in (*repository.schedule_defs, *repository.sensor_defs) if not s.description]
    graph = repository.asset_graph
    silent += [str(key) for key in graph.get_all_asset_keys() if not graph.get(key).description]
    silent += [str(key) for key in graph.asset_check_keys if not graph.get_check_spec(key).description]
    resource = repository.get_top_level_resources()["backups"]
    silent += _silent_fields("backups", resource.config_schema.config_type)
    assert silent == []


def test_every_asset_has_an_owner_and_the_kinds_of_what_it_is_made_of() -> None:
    graph = defs.get_repository_def().asset_graph
    nodes = [graph.get(key) for key in graph.get_all_asset_keys()]
    assert {type(node.group_name) for node in nodes} == {str}, "a code server cannot send others to the web pages"
    ours = [node for node in nodes if node.group_name != "source"]  # that is the application's
    assert {tuple(node.owners) for node in ours} == {("team:backups",)}
    assert {node.key.to_user_string(): (node.group_name, node.kinds) for node in nodes} == {
        "application/database": ("source", {"postgres"}),
        "application/files": ("source", {"s3"}),
        "tenant_backup/full": ("backups", {"postgres", "s3"}),
        "tenant_backup/incremental": ("backups", {"postgres", "s3"}),
        "tenant_backup/differential": ("backups", {"postgres", "s3"}),
        "change_journal": ("backups", {"postgres", "s3"}),
        "platform_backup": ("platform", {"postgres", "s3"}),
        "copies": ("copies", {"s3"}),
        "tenant_restore": ("restores", {"postgres", "s3"}),
        "tenant_backup/drill": ("proof", {"postgres", "s3"}),
        "recovery_report": ("proof", {"report", "s3"}),
        "storage_report": ("proof", {"report", "s3"}),
    }


def test_the_graph_leads_from_the_application_to_the_proof() -> None:
    graph = defs.get_repository_def().asset_graph
    parents = {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    }
    types = {f"tenant_backup/{kind}" for kind in ("full", "incremental", "differential")}
    source = {"application/database", "application/files"}
    assert parents == {
        **{key: set() for key in source},
        **dict.fromkeys(types, source),
        "change_journal": {"application/database"},
        "platform_backup": {"application/database"},
        "copies": types,
        "tenant_restore": types,
        "tenant_backup/drill": types | {"platform_backup"},
        "recovery_report": {"tenant_backup/drill"},
        "storage_report": types,
    }


def test_what_can_be_launched() -> None:
    repository = defs.get_repository_def()
    types = ("full", "incremental", "differential")
    jobs = {"fleet_backup_job", "validate_backup_job", "restore_job", "prune_job", "retention_job", "drill_job"}
    jobs |= {"platform_backup_job", "undo_restore_job", "journal_drain_job", "journal_show_job"}
    jobs |= {"copy_run_job", "copy_verify_job", "storage_report_job"}
    assert jobs | {f"{kind}_backup_job" for kind in types} <= set(repository.job_names)
    for kind in types:
        asset = repository.asset_graph.get(dg.AssetKey(["tenant_backup", kind]))
        assert asset.partitions_def == dg.DynamicPartitionsDefinition(name="tenants")
        assert asset.backfill_policy == dg.BackfillPolicy.multi_run(500)


def test_what_runs_by_itself() -> None:
    """Differential backups only where somebody asks for them."""
    schedules = {s.name: (s.cron_schedule, s.default_status.value) for s in defs.get_repository_def().schedule_defs}
    assert schedules == {
        "hourly_incremental": ("0 * * * *", "RUNNING"),
        "differential": ("0 */6 * * *", "STOPPED"),
        "daily_full": ("0 2 * * *", "RUNNING"),
        "weekly_full": ("0 3 * * 0", "RUNNING"),
        "daily_prune": ("30 4 * * *", "RUNNING"),
        "weekly_drill": ("0 5 * * 6", "RUNNING"),
        "daily_platform_backup": ("30 1 * * *", "RUNNING"),
        "journal_drain": ("*/5 * * * *", "RUNNING"),
        "copies": ("20 * * * *", "RUNNING"),
        "weekly_storage_report": ("50 5 * * 1", "RUNNING"),
    }
    assert all(sensor.default_status is dg.DefaultSensorStatus.RUNNING for sensor in defs.sensors or ())


def test_the_environment_sets_the_cron_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty one turns a schedule off, and leaves a line for whoever turns it on by hand."""
    monkeypatch.setenv("SBH_SCHEDULES__DAILY_FULL", "15 1 * * *")
    monkeypatch.setenv("SBH_SCHEDULES__TIME_ZONE", "Europe/Berlin")
    monkeypatch.setenv("SBH_SCHEDULES__DIFFERENTIAL", "0 */3 * * *")
    monkeypatch.setenv("SBH_SCHEDULES__DAILY_PRUNE", "")
    daily, variable = backup_timetable("daily_full"), "SBH_SCHEDULES__DAILY_FULL"
    assert daily == Timetable("daily_full", "15 1 * * *", "Europe/Berlin", on=True, variable=variable)
    assert backup_timetable("differential", "0 */6 * * *").cron == "0 */3 * * *"
    prune, variable = prune_timetable(), "SBH_SCHEDULES__DAILY_PRUNE"
    assert prune == Timetable("daily_prune", "30 4 * * *", "Europe/Berlin", on=False, variable=variable)


def _silent_fields(owner: str, config_type: object) -> list[str]:
    fields = getattr(config_type, "fields", None) or {}
    return [f"{owner}.{name}" for name, field in fields.items() if not field.description]
