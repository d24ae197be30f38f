"""What all metadata of Dagster is made of here: Markdown tables, and the errors of the engine in them.

Dagster shows Markdown of less than a thousand characters where it stands, and longer ones behind a button: cells are narrow.
"""

from collections.abc import Iterable, Sequence

import dagster as dg

from sbh_pipelines.errors import SbhError
from sbh_pipelines.orchestration.common.failed_tenants import FailedTenant

MetadataMap = dict[str, dg.MetadataValue]

_ROWS_SHOWN = 200


def markdown(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; numbers are aligned to the right. At most 200 rows, and a line that says how many more."""
    body = [list(row) for row in rows]
    shown = body[:_ROWS_SHOWN]
    numeric = [bool(shown) and all(isinstance(row[n], int | float) for row in shown) for n in range(len(headings))]
    lines = [
        _line(headings),
        "|" + "|".join(" ---: " if right else " --- " for right in numeric) + "|",
        *(_line([_cell(value) for value in row]) for row in shown),
    ]
    if len(body) > len(shown):
        lines.append(f"\n… and {len(body) - len(shown):,} more")
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.2f}"
    # Names come from the database: they must not end the cell, the row, or be taken for markup.
    text = str(value).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return " ".join(text.split())


def plural(number: int, one: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{number:,} {one if number == 1 else one + 's'}"


def age(seconds: float | None) -> str:
    """In the two largest units that say something: `1.5 s`, `40 s`, `12 min`, `2 h 5 min`, `3 d 4 h`."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:,.0f} s"
    minutes = round(seconds / 60)
    days, hours, left = minutes // 1440, minutes // 60 % 24, minutes % 60
    parts = ((days, "d"), (hours, "h"), (0 if days else left, "min"))
    return " ".join(f"{number:,} {unit}" for number, unit in parts if number)


def failures_table(failures: Iterable[FailedTenant]) -> str:
    """The tenants of a batch that failed: where, why, and what to do."""
    return markdown(
        ["tenant", "step", "code", "what", "on", "why", "to mend it", "may pass by itself"],
        ([f.tenant, f.step, f.code, f.what, f.on, f.why, f.remedy, f.transient] for f in failures),
    )


def issues_table(issues: Iterable[SbhError]) -> str:
    """What a validation found."""
    return markdown(
        ["code", "what", "on", "why", "to mend it"], ([i.code, i.what, i.on, i.why, i.remedy] for i in issues)
    )
