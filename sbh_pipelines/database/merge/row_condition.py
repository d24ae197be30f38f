"""The condition of chosen rows, written anew from what the parser recognised.

A list of what is allowed, never of what is not: a node, or a part of a node, that is not named here is refused. Nothing of
the operator's text is copied; names go by `ColumnName`, strings through our own quoting, numbers after a check of their form.
"""

import re
from dataclasses import dataclass

from sqlglot import exp

from sbh_pipelines.database.schema.tenancy import literal

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


@dataclass(frozen=True, slots=True)
class ColumnName:
    """The place of a column in a condition."""

    name: str


Piece = str | ColumnName


class Refusal(Exception):
    """Why a text is refused; names no part of it."""


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


def condition_sql(node: exp.Expression, table: list[str]) -> tuple[Piece, ...]:
    """The SQL of a condition over the table with this name (its parts). Raises Refusal."""
    return _joined(_Writer(table).condition(node))


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
