"""Progress on standard error: bars on a terminal, now and then a line elsewhere (a log, a CI run)."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sbh_pipelines.model import Progress, ProgressSink, no_progress, size_text

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_LINE_EVERY_S = 5.0
_SOON_S = 1.0  # a rate before that says nothing
_FINE = 10_000  # parts of a bar whose step tells its share


@contextmanager
def bars(*, quiet: bool = False) -> Iterator[ProgressSink]:
    """A ProgressSink for the length of the block. It may be called from any thread."""
    if quiet:
        yield no_progress
    elif sys.stderr.isatty():
        with _drawn() as drawing:
            yield _Bars(drawing)
    else:
        yield _Lines()


def _drawn() -> "Bars":
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Drawing

    from sbh_pipelines.cli.output import console

    columns = (
        TextColumn("{task.fields[step]:<18}", markup=False),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[counted]} {task.fields[subject]}", markup=False),
        TimeElapsedColumn(),
    )
    return Drawing(*columns, console=console(stderr=True), transient=True)


class _Bars:
    """One bar per step; a step's subjects share it, and each counts as much as it has done."""

    def __init__(self, drawing: "Bars") -> None:
        self._drawing = drawing
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}
        self._parts: dict[str, dict[str, tuple[int, int]]] = {}
        self._at: dict[str, str] = {}  # the newest step of each family
        self._flows: dict[tuple[str, str], _Flow] = {}

    def __call__(self, notice: Progress) -> None:
        with self._lock:
            family, _, _ = notice.step.partition(":")
            before = self._at.get(family)
            if before is not None and before != notice.step:
                self._end(before)
            self._at[family] = notice.step
            parts = self._parts.setdefault(notice.step, {})
            parts[notice.subject] = (notice.done, notice.total)
            if notice.step not in self._tasks:
                self._tasks[notice.step] = self._drawing.add_task(
                    "", total=None, step=notice.step.replace("_", " "), counted="", subject=""
                )
            done, total = (sum(numbers) for numbers in zip(*parts.values(), strict=True))
            flow = self._flows.setdefault((notice.step, notice.subject), _Flow())
            flowing = flow.told(notice)
            finer = notice.share if len(parts) == 1 else 0.0
            self._drawing.update(
                self._tasks[notice.step],
                completed=finer * _FINE if finer else done,
                # None: a bar that only moves
                total=_FINE if finer else total if total > 1 or 0 < total <= done else None,
                counted=", ".join(filter(None, (_counted(done, total, notice.unit), flowing))),
                subject=notice.subject[:40],
            )

    def _end(self, step: str) -> None:
        """The steps of a restore (`restore: compare`, `restore: merge`) follow each other: where one begins, one is over."""
        total = max(1, *(total for _, total in self._parts[step].values()))
        self._drawing.update(self._tasks[step], completed=total, total=total, counted="", subject="")


class _Lines:
    """A line every few seconds; none for what takes less."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = time.monotonic()
        self._flows: dict[tuple[str, str], _Flow] = {}

    def __call__(self, notice: Progress) -> None:
        with self._lock:
            now = time.monotonic()
            flowing = self._flows.setdefault((notice.step, notice.subject), _Flow()).told(notice)
            if now - self._last >= _LINE_EVERY_S:
                self._last = now
                print(", ".join(filter(None, (in_words(notice), flowing))), file=sys.stderr, flush=True)


class _Flow:
    """How fast a step goes, and how long it will: from its first notice on."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._share = 0.0

    def told(self, notice: Progress) -> str:
        """`512 MiB at 45 MiB/s, 12 s left`; empty where the step does not tell, or has only begun."""
        took = time.monotonic() - self._begun
        if notice.share < self._share:
            self._begun, took = time.monotonic(), 0.0  # it begins anew
        self._share = notice.share
        if took < _SOON_S:
            return ""
        said = []
        if notice.moved:
            said.append(f"{size_text(notice.moved)} at {size_text(notice.moved / took)}/s")
        if notice.share:
            said.append(f"{_left(took * (1 - notice.share) / notice.share)} left")
        return ", ".join(said)


def _left(seconds: float) -> str:
    """`12 s`, `3 min`, `2 h 5 min`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def in_words(notice: Progress) -> str:
    """`snapshot tables: public.tasks: 3 of 11 tables`; a total of 0 means that it is not known yet.

    A step that does one thing, such as `restore: commit`, has no number.
    """
    counted = _counted(notice.done, notice.total, notice.unit)
    return f"{notice.step.replace('_', ' ')}: {notice.subject}" + (f": {counted}" if counted else "")


def _counted(done: int, total: int, unit: str) -> str:
    of = f" of {total:,}" if total else ""
    return "" if total == 1 else f"{done:,}{of} {unit}"
