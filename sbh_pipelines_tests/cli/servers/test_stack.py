"""`sbh stack`: up, sample, status, down."""

from pathlib import Path

from sbh_pipelines_tests.cli.conftest import Sbh


def test_a_stack_from_up_to_down(sbh: Sbh, tmp_path: Path) -> None:
    where = ("--dir", str(tmp_path / "stack"))
    small = ("--tenants", "2", "--rows", "300", "--files", "3")
    try:
        assert sbh("stack", "status", *where, "--json").document["running"] is False
        assert sbh("stack", "sample", *where, "--json").status == 10
        up = sbh("stack", "up", *where, "--sample", *small, "--json").document
        assert up["running"] is True
        assert up["sample"]["tenants"] == ["tenant-1", "tenant-2"]
        assert "sample" not in sbh("stack", "up", *where, "--sample", *small, "--json").document  # there already
        assert sbh("stack", "sample", *where, *small, "--json").code == "SBH-800"
        assert sbh("tenants", "list", "--settings", up["settings"], "--quiet").out.split() == ["tenant-1", "tenant-2"]
        assert "127.0.0.1" in sbh("stack", "status", *where).out
    finally:
        assert sbh("stack", "down", *where, "--json").document["running"] is False
