"""What a backup says of one of its tables before the rows: the header of a stored table, its columns and their types.

The names of types are PostgreSQL's own, as `format_type` gives them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.sql import UTF8

INTEGERS = frozenset({"smallint", "integer", "bigint", "oid"})
FLOATS = frozenset({"real", "double precision"})
JSON = frozenset({"json", "jsonb"})
TIMESTAMP, TIMESTAMPTZ = "timestamp without time zone", "timestamp with time zone"

# The rest of PostgreSQL's own types: their values are text here. A type in neither set is the application's or an extension's.
_TEXTS = frozenset(
    {
        "text", "character varying", "character", "bpchar", "name", '"char"', "money", "interval",
        "time with time zone", "inet", "cidr", "macaddr", "macaddr8", "bit", "bit varying", "xml", "tsvector",
        "tsquery", "point", "line", "lseg", "box", "path", "polygon", "circle", "int4range", "int8range",
        "numrange", "tsrange", "tstzrange", "daterange", "int4multirange", "int8multirange", "nummultirange",
        "tsmultirange", "tstzmultirange", "datemultirange", "pg_lsn", "pg_snapshot", "txid_snapshot", "jsonpath",
        "xid", "xid8", "cid", "tid", "oidvector", "int2vector", "refcursor", "regclass", "regcollation",
        "regconfig", "regdictionary", "regnamespace", "regoper", "regoperator", "regproc", "regprocedure",
        "regrole", "regtype",
    }
)  # fmt: skip
_VALUES = (
    INTEGERS | FLOATS | JSON
    | {"boolean", "numeric", "date", "time without time zone", TIMESTAMP, TIMESTAMPTZ, "uuid", "bytea"}
)  # fmt: skip
# What separates the elements of arrays: pg_type.typdelim, a comma for all but a few.
_DELIMITERS = {"box": ";", "geometry": ":", "geography": ":"}

_TYPE = re.compile(r"(?P<head>.*?)(?:\((?P<modifiers>[^()\"]*)\))?(?P<tail>[^()\[\]]*)(?P<array>\[\])?", re.DOTALL)
_NUMBERS = re.compile(r"-?\d+(?:,-?\d+)*")


@dataclass(frozen=True, slots=True)
class ColumnType:
    """A type as `format_type` names it: `numeric(12,2)[]` is base `numeric`, modifiers (12, 2), an array."""

    name: str
    base: str
    modifiers: tuple[int, ...]
    array: bool

    @classmethod
    def parse(cls, name: str) -> "ColumnType":
        found = _TYPE.fullmatch(name)
        if found is None:
            return cls(name, name, (), False)
        listed = found["modifiers"] or ""
        modifiers = tuple(map(int, listed.split(","))) if _NUMBERS.fullmatch(listed) else ()
        base = found["head"] + found["tail"]
        if base.startswith("interval "):  # `interval day to second(3)`
            base = "interval"
        return cls(name, base, modifiers, found["array"] is not None)

    @property
    def builtin(self) -> bool:
        """Whether every PostgreSQL server has the type."""
        return self.base in _TEXTS or self.base in _VALUES

    @property
    def element(self) -> "ColumnType":
        """Of an array."""
        return ColumnType(self.name.removesuffix("[]"), self.base, self.modifiers, False)

    @property
    def delimiter(self) -> str:
        return _DELIMITERS.get(self.base.rpartition(".")[2], ",")


@dataclass(frozen=True, slots=True)
class StoredColumn:
    """A column of a stored table; `identity` is `a` (always), `d` (by default) or empty."""

    name: str
    type: ColumnType
    not_null: bool
    identity: str


@dataclass(frozen=True, slots=True)
class TableHeader:
    """What a restore must know of a stored table: its columns in the order of the rows' fields, and its primary key."""

    schema: str
    name: str
    columns: tuple[StoredColumn, ...]
    key: tuple[str, ...]
    encoding: str = UTF8

    @classmethod
    def of_table(cls, table: MappedTable) -> Self:
        columns = tuple(
            StoredColumn(c.name, ColumnType.parse(c.type), c.not_null, c.identity)
            for c in table.table.columns
            if not c.generated
        )
        return cls(table.table.schema, table.table.name, columns, tuple(table.table.primary_key), table.encoding)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Of `as_dict`, from this release or another. Raises KeyError, TypeError, ValueError."""
        columns = tuple(
            StoredColumn(str(name), ColumnType.parse(kind), bool(not_null), identity or "")
            for name, kind, not_null, identity, *_ in document["columns"]
        )
        encoding = str(document.get("encoding", UTF8))
        return cls(str(document["schema"]), str(document["name"]), columns, tuple(document["key"]), encoding)

    def as_dict(self) -> dict[str, object]:
        """The header as it is stored."""
        return {
            "schema": self.schema,
            "name": self.name,
            "columns": [[c.name, c.type.name, c.not_null, c.identity] for c in self.columns],
            "key": list(self.key),
            **({"encoding": self.encoding} if self.encoding != UTF8 else {}),
        }

    @property
    def full_name(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def whole_key(self) -> tuple[str, ...]:
        """The primary key; empty where the backup lacks one of its columns."""
        return self.key if set(self.key) <= set(self.column_names) else ()
