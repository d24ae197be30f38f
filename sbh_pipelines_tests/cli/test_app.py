"""What all commands share: help, version, options before and after the command, exit statuses, one JSON document."""

import inspect
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sbh_pipelines import __version__, errors
from sbh_pipelines.cli import main
from sbh_pipelines.cli.app import EXIT_STATUS
from sbh_pipelines.security.keys import open_key_provider
from sbh_pipelines.settings import load_settings
from sbh_pipelines_tests.cli.conftest import Sbh

COMMANDS = (
    ("demo",), ("doctor",), ("stack", "up"), ("stack", "down"), ("stack", "status"), ("stack", "sample"),
    ("tenants", "list"), ("backup", "create"), ("backup", "list"), ("backup", "show"), ("backup", "status"),
    ("backup", "validate"), ("restore", "run"), ("restore", "status"), ("drill", "run"), ("drill", "list"), ("report", "recovery"), ("settings", "docs"), ("settings", "init"),
)  # fmt: skip


def test_help_lists_every_exit_status(sbh: Sbh) -> None:
    """The statuses that errors carry are those in the help of `sbh`."""
    known = {0, 1, 130} | {
        kind.exit_status for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.SbhError)
    }
    assert known == set(EXIT_STATUS)
    ended = sbh("--help")
    assert ended.status == 0
    assert all(f"{status:>3}  {meaning}" in ended.out for status, meaning in EXIT_STATUS.items())


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_and_the_shared_options(sbh: Sbh, command: tuple[str, ...]) -> None:
    ended = sbh(*command, "--help")
    assert ended.status == 0
    assert all(option in ended.out for option in ("--json", "--settings", "--quiet", "--debug"))


def test_help_imports_nothing_heavy() -> None:
    """Completion and help must not wait for boto3, psycopg2 or Dagster."""
    heavy = ("boto3", "psycopg2", "dagster", "obstore", "cryptography", "pydantic", "rich.progress")
    code = f"import sys; from sbh_pipelines.cli import main; main(['--help']); print([m for m in {heavy!r} if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.endswith("[]\n")


def test_version(sbh: Sbh) -> None:
    assert sbh("--version").out == f"sbh {__version__}\n"
    assert sbh("--json", "--version").document == {"version": __version__}


@pytest.mark.parametrize("arguments", [(), ("backup",), ("stack",)])
def test_a_missing_command_shows_the_help_and_exits_2(sbh: Sbh, arguments: tuple[str, ...]) -> None:
    ended = sbh(*arguments)
    assert ended.status == 2
    assert "Usage:" in ended.err
    assert sbh(*arguments, "--json").code == "SBH-200"


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("backup", "nonsense"),
        ("backup", "list"),
        ("backup", "list", "a", "b"),
        ("backup", "list", "a", "--nonsense"),
        ("backup", "validate", "latest"),
        ("demo", "--tenants", "0"),
        ("demo", "--rows", "-1"),
        ("demo", "--tenants", "many"),
        ("backup", "create"),
        ("backup", "create", "tenant-1", "--all"),
        ("backup", "create", "tenant-1", "--type", "yearly"),
    ],
    ids=" ".join,
)
def test_wrong_arguments_exit_2_with_one_json_document(
    sbh: Sbh, settings_file: Path, arguments: tuple[str, ...]
) -> None:
    ended = sbh(*arguments, "--json")
    assert ended.status == 2
    assert ended.document["error"]["code"].startswith("SBH-2")
    assert ended.document["error"]["remedy"]
    shown = sbh(*arguments)
    assert shown.status == 2
    assert not shown.out
    assert "Traceback" not in shown.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--json", "tenants", "list"),
        ("tenants", "--json", "list"),
        ("tenants", "list", "--json"),
        ("--settings", "{file}", "tenants", "list", "--json"),
        ("tenants", "list", "--json", "--settings={file}"),
    ],
)
def test_shared_options_may_stand_anywhere(sbh: Sbh, settings_file: Path, arguments: tuple[str, ...]) -> None:
    ended = sbh(*(argument.replace("{file}", str(settings_file)) for argument in arguments))
    assert ended.status == 0
    assert [tenant["id"] for tenant in ended.document] == [f"tenant-{n}" for n in range(1, 7)]


