"""Throw-away databases, for drills: made empty, filled, looked at, dropped.

A drill that is killed leaves its database behind, with a tenant's rows in it; the next one, or prune, drops it. The name says that
it was a drill's. Nothing is ever dropped that has another name, another owner, or a session in it: a drill at work holds one
all the time.
"""

import re
import time
from contextlib import closing
from types import TracebackType

import psycopg2
from psycopg2.errors import InsufficientPrivilege, ObjectInUse
from psycopg2.extensions import make_dsn

from sbh_pipelines.database.merge.transaction import restore_database
from sbh_pipelines.database.session.connection import Connection, connect, describe_dsn, look, translate, translated
from sbh_pipelines.database.session.search_path import own_names, split
from sbh_pipelines.database.session.sql import ident, literal
from sbh_pipelines.database.session.targets import DrillDatabase, has_password, named
from sbh_pipelines.errors import PrivilegeMissing, SbhError, SourceError
from sbh_pipelines.model import DrillId
from sbh_pipelines.settings import DatabaseSettings, Settings

_NAME = re.compile(r"sbh_drill_\d{8}_\d{6}_[0-9a-f]{6}")
_DROP_AGAIN_S = (0.5, 1, 2, 4, 8)  # a server that restarts, or a network that comes back
# The server notices by itself, within a minute, that the machine of a drill is gone; set for sessions over TCP only.
_NOTICED = "SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3"
_PROVIDERS = 150000
_LOCALES = {"i": "icu ICU_LOCALE", "b": "builtin BUILTIN_LOCALE"}

_LIKE = """
SELECT pg_encoding_to_char(encoding), datcollate, datctype, coalesce(to_jsonb(d) ->> 'datlocprovider', 'c'),
       coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'),
       (SELECT substr(c, 13) FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) c
        WHERE s.setrole = 0 AND s.setdatabase = d.oid AND left(c, 12) = 'search_path=')
FROM pg_database d WHERE datname = current_database()
"""
_LEFTOVERS = """
SELECT datname FROM pg_database d WHERE datname LIKE 'sbh\\_drill\\_%' AND pg_has_role(datdba, 'USAGE')
AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datid = d.oid)
"""


def drill_server(settings: Settings) -> DatabaseSettings:
    """How drills connect: as the application's restores do, unless `drill.dsn` names another server, which is not told the
    password of these.
    """
    database, drill = restore_database(settings), settings.drill
    if drill.dsn is None:
        return database
    own = {name: getattr(drill, name) for name in ("password", "password_file", "password_secret")}
    if any(own.values()) or has_password(drill.dsn):
        return database.model_copy(update={"dsn": drill.dsn, **own})
    return named(database, drill.dsn, kind=DrillDatabase)


class ThrowawayDatabase:
    """A database of one drill. Made by `create`; the end of a `with` block drops it, whatever happened inside.

    An idle session in it shows other drills that it is in use.
    """

    def __init__(self, server: DatabaseSettings, name: str) -> None:
        self._server, self.name = server, name
        self.settings = server.model_copy(update={"dsn": make_dsn(server.dsn, dbname=name)})
        self._guard: Connection = connect(self.settings, "drill guard")
        with translated("prepare the session"):
            self._guard.cursor().execute(_NOTICED)

    @classmethod
    def create(cls, settings: Settings, drill_id: DrillId) -> "ThrowawayDatabase":
        """An empty database with the encoding and locale of the application's. Raises PrivilegeMissing."""
        server, name = drill_server(settings), f"sbh_{drill_id}"
        with (
            closing(look(settings.database, "drill")) as source,
            translated("look at the application's database"),
            own_names(source),
        ):
            cursor = source.cursor()
            cursor.execute(_LIKE)
            *like, path = cursor.fetchone()
        if path and not server.search_path:
            server = server.model_copy(update={"search_path": split(path)})
        with closing(connect(server, "drill")) as connection:
            options = _options(connection.server_version, *like)
            for last in (False, True):
                _create(connection, server, name, options)
                try:
                    return cls(server, name)
                except SourceError:
                    # Another drill may have taken it for a leftover: nobody was in it yet.
                    if last or _exists(connection, name):
                        _drop(server, name)
                        raise
                except BaseException:
                    _drop(server, name)
                    raise
        raise AssertionError("unreachable")

    def __enter__(self) -> "ThrowawayDatabase":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._guard.close()
        try:
            _drop_again(self._server, self.name)
        except Exception as second:
            if error is None:
                raise
            error.add_note(f"and its database is still there, until the next drill drops it: {second}")


def drop_leftovers(server: DatabaseSettings) -> list[str]:
    """Drop the databases of drills that were killed or cut off; their names."""
    with (
        closing(look(server, "drill")) as connection,
        translated("look for leftovers of drills"),
        own_names(connection),
    ):
        cursor = connection.cursor()
        cursor.execute(_LEFTOVERS)
        found = [str(name) for (name,) in cursor.fetchall()]
    return [name for name in sorted(found) if _NAME.fullmatch(name) and _drop(server, name, force=False)]


def _create(connection: Connection, server: DatabaseSettings, name: str, options: str) -> None:
    try:
        cursor = connection.cursor()
        cursor.execute("SET statement_timeout = 0")
        # Nobody else gets in, at no time: what was granted to PUBLIC with the database is taken before it is opened.
        cursor.execute(f"CREATE DATABASE {ident(name)} TEMPLATE template0 {options} ALLOW_CONNECTIONS false")
        cursor.execute(f"REVOKE ALL ON DATABASE {ident(name)} FROM PUBLIC")
        cursor.execute(f"ALTER DATABASE {ident(name)} ALLOW_CONNECTIONS true")
    except InsufficientPrivilege:
        raise PrivilegeMissing(
            "A drill cannot create its throw-away database",
            on=describe_dsn(server.dsn),
            why="the role may not create databases",
            remedy="ALTER ROLE … CREATEDB for the backup role, or let drill.dsn name another server",
        ) from None
    except psycopg2.Error as error:
        raise translate(error, "create a throw-away database", name) from None


def _exists(connection: Connection, name: str) -> bool:
    with translated("look for a throw-away database", name), own_names(connection):
        cursor = connection.cursor()
        cursor.execute("SELECT EXISTS (SELECT FROM pg_database WHERE datname = %s)", (name,))
        return bool(cursor.fetchone()[0])


def _drop_again(server: DatabaseSettings, name: str) -> None:
    """Drop it, also where the server is out of reach for a few seconds."""
    for pause in _DROP_AGAIN_S:
        try:
            _drop(server, name)
            return
        except SbhError as error:
            if not error.transient:
                raise
        time.sleep(pause)
    _drop(server, name)


def _drop(server: DatabaseSettings, name: str, *, force: bool = True) -> bool:
    """Drop a database; whether it is gone. Without `force`, one that has a session stays."""
    with closing(connect(server, "drill")) as connection, translated("drop a throw-away database", name):
        cursor = connection.cursor()
        try:
            try:
                cursor.execute(f"DROP DATABASE IF EXISTS {ident(name)}{' WITH (FORCE)' if force else ''}")
            except InsufficientPrivilege:
                # FORCE may not end what is the server's own, such as autovacuum; without it the server does so itself.
                cursor.execute(f"DROP DATABASE IF EXISTS {ident(name)}")
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
