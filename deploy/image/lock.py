"""Writes requirements.txt beside this: what the image holds, each package by its version and the hash of its wheel.

Run after constraints.txt or the dependencies in pyproject.toml changed: python deploy/image/lock.py
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).with_name("requirements.txt")
PYTHON = "3.11"
EXTRAS = ("deploy", "celery", "alerts", "sql")
_MACHINE = "x86_64"  # fastcdc has no wheel for others
_MANYLINUX = ("manylinux2014", *(f"manylinux_2_{minor}" for minor in range(17, 37)))  # glibc 2.36: Debian 12


def wanted() -> list[str]:
    """The dependencies of the package and of the extras in the image, and what builds the package there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    optional = project["project"]["optional-dependencies"]
    found = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    return found + [line for extra in EXTRAS for line in optional.get(extra, ()) if not line.startswith("sbh-")]


def resolved() -> dict[str, str]:
    """By `name==version`, the hash of the wheel that pip takes."""
    platforms = [f"--platform={name}_{_MACHINE}" for name in _MANYLINUX]
    command = [
        sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", "--disable-pip-version-check",
        "--report=-", "--target=unused", "--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}",
        *platforms, f"--constraint={ROOT / 'constraints.txt'}", *wanted(),
    ]  # fmt: skip
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {
        f"{one['metadata']['name'].lower()}=={one['metadata']['version']}": one["download_info"]["archive_info"]["hashes"]["sha256"]
        for one in json.loads(said)["install"]
    }  # fmt: skip


def main() -> None:
    lines = [f"{package} --hash=sha256:{digest}" for package, digest in sorted(resolved().items())]
    FILE.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
