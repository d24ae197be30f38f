"""Moments as bars: a line for each day, a block for each hour. Pure.

2026-01-14  ░░░░░░░░░▒▇▇▇▇▇▇▇▇▇▇▇▇▇▇
2026-01-15  ▇▇▇▇▇▇▇▇▒▇▇▇
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from math import ceil

Span = tuple[datetime, datetime]

ALL, SOME, NONE = "▇", "▒", "░"
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
_MOST_LINES = 31


def strip(spans: Sequence[Span], since: datetime, now: datetime) -> str:
    """Markdown: the hours from `since` to `now` (UTC), at most those of the last 31 days. `spans`: apart, in order.

    An hour of which only a backup's own moment is within reach counts as one that is in part.
    """
    first = max(since, now - (_MOST_LINES - 1) * _DAY).replace(hour=0, minute=0, second=0, microsecond=0)
    lines = []
    for number in range(ceil((now - first) / _DAY)):
        day = first + number * _DAY
        hours = (day + n * _HOUR for n in range(24))
        blocks = "".join(_block(spans, max(at, since), min(at + _HOUR, now)) for at in hours)
        lines.append(f"{day:%Y-%m-%d}  {blocks.rstrip()}")
    legend = f"{ALL} every moment of the hour, {SOME} some, {NONE} none"
    ruler = f"{'UTC':12}{'0':6}{'6':6}{'12':6}18"
    return "\n".join(["```", ruler, *lines, "", legend, "```"])


def _block(spans: Sequence[Span], start: datetime, end: datetime) -> str:
    if start >= end:
        return " "  # before the first, or to come
    touched = [(max(since, start), min(until, end)) for since, until in spans if since < end and until >= start]
    if not touched:
        return NONE
    reached = sum((until - since for since, until in touched), timedelta())
    return ALL if reached >= end - start else SOME
