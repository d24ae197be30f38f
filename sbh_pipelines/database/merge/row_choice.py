"""Chosen rows, as an operator writes them: `projects where id in (1, 2) and created_at >= '2024-01-01'`.

The text comes from a command line or a request, and the condition runs with the rights of a restore. So none of the text
ever gets into a statement: it is parsed, the parts of a small language are recognised one by one, and SQL is written anew
from them. Whatever is not recognised is refused: the list below is of what is allowed, never of what is not.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import sqlglot
from sqlglot import Token, TokenType, exp
from sqlglot.dialects import Postgres

from sbh_pipelines.database.session.sql import literal
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
_OPERATORS = "WHERE AND OR NOT IN LIKE ILIKE BETWEEN FROM L_PAREN COMMA EQ NEQ LT LTE GT GTE DASH PLUS"
_BEFORE_PAREN = {TokenType[name] for name in _OPERATORS.split()}
_NAMES = (Postgres.parser_class.ID_VAR_TOKENS | {TokenType.VAR, TokenType.IDENTIFIER}) - {TokenType.STRAIGHT_JOIN}
_MARKS = {TokenType[name] for name in ("L_PAREN", "R_PAREN", "DOT", "DCOLON", "FROM", "ALIAS", "WITH")}
_DEEPEST = 50
_BEFORE_NOT = {TokenType.WHERE, TokenType.AND, TokenType.OR, TokenType.NOT, TokenType.L_PAREN, TokenType.IS}
_AFTER_NOT = {TokenType.IN, TokenType.LIKE, TokenType.ILIKE, TokenType.BETWEEN}


@dataclass(frozen=True, slots=True)
class ColumnName:
    """The place of a column in a condition."""

    name: str


Piece = str | ColumnName


class Refusal(Exception):
    """Why a text is refused; names no part of it."""


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
    _check_shape(tokens)
    return [token.token_type for token in tokens]


def _check_shape(tokens: Sequence[Token]) -> None:
    """Refuse what the parser would try in more ways than it has words, before it does: twenty nested types keep it for a minute.

    Parentheses hold conditions, values and lists, at a depth that people write; nothing is called, and no type has a part.
    """
    depth = 0
    allowed = _COUNTED | _NAMES | _MARKS
    for before, token in pairwise(tokens):
        kind = token.token_type
        if kind not in allowed:
            raise Refusal("it has a word or a sign that is not allowed")
        if kind is TokenType.L_PAREN and before.token_type not in _BEFORE_PAREN and before.text.upper() != "CAST":
            raise Refusal("functions, and types with a length, are not allowed")
        depth += (kind is TokenType.L_PAREN) - (kind is TokenType.R_PAREN)
        if depth > _DEEPEST:
            raise Refusal("it is nested too deeply")


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
    return RowChoice(".".join(path), _joined(_Writer(path).condition(where.this)))


def _refused(text: str, why: str) -> RequestError:
    return RequestError("The choice of rows is refused", on=_quoted(text), why=why, remedy=_ALLOWED)


def _quoted(text: str) -> str:
    quoted = repr(text[:_QUOTED])
    return quoted if len(text) <= _QUOTED and len(quoted) <= _QUOTED else quoted[: _QUOTED - 3] + "..."


_NUMBER = re.compile(r"\d+(\.\d*)?([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?", re.ASCII)


_FOLDED = str.maketrans({chr(c): chr(c + 32) for c in range(ord("A"), ord("Z") + 1)})


_COMPARISONS: dict[type[exp.Expression], str] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.NullSafeEQ: "IS NOT DISTINCT FROM",
    exp.NullSafeNEQ: "IS DISTINCT FROM",
}


_PATTERNS: dict[type[exp.Expression], str] = {exp.Like: "LIKE", exp.ILike: "ILIKE"}


_TYPES = {
    exp.DataType.Type.BIGINT: "int8",
    exp.DataType.Type.BOOLEAN: "bool",
    exp.DataType.Type.DATE: "date",
    exp.DataType.Type.DECIMAL: "numeric",
    exp.DataType.Type.DOUBLE: "float8",
    exp.DataType.Type.FLOAT: "float4",
    exp.DataType.Type.INET: "inet",
    exp.DataType.Type.INT: "int4",
    exp.DataType.Type.JSONB: "jsonb",
    exp.DataType.Type.SMALLINT: "int2",
    exp.DataType.Type.TEXT: "text",
    exp.DataType.Type.TIME: "time",
    exp.DataType.Type.TIMESTAMP: "timestamp",
    exp.DataType.Type.TIMESTAMPTZ: "timestamptz",
    exp.DataType.Type.UUID: "uuid",
}


_VALUES = (exp.Column, exp.Literal, exp.Boolean, exp.Null, exp.Neg, exp.Cast)


def only(node: exp.Expression, *names: str) -> None:
    """Refuse a node with anything but these parts: an option that we do not know must not be lost silently."""
    extra = [name for name, value in node.args.items() if name not in names and value not in (None, False, [])]
    if extra:
        raise Refusal(f"{node.key.upper()} with {', '.join(extra).upper().strip('_')} is not allowed")


def plain_name(part: object) -> str:
    if type(part) is not exp.Identifier or not part.this:
        raise Refusal("a name is not a plain name")
    name = str(part.this)
    return name if part.args.get("quoted") else name.translate(_FOLDED)


def _joined(pieces: list[Piece]) -> tuple[Piece, ...]:
    """Neighbouring texts as one."""
    joined: list[Piece] = []
    for piece in pieces:
        if joined and isinstance(piece, str) and isinstance(before := joined[-1], str):
            joined[-1] = before + piece
        else:
            joined.append(piece)
    return tuple(joined)


class _Writer:
    """Writes the SQL of a parsed condition. Everything compound gets parentheses."""

    def __init__(self, table: list[str]) -> None:
        self._table = table

    def condition(self, node: exp.Expression) -> list[Piece]:
        kind = type(node)
        if kind is exp.Paren:
            only(node, "this")
            return self.condition(node.this)
        if kind in (exp.And, exp.Or):
            only(node, "this", "expression")
            word = " AND " if kind is exp.And else " OR "
            parts = [self.condition(part) for part in _operands(node)]
            return ["(", *parts[0], *(piece for part in parts[1:] for piece in (word, *part)), ")"]
        if kind is exp.Not:
            only(node, "this")
            return ["(NOT ", *self.condition(node.this), ")"]
        if kind in _COMPARISONS:
            only(node, "this", "expression")
            return ["(", *self._value(node.this), f" {_COMPARISONS[kind]} ", *self._value(node.expression), ")"]
        if kind in _PATTERNS:
            only(node, "this", "expression", "negate")
            word = f" {'NOT ' if node.args.get('negate') else ''}{_PATTERNS[kind]} "
            return ["(", *self._value(node.this), word, *self._value(node.expression), ")"]
        if kind is exp.In:
            return self._in(node)
        if kind is exp.Between:
            only(node, "this", "low", "high")
            low, high = self._value(node.args["low"]), self._value(node.args["high"])
            return ["(", *self._value(node.this), " BETWEEN ", *low, " AND ", *high, ")"]
        if kind is exp.Is:
            return self._is(node)
        if kind in (exp.Column, exp.Boolean, exp.Null):
            return self._value(node)
        raise Refusal(f"{node.key.upper()} is not allowed here")

    def _in(self, node: exp.Expression) -> list[Piece]:
        only(node, "this", "expressions")
        items = [_constant(_bare(item)) for item in node.expressions]
        if not items:
            raise Refusal("IN needs a list of values")
        return ["(", *self._value(node.this), f" IN ({', '.join(items)}))"]

    def _is(self, node: exp.Expression) -> list[Piece]:
        only(node, "this", "expression", "negate")
        what = node.expression
        if type(what) is exp.Null:
            words = "NULL"
        elif type(what) is exp.Boolean:
            words = "TRUE" if what.this else "FALSE"
        else:
            raise Refusal("IS is allowed with NULL, TRUE, FALSE and DISTINCT FROM only")
        # Of a condition without parentheses it is not certain that the server would read it as the parser did.
        inner = _bare(node.this)
        compound = type(node.this) is exp.Paren and type(inner) not in _VALUES
        operand = self.condition(inner) if compound else self._value(inner)
        return ["(", *operand, f" IS {'NOT ' if node.args.get('negate') else ''}{words})"]

    def _value(self, node: exp.Expression) -> list[Piece]:
        node = _bare(node)
        if type(node) is not exp.Column:
            return [_constant(node)]
        only(node, "this", "table", "db")
        owner = [plain_name(part) for part in (node.args.get("db"), node.args.get("table")) if part is not None]
        if owner and owner != self._table[-len(owner) :]:
            raise Refusal("a column of another table is not allowed")
        return [ColumnName(plain_name(node.this))]


def _operands(node: exp.Expression) -> list[exp.Expression]:
    """The operands of a chain of one operator: thousands of OR must not nest."""
    kind, parts, left = type(node), [], node
    while type(left) is kind:
        only(left, "this", "expression")
        parts.append(left.args["expression"])
        left = left.this
    return [left, *reversed(parts)]


def _bare(node: exp.Expression) -> exp.Expression:
    while type(node) is exp.Paren:
        only(node, "this")
        node = node.this
    return node


def _constant(node: exp.Expression) -> str:
    kind = type(node)
    if kind is exp.Null:
        return "NULL"
    if kind is exp.Boolean:
        return "TRUE" if node.this else "FALSE"
    if kind is exp.Literal:
        return literal(str(node.this)) if node.is_string else _number(node)
    if kind is exp.Neg:
        only(node, "this")
        return f"(-{_number(node.this)})"
    if kind is exp.Cast:
        only(node, "this", "to")
        target, value = node.args["to"], _bare(node.this)
        only(target, "this")
        if type(target) is exp.DataType and target.this in _TYPES and type(value) in (exp.Literal, exp.Neg):
            return f"CAST({_constant(value)} AS pg_catalog.{_TYPES[target.this]})"
        raise Refusal("this cast is not allowed")
    raise Refusal(f"{node.key.upper()} is not allowed here")


def _number(node: exp.Expression) -> str:
    if type(node) is not exp.Literal or node.is_string or not _NUMBER.fullmatch(str(node.this)):
        raise Refusal("a number is not a plain decimal number")
    return str(node.this)
