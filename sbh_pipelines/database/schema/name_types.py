"""Values that are names of the catalogue (regclass and its like): their texts depend on the search path.

Rows of tables with such values are read with `pg_catalog` alone in the path, where every other name is written with its schema:
so the text is one, whatever the path of the application, and leads to the same object everywhere.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.database.session.sql import sql_name

_NAMES = re.compile(r"reg[a-z]+(\[\])*")

# All types that the columns are made of: domains, arrays, ranges, composite types, to any depth.
_OF_NAMES = """
WITH RECURSIVE used AS (
    SELECT a.atttypid AS type FROM pg_attribute a WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped
  UNION
    SELECT p.part FROM used u JOIN pg_type t ON t.oid = u.type CROSS JOIN LATERAL (
        SELECT t.typbasetype AS part UNION SELECT t.typelem
        UNION SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid OR r.rngmultitypid = t.oid
        UNION SELECT a.atttypid FROM pg_attribute a
              WHERE t.typrelid <> 0 AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) p
    WHERE p.part <> 0)
SELECT EXISTS (SELECT FROM used u JOIN pg_type t ON t.oid = u.type
               WHERE t.typname ~ '^reg' AND t.typnamespace = 'pg_catalog'::regnamespace)"""


@contextmanager
def exact_names(connection: Connection, table: MappedTable) -> Iterator[None]:
    """For the length of the block, names in the table's rows are written with their schema."""
    if not _holds_names(connection, table):
        yield
        return
    with own_names(connection):
        yield


def _holds_names(connection: Connection, table: MappedTable) -> bool:
    types = {column.type for column in table.table.columns}
    if any(_NAMES.fullmatch(kind) for kind in types):
        return True
    if not any("." in kind for kind in types):  # the server's own types, of no parts
        return False
    with translated("read a table's types", table.full_name), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_OF_NAMES, (sql_name(table.table),))
        return bool(cursor.fetchone()[0])
