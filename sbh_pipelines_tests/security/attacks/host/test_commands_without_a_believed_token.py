"""Somebody who is let to `sbh` with a token, through sudo or a wrapper, wants what no token of theirs allows: to overwrite the service's
files, to run their own code as the service, to start its servers.

What stops them: with a token every command asks for its permission before anything else, in one place; outputs replace nothing that is
not of their own kind; no child process looks for modules where the caller stands. The border between people is the API all the same.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

import sbh_pipelines
from sbh_pipelines.cli.app import app
from sbh_pipelines.security.policy import PERMISSIONS, PLATFORM_ONLY
from sbh_pipelines.security.signing_key import write_signing_key
from sbh_pipelines_tests.cli.conftest import Sbh, sbh

__all__ = ["sbh"]

PACKAGE = Path(sbh_pipelines.__file__).parent


def _commands(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not hasattr(group, "commands"):
        yield path, group
        return
    for name, command in group.commands.items():
        yield from _commands(command, (*path, name))


COMMANDS = dict(_commands(typer.main.get_command(app)))


def permission(command: click.Command) -> str | None:
    return getattr(command.callback, "permission", None)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_signing_key(tmp_path / "signing.key")
    (tmp_path / "data-key").write_bytes(b"QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=")
    (tmp_path / "sbh.toml").write_text(
        f'[auth]\nmode = "local"\nsigning_key_file = "{tmp_path}/signing.key"\n[storage]\nkind = "local"\n'
        f'path = "{tmp_path}/objects"\n[keys]\nprovider = "local"\nkey_file = "{tmp_path}/data-key"\n'
    )
    monkeypatch.setenv("SBH_SETTINGS", str(tmp_path / "sbh.toml"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_names_its_permission() -> None:
    """One of the table; a new command without any is refused to all who have a token."""
    assert len(COMMANDS) > 60
    named = {path: permission(command) for path, command in COMMANDS.items()}
    assert {path: name for path, name in named.items() if name not in PERMISSIONS} == {}
    host = {path for path, name in named.items() if name == "host.manage"}
    assert host >= {("serve",), ("ui",), ("doctor",), ("stack", "up"), ("token", "key"), ("settings", "docs")}
    assert "host.manage" in PLATFORM_ONLY


def _arguments(command: click.Command, out: Path) -> list[str]:
    """Enough of them to be let through to the command itself."""
    given = []
    for parameter in command.params:
        if not getattr(parameter, "required", False):
            continue
        value = str(out) if parameter.name in ("certificate", "write") else "1"
        given += [value] if parameter.param_type_name == "argument" else [parameter.opts[0], value]
    return given


def test_no_command_runs_with_a_token_that_is_not_believed(
    site: Path, sbh: Sbh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever it is; nothing is written."""
    monkeypatch.setenv("SBH_TOKEN", "garbage")
    there = site / "there.json"
    there.write_text("{}")
    before = {file: file.read_bytes() for file in site.rglob("*") if file.is_file()}
    for path, command in COMMANDS.items():
        ended = sbh(*path, *_arguments(command, there), "--json")
        assert (ended.status, ended.code) == (4, "SBH-209"), (path, ended)
    assert {file: file.read_bytes() for file in site.rglob("*") if file.is_file()} == before


def test_a_tenants_admin_manages_no_host(site: Path, sbh: Sbh, monkeypatch: pytest.MonkeyPatch) -> None:
    """What serves, makes keys or looks at the machine is the platform's."""
    token = sbh("token", "issue", "--user", "ann", "-t", "acme", "--role", "admin").out
    monkeypatch.setenv("SBH_TOKEN", token.strip())
    for path, command in COMMANDS.items():
        if permission(command) == "host.manage":
            ended = sbh(*path, *_arguments(command, site / "x"), "--json")
            assert (ended.status, ended.code) == (4, "SBH-206"), (path, ended)
    assert not (site / "x").exists()


@pytest.mark.parametrize("how", ["itself", "link", "hard link"])
def test_no_output_replaces_another_kind_of_file(site: Path, sbh: Sbh, how: str) -> None:
    """Also without a token, by a slip: keys, lists and links stay what they are."""
    key, target = site / "backup.key", site / "docs.md"
    key.write_bytes(b"the only key")
    if how == "itself":
        target = key
    else:
        (target.symlink_to if how == "link" else target.hardlink_to)(key)
    for command in (
        ("settings", "docs", "--write", str(target)),
        ("token", "key", "--write", str(target)),
        ("metrics", "--write", str(target)),
        ("report", "compliance", "--from", "2026-01-01", "--to", "2026-01-02", "--write", str(target)),
        ("audit", "export", "--platform", "--to", str(target)),
    ):
        ended = sbh(*command)
        assert ended.status != 0, (command, ended)
        assert key.read_bytes() == b"the only key", command
    assert target.is_symlink() == (how == "link")


def test_the_page_of_settings_is_written_anew(site: Path, sbh: Sbh) -> None:
    """What was made in the same way is replaced, whole, and only that."""
    page = site / "settings.md"
    assert sbh("settings", "docs", "--write", str(page)).status == 0
    made = page.read_text("utf-8")
    page.write_text(made[:300])
    assert sbh("settings", "docs", "--write", str(page)).status == 0
    assert page.read_text("utf-8") == made
    assert {file.name for file in site.iterdir() if file.name.startswith((".", "settings"))} == {"settings.md"}


def test_children_take_no_modules_from_where_the_caller_stands(site: Path) -> None:
    """Every command line that begins with this Python says so, and what `sbh ui` starts has it for its own children as well."""
    texts = {file: file.read_text("utf-8") for file in PACKAGE.rglob("*.py")}
    begun = {file: re.findall(r"sys\.executable,\s*(\S+)", text) for file, text in texts.items()}
    assert sum(map(len, begun.values())) >= 5
    assert {file: words for file, words in begun.items() if set(words) - {'"-P",', "[sys.executable,"}} == {}
    evil = site / "evil"
    evil.mkdir()
    for module in ("argparse", "logging", "dagster", "json", "sbh_pipelines"):
        (evil / f"{module}.py").write_text("import os; os.write(1, b'EVIL')")
    environment = {**os.environ, "DAGSTER_HOME": str(site), "SBH_SETTINGS": str(site / "nowhere.toml")}
    for command in (("ui",), ("alerts", "test")):
        program = [str(Path(sys.executable).parent / "sbh"), *command]
        ended = subprocess.run(program, cwd=evil, env=environment, capture_output=True, timeout=600, check=False)
        assert b"EVIL" not in ended.stdout + ended.stderr, command
