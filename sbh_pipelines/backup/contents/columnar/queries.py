"""SQL over the tables of a backup, by DuckDB: in memory, without a database, and without a way out of the process.

DuckDB is given each table as an Arrow stream (the Arrow PyCapsule interface), which it opens anew for each look through it. So only
tables that a query names are read from the repository, and none is in memory as a whole unless the query has to sort or join it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sbh_pipelines.backup.contents.columnar.arrow import Unfit, arrow_schema, arrow_type, record_batches
from sbh_pipelines.database.schema.table_header import TableHeader
from sbh_pipelines.errors import RequestError, SbhError

if TYPE_CHECKING:
    import pandas as pd

_MEMORY_MIB = 1024
_MOST_MIB = 1024  # of a result
_ROWS = 2_048  # of a batch of it
# Nothing is written to disk and no file is read: what a query says, and the rows, are of a tenant.
_CLOSED: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": f"{_MEMORY_MIB}MiB",
    "temp_directory": "",
    "python_enable_replacements": False,
}


class QueryTable:
    """A table as DuckDB scans it: a stream of its rows, made anew each time."""

    def __init__(self, header: TableHeader, pieces: Callable[[], Iterator[bytes]]) -> None:
        self.header, self._pieces = header, pieces
        # Columns that are given as text: DuckDB has no decimal of more than 38 digits.
        self.texts = frozenset(column.name for column in header.columns if _has_wide_decimal(arrow_type(column.type)))
        self.error: Exception | None = None  # what ended the last stream

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        schema = arrow_schema(self.header, self.texts)
        return pa.RecordBatchReader.from_batches(schema, self._batches()).__arrow_c_stream__(requested_schema)

    def _batches(self) -> Iterator[Any]:
        try:
            yield from record_batches(self.header, self._pieces(), self.texts)
        except Exception as error:  # it would come back as DuckDB's words
            self.error = error
            raise


def run_query(tables: Mapping[str, QueryTable], query: str) -> "pd.DataFrame":
    """The result of one SELECT over tables by `schema.table`; without a schema a name is looked up in all of them.

    A column with a value that its type in DuckDB cannot hold is text, as is `numeric` without a precision. DuckDB may use 1 GiB,
    and the result as much: it comes in batches, which are counted. Raises RequestError where the query cannot be run or needs more,
    and what reading a table raises.
    """
    try:
        import duckdb
    except ImportError:
        raise RequestError(
            "SQL over a backup needs DuckDB", remedy="pip install duckdb, or install sbh-pipelines with the extra `sql`"
        ) from None
    left_out: list[str] = []
    while True:
        with duckdb.connect(config=_CLOSED) as connection:
            try:
                left_out = _register(connection, tables)
                statements = connection.extract_statements(query)
                if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                    raise RequestError("One SELECT is run at a time, and nothing else", on=ascii(query)[:128])
                return _frame(connection.sql(statements[0]).to_arrow_reader(_ROWS), query)
            except duckdb.Error as error:
                if not _fitted(tables):
                    raise RequestError(
                        "The query cannot be run",
                        on=ascii(query)[:128],
                        why=str(error).partition("\n")[0],
                        remedy=f"the backup's tables: {', '.join(n for n in tables if n not in left_out) or 'none'}"
                        + (f"; not these, whose names differ in case alone: {', '.join(left_out)}" if left_out else ""),
                    ) from None


def _frame(batches: Any, query: str) -> "pd.DataFrame":
    """The rows of a result. Raises RequestError where they are too many to be held."""
    held, size = [], 0
    for batch in batches:
        held.append(batch)
        size += batch.nbytes
        if size > _MOST_MIB << 20:
            raise RequestError(
                "The result is too large",
                on=ascii(query)[:128],
                why=f"it is more than {_MOST_MIB} MiB",
                remedy="add up, or add a LIMIT",
            )
    found: pd.DataFrame = pa.Table.from_batches(held, batches.schema).to_pandas()
    return found


def _has_wide_decimal(kind: Any) -> bool:
    return pa.types.is_decimal256(kind) or (pa.types.is_list(kind) and _has_wide_decimal(kind.value_type))


def _register(connection: Any, tables: Mapping[str, QueryTable]) -> list[str]:
    """Make each table known; those that cannot be, for DuckDB takes names that differ in case alone for one."""
    schemas = dict.fromkeys(table.header.schema for table in tables.values())
    known, left_out = set[tuple[str, str]](), []
    for schema in schemas:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {_quoted(schema)}")
    for nth, (full_name, table) in enumerate(tables.items()):
        place = (table.header.schema.lower(), table.header.name.lower())
        if place in known:
            left_out.append(full_name)
            continue
        known.add(place)
        connection.register(f"sbh_{nth}", table)
        name = f"{_quoted(table.header.schema)}.{_quoted(table.header.name)}"
        connection.execute(f"CREATE VIEW {name} AS SELECT * FROM sbh_{nth}")
    if schemas:
        path = ",".join(_quoted(schema) for schema in schemas)
        connection.execute(f"SET search_path = {_literal(path)}")
    connection.execute("SET enable_external_access = false; SET lock_configuration = true")
    return left_out


def _fitted(tables: Mapping[str, QueryTable]) -> bool:
    """Whether a column that did not fit its type is text from now on, so that the query may be run again.

    Raises what reading a table raised.
    """
    again = False
    for table in tables.values():
        error, table.error = table.error, None
        if isinstance(error, Unfit) and not error.columns <= table.texts:
            table.texts |= error.columns
            again = True
        elif isinstance(error, SbhError):
            raise error
    return again


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    """As DuckDB reads a string: a backslash is one."""
    return "'" + text.replace("'", "''") + "'"
