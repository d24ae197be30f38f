"""Connection strings that come with a request: they are shown, logged and kept in shell histories, so they hold no secret."""

import psycopg2
import psycopg2.extensions

from sbh_pipelines.errors import RequestError

_SECRET = frozenset({"password", "sslpassword"})


def check_dsn(dsn: str) -> None:
    """Raises RequestError for what is no libpq connection string, and for one with a password in it."""
    try:
        parts = psycopg2.extensions.parse_dsn(dsn)
    except psycopg2.Error:
        # Neither the text nor the driver's words about it are shown: they may hold what should not be there.
        raise RequestError(
            "Not a libpq connection string", remedy="e.g. host=db.example.com dbname=copy user=sbh_backup"
        ) from None
    if _SECRET & parts.keys():
        shown = " ".join(f"{k}={parts[k]}" for k in ("host", "port", "dbname", "user") if k in parts)
        raise RequestError(
            "The connection string has a password in it",
            on=shown,
            why="whoever lists the processes of this machine, or reads the shell's history, sees it",
            remedy="leave it out: it is taken from PGPASSWORD, ~/.pgpass, or the setting database.password",
        )
