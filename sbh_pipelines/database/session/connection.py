"""Connections with pinned session settings, and the one place where psycopg2's errors become ours.

The pinned settings make COPY text exact and the same on every server: UTC, ISO dates, shortest exact floats, hex bytea,
UTF-8. `row_security = off` makes a policy that would hide rows an error instead.
"""

import codecs
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import psycopg2
import psycopg2.errors
import psycopg2.extensions

from sbh_pipelines.database.session import pooler, search_path, tls
from sbh_pipelines.database.session.pinned import keepalives, pin
from sbh_pipelines.database.session.sql import SQL_ASCII, copy_options
from sbh_pipelines.errors import (
    PrivilegeMissing,
    RequestError,
    RestoreConflict,
    RestoreRefused,
    SbhError,
    SchemaMismatch,
    SettingsError,
    SourceConflict,
    SourceError,
    SourceUnavailable,
    UnreadableRow,
)
from sbh_pipelines.settings import DatabaseSettings
from sbh_pipelines.settings.secrets import resolve

Connection = Any  # psycopg2 has no types


class Session(psycopg2.extensions.connection):  # type: ignore[misc]
    """A connection, where code of the application finds its names (`search_path.py`), and whether a pooler is in between."""

    application_path = search_path.OWN
    pooled = False

    def close(self) -> None:
        """Nothing of ours stays in a session that a pooler gives to the next client."""
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
    arguments: dict[str, str | int] = {
        "application_name": f"sbh {purpose}"[:63],
        "connect_timeout": settings.connect_timeout_s,
        "client_encoding": "UTF8",
        **keepalives(_parts(settings.dsn)),
    }
    if password := resolve(settings, "password"):
        arguments["password"] = password
    arguments |= tls.secured(settings)
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
        refused = "authentication failed" in text or "does not exist" in text or "no pg_hba.conf entry" in text
        kind: type[SourceError] = SourceError if refused else SourceUnavailable
        raise kind(
            "Cannot connect to the database",
            on=describe_dsn(settings.dsn),
            why=text[:300],
            remedy="check database.dsn, the password and the network; `sbh doctor` checks all three",
        ) from None
    try:
        tls.check_session(settings, connection)
    except SettingsError:
        connection.close()
        raise
    connection.autocommit = True
    try:
        _prepare(connection, settings, partial(_connected, settings.dsn, {**arguments, "async_": True}))
    except BaseException:
        connection.close()
        raise
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
    connection: Session = psycopg2.connect(dsn, connection_factory=Session, **arguments)
    return connection


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
        cursor.execute(f"{pin(own)}; SET search_path = {connection.application_path}")
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
    if name != _LENIENT:
        return None
    return codecs.CodecInfo(
        lambda text, errors="strict": codecs.utf_8_encode(text, errors),
        lambda data, errors="strict": codecs.utf_8_decode(data, _LENIENT, True),
        name=_LENIENT,
    )


def _named_bytes(error: UnicodeError) -> tuple[str, int]:
    """Without a backslash, which would be an escape to whoever parses the text, as JSON."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(f"<{byte:02x}>" for byte in error.object[error.start : error.end]), error.end


_LENIENT = "sbh_lenient_utf8"
codecs.register_error(_LENIENT, _named_bytes)
codecs.register(_lenient)
psycopg2.extensions.encodings[SQL_ASCII] = psycopg2.extensions.encodings["SQLASCII"] = _LENIENT


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
def translated(what: str, on: str = "") -> Iterator[None]:
    """Turn psycopg2's errors into ours: `what` completes 'Cannot ...'."""
    try:
        yield
    except psycopg2.Error as error:
        raise translate(error, what, on) from None


