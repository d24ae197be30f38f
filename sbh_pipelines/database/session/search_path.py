"""Where names are found: those of our own SQL, and those that code of the application uses.

Code of the application runs in our sessions: functions in indexes, which the planner evaluates, CHECKs, domains, generated
columns, triggers that always fire, conditions of links, hooks, assertions of drills. It may use names without their schema, and
finds what it finds in the application's own sessions.

Our own SQL must not find what somebody planted there. `pg_catalog` comes first, so whatever has an exact match in it is the
server's; all else is qualified. What is read of the catalogue is read with `pg_catalog` alone (`own_names`): the texts of types
and expressions depend on the path, and are compared and stored.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from psycopg2.extensions import TRANSACTION_STATUS_INERROR

from sbh_pipelines.database.session.sql import ident
from sbh_pipelines.settings import DatabaseSettings

OWN = "pg_catalog, pg_temp"
"""Temporary tables come last: unnamed they would come first, before the server's own."""

_ELEMENT = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^\s,"]+))\s*(?:,|$)')
_NEVER = ("$user", "pg_catalog", "pg_temp")

# Of the database for all roles; and where extensions put their functions. Qualified: nothing is pinned yet.
FACTS = (
    "(SELECT c FROM pg_catalog.pg_db_role_setting s CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) c"
    " WHERE s.setrole OPERATOR(pg_catalog.=) 0 AND s.setdatabase OPERATOR(pg_catalog.=) (SELECT d.oid FROM pg_catalog.pg_database d"
    " WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())"
    " AND pg_catalog.\"left\"(c, 12) OPERATOR(pg_catalog.=) 'search_path='),"
    " ARRAY(SELECT DISTINCT n.nspname::pg_catalog.text FROM pg_catalog.pg_extension e"
    " JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace ORDER BY 1)"
)


def application_path(settings: DatabaseSettings, of_database: str | None, extensions: Iterable[str]) -> str:
    """The search path of the application, with `pg_catalog` before it; as SQL.

    What the settings say, else what the database says for all roles, else the mapped schemas, `public` and the schemas of
    extensions. Never the schema that is named like the role: whoever may make one would choose what our sessions find.
    """
    if settings.search_path:
        schemas: Sequence[str] = settings.search_path
    elif of_database is not None:
        schemas = split(of_database.partition("=")[2])
    else:
        schemas = [*settings.schemas, "public", *extensions]
    found = [name for name in dict.fromkeys(schemas) if name not in _NEVER]
    return ", ".join(["pg_catalog", *map(ident, found), "pg_temp"])


def split(value: str) -> list[str]:
    """The names in a value of `search_path`."""
    return [
        match[1].replace('""', '"') if match[1] is not None else match[2].lower() for match in _ELEMENT.finditer(value)
    ]


@contextmanager
def own_names(connection: Any) -> Iterator[None]:
    """For the length of the block, names are found in `pg_catalog` only, and texts of the catalogue are qualified."""
    cursor = connection.cursor()
    cursor.execute(f"SET search_path = {OWN}")
    try:
        yield
    finally:
        # In a transaction that failed, its rollback puts the path back.
        if not connection.closed and connection.info.transaction_status != TRANSACTION_STATUS_INERROR:
            # One that is none of `connect` has what its role and database say.
            cursor.execute(f"SET search_path = {getattr(connection, 'application_path', 'DEFAULT')}")
