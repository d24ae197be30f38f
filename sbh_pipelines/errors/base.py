"""What every error has: four texts, a stable code, and what the code stands for."""

import traceback
from collections.abc import Mapping
from typing import Any, ClassVar


class SbhError(Exception):
    """Something that nobody foresaw went wrong, or work was interrupted.

    Base of all errors. The four fields must never contain a secret. `advice` is what to do about any error of the code; `remedy` is
    what to do about this one.
    """

    code: ClassVar[str] = "SBH-000"
    advice: ClassVar[str] = "report it with the run's log; after an interruption give the same command again"
    exit_status: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    transient: ClassVar[bool] = False

    kept_as: "SbhError | None" = None
    """What is said in its place where others read it later: it names rows, or other tenants, to whoever asked."""

    def __init__(self, what: str, *, on: str = "", why: str = "", remedy: str = "") -> None:
        super().__init__(what, on, why, remedy)
        self.what, self.on, self.why, self.remedy = what, on, why, remedy

    def __str__(self) -> str:
        text = f"[{self.code}] {self.what}"
        if self.on:
            text += f" ({self.on})"
        if self.why:
            text += f": {self.why}"
        if self.remedy:
            text += f". To mend it: {self.remedy}"
        return text

    @property
    def to_keep(self) -> "SbhError":
        """What records, and runs that others may see, say of it."""
        return self.kept_as or self

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.what, self.on, self.why, self.remedy)

    def as_dict(self) -> dict[str, str | bool]:
        """The error as JSON-ready fields: code, what, on, why, remedy, transient."""
        return {
            "code": self.code,
            "what": self.what,
            "on": self.on,
            "why": self.why,
            "remedy": self.remedy,
            "transient": self.transient,
        }


def _rebuild(kind: type[SbhError], what: str, on: str, why: str, remedy: str) -> SbhError:
    return kind(what, on=on, why=why, remedy=remedy)


def unforeseen(error: Exception, on: str) -> SbhError:
    """An error that nobody thought of, as one of its tenant alone: the others of a batch go on.

    Of its text nothing is kept: it may quote what was read.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    where = f"{frames[-1][0].f_code.co_filename.rpartition('/')[2]}:{frames[-1][1]}" if frames else "?"
    return SbhError(
        "Something that was not foreseen went wrong",
        on=on,
        why=f"{type(error).__name__} at {where}",
        remedy="report it; if an object of the tenant is damaged or foreign, `sbh backup validate` names it",
    )


def error_from_dict(fields: Mapping[str, object]) -> SbhError:
    """The error that `as_dict` described; for one that crossed a process or a stored record."""
    kinds = [SbhError]
    for kind in kinds:
        if kind.code == fields.get("code"):
            break
        kinds.extend(kind.__subclasses__())
    else:
        kind = SbhError
    return kind(
        str(fields.get("what", "")),
        on=str(fields.get("on", "")),
        why=str(fields.get("why", "")),
        remedy=str(fields.get("remedy", "")),
    )
