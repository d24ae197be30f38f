"""Tables that fit the terminal: prose wraps, minor columns go, and what somebody may want to copy stays in one piece."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_GAP, _EDGES = 3, 2
_PROSE = 24  # cells that a column of prose gets at least, if it has so much to say
_WORD = 36  # and as many as its longest word has, up to this: an id in it stays in one piece


@dataclass(frozen=True, slots=True)
class Column:
    """What a heading says of its column.

    Attributes:
        heading: What is printed.
        is_number: Aligned to the right. Written `>heading`.
        is_prose: It may be wrapped. Written `~heading`.
        is_minor: Left out where there is no room, the last first. Written `-heading`, before the other signs.
    """

    heading: str
    is_number: bool
    is_prose: bool
    is_minor: bool

    @classmethod
    def of(cls, written: str) -> "Column":
        kept = written.removeprefix("-")
        heading = kept.lstrip(">~")
        return cls(heading, kept.startswith(">"), kept.startswith("~"), kept != written)


class Uncropped(Console):
    """What is longer than the terminal is wide is for the terminal to break, and not cut off."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **{"crop": False, **options})


class WholeWords:
    """What is drawn in as many cells as its longest word needs. Where the terminal has fewer, it breaks lines; nothing is cut."""

    def __init__(self, drawn: Table, needed: int) -> None:
        self._drawn, self._needed = drawn, needed

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self._drawn, options.update_width(max(options.max_width, self._needed)))


class FittingTable:
    """A table whose columns are chosen when it is printed, for the width there is.

    Where not even the columns that are no minor ones fit, lines are longer than the terminal is wide: it breaks them anywhere, and
    what is copied from them is whole.
    """

    def __init__(self, columns: Iterable[str], rows: Iterable[Sequence[Text]]) -> None:
        self._columns = [Column.of(written) for written in columns]
        self._rows = [list(row) for row in rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        needed = [self._needed(at) for at in range(len(self._columns))]
        kept = list(range(len(self._columns)))
        minor = [at for at in kept if self._columns[at].is_minor]
        while minor and self._width(kept, needed) > options.max_width:
            kept.remove(minor.pop())
        drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for at in kept:
            column = self._columns[at]
            drawn.add_column(
                column.heading,
                justify="right" if column.is_number else "left",
                overflow="fold",
                no_wrap=not column.is_prose,
                min_width=needed[at],
            )
        for row in self._rows:
            drawn.add_row(*(row[at] for at in kept))
        yield from console.render(drawn, options.update_width(max(options.max_width, self._width(kept, needed))))
        left_out = [column.heading for at, column in enumerate(self._columns) if at not in kept]
        if left_out:
            yield Text(f"no room for: {', '.join(left_out)}; --wide shows everything", "dim")

    def _needed(self, at: int) -> int:
        """Cells that the column cannot do without."""
        column = self._columns[at]
        lines = (line for row in self._rows for line in row[at].plain.split("\n"))
        widest = max((cell_len(line) for line in (column.heading, *lines)), default=0)
        if not column.is_prose:
            return widest
        words = (word for row in self._rows for word in row[at].plain.split())
        return min(widest, max(_PROSE, min(_WORD, max(map(cell_len, words), default=0))))

    @staticmethod
    def _width(kept: Sequence[int], needed: Sequence[int]) -> int:
        return sum(needed[at] for at in kept) + _GAP * (len(kept) - 1) + _EDGES
