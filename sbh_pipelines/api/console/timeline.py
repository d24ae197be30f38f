"""A tenant's recent time in a picture: recovery points, the moments that the journal tells, restores, drills.

Geometry only: the template writes the SVG, and every mark of it is a row of a table on the same page as well.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sbh_pipelines.api.console.render import part_of_path
from sbh_pipelines.model import parse_timestamp, timestamp

WIDTH, LEFT, RIGHT = 1000, 118, 12
_TOP, _LANE = 8, 34
_SLICES = 60  # of a range of moments, each a link to one of them
_TICKS = (
    timedelta(seconds=10), timedelta(minutes=1), timedelta(minutes=10), timedelta(hours=1), timedelta(hours=3),
    timedelta(hours=6), timedelta(days=1), timedelta(days=2), timedelta(days=7), timedelta(days=14), timedelta(days=30),
    timedelta(days=90), timedelta(days=365),
)  # fmt: skip
_MOST_TICKS = 8


@dataclass(frozen=True, slots=True)
class Mark:
    """Something at one time. `kind` is its style: full, incremental, differential, restore, drill, bad."""

    x: float
    y: float
    kind: str
    title: str
    href: str


@dataclass(frozen=True, slots=True)
class Range:
    """Some moments next to each other, any of which leads to one of them."""

    x: float
    width: float
    y: float
    title: str
    href: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A timeline.

    Attributes:
        height: Of the picture; its width is `WIDTH`.
        lanes: What is in each, and where it is.
        ticks: Times on the axis, and where they are.
        marks: What there is at one time.
        ranges: Moments that the journal tells.
        since: The time at its left end, UTC.
    """

    height: int
    lanes: Sequence[tuple[str, float]]
    ticks: Sequence[tuple[str, float]]
    marks: Sequence[Mark]
    ranges: Sequence[Range]
    since: datetime


def draw(
    home: str,
    since: datetime,
    now: datetime,
    *,
    backups: Sequence[Mapping[str, Any]],
    restores: Sequence[Mapping[str, Any]],
    drills: Sequence[Mapping[str, Any]],
    windows: Sequence[Mapping[str, Any]],
) -> Picture:
    """All of it from `since` to `now`, as the API's documents say it. `home` is the path of the tenant's page."""
    names = ["Backups", "Restores", "Drills", *(["Any moment"] if windows else [])]
    lanes = {name: _TOP + _LANE * (at + 0.5) for at, name in enumerate(names)}
    span = max((now - since).total_seconds(), 1.0)

    def x_of(moment: datetime) -> float:
        inside = min(max((moment - since).total_seconds() / span, 0.0), 1.0)
        return round(LEFT + inside * (WIDTH - LEFT - RIGHT), 1)

    marks = []

    def mark(text: str | None, lane: str, kind: str, title: str, href: str) -> None:
        if text and (moment := parse_timestamp(text)) >= since:
            told = f"{title}, {moment.astimezone(UTC):%Y-%m-%d %H:%M}"
            marks.append(Mark(x_of(moment), lanes[lane], kind, told, href))

    for one in backups:
        title = f"{one['type']} backup {one['id']}"
        mark(one["created_at"], "Backups", one["type"], title, f"{home}/backups/{one['id']}")
    for one in restores:
        kind, title = ("restore" if one["status"] == "completed" else "bad"), f"restore {one['status']}"
        mark(one.get("started_at"), "Restores", kind, title, f"{home}/restores/{one['restore_id']}")
    for one in drills:
        kind = "drill" if one["status"] == "passed" else "bad"
        mark(one.get("finished_at"), "Drills", kind, f"drill {one['status']}", "#drills")
    ranges = []
    for window in windows:
        first, last = max(parse_timestamp(window["start"]), since), min(parse_timestamp(window["end"]), now)
        steps = max(1, round(_SLICES * (last - first).total_seconds() / span)) if last > first else 0
        for at in range(steps):
            begin, end = first + (last - first) * at / steps, first + (last - first) * (at + 1) / steps
            moment = timestamp(end)
            ranges.append(
                Range(
                    x_of(begin),
                    round(max(x_of(end) - x_of(begin), 1.0), 1),
                    lanes["Any moment"],
                    f"{moment}: what changed since",
                    f"{home}/backups/{part_of_path('@' + moment)}/diff",
                )
            )
    return Picture(_TOP + _LANE * len(names) + 26, list(lanes.items()), _ticks(since, now, x_of), marks, ranges, since)


def _ticks(since: datetime, now: datetime, x_of: Callable[[datetime], float]) -> list[tuple[str, float]]:
    step = next((s for s in _TICKS if (now - since) / s <= _MOST_TICKS), _TICKS[-1])
    clock = "%H:%M:%S" if step < timedelta(minutes=1) else "%H:%M"
    date = "%b %Y" if step >= timedelta(days=90) else "%d %b"
    form = date if step >= timedelta(days=1) else clock if now - since <= timedelta(days=1) else f"%d %b {clock}"
    epoch = datetime(2000, 1, 1, tzinfo=UTC)
    at = epoch + step * (int((since - epoch) / step) + 1)
    found = []
    while at < now:
        found.append((at.strftime(form), x_of(at)))
        at += step
    return found
