"""Connections with pinned session settings, and the one place where psycopg2's errors become ours.

The pinned settings make COPY text exact and the same on every server: UTC, ISO dates, shortest exact floats, hex bytea,
UTF-8. `row_security = off` makes a policy that would hide rows an error instead.
"""

import codecs
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import psycopg2
import psycopg2.errors
import psycopg2.extensions

from sbh_pipelines.concurrency import awaited
from sbh_pipelines.database.session import pooler, search_path, tls
from sbh_pipelines.database.session.driver import Cursor, application_function, cut, cut_off, told
from sbh_pipelines.database.session.pinned import keepalives, pin, pin_quiet
from sbh_pipelines.database.session.refusals import refusal
from sbh_pipelines.database.session.sql import SQL_ASCII
from sbh_pipelines.database.session.sqlstate import FROM_CODE, RAISED, meaning
from sbh_pipelines.database.session.targets import NamedDatabase
from sbh_pipelines.errors import (
    SbhError,
    SettingsError,
    TookTooLong,
    UnreadableRow,
)
from sbh_pipelines.settings import DatabaseSettings
from sbh_pipelines.settings.secrets import resolve

Connection = Any  # psycopg2 has no types


class Session(psycopg2.extensions.connection):  # type: ignore[misc]
    """A connection, where code of the application finds its names (`search_path.py`), and whether a pooler is in between."""

    application_path = search_path.OWN
    pooled = False
    told_closed: Callable[[], None] | None = None

    def end_statement(self) -> None:
        """From another thread: what the server does for this session ends. Nothing where it does nothing, or has gone."""
        with suppress(psycopg2.Error):
            self.cancel()

    def commit(self) -> None:
        """What is checked at the end of a transaction is checked here."""
        with cut_off():
            super().commit()

    def close(self) -> None:
        """Nothing of ours stays in a session that a pooler gives to the next client."""
        if self.told_closed is not None:
            self.told_closed()
        if self.pooled and not self.closed:
            with suppress(psycopg2.Error):
                cursor = self.cursor()
                if self.info.transaction_status != psycopg2.extensions.TRANSACTION_STATUS_IDLE:
                    cursor.execute("ROLLBACK")
                cursor.execute("RESET ALL; SELECT pg_catalog.pg_advisory_unlock_all()")
        super().close()


def connect(settings: DatabaseSettings, purpose: str) -> Connection:
    """A connection in autocommit, session pinned; to other machines encrypted, and the server verified, where the DSN does not say.

    Raises SourceUnavailable, SettingsError.
    """
    if (work := awaited()) is not None and work.given_up:
        raise TookTooLong("Nobody waits for this any more", on=describe_dsn(settings.dsn), remedy="ask again")
    arguments: dict[str, str | int] = {
        "application_name": f"sbh {purpose}"[:63],
        "connect_timeout": settings.connect_timeout_s,
        "client_encoding": "UTF8",
        **keepalives(_parts(settings.dsn)),
    }
    if password := resolve(settings, "password"):
        arguments["password"] = password
    elif isinstance(settings, NamedDatabase) and "service" not in _parts(settings.dsn):
        arguments["password"] = ""  # PGPASSWORD is not for it; a passfile is looked into all the same
    arguments |= tls.secured(settings)
    arguments |= tls.unheard(settings)
    try:
        connection = _open(settings.dsn, arguments)
    except psycopg2.ProgrammingError:
        raise SettingsError(
            "database.dsn is not a libpq connection string",
            remedy="e.g. host=db.example.com dbname=app user=sbh_backup",
        ) from None
    except psycopg2.OperationalError as error:
        text = " ".join(str(error).split())
        if insecure := tls.trouble(text, describe_dsn(settings.dsn)):
            raise insecure from None
        kind, remedy = refusal(
            text, _parts(settings.dsn), named=settings.give_its_own if isinstance(settings, NamedDatabase) else ""
        )
        raise kind(
            "Cannot connect to the database", on=describe_dsn(settings.dsn), why=text[:300], remedy=remedy
        ) from None
    try:
        tls.check_session(settings, connection)
    except SettingsError:
        connection.close()
        raise
    connection.autocommit = True
    if (work := awaited()) is not None:
        connection.told_closed = work.holds(connection, connection.end_statement)
    try:
        _prepare(connection, settings, partial(_connected, settings.dsn, {**arguments, "async_": True}))
    except BaseException:
        connection.close()
        raise
    return connection


