"""How long random hunts go on: a short seed of each in `make test`, the same every time; in `make soak` many times as long.

`SOAK_MINUTES=30` lets each hunt by the clock go on for that long, and multiplies what is counted. A new hunt is marked `soak`
and takes its numbers from here.
"""

import os
from typing import TypeVar

from hypothesis import HealthCheck, settings

SECONDS = 60 * float(os.environ.get("SOAK_MINUTES", "0"))
SOAK = SECONDS > 0
_TIMES = 20

T = TypeVar("T")


def load_profile() -> None:
    """No deadline in either: how long an example takes tells of the machine's other work."""
    calm = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck), "print_blob": True}
    settings.register_profile("ci", max_examples=25, derandomize=True, **calm)  # type: ignore[arg-type]
    settings.register_profile("soak", max_examples=40 * _TIMES, **calm)  # type: ignore[arg-type]
    settings.load_profile("soak" if SOAK else "ci")


def examples(short: int) -> int:
    """As many examples in `make test`."""
    return short * _TIMES if SOAK else short


def either(short: T, long: T) -> T:
    """`short` in `make test`, `long` in `make soak`."""
    return long if SOAK else short
