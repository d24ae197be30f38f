"""Chosen rows, as an operator writes them: `projects where id in (1, 2) and created_at >= '2024-01-01'`.

The text comes from a command line or a request, and the condition runs with the rights of a restore. So none of the text
ever gets into a statement: it is parsed, the parts of a small language are recognised one by one, and SQL is written anew
from them. Whatever is not recognised is refused: the list below is of what is allowed, never of what is not.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import sqlglot
from sqlglot import TokenType, exp

from sbh_pipelines.database.merge.row_condition import ColumnName, Piece, Refusal, condition_sql, only, plain_name
from sbh_pipelines.errors import RequestError

_LONGEST = 100_000  # characters
_QUOTED = 100  # characters of the input in an error
_PREFIX = "SELECT 1 FROM "
_ALLOWED = (
    "write: table where condition; a condition is made of AND, OR, NOT and parentheses over columns of that table compared"
    " with = <> < <= > >= IN BETWEEN LIKE ILIKE IS NULL/TRUE/FALSE/DISTINCT FROM, and of numbers, 'strings', true, false, null"
    " and casts of those to the server's plain types ('2024-01-01'::date)"
)
_WORDS = "AND OR NOT IN IS LIKE ILIKE BETWEEN DISTINCT FROM WHERE NULL TRUE FALSE"
_SIGNS = "EQ NEQ LT LTE GT GTE STRING NUMBER DASH PLUS COMMA"
_COUNTED = {TokenType[name] for name in f"{_WORDS} {_SIGNS}".split()}
_BEFORE_NOT = {TokenType.WHERE, TokenType.AND, TokenType.OR, TokenType.NOT, TokenType.L_PAREN, TokenType.IS}
_AFTER_NOT = {TokenType.IN, TokenType.LIKE, TokenType.ILIKE, TokenType.BETWEEN}


@dataclass(frozen=True, slots=True)
class RowChoice:
    """Rows of one table. `condition` is SQL written by this module, with the columns left open."""

    table: str  # as settings name tables: `schema.table`, or `table`
    condition: tuple[Piece, ...]

    @property
    def columns(self) -> frozenset[str]:
        return frozenset(p.name for p in self.condition if isinstance(p, ColumnName))

    def to_sql(self, columns: Mapping[str, str]) -> str:
        """The condition, each column replaced by its SQL expression. Raises RequestError for a column not among them."""
        unknown = sorted(self.columns - columns.keys())
        if unknown:
            raise RequestError(
                "The choice of rows names a column that the table does not have",
                on=f"{_quoted(self.table)}: {', '.join(map(_quoted, unknown[:5]))}",
                remedy=f"columns are {', '.join(columns)}; names in capitals need double quotes",
            )
        return "".join(f"({columns[p.name]})" if isinstance(p, ColumnName) else p for p in self.condition)


def parse_rows(text: str) -> RowChoice:
    """Read `table where condition`. Raises RequestError that says what is allowed, for everything else."""
    if len(text) > _LONGEST:
        raise _refused(text, f"it has {len(text)} characters, more than {_LONGEST}")
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise _refused(text, "it has a character that PostgreSQL's text cannot hold")
    try:
        kinds = _kinds(_PREFIX + text)
        statements = sqlglot.parse(_PREFIX + text, dialect="postgres")
        if len(statements) != 1 or type(statements[0]) is not exp.Select:
            raise Refusal("it is not one table and one condition")
        choice = _choice(statements[0])
        _check_reading(kinds, choice)
        return choice
    except Refusal as refusal:
        raise _refused(text, str(refusal)) from None
    except RecursionError:
        raise _refused(text, "it is nested too deeply") from None
    except Exception:
        # The parser is not ours: whatever it raises, it could not read the text.
        raise _refused(text, "it cannot be read") from None


def _kinds(sql: str) -> list[TokenType]:
    tokens = sqlglot.tokenize(sql, dialect="postgres")
    if any(token.comments or token.token_type is TokenType.SEMICOLON for token in tokens):
        raise Refusal("comments and semicolons are not allowed")
    return [token.token_type for token in tokens]


def _check_reading(kinds: list[TokenType], choice: RowChoice) -> None:
    """Refuse what the parser takes although the server would not: it does without an AND, or takes `is` for a column.

    Every word and sign of the condition must be in what was written, and nothing else.
    """
    written = _kinds(_PREFIX + "t where " + choice.to_sql(dict.fromkeys(choice.columns, '"c"')))
    if Counter(k for k in kinds if k in _COUNTED) != Counter(k for k in written if k in _COUNTED):
        raise Refusal("it cannot be read")
    for before, kind, after in zip(kinds, kinds[1:], kinds[2:], strict=False):
        if kind is TokenType.NOT and before not in _BEFORE_NOT and after not in _AFTER_NOT:
            raise Refusal("NOT stands where it cannot")


def _choice(select: exp.Select) -> RowChoice:
    only(select, "expressions", "from_", "where")
    if len(select.expressions) != 1 or select.expressions[0] != exp.Literal.number(1):
        raise Refusal("it is not one table and one condition")
    source, where = select.args.get("from_"), select.args.get("where")
    if type(source) is not exp.From or type(source.this) is not exp.Table:
        raise Refusal("it does not begin with the name of a table")
    only(source, "this")
    only(source.this, "this", "db")
    path = [plain_name(part) for part in (source.this.args.get("db"), source.this.this) if part is not None]
    if type(where) is not exp.Where:
        raise Refusal("it has no `where`; --tables restores whole tables")
    only(where, "this")
    return RowChoice(".".join(path), condition_sql(where.this, path))


def _refused(text: str, why: str) -> RequestError:
    return RequestError("The choice of rows is refused", on=_quoted(text), why=why, remedy=_ALLOWED)


def _quoted(text: str) -> str:
    quoted = repr(text[:_QUOTED])
    return quoted if len(text) <= _QUOTED and len(quoted) <= _QUOTED else quoted[: _QUOTED - 3] + "..."