# The planner calls functions of indexes' predicates even for a read, with the rights of the session's role. A default that says
# READ ONLY is a setting, which such code turns off for the next statement. So each statement says it for its own transaction,
# before it takes a snapshot: after that nobody takes it back.
_READ_ONLY = "SET TRANSACTION READ ONLY; "


class LookingCursor(psycopg2.extensions.cursor):  # type: ignore[misc]
    """Every statement is, or is in, a transaction that is READ ONLY for good."""

    def execute(self, query: str | bytes, values: Any = None) -> None:
        # One message is one transaction, where none was begun before.
        super().execute(_READ_ONLY.encode() + query if isinstance(query, bytes) else _READ_ONLY + query, values)


def look(settings: DatabaseSettings, purpose: str, *, within_s: float = 0.0) -> Connection:
    """A connection in autocommit that writes nothing, and waits for no lock longer than a restore does.

    `within_s`: bound of a statement where `database.statement_timeout_s` is none. Raises as `connect` does.
    """
    connection = connect(settings, purpose)
    connection.cursor_factory = LookingCursor
    timeout_s = settings.statement_timeout_s or within_s
    with translated("prepare the session"):
        connection.cursor().execute(
            f"SET lock_timeout = {int(settings.lock_timeout_s * 1000)}; SET statement_timeout = {int(timeout_s * 1000)}"
        )
    return connection


def _open(dsn: str, arguments: dict[str, str | int]) -> Session:
    """Connect. What a role brings may end a session before it is prepared, so the first of it is said at once."""
    parts = _parts(dsn)
    if "service" not in parts:  # whose file may have options
        said = parts.get("options") or os.environ.get("PGOPTIONS") or ""
        try:
            return _connected(dsn, {**arguments, "options": f"{said} -c statement_timeout=0 -c lock_timeout=0".strip()})
        except psycopg2.OperationalError as error:
            if not any(words in str(error) for words in _NO_OPTIONS):
                raise
    return _connected(dsn, arguments)


def _connected(dsn: str, arguments: dict[str, str | int]) -> Session:
    connection: Session = psycopg2.connect(dsn, connection_factory=Session, cursor_factory=Cursor, **arguments)
    return connection


_PARAMETERS = 150000  # from here on SET on a parameter can be granted
_NO_OPTIONS = ("startup parameter", "command-line options")  # as poolers say it, in different words


def _prepare(connection: Session, settings: DatabaseSettings, another: Callable[[], Session]) -> None:
    """Give the session its settings. Two round trips; nothing is set before it is known who answers."""
    with translated("prepare the session"):
        cursor = connection.cursor()
        # One message is one transaction: what is set in it for the transaction is gone after it.
        cursor.execute(
            "SELECT pg_catalog.set_config('statement_timeout', '0', true);"
            f"SELECT pg_catalog.pg_backend_pid(), {search_path.FACTS}"
        )
        backend, of_database, extensions = cursor.fetchone()
        connection.pooled = pooler.check(connection, backend, another, describe_dsn(settings.dsn))
        connection.application_path = search_path.application_path(settings, of_database, extensions)
        own = {
            "work_mem": f"{settings.work_mem_mib}MB",
            "statement_timeout": str(int(settings.statement_timeout_s * 1000)),
        }
        quiet = f"{pin_quiet()}; " if connection.server_version >= _PARAMETERS else ""
        cursor.execute(f"{pin(own)}; {quiet}SET search_path = {connection.application_path}")
        if database_encoding(connection) == SQL_ASCII:
            # The server cannot convert what has no encoding, and would refuse bytes that are not UTF-8.
            connection.set_client_encoding(SQL_ASCII)


