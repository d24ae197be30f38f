"""Fields of the stream as lines of COPY text: what `capture` would have read of the same row, byte for byte."""

import re
from collections.abc import Sequence

from sbh_pipelines.database.journal.messages import UNSENT, Field

NULL = rb"\N"
UNCHANGED = rb"\u"
"""In place of a value that was not sent. COPY never writes it; `repository/journal/segments/changes.py` has it."""

_SPECIAL_BUT_TAB = re.compile(rb"[\\\x08\x0a-\x0d]")  # all but the tab, which stands between fields as well
_SPECIAL = re.compile(rb"[\\\x08-\x0d]")
_ESCAPES = {
    b"\\": rb"\\",
    b"\b": rb"\b",
    b"\t": rb"\t",
    b"\n": rb"\n",
    b"\v": rb"\v",
    b"\f": rb"\f",
    b"\r": rb"\r",
}


def line(fields: Sequence[Field]) -> bytes:
    """The fields as a line of COPY text, without the newline."""
    # Most rows have nothing to escape: one search over the whole row tells, and as many tabs as there are between fields.
    values = [field for field in fields if field is not None and field is not UNSENT]
    joined = b"\t".join(values)
    if joined.count(b"\t") > max(len(values) - 1, 0) or _SPECIAL_BUT_TAB.search(joined) is not None:
        return b"\t".join([copy_field(field) for field in fields])
    if len(values) == len(fields):
        return joined
    return b"\t".join([NULL if field is None else UNCHANGED if field is UNSENT else field for field in fields])


def copy_field(field: Field) -> bytes:
    """One field as COPY writes it."""
    if field is None:
        return NULL
    if field is UNSENT:
        return UNCHANGED
    if _SPECIAL.search(field) is None:
        return field
    return _SPECIAL.sub(lambda found: _ESCAPES[found[0]], field)
