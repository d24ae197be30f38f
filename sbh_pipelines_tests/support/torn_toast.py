"""Damage of the kind that a bad disk does: values that are stored out of line are gone."""

from contextlib import closing

from sbh_pipelines_tests.support.databases import Database


def tear_toast(database: Database, table: str) -> None:
    """Every value of the table that is stored out of line cannot be read any more: its TOAST table is an empty one's."""
    swap = (
        "UPDATE pg_class c SET relfilenode = e.relfilenode FROM pg_class e WHERE c.oid = %s::oid AND e.oid = %s::oid",
        "SELECT r.reltoastrelid::bigint, (SELECT indexrelid FROM pg_index WHERE indrelid = r.reltoastrelid)::bigint"
        " FROM pg_class r WHERE r.oid = %s::regclass",
    )
    with closing(database.connect()) as connection:
        cursor = connection.cursor()
        cursor.execute(f"CREATE SCHEMA torn; CREATE TABLE torn.{table} (value text)")
        cursor.execute("SET allow_system_table_mods = on")
        found = []
        for schema in ("public", "torn"):
            cursor.execute(swap[1], (f"{schema}.{table}",))
            found.append(cursor.fetchone())
        for damaged, empty in zip(*found, strict=True):
            cursor.execute(swap[0], (damaged, empty))
