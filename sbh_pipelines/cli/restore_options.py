"""What of a backup is restored, and how: the options that `diff` and `run` share, declared once."""

import inspect
import shlex
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Annotated, Any, Concatenate

import typer

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.cli.command import Invocation
from sbh_pipelines.cli.output import Answer
from sbh_pipelines.errors import RequestError
from sbh_pipelines.model import MergeMode

_Command = Callable[Concatenate[Invocation, ...], Answer]

IntoDatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--into-database",
        help="libpq connection string, without the password, of another database with the application's schema: its"
        " rows are changed. Rows only, no safety backup.",
        metavar="DSN",
        show_default=False,
    ),
]


def requested(
    tables: Annotated[
        str | None, typer.Option("--tables", help="Only these, separated by commas.", metavar="A,B", show_default=False)
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            "--rows",
            help="Only these rows, those that refer to them, and what they refer to where it is gone:"
            ' "projects where id in (1, 2)".',
            metavar="ROWS",
            show_default=False,
        ),
    ] = None,
    files: Annotated[
        list[str] | None,
        typer.Option(
            "--files",
            help="Only files whose path matches: * and ? within a folder, ** over folders. May be repeated.",
            metavar="GLOB",
            show_default=False,
        ),
    ] = None,
    config_only: Annotated[bool, typer.Option("--config-only", help="Only the tables of the configuration.")] = False,
    mode: Annotated[
        MergeMode,
        typer.Option(
            "--mode",
            help="exact: what is chosen becomes what it was. missing-only: what is gone comes back, nothing else changes."
            " newest-wins: also rows and files that are later in the backup.",
        ),
    ] = MergeMode.EXACT,
    keep_extra_files: Annotated[
        bool, typer.Option("--keep-extra-files", help="Leave files that the backup does not have.")
    ] = False,
    accept_schema_changes: Annotated[
        bool,
        typer.Option(
            "--accept-schema-changes",
            help="Go on although something of the backup has no place in the schema any more.",
        ),
    ] = False,
    samples: Annotated[
        int, typer.Option("--samples", help="Rows of each kind of change, and files, to show.", metavar="N")
    ] = 0,
    show_sensitive: Annotated[
        bool, typer.Option("--show-sensitive", help="In samples, show the values of columns declared sensitive.")
    ] = False,
) -> RestoreRequest:
    """The request that the options make. Raises RequestError where they contradict each other."""
    return RestoreRequest.of(
        tables=_names(tables) if tables is not None else (),
        rows=rows,
        files=files,
        config_only=config_only,
        mode=mode,
        keep_extra_files=keep_extra_files,
        accept_schema_changes=accept_schema_changes,
        samples=samples,
        show_sensitive=show_sensitive,
    )


def choosing(function: _Command) -> _Command:
    """In place of the function's parameter `request` the command has these options."""
    options = inspect.signature(requested).parameters

    @wraps(function)
    def run(invocation: Invocation, **values: Any) -> Answer:
        request = requested(**{name: values.pop(name) for name in options})
        return function(invocation, request=request, **values)

    own = inspect.signature(function).parameters.values()
    kept = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own if p.name not in ("invocation", "request")]
    shared = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in options.values()]
    first = inspect.Parameter("invocation", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Invocation)
    run.__signature__ = inspect.Signature([first, *kept, *shared])  # type: ignore[attr-defined]
    return run


def as_typed(request: RestoreRequest) -> list[str]:
    """The options that ask for the request, as one types them; those that only show something are left out."""
    typed: list[str] = []
    if request.tables:
        typed += ["--tables", ",".join(request.tables)]
    if request.rows is not None:
        typed += ["--rows", request.rows]
    for pattern in request.files:
        typed += ["--files", pattern]
    if request.mode is not MergeMode.EXACT:
        typed += ["--mode", str(request.mode)]
    flags = ("config_only", "keep_extra_files", "accept_schema_changes")
    typed += [_option(name) for name in flags if getattr(request, name)]
    return typed + (["--no-safety-backup"] if request.safety_backup is False else [])


def run_command(backup_id: str, tenant: str, request: RestoreRequest, into_database: str | None = None) -> str:
    """The command that restores, for a shell."""
    target = ["--into-database", into_database] if into_database is not None else []
    words = ["sbh", "restore", "run", backup_id, "--tenant", tenant, *as_typed(request), *target, "--confirm"]
    return shlex.join(words)


def undo_command(restore_id: str, tenant: str) -> str:
    return shlex.join(["sbh", "restore", "undo", restore_id, "--tenant", tenant, "--confirm"])


def refuse_beside_schema(request: RestoreRequest, into_database: str | None) -> None:
    """A schema beside the live one takes whole tables as they were. Raises RequestError for options that say otherwise."""
    default = RestoreRequest()
    given = [
        _option(field.name)
        for field in fields(RestoreRequest)
        if field.name != "tables" and getattr(request, field.name) != getattr(default, field.name)
    ]
    given += ["--into-database"] if into_database is not None else []
    if given:
        raise RequestError(
            "These options mean nothing with --into-schema",
            on=", ".join(given),
            why="the tables are put there whole, as they were",
            remedy="leave them out; --tables chooses tables",
        )


def _names(tables: str) -> list[str]:
    """Raises RequestError where there is none: a restore of nothing would be one of everything."""
    names = [name.strip() for name in tables.split(",") if name.strip()]
    if not names:
        raise RequestError("--tables names no table", remedy="e.g. --tables users,public.tasks")
    return names


def _option(name: str) -> str:
    return "--no-safety-backup" if name == "safety_backup" else "--" + name.replace("_", "-")
