"""What is done once rows are there: views are filled, statistics gathered. Neither keeps a rebuild from ending well."""

from collections.abc import Iterable
from contextlib import suppress

from sbh_pipelines.database.rebuild.left_out import LeftOut
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.errors import SbhError

_NAMES = """
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'sbh_recovery') AND """


def refresh_views(connection: Connection) -> list[LeftOut]:
    """Fill the materialized views anew, those that others read from first: a dump makes them in that order.

    Those that cannot be filled, because a function in them fails.
    """
    with translated("read the materialized views"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(f"{_NAMES} c.relkind = 'm' AND c.relispopulated ORDER BY c.oid")
        names = [name for (name,) in cursor.fetchall()]
    return _each(connection, "REFRESH MATERIALIZED VIEW", names)


def analyze(connection: Connection) -> list[LeftOut]:
    """Gather statistics; the tables that have none, as a function of an index or of extended statistics fails."""
    with suppress(SbhError):
        with translated("gather statistics"):
            connection.cursor().execute("ANALYZE")
        return []
    with translated("read the tables"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(f"{_NAMES} c.relkind IN ('r', 'p', 'm') ORDER BY 1")
        names = [name for (name,) in cursor.fetchall()]
    return _each(connection, "ANALYZE", names)


def _each(connection: Connection, verb: str, names: Iterable[str]) -> list[LeftOut]:
    """Run a statement on each; those on which it fails. Raises what may pass by itself."""
    left_out = []
    for name in names:
        try:
            with translated(verb.lower(), name):
                connection.cursor().execute(f"{verb} {name}")
        except SbhError as error:
            if error.transient:
                raise
            left_out.append(LeftOut(f"{verb} {name}", error.why))
    return left_out
