"""`sbh stack`: up, sample, status, down."""

import os
import subprocess
import sys
from pathlib import Path

from sbh_pipelines.settings import load_settings
from sbh_pipelines_tests.cli.conftest import Sbh


def test_a_stack_from_up_to_down(sbh: Sbh, tmp_path: Path) -> None:
    where = ("--dir", str(tmp_path / "stack"))
    small = ("--tenants", "2", "--rows", "300", "--files", "3")
    try:
        assert sbh("stack", "status", *where, "--json").document["running"] is False
        assert sbh("stack", "sample", *where, "--json").status == 10
        unmapped = sbh("stack", "up", *where, "--json").document
        assert load_settings(unmapped["settings"]).database.shared == []
        up = sbh("stack", "up", *where, "--sample", *small, "--json").document
        assert up["running"] is True
        assert up["sample"]["tenants"] == ["tenant-1", "tenant-2"]
        assert "sample" not in sbh("stack", "up", *where, "--sample", *small, "--json").document  # there already
        assert sbh("stack", "sample", *where, *small, "--json").code == "SBH-800"
        assert sbh("tenants", "list", "--settings", up["settings"], "--quiet").out.split() == ["tenant-1", "tenant-2"]
        assert "127.0.0.1" in sbh("stack", "status", *where).out
        lines = sbh("stack", "env", *where).out
        asked = "psql -XAtc 'SELECT count(*) FROM tenants'; python -c \"import boto3; print(boto3.client('s3').list_buckets()['Buckets'][0]['Name'])\""
        told = subprocess.run(
            ["sh", "-euc", f"{lines}\n{asked}"], capture_output=True, text=True, check=True, env=_bare()
        )
        assert told.stdout.split() == ["2", "sbh-files-eu-west-1"]
        assert not any(file.read_text().strip() in lines for file in (tmp_path / "stack" / "secrets").glob("*-*"))
    finally:
        assert sbh("stack", "down", *where, "--json").document["running"] is False


def _bare() -> dict[str, str]:
    """An environment that names no server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PG", "SBH_"))}
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}"}
