"""Another database than the application's, named by a caller: the password of the settings is not for it.

Whoever answers at an address asks for a password and gets it. So that of the settings goes to the host, port and user of
`database.dsn` alone, over a way that is checked no less; neither does libpq send PGPASSWORD anywhere else. Another target has a
password of its own: given by the caller, in a passfile (also `~/.pgpass`, which has it by host), or of a service.
"""

import os
import pwd
from collections.abc import Mapping
from contextlib import suppress
from typing import ClassVar

import psycopg2
import psycopg2.extensions
from pydantic import SecretStr

from sbh_pipelines.errors import RequestError
from sbh_pipelines.settings import DatabaseSettings, Settings

_SECRET = frozenset({"password", "sslpassword"})
# What does not say where a connection leads, nor what is checked on the way. All else has to be as in the settings.
_FREE = frozenset(
    {"dbname", "application_name", "connect_timeout", "options", "client_encoding", "target_session_attrs"}
    | {"keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"}
)
_PORT = "5432"
GIVE_ITS_OWN = (
    "give its own password: --password-file FILE, or passfile=FILE in the connection string; that of the settings is for the"
    " server of database.dsn only"
)


class NamedDatabase(DatabaseSettings):
    """A database that a caller named, with a password of its own or none."""

    give_its_own: ClassVar[str] = GIVE_ITS_OWN  # the remedy where it has none


class DrillDatabase(NamedDatabase):
    """The server of `drill.dsn`, where it is not the one that the settings' password is for."""

    give_its_own: ClassVar[str] = (
        'drill.password_file = "FILE" under [drill], a file with the password of that role; those of database and restore are for'
        " their own servers only"
    )


class JournalDatabase(NamedDatabase):
    """The application's database as the role of `journal.dsn`, where that is not the one that the settings' password is for."""

    give_its_own: ClassVar[str] = (
        'journal.password_file = "FILE" under [journal], a file with the password of that role; that of database is for its own'
        " role only"
    )


def journal_database(settings: Settings) -> DatabaseSettings:
    """How the change journal connects: to the application's database, as the role of `journal.dsn` if there is one.

    What `journal.dsn` leaves out is as in `database.dsn`; `user=sbh_journal` alone says another role.
    """
    database, journal = settings.database, settings.journal
    own = {name: getattr(journal, name) for name in ("password", "password_file", "password_secret")}
    given = {**own} if any(own.values()) else {}
    if journal.dsn is None:
        return database.model_copy(update=given)
    try:
        said: dict[str, str] = psycopg2.extensions.parse_dsn(journal.dsn)
        parts: dict[str, str] = psycopg2.extensions.parse_dsn(database.dsn)
    except psycopg2.Error:
        return database.model_copy(
            update={"dsn": journal.dsn, **own}
        )  # the connection itself says what is wrong with it
    if not _same_server({**parts, **said}, database.dsn):
        parts = {name: value for name, value in parts.items() if name not in _SECRET}
    dsn = psycopg2.extensions.make_dsn(**{**parts, **said})
    if given or has_password(dsn):
        return database.model_copy(update={"dsn": dsn, **own})
    return named(database, dsn, kind=JournalDatabase)


def check_dsn(dsn: str) -> Mapping[str, str]:
    """Its parts. Raises RequestError for what is no libpq connection string, and for one with a password in it."""
    try:
        parts: dict[str, str] = psycopg2.extensions.parse_dsn(dsn)
    except psycopg2.Error:
        # Neither the text nor the driver's words about it are shown: they may hold what should not be there.
        raise RequestError(
            "Not a libpq connection string", remedy="e.g. host=db.example.com dbname=copy user=sbh_backup"
        ) from None
    if _SECRET & parts.keys():
        raise RequestError(
            "The connection string has a password in it",
            on=" ".join(f"{name}={parts[name]}" for name in ("host", "port", "dbname", "user") if name in parts),
            why="whoever lists the processes of this machine, or reads the shell's history, sees it",
            remedy=f"leave it out, and {GIVE_ITS_OWN}",
        )
    return parts


def has_password(dsn: str) -> bool:
    """Whether it is in the connection string itself."""
    with suppress(psycopg2.Error):
        return "password" in psycopg2.extensions.parse_dsn(dsn)
    return False


def named(
    database: DatabaseSettings, dsn: str, password: str | None = None, kind: type[NamedDatabase] = NamedDatabase
) -> DatabaseSettings:
    """How to connect to the database at `dsn`, all else as in the settings. `password` is its own; None: what `dsn` names, and
    that of the settings where it is their server.

    Raises RequestError for what is no connection string, and for a service that PGPASSWORD would be sent to.
    """
    parts = check_dsn(dsn)
    if password is None and _same_server(parts, database.dsn):
        return database.model_copy(update={"dsn": dsn})
    if "service" in parts and password is None and "PGPASSWORD" in os.environ:
        raise RequestError(
            "The environment has a password that would be sent to the service",
            on=f"PGPASSWORD, service={parts['service']}",
            why="libpq takes it for whatever server the service's file names",
            remedy="unset PGPASSWORD; a service has its password in its own file or passfile",
        )
    own = None if password is None else SecretStr(password)
    kept = {name: getattr(database, name) for name in type(database).model_fields}
    return kind.model_construct(**{**kept, "dsn": dsn, "password": own, "password_file": None, "password_secret": None})


def _same_server(parts: Mapping[str, str], own_dsn: str) -> bool:
    try:
        own: dict[str, str] = psycopg2.extensions.parse_dsn(own_dsn)
    except psycopg2.Error:
        return False  # the connection itself says what is wrong with it
    said = {name: value for name, value in parts.items() if name not in _FREE}
    if any(own.get(name) != value for name, value in said.items() if name not in ("host", "port", "user")):
        return False
    return all(_meant(said, name) == _meant(own, name) for name in ("host", "hostaddr", "port", "user", "service"))


def _meant(parts: Mapping[str, str], name: str) -> str:
    """What libpq takes where the connection string says nothing."""
    found = parts.get(name) or os.environ.get(f"PG{name.upper()}") or ""
    if found or name not in ("port", "user"):
        return found
    if name == "port":
        return _PORT
    with suppress(KeyError):
        return pwd.getpwuid(os.geteuid()).pw_name
    return ""