def translate(error: Any, what: str, on: str = "") -> SbhError:
    """The error of our tree for a driver's error. Details of rows (DETAIL lines) never get in: they hold data."""
    code = error.pgcode or ""
    primary = getattr(error.diag, "message_primary", None)
    why = " ".join((primary or str(error)).split())[:300]
    if code[:2] == "22":
        why = re.sub(r'"[^"]*"?', '"…"', why)  # the value that does not fit: data, like the DETAIL lines
    where = on or ".".join(filter(None, (error.diag.schema_name, error.diag.table_name)))
    failed = f"Cannot {what}"
    if code in ("40001", "40P01", "55P03", "57014"):
        remedies = {
            "55P03": "somebody holds a lock on the table: try again, or raise database.lock_timeout_s",
            "57014": "the statement was cancelled or ran into database.statement_timeout_s",
        }
        return SourceConflict(
            failed, on=where, why=why, remedy=remedies.get(code, "concurrent writes to the tenant: try again")
        )
    if code == "42501":
        return PrivilegeMissing(failed, on=where, why=why, remedy="`sbh doctor` prints the GRANTs that are missing")
    if not code or code[:2] in ("08", "53") or code[:3] == "57P":
        return SourceUnavailable(failed, on=where, why=why, remedy="check the database server, then try again")
    if code[:2] == "23":
        constraint = error.diag.constraint_name
        kind = RestoreConflict if code in ("23505", "23P01") else RestoreRefused
        return kind(
            failed,
            on=where,
            why=f"{why}" + (f" (constraint {constraint})" if constraint and constraint not in why else ""),
            remedy="another row holds the same key, or a constraint was added since: resolve it, then try again",
        )
    if code in _UNREADABLE or (code == "XX000" and _TOO_LARGE in why):
        return UnreadableRow(failed, on=where, why=why, remedy=_UNREADABLE.get(code, _SPLIT))
    if code[:2] in ("42", "22"):
        return SchemaMismatch(
            failed, on=where, why=why, remedy="compare the table's definition with the backup's; `sbh doctor`"
        )
    return SourceError(failed, on=where, why=why, remedy="see the server's log")


# What the server says of a value, rather than of a statement. The remedies are of last resort: a backup names the row.
_SPLIT = "find the table's largest values, and keep each in several rows or in a file"
_UNREADABLE = {
    "22021": "find the value whose bytes are not in the database's encoding, and correct it",
    "22P05": "find the value whose bytes are not in the database's encoding, and correct it",
    "54000": _SPLIT,
    "XX001": "the server's files are damaged: check the disk, and take the row's values from an older backup",
    "XX002": "an index is damaged: REINDEX the table's indexes, and check the disk",
}
_TOO_LARGE = "invalid memory alloc request size"  # not translated: an internal error of the server's

_BUFFER = 1 << 20


def copy_in(cursor: Any, into: str, pieces: Iterable[bytes], encoding: str) -> int:
    """COPY text into `into`, a table and perhaps its columns as SQL; rows. What the pieces raise is raised."""
    reader = _Pieces(pieces)
    try:
        cursor.copy_expert(f"COPY {into} FROM STDIN{copy_options(encoding)}", reader, _BUFFER)
    except Exception:
        if reader.error is not None:  # the driver would make a cancelled statement of it
            raise reader.error from None
        raise
    rows: int = cursor.rowcount
    return rows


class _Pieces(io.RawIOBase):
    """A file over pieces of text. `error` is what making the pieces raised."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        super().__init__()
        self._pieces, self._rest = iter(pieces), memoryview(b"")
        self.error: BaseException | None = None

    def read(self, size: int = -1) -> bytes:
        while not self._rest:
            try:
                piece = next(self._pieces, None)
            except BaseException as error:
                self.error = error
                raise
            if piece is None:
                return b""
            self._rest = memoryview(piece)
        taken, self._rest = self._rest[:size], self._rest[size:]
        return bytes(taken)


_SECRET = frozenset({"password", "sslpassword"})


def check_dsn(dsn: str) -> None:
    """Raises RequestError for what is no libpq connection string, and for one with a password in it."""
    try:
        parts = psycopg2.extensions.parse_dsn(dsn)
    except psycopg2.Error:
        # Neither the text nor the driver's words about it are shown: they may hold what should not be there.
        raise RequestError(
            "Not a libpq connection string", remedy="e.g. host=db.example.com dbname=copy user=sbh_backup"
        ) from None
    if _SECRET & parts.keys():
        raise RequestError(
            "The connection string has a password in it",
            on=describe_dsn(dsn),
            why="whoever lists the processes of this machine, or reads the shell's history, sees it",
            remedy="leave it out: it is taken from PGPASSWORD, ~/.pgpass, or the setting database.password",
        )
