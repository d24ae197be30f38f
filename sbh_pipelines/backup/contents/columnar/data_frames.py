"""Rows as a pandas DataFrame. Imported where it is used: pandas takes a second."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from sbh_pipelines.backup.contents.columnar.arrow import ROWS_TOGETHER, arrow_array, arrow_type, text_array
from sbh_pipelines.backup.contents.copy_text import decoder, fields_by_column, row_lines, value_of
from sbh_pipelines.database.schema.table_header import StoredColumn, TableHeader

_NULLABLE = {
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.float32(): pd.Float32Dtype(),
    pa.float64(): pd.Float64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
    pa.string(): pd.StringDtype(),
}
# Of these pandas has no type of its own: Python's values, one by one.
_OBJECTS = ("numeric", "json", "jsonb", "date", "time without time zone", "bytea")


def data_frame(header: TableHeader, pieces: Callable[[], Iterator[bytes]], wanted: Sequence[str]) -> pd.DataFrame:
    """The rows that `pieces` gives, its columns `wanted` in this order. Raises CorruptObject."""
    chosen = [(at, column, _object_column(column)) for at, column in enumerate(header.columns) if column.name in wanted]
    parts: dict[str, list[Any]] = {column.name: [] for _, column, _ in chosen}
    texts: dict[str, list[Any]] = {}
    for lines in row_lines(pieces(), ROWS_TOGETHER):
        fields = fields_by_column(lines, header)
        for at, column, objects in chosen:
            if objects:
                decode = decoder(column.type)
                parts[column.name] += [value_of(field, decode) for field in fields[at]]
            elif column.name not in texts:
                try:
                    parts[column.name].append(arrow_array(fields[at], column.type))
                except ValueError:
                    texts[column.name] = []
    # Columns with a value that their type cannot hold are read again, as text.
    for lines in row_lines(pieces(), ROWS_TOGETHER) if texts else ():
        fields = fields_by_column(lines, header)
        for at, column, _ in chosen:
            if column.name in texts:
                texts[column.name].append(text_array(fields[at]))
    made = {}
    for _, column, objects in chosen:
        if objects:
            made[column.name] = pd.Series(parts[column.name], dtype=object)
        elif column.name in texts:
            made[column.name] = _series(texts[column.name], pa.string())
        else:
            made[column.name] = _series(parts[column.name], arrow_type(column.type))
        parts[column.name] = []
    return pd.DataFrame({name: made[name] for name in wanted}, columns=list(wanted))


def _object_column(column: StoredColumn) -> bool:
    return column.type.array or column.type.base in _OBJECTS


def _series(arrays: list[Any], kind: Any) -> Any:
    return pa.chunked_array(arrays, kind).to_pandas(types_mapper=_NULLABLE.get)
