"""A script of pg_dump's, statement by statement: which of them come early, and what is tried where one is refused.

Statements are told apart as psql tells them: by semicolons outside of strings, comments, parentheses and bodies of functions.
What is tried instead of one that failed begins with `AGAIN`, for errors to tell the two apart.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sbh_pipelines.database.rebuild.script_run import StatementError, Step, shown
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.sql import ident

AGAIN = "/* sbh: instead */ "
NOT_MADE = "sbh: this function could not be made here"

_TOKEN = re.compile(
    rb"(?P<string>(?<![\w\x80-\xff$])[eE]'(?:[^'\\]++|\\.|'')*+'|'[^']*+'|\"[^\"]*+\")"
    rb"|(?P<dollar>(?<![\w\x80-\xff$])\$(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*)?\$)"
    rb"|(?P<comment>--[^\n]*|/\*)"
    rb"|(?P<meta>(?m:^)\\[^\n]*\n?)"
    rb"|(?P<word>[A-Za-z_\x80-\xff][\w$\x80-\xff]*)"
    rb"|(?P<mark>[;()])",
    re.DOTALL,
)
_BLOCK = re.compile(rb"/\*|\*/")
_LEADING = re.compile(r"(?:\s+|--[^\n]*(?:\n|$))*")
_CONSTRAINT = re.compile(
    r'^(ALTER TABLE [^\n]*)\n +(ADD CONSTRAINT "(?:[^"]|"")+" (?:EXCLUDE|PRIMARY|UNIQUE|FOREIGN|CHECK))'
)
_ROUTINES = (b"FUNCTION", b"PROCEDURE")


def statements(text: bytes) -> Iterator[str]:
    """The statements in order, without the comments before them; commands of psql's own are left out."""
    start = at = depth = body = 0
    words: list[bytes] = []
    while found := _TOKEN.search(text, at):
        at, kind = found.end(), found.lastgroup
        if kind == "dollar":
            end = text.find(found[0], at)
            at = len(text) if end < 0 else end + len(found[0])
        elif kind == "comment":
            at = _after_block(text, at) if found[0] == b"/*" else at
        elif kind == "meta" and not words:
            start = at  # `\\restrict` and its kind; in a script of pg_dump's there is no other, and none is obeyed
        elif kind == "word":
            word = found[0].upper()
            if len(words) < 4:
                words.append(word)
            if word == b"BEGIN" or (body and word == b"CASE"):
                body += words[0] == b"CREATE" and any(name in words[:4] for name in _ROUTINES)
            elif word == b"END" and body:
                body -= 1
        elif found[0] == b"(":
            depth += 1
        elif found[0] == b")":
            depth -= 1
        elif found[0] == b";" and depth <= 0 and not body:
            yield _text(text[start:at])
            start, depth, words = at, 0, []
    if rest := _text(text[start:]):
        yield rest


def _after_block(text: bytes, at: int) -> int:
    """Where the comment that begins before `at` ends; they nest."""
    depth = 1
    while depth and (found := _BLOCK.search(text, at)):
        depth, at = depth + (1 if found[0] == b"/*" else -1), found.end()
    return at if not depth else len(text)


def _text(piece: bytes) -> str:
    # Bytes that are no UTF-8 are those of a database in SQL_ASCII; they go as they came.
    text = piece.decode("utf-8", "surrogateescape")
    text = text[_LEADING.match(text).end() :]  # type: ignore[union-attr]
    # What is said of a statement that failed is its first line: with the name of the constraint in it.
    return _CONSTRAINT.sub(r"\1 \2", text, count=1) if text.startswith("ALTER TABLE") else text


# what comes early

_INDEX = re.compile(r'CREATE (?:UNIQUE )?INDEX |ALTER TABLE [^\n]*? ADD CONSTRAINT "(?:[^"]|"")+" EXCLUDE USING ')
# With --quote-all-identifiers a call of a function that is not the server's own, or an operator of that kind.
_FOREIGN_CALL = re.compile(r'"\."(?:[^"]|"")+"\(|OPERATOR\("')


_MADE = re.compile(r'CREATE FUNCTION "(?:[^"]|"")+"\."((?:[^"]|"")+)"\(')
_CALLED = re.compile(r'"\."((?:[^"]|"")+)"\(')
_WORD = re.compile(r"[^\W\d]\w*")
# FROM that is no table's: of functions that SQL gives a syntax of their own, and of comparisons.
_OTHER_FROM = re.compile(r"\bDISTINCT\s+FROM\b|\b(?:SUBSTRING|TRIM|EXTRACT|OVERLAY)\s*\([^()]*\bFROM\b", re.IGNORECASE)
_FROM = re.compile(r"\bFROM\b", re.IGNORECASE)


