"""The steps of a long command: shown while they run, timed, and told again in a table at the end."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sbh_pipelines.cli.output import console, printable, seconds, table
from sbh_pipelines.cli.progress import in_words
from sbh_pipelines.model import Progress

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LINE_EVERY_S = 5.0


@dataclass
class Step:
    """One step: what it was, how long it took, its figures for machines and in words."""

    name: str
    seconds: float = 0.0
    words: str = ""
    figures: dict[str, object] = field(default_factory=dict)

    def note(self, words: str, **figures: Any) -> None:
        self.words = words
        self.figures.update(figures)

    def as_dict(self) -> dict[str, object]:
        return {"step": self.name, "seconds": round(self.seconds, 2), "summary": self.words, **self.figures}


class Steps:
    """Runs steps one after the other and shows them on standard error; `quiet` shows nothing."""

    def __init__(self, *, quiet: bool) -> None:
        self.done: list[Step] = []
        self._quiet = quiet
        self._console = console(stderr=True)
        self._status: Any = None
        self._name = ""
        self._last_line = 0.0

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Time the block; what it notes is printed when it is over. A step that raises is not recorded."""
        step, begun = Step(name), time.monotonic()
        self._name, self._last_line = name, begun
        if not self._quiet:
            if self._console.is_terminal:
                self._status = self._console.status(name)
                self._status.start()
            else:
                self._console.print(f"{name} ...", soft_wrap=True)
        try:
            yield step
        finally:
            step.seconds = time.monotonic() - begun
            if self._status is not None:
                self._status.stop()
                self._status = None
        self.done.append(step)
        if not self._quiet:
            number = f"{len(self.done)}."
            self._console.print(f"{number:>3} {name}: {step.words} ({seconds(step.seconds)})", soft_wrap=True)

    def say(self, text: str) -> None:
        """Progress inside the running step."""
        words = printable(_COLOURS.sub("", text)).strip()
        if self._status is not None:
            from rich.text import Text

            self._status.update(Text(f"{self._name}: {words}"[: max(20, self._console.width - 4)]))
        elif not self._quiet and time.monotonic() - self._last_line >= _LINE_EVERY_S:
            self._last_line = time.monotonic()
            self._console.print(f"    {words}", soft_wrap=True)

    def progress(self, notice: Progress) -> None:
        """A ProgressSink."""
        self.say(in_words(notice))

    def table(self) -> Any:
        rows = [(str(n), step.name, seconds(step.seconds), step.words) for n, step in enumerate(self.done, 1)]
        total = sum(step.seconds for step in self.done)
        rows.append(("", "in all", seconds(total), ""))
        return table("", (">step", "~what", ">took", "~figures"), rows)
