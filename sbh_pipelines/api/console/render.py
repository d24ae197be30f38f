"""Templates, and how figures are written: sizes with their unit, times in UTC, ages in words."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse

from sbh_pipelines.model import parse_timestamp

STATIC = Path(__file__).with_name("static")
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(value: float | None) -> str:
    """Bytes, with the unit that one reads."""
    if value is None:
        return "–"
    at = 0
    while abs(value) >= 1024 and at < len(_UNITS) - 1:
        value, at = value / 1024, at + 1
    return f"{value:,.0f} {_UNITS[at]}" if at == 0 or value >= 100 else f"{value:,.1f} {_UNITS[at]}"


def duration(seconds: float | None) -> str:
    """Seconds, in the two largest units that count."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours and days < 10 else f"{days} d"


def instant(text: str | None) -> str:
    """An ISO 8601 time as people read it, in UTC, to the second; date and clock stay in one piece each."""
    if not text:
        return "–"
    try:
        moment = parse_timestamp(text).astimezone(UTC)
    except ValueError:
        return text
    return Markup("<time><span>{:%Y-%m-%d}</span> <span>{:%H:%M:%S}</span></time>").format(moment, moment)


def count(value: float | None) -> str:
    return "–" if value is None else f"{value:,}"


def words(text: str | None) -> str:
    """A name of the program's with spaces: `legal_hold` as `legal hold`."""
    return (text or "").replace("_", " ")


def part_of_path(text: object) -> str:
    """Text as one part of a path."""
    return quote(str(text), safe="@")


_templates = Environment(
    loader=PackageLoader("sbh_pipelines.api.console"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters |= {
    "size": size, "duration": duration, "instant": instant, "count": count, "words": words, "part": part_of_path,
}  # fmt: skip


def render(template: str, status: int = 200, **shown: Any) -> HTMLResponse:
    """`template` with what it shows; everything shown is escaped."""
    return HTMLResponse(_templates.get_template(template).render(now=datetime.now(UTC), **shown), status)
