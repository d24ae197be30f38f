"""Requests made from the API's own OpenAPI document, against the running server with a real Dagster."""

import subprocess
import sys
from pathlib import Path

import pytest

from sbh_pipelines.security.policy import Role
from sbh_pipelines_tests.support.servers import Server

# A valid cursor, time or name is more than a pattern can say: such requests may be refused.
_NOT_CHECKED = "positive_data_acceptance"


@pytest.mark.soak
def test_no_request_breaks_the_server_or_the_document(server: Server, backed_up: str, tmp_path: Path) -> None:
    """No 5xx, no answer that the document does not describe, no malformed request that is taken, no way past the token."""
    token = server.tokens.issue("fuzzer", "*", Role.ADMIN, 3600)
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.address}/api/openapi.json",
        "-H", f"Authorization: Bearer {token}", "-H", "X-Tenant-Slug: tenant-2",
        "--phases", "examples,coverage,fuzzing", "--max-examples", "1", "--seed", "1", "--no-color",
        "--exclude-checks", _NOT_CHECKED, "--suppress-health-check", "all", "--request-timeout", "240",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
