"""The empty database that a recovery fills: is it empty, how far is the run, what is in it already.

A schema of the run's own, `sbh_recovery`, says which steps and which tenants are done. Each is noted in the transaction that does
it, so that a run killed anywhere goes on where it stopped and nothing is loaded twice. It is dropped at the end.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from sbh_pipelines.database.session.connection import Connection, connect, describe_dsn, translated
from sbh_pipelines.database.session.programs import RECOVERY_SCHEMA
from sbh_pipelines.database.session.search_path import OWN
from sbh_pipelines.database.session.sql import literal
from sbh_pipelines.errors import RestoreRefused, SourceConflict
from sbh_pipelines.settings import DatabaseSettings

_WAIT_S = 30  # for the server to notice that a killed run's session is gone
_OURS = f"n.nspname <> '{RECOVERY_SCHEMA}'"
_STRANGE = "n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'"
_OF_EXTENSION = (
    "EXISTS (SELECT FROM pg_depend d WHERE d.objid = o.oid AND d.classid = '{0}'::regclass AND d.deptype = 'e')"
)
# What was made in the database; what an extension brought is not counted, nor is an empty schema.
_CONTENT = " UNION ALL ".join(
    f"SELECT n.nspname || '.' || o.{name} FROM {catalog} o JOIN pg_namespace n ON n.oid = o.{name[:3]}namespace"
    f" WHERE {kinds} AND {_STRANGE} AND {_OURS} AND NOT {_OF_EXTENSION.format(catalog)}"
    for catalog, name, kinds in (
        ("pg_class", "relname", "o.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')"),
        ("pg_proc", "proname", "true"),
        ("pg_type", "typname", "o.typtype IN ('e', 'd', 'r')"),
    )
)

_CREATE = f"""
CREATE SCHEMA {RECOVERY_SCHEMA};
CREATE TABLE {RECOVERY_SCHEMA}.run (
    id text NOT NULL, platform_backup text NOT NULL, requested_by text NOT NULL, begun_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE {RECOVERY_SCHEMA}.phase (name text PRIMARY KEY, seconds float8 NOT NULL, facts jsonb NOT NULL);
CREATE TABLE {RECOVERY_SCHEMA}.tenant (
    tenant_id text PRIMARY KEY, region text NOT NULL, backup_id text NOT NULL, facts jsonb NOT NULL,
    proved boolean NOT NULL DEFAULT false, files jsonb);
"""


@dataclass(frozen=True, slots=True)
class LoadedFacts:
    """What is noted of a tenant when it is loaded.

    Attributes:
        key: The tenant's key.
        rows: Rows loaded.
        bytes: Their bytes before compression.
        seconds: How long loading took, s.
        point: Recovery point of the backup, ISO 8601 in UTC.
        sums: Sums of the rows of layered tables, by the tables' full names.
        sequences: Values of sequences at the backup, by name.
        passed_over: Newer backups that are damaged.
        drifted: Of each table whose columns are not the backup's any more: the full name that it has now, and the columns that were
            loaded as they are; nothing where the table is gone.
        schema_changes: What differs, and what became of it.
    """

    key: str
    rows: int
    bytes: int
    seconds: float
    point: str | None
    sums: Mapping[str, str]
    sequences: Mapping[str, int]
    passed_over: Sequence[Mapping[str, Any]]
    drifted: Mapping[str, Sequence[str]] = field(default_factory=dict)
    schema_changes: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Loaded:
    """A tenant that is in the database: from which backup, what was loaded, what is proved."""

    tenant_id: str
    region: str
    backup_id: str
    facts: LoadedFacts
    proved: bool
    files: Mapping[str, int] | None


class Run:
    """How far a recovery is. One connection in autocommit, which holds the lock that keeps two runs apart. Use `open_run`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def _ask(self, query: str) -> list[tuple[Any, ...]]:
        with translated("read how far the recovery is"):
            cursor = self.connection.cursor()
            cursor.execute(query)
            found: list[tuple[Any, ...]] = cursor.fetchall()
            return found

    def find_names(self, path: str) -> None:
        """Let functions find their names by this search path, as SQL."""
        with translated("set the search path"):
            self.connection.cursor().execute(f"SET search_path = {path}")
        self.connection.application_path = path

    def begun(self) -> tuple[str, str] | None:
        """(restore id, platform backup) of the run that this database belongs to; None where it belongs to none."""
        if not self._ask(f"SELECT FROM pg_namespace WHERE nspname = '{RECOVERY_SCHEMA}'"):
            return None
        rows = self._ask(f"SELECT id, platform_backup FROM {RECOVERY_SCHEMA}.run")
        return rows[0][0], rows[0][1]

    def begin(self, restore_id: str, platform_backup: str, requested_by: str, dsn: str) -> None:
        """Raises RestoreRefused where the database is not empty."""
        found = self._ask(f"SELECT * FROM ({_CONTENT}) AS c LIMIT 4")
        if found:
            raise RestoreRefused(
                "The target database is not empty",
                on=describe_dsn(dsn),
                why=f"it has {', '.join(str(name) for (name,) in found[:3])}{' and more' if len(found) > 3 else ''}",
                remedy="create an empty database and name that; nothing was written",
            )
        values = ", ".join(map(literal, (restore_id, platform_backup, requested_by)))
        with translated("begin the recovery"):
            self.connection.cursor().execute(
                f"BEGIN; {_CREATE} INSERT INTO {RECOVERY_SCHEMA}.run VALUES ({values}); COMMIT"
            )

    def phases(self) -> dict[str, dict[str, Any]]:
        """By name, what is done: {'seconds', and what was noted of it}."""
        return {
            name: {"seconds": seconds, **facts}
            for name, seconds, facts in self._ask(f"SELECT * FROM {RECOVERY_SCHEMA}.phase")
        }

    def tenants(self) -> list[Loaded]:
        rows = self._ask(f"SELECT * FROM {RECOVERY_SCHEMA}.tenant ORDER BY tenant_id")
        return [
            Loaded(tenant, region, backup, LoadedFacts(**facts), proved, files)
            for tenant, region, backup, facts, proved, files in rows
        ]

    def end(self) -> None:
        """The recovery is complete: nothing of it stays."""
        with translated("end the recovery"):
            self.connection.cursor().execute(f"DROP SCHEMA {RECOVERY_SCHEMA} CASCADE")


@contextmanager
def open_run(target: DatabaseSettings) -> Iterator[Run]:
    """Raises SourceConflict while another recovery is at work on the database."""
    with closing(connect(target, "recovery")) as connection:
        cursor = connection.cursor()
        try:
            with translated("lock the target database"):
                # nosemgrep: value-quoted-by-hand-in-sql - a constant of ours
                cursor.execute(f"SET lock_timeout = '{_WAIT_S}s'")
                # nosemgrep: value-quoted-by-hand-in-sql - a constant of ours
                cursor.execute(f"SELECT pg_advisory_lock(hashtext('{RECOVERY_SCHEMA}'))")
        except SourceConflict:
            raise SourceConflict(
                "Another recovery is at work on the target database",
                on=describe_dsn(target.dsn),
                remedy="wait for it to end; a killed one is let go of by the server within a minute",
            ) from None
        with translated("prepare the session"):
            cursor.execute(f"SET lock_timeout = 0; SET statement_timeout = 0; SET search_path = {OWN}")
        yield Run(connection)


def note_phase(name: str, seconds: float, facts: Mapping[str, object]) -> str:
    """The statement that notes a step; to be run in the transaction that does it."""
    values = f"{literal(name)}, {seconds:.3f}, {literal(json.dumps(facts))}"
    return f"INSERT INTO {RECOVERY_SCHEMA}.phase VALUES ({values})"


def note_tenant(tenant_id: str, region: str, backup_id: str, facts: LoadedFacts) -> str:
    """The statement that notes a tenant as loaded."""
    values = ", ".join(map(literal, (tenant_id, region, backup_id, json.dumps(asdict(facts)))))
    return f"INSERT INTO {RECOVERY_SCHEMA}.tenant VALUES ({values})"


def note_proved(tenant_id: str) -> str:
    return f"UPDATE {RECOVERY_SCHEMA}.tenant SET proved = true WHERE tenant_id = {literal(tenant_id)}"


def note_files(tenant_id: str, facts: Mapping[str, int]) -> str:
    values = f"files = {literal(json.dumps(facts))} WHERE tenant_id = {literal(tenant_id)}"
    return f"UPDATE {RECOVERY_SCHEMA}.tenant SET {values}"


def run(connection: Connection, statement: str, what: str, on: str = "") -> None:
    """Run one statement; its errors are raised as errors of `errors/`."""
    with translated(what, on):
        connection.cursor().execute(statement)


@contextmanager
def transaction(target: DatabaseSettings, purpose: str, begin: str = "BEGIN") -> Iterator[Connection]:
    """A connection in a transaction that is committed at the end of the block; an error rolls it back."""
    with closing(connect(target, purpose)) as connection:
        run(connection, f"SET statement_timeout = 0; {begin}", "begin a transaction")
        yield connection
        run(connection, "COMMIT", "commit what was recovered")
