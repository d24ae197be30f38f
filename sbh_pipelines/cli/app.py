"""The tree of commands, and what happens to an error: one place turns it into text, JSON and an exit status."""

import contextlib
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from sbh_pipelines import __version__
from sbh_pipelines.cli.command import DebugOption, Invocation, JsonOption, QuietOption, SettingsOption, WideOption
from sbh_pipelines.cli.commands import (
    approvals,
    audit,
    backup,
    doctor,
    export,
    fleet,
    keys,
    platform,
    report,
    restore,
    retention,
    tenants,
    token,
)
from sbh_pipelines.cli.commands.upkeep import copies, drill, health, journal, repository
from sbh_pipelines.cli.demo import demo
from sbh_pipelines.cli.output import print_error, print_json
from sbh_pipelines.cli.servers import console, serve, stack, ui
from sbh_pipelines.errors import RequestError, SbhError

EXIT_STATUS = {
    0: "all went well",
    1: "an unexpected error: a defect of this program",
    2: "the request is wrong: arguments, ids, a missing confirmation",
    3: "the settings are wrong, or `sbh doctor` found an error",
    4: "access denied, or somebody else must approve it",
    5: "the application's database or files",
    6: "the object store",
    7: "keys cannot be wrapped or unwrapped",
    8: "the repository: damaged objects, an invalid backup, another writer",
    9: "the restore was refused, or rolled back; an export could not be written",
    10: "the embedded servers, or the demo",
    11: "some tenants of a batch failed; the others are backed up",
    12: "an alert could not be sent",
    13: "Dagster refused to launch or cancel a run, or cannot be reached",
    14: "`sbh health` found something that is not as it should be",
    130: "interrupted",
}
INTERRUPTED = 130
_NO_SETTINGS = "no sbh.toml here and SBH_SETTINGS is not set"
_WRITE_SETTINGS = (
    "`sbh settings init` writes a first sbh.toml; one that is elsewhere is named by SBH_SETTINGS or --settings"
)
_FOR_WANT_OF_SETTINGS = (3, 5, 6, 7)  # settings, source, store, keys: what defaults lead to nowhere for

# \b keeps the lines of a paragraph as they are.
_EPILOG = "\b\nExit status:\n" + "\n".join(f"  {status:>3}  {meaning}" for status, meaning in EXIT_STATUS.items())

app = typer.Typer(
    name="sbh",
    help="Back up one tenant of a shared SaaS database, and bring it back alone: rows, files, configuration.",
    epilog=_EPILOG,
    rich_markup_mode=None,  # a help page is text; importing rich for it would cost a tenth of a second
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


@app.callback()
def _options(
    context: typer.Context,
    settings_file: SettingsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    wide: WideOption = False,
    debug: DebugOption = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    context.obj.merge(settings_file, as_json, quiet, wide, debug)


def _group_options(
    context: typer.Context,
    settings_file: SettingsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    wide: WideOption = False,
    debug: DebugOption = False,
) -> None:
    context.obj.merge(settings_file, as_json, quiet, wide, debug)


for command_module in (console, demo, doctor, export, fleet, health, serve, ui):
    command_module.add_to(app)
retention.add_to(backup.app)
for group_module in (
    stack,
    tenants,
    backup,
    restore,
    platform,
    drill,
    report,
    repository,
    journal,
    copies,
    doctor,  # `sbh settings`
    token,
    approvals,
    audit,
    health,
    keys,
):
    group_module.app.callback()(_group_options)
    app.add_typer(group_module.app)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run `sbh`; the exit status. Never raises, except for a defect with --debug."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks must not end a command.
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if "--version" in given[: _first_word(given)]:
        _print_version("--json" in given)
        return 0
    invocation = Invocation(as_json="--json" in _before_values(given))  # also for an error in the arguments themselves
    try:
        status = app(args=given, prog_name="sbh", standalone_mode=False, obj=invocation)
        if status == INTERRUPTED:  # Typer catches some interrupts itself
            return _interrupted(invocation)
        if invocation.exit_status and invocation.lacks_settings and not invocation.as_json:
            print(f"{_NO_SETTINGS}: {_WRITE_SETTINGS}", file=sys.stderr)
        return status if isinstance(status, int) and status else invocation.exit_status
    except SbhError as error:
        return _failed(error, invocation)
    except KeyboardInterrupt:
        return _interrupted(invocation)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        with contextlib.suppress(Exception):
            sys.stdout.close()
        return 1
    except Exception as error:
        if _is_usage(error):
            return _misused(error, invocation)
        if invocation.debug:
            raise
        return _failed(_defect(error), invocation)


def _interrupted(invocation: Invocation) -> int:
    said = "what was committed stays, what was not was rolled back; run it again: it goes on with what is stored"
    if invocation.as_json:
        print_json({"error": SbhError("Interrupted", remedy=said)})
    else:
        print(f"interrupted  {said}", file=sys.stderr)
    return INTERRUPTED


def _failed(error: SbhError, invocation: Invocation) -> int:
    if error.exit_status in _FOR_WANT_OF_SETTINGS and invocation.lacks_settings:
        why = "; ".join(filter(None, (_NO_SETTINGS, error.why)))
        error = type(error)(error.what, on=error.on, why=why, remedy=_WRITE_SETTINGS)
    if invocation.debug:
        import traceback

        # nosemgrep: traceback-shown - asked for by --debug
        traceback.print_exception(error)
    if invocation.as_json:
        print_json({"error": error})
    else:
        print_error(error)
    return error.exit_status


def _is_usage(error: Exception) -> bool:
    # Typer's own, or click's before Typer 0.20 brought its own: known by what both have.
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def _misused(error: Any, invocation: Invocation) -> int:
    context, why = getattr(error, "ctx", None), error.format_message()
    path = context.command_path if context else "sbh"
    if context and why.startswith("Missing command") and not invocation.as_json:
        print(context.get_help(), file=sys.stderr)
        return RequestError.exit_status
    return _failed(
        RequestError("The command line is wrong", on=path, why=why[:500], remedy=f"{path} --help"), invocation
    )


def _defect(error: Exception) -> SbhError:
    return SbhError(
        "Unexpected error",
        on=type(error).__name__,
        why=str(error)[:500],
        remedy="run it again with --debug, and report what it prints",
    )


def _before_values(given: Sequence[str]) -> Sequence[str]:
    """The arguments before `--`, after which everything is a value."""
    return given[: given.index("--")] if "--" in given else given


def _first_word(given: Sequence[str]) -> int:
    """Where the command's name is: options before it are the program's own."""
    skip = False
    for position, argument in enumerate(given):
        if skip:
            skip = False
        elif argument == "--settings":
            skip = True
        elif not argument.startswith("-"):
            return position
    return len(given)


def _print_version(as_json: bool) -> None:
    if as_json:
        print_json({"version": __version__})
    else:
        print(f"sbh {__version__}")
