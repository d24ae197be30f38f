"""Rows as Apache Arrow columns: for Parquet files and data frames.

A column has one Arrow type for all of its rows, but some values of PostgreSQL have no place in it: a `numeric(10,2)` that is NaN,
a date at infinity, an array of two dimensions among arrays of one. Nothing is changed to fit: whoever meets such a value is
told (`Unfit`) and begins again with the whole column as PostgreSQL's text.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from io import RawIOBase
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sbh_pipelines.backup.contents.copy_text import (
    as_text,
    decoder,
    fields_by_column,
    parse_array,
    row_lines,
)
from sbh_pipelines.database.schema.table_header import TIMESTAMP, TIMESTAMPTZ, ColumnType, TableHeader

ROWS_TOGETHER = 10_000
_GROUP_ROWS, _GROUP_BYTES = 100_000, 16 << 20  # the writer takes about three times these bytes

Fields = Sequence[bytes | None]

_TYPES: dict[str, Callable[[], Any]] = {
    "smallint": pa.int16,
    "integer": pa.int32,
    "bigint": pa.int64,
    "oid": pa.uint32,
    "real": pa.float32,
    "double precision": pa.float64,
    "boolean": pa.bool_,
    "bytea": pa.binary,
    "date": pa.date32,
    "time without time zone": lambda: pa.time64("us"),
    TIMESTAMP: lambda: pa.timestamp("us"),
    TIMESTAMPTZ: lambda: pa.timestamp("us", "UTC"),
}
_DECIMAL128, _DECIMAL256 = 38, 76  # digits


class Unfit(Exception):
    """These columns have values that their Arrow type cannot hold."""

    def __init__(self, columns: Collection[str]) -> None:
        super().__init__(", ".join(columns))
        self.columns = frozenset(columns)


def arrow_type(kind: ColumnType) -> Any:
    """The Arrow type that holds a type's values; string where there is none."""
    if kind.array:
        return pa.list_(arrow_type(kind.element))
    if kind.base == "numeric":
        # Without a precision every row may have its own scale.
        if len(kind.modifiers) == 2 and 0 <= kind.modifiers[1] <= kind.modifiers[0] <= _DECIMAL256:
            return (pa.decimal128 if kind.modifiers[0] <= _DECIMAL128 else pa.decimal256)(*kind.modifiers)
        return pa.string()
    return _TYPES.get(kind.base, pa.string)()


def arrow_array(fields: Fields, kind: ColumnType) -> Any:
    """A column's fields as an array of `arrow_type(kind)`. Raises ValueError (ArrowInvalid is one) where one does not fit."""
    if kind.array:
        return _lists(fields, kind)
    wanted = arrow_type(kind)
    if kind.base in ("bytea", "time without time zone"):
        decode = decoder(kind)
        return pa.array([None if f is None else decode(f.decode()) for f in fields], wanted)
    texts = pa.array(fields, pa.binary()).cast(pa.string())
    if kind.base == "boolean":
        return pc.equal(texts, "t")
    return texts if wanted == pa.string() else texts.cast(wanted)


def _lists(fields: Fields, kind: ColumnType) -> Any:
    ends: list[int] = [0]
    absent: list[bool] = []
    elements: list[bytes | None] = []
    for field in fields:
        absent.append(field is None)
        for item in parse_array(field.decode(), kind.delimiter) if field is not None else ():
            if isinstance(item, list):
                raise ValueError("more than one dimension")
            elements.append(None if item is None else item.encode())
        ends.append(len(elements))
    values = arrow_array(elements, kind.element)
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values, mask=pa.array(absent, pa.bool_()))


def text_array(fields: Fields) -> Any:
    """PostgreSQL's text of each field, whatever it is."""
    return pa.array([None if field is None else as_text(field) for field in fields], pa.string())


def arrow_schema(header: TableHeader, texts: Collection[str]) -> Any:
    """`texts` are columns given as text. Each field's metadata has the PostgreSQL type."""
    return pa.schema(
        [
            pa.field(
                column.name,
                pa.string() if column.name in texts else arrow_type(column.type),
                nullable=not column.not_null,
                metadata={"postgresql_type": column.type.name},
            )
            for column in header.columns
        ]
    )


def record_batches(header: TableHeader, pieces: Iterable[bytes], texts: Collection[str]) -> Iterator[Any]:
    """The rows in batches of at most ROWS_TOGETHER. Raises Unfit, CorruptObject."""
    schema = arrow_schema(header, texts)
    for lines in row_lines(pieces, ROWS_TOGETHER):
        arrays, unfit = [], []
        for column, fields in zip(header.columns, fields_by_column(lines, header), strict=True):
            try:
                arrays.append(text_array(fields) if column.name in texts else arrow_array(fields, column.type))
            except (ValueError, ArithmeticError):
                unfit.append(column.name)
        if unfit:
            raise Unfit(unfit)
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def write_parquet(file: RawIOBase, header: TableHeader, pieces: Iterable[bytes], texts: Collection[str]) -> None:
    """Raises Unfit, after which the file is useless; CorruptObject. Row groups are bounded in rows and bytes."""
    writer = pq.ParquetWriter(file, arrow_schema(header, texts), compression="zstd")
    try:
        for group in _row_groups(record_batches(header, pieces, texts)):
            writer.write_table(group)
        writer.close()
    finally:
        writer.is_open = False  # else one that failed tries to end the file again when it is collected


def _row_groups(batches: Iterator[Any]) -> Iterator[Any]:
    waiting: list[Any] = []
    rows = size = 0
    for batch in batches:
        waiting.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
            yield pa.Table.from_batches(waiting)
            waiting, rows, size = [], 0, 0
    if waiting:
        yield pa.Table.from_batches(waiting)
