"""A runbook as a value, and how a test does what it says: its blocks in one shell, as an engineer pastes them."""

import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.layout import Layout
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.support import warm_sbh

PAGES = Path(__file__).parents[2] / "docs" / "operations"
_FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.M | re.S)
_EXAMPLE = re.compile(r"^(export )?([A-Z_]+)=([^$\n]*?)( +#.*)?$", re.M)  # `TENANT=tenant-1   # the tenant`
_COMMAND = re.compile(r"(?<![\w/.-])sbh ([a-z]+)(?: ([a-z]+(?:-[a-z]+)*)(?!\w))?")  # an id is no name
_WORD = re.compile(r"\b[A-Za-z]{3,}\b")
_UNITS = {"B", "KiB", "MiB", "GiB"}  # a size is a figure
_PART = re.compile(r"^## (Undo|If .+)$", re.M)
_MARK = "\x1e"


@dataclass(frozen=True, slots=True)
class Block:
    language: str
    text: str


@dataclass(frozen=True, slots=True)
class Runbook:
    """A page.

    Attributes:
        name: Of its file.
        steps: The blocks up to the first section that is not part of the way: Undo, or one that begins with If.
        undo: Those of the section Undo.
        cases: Those of the sections that begin with If, by heading.
    """

    name: str
    steps: Sequence[Block]
    undo: Sequence[Block]
    cases: Mapping[str, Sequence[Block]]

    @classmethod
    def read(cls, name: str) -> "Runbook":
        steps, *rest = _PART.split((PAGES / name).read_text("utf-8"))
        parts = {title: _blocks(text) for title, text in zip(rest[::2], rest[1::2], strict=True)}
        return cls(name, _blocks(steps), parts.pop("Undo", ()), parts)


@dataclass(frozen=True, slots=True)
class Shell:
    """Where an engineer works: `sbh`, `psql` and `pg_dump` are on the path, and each call of `sbh` is written down."""

    stack: Stack
    directory: Path

    @classmethod
    @contextmanager
    def opened(cls, stack: Stack, directory: Path) -> "Iterator[Shell]":
        """With a warm `sbh`: importing it anew for each of a hundred calls would take a minute."""
        python, program, place = (
            shlex.quote(str(p)) for p in (sys.executable, warm_sbh.__file__, directory / "socket")
        )
        wrapper = directory / "sbh"
        wrapper.write_text(
            f'#!/bin/sh\nprintf "sbh %s\\n" "$*" >> "$CALLED"\nexec {python} -I -S {program} call {place} "$@"\n'
        )
        wrapper.chmod(0o755)
        server = [sys.executable, warm_sbh.__file__, "serve", str(directory / "socket")]
        with subprocess.Popen(server, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield cls(stack, directory)
            process.communicate(timeout=240)

    def follow(self, page: Runbook, values: Mapping[str, str]) -> None:
        """Everything up to Undo, in order. `values` take the place of the page's examples."""
        self._run(page, list(page.steps), values)

    def undo(self, page: Runbook, values: Mapping[str, str]) -> None:
        """The section Undo, in a shell in which the page's first block was run."""
        self._run(page, [*page.steps[:1], *page.undo], values)

    def case(self, page: Runbook, title: str, values: Mapping[str, str]) -> None:
        """A section that begins with If, in a shell in which the page's first block was run."""
        self._run(page, [*page.steps[:1], *page.cases[title]], values)

    def _run(self, page: Runbook, blocks: list[Block], values: Mapping[str, str]) -> None:
        """Every block must end well, call all that is in it, and print what the page shows of it."""
        shell = [block.text for block in blocks if block.language == "sh"]
        missing = {name for _, name, *_ in _EXAMPLE.findall(shell[0])} - values.keys()
        assert not missing, f"{page.name} has examples that the test does not replace: {missing}"
        script = f"\nprintf '{_MARK}'\n".join(_filled(text, values) for text in shell)
        called = self.directory / "called"
        called.write_text("")
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            env=self._environment(called),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        printed = ended.stdout.split(_MARK)
        assert ended.returncode == 0, f"{page.name}, block {len(printed)}: {shell[len(printed) - 1]}\n{printed[-1]}"
        assert len(printed) == len(shell)
        calls, wanted = Counter(_names(called.read_text())), Counter(_names("\n".join(shell)))
        assert not {name for name, times in wanted.items() if calls[name] < times}, (page.name, wanted, calls)
        _compare(page, blocks, iter(printed))

    def _environment(self, called: Path) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SBH_", "PG"))}
        path = f"{self.directory}:{postgres.binaries()}:{kept['PATH']}"
        return {**kept, "PATH": path, "CALLED": str(called), "PGPASSFILE": str(Layout(self.stack.dir).passfile)}


def _blocks(text: str) -> list[Block]:
    return [Block(*found) for found in _FENCE.findall(text)]


def _filled(text: str, values: Mapping[str, str]) -> str:
    def replaced(found: "re.Match[str]") -> str:
        export, name, example, _ = found.groups()
        return f"{export or ''}{name}={shlex.quote(values[name]) if name in values else example}"

    return _EXAMPLE.sub(replaced, text)


def _names(text: str) -> list[tuple[str, str]]:
    return [found.groups("") for found in _COMMAND.finditer(text)]  # type: ignore[misc]


def _compare(page: Runbook, blocks: Sequence[Block], printed: Iterator[str]) -> None:
    """Each word of an excerpt was printed by the block before it. Figures and names are examples."""
    output = ""
    for block in blocks:
        if block.language == "sh":
            output = next(printed)
        else:
            strange = set(_WORD.findall(block.text)) - set(_WORD.findall(output)) - _UNITS
            assert not strange, f"{page.name} shows what was not printed: {strange}\n{block.text}\n{output}"
