"""Drivers of the tests' S3 servers, kept for all who open the same bucket in the same way.

A test opens a bucket dozens of times, as one process after the other would; making a driver takes 5 ms, and its first request
another connection. Only where the key is given and the line is plain: what asks its surroundings for a key is made anew.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from sbh_pipelines.stores import s3

_make: Callable[..., Any] = s3.S3Store
_kept: dict[object, Any] = {}
_MOST = 64  # servers come and go


def _driver(**arguments: Any) -> Any:
    fixed = arguments["credential_provider"].__self__._fixed
    if fixed is None or not arguments["config"].get("endpoint", "").startswith("http://"):
        return _make(**arguments)
    key = (
        fixed.access,
        fixed.secret,
        *(repr(arguments[part]) for part in ("config", "client_options", "retry_config")),
    )
    if key not in _kept:
        while len(_kept) >= _MOST:
            _kept.pop(next(iter(_kept)))
        _kept[key] = _make(**arguments)
    return _kept[key]


@cache
def keep_drivers() -> None:
    s3.S3Store = _driver  # type: ignore[misc]
