"""What a transaction changed of the database besides rows: schemas, roles, grants, functions, triggers, settings.

A restore changes none of it. Code of the application that runs in it (triggers, CHECKs, functions of indexes) has the rights of
the session's role, and could leave something behind under its name.
"""

from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.database.session.sql import ident, literal

_TEMPORARY = "SELECT n.oid FROM pg_namespace n WHERE n.nspname ~ '^pg_(toast_)?temp_' OR n.nspname IN ('pg_toast', {0})"
_OF_CLASS = "(SELECT c.oid FROM pg_class c WHERE c.relnamespace IN ({0}))"
# By catalogue: which of its rows are of temporary tables, of the schema that is ours, or follow from others (TOAST).
_BUT = {
    "pg_namespace": "x.oid IN ({0})",
    "pg_class": "x.relnamespace IN ({0})",
    "pg_type": "x.typnamespace IN ({0})",
    "pg_proc": "false",
    "pg_operator": "false",
    "pg_cast": "false",
    "pg_trigger": f"x.tgrelid IN {_OF_CLASS}",
    "pg_rewrite": f"x.ev_class IN {_OF_CLASS}",
    "pg_policy": "false",
    "pg_event_trigger": "false",
    "pg_authid": "false",
    "pg_auth_members": "false",
    "pg_database": "false",
    "pg_db_role_setting": "false",
    "pg_default_acl": "false",
    "pg_parameter_acl": "false",
    "pg_extension": "false",
    "pg_language": "false",
    "pg_foreign_server": "false",
    "pg_publication": "false",
    "pg_largeobject_metadata": "false",
}


def changed_catalogs(connection: Connection, schema: str = "") -> list[str]:
    """The catalogues in which this transaction, of one snapshot, has written rows that are there now; those that may be read.

    `schema`: one of ours, whose tables and types do not count.
    """
    with translated("look at what was changed besides rows"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(
            "SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'pg_catalog'::regnamespace"
            " AND c.relname = ANY(%s) AND has_table_privilege(c.oid, 'SELECT')",
            (list(_BUT),),
        )
        ours = _TEMPORARY.format(literal(schema))
        # What began after this transaction is not seen; so a row that is not older is its own, or of a savepoint of it.
        parts = [
            f"SELECT {literal(name)} WHERE EXISTS (SELECT FROM pg_catalog.{ident(name)} x WHERE age(x.xmin) <= 0"
            f" AND NOT ({_BUT[name].format(ours)}))"
            for (name,) in cursor.fetchall()
        ]
        if not parts:
            return []
        cursor.execute(" UNION ALL ".join(parts))
        return sorted(str(name) for (name,) in cursor.fetchall())
