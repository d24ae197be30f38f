"""Whether a package that is pinned has a known hole: what pip-audit finds, and what is known here where it can ask nobody.

pip-audit asks pypi.org, and passes over packages that it gets no answer about as if they had no holes. So it is said how many
were looked up. Where none was, as on machines that reach a mirror of packages only, HOLES is all that is looked at; with
`--must-ask`, for a scheduled check on a machine with the internet, that is an error. Exits 1 for a hole, or a package not pinned.
"""

import importlib.metadata
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
CONSTRAINTS = (ROOT / "constraints.txt", ROOT / "checks" / "semgrep.txt")
_TIMEOUT_S = 120

# The first version without the hole, and what it was, of packages that meet what others send. Raise it with each that becomes
# known; `dependencies` in pyproject.toml ask for at least these, where we import the package ourselves.
HOLES = {
    "certifi": ("2024.7.4", "CVE-2024-39689: roots that are trusted no more"),
    "cryptography": ("44.0.1", "CVE-2024-12797: its OpenSSL believed raw public keys"),
    "h11": ("0.16.0", "CVE-2025-43859: chunks that a proxy reads differently"),
    "idna": ("3.7", "CVE-2024-3651: names that take quadratic time"),
    "jinja2": ("3.1.6", "CVE-2025-27516: a way out of the sandbox"),
    "protobuf": ("6.31.1", "CVE-2025-4565: nesting without a bound"),
    "pyarrow": ("14.0.1", "CVE-2023-47248: code in a file of data"),
    "pyjwt": ("2.10.1", "CVE-2024-53861: a part of an issuer's name believed"),
    "python-multipart": ("0.0.18", "CVE-2024-53981: a body that keeps the event loop busy"),
    "requests": ("2.32.4", "CVE-2024-47081: .netrc sent to another host"),
    "starlette": ("0.49.1", "CVE-2025-62727: ranges that take quadratic time"),
    "urllib3": ("2.6.0", "CVE-2025-66471: an answer that grows without a bound"),
}
# Packages that may have a hole: its id, and why it does not matter here.
ACCEPTED: dict[str, str] = {}


def name_of(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def pinned(file: Path) -> dict[str, Version]:
    lines = (line.partition("#")[0].strip() for line in file.read_text("utf-8").splitlines())
    pairs = (line.partition("==") for line in lines if line)
    return {name_of(name): Version(version) for name, _, version in pairs}


def not_pinned() -> list[str]:
    """What `.[test]` leads to, and constraints.txt does not say or says otherwise."""
    known, wanted, found = pinned(CONSTRAINTS[0]), [("sbh-pipelines", frozenset({"test"}))], set()
    while wanted:
        name, extras = wanted.pop()
        if (name, extras) in found:
            continue
        found.add((name, extras))
        for text in importlib.metadata.requires(name) or ():
            needed = Requirement(text)
            environments = [{"extra": extra} for extra in (extras or {""})]
            if needed.marker is None or any(needed.marker.evaluate(each) for each in environments):
                wanted.append((name_of(needed.name), frozenset(needed.extras)))
    names = {name for name, _ in found} - {"sbh-pipelines", "pip", "setuptools"}
    installed = {name: Version(importlib.metadata.version(name)) for name in names}
    return sorted(
        f"{name} {version}: constraints.txt says {known.get(name, 'nothing')}"
        for name, version in installed.items()
        if known.get(name) != version
    )


def known_here() -> list[str]:
    return [
        f"{name} {versions[name]} in {file.name}: {why}; take {fixed} or newer"
        for file in CONSTRAINTS
        for versions in [pinned(file)]
        for name, (fixed, why) in HOLES.items()
        if name in versions and versions[name] < Version(fixed)
    ]


def asked(file: Path) -> tuple[list[str], int]:
    """What pip-audit tells of the packages that a file pins, and of how many it had an answer."""
    command = [sys.executable, "-P", "-m", "pip_audit", "--format=json", "--progress-spinner=off"]
    command += ["--disable-pip", "--no-deps", f"--requirement={file}"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return [], 0
    if not ended.stdout.startswith("{"):
        last = ended.stderr.strip().splitlines()[-1:]
        return ([], 0) if "ConnectionError" in ended.stderr else ([f"pip-audit could not read {file.name}: {last}"], 0)
    told = json.loads(ended.stdout)["dependencies"]
    holes = [
        f"{package['name']} {package['version']}: {hole['id']} ({', '.join(hole['aliases'])}); "
        f"take {' or '.join(hole['fix_versions']) or 'another package'}"
        for package in told
        for hole in package.get("vulns", ())
        if ACCEPTED.keys().isdisjoint({hole["id"], *hole["aliases"]})
    ]
    return holes, sum("skip_reason" not in package for package in told)


def main() -> int:
    with ThreadPoolExecutor() as threads:
        answers = list(threads.map(asked, CONSTRAINTS))
    looked_up, total = sum(found for _, found in answers), sum(len(pinned(file)) for file in CONSTRAINTS)
    for line in (wrong := [*not_pinned(), *known_here(), *(line for lines, _ in answers for line in lines)]):
        print(line)
    print(f"Advisories: {looked_up} of {total} packages were looked up; {len(HOLES)} were held against a list of ours.")
    if not looked_up:
        print(
            "pip-audit reached nobody. Before a release: checks/advisories.py --must-ask, on a machine that reaches pypi.org."
        )
    return 1 if wrong or (not looked_up and "--must-ask" in sys.argv) else 0


if __name__ == "__main__":
    sys.exit(main())
