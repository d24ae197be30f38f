"""A new schema, made and filled in one transaction."""

from collections.abc import Iterator
from types import TracebackType
from typing import Self

from sbh_pipelines.database.schema.mapping.outside import COPIES
from sbh_pipelines.database.schema.table_header import TableHeader
from sbh_pipelines.database.session.connection import Connection, connect, database_encoding, translated
from sbh_pipelines.database.session.copying import copy_in
from sbh_pipelines.database.session.sql import exchanged, ident, literal
from sbh_pipelines.errors import RestoreRefused
from sbh_pipelines.settings import DatabaseSettings


class NewSchema:
    """Use it as a context; what was not committed when it ends never was."""

    def __init__(self, settings: DatabaseSettings, schema: str) -> None:
        self._settings, self._schema = settings, schema
        self._connection: Connection = None

    def __enter__(self) -> Self:
        """Raises RestoreRefused where the schema is there."""
        self._connection = connect(self._settings, "into schema")
        try:
            with translated("make a schema", self._schema):
                cursor = self._connection.cursor()
                cursor.execute("BEGIN")
                cursor.execute("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = %s)", (self._schema,))
                if cursor.fetchone()[0]:
                    raise RestoreRefused(
                        "The schema exists; nothing was written",
                        on=self._schema,
                        remedy="drop it, or choose another name",
                    )
                cursor.execute(f"CREATE SCHEMA {ident(self._schema)}")
                cursor.execute(f"COMMENT ON SCHEMA {ident(self._schema)} IS {literal(COPIES)}")
        except BaseException:
            self._connection.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def fill(self, name: str, header: TableHeader, pieces: Iterator[bytes]) -> int:
        """Make a table with the header's columns and key, and fill it with COPY text; rows. Raises SchemaMismatch."""
        table = f"{ident(self._schema)}.{ident(name)}"
        columns = [f"{ident(column.name)} {column.type.name}" for column in header.columns]
        if header.whole_key:
            columns.append(f"PRIMARY KEY ({', '.join(map(ident, header.whole_key))})")
        with translated("make a table", f"{self._schema}.{name}", writing=True):
            cursor = self._connection.cursor()
            cursor.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
            encoding = exchanged(header.encoding, database_encoding(self._connection))
            rows = copy_in(cursor, table, pieces, encoding)
            cursor.execute(f"ANALYZE {table}")
        return rows

    def commit(self) -> None:
        with translated("commit", self._schema):
            self._connection.cursor().execute("COMMIT")
