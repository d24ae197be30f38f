"""Progress on standard error: bars on a terminal, now and then a line elsewhere (a log, a CI run)."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sbh_pipelines.model import Progress, ProgressSink, no_progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_LINE_EVERY_S = 5.0


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
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Drawing

    from sbh_pipelines.cli.output import console

    columns = (
        TextColumn("{task.fields[step]:<18}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]} {task.fields[subject]}", markup=False),
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

    def __call__(self, notice: Progress) -> None:
        with self._lock:
            parts = self._parts.setdefault(notice.step, {})
            parts[notice.subject] = (notice.done, notice.total)
            if notice.step not in self._tasks:
                self._tasks[notice.step] = self._drawing.add_task(
                    "", step=notice.step.replace("_", " "), unit="", subject=""
                )
            self._drawing.update(
                self._tasks[notice.step],
                completed=sum(done for done, _ in parts.values()),
                total=sum(total for _, total in parts.values()) or None,
                unit=notice.unit,
                subject=notice.subject[:40],
            )


class _Lines:
    """A line every few seconds; none for what takes less."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = time.monotonic()

    def __call__(self, notice: Progress) -> None:
        with self._lock:
            now = time.monotonic()
            if now - self._last >= _LINE_EVERY_S:
                self._last = now
                print(in_words(notice), file=sys.stderr, flush=True)


def in_words(notice: Progress) -> str:
    """`snapshot tables: public.tasks: 3 of 11 tables`; a total of 0 means that nobody knows it yet."""
    of = f" of {notice.total:,}" if notice.total else ""
    return f"{notice.step.replace('_', ' ')}: {notice.subject}: {notice.done:,}{of} {notice.unit}"