class EarlyIndexes:
    """Which indexes, and exclusion constraints, are made before rows are there.

    Functions of their expressions may need the application's search path. PostgreSQL 17 and later give it to them for rows
    that are written, and not for rows that are there when an index is made. A function that reads tables needs their rows: its
    index comes after them.
    """

    def __init__(self, statements: Iterable[str]) -> None:
        """Of the functions that these statements make."""
        self._bodies: dict[str, list[str]] = {}
        for statement in statements:
            if found := _MADE.match(statement):
                self._bodies.setdefault(found[1].replace('""', '"'), []).append(statement[found.end() :])

    def __contains__(self, statement: str) -> bool:
        if not (_INDEX.match(statement) and _FOREIGN_CALL.search(statement)):
            return False
        return not any(self._reads(name.replace('""', '"'), set()) for name in _CALLED.findall(statement))

    def _reads(self, name: str, seen: set[str]) -> bool:
        """Whether a function, or one that it calls, reads a table, as far as its text tells."""
        if name in seen:
            return False
        seen.add(name)
        for body in self._bodies.get(name, ()):
            if _FROM.search(_OTHER_FROM.sub("", body)):
                return True
            if any(self._reads(word, seen) for word in set(_WORD.findall(body)) & self._bodies.keys()):
                return True
        return False


# what is tried instead


@dataclass
class Script:
    """What is run. `instead` has, by statement as errors show it, what is run where that fails, one after the other."""

    steps: list[Step] = field(default_factory=list)
    instead: dict[str, list[str]] = field(default_factory=dict)

    def add(self, statement: str, *instead: str, path: str = "") -> None:
        """A statement, and what is run in its place where it fails, and so on: with a search path, where `path` gives one."""
        others = [AGAIN + other for other in instead]
        if others:
            self.instead[shown(statement)] = [shown(other) for other in others]
        self.steps.append(Step(statement, others, path))

    def settled(self, errors: Sequence[StatementError]) -> Iterator[tuple[StatementError, bool]]:
        """Each statement that failed, and whether another was run in its place."""
        failed = Counter(error.statement for error in errors)
        for error in errors:
            if not error.statement.startswith(AGAIN):
                others = Counter(self.instead.get(error.statement, ()))
                yield error, any(failed[other] < times for other, times in others.items())


_FUNCTION = re.compile(r"CREATE (?:FUNCTION|PROCEDURE) ")
_LANGUAGE = re.compile(r"^    (?:LANGUAGE|TRANSFORM) .*(?:\n    (?:SET|TRANSFORM) .*)*", re.MULTILINE)
_ATTRIBUTES = re.compile(r"\b(?:IMMUTABLE|STABLE|STRICT|SECURITY DEFINER|PARALLEL (?:SAFE|RESTRICTED))\b")
_SET = re.compile(r'\n    SET (?!"search_path" ).*')


def lesser_functions(statement: str) -> list[str]:
    """Functions to make where this one may not be: without LEAKPROOF and a superuser's parameters; one that only refuses."""
    found = _LANGUAGE.search(statement) if _FUNCTION.match(statement) else None
    if found is None:
        return []
    head, clauses, body = statement[: found.start()], found[0], statement[found.end() :]
    lesser = _SET.sub("", clauses.replace(" LEAKPROOF", "", 1))
    refuses = f"BEGIN RAISE EXCEPTION '{NOT_MADE}'; END"
    attributes = " ".join(_ATTRIBUTES.findall(clauses.partition("\n")[0]))
    stub = f"{head}    LANGUAGE plpgsql {attributes}\n    AS $sbh${refuses}$sbh$;"
    return ([head + lesser + body] if lesser != clauses else []) + [stub]


_TABLE = re.compile(r'(CREATE (?:UNLOGGED )?|ALTER )TABLE (?:ONLY )?("(?:[^"]|"")+"\."(?:[^"]|"")+") ')


class NeededTables:
    """The tables that rows are loaded into."""

    def __init__(self, tables: Iterable[MappedTable]) -> None:
        self._tables = {f"{ident(t.table.schema)}.{ident(t.table.name)}": t for t in tables}

    def of(self, statement: str) -> MappedTable | None:
        """The table that the statement makes, if it is one of them."""
        found = _TABLE.match(statement.removeprefix(AGAIN))
        return self._tables.get(found[2]) if found and found[1] != "ALTER " else None

    def altered(self, statement: str) -> MappedTable | None:
        """The table that the statement changes, if it is one of them."""
        found = _TABLE.match(statement)
        return self._tables.get(found[2]) if found and found[1] == "ALTER " else None

    def bare(self, statement: str) -> list[str]:
        """The table with nothing but its columns, which a default or a CHECK keeps from being made."""
        table = self.of(statement)
        if table is None:
            return []
        columns = ", ".join(f"{ident(c.name)} {c.type}" for c in table.table.columns)
        return [f"CREATE TABLE {ident(table.table.schema)}.{ident(table.table.name)} ({columns});"]
