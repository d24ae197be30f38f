"""`sbh backup create --type` on real servers."""

from pathlib import Path

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.cli.conftest import Sbh, sql


def test_an_incremental_backup_of_an_unchanged_tenant_is_none(sbh: Sbh, settings_file: Path, backed_up: str) -> None:
    """It is told which backup still describes the tenant; scripts get that one's id."""
    newest = sbh("backup", "list", "tenant-6", "--quiet").out.split()[0]
    ended = sbh("backup", "create", "tenant-6", "--type", "incremental", "--json")
    assert ended.status == 0
    assert (ended.document["backups"], ended.document["failed"]) == ([], [])
    (tenant,) = ended.document["unchanged"]
    assert (tenant["tenant_id"], tenant["unchanged_since"]) == ("tenant-6", newest)
    assert sbh("backup", "create", "tenant-6", "--type", "incremental", "--quiet").out.strip() == newest
    shown = sbh("backup", "create", "tenant-6", "--type", "incremental").out
    assert "1 tenant unchanged" in shown
    assert newest in shown
    assert sbh("backup", "list", "tenant-6", "--quiet").out.split()[0] == newest


def test_a_differential_backup_says_what_it_builds_on(
    sbh: Sbh, settings_file: Path, sample_stack: Stack, backed_up: str
) -> None:
    with sql(sample_stack, "UPDATE users SET name = name || '.' WHERE tenant_id = 6"):
        (made,) = sbh("backup", "create", "tenant-6", "--type", "differential", "--json").document["backups"]
    assert (made["type"], made["parent"]) == ("differential", backed_up)
    shown = sbh("backup", "show", made["id"], "--tenant", "tenant-6").out
    assert f"builds on       {backed_up}" in shown
