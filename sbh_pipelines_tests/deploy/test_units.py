"""The systemd units and the image: read by the tools that look for mistakes in such files, and held against the package.

No systemd and no container engine runs them here.
"""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNITS = [*(ROOT / "deploy").glob("*/*.service"), *(ROOT / "deploy").glob("*/*.timer")]
BIN = Path(sys.executable).parent


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
def test_units_are_taken_by_systemd(tmp_path: Path) -> None:
    """With the programs of this environment in the place of those in /opt."""
    for file in UNITS:
        text = file.read_text("utf-8").replace("/opt/sbh/bin", str(BIN))
        (tmp_path / file.name).write_text(text, "utf-8")
    names = sorted(str(file) for file in tmp_path.iterdir())
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *names], capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


def test_commands_of_units_are_taken_by_the_programs() -> None:
    for file in (unit for unit in UNITS if unit.suffix == ".service"):
        (command,) = [
            line[10:].split() for line in file.read_text("utf-8").splitlines() if line.startswith("ExecStart=")
        ]
        assert (BIN / Path(command[0]).name).exists(), file
        if command[0].endswith("/sbh"):
            ended = subprocess.run([BIN / "sbh", *command[1:], "--help"], capture_output=True, text=True, check=False)
            assert ended.returncode == 0, f"{file}: {ended.stderr}"


def test_what_the_image_holds_is_what_is_tested() -> None:
    """The same versions as in constraints.txt, each with the hash of its wheel; every dependency is among them."""
    pinned = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        if not line.startswith("#")
    )
    held = {}
    for line in (ROOT / "deploy" / "image" / "requirements.txt").read_text("utf-8").splitlines():
        package, hashed = line.split(" --hash=sha256:")
        name, version = package.replace("_", "-").split("==")
        held[name], _ = version, int(hashed, 16)
    assert {name: version for name, version in held.items() if pinned.get(name, version) != version} == {}
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for line in [
        *wanted["dependencies"],
        *wanted["optional-dependencies"]["deploy"],
        *wanted["optional-dependencies"]["celery"],
    ]:
        name = line.split(">")[0].split("[")[0].lower().replace("_", "-")
        assert name in held, f"run: python deploy/image/lock.py, for {name}"


def test_the_dockerfile_has_no_finding() -> None:
    said = subprocess.run([BIN / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (0, "")
