"""`sbh demo` from beginning to end, with small figures, as a process of its own; and its witness, the fingerprint."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from sbh_pipelines.cli.demo.moment import BackToAMoment
from sbh_pipelines.cli.demo.steps import Steps
from sbh_pipelines.embedded.sample import changes as damage
from sbh_pipelines.embedded.sample import data as sample
from sbh_pipelines.embedded.sample import fingerprint
from sbh_pipelines.embedded.sample.fingerprint import Content, Fingerprint
from sbh_pipelines.embedded.servers import stack
from sbh_pipelines.errors import ProofFailed
from sbh_pipelines_tests.cli.conftest import Sbh
from sbh_pipelines_tests.support.servers import PATIENCE_S

CODE = "import sys; from sbh_pipelines.cli import main; sys.exit(main(sys.argv[1:]))"
MATERIALIZED = """{ assetNodeOrError(assetKey: {path: ["tenant_backup", "%s"]}) { ... on AssetNode {
    partitionStats { numMaterialized numPartitions } assetObservations(limit: 5) { partition description } } } }"""
RESTORED = """{ assetOrError(assetKey: {path: ["tenant_restore"]}) { ... on Asset {
    assetMaterializations(limit: 5) { partition } } } }"""
COPIED = """{ assetOrError(assetKey: {path: ["tenant_copy", "%s"]}) { ... on Asset {
    assetMaterializations(limit: 5) { partition } } } }"""


def test_the_demo_ends_well_with_the_web_ui_on_it(tmp_path: Path) -> None:
    """Backups and copies of all tenants are in Dagster's UI, also what was begun anew after the loss of the region; Ctrl-C ends
    everything; a real site in the environment is not touched.
    """
    arguments = [
        "demo",
        "--dir",
        str(tmp_path / "demo"),
        "--tenants",
        "2",
        "--rows",
        "1500",
        "--files",
        "12",
        "--ui",
        "--json",
    ]
    production = {
        "SBH_DATABASE__DSN": "host=production.invalid",
        "SBH_SETTINGS": "/etc/production.toml",
        "AWS_PROFILE": "prod",
    }
    with (
        (tmp_path / "stderr").open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-c", CODE, *arguments],
            env={**os.environ, **production},
            stdout=subprocess.PIPE,
            stderr=stderr,
        ) as process,
    ):
        try:
            address = wait_for_address(process, tmp_path / "stderr")
            full, incremental = (
                ask(address, MATERIALIZED % kind)["data"]["assetNodeOrError"] for kind in ("full", "incremental")
            )
            restored = ask(address, RESTORED)["data"]["assetOrError"]
            copied = {name: ask(address, COPIED % name)["data"]["assetOrError"] for name in ("dr", "dr-2")}
        finally:
            process.send_signal(signal.SIGINT)
            try:
                out = process.communicate(timeout=PATIENCE_S)[0]
            finally:
                process.kill()
    assert process.returncode == 0, (tmp_path / "stderr").read_text()
    assert full["partitionStats"] == {"numMaterialized": 2, "numPartitions": 2}
    assert incremental["partitionStats"] == {"numMaterialized": 1, "numPartitions": 2}
    told = sorted((found["partition"], found["description"].split()[0]) for found in incremental["assetObservations"])
    assert told == [("tenant-2", "Unchanged")]  # a restore has a page of its own, and covers no backup
    assert {found["partition"] for found in restored["assetMaterializations"]} == {"tenant-1"}
    document = json.loads(out)
    assert document["ok"] is True
    steps = {step["step"]: step for step in document["steps"]}
    assert steps["back up all tenants through Dagster"]["backups"] == 2
    assert steps["damage tenant-1"]["rows_deleted"] > 0
    preview = steps["sbh restore diff: what a restore would do"]
    assert all(preview[change] > 0 for change in ("insert", "update", "delete", "files"))
    assert steps["restore tenant-1 through Dagster"]["safety_backup_id"]
    assert steps["compare every tenant with its fingerprint"]["identical"] is True
    assert steps["sbh journal setup"]["tables"] == 11
    assert steps["all work on; amid it a script ruins tenant-2"]["journaled"] > 0
    assert steps["sbh journal show tenant-2: which was it?"]["transactions"] == 3
    preview = steps["sbh restore diff @MOMENT"]
    assert all(preview[change] > 0 for change in ("insert", "update", "delete"))
    assert steps["sbh restore run @MOMENT"]["safety_backup_id"]
    compared = steps["compare with the fingerprints of just before"]
    assert (compared["identical"], compared["others_untouched"]) == (True, 1)
    assert steps["copy everything to dr through Dagster"]["tenants"] == 2
    assert 0 < steps["copy everything to dr through Dagster"]["worst_lag_s"] < 1800
    assert steps["sbh copies verify dr --deep"]["bytes"] > 0
    lost = steps["lose the region: S3 server, its directory, the key"]
    assert min(lost["bytes_lost"], lost["rows_deleted"]) > 0
    assert lost["files_lost"] == 14  # the sample's, and those of the tenants' work
    back = steps["sbh restore run latest -t tenant-2 --from-copy dr"]
    assert back["from_copy"] == "dr"
    assert min(back["rows"], back["files"]) > 0
    assert steps["compare everything with what it was before the loss"]["identical"] is True
    assert steps["back up all tenants anew through Dagster, and copy them"]["backups"] == 2
    told = {name: sorted(one["partition"] for one in found["assetMaterializations"]) for name, found in copied.items()}
    assert told == {"dr": ["tenant-1", "tenant-1", "tenant-2", "tenant-2"], "dr-2": ["tenant-1", "tenant-2"]}
    assert not any(server.running for server in stack.status(tmp_path / "demo").servers)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address, timeout=2)


def wait_for_address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + 900  # a loaded machine
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("Dagster's web UI: "):
                return line.split()[3]
        time.sleep(0.2)
    raise AssertionError(f"no web UI:\n{log.read_text()}")


def ask(address: str, query: str) -> dict[str, dict[str, dict[str, object]]]:
    request = urllib.request.Request(
        f"{address}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        found: dict[str, dict[str, dict[str, object]]] = json.load(answer)
        return found


def test_a_failing_run_ends_the_demo_with_its_error(sbh: Sbh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers are down afterwards, and the log is named."""
    monkeypatch.setattr("sbh_pipelines.cli.demo.dagster_runs._DEFINITIONS", "sbh_pipelines.no_such_module")
    ended = sbh("demo", "--dir", str(tmp_path), "--tenants", "1", "--rows", "200", "--files", "2", "--json")
    assert ended.status == 10
    error = ended.document["error"]
    assert "no_such_module" in error["why"]
    assert str(tmp_path / "log") in error["remedy"]
    assert not stack.status(tmp_path).running


