"""A section of the schema as pg_dump wrote it: what is run of it, and which of its statements may fail.

All must succeed, with these exceptions: settings that an older server does not know; foreign keys whose rows are not all
there, which are seen to afterwards; materialized views and indexes over functions that fail. In a throw-away database, made by
a role that is no superuser, also what that role may not make, or what takes something that could not be made, and rows do not
need. A table that rows need is made with its columns alone where its defaults keep it from being made, and functions are made so
that they refuse to run. All of it is told.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sbh_pipelines.database.rebuild.left_out import LeftOut
from sbh_pipelines.database.rebuild.script import EarlyIndexes, NeededTables, Script, lesser_functions
from sbh_pipelines.database.rebuild.script_run import StatementError, cannot_build, shown
from sbh_pipelines.errors import PrivilegeMissing, SbhError

_DENIED = ("42501", "0A000", "58P01")  # no right to make it, or its package is not installed
# What follows where something else could not be made: undefined names, and privileges of what is not there.
_FOLLOWS = ("42704", "42883", "42P01", "42703", "42809", "3F000", "0LP01", "42P17", "42804")
_UNKNOWN, _FOREIGN_KEY = "42704", "23503"
_OWNERSHIP = re.compile(r"ALTER [^;]* OWNER TO |GRANT |REVOKE |ALTER DEFAULT PRIVILEGES |SET SESSION AUTHORIZATION ")
# Named for roles that are not there.
_OF_ROLES = re.compile(r"CREATE POLICY |CREATE USER MAPPING |SECURITY LABEL |COMMENT ON ")
# What reads rows of a table, and so plans for its indexes, or calls functions: names in these may need the application's path.
# Those of the statement itself are qualified.
_PLANNED = re.compile(
    r'REFRESH MATERIALIZED VIEW |CREATE (?:UNIQUE )?INDEX |ALTER TABLE [^\n]* ADD CONSTRAINT "(?:[^"]|"")+" FOREIGN KEY '
)
_OF_FUNCTIONS = ("42", "P0", "22", "2F", "38", "39")  # classes of errors in which functions of the application end


@dataclass(frozen=True, slots=True)
class Judgement:
    """What failed in a section.

    Attributes:
        bad: Statements that may not fail.
        left_out: What is not there, or not as it was.
        skipped: Statements that were not run, beginnings of them.
        denied: Whether something could not be made because the role may not, or the server lacks its package.
    """

    bad: Sequence[StatementError]
    left_out: Sequence[LeftOut]
    skipped: Sequence[str]
    denied: bool


class Section:
    """Use it for one run: `script` is what is run, `judge` what to make of the errors."""

    def __init__(self, needed: NeededTables, early: EarlyIndexes, *, owners: bool, denied: bool, path: str) -> None:
        """`owners` False: for a role that may not make everything. `denied`: whether a section before was cut. `path`: the
        search path of the application, as SQL.
        """
        self._early_indexes = early
        self.script = Script()
        self._early: set[str] = set()
        self._needed, self._owners, self._denied, self._path = needed, owners, denied, path

    def add(self, statements: Iterable[str]) -> None:
        for statement in statements:
            if statement in self._early_indexes:
                self._early.add(shown(statement))
                self.script.add(statement, statement, path=self._path)
            elif _PLANNED.match(statement):
                self.script.add(statement, statement, path=self._path)
            elif self._owners:
                self.script.add(statement)
            else:
                self.script.add(statement, *lesser_functions(statement), *self._needed.bare(statement))

    def judge(self, errors: Sequence[StatementError]) -> Judgement:
        bad, left_out, skipped = list[StatementError](), list[LeftOut](), list[str]()
        owners: list[StatementError] = []
        bare = {self._needed.of(error.statement) for error, replaced in self.script.settled(errors) if replaced}
        denied = self._denied or any(error.code in _DENIED for error in errors)
        for error, replaced in self.script.settled(errors):
            if replaced:
                if not _PLANNED.match(error.statement) and error.statement not in self._early:
                    how = (
                        "made with its columns alone"
                        if self._needed.of(error.statement)
                        else "made to refuse, or with less"
                    )
                    left_out.append(LeftOut(error.statement, f"{how}: {error.message}"))
            elif self._is_silent(error):
                pass
            elif not self._owners and _OWNERSHIP.match(error.statement) and error.code in (*_DENIED, *_FOLLOWS):
                owners.append(error)
            elif self._is_tolerated(error, denied) or self._needed.altered(error.statement) in bare - {None}:
                left_out.append(LeftOut(error.statement, f"{error.message} [{error.code}]"))
            else:
                bad.append(error)
        skipped = [one.what for one in left_out] + [error.statement for error in owners]
        if owners:
            left_out.append(LeftOut(f"owners and grants: {len(owners)} statements", owners[0].message))
        return Judgement(bad, left_out, skipped, denied)

    def _is_silent(self, error: StatementError) -> bool:
        """What a newer pg_dump sets and an older server does not know; foreign keys, which are seen to afterwards."""
        if error.code == _UNKNOWN and error.statement.startswith("SET "):
            return True
        if error.code == _FOREIGN_KEY and "ALTER TABLE" in error.statement:
            return True
        return error.code in ("42501", _UNKNOWN) and error.statement.startswith("COMMENT ON EXTENSION")

    def _is_tolerated(self, error: StatementError, denied: bool) -> bool:
        code = error.code
        if (
            error.statement.startswith(("REFRESH MATERIALIZED VIEW ", "CREATE INDEX "))
            or error.statement in self._early
        ):
            return code[:2] in _OF_FUNCTIONS
        if self._owners or self._needed.of(error.statement):
            return False
        # What a function raises is not told by its words: here it is one that refuses to run.
        if denied and error.statement.startswith("SET "):  # an access method of an extension, say
            return True
        if code in _DENIED or (code == "P0001" and denied):
            return True
        return code in _FOLLOWS and (denied or bool(_OF_ROLES.match(error.statement)))

    def refused(self, errors: Sequence[StatementError]) -> SbhError | None:
        """The error for what may not fail, if anything of it did."""
        bad = list(self.judge(errors).bad)
        if not bad:
            return None
        cause = next((error for error in errors if error.code in _DENIED), None)
        if self._owners or cause is None or not self._needed.of(bad[0].statement):
            return cannot_build(bad)
        return PrivilegeMissing(
            "A table that rows need cannot be made here",
            on=bad[0].statement,
            why=f"{bad[0].message} [{bad[0].code}], for this failed: {cause.statement} {cause.message} [{cause.code}]",
            remedy="let drills use a server on which their role may make it: `dsn` in the section [drill], of a superuser where an"
            " extension takes one; or put `trusted = true` into the extension's control file on this server",
        )