def test_an_error_says_what_on_what_why_and_what_next(sbh: Sbh, tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    ended = sbh("tenants", "list", "--settings", str(missing))
    assert ended.status == 3
    assert not ended.out
    lines = dict(line.split(maxsplit=1) for line in ended.err.splitlines())
    assert lines == {
        "error": "No settings file",
        "on": str(missing),
        "next": "point SBH_SETTINGS at the right one; or `sbh settings init` writes it",
        "code": "SBH-100  docs/errors.md",
    }


def test_statuses_follow_the_kind_of_failure(
    sbh: Sbh, settings_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SBH_DATABASE__DSN", "host=127.0.0.1 port=1 dbname=app user=nobody")
    assert sbh("tenants", "list", "--json").status == 5
    monkeypatch.setenv("SBH_DATABASE__DSN", "this is no dsn")
    assert sbh("tenants", "list", "--json").status == 3
    monkeypatch.delenv("SBH_DATABASE__DSN")
    monkeypatch.setenv("SBH_STORAGE__ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("SBH_STORAGE__RETRIES", "0")
    assert sbh("backup", "list", "tenant-1", "--json").status == 6
    assert sbh("stack", "sample", "--dir", str(tmp_path), "--json").status == 10


def test_a_defect_is_one_json_document_and_no_traceback(
    sbh: Sbh, settings_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("what nobody thought of")

    monkeypatch.setattr("sbh_pipelines.backup.service.tenants.Tenants.all", broken)
    ended = sbh("tenants", "list", "--json")
    assert (ended.status, ended.code) == (1, "SBH-000")
    ended = sbh("tenants", "list")
    assert "what nobody thought of" in ended.err
    assert "Traceback" not in ended.err
    with pytest.raises(RuntimeError):
        main(["tenants", "list", "--debug"])


def test_an_interrupt_exits_130(sbh: Sbh, settings_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sbh_pipelines.backup.service.tenants.Tenants.all", interrupted)
    assert sbh("tenants", "list").status == 130
    ended = sbh("tenants", "list", "--json")
    assert (ended.status, ended.document["error"]["what"]) == (130, "Interrupted")


def test_a_closed_pipe_is_no_traceback(settings_file: Path) -> None:
    code = "import sys; from sbh_pipelines.cli import main; sys.exit(main(['settings', 'docs']))"
    ended = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -c "{code}" | head -1'], capture_output=True, text=True, check=False
    )
    assert ended.stdout == "# Settings\n"
    assert "Traceback" not in ended.stderr


def test_completion_scripts_are_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; from sbh_pipelines.cli import main; sys.exit(main([]))"
    environment = {
        "_SBH_COMPLETE": "complete_bash",
        "COMP_WORDS": "sbh back",
        "COMP_CWORD": "1",
        "PATH": "/usr/bin:/bin",
    }
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**environment, "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert "backup" in ended.stdout.split()


def test_a_first_settings_file_and_its_key(sbh: Sbh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read as it is, the key wraps, is nobody else's and is never shown; nothing is written over."""
    for name in [name for name in os.environ if name.startswith("SBH_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    made = sbh("settings", "init")
    assert made.status == 0
    key = tmp_path / "master.key"
    written = key.read_text().strip()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert written not in made.out + made.err + (tmp_path / "sbh.toml").read_text()
    settings = load_settings()
    assert (settings.keys.provider, settings.keys.key_file) == ("local", key)
    provider = open_key_provider(settings)
    assert provider.unwrap(provider.wrap(bytes(32), "acme", "eu-west-1"), "acme", "eu-west-1") == bytes(32)
    # What is behind a comment sign is right as well.
    commented = re.sub(r"(?m)^# (?=[a-z_]+ = |\[)", "", (tmp_path / "sbh.toml").read_text())
    (tmp_path / "all.toml").write_text(commented.replace('"..."', '"x"'))
    for name in ("database.password", "restore.password", "storage.secret"):
        (tmp_path / name).write_text("x")
    load_settings(tmp_path / "all.toml")
    for again in (("--json",), ("--settings", str(tmp_path / "other.toml"), "--json")):
        refused = sbh("settings", "init", *again)
        assert (refused.status, refused.document["error"]["what"]) == (2, "The file is there already")
    assert key.read_text().strip() == written
    assert not (tmp_path / "other.toml").exists()
    of_kms = sbh("settings", "init", "--kms", "alias/x", "--settings", str(tmp_path / "kms.toml"), "--json").document
    assert of_kms["key_file"] is None
    assert load_settings(tmp_path / "kms.toml").keys.kms_key_id == "alias/x"


def test_a_command_that_fails_for_want_of_settings_says_so(
    sbh: Sbh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("SBH_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PGPORT", "9")
    for arguments in (("tenants", "list"), ("backup", "create", "acme"), ("keys", "status")):
        error = sbh(*arguments, "--json").document["error"]
        assert error["why"].startswith("no sbh.toml here and SBH_SETTINGS is not set"), arguments
        assert "`sbh settings init`" in error["remedy"]
    monkeypatch.setenv(
        "SBH_DATABASE__DSN", "host=127.0.0.1 port=9 dbname=app"
    )  # settings may be in the environment alone
    assert "sbh.toml" not in str(sbh("tenants", "list", "--json").document)