def test_a_difference_in_rows_or_files_is_seen() -> None:
    """Changed, gone and new, of the damaged tenant and of others."""
    was = Fingerprint({"a": {"users": Content(2, "x")}, "b": {"users": Content(1, "y")}}, {"a": {"k": Content(3, "z")}})
    assert was.differences(was) == {}
    now = Fingerprint({"a": {"users": Content(2, "!")}, "b": {}}, {"a": {"l": Content(3, "z")}})
    assert was.differences(now) == {
        "a": ["table users: changed", "file k: is gone", "file l: is new"],
        "b": ["table users: is gone"],
    }


A, B, C = (Content(number, str(number)) for number in (1, 2, 3))


@pytest.mark.parametrize(
    ("now", "what"),
    [
        ({"ruined": {"users": A}, "other": {"users": C}}, None),
        ({"ruined": {"users": B}, "other": {"users": C}}, "The tenant is not what it was"),
        ({"ruined": {"users": A}, "other": {"users": A}}, "Another tenant was touched"),
    ],
)
def test_a_recovery_to_another_moment_ends_the_demo(
    now: dict[str, dict[str, Content]], what: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ruined tenant is held against what it was before, each other one against what it was last."""
    before = Fingerprint({"ruined": {"users": A}, "other": {"users": A}}, {})
    after = Fingerprint({"ruined": {"users": B}, "other": {"users": C}}, {})
    monkeypatch.setattr(fingerprint, "take", lambda _: Fingerprint(now, {}))
    stack: Any = SimpleNamespace(dir="somewhere")
    told = BackToAMoment(stack, Steps(quiet=True), None, Mock(), "ruined", ["other"])
    with pytest.raises(ProofFailed, match=what) if what else nullcontext():
        told.prove(before, after)


def test_the_damage_is_of_one_tenant_and_the_fingerprint_sees_all_of_it(tmp_path: Path) -> None:
    with stack.running(tmp_path, kms=False, fsync=False) as servers:
        sample.generate(servers, tenants=3, rows=3000, files=30, seed=5)
        before = fingerprint.take(servers)
        assert before == fingerprint.take(servers)
        done = damage.wreck(servers, "tenant-2")
        assert all(number > 0 for number in done.as_dict().values())
        assert set(before.differences(fingerprint.take(servers))) == {"tenant-2"}
        before = fingerprint.take(servers)
        ruined = damage.ruin(servers, "tenant-3")
        assert min(ruined.rows_changed, ruined.rows_deleted) > 0
        assert set(before.differences(fingerprint.take(servers))) == {"tenant-3"}
