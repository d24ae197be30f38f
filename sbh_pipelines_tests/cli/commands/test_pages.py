"""What the README and docs/python.md show is done as it is written: by a stranger with a database of their own, and by a program."""

import os
import re
import subprocess
import sys
from pathlib import Path

from sbh_pipelines.embedded.servers.stack import Stack

ROOT = Path(__file__).parents[3]
_FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.M | re.S)
_WORD = re.compile(r"\b[A-Za-z]{4,}\b")
_MARK = "\x1e"


def blocks(text: str) -> list[tuple[str, str]]:
    """The language of each block, and what is in it."""
    return _FENCE.findall(text)


def bare(**more: str) -> dict[str, str]:
    """An environment in which nothing names a server, and `sbh` is on the path."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DAGSTER_", "PG", "SBH_"))
    }
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}", "COLUMNS": "200", **more}


def test_a_stranger_brings_a_tenant_back_by_the_readme(tmp_path: Path) -> None:
    """Every command of "Your own database in ten minutes", in one shell; what it shows of an answer was printed."""
    section = (ROOT / "README.md").read_text("utf-8").split("## Your own database in ten minutes")[1].split("\n## ")[0]
    shown = blocks(section)
    commands = [text for language, text in shown if language == "sh"]
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    script = f"\nprintf '{_MARK}'\n".join(commands)
    try:
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path, env=bare(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        printed = ended.stdout.split(_MARK)
        assert ended.returncode == 0, f"{commands[len(printed) - 1]}\n{printed[-1]}"
    finally:
        subprocess.run(["sbh", "stack", "down", "--dir", "try", "-q"], cwd=tmp_path, env=bare(), check=False)
    said, answers = "", iter(printed)
    for language, text in shown:
        if language == "sh":
            said = next(answers)
        elif not language:
            strange = set(_WORD.findall(text)) - set(_WORD.findall(said))
            assert not strange, f"shown, and not printed: {strange}\n{text}\n{said}"


def test_a_program_does_what_the_page_of_python_says(sample_stack: Stack) -> None:
    program = "\n".join(
        text for language, text in blocks((ROOT / "docs" / "python.md").read_text("utf-8")) if language == "python"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=bare(SBH_SETTINGS=str(sample_stack.settings)), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "No such backup" in ended.stdout or "SBH-" in ended.stdout
    assert "completed" in ended.stdout
