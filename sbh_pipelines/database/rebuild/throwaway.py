"""Throw-away databases, for drills: made empty, filled, looked at, dropped.

A drill that is killed leaves its database behind; a later one drops it. The name says that it was a drill's, and when it
began. Nothing is ever dropped that has another name, another owner, a session in it, or is younger than a day.
"""

import re
from contextlib import closing
from datetime import UTC, datetime, timedelta
from types import TracebackType

import psycopg2
from psycopg2.errors import InsufficientPrivilege, ObjectInUse
from psycopg2.extensions import make_dsn

from sbh_pipelines.database.session.connection import Connection, connect, describe_dsn, translate, translated
from sbh_pipelines.database.session.sql import ident, literal
from sbh_pipelines.errors import PrivilegeMissing
from sbh_pipelines.model import DrillId
from sbh_pipelines.settings import DatabaseSettings, Settings

LEFTOVER_AGE = timedelta(days=1)
_NAME = re.compile(r"sbh_drill_(\d{8}_\d{6})_[0-9a-f]{6}")
_PROVIDERS = 150000
_LOCALES = {"i": "icu ICU_LOCALE", "b": "builtin BUILTIN_LOCALE"}

_LIKE = """
SELECT pg_encoding_to_char(encoding), datcollate, datctype, coalesce(to_jsonb(d) ->> 'datlocprovider', 'c'),
       coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale')
FROM pg_database d WHERE datname = current_database()
"""
_LEFTOVERS = """
SELECT datname FROM pg_database d WHERE datname LIKE 'sbh\\_drill\\_%' AND pg_has_role(datdba, 'USAGE')
AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datid = d.oid)
"""


def drill_server(settings: Settings) -> DatabaseSettings:
    """How drills connect: as the application's backups do, unless `drill.dsn` names another server."""
    database, drill = settings.database, settings.drill
    if drill.dsn is None:
        return database
    changed: dict[str, object] = {"dsn": drill.dsn}
    if drill.password or drill.password_file or drill.password_secret:
        changed |= {name: getattr(drill, name) for name in ("password", "password_file", "password_secret")}
    return database.model_copy(update=changed)


class ThrowawayDatabase:
    """A database of one drill. Made by `create`; the end of a `with` block drops it, whatever happened inside.

    An idle session in it shows other drills that it is in use.
    """

    def __init__(self, server: DatabaseSettings, name: str) -> None:
        self._server, self.name = server, name
        self.settings = server.model_copy(update={"dsn": make_dsn(server.dsn, dbname=name)})
        self._guard: Connection = connect(self.settings, "drill guard")

    @classmethod
    def create(cls, settings: Settings, drill_id: DrillId) -> "ThrowawayDatabase":
        """An empty database with the encoding and locale of the application's. Raises PrivilegeMissing."""
        server, name = drill_server(settings), f"sbh_{drill_id}"
        with closing(connect(settings.database, "drill")) as source, translated("look at the application's database"):
            cursor = source.cursor()
            cursor.execute(_LIKE)
            like = cursor.fetchone()
        connection = connect(server, "drill")
        try:
            options = _options(connection.server_version, *like)
            connection.cursor().execute(f"CREATE DATABASE {ident(name)} TEMPLATE template0 {options}")
        except InsufficientPrivilege:
            raise PrivilegeMissing(
                "A drill cannot create its throw-away database",
                on=describe_dsn(server.dsn),
                why="the role may not create databases",
                remedy="ALTER ROLE … CREATEDB for the backup role, or let drill.dsn name another server",
            ) from None
        except psycopg2.Error as error:
            raise translate(error, "create a throw-away database", name) from None
        finally:
            connection.close()
        try:
            return cls(server, name)
        except BaseException:
            _drop(server, name, force=True)
            raise

    def __enter__(self) -> "ThrowawayDatabase":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._guard.close()
        try:
            _drop(self._server, self.name, force=True)
        except Exception as second:
            if error is None:
                raise
            error.add_note(f"and its database is still there: {second}")


def drop_leftovers(server: DatabaseSettings, now: datetime) -> list[str]:
    """Drop the databases of drills that were killed more than a day ago; their names."""
    with closing(connect(server, "drill")) as connection, translated("look for leftovers of drills"):
        cursor = connection.cursor()
        cursor.execute(_LEFTOVERS)
        found = [str(name) for (name,) in cursor.fetchall()]
    return [name for name in sorted(found) if _is_old(name, now) and _drop(server, name, force=False)]


def _is_old(name: str, now: datetime) -> bool:
    if (parts := _NAME.fullmatch(name)) is None:
        return False
    try:
        begun = datetime.strptime(parts[1], "%Y%m%d_%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return False
    return now - begun > LEFTOVER_AGE


def _drop(server: DatabaseSettings, name: str, *, force: bool) -> bool:
    """Drop a database; whether it is gone. Without `force`, one that has a session stays."""
    with closing(connect(server, "drill")) as connection, translated("drop a throw-away database", name):
        try:
            connection.cursor().execute(f"DROP DATABASE IF EXISTS {ident(name)}{' WITH (FORCE)' if force else ''}")
        except ObjectInUse:
            if force:
                raise
            return False
    return True


def _options(version: int, encoding: str, collate: str, ctype: str, provider: str, locale: str | None) -> str:
    """How CREATE DATABASE says it; before PostgreSQL 15 there was no provider but libc."""
    options = f"ENCODING {literal(encoding)} LC_COLLATE {literal(collate)} LC_CTYPE {literal(ctype)}"
    if version < _PROVIDERS:
        return options
    if locale is None or provider not in _LOCALES:
        return f"{options} LOCALE_PROVIDER libc"
    return f"{options} LOCALE_PROVIDER {_LOCALES[provider]} {literal(locale)}"
