"""Would the application's statements still work once its tables are published? The server itself is asked.

A published table refuses UPDATE and DELETE where its replica identity does not do, and the rules of that grow with each version
(generated columns since 18). So a publication is made in a transaction that is rolled back, and in it each partition's UPDATE and
DELETE are explained: the server checks a statement before it would run it. Nobody else sees any of it; the tables are locked
against DDL and VACUUM for as long as it takes.

Explaining runs no statement and no trigger, and still some code of the tables' owners: the planner works out what is immutable and
knows its arguments. What rules add to a statement would be planned as well, so a table with rules is not tried. Of an index, of
extended statistics, or of a stored generated column it may call functions, with the rights of our role: by then the transaction is
READ ONLY for good, as where captures look, and `sbh doctor` names whose functions these are. What writes outside of transactions,
such as making a replication slot, it does not hold back.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

import psycopg2

from sbh_pipelines.database.journal.identity import FOREIGN, Leaf, TableIdentity, read_identities
from sbh_pipelines.database.journal.publication import add_table, options
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import Connection, savepoint, translate, translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.database.session.sql import ident
from sbh_pipelines.errors import PrivilegeMissing, SbhError


@dataclass(frozen=True, slots=True)
class Problem:
    """What publishing a table would break.

    Attributes:
        on: The table or partition.
        statement: Which statements would fail: UPDATE, DELETE; or PUBLISH, where it cannot be published.
        why: The server's own words.
        known: False: it could not be tried, for want of a privilege. Nothing is known, not that it breaks.
    """

    on: str
    statement: str
    why: str
    known: bool = True


def probe(
    connection: Connection,
    tables: Sequence[MappedTable],
    identities: dict[str, TableIdentity] | None = None,
    *,
    wait_s: float = 1.0,
) -> dict[str, Problem]:
    """The first problem of each table that has one, by full name. The connection is one of `connect`, in autocommit.

    The role has to own the tables and to be allowed to create in the database; where it may not, each table's problem says so.
    Raises SourceConflict when a table was locked for longer than `wait_s`.
    """
    identities = identities or read_identities(connection, tables)
    name = f"sbh_probe_{secrets.token_hex(8)}"
    with translated("probe the tables"):
        cursor = connection.cursor()
        cursor.execute(f"BEGIN; SET LOCAL lock_timeout = {int(wait_s * 1000)}")
    try:
        made = f"CREATE PUBLICATION {ident(name)} WITH ({options(connection, tables, identities)})"
        if problem := _refusal(connection, "", "PUBLISH", made):
            return {mapped.full_name: replace(problem, on=mapped.full_name) for mapped in tables}
        found: dict[str, Problem] = {}
        for mapped in tables:
            if problem := _refusal(connection, mapped.full_name, "PUBLISH", add_table(name, mapped.table)):
                found[mapped.full_name] = problem
        rest = [
            mapped.full_name for mapped in tables if mapped.full_name in identities and mapped.full_name not in found
        ]
        leaves = {table: [leaf for leaf in identities[table].leaves if leaf.kind != FOREIGN] for table in rest}
        for table in rest:
            # Before it is asked what they have: from here on nobody gives them a rule.
            locks = ((leaf, _held(leaf)) for leaf in leaves[table])
            if problem := next(
                filter(None, (_refusal(connection, leaf.full_name, "PUBLISH", lock) for leaf, lock in locks)), None
            ):
                found[table] = problem
        rest = [table for table in rest if table not in found]
        statements, ruled = _statements(connection, [leaf for table in rest for leaf in leaves[table]])
        for table in rest:
            if having := [leaf.full_name for leaf in leaves[table] if leaf.oid in ruled]:
                found[table] = Problem(having[0], "PUBLISH", "it has rules: what they do would be planned as well")
        rest = [table for table in rest if table not in found]
        with translated("let the probe write nothing"):
            cursor.execute("SET LOCAL constraint_exclusion = off; SET TRANSACTION READ ONLY")
        for table in rest:
            tries = ((leaf, *one) for leaf in leaves[table] for one in statements[leaf.oid])
            if problem := next(
                filter(None, (_refusal(connection, leaf.full_name, *one) for leaf, *one in tries)), None
            ):
                found[table] = problem
        return found
    finally:
        if not connection.closed:
            with translated("end the probe"):
                cursor.execute("ROLLBACK")


# A column that an UPDATE may name: of an identity that is always generated it may say DEFAULT only.
_SETTABLE = """
SELECT DISTINCT ON (a.attrelid) a.attrelid::int8, a.attname::text, a.attidentity = 'a'
FROM pg_attribute a WHERE a.attrelid = ANY(%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
ORDER BY a.attrelid, a.attidentity = 'a', a.attnum"""


_RULED = "SELECT DISTINCT r.ev_class::int8 FROM pg_rewrite r WHERE r.ev_class = ANY(%s::oid[])"


def _held(leaf: Leaf) -> str:
    return f"LOCK TABLE ONLY {ident(leaf.schema)}.{ident(leaf.name)} IN ACCESS SHARE MODE"


def _statements(
    connection: Connection, leaves: Sequence[Leaf]
) -> tuple[dict[int, list[tuple[str, str]]], frozenset[int]]:
    """(what to explain for each leaf: the word by which a problem names it, and the SQL; those that have rules)."""
    with translated("read the tables' columns"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_SETTABLE, ([leaf.oid for leaf in leaves],))
        settable = {oid: (name, always) for oid, name, always in cursor.fetchall()}
        cursor.execute(_RULED, ([leaf.oid for leaf in leaves],))
        ruled = frozenset(oid for (oid,) in cursor.fetchall())
    found: dict[int, list[tuple[str, str]]] = {}
    for leaf in leaves:
        named = f"ONLY {ident(leaf.schema)}.{ident(leaf.name)}"
        found[leaf.oid] = [("DELETE", f"EXPLAIN DELETE FROM {named} WHERE false")]
        if leaf.oid in settable:
            column, always = settable[leaf.oid]
            value = "DEFAULT" if always else ident(column)
            found[leaf.oid].append(("UPDATE", f"EXPLAIN UPDATE {named} SET {ident(column)} = {value} WHERE false"))
    return found, ruled


def _refusal(connection: Connection, on: str, what: str, statement: str) -> Problem | None:
    """What the server has against a statement. Raises SourceConflict where somebody holds the table."""
    details: list[str] = []
    try:
        with savepoint(connection):
            try:
                connection.cursor().execute(statement)
            except psycopg2.Error as error:
                if error.pgcode in _OF_IDENTITIES:  # these details name columns, and nothing of rows
                    details.append(error.diag.message_detail or "")
                raise translate(error, "probe a table", on) from None
    except SbhError as refused:
        if refused.transient or connection.closed:
            raise
        why = ": ".join(filter(None, (refused.why, *details)))
        return Problem(on, what, why, known=not isinstance(refused, PrivilegeMissing))
    return None


_OF_IDENTITIES = ("42P10", "55000", "0A000")
