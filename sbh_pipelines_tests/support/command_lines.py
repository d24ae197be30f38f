"""Command lines of `sbh` as people are shown them, and whether this version's command line takes them. Nothing is run."""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import typer.main

from sbh_pipelines.cli.app import app

_FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.M | re.S)
_INLINE = re.compile(r"`(sbh [^`\n]+)`")
# Behind the beginning of a line, an operator of the shell, a word of its own, or an assignment.
_IN_SHELL = re.compile(
    r"(?:^|[;&|(]|\b(?:in|do|then|exec|sudo|time)\s|\b[A-Z_]+=\S*\s)\s*(sbh (?:\"[^\"\n]*\"|'[^'\n]*'|[^|;&()#<>\"'\n])*)",
    re.M,
)
_PLACEHOLDERS = {"…", "...", "[…]"}


@dataclass(frozen=True, slots=True)
class CommandLine:
    """`whole`: it can be given as it stands; else it may name a command and leave out what it needs."""

    text: str
    whole: bool


def of_document(file: Path) -> Iterator[CommandLine]:
    """Those of a page's blocks, and those in its text."""
    text = file.read_text("utf-8")
    for _, block in _FENCE.findall(text):
        plain = re.sub(r"\\\n\s*", " ", re.sub(r"\"?\$\([^()]*\)\"?", "X", block))
        inner = "\n".join(re.findall(r"\$\(([^()]*)\)", block))
        for found in _IN_SHELL.finditer(f"{plain}\n{inner}"):
            yield CommandLine(found[1].strip(), whole=True)
    for found in _INLINE.finditer(_FENCE.sub("", text)):
        yield CommandLine(found[1], whole=False)


def of_source(file: Path) -> Iterator[CommandLine]:
    """Those in backticks in the texts of a module: remedies tell people to give them."""
    text = file.read_text("utf-8")
    for node in ast.walk(ast.parse(text)) if "`sbh " in text else ():
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        text = "".join(
            part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "X"
            for part in parts
            if isinstance(part, ast.Constant | ast.FormattedValue)
        )
        for found in _INLINE.finditer(" ".join(text.split())):
            if not re.match(r"sbh (\w+ )?(X|\()", found[1]):  # which command it is shows when it runs; a pattern
                yield CommandLine(found[1], whole=False)


def misread(line: CommandLine) -> str:
    """What the command line says against it; '' where it takes it. `a|b` stands for two commands, `[…]` for what may be left out."""
    words = [word.strip(",") for word in shlex.split(re.sub(r"[\[\]…]|\.\.\.", " ", line.text.replace('"…"', "X")))][1:]
    at = next((at for at, word in enumerate(words) if "|" in word and not word.startswith("-")), None)
    ways = [words] if at is None else [[*words[:at], way, *words[at + 1 :]] for way in words[at].split("|")]
    return next((said for way in ways if (said := _refusal(way, line.whole))), "")


def _refusal(words: list[str], whole: bool) -> str:
    command, context = _tree(), None
    while True:
        try:
            context = command.make_context(command.name, words, parent=context)
            words = [*getattr(context, "_protected_args", ()), *context.args]
            if not words or not hasattr(command, "commands"):  # a group, named as such, or a command with all it takes
                return ""
            _, command, words = command.resolve_command(context, words)
        except Exception as error:  # Typer's own, or click's: known by what both have
            kind = type(error).__name__
            if kind in ("Exit", "NoArgsIsHelpError"):  # --help, --version; a group, named as such
                return ""
            if not hasattr(error, "format_message"):
                raise
            said = str(error.format_message())
            left_out = kind == "MissingParameter" or "requires an argument" in said
            return (
                "" if "does not exist" in said or (left_out and not whole) else said
            )  # the first: a file that stands for others


@cache
def _tree() -> Any:
    return typer.main.get_command(app)
