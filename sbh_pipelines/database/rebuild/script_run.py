"""A script of pg_dump's run statement by statement, and what becomes of those that fail.

Each is sent to the server as it is. No program with commands of its own is in between: a stored script may hold whatever
somebody once named an object.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg2

from sbh_pipelines.database.session.connection import connect, translate, translated
from sbh_pipelines.database.session.driver import told
from sbh_pipelines.database.session.pinned import pin_timeouts
from sbh_pipelines.database.session.sqlstate import meaning
from sbh_pipelines.errors import PrivilegeMissing, SbhError, SourceError
from sbh_pipelines.settings import DatabaseSettings

_NO_PATH = "SELECT pg_catalog.set_config('search_path', '', false)"  # as pg_dump's scripts have it
_QUOTES = "SET standard_conforming_strings = on"  # as literals of ours are written
_OF_DRIVER = "XX000"  # what the driver refuses by itself


@dataclass(frozen=True, slots=True)
class StatementError:
    """A statement of a script that failed: SQLSTATE, message, the first line of the statement."""

    code: str
    message: str
    statement: str


@dataclass(frozen=True, slots=True)
class Step:
    """A statement of a script.

    Attributes:
        statement: SQL.
        instead: What is run where it fails, one after the other until one does not.
        path: The search path for these, as SQL; empty: the script's own.
    """

    statement: str
    instead: Sequence[str]
    path: str


def run_script(
    database: DatabaseSettings,
    steps: Iterable[Step],
    before: str,
    refused: Callable[[list[StatementError]], SbhError | None],
    last: Callable[[list[StatementError]], str],
) -> list[StatementError]:
    """Run a script and then a `last` statement in one transaction; what failed in it.

    A statement that fails has no effect. Where `refused` makes an error of what failed, nothing of the script has, and it is
    raised. Killed at any moment, all of it took effect or nothing did.
    """
    with closing(connect(database, "platform")) as connection:
        cursor = connection.cursor()
        errors: list[StatementError] = []
        with translated("begin to build the schema"):
            # The script sets what it needs; all else is as in a session of the role's own.
            cursor.execute("RESET ALL")
            cursor.execute(f"{pin_timeouts()}; BEGIN; {_QUOTES}; {before} SAVEPOINT sbh_script")
        for step in steps:
            _take(cursor, step, errors)
        if error := refused(errors):
            raise error
        with translated("note what was built"):
            cursor.execute(_QUOTES)  # whatever the script has said
            cursor.execute(last(errors))
        try:
            cursor.execute("COMMIT")
        except psycopg2.Error as error:
            raise cannot_build([_failure(error, "COMMIT")]) from None
        return errors


def _take(cursor: Any, step: Step, errors: list[StatementError]) -> None:
    if _succeeds(cursor, step.statement, errors):
        return
    for other in step.instead:
        if step.path:
            cursor.execute(f"SET search_path = {step.path}")
        done = _succeeds(cursor, other, errors)
        if step.path:
            cursor.execute(_NO_PATH)
        if done:
            return


def _succeeds(cursor: Any, statement: str, errors: list[StatementError]) -> bool:
    """Run it within the savepoint. Raises SourceUnavailable where the session is gone."""
    try:
        cursor.execute(statement.encode("utf-8", "surrogateescape"))
    except psycopg2.Error as error:
        if cursor.connection.closed:
            raise translate(error, "build the schema") from None
        errors.append(_failure(error, statement))
        with translated("go back to a savepoint"):
            cursor.execute("ROLLBACK TO SAVEPOINT sbh_script")
        return False
    with translated("set a savepoint"):
        cursor.execute("RELEASE SAVEPOINT sbh_script; SAVEPOINT sbh_script")
    return True


def _failure(error: Any, statement: str) -> StatementError:
    return StatementError(error.pgcode or _OF_DRIVER, told(error)[:300], shown(statement))


def shown(statement: str) -> str:
    """The beginning of a statement, as errors show it; options of servers and user mappings may be passwords."""
    return statement.partition("\n")[0].split(" OPTIONS (")[0][:200]


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
