"""Rows that the backup does not have, and that become the tenant's because what they hang on comes back.

Nobody's now, they were written after the backup, before their parent went; or they hang on such a row. A restore that makes
the tenant what it was removes them as it removes all that was written since: they are staged among the live rows.
"""

from sbh_pipelines.database.merge.links import Link
from sbh_pipelines.database.merge.staging import Staging
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.sql import ident


def any_returning(connection: Connection, link: Link, parent: Staging) -> bool:
    """Whether rows of nobody will have a parent by what is staged of its table. Needs that staging to be finished."""
    if link.child.always_belongs:
        return False
    with translated("look for rows of no tenant", link.child.full_name):
        cursor = connection.cursor()
        cursor.execute(f"SELECT EXISTS (SELECT FROM {_returning(link, parent)})")
        return bool(cursor.fetchone()[0])


def stage_returning(link: Link, child: Staging, parent: Staging) -> None:
    """Stage those rows beside the live ones."""
    live = ", ".join(f"t.{ident(name)}" for name in child.columns)
    staged = ", ".join(child.columns.values())
    place = "t.ctid" if child.table.table.kind == "r" else "NULL::tid"
    with translated("look for rows of no tenant", child.table.full_name):
        cursor = child.connection.cursor()
        known = f"EXISTS (SELECT FROM {child.have} h WHERE {child.key_of_live('t', 'h')})"
        if not child.keyed:  # equal rows hang on the same parent: those that were adopted are among these
            cursor.execute(f"DELETE FROM {child.have} WHERE nobodys")
            known = "false"
        cursor.execute(
            f"INSERT INTO {child.have} ({staged}, place, nobodys)"
            f" SELECT {live}, {place}, true FROM {_returning(link, parent)} AND NOT {known}"
        )
    child.finish()


def _returning(link: Link, parent: Staging) -> str:
    """FROM and WHERE of the child's rows of nobody, as `t`, that hang on a row that comes back or is adopted."""
    columns = ", ".join(parent.columns.values())
    coming = f"(SELECT {columns} FROM {parent.want} UNION ALL SELECT {columns} FROM {parent.adopted_rows} h)"
    return (
        f"{link.child.own_source} WHERE EXISTS (SELECT FROM {parent.named(coming, 'p')} WHERE {link.condition})"
        f" AND {link.child.belongs_to_nobody}"
    )
