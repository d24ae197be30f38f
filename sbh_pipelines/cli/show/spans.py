"""Spans of time, and how they stand to an objective, as tables show them."""

from typing import Any

from sbh_pipelines.cli.output import verdict


def span(duration: float | None) -> str:
    """Seconds in two units: `0.52 s`, `12 min 3 s`, `3 h 10 min`, `2 d 4 h`; empty for None."""
    if duration is None:
        return ""
    sign, size = ("-", -duration) if duration < 0 else ("", duration)
    if size < 60:
        return f"{sign}{size:.2f} s"
    whole = int(size)
    for unit, step, below, smaller in (("d", 86400, 3600, "h"), ("h", 3600, 60, "min"), ("min", 60, 1, "s")):
        if whole >= step:
            rest = whole % step // below
            return f"{sign}{whole // step:,} {unit}" + (f" {rest} {smaller}" if rest else "")
    raise AssertionError(size)


def margin(left: float | None) -> Any:
    """What is left to the objective: green, or red where it was missed."""
    return "" if left is None else verdict(left >= 0, span(left))


def met(value: bool | None) -> Any:
    return "" if value is None else verdict(value, "yes" if value else "no")


def trend(change: float | None) -> str:
    """`+12 %` of the mean of the measurements before: more time, or older."""
    return "" if change is None else f"{change:+.0%}".replace("%", " %")
