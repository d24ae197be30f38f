"""`sbh ui` becomes the guarded server; what is wrong with the settings is told before Dagster is imported."""

import os
import subprocess
import sys

import pytest

from sbh_pipelines_tests.support.servers import PATIENCE_S


class Became(BaseException):
    pass


@pytest.fixture
def became(monkeypatch):
    """The commands that this process would have become."""
    commands = []

    def execv(program, arguments):
        commands.append([program, *arguments])
        raise Became

    monkeypatch.setattr(os, "execv", execv)
    return commands


def test_the_process_becomes_the_server(sbh, became, tmp_path, monkeypatch):
    """With the settings' address unless another is given, and the same settings file."""
    (tmp_path / "sbh.toml").write_text("[ui]\nport = 3100\n")
    settings = str(tmp_path / "sbh.toml")
    with pytest.raises(Became):
        sbh("ui", "--settings", settings)
    with pytest.raises(Became):
        sbh("ui", "--host", "127.0.0.2", "-p", "1234", "-m", "my.defs", "-w", "a.yaml", "-w", "b.yaml")
    start = [sys.executable, sys.executable, "-P", "-m", "sbh_pipelines.orchestration.guarded_ui"]
    assert became[0] == [*start, "--host", "127.0.0.1", "--port", "3100", "--settings", settings]
    assert became[1][len(start) :] == [
        *("--host", "127.0.0.2", "--port", "1234", "--module", "my.defs"),
        *("--workspace", "a.yaml", "--workspace", "b.yaml"),
    ]


def test_settings_that_are_wrong_are_told_at_once(sbh, became, tmp_path):
    """Here, and by the server itself."""
    (tmp_path / "sbh.toml").write_text("[ui]\npublic_url = 'http://backups.example.com'\n")
    ended = sbh("ui", "--settings", str(tmp_path / "sbh.toml"), "--json")
    assert (ended.status, ended.code, became) == (3, "SBH-100", [])
    command = [sys.executable, "-m", "sbh_pipelines.orchestration.guarded_ui", "--settings", str(tmp_path / "sbh.toml")]
    server = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert server.returncode == 3
    assert "ui.public_url" in server.stderr
