"""Text to a column's type, as COPY reads it; and which changes of a type keep every value.

An explicit cast is more lenient than the type's input: `::varchar(3)` and `::bit(3)` cut, `::name` and `::"char"` cut
too, `::regclass` does not know numbers. A restore must never cut a value silently, so those types get expressions of
their own; a value that does not fit raises an error of the server.

Types are given as format_type() writes them in a session with `search_path = pg_catalog`: all but the server's own are
qualified with their schema.
"""

import re

_MODIFIED = re.compile(r"(character varying|character|bit varying|bit)\((\d+)\)((?:\[\])*)")
_PARTS = re.compile(r"([^()]*?)(?:\(([\d,-]+)\))?( with(?:out)? time zone)?")
# By type: input function, the function that applies a length without cutting, what to add to the length for the modifier.
_WITH_LENGTH = {
    "character varying": ("varcharin", '"varchar"', 4),
    "character": ("bpcharin", "bpchar", 4),
    "bit varying": ("varbit_in", "varbit", 0),
    "bit": ("bit_in", '"bit"', 0),
}
_UNBOUND = {
    "character varying": "pg_catalog.varchar",
    "character": "pg_catalog.bpchar",
    "bit varying": "pg_catalog.varbit",
    "bit": "pg_catalog.varbit",
}
_OWN_INPUT = {"regclass": "regclassin", "xml": "xml_in"}
_CHAR = r"'^(.|\\[0-7]{3})?$'"  # what "char" is written as


def from_text(text: str, kind: str) -> str:
    """SQL that reads `text` (SQL of type text) as a value of the type `kind`, as COPY would; NULL stays NULL."""
    if bounded := _MODIFIED.fullmatch(kind):
        base, length, dimensions = bounded.groups()
        reader, fitted, header = _WITH_LENGTH[base]
        modifier = int(length) + header
        if not dimensions:
            return f"pg_catalog.{reader}(pg_catalog.textout({text}), 0, {modifier})::{kind}"
        whole = f"({text})::{_UNBOUND[base]}[]"
        checked = (
            f"(SELECT pg_catalog.count(pg_catalog.{fitted}(e, {modifier}, false)) FROM pg_catalog.unnest({whole}) e)"
        )
        return f"CASE WHEN {checked} >= 0 THEN {whole}::{kind} END"
    if kind == "name":
        return _guarded(text, kind, f"pg_catalog.octet_length({text}) > 63")
    if kind == '"char"':
        fits = f"pg_catalog.octet_length({text}) <= 1 OR ({text}) ~ {_CHAR} AND pg_catalog.octet_length({text}) = 4"
        return _guarded(text, kind, f"NOT ({fits})")
    if kind in ("name[]", '"char"[]'):
        return _guarded(text, kind, f"({text})::text[]::text <> ({text})::{kind}::text")
    if kind in _OWN_INPUT:
        return f"pg_catalog.{_OWN_INPUT[kind]}(pg_catalog.textout({text}))"
    if "." in kind and not kind.endswith("]"):
        # Types of others may bring a cast from text of their own, and a domain's length would be applied by cutting. The
        # input of an array uses the input of its elements.
        escaped = rf"""pg_catalog.replace(pg_catalog.replace({text}, '\', '\\'), '"', '\"')"""
        return f"""(('{{"' || {escaped} || '"}}')::{kind}[])[1]"""
    return f"({text})::{kind}"


def assigned(expression: str, kind: str) -> str:
    """SQL of an expression (a default) as a value of `kind`, without cutting it."""
    return from_text(f"({expression})::text", kind) if _MODIFIED.fullmatch(kind) else f"({expression})::{kind}"


def _guarded(text: str, kind: str, cut: str) -> str:
    """A cast, and an error where the condition `cut` holds."""
    # concat() is not immutable: the planner evaluates what is, and before it looks at the condition.
    message = f"pg_catalog.concat('a value of ', pg_catalog.octet_length({text}), ' bytes is too long for type {kind}')"
    refusal = f"pg_catalog.int4in(pg_catalog.textout({message}))::text::{kind}"
    return f"CASE WHEN {cut} THEN {refusal} ELSE ({text})::{kind} END"


def widens(then: str, now: str) -> bool:
    """Every value of the type `then` is, through its text, the same value of the type `now`."""
    if then.endswith("[]") and now.endswith("[]"):
        return widens(then[:-2], now[:-2])
    old, new = _PARTS.fullmatch(then), _PARTS.fullmatch(now)
    if old is None or new is None:
        return False
    before, after = old[1] + (old[3] or ""), new[1] + (new[3] or "")
    sizes = [int(n) for n in old[2].split(",")] if old[2] else []
    room = [int(n) for n in new[2].split(",")] if new[2] else []
    if before in _INTEGERS and not sizes:
        if after == "numeric":
            return not room or room[0] - (room[1:] or [0])[0] >= _INTEGERS[before]
        return _INTEGERS.get(after, 0) > _INTEGERS[before]
    if (before, after) == ("real", "double precision"):
        return True
    if before in _TEXTS and after in _TEXTS:
        return not room or (bool(sizes) and sizes[0] <= room[0])
    if before == after == "numeric" or before == after == "bit varying" or (before, after) == ("bit", "bit varying"):
        return not room or (bool(sizes) and _fits(sizes, room))
    if before == after and before.startswith(("time", "interval")):
        return (sizes or [6])[0] <= (room or [6])[0]
    return False


def _fits(sizes: list[int], room: list[int]) -> bool:
    """Digits before and behind the point; lengths have none behind."""
    scale, wider = (sizes[1:] or [0])[0], (room[1:] or [0])[0]
    return scale <= wider and sizes[0] - scale <= room[0] - wider


_INTEGERS = {"smallint": 5, "integer": 10, "bigint": 19}  # decimal digits
_TEXTS = ("text", "character varying")
