"""PostgreSQL's own programs: pg_dump, whose output is read as a stream, and psql, which runs such a script.

A password goes to them through the environment, never as an argument. What they print about an error is parsed down to
its code and its one line: DETAIL lines hold data of rows and get nowhere.
"""

import os
import re
import secrets
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

import psycopg2
import psycopg2.extensions

from sbh_pipelines.database.session import tls
from sbh_pipelines.database.session.pinned import keepalives, pin_timeouts
from sbh_pipelines.database.session.sql import SQL_ASCII, UTF8
from sbh_pipelines.database.session.sqlstate import RAISED, meaning, without_values
from sbh_pipelines.errors import PrivilegeMissing, RequestError, SbhError, SettingsError, SourceError, SourceUnavailable
from sbh_pipelines.settings import DatabaseSettings
from sbh_pipelines.settings.secrets import resolve

RECOVERY_SCHEMA = "sbh_recovery"
PRE_DATA, POST_DATA = "pre-data", "post-data"
_PIECE = 1 << 20
_VERSION = re.compile(r"(\d+)(?:\.(\d+))?")
# `ERROR:  42P01: relation ...`; the word before the code is in the server's language.
_ERROR = re.compile(r"^[^\n]*?:  ([0-9A-Z]{5}): (.*)$")
_NO_ERROR = ("00", "01", "02")
_STATEMENT = "STATEMENT:  "
_RAISED = "LOCATION:  exec_stmt_raise,"


@dataclass(frozen=True, slots=True)
class StatementError:
    """A statement of a script that failed: SQLSTATE, message, the first line of the statement."""

    code: str
    message: str
    statement: str


def program_version(program: str) -> int:
    """The program's version as `server_version_num` counts it, e.g. 180000.

    Raises SettingsError where the program cannot be run.
    """
    try:
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise _cannot_run(program, error) from None
    found = _VERSION.search(told)
    return int(found[1]) * 10_000 if found else 0


def dump_section(
    database: DatabaseSettings, program: str, section: str, snapshot_id: str, encoding: str
) -> Iterator[bytes]:
    """The DDL of `pre-data` or `post-data` as pg_dump writes it at an exported snapshot, in pieces.

    In UTF-8, or as it is in a database whose `encoding` is SQL_ASCII.

    Without tablespaces, which another server lacks, without subscriptions, which hold passwords, and without large objects.
    """
    dsn, environment = _access(database)
    wait_ms = int(database.lock_timeout_s * 1000)
    command = [program, f"--section={section}", f"--snapshot={snapshot_id}", "-B", "--no-tablespaces"]
    command += ["--no-subscriptions", "--quote-all-identifiers", "--no-password"]
    command.append(f"--encoding={SQL_ASCII if encoding == SQL_ASCII else UTF8}")
    command += [f"--exclude-schema={RECOVERY_SCHEMA}", f"--lock-wait-timeout={wait_ms}", f"--dbname={dsn}"]
    with tempfile.TemporaryFile() as complaints:
        running = _start(command, environment, stdout=subprocess.PIPE, stderr=complaints)
        assert running.stdout is not None
        try:
            while piece := running.stdout.read(_PIECE):
                yield piece
            if running.wait():
                raise _refused(program, _tail(complaints))
        finally:
            _end(running)


def run_script(
    database: DatabaseSettings,
    program: str,
    pieces: Iterable[bytes],
    before: str,
    refused: Callable[[list[StatementError]], SbhError | None],
    last: Callable[[list[StatementError]], str],
) -> list[StatementError]:
    """Run a script and then a `last` statement in one transaction; what failed in it.

    A statement that fails has no effect. Where `refused` makes an error of what failed, nothing of the script has, and it is
    raised. Killed at any moment, all of it took effect or nothing did.
    """
    dsn, environment = _access(database)
    command = [program, "-X", "-q", "-b", "-o", os.devnull, "-v", "VERBOSITY=verbose", "-v", "ON_ERROR_ROLLBACK=on"]
    command += ["--no-password", f"--dbname={dsn}"]
    with tempfile.TemporaryFile() as complaints:
        running = _start(command, environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints)
        try:
            _feed(running, [f"{pin_timeouts()};\nBEGIN;\n{before}".encode(), *_one(pieces)], complaints)
            errors = _errors(complaints)
            if error := refused(errors):
                _feed(running, [b"ROLLBACK;\n"], complaints)
                raise error
            _feed(running, [last(errors).encode(), b";\nCOMMIT;\n"], complaints)
            if len(late := _errors(complaints)) > len(errors):
                raise cannot_build(late[len(errors) :])
            return errors
        finally:
            _end(running)


def _one(pieces: Iterable[bytes]) -> Iterator[bytes]:
    yield b"\n"
    yield from pieces
    yield b"\n"


def _feed(running: "subprocess.Popen[bytes]", pieces: Iterable[bytes], complaints: IO[bytes]) -> None:
    """Write the pieces and wait until psql has run them all: it then echoes what comes last."""
    assert running.stdin is not None
    assert running.stdout is not None
    sign = secrets.token_hex(8).encode()
    try:
        for piece in pieces:
            running.stdin.write(piece)
        running.stdin.write(b"\n\\echo " + sign + b"\n")
        running.stdin.flush()
        arrived = running.stdout.readline().strip() == sign
    except BrokenPipeError:
        arrived = False
    if not arrived:
        running.wait()
        raise SourceUnavailable(
            "psql ended before its script did",
            why=_tail(complaints),
            remedy="check the target server and its password, then run the same command again",
        )


