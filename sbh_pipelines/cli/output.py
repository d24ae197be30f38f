"""What the commands print: tables with units, JSON documents, errors. Nothing here knows a command."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sbh_pipelines.document import as_document
from sbh_pipelines.errors import SbhError

if TYPE_CHECKING:
    from rich.console import Console

_WIDE = 100_000


@dataclass(frozen=True)
class Answer:
    """What a command gives.

    Attributes:
        document: the result, or what else has a form as a JSON document.
        show: how people see it.
        brief: what --quiet leaves of it.
        exit_status: the exit status.
    """

    document: Any
    show: "Callable[[Console], None]"
    brief: Sequence[str] = ()
    exit_status: int = 0


def console(*, stderr: bool = False, wide: bool = False) -> "Console":
    """`wide`: lines as long as what is in them. Text is printed as it is: what a user or a database named `[red]` is no markup."""
    from sbh_pipelines.cli.columns import Uncropped

    stream = sys.stderr if stderr else sys.stdout
    # Piped output has a line for each row, and everything in it: who pipes it wants all of it.
    width = None if stream.isatty() and not wide else _WIDE
    return Uncropped(file=stream, markup=False, emoji=False, highlight=False, width=width)


def print_answer(answer: Answer, *, as_json: bool, quiet: bool, wide: bool) -> None:
    if as_json:
        print_json(answer.document)
    elif quiet:
        for line in answer.brief:
            print(line)
    else:
        answer.show(console(wide=wide))


def print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(as_document(document), indent=2) + "\n")
    sys.stdout.flush()


def print_error(error: SbhError) -> None:
    """On standard error: what failed, on what, why, what to do next, the code and the page that explains it."""
    from rich.text import Text

    out = console(stderr=True)
    out.print(Text("error  ", "bold red") + Text(printable(error.what), "bold"), soft_wrap=True)
    for label, text in (("on", error.on), ("why", error.why), ("next", error.remedy)):
        if text:
            out.print(Text(f"  {label:<5}", "dim") + Text(printable(text)), soft_wrap=True)
    out.print(Text("  code ", "dim") + Text(error.code) + Text("  docs/errors.md", "dim"), soft_wrap=True)


def print_issues(out: "Console", issues: Iterable[SbhError]) -> None:
    """A red line for each: what, on what, why."""
    for issue in issues:
        out.print(printable(f"[{issue.code}] {issue.what} ({issue.on}): {issue.why}"), style="red", markup=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Any:
    """A table under its title. Headings have signs: `>` number, `~` prose, before them `-` minor; see `Column`."""
    from rich.console import Group
    from rich.text import Text

    from sbh_pipelines.cli.columns import FittingTable

    def cell(value: Any) -> Text:
        return value if isinstance(value, Text) else Text(printable(str(value)))

    drawn = FittingTable(columns, [[cell(value) for value in row] for row in rows])
    return Group(Text(printable(title), "bold"), drawn) if title else drawn


def facts(pairs: Mapping[str, Any]) -> Any:
    """Two columns, name and value, without a frame; empty values are left out, and no word is broken."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    from sbh_pipelines.cli.columns import WholeWords

    drawn, longest = Table.grid(padding=(0, 2)), 0
    for name, value in pairs.items():
        if value not in (None, ""):
            shown = value if isinstance(value, Text) else Text(printable(str(value)), overflow="fold")
            drawn.add_row(Text(name, "dim"), shown)
            longest = max(longest, *(cell_len(word) for word in shown.plain.split()), 0)
    widest = max((cell_len(name) for name, value in pairs.items() if value not in (None, "")), default=0)
    return WholeWords(drawn, widest + 2 + longest)


def verdict(good: bool, text: str) -> Any:
    from rich.text import Text

    return Text(text, "green" if good else "bold red")


def plural(number: int, one: str, many: str = "") -> str:
    """`1 error`, `2 errors`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def count(number: float | None) -> str:
    return "" if number is None else f"{int(number):,}"


def seconds(duration: float | None) -> str:
    return "" if duration is None else f"{duration:,.2f} s"


def utc(moment: str | None) -> str:
    """ISO 8601 as documents have it (2024-01-15T12:00:00Z) -> 2024-01-15 12:00:00 UTC."""
    if not moment:
        return ""
    try:
        parsed = datetime.fromisoformat(moment.replace("Z", "+00:00")).astimezone(UTC)
    except ValueError:
        return moment
    return parsed.strftime("%Y-%m-%d %H:%M:%S UTC")


def printable(text: str) -> str:
    """Control characters escaped: a name in a database must not drive the operator's terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