def _parts(dsn: str) -> dict[str, str]:
    try:
        return dict(psycopg2.extensions.parse_dsn(dsn))
    except psycopg2.Error:
        return {}  # the connection itself says what is wrong with it


def _lenient(name: str) -> codecs.CodecInfo | None:
    """UTF-8 for text of databases without an encoding: bytes that are none come as `<e9>`, for people to read.

    Rows do not go through it: COPY text is bytes (`capture/capture.py`).
    """
    if name != LENIENT:
        return None
    return codecs.CodecInfo(
        lambda text, errors="strict": codecs.utf_8_encode(text, errors),
        lambda data, errors="strict": codecs.utf_8_decode(data, LENIENT, True),
        name=LENIENT,
    )


def _named_bytes(error: UnicodeError) -> tuple[str, int]:
    """Without a backslash, which would be an escape to whoever parses the text, as JSON."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(f"<{byte:02x}>" for byte in error.object[error.start : error.end]), error.end


LENIENT = "sbh_lenient_utf8"
"""The codec, by name, in which text of a database without an encoding is read."""

codecs.register_error(LENIENT, _named_bytes)
codecs.register(_lenient)
psycopg2.extensions.encodings[SQL_ASCII] = psycopg2.extensions.encodings["SQLASCII"] = LENIENT


def database_encoding(connection: Connection) -> str:
    """The encoding of the database, as the server names it."""
    return str(connection.get_parameter_status("server_encoding"))


def describe_dsn(dsn: str) -> str:
    """The connection string without anything secret."""
    parts = _parts(dsn)
    if not parts:
        return "database.dsn"
    return " ".join(f"{k}={parts[k]}" for k in ("host", "port", "dbname", "user") if k in parts)


@contextmanager
def savepoint(connection: Connection) -> Iterator[None]:
    """Within a transaction: what fails inside is undone, and the transaction goes on."""
    with translated("set a savepoint"):
        connection.cursor().execute("SAVEPOINT sbh")
    try:
        yield
    except SbhError:
        if not connection.closed:
            with translated("go back to a savepoint"):
                connection.cursor().execute("ROLLBACK TO SAVEPOINT sbh; RELEASE SAVEPOINT sbh")
        raise
    with translated("release a savepoint"):
        connection.cursor().execute("RELEASE SAVEPOINT sbh")


@contextmanager
def translated(what: str, on: str = "", *, writing: bool = False) -> Iterator[None]:
    """Turn psycopg2's errors into ours: `what` completes 'Cannot ...'. `writing`: rows of a backup are written."""
    try:
        yield
    except psycopg2.Error as error:
        raise translate(cut(error), what, on, writing=writing) from None


def translate(error: Any, what: str, on: str = "", *, writing: bool = False) -> SbhError:
    """The error of our tree for a driver's error. Details of rows (DETAIL and CONTEXT lines) never get in: they hold data."""
    code, why = error.pgcode or "", told(error)
    means, why = (FROM_CODE, f"{RAISED} [{code}]") if why == RAISED else (meaning(code, why), why[:300])
    if function := application_function(error):
        why += f" (in the application's function {function})"
    constraint = error.diag.constraint_name
    if code[:2] == "23" and constraint and constraint not in why:
        why += f" (constraint {constraint})"
    where = on or ".".join(filter(None, (error.diag.schema_name, error.diag.table_name)))
    kind: type[SbhError] = means.kind
    made = kind(f"Cannot {what}", on=where, why=why, remedy=means.to_do(writing=writing))
    if isinstance(made, UnreadableRow):
        made.cause = {"XX": "damaged", "22": "encoding"}.get(code[:2], "large") if code != "XX000" else "large"
    return made
