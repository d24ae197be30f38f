"""SQL that operators write into the settings, and what is asked of a restored database.

Hooks of restores run a statement in a transaction of its own. Assertions of drills must each give one value, true.
"""

import re
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any

import psycopg2

from sbh_pipelines.database.session.connection import Connection, connect, translate, translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.database.session.sql import ident, literal
from sbh_pipelines.errors import DrillFailed
from sbh_pipelines.settings import DatabaseSettings

_TENANT = re.compile(r"(?<!:):tenant\b")  # `::tenant` is a cast
_SHOWN = 200  # characters of an assertion in an error
_FOREIGN_KEYS = """
SELECT count(*) FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace
WHERE c.contype = 'f' AND c.convalidated AND c.conparentid = 0 AND n.nspname = ANY(%s)
"""


def count_rows(connection: Connection, schema: str, name: str) -> int:
    """All rows of a table, with those of its partitions and without those of inheriting tables; 0 where it is gone."""
    table = f"{ident(schema)}.{ident(name)}"
    with translated("count rows", f"{schema}.{name}"):
        cursor = connection.cursor()
        with own_names(connection):
            cursor.execute("SELECT relkind FROM pg_class WHERE oid = to_regclass(%s)", (table,))
            found = cursor.fetchone()
        if found is None:
            return 0
        cursor.execute(f"SELECT count(*) FROM {'' if found[0] == 'p' else 'ONLY '}{table}")
        return int(cursor.fetchone()[0])


def valid_foreign_keys(connection: Connection, schemas: Sequence[str]) -> int:
    """How many foreign keys the server has found to hold."""
    with translated("count foreign keys"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_FOREIGN_KEYS, (list(schemas),))
        return int(cursor.fetchone()[0])


def check_assertions(connection: Connection, assertions: Iterable[str], tenant_key: str) -> int:
    """Run the user's SQL, each of which must give one value, true; how many there were.

    Raises DrillFailed naming all that do not. What a statement gave, and what the server said of it, may hold rows'
    values: neither is in the error, but the code of the server's error is.
    """
    cursor = connection.cursor()
    with translated("prepare the assertions"):
        cursor.execute("SET default_transaction_read_only = on")
    failed = []
    number = 0
    for number, text in enumerate(assertions, 1):
        said = _asserted(cursor, _TENANT.sub(lambda _: literal(tenant_key), text))
        if said is not None:
            failed.append((f"drill.assertions[{number - 1}] `{' '.join(text.split())[:_SHOWN]}`", said))
    if failed:
        raise DrillFailed(
            "Assertions do not hold on what was restored",
            on="; ".join(name for name, _ in failed),
            why="; ".join(dict.fromkeys(said for _, said in failed)),
            remedy="run them on the live tenant: either the backup lacks something, or an assertion is out of date",
        )
    return number


def _asserted(cursor: Any, statement: str) -> str | None:
    """What is wrong with an assertion's answer, without the answer."""
    try:
        cursor.execute(statement)
        rows = cursor.fetchmany(2) if cursor.description else []
    except psycopg2.Error as error:
        code = error.pgcode
        if code is None or code[:2] == "08" or code[:3] == "57P":  # the connection or the server is gone
            raise translate(error, "run an assertion") from None
        return f"the server refused it: {type(error).__name__} ({code})"
    if len(rows) != 1 or len(rows[0]) != 1:
        return "it did not give one value"
    return None if rows[0][0] is True else "it did not give true"


_PLACEHOLDER = re.compile(r"(?<![:\w]):(tenant|slug)\b")


def with_tenant(statement: str, key: str, slug: str) -> str:
    """The statement with `:tenant` and `:slug` replaced by literals; `::` casts stay what they are."""
    values = {"tenant": literal(key), "slug": literal(slug)}
    return _PLACEHOLDER.sub(lambda found: values[found[1]], statement)


def run_statement(settings: DatabaseSettings, statement: str, key: str, slug: str, timeout_s: float) -> Any:
    """Run it in a transaction of its own, with the application's search path; the first value it gives, or None."""
    with closing(connect(settings, "hook")) as connection, translated("run a statement of the settings"):
        cursor = connection.cursor()
        cursor.execute("SELECT set_config('statement_timeout', %s, false)", (str(int(timeout_s * 1000)),))
        cursor.execute(with_tenant(statement, key, slug))
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None
