"""The publication: which tables' changes the slot gives. An explicit list, altered by what differs.

Never FOR ALL TABLES: a published table without a usable replica identity refuses UPDATE and DELETE, and that would take in tables
of others, and those of tomorrow. Partitions are published as themselves, so that TRUNCATE of one is in the stream.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sbh_pipelines.database.journal.identity import FULL, TableIdentity, read_identities
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.database.session.sql import Relation, ident, literal, sql_name
from sbh_pipelines.errors import JournalError

_GENERATED = 180000  # from here on generated columns can be published
_MARK = "sbh change journal"  # the comment on one of ours
_OPERATIONS = "insert, update, delete, truncate"


@dataclass(frozen=True, slots=True)
class PublicationChange:
    """What makes a publication what it has to be.

    Attributes:
        statements: SQL, for the owner of the tables. Empty: it is as it has to be.
        added: Full names of the tables that are not in it yet.
        removed: Those that are in it and are not to be.
        xid: The 64-bit id of the transaction that ran the statements; None where none ran. Changes of an added table are all in the
            stream only for transactions that began after that one had ended: from the first fence on whose `xmin` is greater.
    """

    statements: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    xid: int | None = None


_STATE = """
SELECT p.puballtables, p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate, p.pubviaroot,
       coalesce(to_jsonb(p) ->> 'pubgencols', 'n'),
       EXISTS (SELECT FROM pg_publication_namespace s WHERE s.pnpubid = p.oid)
FROM pg_publication p WHERE p.pubname = %s"""
_NO_SCHEMAS = _STATE.replace("EXISTS (SELECT FROM pg_publication_namespace s WHERE s.pnpubid = p.oid)", "false")
_SCHEMAS = 150000  # from here on whole schemas can be published

_COMMENT = """
SELECT p.oid::int8, (SELECT d.description FROM pg_description d
                     WHERE d.classoid = 'pg_publication'::regclass AND d.objoid = p.oid AND d.objsubid = 0)
FROM pg_publication p WHERE p.pubname = %s"""

_MEMBERS = """
SELECT r.prrelid::int8, n.nspname, c.relname, c.relkind::text,
       to_jsonb(r) ->> 'prqual' IS NOT NULL OR to_jsonb(r) ->> 'prattrs' IS NOT NULL
FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = %s ORDER BY 2, 3"""


@dataclass(frozen=True, slots=True)
class _Member:
    oid: int
    schema: str
    name: str
    kind: str
    partial: bool  # only some rows or columns of it

    @property
    def full_name(self) -> str:
        return f"{self.schema}.{self.name}"


def plan_publication(
    connection: Connection,
    name: str,
    tables: Sequence[MappedTable],
    identities: dict[str, TableIdentity] | None = None,
) -> PublicationChange:
    """What is to be done so that the publication is of these tables. Changes nothing. Raises JournalError for one of all tables."""
    identities = identities or read_identities(connection, tables, name)
    generated = _generated(connection, tables, identities)
    with translated("read the publication", name), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_STATE if connection.server_version >= _SCHEMAS else _NO_SCHEMAS, (name,))
        state = cursor.fetchone()
        cursor.execute(_MEMBERS, (name,))
        members = [_Member(*row) for row in cursor.fetchall()]
    wanted = {mapped.table.oid: mapped.table for mapped in tables}
    if state is None:
        statements = [f"CREATE PUBLICATION {ident(name)} WITH ({_options(generated)})"]
        statements += [add_table(name, table) for table in wanted.values()]
        statements.append(f"COMMENT ON PUBLICATION {ident(name)} IS {literal(_MARK)}")
        return PublicationChange(tuple(statements), tuple(t.full_name for t in wanted.values()), ())
    all_tables, operations, via_root, published_generated, schemas = state
    if all_tables or schemas:
        raise JournalError(
            "The publication is of all tables, of a schema or of the database",
            on=name,
            why="tables without a usable replica identity would refuse UPDATE and DELETE, also those of tomorrow",
            remedy=f"DROP PUBLICATION {ident(name)}; or name another one under [journal]: publication",
        )
    kept = {member.oid for member in members if not member.partial}
    gone = [member for member in members if member.oid not in wanted]
    new = [table for oid, table in wanted.items() if oid not in kept]
    right = operations and not via_root and published_generated == ("s" if generated == "stored" else "n")
    statements = [] if right else [f"ALTER PUBLICATION {ident(name)} SET ({_options(generated)})"]
    statements += [_alter(name, "DROP", member) for member in members if member.partial or member.oid not in wanted]
    statements += [add_table(name, table) for table in new]
    return PublicationChange(
        tuple(statements), tuple(t.full_name for t in new), tuple(member.full_name for member in gone)
    )


def ensure_publication(
    connection: Connection,
    name: str,
    tables: Sequence[MappedTable],
    identities: dict[str, TableIdentity] | None = None,
    *,
    wait_s: float = 5.0,
) -> PublicationChange:
    """Make the publication be of these tables, in one transaction; what was done. The connection is in autocommit.

    Without a difference nothing is locked, and no privilege is needed. Else the role has to own the publication and the tables.
    Raises PrivilegeMissing, SourceConflict where a table was locked for longer than `wait_s`, JournalError.
    """
    change = plan_publication(connection, name, tables, identities)
    if not change.statements:
        return change
    with translated("alter the publication", name):
        cursor = connection.cursor()
        try:
            cursor.execute(f"BEGIN; SET LOCAL lock_timeout = {int(wait_s * 1000)}")
            cursor.execute("SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8")
            (xid,) = cursor.fetchone()
            for statement in change.statements:
                cursor.execute(statement)
            cursor.execute("COMMIT")
        except BaseException:
            if not connection.closed:
                cursor.execute("ROLLBACK")
            raise
    return PublicationChange(change.statements, change.added, change.removed, int(xid))


def is_ours(connection: Connection, name: str, known: int) -> bool | None:
    """Whether the publication is a journal's: it says so, or its oid is `known`. None where there is none."""
    with translated("read the publication", name), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_COMMENT, (name,))
        found = cursor.fetchone()
    return None if found is None else found[0] == known or found[1] == _MARK