def _errors(complaints: IO[bytes]) -> list[StatementError]:
    found: list[StatementError] = []
    for line in _read(complaints).splitlines():
        if match := _ERROR.match(line):
            if match[1][:2] not in _NO_ERROR:
                found.append(StatementError(match[1], without_values(match[1], match[2])[:300], ""))
        elif line.startswith(_RAISED) and found:
            found[-1] = StatementError(found[-1].code, RAISED, found[-1].statement)
        elif line.startswith(_STATEMENT) and found and not found[-1].statement:
            found[-1] = StatementError(found[-1].code, found[-1].message, shown(line))
    return found


def shown(statement: str) -> str:
    """The beginning of a statement, as errors show it; options of servers and user mappings may be passwords."""
    return statement.removeprefix(_STATEMENT).partition("\n")[0].split(" OPTIONS (")[0][:200]


def cannot_build(errors: list[StatementError]) -> SbhError:
    """The error for statements that failed."""
    first, more = errors[0], f" (and {len(errors) - 1} more errors)" if len(errors) > 1 else ""
    why = f"{first.message} [{first.code}]{more}"
    if first.code == "42501":
        return PrivilegeMissing(
            "The target role may not build the database",
            on=first.statement,
            why=why,
            remedy="connect as a superuser, or as the administrator's role of a managed server; nothing of this step was done",
        )
    remedies = {
        "23505": "backups of several tenants hold the same key: build into an empty database with --until at another time",
        "53200": "raise max_locks_per_transaction on the target server, then run the same command again",
        "58P01": "install the extension's package on the target server, then run the same command again",
        "0A000": "install the extension's package on the target server, then run the same command again",
    }
    means = meaning(first.code, first.message).to_do(writing=True)
    remedy = remedies.get(first.code, f"{means}; nothing of this step was done")
    return SourceError("The schema cannot be built", on=first.statement, why=why, remedy=remedy)


def brings_password(dsn: str) -> bool:
    """Whether a connection string says where its password is: then that of the settings is not meant.

    Raises RequestError for one that is no connection string, or that holds the password itself.
    """
    try:
        parts = psycopg2.extensions.parse_dsn(dsn)
    except psycopg2.ProgrammingError:
        remedy = "e.g. host=db.example.com dbname=new user=postgres"
        raise RequestError("The target is not a libpq connection string", remedy=remedy) from None
    if "password" in parts:
        raise RequestError(
            "The connection string of the target holds a password",
            why="others can see it in the list of processes, and in the history of commands",
            remedy="leave it out, and give it with --password-file or `passfile=...`",
        )
    return not {"passfile", "service"}.isdisjoint(parts)


def _access(database: DatabaseSettings) -> tuple[str, dict[str, str]]:
    """The connection string without its password, and the environment that has it."""
    try:
        parts = dict(psycopg2.extensions.parse_dsn(database.dsn))
    except psycopg2.ProgrammingError:
        raise SettingsError("database.dsn is not a libpq connection string", remedy="correct it") from None
    inline = parts.pop("password", None)
    environment = {**os.environ, "LC_ALL": "C", "PGCONNECT_TIMEOUT": str(database.connect_timeout_s)}
    environment |= {"PGCLIENTENCODING": "UTF8", "PGAPPNAME": "sbh platform"}
    if password := resolve(database, "password") or inline:
        environment["PGPASSWORD"] = password
    return psycopg2.extensions.make_dsn(**{**parts, **keepalives(parts), **tls.secured(database)}), environment


def _start(command: list[str], environment: dict[str, str], **streams: Any) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(command, env=environment, **{"stdin": subprocess.DEVNULL, **streams})
    except OSError as error:
        raise _cannot_run(command[0], error) from None


def _cannot_run(program: str, error: Exception) -> SettingsError:
    name = os.path.basename(program)
    return SettingsError(
        f"{name} cannot be run",
        on=program,
        why=getattr(error, "strerror", None) or type(error).__name__,
        remedy="install PostgreSQL's client programs, at least as new as the server, or name the program in"
        f" platform.{name if name in ('pg_dump', 'psql') else 'pg_dump'}",
    )


def _refused(program: str, text: str) -> SbhError:
    if "permission denied" in text:
        return PrivilegeMissing(
            "pg_dump may not read the schema",
            why=text,
            remedy="GRANT pg_read_all_data TO the backup's role, or let the platform backup run as the owner",
        )
    if "version mismatch" in text:
        remedy = "install the client programs of the server's version, and name pg_dump in platform.pg_dump"
        return SettingsError("pg_dump is older than the server", on=program, why=text, remedy=remedy)
    if "has no equivalent in encoding" in text:
        remedy = "correct them: look in defaults, comments, labels of enums and bodies of functions"
        return SourceError("The schema holds bytes that are no characters", on=program, why=text, remedy=remedy)
    kind = SourceUnavailable if "connection to server" in text else SourceError
    return kind("pg_dump failed", on=program, why=text, remedy="see the server's log, then try again")


def _read(complaints: IO[bytes]) -> str:
    complaints.seek(0)
    text = complaints.read().decode("utf-8", "replace")
    complaints.seek(0, os.SEEK_END)
    return text


def _tail(complaints: IO[bytes]) -> str:
    lines = [line for line in _read(complaints).splitlines() if line and not line.startswith("pg_dump: detail: Query")]
    return " ".join(" ".join(lines[-3:]).split())[:300]


def _end(running: "subprocess.Popen[bytes]") -> None:
    """Nothing of ours outlives the call: a psql cut short rolls its transaction back."""
    for stream in (running.stdin, running.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()
    if running.poll() is None:
        running.kill()
        running.wait()
