"""Rows that the backup does not have, and that become the tenant's because what they hang on comes back.

Nobody's now, they were written after the backup, before their parent went; or they hang on such a row. A restore that makes
the tenant what it was removes them as it removes all that was written since: they are staged among the live rows.

Where a condition with a sub-query says whose a row is, what is staged cannot tell what it will give. Such rows are found once
everything is written: no plan knows their number.
"""

from collections.abc import Sequence

from sbh_pipelines.database.merge.merge import TableMerge
from sbh_pipelines.database.merge.relationships.links import Link
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
    with translated("look for rows of no tenant", child.table.full_name):
        cursor = child.connection.cursor()
        known = f"EXISTS (SELECT FROM {child.have} h WHERE {child.key_of_live('t', 'h')})"
        if not child.keyed:  # equal rows hang on the same parent: those that were adopted are among these
            cursor.execute(f"DELETE FROM {child.have} WHERE nobodys")
            known = "false"
        cursor.execute(f"{_stage(child)} FROM {_returning(link, parent)} AND NOT {known}")
    child.finish()


def _stage(child: Staging) -> str:
    """The beginning of a statement that stages rows `t` of nobody beside the live ones."""
    live = ", ".join(f"t.{ident(name)}" for name in child.columns)
    place = "t.ctid" if child.table.table.kind == "r" else "NULL::tid"
    return (
        f"INSERT INTO {child.have} ({', '.join(child.columns.values())}, place, nobodys) SELECT {live}, {place}, true"
    )


class LateRows:
    """Rows that are the tenant's once everything is written, were not before, and did not come from the backup.

    `remember` before anything is written, `remove` after.
    """

    def __init__(self, merges: Sequence[TableMerge]) -> None:
        self._merges = merges

    def remember(self) -> None:
        """Note where the tenant's rows lie."""
        for merge in self._merges:
            with translated("look whose rows they are", merge.table.full_name):
                merge.staging.connection.cursor().execute(
                    f"CREATE TEMP TABLE {_before(merge)} ON COMMIT DROP AS SELECT t.tableoid AS part, t.ctid AS place"
                    f" FROM {merge.table.source} WHERE {merge.table.tenant_is([merge.staging.tenant_key])}"
                )

    def remove(self) -> int:
        """Delete them, staged as rows of nobody; how many."""
        return sum(self._remove(merge) for merge in self._merges)

    def _remove(self, merge: TableMerge) -> int:
        late, staging = f"pg_temp.sbh_late_{merge.staging.number}", merge.staging
        lies = "{0}.part OPERATOR(pg_catalog.=) t.tableoid AND {0}.place OPERATOR(pg_catalog.=) t.ctid"
        with translated("remove rows written since the backup", merge.table.full_name):
            cursor = staging.connection.cursor()
            cursor.execute(
                f"CREATE TEMP TABLE {late} ON COMMIT DROP AS SELECT t.tableoid AS part, t.ctid AS place"
                f" FROM {merge.table.source} WHERE {merge.table.tenant_is([staging.tenant_key])}"
                f" AND t.xmin OPERATOR(pg_catalog.<>) pg_catalog.pg_current_xact_id()::pg_catalog.xid"
                f" AND NOT EXISTS (SELECT FROM {_before(merge)} b WHERE {lies.format('b')})"
                f" AND NOT EXISTS (SELECT FROM {staging.adopted_rows} h WHERE {_same(staging)})"
            )
            rows: int = cursor.rowcount
            if rows:
                source = f"{merge.table.own_source} JOIN {late} l ON {lies.format('l')}"
                cursor.execute(f"{_stage(staging)} FROM {source}")
                cursor.execute(f"DELETE FROM {merge.table.own_source} USING {late} l WHERE {lies.format('l')}")
                merge.also_deleted(cursor.rowcount)
                staging.finish()
        return rows


def _same(staging: Staging) -> str:
    """The condition that the live row `t` is the staged row `h`; of rows without a key, that they are equal."""
    if staging.keyed:
        return staging.key_of_live("t", "h")
    return f"{staging.record('h')}::pg_catalog.text OPERATOR(pg_catalog.=) {staging.live_record('t')}::pg_catalog.text"


def _before(merge: TableMerge) -> str:
    return f"pg_temp.sbh_before_{merge.staging.number}"


def _returning(link: Link, parent: Staging) -> str:
    """FROM and WHERE of the child's rows of nobody, as `t`, that hang on a row that comes back or is adopted."""
    columns = ", ".join(parent.columns.values())
    coming = f"(SELECT {columns} FROM {parent.want} UNION ALL SELECT {columns} FROM {parent.adopted_rows} h)"
    return (
        f"{link.child.own_source} WHERE EXISTS (SELECT FROM {parent.named(coming, 'p')} WHERE {link.condition})"
        f" AND {link.child.belongs_to_nobody}"
    )
