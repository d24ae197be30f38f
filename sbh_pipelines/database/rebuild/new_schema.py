"""Looks: schemas of old rows beside the live ones, made and filled in one transaction, and dropped when their time is over.

Nobody chooses the name of one: a schema that is named like a role, or that comes first in somebody's search path, would be found
where others mean the application's tables. The comment says whose it is and until when; what has no such comment, or another
owner, is never dropped.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime
from types import TracebackType
from typing import Self

from sbh_pipelines.database.merge.schema_changes import changed_catalogs
from sbh_pipelines.database.merge.transaction import fire_deferred, written_by
from sbh_pipelines.database.schema.mapping.outside import COPIES
from sbh_pipelines.database.schema.table_header import TableHeader
from sbh_pipelines.database.session.connection import Connection, connect, database_encoding, translated
from sbh_pipelines.database.session.copying import copy_in
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.database.session.sql import exchanged, ident, literal
from sbh_pipelines.errors import LookRefused, ProofFailed, SbhError
from sbh_pipelines.model import parse_timestamp
from sbh_pipelines.settings import DatabaseSettings

PREFIX = "sbh_look_"
_NAME = re.compile(rf"{PREFIX}[a-z0-9_]+")
_SLUG_PART = 24  # characters; the whole name has at most 63 bytes
_TRIES = 20
_LOCK = "sbh look of "

_OURS = """
SELECT n.nspname, obj_description(n.oid, 'pg_namespace') FROM pg_namespace n
WHERE n.nspname LIKE 'sbh\\_look\\_%' AND n.nspowner = (SELECT oid FROM pg_roles WHERE rolname = current_user) ORDER BY 1"""
_OF_CALLERS = """
SELECT n.nspname::text, EXISTS (SELECT FROM pg_roles r WHERE r.rolname = n.nspname) FROM pg_namespace n
WHERE obj_description(n.oid, 'pg_namespace') = %s ORDER BY 1"""
_TAKEN = "SELECT nspname FROM pg_namespace UNION SELECT rolname FROM pg_roles"
_TABLES = """
SELECT format('%%I.%%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind = 'r' AND c.relowner = n.nspowner"""


@dataclass(frozen=True, slots=True)
class Look:
    """A schema of copies that is there.

    Attributes:
        schema: Its name.
        tenant_id: The tenant for whom it was made, by the slug of then.
        tenant_key: Its key.
        label: What the caller called it.
        expires_at: From when on it is dropped, UTC, ISO 8601.
    """

    schema: str
    tenant_id: str
    tenant_key: str
    label: str
    expires_at: str

    def expired(self, now: datetime) -> bool:
        return parse_timestamp(self.expires_at) <= now

    @property
    def comment(self) -> str:
        facts = asdict(self)
        del facts["schema"]
        return f"{COPIES}: {json.dumps(facts)}"


def looks(connection: Connection) -> list[Look]:
    """Those that are there, and of the session's role."""
    with translated("look for schemas of copies"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_OURS)
        found = cursor.fetchall()
    return [look for name, comment in found if (look := _read(str(name), str(comment or "")))]


def unnamed_looks(connection: Connection) -> list[tuple[str, bool]]:
    """Schemas of copies that earlier releases made, under names of callers; and whether a role has that name."""
    with translated("look for schemas of copies"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_OF_CALLERS, (COPIES,))
        found: list[tuple[str, bool]] = cursor.fetchall()
        return found


def _read(schema: str, comment: str) -> Look | None:
    if not _NAME.fullmatch(schema) or not comment.startswith(f"{COPIES}: "):
        return None
    try:
        facts = json.loads(comment.removeprefix(f"{COPIES}: "))
        look = Look(schema, *(str(facts[name]) for name in ("tenant_id", "tenant_key", "label", "expires_at")))
        parse_timestamp(look.expires_at)
    except (ValueError, KeyError, TypeError, SbhError):
        return None
    return look


def drop_looks(settings: DatabaseSettings, chosen: Sequence[Look]) -> list[tuple[Look, SbhError]]:
    """Drop them; those that could not be dropped, and why. Nothing goes that is not of them: a view over one keeps it."""
    failed = []
    with closing(connect(settings, "drop looks")) as connection:
        for look in chosen:
            try:
                _drop(connection, look, settings.lock_timeout_s)
            except SbhError as error:
                failed.append((look, error))
    return failed


def _drop(connection: Connection, look: Look, wait_s: float) -> None:
    cursor = connection.cursor()
    with translated("drop a schema of copies", look.schema):
        cursor.execute(f"BEGIN; SET LOCAL lock_timeout = {int(wait_s * 1000)}")
    try:
        with translated("drop a schema of copies", look.schema):
            if look in looks(connection):
                with own_names(connection):
                    cursor.execute(_TABLES, (look.schema,))
                    tables = [name for (name,) in cursor.fetchall()]
                if tables:
                    cursor.execute(f"DROP TABLE {', '.join(tables)}")
                cursor.execute(f"DROP SCHEMA {ident(look.schema)}")
            cursor.execute("COMMIT")
    except SbhError:
        if not connection.closed:
            cursor.execute("ROLLBACK")
        raise


class NewSchema:
    """Use it as a context; what was not committed when it ends never was. `schema` is its name."""

    def __init__(self, settings: DatabaseSettings, tenant_id: str, tenant_key: str, label: str) -> None:
        self._settings, self._tenant_id, self._tenant_key, self._label = settings, tenant_id, tenant_key, label
        self.schema = ""
        self._connection: Connection = None

    def __enter__(self) -> Self:
        self._connection = connect(self._settings, "into schema")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def create(self, now: datetime, expires: datetime) -> None:
        """Make the schema. Raises LookRefused where the tenant has one already, or one is being made."""
        with translated("make a schema"):
            cursor = self._connection.cursor()
            # The session's, for the snapshot must be younger than the lock: who had it before has made what is to be seen.
            cursor.execute(
                "SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended(%s, 0))",
                (_LOCK + self._tenant_key,),
            )
            if not cursor.fetchone()[0]:
                raise self._refused("one is being made at this moment", "wait for its end")
            # One snapshot: what others write to the catalogue meanwhile is not taken for what this transaction wrote.
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            if there := [look for look in looks(self._connection) if look.tenant_key == self._tenant_key]:
                raise self._refused(
                    f"{there[0].schema} is there until {there[0].expires_at}",
                    f"sbh restore drop-look {there[0].schema} -t {self._tenant_id}",
                )
            cursor.execute(_TAKEN)
            self.schema = _free_name(self._tenant_id, now, {name for (name,) in cursor.fetchall()})
            look = Look(self.schema, self._tenant_id, self._tenant_key, self._label, expires.isoformat())
            name = ident(self.schema)
            cursor.execute(f"CREATE SCHEMA {name}; REVOKE ALL ON SCHEMA {name} FROM PUBLIC")
            cursor.execute(f"COMMENT ON SCHEMA {name} IS {literal(look.comment)}")

    def _refused(self, why: str, remedy: str) -> LookRefused:
        return LookRefused("A tenant has one schema of copies at a time", on=self._tenant_id, why=why, remedy=remedy)

    def _tables(self) -> set[int]:
        with translated("look at the copies", self.schema):
            cursor = self._connection.cursor()
            cursor.execute(
                "SELECT c.oid::pg_catalog.int8 FROM pg_catalog.pg_class c WHERE c.relnamespace"
                " OPERATOR(pg_catalog.=) pg_catalog.to_regnamespace(%s)::pg_catalog.oid",
                (ident(self.schema),),
            )
            return {oid for (oid,) in cursor.fetchall()}

    def fill(self, name: str, header: TableHeader, pieces: Iterator[bytes]) -> int:
        """Make a table with the header's columns and key, and fill it with COPY text; rows. Raises SchemaMismatch."""
        table = f"{ident(self.schema)}.{ident(name)}"
        columns = [f"{ident(column.name)} {column.type.name}" for column in header.columns]
        if header.whole_key:
            columns.append(f"PRIMARY KEY ({', '.join(map(ident, header.whole_key))})")
        with translated("make a table", f"{self.schema}.{name}", writing=True):
            cursor = self._connection.cursor()
            cursor.execute(f"CREATE TABLE {table} ({', '.join(columns)}); REVOKE ALL ON TABLE {table} FROM PUBLIC")
            encoding = exchanged(header.encoding, database_encoding(self._connection))
            rows = copy_in(cursor, table, pieces, encoding)
            cursor.execute(f"ANALYZE {table}")
        return rows

    def commit(self) -> None:
        """Raises ProofFailed where code of types and domains left something else behind."""
        fire_deferred(self._connection)
        others = written_by(self._connection).keys() - self._tables()
        if others or (changed := changed_catalogs(self._connection, self.schema)):
            raise ProofFailed(
                "More was written than copies; rolled back",
                on=f"{len(others)} other tables" if others else ", ".join(changed),
                why="code of the application (of a type or a domain) wrote it",
                remedy="`sbh doctor` lists such code and whose it is; nothing was changed",
            )
        with translated("commit", self.schema):
            self._connection.cursor().execute("COMMIT")


def _free_name(tenant_id: str, now: datetime, taken: set[str]) -> str:
    """One that neither a schema nor a role has."""
    part = re.sub(r"[^a-z0-9]+", "_", tenant_id.lower())[:_SLUG_PART].strip("_") or "tenant"
    base = f"{PREFIX}{part}_{now:%Y%m%d_%H%M%S}"
    for number in range(1, _TRIES):
        name = base if number == 1 else f"{base}_{number}"
        if name not in taken:
            return name
    raise LookRefused("No name is free for a schema of copies", on=base, remedy="try again")
