"""What is taken off the empty tables before rows come, and put back afterwards.

A CHECK may call a function that reads other tables, or one that needs the application's search path. Rows come table by
table, and not in the order that such a function would like, so these are put back when all rows are there, and validated then.
What takes a function that could only be made to refuse goes for good, in a throw-away database.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psycopg2

from sbh_pipelines.database.rebuild.left_out import LeftOut
from sbh_pipelines.database.rebuild.script import NOT_MADE
from sbh_pipelines.database.session.connection import Connection, translate, translated
from sbh_pipelines.database.session.search_path import OWN
from sbh_pipelines.database.session.sql import ident, literal

# Of the tables and domains themselves, not those that they inherit; functions and operators of the server's own leave no trace.
_CHECKS = """
SELECT c.contypid = 0, n.nspname, coalesce(t.relname, y.typname), c.conname, pg_get_constraintdef(c.oid),
       obj_description(c.oid, 'pg_constraint')
FROM pg_constraint c LEFT JOIN pg_class t ON t.oid = c.conrelid LEFT JOIN pg_type y ON y.oid = c.contypid
JOIN pg_namespace n ON n.oid = c.connamespace
WHERE c.contype = 'c' AND c.coninhcount = 0 AND c.convalidated AND EXISTS (SELECT FROM pg_depend d
      WHERE d.classid = 'pg_constraint'::regclass AND d.objid = c.oid
      AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass))
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.deptype = 'e' AND (d.classid, d.objid) IN
      (('pg_class'::regclass::oid, c.conrelid), ('pg_type'::regclass::oid, c.contypid)))
ORDER BY 1, 2, 3, 4"""

_STUBS = f"SELECT p.oid FROM pg_proc p WHERE p.prosrc LIKE '%{NOT_MADE}%'"
_INDEXES = f"""
SELECT DISTINCT format('%I.%I', n.nspname, c.relname) FROM pg_depend d JOIN pg_class c ON c.oid = d.objid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE d.classid = 'pg_class'::regclass AND c.relkind IN ('i', 'I') AND d.refclassid = 'pg_proc'::regclass
  AND d.refobjid IN ({_STUBS}) AND NOT c.relispartition ORDER BY 1"""
_GENERATED = f"""
SELECT format('%I.%I', n.nspname, c.relname), quote_ident(a.attname) FROM pg_depend d JOIN pg_attrdef f ON f.oid = d.objid
JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_proc'::regclass AND d.refobjid IN ({_STUBS})
  AND a.attgenerated = 's' AND a.attinhcount = 0 ORDER BY 1, 2"""

_FAILED = ("22", "23514", "2F", "38", "39", "42", "P0")  # how a validation ends, by the row or by the function


@dataclass(frozen=True, slots=True)
class Check:
    """A CHECK of a table or a domain that is not there while rows are loaded.

    Attributes:
        of_table: Whether it is a table's; else a domain's.
        schema: Schema of the table or domain.
        owner: Name of the table or domain.
        name: Name of the constraint.
        definition: SQL of the constraint.
        comment: What is said of it; null for nothing.
    """

    of_table: bool
    schema: str
    owner: str
    name: str
    definition: str
    comment: str | None

    @property
    def _owner(self) -> str:
        return f"{ident(self.schema)}.{ident(self.owner)}"

    @property
    def _altered(self) -> str:
        return f"ALTER {'TABLE' if self.of_table else 'DOMAIN'} {self._owner}"

    @property
    def removal(self) -> str:
        return f"{self._altered} DROP CONSTRAINT {ident(self.name)}"

    @property
    def additions(self) -> Iterator[str]:
        """Put back without a look at the rows."""
        yield f"{self._altered} ADD CONSTRAINT {ident(self.name)} {self.definition} NOT VALID"
        if self.comment is not None:
            on = self._owner if self.of_table else f"DOMAIN {self._owner}"
            yield f"COMMENT ON CONSTRAINT {ident(self.name)} ON {on} IS {literal(self.comment)}"

    @property
    def validation(self) -> str:
        return f"{self._altered} VALIDATE CONSTRAINT {ident(self.name)}"

    @property
    def shown(self) -> str:
        return f"CONSTRAINT {ident(self.name)} ON {self._owner}"


def take_off(connection: Connection) -> tuple[list[Check], list[LeftOut]]:
    """Within a transaction: CHECKs that come back later, and what is gone for good."""
    with translated("set constraints aside"):
        cursor = connection.cursor()
        cursor.execute(f"SET LOCAL search_path = {OWN}")
        left_out = list(_without_stubs(cursor))
        checks: list[Check] = []
        while found := _found(cursor):
            for check in found:
                cursor.execute(check.removal)
            checks += found
    return checks, left_out


def _found(cursor: Any) -> list[Check]:
    """Those of parents first: what a child has by itself as well shows when the parent's is gone."""
    cursor.execute(_CHECKS)
    return [Check(*row) for row in cursor.fetchall()]


def _without_stubs(cursor: Any) -> Iterator[LeftOut]:
    cursor.execute(_INDEXES)
    for (name,) in cursor.fetchall():
        cursor.execute(f"DROP INDEX {name}")
        yield LeftOut(f"CREATE INDEX {name}", NOT_MADE.replace("this", "its"))
    cursor.execute(_GENERATED)
    for table, column in cursor.fetchall():
        cursor.execute(
            f"ALTER TABLE {table} ALTER COLUMN {column} DROP EXPRESSION, ALTER COLUMN {column} DROP NOT NULL"
        )
        yield LeftOut(f"generated column {column} of {table}", NOT_MADE.replace("this", "its"))


def put_back(connection: Connection, checks: Iterable[Mapping[str, Any]]) -> list[LeftOut]:
    """Within a transaction: add them, and validate them with the application's search path; those that do not hold."""
    left_out, cursor = list[LeftOut](), connection.cursor()
    # The other way round: a child's is there again before the parent's finds it.
    for check in reversed([Check(**fields) for fields in checks]):
        with translated("put a constraint back", check.shown):
            cursor.execute(f"SET LOCAL search_path = {OWN}")
            for statement in check.additions:
                cursor.execute(statement)
            cursor.execute(f"SET LOCAL search_path = {connection.application_path}; SAVEPOINT sbh_check")
        try:
            cursor.execute(check.validation)
        except psycopg2.Error as error:
            if not (error.pgcode or "").startswith(_FAILED):
                raise translate(error, "validate a constraint", check.shown) from None
            why = translate(error, "validate a constraint", check.shown).why
            left_out.append(LeftOut(check.shown, f"it is there, but not validated: {why}"))
            cursor.execute("ROLLBACK TO SAVEPOINT sbh_check")
    return left_out


def as_phase_facts(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """How they are noted with a step."""
    return [asdict(check) for check in checks]
