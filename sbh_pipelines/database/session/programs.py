"""PostgreSQL's own program: pg_dump, whose output is read as a stream.

A password goes to it through the environment, never as an argument. psql is not used: it obeys commands of its own in what it is
given, which names of objects can bring along. What pg_dump wrote is run by `rebuild/script_run.py`.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any

import psycopg2
import psycopg2.extensions

from sbh_pipelines.database.session import tls
from sbh_pipelines.database.session.pinned import keepalives
from sbh_pipelines.database.session.sql import SQL_ASCII, UTF8
from sbh_pipelines.errors import (
    PrivilegeMissing,
    SbhError,
    SettingsError,
    SourceError,
    SourceUnavailable,
    UnsafeProgram,
)
from sbh_pipelines.settings import DatabaseSettings
from sbh_pipelines.settings.secrets import resolve

RECOVERY_SCHEMA = "sbh_recovery"
PRE_DATA, POST_DATA = "pre-data", "post-data"
_PIECE = 1 << 20
_VERSION = re.compile(r"(\d+)(?:(beta|rc|devel)|\.(\d+))?")
_NO_MINOR = 9_999  # of a version that is not out


# Since these, a line break in a name stays inside its comment; before, what follows it is a line of the script.
_MENDED = {13: 22, 14: 19, 15: 14, 16: 10, 17: 6, 18: 0}


def program_version(program: str) -> int:
    """The program's version as `server_version_num` counts it, e.g. 180004; 0 where it does not say it.

    Raises SettingsError where the program cannot be run.
    """
    try:
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise _cannot_run(program, error) from None
    found = _VERSION.search(told)
    if found is None:
        return 0
    return int(found[1]) * 10_000 + (int(found[3]) if found[3] else _NO_MINOR if found[2] else 0)


def lets_names_out(version: int) -> bool:
    """Whether a pg_dump of this version writes names so that a part of one can be a line of its script."""
    major, minor = divmod(version, 10_000)
    return major < min(_MENDED) or minor == _NO_MINOR or minor < _MENDED.get(major, 0)


def check_pg_dump(program: str) -> None:
    """Raises SettingsError for a program that cannot be run, UnsafeProgram for one with a known hole."""
    if not lets_names_out(version := program_version(program)):
        return
    minor = version % 10_000
    raise UnsafeProgram(
        "pg_dump has a known hole",
        on=f"{program}: {version // 10_000}{f'.{minor}' if minor != _NO_MINOR else ', before its release'}",
        why="whoever may name an object of the database could put statements into the stored schema (CVE-2025-8714, CVE-2025-8715)",
        remedy="update PostgreSQL's client programs to a minor release that has it mended, "
        + ", ".join(f"{major}.{minor}" for major, minor in sorted(_MENDED.items(), reverse=True))
        + " or later, and make the platform backup anew",
    )


def dump_section(
    database: DatabaseSettings, program: str, section: str, snapshot_id: str, encoding: str
) -> Iterator[bytes]:
    """The DDL of `pre-data` or `post-data` as pg_dump writes it at an exported snapshot, in pieces.

    In UTF-8, or as it is in a database whose `encoding` is SQL_ASCII.

    Without tablespaces, which another server lacks, without subscriptions, which hold passwords, and without large objects.
    Raises UnsafeProgram.
    """
    check_pg_dump(program)
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
    if says := tls.unheard(database):
        environment["PGREQUIREAUTH"] = says["require_auth"]  # which a libpq that does not know it passes over
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
        " platform.pg_dump",
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
    """Nothing of ours outlives the call."""
    if running.stdout is not None:
        with suppress(OSError):
            running.stdout.close()
    if running.poll() is None:
        running.kill()
        running.wait()
