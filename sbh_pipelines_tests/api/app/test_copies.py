"""How copies stand, over HTTP: the platform's users see all tenants, a tenant's users their own line."""

import json
from pathlib import Path

import pytest

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.security.policy import Role
from sbh_pipelines.security.tokens import Tokens
from sbh_pipelines_tests.support.fix_api import TENANTS
from sbh_pipelines_tests.support.servers import serving

COPY = {"name": "dr", "to": "eu-central-1", "bucket": "sbh-copy-{region}", "objective_minutes": 30}


def test_each_sees_what_is_theirs(
    api_stack: Stack, tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was copied yet: each tenant is named with that."""
    monkeypatch.setenv("SBH_COPIES", json.dumps([COPY]))
    with serving(api_stack, tokens, tmp_path / "log") as server:
        with server.client(role=Role.VIEWER) as platform:
            (copy,) = platform.get("/api/copies").raise_for_status().json()["copies"]
            assert platform.get("/api/copies/dr").json() == copy
            assert (copy["to"], copy["kind"], copy["objective_s"]) == ("eu-central-1", "managed", 1800)
            assert {issue["code"] for issue in copy["issues"]} == {"SBH-402"}  # there is no bucket yet
            assert {line["tenant_id"]: line["standing"] for line in copy["tenants"]} == dict.fromkeys(TENANTS, "never")
            unknown = platform.get("/api/copies/nowhere")
            assert (unknown.status_code, unknown.json()["code"]) == (400, "SBH-200")
            assert platform.get(f"/api/copies/{'x' * 41}").status_code == 422
        with server.client(role=Role.VIEWER, slug=TENANTS[1]) as named:
            assert [line["tenant_id"] for line in named.get("/api/copies/dr").json()["tenants"]] == [TENANTS[1]]
        with server.client(TENANTS[0], Role.VIEWER) as own:
            assert [line["tenant_id"] for line in own.get("/api/copies/dr").json()["tenants"]] == [TENANTS[0]]