def check_members(connection: Connection, name: str, mapped: Collection[int]) -> None:
    """Raises JournalError where it is of other tables than those with these oids: somebody else needs it as it is."""
    with translated("read the publication", name), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_MEMBERS, (name,))
        others = [member.full_name for row in cursor.fetchall() if (member := _Member(*row)).oid not in mapped]
    if others:
        raise JournalError(
            "The publication is another's",
            on=name,
            why=f"the journal did not make it, and it is of {others[0]}"
            + (
                f" and {len(others) - 1:,} more tables that no tenant has rows in"
                if others[1:]
                else ", in which no tenant has rows"
            ),
            remedy='name another one under [journal]: publication = "..."; or, where nobody needs it,'
            f" DROP PUBLICATION {ident(name)}",
        )


def drop_publication(connection: Connection, name: str) -> None:
    """Remove it, where it is there."""
    with translated("drop the publication", name):
        connection.cursor().execute(f"DROP PUBLICATION IF EXISTS {ident(name)}")


def add_table(name: str, table: Relation) -> str:
    """The statement that adds a table to a publication."""
    return _alter(name, "ADD", table)


def options(connection: Connection, tables: Sequence[MappedTable], identities: dict[str, TableIdentity]) -> str:
    """The WITH of a publication of these tables, on this server."""
    return _options(_generated(connection, tables, identities))


def _generated(connection: Connection, tables: Sequence[MappedTable], identities: dict[str, TableIdentity]) -> str:
    """Which generated columns to publish. Nobody reads them; but with identity FULL an UPDATE fails where one is left out."""
    if connection.server_version < _GENERATED:
        return ""
    leaves = [leaf for mapped in tables if (found := identities.get(mapped.full_name)) for leaf in found.leaves]
    return "stored" if any(leaf.identity == FULL and leaf.stored for leaf in leaves) else "none"


def _options(generated: str) -> str:
    said = f"publish = '{_OPERATIONS}', publish_via_partition_root = false"
    return said + (f", publish_generated_columns = {generated}" if generated else "")


def _alter(name: str, verb: str, table: Relation) -> str:
    # Without ONLY tables that inherit from it would come along. A partitioned table is published with its partitions anyway.
    only = "" if table.kind == "p" else "ONLY "
    return f"ALTER PUBLICATION {ident(name)} {verb} TABLE {only}{sql_name(table)}"
