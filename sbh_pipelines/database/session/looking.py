"""Sessions that only look. Whatever code of the application runs in them writes nothing.

The planner calls functions of indexes' predicates even for a read, with the rights of the session's role. A default that says
READ ONLY is a setting, which such code turns off for the next statement. So each statement says it for its own transaction,
before it takes a snapshot: after that nobody takes it back.
"""

from typing import Any

import psycopg2.extensions

from sbh_pipelines.database.session.connection import Connection, connect, translated
from sbh_pipelines.settings import DatabaseSettings

_READ_ONLY = "SET TRANSACTION READ ONLY; "


class LookingCursor(psycopg2.extensions.cursor):  # type: ignore[misc]
    """Every statement is, or is in, a transaction that is READ ONLY for good."""

    def execute(self, query: str | bytes, values: Any = None) -> None:
        # One message is one transaction, where none was begun before.
        super().execute(_READ_ONLY.encode() + query if isinstance(query, bytes) else _READ_ONLY + query, values)


def look(settings: DatabaseSettings, purpose: str, *, within_s: float = 0.0) -> Connection:
    """A connection in autocommit that writes nothing, and waits for no lock longer than a restore does.

    `within_s`: bound of a statement where `database.statement_timeout_s` is none. Raises as `connect` does.
    """
    connection = connect(settings, purpose)
    connection.cursor_factory = LookingCursor
    timeout_s = settings.statement_timeout_s or within_s
    with translated("prepare the session"):
        connection.cursor().execute(
            f"SET lock_timeout = {int(settings.lock_timeout_s * 1000)}; SET statement_timeout = {int(timeout_s * 1000)}"
        )
    return connection
