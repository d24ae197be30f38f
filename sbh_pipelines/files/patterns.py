"""Patterns of paths: `*` and `?` and `[...]` within a folder, `**` over folders, as in shells and .gitignore files."""

import re
from collections.abc import Sequence

from sbh_pipelines.errors import RequestError

_LONGEST = 1024


class PathPatterns:
    """Matches paths that fit any of the patterns; all paths where there are none."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """Raises RequestError for an empty or overlong pattern."""
        for pattern in patterns:
            if not pattern or len(pattern) > _LONGEST:
                raise RequestError(
                    "Not a pattern of paths",
                    on=ascii(pattern)[:64],
                    why=f"a pattern has 1 to {_LONGEST} characters",
                    remedy="e.g. 'invoices/**' or 'reports/2024-*.pdf'",
                )
        self._all = not patterns or "**" in patterns
        try:
            self._expressions = [re.compile(_expression(pattern)) for pattern in patterns]
        except re.error as error:
            raise RequestError("Not a pattern of paths", on=ascii(list(patterns))[:100], why=str(error)) from None

    def match(self, path: str) -> bool:
        return self._all or any(expression.fullmatch(path) for expression in self._expressions)


def _expression(pattern: str) -> str:
    found, at = "", 0
    while at < len(pattern):
        if pattern.startswith("**/", at) and (at == 0 or pattern[at - 1] == "/"):
            found, at = found + "(?s:(?:.*/)?)", at + 3
        elif pattern.startswith("**", at):
            found, at = found + "(?s:.*)", at + 2
        elif pattern[at] == "*":
            found, at = found + "[^/]*", at + 1
        elif pattern[at] == "?":
            found, at = found + "[^/]", at + 1
        elif pattern[at] == "[" and (end := pattern.find("]", at + 2)) > 0:
            inside = pattern[at + 1 : end]
            sign, inside = ("^", inside[1:]) if inside[0] == "!" else ("", inside)
            found, at = f"{found}[{sign}{_escaped(inside)}]", end + 1
        else:
            found, at = found + re.escape(pattern[at]), at + 1
    return found


def _escaped(inside: str) -> str:
    # A `-` stays what makes a range; one at an end of the class stands for itself in both notations.
    return "".join("\\" + c if c in "\\[]^&~|" else c for c in inside)
