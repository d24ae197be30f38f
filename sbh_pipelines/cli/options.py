"""What of a backup is restored, and how: the options that `diff` and `run` share, declared once."""

import inspect
import shlex
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Concatenate

import typer

from sbh_pipelines.backup.restore.request import OPTIONS, Face, RestoreOption, RestoreRequest, Use, offered
from sbh_pipelines.cli.command import Invocation
from sbh_pipelines.cli.output import Answer
from sbh_pipelines.errors import RequestError

_Command = Callable[Concatenate[Invocation, ...], Answer]

IntoDatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--into-database",
        help="libpq connection string, without the password, of another database with the application's schema: its"
        " rows are changed. Rows only, no safety backup. For administrators of the platform.",
        metavar="DSN",
        show_default=False,
    ),
]
PasswordFileOption = Annotated[
    Path | None,
    typer.Option(
        "--password-file",
        help="The password of --into-database; that of the settings goes to the server of database.dsn only.",
        metavar="FILE",
        show_default=False,
    ),
]


NoSafetyBackupOption = Annotated[bool, typer.Option("--no-safety-backup", help=OPTIONS["safety_backup"].help[Face.CLI])]
_SHARED = offered(Face.CLI, Use.BOTH, Use.PLAN)
_FLAGS = (bool, bool | None)
_METAVARS = {"tables": "A,B", "all_but": "A,B", "rows": "ROWS", "files": "GLOB", "samples": "N"}
_KINDS = {
    "tables": str | None,
    "all_but": str | None,
    "files": list[str] | None,
}  # tables are separated by commas, patterns may hold some


def _parameter(option: RestoreOption) -> inspect.Parameter:
    kind = _KINDS.get(option.name, option.kind)
    nothing = option.name in _KINDS or option.default is None
    described = typer.Option(
        _typed(option.name),
        help=option.help[Face.CLI],
        metavar=_METAVARS.get(option.name),
        show_default=not nothing,
    )
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None if nothing else option.default,
        annotation=Annotated[kind, described],
    )


def requested(*, tables: str | None = None, all_but: str | None = None, **others: Any) -> RestoreRequest:
    """The request that the options make. Raises RequestError where they contradict each other."""
    named = {"tables": tables, "all_but": all_but}
    lists = {name: _names(name, text) if text is not None else () for name, text in named.items()}
    return RestoreRequest.of(**lists, **others)


def choosing(function: _Command) -> _Command:
    """In place of the function's parameter `request` the command has these options."""

    @wraps(function)
    def run(invocation: Invocation, **values: Any) -> Answer:
        request = requested(**{option.name: values.pop(option.name) for option in _SHARED})
        return function(invocation, request=request, **values)

    own = inspect.signature(function).parameters.values()
    kept = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own if p.name not in ("invocation", "request")]
    first = inspect.Parameter("invocation", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Invocation)
    run.__signature__ = inspect.Signature([first, *kept, *map(_parameter, _SHARED)])  # type: ignore[attr-defined]
    return run


def as_typed(request: RestoreRequest) -> list[str]:
    """The options that ask for the request, as one types them; those that only show something are left out."""
    typed: list[str] = []
    deciding = [option for option in OPTIONS.values() if option.use is not Use.PLAN]
    for option in sorted(deciding, key=lambda option: option.kind in _FLAGS):  # those without a value come last
        value, name = getattr(request, option.name), _typed(option.name)
        if value == option.default:
            continue
        if option.name in ("tables", "all_but"):
            typed += [name, ",".join(value)]
        elif option.kind in _FLAGS:
            typed.append(name)
        else:
            typed += [word for one in (value if isinstance(value, tuple) else [value]) for word in (name, str(one))]
    return typed


def run_command(
    backup_id: str,
    tenant: str,
    request: RestoreRequest,
    into_database: str | None = None,
    password_file: Path | None = None,
    from_copy: str | None = None,
) -> str:
    """The command that restores, for a shell. A copy takes no safety backup."""
    target = ["--into-database", into_database] if into_database is not None else []
    target += ["--password-file", str(password_file)] if password_file is not None else []
    target += _at(from_copy)
    if from_copy is not None and into_database is None and request.safety_backup is not False:
        target += ["--no-safety-backup"]
    words = ["sbh", "restore", "run", backup_id, "--tenant", tenant, *as_typed(request), *target, "--confirm"]
    return shlex.join(words)


def password_in(file: Path | None) -> str | None:
    """Raises RequestError."""
    if file is None:
        return None
    try:
        return file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError("Cannot read the password's file", on=str(file), why=type(error).__name__) from None


def into_password(into_database: str | None, password_file: Path | None) -> str | None:
    """Raises RequestError."""
    if password_file is not None and into_database is None:
        raise RequestError(
            "--password-file is the password of --into-database", remedy="leave it out, or name the database"
        )
    return password_in(password_file)


def undo_command(restore_id: str, tenant: str, from_copy: str | None = None) -> str:
    return shlex.join(["sbh", "restore", "undo", restore_id, "--tenant", tenant, *_at(from_copy), "--confirm"])


def approve_command(approval_id: str, tenant: str, from_copy: str | None = None) -> str:
    return shlex.join(["sbh", "approvals", "approve", approval_id, "-t", tenant, *_at(from_copy)])


def _at(from_copy: str | None) -> list[str]:
    return [] if from_copy is None else ["--from-copy", from_copy]


def refuse_beside_schema(request: RestoreRequest, into_database: str | None) -> None:
    """A schema beside the live one takes whole tables as they were. Raises RequestError for options that say otherwise."""
    given = [
        _typed(option.name)
        for option in OPTIONS.values()
        if option.name != "tables" and getattr(request, option.name) != option.default
    ]
    given += ["--into-database"] if into_database is not None else []
    if given:
        raise RequestError(
            "These options mean nothing with --into-schema",
            on=", ".join(given),
            why="the tables are put there whole, as they were",
            remedy="leave them out; --tables chooses tables",
        )


def _names(option: str, tables: str) -> list[str]:
    """Raises RequestError where there is none: a restore of nothing would be one of everything."""
    names = [name.strip() for name in tables.split(",") if name.strip()]
    if not names:
        raise RequestError(f"{_typed(option)} names no table", remedy=f"e.g. {_typed(option)} users,public.tasks")
    return names


def _typed(name: str) -> str:
    return "--no-safety-backup" if name == "safety_backup" else "--" + name.replace("_", "-")
