"""Statements that operators write into the settings: hooks of restores, assertions of drills."""

import re
from typing import Any

from sbh_pipelines.database.schema.tenancy import literal
from sbh_pipelines.database.session.connection import connect, translated
from sbh_pipelines.settings import DatabaseSettings

_PLACEHOLDER = re.compile(r"(?<![:\w]):(tenant|slug)\b")


def with_tenant(statement: str, key: str, slug: str) -> str:
    """The statement with `:tenant` and `:slug` replaced by literals; `::` casts stay what they are."""
    values = {"tenant": literal(key), "slug": literal(slug)}
    return _PLACEHOLDER.sub(lambda found: values[found[1]], statement)


def run_statement(settings: DatabaseSettings, statement: str, key: str, slug: str, timeout_s: float) -> Any:
    """Run it in a transaction of its own, with the database's own search path; the first value it gives, or None."""
    connection = connect(settings, "hook")
    try:
        with translated("run a statement of the settings"):
            cursor = connection.cursor()
            cursor.execute("RESET search_path")
            cursor.execute("SELECT set_config('statement_timeout', %s, false)", (str(int(timeout_s * 1000)),))
            cursor.execute(with_tenant(statement, key, slug))
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None
    finally:
        connection.close()
