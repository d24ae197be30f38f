"""What a run may say of a restore. Whoever may see runs need not be allowed to see the tenant's data.

Predicates of rows and patterns of files, by which people search, can hold personal data: a run names the table of the one and
counts the other. The server quotes values of a predicate that it cannot read: they are taken out of errors.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.errors import SbhError, error_from_dict

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import Scope

_SHORTEST_HIDDEN = 3
_HIDDEN = "…"
_LITERAL = re.compile(r"'((?:[^']|'')*)'|(\d{4,})")
_TABLE = re.compile(r"\s*([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?)\s+where\s", re.IGNORECASE | re.ASCII)


def without(error: SbhError, request: RestoreRequest) -> SbhError:
    """The error with `…` in place of whatever it repeats of the request's predicate and patterns."""
    hidden = sorted({text for text in _texts(request) if len(text) >= _SHORTEST_HIDDEN}, key=len, reverse=True)
    fields = error.to_keep.as_dict()
    for name in ("what", "on", "why", "remedy"):
        for text in hidden:
            fields[name] = str(fields[name]).replace(text, _HIDDEN)
    return error_from_dict(fields)


def shown_scope(scope: "Scope") -> dict[str, object]:
    """What of the tenant, as the metadata of a run has it."""
    shown: dict[str, object] = {"kind": scope.kind}
    shown |= {"tables": list(scope.tables)} if scope.tables else {}
    shown |= {"all_but": list(scope.all_but)} if scope.all_but else {}
    shown |= {"rows_of": _table_of(scope.rows)} if scope.rows is not None else {}
    shown |= {"file_patterns": len(scope.files)} if scope.files else {}
    return shown | ({"config_only": True} if scope.config_only else {})


def part_text(scope: "Scope", mode: str) -> str:
    """What of the tenant, and how, where it is not all of it exactly: ` (tables a, b; missing-only)`, else nothing."""
    parts = [f"tables {', '.join(scope.tables)}"] if scope.tables else []
    parts += [f"all but tables {', '.join(scope.all_but)}"] if scope.all_but else []
    parts += (
        [f"files by {len(scope.files)} {'pattern' if len(scope.files) == 1 else 'patterns'}"] if scope.files else []
    )
    parts += [f"chosen rows of {_table_of(scope.rows) or 'a table'}"] if scope.rows is not None else []
    parts += ["configuration"] if scope.config_only else []
    parts += [mode] if mode != "exact" else []
    return f" ({'; '.join(parts)})" if parts else ""


def _table_of(rows: str) -> str:
    """The table of a predicate; what is no name is not repeated."""
    named = _TABLE.match(rows)
    return named[1][:128] if named else ""


def _texts(request: RestoreRequest) -> Iterator[str]:
    """What an error could repeat, as it is and as it is quoted."""
    for text in (*request.files, *([request.rows] if request.rows is not None else [])):
        yield from (text, repr(text)[1:-1], ascii(text)[1:-1])
    for quoted, number in _LITERAL.findall(request.rows or ""):
        yield from (quoted, quoted.replace("''", "'"), number)
